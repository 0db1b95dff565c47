"""The principal is the login that was authenticated, whatever the session says of itself later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from tests.e2e.world import World


def test_set_session_authorization_never_widens(world: World) -> None:
    """The postgres login is named by no role, so it sees no more for being the teller in the server's eyes."""
    query = "select id_number from customers order by id limit 1"

    def seen(connection: psycopg.Connection[Any]) -> object:
        try:
            return connection.execute(query).fetchone()
        except psycopg.Error as error:
            return error.sqlstate

    with psycopg.connect(world.dsn("postgres"), autocommit=True) as connection:
        before = seen(connection)
        connection.execute("set session authorization teller")
        assert connection.info.parameter_status("session_authorization") == "teller"
        assert seen(connection) in (before, "42501")
        connection.execute("reset session authorization")
        assert seen(connection) == before
    with psycopg.connect(world.dsn("teller")) as teller:
        assert seen(teller) != before
