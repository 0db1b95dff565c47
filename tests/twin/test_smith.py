"""sqlsmith for a short time; `make twin` lets it go on. That the search would find something, tests/twin/test_world.py shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.twin.sources.sqlsmith import PROGRAM, RUNS, count, smith
from tests.twin.tally import Tally
from tests.twin.world import CLEAR, MASKED

if TYPE_CHECKING:
    from tests.twin.world import World

SHORT = 60


@pytest.mark.skipif(PROGRAM is None, reason="sqlsmith is not installed (apt-get install sqlsmith)")
@pytest.mark.parametrize("options", RUNS, ids=lambda o: "shop" if o else "catalog")
def test_hostile_shapes_bring_nothing_back(shop_world: World, options: tuple[str, ...]) -> None:
    sent = smith(shop_world, SHORT, 6, options)
    assert sent.statements == SHORT
    assert sent.received
    tally = Tally()
    count(tally, shop_world, sent, "short")
    assert tally.ok, tally.report("sqlsmith")
    assert tally.run[MASKED] == SHORT


@pytest.mark.skipif(PROGRAM is None, reason="sqlsmith is not installed (apt-get install sqlsmith)")
def test_what_it_receives_is_what_is_searched(shop_world: World) -> None:
    """The clear login's answers hold what the masked login's may not."""
    sent = smith(shop_world, 20, 6, role=CLEAR)
    assert sent.received
    with_value = sent.received + b"4929000011112101"
    assert shop_world.canaries[MASKED].seen(with_value, b"") == ("4929000011112101",)
