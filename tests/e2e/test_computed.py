"""What the database can't compute on sealed values is computed by pgveil, through a whole pgveil."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.e2e.world import World


def _numbers(world: World) -> list[str]:
    table = world.bank.tables["customers"]
    at = table.names.index("id_number")
    return [str(row[at]) for row in world.bank.copy_rows("customers")]


def test_expressions_over_sealed_columns(world: World) -> None:
    numbers = _numbers(world)
    with psycopg.connect(world.dsn("teller")) as teller:
        rows = teller.execute(
            "select left(id_number, 4), length(id_number) from customers order by id_number desc limit 5"
        ).fetchall()
        assert rows == [(n[:4], len(n)) for n in sorted(numbers, reverse=True)[:5]]
        found = teller.execute(
            "select count(*) from customers where id_number like %s", (numbers[0][:4] + "%",)
        ).fetchone()
        assert found == (sum(n.startswith(numbers[0][:4]) for n in numbers),)
        with pytest.raises(psycopg.errors.DivisionByZero):
            teller.execute("select 1 / (length(id_number) - length(id_number)) from customers")


def test_it_is_counted(world: World) -> None:
    before = world.metric("pgveil_computed_rows_total")
    with psycopg.connect(world.dsn("teller")) as teller:
        teller.execute("select lower(id_number) from customers order by 1").fetchall()
    assert world.metric("pgveil_computed_rows_total") - before == len(_numbers(world))
