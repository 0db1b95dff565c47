"""One den for all leak tests; after each of them nothing that the rules hide may have been sent to anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks.den import Den, make_den

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres


@pytest.fixture(scope="session")
def den(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Den]:
    """The bank on PostgreSQL 16 with one pgveil before it."""
    yield from make_den(pg, tmp_path_factory.mktemp("den"))


@pytest.fixture
def lair(den: Den) -> Den:
    """The den with the clerk's schema empty."""
    den.admin("DROP SCHEMA IF EXISTS lair CASCADE", "CREATE SCHEMA lair AUTHORIZATION clerk")
    return den
