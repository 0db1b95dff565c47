"""Columns that code in the database fills from masked ones, and that the rules do not name: whoever may read them reads what the others hide (F2.2).

Audit and history tables, search vectors, archives: filled by triggers, rules and functions, read by their texts (`rules.flows`). The rules are to say
of each such column who sees it; what can't be read is told as long as it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from rules.dangerous import is_dangerous
from rules.flows import NOTHING, ROW, Called, Flows, Ran, Row, Stored
from rules.harmless import is_harmless
from rules.lexer import LexError
from rules.logical import type_of_oid
from rules.masks import MASK_KINDS
from rules.model import ColumnName, Level, TableName
from rules.names import show_name
from rules.protect import is_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rules.catalog import Function, Relation
    from rules.flows import Taint
    from rules.protect import ProtectionMap

_COMPILED: Final = frozenset({"c", "internal"})
_READ: Final = frozenset({"plpgsql", "sql"})
_KINDS_WITH_DATA: Final = frozenset("rpf")
_MOST_CHARACTERS: Final = 100_000
# Trigger functions in C that come with PostgreSQL: at which of their arguments the columns begin that they put into the first one (12.4.3).
_VECTORS: Final = {"tsvector_update_trigger": 2, "tsvector_update_trigger_column": 2}
# Those that put no column into another one (9.29, F.38 "spi", lo).
_HARMLESS_TRIGGERS: Final = frozenset(
    {"suppress_redundant_updates_trigger", "moddatetime", "insert_username", "autoinc", "lo_manage"}
)


class Filled(NamedTuple):
    """A column that no rule names is given what is made of `made_of`. `by`: the code, in words."""

    target: ColumnName
    made_of: tuple[ColumnName, ...]
    by: str


class Unread(NamedTuple):
    """Code that is given rows of `relation`, with `columns`, and of which no text tells what it does with them."""

    relation: TableName
    columns: frozenset[ColumnName]
    by: str
    why: str


class Written(NamedTuple):
    """A masked column of the rules is filled with the rights of whoever writes `relation`, in a row that is there (`changes`) or a new one."""

    target: ColumnName
    relation: TableName
    by: str
    changes: bool


class FilledColumns(NamedTuple):
    """All of these, in order."""

    filled: tuple[Filled, ...]
    unread: tuple[Unread, ...]
    written: tuple[Written, ...]


def filled_columns(protection: ProtectionMap) -> FilledColumns:
    """What the code of the database fills. A column that is filled is a source of what is filled from it."""
    search = _Search(protection)
    search.run()
    by: dict[ColumnName, str] = {}
    made_of: dict[ColumnName, Taint] = {}
    for target, what, taint in sorted(search.stored, key=lambda s: (s[0], s[1])):
        by.setdefault(target, what)
        made_of[target] = made_of.get(target, NOTHING) | taint
    return FilledColumns(
        tuple(Filled(t, tuple(sorted(made_of[t])), by[t]) for t in sorted(made_of)),
        tuple(sorted(search.unread, key=lambda u: (u.relation, u.by, u.why))),
        tuple(sorted(search.written)),
    )


def held_by(protection: ProtectionMap, relation: Relation) -> Iterator[tuple[str, Taint]]:
    """The columns of a relation that hold something of masked ones, each with these: its own, and what a view or a copy shows."""
    for name, column in protection.columns_of(relation).items():
        if protection.rules.is_masked(column):
            yield name, frozenset({column})
    lineage = None if is_own(relation.name) else protection.lineage_of(relation)
    if lineage is not None:
        for shown, output in zip(relation.columns, lineage.columns, strict=False):
            taint = frozenset(c for c in output.touches if protection.rules.is_masked(c))
            if taint:
                yield shown.name, taint


def lines_for(filled: Filled, protection: ProtectionMap) -> str:
    """What to write into the rules, so that the column has the verdicts of what it is made of."""
    rules, relation = protection.rules, protection.catalog.by_name[filled.target.relation]
    sources = [c for n in filled.made_of if (c := rules.column(n)) is not None]
    order = list(Level)
    level = min((c.level for c in sources), key=order.index)
    stored = ", protection: masked, stored: plain" if level is Level.CORE else ""
    column = relation.column(filled.target.column)
    mask = sources[0].mask if len(sources) == 1 else None
    fits = (
        column is not None
        and mask is not None
        and MASK_KINDS[mask.kind].suits(type_of_oid(column.type_oid, column.typmod))
    )
    shown = '"null"'
    if fits and mask is not None and mask.kind != "null":
        given = "".join(f", {name}: {value}" for name, value in mask.params)
        shown = f"{{kind: {mask.kind}{given}}}" if given else mask.kind
    named = show_name(filled.target.column)
    return f"{show_name(*relation.name)}: {{columns: {{{named}: {{level: {level}{stored}, mask: {shown}}}}}}}"


class _Names:
    """What names in the database's code stand for (`rules.flows.World`): relations by their bare names, since the path is the writer's."""

    def __init__(self, protection: ProtectionMap, holds: Mapping[int, Mapping[str, Taint]]) -> None:
        catalog = protection.catalog
        self._read = {
            n: frozenset(c for c in columns if protection.rules.is_masked(c))
            for n, columns in protection.naming.items()
        }
        self._relations: dict[str, list[Relation]] = {}
        for relation in sorted(catalog.relations.values(), key=lambda r: r.name):
            if not is_own(relation.name):
                self._relations.setdefault(relation.name.name, []).append(relation)
        self.holds = holds

    def relation(self, name: str) -> Row | None:
        """See `rules.flows.World.relation`. Of several of one name all that they hold."""
        found = [r for r in self._relations.get(name, ()) if self.holds.get(r.oid)]
        if not found:
            return None
        held: dict[str, Taint] = {}
        for relation in found:
            for column, taint in self.holds[relation.oid].items():
                held[column] = held.get(column, NOTHING) | taint
        return Row(tuple(c.name for c in found[0].columns), held)

    def columns(self, schema: str | None, name: str) -> tuple[str, ...]:
        """See `rules.flows.World.columns`."""
        return next((tuple(c.name for c in r.columns) for r in self.named(schema, name)), ())

    def read_by(self, function: str) -> Taint:
        """See `rules.flows.World.read_by`."""
        return self._read.get(function, NOTHING)

    def named(self, schema: str | None, name: str) -> Iterator[Relation]:
        """The relations that a name may mean."""
        return (r for r in self._relations.get(name, ()) if schema in {None, r.name.schema})


@dataclass(slots=True)
class _Search:
    """The search through the code of one database. `holds`: by relation, what each of its columns holds of masked ones."""

    protection: ProtectionMap
    holds: dict[int, dict[str, Taint]] = field(default_factory=dict)
    stored: set[tuple[ColumnName, str, Taint]] = field(default_factory=set)
    unread: set[Unread] = field(default_factory=set)
    written: set[Written] = field(default_factory=set)
    _functions: dict[str, list[Function]] = field(default_factory=dict)
    _followed: set[tuple[int, Taint, str]] = field(default_factory=set)
    _changed: set[str] = field(default_factory=set)
    _dirty: frozenset[str] = frozenset()
    _names: _Names = field(init=False)

    def __post_init__(self) -> None:
        self._names = _Names(self.protection, self.holds)

    def run(self) -> None:
        catalog = self.protection.catalog
        for function in catalog.functions:
            if not is_own(function.name):
                self._functions.setdefault(function.name.name, []).append(function)
        for relation in catalog.relations.values():
            held = dict(held_by(self.protection, relation))
            if held:
                self.holds[relation.oid] = held
        triggers = {n for r in catalog.relations.values() for n in r.trigger_functions}
        self._changed = {catalog.relations[oid].name.name for oid in self.holds}
        while self._changed:
            self._dirty = self._named_again()
            self._changed = set()
            self._followed.clear()
            for relation in catalog.relations.values():
                if not is_own(relation.name):
                    self._relation(relation)
            for function in catalog.functions:
                if function.name not in triggers and not is_own(function.name) and self._reads(function):
                    by = f"function {function.name}"
                    self._code(function.source, by, None, {}, NOTHING, function)

    def _named_again(self) -> frozenset[str]:
        """What holds more since the last round, and the functions that name it: only texts with these can fill anything anew."""
        found, before = self._changed | {name.lower() for name in self._changed}, 0
        while before != len(found):
            before = len(found)
            for name, functions in self._functions.items():
                if name not in found and any(not found.isdisjoint(self._words(f.source)) for f in functions):
                    found.add(name)
        return frozenset(found)

    def _words(self, text: str) -> frozenset[str]:
        """The names in a text, as they are, and the words in its strings, in small letters."""
        try:
            return self.protection.sources.said(text).words | self.protection.sources.spelled(text)
        except LexError:
            return self._dirty | self.protection.sources.spelled(text)

    def _reads(self, function: Function) -> bool:
        """Whether it names, or has called, what holds something of masked columns."""
        if function.language not in _READ:
            return False
        return not self._dirty.isdisjoint(self._words(function.source))

    def _relation(self, relation: Relation) -> None:
        held = self.holds.get(relation.oid, {})
        row = Row(tuple(c.name for c in relation.columns), held)
        rows = {ROW: row, "old": row}
        again = relation.name.name in self._dirty
        for text in relation.rules:
            if again or not self._dirty.isdisjoint(self._words(text)):
                self._code(text, f"a rule of {relation.name}", relation, rows, NOTHING)
        for column in relation.columns:
            taint = self._default(column.default)
            self._store(relation, column.name, taint, f"the default of column {column.name}")
        for name in relation.trigger_functions:
            given = [g for g in relation.given if g.function == name]
            tables = {t: row for g in given for t in g.transition} if held else {}
            by = _by(name, relation)
            sources = [f for f in self._functions.get(name.name, ()) if f.name == name]
            if not sources:
                self._compiled(relation, held, by, name.name, [g.arguments for g in given])
            for function in sources:
                if function.language in _COMPILED:
                    self._compiled(relation, held, by, name.name, [g.arguments for g in given])
                elif (held and again) or self._reads(function):
                    self._function(function, by, relation, rows | tables, row.whole)

    def _compiled(
        self, relation: Relation, held: Mapping[str, Taint], by: str, name: str, arguments: Iterable[tuple[str, ...]]
    ) -> None:
        if name in _VECTORS:
            for given in arguments:
                taint = NOTHING.union(*(held.get(column, NOTHING) for column in given[_VECTORS[name] :]))
                self._store(relation, given[0] if given else "", taint, by)
        elif held and name not in _HARMLESS_TRIGGERS:
            self._tell(relation, NOTHING.union(*held.values()), by, "is compiled code")

    def _function(self, function: Function, by: str, relation: Relation, rows: Mapping[str, Row], whole: Taint) -> None:
        if function.language in _READ:
            self._code(function.source, by, relation, rows, NOTHING, function)
        elif whole:
            self._tell(relation, whole, by, f"is written in {function.language}")

    def _code(
        self,
        text: str,
        by: str,
        relation: Relation | None,
        rows: Mapping[str, Row],
        ambient: Taint,
        *functions: Function,
    ) -> None:
        """What a text stores, and the functions that it calls. `functions`: the one whose text it is, and those that call it."""
        at_stake = ambient.union(*(r.whole for r in rows.values()))
        try:
            lexed = self.protection.sources.lexed(text[: _MOST_CHARACTERS + 1])
        except LexError:
            lexed = None
        if lexed is None or len(text) > _MOST_CHARACTERS:
            self._tell(relation, at_stake, by, "has a text that can't be read")
            return
        if is_dangerous(lexed.words):
            self._tell(relation, at_stake, by, "runs a text, or shows what no name tells")
        for found in Flows(lexed, self._names, dict(rows), ambient).found():
            if isinstance(found, Ran):
                self._tell(relation, at_stake, by, found.what)
            elif isinstance(found, Called):
                self._called(found, by, relation, functions)
            elif found.taint:
                self._stored(found, by, relation)

    def _default(self, text: str | None) -> Taint:
        try:
            called = () if text is None else self.protection.sources.said(text).called
        except LexError:
            called = ()
        return NOTHING.union(*map(self._names.read_by, called))

    def _called(self, found: Called, by: str, relation: Relation | None, running: tuple[Function, ...]) -> None:
        for function in self._functions.get(found.function, ()):
            if function in running or (function.oid, found.taint, by) in self._followed:
                continue
            self._followed.add((function.oid, found.taint, by))
            if function.language in _READ:
                self._code(function.source, by, relation, {}, found.taint, function, *running)
            elif not (function.language in _COMPILED and (function.immutable or is_harmless(function.name.name))):
                self._tell(relation, found.taint, by, f"calls {function.name}, which can't be read")

    def _stored(self, found: Stored, by: str, relation: Relation | None) -> None:
        if found.schema is None and found.relation == ROW and relation is not None:
            self._store(relation, found.column, found.taint, by)
            return
        targets = list(self._names.named(found.schema, found.relation))
        if not targets:
            self._tell(relation, found.taint, by, f"writes {found.relation}, which the catalog does not know")
        for target in targets:
            if not found.column:
                for column in target.columns:
                    self._store(target, column.name, found.taint, by)
            elif target.kind in _KINDS_WITH_DATA:
                self._store(target, found.column, found.taint, by)
                self._note(target, found, by, relation)
            elif target.kind == "v" and relation is not None:
                self._tell(relation, found.taint, by, f"writes the view {target.name}")

    def _store(self, target: Relation, column: str, taint: Taint, by: str) -> None:
        name = ColumnName(*target.name, column)
        known = self.protection.rules.column(name) is not None or column in self.protection.columns_of(target)
        if not taint or known or target.column(column) is None:
            return
        self.stored.add((name, by, taint))
        held = self.holds.setdefault(target.oid, {})
        if not taint <= held.get(column, NOTHING):
            self._changed.add(target.name.name)
            held[column] = held.get(column, NOTHING) | taint

    def _note(self, target: Relation, found: Stored, by: str, relation: Relation | None) -> None:
        """A column that the rules name is written by a trigger function that runs as the writer."""
        name = self.protection.columns_of(target).get(found.column)
        if relation is None or name is None or not self.protection.rules.is_masked(name) or by.startswith("a rule"):
            return
        as_writer = any(
            not f.security_definer
            for f in self.protection.catalog.functions
            if f.name in relation.trigger_functions and by == _by(f.name, relation)
        )
        if as_writer:
            self.written.add(Written(name, relation.name, by, found.changes))

    def _tell(self, relation: Relation | None, columns: Taint, by: str, why: str) -> None:
        if relation is not None and columns:
            self.unread.add(Unread(relation.name, columns, by, why))


def _by(function: TableName, relation: Relation) -> str:
    return f"trigger function {function} of {relation.name}"
