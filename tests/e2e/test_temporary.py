"""A session's temporary table may bear a protected table's name: it is the session's own then, and pgveil stays out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

Connection = psycopg.Connection[Any]

# Made behind pgveil's analysis, as it refuses a login with masks to define anything by a protected name.
_MAKE = "do $$ begin execute 'create temp table cust' || 'omers (id int, phone text, id_number text) {}'; end $$"


@pytest.fixture(params=["teller", "agent"])
def connection(world: World, request: pytest.FixtureRequest) -> Iterator[Connection]:
    with psycopg.connect(world.dsn(request.param), autocommit=True) as made:
        yield made


def _real(connection: Connection, table: str = "customers") -> object:
    try:
        return connection.execute(f"select phone, id_number from {table} order by id limit 2").fetchall()
    except psycopg.errors.InsufficientPrivilege:
        return None


def _use(connection: Connection) -> None:
    for number, (phone, secret) in enumerate((("555-1", "alpha"), ("555-2", "beta"))):
        connection.execute("insert into customers values (%s, %s, %s)", (number, phone, secret))
    connection.execute("insert into customers (id, phone, id_number) values (2, '555-3', 'gamma')")
    connection.execute("update customers set id_number = 'delta' where phone = '555-3'")


def _rows(connection: Connection, table: str = "customers") -> list[tuple[Any, ...]]:
    return connection.execute(f"select id, phone, upper(id_number) from {table} order by phone").fetchall()


MINE = [(0, "555-1", "ALPHA"), (1, "555-2", "BETA"), (2, "555-3", "DELTA")]


def test_neither_sealed_nor_masked(connection: Connection) -> None:
    before = _real(connection)
    connection.execute(_MAKE.format(""))
    _use(connection)
    assert _rows(connection) == _rows(connection, "pg_temp.customers") == MINE
    for prepared in range(7):
        found = connection.execute("select phone from customers where id = %s", (1,), prepare=True).fetchone()
        assert found == ("555-2",), prepared
    assert _real(connection, "public.customers") == before
    with connection.cursor().copy("copy customers to stdout") as copy:
        assert b"".join(bytes(piece) for piece in copy).startswith(b"0\t555-1\talpha")


@pytest.mark.parametrize("how", ["drop", "pg_temp last", "discard", "rollback", "on commit drop", "savepoint", "text"])
def test_protected_again_once_it_is_gone(connection: Connection, how: str) -> None:
    before = _real(connection)
    if how in {"rollback", "on commit drop", "savepoint"}:
        connection.execute("begin")
        connection.execute("savepoint s")
    connection.execute(_MAKE.format("on commit drop" if how == "on commit drop" else ""))
    _use(connection)
    assert _rows(connection) == MINE
    match how:
        case "drop":
            connection.execute("do $$ begin execute 'drop table cust' || 'omers'; end $$")
        case "pg_temp last":
            connection.execute("set search_path = public, pg_temp")
        case "discard":
            connection.execute("discard temp")
        case "rollback":
            connection.execute("rollback")
        case "on commit drop":
            connection.execute("commit")
        case "savepoint":
            connection.execute("rollback to savepoint s")
        case _:
            with pytest.raises(psycopg.NotSupportedError, match="before this one"):
                connection.execute("set search_path = public, pg_temp; select phone from customers")
            with pytest.raises(psycopg.NotSupportedError, match="before this one"):
                connection.execute("discard temp; select phone from customers")
            connection.execute("discard temp")
    assert _real(connection) == before


def test_gone_within_a_pipeline(connection: Connection) -> None:
    before = _real(connection)
    connection.execute(_MAKE.format(""))
    _use(connection)
    with connection.pipeline():
        mine = connection.execute("select id, phone, upper(id_number) from customers order by phone")
        connection.execute("discard temp")
        real = connection.execute("select phone from customers order by id limit 2")
        assert mine.fetchall() == MINE
        assert isinstance(before, list)
        assert real.fetchall() == [row[:1] for row in before]


def test_made_and_dropped_by_name(world: World) -> None:
    with psycopg.connect(world.dsn("app"), autocommit=True) as app:
        before = _real(app)
        app.execute("create temp table customers (id int, phone text, id_number text)")
        _use(app)
        assert _rows(app) == MINE
        app.execute("drop table customers")
        assert _real(app) == before
        app.execute("select 1 as id, 'p' as phone, 's' as id_number into temp customers")
        assert _rows(app) == [(1, "p", "S")]
