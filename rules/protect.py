"""The rules laid over a catalog: which relations, views and functions of this database reach something protected.

Built once for a catalog and a rules file; it answers the analysis's questions and knows the words that a statement must hold to matter.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.analyse import AmbiguousNameError, ParseError, lineage_of_query
from rules.analyse.facts import Output
from rules.analyse.record import ViewLineage
from rules.budget import TooComplexError
from rules.dangerous import is_dangerous
from rules.difference import (
    SEALED_DOMAIN,
    column_differences,
    derived_for,
    is_text_of,
    sealed_in,
    view_problem,
    wanted_views,
)
from rules.harmless import is_harmless
from rules.lexer import Kind, LexError
from rules.model import ColumnName, Protection, TableName, view_name
from rules.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from rules.analyse import Protected
    from rules.catalog import Catalog, Function, Relation
    from rules.lexer import Lexed
    from rules.model import PolicyClass, Rules
    from rules.sources import Said

# pgveil's own schema and those of the masking views: nobody's statement may name what is in them.
OWN_SCHEMA = "pgveil"
# A session's temporary schema, by the name that current_schemas() gives.
_TEMPORARY = "pg_temp_"
_SEARCH_PATH = ("pg_catalog",)
_DYNAMIC_LANGUAGES = frozenset({"plpgsql", "sql", "internal", "c"})
# The number under which RowDescription names a whole row of a relation.
_WHOLE_ROW = 0
_NO_COLUMNS: Mapping[str, ColumnName] = MappingProxyType({})


class ProtectionMap:
    """Rules over a catalog. Immutable once built; implements `rules.analyse.Protected`.

    `unknown`: sealed columns that the rules do not know are protected too, under their own names; nothing can be done with them but be refused.
    `marks`: the key ring's, asked when they are needed first.
    """

    def __init__(
        self,
        rules: Rules,
        catalog: Catalog,
        sources: Sources | None = None,
        marks: Callable[[], Mapping[str, frozenset[str]]] | None = None,
        *,
        unknown: bool = True,
    ) -> None:
        self.rules = rules
        self.catalog = catalog
        self._marks = marks
        self.sources = Sources() if sources is None else sources
        self._columns = _with_unknown(spread(rules, catalog), catalog) if unknown else spread(rules, catalog)
        self._by_bare_name = _by_bare_name(catalog.relations.values())
        self._lineages: dict[int, ViewLineage] = {}
        self.relation_words = self._relation_words()
        self.column_words = frozenset(name for columns in self._columns.values() for name in columns)
        self.everything = frozenset(c for columns in self._columns.values() for c in columns.values())
        self.functions: Mapping[str, frozenset[ColumnName]] = {}
        self.naming: Mapping[str, frozenset[ColumnName]] = {}
        # A view can call a function that reads a view: until nothing new is found. Each round finds more columns, so it ends.
        while self._analyse_views() | self._analyse_functions():
            pass
        self._find_naming()
        self.guessed = frozenset(name for name, columns in self.functions.items() if columns != self.naming.get(name))
        self.operators = frozenset(o.name.name for o in catalog.operators if o.name.name in self.functions)
        self.suspects = self.relation_words | self.column_words
        self._sources = self._by_source()
        self.told = frozenset(
            columns[column.name]
            for oid, columns in self._columns.items()
            for column in catalog.relations[oid].columns
            if column.name in columns and column.attnum in catalog.relations[oid].telling
        )
        self.seals = bool(self.everything - frozenset(c.name for c in rules.protected_columns())) or any(
            c.protection is Protection.SEALED for c in rules.protected_columns()
        )

    # -- what differs from the record in the database

    @cached_property
    def differing(self) -> Mapping[ColumnName, str]:
        """Columns of which the database's record says something else than the rules, and what."""
        marks = None if self._marks is None else self._marks()
        return MappingProxyType(column_differences(self.rules, self.catalog, self._columns, marks))

    @cached_property
    def not_served(self) -> tuple[str, ...]:
        """What of the rules can't be served in this database, in words. Not what somebody has copied: that is his own business."""
        record = self.catalog.record
        recorded = None if record is None else {c.name for c in record.columns}
        found = [
            problem
            for name, problem in sorted(self.differing.items())
            if name.relation in self.catalog.by_name
            and (recorded is None or name in recorded or self.rules.column(name) is not None)
        ]
        made = () if record is None else record.views
        wanted = wanted_views(self.rules, self.catalog)
        for view in made:
            relation = self.catalog.by_name.get(view.table)
            if relation is None or not is_text_of(relation.definition, view.text):
                found.append(f'masking view "{view.table}" is not the one that pgveil apply has made')
            late = [c for c in wanted.get(view.table, ()) if c.column not in view.derived]
            found += [f'column "{c}" is made of protected columns since masking views were made' for c in sorted(late)]
        schemas = {n.schema for n in wanted}
        if schemas and schemas.isdisjoint(v.schema for v in made):
            found.append("there are no masking views as the rules in force want them")
        return tuple(found)

    def view_problem(self, policy: PolicyClass, table: TableName) -> str | None:
        """Why a class's masking view of a table can't be used; None where it is what the rules and the record say."""
        relation = self.catalog.by_name.get(table)
        derived = () if relation is None else derived_for(self.rules, policy, self.columns_of(relation))
        return view_problem(self.catalog, TableName(policy.schema, view_name(table)), table, derived)

    # -- what the analysis asks

    def resolve(self, schema: str | None, name: str, search_path: tuple[str, ...] | None) -> Relation | None:
        """See `rules.analyse.Protected.resolve`."""
        if schema is not None:
            return self.catalog.by_name.get(TableName(schema, name))
        found = self._by_bare_name.get(name, ())
        if search_path is not None:
            for each in search_path:
                relation = self.catalog.by_name.get(TableName(each, name))
                if relation is not None:
                    return relation
            return None
        if len(found) > 1 and any(self._matters(r) for r in found):
            raise AmbiguousNameError(name)
        return found[0] if found else None

    def columns_of(self, relation: Relation) -> Mapping[str, ColumnName]:
        """See `rules.analyse.Protected.columns_of`."""
        return self._columns.get(relation.oid, _NO_COLUMNS)

    def lineage_of(self, relation: Relation) -> ViewLineage | None:
        """See `rules.analyse.Protected.lineage_of`."""
        return self._lineages.get(relation.oid)

    def replaceable(self, relation: Relation) -> bool:
        """See `rules.analyse.Protected.replaceable`."""
        return relation.name in self.rules.tables

    # -- what the gate asks

    def shadowed(self, search_path: tuple[str, ...] | None, temporary: frozenset[str]) -> frozenset[str]:
        """Those of the session's temporary relations that their names mean without a schema: nothing in the search_path comes before them."""
        return frozenset(name for name in temporary if self._is_shadowed(search_path or (), name))

    def _is_shadowed(self, search_path: tuple[str, ...], name: str) -> bool:
        for schema in search_path:
            if schema.startswith(_TEMPORARY):
                return True
            if TableName(schema, name) in self.catalog.by_name:
                return False
        return False

    def under(self, shadowed: frozenset[str]) -> Protected:
        """What the analysis is to ask in a session where `shadowed` are temporary relations."""
        return _Shadowed(self, shadowed) if shadowed else self

    def source_of(self, table_oid: int, attnum: int) -> ColumnName | None:
        """The protected column behind a RowDescription field's origin; of several behind a view's column, the first by name."""
        return self._sources.get((table_oid, attnum))

    def table_of(self, view_oid: int, attnum: int) -> tuple[int, int] | None:
        """The column of a table, by OID and number, that a column of pgveil's masking views stands for."""
        return self._tables.get((view_oid, attnum))

    def protected_tables(self) -> frozenset[TableName]:
        """Every base relation with a protected column, inherited ones too."""
        return frozenset(self.catalog.relations[oid].name for oid in self._columns)

    # -- building

    def _matters(self, relation: Relation) -> bool:
        return relation.oid in self._columns or relation.oid in self._lineages

    def _relation_words(self) -> frozenset[str]:
        return frozenset(self.catalog.relations[oid].name.name for oid in (*self._columns, *self._lineages))

    def _analyse_views(self) -> bool:
        """Lineages of the views that reach something protected, as far as is known by now; whether that is more than before."""
        grown = False
        for relation in self.catalog.relations.values():
            if relation.definition is not None and not is_own(relation.name):
                lineage = self._lineage(relation, self.relation_words)
                if lineage is not None and lineage != self._lineages.get(relation.oid):
                    self._lineages[relation.oid] = lineage
                    self.relation_words |= {relation.name.name}
                    grown = True
        return grown

    def _lineage(self, relation: Relation, names: frozenset[str]) -> ViewLineage | None:
        assert relation.definition is not None
        try:
            lexed = self.sources.lexed(relation.definition.rstrip().rstrip(";"))
        except LexError:
            return self._opaque(relation, names)
        called = self._reached_by(self.sources.said(lexed.text).called)
        if lexed.words.isdisjoint(names):
            return self._computed(relation, called) if called else None
        try:
            lineage = lineage_of_query(lexed, self, _SEARCH_PATH, names | self.column_words)
        except (ParseError, AmbiguousNameError, TooComplexError):
            lineage = self._opaque(relation, lexed.words & names)
        # The view that a view reads may itself turn out to call something, so what was found before stays.
        before = self._lineages.get(relation.oid)
        called |= before.inside if before is not None else frozenset()
        return self._with_calls(lineage, called)

    def _reached_by(self, called: Iterable[str]) -> frozenset[ColumnName]:
        """What the functions and operators of these names can read."""
        columns: set[ColumnName] = set()
        for name in self.functions.keys() & called:
            columns |= self.functions[name]
        return frozenset(columns)

    def _computed(self, relation: Relation, columns: frozenset[ColumnName]) -> ViewLineage:
        """A view that reads protected columns through functions only: any of its columns may be made of them."""
        return ViewLineage(
            tuple(Output(None, False, columns) for _ in relation.columns), columns, self._all_masked(columns)
        )

    def _with_calls(self, lineage: ViewLineage, columns: frozenset[ColumnName]) -> ViewLineage:
        more = columns - lineage.inside
        if not more:
            return lineage
        outputs = tuple(Output(o.column, o.direct, o.touches | more) for o in lineage.columns)
        known = lineage.known and self._all_masked(more)
        return replace(lineage, columns=outputs, inside=lineage.inside | more, known=known)

    def _all_masked(self, names: Iterable[ColumnName]) -> bool:
        return all(map(self.rules.is_masked, names))

    def _opaque(self, relation: Relation, names: Iterable[str]) -> ViewLineage:
        """A view that could not be analysed: each of its columns may hold anything of what it names."""
        inside: set[ColumnName] = set()
        for name in names:
            for each in self._by_bare_name.get(name, ()):
                inside |= set(self.columns_of(each).values())
                lineage = self._lineages.get(each.oid)
                inside |= lineage.inside if lineage is not None else set()
        touched = frozenset(inside)
        return ViewLineage(tuple(Output(None, False, touched) for _ in relation.columns), touched, known=False)

    def _analyse_functions(self) -> bool:
        before, self.functions = self.functions, self._reading((*self.catalog.functions, *self.catalog.operators))
        return before != self.functions

    def _find_naming(self) -> None:
        """Of `functions`, those whose sources name something protected, or call such ones; not those that only could run any text."""
        routines = (*self.catalog.functions, *self.catalog.operators)
        suspects, self.functions = self.functions, {}
        while (found := self._reading(routines, guess=False)) != self.functions:
            self.functions = found
        self.naming, self.functions = self.functions, suspects

    def _reading(self, routines: Iterable[Function], *, guess: bool = True) -> Mapping[str, frozenset[ColumnName]]:
        """Those that name something protected, or (with `guess`) could run any text: by name (an operator's is its sign), with the columns at stake."""
        found: dict[str, set[ColumnName]] = {}
        for function in routines:
            if is_own(function.name):
                continue
            columns = self._named_in(function, self.everything if guess else self._spelled(function))
            if columns:
                found.setdefault(function.name.name, set()).update(columns)
        return MappingProxyType({name: frozenset(columns) for name, columns in found.items()})

    def _named_in(self, function: Function, everything: frozenset[ColumnName]) -> frozenset[ColumnName]:
        if function.unread:
            return everything
        if function.language in {"internal", "c"}:
            # Compiled code of extensions: what nobody has read may run a text, or show pages and log records as they lie.
            return frozenset() if function.immutable or is_harmless(function.name.name) else everything
        if function.language not in _DYNAMIC_LANGUAGES:
            return everything
        try:
            said = self.sources.said(function.source)
        except LexError:
            return everything
        any_text = _runs_text(function.language, said)
        return self.named_by(said) | everything if any_text else self.named_by(said)

    def _spelled(self, function: Function) -> frozenset[ColumnName]:
        """What is at stake in a function that could run any text, by the words of its source alone, wherever they stand."""
        words = self.sources.spelled(function.source)
        named = not words.isdisjoint(self.relation_words) or not words.isdisjoint(self.functions)
        return self.everything if named else frozenset()

    def named_by(self, said: Said, *, but: Container[str] = ()) -> frozenset[ColumnName]:
        """What a text names, but for relations called `but`, and what the functions that it calls can read."""
        columns = set(self.called_by(said))
        for name in (n for n in said.words & self.relation_words if n not in but):
            for relation in self._by_bare_name.get(name, ()):
                columns |= set(self.columns_of(relation).values())
                lineage = self._lineages.get(relation.oid)
                columns |= lineage.inside if lineage is not None else set()
        return frozenset(columns)

    def called_by(self, said: Said) -> frozenset[ColumnName]:
        """What the functions and operators that a text calls can read."""
        return self._reached_by(said.called | said.dotted)

    def _by_source(self) -> Mapping[tuple[int, int], ColumnName]:
        sources: dict[tuple[int, int], ColumnName] = {}
        for oid, columns in self._columns.items():
            for column in self.catalog.relations[oid].columns:
                if column.name in columns:
                    sources[oid, column.attnum] = columns[column.name]
            if columns:
                sources[oid, _WHOLE_ROW] = min(columns.values())
        for oid, lineage in self._lineages.items():
            for column, output in zip(self.catalog.relations[oid].columns, lineage.columns, strict=False):
                if output.touches:
                    sources[oid, column.attnum] = output.column or min(output.touches)
        return MappingProxyType(sources | self._masking_view_sources())

    def _masking_view_sources(self) -> dict[tuple[int, int], ColumnName]:
        """Sealed columns shown by pgveil's own masking views: what the proxy opens comes with the view's OID."""
        sources: dict[tuple[int, int], ColumnName] = {}
        for relation in self.catalog.relations.values():
            if not is_own(relation.name) or relation.kind != "v":
                continue
            for column in relation.columns:
                if column.declared_type == SEALED_DOMAIN:
                    origin = self._origin_of_own_view(relation, column.name)
                    if origin is not None:
                        sources[relation.oid, column.attnum] = origin
        return sources

    @cached_property
    def _tables(self) -> Mapping[tuple[int, int], tuple[int, int]]:
        tables = {view_name(t): r for t in self.rules.tables if (r := self.catalog.by_name.get(t)) is not None}
        return MappingProxyType(
            {
                (view.oid, shown.attnum): (table.oid, column.attnum)
                for view in self.catalog.relations.values()
                if view.kind == "v" and is_own(view.name) and (table := tables.get(view.name.name)) is not None
                for shown in view.columns
                if (column := table.column(shown.name)) is not None
            }
        )

    def _origin_of_own_view(self, view: Relation, column: str) -> ColumnName | None:
        for table in self.rules.protected_tables():
            if view.name.name == view_name(table):
                found = self.rules.column(ColumnName(table.schema, table.name, column))
                return found.name if found is not None else None
        return None


def calls(lexed: Lexed, first: int, last: int, functions: Container[str], *, dotted: bool = True) -> list[int]:
    """The tokens from `first` to `last` that call one of `functions`: `f(...)`, an operator, or `t.f`, another way to write `f(t)`."""
    tokens = lexed.tokens
    found = []
    for at in range(first, last + 1):
        token = tokens[at]
        if token.value not in functions:
            continue
        named = token.kind in (Kind.WORD, Kind.QUOTED)
        opened = at < last and tokens[at + 1].value == "("
        if token.kind is Kind.OP or (named and (opened or (dotted and at > first and tokens[at - 1].value == "."))):
            found.append(at)
    return found


def _runs_text(language: str, body: Said) -> bool:
    """Whether a function's body runs a text that is put together, or stands in quotes inside it, or shows what no name tells.

    EXECUTE, DO, and PostgreSQL's own functions that run texts or show what is stored as it lies.
    """
    return (language == "plpgsql" and "execute" in body.words) or is_dangerous(body.words) or body.does


class _Shadowed:
    """A ProtectionMap as a session with temporary relations sees it: these are nothing that the catalog knows."""

    __slots__ = ("_map", "_names", "columns_of", "lineage_of", "replaceable")

    def __init__(self, protection: ProtectionMap, names: frozenset[str]) -> None:
        self._map = protection
        self._names = names
        self.columns_of = protection.columns_of
        self.lineage_of = protection.lineage_of
        self.replaceable = protection.replaceable

    def resolve(self, schema: str | None, name: str, search_path: tuple[str, ...] | None) -> Relation | None:
        """See `rules.analyse.Protected.resolve`."""
        if schema is None and name in self._names:
            return None
        return self._map.resolve(schema, name, search_path)


def is_own(name: TableName) -> bool:
    """Whether it is in one of pgveil's own schemas."""
    return name.schema == OWN_SCHEMA or name.schema.startswith("pgveil_")


def _by_bare_name(relations: Iterable[Relation]) -> Mapping[str, tuple[Relation, ...]]:
    found: dict[str, list[Relation]] = {}
    for relation in relations:
        if not is_own(relation.name):
            found.setdefault(relation.name.name, []).append(relation)
    return {name: tuple(each) for name, each in found.items()}


def _with_unknown(
    known: dict[int, Mapping[str, ColumnName]], catalog: Catalog
) -> Mapping[int, Mapping[str, ColumnName]]:
    """With the sealed columns that the rules do not name: sealed by other rules, or copies of sealed ones."""
    for relation in catalog.relations.values():
        columns = known.get(relation.oid, _NO_COLUMNS)
        more = {n: ColumnName(*relation.name, n) for n in sealed_in(relation) if n not in columns}
        if more and not is_own(relation.name):
            known[relation.oid] = MappingProxyType({**columns, **more})
    return known


def spread(rules: Rules, catalog: Catalog) -> dict[int, Mapping[str, ColumnName]]:
    """The protected columns of each base relation: the rules' own, and by inheritance those of its children and parents.

    A child's rows are its parent's rows, so what is protected in the one is protected in the other, under the rules' name for it.
    """
    columns: dict[int, dict[str, ColumnName]] = {}
    for column in rules.protected_columns():
        start = catalog.by_name.get(column.name.relation)
        if start is None or start.definition is not None:
            continue
        pending, seen = [start.oid], {start.oid}
        while pending:
            relation = catalog.relations.get(pending.pop())
            if relation is None:
                continue
            if relation.column(column.name.column) is not None:
                known = columns.setdefault(relation.oid, {})
                if relation.name == column.name.relation or column.name.column not in known:
                    known[column.name.column] = column.name
            for other in (*relation.children, *relation.parents):
                if other not in seen:
                    seen.add(other)
                    pending.append(other)
    return {oid: MappingProxyType(known) for oid, known in columns.items()}
