"""Measure pgveil against the server itself and PgBouncer, in turn within one run: python -m bench.run.

Each round runs every cell once and the order of the targets turns round from one round to the next, so that what the machine does besides falls
on all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from bench import report
from bench.targets import BenchError, Target, cpu_seconds, find_pgbouncer, forwarder, pgbouncer, pgveil, run
from bench.workloads import DOMAINS, RULES, Workload, prepare, seal, workloads
from lifecycle.demo.postgres import Postgres, PostgresUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS: Final = Path(__file__).parent / "results"
TARGETS: Final = ("direct", "pgbouncer", "forwarder", "pgveil", "pgcrypto")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when everything was measured, 2 for wrong arguments, 3 when something did not start."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        content = measure(options, console)
    except (BenchError, PostgresUnavailableError) as error:
        console.print(str(error), style="red", markup=False)
        return 3
    path = report.write(content, options.results)
    Console().print(report.table(content))
    console.print(f"written: {path}", markup=False)
    return 0


def measure(options: argparse.Namespace, console: Console) -> dict[str, object]:
    """Start everything, run every round, and give the result's document. Raises BenchError, PostgresUnavailableError."""
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgveil-bench-")))
        home.chmod(0o755)
        server = stack.enter_context(Postgres.make(options.server))
        database = server.create_database()
        has_pgcrypto = prepare(server, database)
        chosen = workloads(options.only, pgcrypto=has_pgcrypto)
        targets = _targets(stack, options, server, database, home)
        cells: list[report.Cell] = []
        for number in range(options.rounds):
            for workload in chosen:
                for target in targets[:: -1 if number % 2 else 1]:
                    if target.name in workload.scripts:
                        cell = _cell(number, workload, target, server, options.seconds, home)
                        cells.append(cell)
                        console.print(
                            f"round {number + 1}: {workload.name} {target.name}: {cell.tps:,.0f} tps"
                            + ("" if cell.cpu_us is None else f", {cell.cpu_us:.1f} us of CPU a transaction"),
                            markup=False,
                        )
        settings = {
            "seconds": options.seconds,
            "rounds": options.rounds,
            "workers": options.workers,
            "pgbench_threads": 1,
        }
        return report.document(started, settings, _versions(server, [t.name for t in targets]), cells)


def _targets(
    stack: contextlib.ExitStack, options: argparse.Namespace, server: Postgres, database: str, home: Path
) -> list[Target]:
    """What was asked for and is installed here; `direct` is always among them."""
    found = [Target("direct", server.port, database)]
    program = find_pgbouncer()
    if "pgbouncer" in options.targets and program is not None:
        found.append(stack.enter_context(pgbouncer(program, server, database, home / "pgbouncer")))
    if "forwarder" in options.targets:
        found.append(stack.enter_context(forwarder(server, database, home / "forwarder")))
    if "pgveil" in options.targets:
        veil = stack.enter_context(pgveil(server, database, home / "pgveil", RULES, DOMAINS, options.workers))
        seal(server, veil)
        found.append(veil)
    if "pgcrypto" in options.targets:
        # The same server; its workloads decrypt in the database.
        found.append(Target("pgcrypto", server.port, database))
    return found


def _cell(number: int, workload: Workload, target: Target, server: Postgres, seconds: int, home: Path) -> report.Cell:
    load = os.getloadavg()[0]
    before = 0.0 if target.pid is None else cpu_seconds(target.pid)
    out = run(workload.command(server, target, seconds, home))
    spent = 0.0 if target.pid is None else cpu_seconds(target.pid) - before
    count = re.search(r"^number of transactions actually processed: (\d+)", out, re.MULTILINE)
    tps = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", out, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", out, re.MULTILINE)
    if tps is None or latency is None or count is None or count[1] == "0" or (failed is not None and failed[1] != "0"):
        raise BenchError(
            f"{workload.name} on {target.name}: pgbench measured nothing, or statements failed:\n{out[-2000:]}"
        )
    return report.Cell(
        number,
        workload.name,
        target.name,
        workload.clients,
        seconds,
        float(tps[1]),
        float(latency[1]),
        load,
        None if target.pid is None else spent / int(count[1]) * 1e6,
    )


def _versions(server: Postgres, targets: Sequence[str]) -> dict[str, str]:
    found = {
        "python": sys.version.split()[0],
        "postgresql": server.psql("SHOW server_version").strip(),
        "pgveil": metadata.version("pgveil"),
        "sqlglot": metadata.version("sqlglot"),
    }
    program = find_pgbouncer()
    if "pgbouncer" in targets and program is not None:
        found["pgbouncer"] = run([program, "--version"]).splitlines()[0].removeprefix("PgBouncer ")
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=_positive, default=5, help="length of one cell (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=_positive, default=5, help="how often every cell is run (default: %(default)s)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only workloads with this in their name")
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        default=list(TARGETS),
        help="besides direct (default: all that are here)",
    )
    parser.add_argument("--workers", type=_positive, default=1, help="pgveil's processes (default: %(default)s)")
    parser.add_argument(
        "--server", default="16", help="PostgreSQL's major version; 15 is Debian's (default: %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON and the picture go")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 3600:
        raise argparse.ArgumentTypeError("from 1 to 3600")
    return number


if __name__ == "__main__":
    sys.exit(main())
