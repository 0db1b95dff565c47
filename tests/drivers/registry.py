"""The drivers under test, and how each is asked for what it observes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tests.drivers.checks import CHECKS, plain
from tests.drivers.toolchains import ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.drivers.ground import Target

PROGRAM_SECONDS = 100


@dataclass(frozen=True)
class Observed:
    """What one check saw: a value, or the error that it ended with."""

    value: Any = None
    error: str | None = None


class Driver(Protocol):
    """One client library, or program."""

    @property
    def name(self) -> str:
        """As the compatibility table calls it."""

    @property
    def lacking(self) -> Mapping[str, str]:
        """Checks that it has no means for, each with the reason."""

    def version(self) -> str:
        """The version under test."""

    def observe(self, check: str, target: Target) -> Observed:
        """Run one check."""


@dataclass(frozen=True)
class InProcess:
    """A driver in Python: a module with VERSION, OBSERVE by check, and LACKING, why where it lacks something."""

    name: str
    module: str

    @cached_property
    def _module(self) -> Any:
        return importlib.import_module(f"tests.drivers.{self.module}")

    @property
    def lacking(self) -> Mapping[str, str]:
        """See Driver."""
        without = "it has no such thing"
        reasons = getattr(self._module, "LACKING", {})
        return {c: reasons.get(c, without) for c in CHECKS if c not in self._module.OBSERVE}

    def version(self) -> str:
        """See Driver."""
        return str(self._module.VERSION)

    def observe(self, check: str, target: Target) -> Observed:
        """See Driver."""
        try:
            return Observed(plain(self._module.OBSERVE[check](target)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the driver did
            return Observed(error=f"{type(error).__name__}: {error}")


@dataclass
class External:
    """A driver whose program is a process: a module with VERSION, LACKING and `prepare`, which gives the command.

    The program prints a JSON object a line: check, ok, detail. It runs once for each target.
    """

    name: str
    module: str
    _results: dict[str, dict[str, Observed]] = field(default_factory=dict)

    @cached_property
    def _module(self) -> Any:
        return importlib.import_module(f"tests.drivers.{self.module}")

    @cached_property
    def _command(self) -> list[str] | ToolchainMissing:
        try:
            command: list[str] = self._module.prepare()
        except ToolchainMissing as missing:
            return missing
        return command

    @property
    def lacking(self) -> Mapping[str, str]:
        """See Driver."""
        found: Mapping[str, str] = self._module.LACKING
        return found

    def version(self) -> str:
        """See Driver."""
        return str(self._module.VERSION)

    def observe(self, check: str, target: Target) -> Observed:
        """See Driver. Raises ToolchainMissing where the program can't be made."""
        if target.name not in self._results:
            self._results[target.name] = self._run(target)
        return self._results[target.name].get(check, Observed(error="the program did not come to it"))

    def _run(self, target: Target) -> dict[str, Observed]:
        command = self._command
        if isinstance(command, ToolchainMissing):
            raise command
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=PROGRAM_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **target.environment()},
            )
        except subprocess.TimeoutExpired as expired:
            lines, trouble = expired.stdout or b"", "the program did not end"
        else:
            lines, trouble = done.stdout, done.stderr.decode(errors="replace")[-1500:]
        found = {"": Observed(error=trouble)} if trouble else {}
        for line in lines.splitlines():
            seen = json.loads(line)
            found[seen["check"]] = Observed(seen["detail"]) if seen["ok"] else Observed(error=f"{seen['detail']}")
        missing = Observed(error=f"the program did not come to it: {trouble}")
        return dict.fromkeys(CHECKS, missing) | found


PYTHON: tuple[Driver, ...] = (
    InProcess("psycopg", "python_psycopg"),
    InProcess("psycopg2", "python_psycopg2"),
    InProcess("asyncpg", "python_asyncpg"),
    InProcess("SQLAlchemy", "python_sqlalchemy"),
    External("Django", "python_django"),
    External("node-postgres", "program_node"),
    External("pgx", "program_go"),
    External("lib/pq", "program_pq"),
    External("pgjdbc", "program_java"),
    InProcess("psql", "program_psql"),
    InProcess("pgbench", "program_pgbench"),
)
DRIVERS: Mapping[str, Driver] = {driver.name: driver for driver in PYTHON}
