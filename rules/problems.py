"""What is wrong with a rules file: where, what, and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# More words than these are not a help but a list.
_MAX_OFFERED = 30


class Severity(StrEnum):
    """An error makes the file unusable; a warning says that it may not mean what its author thinks."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem. `line` and `column` count from 1, in characters. `fix` says what to write instead, where that is known."""

    file: str
    line: int
    column: int
    message: str
    fix: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """As compilers print it, the fix on a line of its own."""
        head = f"{self.file}:{self.line}:{self.column}: {self.severity}: {printable(self.message)}"
        return head if self.fix is None else f"{head}\n    fix: {printable(self.fix)}"


def printable(text: str) -> str:
    """A text for a terminal: a name in a database can hold anything, escape sequences too."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def readable(text: str) -> str:
    """`printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))


_HIDDEN = re.compile(
    r"[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064"
    r"\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0001\U000e0020-\U000e007f]"
)


def json_text(document: object) -> str:
    """JSON for people: letters of all languages as they are, and nothing that a terminal would not show as what it is."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    return _HIDDEN.sub(
        lambda found: "".join(
            f"\\u{unit}" for unit in re.findall("....", found[0].encode("utf-16-be", "surrogatepass").hex())
        ),
        text,
    )


class RulesError(Exception):
    """A rules file that cannot be used. `problems` holds every problem found, warnings included, sorted by position."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A fix that offers the nearest known word, or all of them where none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word[:100], words, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if len(words) > _MAX_OFFERED:
        return "look at how it is spelt"
    return f"allowed here: {', '.join(words)}" if words else "nothing is allowed here"


def nearest_name(wanted: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The known name that was probably meant: another one with the same last part, or one beside it whose last part is near."""
    names = sorted(set(known))
    beside = {n[-1]: n for n in names if n[:-1] == wanted[:-1]}
    near = difflib.get_close_matches(wanted[-1], beside, n=1, cutoff=0.6)
    if near:
        return beside[near[0]]
    return next((n for n in names if n[-1] == wanted[-1]), None)
