"""Queries: SELECT, set operations, WITH; the outputs of each and the flows in them (PostgreSQL manual, chapter 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.expressions import Expressions
from rules.analyse.facts import Leak, Use
from rules.analyse.from_items import FromItems
from rules.analyse.naming import is_reference, output_name, starred
from rules.analyse.record import Block
from rules.analyse.relations import Relations
from rules.analyse.scope import NOTHING, Entry, Flow, Named, Outputs, Scope, derived, mixed
from rules.budget import TOO_DEEP, TooComplexError, check_width
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rules.analyse.record import Record

MAX_NESTING = 64
_OWN = ("with_", "order", "limit", "offset")  # what a set operation has beside its arms
_PLAIN_QUERY = "Write it as SELECT with FROM, WHERE, GROUP BY, HAVING, WINDOW and ORDER BY alone."


class Queries:
    """Walks the queries of one statement. `modify` handles INSERT, UPDATE, DELETE and MERGE in a WITH (`rules.analyse.writes` sets it)."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.expressions = Expressions(record)
        self.expressions.query = self._flows
        self.relations = Relations(record, self.expressions)
        self.from_items = FromItems(self, self.relations)
        self.modify: Callable[[exp.Expr, Scope | None], Outputs] = _no_writes
        self._depth = 0

    def outputs(self, node: exp.Expr, scope: Scope | None) -> Outputs:
        """The output columns of a query, a VALUES list or a parenthesised one. `scope`: the level around it."""
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise TooComplexError(TOO_DEEP)
        try:
            outputs = self._outputs(node, Scope(scope))
        finally:
            self._depth -= 1
        check_width(len(outputs))
        self.record.spend(1 + len(outputs))
        return outputs

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
            return self.values(node, scope)
        if isinstance(node, exp.Table):
            # TABLE name
            scope.star += self.from_items.item(node, scope)
            return self._star(scope)
        self.not_analysed(node, "this form of query is not analysed", _PLAIN_QUERY)
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
                self.not_analysed(
                    node, "SEARCH and CYCLE by a column that is not known", "Name the columns instead of *."
                )
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
        last = {name: position for position, name in enumerate(names)}
        first = {name: position for position, name in reversed([*enumerate(names)])}
        for position, cte in enumerate(ctes):
            own = isinstance(cte.this, exp.SetOperation)
            base = {id(t) for t in cte.this.this.find_all(exp.Table)} if own else frozenset()
            for table in cte.this.find_all(exp.Table):
                # Of what bears its name none stands before this one, so it can only be this one or one behind.
                strange = first.get(table.name, -1) >= position
                itself = id(table) in base and table.name == names[position]
                if not table.db and strange and (last[table.name] >= position + own or itself):
                    self.not_analysed(
                        table,
                        "a recursive WITH query that names itself or a later one in this form is not analysed",
                        "Define each WITH query before those that read it, under a name that no table has.",
                    )

    def _cte(self, body: exp.Expr, name: str, alias: exp.TableAlias, scope: Scope, *, recursive: bool) -> Entry:
        if isinstance(body, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            written = self.modify(body, scope)
            return derived(name, written, alias)
        if recursive and isinstance(body, exp.SetOperation):
            return self._recursive(body, name, alias, scope)
        return derived(name, self.outputs(body, scope), alias)

    def _recursive(self, body: exp.SetOperation, name: str, alias: exp.TableAlias, scope: Scope) -> Entry:
        """The first arm gives the columns; the second, which reads them, may add nothing of another column's."""
        base = self.outputs(body.this, scope)
        entry = derived(name, base, alias)
        inner = Scope(scope)
        inner.ctes[name] = entry
        step = self.outputs(body.expression, inner)
        united = self._united(body, [base, step])
        for column, flow in zip(entry.columns, united, strict=False):
            if column.flow.column != flow.flow.column and (column.flow.touches or flow.flow.touches):
                # The second arm has read the column for something else than it is.
                self.expressions.consume(column.flow, Use.COMPUTE, body)
                self.expressions.consume(flow.flow, Use.COMPUTE, body)
                column.flow = mixed(column.flow, flow.flow)
            else:
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
        self._locks(node)
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
                self.not_analysed(node, "this form of query is not analysed", _PLAIN_QUERY)
        return outputs

    def from_clause(self, node: exp.Expr, scope: Scope) -> None:
        """FROM and its joins become the scope's entries and its `*`."""
        clause = node.args.get("from_")
        if clause is not None:
            scope.star += self.from_items.item(clause.this, scope)
        self.from_items.joins(node.args.get("joins") or [], scope)

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
            check_width(len(outputs))
            if isinstance(item, exp.Star):
                outputs += self._star(scope)
                outputs.known &= scope.star_known
                for entry in scope.entries:
                    for column in entry.columns:
                        self.expressions.read(entry, column.flow, item)
            elif (row := starred(item)) is not None:
                self._qualified_star(row, scope, outputs)
            else:
                flow = self.expressions.choices.source(item, scope)
                direct = is_reference(item)
                outputs.append(Named(output_name(item), replace(flow, direct=flow.direct and direct)))
        return outputs

    def _star(self, scope: Scope) -> Outputs:
        check_width(len(scope.star))
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
            self.record.spend((len(grouped) + len(loose)) // 8)
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
        self.record.spend(len(outputs) // 16)
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

    def _locks(self, node: exp.Select) -> None:
        for lock in node.args.get("locks") or []:
            self.expressions.visit(*(i for t in lock.expressions for i in t.find_all(exp.Identifier)))

    # -- set operations and VALUES

    def _set_operation(self, node: exp.SetOperation, scope: Scope) -> Outputs:
        # They nest to the left, however many there are.
        chain = [node]
        while isinstance(left := chain[-1].this, exp.SetOperation) and not any(left.args.get(k) for k in _OWN):
            chain.append(left)
        united = self.outputs(chain[-1].this, scope)
        for each in reversed(chain):
            united = self._united(each, [united, self.outputs(each.expression, scope)])
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

    def values(self, node: exp.Values, scope: Scope) -> Outputs:
        """The columns of a VALUES list."""
        rows = [r.expressions if isinstance(r, exp.Tuple) else [r] for r in node.expressions]
        choices = self.expressions.choices
        columns = [[choices.source(item, scope) for item in row] for row in rows]
        found = Outputs()
        for position in range(len(rows[0]) if rows else 0):
            flow = choices.united([row[position] for row in columns if position < len(row)], node)
            found.append(Named(f"column{position + 1}", flow))
        return found

    def not_analysed(self, node: exp.Expr | None, message: str, hint: str) -> None:
        """Note a form that is not analysed."""
        anchor = self.expressions.anchor(node) if node is not None else None
        self.record.obstacle(message, hint, anchor, unread=True)


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


def _no_writes(_node: exp.Expr, _scope: Scope | None) -> Outputs:
    raise NotImplementedError("the writes walker was not set")
