"""Leaks by way of extensions, on Debian's PostgreSQL 15: pg_stat_statements, dblink, postgres_fdw, file_fdw, pageinspect and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
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
        yield from make_den(server, tmp_path_factory.mktemp("contrib"), more_sql=SETUP + EXTENSIONS)
    finally:
        server.destroy()


def _dsn(den: Den, user: str) -> str:
    return f"host=127.0.0.1 port={den.world.pg.port} dbname={den.world.database} user={user}"


ATTEMPTS = {
    "pg_stat_statements": (
        "SELECT query FROM pg_stat_statements",
        "SELECT * FROM pg_stat_statements(true)",
        "SELECT query, rows, calls FROM public.pg_stat_statements WHERE query LIKE '%customers%'",
    ),
    "dblink": (
        "SELECT * FROM dblink('{clerk}', 'SELECT phone FROM customers') AS t (p text)",
        "SELECT * FROM dblink('{clerk}', 'SELECT row_to_json(c)::text FROM customers c') AS t (p text)",
        "SELECT dblink_connect('c', '{clerk}'), dblink_open('c', 'x', 'SELECT phone FROM customers')",
        "SELECT * FROM dblink_fetch('c', 'x', 5) AS t (p text)",
        "SELECT dblink_exec('{clerk}', 'COPY customers TO PROGRAM ''cat''')",
    ),
    "foreign tables": (
        "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}')",
        "CREATE USER MAPPING FOR CURRENT_USER SERVER mine OPTIONS (user 'clerk', password 'x')",
        "CREATE FOREIGN TABLE lair.theirs (id bigint, phone text) SERVER mine OPTIONS (schema_name 'public', table_name 'customers')",
        "SELECT phone FROM lair.theirs",
        "SELECT phone FROM mirror",
        "IMPORT FOREIGN SCHEMA public LIMIT TO (customers) FROM SERVER mine INTO lair",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE lair.file (line text) SERVER files OPTIONS (filename '/etc/passwd')",
        "SELECT line FROM lair.file",
    ),
    "raw pages": (
        "SELECT encode(get_raw_page('customers', 0), 'escape')",
        "SELECT t_data FROM heap_page_items(get_raw_page('customers', 0))",
        "SELECT * FROM bt_page_items('customers_phone_key', 1)",
        "SELECT * FROM crosstab('SELECT id::text, ''a''::text, phone FROM customers') AS t (a text, b text)",
        "SELECT * FROM pgstattuple('customers')",
    ),
}


@pytest.mark.parametrize("leak", ATTEMPTS)
def test_nothing_comes_back(contrib: Den, leak: str) -> None:
    phone = contrib.value("phone", 7)
    if leak == "pg_stat_statements":
        contrib.admin(f"SELECT '{phone}', id FROM customers WHERE phone LIKE '1%'", f"SET application_name = '{phone}'")
    fields = {"clerk": _dsn(contrib, "clerk"), "port": contrib.world.pg.port, "database": contrib.world.database}
    for login in (CLERK, AGENT, CHIEF):
        for way in Way:
            if (login, way) == (CHIEF, Way.DIRECT):
                continue
            session = contrib.connect(login, way)
            session.run(tuple(sql.format(**fields) for sql in ATTEMPTS[leak]))
            session.connection.close()
            assert not contrib.leaks(login, contrib.heard(login, way)), (login, way)
