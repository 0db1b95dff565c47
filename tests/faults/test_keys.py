"""The key provider is gone: at the start, at a reload, and while pgveil runs."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from keys.providers.file import FileMasterKey
from proxy.control import ask
from proxy.reports import Outcome
from tests.faults.ground import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.ground import Ground

BREAKS = {
    "missing": "No such file or directory",
    "open to others": "has mode 0644",
    "damaged": "is not a pgveil master key",
    "another one": "nothing in key ring",
}


@contextmanager
def broken(ground: Ground, how: str) -> Iterator[bytes]:
    """The master key's file is not as it should be; the right material."""
    path = ground.home / "keys" / "master.key"
    right = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "open to others":
            path.chmod(0o644)
        case "damaged":
            path.write_bytes(b"garbage\n")
        case _:
            path.unlink()
            FileMasterKey.generate(path, os.urandom)
    try:
        yield right
    finally:
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_bytes(right)


def _works(connection: psycopg.Connection[Any], n: int) -> None:
    """A sealed value goes in and comes out."""
    pan = f"4000000{n:06d}"
    connection.execute("insert into ledger values (%s, %s)", (8000 + n, pan))
    assert connection.execute("delete from ledger where n = %s returning pan", (8000 + n,)).fetchone() == (pan,)


@pytest.mark.parametrize("how", BREAKS)
def test_at_the_start(ground: Ground, tmp_path: Path, how: str) -> None:
    """Nobody is served, the operator is told which file and why, and not what is in it."""
    other = ground.beside(tmp_path / "start")
    with broken(other, how) as material:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "run", "--config", str(other.config)],
            capture_output=True,
            timeout=90,
            check=False,
        )
    assert done.returncode not in (0, None)
    said = (done.stdout + done.stderr).decode()
    assert BREAKS[how] in said
    assert "master" in said
    assert material.split(b":")[-1].strip().decode() not in said
    assert "Traceback" not in said


def test_while_it_runs_and_at_a_reload(ground: Ground, tmp_path: Path) -> None:
    """What runs has its keys in memory, and goes on; a reload changes nothing and says why; once it is repaired, one works."""
    other = ground.beside(tmp_path / "running")
    other.start()
    try:
        with psycopg.connect(other.dsn(), autocommit=True) as app:
            _works(app, 0)
            for number, how in enumerate(BREAKS):
                with broken(other, how):
                    answer = ask(other.home / "pgveil.sock", "reload")
                    assert answer.outcome is not Outcome.APPLIED
                    assert BREAKS[how] in repr(answer), other.log.read_text()[-3000:]
                    _works(app, number)
                    with psycopg.connect(other.dsn(), autocommit=True) as late:
                        _works(late, number + 100)
                    until(lambda: other.metric("pgveil_reload_failed") == 1, "the operator is told")
            assert ask(other.home / "pgveil.sock", "reload").outcome is Outcome.APPLIED
            _works(app, 200)
            until(lambda: other.metric("pgveil_reload_failed") == 0, "and that it is over")
    finally:
        other.stop()
    other.verify_audit()
