"""node-postgres: `pg` with pg-cursor and pg-copy-streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.drivers.toolchains import made, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).with_name("node")
VERSION = json.loads((SOURCE / "package.json").read_text())["dependencies"]["pg"]
LACKING: Mapping[str, str] = {
    "two_phase": "pg has no interface to it",
    "introspection": "pg asks nothing of the catalog",
    "orm": "pg is no ORM",
    "modes": "pg has no other",
}


def prepare(program: str = "checks.mjs") -> list[str]:
    """The program's command. Raises ToolchainMissing."""
    place = made("node", SOURCE, [tool("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"])
    return [tool("node"), str(place / program)]
