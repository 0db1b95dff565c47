"""Leaks by way of extensions, on Debian's PostgreSQL 15: pg_stat_statements, dblink, postgres_fdw, file_fdw, pageinspect and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from tests.leaks.attempts import SINGLE
from tests.leaks.den import AGENT, CHIEF, CLERK, SETUP, Den, Way, make_den

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTENSIONS = """
CREATE EXTENSION pg_stat_statements;
CREATE EXTENSION dblink;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION file_fdw;
CREATE EXTENSION pageinspect;
CREATE EXTENSION tablefunc;
CREATE EXTENSION pg_visibility;
CREATE EXTENSION pgstattuple;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw, file_fdw TO clerk;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
REVOKE EXECUTE ON FUNCTION dblink_connect_u(text), dblink_connect_u(text, text) FROM PUBLIC;
CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE public.mirror (id bigint, phone text) SERVER itself OPTIONS (table_name 'customers');
GRANT SELECT ON public.mirror TO PUBLIC;
"""


@pytest.fixture(scope="module")
def contrib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Den]:
    try:
        server = Postgres.make("15", settings={"shared_preload_libraries": "pg_stat_statements"})
        server.start()
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    try:
        for den in make_den(server, tmp_path_factory.mktemp("contrib"), more_sql=SETUP + EXTENSIONS):
            place = f"host '127.0.0.1', port '{server.port}', dbname '{den.world.database}'"
            den.admin(
                f"ALTER SERVER itself OPTIONS ({place})",
                "CREATE USER MAPPING FOR postgres SERVER itself OPTIONS (user 'postgres')",
            )
            yield den
    finally:
        server.destroy()


# <self> and <boss>: connection strings to the server past pgveil, as the clerk and as the superuser.
ATTEMPTS = {
    "pg_stat_statements": (
        "SELECT query FROM pg_stat_statements",
        "SELECT * FROM pg_stat_statements(true)",
        "SELECT query, rows, calls FROM public.pg_stat_statements WHERE query LIKE '%application%'",
    ),
    "dblink": (
        "SELECT * FROM dblink('<self>', 'SELECT phone FROM customers') AS t (p text)",
        "SELECT * FROM dblink('<boss>', 'SELECT phone FROM customers') AS t (p text)",
        "SELECT * FROM dblink('<boss>', 'SELECT row_to_json(c)::text FROM customers c') AS t (p text)",
        "SELECT dblink_connect('c', '<boss>'), dblink_open('c', 'x', 'SELECT phone FROM customers')",
        "SELECT * FROM dblink_fetch('c', 'x', 5) AS t (p text)",
        "SELECT dblink_connect_u('u', '<boss>'), dblink_send_query('u', 'SELECT phone FROM customers')",
        "SELECT * FROM dblink_get_result('u') AS t (p text)",
        "SELECT dblink_exec('<boss>', 'COPY customers TO PROGRAM ''cat > <files>/stolen''')",
        "SELECT dblink_build_sql_insert('customers', '1', 1, '{1}', '{1}')",
    ),
    "foreign tables": (
        "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '<port>', dbname '<database>')",
        "CREATE USER MAPPING FOR CURRENT_USER SERVER mine OPTIONS (user 'postgres', password 'x')",
        "CREATE FOREIGN TABLE lair.theirs (id bigint, phone text) SERVER mine OPTIONS (schema_name 'public', table_name 'customers')",
        "SELECT phone FROM lair.theirs",
        "SELECT phone FROM mirror",
        "IMPORT FOREIGN SCHEMA public LIMIT TO (customers) FROM SERVER mine INTO lair",
        "SELECT phone FROM lair.customers",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE lair.file (line text) SERVER files OPTIONS (filename '<files>/phones')",
        "SELECT line FROM lair.file",
        "CREATE FOREIGN TABLE lair.program (line text) SERVER files OPTIONS (program 'cat <files>/phones')",
        "SELECT line FROM lair.program",
    ),
    "raw pages": (
        "SELECT encode(get_raw_page('customers', 0), 'escape')",
        "SELECT t_data FROM heap_page_items(get_raw_page('customers', 0))",
        "SELECT * FROM bt_page_items('customers_phone_key', 1)",
        "SELECT * FROM crosstab('SELECT id::text, ''a''::text, phone::text FROM customers') AS t (a text, b text)",
        "SELECT * FROM pgstattuple('customers')",
    ),
    # The PostgreSQL 16 of the other tests is built without libxml. What writes the whole database takes too long.
    "query_to_xml": tuple(sql for sql in SINGLE["query_to_xml"] if "database" not in sql),
}
# What prepares the next statement, or brings nothing up for anybody.
BLUNT = {
    "SELECT * FROM dblink('<self>', 'SELECT phone FROM customers') AS t (p text)": "the clerk's own rights",
    "SELECT dblink_connect('c', '<boss>'), dblink_open('c', 'x', 'SELECT phone FROM customers')": "opens the cursor",
    "SELECT dblink_connect_u('u', '<boss>'), dblink_send_query('u', 'SELECT phone FROM customers')": "sends the query",
    "SELECT * FROM pgstattuple('customers')": "counts",
}


def _filled(den: Den, sql: str) -> str:
    at = f"host=127.0.0.1 port={den.world.pg.port} dbname={den.world.database} user="
    return den.fill(sql).replace("<self>", f"{at}clerk").replace("<boss>", f"{at}postgres")


def _remembered(den: Den) -> None:
    """Texts with a phone in them for pg_stat_statements, which keeps constants of utilities as they are."""
    phone = den.value("phone", 7)
    den.admin(f"SELECT id FROM customers WHERE phone = '{phone}'", f"SET application_name = '{phone}'")


@pytest.mark.parametrize("leak", ATTEMPTS)
def test_the_attempts_do_bite(contrib: Den, leak: str) -> None:
    """To a superuser straight at the server each of them that reads brings values up."""
    contrib.empty_lair()
    _remembered(contrib)
    session = contrib.connect("postgres", Way.DIRECT)
    bitten = {}
    for sql in ATTEMPTS[leak]:
        contrib.heard("postgres", Way.DIRECT)
        session.run((_filled(contrib, sql),))
        bitten[sql] = bool(contrib.leaks(CLERK, contrib.heard("postgres", Way.DIRECT) + contrib.written()))
    session.connection.close()
    contrib.admin("DROP SERVER IF EXISTS mine CASCADE", "DROP SERVER IF EXISTS files CASCADE")
    contrib.empty_lair()
    assert bitten == {sql: sql.startswith("SELECT") and sql not in BLUNT for sql in ATTEMPTS[leak]}


@pytest.mark.parametrize("leak", ATTEMPTS)
def test_nothing_comes_back(contrib: Den, leak: str) -> None:
    _remembered(contrib)
    for login in (CLERK, AGENT, CHIEF):
        for way in Way:
            if (login, way) == (CHIEF, Way.DIRECT):
                continue
            session = contrib.connect(login, way)
            session.run([_filled(contrib, sql) for sql in ATTEMPTS[leak]])
            session.connection.close()
            assert not contrib.leaks(login, contrib.heard(login, way) + contrib.written()), (login, way)
