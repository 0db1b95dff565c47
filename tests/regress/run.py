"""`make regress`: PostgreSQL's own regression suite directly and through pgveil; what psql prints must be the same, byte for byte.

    python -m tests.regress.run [--version 15] [--setup namesakes] [--out DIRECTORY] [--again] [--write] [NAME ...]

Without NAMEs the whole schedule; with them `test_setup` and these. `--version`: of the server; the files are always those of 15. `--setup`: what
is protected (stand.py). `--again`: a second direct run in place of pgveil, to see what differs of itself. `--write`: the numbers go to
tests/regress/results.json and docs/regress.md. DIRECTORY (default .regress/results-VERSION) keeps what psql printed. Exit code 1 where a
file that is not listed in exceptions.py differs.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lifecycle.demo.postgres import PostgresUnavailableError
from tests.regress.compare import AGAIN, DIRECT, PROXIED, Outcome, compare, difference
from tests.regress.exceptions import EXCEPTIONS
from tests.regress.report import Result, write
from tests.regress.source import HOME, SourceMissingError, fetch, find
from tests.regress.stand import SETUPS
from tests.regress.suite import load_suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.regress.source import Source

SETUP = "test_setup"
_SHOWN = 60  # lines of a difference


def main() -> int:
    """See the module."""
    options = _options()
    version: str = options.version
    try:
        source = _source(version)
    except (SourceMissingError, PostgresUnavailableError) as error:
        print(f"PostgreSQL {version}: {error}", file=sys.stderr)
        return 2
    suite = load_suite(source.directory)
    unknown = set(options.names) - set(suite.names)
    if unknown:
        print(f"not in the schedule of {source.release}: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    names = tuple(n for n in suite.names if not options.names or n in options.names or n == SETUP)
    out = options.out or HOME / f"results-{version}"
    other = AGAIN if options.again else PROXIED
    print(f"{len(names)} files of {source.release}, PostgreSQL {source.server}: {DIRECT} and {other}")
    outcomes = compare(source, suite, names, out, other=other, setup=options.setup, progress=_progress)
    wrong = _show(outcomes, out, other, EXCEPTIONS.get(version, {}))
    result = Result.of(source, options.setup, outcomes, datetime.now(UTC).date().isoformat())
    print(result.line())
    if options.write and not options.again:
        write(result)
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make regress")
    parser.add_argument("--version", default="15")
    parser.add_argument("--setup", default="elsewhere", choices=list(SETUPS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


def _source(version: str) -> Source:
    try:
        return find(version)
    except SourceMissingError:
        fetch()
        return find(version)


def _progress(side: str, name: str) -> None:
    print(f"  {side:8}{name}", flush=True)


def _show(outcomes: list[Outcome], out: Path, other: str, exceptions: Mapping[str, str]) -> int:
    """Print what is not as it should be; how many files differ that may not."""
    wrong = 0
    for outcome in outcomes:
        if not outcome.direct:
            print(f"{outcome.name}: directly it is not as in expected/")
        if outcome.identical:
            continue
        reason = exceptions.get(outcome.name)
        if reason is None:
            wrong += 1
            lines = difference(out, outcome.name, other).splitlines()
            print("\n".join([*lines[:_SHOWN], *(["..."] if len(lines) > _SHOWN else [])]))
        else:
            print(f"{outcome.name} differs: {reason}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
