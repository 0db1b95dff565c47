"""What the engine's roles may do: run harmless functions over values that they are given, and nothing else.

Everything that PUBLIC may do in a fresh PostgreSQL is taken away, in template0, of which every database of the engine is a copy. Then
functions are given back that depend on their arguments alone (IMMUTABLE), and of the STABLE ones those that depend on nothing but
settings that the engine takes over from the client's session. What reads a clock, a catalog, another session, a file, or remembers
something, stays away: PostgreSQL itself answers 42501 (PostgreSQL documentation, 5.8 "Privileges", 36.7 "Function Volatility").
"""

from __future__ import annotations

from typing import Final

CALCULATOR: Final = "pgveil_calculator"
# Makes databases, and knows types' names. The client's statements never run as this one.
STEWARD: Final = "pgveil_steward"
# The database with locale C, which is always there.
FIRST_DATABASE: Final = "pgveil_c"

# STABLE functions beside operators, casts and aggregates whose results depend on the arguments, and on TimeZone, DateStyle,
# IntervalStyle, bytea_output, extra_float_digits, lc_monetary, lc_numeric and lc_time at most.
HARMLESS_STABLE: Final = frozenset(
    (
        *("array_to_json", "array_to_string", "concat", "concat_ws", "convert", "convert_from", "convert_to"),
        *("date_add", "date_part", "date_subtract", "date_trunc", "extract", "format", "generate_series", "in_range"),
        *("enum_first", "enum_last", "enum_range", "json_build_array", "json_build_object", "json_populate_record"),
        *("json_populate_recordset", "json_to_record", "json_to_recordset", "jsonb_build_array", "jsonb_build_object"),
        *("jsonb_path_exists_tz", "jsonb_path_match_tz", "jsonb_path_query_array_tz", "jsonb_path_query_first_tz"),
        *("jsonb_path_query_tz", "jsonb_populate_record", "jsonb_populate_record_valid", "jsonb_populate_recordset"),
        *("jsonb_to_record", "jsonb_to_recordset", "length", "make_timestamptz", "overlaps", "pg_input_error_info"),
        *(
            "pg_input_is_valid",
            "pg_typeof",
            "quote_literal",
            "quote_nullable",
            "row_to_json",
            "timestamptz",
            "timezone",
        ),
        *("to_char", "to_date", "to_json", "to_jsonb", "to_number", "to_timestamp", "xml_is_well_formed"),
    )
)
# IMMUTABLE functions that begin like those of the server's own machinery, and are none.
HARMLESS_PG: Final = frozenset(("pg_size_bytes", "pg_size_pretty"))
# What they say is about the build, and the server's may be another one.
_OF_THE_BUILD: Final = frozenset(("icu_unicode_version", "unicode_version"))
# Types whose values name things of a catalog, and the engine's is not the client's; text search asks for a configuration of the catalog.
_FOREIGN_TYPES: Final = (
    *("aclitem", "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator"),
    *("regproc", "regprocedure", "regrole", "regtype", "pg_node_tree", "pg_snapshot", "txid_snapshot", "xid", "xid8"),
)
# Today's date decides the offset of a time zone that a value of type timetz gets.
_CLOCKED: Final = ("timetz(time)", "timezone(text,timetz)", "timezone(timetz)", "timezone(interval,timetz)")


def _names(names: frozenset[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


_CLOCKED_OIDS: Final = ", ".join(f"to_regprocedure('{name}')" for name in _CLOCKED)
# SQL over pg_proc AS p: whether the calculator's role may run it.
HARMLESS: Final = f"""p.prokind IN ('f', 'a', 'w') AND p.provolatile <> 'v' AND p.proname NOT IN ({_names(_OF_THE_BUILD)})
    AND 'internal'::regtype <> ALL (p.proargtypes::oid[])
    AND (p.proname = 'pg_typeof' OR NOT EXISTS (
        SELECT FROM unnest(p.proargtypes::oid[] || p.prorettype) AS a(type) JOIN pg_type AS t ON a.type IN (t.oid, t.typarray)
        WHERE t.typname IN ({_names(_FOREIGN_TYPES)})))
    AND CASE
        WHEN p.prokind IN ('a', 'w') THEN true
        WHEN p.provolatile = 'i' THEN p.proname NOT LIKE 'pg\\_%' OR p.proname IN ({_names(HARMLESS_PG)})
            OR p.oid IN (SELECT oprcode FROM pg_operator)
        ELSE p.proname NOT LIKE 'ts\\_match%' AND p.oid <> ALL (array_remove(ARRAY[{_CLOCKED_OIDS}]::oid[], NULL)) AND (
            p.proname IN ({_names(HARMLESS_STABLE)})
            OR p.oid IN (SELECT oprcode FROM pg_operator)
            OR p.oid IN (SELECT castfunc FROM pg_cast)
            -- Casts of constants by way of their text call these, and the planner asks for the privilege.
            OR p.oid IN (SELECT unnest(ARRAY[typinput, typoutput]) FROM pg_type))
    END"""  # noqa: S608 - of constants
_STEWARDS: Final = ("format_type", "pg_database_collation_actual_version")


def template_statements(connections: int, milliseconds: int) -> tuple[str, ...]:
    """What is run in template0, by the superuser, before anybody can connect."""
    return (
        f"CREATE ROLE {CALCULATOR} LOGIN CONNECTION LIMIT {connections}",
        f"CREATE ROLE {STEWARD} LOGIN CREATEDB",
        f"ALTER ROLE {CALCULATOR} SET search_path = ''",
        f"ALTER ROLE {STEWARD} SET search_path = ''",
        f"ALTER ROLE {CALCULATOR} SET default_transaction_read_only = on",
        f"ALTER ROLE {CALCULATOR} SET statement_timeout = {milliseconds}",
        "DROP EXTENSION plpgsql",
        "DROP SCHEMA information_schema CASCADE",
        "DROP SCHEMA public CASCADE",
        "REVOKE ALL ON LANGUAGE sql FROM PUBLIC",
        "REVOKE ALL ON ALL TABLES IN SCHEMA pg_catalog FROM PUBLIC",
        f"GRANT SELECT ON pg_database, pg_proc, pg_type TO {STEWARD}",
        f"""UPDATE pg_proc AS p SET proacl = CASE
            WHEN {HARMLESS} THEN '{{postgres=X/postgres,{CALCULATOR}=X/postgres,{STEWARD}=X/postgres}}'
            WHEN p.proname IN ({_names(_STEWARDS)}) THEN '{{postgres=X/postgres,{STEWARD}=X/postgres}}'
            ELSE '{{postgres=X/postgres}}' END::aclitem[]""",  # noqa: S608 - of constants
        "VACUUM FULL pg_proc",
    )


def cluster_statements() -> tuple[str, ...]:
    """What is run after that, in template0 as well: one database to begin with, and none that was made before the privileges were taken."""
    return (
        "UPDATE pg_database SET datistemplate = false WHERE datname = 'template1'",
        "DROP DATABASE template1",
        "DROP DATABASE postgres",
        f"CREATE DATABASE {FIRST_DATABASE} TEMPLATE template0 OWNER {STEWARD} STRATEGY file_copy",
        f"REVOKE ALL ON DATABASE {FIRST_DATABASE} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {FIRST_DATABASE} TO {CALCULATOR}",
    )
