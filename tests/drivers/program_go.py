"""pgx 5, with pgxpool: the program of tests/drivers/go, which has lib/pq's checks too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.drivers.toolchains import made, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).with_name("go")


def version_of(module: str) -> str:
    """What go.mod pins."""
    found = re.search(rf"{re.escape(module)} v(\S+)", (SOURCE / "go.mod").read_text())
    assert found is not None
    return found[1]


VERSION = version_of("github.com/jackc/pgx/v5")
LACKING: Mapping[str, str] = {
    "two_phase": "pgx has no interface to it",
    "orm": "pgx is no ORM",
}


def prepare(driver: str = "pgx") -> list[str]:
    """The program's command. Raises ToolchainMissing."""
    place = made("go", SOURCE, [tool("go"), "build", "-mod=readonly", "-o", "drivers", "."])
    return [str(place / "drivers"), driver]
