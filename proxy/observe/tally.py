"""Findings counted, within a bound, and the file in which one worker's count outlives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from proxy.observe.findings import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
MAX_FILE: Final = 512 * 1024 * 1024  # shapes are bounded, so a longer file is none of ours


_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)


class Seen(msgspec.Struct, forbid_unknown_fields=True):
    """How often, and when: `first` and `last` are times as text, which sort as times do; `line` is the first one's, in a file."""

    count: int
    first: str | None
    last: str | None
    line: int | None = None


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding with its count."""

    finding: Finding
    seen: Seen


class Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tally as it is stored. `passed`: statements that nothing would become of; `dropped`: those beyond the bound, by outcome."""

    format: int
    kept: tuple[Kept, ...]
    passed: int = 0
    dropped: dict[str, int] = {}


class Tally:
    """At most `limit` findings; the statements of further ones are counted by outcome, and their shapes are not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[Finding, Seen] = {}
        self.passed = 0
        self.dropped: dict[str, int] = {}
        self.changed = False

    def add(self, found: Finding, count: int, when: str | None, line: int | None = None) -> None:
        """`count` statements; 0 for one that was only prepared."""
        self.changed = True
        seen = self._seen.get(found)
        if seen is not None:
            seen.count += count
            seen.last = _latest(seen.last, when)
            if when is not None and (seen.first is None or when < seen.first):
                seen.first, seen.line = when, line
        elif len(self._seen) < self._limit:
            self._seen[found] = Seen(count, when, when, line)
        else:
            self.dropped[found.outcome] = self.dropped.get(found.outcome, 0) + count

    def add_passed(self, count: int) -> None:
        """`count` statements that pass, of no matter what shape."""
        self.changed |= count > 0
        self.passed += count

    def take_up(self, book: Book) -> None:
        """Add what another tally counted."""
        for kept in book.kept:
            seen = kept.seen
            self.add(kept.finding, seen.count, seen.first, seen.line)
            mine = self._seen.get(kept.finding)
            if mine is not None:
                mine.last = _latest(mine.last, seen.last)
        self.passed += book.passed
        for outcome, count in book.dropped.items():
            self.dropped[outcome] = self.dropped.get(outcome, 0) + count

    def book(self) -> Book:
        """Everything, the most frequent first."""
        order = sorted(self._seen.items(), key=lambda pair: (-pair[1].count, pair[0].shape, pair[0].login))
        return Book(FORMAT, tuple(Kept(found, seen) for found, seen in order), self.passed, dict(self.dropped))

    def encoded(self) -> bytes:
        """The file's content as of now; until the next `add` nothing has changed."""
        self.changed = False
        return msgspec.json.encode(self.book())


class BookError(Exception):
    """The file is not one of observations."""


def decode(content: bytes) -> Book:
    """Raises BookError."""
    try:
        book = msgspec.json.decode(content, type=Book)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BookError("not a file of observations") from error
    if book.format != FORMAT:
        raise BookError(f"observations of format {book.format}, and this pgveil reads format {FORMAT}")
    if not _OUTCOMES.issuperset(book.dropped):
        raise BookError("not a file of observations: it counts outcomes that there are not")
    return book


def merged(books: Iterable[Book]) -> Book:
    """One book of several; nothing is dropped that was not dropped before."""
    whole = Tally(limit=2**62)
    for book in books:
        whole.take_up(book)
    return whole.book()


def count_by_outcome(book: Book) -> dict[Outcome, int]:
    """Statements by what would become of them; those of which the shapes were dropped are among them."""
    counts = dict.fromkeys(Outcome, 0)
    for kept in book.kept:
        counts[kept.finding.outcome] += kept.seen.count
    counts[Outcome.PASSES] += book.passed
    for outcome, count in book.dropped.items():
        counts[Outcome(outcome)] += count
    return counts


def _latest(one: str | None, other: str | None) -> str | None:
    return max((t for t in (one, other) if t is not None), default=None)
