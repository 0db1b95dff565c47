"""Rules that change under load, on two pgveils that reload one after the other: no client is told anything (ADR 0029).

Pools of psycopg and asyncpg with prepared statements, cursors and pipelines, by a login that sees everything and one that sees masks. Every value that
comes is one that some rules of the moment give.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import psycopg_pool
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from proxy.control import ask
from proxy.reports import Outcome
from rules.load import load_rules_text
from tests.drivers import program_go, program_java, program_node
from tests.faults.ground import Ground, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifecycle.apply import ApplyPlan
    from lifecycle.demo.postgres import Postgres

LOGINS = (
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{0}') THEN CREATE ROLE {0} LOGIN; END IF; END $$;"
)
SCHEMA = """
CREATE TABLE people (id int8 PRIMARY KEY, name varchar(80) NOT NULL, phone varchar(20), city text, seen int8 NOT NULL DEFAULT 0);
CREATE TABLE cards (id int8 PRIMARY KEY, person int8, pan varchar(19) UNIQUE);
CREATE TABLE orders (id int8 PRIMARY KEY, person int8, item text, note text);
CREATE FUNCTION ro_double(n int8) RETURNS int8 LANGUAGE sql AS 'SELECT $1 * 2';
INSERT INTO people SELECT i, 'Anna Kowal', '1380000123' || i % 10, 'Delft' FROM generate_series(1, 50) i;
INSERT INTO cards SELECT i, i, 6222021234567890000 + i FROM generate_series(1, 50) i;
INSERT INTO orders SELECT i, i, 'tea', 'note ' || i FROM generate_series(1, 50) i;
GRANT SELECT, INSERT, UPDATE, DELETE ON people, cards, orders TO ro_clear, ro_masked;
"""
RULES = """version: 1
tables:
  public.people:
    columns:
      phone: {level: important, mask: phone}
      name: {level: general, protection: masked, mask: name}
  public.cards:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
roles:
  clear: {logins: [ro_clear], levels: {core: clear, important: clear, general: clear}}
  masked: {logins: [ro_masked], levels: {core: masked, important: masked, general: clear}}
"""
ELSEWHERE = RULES.replace(
    "  public.cards:",
    "  public.orders:\n    columns:\n      item: {level: important, mask: {kind: keep_first, n: 1}}\n  public.cards:",
)
OTHER_MASK = ELSEWHERE.replace("mask: phone", "mask: {kind: keep_last, n: 2}")
TIGHTER = OTHER_MASK.replace("general: clear}}\n", "general: masked}}\n").replace(
    "[ro_clear], levels: {core: clear, important: clear, general: masked",
    "[ro_clear], levels: {core: clear, important: clear, general: clear",
)
SEALING = RULES.replace(
    "  public.cards:",
    '  public.orders:\n    columns:\n      note: {level: core, mode: randomized, type: text, mask: "null"}\n  public.cards:',
)
# A masked column elsewhere and another mask; tighter; looser, and a column sealed.
SOME = (OTHER_MASK, TIGHTER, SEALING)
CHANGES = (ELSEWHERE, OTHER_MASK, TIGHTER, RULES, SEALING)

PHONES = {"138****123", "*********3", "1380000123"}


@dataclass
class Load:
    """What clients do until they are told to stop, and what they were told."""

    dsn: Callable[[str], str]
    stopping: threading.Event = field(default_factory=threading.Event)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def check(self, who: str, what: str, *, right: bool) -> None:
        self.done[who] += 1
        if not right:
            self.wrong[f"{who}: {what}"] += 1

    def by_psycopg(self, login: str) -> None:
        """A pool of psycopg's, in a thread."""
        with psycopg_pool.ConnectionPool(
            self.dsn(login), min_size=2, max_size=2, kwargs={"prepare_threshold": 0, "autocommit": True}
        ) as pool:
            while not self.stopping.is_set():
                try:
                    with pool.connection() as connection:
                        self._psycopg(connection, login)
                except psycopg.Error as error:
                    self.errors[f"psycopg {login}: {error.sqlstate} {error}"] += 1

    def _psycopg(self, connection: psycopg.Connection[Any], login: str) -> None:
        run = connection.execute
        row = run("select id, name, phone from people where id = %s", (3,)).fetchone()
        self._person(login, row)
        assert run("select item from orders where id = %s", (3,)).fetchone() is not None
        assert run("select count(*), ro_double(sum(id)::int8) from people where city = %s", ("Delft",)).fetchone() == (
            50,
            2550,
        )
        run("update people set seen = seen + 1 where id = %s", (4,))
        row = run("select pan from cards where person = %s", (3,)).fetchone()
        self._pan(login, row)
        with connection.pipeline():
            several = [run("select phone from people where id = %s", (n,)) for n in (3, 4, 3)]
        assert [c.fetchone() is not None for c in several] == [True] * 3
        self._by_name(connection)
        for query in (
            "select id, phone from people order by id limit 12",
            "select id, item from orders order by id limit 12",
        ):
            with connection.transaction(), connection.cursor(name="c") as cursor:
                cursor.itersize = 5
                cursor.execute(query)
                assert [r[0] for r in cursor] == list(range(1, 13))

    @staticmethod
    def _by_name(connection: psycopg.Connection[Any]) -> None:
        """A statement that SQL has prepared, once a connection, executed by a simple Query and by the protocol."""
        pg = connection.pgconn
        if pg.exec_(b"select from pg_prepared_statements where name = 'ro_named'").ntuples == 0:
            connection.execute("prepare ro_named (int8) as select id, phone from people where id = $1")
        simple = pg.exec_(b"execute ro_named (3)")
        if simple.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise psycopg.DatabaseError(simple.get_error_message())
        assert simple.get_value(0, 0) == b"3"
        assert connection.execute("execute ro_named (4)").fetchone()[0] == 4  # type: ignore[index]

    def _person(self, login: str, row: Any) -> None:
        if login == "ro_clear":
            self.check(login, str(row), right=row == (3, "Anna Kowal", "13800001233"))
        else:
            fine = row is not None and row[1] in ("Anna Kowal", "A*** K****") and row[2] != "13800001233"
            self.check(login, str(row), right=fine)

    def _pan(self, login: str, row: Any) -> None:
        clear = row == ("6222021234567890003",)
        self.check(login, str(row), right=clear if login == "ro_clear" else row is not None and "*" in row[0])

    async def by_asyncpg(self, login: str) -> None:
        """A pool of asyncpg's."""
        async with asyncpg.create_pool(self.dsn(login).partition("&")[0], min_size=2, max_size=2) as pool:
            await asyncio.gather(*(self._asyncpg(pool, login) for _ in range(2)))

    async def _asyncpg(self, pool: Any, login: str) -> None:
        while not self.stopping.is_set():
            try:
                async with pool.acquire() as connection:
                    self._person(
                        login, tuple(await connection.fetchrow("select id, name, phone from people where id = $1", 3))
                    )
                    assert await connection.fetchval("select item from orders where id = $1", 3)
                    self._pan(login, tuple(await connection.fetchrow("select pan from cards where person = $1", 3)))
                    assert await connection.fetchval("select ro_double($1)", 21) == 42
                    async with connection.transaction():
                        found = [
                            r["id"]
                            async for r in connection.cursor(
                                "select id, item from orders order by id limit 9", prefetch=4
                            )
                        ]
                    assert found == list(range(1, 10))
                    await connection.execute("update people set seen = seen + 1 where id = $1", 5)
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self.errors[f"asyncpg {login}: {getattr(error, 'sqlstate', '')} {error}"] += 1

    def all_of_asyncpg(self) -> None:
        """In a thread with a loop of its own."""

        async def both() -> None:
            await asyncio.gather(self.by_asyncpg("ro_clear"), self.by_asyncpg("ro_masked"))

        asyncio.run(both())

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts there is load."""
        work = [self.all_of_asyncpg, lambda: self.by_psycopg("ro_clear"), lambda: self.by_psycopg("ro_masked")]
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()

    def progress(self) -> None:
        """Until both logins have got something more."""
        before = self.done.copy()
        until(
            lambda: all(self.done[login] > before[login] + 3 for login in ("ro_clear", "ro_masked")), "the load goes on"
        )


async def applied(ground: Ground, text: str) -> ApplyPlan:
    """What `pgveil apply` does."""
    keys = ground.home / "keys"
    ring = KeyRing.open(keys, FileMasterKey.load(keys / "master.key"))
    rules = load_rules_text(text, "rules.yaml")
    connection = await asyncpg.connect(ground.pg.dsn(ground.database))
    try:
        plan = await make_plan(connection, rules, ring)
        assert plan.obstacles == ()
        await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
    finally:
        await connection.close()
    return plan


def make(pg: Postgres, home: Path, workers: int = 1) -> Ground:
    pg.psql("".join(LOGINS.format(login) for login in ("ro_clear", "ro_masked")))
    database = pg.create_database()
    pg.psql(SCHEMA, database)
    keys = home / "keys"
    keys.mkdir(mode=0o700, parents=True)
    KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    (home / "rules.yaml").write_text(RULES)
    ground = Ground(pg, home, database)
    asyncio.run(applied(ground, RULES))
    ground.configure(workers=workers)
    return ground


def take_up(ground: Ground, text: str, keys: Path) -> None:
    """The rules, and the keys that apply has made, on the machine of a pgveil, and `pgveil reload`."""
    (ground.home / "rules.yaml").write_text(text)
    if keys.parent != ground.home:
        (ground.home / "keys" / "ring.json").write_bytes((keys / "ring.json").read_bytes())
    assert ask(ground.home / "pgveil.sock", "reload").outcome is Outcome.APPLIED


def told(*grounds: Ground) -> list[str]:
    """Every error that a client was sent, by SQLSTATE class."""
    lines = [line for ground in grounds for line in ground.samples("pgveil_errors_total")]
    return [line for line in lines if not line.endswith(" 0.0")]


def test_two_pgveils_and_pools_of_prepared_statements(pg: Postgres, tmp_path: Path) -> None:
    first = make(pg, tmp_path / "first")
    second = first.beside(tmp_path / "second")
    second.configure(workers=1)
    with ExitStack() as stack:
        loads = []
        for ground in (first, second):
            stack.callback(ground.stop)
            ground.start()
            load = Load(ground.dsn)
            stack.enter_context(load.running())
            loads.append(load)
        for text in SOME:
            plan = asyncio.run(applied(first, text))
            assert plan.serving, "both serve the rules of before"
            for load in loads:
                load.progress()
            for ground in (first, second):
                take_up(ground, text, first.home / "keys")
                for load in loads:
                    load.progress()
            until(lambda: not asyncio.run(applied(first, text)).serving, "nobody serves the rules of before")  # noqa: B023
            for load in loads:
                load.progress()
        # Drivers that heal by themselves say nothing: pgveil is asked.
        errors = told(first, second)
    for load in loads:
        assert (load.errors, load.wrong) == (Counter(), Counter())
    assert errors == []


def test_a_sealed_column_s_own_prepared_statements(pg: Postgres, tmp_path: Path) -> None:
    """The server finds another type in them and would never run them again; the client was told the type that it still gets."""
    ground = make(pg, tmp_path)
    read = "select id, note from orders where id = %s"
    saved = "update orders set note = note where id = %s returning note"
    with ExitStack() as stack:
        stack.callback(ground.stop)
        ground.start()
        people = [
            stack.enter_context(psycopg.connect(ground.dsn(login), autocommit=True))
            for login in ("ro_clear", "ro_masked")
        ]
        for person in people:
            assert person.execute(read, (3,), prepare=True).fetchone() == (3, "note 3")
        assert people[0].execute(saved, (3,), prepare=True).fetchone() == ("note 3",)
        asyncio.run(applied(ground, SEALING))
        take_up(ground, SEALING, ground.home / "keys")
        for _ in range(2):
            shown = [person.execute(read, (3,), prepare=True).fetchone() for person in people]
            assert shown == [(3, "note 3"), (3, None)]
            assert people[0].execute(saved, (3,), prepare=True).fetchone() == ("note 3",)
        assert told(ground) == []


@contextmanager
def others(dsn: Callable[[str], str], outcomes: list[dict[str, Any]]) -> Iterator[None]:
    """Pools of node-postgres, pgx and pgjdbc with HikariCP, of both logins; what each says at its end."""
    node, go, java = program_node.prepare("load.mjs"), [program_go.prepare()[0], "load"], program_java.prepare("Load")
    running = []
    for login in ("ro_clear", "ro_masked"):
        url = dsn(login).partition("&")[0]
        jdbc = "jdbc:postgresql://" + url.rpartition("@")[2] + f"&user={login}"
        environment = {**os.environ, "LOAD_DSN": url, "LOAD_JDBC": jdbc}
        for command in (node, go, java):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            running.append((f"{Path(command[0]).name} {login}", process))
    try:
        yield
    finally:
        for name, process in running:
            said, _ = process.communicate(timeout=120)
            outcomes.append({"who": name, **json.loads(said.splitlines()[-1])})


@pytest.mark.soak
@pytest.mark.parametrize("pgveils", [1, 2])
def test_every_driver_s_pool_for_minutes(pg: Postgres, tmp_path: Path, pgveils: int) -> None:
    """Two workers each, rules changed every few seconds, in all the ways, several times over."""
    first = make(pg, tmp_path / "first", workers=2)
    grounds = [first]
    if pgveils == 2:
        grounds.append(first.beside(tmp_path / "second"))
    outcomes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        loads = []
        for ground in grounds:
            stack.callback(ground.stop)
            ground.start()
            ground.settle()
            load = Load(ground.dsn)
            stack.enter_context(load.running())
            stack.enter_context(others(ground.dsn, outcomes))
            loads.append(load)
        for text in (*CHANGES[:-1] * 4, CHANGES[-1]):
            asyncio.run(applied(first, text))
            time.sleep(1)
            for ground in grounds:
                take_up(ground, text, first.home / "keys")
                time.sleep(2)
            until(lambda: not asyncio.run(applied(first, text)).serving, "nobody serves the rules of before")  # noqa: B023
            for load in loads:
                load.progress()
        errors = told(*grounds)
    assert [(load.errors, load.wrong) for load in loads] == [(Counter(), Counter())] * len(loads)
    assert [o for o in outcomes if o["errors"] or not o["done"]] == []
    assert errors == []
