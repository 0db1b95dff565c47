"""Computed statements through a whole pgveil, as psql and the drivers send them: prepared, in parts, in blocks, wrong, cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from tests.e2e.world import World

QUERY = (
    "SELECT upper(name), length(id_number), id FROM customers WHERE lower(id_number) LIKE {} AND id < 100"
    " ORDER BY id_number DESC, id LIMIT 5"
)
CASES = "SELECT id, 1 / (length(id_number) - length(id_number)) FROM customers"


def expected(world: World, prefix: str) -> list[tuple[Any, ...]]:
    """What QUERY gives on plain data."""
    table = world.bank.tables["customers"]
    place = {name: table.names.index(name) for name in ("id", "name", "id_number")}
    rows = [(r[place["id_number"]], int(r[place["id"]]), r[place["name"]]) for r in world.bank.copy_rows("customers")]
    wanted = sorted(
        (r for r in rows if str(r[0]).lower().startswith(prefix) and r[1] < 100), key=lambda r: (r[0], -r[1])
    )
    return [(name.upper(), len(number), id_) for number, id_, name in reversed(wanted)][:5]


def prefix_of(world: World) -> str:
    table = world.bank.tables["customers"]
    first = next(iter(world.bank.copy_rows("customers")))
    return str(first[table.names.index("id_number")])[:2].lower()


@pytest.mark.parametrize("prepare", [None, 0])
@pytest.mark.parametrize("binary", [False, True])
def test_psycopg(world: World, prepare: int | None, *, binary: bool) -> None:
    prefix = prefix_of(world)
    with psycopg.connect(world.dsn("teller"), autocommit=True, prepare_threshold=prepare) as teller:
        for _ in range(3):
            cursor = teller.execute(QUERY.format("%s"), (prefix + "%",), binary=binary)
            assert cursor.fetchall() == expected(world, prefix)
        assert [c.name for c in cursor.description or ()] == ["upper", "length", "id"]
        assert cursor.statusmessage == f"SELECT {len(expected(world, prefix))}"
        assert teller.execute(QUERY.format("%s"), ("no such%",)).fetchall() == []
        text = QUERY.format(f"'{prefix}%%'").replace("%%", "%")
        assert psycopg.ClientCursor(teller).execute(text).fetchall() == expected(world, prefix)


def test_in_a_block(world: World) -> None:
    prefix = prefix_of(world)
    with psycopg.connect(world.dsn("teller")) as teller:
        assert teller.execute(QUERY.format("%s"), (prefix + "%",)).fetchall() == expected(world, prefix)
        for query in (CASES, CASES + " WHERE id > %s"):
            with pytest.raises(psycopg.errors.DivisionByZero):
                teller.execute(query, (0,) if "%s" in query else None)
            assert teller.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                teller.execute(QUERY.format("%s"), (prefix + "%",))
            teller.rollback()
        assert teller.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        with pytest.raises(psycopg.errors.DivisionByZero):
            teller.execute(CASES)
        assert teller.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_errors_are_postgresqls(world: World) -> None:
    wrong = "SELECT upper(id_number), nosuch(id_number) FROM customers"
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        with pytest.raises(psycopg.errors.UndefinedFunction) as caught:
            teller.execute(wrong)
        diag = caught.value.diag
        assert diag.message_primary is not None
        assert "nosuch" in diag.message_primary
        assert diag.statement_position == str(wrong.index("nosuch") + 1)
        assert "pgveil" not in str(caught.value)
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            teller.execute("SELECT (left(id_number, 1) || 'x')::int FROM customers")


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("forms", ["(text)", "(text) (int)"])
def test_a_function_of_the_database_s_own_is_no_missing_one(world: World, forms: str, prepare: bool) -> None:
    """Made in the same transaction, so that nobody else knows it: the server is asked whether there is one."""
    sql = "SELECT upper(id_number), mine(id_number) FROM customers WHERE id > %s"
    with psycopg.connect(world.dsn("teller")) as teller:
        for form in forms.split():
            teller.execute(f"CREATE FUNCTION pg_temp.mine{form} RETURNS int LANGUAGE sql AS 'SELECT 1'")
        with pytest.raises(psycopg.NotSupportedError) as refused:
            teller.execute(sql.replace("mine", "pg_temp.mine"), (0,), prepare=prepare)
        assert refused.value.diag.message_hint
        teller.rollback()
        for name in ("mine", "no_schema.mine", '"Mine"'):
            with pytest.raises((psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName)) as missing:
                teller.execute(sql.replace("mine", name).replace("%s", "0"))
            assert "pgveil" not in str(missing.value)
            teller.rollback()


def test_a_pipeline(world: World) -> None:
    prefix = prefix_of(world)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        with teller.pipeline():
            computed = [teller.execute(QUERY.format("%s"), (prefix + "%",)) for _ in range(3)]
            plain = teller.execute("SELECT 1")
        assert [c.fetchall() for c in computed] == [expected(world, prefix)] * 3
        assert plain.fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.DivisionByZero), teller.pipeline():  # noqa: PT012 - the error comes at its end
            first = teller.execute(QUERY.format("%s"), (prefix + "%",))
            teller.execute(CASES)
            after = teller.execute("SELECT 1")
        assert first.fetchall() == expected(world, prefix)
        assert after.statusmessage is None
        assert teller.execute("SELECT 2").fetchone() == (2,)


async def test_asyncpg(world: World) -> None:
    prefix = prefix_of(world)
    connection = await asyncpg.connect(world.dsn("teller"), ssl=False)
    try:
        statement = await connection.prepare(QUERY.format("$1"))
        assert [p.name for p in statement.get_parameters()] == ["text"]
        assert [(a.name, a.type.name) for a in statement.get_attributes()] == [
            ("upper", "text"),
            ("length", "int4"),
            ("id", "int8"),
        ]
        for _ in range(2):
            assert [tuple(r) for r in await statement.fetch(prefix + "%")] == expected(world, prefix)
        every = [r["id"] for r in await connection.fetch("SELECT id, right(id_number, 2) FROM customers")]
        async with connection.transaction():
            cursor = connection.cursor(
                "SELECT id, right(id_number, 2) FROM customers ORDER BY upper(id_number)", prefetch=7
            )
            seen = [r["id"] async for r in cursor]
            assert sorted(seen) == sorted(every)
            held = await connection.cursor("SELECT id FROM customers ORDER BY upper(id_number)")
            assert [r["id"] for r in await held.fetch(3)] == seen[:3]
            assert [r["id"] for r in await held.fetch(3)] == seen[3:6]
            assert await connection.fetchval("SELECT 1") == 1
            assert [r["id"] for r in await held.fetch(10_000)] == seen[6:]
            assert await held.fetch(1) == []
        with pytest.raises(asyncpg.exceptions.DivisionByZeroError):
            await connection.fetch(CASES)
        assert await connection.fetchval("SELECT 2") == 2
    finally:
        await connection.close()


def test_sqlalchemy(world: World) -> None:
    prefix = prefix_of(world)
    engine = sa.create_engine(world.dsn("teller").replace("postgresql://", "postgresql+psycopg://"))
    customers = sa.table(
        "customers", sa.column("id", sa.BigInteger), sa.column("name", sa.Text), sa.column("id_number", sa.String(18))
    )
    number = customers.c.id_number
    query = (
        sa.select(sa.func.upper(customers.c.name), sa.func.length(number), customers.c.id)
        .where(sa.func.lower(number).like(prefix + "%"), customers.c.id < 100)
        .order_by(number.desc(), customers.c.id)
        .limit(5)
    )
    with engine.connect() as connection:
        assert [tuple(r) for r in connection.execute(query)] == expected(world, prefix)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert [tuple(r) for r in connection.execute(query)] == expected(world, prefix)
    engine.dispose()


def test_psql(world: World) -> None:
    prefix = prefix_of(world)
    script = f"BEGIN;\n{QUERY.format(repr(prefix + '%'))};\n{CASES};\nSELECT 1;\nROLLBACK;\nSELECT 'after';\n"
    done = subprocess.run(
        [str(world.pg.bin_dir / "psql"), "-XAtq", "-d", world.dsn("teller"), "-f", "-"],
        input=script.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    rows = ["|".join(map(str, r)) for r in expected(world, prefix)]
    assert done.stdout.decode().splitlines() == [*rows, "after"]
    errors = done.stderr.decode()
    assert "division by zero" in errors
    assert "current transaction is aborted" in errors


SLOW = (
    "SELECT (SELECT count(*) FROM generate_series(1, 1000) a, generate_series(1, 1000) b, generate_series(1, 1000) d"
    " WHERE a + b + d > length(c.id_number)) FROM customers c LIMIT 1"
)


def test_a_cancel_ends_what_the_calculator_does(world: World) -> None:
    # Not by the tap, which could not answer while libpq sends the request: both are in this process.
    with psycopg.connect(world.dsn("teller"), port=world.port, autocommit=True) as teller:
        timer = threading.Timer(1.0, teller.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
            teller.execute(SLOW)
        timer.join()
        assert teller.execute("SELECT 1").fetchone() == (1,)


async def test_a_client_that_leaves_ends_it_too(world: World) -> None:
    who = {"application_name": "leaving"}
    connection = await asyncpg.connect(world.dsn("teller"), ssl=False, server_settings=who)
    task = asyncio.create_task(connection.fetch(SLOW))
    started = await asyncio.to_thread(lambda: world.record(kind="statement", application="leaving"))
    # The rows are fetched a moment after that; computing them takes much longer.
    await asyncio.sleep(0.5)
    connection.terminate()
    number = started["statement_id"]
    ended = await asyncio.to_thread(
        lambda: world.record(kind="outcome", connection=started["connection"], statement_id=number)
    )
    assert ended["outcome"] == "disconnected"
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await task


async def test_many_at_once(world: World) -> None:
    prefix = prefix_of(world)
    pool = await asyncpg.create_pool(world.dsn("teller"), min_size=4, max_size=8, ssl=False)

    async def one() -> list[tuple[Any, ...]]:
        return [tuple(r) for r in await pool.fetch(QUERY.format("$1"), prefix + "%")]

    try:
        assert await asyncio.gather(*(one() for _ in range(40))) == [expected(world, prefix)] * 40
    finally:
        await pool.close()
