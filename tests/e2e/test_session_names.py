"""Prepared statements and cursors that SQL names: PREPARE, EXECUTE, DECLARE, FETCH, and their crossings with the protocol's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from psycopg.generators import execute

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from tests.e2e.world import World


def _pans(world: World, count: int) -> list[tuple[Any, ...]]:
    names = world.bank.tables["cards"].names
    rows = [
        dict(zip(names, row, strict=True)) for row, _ in zip(world.bank.copy_rows("cards"), range(count), strict=False)
    ]
    return [(r["id"], r["pan"]) for r in rows]


def _simple(connection: psycopg.Connection[Any], sql: str) -> PGresult:
    """The last result of a simple Query."""
    result = connection.pgconn.exec_(sql.encode())
    assert result.status in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK), result.error_message
    return result


def _rows(result: PGresult) -> list[tuple[str | None, ...]]:
    cells = [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
    return [tuple(None if v is None else v.decode() for v in row) for row in cells]


def _error(connection: psycopg.Connection[Any], sql: str) -> str:
    result = connection.pgconn.exec_(sql.encode())
    state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    return "" if state is None else state.decode()


def _answer(connection: psycopg.Connection[Any]) -> PGresult:
    """The result of what was sent. (libpq's blocking calls would keep the world's tap from running.)"""
    results: list[PGresult] = connection.wait(execute(connection.pgconn))
    (result,) = results
    assert result.status in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK), result.error_message
    return result


PREPARES = (
    "prepare find (text) as select id, pan from cards where pan = $1",
    "prepare find (varchar) as select id, pan from cards where pan = $1",
    "prepare find as select id, pan from cards where pan = $1",
)


@pytest.mark.parametrize("prepare", PREPARES)
@pytest.mark.parametrize("extended", [False, True])
def test_execute_what_sql_prepared(world: World, prepare: str, extended: bool) -> None:
    (number, pan), (other, second) = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        if extended:
            teller.execute(prepare, prepare=True)
            found = teller.execute(f"execute find('{pan}')", prepare=True).fetchall()
            assert found == [(number, pan)]
            assert teller.execute(f"execute find('{second}'::text)", prepare=True).fetchall() == [(other, second)]
        else:
            _simple(teller, prepare)
            assert _rows(_simple(teller, f"execute find('{pan}')")) == [(str(number), pan)]
            assert _rows(_simple(teller, f"execute find({second})")) == [(str(other), second)]
        assert teller.execute("execute find(null)").fetchall() == []
        assert teller.execute("execute find('nobody''s')").fetchall() == []
        assert "<sealed>" in str(teller.execute(f"explain execute find('{pan}')").fetchall())
        assert _error(teller, f"execute find('{pan[:4]}' || '{pan[4:]}')") == "0AP01"
        assert _error(teller, f"create temp table x as execute find('{pan}')") in {"0AP01", "42501"}
        teller.execute("deallocate find")
        assert _error(teller, f"execute find('{pan}')") == "26000"


def test_execute_what_the_protocol_prepared(world: World) -> None:
    (number, pan), _ = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.pgconn.send_prepare(b"Find it", b"select id, pan from cards where pan = $1")
        _answer(teller)
        assert _rows(_simple(teller, f"execute \"Find it\"('{pan}')")) == [(str(number), pan)]
        teller.pgconn.send_prepare(b"several", b"select count(*) from cards where pan = any($1)")
        _answer(teller)
        assert _rows(_simple(teller, f"execute several('{{{pan},0}}')")) == [("1",)]
        assert _rows(_simple(teller, f"execute several(array['{pan}', null, '0'])")) == [("1",)]


def test_the_protocol_binds_what_sql_prepared(world: World) -> None:
    (number, pan), _ = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        _simple(teller, "prepare both_ways (int, text) as select id, pan from cards where id = $1 and pan = $2")
        teller.pgconn.send_describe_prepared(b"both_ways")
        described = _answer(teller)
        assert [described.param_type(i) for i in range(2)] == [23, 25]
        assert described.ftype(1) == 1043
        for _ in range(2):
            teller.pgconn.send_query_prepared(b"both_ways", [str(number).encode(), pan.encode()])
            assert _rows(_answer(teller)) == [(str(number), pan)]


def test_several_statements_in_one_query(world: World) -> None:
    (number, pan), _ = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        text = f"prepare one (text) as select id, pan from cards where pan = $1; execute one('{pan}')"
        assert _rows(_simple(teller, text)) == [(str(number), pan)]
        assert _rows(_simple(teller, f"execute one('{pan}')")) == [(str(number), pan)]
        text = "begin; declare c cursor for select id, pan from cards order by id; fetch 1 from c"
        assert _rows(_simple(teller, text)) == [(str(number), pan)]
        assert _rows(_simple(teller, "fetch absolute 1 in c")) == [(str(number), pan)]
        assert _rows(_simple(teller, "close c; commit; select 1")) == [("1",)]


def test_a_prepare_that_fails_leaves_what_was_prepared(world: World) -> None:
    (number, pan), _ = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("prepare kept (text) as select id, pan from cards where pan = $1")
        assert _error(teller, "prepare kept (int) as select pan from cards where id = $1") == "42P05"
        assert teller.execute(f"execute kept('{pan}')").fetchall() == [(number, pan)]
        teller.execute("begin")
        teller.execute("prepare rolled (text) as select id, pan from cards where pan = $1")
        teller.execute("rollback")
        # Prepared statements are not transactional.
        assert teller.execute(f"execute rolled('{pan}')").fetchall() == [(number, pan)]
        teller.execute("discard all")
        assert _error(teller, f"execute rolled('{pan}')") == "26000"


def test_a_pipeline_by_name(world: World) -> None:
    (number, pan), (other, second) = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller, teller.pipeline():
        teller.execute("prepare piped (text) as select id, pan from cards where pan = $1")
        first = teller.execute(f"execute piped('{pan}')")
        again = teller.execute(f"execute piped('{second}')")
        assert first.fetchall() == [(number, pan)]
        assert again.fetchall() == [(other, second)]


def test_writing_by_name(world: World) -> None:
    ((number, _),) = _pans(world, 1)
    with psycopg.connect(world.dsn("app")) as app:
        app.execute("prepare change (int, text) as update cards set pan = $2 where id = $1 returning pan")
        assert app.execute(f"execute change({number}, '4000123412341234')").fetchall() == [("4000123412341234",)]
        app.rollback()
    assert world.record(login="app", action="update", statement="execute change ( 0 , 's' )")["columns"][0]["written"]


def test_masked_columns_by_name(world: World) -> None:
    with psycopg.connect(world.dsn("agent"), autocommit=True) as agent:
        (direct,) = agent.execute("select phone, id_number from customers where id = 1").fetchall()
        agent.execute("prepare p (int) as select phone, id_number from customers where id = $1")
        assert agent.execute("execute p(1)").fetchall() == [direct]
        with agent.transaction():
            agent.execute("declare c cursor for select phone, id_number from customers where id = 1")
            assert agent.execute("fetch all from c").fetchall() == [direct]
        assert _error(agent, "prepare q (text) as select id from cards where pan = $1") == "42501"
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller, teller.transaction():
        (clear,) = teller.execute("select phone, id_number from customers where id = 1").fetchall()
        assert clear != direct
        teller.execute("declare c cursor for select phone, id_number from customers where id = 1")
        assert teller.execute("fetch all from c").fetchall() == [clear]


@pytest.mark.parametrize("login", ["teller", "agent"])
def test_psycopg_s_named_cursors(world: World, login: str) -> None:
    with psycopg.connect(world.dsn(login)) as connection:
        wanted = connection.execute("select id, pan from cards order by id limit 25").fetchall()
        for binary in (False, True):
            with connection.cursor("named", scrollable=True) as cursor:
                cursor.execute("select id, pan from cards where id >= %s order by id limit 25", (0,), binary=binary)
                assert [*cursor.fetchmany(10), *cursor.fetchall()] == wanted
                cursor.scroll(0, "absolute")
                assert cursor.fetchone() == wanted[0]
        for _ in range(7):  # psycopg prepares what it has sent five times
            with connection.cursor("again") as cursor:
                cursor.execute("select pan from cards order by id limit 3")
                assert cursor.fetchall() == [(row[1],) for row in wanted[:3]]
            with connection.cursor("again") as cursor:
                cursor.execute("select 42")
                assert cursor.fetchall() == [(42,)]


def test_cursors_live_as_long_as_on_the_server(world: World) -> None:
    first, second, third = _pans(world, 3)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("declare h scroll cursor with hold for select id, pan from cards order by id")
        teller.execute("begin")
        teller.execute("declare t cursor for select id, pan from cards order by id")
        assert teller.execute("fetch t").fetchall() == [first]
        teller.execute("savepoint s")
        teller.execute("declare u cursor for select id, pan from cards order by id")
        assert teller.execute("fetch forward 2 from u").fetchall() == [first, second]
        teller.execute("rollback to s")
        assert _error(teller, "fetch u") == "34000"
        teller.execute("rollback to s")
        assert teller.execute("move 1 in t").statusmessage == "MOVE 1"
        assert teller.execute("fetch t").fetchall() == [third]
        teller.execute("commit")
        assert _error(teller, "fetch t") == "34000"
        assert teller.execute("fetch relative 2 from h").fetchall() == [second]
        assert teller.execute("fetch prior h").fetchall() == [first]
        teller.execute("close all")
        assert _error(teller, "fetch h") == "34000"
        assert _error(teller, "declare x cursor for select pan from cards") == "25P01"
        assert _error(teller, "fetch x") == "34000"


def test_a_binary_cursor(world: World) -> None:
    (number, pan), _ = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        _simple(teller, "begin; declare b binary cursor for select id, pan from cards order by id")
        result = _simple(teller, "fetch b")
        assert result.fformat(0) == result.fformat(1) == 1
        assert result.get_value(0, 0) == int(number).to_bytes(8, "big")
        assert result.get_value(0, 1) == pan.encode()
        teller.rollback()


def test_portal_and_cursor_are_one(world: World) -> None:
    first, second = _pans(world, 2)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("begin")
        teller.execute("declare c cursor for select id, pan from cards order by id")
        teller.pgconn.send_describe_portal(b"c")
        described = _answer(teller)
        assert described.ftype(1) == 1043
        assert teller.execute("fetch c").fetchall() == [first]
        assert teller.execute("fetch c").fetchall() == [second]
        teller.execute("rollback")


async def test_asyncpg_moves_in_its_portals(world: World) -> None:
    rows = _pans(world, 12)
    teller = await asyncpg.connect(world.dsn("teller"))
    try:
        async with teller.transaction():
            cursor = await teller.cursor("select id, pan from cards order by id")
            assert [tuple(r) for r in await cursor.fetch(3)] == rows[:3]
            assert await cursor.forward(4) == 4
            assert [tuple(r) for r in await cursor.fetch(5)] == rows[7:12]
        await teller.execute("prepare p(text) as select id, pan from cards where pan = $1")
        found = await teller.fetch(f"execute p('{rows[0][1]}')")
        assert [tuple(r) for r in found] == rows[:1]
    finally:
        await teller.close()


def test_each_fetch_is_recorded(world: World) -> None:
    with (
        psycopg.connect(
            world.dsn(
                "teller",
            ),
            autocommit=True,
        ) as teller,
        teller.transaction(),
    ):
        teller.execute("declare recorded cursor for select pan from cards order by id")
        before = len([r for r in world.records() if r.get("statement") == "fetch 0 from recorded"])
        teller.execute("fetch 2 from recorded").fetchall()
        record = world.record(statement="fetch 0 from recorded")
        assert before == 0
        assert [c["column"] for c in record["columns"]] == ["public.cards.pan"]


@pytest.mark.parametrize("binary", [False, True])
def test_a_cursor_with_parameters(world: World, binary: bool) -> None:
    (number, pan), (other, second) = _pans(world, 2)
    with psycopg.connect(world.dsn("teller")) as teller, teller.cursor("searching", withhold=True) as cursor:
        cursor.execute("select id, pan from cards where pan = any(%s) order by id", ([pan, second],), binary=binary)
        assert cursor.fetchall() == [(number, pan), (other, second)]
        teller.commit()
        cursor.scroll(0, "absolute")
        assert cursor.fetchone() == (number, pan)


def test_where_current_of(world: World) -> None:
    with psycopg.connect(world.dsn("app")) as app:
        app.execute("declare here cursor for select id, pan from cards where id = 1 for update")
        ((number, _),) = app.execute("fetch here").fetchall()
        changed = "update cards set pan = '4000999988887777' where current of here returning id, pan"
        assert app.execute(changed).fetchall() == [(number, "4000999988887777")]
        app.rollback()
