"""Changes to tables with sealed columns that PostgreSQL would take and that can't work, or would destroy what is stored, found by tokens.

A check, an index or a policy over a sealed column would see its sealed text; another type would cut it. Source: PostgreSQL documentation,
ALTER TABLE, CREATE INDEX, CREATE STATISTICS, CREATE POLICY, CREATE TRIGGER.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rules.analyse.record import AmbiguousNameError
from rules.decide import UNSUPPORTED
from rules.model import Protection, SealMode
from rules.plan import Edit, Reason, Refusal
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rules.analyse import Protected
    from rules.lexer import Lexed
    from rules.model import Column, Rules
    from rules.tokens import Token

_NOTHING: Final = "SET WITHOUT OIDS"
_NAMES: Final = (Kind.WORD, Kind.QUOTED)
# What may stand between CREATE and what is created, and before a relation's name.
_ADJECTIVES: Final = frozenset({"or", "replace", "unique", "constraint", "concurrently"})
_FILLERS: Final = frozenset({"if", "not", "exists", "only"})
_ORDER: Final = frozenset({"asc", "desc", "nulls", "first", "last"})
_ORDERED: Final = frozenset({"btree", "hash"})


@dataclass(frozen=True, slots=True)
class _Table:
    """The tokens from `first` to `last` say what is done to it; `sealed` are its sealed columns, `masked` the masked ones.

    `named`: all of its columns that the rules name, or that have their protection.
    """

    tokens: Sequence[Token]
    sealed: Mapping[str, Column]
    masked: Mapping[str, Column]
    named: frozenset[str]

    def value(self, at: int) -> str:
        """A keyword, an operator or a parenthesis; '' for anything that is a name because it is quoted, and beyond the end."""
        if not 0 <= at < len(self.tokens) or self.tokens[at].kind in (Kind.QUOTED, Kind.STRING):
            return ""
        return self.tokens[at].value

    def column(self, at: int) -> Column | None:
        """The sealed column that the token names."""
        if 0 <= at < len(self.tokens) and self.tokens[at].kind in _NAMES:
            return self.sealed.get(self.tokens[at].value)
        return None


def unneeded_changes(
    lexed: Lexed,
    whole: tuple[int, int],
    database: Protected,
    rules: Rules,
    search_path: tuple[str, ...] | None,
    canonical_type: Callable[[str], str],
) -> tuple[Edit, ...]:
    """Actions of ALTER TABLE that give a sealed column the type that clients see already: migration tools that compare names of types send them.

    They are sent as SET WITHOUT OIDS, which does nothing (PostgreSQL documentation, ALTER TABLE).
    """
    first, last = whole
    tokens = lexed.tokens[first : last + 1]
    if [t.value for t in tokens[:2]] != ["alter", "table"]:
        return ()
    table, at = _table(tokens, 2, database, rules, search_path)
    if table is None:
        return ()
    unneeded = _Unneeded(table, lexed.text, canonical_type)
    pieces = _pieces(table, at + (table.value(at) == "*"), len(tokens) - 1)
    return tuple(Edit(first + a, first + b, _NOTHING) for a, b in pieces if unneeded.is_so(a, b))


def refused_change(
    lexed: Lexed,
    whole: tuple[int, int],
    database: Protected,
    rules: Rules,
    search_path: tuple[str, ...] | None,
    unneeded: tuple[Edit, ...] = (),
) -> Refusal | None:
    """Why a statement must not be sent; None for all others. `whole`: its tokens. `unneeded`: actions that are not."""
    first, last = whole
    tokens = lexed.tokens[first : last + 1]
    words = [t.value if t.kind is Kind.WORD else "" for t in tokens]
    if words[:2] == ["alter", "table"]:
        table, at = _table(tokens, 2, database, rules, search_path)
        kept = {e.first - first for e in unneeded}
        found = None if table is None else next(_of_actions(table, at, kept), None)
    elif words[0] == "create" and (kind := next((w for w in words[1:5] if w not in _ADJECTIVES), "")) in _CREATED:
        # The last FROM: EXTRACT has one of its own.
        order = range(len(words) - 1, 0, -1) if kind == "statistics" else range(len(words))
        start = next((i for i in order if words[i] == ("from" if kind == "statistics" else "on")), None)
        table, at = (None, 0) if start is None else _table(tokens, start + 1, database, rules, search_path)
        found = None if table is None else next(_CREATED[kind](table, at), None)
    else:
        return None
    if found is None:
        return None
    place, column, what, hint = found
    how = "is sealed" if column.protection is Protection.SEALED else "the rules mask"
    message = f'{what} column "{column.name}", which {how}'
    return Refusal(Reason.UNSUPPORTED, UNSUPPORTED, message, hint=hint, column=column.name, token=first + place)


_Found = tuple[int, "Column", str, str]


def _table(
    tokens: Sequence[Token], at: int, database: Protected, rules: Rules, search_path: tuple[str, ...] | None
) -> tuple[_Table | None, int]:
    """The table whose name begins at or soon after `at`, where it has sealed columns; and the place behind its name."""
    while at < len(tokens) and tokens[at].kind is Kind.WORD and tokens[at].value in _FILLERS:
        at += 1
    parts: list[str] = []
    while at < len(tokens) and tokens[at].kind in _NAMES:
        parts.append(tokens[at].value)
        at += 1
        if at >= len(tokens) or tokens[at].value != "." or tokens[at].kind in _NAMES:
            break
        at += 1
    if not parts:
        return None, at
    try:
        relation = database.resolve(parts[-2] if len(parts) > 1 else None, parts[-1], search_path)
    except AmbiguousNameError:
        relation = None
    if relation is None:
        return None, at
    columns = {name: rules.column(of) for name, of in database.columns_of(relation).items()}
    sealed, masked = (
        {n: c for n, c in columns.items() if c is not None and c.protection is protection}
        for protection in (Protection.SEALED, Protection.MASKED)
    )
    entry = rules.tables.get(relation.name)
    named = frozenset(columns) | frozenset(() if entry is None else entry.columns)
    return (_Table(tokens, sealed, masked, named) if sealed or masked else None), at


# -- ALTER TABLE


@dataclass(frozen=True, slots=True)
class _Unneeded:
    """Whether an action says nothing new: `ALTER pan TYPE varchar(19) USING pan::varchar(19)`, where that is the type in the rules."""

    table: _Table
    text: str
    canonical_type: Callable[[str], str]

    def is_so(self, first: int, last: int) -> bool:
        """Whether the tokens from `first` to `last` are such an action."""
        value = self.table.value
        at = first + 1 + (value(first + 1) == "column")
        column = self.table.column(at)
        if value(first) != "alter" or column is None:
            return False
        at += 1 + 2 * (value(at + 1) == "set" and value(at + 2) == "data")
        using = next((i for i in range(at, last + 1) if value(i) == "using"), last + 1)
        if value(at) != "type" or not self._is_type(at + 1, using - 1, column):
            return False
        return using > last or self._is_cast(using + 1, last, column)

    def _is_type(self, first: int, last: int, column: Column) -> bool:
        if last < first or column.type is None:
            return False
        spec = self.text[self.table.tokens[first].start : self.table.tokens[last].end]
        try:
            return self.canonical_type(spec) == self.canonical_type(column.type)
        except ValueError:
            return False

    def _is_cast(self, first: int, last: int, column: Column) -> bool:
        """`pan`, `pan::type`, `CAST(pan AS type)`."""
        value = self.table.value
        if value(first) == "cast" and value(first + 1) == "(" and value(last) == ")" and value(first + 3) == "as":
            return self.table.column(first + 2) is column and self._is_type(first + 4, last - 1, column)
        if self.table.column(first) is not column:
            return False
        return first == last or (value(first + 1) == "::" and self._is_type(first + 2, last, column))


def _of_actions(table: _Table, at: int, kept: set[int]) -> Iterator[_Found]:
    for first, last in _pieces(table, at + (table.value(at) == "*"), len(table.tokens) - 1):
        if first in kept:
            continue
        word = table.value(first)
        if word == "alter":
            named = first + 1 + (table.value(first + 1) == "column")
            yield from _altered(table, named)
            if [table.value(named + i) for i in range(1, 4)] == ["set", "expression", "as"]:
                yield from _computed(table, named + 4, last)
                yield from _shown(table, named, last)
        elif word == "drop" and table.value(first + 1) != "constraint":
            yield from _dropped(table, first + 1, last)
        elif word == "add":
            yield from _added(table, first, last)


def _altered(table: _Table, at: int) -> Iterator[_Found]:
    column = table.column(at)
    if column is None:
        return
    then = [table.value(at + i) for i in range(1, 4)]
    if then[0] == "type" or then == ["set", "data", "type"]:
        hint = "Leave the column out of the change: clients see the type that the rules give it."
        yield at, column, "another type would cut the stored values of", hint
    elif then[:2] == ["set", "default"] and then[2] != "null":
        hint = "Give the value in the INSERT: pgveil seals it there."
        yield at, column, "the database can't seal a default for", hint


def _shown(table: _Table, at: int, last: int) -> Iterator[_Found]:
    """A generated column that everybody may read, and that would be made of a masked one: masking views go on showing it until the next apply."""
    name = table.tokens[at].value
    for place in range(at + 4, last + 1):
        source = table.masked.get(table.tokens[place].value) if table.tokens[place].kind in _NAMES else None
        if source is not None and name not in table.named:
            hint = "Name the generated column in the rules first, with a mask or `level: general`, and run pgveil apply --reload."
            yield place, source, "everybody who may read the generated column would see what is made of", hint


def _dropped(table: _Table, at: int, last: int) -> Iterator[_Found]:
    at += table.value(at) == "column"
    while table.value(at) in {"if", "exists"}:
        at += 1
    column = table.column(at)
    if column is not None and table.value(last) != "cascade":
        hint = "Where its values are no longer wanted, write CASCADE behind its name."
        yield at, column, "this would destroy the values of", hint


def _added(table: _Table, first: int, last: int) -> Iterator[_Found]:
    words = [table.value(i) for i in range(first, last + 1)]
    excludes = "exclude" in words
    for place in range(first, last + 1):
        if table.value(place) != "(":
            continue
        before = table.value(place - 1)
        if excludes or before in {"check", "as"}:
            yield from _computed(table, place, _closing(table, place))
        elif before in {"unique", "key", "distinct"} and "foreign" not in words:
            yield from _unique(table, place, _closing(table, place))


def _unique(table: _Table, first: int, last: int) -> Iterator[_Found]:
    for at in range(first, last + 1):
        column = table.column(at)
        if column is not None and column.mode is SealMode.RANDOMIZED:
            hint = "Only a deterministic column can be unique: `mode: deterministic` in the rules."
            yield at, column, "equal values are stored unlike in", hint


# -- what is computed over a column


def _computed(table: _Table, first: int, last: int) -> Iterator[_Found]:
    """A sealed column in an expression, which would be given its sealed text. Whether it is NULL can be asked."""
    for at in range(first, last + 1):
        column = table.column(at)
        if column is None or _asks_for_null(table, at) or _asks_for_change(table, at):
            continue
        hint = "Check it in the application; whether the column IS NULL can be asked here."
        yield at, column, "the database can't compute with", hint


def _asks_for_null(table: _Table, at: int) -> bool:
    then = [table.value(at + i) for i in range(1, 4)]
    return then[:2] == ["is", "null"] or then == ["is", "not", "null"]


def _asks_for_change(table: _Table, at: int) -> bool:
    """`old.pan IS DISTINCT FROM new.pan`, either side of it, in a trigger's WHEN."""
    if table.value(at - 1) != "." or table.value(at - 2) not in {"old", "new"}:
        return False
    behind = [table.value(at + i) for i in range(1, 5)]
    ahead = [table.value(at - i) for i in range(6, 2, -1)]
    other = at + 6 if behind[:3] == ["is", "distinct", "from"] else at - 6
    asked = behind[:3] == ["is", "distinct", "from"] or ahead[1:] == ["is", "distinct", "from"]
    return asked and table.column(other) is table.column(at)


# -- CREATE


def _index(table: _Table, at: int) -> Iterator[_Found]:
    method = "btree"
    if table.value(at) == "using":
        method, at = table.value(at + 1), at + 2
    end = _closing(table, at)
    for first, last in _pieces(table, at + 1, end - 1):
        column = table.column(first)
        rest = [table.value(i) for i in range(first + 1, last + 1)]
        plain = column is not None and set(rest) <= _ORDER and method in _ORDERED
        if not plain:
            for place, found, _, _ in _computed(table, first, last):
                hint = "Index the column itself, without an operator class: that serves = and IN."
                yield place, found, "an index of this kind can't serve", hint
    unique = "unique" in {table.value(i) for i in range(4)}
    if unique:
        yield from _unique(table, at, end)
    where = next((i for i in range(end, len(table.tokens)) if table.value(i) == "where"), None)
    if where is not None:
        yield from _computed(table, where, len(table.tokens) - 1)


def _statistics(table: _Table, at: int) -> Iterator[_Found]:
    for place in range(at):
        if table.value(place) == "(":
            yield from _computed(table, place, _closing(table, place))


def _conditions(table: _Table, at: int) -> Iterator[_Found]:
    """Of a policy or trigger: all in parentheses but the function's arguments, which are constants."""
    for place in range(at, len(table.tokens)):
        if table.value(place) == "(" and table.value(place - 1) in {"when", "using", "check"}:
            yield from _computed(table, place, _closing(table, place))


_CREATED: Final = {"index": _index, "statistics": _statistics, "policy": _conditions, "trigger": _conditions}


# -- tokens


def _closing(table: _Table, at: int) -> int:
    """The place of the parenthesis that closes the one at `at`; the last token where there is none."""
    depth = 0
    for place in range(at, len(table.tokens)):
        depth += (table.value(place) == "(") - (table.value(place) == ")")
        if depth == 0:
            return place
    return len(table.tokens) - 1


def _pieces(table: _Table, first: int, last: int) -> Iterator[tuple[int, int]]:
    """What stands between commas that are in no parentheses."""
    depth, start = 0, first
    for at in range(first, last + 1):
        word = table.value(at)
        depth += (word in {"(", "["}) - (word in {")", "]"})
        if word == "," and depth == 0:
            yield start, at - 1
            start = at + 1
    yield start, last
