"""Counts, not times: a statement shape is planned once, and what is forwarded costs no object a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from tests.e2e.world import World


def test_a_shape_is_parsed_once(world: World) -> None:
    sql = "select pan from cards where id = {} and status <> 'hot path'"
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute(sql.format(1)).fetchall()
        before = world.metric("pgveil_parses_total")
        for number in range(50):
            teller.execute(sql.format(number)).fetchall()
            teller.execute("select pan from cards where id = %s and status <> 'hot path'", (number,)).fetchall()
        # Two shapes: with a literal, planned already, and with a parameter.
        assert world.metric("pgveil_parses_total") - before <= 1


def test_forwarded_rows_are_no_objects(world: World) -> None:
    with psycopg.connect(world.dsn("app"), autocommit=True) as app:
        app.execute("select 1").fetchall()
        before = world.metric("pgveil_forwarded_message_objects_total")
        assert len(app.execute("select generate_series(1, 20000)").fetchall()) == 20000
        assert world.metric("pgveil_forwarded_message_objects_total") - before < 20
