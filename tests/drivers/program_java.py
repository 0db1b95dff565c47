"""pgjdbc, with HikariCP as its pool: the program of tests/drivers/java. Maven fetches the jars by exact version, javac compiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.drivers.toolchains import made, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).with_name("java")
_FOUND = re.search(r"<artifactId>postgresql</artifactId>\s*<version>([^<]+)", (SOURCE / "pom.xml").read_text())
assert _FOUND is not None
VERSION = _FOUND[1]
LACKING: Mapping[str, str] = {"orm": "pgjdbc is no ORM"}


def prepare(program: str = "Checks") -> list[str]:
    """The program's command. Raises ToolchainMissing."""
    fetch = f"{tool('mvn')} -B -q dependency:copy-dependencies"
    compiled = f"{tool('javac')} -encoding UTF-8 -cp 'jars/*' -d classes Checks.java Load.java"
    place = made("java", SOURCE, ["sh", "-ec", f"{fetch} && {compiled}"])
    return [tool("java"), "-cp", f"{place}/classes:{place}/jars/*", program]
