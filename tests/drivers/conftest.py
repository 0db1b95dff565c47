"""The ground that all drivers' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import PostgresUnavailableError
from tests.drivers.ground import Ground, make_ground, stop_ground

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server with TLS and SCRAM, plain and protected data, pgveil in front."""
    try:
        made = make_ground(tmp_path_factory.mktemp("drivers"))
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    yield made
    stop_ground(made)
