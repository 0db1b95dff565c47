"""Which statements may be computed after opening: what the rules say of them, whatever can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.analyse.facts import Leak, Pair, Use
from rules.decide import masked_refusal, unprotected_refusal
from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from rules.analyse.facts import Facts
    from rules.model import ColumnName, PolicyClass, Rules
    from rules.plan import Refusal

_SEARCHES = frozenset({Use.EQUAL_CONSTANT, Use.EQUAL_COLUMN})


def unreadable(facts: Facts, rules: Rules, policy: PolicyClass) -> Refusal | None:
    """Why a result may not be computed from what the role sees, by the column that is in the way; None where it may.

    A role that sees masks gets what a database of masks would give. But an equality is a search for a value: that a mask equals nothing
    would be an answer that looks like one, so it is refused.
    """
    for use in facts.uses:
        if use.use in _SEARCHES and _is_sealed(use.column, rules) and policy.verdict(use.column) is not Verdict.CLEAR:
            return masked_refusal(use.column, use.token)
    return None


def unwritable(facts: Facts, rules: Rules, policy: PolicyClass) -> Refusal | None:
    """Why values that are written may not be computed from what the statement reads; None where they may.

    The role must see all of that clear, or its masks would be stored as values; and nothing sealed may come to lie unsealed.
    """
    places = {u.column: u.token for u in (*facts.uses, *facts.target_reads)}
    read = {c for ref in facts.relations for c in ref.columns} | set(places)
    seen = read | {c for output in facts.outputs or () for c in output.touches} | {p.right for p in facts.copies}
    for name in sorted(seen, key=lambda c: (places.get(c) is None, places.get(c) or 0, c)):
        if policy.verdict(name) is not Verdict.CLEAR:
            return masked_refusal(name, places.get(name))
    if facts.views:
        return masked_refusal(min(facts.views), None)
    laid: list[Leak | Pair] = [*facts.leaks, *(p for p in facts.copies if not _is_sealed(p.left, rules))]
    sources = [(each.right if isinstance(each, Pair) else each.column, each.token) for each in laid]
    return next((unprotected_refusal(c, token) for c, token in sources if _is_sealed(c, rules)), None)


def _is_sealed(name: ColumnName, rules: Rules) -> bool:
    column = rules.column(name)
    return column is None or column.protection is Protection.SEALED
