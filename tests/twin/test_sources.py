"""The other sources of `make twin`, for a short time: TPC-H's queries one way to travel each, and some composed statements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.twin.answers import Mode
from tests.twin.compare import Verdict
from tests.twin.grammar import compose
from tests.twin.sources.grammar import one, run_grammar
from tests.twin.sources.tpch import queries, run_queries, tpch
from tests.twin.tally import describe
from tests.twin.world import ALL_MODES, CLEAR, MASKED, twin_world

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres
    from tests.twin.world import World

AT_MOST_REFUSED = 0.05


def test_the_queries_of_tpch(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    with twin_world(pg, tmp_path_factory.mktemp("tpch"), tpch()) as world:
        tally, outcomes = run_queries(world, (CLEAR, MASKED), (Mode.PREPARED,))
    assert len(queries()) == 22
    assert tally.run == {CLEAR: 22, MASKED: 22}
    assert tally.ok, tally.report("TPC-H")
    refused = [name for (role, name), o in outcomes.items() if role == CLEAR and o.verdict is Verdict.REFUSED]
    assert len(refused) <= AT_MOST_REFUSED * 22, refused


@pytest.mark.parametrize("role", [CLEAR, MASKED])
@given(data=st.data(), mode=st.sampled_from(ALL_MODES))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_composed_statement_is_right_or_refused(
    shop_world: World, role: str, data: st.DataObject, mode: Mode
) -> None:
    statement = compose(lambda options: data.draw(st.sampled_from(options)))
    outcome = one(shop_world, statement, role, mode)
    assert outcome.verdict is not Verdict.DIFFERENT, describe(outcome)
    assert not outcome.canaries, describe(outcome)


def test_composed_statements_are_not_all_refused(shop_world: World) -> None:
    """Nor all errors: else the comparison would say nothing."""
    tally = run_grammar(shop_world, 40, 11)
    assert tally.ok, tally.report("composed")
    assert tally.refused_share(CLEAR) < 0.5
    assert tally.identical[CLEAR] > 10
