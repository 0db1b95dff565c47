"""Forms whose value is one of several, unchanged: COALESCE, CASE, NULLIF, window functions that pick a row's value, and the arms of set operations.

Nothing is computed on such a value, so it flows on as a column's own, as long as whatever it could be is sealed alike; constants among
the candidates are sealed for the column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlglot import exp

from rules.analyse.constants import extent_of
from rules.analyse.facts import Pair, Use
from rules.analyse.scope import NOTHING, Flow, mixed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analyse.expressions import Expressions
    from rules.analyse.scope import Scope

CHOICES: Final = (exp.Coalesce, exp.Case, exp.Nullif, exp.AnyValue)
_PICKING: Final = (exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue)
# Functions that sqlglot takes for COALESCE, and PostgreSQL for somebody's own.
_FOREIGN: Final = frozenset({"ifnull", "nvl", "decode", "if", "iff"})


class Choices:
    """Walks these forms; a part of Expressions."""

    def __init__(self, walk: Expressions) -> None:
        self._walk = walk

    def value(self, node: exp.Expr, scope: Scope) -> Flow | None:
        """The flow of the form's value; None for anything else."""
        if not isinstance(node, CHOICES) or not _FOREIGN.isdisjoint(self._walk.record.tree.lexed.words):
            return None
        if isinstance(node, exp.Coalesce):
            return self.united([self.source(item, scope) for item in (node.this, *node.expressions)], node)
        if isinstance(node, exp.Case):
            return self._case(node, scope)
        if isinstance(node, exp.Nullif):
            return self._nullif(node, scope)
        return _bare(self.source(node.this, scope)) if not isinstance(node.this, exp.Distinct | exp.Order) else None

    def picked(self, node: exp.Expr, scope: Scope) -> Flow | None:
        """The flow of a window function that gives another row's value; None for other functions."""
        if not isinstance(node, _PICKING):
            return None
        offset = node.args.get("offset")
        if isinstance(offset, exp.Expr):
            self._walk.condition(offset, scope)
        candidates = [node.this]
        if isinstance(node, exp.Lag | exp.Lead) and isinstance(default := node.args.get("default"), exp.Expr):
            candidates.append(default)
        return _bare(self.united([self.source(item, scope) for item in candidates], node))

    def source(self, node: exp.Expr, scope: Scope) -> Flow:
        """The flow of a candidate, which may be a constant."""
        item = node.this if isinstance(node, exp.Alias) else node
        if not isinstance(item, exp.Null) and extent_of(self._walk.record.tree, item) is not None:
            if isinstance(node, exp.Alias):
                self._walk.visit(node.args.get("alias"))
            return Flow(constants=(item,))
        return self._walk.value(node, scope)

    def united(self, flows: Sequence[Flow], node: exp.Expr) -> Flow:
        """The flow of a value that comes from one of `flows`."""
        columns = [f for f in flows if f.column is not None]
        constants = tuple(c for f in flows for c in f.constants)
        touches: frozenset[object] = frozenset().union(*(f.touches for f in flows))
        plain = [f for f in flows if f.column is None and not f.null and not f.constants]
        if not columns:
            if touches:
                return mixed(*flows)
            return Flow(constants=constants, null=not constants and not plain) if not plain else NOTHING
        if plain:
            for flow in columns:
                self._walk.consume(flow, Use.COMPUTE, node)
            return mixed(*flows)
        first = columns[0]
        assert first.column is not None
        record, token = self._walk.record, self._walk.anchor(node)
        for flow in columns[1:]:
            if flow.column is not None and flow.column != first.column:
                record.united.append(Pair(first.column, flow.column, token))
        for constant in constants:
            self._walk.constant(first, constant, array=False, compared=False, flows=True)
        own_type = len(columns) == len(flows) and all(f.modified for f in columns)
        as_text = any(f.as_text for f in columns)
        return Flow(first.column, mixed(*flows).touches, first.reference, modified=own_type, as_text=as_text)

    def _case(self, node: exp.Case, scope: Scope) -> Flow:
        subject = None if node.this is None else self._walk.value(node.this, scope)
        for branch in node.args.get("ifs") or []:
            if subject is None:
                self._walk.condition(branch.this, scope)
            else:
                self._walk.compare(subject, node.this, branch.this, scope)
        results = [branch.args["true"] for branch in node.args.get("ifs") or []]
        default = node.args.get("default")
        flows = [self.source(item, scope) for item in results]
        flows.append(Flow(null=True) if default is None else self.source(default, scope))
        return self.united(flows, node)

    def _nullif(self, node: exp.Nullif, scope: Scope) -> Flow:
        if extent_of(self._walk.record.tree, node.this) is not None:
            # The constant would be sealed for what it is compared with, and be the result.
            other = self._walk.value(node.expression, scope)
            self._walk.consume(other, Use.COMPUTE, node.expression)
            return mixed(other)
        flow = self._walk.value(node.this, scope)
        self._walk.compare(flow, node.this, node.expression, scope)
        # It is compared as text, and given as what was compared.
        return Flow(flow.column, flow.touches, flow.reference, modified=flow.modified, as_text=True)


def _bare(flow: Flow) -> Flow:
    """The flow of what a function gives: its type is without a modifier."""
    if flow.column is None:
        return mixed(flow)
    return Flow(flow.column, flow.touches, flow.reference, modified=False, as_text=flow.as_text)
