"""The twins, one pair a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.catalogs.twins import make_twins

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres
    from tests.catalogs.twins import Twins


@pytest.fixture(scope="session")
def twins(any_pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """A plain database and one with the rules applied, with the same tables."""
    return make_twins(any_pg, tmp_path_factory.mktemp("twins"))
