"""psql's tab completion through pgveil: it asks the catalog while one types."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.world import World

PSQL = "/usr/lib/postgresql/15/bin/psql"


def _until(terminal: int, wanted: bytes, seconds: float = 20) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                seen += os.read(terminal, 4096)
            except OSError:
                break
    return seen


def test_tab_completes_a_table_and_a_column(world: World) -> None:
    if shutil.which(PSQL) is None:
        pytest.skip("Debian's psql 15 is not installed; the embedded one has no readline")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PSQL, "-X", "-d", world.dsn("teller")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb", "PAGER": "cat", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        assert b"=>" in _until(ours, b"=>")
        os.write(ours, b"select id_num from custo\t")
        # readline rings the bell, then adds what is missing.
        assert b"mers" in _until(ours, b"mers")
        os.write(ours, b"\x15update cards set p\t")
        assert b"an " in _until(ours, b"an ").split(b"set p")[-1]
        os.write(ours, b"\x15\\q\n")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
