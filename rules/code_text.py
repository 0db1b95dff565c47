"""The text of a function or a rule, as tokens to walk over: statements, lists, parentheses, names (PostgreSQL documentation, 4.1 and 43)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.tokens import Lexed

NAMES: Final = (Kind.WORD, Kind.QUOTED)
STARTS: Final = frozenset({";", "begin", "then", "else", "loop", ">>", "declare", ""})
"""What stands before a statement."""


@dataclass(slots=True)
class CodeText:
    """One text."""

    lexed: Lexed

    def word(self, at: int) -> str:
        tokens = self.lexed.tokens
        if not 0 <= at < len(tokens) or tokens[at].kind is Kind.STRING:
            return ""
        return tokens[at].value

    def is_name(self, at: int) -> bool:
        return 0 <= at < len(self.lexed.tokens) and self.lexed.tokens[at].kind in NAMES

    def segments(self) -> Iterator[tuple[int, int, bool]]:
        """From semicolon to semicolon; whether it declares a variable."""
        first, declares = 0, False
        for at in range(len(self.lexed.tokens) + 1):
            if self.word(at) == "declare" and self.word(at - 1) in STARTS:
                first, declares = at + 1, True
            elif self.word(at) == "begin" and declares:
                declares = False
            elif at == len(self.lexed.tokens) or self.word(at) == ";":
                if first < at:
                    yield first, at, declares
                first = at + 1

    def close(self, at: int, end: int) -> int:
        """Where the parenthesis ends in which `at` is; `end` where it is in none."""
        depth = 0
        for place in range(at, end):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(self.word(place), 0)
            if depth < 0:
                return place
        return end

    def outside(self, at: int, end: int) -> Iterator[int]:
        """The places that are in no parentheses."""
        while at < end:
            yield at
            at = self.close(at + 1, end) + 1 if self.word(at) in {"(", "["} else at + 1

    def until(self, at: int, end: int, words: frozenset[str]) -> int:
        for place in self.outside(at, end):
            if self.word(place) in words or (self.word(place) == "on" and self.word(place + 1) == "conflict"):
                return place
        return end

    def split(self, at: int, end: int) -> list[tuple[int, int]]:
        """What stands between commas."""
        parts, start = [], at
        for place in self.outside(at, end):
            if self.word(place) == ",":
                parts.append((start, place))
                start = place + 1
        return [*parts, (start, end)] if start < end else parts

    def name(self, at: int) -> tuple[str | None, str, int]:
        """A relation's name with its schema, and the place behind it."""
        if self.word(at + 1) == ".":
            return self.word(at), self.word(at + 2), at + 3
        return None, self.word(at), at + 1
