"""The world that end-to-end tests share, one for each version of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.watch import Watch
from tests.e2e.world import World, canaries_of, make_world, stop_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres


@pytest.fixture(scope="session")
def world(any_pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """pgveil before a server of each version, with the bank in it."""
    made = make_world(any_pg, tmp_path_factory.mktemp(f"world{any_pg.version}"))
    canaries = canaries_of(made)
    made.tap.watch = Watch(
        made.audit,
        {
            value.encode(): frozenset(name for name, values in canaries.items() if value in values)
            for value in set().union(*canaries.values())
        },
    )
    yield made
    stop_world(made)
