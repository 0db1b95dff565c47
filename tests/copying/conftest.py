"""Two tables alike, one plain and one sealed, and sessions under the real gate before the sealed one: COPY must not tell them apart."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from proxy.decisions import Gate
from proxy.session.values import ValueCodec
from rules.load import load_rules_text
from tests.rules.twins import read_catalog
from tests.session.conftest import Bench, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from rules.model import Rules

RULES = """
version: 1
tables:
  public.sealed:
    columns:
      name: {level: important, protection: masked, mask: name}
      card: {level: core, protection: sealed, mode: deterministic, type: varchar(19), mask: bank_card}
      note: {level: core, protection: sealed, mode: randomized, type: text, mask: {kind: keep_first, n: 1}}
      born: {level: core, protection: sealed, mode: deterministic, type: date, mask: "null"}
      amount: {level: core, protection: sealed, mode: deterministic, type: "numeric(12,2)", mask: {kind: range, width: 1000}}
      seen: {level: core, protection: sealed, mode: deterministic, type: timestamptz, mask: "null"}
      tags: {level: core, protection: sealed, mode: deterministic, type: "text[]", mask: "null"}
      body: {level: core, protection: sealed, mode: deterministic, type: bytea, mask: "null"}
  public.lone:
    columns:
      word: {level: core, protection: sealed, mode: deterministic, type: text, mask: "null"}
roles:
  teller: {logins: [copy_teller], levels: {core: clear, important: clear}}
  agent: {logins: [copy_agent], levels: {core: masked, important: masked}}
  analyst: {logins: [copy_analyst], levels: {core: refused, important: masked}}
"""
LOGINS = ("copy_teller", "copy_agent", "copy_analyst")
COLUMNS = (
    "id int, name text, card varchar(19) default 'none', note text, born date, amount numeric(12,2), seen timestamptz,"
    " tags text[], body bytea, plain text default 'd', twice int generated always as (id * 2) stored"
)
SCHEMA = f"""
create table plain ({COLUMNS});
create table sealed ({COLUMNS});
create table lone_plain (word text);
create table lone (word text);
grant all on all tables in schema public to {", ".join(LOGINS)};
"""
NAMES = ("id", "name", "card", "note", "born", "amount", "seen", "tags", "body", "plain")


@dataclass
class CopyBench(Bench):
    """A bench whose judge is the Gate, for one login."""

    gate: Gate
    login: str
    _: Any = field(default=None)

    def __post_init__(self) -> None:
        Bench.__init__(self)

    def session(self, login: str = "", *, fast: bool = True) -> Any:
        """A session of the bench's login."""
        self.judge = self.gate  # type: ignore[assignment]
        return super().session(self.login, fast=fast)


@dataclass
class Copied:
    """The database: `direct` to the server, `dsn(login)` through a session."""

    database: str
    direct: str
    rules: Rules
    gate: Gate
    codec: ValueCodec
    server: Postgres
    proxies: dict[str, Proxy] = field(default_factory=dict)
    benches: dict[str, CopyBench] = field(default_factory=dict)

    def dsn(self, login: str) -> str:
        """A connection URL through a session."""
        if login not in self.proxies:
            bench = CopyBench(self.gate, login)
            bench.codec = self.codec
            self.benches[login] = bench
            self.proxies[login] = Proxy(self.server, bench)
        return f"postgresql://{login}@127.0.0.1:{self.proxies[login].port}/{self.database}?sslmode=disable"

    def connect(self, login: str = "copy_teller", **options: Any) -> psycopg.Connection[Any]:
        """Through a session."""
        return psycopg.connect(self.dsn(login), **{"autocommit": True, "connect_timeout": 10, **options})

    def plainly(self) -> psycopg.Connection[Any]:
        """Straight to the server."""
        return psycopg.connect(self.direct, autocommit=True)

    def bench(self, login: str = "copy_teller") -> CopyBench:
        """What a login's sessions report to."""
        self.dsn(login)
        return self.benches[login]


def make(server: Postgres, home: Path) -> Copied:
    """The database, sealed and fenced by `pgveil apply`."""
    for login in LOGINS:
        server.psql(
            f"do $$ begin if not exists (select from pg_roles where rolname = '{login}') then create role {login} login; end if; end $$"
        )
    database = server.create_database()
    direct = server.dsn(database)
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute(SCHEMA)
    rules = load_rules_text(RULES, "rules.yaml")
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    asyncio.run(apply_rules(direct, rules, ring))
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("create view sealed_view as select id, card from sealed")
    codec = ValueCodec(ring, random=os.urandom)
    gate = Gate(rules, asyncio.run(read_catalog(direct)), codec)
    return Copied(database, direct, rules, gate, codec, server)


async def apply_rules(dsn: str, rules: Rules, ring: KeyRing) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        plan = await make_plan(connection, rules, ring)
        await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def every(any_pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    """On each version."""
    copied = make(any_pg, tmp_path_factory.mktemp("copy"))
    yield copied
    for proxy in copied.proxies.values():
        proxy.stop()


@pytest.fixture(scope="module")
def copied(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    """On one version."""
    copied = make(pg, tmp_path_factory.mktemp("copy"))
    yield copied
    for proxy in copied.proxies.values():
        proxy.stop()


def copy_in(connection: psycopg.Connection[Any], text: str, data: bytes, size: int = 1 << 20) -> str:
    """COPY FROM with these bytes in pieces of `size`; the tag."""
    with connection.cursor() as cursor:
        with cursor.copy(text) as copy:
            for start in range(0, len(data), size):
                copy.write(data[start : start + size])
        return cursor.statusmessage or ""


def copy_out(connection: psycopg.Connection[Any], text: str) -> list[bytes]:
    """COPY TO: the data of each message."""
    with connection.cursor() as cursor, cursor.copy(text) as copy:
        return [bytes(data) for data in copy]
