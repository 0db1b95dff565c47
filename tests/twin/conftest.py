"""One shop for all tests of the twin test, on PostgreSQL 16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.twin.fixture import shop
from tests.twin.world import World, twin_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres


@pytest.fixture(scope="session")
def shop_world(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The golden corpus's world."""
    with twin_world(pg, tmp_path_factory.mktemp("twin"), shop()) as world:
        yield world
