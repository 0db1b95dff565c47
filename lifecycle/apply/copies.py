"""What the database keeps of masked columns beside their tables: materialized views, and the statistics of what indexes and statistics objects compute.

A materialized view has its SELECT taken like any view (`privileges`). Statistics hold the most common values and a histogram: those of an index's
expressions are shown by pg_stats to whom the index belongs, those of CREATE STATISTICS by pg_stats_ext and pg_stats_ext_exprs to whom the table belongs;
in clusters that were made by a PostgreSQL before 15.7 or 16.3, to everybody (CVE-2024-4317), until its script has run. The server is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rules.filled import held_by
from rules.model import ColumnName, quote_ident

if TYPE_CHECKING:
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People
    from lifecycle.database import Connection
    from rules.protect import ProtectionMap

_STATISTICS: Final = """
WITH kept AS (
    SELECT 'index' AS kind, n.nspname::text AS schema, c.relname::text AS name, c.oid, i.indrelid AS relation,
           array_agg(DISTINCT d.refobjsubid::int4) AS columns
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = d.classid AND d.refobjid = i.indrelid
     WHERE i.indexprs IS NOT NULL AND d.refobjsubid > 0 GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT 'statistics', n.nspname, s.stxname, s.oid, s.stxrelid, array_agg(DISTINCT d.refobjsubid::int4)
      FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
      JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.stxrelid
     WHERE d.refobjsubid > 0 GROUP BY 1, 2, 3, 4, 5
), shown AS (
    SELECT position('pg_has_role' IN pg_get_viewdef('pg_catalog.pg_stats_ext_exprs'::regclass)) = 0 AS to_all
)
SELECT k.kind, k.schema, k.name, k.relation::int8 AS relation, k.columns, k.kind = 'statistics' AND s.to_all AS to_all,
       ARRAY(SELECT l.rolname::text FROM pg_roles l
              WHERE l.rolcanlogin AND NOT l.rolsuper
                AND CASE k.kind WHEN 'index' THEN EXISTS (SELECT FROM pg_roles m WHERE pg_has_role(l.oid, m.oid, 'MEMBER') AND NOT m.rolsuper
                                                                 AND has_table_privilege(m.oid, k.oid, 'SELECT'))
                         ELSE s.to_all OR pg_has_role(l.oid, t.relowner, 'MEMBER') END
              ORDER BY 1) AS readers
  FROM kept k CROSS JOIN shown s JOIN pg_class t ON t.oid = k.relation
 ORDER BY 1, 2, 3
"""


class Kept(NamedTuple):
    """Statistics that hold something of masked columns. `readers`: logins to whom the server shows them and that do not see these columns clear.

    `to_all`: it shows them to everybody, by views from before CVE-2024-4317 was mended.
    """

    kind: str
    name: str
    sql: str
    made_of: tuple[ColumnName, ...]
    readers: tuple[str, ...]
    to_all: bool


async def read_statistics(
    connection: Connection, state: State, people: People, protection: ProtectionMap
) -> tuple[Kept, ...]:
    """The statistics of expressions, and of several columns, that are made of masked ones. Of single columns the columns' privileges decide."""
    found = []
    for row in await connection.fetch(_STATISTICS):
        relation = state.catalog.relations.get(row["relation"])
        held = {} if relation is None else dict(held_by(protection, relation))
        names = () if relation is None else (c.name for c in relation.columns if c.attnum in row["columns"])
        made_of = frozenset[ColumnName]().union(*(held.get(name, ()) for name in names))
        if made_of:
            sql = f"{quote_ident(row['schema'])}.{quote_ident(row['name'])}"
            readers = tuple(n for n in row["readers"] if people.limited(n, made_of))
            named = f"{row['schema']}.{row['name']}"
            found.append(Kept(row["kind"], named, sql, tuple(sorted(made_of)), readers, row["to_all"]))
    return tuple(found)


async def plan_copies(
    connection: Connection, draft: Draft, state: State, people: People, protection: ProtectionMap
) -> None:
    """Warnings, for as long as it is so."""
    for relation in sorted(state.catalog.relations.values(), key=lambda r: r.name):
        made_of = frozenset[ColumnName]().union(*(taint for _, taint in held_by(protection, relation)))
        if relation.kind == "m" and made_of:
            draft.warnings.append(
                f"materialized view {relation.name} is a copy of {', '.join(map(str, sorted(made_of)))}, plain, as of its last refresh: who does not see that clear may not read it"
            )
    for kept in await read_statistics(connection, state, people, protection):
        if kept.readers:
            draft.warnings.append(
                f"{kept.kind} {kept.name} is made of {', '.join(map(str, kept.made_of))}, and PostgreSQL shows its statistics, values among them, to {', '.join(kept.readers)}, who are to see masks{': run fix-CVE-2024-4317.sql' if kept.to_all else ''}"
            )
