"""Statements that are composed at random over the shop (tests/twin/grammar), each in one way to travel that is chosen at random too."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.twin.compare import Outcome, Step, Verdict
from tests.twin.fixture import shop
from tests.twin.grammar import compose
from tests.twin.grammar.choices import Choices, shrunk
from tests.twin.tally import Tally
from tests.twin.world import ALL_MODES, CLEAR, MASKED, twin_world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from tests.twin.answers import Mode
    from tests.twin.grammar import Statement
    from tests.twin.world import World

STATEMENTS: Final = 3000  # a role
SEED: Final = 4
_MOST_SHRUNK: Final = 10


def run(pg: Postgres, home: Path) -> Tally:
    """See tests/twin/run.py."""
    with twin_world(pg, home, shop()) as world:
        return run_grammar(world, STATEMENTS, SEED)


def run_grammar(world: World, count: int, seed: int, roles: Sequence[str] = (CLEAR, MASKED)) -> Tally:
    """So many statements for each role. Of the first that differ, a smaller one that does too is reported beside."""
    chance, tally = random.Random(seed), Tally()
    for number in range(count):
        choices = Choices(chance=chance)
        statement, mode = compose(choices.pick), chance.choice(ALL_MODES)
        for role in roles:
            outcome = one(world, statement, role, mode)
            tally.add(outcome, f"statement {number}")
            if _bad(outcome) and len(tally.notes) < _MOST_SHRUNK:
                tally.notes.append(f"statement {number} is made smaller: {_smaller(world, choices.made, role, mode)}")
    return tally


def one(world: World, statement: Statement, role: str, mode: Mode) -> Outcome:
    """What becomes of one statement for one role."""
    return world.compare_block([Step(statement.sql, statement.params)], role, mode)[-1]


def _bad(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.DIFFERENT or bool(outcome.canaries)


def _smaller(world: World, made: Sequence[int], role: str, mode: Mode) -> str:
    best = shrunk(made, lambda again: _bad(one(world, compose(Choices(again).pick), role, mode)))
    statement = compose(Choices(best).pick)
    outcome = one(world, statement, role, mode)
    return f"{statement.sql} {statement.params or ''} -- {'; '.join((*outcome.differences, *outcome.canaries))}"
