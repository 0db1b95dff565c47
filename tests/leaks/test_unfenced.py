"""What a superuser with masks may not do through pgveil, and what stays possible: no text, file or program that pgveil can't see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rules.dangerous import is_dangerous
from tests.leaks.den import CHIEF, Den, Way

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

REFUSED = {
    "COPY of a file or a program": (
        "COPY loot FROM PROGRAM 'echo x'",
        "COPY loot FROM '/etc/hostname'",
        "COPY loot (l) FROM PROGRAM E'echo x' WITH (FORMAT csv)",
        "COPY BINARY loot FROM '/etc/hostname'",
        "COPY loot TO PROGRAM 'cat'",
        "COPY loot TO '/tmp/pgveil_leak'",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "COPY (SELECT 1) TO '/tmp/pgveil_leak'",
        "COPY (VALUES (1)) TO PROGRAM 'cat' (FORMAT csv)",
        "SELECT 1; COPY (SELECT 1) TO PROGRAM 'cat'",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COPY loot FROM PROGRAM 'echo x'; END $$",
    ),
    "another server": (
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE SERVER IF NOT EXISTS s FOREIGN DATA WRAPPER w",
        "ALTER SERVER s OPTIONS (SET port '1')",
        "CREATE USER MAPPING FOR CURRENT_USER SERVER s",
        "CREATE USER MAPPING IF NOT EXISTS FOR chief SERVER s",
        "ALTER USER MAPPING FOR chief SERVER s OPTIONS (SET user 'app')",
        "CREATE FOREIGN TABLE f (a int) SERVER s",
        "ALTER FOREIGN TABLE f OPTIONS (SET table_name 'x')",
        "CREATE FOREIGN DATA WRAPPER w HANDLER h",
        "ALTER FOREIGN DATA WRAPPER w HANDLER h",
        "IMPORT FOREIGN SCHEMA public FROM SERVER s INTO lair",
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p",
        "ALTER SUBSCRIPTION s CONNECTION 'dbname=x'",
        "CREATE/**/SERVER s FOREIGN DATA WRAPPER w",
        "CREATE SCHEMA a CREATE TABLE b (c int); CREATE SERVER s FOREIGN DATA WRAPPER w",
    ),
    "programs in the server's settings": (
        "ALTER SYSTEM SET archive_command = 'echo x'",
        "ALTER SYSTEM RESET ALL",
    ),
    "functions whose text is not here": (
        "CREATE FUNCTION pg_temp.f(sql text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all'",
        "CREATE FUNCTION pg_temp.f(plpgsql text) RETURNS bytea LANGUAGE 'internal' AS 'pg_read_binary_file_all'",
        "CREATE FUNCTION pg_temp.f(sql text) RETURNS bytea LANGUAGE \"internal\" AS 'pg_read_binary_file_all'",
        "CREATE FUNCTION pg_temp.f(sql text) RETURNS bytea LANGUAGE U&\"intern\\0061l\" AS 'pg_read_binary_file_all'",
        "CREATE FUNCTION pg_temp.f(sql text) RETURNS bytea LANGUAGE E'intern\\x61l' AS 'pg_read_binary_file_all'",
        "CREATE OR REPLACE FUNCTION pg_temp.f(sql text) RETURNS bytea AS 'pg_read_binary_file_all' LANGUAGE internal",
        "CREATE FUNCTION pg_temp.f(sql text) RETURNS text LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'",
        "CREATE PROCEDURE pg_temp.f(sql text) LANGUAGE internal AS 'pg_read_binary_file_all'",
        "CREATE LANGUAGE other HANDLER plpgsql_call_handler",
        "CREATE OR REPLACE TRUSTED PROCEDURAL LANGUAGE other HANDLER plpgsql_call_handler",
        "ALTER LANGUAGE internal RENAME TO other",
    ),
    "texts inside texts": (
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS $a$ BEGIN DO $b$ BEGIN PERFORM phone FROM customers; END $b$; END $a$",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS $a$ BEGIN DO 'BEGIN PERFORM reverse(''x''); END'; END $a$",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS $a$ BEGIN DO LANGUAGE plpgsql 'BEGIN NULL; END'; END $a$",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS $a$ CREATE FUNCTION pg_temp.g() RETURNS text LANGUAGE sql AS E'SELECT phone FROM \\x63ustomers' $a$",
        "CREATE OPERATOR lair.## (RIGHTARG = text, FUNCTION = 'pg_read_file')",
        "CREATE OPERATOR lair.## (RIGHTARG = text, FUNCTION = E'pg_read\\x5ffile')",
        "CREATE AGGREGATE lair.every(bigint) (SFUNC = 'phone_step', STYPE = text)",
    ),
    "PostgreSQL's own functions": (
        "SELECT pg_stat_get_backend_activity(1)",
        "SELECT * FROM pg_logical_slot_get_binary_changes('s', NULL, NULL)",
        "SELECT * FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL)",
        "SELECT pg_read_file_old('postgresql.conf', 0, 1000)",
        "SELECT dblink_connect_u('c', 'dbname=x')",
        "SELECT dblink_send_query('c', 'SELECT 1')",
        "SELECT * FROM dblink_get_result('c') AS t (a text)",
    ),
    "what others made of them": (
        "SELECT file_of('PG_VERSION')",
        "SELECT public.file_of_again('PG_VERSION')",
        "SELECT * FROM rows_of()",
        "SELECT query FROM sessions",
        "SELECT (s).query FROM (SELECT s FROM public.sessions_again s) x",
        "TABLE sessions_again",
        "CREATE VIEW lair.mine AS SELECT * FROM sessions",
        "CREATE FUNCTION lair.mine() RETURNS text LANGUAGE sql AS 'SELECT file_of(''PG_VERSION'')'",
    ),
    "rows of the system catalogs": (
        "UPDATE pg_proc SET proname = 'innocent' WHERE proname LIKE 'pg_read%file'",
        "UPDATE ONLY pg_catalog.pg_class SET relname = 'innocent' WHERE relname = 'cust' || 'omers'",
        "UPDATE \"pg_catalog\".\"pg_namespace\" SET nspname = 'innocent' WHERE nspname = 'public'",
        "WITH w AS (DELETE FROM pg_auth_members RETURNING 1) SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO pg_auth_members SELECT * FROM pg_auth_members",
        "MERGE INTO pg_proc p USING pg_proc q ON p.oid = q.oid WHEN MATCHED THEN UPDATE SET proname = 'innocent'",
        "COPY pg_proc FROM STDIN",
        "PREPARE p AS UPDATE pg_proc SET proname = 'innocent'",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS 'UPDATE pg_proc SET proname = proname'",
        "ALTER SCHEMA public RENAME TO innocent",
    ),
}

# Functions that the pattern below finds and that show no value, no text and no file.
SHOW_NOTHING = frozenset(
    {
        *(
            "lo_close",
            "lo_creat",
            "lo_create",
            "lo_from_bytea",
            "lo_lseek",
            "lo_lseek64",
            "lo_open",
            "lo_put",
            "lo_tell",
        ),
        *("lo_tell64", "lo_truncate", "lo_truncate64", "lo_unlink"),
        *("pg_stat_get_backend_activity_start", "pg_get_wal_replay_pause_state", "pg_get_wal_resource_managers"),
        *("pg_get_wal_summarizer_state", "pg_wal_summary_contents", "pg_logical_emit_message", "pg_get_wait_events"),
        # Names and sizes of the server's own files.
        *(
            "pg_ls_archive_statusdir",
            "pg_ls_logdir",
            "pg_ls_logicalmapdir",
            "pg_ls_logicalsnapdir",
            "pg_ls_replslotdir",
        ),
        *("pg_ls_summariesdir", "pg_ls_tmpdir", "pg_ls_waldir"),
    }
)

PASSING = (
    "CREATE TEMP TABLE loot (l text)",
    "COPY loot FROM STDIN\nx\n",
    "COPY loot TO STDOUT",
    "COPY (SELECT 1) TO STDOUT",
    "CREATE FUNCTION pg_temp.fine(a int) RETURNS int LANGUAGE sql AS 'SELECT a + 1'",
    "CREATE FUNCTION pg_temp.fine_too(language text) RETURNS int LANGUAGE 'plpgsql' AS $$ BEGIN RETURN 1; END $$",
    "CREATE FUNCTION pg_temp.standard(a int) RETURNS int RETURN a + 1",
    "CREATE FUNCTION pg_temp.upsert() RETURNS void LANGUAGE sql AS 'INSERT INTO pg_temp.loot VALUES (1) ON CONFLICT DO NOTHING'",
    "CREATE OPERATOR pg_temp.## (RIGHTARG = int, FUNCTION = 'int4um')",
    "CREATE TEMP TABLE server (foreign_key int, mapping int, import int, language text)",
    "ALTER TABLE pg_temp.server ADD system int, ADD subscription int",
    "CREATE INDEX ON pg_temp.server (language)",
    "GRANT SELECT ON pg_temp.server TO clerk",
    "DROP TABLE pg_temp.server",
    "DROP SERVER IF EXISTS nobody_s",
    "SELECT relname FROM pg_class FOR UPDATE LIMIT 1",
    "INSERT INTO pg_temp.loot SELECT relname FROM pg_catalog.pg_class",
    "UPDATE pg_temp.loot SET l = (SELECT max(relname) FROM pg_class)",
    "DELETE FROM loot USING pg_class c WHERE c.relname = l",
    "SELECT sessions FROM (VALUES (1)) v (sessions)",
    "CREATE SCHEMA leak_schema",
    "ALTER SCHEMA leak_schema RENAME TO leak_other",
    "DROP SCHEMA leak_other",
    "CREATE ROLE leak_mapping",
    "ALTER ROLE leak_mapping CREATEDB",
    "DROP ROLE leak_mapping",
)


@pytest.mark.parametrize("what", REFUSED)
def test_what_pgveil_can_not_see_is_refused(lair: Den, what: str) -> None:
    for way in (Way.PGVEIL, Way.PREPARED):
        lair.heard(CHIEF, way)  # guesses of earlier tests' own, which EXPLAIN repeats
        session = lair.connect(CHIEF, way)
        session.run(("CREATE TEMP TABLE loot (l text)",))
        for sql in REFUSED[what]:
            if way is Way.PREPARED and "; C" in sql.partition("$")[0]:
                continue  # two commands can't be prepared
            outcome = session.run((sql,))[0]
            assert outcome.sqlstate == "0AP01", sql
            assert outcome.texts[0].startswith("privileges can't fence this login"), sql
            assert len(outcome.texts) > 1, f"{sql}: no hint"
        session.connection.close()
        assert not lair.leaks(CHIEF, lair.heard(CHIEF, way))


def test_what_shows_nothing_stays_possible(lair: Den) -> None:
    session = lair.connect(CHIEF, Way.PGVEIL)
    outcomes = session.run(PASSING)
    session.connection.close()
    assert [(sql, o.texts) for sql, o in zip(PASSING, outcomes, strict=True) if o.sqlstate is not None] == []


def test_the_server_s_own_functions_are_known(any_pg: Postgres) -> None:
    """Each version's functions that read files, log records, texts or pages: refused, or looked at and found to show nothing."""
    pattern = "^pg_(read|ls_|get_wa|wal_sum|logical_|stat_get_(backend_)?activity|file_read)|^lo(_|read|write)|to_xml|^ts_(stat|rew)"
    names = any_pg.psql(f"SELECT DISTINCT proname FROM pg_proc WHERE proname ~ '{pattern}'").split()
    assert "pg_read_file" in names
    assert [n for n in names if not is_dangerous(frozenset({n})) and n not in SHOW_NOTHING] == []
