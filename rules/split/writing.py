"""INSERT, UPDATE, DELETE and MERGE whose values, conditions or returned values the database can't compute.

What is to be written is computed first, as the rows of a SELECT that is judged like any other; then it is written row by row, each found again
by its ctid (PostgreSQL manual, 5.5), which stays right because the SELECT has locked it. The statement that writes is judged in a form for
one row, with the computed values as parameters; `many_rows` makes it one for any number.
Of a MERGE only values are computed that need no row.
"""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from rules.lexer import Kind, lex
from rules.model import quote_ident
from rules.split.clauses import Span, closing_of, split_at
from rules.split.merging import assigned, of_constants
from rules.split.names import used
from rules.split.parts import leaf_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rules.analyse import Protected
    from rules.analyse.record import TableUse
    from rules.catalog import Relation
    from rules.lexer import Lexed
    from rules.model import ColumnName
    from rules.split.text import Text

_DATED: Final = ("date", "time", "interval")
_MODIFIER: Final = re.compile(r"\([0-9, ]*\)")
# A bare character or bit is one of them; without a length of their own they are called otherwise.
_UNBOUNDED: Final = {"character": "bpchar", "char": "bpchar", "bit": "varbit"}
VALUES_NAME: Final = "pgveil_values"
_CONSTANT_WORDS: Final = frozenset({"null", "default"})


@dataclass(frozen=True, slots=True)
class WriteText:
    """`source`: a SELECT whose columns are the values; None where nothing but the returned values has to be computed.

    `lock`: the relation of the source whose rows are written. `apply`: the statement for one row; the source's columns are its parameters from
    `first` on. `many`: the source gives any number of rows, not just one. `columns`: of each source column the target's column, None for
    the row's key. `returning`: the names of the columns that `apply` returns in place of what the client wants, and the text that computes
    that from them; None where `apply` returns what the client wants.
    """

    source: str | None
    lock: str | None
    apply: str
    first: int
    many: bool
    columns: tuple[str | None, ...]
    relation: Relation
    returning: tuple[tuple[str, ...], str] | None = None


@dataclass(slots=True)
class _Written:
    """A statement in the making. `values`: spans of the client's text that are computed, with the columns that they go to."""

    text: Text
    use: TableUse
    relation: Relation
    first: int
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    values: list[tuple[Span, str]] = field(default_factory=list)
    logical: dict[str, str] = field(default_factory=dict)
    dated: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        return quote_ident(self.use.shown)

    def parameter(self, index: int) -> str:
        return f"${self.first + index}"

    def is_constant(self, span: Span, column: str) -> bool:
        """Whether what is written to the column can be sealed as it is."""
        if span[0] == span[1] and self.text.token(span[0]).kind is Kind.STRING and column in self.dated:
            return False
        return is_constant(self.text, span)

    def type_of(self, column: str) -> str | None:
        """The type under which a constant for the column is read, without its modifier: what is too long is an error, and not cut."""
        found = self.relation.column(column)
        declared = None if found is None else self.logical.get(column, found.declared_type)
        if declared is None:
            return None
        return unbounded(declared)

    def value(self, index: int) -> str:
        """A value that is computed; a bare constant has the type of its column."""
        span, column = self.values[index]
        bare = span[0] == span[1] and self.text.token(span[0]).kind is Kind.STRING
        typed = f"::{self.dated[column]}" if bare and column in self.dated else ""
        return f"({self.text.source(span)}{typed})"


def rewrite(
    text: Text,
    database: Protected,
    protected: Collection[str],
    judge: Callable[[str], bool],
    logical: Callable[[ColumnName], str | None],
) -> WriteText | None:
    """How the statement can be done in two steps; None where it can't.

    `protected`: the names of all protected columns. `judge`: whether the database may run a statement for the principal as it is. `logical`: the
    type that clients see of a sealed column. Constants of dates and times PostgreSQL reads in more forms than can be sealed as they are.
    """
    if not text.survey.tables:
        return None
    use = min(text.survey.tables, key=lambda t: t.first)
    if use.relation is None or not use.plain or use.relation.definition is not None or use.qualified:
        return None
    # Any protected column: a computed value for one that is not sealed does no harm.
    sealed = database.columns_of(use.relation)
    made = _Written(text, use, use.relation, next_parameter(text))
    made.logical = {column: spelled for column, name in sealed.items() if (spelled := logical(name)) is not None}
    made.dated = {column: spelled for column, spelled in made.logical.items() if spelled.startswith(_DATED)}
    match text.value(text.first):
        case "update":
            found = _Update(made, sealed, protected, judge).build()
        case "delete":
            found = _delete(made)
        case "insert":
            found = _insert(made, sealed)
        case "merge":
            found = _merge(made, sealed)
        case _:
            return None
    return None if found is None else _returned(made, found, judge)


# -- UPDATE and DELETE


def clauses_behind(text: Text, begin: int, words: Collection[str]) -> dict[str, Span]:
    """What stands behind each of the words outside brackets, from token `begin` on; the word's own token is `span[0] - 1`."""
    starts: list[tuple[int, str]] = []
    depth = 0
    for index in range(begin, text.last + 1):
        token = text.token(index)
        if token.kind is Kind.PUNCT:
            depth += (token.value in "([") - (token.value in ")]")
        is_word = (
            token.kind is Kind.WORD and token.value in words and text.value(index - 1) not in {".", "as", "distinct"}
        )
        if depth == 0 and is_word and token.value not in {w for _, w in starts}:
            starts.append((index, token.value))
    ends = [at - 1 for at, _ in starts[1:]] + [text.last] * bool(starts)
    return {word: (at + 1, end) for (at, word), end in zip(starts, ends, strict=True)}


class _Update:
    def __init__(
        self, made: _Written, sealed: Collection[str], protected: Collection[str], judge: Callable[[str], bool]
    ) -> None:
        self.made = made
        self.sealed = sealed
        self.protected = protected
        self.judge = judge
        self.clauses = clauses_behind(made.text, made.use.last + 1, {"set", "from", "where", "returning"})

    def build(self) -> WriteText | None:
        made, text = self.made, self.made.text
        where = self.clauses.get("where")
        if "set" not in self.clauses or (where is not None and text.value(where[0]) == "current"):
            return None
        for item in split_at(text.lexed, self.clauses["set"], ","):
            if text.value(item[0] + 1) != "=" or not text.is_name(item[0]) or item[0] + 2 > item[1]:
                return None
            value = (item[0] + 2, item[1])
            if self._is_computed(text.value(item[0]), value):
                made.values.append((value, text.value(item[0])))
        if made.values and self._fixed():
            return _once(made)
        return _by_key(made, self.clauses.get("from"), where)

    def _is_computed(self, column: str, value: Span) -> bool:
        text = self.made.text
        if self.made.is_constant(value, column):
            return False
        names = {text.value(i) for i in range(value[0], value[1] + 1) if text.is_name(i)}
        return column in self.sealed or "from" in self.clauses or not names.isdisjoint(self.protected)

    def _fixed(self) -> bool:
        """Whether the values are the same for every row, and the database can find the rows."""
        made, text = self.made, self.made.text
        columns = {c.name for c in made.relation.columns}
        if "from" in self.clauses or any(_mentions(text, span, columns) for span, _ in made.values):
            return False
        where = self.clauses.get("where")
        if where is None:
            return True
        table = text.source((made.use.first, made.use.last))
        return self.judge(f"SELECT 1 FROM {table} AS {made.shown} WHERE {text.source(where)}")


def _delete(made: _Written) -> WriteText | None:
    clauses = clauses_behind(made.text, made.use.last + 1, {"using", "where", "returning"})
    where = clauses.get("where")
    if where is not None and made.text.value(where[0]) == "current":
        return None
    return _by_key(made, clauses.get("using"), where)


def _by_key(made: _Written, others: Span | None, where: Span | None) -> WriteText:
    """The rows are found by the source, and again by their keys."""
    text, shown = made.text, made.shown
    source = [f"SELECT {shown}.ctid AS c0, {shown}.tableoid AS c1"]
    source += [f", {made.value(i)} AS c{i + 2}" for i in range(len(made.values))]
    source.append(f" FROM {text.source((made.use.first, made.use.last))} AS {shown}")
    if others is not None:
        source.append(f", {text.source(others)}")
        made.edits.append((others[0] - 1, others[1], ""))
    if where is not None:
        source.append(f" WHERE {text.source(where)}")
    for i, (span, _) in enumerate(made.values, 2):
        made.edits.append((*span, made.parameter(i)))
    found = f"WHERE {shown}.ctid = {made.parameter(0)} AND {shown}.tableoid = {made.parameter(1)}"
    if where is not None:
        made.edits.append((where[0] - 1, where[1], found))
    else:
        made.edits.append((*_behind(made), found))
    columns = (None, None, *(column for _, column in made.values))
    return WriteText(
        "".join(source), made.use.shown, "", made.first, many=True, columns=columns, relation=made.relation
    )


def _behind(made: _Written) -> Span:
    """Where a WHERE clause goes in a statement without one: before RETURNING, or at the end."""
    returning = clauses_behind(made.text, made.use.last + 1, {"returning"}).get("returning")
    return (made.text.last + 1, made.text.last) if returning is None else (returning[0] - 1, returning[0] - 2)


def _once(made: _Written) -> WriteText:
    """The values are computed once, whatever is written with them."""
    values = [made.value(i) for i in range(len(made.values))]
    source = one_row(values)
    if any(_asks(made.text, span) for span, _ in made.values):
        source = "SELECT " + ", ".join(f"{value} AS c{i}" for i, value in enumerate(values))
    made.edits += [(*span, made.parameter(i)) for i, (span, _) in enumerate(made.values)]
    columns = tuple(column for _, column in made.values)
    return WriteText(source, None, "", made.first, many=False, columns=columns, relation=made.relation)


def one_row(values: list[str]) -> str:
    """A SELECT of values that need no row. In VALUES, as in what is written, there may be no aggregate and no function that gives rows."""
    names = ", ".join(f"c{i}" for i in range(len(values)))
    return f"SELECT {names} FROM (VALUES ({', '.join(values)})) AS v ({names})"


# -- INSERT


def _insert(made: _Written, sealed: Collection[str]) -> WriteText | None:
    text = made.text
    at = made.use.last + 1
    if text.value(at) == "as":
        at += 2
    columns = [c.name for c in made.relation.columns]
    if text.value(at) == "(" and text.value(at + 1) not in {"select", "with", "values", "table", "("}:
        closing = closing_of(text.lexed, at, text.last)
        if closing is None:
            return None
        spans = split_at(text.lexed, (at + 1, closing - 1), ",")
        if any(a != b for a, b in spans):
            return None
        columns = [text.value(a) for a, _ in spans]
        at = closing + 1
    if text.value(at) == "overriding":
        at += 3
    end = _rows_end(text, at)
    if at > end:
        return None
    if text.value(at) == "values":
        return _inserted_values(made, sealed, columns, (at + 1, end))
    return _inserted_query(made, columns, (at, end))


def _rows_end(text: Text, begin: int) -> int:
    depth = 0
    for index in range(begin, text.last + 1):
        token = text.token(index)
        if token.kind is Kind.PUNCT:
            depth += (token.value in "([") - (token.value in ")]")
        if depth or token.kind is not Kind.WORD:
            continue
        if (token.value == "on" and text.value(index + 1) == "conflict") or token.value == "returning":
            return index - 1
    return text.last


def _inserted_values(made: _Written, sealed: Collection[str], columns: list[str], span: Span) -> WriteText | None:
    text = made.text
    for row in split_at(text.lexed, span, ","):
        if text.value(row[0]) != "(" or text.value(row[1]) != ")":
            return None
        items = split_at(text.lexed, (row[0] + 1, row[1] - 1), ",")
        for item, column in zip(items, columns, strict=False):
            if column in sealed and not made.is_constant(item, column):
                made.values.append((item, column))
    if made.values:
        return _once(made)
    return WriteText(None, None, "", made.first, many=False, columns=(), relation=made.relation)


def _inserted_query(made: _Written, columns: list[str], span: Span) -> WriteText | None:
    text = made.text
    inside = [block for clauses, block in text.blocks if span[0] <= clauses.first <= span[1]]
    if not inside or inside[0].outputs is None or len(inside[0].outputs) > len(columns):
        return None
    width = len(inside[0].outputs)
    row = ", ".join(made.parameter(i) for i in range(width))
    made.edits.append((*span, f"VALUES ({row})"))
    targets = tuple(columns[:width])
    return WriteText(
        _typed_source(made, targets, span), None, "", made.first, many=True, columns=targets, relation=made.relation
    )


def _typed_source(made: _Written, targets: tuple[str, ...], span: Span) -> str:
    """The query, in which a constant or parameter that is a whole value has its column's type: in a SELECT by itself it would be text."""
    text = made.text
    clauses, block = next((c, b) for c, b in text.blocks if span[0] <= c.first <= span[1])
    alone = clauses.first == span[0] and clauses.alone and clauses.items is not None
    if not alone or clauses.items is None or block.node.args.get("distinct") is not None:
        return text.source(span)
    items = split_at(text.lexed, clauses.items, ",")
    if len(items) != len(targets):
        return text.source(span)
    # What is sorted by is text for the server, too.
    order = clauses.spans.get("order")
    places = {text.value(i) for i in range(order[0], order[1] + 1)} if order is not None else set()
    pieces: list[str] = []
    at = text.token(span[0]).start
    for place, ((first, last), column) in enumerate(zip(items, targets, strict=True), 1):
        token = text.token(first)
        bare = token.kind in (Kind.STRING, Kind.PARAM) or (token.kind is Kind.WORD and token.value == "null")
        named = last == first or (text.value(first + 1) == "as" and last == first + 2)
        spelled = made.type_of(column)
        if bare and named and spelled is not None and str(place) not in places:
            pieces += [text.lexed.text[at : token.end], f"::{spelled}"]
            at = token.end
    return "".join([*pieces, text.lexed.text[at : text.token(span[1]).end]])


# -- MERGE


def _merge(made: _Written, sealed: Collection[str]) -> WriteText | None:
    """Values that are the same for every row are computed first; others would need the rows that the database brings together."""
    found = assigned(made.text, [c.name for c in made.relation.columns])
    if found is None:
        return None
    made.values += [(span, column) for span, column in found if column in sealed and not made.is_constant(span, column)]
    return _once(made) if made.values and all(of_constants(made.text, span) for span, _ in made.values) else None


# -- RETURNING, and the statement put together


def _returned(made: _Written, found: WriteText, judge: Callable[[str], bool]) -> WriteText | None:
    """The statement with what it returns, computed afterwards where the database can't."""
    text = made.text
    clauses = clauses_behind(text, made.use.last + 1, {"set", "from", "using", "returning"})
    returning = clauses.get("returning")
    stars = (
        []
        if returning is None
        else [a for a, b in split_at(text.lexed, returning, ",") if a == b and text.value(a) == "*"]
    )
    if stars and text.value(text.first) != "insert":
        if "using" in clauses or ("set" in clauses and "from" in clauses):
            return None
        # The values are a relation of the statement, too.
        made.edits += [(star, star, f"{made.shown}.*") for star in stars]
    apply = _edited(made)
    if judge(apply):
        return replace(found, apply=apply)
    if returning is None or text.value(text.first) == "merge":
        return None
    made.edits = [e for e in made.edits if e[0] not in stars]
    columns = [c.name for c in made.relation.columns]
    indexes = range(returning[0], returning[1] + 1)
    wanted = used(text, made.use.shown, columns, indexes)
    if any(text.value(i) in {"old", "new"} and text.value(i + 1) == "." for i in indexes) or wanted.row:
        return None
    foreign = {
        text.value(i) for i in indexes if text.is_name(i) and text.value(i + 1) == "." and text.value(i - 1) != "."
    }
    if not foreign <= {made.use.shown}:
        return None
    names = columns if stars or wanted.everything else [c for c in columns if c in wanted.columns]
    if not names:
        return None
    made.edits.append((*returning, ", ".join(f"{made.shown}.{quote_ident(c)}" for c in names)))
    apply = _edited(made)
    if not judge(apply):
        return None
    local = f"SELECT {text.source(returning)} FROM {leaf_name(0)} AS {made.shown}"
    return replace(found, apply=apply, returning=(tuple(names), local))


def _edited(made: _Written) -> str:
    """The client's text with the edits; an edit behind the last token is put at the end."""
    text = made.text
    pieces: list[str] = []
    at = text.token(text.first).start
    for first, last, words in sorted(made.edits):
        start = text.token(text.last).end if first > text.last else text.token(first).start
        pieces += [text.lexed.text[at:start], " " if first > text.last else "", words]
        if last < first <= text.last:
            pieces.append(" ")
        at = max(start, text.token(last).end) if last >= first else start
    pieces.append(text.lexed.text[at : text.token(text.last).end])
    return "".join(pieces)


def many_rows(text: str, first: int, count: int, *, standard_conforming_strings: bool) -> str:
    """A statement for one row as one for many: parameters from `first` on become the columns of arrays, `count` of them, side by side."""
    lexed = lex(text, standard_conforming_strings=standard_conforming_strings)
    names = ", ".join(f"pgveil_c{i}" for i in range(count))
    rows = f"ROWS FROM ({', '.join(f'pg_catalog.unnest(${first + i})' for i in range(count))}) WITH ORDINALITY AS {VALUES_NAME} ({names}, pgveil_n)"
    action = lexed.tokens[lexed.statements[0][0]].value
    edits: list[tuple[int, int, str]] = []
    if action == "insert":
        begin, end = _values_of(lexed, first)
        listed = ", ".join(f"{VALUES_NAME}.pgveil_c{i}" for i in range(count))
        edits.append((begin, end, f"SELECT {listed} FROM {rows} ORDER BY {VALUES_NAME}.pgveil_n"))
    else:
        where = _where_of(lexed, first)
        edits.append((where, where, f"{'FROM' if action == 'update' else 'USING'} {rows} WHERE"))
        for index, token in enumerate(lexed.tokens):
            if token.kind is Kind.PARAM and int(token.value) >= first:
                edits.append((index, index, f"{VALUES_NAME}.pgveil_c{int(token.value) - first}"))
    pieces: list[str] = []
    at = 0
    for begin, end, words in sorted(edits):
        pieces += [text[at : lexed.tokens[begin].start], words]
        at = lexed.tokens[end].end
    return "".join([*pieces, text[at:]])


def _values_of(lexed: Lexed, first: int) -> Span:
    """VALUES ($first, ...)."""
    for index in range(len(lexed.tokens) - 2):
        third = lexed.tokens[index + 2]
        if lexed.tokens[index].value == "values" and third.kind is Kind.PARAM and int(third.value) == first:
            closing = closing_of(lexed, index + 1, len(lexed.tokens) - 1)
            assert closing is not None
            return index, closing
    raise AssertionError("a statement of ours without its values")


def _where_of(lexed: Lexed, first: int) -> int:
    """The WHERE before the row's key."""
    for index in range(len(lexed.tokens) - 5):
        key = lexed.tokens[index + 5]
        if lexed.tokens[index].value == "where" and key.kind is Kind.PARAM and int(key.value) == first:
            return index
    raise AssertionError("a statement of ours without its key")


# -- expressions


def is_constant(text: Text, span: Span) -> bool:
    """A literal, a parameter, NULL or DEFAULT, perhaps with a sign or a cast: what can be sealed as it is."""
    at = span[0]
    if text.value(at) in {"-", "+"}:
        at += 1
    if at > span[1]:
        return False
    token = text.token(at)
    constant = token.kind in (Kind.STRING, Kind.BITSTRING, Kind.NUMBER, Kind.PARAM)
    if not constant and not (token.kind is Kind.WORD and token.value in _CONSTANT_WORDS):
        return False
    return at == span[1] or is_cast(text, (at + 1, span[1]))


def next_parameter(text: Text) -> int:
    """The number of the first parameter that the statement does not have."""
    numbers = [int(t.value) for t in text.lexed.tokens[text.first : text.last + 1] if t.kind is Kind.PARAM]
    return max(numbers, default=0) + 1


def unbounded(declared: str) -> str:
    """A type without its modifier, which would cut a value that is too long."""
    plain = _MODIFIER.sub("", declared)
    return _UNBOUNDED.get(plain, plain)


def is_cast(text: Text, span: Span) -> bool:
    """Whether the span is casts, and nothing else: `::varchar(19)`, but not `::text || 'x'`."""
    if text.value(span[0]) != "::":
        return False
    for index in range(span[0], span[1] + 1):
        typed = text.is_name(index) or text.token(index).kind is Kind.NUMBER
        if not typed and text.value(index) not in {"::", ".", ",", "(", ")", "[", "]"}:
            return False
    return True


def _asks(text: Text, span: Span) -> bool:
    """Whether a query is in an expression."""
    return any(text.is_name(i) and text.value(i) in {"select", "table", "values"} for i in range(span[0], span[1] + 1))


def _mentions(text: Text, span: Span, columns: Collection[str]) -> bool:
    """Whether a column of the target, or a subquery, is in an expression."""
    words = {text.value(i) for i in range(span[0], span[1] + 1) if text.is_name(i)}
    return "select" in words or not words.isdisjoint(columns)
