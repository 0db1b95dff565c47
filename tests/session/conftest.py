"""What the session's tests share: a judge that answers from a table, a recorder that a test steers, and a pump to a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from struct import unpack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from audit.errors import AuditUnavailable
from keys.ring import UnknownDomainError
from keys.sealed import DataKey
from proxy.session.collect import Budget
from proxy.session.gate import Admit, Decision, Names, OffsetMap, Pass, Refuse, Settings
from proxy.session.lane import PassingTexts
from proxy.session.limits import SessionLimits
from proxy.session.metering import LookupMeter, Unmetered
from proxy.session.prepared import ComputeCache
from proxy.session.session import Session
from proxy.session.trail import Identity
from proxy.session.values import ValueCodec
from proxy.session.witness import DescriptionCache
from rules.model import (
    Column,
    ColumnName,
    Level,
    MaskSpec,
    OnDamage,
    PolicyClass,
    Principal,
    Protection,
    SealMode,
    TableName,
    Verdict,
)
from rules.plan import Action, Plan, Reason, ResultColumn, SealParam, Touched

if TYPE_CHECKING:
    from audit.event import Event
    from lifecycle.demo.postgres import Postgres
    from proxy.session.computing import Calculator, Compute, Write

TABLE = TableName("public", "customers")


def column(name: str, type_: str, **changes: Any) -> Column:
    """A sealed column of `customers`."""
    made = Column(ColumnName("public", "customers", name), Level.CORE, Protection.SEALED, SealMode.DETERMINISTIC, type_)
    return replace(made, **changes)


CARD = column("card", "varchar(19)", mask=MaskSpec("keep_last", (("n", 4),)))
BORN = column("born", "date")
SCORE = column("score", "int4", on_damage=OnDamage.PLACEHOLDER, placeholder="-1")
NOTE = column("note", "text", mode=SealMode.RANDOMIZED)
PHONE = replace(column("phone", "text"), protection=Protection.MASKED, mode=None)
COLUMNS = {c.name: c for c in (CARD, BORN, SCORE, NOTE, PHONE)}
POLICY = PolicyClass("0123456789ab", dict.fromkeys(COLUMNS, Verdict.CLEAR))


def opened(of: Column, verdict: Verdict = Verdict.CLEAR) -> ResultColumn:
    """A result column that is a direct reference to a sealed column."""
    return ResultColumn(open=of, verdict=verdict, direct=True, touches=frozenset((of.name,)))


PLAIN = ResultColumn(direct=True)
COMPUTED = ResultColumn()


def plan(*results: ResultColumn, params: tuple[SealParam, ...] = (), **changes: Any) -> Plan:
    """A plan for a statement on `customers`."""
    touched = tuple(
        Touched(r.open.name, Level.CORE, r.verdict, read=True, written=False) for r in results if r.open is not None
    )
    touched = touched or (Touched(CARD.name, Level.CORE, Verdict.CLEAR, read=True, written=False),)
    made = Plan(Action.SELECT, (TABLE,), touched, params=params, results=results or None)
    return replace(made, **changes)


class Ring:
    """A key for every domain."""

    def __init__(self) -> None:
        self._keys: dict[str, DataKey] = {}
        self.missing: set[str] = set()

    def newest(self, domain: str) -> DataKey:
        if domain in self.missing:
            raise UnknownDomainError(domain)
        number = len(self._keys) + 1
        return self._keys.setdefault(domain, DataKey(domain, number, bytes((number,)) * 64))

    def keys(self, domain: str) -> Mapping[int, DataKey]:
        key = self.newest(domain)
        return {key.key_id: key}


Entry = Decision | Callable[[bytes, Settings], Decision]


class FakeJudge:
    """Answers from `table` (text -> decision or function); other texts pass, with what their first word says of settings and DDL."""

    def __init__(self) -> None:
        self.table: dict[bytes, Entry] = {}
        self.sources: dict[tuple[int, int], ColumnName] = {}
        self.tables: dict[tuple[int, int], tuple[int, int]] = {}
        self.generation = 1
        self.asked: list[tuple[bytes, Settings]] = []
        self.verdicts = POLICY
        self.lookups: int | None = None
        self.exposed = False
        self.strangers: frozenset[int] = frozenset()
        self.reports: tuple[Plan | None, bool] = (None, False)
        self.reported: list[tuple[TableName | None, bytes | None]] = []
        self.hushed: set[str] = set()

    def principal(self, login: str) -> Principal:
        return Principal(login, ("clerk",), self.verdicts, self.exposed, self.lookups)

    def unchanged_since(self, generation: int) -> bool:
        return generation == self.generation

    def unfamiliar(self, columns: frozenset[tuple[int, int]]) -> bool:
        return any(oid in self.strangers for oid, _ in columns)

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        self.asked.append((sql, settings))
        entry = self.table.get(sql)
        if entry is None:
            word = sql.lstrip().partition(b" ")[0].upper()
            return Pass(
                unsettles=word in (b"SET", b"RESET", b"DISCARD") or b"set_config" in sql,
                ddl=word in (b"CREATE", b"ALTER", b"DROP"),
                statements=max(1, len([p for p in sql.split(b";") if p.strip()])),
            )
        return entry(sql, settings) if callable(entry) else entry

    def admit(self, text: str, *plans: Plan | None, to: str | None = None, **changes: Any) -> None:
        """Let `text` run as `to` (itself by default) under `plans`."""
        offsets = changes.pop("offsets", OffsetMap())

        def answer(_sql: bytes, _settings: Settings) -> Decision:
            return Admit((to or text).encode(), offsets, plans, f"shape of {text[:20]}", self.generation, **changes)

        self.table[text.encode()] = answer

    def as_run(
        self, decision: Pass | Admit | Compute | Write | Refuse, principal: Principal
    ) -> Pass | Admit | Compute | Write | Refuse:
        return decision

    def source_of(self, table_oid: int, attnum: int) -> ColumnName | None:
        return self.sources.get((table_oid, attnum))

    def table_of(self, view_oid: int, attnum: int) -> tuple[int, int] | None:
        return self.tables.get((view_oid, attnum))

    def report(self, login: str, relation: TableName | None, context: bytes | None) -> tuple[Plan | None, bool]:
        self.reported.append((relation, context))
        return self.reports

    def hushes(self, login: str) -> bool:
        return login in self.hushed

    def protected_names(self, names: frozenset[str]) -> frozenset[str]:
        return names & {"customers"}

    def column(self, name: ColumnName) -> Column | None:
        return COLUMNS.get(name)


class FakeRecorder:
    """An audit log that is durable at once (`prompt`), on order (`flush`), or fails."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.durable = 0
        self.prompt = True
        self.down = False
        self.told: Callable[[int], None] | None = None

    def append(self, event: Event) -> int:
        if self.down:
            raise AuditUnavailable("down")
        self.events.append(event)
        if self.prompt:
            self.durable = len(self.events)
        return len(self.events)

    def flush(self) -> int:
        """Everything so far is durable."""
        self.durable = len(self.events)
        return self.durable

    def kinds(self) -> list[str]:
        return [type(e).__name__ for e in self.events]


@dataclass
class Counter:
    """An observer that counts."""

    objects: int = 0
    values_opened: int = 0
    values_sealed: int = 0
    reasons: list[Reason] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    statements: list[Action | None] = field(default_factory=list)

    def statement(self, action: Action | None, added: float, server: float) -> None:
        self.statements.append(action)

    def passed(self, count: int) -> None:
        self.statements.extend([None] * count)

    def refused(self, reason: Reason) -> None:
        self.reasons.append(reason)

    def opened(self, values: int) -> None:
        self.values_opened += values

    def sealed(self, values: int) -> None:
        self.values_sealed += values

    def error(self, sqlstate: str) -> None:
        self.errors.append(sqlstate)

    def message_objects(self, count: int) -> None:
        self.objects += count


class Bench:
    """Everything a session is made of."""

    def __init__(self) -> None:
        self.judge = FakeJudge()
        self.ring = Ring()
        self.recorder = FakeRecorder()
        self.observer = Counter()
        self.cache = DescriptionCache()
        self.limits = SessionLimits()
        self.time = 0.0
        self.codec = ValueCodec(self.ring, random=os.urandom)
        self.sessions: list[Session] = []
        self.calculator: Calculator | None = None
        self.computed = ComputeCache()
        self.budget = Budget(1 << 30)
        self.meter: LookupMeter = Unmetered()
        self.passing = PassingTexts()
        self.later: Callable[[Callable[[], None]], object] | None = None

    def clock(self) -> float:
        self.time += 0.001
        return self.time

    def session(self, login: str = "alice", *, fast: bool = True) -> Session:
        session = Session(
            judge=self.judge,
            codec=self.codec,
            identity=Identity(login, "shop", "192.0.2.1:5", "test", "c1"),
            recorder=self.recorder,
            clock=self.clock,
            limits=self.limits,
            observer=self.observer,
            cache=self.cache,
            calculator=self.calculator,
            computed=self.computed,
            budget=self.budget,
            meter=self.meter,
            passing=self.passing,
            fast=fast,
            later=self.later,
        )
        self.sessions.append(session)
        return session

    def seal(self, of: Column, value: str) -> str:
        return self.codec.seal_literal(of, value).decode()


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- a real server behind --------------------------------------------------------------------------------------------------------------


class Proxy:
    """A thread with a loop that joins clients, sessions and a server."""

    def __init__(self, server: Postgres, bench: Bench) -> None:
        self._server = server
        self._bench = bench
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self.refreshes = 0
        self.live: list[tuple[Session, Callable[[], None]]] = []
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def dsn(self, dbname: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{dbname}?sslmode=disable"

    def do(self, action: Callable[[Session], None]) -> None:
        """Run `action` on each live session within the loop, and move what it set free."""

        done = threading.Event()

        def run() -> None:
            for session, pump in list(self.live):
                action(session)
                pump()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        listener.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await _packet(reader)
        while unpack("!i", packet[4:8])[0] in (80877103, 80877104):
            writer.write(b"N")
            packet = await _packet(reader)
        up, down = await asyncio.open_connection(self._server.host, self._server.port)
        down.write(packet)
        if unpack("!i", packet[4:8])[0] == 80877102:
            await down.drain()
            down.close()
            return
        head = await up.readexactly(9)  # AuthenticationOk under trust
        writer.write(head)
        await self._join(reader, writer, up, down)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.StreamReader,
        down: asyncio.StreamWriter,
    ) -> None:
        session = self._bench.session("postgres")
        resume = asyncio.Event()

        def pump() -> None:
            while session.catalog_stale:
                self.refreshes += 1
                session.catalog_refreshed()
            for piece in session.to_client:
                writer.write(piece)
            for piece in session.to_server:
                down.write(piece)
            session.to_client, session.to_server = [], []
            if session.closing:
                down.close()
                writer.close()
            resume.set()
            resume.clear()

        self.live.append((session, pump))

        async def read(
            source: asyncio.StreamReader, wants: Callable[[], bool], give: Callable[[bytes], object]
        ) -> None:
            while True:
                while not wants() and not session.closing:
                    await resume.wait()
                data = await source.read(65536)
                if not data or session.closing:
                    return
                give(data)
                pump()
                await writer.drain()
                await down.drain()

        async def client() -> None:
            await read(reader, lambda: session.wants_client, session.client_received)
            session.client_eof()
            pump()

        async def server() -> None:
            await read(up, lambda: session.wants_server, session.server_received)
            session.server_eof()
            pump()

        await asyncio.gather(client(), server(), return_exceptions=True)
        self.live.remove((session, pump))


async def _packet(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(unpack("!i", length)[0] - 4)


@dataclass
class Shop:
    """A database with sealed values, reached directly (`direct`) and through sessions (`dsn`)."""

    bench: Bench
    proxy: Proxy
    dsn: str
    direct: str
    oid: int

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, **{"autocommit": True, "connect_timeout": 10, **options})


ROWS = (
    (1, "Ann", "6222021234567890123", "1990-02-03", "7", "tall"),
    (2, "Bob", "4000001111222233", "2001-12-31", None, None),
    (3, "Cid", None, "1970-01-01", "-12", ""),
)


def seed(bench: Bench, direct: str) -> int:
    """Make and fill `customers`; its OID."""
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE customers (id int PRIMARY KEY, name text, card text, born text, score text, note text, phone text)"
        )
        for row in ROWS:
            sealed = [
                None if v is None else bench.seal(c, v) for c, v in zip((CARD, BORN, SCORE, NOTE), row[2:], strict=True)
            ]
            connection.execute("INSERT INTO customers VALUES (%s,%s,%s,%s,%s,%s,%s)", (*row[:2], *sealed, "555-0100"))
        found = connection.execute("SELECT 'customers'::regclass::oid").fetchone()
    assert found is not None
    oid = int(found[0])
    for number, of in ((3, CARD), (4, BORN), (5, SCORE), (6, NOTE), (7, PHONE)):
        bench.judge.sources[oid, number] = of.name
    return oid


@pytest.fixture
def shop(pg: Postgres, bench: Bench) -> Iterator[Shop]:
    database = pg.create_database()
    direct = pg.dsn(database)
    oid = seed(bench, direct)
    proxy = Proxy(pg, bench)
    yield Shop(bench, proxy, proxy.dsn(database), direct, oid)
    proxy.stop()
