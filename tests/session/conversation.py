"""A server of a few lines that obeys the protocol, and a conversation with it through a session, however the bytes are cut."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keys.types import OutputSettings
from proxy.session.replies import REFUSED_TEXT
from proxy.session.settings import OTHER_FORMS, PROBE_TEXT
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Framer, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.session import Session

PROBED = (
    b"on",
    b"UTF8",
    b'["pg_catalog","public"]',
    b"postgres",
    b"hex",
    b"1",
    b"[]",
    b"ISO, MDY",
    b"UTC",
    b"postgres",
    b'["C","C","C","base64","content","Default","on","off"]',
)
# As PROBED says.
OUTPUT = OutputSettings(
    others=tuple(zip((n.decode() for n in OTHER_FORMS), json.loads(PROBED[-1])[: len(OTHER_FORMS)], strict=True))
)
_ALL = frozenset(range(256))
_FIELDS = tuple(m.Field(b"c", 0, 0, 25, -1, -1, 0) for _ in PROBED)


def error(code: str, message: str = "no", **more: str) -> bytes:
    """An ErrorResponse of the server's."""
    pairs = {"S": "ERROR", "V": "ERROR", "C": code, "M": message, **more}
    return m.build_error(m.ErrorFields(tuple((ord(k), v.encode()) for k, v in pairs.items())))


@dataclass
class Result:
    """What a text gives. `refused`: its Parse fails so; `broken`: its Execute does, behind the rows."""

    fields: tuple[m.Field, ...] = ()
    rows: list[tuple[bytes | None, ...]] = field(default_factory=list)
    parameters: tuple[int, ...] = ()
    refused: bytes | None = None
    broken: bytes | None = None


@dataclass
class _Portal:
    result: Result
    at: int = 0


class Server:
    """Extended and simple protocol over `results`. What it says leaves at a Flush or Sync only, as a real server's may."""

    def __init__(self) -> None:
        self.results: dict[bytes, Result] = {PROBE_TEXT: Result(_FIELDS, [PROBED])}
        self.seen: list[tuple[str, bytes]] = []
        self.binds: list[m.Bind] = []
        self.parses: list[m.Parse] = []
        self.status = b"I"
        self._statements: dict[bytes, Result] = {}
        self._portals: dict[bytes, _Portal] = {}
        self._framer = Framer(Direction.FRONTEND, interpret=_ALL)
        self._ignoring = False
        self._held = b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes; what is answered now."""
        self._framer.feed(data)
        out = b""
        while (event := self._framer.next_event()) is not None:
            assert isinstance(event, Message)
            kind = chr(event.kind)
            if kind in "SHQ" or not self._ignoring:
                out += self._message(kind, event.raw[5:])
        return out

    def texts(self) -> list[bytes]:
        """The texts parsed, but for the probe's."""
        return [text for kind, text in self.seen if kind == "P" and text != PROBE_TEXT]

    def kinds(self) -> str:
        """The kinds of all messages since the last call."""
        kinds = "".join(kind for kind, _ in self.seen)
        self.seen.clear()
        return kinds

    def _message(self, kind: str, body: bytes) -> bytes:
        self.seen.append((kind, m.parse_parse(body).text if kind == "P" else body))
        if kind == "S":
            self._ignoring = False
            return self._flush() + self._ready()
        if kind == "H":
            return self._flush()
        if kind == "Q":
            return self._flush() + self._query(m.parse_query(body))
        self._held += self._extended(kind, body)
        return b""

    def _flush(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _ready(self) -> bytes:
        if self.status == b"I":
            self._portals.clear()
        return m.build_ready(self.status)

    def _query(self, text: bytes) -> bytes:
        word = text.split()[0].upper()
        if word in (b"BEGIN", b"COMMIT", b"ROLLBACK"):
            self.status = b"T" if word == b"BEGIN" else b"I"
            return m.build_command_complete(word) + self._ready()
        if self.status == b"E":
            return error("25P02") + self._ready()
        if text == REFUSED_TEXT:
            return error("42883") + self._ready()
        return m.build_command_complete(b"SELECT 0") + self._ready()

    def _fail(self, response: bytes) -> bytes:
        self._ignoring = True
        if self.status == b"T":
            self.status = b"E"
        return response

    def _extended(self, kind: str, body: bytes) -> bytes:
        if kind == "P":
            return self._parse(m.parse_parse(body))
        if kind == "B":
            return self._bind(m.parse_bind(body))
        if kind == "E":
            return self._execute(m.parse_execute(body))
        target = m.parse_target(body)
        if kind == "C":
            (self._statements if target.kind == b"S" else self._portals).pop(target.name, None)
            return m.CLOSE_COMPLETE
        if target.kind == b"P":
            portal = self._portals.get(target.name)
            return self._fail(error("34000")) if portal is None else _described(portal.result)
        result = self._statements.get(target.name)
        if result is None:
            return self._fail(error("26000"))
        return m.build_parameter_description(result.parameters) + _described(result)

    def _parse(self, parse: m.Parse) -> bytes:
        self.parses.append(parse)
        if self.status == b"E":
            return self._fail(error("25P02"))
        if parse.text == REFUSED_TEXT:
            return self._fail(error("42883"))
        result = self.results.get(parse.text, Result())
        if result.refused is not None:
            return self._fail(result.refused)
        self._statements[parse.name] = result
        return m.PARSE_COMPLETE

    def _bind(self, bind: m.Bind) -> bytes:
        self.binds.append(bind)
        result = self._statements.get(bind.statement)
        if result is None:
            return self._fail(error("26000"))
        self._portals[bind.portal] = _Portal(result)
        return m.BIND_COMPLETE

    def _execute(self, execute: m.Execute) -> bytes:
        portal = self._portals.get(execute.portal)
        if portal is None:
            return self._fail(error("34000"))
        rows = portal.result.rows[portal.at :]
        rows = rows[: execute.limit] if execute.limit > 0 else rows
        portal.at += len(rows)
        data = b"".join(map(m.build_data_row, rows))
        if portal.result.broken is not None:
            return data + self._fail(portal.result.broken)
        if 0 < execute.limit == len(rows):
            return data + m.PORTAL_SUSPENDED
        return data + m.build_command_complete(b"SELECT %d" % len(rows))


def _described(result: Result) -> bytes:
    return m.build_row_description(result.fields) if result.fields else m.NO_DATA


class Talk:
    """A client and a server with a session between them."""

    def __init__(self, session: Session, server: Server, cut: Callable[[bytes], list[bytes]]) -> None:
        self.session = session
        self.server = server
        self.reads_catalog = True
        self._cut = cut
        self._coming: deque[bytes] = deque()
        self.hear(m.build_backend_key(7, b"key!") + m.build_ready(b"I"))
        assert self.got() == m.build_backend_key(7, b"key!") + m.build_ready(b"I")

    def say(self, *data: bytes) -> bytes:
        """The client sends; what it got in the end."""
        for piece in self._cut(b"".join(data)):
            self.session.client_received(piece)
            self.move()
        return self.got()

    def hear(self, data: bytes) -> None:
        """The server sends."""
        self._coming += self._cut(data)
        self.move()

    def move(self) -> None:
        """Carry what the session has for the server, and back, until nothing moves."""
        while True:
            if self.session.catalog_stale and self.reads_catalog:
                self.session.catalog_refreshed()
            pieces, self.session.to_server = self.session.to_server, []
            said = self.server.receive(b"".join(pieces))
            self._coming += self._cut(said) if said else []
            if not self._coming or not self.session.wants_server:
                return
            self.session.server_received(self._coming.popleft())

    def got(self) -> bytes:
        """What the client was sent since the last time."""
        pieces, self.session.to_client = self.session.to_client, []
        return b"".join(pieces)


def kinds(data: bytes) -> str:
    """The kinds of the server's messages in `data`."""
    framer = Framer(Direction.BACKEND, interpret=_ALL)
    framer.feed(data)
    found = ""
    while (event := framer.next_event()) is not None:
        assert isinstance(event, Message)
        found += chr(event.kind)
    return found


def error_of(data: bytes) -> m.ErrorFields:
    """The first message of `data`, which is an ErrorResponse."""
    assert data[:1] == b"E", data[:40]
    length = int.from_bytes(data[1:5], "big")
    return m.parse_error(data[5 : length + 1])
