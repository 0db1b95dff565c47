"""Queries: SELECT, set operations, WITH, FROM items; the outputs of each and the flows in them (PostgreSQL manual, chapter 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.expressions import Expressions
from rules.analyse.facts import ColumnUse, Leak, Pair, Use
from rules.analyse.record import Block, Reference, TableUse
from rules.analyse.scope import NOTHING, Entry, Flow, Named, Scope, mixed
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rules.analyse.record import Record, ViewLineage
    from rules.catalog import Relation
    from rules.model import ColumnName

# Functions that have one name only, to PostgreSQL and to sqlglot.
_NAMED_FUNCTIONS = (exp.Count, exp.Max, exp.Min, exp.Sum, exp.Avg, exp.Coalesce, exp.Upper, exp.Lower, exp.RowNumber)
# What PostgreSQL has no name for.
_NAMELESS = (exp.Literal, exp.Null, exp.Binary, exp.Unary, exp.In, exp.Between, exp.Tuple)
_NO_NAME = "?column?"
_MAX_NESTING = 64
_JOIN_KINDS = frozenset({"", "INNER", "CROSS", "OUTER"})
_PLAIN_QUERY = "Write it as SELECT with FROM, WHERE, GROUP BY, HAVING, WINDOW and ORDER BY alone."


class Outputs(list[Named]):
    """A query's output columns. `known` false: a `*` over something whose columns are not known is among them."""

    known: bool = True


class Queries:
    """Walks the queries of one statement. `modify` handles INSERT, UPDATE, DELETE and MERGE in a WITH (`rules.analyse.writes` sets it)."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.expressions = Expressions(record)
        self.expressions.query = self._flows
        self.modify: Callable[[exp.Expr, Scope | None], Outputs] = _no_writes
        self._depth = 0

    def outputs(self, node: exp.Expr, scope: Scope | None) -> Outputs:
        """The output columns of a query, a VALUES list or a parenthesised one. `scope`: the level around it."""
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise RecursionError
        try:
            return self._outputs(node, Scope(scope))
        finally:
            self._depth -= 1

    def _outputs(self, node: exp.Expr, scope: Scope) -> Outputs:
        self.with_clause(node, scope)
        if isinstance(node, exp.Select):
            return self._select(node, scope)
        if isinstance(node, exp.SetOperation):
            return self._set_operation(node, scope)
        if isinstance(node, exp.Subquery):
            inner = self.outputs(node.this, scope)
            self._tail(node, inner, scope)
            return inner
        if isinstance(node, exp.Values):
            return self._values(node, scope)
        if isinstance(node, exp.Table):
            # TABLE name
            scope.star += self.from_item(node, scope)
            return self._star(scope)
        self._unknown(node, "this form of query is not analysed", _PLAIN_QUERY)
        return Outputs()

    def _flows(self, node: exp.Expr, scope: Scope) -> list[Flow]:
        return [named.flow for named in self.outputs(node, scope)]

    # -- WITH

    def with_clause(self, node: exp.Expr, scope: Scope) -> None:
        """Make the CTEs of `node` known to `scope`."""
        clause = node.args.get("with_")
        if clause is None:
            return
        recursive = bool(clause.args.get("recursive"))
        if recursive:
            self._only_backwards(clause.expressions)
        for cte in clause.expressions:
            alias = cte.args.get("alias")
            name = alias.name
            self.expressions.visit(alias.this, *alias.columns)
            entry = scope.ctes[name] = self._cte(cte.this, name, alias, scope, recursive=recursive)
            if cte is clause.expressions[-1]:
                self._search_and_cycle(clause, entry, scope)
            self.record.seen(entry)

    def _search_and_cycle(self, clause: exp.With, entry: Entry, scope: Scope) -> None:
        """The columns that SEARCH and CYCLE add to the last query hold rows of the column that they are about."""
        for key in ("search", "cycle"):
            node = clause.args.get(key)
            if node is None:
                continue
            flow = entry.find(node.name)
            if flow is None:
                self._unknown(node, "SEARCH and CYCLE by a column that is not known", "Name the columns instead of *.")
                flow = NOTHING
            self.expressions.visit(node.this, node.expression)
            self.expressions.consume(flow, Use.COMPUTE, node)
            path = node.args.get("using")
            for item in (node.args.get("to"), node.args.get("default")):
                if isinstance(item, exp.Expr):
                    self.expressions.condition(item, scope)
            if isinstance(path, exp.Identifier):
                self.expressions.visit(path)
                entry.columns.append(Named(node.expression.name, NOTHING))
                entry.columns.append(Named(path.name, mixed(flow)))
            else:
                entry.columns.append(Named(node.expression.name, mixed(flow)))

    def _only_backwards(self, ctes: Sequence[exp.CTE]) -> None:
        """With RECURSIVE a query can name those behind it, and itself: what we would take for a table of that name."""
        names = [cte.args["alias"].name for cte in ctes]
        for position, cte in enumerate(ctes):
            own = isinstance(cte.this, exp.SetOperation)
            ahead = set(names[position + own :]) - set(names[:position])
            for table in cte.this.find_all(exp.Table):
                if not table.db and table.name in ahead:
                    self._unknown(
                        table,
                        "a recursive WITH query that names itself or a later one in this form is not analysed",
                        "Define each WITH query before those that read it, under a name that no table has.",
                    )

    def _cte(self, body: exp.Expr, name: str, alias: exp.TableAlias, scope: Scope, *, recursive: bool) -> Entry:
        if isinstance(body, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            written = self.modify(body, scope)
            return _derived(name, written, alias)
        if recursive and isinstance(body, exp.SetOperation):
            return self._recursive(body, name, alias, scope)
        return _derived(name, self.outputs(body, scope), alias)

    def _recursive(self, body: exp.SetOperation, name: str, alias: exp.TableAlias, scope: Scope) -> Entry:
        """The first arm gives the columns; the second, which reads them, may add nothing of another column's."""
        base = self.outputs(body.this, scope)
        entry = _derived(name, base, alias)
        inner = Scope(scope)
        inner.ctes[name] = entry
        step = self.outputs(body.expression, inner)
        united = self._united(body, [base, step])
        for column, flow in zip(entry.columns, united, strict=False):
            if column.flow.column != flow.flow.column and (column.flow.touches or flow.flow.touches):
                self._unknown(
                    body,
                    "a recursive query whose arms carry different protected columns is not analysed",
                    "Let both arms select the same protected columns at the same places.",
                )
            column.flow = replace(flow.flow, constants=())
        return entry

    # -- SELECT

    def _select(self, node: exp.Select, scope: Scope) -> Outputs:
        block = Block(node, scope)
        self.record.blocks.append(block)
        self.from_clause(node, scope)
        walk = self.expressions
        walk.condition(node.args.get("where"), scope)
        outputs = self.select_list(node.expressions, scope)
        block.outputs = [o.name for o in outputs] if outputs.known else None
        self._windows(node, scope)
        self._distinct(node, outputs, scope)
        self._group(node, outputs, scope)
        walk.condition(node.args.get("having"), scope)
        self._tail(node, outputs, scope)
        self._locks(node, scope)
        into = node.args.get("into")
        if into is not None:
            self.stored_elsewhere(outputs, into)
        for key in (
            "qualify",
            "connect",
            "cluster",
            "sort",
            "distribute",
            "kind",
            "hint",
            "match",
            "laterals",
            "pivots",
            "prewhere",
            "sample",
        ):
            if node.args.get(key):
                self._unknown(node, "this form of query is not analysed", _PLAIN_QUERY)
        return outputs

    def from_clause(self, node: exp.Expr, scope: Scope) -> None:
        """FROM and its joins become the scope's entries and its `*`."""
        clause = node.args.get("from_")
        if clause is not None:
            scope.star += self.from_item(clause.this, scope)
        self._joins(node.args.get("joins") or [], scope)

    def stored_elsewhere(self, outputs: Outputs, node: exp.Expr) -> None:
        """SELECT INTO and CREATE TABLE AS: the values go where nothing protects them."""
        self.expressions.visit(*node.find_all(exp.Identifier))
        token = next(
            (t for i in node.find_all(exp.Identifier) if (t := self.record.tree.token_of(i)) is not None),
            self.record.tree.first,
        )
        for output in outputs:
            self.record.leaks += [Leak(column, token) for column in sorted(output.flow.touches)]

    def select_list(self, expressions: Sequence[exp.Expr], scope: Scope) -> Outputs:
        """The output columns of a select list or RETURNING list."""
        outputs = Outputs()
        for item in expressions:
            if isinstance(item, exp.Star):
                outputs += self._star(scope)
                outputs.known &= scope.star_known
                for entry in scope.entries:
                    for column in entry.columns:
                        self.expressions.read(entry, column.flow, item)
            elif (starred := _starred(item)) is not None:
                self._qualified_star(starred, scope, outputs)
            else:
                flow = self.expressions.choices.source(item, scope)
                direct = _is_reference(item)
                outputs.append(Named(_output_name(item), replace(flow, direct=flow.direct and direct)))
        return outputs

    def _star(self, scope: Scope) -> Outputs:
        found = Outputs(Named(c.name, c.flow) for c in scope.star)
        found.known = scope.star_known
        return found

    def _qualified_star(self, item: exp.Column | exp.Dot, scope: Scope, outputs: Outputs) -> None:
        """`t.*`, `(t.*)`, `(t).*`, and `(e).*` with a value of some composite type, whose columns we don't know."""
        walk = self.expressions
        if isinstance(item, exp.Column):
            walk.visit(*(item.args.get(k) for k in ("table", "db", "catalog")))
            entry = walk.qualified_entry(item, scope)
            if entry is None:
                walk.no_such_table(item)
        else:
            entry = walk.row_entry(item.this, scope)
            if entry is None:
                flow = walk.value(item.this, scope)
                walk.consume(flow, Use.COMPUTE, item)
                outputs.append(Named(None, mixed(flow)))
        if entry is None:
            outputs.known = False
            return
        outputs.known &= not entry.opaque
        for column in entry.columns:
            flow = self.expressions.read(entry, column.flow, item)
            outputs.append(Named(column.name, flow))

    def _windows(self, node: exp.Select, scope: Scope) -> None:
        for window in node.args.get("windows") or []:
            self.expressions.visit(window.this, window.args.get("alias"))
            self.expressions.window(window, scope)

    def _distinct(self, node: exp.Select, outputs: Outputs, scope: Scope) -> None:
        distinct = node.args.get("distinct")
        if distinct is None:
            return
        on = distinct.args.get("on")
        if on is None:
            self._grouped(outputs, node)
            return
        for item in on.expressions if isinstance(on, exp.Tuple) else [on]:
            self._by(item, outputs, scope, Use.GROUP)

    def _grouped(self, outputs: Sequence[Named], node: exp.Expr) -> None:
        for output in outputs:
            self.expressions.consume(output.flow, Use.GROUP, node)

    def _group(self, node: exp.Select, outputs: Outputs, scope: Scope) -> None:
        group = node.args.get("group")
        if group is None:
            return
        self._keyed(node, group, scope)
        pending = list(group.iter_expressions())
        while pending:
            item = pending.pop()
            if isinstance(item, exp.Tuple | exp.Paren | exp.GroupingSets | exp.Cube | exp.Rollup):
                pending += list(item.iter_expressions())
            else:
                self._by(item, outputs, scope, Use.GROUP, output_first=False)

    def _keyed(self, node: exp.Select, group: exp.Group, scope: Scope) -> None:
        """GROUP BY a primary key stands for the table's other columns, but a masking view has no key."""
        grouped = [c for c in group.expressions if isinstance(c, exp.Column)]
        loose = [c for key in ("expressions", "having", "order") for c in _outside_aggregates(node.args.get(key))]
        for entry in scope.entries:
            relation = None if entry.table is None else self.record.tables[entry.table].relation
            if entry.reference is None or relation is None or not relation.primary_key:
                continue
            own = {c.name for c in grouped if c.table in {"", entry.name}}
            key = {c.name for c in relation.columns if c.attnum in relation.primary_key}
            others = {c.name for c in loose if c.table in {"", entry.name} and entry.find(c.name) is not None}
            if key <= own and not others <= own:
                reference = self.record.references[entry.reference]
                reference.obstacle = reference.obstacle or "a masking view has no primary key to group by"

    def _tail(self, node: exp.Expr, outputs: Outputs, scope: Scope) -> None:
        """ORDER BY, LIMIT, OFFSET, FETCH."""
        order = node.args.get("order")
        if order is not None:
            for item in order.expressions:
                self._by(item.this if isinstance(item, exp.Ordered) else item, outputs, scope, Use.ORDER)
        for key in ("limit", "offset"):
            clause = node.args.get(key)
            if clause is not None:
                for child in clause.iter_expressions():
                    if not isinstance(child, exp.LimitOptions):
                        self.expressions.value(child, scope)

    def _by(self, item: exp.Expr, outputs: Outputs, scope: Scope, use: Use, *, output_first: bool = True) -> None:
        """An item of ORDER BY, GROUP BY or DISTINCT ON: an ordinal, an output's name, or an expression.

        ORDER BY takes an output's name before a column's, GROUP BY the other way round.
        """
        token = self.record.tree.constant_token(item)
        if token is not None and self.record.tree.lexed.tokens[token].kind is Kind.NUMBER:
            self.record.significant.add(token)
            number = self.record.tree.lexed.text[
                slice(self.record.tree.lexed.tokens[token].start, self.record.tree.lexed.tokens[token].end)
            ]
            if number.isdigit() and 1 <= int(number) <= len(outputs):
                self.expressions.consume(outputs[int(number) - 1].flow, use, item)
            if not outputs.known:
                self._grouped_all(outputs, use, item)
            return
        if isinstance(item, exp.Column) and not item.table and isinstance(item.this, exp.Identifier):
            named = [o for o in outputs if o.name == item.name]
            if named and (output_first or not scope.own(item.name)):
                self.expressions.visit(item.this)
                self._grouped_all(named, use, item)
                return
            if not scope.unqualified(item.name)[0] and any(o.name is None for o in outputs):
                # The name of one of the outputs, which we can't tell.
                self.expressions.visit(item.this)
                self._grouped_all(outputs, use, item)
                return
        self.expressions.consume(self.expressions.value(item, scope), use, item)

    def _grouped_all(self, outputs: Sequence[Named], use: Use, node: exp.Expr) -> None:
        for output in outputs:
            self.expressions.consume(output.flow, use, node)

    def _locks(self, node: exp.Select, scope: Scope) -> None:
        for lock in node.args.get("locks") or []:
            names = {str(t.name) for t in lock.expressions}
            self.expressions.visit(*(i for t in lock.expressions for i in t.find_all(exp.Identifier)))
            for entry in scope.entries:
                if names and entry.name not in names:
                    continue
                own = [] if entry.reference is None else [entry.reference]
                for reference in [*own, *entry.inside]:
                    self.record.references[reference].obstacle = "rows of a masking view can't be locked"

    # -- set operations and VALUES

    def _set_operation(self, node: exp.SetOperation, scope: Scope) -> Outputs:
        arms = [self.outputs(node.this, scope), self.outputs(node.expression, scope)]
        united = self._united(node, arms)
        self._tail(node, united, Scope(scope))
        return united

    def _united(self, node: exp.SetOperation, arms: list[Outputs]) -> Outputs:
        left, right = arms
        if not (left.known and right.known) or len(left) != len(right):
            self._grouped_all([*left, *right], Use.COMPUTE, node)
            found = Outputs(Named(o.name, mixed(o.flow)) for o in left)
            found.known = False
            return found
        united = Outputs(Named(a.name, self._same(a.flow, b.flow, node)) for a, b in zip(left, right, strict=True))
        if node.args.get("distinct") or not isinstance(node, exp.Union):
            self._grouped(united, node)
            for output in united:
                # As which type constants are compared is decided by now.
                output.flow = replace(output.flow, constants=())
        return united

    def _same(self, left: Flow, right: Flow, node: exp.Expr) -> Flow:
        """The flow of a column that two arms of a set operation give."""
        return self.expressions.choices.united([left, right], node)

    def _values(self, node: exp.Values, scope: Scope) -> Outputs:
        rows = [r.expressions if isinstance(r, exp.Tuple) else [r] for r in node.expressions]
        choices = self.expressions.choices
        columns = [[choices.source(item, scope) for item in row] for row in rows]
        found = Outputs()
        for position in range(len(rows[0]) if rows else 0):
            flow = choices.united([row[position] for row in columns if position < len(row)], node)
            found.append(Named(f"column{position + 1}", flow))
        return found

    # -- FROM items

    def from_item(self, node: exp.Expr, scope: Scope) -> list[Named]:
        """Add one FROM item to the scope, with what is joined to it; its columns as `*` shows them."""
        star = self._parenthesised(node, scope) if _is_join(node) else self._single(node, scope)
        joins = node.args.get("joins")
        if not joins:
            return star
        before, scope.star = scope.star, star
        self._joins(joins, scope)
        star, scope.star = scope.star, before
        return star

    def _single(self, node: exp.Expr, scope: Scope) -> list[Named]:
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            entry = self.relation(node, scope)
        elif isinstance(node, exp.Table):
            entry = self._function(node, scope)
        elif isinstance(node, exp.Subquery):
            entry = self._derived_table(node, scope)
        elif isinstance(node, exp.Lateral):
            entry = self._lateral(node, scope)
        elif isinstance(node, exp.Values):
            alias = node.args.get("alias")
            entry = _derived(alias.name if alias else None, self._values(node, scope), alias)
            if alias:
                self.expressions.visit(alias.this, *alias.columns)
        elif isinstance(node, exp.Unnest):
            entry = self._function(node, scope)
        else:
            self._unknown(
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
            return self.from_item(node.this, scope)
        self.expressions.visit(alias.this, *alias.columns)
        start = len(self.record.references)
        inner = Scope(scope)
        columns = _renamed(self.from_item(node.this, inner), alias)
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
        entry = _derived(alias.name if alias else None, self.outputs(query, scope), alias)
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
        name = alias.name if alias else _function_name(node)
        columns = [Named(c.name, touched) for c in alias.columns] if alias else []
        return Entry(name, columns, opaque=True)

    def relation(self, node: exp.Table, scope: Scope, *, target: bool = False) -> Entry:
        """A table, view or CTE by name."""
        identifiers = [
            node.args[key] for key in ("catalog", "db", "this") if isinstance(node.args.get(key), exp.Identifier)
        ]
        alias = node.args.get("alias")
        self.expressions.visit(*identifiers)
        if alias:
            self.expressions.visit(alias.this, *alias.columns)
        name, schema = node.name, node.db or None
        shown = alias.name if alias and alias.name else name
        if schema is None and not target:
            cte = scope.cte(name)
            if cte is not None:
                self.record.cte_references += [
                    t for i in identifiers if (t := self.record.tree.token_of(i)) is not None
                ]
                return Entry(shown, _renamed(cte.columns, alias), opaque=cte.opaque)
        relation = self.record.database.resolve(schema, name, self.record.search_path)
        use = self._table_use(relation, node, identifiers, shown)
        lineage = None if relation is None else self.record.database.lineage_of(relation)
        if relation is None:
            entry = Entry(shown, _renamed([], alias), opaque=True)
        elif lineage is not None:
            entry = self._view(shown, relation, lineage, alias, node)
        else:
            entry = self._table(shown, relation, node, identifiers, target=target)
        entry.table = use
        return entry

    def _table_use(
        self, relation: Relation | None, node: exp.Table, identifiers: list[exp.Identifier], shown: str
    ) -> int | None:
        """Note where a relation is named."""
        first, last = self.record.tree.token_of(identifiers[0]), self.record.tree.token_of(identifiers[-1])
        if first is None or last is None:
            return None
        alias = node.args.get("alias")
        sampled = node.args.get("sample") or any(isinstance(c, exp.TableSample) for c in node.iter_expressions())
        plain, renamed = not (sampled or node.args.get("only")), bool(alias and alias.columns)
        self.record.tables.append(TableUse(relation, first, last, shown, alias is not None, plain, renamed))
        return len(self.record.tables) - 1

    def _view(
        self, shown: str, relation: Relation, lineage: ViewLineage, alias: exp.TableAlias | None, node: exp.Table
    ) -> Entry:
        self.record.views |= lineage.inside
        token = self.record.tree.token_of(node.this)
        assert token is not None
        # As if the definition stood here.
        self.record.uses += [ColumnUse(u.column, u.use, token, None) for u in lineage.uses]
        self.record.pairs += [Pair(p.left, p.right, token) for p in lineage.pairs]
        self.record.united += [Pair(p.left, p.right, token) for p in lineage.united]
        if not lineage.known:
            self.record.obstacle(
                f'the view "{relation.name}" reads protected columns in a form that is not analysed',
                "Query the tables that it reads.",
                self.record.tree.token_of(node.this),
                lineage.inside,
            )
        columns = [
            Named(c.name, Flow(o.column, o.touches, direct=True))
            for c, o in zip(relation.columns, lineage.columns, strict=False)
        ] or [Named(c.name, NOTHING) for c in relation.columns]
        return Entry(shown, _renamed(columns, alias), relation.name)

    def _table(
        self, shown: str, relation: Relation, node: exp.Table, identifiers: list[exp.Identifier], *, target: bool
    ) -> Entry:
        protected = self.record.database.columns_of(relation)
        alias = node.args.get("alias")
        reference: int | None = None
        if protected and not target:
            first, last = self.record.tree.token_of(identifiers[0]), self.record.tree.token_of(identifiers[-1])
            assert first is not None
            assert last is not None
            made = Reference(relation.name, first, last, alias is not None, self.record.database.replaceable(relation))
            if node.args.get("sample") or any(isinstance(c, exp.TableSample) for c in node.iter_expressions()):
                made.obstacle = "a masking view can't be sampled"
            if node.args.get("only") and relation.children:
                made.obstacle = "a masking view includes the rows of child tables"
            if not made.replaceable:
                made.obstacle = "masking views are made for the table that the rules name, not for its partitions"
            reference = len(self.record.references)
            self.record.references.append(made)
        columns = [
            Named(c.name, _own(protected[c.name], reference) if c.name in protected else NOTHING)
            for c in relation.columns
        ]
        return Entry(shown, _renamed(columns, alias), relation.name, reference, target=target)

    # -- joins

    def _joins(self, joins: Sequence[exp.Join], scope: Scope) -> None:
        group_start = 0
        for join in joins:
            if str(join.args.get("kind") or "") not in _JOIN_KINDS or str(join.args.get("method") or "") not in {
                "",
                "NATURAL",
            }:
                self._unknown(join, "this form of join is not analysed", "Write JOIN ... ON or JOIN ... USING.")
            comma = not any(join.args.get(k) for k in ("kind", "side", "method", "on", "using"))
            left_entries = scope.entries[:] if not comma else []
            if comma:
                group_start = len(scope.star)
            left = scope.star[group_start:]
            right = self.from_item(join.this, scope)
            using = list(join.args.get("using") or [])
            names = [i.name for i in using]
            self.expressions.visit(*using)
            if join.args.get("method") == "NATURAL":
                names = self._natural(left, right, scope, left_entries)
            if names:
                merged = self._merge(names, left, right, scope, str(join.side))
                scope.star = scope.star[:group_start] + merged
                self._using_alias(using, merged[: len(names)], scope)
            else:
                scope.star += right
            self.expressions.condition(join.args.get("on"), scope)

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
            self._unknown(
                None,
                "a NATURAL JOIN with something whose columns are not known",
                "Write JOIN ... USING with the columns.",
            )
        have = {c.name for c in right}
        return [c.name for c in left if c.name is not None and c.name in have]

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

    def _unknown(self, node: exp.Expr | None, message: str, hint: str) -> None:
        anchor = self.expressions.anchor(node) if node is not None else None
        self.record.obstacle(message, hint, anchor, frozenset())


def _outside_aggregates(value: object) -> list[exp.Column]:
    """The column references of expressions that are in no aggregate and in no subquery."""
    pending = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, exp.Expr)]
    found: list[exp.Column] = []
    while pending:
        each = pending.pop()
        if isinstance(each, exp.Column):
            found.append(each)
        elif not isinstance(each, exp.AggFunc | exp.Query):
            pending += list(each.iter_expressions())
    return found


def _own(column: ColumnName, reference: int | None) -> Flow:
    return Flow(column, frozenset({column}), reference, direct=True)


def _renamed(columns: list[Named], alias: exp.TableAlias | None) -> list[Named]:
    names = [c.name for c in alias.columns] if alias else []
    kept = [Named(names[i] if i < len(names) else c.name, c.flow) for i, c in enumerate(columns)]
    return kept + [Named(n, NOTHING) for n in names[len(columns) :]]


def _derived(name: str | None, outputs: Outputs, alias: exp.TableAlias | None) -> Entry:
    columns = [Named(o.name, replace(o.flow, null=False, constants=())) for o in outputs]
    return Entry(name, _renamed(columns, alias), opaque=not outputs.known)


def _is_join(node: exp.Expr) -> bool:
    """Whether a FROM item is a join in parentheses, and no query."""
    if not isinstance(node, exp.Subquery):
        return False
    inner = node.this
    while isinstance(inner, exp.Subquery) and not inner.args.get("joins"):
        inner = inner.this
    return not isinstance(inner, exp.Query) or isinstance(inner, exp.Subquery | exp.Table)


def _starred(item: exp.Expr) -> exp.Column | exp.Dot | None:
    """What stands before the `.*` of an item of a select list; None for any other item."""
    while isinstance(item, exp.Paren):
        item = item.this
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        return item
    return item if isinstance(item, exp.Dot) and isinstance(item.expression, exp.Star) else None


def _is_reference(node: exp.Expr) -> bool:
    while isinstance(node, exp.Alias | exp.Paren):
        node = node.this
    if isinstance(node, exp.Dot):
        return True
    return isinstance(node, exp.Column)


def _output_name(node: exp.Expr) -> str | None:
    """The name that PostgreSQL gives an output column, as far as it is a name (FigureColname)."""
    if isinstance(node, exp.Alias):
        return str(node.alias)
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Column):
        return node.name
    if isinstance(node, exp.Dot):
        return str(node.expression.name)
    if isinstance(node, exp.Cast):
        # A constant gets the name of its type.
        name = _output_name(node.this)
        return None if name == _NO_NAME else name
    if isinstance(node, exp.Collate | exp.Bracket):
        return _output_name(node.this)
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select) and len(node.this.expressions) == 1:
        return _output_name(node.this.expressions[0])
    if isinstance(node, exp.Window | exp.Filter):
        return _output_name(node.this)
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower()
    if isinstance(node, _NAMED_FUNCTIONS):
        return str(node.sql_name()).lower()
    return _NO_NAME if isinstance(node, _NAMELESS) and not isinstance(node, exp.Func) else None


def _function_name(node: exp.Expr) -> str | None:
    inner = node.this
    if isinstance(inner, exp.Anonymous):
        return str(inner.this).lower()
    return str(inner.sql_name()).lower() if isinstance(inner, exp.Func) else None


def _no_writes(_node: exp.Expr, _scope: Scope | None) -> Outputs:
    raise NotImplementedError("the writes walker was not set")
