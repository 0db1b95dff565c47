"""Expressions: the flow of each, and a note of every use of a protected value on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.choices import Choices
from rules.analyse.constants import extent_of
from rules.analyse.facts import ColumnUse, Constant, Pair, Use
from rules.analyse.scope import NOTHING, SYSTEM_COLUMNS, Entry, Flow, Scope, mixed
from rules.analyse.sites import note_site
from rules.analyse.tree import operands
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rules.analyse.record import Record

_EQUALITIES = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)
_ORDERINGS = (exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between)
_BOOLEAN = (exp.And, exp.Or, exp.Not, exp.Paren, exp.Where, exp.Having)
_ARRAY_FUNCTIONS = frozenset({"all", "some", "any"})
_MISSING_HINT = (
    "If it was made a moment ago, try again; if it exists all the same, write the statement in a plainer form."
)


class Expressions:
    """Walks expressions of one statement. `query` gives the outputs of a subquery (`rules.analyse.queries` sets it)."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.query: Callable[[exp.Expr, Scope], list[Flow]] = _no_queries
        self.choices = Choices(self)

    def value(self, node: exp.Expr, scope: Scope) -> Flow:
        """The flow of an expression's value."""
        self.record.spend()
        if isinstance(node, exp.Column):
            return self._column(node, scope)
        if isinstance(node, exp.Paren | exp.Alias):
            self._visit_identifier(node.args.get("alias"))
            return self.value(node.this, scope)
        if isinstance(node, exp.Query):
            flows = self.query(node, scope)
            one = flows[0] if len(flows) == 1 else mixed(*flows)
            return Flow(one.column, one.touches, one.reference, modified=one.modified, as_text=one.as_text)
        if isinstance(node, exp.Null):
            return Flow(null=True)
        if isinstance(node, exp.Literal):
            return NOTHING
        if isinstance(node, exp.Cast) and (extent := extent_of(self.record.tree, node)) is not None:
            self.record.visited |= set(range(extent.first, extent.last + 1))
        if isinstance(node, exp.Identifier):
            return self._name(node, scope)
        chosen = self.choices.value(node, scope)
        return self._operation(node, scope) if chosen is None else chosen

    def condition(self, node: exp.Expr | None, scope: Scope) -> None:
        """A WHERE, ON, HAVING or FILTER condition."""
        if node is not None:
            self.record.conditions += 1
            self.consume(self.value(node, scope), Use.COMPUTE, node)
            self.record.conditions -= 1

    def consume(self, flow: Flow, use: Use, node: exp.Expr) -> None:
        """Note that `flow`, the value of `node`, is used."""
        if flow.column is not None:
            self.record.use(flow, use, self.anchor(node))

    def _operation(self, node: exp.Expr, scope: Scope) -> Flow:
        if isinstance(node, _BOOLEAN):
            for child in operands(node):
                self.condition(child, scope)
            return NOTHING
        if isinstance(node, _EQUALITIES):
            before = len(self.record.constants)
            flow = self.equality(node.this, node.expression, scope)
            self._site(node, before, scope)
            return flow
        if isinstance(node, exp.In):
            before = len(self.record.constants)
            flow = self._membership(node, scope)
            self._site(node, before, scope)
            return flow
        if isinstance(node, exp.Is):
            # IS DOCUMENT, IS NORMALIZED and the like have a keyword there that sqlglot takes for a column.
            use = Use.NULL_TEST if isinstance(node.expression, exp.Null) else Use.COMPUTE
            return self._used(node.this, use, scope)
        if isinstance(node, exp.Count):
            return self._count(node, scope)
        if isinstance(node, exp.Grouping):
            # Which grouping set a row belongs to, whatever the values are.
            self._all_used(node.expressions, Use.GROUP, scope)
            return NOTHING
        if isinstance(node, exp.Exists):
            self.query(node.this, scope)
            return NOTHING
        if isinstance(node, (*_ORDERINGS, exp.Max, exp.Min)):
            return self._all_used(node.iter_expressions(), Use.ORDER, scope)
        if isinstance(node, exp.Window):
            return self.window(node, scope)
        if isinstance(node, exp.Dot):
            return self._dot(node, scope)
        return self._computed(node, scope)

    def _site(self, node: exp.Expr, before: int, scope: Scope) -> None:
        """A comparison whose constants are those since `before` may be a look-up."""
        constants = self.record.constants[before:]
        if not constants or not isinstance(node, exp.EQ | exp.In):
            return
        wanted = len(node.expressions) if isinstance(node, exp.In) else 1
        for side in (node.this, node.args.get("expression")):
            if isinstance(side, exp.Column) and len(constants) == wanted:
                flow = self._quiet(side, scope)
                if flow is not None and all(c.column == flow.column for c in constants):
                    note_site(self.record, node, side, flow, constants, scope)

    @staticmethod
    def _quiet(node: exp.Column, scope: Scope) -> Flow | None:
        """The flow of a column reference that has been walked already, without noting it again."""
        if node.table:
            entry = scope.entry(node.table, node.db or None)
            return entry.find(node.name) if entry is not None else None
        found, _ = scope.unqualified(node.name)
        return found[0][1] if len(found) == 1 else None

    def _computed(self, node: exp.Expr, scope: Scope) -> Flow:
        """Any other operator, function or form: it works on whatever is in it."""
        if isinstance(node, exp.Cast):
            self._row_type(node)
            if not isinstance(node, exp.TryCast) and node.to.sql("postgres").lower() == "text":
                return self._as_text(node, scope)
        if isinstance(node, exp.Parameter | exp.Placeholder | exp.SessionParameter):
            # Our own parameters are constants in the tree; what sqlglot takes for one is an operator before a name.
            self.record.obstacle(
                "an operator in this form is not analysed", "Write a function instead: abs(x) for @ x.", None
            )
        return self._all_used(operands(node), Use.COMPUTE, scope)

    def _as_text(self, node: exp.Cast, scope: Scope) -> Flow:
        """A cast to text."""
        flow = self.value(node.this, scope)
        if self.record.of_view or flow.column is None:
            return flow if self.record.of_view else mixed(flow)
        self.consume(flow, Use.TEXT, node)
        return replace(flow, direct=False, modified=False, as_text=True)

    def _all_used(self, nodes: Iterable[exp.Expr], use: Use, scope: Scope) -> Flow:
        return mixed(*[self._used(node, use, scope) for node in nodes])

    def _used(self, node: exp.Expr, use: Use, scope: Scope) -> Flow:
        flow = self.value(node, scope)
        self.consume(flow, use, node)
        return mixed(flow)

    def equality(self, left: exp.Expr, right: exp.Expr, scope: Scope) -> Flow:
        """Two values, rows, or a value and an array's elements are compared with = or <>."""
        row, other = self._row(left), self._row(right)
        if row is not None and other is not None and len(row) == len(other):
            return mixed(*[self.equality(a, b, scope) for a, b in zip(row, other, strict=True)])
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Subquery) and isinstance(right.this, exp.Query):
            return self._row_in_query(left, right.this, scope)
        array = _uncast_array(_array_operand(right))
        if array is not None:
            return self._equal_to_array(left, array, scope)
        return self.compare(self.value(left, scope), left, right, scope)

    def _row(self, node: exp.Expr) -> list[exp.Expr] | None:
        """The values of a row constructor; None for anything else."""
        if isinstance(node, exp.Tuple):
            return node.expressions
        is_row = isinstance(node, exp.Anonymous) and node.name.lower() == "row"
        # Quoted, it would be somebody's function.
        if not is_row or "row" in self.record.tree.lexed.quoted_words:
            return None
        return (
            None
            if any(isinstance(e, exp.Star | exp.Alias) or e.is_star for e in node.expressions)
            else node.expressions
        )

    def compare(self, first: Flow, left: exp.Expr, right: exp.Expr, scope: Scope) -> Flow:
        """`first`, the value of `left`, is compared with that of `right` for equality."""
        if first.column is not None and self.constant(first, right, array=False):
            self.consume(first, Use.EQUAL_CONSTANT, left)
            return mixed(first)
        second = self.value(right, scope)
        if second.column is not None and self.constant(second, left, array=False):
            self.consume(second, Use.EQUAL_CONSTANT, right)
            return mixed(second)
        self._meet(first, left, second, right)
        return mixed(first, second)

    def _meet(self, first: Flow, left: exp.Expr, second: Flow, right: exp.Expr) -> None:
        """Two values are compared for equality."""
        if first.column is not None and second.column is not None:
            self.record.pairs.append(Pair(first.column, second.column, self.anchor(left)))
            self.consume(first, Use.EQUAL_COLUMN, left)
            self.consume(second, Use.EQUAL_COLUMN, right)
        elif second.null or first.null:
            self.consume(first, Use.NULL_TEST, left)
            self.consume(second, Use.NULL_TEST, right)
        else:
            self.consume(first, Use.COMPUTE, left)
            self.consume(second, Use.COMPUTE, right)

    def _equal_to_array(self, left: exp.Expr, array: exp.Expr, scope: Scope) -> Flow:
        flow = self.value(left, scope)
        if isinstance(array, exp.Query):
            return self._equal_to_query(flow, left, array, scope)
        if isinstance(array, exp.Array) and flow.column is not None:
            whole = [extent_of(self.record.tree, item) for item in array.expressions]
            if all(e is not None for e in whole) and array.expressions:
                for item in array.expressions:
                    self.constant(flow, item, array=False)
                self.consume(flow, Use.EQUAL_CONSTANT, left)
                return mixed(flow)
        if flow.column is not None and self.constant(flow, array, array=True):
            self.consume(flow, Use.EQUAL_CONSTANT, left)
            return mixed(flow)
        self.consume(flow, Use.COMPUTE, left)
        return mixed(flow, self._used(array, Use.COMPUTE, scope))

    def _equal_to_query(self, flow: Flow, left: exp.Expr, query: exp.Expr, scope: Scope) -> Flow:
        outputs = self.query(query, scope)
        other = outputs[0] if len(outputs) == 1 else mixed(*outputs)
        self._meet(flow, left, other, query)
        return mixed(flow, other)

    def _membership(self, node: exp.In, scope: Scope) -> Flow:
        left = node.this
        query = node.args.get("query")
        if query is not None:
            if isinstance(left, exp.Tuple):
                return self._row_in_query(left, query, scope)
            return self._equal_to_query(self.value(left, scope), left, query, scope)
        before = len(self.record.constants)
        flows = [self.equality(left, item, scope) for item in node.expressions]
        if sum(item.find(exp.Column) is None for item in node.expressions) > 1:
            # All take the type of the left side then, as they become one array (parse_expr.c).
            self.record.constants[before:] = [replace(c, listed=True) for c in self.record.constants[before:]]
        extra = [child for key in ("unnest", "field") if isinstance(child := node.args.get(key), exp.Expr)]
        if extra:
            flows.append(self._used(left, Use.COMPUTE, scope))
            flows += [self._used(child, Use.COMPUTE, scope) for child in extra]
        return mixed(*flows)

    def _row_in_query(self, left: exp.Tuple, query: exp.Expr, scope: Scope) -> Flow:
        flows = [self.value(item, scope) for item in left.expressions]
        outputs = self.query(query, scope)
        if len(outputs) != len(flows):
            for flow, item in zip(flows, left.expressions, strict=True):
                self.consume(flow, Use.COMPUTE, item)
            for other in outputs:
                self.consume(other, Use.COMPUTE, query)
        else:
            for flow, item, other in zip(flows, left.expressions, outputs, strict=True):
                self._meet(flow, item, other, query)
        return mixed(*flows, *outputs)

    def constant(
        self, flow: Flow, node: exp.Expr, *, array: bool, compared: bool = True, flows: bool = False, text: bool = False
    ) -> bool:
        """Note that the value of protected column `flow.column` meets the constant `node`; False where `node` is none."""
        if isinstance(node, exp.Null):
            return True
        extent = extent_of(self.record.tree, node)
        if extent is None or flow.column is None:
            return False
        if extent.negative and array:
            return False
        known = self.record.sealed.get(extent.token)
        if known is not None:
            # It can be sealed for one column only.
            return known == flow.column
        self.record.sealed[extent.token] = flow.column
        # A type's modifier in a cast decides whether the cast can be left out.
        tokens = self.record.tree.lexed.tokens
        # And its name means a type, whatever column or table has the same.
        self.record.visited |= set(range(extent.first, extent.last + 1))
        self.record.significant |= {
            i for i in range(extent.first, extent.last + 1) if i != extent.token and tokens[i].kind is Kind.NUMBER
        }
        self.record.constants.append(
            Constant(
                flow.column,
                extent.token,
                extent.first,
                extent.last,
                extent.negative,
                array,
                tuple(extent.casts),
                compared,
                flows,
                tokens[extent.token].kind is Kind.NUMBER,
                text,
            )
        )
        return True

    def _count(self, node: exp.Count, scope: Scope) -> Flow:
        inner = node.this
        if isinstance(inner, exp.Star):
            return NOTHING
        if isinstance(inner, exp.Distinct):
            return self._all_used(inner.expressions, Use.GROUP, scope)
        rest = node.expressions
        return mixed(self._used(inner, Use.NULL_TEST, scope), self._all_used(rest, Use.NULL_TEST, scope))

    def window(self, node: exp.Window, scope: Scope) -> Flow:
        """A window function's call, or the definition of a window."""
        self._visit_identifier(node.args.get("alias"))
        picked = self.choices.picked(node.this, scope)
        flows = []
        if picked is None and not isinstance(node.this, exp.Identifier):
            flows.append(self._used(node.this, Use.COMPUTE, scope))
        flows.append(self._all_used(node.args.get("partition_by") or [], Use.GROUP, scope))
        order = node.args.get("order")
        if order is not None:
            flows.append(self._all_used([o.this for o in order.expressions], Use.ORDER, scope))
        spec = node.args.get("spec")
        if spec is not None:
            flows.append(self._all_used(spec.iter_expressions(), Use.COMPUTE, scope))
        if picked is None or picked.column is None:
            return mixed(*flows, *([] if picked is None else [picked]))
        return replace(picked, touches=mixed(picked, *flows).touches)

    def _dot(self, node: exp.Dot, scope: Scope) -> Flow:
        """`(t).c`: the column, where `t` is an entry's name; else a field of a computed value. `s.f(x)`: a function of schema `s`."""
        field = node.expression
        if isinstance(field, exp.Func):
            for name in node.this.find_all(exp.Identifier):
                self._visit_identifier(name)
            return self._all_used(
                [e for e in field.iter_expressions() if not isinstance(e, exp.Star)], Use.COMPUTE, scope
            )
        entry = self.row_entry(node.this, scope) if isinstance(field, exp.Identifier) else None
        if entry is not None:
            return self._member(entry, field)
        self._visit_identifier(field)
        return self._used(node.this, Use.COMPUTE, scope)

    def row_entry(self, node: exp.Expr, scope: Scope) -> Entry | None:
        """The entry whose whole row `node` is, in `(node).column`: the server asks the privilege on all of its columns."""
        while isinstance(node, exp.Paren):
            node = node.this
        if not isinstance(node, exp.Column) or node.table or not isinstance(node.this, exp.Identifier):
            return None
        entry = scope.entry(node.name)
        if entry is None or scope.unqualified(node.name)[0]:
            return None
        self._visit_identifier(node.this)
        if entry.reference is not None:
            self.record.references[entry.reference].whole = True
        return entry

    def _row_type(self, node: exp.Cast) -> None:
        """A cast to the row type of a protected table: a masking view's rows are of another type, and sealed fields would show."""
        kind = node.to.args.get("kind")
        names = (
            [kind]
            if isinstance(kind, exp.Identifier)
            else list(kind.find_all(exp.Identifier))
            if isinstance(kind, exp.Dot)
            else []
        )
        if not names:
            return
        schema = names[-2].name if len(names) > 1 else None
        relation = self.record.database.resolve(schema, names[-1].name, self.record.search_path)
        if relation is None:
            return
        lineage = self.record.database.lineage_of(relation)
        columns = frozenset(self.record.database.columns_of(relation).values()) | (
            lineage.inside if lineage is not None else frozenset()
        )
        if columns:
            self.record.obstacle(
                f'a cast to the row type of "{relation.name}"',
                "Name the columns instead.",
                self.record.tree.token_of(names[-1]),
                columns,
            )

    # -- column references

    def _name(self, node: exp.Identifier, scope: Scope) -> Flow:
        """A bare name where sqlglot sees no column, as in `f(data -> 'key')`, which it takes for a lambda: a column, if there is one."""
        if scope.unqualified(node.name)[0] or scope.entry(node.name) is not None:
            return self._column(exp.Column(this=node.copy()), scope)
        return NOTHING

    def _column(self, node: exp.Column, scope: Scope) -> Flow:
        self.record.spend(scope.breadth // 64)
        parts = [node.args[key] for key in ("catalog", "db", "table") if node.args.get(key) is not None]
        for part in parts:
            self._visit_identifier(part)
        if isinstance(node.this, exp.Star):
            entry = self.qualified_entry(node, scope)
            return self.whole_row(entry, node) if entry is not None else self.no_such_table(node)
        self._visit_identifier(node.this)
        if not parts:
            return self._bare(node, scope)
        entry = self.qualified_entry(node, scope)
        return self.no_such_table(node) if entry is None else self._member(entry, node.this)

    def qualified_entry(self, node: exp.Column, scope: Scope) -> Entry | None:
        """The entry that a column reference's qualifier names."""
        schema = node.db or None
        entry = scope.entry(node.table, schema)
        if entry is not None and schema is not None:
            self._note_qualifier(entry, node)
        return entry

    def _note_qualifier(self, entry: Entry, node: exp.Column) -> None:
        first_part = node.args.get("catalog") or node.args.get("db")
        if not isinstance(first_part, exp.Identifier):
            return
        first, last = self.record.tree.token_of(first_part), self.record.tree.token_of(node.args["table"])
        if first is None or last is None:
            return
        # The left side of IN is compared with each item, and so comes by more than once.
        if entry.reference is not None and (first, last) not in self.record.references[entry.reference].qualified:
            self.record.references[entry.reference].qualified.append((first, last))
        if entry.table is not None and (first, last) not in self.record.tables[entry.table].qualified:
            self.record.tables[entry.table].qualified.append((first, last))

    def _member(self, entry: Entry, field: exp.Identifier) -> Flow:
        self._visit_identifier(field)
        name = str(field.this)
        flow = entry.find(name)
        if flow is not None:
            return self.read(entry, flow, field)
        if name in SYSTEM_COLUMNS:
            self._needs_table(entry, f"the system column {name} does not exist in a masking view")
            return NOTHING
        if entry.opaque and not any(c.flow.touches for c in entry.columns):
            return NOTHING
        if entry.unnamed:
            return mixed(*(c.flow for c in entry.unnamed))
        # PostgreSQL reads t.f as f(t) where t has no column f: the whole row goes into a function. Most often there is none.
        self.record.doubtful = True
        return self.whole_row(entry, field)

    def _bare(self, node: exp.Column, scope: Scope) -> Flow:
        name = node.name
        found, further_in = scope.unqualified(name)
        if found:
            flows = [self.read(entry, flow, node) if entry is not None else flow for entry, flow in found]
            if len(flows) == 1 and not further_in:
                return flows[0]
            # The server will call it ambiguous; if it does not, the analysis has missed something.
            self.record.doubtful |= len(flows) > 1
            self._doubt(name, node, mixed(*flows))
            return mixed(*flows)
        entry = scope.entry(name)
        if entry is not None:
            return self.whole_row(entry, node)
        if name in SYSTEM_COLUMNS:
            for each in scope.entries:
                self._needs_table(each, f"the system column {name} does not exist in a masking view")
        elif not further_in:
            self.record.missing(f'column "{name}" does not exist', _MISSING_HINT, self.anchor(node), "42703")
        return scope.unnamed()

    def no_such_table(self, node: exp.Column) -> Flow:
        """A qualifier that names nothing in FROM."""
        self.record.missing(
            f'missing FROM-clause entry for table "{node.table}"', _MISSING_HINT, self.anchor(node), "42P01"
        )
        return NOTHING

    def read(self, entry: Entry, flow: Flow, node: exp.Expr) -> Flow:
        """A column of `entry` is read."""
        if flow.touches and entry.reference is not None:
            self.record.references[entry.reference].columns |= flow.touches
        elif flow.column is not None and flow.reference is not None:
            self.record.references[flow.reference].columns.add(flow.column)
        if flow.column is not None and entry.target:
            self.record.target_reads.append(ColumnUse(flow.column, Use.COMPUTE, self.anchor(node), None))
        return flow

    def whole_row(self, entry: Entry, node: exp.Expr) -> Flow:
        """The entry's row as one value: each of its protected columns is worked on."""
        self.record.spend(len(entry.columns) // 8)
        flows = [self.read(entry, c.flow, node) for c in entry.columns]
        for flow in flows:
            self.consume(flow, Use.COMPUTE, node)
        return mixed(*flows)

    def _needs_table(self, entry: Entry, why: str) -> None:
        if entry.target:
            self.record.target_obstacle = why
        if entry.reference is not None:
            reference = self.record.references[entry.reference]
            reference.obstacle = reference.obstacle or why

    def _doubt(self, name: str, node: exp.Expr, flow: Flow) -> None:
        if flow.touches:
            self.record.obstacle(
                f'the column name "{name}" could mean several columns here',
                "Write the table's name or alias before the column.",
                self.anchor(node),
                flow.touches,
            )

    def _visit_identifier(self, node: object) -> None:
        if isinstance(node, exp.Identifier):
            token = self.record.tree.token_of(node)
            if token is not None:
                self.record.visited.add(token)

    def visit(self, *nodes: object) -> None:
        """Account for identifiers that name nothing protected here (aliases, labels), and for those that the caller has resolved."""
        for node in nodes:
            self._visit_identifier(node)

    def anchor(self, node: exp.Expr) -> int:
        """The token that an error about `node` points at."""
        for each in node.find_all(exp.Identifier, exp.Star, exp.Literal):
            token = (
                self.record.tree.token_of(each)
                if not isinstance(each, exp.Literal)
                else self.record.tree.constant_token(each)
            )
            if token is not None:
                return token
        return self.record.tree.first


def _array_operand(node: exp.Expr) -> exp.Expr | None:
    """The operand of ANY, SOME or ALL, without its parentheses."""
    if isinstance(node, exp.Any | exp.All):
        inner = node.this
    elif isinstance(node, exp.Anonymous) and str(node.this).lower() in _ARRAY_FUNCTIONS and len(node.expressions) == 1:
        inner = node.expressions[0]
    else:
        return None
    while isinstance(inner, exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Subquery) and isinstance(inner.this, exp.Query) and not inner.args.get("alias"):
        return inner.this
    return inner if isinstance(inner, exp.Expr) else None


def _uncast_array(node: exp.Expr | None) -> exp.Expr | None:
    """ARRAY[...] without a cast to an array of plain text, which changes nothing of what is sealed."""
    if (
        isinstance(node, exp.Cast)
        and isinstance(node.this, exp.Array)
        and node.to.sql("postgres").lower() in {"text[]", "varchar[]"}
    ):
        return node.this
    return node


def _no_queries(_node: exp.Expr, _scope: Scope) -> list[Flow]:
    raise NotImplementedError("the query walker was not set")
