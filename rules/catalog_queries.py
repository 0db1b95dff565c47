"""The SQL that a Catalog is made from, and the cheap query that tells whether it is still right. Source: PostgreSQL, "System Catalogs"."""

# ruff: noqa: S608 - put together from this file's own constants

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the database itself came with has OIDs below 16384 (FirstNormalObjectId), so whatever a superuser put into pg_catalog is seen too.
OWN = "({oid} >= 16384 OR NOT (n.nspname = 'information_schema' OR pg_catalog.starts_with(n.nspname::text, 'pg_'))) AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_t')"

# The functions that write names look at these settings when they are called. Their argument goes through `fixed`, so it is set before.
_FIXED = (
    "WITH fixed AS MATERIALIZED (SELECT pg_catalog.concat(pg_catalog.set_config('search_path', 'pg_catalog', true), "
    "pg_catalog.set_config('quote_all_identifiers', 'off', true)) AS path)"
)
_AFTER_FIXED = "CASE WHEN (SELECT path FROM fixed) IS NOT NULL THEN {value} END"

# These open, and so lock until the end of the transaction, every table that the text names: QUIET_QUERIES do without them.
_VIEW_TEXT = f"pg_catalog.pg_get_viewdef({_AFTER_FIXED.format(value='c.oid')})"
_RULE_TEXT = f"pg_catalog.pg_get_ruledef({_AFTER_FIXED.format(value='w.oid')})"
_DEFAULT_TEXT = f"pg_catalog.pg_get_expr(d.adbin, {_AFTER_FIXED.format(value='d.adrelid')})"
_P_BODY = f"pg_catalog.pg_get_function_sqlbody({_AFTER_FIXED.format(value='p.oid')})"
_S_BODY = f"pg_catalog.pg_get_function_sqlbody({_AFTER_FIXED.format(value='s.oid')})"

_DATABASE = """
SELECT d.datname::text AS database,
       pg_catalog.current_setting('server_version_num')::int AS server_version
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
"""

_SCHEMAS = """
SELECT n.nspname::text AS schema
  FROM pg_catalog.pg_namespace n
 WHERE n.nspname <> 'information_schema' AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_')
"""

_RELATIONS = f"""
{_FIXED}
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       CASE WHEN c.relkind IN ('v', 'm') THEN {_VIEW_TEXT} END AS definition,
       c.relrowsecurity AS row_security, c.reltuples::float8 AS rows,
       (SELECT k.conkey::int4[] FROM pg_catalog.pg_constraint k
         WHERE k.conrelid = c.oid AND k.contype = 'p' AND NOT k.condeferrable) AS primary_key,
       (SELECT pg_catalog.array_agg(DISTINCT told.attnum::int4)
          FROM (SELECT pg_catalog.unnest(i.indkey::int2[]) AS attnum FROM pg_catalog.pg_index i
                 WHERE i.indrelid = c.oid
                 UNION ALL
                SELECT d.refobjsubid FROM pg_catalog.pg_index i
                  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid
                   AND d.refclassid = d.classid AND d.refobjid = i.indrelid
                 WHERE i.indrelid = c.oid
                 UNION ALL
                -- What an indexed generated column is made of.
                SELECT d.refobjsubid FROM pg_catalog.pg_index i
                  JOIN pg_catalog.pg_attribute g ON g.attrelid = i.indrelid AND g.attgenerated <> '' AND g.attnum = ANY (i.indkey::int2[])
                  JOIN pg_catalog.pg_attrdef f ON f.adrelid = g.attrelid AND f.adnum = g.attnum
                  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid
                   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid
                 WHERE i.indrelid = c.oid
                 UNION ALL
                SELECT pg_catalog.unnest(k.conkey) FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'
               ) told WHERE told.attnum > 0) AS telling,
       (EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
        OR EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1')) AS has_triggers
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {OWN.format(oid="c.oid")}
"""

_COLUMNS = f"""
{_FIXED.replace("WITH", "WITH RECURSIVE", 1)},
base (oid, type_oid, typmod) AS (
    SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t WHERE t.typtype = 'd'
    UNION ALL
    SELECT b.oid, t.typbasetype, t.typtypmod FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type_oid WHERE t.typtype = 'd'
),
plain AS (
    SELECT b.* FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type_oid WHERE t.typtype <> 'd'
)
SELECT a.attrelid::int8 AS relation, a.attnum::int AS attnum, a.attname::text AS name,
       COALESCE(p.type_oid, a.atttypid)::int8 AS type_oid,
       CASE WHEN p.oid IS NULL THEN a.atttypmod ELSE p.typmod END AS typmod,
       pg_catalog.format_type({_AFTER_FIXED.format(value="a.atttypid")}, a.atttypmod) AS declared_type,
       a.attnotnull AS not_null,
       {_DEFAULT_TEXT} AS "default",
       a.attgenerated <> '' AS generated,
       a.attidentity <> '' AS identity,
       a.attidentity = 'a' AS always,
       a.attcollation <> (SELECT t.typcollation FROM pg_catalog.pg_type t WHERE t.oid = COALESCE(p.type_oid, a.atttypid)) AS own_collation
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN plain p ON p.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {OWN.format(oid="c.oid")} AND a.attnum > 0 AND NOT a.attisdropped
"""

_INHERITS = """
SELECT i.inhrelid::int8 AS child, i.inhparent::int8 AS parent, i.inhseqno AS position
  FROM pg_catalog.pg_inherits i
"""

_TRIGGERS = f"""
SELECT t.tgrelid::int8 AS relation, f.nspname::text AS schema, p.proname::text AS name, t.tgargs AS arguments,
       pg_catalog.array_remove(ARRAY[t.tgnewtable::text, t.tgoldtable::text], NULL) AS transition
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
 WHERE NOT t.tgisinternal AND {OWN.format(oid="c.oid")}
"""

_RULES = f"""
{_FIXED}
SELECT w.ev_class::int8 AS relation, {_RULE_TEXT} AS definition
  FROM pg_catalog.pg_rewrite w
  JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE w.ev_type <> '1' AND {OWN.format(oid="c.oid")}
"""

# Compiled code that no extension brought: nothing says what it does.
_UNREAD = """(s.oid >= 16384 AND s.prolang IN (SELECT u.oid FROM pg_catalog.pg_language u WHERE u.lanname IN ('c', 'internal')) AND NOT EXISTS (
                 SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND e.objid = s.oid AND e.deptype = 'e'))"""

# An aggregate runs its support functions, and asks nobody but its owner whether it may: it carries their sources, their language ("plpgsql"
# before "sql"), and is as good as SECURITY DEFINER where one of them is.
_FUNCTIONS = f"""
{_FIXED}
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.proname::text AS name,
       pg_catalog.pg_get_userbyid(p.proowner)::text AS owner,
       COALESCE(support.language, l.lanname)::text AS language, p.prosecdef OR COALESCE(support.definer, false) AS security_definer,
       CASE WHEN p.prokind = 'a' THEN COALESCE(parts.unread, false) ELSE {_UNREAD.replace("s.", "p.")} END AS unread,
       p.provolatile = 'i' AS immutable,
       (SELECT pg_catalog.substr(s.setting, 13) FROM pg_catalog.unnest(p.proconfig) AS s (setting)
         WHERE pg_catalog.starts_with(s.setting, 'search_path=')) AS path,
       CASE WHEN p.prokind = 'a' THEN support.source
            WHEN l.lanname IN ('c', 'internal') THEN ''
            ELSE COALESCE({_P_BODY}, p.prosrc)
       END AS source
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  LEFT JOIN LATERAL (
      SELECT pg_catalog.string_agg(
                 COALESCE({_S_BODY}, s.prosrc), pg_catalog.chr(10)) AS source,
             pg_catalog.bool_or(s.prosecdef) AS definer,
             COALESCE(pg_catalog.max(sl.lanname) FILTER (WHERE sl.lanname NOT IN ('sql', 'plpgsql')), pg_catalog.min(sl.lanname)) AS language
        FROM pg_catalog.pg_aggregate g
        JOIN pg_catalog.pg_proc s ON s.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn,
                                               g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn)
        JOIN pg_catalog.pg_language sl ON sl.oid = s.prolang AND sl.lanname NOT IN ('c', 'internal')
       WHERE p.prokind = 'a' AND g.aggfnoid = p.oid
  ) support ON true
  LEFT JOIN LATERAL (
      SELECT pg_catalog.bool_or({_UNREAD}) AS unread
        FROM pg_catalog.pg_aggregate g
        JOIN pg_catalog.pg_proc s ON s.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn,
                                               g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn)
       WHERE p.prokind = 'a' AND g.aggfnoid = p.oid
  ) parts ON true
 WHERE {OWN.format(oid="p.oid")}
"""

# An operator runs its function, so it carries its source; of compiled ones those are told that nothing is known of.
_OPERATORS = f"""
{_FIXED}
SELECT o.oid::int8 AS oid, n.nspname::text AS schema, o.oprname::text AS name,
       pg_catalog.pg_get_userbyid(o.oprowner)::text AS owner,
       l.lanname::text AS language, p.prosecdef AS security_definer,
       l.lanname IN ('c', 'internal') AS unread, p.provolatile = 'i' AS immutable, NULL::text AS path,
       CASE WHEN l.lanname IN ('c', 'internal') THEN ''
            ELSE COALESCE({_P_BODY}, p.prosrc)
       END AS source
  FROM pg_catalog.pg_operator o
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
  JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 WHERE {OWN.format(oid="o.oid")} AND (l.lanname NOT IN ('c', 'internal') OR {_UNREAD.replace("s.", "p.")})
"""

_ENUMS = f"""
{_FIXED}
SELECT pg_catalog.format_type({_AFTER_FIXED.format(value="t.oid")}, -1) AS name, t.oid::int8 AS oid, t.typarray::int8 AS array_oid,
       (SELECT pg_catalog.array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) AS labels
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype = 'e' AND {OWN.format(oid="t.oid")}
"""

# The database's owner is a member of pg_database_owner without a row that says so.
_MEMBERS = """
SELECT pg_catalog.pg_get_userbyid(m.member)::text AS member, pg_catalog.pg_get_userbyid(m.roleid)::text AS role
  FROM pg_catalog.pg_auth_members m
UNION
SELECT pg_catalog.pg_get_userbyid(d.datdba)::text, 'pg_database_owner'
  FROM pg_catalog.pg_database d
 WHERE d.datname = pg_catalog.current_database()
"""

_SUPERUSERS = """
SELECT r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE r.rolsuper
"""

# What `pgveil apply` has written of what it made (rules.record): a comment, so that it can be read without a privilege and without a lock.
_APPLIED = """
SELECT d.description AS document
  FROM pg_catalog.pg_description d
  JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgveil' AND c.relname = 'applied' AND c.relkind = 'v'
"""

# Rights to what lies below tables: the attribute REPLICATION, and EXECUTE that was given on compiled functions which look at something.
_BELOW = """
SELECT r.rolname::text AS role, 'REPLICATION' AS what FROM pg_catalog.pg_roles r WHERE r.rolreplication AND NOT r.rolsuper
UNION
SELECT CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END, p.proname::text
  FROM pg_catalog.pg_proc p
 CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) a
 WHERE p.proacl IS NOT NULL AND p.provolatile <> 'i' AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
   AND p.prolang IN (SELECT l.oid FROM pg_catalog.pg_language l WHERE l.lanname IN ('c', 'internal'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles s WHERE s.oid = a.grantee AND s.rolsuper)
"""

# What catalogs are spliced by (docs/adr/0038): the columns of pg_attribute, the server's own texts of views that tell
# types, and the numbers of the sealed domain and its array.
_SYSTEM = f"""
{_FIXED}
SELECT s.relname::text AS name,
       CASE s.relkind WHEN 'v' THEN pg_catalog.pg_get_viewdef({_AFTER_FIXED.format(value="s.oid")}) END AS definition,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_catalog.pg_class s
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
 WHERE (n.nspname = 'pg_catalog' AND s.relname = 'pg_attribute') OR (n.nspname = 'information_schema'
       AND s.relname IN ('columns', 'key_column_usage', 'column_udt_usage', 'element_types'))
UNION ALL
SELECT 'pgveil.sealed', NULL, pg_catalog.array_agg(t.oid::text ORDER BY t.oid)
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = 'pgveil' AND t.typname IN ('sealed', '_sealed')
"""

CATALOG_QUERIES: Mapping[str, str] = MappingProxyType(
    {
        "database": _DATABASE,
        "schemas": _SCHEMAS,
        "relations": _RELATIONS,
        "columns": _COLUMNS,
        "inherits": _INHERITS,
        "triggers": _TRIGGERS,
        "rules": _RULES,
        "functions": _FUNCTIONS,
        "operators": _OPERATORS,
        "enums": _ENUMS,
        "members": _MEMBERS,
        "superusers": _SUPERUSERS,
        "below": _BELOW,
        "applied": _APPLIED,
        "system": _SYSTEM,
    }
)

# The same rows, of the system catalogs alone: no lock is taken that a user of a table can meet, and none is waited for. A default without
# variables is written without a look at its table. What is left out is read text by text (`rules.catalog_texts`), and told by NULL or ''.
_QUIET = MappingProxyType(
    {
        _VIEW_TEXT: "NULL::text",
        _DEFAULT_TEXT: f"CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, {_AFTER_FIXED.format(value='0::oid')}) END",
        _RULE_TEXT: "NULL::text",
        _P_BODY: f"CASE WHEN p.oid < 16384 THEN {_P_BODY} END",
        _S_BODY: f"CASE WHEN s.oid < 16384 THEN {_S_BODY} END",
    }
)


def _quiet(query: str) -> str:
    for loud, quiet in _QUIET.items():
        query = query.replace(loud, quiet)
    return query


QUIET_QUERIES: Mapping[str, str] = MappingProxyType({name: _quiet(query) for name, query in CATALOG_QUERIES.items()})

# One row, one text column, another text whenever something that the snapshot holds may have changed. It sums a hash of each catalog row:
# a maximum of xmin would miss a transaction that began earlier and ended later. Where TRUNCATE, VACUUM FULL or REFRESH rewrite a row
# without changing its meaning (pg_class), what the row says is hashed; elsewhere its oid and xmin. Temporary objects are left out.
FINGERPRINT_QUERY = """
WITH kept AS MATERIALIZED (
    SELECT c.oid, pg_catalog.hash_record_extended(
               ROW(c.oid, c.relname, c.relnamespace, c.relkind, c.relowner, c.relrowsecurity, c.relhasrules, c.relhastriggers), 0) AS h
      FROM pg_catalog.pg_class c
     WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
)
SELECT pg_catalog.concat_ws('.',
    (SELECT pg_catalog.sum(h) FROM kept),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(a.attrelid, a.attnum, a.xmin), 0))
       FROM pg_catalog.pg_attribute a JOIN kept k ON k.oid = a.attrelid WHERE a.attnum > 0),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(d.oid, d.xmin), 0))
       FROM pg_catalog.pg_attrdef d JOIN kept k ON k.oid = d.adrelid),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(w.oid, w.xmin), 0))
       FROM pg_catalog.pg_rewrite w JOIN kept k ON k.oid = w.ev_class),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(i.inhrelid, i.inhparent, i.inhseqno), 0))
       FROM pg_catalog.pg_inherits i JOIN kept k ON k.oid = i.inhrelid),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(x.indexrelid, x.indrelid, x.indisunique, x.indisexclusion), 0))
       FROM pg_catalog.pg_index x JOIN kept k ON k.oid = x.indrelid),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(f.oid, f.conrelid, f.contype), 0))
       FROM pg_catalog.pg_constraint f JOIN kept k ON k.oid = f.conrelid WHERE f.contype IN ('f', 'p')),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(t.oid, t.tgrelid, t.tgfoid, t.tgargs, t.tgnewtable, t.tgoldtable), 0))
       FROM pg_catalog.pg_trigger t JOIN kept k ON k.oid = t.tgrelid WHERE NOT t.tgisinternal),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(p.oid, p.xmin), 0))
       FROM pg_catalog.pg_proc p WHERE p.oid >= 16384 OR p.proacl IS NOT NULL),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(o.oid, o.xmin), 0))
       FROM pg_catalog.pg_operator o WHERE o.oid >= 16384),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(y.oid, y.xmin), 0))
       FROM pg_catalog.pg_type y WHERE y.oid >= 16384 AND y.typrelid = 0 AND y.typarray <> 0),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(e.oid, e.xmin), 0)) FROM pg_catalog.pg_enum e),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(n.oid, n.nspname), 0))
       FROM pg_catalog.pg_namespace n WHERE NOT pg_catalog.starts_with(n.nspname::text, 'pg_t')),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(m.roleid, m.member), 0))
       FROM pg_catalog.pg_auth_members m),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(r.oid, r.rolname, r.rolsuper, r.rolreplication), 0))
       FROM pg_catalog.pg_roles r),
    (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(s.objoid, s.xmin), 0))
       FROM pg_catalog.pg_description s JOIN pg_catalog.pg_class v ON v.oid = s.objoid
       JOIN pg_catalog.pg_namespace o ON o.oid = v.relnamespace
      WHERE s.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.nspname = 'pgveil' AND v.relname = 'applied'),
    (SELECT pg_catalog.hash_record_extended(ROW(b.oid, b.datname, b.datdba), 0)
       FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database())
) AS fingerprint
"""
