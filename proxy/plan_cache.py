"""Bounds of the gate's caches, and who is told what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T")


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


class BoundedCache(Generic[T]):
    """At most so many entries, and about so many bytes: the least recently used go. An entry weighs its share of the bytes at least."""

    __slots__ = ("_entries", "_least")

    def __init__(self, entries: int, size: int) -> None:
        self._least = -(-size // entries)
        self._entries: LRUCache[Hashable, tuple[T, int]] = LRUCache(size, getsizeof=lambda entry: entry[1])

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """Bytes, as they were told."""
        return int(self._entries.currsize)

    def get(self, key: Hashable) -> T | None:
        """What is kept there."""
        found = self._entries.get(key)
        return None if found is None else found[0]

    def put(self, key: Hashable, value: T, weight: int) -> None:
        """Keep it, at the cost of others; what would take the place of half of them is not kept."""
        if 2 * weight <= self._entries.maxsize:
            self._entries[key] = value, max(weight, self._least)


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of the caches: entries and bytes of plans and of decisions by text, and how long a text may be to be kept by its bytes.

    `shape_chars`: of a statement's text without its constants; one that is longer is planned each time. `principals`: logins.
    """

    plans: int = 4096
    plan_bytes: int = 64 << 20
    texts: int = 4096
    decision_bytes: int = 32 << 20
    text_bytes: int = 4096
    shape_chars: int = 65536
    principals: int = 4096
