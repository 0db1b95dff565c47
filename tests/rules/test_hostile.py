"""Texts that grow cost no more than their length, or end in PostgreSQL's own error for what is too complex (docs/adr/0032)."""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING

import pytest

from proxy.decisions import Gate
from proxy.session.gate import Refuse
from rules.budget import BASE_STEPS, MOST_STEPS, STEPS_A_CHARACTER
from rules.load import load_rules_text
from tests.rules.hostile import NESTED, REPEATED
from tests.rules.test_decisions_golden import RULES, SETTINGS, VisibleSealer, bank_catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMITS = {"54001", "54011"}
_FORMS = [("nested", name) for name in NESTED] + [("repeated", name) for name in REPEATED]
_SIZES = {"nested": (15, 30, 60), "repeated": (40, 80)}
# What LATERAL shows gets wider with each level, on the server too; levels are bounded.
_GROWTH = {"nested": 4.5, "repeated": 3}
# The cost of what is there whatever the length, and of a fetch that is tried for each of a few columns.
_FLOOR = 1000
_MILLISECONDS_A_KILOBYTE = 50
_LONG = {"nested": (190,), "repeated": (2000, 20_000)}


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(load_rules_text(RULES, "rules.yaml"), bank_catalog(), VisibleSealer(), computes=True)


def _texts(how: str, name: str, sizes: tuple[int, ...]) -> Iterator[str]:
    form = (NESTED if how == "nested" else REPEATED)[name]
    return (form(size) for size in sizes)


@pytest.mark.parametrize("login", ["teller", "agent"])
@pytest.mark.parametrize(("how", "name"), _FORMS)
def test_growth_is_linear_or_refused(gate: Gate, how: str, name: str, login: str) -> None:
    before = 0
    for text in _texts(how, name, _SIZES[how]):
        start = gate.steps
        found = gate.decide(text.encode(), gate.principal(login), SETTINGS, extended=False)
        taken = gate.steps - start
        assert taken <= min(BASE_STEPS + STEPS_A_CHARACTER * len(text), MOST_STEPS) + len(text)
        if isinstance(found, Refuse) and found.refusal.sqlstate in _LIMITS:
            assert found.refusal.hint
            return
        if before > _FLOOR:
            assert taken < _GROWTH[how] * before, "twice as long costs more than twice as much"
        before = taken


@pytest.mark.soak
@pytest.mark.parametrize("login", ["teller", "agent"])
@pytest.mark.parametrize(("how", "name"), _FORMS)
def test_a_kilobyte_costs_so_much_time(gate: Gate, how: str, name: str, login: str) -> None:
    """In processor time, with what the growth in steps does not see."""
    for text in _texts(how, name, _LONG[how]):
        start = process_time()
        gate.decide(text.encode(), gate.principal(login), SETTINGS, extended=False)
        milliseconds = (process_time() - start) * 1000
        assert milliseconds <= 250 + _MILLISECONDS_A_KILOBYTE * len(text) / 1024
