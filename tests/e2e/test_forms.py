"""Forms of statements over sealed columns that the database runs itself: set operations, choices between values, MERGE; by both protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.e2e.world import World

BOTH = pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])


def _rows(connection: psycopg.Connection[tuple[object, ...]], sql: str, *, extended: bool) -> list[tuple[object, ...]]:
    cursor = psycopg.Cursor(connection) if extended else psycopg.ClientCursor(connection)
    return cursor.execute(sql, prepare=extended).fetchall()


@BOTH
def test_values_that_are_one_of_several(world: World, extended: bool) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        wanted = [pan for (pan,) in teller.execute("select pan from cards order by id limit 3").fetchall()]
        first = "select pan from cards where id = 1"
        assert sorted(_rows(teller, f"({first}) union all ({first}) union all select 'none'", extended=extended)) == [
            *sorted([(wanted[0],), (wanted[0],)]),
            ("none",),
        ]
        assert _rows(teller, f"({first}) union ({first}) union select '{wanted[0]}'", extended=extended) == [
            (wanted[0],)
        ]
        chosen = "select case when id = 1 then pan when id = 2 then coalesce(null, pan, 'x') else 'hidden' end from cards order by id limit 3"
        assert _rows(teller, chosen, extended=extended) == [(wanted[0],), (wanted[1],), ("hidden",)]
        before = "select lag(pan, 1, 'first') over (order by id) from cards order by id limit 3"
        assert _rows(teller, before, extended=extended) == [("first",), (wanted[0],), (wanted[1],)]


@BOTH
def test_merge(world: World, extended: bool) -> None:
    with psycopg.connect(world.dsn("app")) as app:
        merge = "merge into cards c using (values (1)) v(id) on c.id = v.id when matched then update set pan = '4000111122223333'"
        cursor = psycopg.Cursor(app) if extended else psycopg.ClientCursor(app)
        assert cursor.execute(merge, prepare=extended).statusmessage == "MERGE 1"
        found = app.execute("select id from cards where pan = %s", ("4000111122223333",)).fetchall()
        assert found == [(1,)]
        app.rollback()


@BOTH
@pytest.mark.parametrize(
    "explain",
    [
        "explain (verbose, costs off)",
        "explain (analyze, verbose, timing off, summary off, format json)",
        "explain (format xml)",
        "explain analyze",
    ],
)
def test_no_value_is_in_a_plan(world: World, explain: str, extended: bool) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("prepare named (text) as select id from cards where pan = $1")
        for statement in (
            "select id from cards where pan in ('4000111122223333', '4000111122224444')",
            "execute named('4000111122223333')",
            "insert into cards select * from cards where pan = '4000111122223333'",
        ):
            plan = str(_rows(teller, f"{explain} {statement}", extended=extended))
            assert "<sealed>" in plan or "&lt;sealed&gt;" in plan
            assert "4000111122" not in plan
            assert "'~" not in plan
            assert "'^" not in plan


@BOTH
def test_types_are_those_of_plain_data(world: World, extended: bool) -> None:
    sql = "select pan, pan::text, coalesce(pan, 'none'), case when id > 0 then pan else pan end from cards where id = 1"
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        cursor = psycopg.Cursor(teller) if extended else psycopg.ClientCursor(teller)
        (row,) = cursor.execute(sql, prepare=extended).fetchall()
        assert len(set(row)) == 1
        assert cursor.pgresult is not None
        shown = [(cursor.pgresult.ftype(i), cursor.pgresult.fmod(i)) for i in range(4)]
        assert shown == [(1043, 23), (25, -1), (1043, -1), (1043, 23)]
