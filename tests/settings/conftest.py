"""Twins: one database whose values are plain, one where they are sealed and a session of pgveil stands before it. Whatever is said to both, the answers are equal."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from proxy.decisions import Gate
from proxy.session.values import ValueCodec
from proxy.vocabulary import VOCABULARY_QUERY, vocabulary
from proxy.wire import messages as m
from rules.load import load_rules_text
from tests.copying.conftest import CopyBench, apply_rules
from tests.rules.twins import read_catalog
from tests.session.calculators import OnServer
from tests.session.conftest import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

CLEAR, MASKED = "set_clear", "set_masked"
RULES = f"""
version: 1
tables:
  public.t:
    columns:
      born: {{level: core, protection: sealed, mode: deterministic, type: date, mask: year}}
      seen: {{level: core, protection: sealed, mode: randomized, type: timestamptz, mask: "null"}}
      body: {{level: core, protection: sealed, mode: deterministic, type: bytea, mask: "null"}}
      ratio: {{level: core, protection: sealed, mode: deterministic, type: float8, mask: "null"}}
      name: {{level: important, protection: masked, mask: {{kind: keep_first, n: 1}}}}
  public.other:
    columns:
      born: {{level: core, protection: sealed, mode: deterministic, type: date, mask: year}}
roles:
  clear: {{logins: [{CLEAR}], levels: {{core: clear, important: clear}}}}
  masked: {{logins: [{MASKED}], levels: {{core: masked, important: masked}}}}
"""
SCHEMA = f"""
create table t (id int primary key, born date, seen timestamptz, body bytea, ratio float8, name text, day date);
create table other (id int primary key, born date);
create table plain (id int primary key, day date);
create table triggered (id int);
create schema elsewhere;
create table elsewhere.t (id int, born date, name text);
insert into elsewhere.t values (1, '2020-03-04', 'elsewhere');
create function sets(v text) returns void language plpgsql as $$ begin perform set_config('DateStyle', v, false); end $$;
create function sets_by_text(v text) returns void language plpgsql as $$ begin execute 'set datestyle to ' || quote_literal(v); end $$;
create function sets_plainly() returns int language plpgsql as $$ begin set datestyle to 'SQL, DMY'; return 1; end $$;
create function calls_sets() returns void language sql as $$ select sets('German, DMY') $$;
create function has_clause(d date) returns text language sql set datestyle to 'German' as $$ select d::text $$;
create function leaves_clause() returns int language plpgsql set datestyle to 'German' as $$ begin set datestyle to 'SQL, DMY'; return 1; end $$;
create procedure procedure_sets(v text) language plpgsql as $$ begin perform set_config('DateStyle', v, false); end $$;
create view changer as select set_config('DateStyle', 'German, DMY', false) as was;
create view parameters as select * from pg_settings;
create function on_write() returns trigger language plpgsql as $$ begin perform set_config('DateStyle', 'SQL, DMY', false); return new; end $$;
create trigger t1 before insert on triggered for each row execute function on_write();
create function rebinds(name text) returns void language plpgsql as
  $$ declare c refcursor := name; begin close c; open c for execute 'select born from ot' || 'her order by id'; end $$;
create function swaps() returns void language plpgsql security definer as
  $$ begin execute 'alter table public.t rename to t_was; alter table public.ot' || 'her rename to t'; end $$;
create procedure procedure_rebinds(name text) language plpgsql as
  $$ declare c refcursor := name; begin close c; open c for execute 'select born from ot' || 'her order by id'; end $$;
create table guarded (id int, day date);
create table "Guarded too" (id int, "o'clock" text);
create table partly (id int, day date);
alter table guarded enable row level security;
alter table "Guarded too" enable row level security;
alter table partly enable row level security;
create policy own on guarded using (id > 0);
grant usage on schema elsewhere to {CLEAR}, {MASKED};
grant select, insert, update, delete on all tables in schema public, elsewhere to {CLEAR}, {MASKED};
revoke all on guarded, "Guarded too", partly from {CLEAR}, {MASKED};
grant select (id) on partly to {CLEAR}, {MASKED};
"""
ROWS = """
insert into t values (1, '1984-05-06', '2024-03-04 05:06:07+00', '\\x00ff61', 0.1, 'Anna', '2001-02-03'),
  (2, '1990-11-30', '2024-08-09 10:11:12.5+00', '\\x5c', 1e-7, 'Bruno', '2001-12-03'), (3, null, null, null, null, null, null);
insert into other values (1, '1971-01-02'), (2, '1972-03-04');
insert into plain values (1, '2001-02-03');
"""
AS_MASKED = """
update t set born = date_trunc('year', born), seen = null, body = null, ratio = null, name = left(name, 1) || repeat('*', length(name) - 1);
update other set born = date_trunc('year', born);
"""


class Client:
    """A client that says exactly what a test does, and keeps what it was answered."""

    def __init__(self, port: int, login: str, database: str, **parameters: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        pairs = {"user": login, "database": database, **parameters}
        startup = m.Startup(m.PROTOCOL_3_0, tuple((k.encode(), v.encode()) for k, v in pairs.items()))
        self._socket.sendall(startup.build())
        self._buffer = b""
        self.heard: list[tuple[Any, ...]] = []
        self.until_ready()
        self.heard.clear()

    def say(self, *data: bytes) -> Self:
        """Send, all at once."""
        self._socket.sendall(b"".join(data))
        return self

    def until_ready(self, times: int = 1) -> list[tuple[Any, ...]]:
        """The answers up to the last of so many ReadyForQuery."""
        heard: list[tuple[Any, ...]] = []
        while times:
            kind, body = self._read()
            if kind == "Z":
                times -= 1
            if kind not in "SKN1":
                heard.append(_comparable(kind, body))
        return heard

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """A simple Query."""
        return self.say(m.build_query(text.encode())).until_ready()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self) -> tuple[str, bytes]:
        while len(self._buffer) < 5 or len(self._buffer) < 1 + int.from_bytes(self._buffer[1:5], "big"):
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError
            self._buffer += data
        size = 1 + int.from_bytes(self._buffer[1:5], "big")
        kind, body = chr(self._buffer[0]), self._buffer[5:size]
        self._buffer = self._buffer[size:]
        return kind, body


def _comparable(kind: str, body: bytes) -> tuple[Any, ...]:
    """A message without what the twins can't have in common: OIDs of relations."""
    if kind == "T":
        return ("T", tuple((f.name, f.type, f.format) for f in m.parse_row_description(body)))
    if kind == "E":
        fields = m.parse_error(body)
        return ("E", fields.sqlstate, (fields.get("M") or b"").decode())
    if kind == "D":
        return ("D", m.parse_data_row(body))
    return (kind, body)


@dataclass
class Twins:
    """The databases. `plain`: by login, what it would see if it held just that."""

    server: Postgres
    sealed: str
    plain: dict[str, str]
    gate: Gate
    codec: ValueCodec
    calculator: OnServer
    proxies: dict[str, Proxy] = field(default_factory=dict)
    benches: dict[str, CopyBench] = field(default_factory=dict)

    def through(self, login: str = CLEAR, **parameters: str) -> Client:
        """A client of pgveil's."""
        if login not in self.proxies:
            bench = self.benches[login] = CopyBench(self.gate, login)
            bench.codec = self.codec
            bench.calculator = self.calculator
            self.proxies[login] = Proxy(self.server, bench)
        return Client(self.proxies[login].port, login, self.sealed, **parameters)

    def direct(self, login: str = CLEAR, **parameters: str) -> Client:
        """A client of the server's, before plain values."""
        return Client(self.server.port, login, self.plain[login], **parameters)

    def both(self, login: str = CLEAR, **parameters: str) -> Both:
        """One of each."""
        return Both(self.direct(login, **parameters), self.through(login, **parameters))


@dataclass
class Both:
    """Two clients that are told the same."""

    direct: Client
    through: Client

    def say(self, *data: bytes, times: int = 1) -> list[tuple[Any, ...]]:
        """What both were answered; it is the same."""
        wanted = self.direct.say(*data).until_ready(times)
        found = self.through.say(*data).until_ready(times)
        assert found == wanted
        return found

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """A simple Query of both."""
        return self.say(m.build_query(text.encode()))

    def close(self) -> None:
        """Hang up."""
        self.direct.close()
        self.through.close()


def run(text: str, *values: str | None, portal: bytes = b"", limit: int = 0) -> bytes:
    """Parse, Bind, Describe and Execute of a text, its values and results in text form."""
    return (
        m.build_parse(b"", text.encode())
        + m.build_bind(portal, b"", (), tuple(None if v is None else v.encode() for v in values), ())
        + m.build_describe(b"P", portal)
        + m.build_execute(portal, limit)
    )


def rows(heard: list[tuple[Any, ...]]) -> list[tuple[bytes | None, ...]]:
    """The rows among answers."""
    return [message[1] for message in heard if message[0] == "D"]


def errors(heard: list[tuple[Any, ...]]) -> list[str]:
    """The SQLSTATEs among answers."""
    return [message[1] for message in heard if message[0] == "E"]


def make(server: Postgres, home: Path) -> Twins:
    """Three databases: sealed, plain, and one with masks in place of the values."""
    for login in (CLEAR, MASKED):
        server.psql(
            f"do $$ begin if not exists (select from pg_roles where rolname = '{login}') then create role {login} login; end if; end $$"
        )
    names = [server.create_database() for _ in range(3)]
    for name in names:
        server.psql(SCHEMA + ROWS + (AS_MASKED if name == names[2] else ""), name)
    rules = load_rules_text(RULES, "rules.yaml")
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    dsn = server.dsn(names[0])
    asyncio.run(apply_rules(dsn, rules, ring))
    codec = ValueCodec(ring, random=os.urandom)
    with psycopg.connect(dsn) as connection:
        words = connection.execute(VOCABULARY_QUERY.encode()).fetchone()
    assert words is not None
    gate = Gate(rules, asyncio.run(read_catalog(dsn)), codec, computes=True, vocabulary=vocabulary(*words))
    plain = {CLEAR: names[1], MASKED: names[2]}
    return Twins(server, names[0], plain, gate, codec, OnServer(server.dsn("postgres")))


@pytest.fixture(scope="package")
def twins(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """On PostgreSQL 16."""
    made = make(pg, tmp_path_factory.mktemp("settings"))
    yield made
    for proxy in made.proxies.values():
        proxy.stop()
    made.calculator.close()


@pytest.fixture(params=[CLEAR, MASKED])
def both(twins: Twins, request: pytest.FixtureRequest) -> Iterator[Both]:
    """Clients of each login."""
    made = twins.both(request.param)
    yield made
    made.close()


@pytest.fixture
def clear(twins: Twins) -> Iterator[Both]:
    """Clients of the login that sees everything."""
    made = twins.both()
    yield made
    made.close()
