"""MERGE: what each of its actions reads and stores (PostgreSQL manual, MERGE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.facts import Stored
from rules.analyse.scope import Entry, Named, Outputs, Scope
from rules.analyse.tree import ParseError

if TYPE_CHECKING:
    from rules.analyse.writes import Writes

_KNOWN = frozenset({"this", "using", "on", "using_cond", "whens", "with_", "returning"})
_DELETE, _NOTHING = "delete", "do nothing"
_PLAIN_MERGE = "Write it as INSERT, UPDATE and DELETE, one after the other."


class Merges:
    """Walks MERGE for Writes."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._queries = writes.queries
        self._expressions = writes.expressions
        self._record = writes.record

    def outputs(self, node: exp.Merge, scope: Scope) -> Outputs:
        """The RETURNING columns. `scope`: holds the statement's WITH, and nothing else yet."""
        using = node.args.get("using")
        if (
            not isinstance(node.this, exp.Table)
            or using is None
            or any(v for k, v in node.args.items() if k not in _KNOWN)
        ):
            self._writes.unknown_form("this form of MERGE is not analysed", _PLAIN_MERGE)
            return Outputs()
        scope.star += self._queries.from_items.item(using, scope)
        target = self._writes.target(node.this, scope)
        self._record.written.append(None)
        both = self._level(scope, [target, *scope.entries])
        self._expressions.condition(node.args.get("on"), both)
        levels = {True: both, False: scope, None: self._level(scope, [target])}
        whens = node.args.get("whens")
        for when in whens.expressions if whens is not None else []:
            matched = bool(when.args.get("matched"))
            level = levels[None if when.args.get("source") and not matched else matched]
            self._expressions.condition(when.args.get("condition"), level)
            self._action(when.args.get("then"), target, level)
        return self._returning(node, target, scope)

    def _level(self, scope: Scope, entries: list[Entry]) -> Scope:
        return Scope(scope.parent, entries, merged=dict(scope.merged) if len(entries) > 1 else {}, ctes=scope.ctes)

    def _action(self, action: exp.Expr | None, target: Entry, level: Scope) -> None:
        if isinstance(action, exp.Update):
            self._writes.assignments(action.expressions, target, level)
        elif isinstance(action, exp.Insert):
            self._insert(action, target, level)
        elif isinstance(action, exp.Var) and action.name.lower() == _DELETE:
            for name in sorted(self._writes.protected(target)):
                self._record.stored.append(Stored(name, "destroyed", self._record.tree.first))
        elif not (isinstance(action, exp.Var) and action.name.lower() == _NOTHING):
            self._writes.unknown_form(
                "this form of MERGE is not analysed", _PLAIN_MERGE, self._writes.protected(target)
            )

    def _insert(self, action: exp.Insert, target: Entry, level: Scope) -> None:
        columns, values = action.this, action.expression
        if not all(isinstance(part, exp.Expr) or part is None for part in (columns, values)):
            raise ParseError("MERGE inserts nothing")
        named = _items(columns)
        if columns is not None and not all(isinstance(c, exp.Column) for c in named):
            self._writes.unknown_form(
                "this form of MERGE is not analysed", _PLAIN_MERGE, self._writes.protected(target)
            )
            return
        if columns is not None:
            self._expressions.visit(*(i for c in named for i in c.find_all(exp.Identifier)))
        names = [c.name for c in named] if columns is not None else [c.name for c in target.columns]
        for position, value in enumerate(_items(values)):
            self._writes.assign(target, names[position] if position < len(names) else None, value, level)

    def _returning(self, node: exp.Merge, target: Entry, scope: Scope) -> Outputs:
        clause = node.args.get("returning")
        if clause is None:
            return Outputs()
        level = self._level(scope, [target, *scope.entries])
        level.star = [*scope.star, *(Named(c.name, c.flow) for c in target.columns)]
        level.star_known = scope.star_known and not target.opaque
        rows = self._writes.old_and_new(clause, target, level.entries)
        if rows:
            level.parent = Scope(scope.parent, rows, ctes=scope.ctes)
        return self._queries.select_list(clause.expressions, level)


def _items(node: exp.Expr | None) -> list[exp.Expr]:
    if node is None:
        return []
    if isinstance(node, exp.Tuple):
        return list(node.expressions)
    return [node.this] if isinstance(node, exp.Paren) else [node]
