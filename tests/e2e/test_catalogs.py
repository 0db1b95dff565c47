"""Catalogs through a running pgveil, as clients have them: prepared, by cursors, by name, reflected; against the same bank without it."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from lifecycle.demo.bank import roles_sql
from lifecycle.demo.load import load
from lifecycle.demo.postgres import PostgresUnavailableError

if TYPE_CHECKING:
    from tests.e2e.world import World

TYPES = """SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = {schema} AND c.relname = {table} AND a.attnum > 0 ORDER BY 1, a.attnum"""
LISTS = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
logins = pytest.mark.parametrize("login", ["teller", "agent"])


@pytest.fixture(scope="session")
def plain(world: World) -> str:
    """The same bank in a database without pgveil."""
    name = world.pg.create_database()

    async def fill() -> None:
        connection = await asyncpg.connect(world.pg.dsn(name))
        try:
            await load(connection, world.bank)
            await connection.execute(roles_sql())
        finally:
            await connection.close()

    asyncio.run(fill())
    return name


@logins
async def test_prepared_statements(world: World, plain: str, login: str) -> None:
    sql = TYPES.format(schema="$1", table="$2")
    answers = []
    for dsn in (world.dsn(login), world.dsn(login, direct=True, database=plain)):
        connection = await asyncpg.connect(dsn)
        try:
            statement = await connection.prepare(sql)
            described = [(a.name, a.type.name) for a in statement.get_attributes()]
            rows = [[tuple(r) for r in await statement.fetch("public", table)] for table in ("cards", "customers")]
            answers.append((described, rows))
        finally:
            await connection.close()
    assert answers[0] == answers[1]
    assert ("cards", "pan", "character varying(19)") in answers[0][1][0]


@logins
def test_by_names_of_sql(world: World, plain: str, login: str) -> None:
    """PREPARE and EXECUTE, DECLARE and FETCH, EXPLAIN, several statements, a transaction that has failed."""
    cards = TYPES.format(schema="'public'", table="'cards'")
    texts = [
        "PREPARE p (text) AS " + TYPES.format(schema="'public'", table="$1"),
        "EXECUTE p ('cards')",
        "EXECUTE p ('customers')",
        "BEGIN",
        f"DECLARE c CURSOR FOR {cards}",
        "FETCH 3 FROM c",
        "FETCH ALL FROM c",
        "COMMIT",
        f"{LISTS} ORDER BY 1, 2; {cards}",
    ]
    answers = []
    for dsn in (world.dsn(login), world.dsn(login, direct=True, database=plain)):
        with psycopg.connect(dsn, autocommit=True) as connection:
            found: list[Any] = []
            for text in texts:
                cursor = connection.execute(text.encode())
                found += [cursor.fetchall() for _ in cursor.results()] if cursor.description else [cursor.statusmessage]
            answers.append(found)
    assert answers[0] == answers[1]


def test_errors_point_into_the_clients_text(world: World) -> None:
    sql = "SELECT c.nothing FROM pg_catalog.pg_class c"
    positions = set()
    for prepare in (False, True):
        with (
            psycopg.connect(world.dsn("agent"), autocommit=True) as connection,
            pytest.raises(psycopg.errors.UndefinedColumn) as error,
        ):
            connection.execute(sql, prepare=prepare)
        positions.add(error.value.diag.statement_position)
    assert positions == {"8"}


def test_temporary_tables_named_as_catalogs(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE pg_tables (mine int)")
        connection.execute("INSERT INTO pg_tables VALUES (7)")
        assert connection.execute("SELECT * FROM pg_tables").fetchall() == [(7,)]
        assert (
            connection.execute("SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname ~ 'pgveil'").fetchall()
            == []
        )


def _reflected(dsn: str) -> dict[str, Any]:
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    try:
        inspector = sa.inspect(engine)
        tables = sorted(inspector.get_table_names())
        return {
            "schemas": inspector.get_schema_names(),
            "tables": tables,
            "views": inspector.get_view_names(),
            "columns": {
                t: [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(t)] for t in tables
            },
            "keys": {t: (inspector.get_pk_constraint(t), inspector.get_foreign_keys(t)) for t in tables},
            "indexes": {t: (inspector.get_indexes(t), inspector.get_unique_constraints(t)) for t in tables},
        }
    finally:
        engine.dispose()


@logins
def test_sqlalchemy_reflects_the_plain_database(world: World, plain: str, login: str) -> None:
    assert _reflected(world.dsn(login)) == _reflected(world.dsn(login, direct=True, database=plain))


@logins
def test_psql_describes_the_plain_database(world: World, plain: str, login: str) -> None:
    commands = [
        r"\d cards",
        r"\d customers",
        r"\d payments",
        r"\dt",
        r"\dv",
        r"\di",
        r"\ds",
        r"\dT",
        r"\dD",
        r"\df",
        r"\dn",
        r"\d cards_pkey",
    ]
    said = []
    for dsn in (world.dsn(login), world.dsn(login, direct=True, database=plain)):
        arguments = [item for command in commands for item in ("-c", command)]
        done = subprocess.run(
            [str(world.pg.bin_dir / "psql"), "-XAt", "-d", dsn, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]


@logins
def test_the_same_text_again_and_again(world: World, plain: str, login: str) -> None:
    """What is known to pass by its words goes another way (ADR 0039), as the client wrote it: not so a text that another one runs instead of."""
    sql = b"SELECT count(*), 1 AS n FROM pg_catalog.pg_views"
    answers = []
    for dsn in (world.dsn(login), world.dsn(login, direct=True, database=plain)):
        with psycopg.connect(dsn, autocommit=True) as connection:
            answers.append([connection.execute(sql.replace(b"1", b"%d" % n)).fetchall() for n in range(5)])
    assert answers[0] == answers[1]


@logins
@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT id, name, phone FROM customers LIMIT 2",
        b"SELECT c.phone, k.id, c.id, k.status FROM customers c, cards k LIMIT 1",
    ],
)
def test_results_name_the_tables_that_were_named(world: World, login: str, sql: bytes) -> None:
    """To who sees masks too: drivers look there for keys, defaults and names (pgjdbc's ResultSetMetaData)."""
    found = []
    for dsn in (world.dsn(login), world.dsn("postgres", direct=True)):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for binary in (False, True):
                result = connection.execute(sql, binary=binary).pgresult
                assert result is not None
                found.append([(result.fname(i), result.ftable(i), result.ftablecol(i)) for i in range(result.nfields)])
    assert found[:2] == found[2:]


@logins
def test_import_foreign_schema(world: World, plain: str, login: str) -> None:
    """A database elsewhere takes over the tables as they are to the login, and reads them."""
    name = world.pg.create_database()
    try:
        world.pg.psql("CREATE EXTENSION postgres_fdw", name)
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    world.pg.psql(
        f"""CREATE SERVER veiled FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{world.tap.port}', dbname '{world.database}');
        CREATE USER MAPPING FOR PUBLIC SERVER veiled OPTIONS (user '{login}', password_required 'false');
        IMPORT FOREIGN SCHEMA public LIMIT TO (cards, customers) FROM SERVER veiled INTO public""",
        name,
    )
    for table in ("cards", "customers"):
        sql = TYPES.format(schema="'public'", table=f"'{table}'")
        with psycopg.connect(world.pg.dsn(name)) as there, psycopg.connect(world.pg.dsn(plain)) as here:
            assert there.execute(sql.encode()).fetchall() == here.execute(sql.encode()).fetchall()
    with psycopg.connect(world.pg.dsn(name)) as there, psycopg.connect(world.dsn(login)) as here:
        asked = "SELECT id, name, phone FROM customers ORDER BY id LIMIT 5"
        assert there.execute(asked).fetchall() == here.execute(asked).fetchall()
    world.pg.psql(f'DROP DATABASE "{name}"')
