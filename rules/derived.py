"""Columns that the database itself makes of protected ones: they have the protection of what they are made of, unless the rules name them.

A generated column (a text-search vector, a normalised name) tells what its sources tell. Logins that see a source masked see NULL in its place: no mask is
known for it. A rules file that names the column, `level: general` say, decides for itself.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.lexer import LexError, lex
from rules.model import Column, ColumnName, Level, MaskSpec, Protection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rules.catalog import Catalog, Relation
    from rules.model import Role, Rules, Table, TableName

_UNSEEN = MaskSpec("null")


def with_derived(rules: Rules, catalog: Catalog) -> Rules:
    """The rules as they hold in a database. The same rules where nothing in it is derived."""
    sources: dict[ColumnName, tuple[Column, ...]] = {}
    tables: dict[TableName, Table] = {}
    for name, table in rules.tables.items():
        relation = catalog.by_name.get(name)
        found = {} if relation is None else _derived(table, relation)
        if found:
            sources |= {ColumnName(*name, column): made_of for column, made_of in found.items()}
            own = {column: _column(ColumnName(*name, column), made_of) for column, made_of in found.items()}
            tables[name] = replace(table, columns=MappingProxyType({**table.columns, **own}))
    if not tables:
        return rules
    roles = {name: _role(rules, role, sources) for name, role in rules.roles.items()}
    return replace(rules, tables=MappingProxyType({**rules.tables, **tables}), roles=MappingProxyType(roles))


def derived_from(rules: Rules, catalog: Catalog) -> Mapping[ColumnName, tuple[ColumnName, ...]]:
    """The derived columns that the rules do not name, each with what it is made of."""
    return {
        ColumnName(*name, column): tuple(c.name for c in made_of)
        for name, table in rules.tables.items()
        if (relation := catalog.by_name.get(name)) is not None
        for column, made_of in _derived(table, relation).items()
    }


def _derived(table: Table, relation: Relation) -> dict[str, tuple[Column, ...]]:
    masked = {c.name.column: c for c in table.columns.values() if c.protection is Protection.MASKED}
    found: dict[str, tuple[Column, ...]] = {}
    for column in relation.columns:
        if not column.generated or column.default is None or column.name in table.columns:
            continue
        try:
            words = lex(column.default).words
        except LexError:
            words = frozenset(masked)
        made_of = tuple(masked[name] for name in sorted(words & masked.keys()))
        if made_of:
            found[column.name] = made_of
    return found


def _column(name: ColumnName, made_of: tuple[Column, ...]) -> Column:
    order = list(Level)
    return Column(name, min((c.level for c in made_of), key=order.index), Protection.MASKED, mask=_UNSEEN, derived=True)


def _role(rules: Rules, role: Role, sources: Mapping[ColumnName, tuple[Column, ...]]) -> Role:
    verdicts = {
        name: max((rules.role_verdict(role, column) for column in made_of), key=lambda v: v.strictness)
        for name, made_of in sources.items()
    }
    return replace(role, columns=MappingProxyType({**role.columns, **verdicts}))
