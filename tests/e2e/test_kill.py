"""kill -9 of the whole of pgveil under load: every released row has its record, the log verifies, and no write is half sealed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psycopg

from lifecycle.demo.postgres import free_port
from tests.e2e.world import records_in, start_pgveil, wait_ready, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.world import World

CLIENTS = 4
LIVES = 3


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


def _write_until_it_dies(dsn: str, committed: list[int]) -> None:
    number = 0
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while True:
                number += 1
                connection.execute(
                    "insert into kill_log (n, pan) values (%s, %s)", (number, f"62220200000{number:08d}")
                )
                committed.append(number)
    except psycopg.OperationalError:
        return


def test_kill_nine(world: World, tmp_path: Path) -> None:
    home = tmp_path / "killed"
    home.mkdir()
    rules = (world.home / "rules.yaml").read_text()
    table = "  public.kill_log:\n    columns:\n      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}\n"
    (home / "rules.yaml").write_text(rules.replace("tables:\n", "tables:\n" + table, 1))
    shutil.copytree(world.home / "keys", home / "keys")
    world.pg.psql(
        "drop table if exists kill_log; create table kill_log (n int, pan pgveil.sealed); grant all on kill_log to app",
        world.database,
    )
    chance = random.Random(9)
    committed: list[int] = []
    for life in range(LIVES):
        port, metrics_port = free_port(), free_port()
        config = write_config(home, world.pg, world.database, port, metrics_port)
        process = start_pgveil(config, home / "pgveil.log")
        wait_ready(metrics_port, process, home / "pgveil.log")
        base = f"127.0.0.1:{port}/{world.database}?sslmode=disable"
        released: list[str] = []
        written: list[int] = []
        threads = [
            threading.Thread(
                target=_read_until_it_dies, args=(f"postgresql://teller@{base}", f"life{life}-{i}", released)
            )
            for i in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=_write_until_it_dies, args=(f"postgresql://app@{base}", written)))
        for thread in threads:
            thread.start()
        while len(released) < 20 or len(written) < 5:
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
    process = start_pgveil(write_config(home, world.pg, world.database, port, metrics_port), home / "pgveil.log")
    wait_ready(metrics_port, process, home / "pgveil.log")
    with psycopg.connect(f"postgresql://app@127.0.0.1:{port}/{world.database}?sslmode=disable") as app:
        stored = app.execute("select n, pan from kill_log").fetchall()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert len(stored) >= len(committed), "a committed write is lost"
    assert all(pan == f"62220200000{n:08d}" for n, pan in stored), "each stored value opens to what was written"
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", str(home / "audit")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
