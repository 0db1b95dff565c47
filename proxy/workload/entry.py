"""What every reader of a workload gives, and the lines that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_LINE: Final = 16 * 1024 * 1024  # bytes; the longest statement that is judged has 1 MiB of characters
MAX_TEXT: Final = 4 * 1024 * 1024  # characters of one statement


@dataclass(frozen=True, slots=True)
class Entry:
    """A statement that was run `calls` times. `extended`: by the extended protocol, or with parameters in place of its constants.

    `line`: where it begins in the file, from 1. `login`, `database` and `when` (the file's own text) are None where the file doesn't tell.
    """

    line: int
    text: str
    extended: bool = False
    calls: int = 1
    login: str | None = None
    database: str | None = None
    when: str | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """Input without a statement to judge. `why` says what it is, and nothing of what stands there. `bad`: it should have been understood."""

    line: int
    why: str
    bad: bool = True


Item = Entry | Passed


class Lines:
    """A file's lines as text, numbered from 1. What is not UTF-8 is kept as lone surrogates, which `is_text` finds."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.consumed = 0  # bytes

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(MAX_LINE):
            self.number += 1
            self.consumed += len(raw)
            yield raw.decode("utf-8", "surrogateescape")


def is_text(text: str) -> bool:
    """Whether all of it was UTF-8, and no longer than is judged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return len(text) <= MAX_TEXT


def entry_or_bad(entry: Entry) -> Item:
    """The entry, unless its text is none."""
    return entry if is_text(entry.text) else Passed(entry.line, "not UTF-8, or too long")
