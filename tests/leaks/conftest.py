"""One den for all leak tests; after each of them nothing that the rules hide may have been sent to anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from tests.leaks.den import Den, make_den

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def den(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Den]:
    """The bank on a PostgreSQL 16 of its own (roles belong to a whole server), with one pgveil before it."""
    try:
        server = Postgres.make("16")
        server.start()
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    try:
        yield from make_den(server, tmp_path_factory.mktemp("den"))
    finally:
        server.destroy()


@pytest.fixture
def lair(den: Den) -> Den:
    """The den with the schema of everybody's own things empty."""
    den.empty_lair()
    return den
