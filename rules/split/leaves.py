"""Taking a statement apart from the outside in: subqueries that the database can do, FROM clauses that it can, and at the last single tables."""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from rules.difference import SEALED_DOMAIN
from rules.lexer import Kind
from rules.model import quote_ident
from rules.split.clauses import Clauses, Span, closing_of, has_outside, split_at
from rules.split.names import Used, used
from rules.split.parts import JOINED, Built, leaf_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rules.analyse.record import Block, TableUse
    from rules.analyse.scope import Entry, Scope
    from rules.catalog import CatalogColumn
    from rules.split.text import Text

_MAX_CONDITIONS: Final = 64
# What the columns of a joined leaf's rows are called: nothing that the client's text could name.
_CELL: Final = "pgveil_c"
_VALUE: Final = "pgveil_v"
_PARAMETER: Final = re.compile(r"\$([0-9]+)")
# What depends on the moment, the session or the connection, and is the same for a whole statement: the server says what it is.
_MOMENTS: Final = frozenset(
    {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user", "session_user"}
    | {"user", "current_role", "current_catalog", "current_schema"}
)
_MOMENT_CALLS: Final = frozenset({"now", "transaction_timestamp", "current_database"})
# System columns by which a row is found again.
_ROW_KEY: Final = frozenset({"ctid", "tableoid"})
# Before a subquery: it is one value, or a test for rows.
_NOT_A_VALUE: Final = frozenset(
    {"in", "any", "all", "some", "array", "lateral", "from", "join", "as", "with", "materialized"}
)


class Leaves:
    """Makes one proposal for a statement. `judge`: whether the database may run a text for the principal as it is.

    `lock`: what the relation of the outermost FROM is called whose rows must be locked when they are fetched.
    """

    def __init__(self, text: Text, judge: Callable[[str], bool], lock: str | None = None) -> None:
        self.text = text
        self.lock = lock
        self.judge = judge
        self.leaves: list[tuple[tuple[str, ...], str]] = []
        self.edits: list[tuple[int, int, str]] = []
        self.covered: set[int] = set()
        self.with_clause = _with_clause(text)

    def build(self) -> Built | None:
        """The proposal; None where something of the statement can't be had."""
        if any(self._shows_row(clauses, block) for clauses, block in self.text.blocks):
            return None
        for clauses, block in sorted(
            self.text.blocks, key=lambda pair: (self.text.depth(pair[0].first), pair[0].first)
        ):
            if clauses.first in self.covered:
                continue
            done = self._whole(clauses, block) or self._joined(clauses, block)
            if not done and (self.text.locking is not None or not self._tables(clauses, block)):
                return None
            self._drop_with()
        for use in self.text.survey.tables:
            if use.first not in self.covered and not self._table(use, None, None):
                return None
        self._moments()
        if self.lock is not None:
            return None
        return Built(
            self.leaves, sorted(self.edits), with_first=self.with_clause is not None and self.text.first in self.covered
        )

    def _drop_with(self) -> None:
        """Leave out a WITH clause that nothing refers to any longer."""
        span = self.with_clause
        if span is None or span[0] in self.covered:
            return
        if all(t in self.covered or span[0] <= t <= span[1] for t in self.text.survey.cte_references):
            if not self._parameters_of(span) <= self._parameters_left(span):
                return  # nothing else tells the type of such a parameter
            self.edits = [e for e in self.edits if not span[0] <= e[0] <= span[1]]
            self._replace(span, "")

    def _parameters_of(self, span: Span) -> set[str]:
        tokens = (self.text.token(i) for i in range(span[0], span[1] + 1))
        return {t.value for t in tokens if t.kind is Kind.PARAM}

    def _parameters_left(self, span: Span) -> set[str]:
        """The parameters that the text refers to outside a span, or a leaf does."""
        found = {n for _, fetch in self.leaves for n in _PARAMETER.findall(fetch)}
        for index in range(self.text.first, self.text.last + 1):
            token = self.text.token(index)
            if token.kind is Kind.PARAM and index not in self.covered and not span[0] <= index <= span[1]:
                found.add(token.value)
        return found

    def _shows_row(self, clauses: Clauses, block: Block) -> bool:
        """Whether a whole row is a result column: its type is the table's own, which a leaf's row is not of."""
        text = self.text
        if text.depth(clauses.first) > 0 or clauses.items is None:
            return False
        # The rows of subqueries are records anyway, and a function's name stands for its one value.
        rows = {e.name for e in block.scope.entries if e.table is not None} - {
            c.name for e in block.scope.entries for c in e.columns
        }
        items = split_at(text.lexed, clauses.items, ",")
        return any(a == b and text.is_name(a) and text.value(a) in rows for a, b in items)

    # -- a subquery as a whole

    def _whole(self, clauses: Clauses, block: Block) -> bool:
        """A query in parentheses that the database can do by itself."""
        text = self.text
        if text.value(clauses.first - 1) != "(" or block.outputs is None:
            return False
        closing = closing_of(text.lexed, clauses.first - 1, text.last)
        if closing is None:
            return False
        unit = (clauses.first, closing - 1)
        names = [name or f"c{i}" for i, name in enumerate(block.outputs)]
        if None in block.outputs and not self._nameless(clauses.first - 1, closing):
            return False
        if not names or not text.tables_in(unit) or text.names_cte(unit) or self._correlated(unit):
            return False
        if not self.judge(text.source(unit)):
            return False
        name = self._leaf(tuple(names), text.source(unit))
        self._replace(unit, f"SELECT * FROM {name}")
        return True

    def _correlated(self, unit: Span) -> bool:
        """Whether a name inside may mean a column of a SELECT around it."""
        inside = [b for c, b in self.text.blocks if unit[0] <= c.first <= unit[1]]
        around = {id(b.scope) for c, b in self.text.blocks if not unit[0] <= c.first <= unit[1]}
        return any(id(_meant(block.scope, column)) in around for block in inside for column in _own_columns(block.node))

    def _nameless(self, opening: int, closing: int) -> bool:
        """Whether nobody can name the columns of the subquery in these parentheses."""
        text = self.text
        return text.value(opening - 1) in {"in", "exists", "any", "all", "some"} and text.value(closing + 1) != "as"

    # -- a FROM clause with what can be done of WHERE

    def _joined(self, clauses: Clauses, block: Block) -> bool:
        text = self.text
        span, entries = clauses.spans.get("from"), block.scope.entries
        if span is None or not text.tables_in(span) or not self._plain_entries(block.scope):
            return False
        prefix = self._prefix(clauses, span)
        if prefix is None:
            return False
        source = f"FROM {text.source(span)}"
        pushed = self._pushable(
            clauses, lambda piece: f"{prefix}SELECT 1 {source} WHERE ({piece})", with_ctes=bool(prefix)
        )
        rest = self._rest(clauses, span, pushed)
        wanted = self._wanted(clauses, block, rest)
        if wanted is None:
            return False
        where = " AND ".join(f"({text.source(p)})" for p in pushed)
        names = self._values(clauses, block, rest)
        shown = [f"{_qualified(entry, column)} AS c{i}" for i, (entry, column) in enumerate(wanted)]
        base = f"{source}{' WHERE ' + where if where else ''}"
        values = [v for v in names if self.judge(f"{prefix}SELECT {text.source(v)} {base}")]
        shown += [f"({text.source(v)}) AS v{i}" for i, v in enumerate(values)]
        fetch = f"{prefix}SELECT {', '.join(shown or ['1 AS c0'])} {base}"
        lock = self._locking(clauses, {str(e.name) for e in entries})
        fetch += lock
        if text.locking is not None:
            fetch += " " + text.source(text.locking)
        if not self.judge(fetch):
            return False
        columns = [f"{_CELL}{i}" for i in range(len(wanted) or not values)]
        columns += [f"{_VALUE}{i}" for i in range(len(values))]
        if lock:
            self.lock = None
        leaf = self._leaf(tuple(columns), fetch)
        row = f"{JOINED}_{len(self.leaves)}"
        named = {text.value(i) for i in rest if text.value(i + 1) == "."}
        self._replace(span, f'{leaf} AS "{row}"' + "".join(_laterals(entries, wanted, row, named)))
        for piece in pushed:
            self._replace(piece, "TRUE")
        if text.locking is not None:
            self._replace(text.locking, "")
        for entry in entries:
            self._dependents(clauses, entry, [c for owner, c in wanted if owner is entry])
        for i, value in enumerate(values):
            self._replace(value, f'(SELECT "{row}"."{_VALUE}{i}" AS {quote_ident(names[value])})')
        every = ", ".join(f"{quote_ident(str(e.name))}.*" for e in entries)
        for star in self._stars(clauses):
            self._replace((star, star), every)
        return True

    def _locking(self, clauses: Clauses, names: set[str]) -> str:
        """The words that lock the rows which are to be written, where these names are of the outermost FROM."""
        if self.lock is None or self.lock not in names or self.text.depth(clauses.first) > 0:
            return ""
        return f" FOR UPDATE OF {quote_ident(self.lock)}"

    def _sorted_otherwise(self, entry: Entry, column: str) -> bool:
        """Whether a column has a collation of its own, which its leaf's has not."""
        relation = None if entry.table is None else self.text.survey.tables[entry.table].relation
        found = None if relation is None else relation.column(column)
        return found is not None and _sorts_otherwise(found)

    def _plain_entries(self, scope: Scope) -> bool:
        entries = scope.entries
        names = [e.name for e in entries]
        if not entries or _hides_column(scope):
            return False
        if None in names or len(set(names)) != len(names) or any(e.opaque or e.unnamed for e in entries):
            return False
        return all(len({c.name for c in e.columns}) == len(e.columns) for e in entries)

    def _prefix(self, clauses: Clauses, span: Span) -> str | None:
        """The WITH clause that the SELECT needs, '' for none; None where it can't be taken along."""
        text = self.text
        if (
            self.with_clause is not None
            and text.depth(clauses.first) == 0
            and text.names_cte((clauses.first, clauses.last))
        ):
            return text.source(self.with_clause) + " "
        return None if text.names_cte(span) else ""

    def _pushable(self, clauses: Clauses, probe: Callable[[str], str], *, with_ctes: bool) -> list[Span]:
        """The conditions of WHERE, joined by AND, that the database can do."""
        text = self.text
        where = clauses.spans.get("where")
        if where is None:
            return []
        pieces = [where] if has_outside(text.lexed, where, "or") else split_at(text.lexed, where, "and")
        if len(pieces) > _MAX_CONDITIONS:
            return []
        return [p for p in pieces if (with_ctes or not text.names_cte(p)) and self.judge(probe(text.source(p)))]

    def _rest(self, clauses: Clauses, span: Span, pushed: list[Span]) -> list[int]:
        """The tokens of the SELECT that stay with us."""
        end = clauses.last if clauses.alone or clauses.tail is None else clauses.tail - 1
        locking = [] if self.text.locking is None else [self.text.locking]
        gone = {i for first, last in [span, *pushed, *locking] for i in range(first, last + 1)}
        return [i for i in range(clauses.first + 1, end + 1) if i not in gone]

    def _wanted(self, clauses: Clauses, block: Block, rest: list[int]) -> list[tuple[Entry | None, str]] | None:
        """The columns that the rest uses, entry by entry (None: those that USING or NATURAL made one of two)."""
        text = self.text
        stars = self._stars(clauses)
        merged = block.scope.merged
        if stars and merged:
            return None
        wanted: list[tuple[Entry | None, str]] = []
        seen: set[str] = set()
        for entry in block.scope.entries:
            columns = {str(c.name) for c in entry.columns}
            found = used(text, str(entry.name), columns | (_ROW_KEY if entry.table is not None else frozenset()), rest)
            if found.row or (found.everything and merged):
                return None
            names = self._chosen(entry, found, everything=bool(stars))
            common = names & {name for name in merged if self._means_merged(block, name)}
            if common & found.qualified:
                return None
            seen |= common
            if any(self._sorted_otherwise(entry, name) for name in names):
                return None
            wanted += [(entry, str(c.name)) for c in entry.columns if c.name in names - common]
            wanted += [(entry, name) for name in sorted((found.columns & _ROW_KEY) - columns)]
        return wanted + [(None, name) for name in sorted(seen)]

    def _means_merged(self, block: Block, name: str) -> bool:
        """Whether a bare name somewhere means the column that USING or NATURAL made in this SELECT."""
        for _, other in self.text.blocks:
            for column in _own_columns(other.node):
                if column.table or column.name != name:
                    continue
                if next((level for level in other.scope.levels() if level.own(name)), None) is block.scope:
                    return True
        return False

    @staticmethod
    def _chosen(entry: Entry, found: Used, *, everything: bool) -> set[str]:
        if everything or found.everything:
            return {str(c.name) for c in entry.columns}
        return found.columns

    def _stars(self, clauses: Clauses) -> list[int]:
        """Bare stars of the select list."""
        items = clauses.items
        if items is None:
            return []
        return [a for a, b in split_at(self.text.lexed, items, ",") if a == b and self.text.value(a) == "*"]

    def _values(self, clauses: Clauses, block: Block, rest: list[int]) -> dict[Span, str]:
        """Subqueries in what stays with us that are one value, or a test, for each row of FROM; what PostgreSQL calls such a value."""
        text = self.text
        node = block.node
        if "group" in clauses.spans or "having" in clauses.spans or _aggregates(node):
            return {}
        kept = set(rest)
        found: dict[Span, str] = {}
        for inner, inside in text.blocks:
            opening = inner.first - 1
            if inner.first not in kept or inner.first == clauses.first or text.value(opening) != "(":
                continue
            if any(a <= opening <= b for a, b in found):
                continue
            closing = closing_of(text.lexed, opening, text.last)
            if closing is None or not text.tables_in((opening, closing)) or text.names_cte((opening, closing)):
                continue
            before = text.value(opening - 1)
            if before == "exists":
                found[opening - 1, closing] = "exists"
                continue
            name = None if not inside.outputs else inside.outputs[0]
            after_word = text.is_name(opening - 1) and before not in _BEFORE_VALUE
            if name is not None and before not in _NOT_A_VALUE and not after_word and _is_value(inside.node):
                found[opening, closing] = name
        return found

    # -- single tables

    def _tables(self, clauses: Clauses, block: Block) -> bool:
        for entry in block.scope.entries:
            if entry.table is None:
                continue
            use = self.text.survey.tables[entry.table]
            if use.first in self.covered:
                continue
            if not self._table(use, clauses, block):
                return False
            self._dependents(clauses, entry, list(self.leaves[-1][0]))
        return True

    def _table(self, use: TableUse, clauses: Clauses | None, block: Block | None) -> bool:
        text = self.text
        if use.relation is None or not use.plain or any(c.name is None for c in use.relation.columns):
            return False
        columns = [c.name for c in use.relation.columns]
        found = used(text, use.shown, {*columns, *_ROW_KEY}, range(text.first, text.last + 1))
        key = sorted((found.columns & _ROW_KEY) - set(columns))
        everything = found.everything or found.row or use.renamed or self._any_star() or block is None
        if not everything:
            columns = [c for c in columns if c in found.columns]
        if any(_sorts_otherwise(c) for c in use.relation.columns if c.name in columns):
            return False
        columns += key
        shown = quote_ident(use.shown)
        select = ", ".join(f"{shown}.{quote_ident(c)}" for c in columns) or "1 AS pgveil_one"
        fetch = f"SELECT {select} FROM {text.source((use.first, use.last))} AS {shown}"
        conditions = [] if block is None or clauses is None else self._own_conditions(use, clauses, block)
        conditions = [c for c in conditions if self.judge(f"{fetch} WHERE ({text.source(c)})")]
        if conditions:
            fetch += " WHERE " + " AND ".join(f"({text.source(c)})" for c in conditions)
        lock = "" if clauses is None else self._locking(clauses, {use.shown})
        fetch += lock
        if not self.judge(fetch):
            return False
        if lock:
            self.lock = None
        name = self._leaf(tuple(columns) or ("pgveil_one",), fetch)
        self._replace((use.first, use.last), name if use.aliased else f"{name} AS {shown}")
        for span in use.qualified:
            if span[0] not in self.covered:
                self._replace(span, shown)
        return True

    def _any_star(self) -> bool:
        root = self.text.survey.tree.root
        natural = any(str(j.args.get("method") or "") for j in root.find_all(exp.Join))
        return natural or any(
            isinstance(s.parent, exp.Select | exp.Column | exp.Dot | exp.Alias | exp.Paren)
            for s in root.find_all(exp.Star)
            if self.text.survey.tree.token_of(s) is not None
        )

    def _own_conditions(self, use: TableUse, clauses: Clauses, block: Block) -> list[Span]:
        """The conditions of WHERE that are about this table's columns only; they are done twice, here and there."""
        text = self.text
        where, node = clauses.spans.get("where"), block.node.args.get("where")
        if where is None or node is None or use.renamed or not _never_null(use, block):
            return []
        trees = _flat(node.this)
        pieces = split_at(text.lexed, where, "and")
        if has_outside(text.lexed, where, "or") or len(trees) != len(pieces) or len(pieces) > _MAX_CONDITIONS:
            return []
        return [p for p, t in zip(pieces, trees, strict=True) if _only_of(use, t, block)]

    # -- the rest

    def _dependents(self, clauses: Clauses, entry: Entry, columns: list[str]) -> None:
        """GROUP BY a table's primary key stands for its other columns (SQL:1999, T301), which a leaf's rows don't have."""
        text = self.text
        span = clauses.spans.get("group")
        relation = None if entry.table is None else text.survey.tables[entry.table].relation
        if span is None or relation is None or not relation.primary_key:
            return
        items = [
            i for i in (self._grouped_by(clauses, piece) for piece in split_at(text.lexed, span, ",")) if i is not None
        ]
        grouped = {column for owner, column in items if owner in {None, entry.name}}
        key = {c.name for c in relation.columns if c.attnum in relation.primary_key}
        renamed = entry.table is not None and text.survey.tables[entry.table].renamed
        if renamed or not key <= grouped:
            return
        more = [c for c in columns if c not in grouped]
        if more and span[1] not in self.covered:
            shown = "".join(f", {quote_ident(str(entry.name))}.{quote_ident(c)}" for c in more)
            self._replace((span[1], span[1]), text.source((span[1], span[1])) + shown)

    def _grouped_by(self, clauses: Clauses, piece: Span) -> tuple[str | None, str] | None:
        """The column that an item of GROUP BY is, with its qualifier; also by its place in the select list."""
        text = self.text
        if piece[0] == piece[1] and text.token(piece[0]).kind is Kind.NUMBER and clauses.items is not None:
            place = text.source(piece)
            items = split_at(text.lexed, clauses.items, ",")
            if not place.isdigit() or not 1 <= int(place) <= len(items):
                return None
            piece = items[int(place) - 1]
        if not text.is_name(piece[0]):
            return None
        if piece[0] == piece[1]:
            return None, text.value(piece[0])
        if piece[1] - piece[0] == 2 and text.value(piece[0] + 1) == ".":
            return text.value(piece[0]), text.value(piece[1])
        return None

    def _moments(self) -> None:
        """What the server must say of the moment and the session."""
        text = self.text
        found: list[tuple[Span, str]] = []
        for index in range(text.first, text.last + 1):
            token = text.token(index)
            if index in self.covered or token.kind is not Kind.WORD or text.value(index - 1) in {".", "as"}:
                continue
            after = text.value(index + 1)
            if token.value in _MOMENT_CALLS and after == "(" and text.value(index + 2) == ")":
                found.append(((index, index + 2), token.value))
            elif token.value in _MOMENTS and text.value(index - 1) != "::":
                end = closing_of(text.lexed, index + 1, text.last) if after == "(" else index
                found.append(((index, index if end is None else end), token.value))
        if not found:
            return
        columns = tuple(f"m{i}" for i in range(len(found)))
        shown = ", ".join(f"{text.source(span)} AS m{i}" for i, (span, _) in enumerate(found))
        name = self._leaf(columns, f"SELECT {shown}")
        for i, (span, called) in enumerate(found):
            self._replace(span, f"(SELECT m{i} AS {quote_ident(called)} FROM {name})")

    def _leaf(self, columns: tuple[str, ...], fetch: str) -> str:
        self.leaves.append((columns, fetch))
        return leaf_name(len(self.leaves) - 1)

    def _replace(self, span: Span, replacement: str) -> None:
        self.edits.append((*span, replacement))
        self.covered |= set(range(span[0], span[1] + 1))


# Words and signs after which a subquery in parentheses is a value.
_BEFORE_VALUE: Final = frozenset(
    {
        "select",
        "distinct",
        "and",
        "or",
        "not",
        "when",
        "then",
        "else",
        "case",
        "between",
        "like",
        "ilike",
        "by",
        "is",
        "from",
    }
)


# What a query in parentheses is no value in: a FROM item, an arm of a set operation, a list of rows.
_HOLDS_ROWS: Final = (
    exp.From,
    exp.Join,
    exp.Lateral,
    exp.SetOperation,
    exp.CTE,
    exp.Any,
    exp.All,
    exp.Array,
    exp.Table,
)
_MAKES_A_QUERY: Final = ("alias", "joins", "order", "limit", "offset", "fetch", "with_", "laterals", "pivots", "sample")


def _is_value(node: exp.Expr) -> bool:
    """Whether the query that begins with this SELECT stands in parentheses where one value does."""
    inner, around = node, node.parent
    while isinstance(around, exp.SetOperation):
        inner, around = around, around.parent
    parentheses = 0
    while isinstance(around, exp.Subquery | exp.Paren):
        if any(around.args.get(key) for key in _MAKES_A_QUERY):
            return False
        parentheses += isinstance(around, exp.Subquery)
        inner, around = around, around.parent
    if not parentheses or around is None or isinstance(around, _HOLDS_ROWS):
        return False
    return not (isinstance(around, exp.In) and around.args.get("query") is inner)


def _with_clause(text: Text) -> Span | None:
    """The WITH clause of the statement, up to what it belongs to."""
    if text.value(text.first) != "with":
        return None
    top = [c.first for c, _ in text.blocks if text.depth(c.first) == 0]
    return (text.first, top[0] - 1) if top else None


def _sorts_otherwise(column: CatalogColumn) -> bool:
    """Whether values of the column are sorted otherwise than the calculator sorts them. How sealed ones lie says nothing."""
    return column.own_collation and column.declared_type != SEALED_DOMAIN


def _qualified(entry: Entry | None, column: str) -> str:
    if entry is None:
        return quote_ident(column)
    return f"{quote_ident(str(entry.name))}.{quote_ident(column)}"


def _laterals(entries: list[Entry], wanted: list[tuple[Entry | None, str]], row: str, named: set[str]) -> Iterable[str]:
    """The relations of the FROM clause again, as columns of the leaf's rows under their own names.

    `named`: names that stand before a dot. They must not mean a relation farther out, so one without columns that are used is there too.
    """
    for entry in [*entries, None]:
        columns = [(i, column) for i, (owner, column) in enumerate(wanted) if owner is entry]
        shown = ", ".join(f'"{row}"."{_CELL}{i}" AS {quote_ident(column)}' for i, column in columns)
        name = f"{row}_common" if entry is None else str(entry.name)
        if columns or name in named:
            yield f", LATERAL (SELECT {shown}) AS {quote_ident(name)}"


def _own_columns(node: exp.Select) -> Iterable[exp.Column]:
    """The column references of a SELECT that are in none of its subqueries."""
    pending: list[exp.Expr] = list(node.iter_expressions())
    while pending:
        each = pending.pop()
        if isinstance(each, exp.Column):
            yield each
        elif not isinstance(each, exp.Query):
            pending += each.iter_expressions()


def _hides_column(scope: Scope) -> bool:
    """Whether a relation is called like a column farther out, which a bare name means: by itself the SELECT would take it for a row."""
    around = [] if scope.parent is None else list(scope.parent.levels())
    return any(level.own(str(e.name)) for e in scope.entries for level in around)


def _meant(scope: Scope, column: exp.Column) -> Scope | None:
    """The query level that a reference means something of. A bare name is a column's, however far out, before it is a whole row's."""
    if not column.table:
        found = next((level for level in scope.levels() if level.own(column.name)), None)
        if found is not None:
            return found
    name = column.table or column.name
    return next((level for level in scope.levels() if any(e.name == name for e in level.entries)), None)


def _aggregates(node: exp.Select) -> bool:
    pending = [n for key in ("expressions", "order", "having") for n in _list(node.args.get(key))]
    while pending:
        each = pending.pop()
        if isinstance(each, exp.AggFunc | exp.Anonymous | exp.WithinGroup | exp.ArrayAgg):
            return True
        pending += [c for c in each.iter_expressions() if not isinstance(c, exp.Query)]
    return False


def _list(value: object) -> list[exp.Expr]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, exp.Expr)]


def _flat(node: exp.Expr) -> list[exp.Expr]:
    """The conditions that AND joins."""
    found: list[exp.Expr] = []
    pending = [node]
    while pending:
        each = pending.pop()
        if isinstance(each, exp.And):
            pending += [each.expression, each.this]
        else:
            found.append(each)
    return found


def _never_null(use: TableUse, block: Block) -> bool:
    """Whether no outer join of the SELECT puts null rows in place of the table's."""
    joins = block.node.args.get("joins") or []
    if any(str(j.side) in {"RIGHT", "FULL"} for j in joins):
        return False
    clause = block.node.args.get("from_")
    plain = [] if clause is None else [clause.this]
    plain += [j.this for j in joins if not j.side]
    names = [n.alias_or_name for n in plain if isinstance(n, exp.Table) and not n.args.get("joins")]
    return use.shown in names


def _only_of(use: TableUse, tree: exp.Expr, block: Block) -> bool:
    if tree.find(exp.Query) is not None:
        return False
    columns = list(tree.find_all(exp.Column))
    if not columns or any(isinstance(c.this, exp.Star) for c in columns):
        return False
    for column in columns:
        if column.args.get("db"):
            return False
        if column.table:
            if column.table != use.shown:
                return False
            continue
        found, doubtful = block.scope.unqualified(column.name)
        if doubtful or len(found) != 1 or found[0][0] is None or found[0][0].name != use.shown:
            return False
    return True
