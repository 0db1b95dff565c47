"""Which statements may be computed after opening: what the rules say of them, whatever can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.analyse.facts import Leak, Pair, Use
from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from rules.analyse.facts import Facts
    from rules.model import ColumnName, PolicyClass, Rules

_SEARCHES = frozenset({Use.EQUAL_CONSTANT, Use.EQUAL_COLUMN})


def may_be_read(facts: Facts, rules: Rules, policy: PolicyClass) -> bool:
    """Whether a result may be computed from what the role sees.

    A role that sees masks gets what a database of masks would give. But an equality is a search for a value: that a mask equals nothing
    would be an answer that looks like one, so it is refused.
    """
    return not any(
        use.use in _SEARCHES and _is_sealed(use.column, rules) and policy.verdict(use.column) is not Verdict.CLEAR
        for use in facts.uses
    )


def may_be_written(facts: Facts, rules: Rules, policy: PolicyClass) -> bool:
    """Whether values that are written may be computed from what the statement reads.

    The role must see all of that clear, or its masks would be stored as values; and nothing sealed may come to lie unsealed.
    """
    read = {c for ref in facts.relations for c in ref.columns} | {u.column for u in (*facts.uses, *facts.target_reads)}
    seen = read | {c for output in facts.outputs or () for c in output.touches} | {p.right for p in facts.copies}
    if any(policy.verdict(c) is not Verdict.CLEAR for c in seen) or facts.views:
        return False
    laid: list[Leak | Pair] = [*facts.leaks, *(p for p in facts.copies if not _is_sealed(p.left, rules))]
    sources = {each.right if isinstance(each, Pair) else each.column for each in laid}
    return not any(_is_sealed(c, rules) for c in sources)


def _is_sealed(name: ColumnName, rules: Rules) -> bool:
    column = rules.column(name)
    return column is None or column.protection is Protection.SEALED
