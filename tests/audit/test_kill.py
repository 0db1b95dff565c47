"""kill -9 of a real process that writes the log, at random moments, again and again on one chain."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from audit.event import LoggedOut
from audit.query import Follower
from audit.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

# Reports "<seq> <hash>" of what became durable, in lines shorter than a pipe writes at once, before it goes on.
PROGRAM = """
import asyncio, os, random, sys
from datetime import UTC, datetime
from pathlib import Path

from audit.event import LoggedOut
from audit.log import AuditLog

async def main():
    rng = random.Random(int(sys.argv[2]))
    log = await AuditLog.open(Path(sys.argv[1]), writer="w", clock=lambda: datetime.now(UTC), segment_bytes=20_000)
    log.on_durable(lambda seq: os.write(1, f"{seq} {log.head.hash}\\n".encode()))
    while True:
        for _ in range(rng.randint(1, 40)):
            seq = log.append(LoggedOut("c", "x" * rng.randint(0, 200), rng.randint(0, 9)))
        if rng.random() < 0.7:
            await log.wait_durable(seq)
        else:
            await asyncio.sleep(0)

asyncio.run(main())
"""


def live_and_die(directory: Path, seed: int) -> dict[int, str]:
    """Run the program, kill it after a random amount of its reports, and return all that it had reported."""
    rng = random.Random(seed)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory), str(seed)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(rng.randint(1, 60))]
        process.send_signal(signal.SIGKILL)
        reported += process.stdout.readlines()
        process.wait()
        assert process.returncode == -signal.SIGKILL, reported[-1:]
    return {int(seq): digest.decode() for seq, digest in (line.split() for line in reported if line.endswith(b"\n"))}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_loses_nothing_that_was_durable(tmp_path: Path, seed: int) -> None:
    known: dict[int, str] = {}
    for life in range(4):
        known |= live_and_die(tmp_path, 10 * seed + life)
        on_disk = {r.body.seq: r for r in Follower(tmp_path).tail(100_000)}
        assert {seq: on_disk[seq].hash for seq in known} == known
        assert set(range(1, max(known) + 1)) <= set(on_disk)
    assert len(known) > 4
    report = verify(tmp_path, expect_heads=list(known.values()), expect_seqs={"w": max(known)})
    # The last life was killed as well: its last line may be torn, and nothing else may be wrong.
    assert all("incomplete" in finding.message for finding in report.findings)
    assert len(report.findings) <= 1
    assert any(isinstance(r.body.event, LoggedOut) for r in on_disk.values())
