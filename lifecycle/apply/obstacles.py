"""What is in the way of sealing a column, asked of the server's own dependency records. Source: PostgreSQL, "System Catalogs", pg_depend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifecycle.apply.model import Obstacle
from rules.model import SealMode

if TYPE_CHECKING:
    from lifecycle.database import Connection
    from rules.catalog import Relation
    from rules.model import Column

# Everything that depends on one column ($1: relation, $2: attnum) and can't live on when its type changes.
_DEPENDANTS = """
SELECT DISTINCT 'view or rule' AS what, (SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                          WHERE c.oid = w.ev_class) AS name
  FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
   AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE c.oid = w.ev_class AND n.nspname ~ '^pgveil(_[0-9a-f]{12})?$')
UNION ALL
SELECT 'policy', p.polname::text
  FROM pg_depend d JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
UNION ALL
SELECT 'trigger (its WHEN or its list of columns)', t.tgname::text
  FROM pg_depend d JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid AND NOT t.tgisinternal
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
UNION ALL
SELECT 'generated column', a.attname::text
  FROM pg_depend d JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
  JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2 AND NOT (f.adrelid = $1 AND f.adnum = $2)
UNION ALL
SELECT 'function with a body in SQL', p.proname::text
  FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
UNION ALL
SELECT 'publication with a row filter or column list', b.pubname::text
  FROM pg_depend d JOIN pg_publication_rel r ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid
  JOIN pg_publication b ON b.oid = r.prpubid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
UNION ALL
SELECT CASE c.contype WHEN 'c' THEN 'check constraint' ELSE 'exclusion constraint' END, c.conname::text
  FROM pg_constraint c WHERE c.conrelid = $1 AND c.contype IN ('c', 'x') AND $2::int2 = ANY(c.conkey)
UNION ALL
SELECT 'index on an expression', c.relname::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1 AND i.indexprs::text ~ (':varattno ' || $2::int || ' ')
UNION ALL
SELECT 'index with a predicate', c.relname::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1 AND i.indpred::text ~ (':varattno ' || $2::int || ' ')
UNION ALL
SELECT 'index of type ' || m.amname::text, c.relname::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
 WHERE i.indrelid = $1 AND $2::int2 = ANY(i.indkey::int2[]) AND m.amname NOT IN ('btree', 'hash')
   AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conindid = c.oid AND x.contype = 'x')
UNION ALL
SELECT 'index with an operator class or collation of its own', c.relname::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid, generate_series(0, i.indnkeyatts - 1) k,
       LATERAL (SELECT * FROM pg_opclass o WHERE o.oid = i.indclass[k]) o, pg_attribute a
 WHERE i.indrelid = $1 AND i.indkey[k] = $2 AND a.attrelid = $1 AND a.attnum = $2
   AND (NOT o.opcdefault OR i.indcollation[k] <> a.attcollation)
UNION ALL
SELECT 'statistics on an expression', s.stxname::text
  FROM pg_statistic_ext s WHERE s.stxrelid = $1 AND s.stxexprs::text ~ (':varattno ' || $2::int || ' ')
UNION ALL
SELECT 'partition key', c.relname::text
  FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
 WHERE p.partrelid = $1 AND ($2::int2 = ANY(p.partattrs::int2[]) OR p.partexprs::text ~ (':varattno ' || $2::int || ' '))
"""

_UNIQUE = """
SELECT c.relname::text AS name
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1 AND i.indisunique AND EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) k WHERE i.indkey[k] = $2)
"""

_SHAPE = """
SELECT a.attinhcount > 0 AS inherited,
       NOT COALESCE(l.collisdeterministic, true) AS loose,
       EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid) OR t.typnotnull AS domain_checks
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = $1 AND a.attnum = $2
"""

_FIXES = {
    "view or rule": "drop it, apply, and make it again; through pgveil it shows what the asker may see",
    "check constraint": "drop it: the database cannot check what it cannot read",
    "generated column": "drop the generated column",
    "partition key": "partition by another column: rows cannot be routed by sealed values",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A relation that holds rows of the table, with the column's number there."""

    relation: Relation
    attnum: int


async def column_obstacles(connection: Connection, column: Column, parts: tuple[Part, ...]) -> list[Obstacle]:
    """Why a column that is stored plain can't be sealed as it stands; `parts` begin with the table itself."""
    found: list[Obstacle] = []
    name = str(column.name)
    table = parts[0]
    own = table.relation.column(column.name.column)
    assert own is not None
    if own.generated or own.identity:
        found.append(Obstacle(name, "the database makes its values (generated or identity)", "mask it instead"))
    shape = await connection.fetchrow(_SHAPE, table.relation.oid, table.attnum)
    assert shape is not None
    if shape["inherited"]:
        found.append(Obstacle(name, "it is inherited", "name it under the parent table in the rules"))
    if shape["loose"] and column.mode is SealMode.DETERMINISTIC:
        found.append(
            Obstacle(
                name,
                "its collation takes different texts for equal, which sealed values are not",
                "give it a deterministic collation",
            )
        )
    if shape["domain_checks"]:
        found.append(
            Obstacle(
                name,
                f"its domain {own.declared_type} has checks, which sealed values do not pass",
                "give it the domain's base type",
            )
        )
    for part in parts:
        if part.relation.kind == "f":
            found.append(
                Obstacle(
                    str(part.relation.name),
                    "it is a foreign table: its rows are not in this database",
                    "seal it where they are",
                )
            )
            continue
        where = name if part is table else f"{part.relation.name}.{column.name.column}"
        for row in await connection.fetch(_DEPENDANTS, part.relation.oid, part.attnum):
            fix = _FIXES.get(row["what"], "drop it, or take the column out of it")
            found.append(Obstacle(where, f"{row['what']} {row['name']} depends on it", fix))
        if column.mode is SealMode.RANDOMIZED:
            found += await unique_obstacles(connection, where, part)
    return found


async def unique_obstacles(connection: Connection, where: str, part: Part) -> list[Obstacle]:
    """Unique indexes over a column that is to be randomized."""
    return [
        Obstacle(
            where,
            f"unique index {row['name']} cannot hold on a randomized column",
            "make the column deterministic, or drop the index",
        )
        for row in await connection.fetch(_UNIQUE, part.relation.oid, part.attnum)
    ]
