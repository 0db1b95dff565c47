"""Fixtures that every test may use: real PostgreSQL servers, one a session and version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = ("15", "16", "18")


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Postgres]]:
    """The servers started so far, by version; stopped when the session ends."""
    started: dict[str, Postgres] = {}
    yield started
    for server in started.values():
        server.destroy()


def _server(version: str, servers: dict[str, Postgres]) -> Postgres:
    if version not in servers:
        try:
            server = Postgres.make(version)
            server.start()
        except PostgresUnavailableError as error:
            pytest.skip(str(error))
        servers[version] = server
    return servers[version]


@pytest.fixture(scope="session")
def pg(servers: dict[str, Postgres]) -> Postgres:
    """PostgreSQL 16, embedded."""
    return _server("16", servers)


@pytest.fixture(scope="session", params=VERSIONS)
def any_pg(request: pytest.FixtureRequest, servers: dict[str, Postgres]) -> Postgres:
    """Each version that pgveil is tested on; one that is not installed skips with its reason."""
    return _server(request.param, servers)
