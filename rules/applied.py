"""A catalog as it would be once `pgveil apply` has run: what a statement is judged by before anything is protected."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from rules.catalog import Relation
from rules.derived import with_derived
from rules.difference import SEALED_DOMAIN, text_digest
from rules.model import Protection, TableName, Verdict, view_name
from rules.protect import OWN_SCHEMA
from rules.record import MadeAs, Record, sealed_as

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.catalog import Catalog, CatalogColumn
    from rules.model import PolicyClass, Rules, Table

_TEXT_OID: Final = 25


def holds_nothing_of_ours(catalog: Catalog) -> bool:
    """Whether `pgveil apply` has never changed the database: no schema of pgveil's, and no sealed column.

    A database where that is not so may hold sealed values and be fenced in part, so it is nobody's to try things on.
    """
    if any(_is_own_schema(schema) for schema in catalog.schemas):
        return False
    return not any(
        _is_own_schema(relation.name.schema) or any(c.declared_type == SEALED_DOMAIN for c in relation.columns)
        for relation in catalog.relations.values()
    )


def as_applied(rules: Rules, catalog: Catalog) -> Catalog:
    """The catalog with the rules' sealed columns sealed, and every class's masking views there. Its version stays."""
    rules = with_derived(rules, catalog)
    relations = dict(catalog.relations)
    for column in rules.protected_columns():
        start = catalog.by_name.get(column.name.relation)
        if column.protection is Protection.SEALED and start is not None:
            for oid in _family(catalog, start):
                relations[oid] = _with_sealed(relations[oid], column.name.column)
    views = _masking_views(rules, catalog, first=max(relations, default=0) + 1)
    relations.update((view.oid, view) for view in views)
    schemas = catalog.schemas | {OWN_SCHEMA} | {view.name.schema for view in views}
    return recorded(rules, replace(catalog, relations=MappingProxyType(relations), schemas=schemas))


def recorded(rules: Rules, catalog: Catalog) -> Catalog:
    """The catalog with a record that says of what is there that it is as the rules want it."""
    hidden = {view_name(t.name): t for t in with_derived(rules, catalog).tables.values()}
    own = (r for r in catalog.relations.values() if r.kind == "v" and r.name.schema.startswith(f"{OWN_SCHEMA}_"))
    functions = (f for f in catalog.functions if f.name.schema.startswith(f"{OWN_SCHEMA}_"))
    record = Record(
        columns=tuple(sealed_as(c) for c in rules.protected_columns() if c.protection is Protection.SEALED),
        views=tuple(sorted((_made(r, hidden.get(r.name.name)) for r in own), key=lambda v: v.table)),
        functions=tuple(sorted((MadeAs(*f.name, text_digest(f.source)) for f in functions), key=lambda f: f.table)),
    )
    return replace(catalog, applied=record.text())


def _made(view: Relation, table: Table | None) -> MadeAs:
    derived = () if table is None else tuple(sorted(n for n, c in table.columns.items() if c.derived))
    return MadeAs(*view.name, text_digest(view.definition or ""), derived)


def _is_own_schema(name: str) -> bool:
    return name == OWN_SCHEMA or name.startswith(f"{OWN_SCHEMA}_")


def _family(catalog: Catalog, start: Relation) -> Iterable[int]:
    """A table and everything that inherits from it: a column's type changes in all of them."""
    pending, seen = [start.oid], {start.oid}
    while pending:
        relation = catalog.relations.get(pending.pop())
        if relation is None:
            continue
        yield relation.oid
        more = [oid for oid in relation.children if oid not in seen]
        seen.update(more)
        pending += more


def _with_sealed(relation: Relation, name: str) -> Relation:
    return replace(relation, columns=tuple(_sealed(c) if c.name == name else c for c in relation.columns))


def _sealed(column: CatalogColumn) -> CatalogColumn:
    return replace(column, type_oid=_TEXT_OID, typmod=-1, declared_type=SEALED_DOMAIN)


def _classes(rules: Rules, catalog: Catalog) -> Iterable[PolicyClass]:
    """Every class that a login can be in: those that the rules name, members of something, and anybody else."""
    named = {login for role in rules.roles.values() for login in role.logins}
    found = {
        policy.schema: policy
        for login in (*named, *catalog.members, "")
        for policy in (rules.principal(login, catalog.memberships(login)).policy,)
    }
    return found.values()


def _masking_views(rules: Rules, catalog: Catalog, first: int) -> list[Relation]:
    """A view for each class and table of which the class sees something masked that is stored plain; OIDs from `first` on."""
    wanted = {
        (TableName(policy.schema, view_name(column.name.relation)), column.name.relation)
        for policy in _classes(rules, catalog)
        for column in rules.protected_columns()
        if column.protection is Protection.MASKED and policy.verdict(column.name) is not Verdict.CLEAR
    }
    found: list[Relation] = []
    for name, table in sorted(wanted):
        base = catalog.by_name.get(table)
        if base is not None and name not in catalog.by_name:
            found.append(Relation(first + len(found), name, "v", OWN_SCHEMA, base.columns, definition=""))
    return found
