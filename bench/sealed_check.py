"""Microseconds a value that the sealed domain's CHECK costs the server at each write: what docs/sealed-format.md says.

`python -m bench.sealed_check` prints the table: CPU time of the server's process (/proc), which a busy machine changes least, for a cast of a
table's texts to the domain. A domain without a check is the measure, and so is the one whose check was the old form's pattern. Best of several
rounds, taken in turn.
"""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from keys.sealed import UNCHECKED_PATTERN, DataKey, seal_batch
from keys.sealed_sql import holds
from lifecycle.demo.postgres import Postgres
from rules.model import quote_literal

_ROUNDS = 5
_VALUES = 20_000
_REPEATS = 10  # casts of all values in a round: ticks are 10 ms
_SIZES = (11, 19, 200, 1000)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    key = DataKey("public.cards.pan", 1, os.urandom(64))
    print("| bytes | cast alone | old pattern | check |\n|---:|---:|---:|---:|")
    with Postgres.make("16") as server, psycopg.connect(server.dsn(), autocommit=True) as connection:
        checks = {"nothing": "true", "old": f"VALUE ~ {quote_literal(UNCHECKED_PATTERN)}", "new": holds("VALUE")}
        for name, check in checks.items():
            connection.execute(f'CREATE DOMAIN {name} AS text COLLATE "C" CHECK ({check})'.encode())
        for size in _SIZES:
            values = seal_batch(key, [os.urandom(size) for _ in range(_VALUES)], randomized=False, random=os.urandom)
            texts = [v.decode() for v in values if v is not None]
            connection.execute("DROP TABLE IF EXISTS t")
            connection.execute(
                "CREATE TABLE t AS SELECT v AS new, left(v, -7) AS old, v AS nothing FROM unnest(%s::text[]) v", [texts]
            )
            best = dict.fromkeys(checks, float("inf"))
            for _ in range(_ROUNDS):
                for name in checks:
                    start = _cpu_seconds(connection.info.backend_pid)
                    for _ in range(_REPEATS):
                        connection.execute(f"SELECT count({name}::{name}) FROM t".encode())
                    best[name] = min(best[name], _cpu_seconds(connection.info.backend_pid) - start)
            figures = " | ".join(f"{best[name] / _VALUES / _REPEATS * 1e6:.2f}" for name in checks)
            print(f"| {size} | {figures} |")


if __name__ == "__main__":
    main()
