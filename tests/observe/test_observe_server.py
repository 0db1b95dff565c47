"""`mode: observe` before a real server: everything runs as it came, what would have been done is kept, and no value with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from typer.testing import CliRunner

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from lifecycle.demo.postgres import free_port
from proxy.cli import make_app
from rules.load import load_rules
from tests.e2e.world import records_in, start_pgveil, wait_ready, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

CANARIES = ("canary13900001111", "canary13900002222")
INTERVAL = 0.3  # seconds between two writings of the observations
PATIENCE = 20.0
RULES = """\
version: 1
tables:
  public.clients:
    columns:
      phone: {level: important, mask: phone}
      card: {level: core, type: varchar(19), mode: deterministic, mask: bank_card}
roles:
  teller: {logins: [ob_teller], levels: {core: clear, important: clear}}
  agent: {logins: [ob_agent], levels: {core: masked, important: masked}}
"""
SCHEMA = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ob_teller') THEN
        CREATE ROLE ob_teller LOGIN; CREATE ROLE ob_agent LOGIN;
    END IF;
END $$;
CREATE TABLE clients (id bigint PRIMARY KEY, phone text, card varchar(19), city text);
INSERT INTO clients VALUES (1, '{CANARIES[0]}', '{CANARIES[1]}', 'Ghent');
GRANT ALL ON clients TO ob_teller, ob_agent;
"""


@dataclass
class Observed:
    """A database to which nothing was applied, and pgveil in observe mode before it."""

    pg: Postgres
    name: str
    home: Path
    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]

    def dsn(self, login: str, *, direct: bool = False) -> str:
        port = self.pg.port if direct else self.port
        return f"postgresql://{login}@127.0.0.1:{port}/{self.name}?sslmode=disable"

    def connect(self, login: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(login), autocommit=True)

    def report(self) -> dict[str, Any]:
        result = CliRunner().invoke(
            make_app(), ["observe", "report", "--directory", str(self.home / "observed"), "--json"]
        )
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def count(self, shape: str, login: str) -> int | None:
        if not (self.home / "observed").exists():
            return None
        return next((f["count"] for f in self.report()["findings"] if (f["shape"], f["login"]) == (shape, login)), None)

    def metrics(self) -> str:
        return str(urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).read(), "utf-8")

    def worker(self) -> int:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(found.stdout.split()[0])

    def apply(self) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.pg.dsn(self.name))
            try:
                rules = load_rules(self.home / "rules.yaml")
                ring = KeyRing.open(self.home / "keys", FileMasterKey.load(self.home / "keys" / "master.key"))
                plan = await make_plan(connection, rules, ring)
                await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
            finally:
                await connection.close()

        asyncio.run(run())


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.05)
    raise AssertionError(what)


@pytest.fixture
def observed(pg: Postgres, tmp_path: Path) -> Iterator[Observed]:
    name = pg.create_database()
    pg.psql(SCHEMA, name)
    (tmp_path / "rules.yaml").write_text(RULES)
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    port, metrics_port = free_port(), free_port()
    config = write_config(tmp_path, pg, name, port, metrics_port)
    config.write_text(
        config.read_text() + f"mode: observe\nobserve: {{seconds: {INTERVAL}}}\ncalculator: {{enabled: false}}\n"
    )
    log = tmp_path / "pgveil.log"
    process = start_pgveil(config, log)
    wait_ready(metrics_port, process, log)
    yield Observed(pg, name, tmp_path, port, metrics_port, process)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _described(cursor: psycopg.Cursor[Any]) -> list[tuple[str, int]]:
    return [(c.name, c.type_code) for c in cursor.description or ()]


def test_everything_runs_as_it_came(observed: Observed) -> None:
    with observed.connect("ob_agent") as agent, psycopg.connect(observed.dsn("ob_agent", direct=True)) as direct:
        for sql in (
            "select * from clients",
            "select card from clients order by card",
            "select phone || card as both from clients where card like 'canary%'",
            f"select id from clients where card = '{CANARIES[1]}'",
            "explain (costs off) select card from clients order by card",
            "select 1; select card from clients order by 1",
        ):
            through, straight = agent.execute(sql), direct.execute(sql)
            assert through.fetchall() == straight.fetchall(), sql
            assert _described(through) == _described(straight), sql
        with agent.cursor() as cursor:
            for _ in range(3):
                cursor.execute("select card from clients where card > %s", ("a",), prepare=True)
                assert cursor.fetchall() == [(CANARIES[1],)]
        with agent.cursor() as cursor, cursor.copy("copy clients to stdout") as copy:
            assert b"".join(bytes(part) for part in copy).startswith(b"1\t" + CANARIES[0].encode())
        agent.execute("update clients set card = upper(card) where id = 1")
        agent.execute("insert into clients (id, card) values (2, lower('X'))")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            agent.execute("select nowhere from clients order by card")
        with agent.transaction():
            agent.execute("prepare p as select card from clients order by card")
            assert agent.execute("execute p").fetchall() != []
        agent.execute("declare c cursor with hold for select card from clients")
        assert len(agent.execute("fetch all from c").fetchall()) == 2
    assert observed.pg.psql("select card from clients order by id", observed.name).split() == ["CANARY13900002222", "x"]


def test_what_would_have_been_done_is_kept(observed: Observed) -> None:
    with observed.connect("ob_agent") as agent, observed.connect("ob_teller") as teller:
        for number in range(5):
            agent.execute(f"select id from clients where card = '{CANARIES[1]}{number}'")
            teller.execute("select card from clients order by card")
            teller.execute("select card from clients where card = %s", (CANARIES[1],))
            teller.execute("select 1")
    until(lambda: observed.count("select card from clients order by card", "ob_teller") == 5, "it was never written")
    by = {(f["login"], f["shape"]): f for f in observed.report()["findings"]}
    sorting = by["ob_teller", "select card from clients order by card"]
    assert (sorting["outcome"], sorting["reason"], sorting["sqlstate"]) == ("refused", "ordering", "0AP01")
    assert sorting["first"] <= sorting["last"]
    assert sorting["hint"]
    looking = by["ob_agent", "select id from clients where card = 's'"]
    assert (looking["count"], looking["reason"]) == (5, "lookup")
    opening = by["ob_teller", "select card from clients where card = $1"]
    assert (opening["count"], opening["outcome"]) == (5, "changed")
    assert opening["effects"] == ["opens public.clients.card", "seals parameters for public.clients.card"]
    metrics = observed.metrics()
    assert 'pgveil_observed_total{reason="ordering"} 5.0' in metrics
    assert 'pgveil_observed_total{reason="changed"} 5.0' in metrics
    events = list(records_in(observed.home / "audit"))
    assert [(e["database"], e["protected"]) for e in events if e["kind"] == "observing"] == [(observed.name, False)]
    refusals = [e for e in events if e["kind"] == "refusal"]
    assert len(refusals) == 10
    assert all(e["observed"] for e in refusals)
    assert not [e for e in events if e["kind"] == "statement"]
    log = (observed.home / "pgveil.log").read_text()
    assert "observe.nothing_is_protected" in log
    assert "observe.database_is_not_protected" in log
    for path in (
        *(observed.home / "observed").iterdir(),
        observed.home / "pgveil.log",
        *(observed.home / "audit").rglob("*.jsonl"),
    ):
        assert "canary" not in path.read_text(), path


def test_kill_nine_loses_at_most_the_last_interval(observed: Observed) -> None:
    shape = "select card from clients order by card"
    with observed.connect("ob_teller") as teller:
        for _ in range(4):
            teller.execute(shape)
        until(lambda: observed.count(shape, "ob_teller") == 4, "it was never written")
        os.kill(observed.worker(), signal.SIGKILL)
    wait_ready(observed.metrics_port, observed.process, observed.home / "pgveil.log")
    until(lambda: "pgveil_worker_restarts_total 1.0" in observed.metrics(), "it was not started again")

    def again() -> bool:
        try:
            with observed.connect("ob_teller") as teller:
                teller.execute(shape)
        except psycopg.OperationalError:
            return False
        return True

    until(again, "the new worker takes nobody")
    # What is not yet written is written at the end.
    observed.process.send_signal(signal.SIGTERM)
    observed.process.wait(30)
    assert observed.count(shape, "ob_teller") == 5


def test_as_soon_as_something_is_applied_the_rules_hold(observed: Observed) -> None:
    with observed.connect("ob_agent") as agent, observed.connect("ob_teller") as teller:
        with agent.cursor() as cursor:
            cursor.execute("select phone from clients", prepare=True)
            assert cursor.fetchall() == [(CANARIES[0],)]
        observed.apply()

        def protected() -> bool:
            return any(e["kind"] == "observing" and e["protected"] for e in records_in(observed.home / "audit"))

        until(protected, "the apply was not noticed")
        # What was prepared before is made again by pgveil, and no client notices (ADR 0029): it shows the mask.
        with agent.cursor() as cursor:
            cursor.execute("select phone from clients", prepare=True)
            assert cursor.fetchall() == [("******139****1111",)]
        (phone,) = agent.execute("select phone from clients", prepare=False).fetchall()[0]
        assert phone != CANARIES[0]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute(f"select id from clients where card = '{CANARIES[1]}'")
        assert teller.execute("select card from clients").fetchall() == [(CANARIES[1],)]
        with pytest.raises(psycopg.NotSupportedError):
            teller.execute("select card from clients order by card")
    assert CANARIES[1] not in observed.pg.psql("select card from clients", observed.name)
    statements = [e for e in records_in(observed.home / "audit") if e["kind"] == "statement"]
    assert statements, "what is opened is recorded"
