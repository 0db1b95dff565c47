"""INSERT, UPDATE, DELETE and MERGE: what is stored where, and what is read of the relation that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.constants import extent_of
from rules.analyse.facts import Leak, Pair, Stored, Use
from rules.analyse.merges import Merges
from rules.analyse.scope import NOTHING, Entry, Flow, Named, Outputs, Scope
from rules.analyse.tree import ParseError
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.analyse.queries import Queries
    from rules.model import ColumnName

_DEFAULTS = frozenset({"default"})
_PLAIN_INSERT = "Write INSERT INTO table (columns) VALUES or SELECT."
_EACH_COLUMN = "Write SET column = value for each column."


class Writes:
    """Walks data-modifying statements; shares the record and the walkers of `queries`."""

    def __init__(self, queries: Queries) -> None:
        self.queries = queries
        self.record = queries.record
        self.expressions = queries.expressions
        self._changing = False
        queries.modify = self.outputs

    def outputs(self, node: exp.Expr, scope: Scope | None) -> Outputs:
        """The RETURNING columns of a data-modifying statement (none without RETURNING)."""
        inner = Scope(scope)
        self.queries.with_clause(node, inner)
        if isinstance(node, exp.Insert):
            return self._insert(node, inner)
        if isinstance(node, exp.Update):
            return self._update(node, inner)
        if isinstance(node, exp.Merge):
            return Merges(self).outputs(node, inner)
        assert isinstance(node, exp.Delete)
        return self._delete(node, inner)

    # -- INSERT

    def _insert(self, node: exp.Insert, scope: Scope) -> Outputs:
        schema = node.this
        table = schema.this if isinstance(schema, exp.Schema) else schema
        if not isinstance(table, exp.Table):
            self.unknown_form("this form of INSERT is not analysed", _PLAIN_INSERT)
            return Outputs()
        for key in ("where", "partition", "settings", "overwrite", "exists", "by_name", "hint"):
            if node.args.get(key):
                self.unknown_form("this form of INSERT is not analysed", _PLAIN_INSERT)
        alias = node.args.get("alias")
        if isinstance(alias, exp.TableAlias | exp.Identifier):
            self.expressions.visit(alias, getattr(alias, "this", None))
            shown: str | None = alias.name
        else:
            shown = None
        target = self.target(table, scope)
        self.record.written.append(None)
        if shown:
            target.name = shown
        if isinstance(schema, exp.Schema):
            self.expressions.visit(*(i for item in schema.expressions for i in item.find_all(exp.Identifier)))
            names = [item.name for item in schema.expressions]
        else:
            names = [c.name or "" for c in target.columns]
        self._source(node.args.get("expression"), names, target, scope)
        self._conflict(node.args.get("conflict"), target, scope)
        return self._returning(node, target, scope)

    def target(self, table: object, scope: Scope) -> Entry:
        """The relation that is written. Raises ParseError where the parser has found none: the text is not SQL."""
        if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
            raise ParseError("the statement names no relation to write")
        entry = self.queries.relations.relation(table, scope, target=True)
        if entry.relation is not None:
            self.record.targets.append(entry.relation)
        self.record.seen(entry)
        return entry

    def _source(self, source: exp.Expr | None, names: Sequence[str], target: Entry, scope: Scope) -> None:
        while isinstance(source, exp.Subquery) and not _has_tail(source):
            source = source.this
        if source is None:
            return
        if isinstance(source, exp.Values):
            for row in source.expressions:
                items = row.expressions if isinstance(row, exp.Tuple) else [row]
                for position, item in enumerate(items):
                    self.assign(target, names[position] if position < len(names) else None, item, scope)
            return
        if isinstance(source, exp.Select) and source.args.get("from_") is None and not source.args.get("with_"):
            for position, item in enumerate(source.expressions):
                value = item.this if isinstance(item, exp.Alias) else item
                self.assign(target, names[position] if position < len(names) else None, value, scope)
            self.expressions.condition(source.args.get("where"), scope)
            return
        outputs = self.queries.outputs(source, scope)
        if not outputs.known and self.protected(target):
            self.unknown_form(
                "an INSERT whose query has columns that are not known", "Name the columns of the query instead of *."
            )
        for position, output in enumerate(outputs):
            node = _shown_by(source, position, len(outputs))
            self._store(target, names[position] if position < len(names) else None, output.flow, node)

    def _conflict(self, conflict: exp.Expr | None, target: Entry, scope: Scope) -> None:
        if conflict is None:
            return
        # To read EXCLUDED's columns the server asks the privilege to read the table's.
        excluded = Entry(
            "excluded",
            [Named(c.name, Flow(c.flow.column, c.flow.touches)) for c in target.columns],
            opaque=target.opaque,
            target=True,
        )
        inner = Scope(scope, [target, excluded])
        only_target = Scope(scope, [target])
        for key in conflict.args.get("conflict_keys") or []:
            item = key.this if isinstance(key, exp.Ordered) else key
            flow = self.expressions.value(item, only_target)
            self.expressions.consume(flow, Use.GROUP, item)
        self.expressions.visit(conflict.args.get("constraint"))
        self.expressions.condition(conflict.args.get("index_predicate"), only_target)
        self.assignments(conflict.expressions, target, inner)
        self.expressions.condition(conflict.args.get("where"), inner)

    # -- UPDATE and DELETE

    def _update(self, node: exp.Update, scope: Scope) -> Outputs:
        target = self.target(node.this, scope)
        self.record.written.append(target.table)
        scope.entries.append(target)
        self._other_relations(node, scope)
        self.assignments(node.expressions, target, scope)
        self.expressions.condition(node.args.get("where"), scope)
        return self._returning(node, target, scope)

    def _delete(self, node: exp.Delete, scope: Scope) -> Outputs:
        target = self.target(node.this, scope)
        self.record.written.append(target.table)
        scope.entries.append(target)
        for item in node.args.get("using") or []:
            scope.star += self.queries.from_items.item(item, scope)
        self.expressions.condition(node.args.get("where"), scope)
        # A deleted row's values are gone: an operation on each of its protected columns.
        for name in sorted(self.protected(target)):
            self.record.stored.append(Stored(name, "destroyed", self.record.tree.first))
        return self._returning(node, target, scope)

    def _other_relations(self, node: exp.Update, scope: Scope) -> None:
        self.queries.from_clause(node, scope)
        if node.this.args.get("joins") or node.args.get("order") or node.args.get("limit"):
            self.unknown_form(
                "this form of UPDATE is not analysed", "Write UPDATE table SET column = value FROM ... WHERE."
            )

    def assignments(self, items: Sequence[exp.Expr], target: Entry, scope: Scope) -> None:
        """What stands behind SET."""
        self._changing = True
        for item in items:
            self._assignment(item, target, scope)
        self._changing = False

    def _assignment(self, item: exp.Expr, target: Entry, scope: Scope) -> None:
        if not isinstance(item, exp.EQ):
            self.unknown_form("this form of SET is not analysed", _EACH_COLUMN)
            self.expressions.condition(item, scope)
            return
        left, right = item.this, item.expression
        if isinstance(left, exp.Tuple | exp.Paren):
            self._assign_row(left, right, target, scope)
        elif isinstance(left, exp.Column):
            self.assign(target, self._left(left), right, scope)
        else:
            self._partial(left, right, target, scope)

    def _left(self, node: exp.Column) -> str:
        self.expressions.visit(*(node.args.get(k) for k in ("this", "table", "db")))
        return node.name

    def _partial(self, left: exp.Expr, right: exp.Expr, target: Entry, scope: Scope) -> None:
        """`SET a[1] = x` and `SET c.f = x`: part of a column."""
        for column in left.find_all(exp.Column):
            flow = target.find(column.name)
            if flow is not None and flow.touches:
                self.unknown_form(
                    "an assignment to a part of a protected column", "Assign the whole column.", flow.touches
                )
        self.expressions.condition(left, scope)
        self.expressions.condition(right, scope)

    def _assign_row(self, left: exp.Expr, right: exp.Expr, target: Entry, scope: Scope) -> None:
        columns = left.expressions if isinstance(left, exp.Tuple) else [left.this]
        names = [self._left(c) if isinstance(c, exp.Column) else None for c in columns]
        source = right
        while isinstance(source, exp.Subquery):
            source = source.this
        if isinstance(source, exp.Query):
            outputs = self.queries.outputs(source, scope)
            for position, (name, output) in enumerate(zip(names, outputs, strict=False)):
                self._store(target, name, output.flow, _shown_by(source, position, len(outputs)))
            if len(outputs) != len(names) or not outputs.known:
                self.unknown_form("a row assignment whose columns are not known", _EACH_COLUMN, self.protected(target))
            return
        values = (
            right.expressions
            if isinstance(right, exp.Tuple)
            else [right.this if isinstance(right, exp.Paren) else right]
        )
        if isinstance(right, exp.Anonymous | exp.Struct):
            values = right.expressions
        if len(values) != len(names):
            self.unknown_form("a row assignment whose columns are not known", _EACH_COLUMN, self.protected(target))
            self.expressions.condition(right, scope)
            return
        for name, value in zip(names, values, strict=True):
            self.assign(target, name, value, scope)

    # -- values into columns

    def assign(self, target: Entry, name: str | None, value: exp.Expr, scope: Scope) -> None:
        """`value` is stored in the target's column `name`."""
        flow = target.find(name) if name is not None else None
        if _is_default(value) and (flow is None or flow.column is None):
            self.expressions.visit(*value.find_all(exp.Identifier))
            return
        if flow is None or flow.column is None:
            self._store(target, name, self.expressions.value(value, scope), value)
            return
        token = self.expressions.anchor(value)
        if _is_null(value) or _is_default(value):
            self.record.stored.append(Stored(flow.column, "null", token, changes=self._changing))
            if not isinstance(value, exp.Null):
                self.expressions.visit(*value.find_all(exp.Identifier))
        elif self.expressions.constant(flow, value, array=False, compared=False):
            self.record.stored.append(Stored(flow.column, "constant", token, self._place(target, name), self._changing))
        else:
            self._store(target, name, self.expressions.value(value, scope), value)

    def _store(self, target: Entry, name: str | None, source: Flow, node: exp.Expr) -> None:
        """A value of some flow is stored in the target's column `name`."""
        into = (target.find(name) if name is not None else None) or NOTHING
        token = self.expressions.anchor(node)
        if into.column is None:
            self.record.leaks += [Leak(column, token) for column in sorted(source.touches)]
            return
        if source.null:
            kind = "null"
        elif self._seals(source, into):
            kind = "constant"
        elif source.column is not None:
            kind = "column"
            self.record.copies.append(Pair(into.column, source.column, token))
        else:
            kind = "other"
        self.record.stored.append(Stored(into.column, kind, token, self._place(target, name), self._changing))
        if kind == "other":
            self.record.copies += [Pair(into.column, column, token) for column in sorted(source.touches)]

    def _place(self, target: Entry, name: str | None) -> tuple[int, int, str] | None:
        """Where the text names the relation that is written, and the column's name there."""
        if target.table is None or name is None:
            return None
        table = self.record.tables[target.table]
        return table.first, table.last, name

    def _seals(self, source: Flow, into: Flow) -> bool:
        """Whether the value is one of some constants, which are sealed where they stand."""
        if not source.constants or source.touches:
            return False
        if len(source.constants) > 1:
            # Beside a number, a string would be read as one.
            tokens = self.record.tree.lexed.tokens
            extents = [extent_of(self.record.tree, c) for c in source.constants]
            if any(e is None or tokens[e.token].kind is Kind.NUMBER or e.casts for e in extents):
                return False
        several = len(source.constants) > 1
        return all(
            self.expressions.constant(into, c, array=False, compared=False, text=several) for c in source.constants
        )

    # -- RETURNING

    def _returning(self, node: exp.Expr, target: Entry, scope: Scope) -> Outputs:
        clause = node.args.get("returning")
        if clause is None:
            return Outputs()
        others = [e for e in scope.entries if e is not target]
        star = [Named(c.name, c.flow) for c in target.columns] + scope.star
        old_new = self.old_and_new(clause, target, others)
        inner = Scope(
            scope.parent,
            [target, *others],
            star,
            scope.star_known and not target.opaque,
            dict(scope.merged),
            scope.ctes,
        )
        if old_new:
            # A bare column name means the target's own, which is found first.
            inner.parent = Scope(scope.parent, old_new, ctes=scope.ctes)
        return self.queries.select_list(clause.expressions, inner)

    def old_and_new(self, clause: exp.Expr, target: Entry, others: Sequence[Entry]) -> list[Entry]:
        """The rows before and after, by the names that they have in a RETURNING list; an entry of such a name hides them."""
        tokens = (self.record.tree.token_of(i) for i in clause.find_all(exp.Identifier, exp.Star))
        names = self.record.tree.normal.row_names(min((t for t in tokens if t is not None), default=None))
        hidden = {e.name for e in [target, *others]}
        return [
            Entry(name, target.columns, opaque=target.opaque, target=True)
            for name in names.values()
            if name not in hidden
        ]

    def protected(self, target: Entry) -> frozenset[ColumnName]:
        """The protected columns of the relation that is written."""
        return frozenset(c.flow.column for c in target.columns if c.flow.column is not None)

    def unknown_form(self, message: str, hint: str, columns: frozenset[ColumnName] = frozenset()) -> None:
        """Note a form that is not analysed, and what to write instead."""
        self.record.obstacle(message, hint, None, columns)


def _is_null(node: exp.Expr) -> bool:
    """NULL, or NULL of some type: programs that write values into the text give each its type."""
    while isinstance(node, exp.Paren) or (isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast)):
        node = node.this
    return isinstance(node, exp.Null)


def _is_default(node: exp.Expr) -> bool:
    return (isinstance(node, exp.Var) and node.name.lower() in _DEFAULTS) or (
        isinstance(node, exp.Column) and not node.table and node.name.lower() in _DEFAULTS and not node.this.quoted
    )


def _shown_by(query: exp.Expr, position: int, count: int) -> exp.Expr:
    """The expression of a query that gives its column `position` of `count`; the query where none does by itself."""
    items = query.expressions if isinstance(query, exp.Select) else []
    return items[position] if len(items) == count else query


def _has_tail(node: exp.Expr) -> bool:
    return any(node.args.get(key) for key in ("order", "limit", "offset", "with_"))
