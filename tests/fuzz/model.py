"""PostgreSQL as far as a session sees it: both protocols, transactions, COPY, function calls, malformed messages. It holds no data but `results`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.errors import ProtocolError
from proxy.session.replies import REFUSED_TEXT
from proxy.session.settings import PROBE_TEXT
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Framer, Message
from tests.session.conversation import PROBED, Result, error

if TYPE_CHECKING:
    from collections.abc import Callable

_ALL: Final = frozenset(range(256))
_PROBE: Final = Result(tuple(m.Field(b"c", 0, 0, 25, -1, -1, 0) for _ in PROBED), [PROBED])
_ROW: Final = (b"1", b"x")
START: Final = (
    m.build_parameter_status(b"client_encoding", b"UTF8") + m.build_backend_key(7, b"key!") + m.build_ready(b"I")
)


@dataclass
class _Statement:
    text: bytes
    result: Result


@dataclass
class _Portal:
    text: bytes
    result: Result
    at: int = 0


class Model:
    """Takes what the client sends and says what a server would, when it would.

    `gone`: it has closed the connection. `syncs`: how many ReadyForQuery it owes or has sent. `copied`: it has ever read COPY data. `refused`:
    it was sent what pgveil sends in place of a refused text.
    """

    def __init__(self, results: dict[bytes, Result]) -> None:
        self.results = results
        self.gone = False
        self.copied = False
        self.refused = False
        self.readies = 0
        self._framer = Framer(Direction.FRONTEND, interpret=_ALL)
        self.committed: list[bytes] = []  # texts that have run for good; whoever looks empties it
        self._ran: list[bytes] = []  # and those of which that is not certain yet
        self._status = b"I"
        self._statements: dict[bytes, _Statement] = {}
        self._portals: dict[bytes, _Portal] = {}
        self._ignoring = False
        self._copying = ""  # "query" or "execute"
        self._held = b""
        self._extended: dict[str, Callable[[bytes], bytes]] = {
            "P": self._parse, "B": self._bind, "D": self._describe, "E": self._execute, "C": self._close,
        }  # fmt: skip

    @property
    def at_boundary(self) -> bool:
        """Whether nothing of a message is missing."""
        return not self._framer.buffered

    @property
    def copying(self) -> bool:
        """Whether it reads COPY data."""
        return bool(self._copying)

    def receive(self, data: bytes) -> bytes:
        """Take bytes; what is said now."""
        out = b""
        try:
            self._framer.feed(data)
            while not self.gone and (event := self._framer.next_event()) is not None:
                assert isinstance(event, Message)
                out += self._message(chr(event.kind), event.raw[5:])
        except ProtocolError:
            self.gone = True
            out += error("08P01", S="FATAL", V="FATAL")
        return out

    def _message(self, kind: str, body: bytes) -> bytes:
        if self._copying:
            return self._during_copy(kind)
        if kind == "X":
            self.gone = True
        elif kind == "S":
            self._ignoring = False
            return self._flush() + self._ready()
        elif kind == "H":
            return self._flush()
        elif kind in "dcf":
            pass  # left over from a COPY that failed
        elif kind == "p":
            raise ProtocolError("a password")
        elif kind == "Q":
            # After an error in a batch the server ignores simple queries, too.
            return b"" if self._ignoring else self._flush() + self._query(body)
        elif self._ignoring:
            pass
        elif kind == "F":
            return self._flush() + self._aborted(error("42883")) + self._ready()
        else:
            try:
                said = self._extended[kind](body)
            except ProtocolError:
                said = self._failed("08P01")
            if self.copying or self._ignoring:
                return self._flush() + said  # an error leaves at once, and with it what stood before it
            self._held += said
        return b""

    def _flush(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _ready(self) -> bytes:
        self.readies += 1
        if self._status == b"I":
            self._portals.clear()
            self.committed += self._ran
            self._ran.clear()
        return m.build_ready(self._status)

    def _aborted(self, response: bytes) -> bytes:
        self._ran.clear()
        if self._status == b"T":
            self._status = b"E"
        return response

    def _failed(self, code: str) -> bytes:
        self._ignoring = True
        return self._aborted(error(code))

    # -- simple queries --------------------------------------------------------------------------------------------------------------

    def _query(self, body: bytes) -> bytes:
        try:
            text = m.parse_query(body)
        except ProtocolError:
            return self._aborted(error("08P01")) + self._ready()
        self._statements.pop(b"", None)
        self._portals.pop(b"", None)
        said = self._run(text)
        return said if self._copying else said + self._ready()

    def _run(self, text: bytes) -> bytes:
        word = (text.split() or [b""])[0].upper()
        if not text.strip():
            return m.EMPTY_QUERY
        if word in (b"BEGIN", b"COMMIT", b"ROLLBACK"):
            return self._transaction(word)
        if self._status == b"E":
            return error("25P02")
        if text == REFUSED_TEXT:
            self.refused = True
            return self._aborted(error("42883"))
        if word == b"COPY":
            return self._copy(text, "query")
        self._ran.append(text)
        result = self.results.get(text, Result())
        said = m.build_row_description(result.fields) if result.fields else b""
        return said + b"".join(map(m.build_data_row, result.rows)) + _complete(word, len(result.rows))

    def _transaction(self, word: bytes) -> bytes:
        if word == b"ROLLBACK" or self._status == b"E":
            self._ran.clear()
        self._status = b"T" if word == b"BEGIN" else b"I"
        return m.build_command_complete(word)

    # -- COPY ------------------------------------------------------------------------------------------------------------------------

    def _copy(self, text: bytes, within: str) -> bytes:
        result = self.results.get(text) or Result((), [_ROW])
        row = result.rows[0] if result.rows else _ROW
        response = m.CopyResponse(0, (0,) * len(row))
        if b"STDIN" in text.upper():
            self.copied = True
            self._copying = within
            return m.build_copy_response(m.Back.COPY_IN, response)
        line = m.build_copy_data(b"\t".join(b"\\N" if value is None else value for value in row) + b"\n")
        said = m.build_copy_response(m.Back.COPY_OUT, response) + line * 2
        return said + m.message(m.Back.COPY_DONE, b"") + m.build_command_complete(b"COPY 2")

    def _during_copy(self, kind: str) -> bytes:
        if kind in "dSH":
            return b""
        within, self._copying = self._copying, ""
        if kind == "c":
            said = m.build_command_complete(b"COPY 1")
        else:
            code = "57014" if kind == "f" else "08P01"
            said = self._failed(code) if within == "execute" else self._aborted(error(code))
        if within == "query":
            return said + self._ready()
        self._held += said
        return self._flush() if self._ignoring else b""

    # -- the extended protocol -------------------------------------------------------------------------------------------------------

    def _parse(self, body: bytes) -> bytes:
        parse = m.parse_parse(body)
        if self._status == b"E" and parse.text.upper() not in (b"ROLLBACK", b"COMMIT"):
            return self._failed("25P02")
        if parse.text == REFUSED_TEXT:
            self.refused = True
            return self._failed("42883")
        if parse.name and parse.name in self._statements:
            return self._failed("42P05")
        result = _PROBE if parse.text == PROBE_TEXT else self.results.get(parse.text, Result())
        self._statements[parse.name] = _Statement(parse.text, result)
        return m.PARSE_COMPLETE

    def _bind(self, body: bytes) -> bytes:
        bind = m.parse_bind(body)
        statement = self._statements.get(bind.statement)
        if statement is None:
            return self._failed("26000")
        if bind.portal and bind.portal in self._portals:
            return self._failed("42P03")
        self._portals[bind.portal] = _Portal(statement.text, statement.result)
        return m.BIND_COMPLETE

    def _describe(self, body: bytes) -> bytes:
        target = m.parse_target(body)
        if target.kind == b"P":
            portal = self._portals.get(target.name)
            return self._failed("34000") if portal is None else _described(portal)
        statement = self._statements.get(target.name)
        if statement is None:
            return self._failed("26000")
        return m.build_parameter_description(statement.result.parameters) + _described(statement)

    def _execute(self, body: bytes) -> bytes:
        execute = m.parse_execute(body)
        portal = self._portals.get(execute.portal)
        if portal is None:
            return self._failed("34000")
        word = (portal.text.split() or [b""])[0].upper()
        if word == b"COPY":
            return self._copy(portal.text, "execute")
        if word in (b"BEGIN", b"COMMIT", b"ROLLBACK"):
            return self._transaction(word)
        if not portal.text.strip():
            return m.EMPTY_QUERY
        self._ran.append(portal.text)
        rows = portal.result.rows[portal.at :]
        rows = rows[: execute.limit] if execute.limit > 0 else rows
        portal.at += len(rows)
        data = b"".join(map(m.build_data_row, rows))
        if 0 < execute.limit == len(rows):
            return data + m.PORTAL_SUSPENDED
        return data + _complete(word, len(rows))

    def _close(self, body: bytes) -> bytes:
        target = m.parse_target(body)
        if target.kind == b"S":
            self._statements.pop(target.name, None)
        else:
            self._portals.pop(target.name, None)
        return m.CLOSE_COMPLETE


def _described(of: _Statement | _Portal) -> bytes:
    rows = of.result.fields and of.text[:4].upper() != b"COPY"
    return m.build_row_description(of.result.fields) if rows else m.NO_DATA


def _complete(word: bytes, rows: int) -> bytes:
    if word == b"INSERT":
        return m.build_command_complete(b"INSERT 0 1")
    return m.build_command_complete(b"%b %d" % (word, rows) if word in (b"SELECT", b"FETCH", b"UPDATE") else word[:32])
