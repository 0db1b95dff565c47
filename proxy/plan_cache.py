"""Bounds of the gate's caches, and who is told what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class CacheObserver(Protocol):
    """Told of what the caches do, for the metrics."""

    def hit(self) -> None:
        """A statement's plan was there."""

    def miss(self) -> None:
        """It had to be made."""

    def parsed(self) -> None:
        """sqlglot parsed a statement."""

    def entries(self, count: int) -> None:
        """How many plans there are."""


class SilentCache:
    """A CacheObserver that counts nothing."""

    def hit(self) -> None:
        """Nothing."""

    def miss(self) -> None:
        """Nothing."""

    def parsed(self) -> None:
        """Nothing."""

    def entries(self, count: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of the caches: plans, texts, and how long a text may be to be kept by its bytes."""

    plans: int = 4096
    texts: int = 4096
    text_bytes: int = 4096
    shape_chars: int = 65536
    principals: int = 4096
