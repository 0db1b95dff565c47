"""The suite's order and its own answers: parallel_schedule, and the files in expected/ (PostgreSQL documentation, chapter 33)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"^test:\s*(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Suite:
    """`names`: the test files in an order in which each may be run alone."""

    directory: Path
    names: tuple[str, ...]

    def script(self, name: str) -> Path:
        """What psql reads."""
        return self.directory / "sql" / f"{name}.sql"

    def expected(self, name: str) -> tuple[bytes, ...]:
        """The answers that PostgreSQL's own runner would take: `name.out` and its variants `name_1.out` and so on."""
        folder = self.directory / "expected"
        files = [folder / f"{name}.out", *(folder / f"{name}_{digit}.out" for digit in range(10))]
        return tuple(path.read_bytes() for path in files if path.exists())


def load_suite(directory: Path) -> Suite:
    """The suite in a directory, by its schedule."""
    lines = _LINE.findall((directory / "parallel_schedule").read_text())
    return Suite(directory, tuple(name for line in lines for name in line.split()))


def meets(output: bytes, answers: tuple[bytes, ...]) -> bool:
    """Whether an output is one of the answers but for white space, as `diff -w` compares and pg_regress with it."""
    return any(_bare(output) == _bare(answer) for answer in answers)


def _bare(output: bytes) -> list[bytes]:
    return [b"".join(line.split()) for line in output.splitlines()]
