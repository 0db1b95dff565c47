"""kill -9 of the whole of pgveil under load: every released row has its record, the log verifies, and no write is half sealed."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psycopg

from lifecycle.demo.bank import generate, rules_yaml
from lifecycle.demo.postgres import free_port
from tests.e2e.world import prepare, records_in, start_pgveil, stop_process, wait_ready, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.world import World

CLIENTS = 4
LIVES = 3
CUSTOMERS = 20
PATIENCE = 120  # seconds until the clients have got anywhere: a limit, not a judgement
TABLE = """\
  public.kill_log:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
"""


def _read_until_it_dies(dsn: str, name: str, released: list[str]) -> None:
    """Reads and notes each statement whose row arrived."""
    try:
        with psycopg.connect(f"{dsn}&application_name={name}", autocommit=True) as connection:
            while True:
                row = connection.execute("select pan from cards order by id limit 1").fetchone()
                assert row is not None
                released.append(name)
    except psycopg.OperationalError:
        return


def _write_until_it_dies(dsn: str, numbers: Iterator[int], committed: list[int]) -> None:
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in numbers:
                connection.execute(
                    "insert into kill_log (n, pan) values (%s, %s)", (number, f"62220200000{number:08d}")
                )
                committed.append(number)
    except psycopg.OperationalError:
        return


def test_kill_nine(world: World, tmp_path: Path) -> None:
    home = tmp_path / "killed"
    home.mkdir()
    # A database of its own, applied like any other: nothing else is served (ADR 0028).
    database = world.pg.create_database()
    asyncio.run(
        prepare(
            world.pg,
            home,
            database,
            generate(customers=CUSTOMERS),
            rules_text=rules_yaml().replace("tables:\n", "tables:\n" + TABLE, 1),
            more_sql="create table kill_log (n int, pan varchar(19)); grant all on kill_log to app",
        )
    )
    chance = random.Random(9)
    numbers = itertools.count(1)
    committed: list[int] = []
    for life in range(LIVES):
        port, metrics_port = free_port(), free_port()
        config = write_config(home, world.pg, database, port, metrics_port)
        process = start_pgveil(config, home / "pgveil.log")
        wait_ready(metrics_port, process, home / "pgveil.log")
        base = f"127.0.0.1:{port}/{database}?sslmode=disable"
        released: list[str] = []
        written: list[int] = []
        app, teller = f"postgresql://app@{base}", f"postgresql://teller@{base}"
        threads = [
            threading.Thread(target=_read_until_it_dies, args=(teller, f"life{life}-{i}", released), daemon=True)
            for i in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=_write_until_it_dies, args=(app, numbers, written), daemon=True))
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PATIENCE
        while len(released) < 20 or len(written) < 5:
            assert time.monotonic() < deadline, "the clients get nowhere"
            time.sleep(0.01)
        time.sleep(chance.random() / 5)
        # The supervisor and its workers at once: a worker is in a process group of its own.
        subprocess.run(["pkill", "-KILL", "-f", str(config)], check=True)
        process.wait()
        for thread in threads:
            thread.join(30)
        recorded = [r["application"] for r in records_in(home / "audit") if r["kind"] == "statement"]
        for i in range(CLIENTS):
            name = f"life{life}-{i}"
            assert recorded.count(name) >= released.count(name), "a row was released without its record"
        committed += written
    # One more life recovers what the last kill tore, and the log is whole.
    port, metrics_port = free_port(), free_port()
    process = start_pgveil(write_config(home, world.pg, database, port, metrics_port), home / "pgveil.log")
    wait_ready(metrics_port, process, home / "pgveil.log")
    with psycopg.connect(f"postgresql://app@127.0.0.1:{port}/{database}?sslmode=disable") as reader:
        stored = reader.execute("select n, pan from kill_log").fetchall()
    stop_process(process)
    assert {n for n, _ in stored} >= set(committed), "a committed write is lost"
    assert all(pan == f"62220200000{n:08d}" for n, pan in stored), "each stored value opens to what was written"
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", str(home / "audit")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
