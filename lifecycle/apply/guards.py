"""What keeps sealed columns as they are, past pgveil too: a view of pgveil's that depends on them, for each table that has any (docs/adr/0026).

PostgreSQL changes the type of no column that a view uses, nor drops it without CASCADE, whoever asks; and only pgveil's role and superusers may drop
the view. Nobody is given any privilege on it. Source: PostgreSQL documentation, 5.15 "Dependency Tracking".
"""

# ruff: noqa: S608 - names are quoted by quote_ident

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.apply.ground import digest
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import OWNER, SCHEMA, SEALED_TYPE, Change, Draft, Kind, Statements
from rules.model import Protection, TableName, quote_ident

if TYPE_CHECKING:
    from lifecycle.apply.inspect import State
    from lifecycle.database import Connection
    from rules.catalog import Relation
    from rules.model import Rules

# The guards that are there: of which table, over which of its columns.
_GUARDS = """
SELECT v.relname::text AS name, d.refobjid::int8 AS table, array_agg(DISTINCT a.attname::text) AS columns, pg_get_userbyid(v.relowner)::text AS owner
  FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
  JOIN pg_rewrite w ON w.ev_class = v.oid
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE n.nspname = $1 AND v.relkind = 'v' AND v.relname ~ '^guard_[0-9a-f]{16}$'
 GROUP BY v.oid, v.relname, d.refobjid, v.relowner
 ORDER BY v.relname
"""


async def plan_guards(connection: Connection, draft: Draft, state: State, rules: Rules) -> list[Change]:
    """Plan the guards that have to go, before columns are sealed; the changes that make those that are wanted, for when that is done."""
    wanted = {r.oid: (r, columns) for r in state.catalog.relations.values() if (columns := _sealed(r, rules))}
    for row in await connection.fetch(_GUARDS, SCHEMA):
        found = wanted.get(row["table"])
        if found is not None and not _plain(*found) and set(row["columns"]) == set(found[1]) and row["owner"] == OWNER:
            del wanted[row["table"]]
            continue
        view = relation_sql(TableName(SCHEMA, row["name"]))
        draft.add(
            Kind.DROP, f"{SCHEMA}.{row['name']}", "drop the guard of columns to make it anew", f"DROP VIEW {view}"
        )
    return [_make(relation, columns) for relation, columns in sorted(wanted.values(), key=lambda each: each[0].name)]


def _sealed(relation: Relation, rules: Rules) -> tuple[str, ...]:
    """Those of its own columns that the rules seal; what is inherited can't be changed but at the parent."""
    table = rules.tables.get(relation.name)
    if table is None or relation.kind not in {"r", "p"}:
        return ()
    return tuple(
        c.name
        for c in relation.columns
        if (rule := table.columns.get(c.name)) is not None and rule.protection is Protection.SEALED
    )


def _plain(relation: Relation, columns: tuple[str, ...]) -> bool:
    return any(c.name in columns and c.declared_type != SEALED_TYPE for c in relation.columns)


def _make(relation: Relation, columns: tuple[str, ...]) -> Change:
    name = f"guard_{digest(f'{relation.oid} {relation.name}')}"
    view = relation_sql(TableName(SCHEMA, name))
    sql = (
        f"CREATE VIEW {view} AS SELECT {', '.join(map(quote_ident, columns))} FROM {relation_sql(relation.name)} WHERE false",
        f"ALTER VIEW {view} OWNER TO {quote_ident(OWNER)}",
        f"REVOKE ALL ON TABLE {view} FROM PUBLIC",
    )
    return Change(
        Kind.GROUND,
        str(relation.name),
        f"keep {', '.join(columns)} from other types and from DROP without CASCADE",
        Statements(sql),
    )
