"""The wall clock jumps: nothing but times in records, and what is shown of them, depends on it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.faults.faulty import FACTORY

if TYPE_CHECKING:
    from tests.faults.ground import Ground

ROOT = Path(__file__).parents[2]
HOUR, DAY = 3600, 86_400
JUMPS = (0, 3 * HOUR, -3 * HOUR, 2 * DAY, -5 * DAY, 40 * DAY, 0)
# Where the wall clock may come in. Everything that is waited for, limited or measured goes by a clock that only goes forward.
WALL = {
    "proxy/cli.py": "the metrics page compares when the server was last reached, by the workers' account",
    "proxy/guard.py": "records' times, and that account",
    "proxy/worker_process.py": "that account",
    "proxy/inforce.py": "how long a ticket is good for, which the server's clock decides (ADR 0027)",
    "audit/commands.py": "what the commands over the log are asked for",
    "keys/backup.py": "when a backup was made",
    "keys/ring.py": "when a key was made",
}


def test_jumps_forwards_and_back(ground: Ground, tmp_path: Path) -> None:
    """Records stay in the order of what happened, the log verifies, statements and logins go on."""
    other = ground.beside(tmp_path / "clock")
    other.configure(workers=1, more="limits: {authentication_seconds: 30}\n")
    other.start(factory=FACTORY)
    try:
        with psycopg.connect(other.dsn(), autocommit=True) as app:
            for number, jump in enumerate(JUMPS):
                (other.home / "clock").write_text(str(jump))
                app.execute("insert into ledger values (%s, %s)", (9000 + number, f"4000000{number:06d}"))
                with psycopg.connect(other.dsn("teller", name=f"at{number}"), autocommit=True) as teller:
                    row = teller.execute("select pan from ledger where n = %s", (9000 + number,)).fetchone()
                    assert row == (f"4000000{number:06d}",)
                assert other.metric("pgveil_audit_healthy") == 1
            assert app.execute("delete from ledger where n >= 9000").rowcount == len(JUMPS)
    finally:
        other.stop()
    lines = [line for path in sorted((other.home / "audit").rglob("*.jsonl")) for line in path.read_text().splitlines()]
    applications = [r["application"] for r in other.records() if r["kind"] == "login" and r["login"] == "teller"]
    assert applications == [f"at{number}" for number in range(len(JUMPS))], "in the order in which they happened"
    assert len(lines) > len(JUMPS)
    other.verify_audit()


def test_whoever_reads_the_wall_clock_is_on_the_list() -> None:
    found = set()
    for package in ("proxy", "audit", "keys", "rules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                    "time.time",
                    "time.time_ns",
                    "datetime.now",
                    "datetime.utcnow",
                    "datetime.today",
                }:
                    found.add(str(path.relative_to(ROOT)))
    assert found <= set(WALL), "pass in a monotonic clock, or say here what the wall clock is for"
