"""Every driver does through pgveil what it does directly: on tables that no rule names, on protected ones, and for those who see masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.drivers.checks import CHECKS
from tests.drivers.compare import compared
from tests.drivers.registry import DRIVERS
from tests.drivers.toolchains import ToolchainMissing, required

if TYPE_CHECKING:
    from tests.drivers.ground import Ground


# The first check of a driver makes its program: from nothing, Go compiles for minutes.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_as_directly(ground: Ground, driver: str, check: str) -> None:
    lacking = DRIVERS[driver].lacking.get(check)
    if lacking is not None:
        pytest.skip(lacking)
    try:
        differences = compared(ground, DRIVERS[driver], check)
    except ToolchainMissing as missing:
        if required():
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    assert not any(differences.values()), "\n".join(f"{k}: {v}" for k, v in differences.items() if v)
