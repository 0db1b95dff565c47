"""Columns that the database itself makes of protected ones: they have the protection of what they are made of, unless the rules name them.

A generated column (a text-search vector, a normalised name) tells what its sources tell. Logins that see a source masked see NULL in its place: no mask is
known for it. A rules file that names the column, `level: general` say, decides for itself.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.lexer import LexError, lex
from rules.model import Column, ColumnName, Level, MaskSpec, Protection, Table
from rules.protect import spread

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from rules.catalog import Catalog, Relation
    from rules.model import Role, Rules

    _Sources = Mapping[ColumnName, tuple[Column, ...]]

_UNSEEN = MaskSpec("null")


def with_derived(rules: Rules, catalog: Catalog) -> Rules:
    """The rules as they hold in a database. The same rules where nothing in it is derived."""
    for found in (_of_tables, _of_family):
        rules = _with(rules, found(rules, catalog))
    return rules


def derived_from(rules: Rules, catalog: Catalog) -> Mapping[ColumnName, tuple[ColumnName, ...]]:
    """The derived columns that the rules do not name, each with what it is made of."""
    own = _of_tables(rules, catalog)
    found = {**own, **_of_family(_with(rules, own), catalog)}
    return {name: tuple(c.name for c in made_of) for name, made_of in found.items()}


def _with(rules: Rules, sources: _Sources) -> Rules:
    if not sources:
        return rules
    tables = dict(rules.tables)
    for name, made_of in sources.items():
        table = tables.get(name.relation, Table(name.relation, MappingProxyType({})))
        columns = {**table.columns, name.column: _column(name, made_of)}
        tables[name.relation] = replace(table, columns=MappingProxyType(columns))
    roles = {name: _role(rules, role, sources) for name, role in rules.roles.items()}
    return replace(rules, tables=MappingProxyType(tables), roles=MappingProxyType(roles))


def _of_tables(rules: Rules, catalog: Catalog) -> _Sources:
    """Those of the tables that the rules name. By inheritance they are those of their children, too."""
    found: dict[ColumnName, tuple[Column, ...]] = {}
    for name, table in rules.tables.items():
        relation = catalog.by_name.get(name)
        if relation is not None:
            found |= _derived(relation, table.columns, table.columns)
    return found


def _of_family(rules: Rules, catalog: Catalog) -> _Sources:
    """Those that a child or a parent has beside: it has the rules' columns by inheritance, and generated ones of its own."""
    found: dict[ColumnName, tuple[Column, ...]] = {}
    for oid, names in spread(rules, catalog).items():
        relation = catalog.relations[oid]
        table = rules.tables.get(relation.name)
        known = {**({} if table is None else table.columns), **names}
        columns = {name: column for name, of in names.items() if (column := rules.column(of)) is not None}
        found |= _derived(relation, columns, known)
    return found


def _derived(relation: Relation, columns: Mapping[str, Column], known: Container[str]) -> _Sources:
    masked = {name: column for name, column in columns.items() if column.protection is Protection.MASKED}
    found: dict[ColumnName, tuple[Column, ...]] = {}
    for column in relation.columns:
        if not column.generated or column.default is None or column.name in known:
            continue
        try:
            words = lex(column.default).words
        except LexError:
            words = frozenset(masked)
        made_of = tuple(masked[name] for name in sorted(words & masked.keys()))
        if made_of:
            found[ColumnName(*relation.name, column.name)] = made_of
    return found


def _column(name: ColumnName, made_of: tuple[Column, ...]) -> Column:
    order = list(Level)
    return Column(name, min((c.level for c in made_of), key=order.index), Protection.MASKED, mask=_UNSEEN, derived=True)


def _role(rules: Rules, role: Role, sources: _Sources) -> Role:
    verdicts = {
        name: max((rules.role_verdict(role, column) for column in made_of), key=lambda v: v.strictness)
        for name, made_of in sources.items()
    }
    return replace(role, columns=MappingProxyType({**role.columns, **verdicts}))
