"""Markdown pages as tests see them: fenced blocks, links, and lines that a program's output must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FENCE = re.compile(r"^```(\w+)?[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, what stands behind it on the fence's line, its text."""

    language: str
    info: str
    text: str


@pytest.fixture(scope="session")
def root(request: pytest.FixtureRequest) -> Path:
    """The repository."""
    return request.config.rootpath


@pytest.fixture(scope="session")
def blocks_of(root: Path) -> Callable[[str], list[Block]]:
    """All fenced blocks of a page, in order."""

    def find(page: str) -> list[Block]:
        return [Block(m[1] or "", m[2].strip(), m[3]) for m in _FENCE.finditer((root / page).read_text())]

    return find
