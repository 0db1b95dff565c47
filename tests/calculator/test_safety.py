"""What the engine will not do, each tried; and what the text alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.calculator.hardening import HARMLESS
from proxy.calculator.safety import foreign_functions, is_query, known_functions, unsafe_word
from proxy.session.computing import CalculatorError
from proxy.session.replies import Trouble
from rules.lexer import lex

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

    from .conftest import Desk, MakeDesk

DENIED = "42501"
FORBIDDEN = (
    # files, programs, other servers
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_stat_file('PG_VERSION')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    # time
    "SELECT pg_sleep(0)",
    "SELECT now()",
    "SELECT clock_timestamp()",
    "SELECT statement_timestamp()",
    "SELECT timeofday()",
    "SELECT age('2000-01-01'::timestamp)",
    "SELECT '12:00'::time::timetz",
    "SELECT pg_postmaster_start_time()",
    # chance and memory
    "SELECT random()",
    "SELECT gen_random_uuid()",
    "SELECT setseed(0)",
    "SELECT lastval()",
    "SELECT nextval(1259)",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    # settings, sessions, the server
    "SELECT set_config('work_mem', '1GB', false)",
    "SELECT current_setting('data_directory')",
    "SELECT version()",
    "SELECT pg_backend_pid()",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_reload_conf()",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_stat_get_activity(NULL)",
    "SELECT pg_show_all_settings()",
    "SELECT pg_ls_waldir()",
    "SELECT pg_log_backend_memory_contexts(1)",
    "SELECT pg_switch_wal()",
    "SELECT pg_export_snapshot()",
    "SELECT inet_client_addr()",
    "SELECT has_table_privilege('pg_class', 'select')",
    "SELECT pg_get_viewdef('pg_roles'::regclass)",
    "SELECT pg_get_functiondef('lower(text)'::regprocedure)",
    "SELECT format_type(23, NULL)",
    "SELECT pg_table_is_visible(1259)",
    "SELECT pg_partition_root(1259)",
    # dynamic SQL
    "SELECT query_to_xml('SELECT 1', true, true, '')",
    "SELECT table_to_xml('pg_class', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "SELECT cursor_to_xml('x', 1, true, true, '')",
    "SELECT ts_stat('SELECT 1')",
    # catalogs
    *(f"SELECT * FROM pg_catalog.{name}" for name in ("pg_class", "pg_authid", "pg_roles", "pg_settings", "pg_shadow")),
    *(
        f"SELECT * FROM {name}"
        for name in ("pg_stat_activity", "pg_locks", "pg_prepared_statements", "pg_proc", "pg_database")
    ),
    "SELECT * FROM pg_largeobject",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_stats",
)
IMPOSSIBLE = (
    ("SELECT 1 INTO x", {"42501", "3F000", "25006"}),
    ("SELECT 1 INTO TEMP x", {"42501", "25006"}),
    ("WITH x AS (INSERT INTO pg_class DEFAULT VALUES RETURNING 1) TABLE x", {"42501", "25006"}),
    ("WITH x AS (DELETE FROM pg_proc RETURNING 1) TABLE x", {"42501", "25006"}),
    ("SELECT dblink('', '')", {"42883"}),
    ("SELECT * FROM information_schema.tables", {"42P01", "3F000"}),
    ("SELECT 1; SELECT 2", {"42601"}),
    ("SELECT * FROM pg_temp.x", {"42P01"}),
)
NO_QUERIES = (
    "SET search_path = x",
    "RESET ALL",
    "COPY (SELECT 1) TO STDOUT",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "DO $$ BEGIN END $$",
    "LISTEN x",
    "NOTIFY x",
    "CREATE TEMP TABLE x (y int)",
    "EXPLAIN SELECT 1",
    "SHOW ALL",
    "BEGIN",
    "COMMIT",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "PREPARE x AS SELECT 1",
    "LOCK pg_class",
    "LOAD 'x'",
    "CHECKPOINT",
    "VACUUM",
    "CALL x()",
    "INSERT INTO x VALUES (1)",
    "SET ROLE postgres",
    "",
    "-- nothing",
)


async def test_what_is_not_allowed(any_desk: Desk) -> None:
    for sql in FORBIDDEN:
        assert (await any_desk.error(sql)).sqlstate == DENIED, sql
    for sql, states in IMPOSSIBLE:
        assert (await any_desk.error(sql)).sqlstate in states, sql


async def test_nothing_but_queries(desk: Desk) -> None:
    for sql in NO_QUERIES:
        outcome = await desk.outcome(sql)
        assert isinstance(outcome, Trouble), sql
        assert outcome.sqlstate == "0AP01"
    for sql in (
        "/* a */ SELECT 1",
        "-- a\n(SELECT 1)",
        "VALUES (1)",
        "((VALUES (1)))",
        "WITH x AS (SELECT 1) TABLE x",
        " \n TABLE (SELECT 1)",
    ):
        assert is_query(sql.encode()), sql
    for sql in ("/* a /* b */ */ SELECT 1", "SELECTED", "WITHIN", "tables", "/* SELECT 1"):
        assert not is_query(sql.encode()), sql


async def test_even_past_the_first_check_nothing_stays(desk: Desk) -> None:
    """Were a SET taken for a query, the transaction would take it back."""
    assert await desk.value("SELECT 1") == b"1"
    (connection,) = desk.pool._idle
    for sql in (
        "SET work_mem = '1GB'",
        "SET SESSION AUTHORIZATION DEFAULT",
        "CREATE TABLE x ()",
        "CREATE TEMP TABLE x ()",
        "LISTEN x",
    ):
        said = await connection.simple(f"BEGIN READ ONLY; {sql}; ROLLBACK")
        if said.error is not None:
            await connection.simple("ROLLBACK")
    for sql in ("SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "CREATE TABLE x ()", "CREATE TEMP TABLE x ()", "CREATE SCHEMA x",
                "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DO $$ $$", "COPY (SELECT 1) TO '/tmp/x'",
                "CREATE DATABASE x", "ALTER ROLE pgveil_calculator SUPERUSER", "SET temp_file_limit = -1", "LOAD 'plpgsql'", "CREATE EXTENSION plpgsql"):  # fmt: skip
        said = await connection.simple("SET default_transaction_read_only = off")
        said = await connection.simple(sql)
        assert said.error is not None, sql
    said = await connection.simple("SHOW work_mem")
    assert b"1GB" not in said.rows[0]


async def test_what_people_need_is_allowed(any_desk: Desk) -> None:
    allowed = (
        ("SELECT upper('a') || lower('B') || initcap('c d') || substr('abc', 2) || left('abc', 1)", b"AbC Dbca"),
        ("SELECT count(*) FILTER (WHERE x > 1) FROM generate_series(1, 3) x", b"2"),
        ("SELECT string_agg(x::text, ',' ORDER BY x DESC) FROM generate_series(1, 3) x", b"3,2,1"),
        ("SELECT array_agg(x ORDER BY x) FROM generate_series(1, 3) x", b"{1,2,3}"),
        ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM generate_series(1, 3) x", b"2"),
        (
            "SELECT sum(x) OVER (ORDER BY x ROWS 1 PRECEDING) + rank() OVER () + lag(x, 1, 9) OVER () FROM (VALUES (1)) v(x)",
            b"11",
        ),
        ("SELECT avg(x)::numeric(10,2) + stddev(x) FROM generate_series(1, 3) x", b"3.00000000000000000000"),
        (
            "SELECT json_build_object('a', ARRAY[1], 'b', row_to_json(r)) FROM (SELECT 1 AS c) r",
            b'{"a" : [1], "b" : {"c":1}}',
        ),
        ("SELECT jsonb_agg(x) || '[2]' FROM (SELECT 1) v(x)", b"[1, 2]"),
        ("SELECT to_char(1234.5, 'FM9G999D00') || to_char('2024-02-03'::date, 'DD Mon')", b"1,234.5003 Feb"),
        ("SELECT to_date('03.02.2024', 'DD.MM.YYYY') + 1", b"2024-02-04"),
        (
            "SELECT date_trunc('month', '2024-02-03 10:00+00'::timestamptz) + interval '1 day'",
            b"2024-02-02 00:00:00+00",
        ),
        ("SELECT extract(year FROM '2024-02-03'::timestamptz) + date_part('day', '2024-02-03'::date)", b"2027"),
        ("SELECT age('2024-02-03'::timestamptz, '2023-01-01'::timestamptz)", b"1 year 1 mon 2 days"),
        ("SELECT '2024-02-03'::timestamptz > '2024-02-02'::date", b"t"),
        ("SELECT ('2024-02-03 10:00'::timestamp AT TIME ZONE 'Asia/Shanghai')::time", b"02:00:00"),
        ("SELECT regexp_replace('a1b2', '[0-9]', '#', 'g') || split_part('a,b', ',', 2)", b"a#b#b"),
        ("SELECT 'abc' LIKE 'a%' AND 'abc' ILIKE 'AB_' AND 'abc' ~ '^a' AND 'abc' SIMILAR TO '(a|b)%'", b"t"),
        (
            "SELECT concat('a', 1, true) || concat_ws('-', 'a', 2) || format('%s %I %L', 1, 'A b', 'c')",
            b"a1ta-21 \"A b\" 'c'",
        ),
        ("SELECT greatest(1, 2) + least(1, 2) + coalesce(NULL, 3) + nullif(1, 2)", b"7"),
        ("SELECT md5('a') || encode(sha256('a'), 'hex') IS NOT NULL", b"t"),
        ("SELECT (ROW(1, 'a') < ROW(1, 'b'))::text || (1 = ANY (ARRAY[1, 2]))::text", b"truetrue"),
        ("SELECT trim('  a ') || lpad('7', 3, '0') || reverse('ab') || translate('abc', 'b', 'x')", b"a007baaxc"),
        ("SELECT x FROM unnest(ARRAY['b', 'a']) x GROUP BY x ORDER BY x LIMIT 1", b"a"),
        ("SELECT int4range(1, 5) * int4range(3, 8)", b"[3,5)"),
        ("SELECT '10.0.0.1'::inet <<= '10.0.0.0/8'::cidr", b"t"),
        ("SELECT ('{1,2}'::int[] || 3)::text || array_to_string('{a,b}'::text[], '+')", b"{1,2,3}a+b"),
        ("SELECT 12.5::money", b"$12.50"),
        ("SELECT pg_typeof(1::numeric)", b"numeric"),
        (
            "SELECT 5::text || true::text || 1.5::text || '2024-02-03'::date::text || '{1}'::int[]::text",
            b"5true1.52024-02-03{1}",
        ),
        ("SELECT '5'::text::int + '1'::varchar::numeric || ''", b"6"),
        ("SELECT quote_literal(5) || quote_ident('A')", b"'5'\"A\""),
        ("SELECT jsonb_path_query_first('{\"a\": [1, 2]}', '$.a[1]')", b"2"),
        ("WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t", b"15"),
        ("SELECT 'x'::bytea || '\\x41'::bytea", b"\\x7841"),
        ("SELECT count(*) FROM generate_series('2024-01-01'::timestamptz, '2024-01-03', '1 day')", b"3"),
    )
    for sql, value in allowed:
        assert await any_desk.value(sql) == value, sql


def test_the_lists_are_those_of_the_servers(any_pg: Postgres) -> None:
    sql = "SELECT DISTINCT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND {} ({})"
    runs = set(any_pg.psql(sql.format("", HARMLESS)).split())
    others = set(any_pg.psql(sql.format("NOT", HARMLESS)).split())
    assert runs <= known_functions()
    assert others <= known_functions() | foreign_functions()
    assert not foreign_functions() & runs


def test_every_operator_cast_and_aggregate_is_allowed_but_for_foreign_types(any_pg: Postgres) -> None:
    missing = any_pg.psql(f"""
        SELECT o.oid::regoperator::text FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE NOT ({HARMLESS})
        UNION ALL SELECT p.oid::regprocedure::text FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc WHERE NOT ({HARMLESS})
        UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.prokind IN ('a', 'w') AND NOT ({HARMLESS})""")
    foreign = ("xid", "aclitem", "regclass", "ts_match", "@@(text", "timetz(time", '"timetz"(time', "time with")
    assert [line for line in missing.splitlines() if not any(word in line for word in foreign)] == []


def test_nothing_volatile_and_nothing_that_reads_a_catalog(any_pg: Postgres) -> None:
    allowed = any_pg.psql(f"SELECT p.proname FROM pg_proc AS p WHERE {HARMLESS} AND p.provolatile = 'v'")
    assert allowed == ""
    begin = (
        "pg_",
        "lo_",
        "has_",
        "inet_server",
        "current_",
        "txid_",
        "query_to",
        "table_to",
        "schema_to",
        "database_to",
        "ts_stat",
    )
    harmless = {"pg_size_bytes", "pg_size_pretty", "pg_typeof", "pg_input_is_valid", "pg_input_error_info", "lo_"}
    names = {n for n in known_functions() if n.startswith(begin) and not n.startswith("pg_lsn")}
    assert names <= harmless


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT upper(name) FROM t", None),
        ("SELECT current_date", "current_date"),
        ("SELECT a FROM t WHERE b > CURRENT_TIMESTAMP(3)", "current_timestamp"),
        ('SELECT t.user, 1 AS user, "user" FROM t', None),
        ("SELECT user", "user"),
        ("SELECT now()", "now"),
        ("SELECT pg_catalog.now ( )", "now"),
        ("SELECT now FROM t", None),
        ("SELECT 'now'::timestamptz", ""),
        ("SELECT 'tomorrow 12:00'::timestamp", ""),
        ("SELECT 'Do it today, or tomorrow at the very latest'", None),
        ("SELECT 'knowing'", None),
        ("SELECT 'customers'::regclass", "regclass"),
        ('SELECT a COLLATE "C" FROM t ORDER BY a COLLATE pg_catalog."POSIX"', None),
        ('SELECT a COLLATE "de_DE" FROM t', "de_DE"),
        ('SELECT a COLLATE pg_catalog."de_DE" FROM t', "pg_catalog"),
        ("SELECT random() FROM t", "random"),
        ("SELECT nextval('s')", "nextval"),
        ("SELECT $1 + 1, E'a\\nb', $$now$$", ""),
    ],
)  # fmt: skip
def test_words_that_the_calculator_must_not_see(sql: str, word: str | None) -> None:
    found = unsafe_word(lex(sql))
    assert (None if found is None else found.value or "") == word


async def test_an_error_does_not_show_its_text_in_a_log(desk: Desk) -> None:
    error = await desk.error("SELECT 'secret-value'::int4")
    assert isinstance(error, CalculatorError)
    assert "secret" not in repr(error)


async def test_databases_of_other_locales_are_as_closed(make_desk: MakeDesk) -> None:
    desk = make_desk()
    assert desk.locale.database != "pgveil_c"
    for sql in ("SELECT pg_sleep(0)", "SELECT * FROM pg_class", "SELECT version()"):
        assert (await desk.error(sql)).sqlstate == DENIED
    assert (await desk.error("SELECT 1 INTO TEMP x")).sqlstate in {"42501", "25006"}
