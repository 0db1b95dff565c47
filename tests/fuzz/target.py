"""What a fuzz target is: a function over bytes that raises where something is wrong, and the seeds that it begins with.

Targets know nothing of the fuzzer, so that `make test` runs them over seeds and findings on a machine without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    # The input, its most bytes, and what to draw from.
    Mutator = Callable[[bytes, int, int], bytes]

T = TypeVar("T")
SEEDS: Final = Path(__file__).parent / "seeds"
"""Recorded conversations, by target (`tests.fuzz.record`)."""


class BrokenPromise(Exception):  # noqa: N818 - the name says what is wrong
    """The code under test did something that it says it never does."""


@dataclass(frozen=True, slots=True)
class Target:
    """`make` gives the function under fuzz: bytes in, how many messages (or texts, values, lines) they were out.

    It raises BrokenPromise, or whatever the code under test let through. `longest`: bytes of an input. `mutate`: instead of the fuzzer's own.
    `dictionary`: words that an input may hold. `blind`: how many blind changes `make test` tries.
    """

    name: str
    about: str
    make: Callable[[], Callable[[bytes], int]]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096
    mutate: Mutator | None = None
    dictionary: tuple[bytes, ...] = ()
    blind: int = 150


class Cursor:
    """Reads an input from its front. Past the end everything is zero or empty, so that every input means something."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte."""
        taken = self.take(1)
        return taken[0] if taken else 0

    def pick(self, choices: Sequence[T]) -> T:
        """One of them, by the next byte."""
        return choices[self.byte() % len(choices)]

    def take(self, count: int) -> bytes:
        """The next bytes, as far as there are any."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)


def promise(kept: object, what: str) -> None:
    """Raise BrokenPromise unless `kept`. Other than an assert it is still there under -O."""
    if not kept:
        raise BrokenPromise(what)
