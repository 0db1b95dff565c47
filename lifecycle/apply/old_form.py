"""The domain's check, and bringing values that were sealed before there was one at their end into the present form.

What is added is made from the text alone, so the server does it, without keys and without the values leaving it. All of it is one transaction,
as everything that apply does: nobody ever meets a database in which one value has two texts, which equality and unique indexes would not
survive. Killed in the middle, nothing has happened, and the next run begins again.
"""

# ruff: noqa: S608 - names are quoted by quote_ident, texts by quote_literal

from __future__ import annotations

from typing import TYPE_CHECKING

from keys.sealed import UNCHECKED_PATTERN
from keys.sealed import checked as with_check
from keys.sealed_sql import checked, holds
from lifecycle.apply.ground import DOMAIN_CHECK, DOMAIN_DIGEST
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import OWNER, SCHEMA, SEALED_TYPE, Change, Kind, Obstacle, TurnTable
from lifecycle.apply.seal import TRIGGERS, UPDATE_RULES, foreign_keys, trigger_sql
from rules.model import quote_ident, quote_literal

if TYPE_CHECKING:
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.database import Connection
    from rules.catalog import CatalogColumn, Relation

_DOMAIN = f"{quote_ident(SCHEMA)}.sealed"


async def plan_domain(connection: Connection, draft: Draft, state: State) -> None:
    """Where the domain's check is not the present one: the values that do not pass it, and the check itself."""
    if not state.ground.domain or state.ground.domain_digest == DOMAIN_DIGEST:
        return
    relations = sorted(state.catalog.relations.values(), key=lambda r: r.name)
    held = {r.oid: columns for r in relations if (columns := _sealed(r))}
    turning = [
        change
        for r in relations
        if r.oid in held and r.kind == "r" and (change := await _plan_table(connection, draft, r, held[r.oid]))
    ]
    keys = [
        key
        for key in await foreign_keys(connection, state)
        if turning
        and any(c.name == a for a, _ in key.pairs for c in held.get(state.catalog.by_name[key.table].oid, ()))
    ]
    for key in keys:
        sql = f"ALTER TABLE {relation_sql(key.table)} DROP CONSTRAINT {quote_ident(key.name)}"
        draft.add(Kind.FOREIGN_KEY, f"{key.table}: {key.name}", "drop while its values get their checks", sql)
    if turning:
        sql = f"ALTER DOMAIN {_DOMAIN} DROP CONSTRAINT IF EXISTS sealed_format"
        draft.add(Kind.GROUND, "the sealed format's check", "take away the old one", sql)
        draft.changes += turning
        for view in (r for r in relations if r.oid in held and r.kind == "m"):
            draft.add(
                Kind.SEAL, str(view.name), "fill it again", f"REFRESH MATERIALIZED VIEW {relation_sql(view.name)}"
            )
    draft.add(
        Kind.GROUND,
        SEALED_TYPE,
        "put the sealed format's check in force, and check every sealed value by it",
        f"ALTER DOMAIN {_DOMAIN} DROP CONSTRAINT IF EXISTS sealed_format",
        f"ALTER DOMAIN {_DOMAIN} ADD CONSTRAINT sealed_format {DOMAIN_CHECK}",
        f"ALTER DOMAIN {_DOMAIN} OWNER TO {quote_ident(OWNER)}",
    )
    for key in keys:
        sql = f"ALTER TABLE {relation_sql(key.table)} ADD CONSTRAINT {quote_ident(key.name)} {key.definition}"
        draft.add(Kind.FOREIGN_KEY, f"{key.table}: {key.name}", "make it again, and check it", sql)


def _sealed(relation: Relation) -> tuple[CatalogColumn, ...]:
    return tuple(c for c in relation.columns if c.declared_type == SEALED_TYPE)


async def _plan_table(
    connection: Connection, draft: Draft, relation: Relation, columns: tuple[CatalogColumn, ...]
) -> Change | None:
    """What turns one table's own rows and defaults; None where nothing is of the old form."""
    table = relation_sql(relation.name)
    # Not by the domain's own functions and operators: everything about it is text's.
    old = {c.name: f"NOT ({holds(f'{quote_ident(c.name)}::pg_catalog.text')})" for c in columns}
    anything = " OR ".join(old.values())
    odd = " OR ".join(
        f"({o} AND {quote_ident(n)}::pg_catalog.text !~ {quote_literal(UNCHECKED_PATTERN)})" for n, o in old.items()
    )
    row = await connection.fetchrow(
        f"SELECT count(*) AS old, count(*) FILTER (WHERE {odd}) AS odd, pg_table_size({quote_literal(table)}::regclass) AS bytes"
        f" FROM ONLY {table} WHERE {anything}"
    )
    assert row is not None
    if row["odd"]:
        draft.obstacles.append(
            Obstacle(
                f"{relation.name}: {', '.join(old)}",
                f"{row['odd']} rows hold texts that are not sealed values",
                "pgveil doctor names the columns; correct the values, past pgveil, as a superuser",
            )
        )
    defaults = [d for c in columns if (d := await _default(connection, table, c))]
    if not row["old"] and not defaults:
        return None
    statements = list(defaults)
    if row["old"]:
        triggers = await connection.fetch(TRIGGERS, relation.oid)
        draft.obstacles += [
            Obstacle(str(relation.name), f"rule {r['name']} rewrites updates of it", "drop the rule")
            for r in await connection.fetch(UPDATE_RULES, relation.oid)
        ]
        assigned = ", ".join(
            f"{(n := quote_ident(name))} = CASE WHEN {o} THEN {checked(f'{n}::pg_catalog.text')}::{_DOMAIN} ELSE {n} END"
            for name, o in old.items()
        )
        statements += [trigger_sql(relation.name, t["name"], None) for t in triggers]
        statements.append(f"UPDATE ONLY {table} SET {assigned} WHERE {anything}")
        statements += [trigger_sql(relation.name, t["name"], t["enabled"]) for t in triggers]
    what = f"add the check to the values of {', '.join(old)}"
    work = TurnTable(relation.name, tuple(statements))
    return Change(Kind.SEAL, str(relation.name), what, work, row["old"], row["bytes"])


async def _default(connection: Connection, table: str, column: CatalogColumn) -> str | None:
    """The statement that gives a default of the old form its check."""
    if column.default is None or column.generated:
        return None
    value = await connection.fetchval(f"SELECT ({column.default})::pg_catalog.text")
    if value is None or await connection.fetchval(f"SELECT {holds('$1::pg_catalog.text')}", value):
        return None
    text = quote_literal(with_check(str(value).encode()).decode())
    return f"ALTER TABLE ONLY {table} ALTER COLUMN {quote_ident(column.name)} SET DEFAULT {text}"
