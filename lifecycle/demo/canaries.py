"""Numbers with valid check digits, and sets that keep values apart: no value taken from one occurs inside another one taken from it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import datetime as dt
    import random
    from collections.abc import Callable, Iterable, Iterator, Mapping

# With spaces as sparse as these, more tries than that mean that something is wrong.
MAX_TRIES: Final = 1000

_IDENTITY_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS: Final = "10X98765432"


class ExhaustedError(RuntimeError):
    """No value was left that is apart from those taken."""


def luhn_complete(digits: str) -> str:
    """`digits` with its check digit appended (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2 == 0:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return digits + str(-total % 10)


def identity_number(county: str, born: dt.date, serial: int) -> str:
    """A resident identity number: county (6 digits), birth date, serial (odd for men), check by ISO 7064 MOD 11-2 (GB 11643)."""
    body = f"{county}{born:%Y%m%d}{serial:03d}"
    total = sum(weight * int(digit) for weight, digit in zip(_IDENTITY_WEIGHTS, body, strict=True))
    return body + _IDENTITY_CHECKS[total % 11]


class DigitStrings:
    """Numbers as text, of which none occurs inside another. `beginnings`: for each length, what a number of that length begins with."""

    def __init__(self, beginnings: Mapping[int, tuple[str, ...]]) -> None:
        self._beginnings = dict(sorted(beginnings.items()))
        self._taken: dict[int, set[str]] = {length: set() for length in beginnings}
        # What a shorter number may not be, because a longer one has it inside.
        self._inside: dict[int, set[str]] = {length: set() for length in beginnings}

    def fresh(self, make: Callable[[], str]) -> str:
        """The first of what `make` gives that is apart from everything taken. Raises ExhaustedError when nothing is."""
        for _ in range(MAX_TRIES):
            text = make()
            length = len(text)
            assert text.startswith(self._beginnings[length])
            if text in self._taken[length] or text in self._inside[length]:
                continue
            parts = list(self._parts(text))
            if any(part in self._taken[len(part)] for part in parts):
                continue
            self._taken[length].add(text)
            for part in parts:
                self._inside[len(part)].add(part)
            return text
        raise ExhaustedError("no number is left that differs from all the others")

    def _parts(self, text: str) -> Iterator[str]:
        """The shorter numbers that could be inside `text`."""
        for length, beginnings in self._beginnings.items():
            for at in range(len(text) - length + 1) if length < len(text) else ():
                if text.startswith(beginnings, at):
                    yield text[at : at + length]


class Tails:
    """Amounts of money, two decimals, of which none is the end of another one: their last seven digits differ."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def money(self, chance: random.Random, least: int, most: int) -> Decimal:
        """An amount from `least` (10,000 or more, so that it has seven digits) to below `most`. Raises ExhaustedError when none is left."""
        assert least >= 10_000
        for _ in range(MAX_TRIES):
            cents = chance.randrange(least * 100, most * 100)
            if cents % 10**7 not in self._taken:
                self._taken.add(cents % 10**7)
                return Decimal(cents).scaleb(-2)
        raise ExhaustedError("no amount is left that differs from all the others")


def prefix_free(words: Iterable[str]) -> list[str]:
    """The words, sorted, without those with which another one begins ("Lee" where there is "Leeson")."""
    ordered = sorted(set(words))
    return [word for word, following in zip(ordered, [*ordered[1:], ""], strict=True) if not following.startswith(word)]
