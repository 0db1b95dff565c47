"""Checks and findings as values. A finding names objects, never a value of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from doctor.facts import Facts

MAX_LISTED: Final = 8
"""Objects of one finding that are named; the rest are counted."""


class Severity(StrEnum):
    """How much it matters. `bad`: a promise does not hold. `warning`: it holds by luck, or could not be looked at. `note`: know this."""

    BAD = "bad"
    WARNING = "warning"
    NOTE = "note"
    OK = "ok"

    @property
    def rank(self) -> int:
        """0 for bad, 3 for ok."""
        return list(Severity).index(self)


class Group(StrEnum):
    """What a check looks at; the order in which findings are shown."""

    RULES = "Rules, and what is applied"
    LOGINS = "Logins"
    OBJECTS = "Tables, views, functions"
    ACCESS = "Ways to the server (pg_hba.conf)"
    SERVER = "The server's settings"
    KEYS = "Keys and sealed values"
    HOST = "Files and processes of pgveil's"
    NETWORK = "Network"
    LIVE = "The running pgveil"


class Found(NamedTuple):
    """What a check saw that is not so: about which object, in a sentence, and what to do (SQL, a line of a file, a command)."""

    severity: Severity
    object: str
    text: str
    fix: str


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `title` is what should be so; `why`: what happens where it is not; `look` gives what is not so."""

    code: str
    group: Group
    title: str
    why: str
    look: Callable[[Facts], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A finding that somebody has decided to live with: of one object, or of every one. `until`: the last day, as YYYY-MM-DD."""

    code: str
    reason: str
    object: str | None = None
    by: str | None = None
    until: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says: of an object, or that all is well (`ok`). `checked`: false where it could not look."""

    code: str
    group: Group
    severity: Severity
    object: str
    text: str
    why: str
    fix: str
    checked: bool = True
    accepted: Acceptance | None = None

    @property
    def counts(self) -> bool:
        """Whether the system is not well because of it."""
        return self.severity in {Severity.BAD, Severity.WARNING} and self.accepted is None


class NotChecked(Exception):  # noqa: N818 - a result, not a failure
    """A check can't look. The text says why; `fix`: how to let it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


def listed(names: Iterable[object], most: int = MAX_LISTED) -> str:
    """Names in a sentence; of many only the first."""
    each = [str(n) for n in names]
    more = f" and {len(each) - most} more" if len(each) > most else ""
    return ", ".join(each[:most]) + more


def alter_system(name: str, value: str) -> str:
    """The statement that changes a server's setting for good; those that can be reloaded take effect so."""
    return f"ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"
