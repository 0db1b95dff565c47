"""Where a database is not what the rules in force take it for, by its record of what is applied (ADR 0028): none of that is served.

A column that is sealed otherwise, or that the rules do not know, would be opened, compared or stored wrongly. A masking view that somebody else
made, or that was made by other rules, would show what its author liked.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from rules.catalog_texts import UNREADABLE
from rules.model import ColumnName, Protection, TableName, Verdict, view_name
from rules.record import sealed_as

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rules.catalog import Catalog, Relation
    from rules.model import Column, PolicyClass, Rules
    from rules.record import Record, SealedAs

SEALED_DOMAIN: Final = "pgveil.sealed"
# On a pgveil whose rules are the older ones, apply would undo what was applied.
REMEDY: Final = "Run: pgveil apply --reload. Where newer rules are applied than this pgveil serves: pgveil reload."

_SEALED: Final = frozenset({SEALED_DOMAIN, f"{SEALED_DOMAIN}[]"})
_HOLDS_ROWS: Final = frozenset("rpf")


def sealed_in(relation: Relation) -> Iterable[str]:
    """The sealed columns of a relation that holds rows of its own."""
    return (c.name for c in relation.columns if c.declared_type in _SEALED) if relation.kind in _HOLDS_ROWS else ()


def column_differences(
    rules: Rules,
    catalog: Catalog,
    spread: Mapping[int, Mapping[str, ColumnName]],
    marks: Mapping[str, frozenset[str]] | None = None,
) -> dict[ColumnName, str]:
    """What is wrong with columns that are sealed, or are to be. `spread`: the protected columns of each relation, and the unknown sealed ones.

    `marks`: of the key ring at hand; None where there is none.
    """
    recorded = {c.name: c for c in catalog.record.columns} if catalog.record is not None else {}
    found: dict[ColumnName, str] = {}
    for oid, columns in spread.items():
        relation = catalog.relations[oid]
        there = set(sealed_in(relation))
        for name in sorted(there & columns.keys()):
            problem = _problem(columns[name], rules.column(columns[name]), catalog.record, recorded, marks)
            if problem is not None:
                found.setdefault(columns[name], problem)
    for column in rules.protected_columns():
        relation_ = catalog.by_name.get(column.name.relation)
        if column.protection is Protection.SEALED and (
            relation_ is None or column.name.column not in sealed_in(relation_)
        ):
            found[column.name] = f'column "{column.name}" is to be sealed, but the database still holds it plain'
    return found


def _problem(
    name: ColumnName,
    rule: Column | None,
    record: Record | None,
    recorded: Mapping[ColumnName, SealedAs],
    marks: Mapping[str, frozenset[str]] | None,
) -> str | None:
    if rule is None or rule.protection is not Protection.SEALED:
        return f'column "{name}" is sealed in the database, and the rules in force do not seal it'
    if record is None:
        return (
            f'column "{name}" is sealed in the database, which has no record of how: it was applied by an older pgveil'
        )
    made = recorded.get(name)
    if made is None:
        return f'column "{name}" is sealed in the database, which has no record of how: pgveil apply has not sealed it'
    wanted = sealed_as(rule)
    if made.format > wanted.format:
        return f'column "{name}" is sealed in form {made.format}, which only a newer pgveil knows'
    if not made.alike(wanted):
        return f'column "{name}" is sealed in the database as {_told(made)}, and the rules in force say {_told(wanted)}'
    lost = () if marks is None else lost_keys(made.keys, marks.get(made.domain, frozenset()))
    if lost:
        return f'column "{name}" is sealed under key {lost[0].partition(":")[0]} of domain {made.domain}, which the key ring does not have'
    return None


def _told(how: SealedAs) -> str:
    return f"{how.mode} {how.type} in key domain {how.domain}"


def lost_keys(recorded: Iterable[str], marks: frozenset[str]) -> tuple[str, ...]:
    """The recorded keys that a ring does not have and has not destroyed either."""
    return tuple(
        sorted(key for key in recorded if key not in marks and f"{key.partition(':')[0]}:destroyed" not in marks)
    )


def view_problem(catalog: Catalog, view: TableName, table: TableName, derived: Iterable[str]) -> str | None:
    """Why a masking view of a table can't be used; None where it is the one that `pgveil apply` has made.

    `derived`: columns that it has to hide by what the database makes them of now.
    """
    relation = catalog.by_name.get(view)
    if relation is None:
        return f'there is no masking view of "{table}" as the rules in force want it for this login'
    made = None if catalog.record is None else next((v for v in catalog.record.views if v.table == view), None)
    if made is None:
        return f"the database has no record of this login's masking view of \"{table}\": this pgveil's apply has not made it"
    if not is_text_of(relation.definition, made.text):
        return f'this login\'s masking view of "{table}" is not the one that pgveil apply has made'
    shown = sorted(set(derived).difference(made.derived))
    if shown:
        return f'column "{table}.{shown[0]}" is made of protected columns since this login\'s masking view of "{table}" was made'
    return None


def derived_for(rules: Rules, policy: PolicyClass, columns: Mapping[str, ColumnName]) -> tuple[str, ...]:
    """Of a relation's protected columns those that a class's masking view hides for what the database makes them of."""
    return tuple(
        sorted(
            name
            for name, of in columns.items()
            if (column := rules.column(of)) is not None and column.derived and policy.verdict(of) is not Verdict.CLEAR
        )
    )


def wanted_views(rules: Rules, catalog: Catalog) -> dict[TableName, frozenset[ColumnName]]:
    """The masking views that the rules want for those of whom they and the catalog know: some of these logins may not be there.

    With each the columns that it hides for what the database makes them of.
    """
    named = {login for role in rules.roles.values() for login in role.logins}
    # Whoever holds the same roles sees the same: one of them is enough.
    alike = {
        tuple(r.name for r in rules.roles_of(n, catalog.memberships(n))): n for n in (*named, *catalog.members, "")
    }
    found = (rules.principal(n, catalog.memberships(n)).policy for n in alike.values())
    policies = {policy.schema: policy for policy in found}
    wanted: dict[TableName, frozenset[ColumnName]] = {}
    for policy in policies.values():
        for column in rules.protected_columns():
            if (
                column.protection is Protection.MASKED
                and policy.verdict(column.name) is not Verdict.CLEAR
                and column.name.relation in catalog.by_name
            ):
                view = TableName(policy.schema, view_name(column.name.relation))
                wanted[view] = wanted.get(view, frozenset()) | ({column.name} if column.derived else set())
    return wanted


def is_text_of(definition: str | None, digest: str) -> bool:
    """Whether a view's definition is the recorded one. One that can't be read now stands behind somebody's lock; the next reading tells."""
    return definition == UNREADABLE or text_digest(definition or "") == digest


def text_digest(text: str) -> str:
    """The server's md5() of a text: to tell that it is the same, from somebody who could as well change the record."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
