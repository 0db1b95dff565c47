"""One proving ground for a file's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.demo.postgres import PostgresUnavailableError
from tests.faults.ground import make_ground

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.ground import Ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A server and pgveil in front of it, both of which the tests may kill; each test leaves them running."""
    try:
        made = make_ground(tmp_path_factory.mktemp("ground"))
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    made.start()
    made.settle()
    yield made
    made.stop()
    made.pg.destroy()
