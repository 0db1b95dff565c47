"""Long texts in and beside protected columns, as parameters and as constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.e2e.world import World

LONG = "x" * 100_000


@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_long_parameters(world: World, prepare: bool, size: int) -> None:
    text = "é" * (size // 2)
    with psycopg.connect(world.dsn("app")) as app:
        app.execute("create temp table long_notes (id bigint, note text)")
        app.execute("insert into long_notes select id, %s from customers order by id limit 2", (text,), prepare=prepare)
        found = app.execute(
            "update long_notes n set note = n.note || 'y' from customers c where c.id = n.id and n.note = %s returning length(n.note)",
            (text,),
            prepare=prepare,
        ).fetchall()
        assert found == [(size // 2 + 1,)] * 2
        assert app.execute("select count(*) from customers where name = %s", (text,), prepare=prepare).fetchone() == (
            0,
        )
        assert app.execute(
            "select count(*) from customers where id_number = %s", (text,), prepare=prepare
        ).fetchone() == (0,)
        app.rollback()


def test_long_constants(world: World) -> None:
    with psycopg.connect(world.dsn("app")) as app:
        assert app.execute(f"select count(*) from customers where id_number = '{LONG}'").fetchone() == (0,)
        found = app.execute(f"update customers set name = name where name = '{LONG}'")
        assert found.rowcount == 0
        app.rollback()
