"""TPC-H: its 22 queries, with who customers and suppliers are sealed.

Schema, rules and queries are in tests/fixtures/tpch, the queries with the specification's validation parameters (clause 2.4).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.twin.compare import Verdict
from tests.twin.judged import Judge
from tests.twin.sources.tpch_rows import tpch_rows
from tests.twin.tally import Tally
from tests.twin.world import ALL_MODES, CLEAR, MASKED, Fixture, twin_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifecycle.demo.postgres import Postgres
    from tests.twin.answers import Mode
    from tests.twin.compare import Outcome
    from tests.twin.world import World

DIRECTORY: Final = Path(__file__).parents[2] / "fixtures" / "tpch"
MOST_FETCHED: Final = 20_000  # rows, of what a query of this size may fetch: the tables hold 25,000


def tpch() -> Fixture:
    """The eight tables."""
    return Fixture((DIRECTORY / "schema.sql").read_text(), tpch_rows(), (DIRECTORY / "rules.yaml").read_text())


def queries() -> dict[str, str]:
    """The queries by name, Q1 to Q22."""
    return {path.stem.replace("q0", "q").upper(): path.read_text() for path in sorted(DIRECTORY.glob("q*.sql"))}


def run_queries(
    world: World, roles: Sequence[str] = (CLEAR, MASKED), modes: Sequence[Mode] = ALL_MODES
) -> tuple[Tally, dict[tuple[str, str], Outcome]]:
    """Every query for each role: the counts, with a line a query on how it was done, and the outcomes by role and query."""
    tally, outcomes, judge = Tally(), {}, Judge(world)
    for name, sql in queries().items():
        for role in roles:
            # Masks of different names are alike, so what is sorted by them has no full order.
            ordered = None if role == CLEAR else False
            outcome = outcomes[role, name] = world.compare(sql, role=role, modes=modes, ordered=ordered)
            tally.add(outcome, name)
            judged = judge.judge(sql, role)
            fetched = f", rows fetched: {' + '.join(map(str, judged.fetched))}" if judged.fetched else ""
            verdict = outcome.verdict if outcome.verdict is not Verdict.REFUSED else f"refused {outcome.reason}"
            tally.notes.append(f"{name:4} {role:8} {verdict}, {judged.how}{fetched}")
            if sum(judged.fetched) > MOST_FETCHED:
                tally.unexpected.append(f"{name} for {role} fetches {sum(judged.fetched)} rows")
    return tally, outcomes


def run(pg: Postgres, home: Path) -> Tally:
    """See tests/twin/run.py."""
    with twin_world(pg, home, tpch()) as world:
        return run_queries(world)[0]
