"""One proving ground for a file's tests, and one with TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import PostgresUnavailableError
from tests.faults.ground import make_ground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.ground import Ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server and pgveil in front of it, both of which the tests may kill; each test leaves them running."""
    yield from _running(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="session")
def tls_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The same with TLS on both legs. The embedded servers are built without it."""
    yield from _running(tmp_path_factory.mktemp("tls-ground"), version="15", tls=True)


@pytest.fixture(scope="session", params=["plain", "tls"])
def any_ground(request: pytest.FixtureRequest) -> Ground:
    """Each of the two, for faults of the network: TLS has buffers and an end of its own."""
    found: Ground = request.getfixturevalue("ground" if request.param == "plain" else "tls_ground")
    return found


def _running(home: Path, *, version: str = "16", tls: bool = False) -> Iterator[Ground]:
    try:
        made = make_ground(home, version, tls=tls)
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    made.start()
    made.settle()
    yield made
    made.stop()
    made.pg.destroy()
