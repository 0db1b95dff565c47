"""FROM items and joins: the range-table entries that they make, and the columns that `*` shows of them (PostgreSQL manual, 7.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.facts import Pair, Use
from rules.analyse.naming import function_name
from rules.analyse.scope import NOTHING, Entry, Flow, Named, Scope, derived, mixed, renamed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analyse.queries import Queries
    from rules.analyse.relations import Relations

_JOIN_KINDS = frozenset({"", "INNER", "CROSS", "OUTER"})


class FromItems:
    """Walks FROM clauses for Queries."""

    def __init__(self, queries: Queries, relations: Relations) -> None:
        self.record = queries.record
        self.expressions = queries.expressions
        self._queries = queries
        self._relations = relations

    def item(self, node: exp.Expr, scope: Scope) -> list[Named]:
        """Add one FROM item to the scope, with what is joined to it; its columns as `*` shows them."""
        start = len(scope.entries)
        star = self._parenthesised(node, scope) if _is_join(node) else self._single(node, scope)
        joins = node.args.get("joins")
        if not joins:
            return star
        before, scope.star = scope.star, star
        self.joins(joins, scope, start)
        star, scope.star = scope.star, before
        return star

    def _single(self, node: exp.Expr, scope: Scope) -> list[Named]:
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            entry = self._relations.relation(node, scope)
        elif isinstance(node, exp.Table):
            entry = self._function(node, scope)
        elif isinstance(node, exp.Subquery):
            entry = self._derived_table(node, scope)
        elif isinstance(node, exp.Lateral):
            entry = self._lateral(node, scope)
        elif isinstance(node, exp.Values):
            alias = node.args.get("alias")
            entry = derived(alias.name if alias else None, self._queries.values(node, scope), alias)
            if alias:
                self.expressions.visit(alias.this, *alias.columns)
        elif isinstance(node, exp.Unnest):
            entry = self._function(node, scope)
        else:
            self._queries.not_analysed(
                node,
                "this form of FROM item is not analysed",
                "Write it as a table, a subquery or a function with an alias that names its columns: f(...) AS t(a, b).",
            )
            entry = Entry(None, [], opaque=True)
        scope.entries.append(entry)
        self.record.seen(entry)
        scope.star_known &= not entry.opaque
        return list(entry.columns)

    def _parenthesised(self, node: exp.Expr, scope: Scope) -> list[Named]:
        """`(a JOIN b ...)`: without an alias its entries are the level's own; with one they are hidden behind it."""
        alias = node.args.get("alias")
        if not alias:
            return self.item(node.this, scope)
        self.expressions.visit(alias.this, *alias.columns)
        start = len(self.record.references)
        inner = Scope(scope)
        columns = renamed(self.item(node.this, inner), alias)
        inside = range(start, len(self.record.references))
        entry = Entry(alias.name, columns, opaque=not inner.star_known, inside=inside)
        scope.entries.append(entry)
        self.record.seen(entry)
        scope.star_known &= inner.star_known
        return list(columns)

    def _derived_table(self, node: exp.Subquery, scope: Scope) -> Entry:
        alias = node.args.get("alias")
        if alias:
            self.expressions.visit(alias.this, *alias.columns)
        # A plain derived table does not see its siblings; the level around the whole query it does.
        return self._subquery(node.this, alias, scope.without_siblings())

    def _subquery(self, query: exp.Expr, alias: exp.TableAlias | None, scope: Scope) -> Entry:
        start = len(self.record.references)
        entry = derived(alias.name if alias else None, self._queries.outputs(query, scope), alias)
        entry.inside = range(start, len(self.record.references))
        return entry

    def _lateral(self, node: exp.Lateral, scope: Scope) -> Entry:
        alias = node.args.get("alias")
        if alias:
            self.expressions.visit(alias.this, *alias.columns)
        inner = node.this
        if isinstance(inner, exp.Subquery):
            return self._subquery(inner.this, alias, scope)
        self.expressions.consume(self.expressions.value(inner, scope), Use.COMPUTE, inner)
        return Entry(alias.name if alias else None, [], opaque=True)

    def _function(self, node: exp.Expr, scope: Scope) -> Entry:
        """A function in FROM: what goes in is worked on; what comes out has columns that we don't know."""
        alias = node.args.get("alias")
        if alias:
            self.expressions.visit(alias.this, *(i for c in alias.columns for i in c.find_all(exp.Identifier)))
        skip = {id(alias)} | {id(j) for j in node.args.get("joins") or []}
        touched = NOTHING
        for child in node.iter_expressions():
            if id(child) in skip:
                continue
            for part in [child, *(child.args.get("rows_from") or [])]:
                flow = self.expressions.value(part, scope)
                self.expressions.consume(flow, Use.COMPUTE, part)
                touched = mixed(touched, flow)
        name = alias.name if alias else function_name(node)
        columns = [Named(c.name, touched) for c in alias.columns] if alias else []
        return Entry(name, columns, opaque=True)

    # -- joins

    def joins(self, joins: Sequence[exp.Join], scope: Scope, first: int = 0) -> None:
        """Add what is joined to the level\'s entries and its `*`. `first`: the entry that is joined to."""
        group_start = 0
        for join in joins:
            if str(join.args.get("kind") or "") not in _JOIN_KINDS or str(join.args.get("method") or "") not in {
                "",
                "NATURAL",
            }:
                self._queries.not_analysed(
                    join, "this form of join is not analysed", "Write JOIN ... ON or JOIN ... USING."
                )
            comma = not any(join.args.get(k) for k in ("kind", "side", "method", "on", "using"))
            left_entries = scope.entries[:] if not comma else []
            if comma:
                group_start = len(scope.star)
                first = len(scope.entries)
            self.record.spend(len(scope.entries) // 64 + len(scope.star) // 256)
            left = scope.star[group_start:]
            middle = len(scope.entries)
            right = self.item(join.this, scope)
            using = list(join.args.get("using") or [])
            names = [i.name for i in using]
            self.expressions.visit(*using)
            if join.args.get("method") == "NATURAL":
                names = self._natural(left, right, scope, left_entries)
            if names:
                self._doubt_merging(names, (left, scope.entries[first:middle]), (right, scope.entries[middle:]))
                merged = self._merge(names, left, right, scope, str(join.side))
                scope.star = scope.star[:group_start] + merged
                self._using_alias(using, merged[: len(names)], scope)
            else:
                scope.star += right
            condition = join.args.get("on")
            self._sees_only_the_join(condition, scope.entries[:first], scope.entries[first:])
            self.expressions.condition(condition, scope)

    def _sees_only_the_join(self, condition: exp.Expr | None, before: list[Entry], joined: list[Entry]) -> None:
        """The condition of a join sees what is joined, and then what is around the query, but not FROM items before the join."""
        if condition is None or not before:
            return
        for column in condition.find_all(exp.Column):
            name = column.table or column.name
            if any(e.name == name or (not column.table and _may_have(e, name)) for e in joined):
                continue
            if any(e.name == name or (not column.table and _may_have(e, name)) for e in before):
                self._queries.not_analysed(
                    column,
                    "the condition of a join names a FROM item that it does not see",
                    "Write the condition in WHERE, or rename the item in FROM.",
                )

    def _using_alias(self, using: Sequence[exp.Identifier], merged: list[Named], scope: Scope) -> None:
        """USING (...) AS alias: the merged columns under a name of their own."""
        first = self.record.tree.token_of(using[0]) if using else None
        token = None if first is None else self.record.tree.normal.join_aliases.get(first)
        if token is not None:
            entry = Entry(self.record.tree.lexed.tokens[token].value, merged)
            self.record.visited.add(token)
            scope.entries.append(entry)
            self.record.seen(entry)

    def _natural(self, left: list[Named], right: list[Named], scope: Scope, entries: Sequence[Entry]) -> list[str]:
        if any(e.opaque for e in [*entries, scope.entries[-1]]) and any(c.flow.touches for c in [*left, *right]):
            self._queries.not_analysed(
                None,
                "a NATURAL JOIN with something whose columns are not known",
                "Write JOIN ... USING with the columns.",
            )
        have = {c.name for c in right}
        return [c.name for c in left if c.name is not None and c.name in have]

    def _doubt_merging(self, names: list[str], *sides: tuple[list[Named], list[Entry]]) -> None:
        """The server would refuse a name that one side has not. A function of one column gives it the name that it has in FROM."""
        for columns, entries in sides:
            have = {c.name for c in columns} | {e.name for e in entries if e.opaque}
            self.record.doubtful |= not have.issuperset(names)

    def _merge(self, names: list[str], left: list[Named], right: list[Named], scope: Scope, side: str) -> list[Named]:
        """USING and NATURAL: the common columns come once, first (PostgreSQL manual, 7.2.1.1)."""
        merged: list[Named] = []
        for name in names:
            first = next((c.flow for c in left if c.name == name), NOTHING)
            second = next((c.flow for c in right if c.name == name), NOTHING)
            for flow in (first, second):
                if flow.reference is not None:
                    self.record.references[flow.reference].columns |= flow.touches
            if first.column is not None and second.column is not None:
                self.record.pairs.append(Pair(first.column, second.column, self.record.tree.first))
                self.record.use(first, Use.EQUAL_COLUMN, self.record.tree.first)
                self.record.use(second, Use.EQUAL_COLUMN, self.record.tree.first)
                shown = second if side == "RIGHT" else first
                flow = Flow(
                    shown.column, first.touches | second.touches, shown.reference, side != "FULL" and shown.direct
                )
            else:
                self.record.use(first, Use.COMPUTE, self.record.tree.first)
                self.record.use(second, Use.COMPUTE, self.record.tree.first)
                flow = mixed(first, second)
            scope.merged[name] = flow
            merged.append(Named(name, flow))
        common = set(names)
        rest = [c for c in left if c.name not in common] + [c for c in right if c.name not in common]
        return merged + rest


def _may_have(entry: Entry, name: str) -> bool:
    return entry.opaque or bool(entry.unnamed) or entry.find(name) is not None


def _is_join(node: exp.Expr) -> bool:
    """Whether a FROM item is a join in parentheses, and no query."""
    if not isinstance(node, exp.Subquery):
        return False
    inner = node.this
    while isinstance(inner, exp.Subquery) and not inner.args.get("joins"):
        inner = inner.this
    return not isinstance(inner, exp.Query) or isinstance(inner, exp.Subquery | exp.Table)
