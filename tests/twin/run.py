"""`make twin`: every source of statements against twins of real servers, counted. Exit code 1 where anything differs or leaks.

    python -m tests.twin.run [--version 16]... [--only corpus] [--feature joins] [--pending]

Other sources are modules of tests/twin/sources with `run(pg: Postgres, home: Path) -> Tally`; each builds the worlds that it needs.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from tests.twin.corpus import PENDING, Deviation, read_corpus, read_pending, run_corpus
from tests.twin.fixture import shop
from tests.twin.world import twin_world

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.twin.tally import Tally

VERSIONS = ("15", "16", "18")
SOURCES = Path(__file__).with_name("sources")
_HEAD = """\
# Entries of the corpus that do not come out yet as they say they should: role | feature: title | what comes instead.
# Written by `python -m tests.twin.run --pending`. It must only shrink.
"""


def corpus(pg: Postgres, home: Path, feature: str | None = None) -> tuple[Tally, list[Deviation]]:
    """The golden corpus on one server."""
    features = [f for f in read_corpus() if feature in {None, f.name}]
    with twin_world(pg, home, shop()) as world:
        return run_corpus(world, features)


def sources() -> dict[str, Callable[[Postgres, Path], Tally]]:
    """The other sources by name."""
    found = {}
    for module in pkgutil.iter_modules([str(SOURCES)]):
        loaded = importlib.import_module(f"tests.twin.sources.{module.name}")
        if hasattr(loaded, "run"):
            found[module.name] = loaded.run
    return found


def write_pending(deviations: list[Deviation]) -> None:
    """The list of what does not come out yet, anew."""
    PENDING.write_text(_HEAD + "".join(sorted(f"{d.line}\n" for d in deviations)))


def main(arguments: list[str]) -> int:
    """Run what is asked for and print it; 0 where all is well."""
    parser = argparse.ArgumentParser(prog="make twin")
    parser.add_argument("--version", action="append", choices=VERSIONS, help="PostgreSQL's major version")
    parser.add_argument("--only", help="corpus, or the name of a source")
    parser.add_argument("--feature", help="one feature of the corpus")
    parser.add_argument("--pending", action="store_true", help="write the list of what does not come out yet")
    chosen = parser.parse_args(arguments)
    good = True
    for version in chosen.version or VERSIONS:
        try:
            server = Postgres.make(version)
            server.start()
        except PostgresUnavailableError as error:
            print(f"PostgreSQL {version}: left out: {error}")
            continue
        try:
            good &= _one_server(server, chosen)
        finally:
            server.destroy()
    return 0 if good else 1


def _one_server(server: Postgres, chosen: argparse.Namespace) -> bool:
    good = True
    name = f"PostgreSQL {server.version}"
    if chosen.only in {None, "corpus"}:
        with tempfile.TemporaryDirectory(prefix="twin-") as home:
            tally, deviations = corpus(server, Path(home), chosen.feature)
        if chosen.pending:
            write_pending(deviations)
        known = read_pending()
        for each in deviations:
            (tally.pending if each.place in known else tally.unexpected).append(f"{each.line} -- {each.detail}")
        print(tally.report(f"{name}: the golden corpus"))
        good &= tally.ok
    for source, run in sources().items() if chosen.feature is None else ():
        if chosen.only in {None, source}:
            with tempfile.TemporaryDirectory(prefix="twin-") as home:
                tally = run(server, Path(home))
            print(tally.report(f"{name}: {source}"))
            good &= tally.ok
    return good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
