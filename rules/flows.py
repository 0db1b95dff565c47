"""Where the code of a database stores what it is given: a function's or a rule's text, token by token (PostgreSQL documentation, 43 and 41.4).

No parser: PL/pgSQL and SQL-standard bodies mix statements, and what matters has few forms: INSERT, UPDATE, MERGE, assignments and INTO. Where a form
is not clear the answer is more, never less: all columns, everything that the statement names. What runs a text that is put together is told (`Ran`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from rules.code_text import NAMES, STARTS, CodeText
from rules.lexer import LexError, lex, literal_value
from rules.model import ColumnName
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Taint = frozenset[ColumnName]
NOTHING: Final[Taint] = frozenset()
ROW: Final = "new"
_MOST_STEPS: Final = 500_000  # tokens looked at, of one text: a second or two

_SETS: Final = frozenset({"union", "intersect", "except"})
_ENDS_FROM: Final = frozenset(
    {"where", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "returning", "loop"} | _SETS
)
_ENDS_ITEMS: Final = _ENDS_FROM | {"from", "into"}
_QUERY: Final = frozenset({"select", "values", "with", "("})
# Bare words that are no column and no variable.
# fmt: off
_PLAIN: Final = frozenset({
    "null", "true", "false", "default", "current_user", "session_user", "current_role", "user", "current_date", "current_time",
    "current_timestamp", "localtime", "localtimestamp", "current_schema", "current_catalog", "tg_op", "tg_name", "tg_when", "tg_level",
    "tg_relid", "tg_table_name", "tg_table_schema", "tg_relname", "tg_nargs", "tg_argv", "found", "case", "when", "then", "else", "end",
    "and", "or", "not", "is", "in", "as", "array", "row", "cast", "distinct", "from", "select", "where", "interval", "timestamp", "date",
    "at", "time", "zone", "collate", "like", "ilike", "between", "any", "all", "exists", "asc", "desc", "by", "order", "group", "limit",
})
# fmt: on
_BEFORE_RELATIONS: Final = frozenset({"from", "join", "only", "using", "update", "into"})
_NO_ALIAS: Final = (
    _ENDS_ITEMS | _PLAIN | {"set", "on", "using", "join", "left", "right", "inner", "cross", "full", "natural", "when"}
)


class Row(NamedTuple):
    """A relation's row: its columns in order, and what each of them holds."""

    columns: tuple[str, ...]
    holds: Mapping[str, Taint]

    @property
    def whole(self) -> Taint:
        """What all of it holds."""
        return NOTHING.union(*self.holds.values())


class World(Protocol):
    """What the names in a text stand for."""

    def relation(self, name: str) -> Row | None:
        """A relation that holds something; None for others."""

    def columns(self, schema: str | None, name: str) -> tuple[str, ...]:
        """Those of a relation; none where there is no such one."""

    def read_by(self, function: str) -> Taint:
        """What a function of this name reads by itself."""


class Stored(NamedTuple):
    """A column of a relation ("": nobody knows which) is given what is made of `taint`, in a row that is there (`changes`) or a new one.

    The relation `new` without a schema is the trigger's row.
    """

    schema: str | None
    relation: str
    column: str
    taint: Taint
    changes: bool = False


class Called(NamedTuple):
    """A function is given it."""

    function: str
    taint: Taint


class Ran(NamedTuple):
    """No telling what becomes of it: a text that is put together, the row as a whole."""

    what: str


class _Star(NamedTuple):
    """An item of unknown width. `named`: by columns' names, where these are known."""

    taint: Taint
    named: Mapping[str, Taint] | None = None


class _Scope(NamedTuple):
    """What a statement's names stand for. `ambient`: what any other name may hold. `places`: where relations are named, not their values."""

    rows: Mapping[str, Row]
    ambient: Taint
    places: frozenset[int] = frozenset()


@dataclass(slots=True)
class Flows(CodeText):
    """One text. `rows`: names that are rows (NEW and OLD, transition tables); `ambient`: what parameters and unknown names hold."""

    world: World
    rows: dict[str, Row] = field(default_factory=dict)
    ambient: Taint = NOTHING
    _labels: frozenset[str] = frozenset()
    _steps: int = 0
    _variables: dict[str, dict[str, Taint]] = field(default_factory=dict)

    def found(self) -> frozenset[Stored | Called | Ran]:
        """Everything that the text does with what it is given; variables are followed until nothing new is found."""
        found: frozenset[Stored | Called | Ran] = frozenset()
        segments = list(self.segments())
        opened = (i for i in range(1, len(self.lexed.tokens)) if self.word(i - 1) == "<<")
        self._labels |= {self.word(i) for i in opened}
        while True:
            before = {name: dict(fields) for name, fields in self._variables.items()}
            rows = set(self.rows)
            for first, end, declares in segments:
                found |= set(self._segment(first, end, declares=declares))
                if self._steps > _MOST_STEPS:
                    return found | {Ran("is too long to be followed")}
            if before == self._variables and rows == set(self.rows):
                return found

    # -- what an expression is made of

    def _taint(self, first: int, end: int, scope: _Scope) -> Taint:
        found: set[ColumnName] = set()
        self._steps += end - first
        for at in range(first, end) if self._steps <= _MOST_STEPS else ():
            token = self.lexed.tokens[at]
            if token.kind is Kind.PARAM:
                found |= self.ambient
            elif token.kind in NAMES:
                found |= self._of_name(at, scope)
        return frozenset(found)

    def _of_name(self, at: int, scope: _Scope) -> Taint:
        name, before = self.word(at), self.word(at - 1)
        if at in scope.places:
            return NOTHING
        if self.word(at + 1) == "(":
            # The text of the client's statement holds what it writes.
            return self.world.read_by(name) | (self._at_stake() if name == "current_query" else NOTHING)
        if name == "sqlerrm":
            return self._at_stake()
        if (
            before == "."
            and self.word(at - 2) not in self._labels
            and not (name in scope.rows and self.word(at + 1) == ".")
        ):
            return NOTHING
        if name in self.rows or name in self._variables or name in scope.rows:
            return self._of_row(at, scope)
        columns = NOTHING.union(*(row.holds.get(name, NOTHING) for row in scope.rows.values()))
        if columns or name in _PLAIN or before == "::":
            return columns
        return scope.ambient | self.ambient

    def _at_stake(self) -> Taint:
        """All that the text is given: what the client's statement, or an error's words, may hold."""
        return self.ambient.union(*(row.whole for row in self.rows.values()))

    def _of_row(self, at: int, scope: _Scope) -> Taint:
        name, part = self.word(at), self.word(at + 2) if self.word(at + 1) == "." else "*"
        found = NOTHING
        for row in (self.rows.get(name), scope.rows.get(name)):
            if row is not None:
                found |= row.whole if part == "*" else row.holds.get(part, NOTHING)
        fields = self._variables.get(name, {})
        if part == "*":
            return found.union(*fields.values())
        return found | fields.get("", NOTHING) | fields.get(part, NOTHING)

    def _item(self, first: int, end: int, scope: _Scope, single: Row | None) -> list[Taint | _Star]:
        """One item of a list: of a star as many as it stands for."""
        words = [self.word(i) for i in range(first, end)]
        if words == ["*"]:
            whole = NOTHING.union(scope.ambient, *(r.whole for r in scope.rows.values()))
            return [_Star(whole)] if single is None else [single.holds.get(c, NOTHING) for c in single.columns]
        if words[1:] == [".", "*"]:
            return self._of_star(words[0], scope)
        if words[-2:] == [".", "*"]:
            return [_Star(self._taint(first, end, scope))]
        return [self._taint(first, end, scope)]

    def _of_star(self, name: str, scope: _Scope) -> list[Taint | _Star]:
        row, fields = self.rows.get(name) or scope.rows.get(name), self._variables.get(name, {})
        if row is None and not fields:
            return [_Star(scope.ambient | self.ambient)]
        if row is not None and not fields:
            return [row.holds.get(c, NOTHING) for c in row.columns]
        named = dict(fields)
        for column, taint in row.holds.items() if row is not None else ():
            named[column] = named.get(column, NOTHING) | taint
        return [_Star(NOTHING.union(*named.values()), None if named.get("") else named)]

    def _scope(self, first: int, end: int, ambient: Taint = NOTHING) -> _Scope:
        """The relations that a statement names, by their names and aliases."""
        rows: dict[str, Row] = {}
        places: set[int] = set()
        self._steps += end - first
        for at in range(first, end) if self._steps <= _MOST_STEPS else ():
            name, before = self.word(at), at - 1
            if self.word(before) == "." and self.world.relation(name) is not None:
                before -= 2
            stands = self.word(before) in _BEFORE_RELATIONS and self.word(before - 1) != "distinct"
            row = self.world.relation(name) if self.is_name(at) else None
            if row is None and self.word(before) in {"from", "join", ","}:
                row = self.rows.get(name)
            if row is None or self.word(at + 1) in {"(", "."}:
                continue
            rows[name] = row
            alias = at + 2 if self.word(at + 1) == "as" else at + 1
            if alias < end and self.is_name(alias) and self.word(alias) not in _NO_ALIAS:
                rows[self.word(alias)] = row
            if stands:
                places |= {at, alias} if self.word(alias) in rows else {at}
        return _Scope(rows, ambient, frozenset(places))

    def _segment(self, first: int, end: int, *, declares: bool) -> Iterator[Stored | Called | Ran]:
        scope = self._scope(first, end)
        if declares:
            self._declare(first, end, scope)
        for at in range(first, end):
            yield from self._written(first, at, end, scope)
            yield from self._moved(first, at, end, scope)

    def _written(self, first: int, at: int, end: int, scope: _Scope) -> Iterator[Stored | Called | Ran]:
        """What a statement that begins at `at` stores, or gives to functions."""
        word, following = self.word(at), self.word(at + 1)
        if word == "insert" and following == "into":
            yield from self._insert(at + 2, self.close(at, end), self._with(first, at, scope))
        elif word == "merge" and following == "into":
            yield from self._merge(at + 2, self.close(at, end), self._with(first, at, scope))
        elif word == "update" and following != "set":
            yield from self._update(at + 1, self.close(at, end), self._with(first, at, scope))
        elif word == "call":
            yield from self._call(at + 1, end, scope)
        elif word == "create":
            yield from self._create(at + 1, end, scope)
        elif word == "copy" and self.word(at - 1) in STARTS:
            yield Ran("runs COPY")
        elif word == "execute" and following not in {"function", "procedure"}:
            yield from self._execute(at + 1, end, scope)
        elif following == "(" and self.is_name(at):
            given = self._taint(at + 2, self.close(at + 2, end), scope)
            if given:
                yield Called(word, given)

    def _moved(self, first: int, at: int, end: int, scope: _Scope) -> Iterator[Stored | Ran]:
        """What goes into variables, and into the trigger's own row."""
        word = self.word(at)
        if word == ":=" or (word == "=" and self.word(self._chain(at)[2] - 1) in STARTS):
            yield from self._assign(*self._chain(at)[:2], self._taint(at + 1, end, scope), at + 1, end)
        elif word == "into" and self.word(at - 1) not in {"insert", "merge"}:
            yield from self._into(first, at, end, scope)
        elif word in {"for", "foreach", "open"}:
            self._loop(at, end, scope)
        elif word == "diagnostics" and self.word(at - 1) == "stacked":
            for start, _ in self.split(at + 1, end):
                self._hold(self.word(start), "", self._at_stake())

    def _with(self, first: int, at: int, scope: _Scope) -> Taint:
        """What the WITH in front of a statement holds."""
        start = next((i for i in range(at, first - 1, -1) if self.word(i) == "with"), at)
        return self._inside(start, at, scope)

    def _declare(self, first: int, end: int, scope: _Scope) -> None:
        name = self.word(first)
        if [self.word(first + 1), self.word(first + 2)] == ["alias", "for"]:
            if self.word(first + 3) in self.rows:
                self.rows[name] = self.rows[self.word(first + 3)]
            return
        type_ = self.name(first + 2 if self.word(first + 1) == "constant" else first + 1)
        row = self.world.relation(type_[1])
        if row is not None and (type_[2] >= end or [self.word(type_[2] + i) for i in (0, 1)] == ["%", "rowtype"]):
            self.rows.setdefault(name, row)
        self._hold(name, "", self._taint(first + 1, end, scope) if name not in self.rows else NOTHING)

    def _hold(self, name: str, part: str, taint: Taint) -> None:
        if name and taint:
            fields = self._variables.setdefault(name, {})
            fields[part] = fields.get(part, NOTHING) | taint

    def _chain(self, at: int) -> tuple[str, str, int]:
        """The target before an assignment: its name, its field, where it begins."""
        at -= 1
        while self.word(at) == "]":
            at = next((i for i in range(at, -1, -1) if self.word(i) == "["), 0) - 1
        names = [self.word(at)]
        while self.word(at - 1) == ".":
            at -= 2
            names.insert(0, self.word(at))
        if len(names) > 1 and names[0] in self._labels:
            del names[0]
        return names[0], names[1] if len(names) > 1 else "", at

    def _assign(self, name: str, part: str, taint: Taint, first: int, end: int) -> Iterator[Stored | Ran]:
        if name == ROW and ROW in self.rows:
            if part:
                yield Stored(None, ROW, part, taint)
            elif taint and end - first > 1:
                yield Ran("makes its row anew")
        elif not part and end - first == 1 and self.word(first) in self.rows and name not in self._variables:
            if self.rows.setdefault(name, self.rows[self.word(first)]) != self.rows[self.word(first)]:
                self._hold(name, "", taint)
        else:
            self._hold(name, part, taint)

    def _into(self, first: int, at: int, end: int, scope: _Scope) -> Iterator[Stored | Ran]:
        start = at + 2 if self.word(at + 1) == "strict" else at + 1
        stop = self.until(start, end, _ENDS_ITEMS | {"using"})
        targets = [self._chain(last)[:2] for _, last in self.split(start, stop)]
        select = next((i for i in range(at, first - 1, -1) if self.word(i) in {"select", "returning"}), None)
        items: list[Taint | _Star] = []
        if select is not None and self.close(select, at) == at:
            items = [i for a, b in self.split(select + 1, at) for i in self._item(a, b, scope, None)]
            if len(targets) == 1 and targets[0][0] in self.rows and self.word(at - 1) == "*":
                return
        whole = self._taint(first, end, scope)
        for number, (name, part) in enumerate(targets):
            item = items[number] if len(items) == len(targets) else whole
            yield from self._assign(name, part, whole if isinstance(item, _Star) else item, start, start + 2)

    def _loop(self, at: int, end: int, scope: _Scope) -> None:
        """FOR and FOREACH over rows, OPEN ... FOR a query."""
        if self.word(at) == "open":
            self._hold(self.word(at + 1), "", self._taint(at + 2, end, scope))
            return
        within = next((i for i in range(at, end) if self.word(i) == "in"), end)
        stop = next((i for i in range(within, end) if self.word(i) == "loop"), end)
        for start, _ in self.split(at + 1, within):
            self._hold(self.word(start), "", self._taint(within, stop, scope))

    def _execute(self, at: int, end: int, scope: _Scope) -> Iterator[Stored | Called | Ran]:
        """A text that is a constant is read like any other; what USING gives it is its parameters."""
        following = self.word(at + 1)
        constant = self.lexed.tokens[at].kind is Kind.STRING if at < end else False
        if not constant or following not in {"", ";", "using", "into"}:
            yield Ran("runs a text that it puts together")
            return
        try:
            text = lex(str(literal_value(self.lexed, at)))
        except LexError:
            yield Ran("runs a text that can't be read")
            return
        yield from Flows(text, self.world, {}, self._taint(at + 1, end, scope)).found()

    def _call(self, at: int, end: int, scope: _Scope) -> Iterator[Called]:
        """A procedure may put what it is given into the variables that it is called with."""
        opened = self.until(at, end, frozenset({"("}))
        given = self._taint(opened + 1, self.close(opened + 1, end), scope)
        if given:
            yield Called(self.word(opened - 1), given)
            for first, last in self.split(opened + 1, self.close(opened + 1, end)):
                if last - first == 1 and self.is_name(first) and self.word(first) not in self.rows:
                    self._hold(self.word(first), "", given)

    def _create(self, at: int, end: int, scope: _Scope) -> Iterator[Stored]:
        """CREATE TABLE ... AS."""
        table = next((i for i in range(at, min(at + 4, end)) if self.word(i) == "table"), None)
        as_ = self.until(at, end, frozenset({"as"}))
        if table is not None and as_ < end:
            first = table + 4 if self.word(table + 1) == "if" else table + 1
            schema, name, _ = self.name(first)
            yield Stored(schema, name, "", self._taint(as_ + 1, end, scope))

    def _insert(self, at: int, end: int, ambient: Taint) -> Iterator[Stored]:
        schema, name, behind = self.name(at)
        scope = self._scope(behind, end, ambient)
        listed, behind = self._listed(behind, end)
        columns = listed or self.world.columns(schema, name)
        if not columns:
            yield Stored(schema, name, "", self._taint(behind, end, scope))
        given: dict[str, Taint] = {}
        for arm in self._arms(behind, end, scope):
            for column, taint in _placed(columns, arm):
                given[column] = given.get(column, NOTHING) | taint
        for column, taint in given.items():
            yield Stored(schema, name, column, taint)
        on = self.until(behind, end, frozenset({"returning"}))
        update = next((i for i in range(on, end) if [self.word(i), self.word(i + 1)] == ["update", "set"]), None)
        if update is not None:
            excluded = scope._replace(rows={**scope.rows, "excluded": Row(columns, given)})
            yield from self._set(schema, name, update + 2, end, excluded)

    def _listed(self, at: int, end: int) -> tuple[tuple[str, ...], int]:
        """A list of columns, if there is one, behind an alias, and the place behind it."""
        if self.word(at) == "as":
            at += 2
        if self.word(at) != "(" or self.word(at + 1) in _QUERY:
            return (), at
        close = self.close(at + 1, end)
        return tuple(self.word(a) for a, _ in self.split(at + 1, close)), close + 1

    def _arms(self, at: int, end: int, scope: _Scope) -> Iterator[list[Taint | _Star]]:
        """The rows of VALUES, and the select lists of a query: the arms of a UNION each."""
        expected, start = True, at
        places = self.outside(at, end)
        for place in places:
            word = self.word(place)
            if word == "returning" or (word == "on" and self.word(place + 1) == "conflict"):
                return
            if word == "(" and expected and self.word(place - 1) not in {"as", "materialized"}:
                yield from self._arms(place + 1, self.close(place + 1, end), scope)
            elif word == "select" and expected:
                expected = False
                yield self._selected(start, place, end, scope)
            elif word == "values" and expected:
                expected = False
                for first, last in self.split(place + 1, self.until(place + 1, end, _ENDS_FROM)):
                    row = self.split(first + 1, self.close(first + 1, last))
                    yield [i for a, b in row for i in self._item(a, b, scope, None)]
            elif word in _SETS:
                expected = True

    def _selected(self, start: int, at: int, end: int, scope: _Scope) -> list[Taint | _Star]:
        """The items of one SELECT. What subqueries in WITH and FROM hold, any name that is not known may."""
        stop = self.until(at + 1, end, _ENDS_ITEMS)
        after = self.until(stop + 1, end, _ENDS_FROM)
        ambient = scope.ambient | self._inside(start, at, scope) | self._inside(stop, after, scope)
        first = at + 1
        while self.word(first) in {"all", "distinct"}:
            first += 1
            if self.word(first) == "on":
                first = self.close(first + 2, stop) + 1
        many = any(self.word(i) in {",", "join", "("} for i in range(stop + 1, after))
        single = next(iter(self._scope(stop, after).rows.values()), None)
        inner = scope._replace(ambient=ambient)
        parts = self.split(first, stop)
        return [i for a, b in parts for i in self._item(a, b, inner, None if many else single)]

    def _inside(self, first: int, end: int, scope: _Scope) -> Taint:
        """What stands in parentheses there holds."""
        opened = [i for i in self.outside(first, end) if self.word(i) == "("]
        return NOTHING.union(*(self._taint(i + 1, self.close(i + 1, end), scope) for i in opened))

    def _update(self, at: int, end: int, ambient: Taint) -> Iterator[Stored]:
        schema, name, behind = self.name(at + 1 if self.word(at) == "only" else at)
        set_ = self.until(behind, end, frozenset({"set"}))
        if set_ < end and set_ - behind <= 3:  # `*`, AS and an alias
            yield from self._set(schema, name, set_ + 1, end, self._scope(at - 1, end, ambient))

    def _set(self, schema: str | None, name: str, at: int, end: int, scope: _Scope) -> Iterator[Stored]:
        stop = self.until(at, end, _ENDS_ITEMS | {"when"})
        after = self.until(stop + 1, end, _ENDS_FROM)
        inner = scope._replace(ambient=scope.ambient | self._inside(stop, after, scope))
        for first, last in self.split(at, stop):
            equals = next((i for i in self.outside(first, last) if self.word(i) == "="), last)
            taint = self._taint(equals + 1, last, inner)
            columns = {self.word(first)}
            if self.word(first) == "(":
                columns = {self.word(a) for a, _ in self.split(first + 1, self.close(first + 1, last))}
            for column in columns:
                yield Stored(schema, name, column, taint, changes=True)

    def _merge(self, at: int, end: int, ambient: Taint) -> Iterator[Stored]:
        schema, name, behind = self.name(at)
        using = self.until(behind, end, frozenset({"using"}))
        when = self.until(using, end, frozenset({"when"}))
        scope = self._scope(at - 1, end)
        scope = scope._replace(ambient=ambient | self._taint(using, when, scope))
        for place in self.outside(when, end):
            word, following = self.word(place), self.word(place + 1)
            if word == "update" and following == "set":
                yield from self._set(schema, name, place + 2, end, scope)
            elif word == "insert":
                listed, values = self._listed(place + 1, end)
                stop = self.until(values, end, frozenset({"when"}))
                for arm in self._arms(values, stop, scope):
                    for column, taint in _placed(listed or self.world.columns(schema, name), arm):
                        yield Stored(schema, name, column, taint)


def _placed(columns: tuple[str, ...], items: list[Taint | _Star]) -> Iterator[tuple[str, Taint]]:
    """Which column gets which item; of a star whose width is not known all that are left get everything."""
    for place, item in enumerate(items):
        if isinstance(item, _Star):
            rest = [i.taint if isinstance(i, _Star) else i for i in items[place:]]
            for column in columns[place:]:
                yield column, NOTHING.union(*rest) if item.named is None else item.named.get(column, NOTHING)
            return
        if place < len(columns):
            yield columns[place], item
