"""The audit log's disk fails under a running pgveil: full, or with I/O errors. Nothing protected goes on, everything else does."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.faulty import FACTORY
from tests.faults.ground import slay, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.ground import Ground

DISK = 3 << 20
_BLOCK = bytes(4096)


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of a few megabytes; skips where mounting is not allowed."""
    path.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(
            f"mounting a file system is not allowed here ({made.stderr.strip()}); tests/e2e/test_faults.py limits the files' size instead"
        )
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)


def fill(path: Path) -> Path:
    """Take what is left of a disk; the file that does it."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(_BLOCK)
        except OSError:
            return filler


def _refused(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> bool:
    """Whether a statement is refused because it can't be recorded, its connection going on."""
    error = None
    try:
        connection.execute(sql)
    except psycopg.OperationalError as caught:
        error = caught
    if error is None:
        return False
    assert error.sqlstate == "58030"
    assert "audit log" in str(error)
    assert not connection.closed
    return True


def _through_a_failure(ground: Ground, fails: Iterator[None], reason: str, *, workers: int = 1) -> None:
    """Before, during and after it. `fails` begins and ends the failure."""
    with psycopg.connect(ground.dsn(), autocommit=True) as app:
        app.execute("delete from ledger")
        app.execute("insert into ledger values (1, '4000000000001')")
        next(fails)
        until(lambda: _refused(app, "select pan from ledger"), "a protected statement is refused")
        assert _refused(app, "insert into ledger values (2, '4000000000002')")
        assert app.execute("select count(*) from plain").fetchone() == (100,), "plain statements go on"
        until(lambda: not ground.readiness()["audit"], "the operator is told")
        assert ground.metric("pgveil_audit_healthy") == 0
        assert ground.metric("pgveil_errors_total", sqlstate_class="58") >= 2
        with psycopg.connect(ground.dsn("teller"), autocommit=True) as late:
            assert _refused(late, "select pan from ledger"), "and so is one on a new connection"
        next(fails)
        until(lambda: not _refused(app, "select pan from ledger"), "it recovers without a restart")
        assert app.execute("select n, pan from ledger").fetchall() == [(1, "4000000000001")], (
            "what was refused was not done"
        )
    until(ground.ready, "pgveil is ready again")
    assert len(ground.workers()) == workers
    assert [r for r in ground.records() if r["kind"] == "log_restored"]
    # Once, with the system's own word; and its end.
    assert [e["reason"] for e in ground.events("audit.unavailable")] == [reason]
    assert [e["reason"] for e in ground.events("audit.available")] == [reason]
    ground.verify_audit()


def test_a_full_disk(ground: Ground, tmp_path: Path) -> None:
    other = ground.beside(tmp_path / "full")
    other.configure(workers=1)

    def fails() -> Iterator[None]:
        filler = fill(other.home / "audit")
        yield
        filler.unlink()
        yield

    with small_disk(other.home / "audit"):
        other.start()
        try:
            _through_a_failure(other, fails(), "ENOSPC")
        finally:
            other.stop()


def test_fsync_fails(ground: Ground, tmp_path: Path) -> None:
    other = ground.beside(tmp_path / "eio")
    other.configure(workers=1)

    def fails() -> Iterator[None]:
        (other.home / "eio").touch()
        yield
        (other.home / "eio").unlink()
        yield

    other.start(factory=FACTORY)
    try:
        _through_a_failure(other, fails(), "EIO")
    finally:
        other.stop()


def test_a_worker_killed_while_the_disk_is_full_comes_back_when_there_is_room(ground: Ground, tmp_path: Path) -> None:
    other = ground.beside(tmp_path / "killed")
    with small_disk(other.home / "audit"):
        other.start()
        try:
            filler = fill(other.home / "audit")
            assert other.process is not None
            victim = other.workers()[0]
            slay(victim)
            until(lambda: len(other.events("worker.ended")) >= 2, "its successor can't write its log")
            with psycopg.connect(other.dsn("teller"), autocommit=True) as teller:
                assert teller.execute("select count(*) from plain").fetchone() == (100,), "the sibling goes on"
            filler.unlink()
            until(lambda: len(other.workers()) == 2 and other.ready(), "the worker comes back")
            other.verify_audit()
        finally:
            other.stop()
