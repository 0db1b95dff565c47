"""A small bank behind pgveil, under two sets of rules."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from lifecycle.demo.postgres import free_port
from rules.load import load_rules
from tests.e2e.world import start_pgveil, wait_ready, write_config

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

RULES = """\
version: 1
tables:
  public.customers:
    subject: id
    columns:
      name: {level: important, mask: name}
      phone: {level: important, mask: phone}
      tags: {level: important, mask: "null"}
      id_number: {level: core, mode: deterministic, type: varchar(19), mask: id_number}
  public.cards:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
      cvv: {level: core, mode: randomized, type: "char(3)"}
  public.payments:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
  public.tokens:
    columns:
      token: {level: core, mode: deterministic, type: varchar(19), mask: bank_card}
  public.visits:
    columns:
      guest: {level: important, mask: name}
  'public."客户"':
    columns:
      name: {level: important, mask: name}
  public.called:
    columns:
      phone: {level: general}
  public.many:
    columns:
      secret: {level: core, mode: deterministic, type: varchar(19), mask: bank_card}
roles:
  teller: {logins: [hn_teller], levels: {core: clear, important: clear}}
  agent: {logins: [hn_agent], levels: {core: masked, important: masked}}
"""
# For the bank that has a calculator: two more roles, which may look card numbers up.
LOOKING_UP = """\
  seeker:
    logins: [hn_seeker]
    levels: {core: masked, important: masked}
    columns: {public.cards.pan: {lookup: equality}}
  writer:
    logins: [hn_writer]
    levels: {core: masked, important: masked}
    columns: {public.cards.pan: {write: values}}
  hurried:
    logins: [hn_hurried]
    levels: {core: masked, important: masked}
    columns: {public.cards.pan: {lookup: equality}}
    lookups: {per_minute: 2}
"""
# No more than the table `many` has: so a limit is reached by a few rows.
CALCULATOR = "calculator: {enabled: on, rows: 20}\n"
LATE = """\
  public.late:
    columns:
      secret: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: "null"}
      name: {level: important, mask: name}
"""
OTHER_RULES = RULES.replace("mode: randomized", "mode: deterministic").replace(
    "type: varchar(19), mask: id_number", "type: varchar(19), domain: pan, mask: id_number"
)
ROLES = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hn_teller') THEN
        CREATE ROLE hn_teller LOGIN; CREATE ROLE hn_agent LOGIN; CREATE ROLE hn_owner LOGIN;
        CREATE ROLE hn_seeker LOGIN; CREATE ROLE hn_hurried LOGIN; CREATE ROLE hn_writer LOGIN;
    END IF;
END $$;
"""
BANK = """
CREATE TABLE customers (id int PRIMARY KEY, name text, phone text, id_number varchar(19), notes text, tags text[]);
CREATE TABLE cards (id int PRIMARY KEY, pan varchar(19), cvv char(3), kind text);
CREATE TABLE payments (id int PRIMARY KEY, pan varchar(19), amount int);
CREATE TABLE orders (id int, item text);
CREATE TABLE visits (id int, guest text, day date) PARTITION BY RANGE (day);
CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE "客户" (id int, name text);
INSERT INTO customers VALUES (1, 'Ann Lee', '13812345678', 'ID1', NULL, '{a,b}'), (2, 'Bob Ray', '13987654321', '5500000000000004', NULL, NULL);
INSERT INTO cards VALUES (1, '4111111111111111', '123', 'gold'), (2, '5500000000000004', '456', 'blue');
INSERT INTO payments VALUES (1, '4111111111111111', 10);
INSERT INTO visits VALUES (1, 'Ann Lee', '2026-02-01');
INSERT INTO "客户" VALUES (1, 'Ann Lee');
CREATE VIEW v_phones AS SELECT id, phone FROM customers;
CREATE VIEW v_sorted AS SELECT phone, COLLATION FOR (name) AS sorted FROM customers ORDER BY phone LIMIT 1;
CREATE FUNCTION find_phone(int) RETURNS text LANGUAGE sql AS 'select phone from customers where id = $1';
CREATE TABLE tokens (id int, token varchar(19) UNIQUE);
CREATE TABLE calls (id int);
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE moods (id int, mood mood, since timestamptz);
INSERT INTO moods VALUES (1, 'good', '2026-02-03 12:00:00+00');
CREATE TABLE many (id int, secret varchar(19));
INSERT INTO many SELECT i, 'x' || i FROM generate_series(1, 30) i;
CREATE TABLE called (phone text);
CREATE RULE remember AS ON INSERT TO calls DO ALSO INSERT INTO called SELECT phone FROM customers WHERE id = new.id;
ALTER TABLE customers OWNER TO hn_owner;
ALTER TABLE cards OWNER TO hn_teller;
ALTER TABLE tokens OWNER TO hn_teller;
GRANT ALL ON ALL TABLES IN SCHEMA public TO hn_teller, hn_agent, hn_seeker, hn_hurried, hn_writer;
GRANT CREATE ON SCHEMA public TO hn_teller, hn_agent;
"""


@dataclass
class Bank:
    """One database behind one pgveil."""

    pg: Postgres
    name: str
    home: Path
    port: int
    process: subprocess.Popen[bytes]
    ran: set[str] = field(default_factory=set)  # cases that were tried

    def connect(self, login: str, application: str = "") -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"postgresql://{login}@127.0.0.1:{self.port}/{self.name}?sslmode=disable",
            autocommit=True,
            application_name=application,
            options="-c lock_timeout=5s",
        )

    def reload(self, rules: str) -> None:
        """Other rules for the running pgveil."""
        (self.home / "rules.yaml").write_text(rules)
        self.process.send_signal(signal.SIGHUP)

    def apply(self) -> None:
        asyncio.run(_apply(self.pg.dsn(self.name), self.home))


async def _apply(dsn: str, home: Path) -> None:
    rules = load_rules(home / "rules.yaml")
    ring = KeyRing.open(home / "keys", FileMasterKey.load(home / "keys" / "master.key"))
    connection = await asyncpg.connect(dsn)
    try:
        plan = await make_plan(connection, rules, ring)
        await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
    finally:
        await connection.close()


def _bank(pg: Postgres, home: Path, rules: str, calculator: str = "calculator: {enabled: false}\n") -> Bank:
    name = pg.create_database()
    pg.psql(ROLES + BANK, name)
    (home / "rules.yaml").write_text(rules)
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    asyncio.run(_apply(pg.dsn(name), home))
    port, metrics_port = free_port(), free_port()
    config = write_config(home, pg, name, port, metrics_port)
    config.write_text(config.read_text() + calculator)
    process = start_pgveil(config, home / "pgveil.log")
    wait_ready(metrics_port, process, home / "pgveil.log")
    return Bank(pg, name, home, port, process)


def _stop(bank: Bank) -> None:
    bank.process.send_signal(signal.SIGTERM)
    bank.process.wait(30)


@pytest.fixture(scope="session")
def bank(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """The bank under RULES."""
    made = _bank(pg, tmp_path_factory.mktemp("hints"), RULES)
    yield made
    _stop(made)


@pytest.fixture(scope="session")
def other_bank(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """The bank under OTHER_RULES."""
    made = _bank(pg, tmp_path_factory.mktemp("other"), OTHER_RULES)
    yield made
    _stop(made)


@pytest.fixture(scope="session")
def computing_bank(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """The bank under RULES with look-ups, behind a pgveil that computes."""
    made = _bank(pg, tmp_path_factory.mktemp("computing"), RULES + LOOKING_UP, CALCULATOR)
    yield made
    _stop(made)
