"""Logins that are cut, or stall, at each message of each method, by the client and by the server: nothing of them is left on either side.

pgveil runs in earnest, its catalog on a real server; the server that clients log in to is a script, so that it can stop anywhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from struct import pack, unpack
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from proxy.wire import messages as m
from tests.e2e.world import write_certificate
from tests.faults.dam import UP, Dam
from tests.faults.ground import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.ground import Ground

PLACES = 24  # limits.connections; cases run in smaller batches
BATCH = 16

READY: Final = b"S" + pack("!i", 24) + b"server_version\x0016.0\0" + m.build_ready(b"I")


def request(code: int, data: bytes = b"") -> bytes:
    return b"R" + pack("!ii", 8 + len(data), code) + data


def answer(data: bytes) -> bytes:
    return b"p" + pack("!i", 4 + len(data)) + data


SCRAM: Final = b"SCRAM-SHA-256\0"
FIRST: Final = b"n,,n=,r=abcdefghijklmnop"
FINAL: Final = b"c=biws,r=abcdefghijklmnopqrstuvwx,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
STARTUP: Final = b""  # its place; it names the case

# What each side says, in turn. "cert" is a server that wants TLS and a certificate, and then asks for nothing.
DIALOGUES: Final[dict[str, tuple[tuple[str, bytes], ...]]] = {
    "trust": (("C", STARTUP), ("S", request(0)), ("S", READY)),
    "cert": (("C", STARTUP), ("S", request(0)), ("S", READY)),
    "password": (("C", STARTUP), ("S", request(3)), ("C", answer(b"secret\0")), ("S", request(0)), ("S", READY)),
    "md5": (("C", STARTUP), ("S", request(5, b"salt")), ("C", answer(b"md5" + b"0" * 32 + b"\0")), ("S", request(0)), ("S", READY)),
    "scram": (
        ("C", STARTUP),
        ("S", request(10, SCRAM + b"\0")),
        ("C", answer(SCRAM + pack("!i", len(FIRST)) + FIRST)),
        ("S", request(11, b"r=abcdefghijklmnopqrstuvwx,s=c2FsdA==,i=4096")),
        ("C", answer(FINAL)),
        ("S", request(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        ("S", request(0)),
        ("S", READY),
    ),
}  # fmt: skip


class How(Enum):
    AFTER = "cut after"
    HALF = "cut within"
    STALLS = "stalls instead of"
    REFUSED = "is refused instead of"


@dataclass(frozen=True)
class Case:
    """Where the login ends: the message `at`, which is `side`'s. None: nowhere."""

    number: int
    method: str
    side: str = "-"
    at: int = -1
    how: How | None = None

    @property
    def login(self) -> str:
        return f"case{self.number}"

    @property
    def asked(self) -> bool:
        """Whether the startup packet came through, so that it is a login."""
        return not (self.side == "C" and self.at == 0 and self.how in {How.HALF, How.STALLS})

    def __str__(self) -> str:
        who = {"C": "client", "S": "server", "-": "nobody"}[self.side]
        return f"{self.method}: the {who} {self.how.value if self.how else 'ends'} message {self.at}"


def cases() -> Iterator[Case]:
    number = 0
    for method, dialogue in DIALOGUES.items():
        for at, (side, _) in enumerate(dialogue):
            for how in How:
                over = at == len(dialogue) - 1
                if how is How.REFUSED and side == "C":
                    continue
                if over and how is How.AFTER:
                    continue  # it has succeeded
                if over and how is How.STALLS:
                    continue  # authenticated, and a server that is busy: the client waits as long as it likes
                number += 1
                yield Case(number, method, side, at, how)


REFUSAL: Final = m.build_error(
    m.ErrorFields(((ord("S"), b"FATAL"), (ord("V"), b"FATAL"), (ord("C"), b"28P01"), (ord("M"), b"no"))), m.Back.ERROR
)


@dataclass
class Scripted:
    """The server. `open`: connections that stand."""

    certificate: Path
    known: dict[str, Case]
    open: int = 0
    logins: Counter[str] = field(default_factory=Counter)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await self._play(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.open -= 1

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await _packet(reader)
        if packet == m.SSL_REQUEST_PACKET:
            writer.write(b"S")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate / "server.crt", self.certificate / "server.key")
            context.load_verify_locations(self.certificate / "server.crt")
            context.verify_mode = ssl.CERT_REQUIRED
            await writer.start_tls(context)
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


class Line:
    """A client's connection. What came before a reset is not lost, as it is with asyncio's streams, which then give nothing but the error."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def to(cls, port: int) -> Line:
        own = socket.socket()
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
        return cls(own)

    async def send(self, data: bytes) -> None:
        """A peer that has gone is met when its last words are read."""
        with suppress(OSError):
            await self._loop.sock_sendall(self._socket, data)

    async def read(self, size: int | None = None) -> bytes:
        """This many bytes, or all until the end; fewer where it ends before."""
        got = b""
        while size is None or len(got) < size:
            try:
                part = await self._loop.sock_recv(self._socket, 65536 if size is None else size - len(got))
            except OSError:
                return got
            if not part:
                return got
            got += part
        return got

    def abort(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        self._socket.close()


async def log_in(port: int, case: Case) -> tuple[bytes, Line | None]:
    """Play the client. What it was sent, and its connection where the login came to its end."""
    line = await Line.to(port)
    startup = m.Startup(m.PROTOCOL_3_0, ((b"user", case.login.encode()), (b"database", b"postgres"))).build()
    got = b""
    for at, (side, data) in enumerate(DIALOGUES[case.method]):
        ends = case.at == at and case.side == "C"
        if side == "S":
            part = await line.read(len(data))
            got += part
            if part != data:
                got += await line.read()
                break
            continue
        if ends and case.how is How.STALLS:
            got += await line.read()
            break
        words = data or startup
        await line.send(words[: len(words) // 2] if ends and case.how is How.HALF else words)
        if ends:
            break
    else:
        if case.at < 0:
            return got, line
        got += await line.read()
    line.abort()
    return got, None


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for what becomes true in a moment, while the scripted server goes on."""
    for _ in range(600):
        if await asyncio.to_thread(holds):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


async def cut_in_tls(port: int, *, hello: bytes, stall: bool) -> bytes:
    """A client that asks pgveil for TLS and ends in the middle of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(m.SSL_REQUEST_PACKET)
    got = await reader.readexactly(1)
    writer.write(hello)
    if stall:
        got += await reader.read()
    writer.transport.abort()
    return got


@pytest.fixture
def other(ground: Ground, tmp_path: Path) -> Iterator[Ground]:
    made = ground.beside(tmp_path / "beside")
    write_certificate(tmp_path)
    yield made
    made.stop()


def configure(other: Ground, directory: Path, port: int) -> None:
    """One worker before the scripted server, with TLS on both sides and a few places."""
    pair = f"certificate: {directory}/server.crt, key: {directory}/server.key"
    other.configure(
        workers=1,
        server=f"hosts: 127.0.0.1:{port}",
        more=f"limits: {{connections: {PLACES}, connections_per_login: 1, authentication_seconds: 1, close_seconds: 1}}\n"
        f"tls: {{{pair}}}\n",
    )
    text = other.config.read_text()
    own = f"  sslmode: require\n  certificate: {directory}/server.crt\n  key: {directory}/server.key\n"
    other.config.write_text(text.replace("  sslmode: disable\n", own, 1))


def says(case: Case, got: bytes) -> bool:
    """Whether the client was told what it could be told."""
    if case.side == "S":
        wanted = {How.REFUSED: (b"C28P01",), How.STALLS: (b"C28000",)}.get(
            case.how or How.AFTER, (b"C08001", b"C08006")
        )
        return any(word in got for word in wanted)
    return case.how is not How.STALLS or b"C28000" in got


async def test_no_login_that_ends_early_leaves_anything(other: Ground, tmp_path: Path) -> None:
    everything = list(cases())
    good = [Case(1000 + number, "scram") for number in range(PLACES + 1)]
    scripted = Scripted(tmp_path, {case.login: case for case in (*everything, *good)})
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    configure(other, tmp_path, server.sockets[0].getsockname()[1])
    await asyncio.to_thread(other.start)
    for first in range(0, len(everything), BATCH):
        batch = everything[first : first + BATCH]
        for case, (got, line) in zip(batch, await asyncio.gather(*(log_in(other.port, c) for c in batch)), strict=True):
            assert line is None, case
            assert b"Z" + pack("!i", 5) + b"I" not in got, f"{case}: it was told that it is logged in"
            assert says(case, got), f"{case}: {got!r}"
    begun = b"\x16\x03\x01\x02\x00\x01\x00"
    for hello in (b"", begun, b"nonsense of a client"):
        await cut_in_tls(other.port, hello=hello, stall=False)
    assert await cut_in_tls(other.port, hello=begun, stall=True) == b"S"

    # Nothing of it is left: no connection to the server, no session, no record of a success; and each failure is counted once.
    failed = sum(case.asked for case in everything)
    await eventually(lambda: scripted.open == 0, "the server has no connection any more")
    await eventually(lambda: other.metric("pgveil_connections") == 0, "no session is left")
    await eventually(lambda: other.metric("pgveil_logins_failed_total") == failed, "each failure is counted")
    kinds = Counter(record["kind"] for record in other.records())
    await eventually(lambda: Counter(r["kind"] for r in other.records())["login_failed"] == failed, "each is recorded")
    assert (kinds["login"], kinds["logout"]) == (0, 0)
    assert set(scripted.logins) == {case.login for case in everything if case.asked}

    # Every place is free, and no more than there are.
    standing = []
    try:
        for case in good[:PLACES]:
            got, line = await log_in(other.port, case)
            assert line is not None, got
            standing.append(line)
            if case is good[0]:
                got, _ = await log_in(other.port, case)
                assert b"C53300" in got
                assert b"too many connections for role" in got
        got, _ = await log_in(other.port, good[PLACES])
        assert b"C53300" in got
        assert b"too many clients" in got
        assert other.metric("pgveil_connections") == PLACES
    finally:
        for line in standing:
            line.abort()
    await eventually(lambda: other.metric("pgveil_connections") == 0, "they have gone")
    await eventually(lambda: scripted.open == 0, "on the other side, too")
    await eventually(lambda: Counter(r["kind"] for r in other.records())["logout"] == PLACES, "each is recorded")
    assert Counter(r["kind"] for r in other.records())["login"] == PLACES
    server.close()


WATCHER = """
DO $$ BEGIN CREATE ROLE watcher LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""


@pytest.mark.parametrize(
    ("stalls", "told", "sqlstate"),
    [(False, "can't read the database's catalog", "08001"), (True, "the login took too long", None)],
)
def test_a_login_that_fails_behind_the_server_s_ok_has_its_record(
    ground: Ground, tmp_path: Path, stalls: bool, told: str, sqlstate: str | None
) -> None:
    """The server has let the client in. pgveil's own login is not let into that database, or is not answered."""
    other = ground.beside(tmp_path / "beside")
    database = ground.pg.create_database()
    ground.pg.psql(WATCHER, database)
    ground.pg.psql(
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO app", database
    )
    with Dam(ground.pg.port) as dam:
        other.configure(
            workers=1,
            dsn=f"postgresql://watcher@127.0.0.1:{dam.port}/{ground.database}",
            more=f"limits: {{authentication_seconds: {2 if stalls else 60}, close_seconds: 1}}\n",
        )
        other.start()
        try:
            if stalls:
                dam.hold(UP, 0)
            dsn = f"postgresql://app@127.0.0.1:{other.port}/{database}?sslmode=disable"
            with pytest.raises(psycopg.OperationalError, match=told):
                psycopg.connect(dsn)
            until(lambda: other.metric("pgveil_logins_failed_total") > 0, "it is counted")
            dam.release()
        finally:
            other.stop()
    records = [r for r in other.records() if r.get("database") == database and r["kind"] != "catalog"]
    assert [(r["kind"], r["login"], r["sqlstate"]) for r in records] == [("login_failed", "app", sqlstate)]
    other.verify_audit()
