"""Fixtures that every test may use: real PostgreSQL servers, one a session and version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

E2E = "tests/e2e/"
LEAKS = "tests/leaks/"
DRIVERS = "tests/drivers/"
VERSIONS = ("15", "16", "18")


@pytest.hookimpl(tryfirst=True)  # xdist's own reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist, keep a file's tests together, and all that share a running pgveil: what it sent is looked at as a whole."""
    for item in items:
        name = item.nodeid.split("::")[0]
        if E2E in name and isinstance(item, pytest.Function):
            callspec = getattr(item, "callspec", None)
            name = f"world-{callspec.params.get('any_pg', '')}" if callspec is not None else "world"
        elif LEAKS in name:
            name = "leaks"
        elif DRIVERS in name:
            name = "drivers"
        item.add_marker(pytest.mark.xdist_group(name))


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
