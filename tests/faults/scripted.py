"""Logins by the message, and a server that plays its part of them up to where it is told to end."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from struct import pack, unpack
from typing import TYPE_CHECKING, Final

from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY: Final = b"S" + pack("!i", 24) + b"server_version\x0016.0\0" + m.build_ready(b"I")


def request(code: int, data: bytes = b"") -> bytes:
    """What the server asks for."""
    return b"R" + pack("!ii", 8 + len(data), code) + data


def answer(data: bytes) -> bytes:
    """What the client answers."""
    return b"p" + pack("!i", 4 + len(data)) + data


SCRAM: Final = b"SCRAM-SHA-256\0"
PLUS: Final = b"SCRAM-SHA-256-PLUS\0"
NONCE: Final = b"r=abcdefghijklmnop"
STARTUP: Final = b""  # its place; it names the case


def scram(offer: bytes, mechanism: bytes, header: bytes, binding: bytes = b"") -> tuple[tuple[str, bytes], ...]:
    """The messages of RFC 5802. `header` says what is bound, `binding` is it."""
    first = header + b"n=," + NONCE
    final = b"c=" + b64encode(header + binding) + b"," + NONCE + b"qrstuvwx,p=" + b64encode(bytes(32))
    return (
        ("C", STARTUP),
        ("S", request(10, offer + b"\0")),
        ("C", answer(mechanism + pack("!i", len(first)) + first)),
        ("S", request(11, NONCE + b"qrstuvwx,s=c2FsdA==,i=4096")),
        ("C", answer(final)),
        ("S", request(12, b"v=" + b64encode(bytes(32)))),
        ("S", request(0)),
        ("S", READY),
    )


# What each side says, in turn. The server wants TLS and a certificate in all of them: with "trust" that is all that it asks for.
DIALOGUES: Final[dict[str, tuple[tuple[str, bytes], ...]]] = {
    "trust": (("C", STARTUP), ("S", request(0)), ("S", READY)),
    "password": (("C", STARTUP), ("S", request(3)), ("C", answer(b"secret\0")), ("S", request(0)), ("S", READY)),
    "md5": (("C", STARTUP), ("S", request(5, b"salt")), ("C", answer(b"md5" + b"0" * 32 + b"\0")), ("S", request(0)), ("S", READY)),
    "scram": scram(SCRAM, SCRAM, b"n,,"),
    "scram-plus": scram(PLUS + SCRAM, PLUS, b"p=tls-server-end-point,,", bytes(32)),
}  # fmt: skip


class How(Enum):
    """How a login ends."""

    AFTER = "cut after"
    HALF = "cut within"
    TORN = "cut within the TLS record of"
    STALLS = "stalls instead of"
    REFUSED = "is refused instead of"


class Broken(Enum):
    """How the server ends TLS before it stands, or before it has been asked anything inside it, and what the client is told."""

    SILENT = "closes instead of an answer"
    NO = "has no TLS"
    OLD = "answers with an error"
    NONSENSE = "answers with nonsense"
    MORE = "says more than it was asked"
    DEAF = "agrees, then closes"
    STALLS_BEFORE = "stalls instead of an answer"
    STALLS_WITHIN = "stalls within the handshake"
    HALF = "closes within the handshake"
    GARBAGE = "sends something else within the handshake"
    AFTER = "closes after the handshake"

    @property
    def told(self) -> bytes:
        """The SQLSTATE."""
        if self in {Broken.NONSENSE, Broken.MORE}:
            return b"C08P01"
        return b"C28000" if self in {Broken.STALLS_BEFORE, Broken.STALLS_WITHIN} else b"C08001"


@dataclass(frozen=True)
class Case:
    """Where the login ends: the message `at`, which is `side`'s. None: nowhere. `tls`: on the client's leg. `broken`: on the server's."""

    number: int
    method: str
    tls: bool = False
    side: str = "-"
    at: int = -1
    how: How | None = None
    broken: Broken | None = None

    @property
    def login(self) -> str:
        """Who logs in."""
        return f"case{self.number}"

    @property
    def asked(self) -> bool:
        """Whether the startup packet came through, so that it is a login."""
        return not (self.side == "C" and self.at == 0 and self.how in {How.HALF, How.TORN, How.STALLS})

    @property
    def abandoned(self) -> bool:
        """Whether the client went away before it had answered anything: a probe, not an attempt. Of a torn TLS record nothing arrives."""
        answers = [at for at, (side, _) in enumerate(DIALOGUES[self.method]) if side == "C" and at > 0]
        unsaid = self.at == 0 or (self.how is How.TORN and self.at in answers[:1])
        return self.side == "C" and unsaid and self.how in {How.AFTER, How.TORN}

    @property
    def waits(self) -> bool:
        """Whether it is pgveil's limit that ends it."""
        return self.how is How.STALLS or self.broken in {Broken.STALLS_BEFORE, Broken.STALLS_WITHIN}

    def says(self, got: bytes) -> bool:
        """Whether the client was told what it could be told."""
        if self.broken is not None:
            return self.broken.told in got
        if self.side == "S":
            wanted = {How.REFUSED: (b"C28P01",), How.STALLS: (b"C28000",)}
            return any(word in got for word in wanted.get(self.how or How.AFTER, (b"C08001", b"C08006")))
        return self.how is not How.STALLS or b"C28000" in got

    def __str__(self) -> str:
        who = {"C": "client", "S": "server", "-": "nobody"}[self.side]
        what = f"the {who} {self.how.value if self.how else 'ends'} message {self.at}"
        if self.broken is not None:
            what = f"the server {self.broken.value}"
        return f"{self.method}, client {'with' if self.tls else 'without'} TLS: {what}"


def _ends(tls: bool, side: str, *, last: bool) -> Iterator[How]:
    """How a login may end at a message."""
    for how in How:
        if how is How.REFUSED and side == "C":
            continue
        if how is How.TORN and (side == "S" or not tls):
            continue
        if last and how in {How.AFTER, How.STALLS}:
            continue  # it has succeeded; or the server is busy, and the client waits as long as it likes
        yield how


def cases() -> Iterator[Case]:
    """Every message of every method, by either side, in every way."""
    number = 0
    for tls in (False, True):
        for method, dialogue in DIALOGUES.items():
            if method == "scram-plus" and not tls:
                continue  # a client without TLS has nothing to bind
            for at, (side, _) in enumerate(dialogue):
                for how in _ends(tls, side, last=at == len(dialogue) - 1):
                    number += 1
                    yield Case(number, method, tls, side, at, how)


REFUSAL: Final = m.build_error(
    m.ErrorFields(((ord("S"), b"FATAL"), (ord("V"), b"FATAL"), (ord("C"), b"28P01"), (ord("M"), b"no"))), m.Back.ERROR
)


@dataclass
class Scripted:
    """The server. `open`: connections that stand. `broken`: how it is with TLS now."""

    certificate: Path
    known: dict[str, Case]
    broken: Broken | None = None
    open: int = 0
    logins: Counter[str] = field(default_factory=Counter)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open += 1
        try:
            assert await _packet(reader) == m.SSL_REQUEST_PACKET
            if self.broken is None:
                await self._play(reader, writer)
            else:
                await self._break(self.broken, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.open -= 1

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate / "server.crt", self.certificate / "server.key")
        context.load_verify_locations(self.certificate / "server.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _break(self, how: Broken, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = {Broken.NO: b"N", Broken.OLD: REFUSAL, Broken.NONSENSE: b"?", Broken.MORE: b"S" + REFUSAL}
        if how is Broken.AFTER:
            writer.write(b"S")
            await writer.start_tls(self._context())
        elif how in {Broken.DEAF, Broken.HALF, Broken.GARBAGE, Broken.STALLS_WITHIN}:
            writer.write(b"S")
            hello = await reader.read(65536)
            if how is Broken.GARBAGE:
                writer.write(REFUSAL)
            elif how is not Broken.DEAF:
                flight = self._flight(hello)
                writer.write(flight[: len(flight) // 2])
        elif how in words:
            writer.write(words[how])
        await writer.drain()
        if how in {Broken.STALLS_BEFORE, Broken.STALLS_WITHIN}:
            await reader.read()
        writer.close()

    def _flight(self, hello: bytes) -> bytes:
        """What a server answers to the beginning of a handshake."""
        come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
        come.write(hello)
        with suppress(ssl.SSLWantReadError):
            self._context().wrap_bio(come, go, server_side=True).do_handshake()
        return go.read()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"S")
        await writer.start_tls(self._context())
        packet = await _packet(reader)
        case = self.known[packet.split(b"user\0")[1].split(b"\0")[0].decode()]
        self.logins[case.login] += 1
        for at, (side, data) in enumerate(DIALOGUES[case.method]):
            ends = case.at == at
            if side == "C":
                if at:
                    await _message(reader)
                if ends:
                    await reader.read()  # what the client does now, pgveil has to notice
                    return
                continue
            if ends and case.how is How.STALLS:
                await reader.read()
                return
            if ends and case.how is How.REFUSED:
                writer.write(REFUSAL)
                await writer.drain()
                return
            writer.write(data[: len(data) // 2] if ends and case.how is How.HALF else data)
            await writer.drain()
            if ends:
                writer.close()
                return
        await reader.read()


async def _packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(unpack("!i", head)[0] - 4)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(unpack("!i", head[1:])[0] - 4)
