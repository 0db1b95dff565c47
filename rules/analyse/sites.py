"""Comparisons that could be made look-ups (ADR 0015): where they stand, and which tokens are theirs.

A look-up becomes a membership test on the table's key, which is never NULL where the comparison would be. So only what stands in a WHERE, under
nothing but AND, OR and parentheses, is one: there NULL and false are the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.facts import LookupSite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analyse.facts import Constant
    from rules.analyse.record import Record
    from rules.analyse.scope import Entry, Flow, Scope

_TRANSPARENT = (exp.And, exp.Or, exp.Paren)
_HEADS = {("=",): False, ("in", "("): False, ("=", "any", "("): True, ("=", "some", "("): True}


def note_site(
    record: Record, node: exp.Expr, left: exp.Expr, flow: Flow, constants: Sequence[Constant], scope: Scope
) -> None:
    """Note that the comparison `node` of the column `left` with constants could be a look-up, if it could."""
    if not isinstance(left, exp.Column) or flow.column is None or not constants or not _in_where(record, node):
        return
    entry = _entry(left, scope)
    if entry is None or entry.name is None or not _as_it_is(record, entry, left, flow, scope):
        return
    span = _span(record, left)
    if span is None:
        return
    shape = _shape(record, span, sorted(constants, key=lambda c: c.first))
    if shape is not None:
        head, tail, array = shape
        ordered = tuple(c.token for c in sorted(constants, key=lambda c: c.first))
        record.sites.append(LookupSite(flow.column, span[1], entry.name, head, ordered, tail, array))


def _in_where(record: Record, node: exp.Expr) -> bool:
    """Whether a condition is one of a WHERE. What was found on the way is remembered: an OR of thousands nests as deep."""
    passed: list[int] = []
    parent = node.parent
    while isinstance(parent, _TRANSPARENT) and id(parent) not in record.in_where:
        passed.append(id(parent))
        parent = parent.parent
    found = record.in_where.get(id(parent))
    if found is None:
        found = isinstance(parent, exp.Where) and isinstance(parent.parent, exp.Select | exp.Update | exp.Delete)
    record.in_where.update(dict.fromkeys(passed, found))
    return found


def _entry(left: exp.Column, scope: Scope) -> Entry | None:
    if left.table:
        return scope.entry(left.table, left.db or None)
    found, further_in = scope.unqualified(left.name)
    return found[0][0] if len(found) == 1 and not further_in else None


def _as_it_is(record: Record, entry: Entry, left: exp.Column, flow: Flow, scope: Scope) -> bool:
    """Whether the entry is the column's own table, none of its columns renamed, and its name means it where the comparison stands."""
    if entry.relation is None or flow.column is None or entry.relation != flow.column.relation:
        return False
    if left.name != flow.column.column or (entry.reference is None and not entry.target):
        return False
    relation = record.database.resolve(entry.relation.schema, entry.relation.name, None)
    if relation is None or [c.name for c in entry.columns] != [c.name for c in relation.columns]:
        return False
    return entry.name is not None and scope.entry(entry.name) is entry


def _span(record: Record, left: exp.Column) -> tuple[int, int] | None:
    parts = [
        left.args[key] for key in ("catalog", "db", "table", "this") if isinstance(left.args.get(key), exp.Identifier)
    ]
    tokens = [record.tree.token_of(part) for part in parts]
    if not tokens or any(t is None for t in tokens):
        return None
    known = [t for t in tokens if t is not None]
    return known[0], known[-1]


def _shape(
    record: Record, span: tuple[int, int], constants: Sequence[Constant]
) -> tuple[tuple[int, int], tuple[int, int], bool] | None:
    """What stands before and behind the constants, and whether they are one array; None for a form that is not taken apart."""
    tokens = record.tree.lexed.tokens
    first, last = constants[0].first, constants[-1].last
    for one, other in pairwise(constants):
        if other.first != one.last + 2 or tokens[one.last + 1].value != ",":
            return None
    if last + 2 == span[0] and tokens[last + 1].value == "=" and len(constants) == 1 and not constants[0].array:
        return (first, first - 1), (last + 1, span[1]), False
    between = tuple(t.value for t in tokens[span[1] + 1 : first])
    array = _HEADS.get(between)
    if array is None or any(c.array is not array for c in constants):
        return None
    if between == ("=",):
        return (span[0], first - 1), (last + 1, last), False
    if last + 1 >= len(tokens) or tokens[last + 1].value != ")":
        return None
    return (span[0], first - 1), (last + 1, last + 1), array
