"""The look-up functions (ADR 0015): one for each class of logins and plain column by whose real value the class may find rows.

Such a function takes tickets, which only pgveil can make, and gives the keys of the rows. It runs as pgveil's role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.apply.ground import digest
from lifecycle.apply.inspect import PUBLIC, relation_sql
from lifecycle.apply.model import OWNER, SCHEMA, SEALED_TYPE, Change, Kind, MakeLookup, Obstacle, Statements
from rules.logical import type_of_oid
from rules.lookups import function_of, key_of, wanted
from rules.model import Protection, TableName, quote_ident, quote_literal
from rules.record import MadeAs

if TYPE_CHECKING:
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People
    from rules.catalog import CatalogColumn, Relation
    from rules.model import ColumnName, PolicyClass, Rules
    from rules.protect import ProtectionMap

_ARGUMENTS = "(tickets pg_catalog.text[])"
# Values come as text in one form, whatever the session's settings are.
SETTINGS = "SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET timezone = 'UTC'"
# Types whose bare name means a length of one.
_UNBOUNDED = {"char": "bpchar", "bit": "varbit"}


def plan_lookups(draft: Draft, state: State, rules: Rules, people: People, protection: ProtectionMap) -> list[Change]:
    """Plan the functions. Gives back what must be done first: those that have to go."""
    first: list[Change] = []
    classes = {p.policy.schema: p.policy for p in people.principals.values()}
    needed: dict[TableName, MakeLookup] = {}
    for policy in sorted(classes.values(), key=lambda c: c.schema):
        for column in wanted(policy, rules):
            relation = state.catalog.by_name.get(column.relation)
            if relation is not None and not relation.row_security:
                made = _function(draft, relation, column, policy, rules, protection)
                if made is not None:
                    name = function_of(policy, column)
                    needed[name] = made
                    draft.made.functions.append(MadeAs(*name))
    for name, found in sorted(state.lookups.items()):
        due = needed.get(name)
        if due is None or found.digest != due.digest or found.owner != OWNER:
            signature = relation_sql(name) + "(pg_catalog.text[])"
            (draft.going(first) if due is None else first).append(
                Change(Kind.DROP, str(name), "drop a look-up function", Statements((f"DROP FUNCTION {signature}",)))
            )
    for name, made in needed.items():
        there = state.lookups.get(name)
        held = frozenset[str]()
        if there is not None and there.digest == made.digest and there.owner == OWNER:
            held = there.grantees
        else:
            draft.changes.append(Change(Kind.LOOKUP, str(name), "create look-up function", made))
        _plan_access(draft, state, people, name, made, held)
    return first


def _plan_access(
    draft: Draft, state: State, people: People, name: TableName, made: MakeLookup, held: frozenset[str]
) -> None:
    users = {
        n for n, p in people.principals.items() if p.policy.schema == name.schema and n not in state.catalog.superusers
    }
    for login in sorted(users - held):
        sql = f"GRANT EXECUTE ON FUNCTION {made.signature} TO {quote_ident(login)}"
        draft.add(Kind.GRANT, str(name), f"EXECUTE to {login}", sql)
    for grantee in sorted(held - users):
        who = "PUBLIC" if grantee == PUBLIC else quote_ident(grantee)
        sql = f"REVOKE EXECUTE ON FUNCTION {made.signature} FROM {who}"
        what = f"EXECUTE from {grantee or 'PUBLIC'}"
        draft.going().append(Change(Kind.REVOKE, str(name), what, Statements((sql,))))


def _function(
    draft: Draft, relation: Relation, column: ColumnName, policy: PolicyClass, rules: Rules, protection: ProtectionMap
) -> MakeLookup | None:
    stored = relation.column(column.column)
    keys = key_of(relation, protection.columns_of(relation), rules)
    if stored is None:
        return None
    if not keys:
        draft.obstacles.append(
            Obstacle(
                str(column),
                "a look-up finds rows by the table's primary key, and this table has none that masked roles see as it is",
                "give the table a primary key of columns that are not masked, or take `lookup` out of the rules",
            )
        )
        return None
    name = function_of(policy, column)
    signature = relation_sql(name) + "(pg_catalog.text[])"
    columns = [c for key in keys if (c := relation.column(key)) is not None]
    returned = ", ".join(f"k{number} {_key_type(c, column, rules)}" for number, c in enumerate(columns, 1))
    value = (
        f"{quote_ident(SCHEMA + '_private')}.lookup_value(x.ticket, {quote_literal(str(column))})::{value_type(stored)}"
    )
    body = (
        f"SELECT {', '.join(f't.{quote_ident(k)}' for k in keys)}\n  FROM {relation_sql(relation.name)} AS t\n"  # noqa: S608 - quoted
        f" WHERE t.{quote_ident(column.column)} OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT {value}\n"
        "                 FROM pg_catalog.unnest(tickets) AS x (ticket)))"
    )
    definition = (
        f"CREATE FUNCTION {relation_sql(name)}{_ARGUMENTS} RETURNS TABLE ({returned})\n"
        f"LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER ROWS 10 {SETTINGS}\nAS {quote_literal(body)}"
    )
    return MakeLookup(signature, definition, digest(definition))


def value_type(column: CatalogColumn) -> str:
    """The column's type without a length, which would cut a value that is too long to the one it begins with."""
    known = type_of_oid(column.type_oid, -1)
    return column.declared_type if known is None else _UNBOUNDED.get(known, known)


def _key_type(key: CatalogColumn, column: ColumnName, rules: Rules) -> str:
    rule = rules.tables[column.relation].columns.get(key.name)
    return SEALED_TYPE if rule is not None and rule.protection is Protection.SEALED else key.declared_type
