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
