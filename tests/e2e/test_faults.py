"""What goes wrong on purpose: a dying server, a dying client, cancels, wrong and oversized messages, a full audit disk. Each ends cleanly."""

from __future__ import annotations

import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from keys.sealed import checked
from lifecycle.demo.postgres import free_port
from tests.e2e.world import World, wait_ready, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTUP = b"user\0app\0database\0%s\0\0"


@contextmanager
def another_pgveil(world: World, home: Path, audit_bytes: int | None = None) -> Iterator[tuple[int, int]]:
    """A second pgveil before the same database, with an audit log of its own; its ports. `audit_bytes` limits the size of any file."""
    home.mkdir(exist_ok=True)
    shutil.copy(world.home / "rules.yaml", home / "rules.yaml")
    shutil.copytree(world.home / "keys", home / "keys")
    port, metrics_port = free_port(), free_port()
    config = write_config(home, world.pg, world.database, port, metrics_port)
    log = home / "pgveil.log"

    def limit() -> None:
        if audit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (audit_bytes, audit_bytes))

    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=limit,  # noqa: PLW1509 - no threads that matter hold locks here
        )
    try:
        wait_ready(metrics_port, process, log)
        yield port, metrics_port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _open_connections(metrics_port: int) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("pgveil_connections "))


def _settles(metrics_port: int, wanted: float) -> bool:
    """Whether the number of open connections comes to `wanted`."""
    for _ in range(100):
        if _open_connections(metrics_port) == wanted:
            return True
        time.sleep(0.1)
    return False


def _recovers(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Whether protected statements are let through again."""
    for _ in range(100):
        try:
            connection.execute("select pan from cards limit 1")
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return True
    return False


def test_the_audit_log_cannot_be_written(world: World, tmp_path: Path) -> None:
    with another_pgveil(world, tmp_path / "full", audit_bytes=1_300_000) as (port, _):
        dsn = f"postgresql://teller@127.0.0.1:{port}/{world.database}"
        with psycopg.connect(dsn, autocommit=True) as teller:
            error = None
            for _ in range(5000):
                try:
                    teller.execute("select name from customers limit 1")
                except psycopg.OperationalError as caught:
                    error = caught
                    break
            assert error is not None, "the log never filled up"
            assert error.sqlstate == "58030"
            assert not teller.closed
            assert teller.execute("select count(*) from support_tickets").fetchone() is not None, (
                "plain statements go on"
            )
            assert _recovers(teller), "a new segment can be written"
    verified = subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", str(tmp_path / "full" / "audit")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout


def test_a_client_that_dies_leaves_nothing(world: World) -> None:
    before = world.metric("pgveil_connections")
    for _ in range(5):
        raw = socket.create_connection(("127.0.0.1", world.port))
        packet = STARTUP % world.database.encode()
        raw.sendall(struct.pack("!ii", len(packet) + 8, 196608) + packet)
        raw.recv(100)
        raw.sendall(b"Q\0\0\0\x40select pg_sleep(0.2), ")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    assert _settles(world.metrics_port, before)


def test_planning_stops_for_a_client_that_has_left(world: World) -> None:
    """Forty texts in one write, each of which takes a while to plan, and nobody to hear of them."""
    connections, planned = (world.metric(f"pgveil_{what}") for what in ("connections", "parses_total"))
    teller = psycopg.connect(world.dsn("teller"), autocommit=True)
    teller.execute("select pan from cards limit 0")
    numbers = ", ".join(f"'49290000{n:08}'" for n in range(600))
    teller.pgconn.enter_pipeline_mode()
    for n in range(40):
        teller.pgconn.send_prepare(b"", f"select {n} as n{n}, pan from cards where pan in ({numbers})".encode())
    teller.pgconn.nonblocking = 1
    while teller.pgconn.flush():
        pass
    teller.close()
    assert _settles(world.metrics_port, connections)
    assert world.metric("pgveil_parses_total") - planned < 20


def test_a_backend_that_dies_is_told_and_the_next_connection_works(world: World) -> None:
    teller = psycopg.connect(world.dsn("teller"), autocommit=True)
    pid = teller.execute("select pg_backend_pid()").fetchone()
    assert pid is not None
    world.pg.psql(f"select pg_terminate_backend({pid[0]})")
    with pytest.raises(psycopg.OperationalError) as caught:
        teller.execute("select pan from cards")
    assert caught.value.sqlstate in {"57P01", None}
    with psycopg.connect(world.dsn("teller")) as again:
        assert again.execute("select pan from cards limit 1").fetchone() is not None


def test_cancel_reaches_the_backend(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        timer = threading.Timer(0.3, teller.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            teller.execute("select pan, pg_sleep(20) from cards limit 1")
        timer.join()
        assert teller.execute("select pan from cards limit 1").fetchone() is not None


@pytest.mark.parametrize(
    ("packet", "sqlstate"),
    [
        (b"\x00\x00\x00\x07abc", b"08P01"),
        (struct.pack("!i", 2**31 - 1) + b"x" * 100, b"08P01"),
        (struct.pack("!ii", 8, 0x00020000), b"0A000"),
        (b"GET / HTTP/1.1\r\n\r\n", b"08P01"),
    ],
)
def test_wrong_first_packets_get_an_error(world: World, packet: bytes, sqlstate: bytes) -> None:
    with socket.create_connection(("127.0.0.1", world.port), timeout=5) as raw:
        raw.sendall(packet)
        answer = b""
        try:
            while data := raw.recv(1000):
                answer += data
        except ConnectionResetError:
            pass
    assert answer == b"" or sqlstate in answer


def test_an_oversized_statement_is_refused(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        with pytest.raises(psycopg.Error) as caught:
            teller.execute("select name from customers where id in (" + ",".join(["1"] * 400_000) + ")")
        assert caught.value.sqlstate == "54001"
    with psycopg.connect(world.dsn("teller")) as again:
        assert again.execute("select 1").fetchone() == (1,)


def test_a_message_with_a_wrong_length_ends_the_connection(world: World) -> None:
    before = world.metric("pgveil_connections")
    with socket.create_connection(("127.0.0.1", world.port), timeout=5) as raw:
        packet = STARTUP % world.database.encode()
        raw.sendall(struct.pack("!ii", len(packet) + 8, 196608) + packet)
        seen = b""
        while b"Z\0\0\0\x05I" not in seen:
            seen += raw.recv(1000)
        raw.sendall(b"Q\0\0\0\x01")
        answer = b""
        while data := raw.recv(1000):
            answer += data
        assert b"08P01" in answer
    assert _settles(world.metrics_port, before)


def test_damaged_and_foreign_values_fail_the_statement(world: World) -> None:
    """A sealed value changed in the database, and one moved from another column: an error that names column and key, and no value."""
    with psycopg.connect(world.dsn("postgres", direct=True), autocommit=True) as direct:
        row = direct.execute("select id, pan from cards order by id desc limit 1").fetchone()
        other = direct.execute("select id_number from customers limit 1").fetchone()
        assert row is not None
        assert other is not None
        flipped = row[1][:20] + ("A" if row[1][20] != "A" else "B") + row[1][21:]
        with pytest.raises(psycopg.errors.CheckViolation):
            direct.execute("update cards set pan = %s where id = %s", (flipped, row[0]))
        flipped = checked(flipped[:-7].encode()).decode()
        for bad in (flipped, other[0]):
            direct.execute("update cards set pan = %s where id = %s", (bad, row[0]))
            with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
                with pytest.raises(psycopg.Error) as caught:
                    teller.execute("select pan from cards where id = %s", (row[0],)).fetchall()
                assert "public.cards.pan" in str(caught.value)
                assert bad not in str(caught.value)
                assert teller.execute("select 1").fetchone() == (1,)
        direct.execute("update cards set pan = %s where id = %s", (row[1], row[0]))


def test_sigterm_ends_cleanly(world: World, tmp_path: Path) -> None:
    with another_pgveil(world, tmp_path / "term") as (port, _):
        connection = psycopg.connect(f"postgresql://teller@127.0.0.1:{port}/{world.database}", autocommit=True)
        connection.execute("select 1")
        connection.close()
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "term")], capture_output=True, check=False).stdout
    assert left == b""
    assert not list((tmp_path / "term").rglob("*.part"))
