"""Where the matrix plays: a database with protected tables, sessions of pgveil on real connections, and a catalog that is read when a test says so.

Nothing here runs by itself: no thread, no loop, no poll. A session gets bytes when the test sends them, so a change of the schema stands exactly
where the test puts it, and "the poll has not come yet" lasts as long as the test wants.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psycopg
from psycopg.rows import dict_row

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from proxy.databases import TEMPORARY_QUERY
from proxy.decisions import Gate
from proxy.session.session import Session
from proxy.session.trail import Identity
from proxy.session.values import ValueCodec
from proxy.session.witness import DescriptionCache
from proxy.vocabulary import VOCABULARY_QUERY, vocabulary
from proxy.wire import messages as m
from rules.catalog import CATALOG_QUERIES, FINGERPRINT_QUERY, build_catalog
from rules.load import load_rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from audit.event import Event
    from lifecycle.demo.postgres import Postgres
    from proxy.vocabulary import Vocabulary
    from rules.catalog import Catalog
    from rules.model import Rules

SEER, OWNER, MASKER, NOBODY, BOSS, INSIDER = "seer", "owner", "masker", "nobody", "boss", "insider"
LIMITED = (MASKER, NOBODY, BOSS, INSIDER)

# The same names and types everywhere, so that every table can stand in for every other one without the server's minding.
_PAIR = """
      pan: {level: core, protection: sealed, mode: deterministic, type: text, domain: %s, mask: {kind: keep_last, n: 1}}
      phone: {level: important, protection: masked, type: text, mask: {kind: keep_first, n: 1}}
"""
RULES = f"""
version: 1
tables:
  public.customers:
    columns: {_PAIR % "pan"}
  public.accounts:
    columns: {_PAIR % "account"}
  public.parts:
    columns: {_PAIR % "pan"}
  public.twins:
    columns:
      pan: {{level: important, protection: masked, type: text, mask: {{kind: keep_first, n: 1}}}}
      phone: {{level: core, protection: sealed, mode: deterministic, type: text, domain: phone, mask: {{kind: keep_last, n: 1}}}}
roles:
  clear:
    logins: [{SEER}, {OWNER}]
    levels: {{core: clear, important: clear, general: clear}}
  masked:
    logins: [{MASKER}, {BOSS}]
    levels: {{core: masked, important: masked, general: clear}}
  refused:
    logins: [{NOBODY}]
    levels: {{core: refused, important: masked, general: clear}}
  insiders:
    member_of: [insiders]
    levels: {{core: clear, important: clear, general: clear}}
"""
TABLES = ("customers", "accounts", "twins", "parts", "plain")
SETUP = """
CREATE TABLE customers (id int PRIMARY KEY, pan text, phone text, note text);
CREATE TABLE accounts (id int PRIMARY KEY, pan text, phone text, note text);
CREATE TABLE twins (id int PRIMARY KEY, pan text, phone text, note text);
CREATE TABLE plain (id int PRIMARY KEY, pan text, phone text, note text);
CREATE TABLE parts (id int PRIMARY KEY, pan text, phone text, note text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE loose (id int NOT NULL, pan text, phone text, note text);
CREATE VIEW shown AS SELECT id, pan, phone, note FROM plain;
CREATE FUNCTION told(wanted int) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT phone FROM public.plain WHERE id = wanted';
CREATE FUNCTION moved(path text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', path, false) $$;
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.customers (LIKE public.plain);
CREATE SCHEMA hidden;
GRANT USAGE ON SCHEMA elsewhere, hidden TO PUBLIC;
INSERT INTO loose VALUES (101, 'loosepan', 'loosephone', 'loosenote');
"""
GRANTS = f"""
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, elsewhere TO {SEER}, {MASKER}, {NOBODY}, {INSIDER};
"""
ROLES = f"""
DO $$
DECLARE who text;
BEGIN
    FOREACH who IN ARRAY ARRAY['{SEER}', '{OWNER}', '{MASKER}', '{NOBODY}', '{BOSS}', '{INSIDER}'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = who) THEN EXECUTE format('CREATE ROLE %I LOGIN', who); END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'insiders') THEN CREATE ROLE insiders; END IF;
END
$$;
ALTER ROLE {BOSS} SUPERUSER;
GRANT insiders TO {INSIDER};
"""


def canary(table: str, column: str, row: int) -> str:
    """A value that is protected, and nothing else is like it."""
    return f"Q{column}{table}{row}Zk"


CANARIES = tuple(canary(t, c, n) for t in TABLES if t != "plain" for c in ("pan", "phone") for n in (1, 2))


def fill() -> str:
    """Two rows for each table; those of `plain` may be seen by everybody."""
    return "".join(
        f"INSERT INTO {t} VALUES ({n}, '{_value(t, 'pan', n)}', '{_value(t, 'phone', n)}', '{t}note{n}');"
        for t in TABLES
        for n in (1, 2)
    )


def _value(table: str, column: str, row: int) -> str:
    return f"{table}{column}{row}" if table == "plain" else canary(table, column, row)


class Recorder:
    """An audit log that is durable at once."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def durable(self) -> int:
        """See proxy.session.trail.Recorder."""
        return len(self.events)

    def append(self, event: Event) -> int:
        """See proxy.session.trail.Recorder."""
        self.events.append(event)
        return len(self.events)


@dataclass
class Stage:
    """A database that plays are made of copies of. `catalog`: as it is in each copy, since a copy keeps its OIDs."""

    pg: Postgres
    home: Path
    template: str
    ring: KeyRing
    codec: ValueCodec
    fingerprint: str
    catalog: Catalog
    vocabulary: Vocabulary

    def play(self) -> Play:
        """A fresh copy, and a gate that knows it."""
        name = f"{self.template}_{os.urandom(4).hex()}"
        with psycopg.connect(self.pg.dsn(), autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"'.encode())
        rules = load_rules(self.home / "rules.yaml")
        return Play(self, name, self.gate(rules), self.fingerprint)

    def gate(self, rules: Rules) -> Gate:
        """A worker's judgement, by the catalog before the change."""
        return Gate(rules, self.catalog, self.codec, vocabulary=self.vocabulary)


def make_stage(pg: Postgres, home: Path) -> Stage:
    """Tables, rows, rules applied."""
    (home / "rules.yaml").write_text(RULES)
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    pg.psql(ROLES)
    database = pg.create_database(owner=OWNER)
    pg.psql("ALTER SCHEMA public OWNER TO owner", database)
    pg.psql(SETUP + fill(), database, OWNER)
    pg.psql(GRANTS + "GRANT CREATE ON SCHEMA elsewhere TO owner;", database)
    asyncio.run(apply(pg.dsn(database), home, ring))
    with psycopg.connect(pg.dsn(database)) as connection:
        fingerprint, catalog = read(connection)
        words = connection.execute(VOCABULARY_QUERY.encode()).fetchone()
        assert words is not None
    codec = ValueCodec(ring, random=os.urandom)
    return Stage(pg, home, database, ring, codec, fingerprint, catalog, vocabulary(*words))


async def apply(dsn: str, home: Path, ring: KeyRing) -> None:
    """`pgveil apply`."""
    rules = load_rules(home / "rules.yaml")
    connection = await asyncpg.connect(dsn)
    try:
        plan = await make_plan(connection, rules, ring)
        await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
    finally:
        await connection.close()


def read(connection: psycopg.Connection[Any]) -> tuple[str, Catalog]:
    """The fingerprint and the catalog of one moment, as `proxy.databases` reads them."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        fingerprint = connection.execute(FINGERPRINT_QUERY.encode()).fetchone()
        rows = {
            name: connection.cursor(row_factory=dict_row).execute(sql.encode()).fetchall()
            for name, sql in CATALOG_QUERIES.items()
        }
    assert fingerprint is not None
    return str(fingerprint[0]), build_catalog(rows)


@dataclass
class Play:
    """One copy of the database, with everybody's connections. `polls`: how often the catalog has been looked at."""

    stage: Stage
    database: str
    gate: Gate
    fingerprint: str
    polls: int = 0
    lines: list[Line] = field(default_factory=list)
    cache: DescriptionCache = field(default_factory=DescriptionCache)
    _reader: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            line.socket.close()
        if self._reader is not None:
            self._reader.close()
        with psycopg.connect(self.stage.pg.dsn(), autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)'.encode())

    def line(self, login: str, *, elsewhere: bool = False) -> Line:
        """A connection of `login` through pgveil; `elsewhere`: through a worker whose sessions these are not."""
        made = Line(self, login, elsewhere=elsewhere)
        self.lines.append(made)
        return made

    def poll(self) -> None:
        """What a worker does every second, and when a session asks for it."""
        self.polls += 1
        if self._reader is None:
            self._reader = psycopg.connect(self.stage.pg.dsn(self.database), autocommit=True)
        found = self._reader.execute(FINGERPRINT_QUERY.encode()).fetchone()
        assert found is not None
        if str(found[0]) != self.fingerprint:
            self.fingerprint, catalog = read(self._reader)
            self.gate.update(load_rules(self.stage.home / "rules.yaml"), catalog)
        wanted = self.gate.wanted_relations()
        if wanted:
            query = TEMPORARY_QUERY.replace("$1", "%s").encode()
            rows = self._reader.execute(query, (sorted(wanted),)).fetchall()
            self.gate.found_relations(wanted, frozenset(int(r[0]) for r in rows))

    def directly(self, *statements: str) -> bool:
        """As the superuser, past pgveil, in one transaction; whether no lock of anybody's was in the way."""
        with psycopg.connect(self.stage.pg.dsn(self.database)) as admin:
            admin.execute("SET lock_timeout = '40ms'")
            try:
                for sql in statements:
                    admin.execute(sql.encode())
            except psycopg.errors.LockNotAvailable:
                admin.rollback()
                return False
        return True


class Line:
    """One login's connection through a Session of pgveil, moved by hand."""

    def __init__(self, play: Play, login: str, *, elsewhere: bool = False) -> None:
        self.play = play
        self.login = login
        self.elsewhere = elsewhere
        self.recorder = Recorder()
        self.heard = bytearray()  # everything that the client was sent
        self.flights = 0
        self.stop_at: int | None = None  # the flight that must not leave yet
        self._seen = 0
        self._time = 0.0
        self.session = Session(
            judge=play.stage.gate(load_rules(play.stage.home / "rules.yaml")) if elsewhere else play.gate,
            codec=play.stage.codec,
            identity=Identity(login, play.database, "192.0.2.1:5", "test", "c1"),
            recorder=self.recorder,
            clock=self._clock,
            cache=play.cache,
        )
        server = play.stage.pg
        self.socket = socket.create_connection((server.host, server.port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = f"user\0{login}\0database\0{play.database}\0\0".encode()
        self.socket.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        head = self.socket.recv(9, socket.MSG_WAITALL)
        assert head == m.build_authentication(0)
        self.until(b"Z")

    def _clock(self) -> float:
        self._time += 0.001
        return self._time

    def ask(self, data: bytes, *, until: bytes = b"Z") -> list[tuple[int, bytes]]:
        """Send as a client; the messages up to one of the kinds `until`, or to the end."""
        self.session.client_received(data)
        return self.until(until)

    def until(self, kinds: bytes) -> list[tuple[int, bytes]]:
        """The messages up to one of the kinds, or to the end of the connection."""
        found: list[tuple[int, bytes]] = []
        while True:
            if not self._move():
                return found
            for kind, body in self._new():
                found.append((kind, body))
                if kind in kinds:
                    self.stop_at = None
                    return found
            if self.session.closing is not None:
                return found
            data = self.socket.recv(65536)
            if data:
                self.session.server_received(data)
            else:
                self.session.server_eof()

    def _move(self) -> bool:
        """Move what is there; False where it has to stop before the flight `stop_at`."""
        session = self.session
        while session.catalog_stale:
            if not self.elsewhere:
                self.play.poll()
            session.catalog_refreshed()
        self.heard += b"".join(session.to_client)
        session.to_client = []
        if session.to_server:
            if self.flights + 1 == self.stop_at:
                return False
            self.flights += 1
            data, session.to_server = b"".join(session.to_server), []
            self.socket.sendall(data)
        return True

    def _new(self) -> Iterator[tuple[int, bytes]]:
        while len(self.heard) - self._seen >= 5:
            size = 1 + int.from_bytes(self.heard[self._seen + 1 : self._seen + 5], "big")
            if len(self.heard) - self._seen < size:
                return
            raw = bytes(self.heard[self._seen : self._seen + size])
            self._seen += size
            yield raw[0], raw[5:]

    def query(self, sql: str) -> list[tuple[int, bytes]]:
        """A simple Query."""
        return self.ask(m.build_query(sql.encode()))
