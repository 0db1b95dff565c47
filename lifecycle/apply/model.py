"""What `pgveil apply` is going to do, as values: changes in the order in which they are made, obstacles, warnings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rules.model import Column, TableName
    from rules.record import MadeAs, SealedAs

OWNER = "pgveil_owner"
"""The role, without login, that owns pgveil's schema, its functions and the masking views."""

SCHEMA = "pgveil"
SEALED_TYPE = "pgveil.sealed"
PSEUDONYM_DOMAIN = "pgveil:pseudonym"
"""The key ring's domain whose key makes pseudonyms; the proxy takes the same one."""


class Kind(StrEnum):
    """What a change is about: the plan's first column."""

    KEY = "key"
    GROUND = "ground"  # pgveil's role, schema, domain, functions, tables
    FOREIGN_KEY = "foreign key"
    SEAL = "seal"
    VIEW = "masking view"
    LOOKUP = "look-up"
    WRITE = "write"
    REVOKE = "revoke"
    GRANT = "grant"
    DROP = "drop"
    RECORD = "record"  # what is applied, for pgveil to hold against its rules


@dataclass(frozen=True, slots=True)
class Statements:
    """SQL texts, run in order. None of them holds a value."""

    sql: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MakeKey:
    """A data key of the ring, made before the transaction begins."""

    domain: str


@dataclass(frozen=True, slots=True)
class InstallMasks:
    """The masks' functions. `digest` names what they are made from."""

    digest: str


@dataclass(frozen=True, slots=True)
class SetPseudonymKey:
    """Put the ring's pseudonym key where the masks' function finds it."""


@dataclass(frozen=True, slots=True)
class SetLookupKey:
    """Put the ring's key of look-up tickets where the look-up functions find it."""


@dataclass(frozen=True, slots=True)
class SealColumn:
    """One column of a table to be sealed. `type_oid` and `typmod` are what it is stored as; `default`: its constant default as SQL."""

    column: Column
    type_oid: int
    default: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of `relation` that must not fire meanwhile; `enabled` is pg_trigger.tgenabled."""

    relation: TableName
    name: str
    enabled: str


@dataclass(frozen=True, slots=True)
class SealTable:
    """Columns of one table to be sealed. `parts`: the relations that hold its rows (itself, partitions, children)."""

    table: TableName
    columns: tuple[SealColumn, ...]
    parts: tuple[TableName, ...]
    triggers: tuple[Trigger, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnTable:
    """SQL that brings what one table holds from the old sealed form into the present one."""

    table: TableName
    sql: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResealColumn:
    """One sealed column to be sealed as the rules say. `was`: how it is sealed; `default`: its sealed default as SQL."""

    column: Column
    was: SealedAs
    default: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ResealTable:
    """Columns of one table to be sealed anew; `parts` and `triggers` as of SealTable."""

    table: TableName
    columns: tuple[ResealColumn, ...]
    parts: tuple[TableName, ...]
    triggers: tuple[Trigger, ...] = ()


@dataclass(frozen=True, slots=True)
class MakeView:
    """A masking view. `digest` names its definition, for its comment."""

    schema: str
    name: str
    query: str
    digest: str


@dataclass(frozen=True, slots=True)
class MakeLookup:
    """A look-up function. `signature`: its name with its arguments, as SQL; `digest` names its definition, for its comment."""

    signature: str
    definition: str
    digest: str


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """The record of what is applied, but for what the server and the key ring say of it."""

    columns: tuple[SealedAs, ...]
    views: tuple[MadeAs, ...]
    functions: tuple[MadeAs, ...]


@dataclass(frozen=True, slots=True)
class MakeGate:
    """A function through which values are written, `behind` it what belongs to it. `digest` names all of that, for the function's comment."""

    name: str
    signature: str
    definition: str
    behind: tuple[str, ...]
    digest: str


Work = (
    Statements
    | MakeKey
    | InstallMasks
    | SetPseudonymKey
    | SetLookupKey
    | SealTable
    | ResealTable
    | TurnTable
    | MakeView
    | MakeLookup
    | MakeGate
    | WriteRecord
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `object` and `what` are for people; `rows`: how many rows are written, and `bytes` how large the table is, where any are."""

    kind: Kind
    object: str
    what: str
    work: Work
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nothing can be done: what is in the way, where, and what would help. Names and counts, never values."""

    object: str
    problem: str
    fix: str


# A million rows with four sealed columns took 258 s on two cores, beside its server.
_SECONDS_A_VALUE = 65e-6


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """Everything that apply would do. With obstacles it does nothing.

    `later`: what has to go, and stays for the sake of those that serve other rules (`serving`, as their sessions are shown). `login`: pgveil's own,
    where that is known: nobody else is one that serves.
    """

    changes: tuple[Change, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    warnings: tuple[str, ...] = ()
    later: tuple[Change, ...] = ()
    serving: tuple[str, ...] = ()
    login: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing can be done now: the database is as the rules want it, but for what is to be done later."""
        return not self.changes and not self.obstacles

    @property
    def rows(self) -> int:
        """How many rows will be sealed."""
        return sum(c.rows or 0 for c in self.changes)

    @property
    def seconds(self) -> float:
        """About how long sealing takes, by what was measured (docs/apply.md): a hint for choosing the hour, no promise."""
        values = sum((c.rows or 0) * len(c.work.columns) for c in self.changes if isinstance(c.work, SealTable))
        return values * _SECONDS_A_VALUE

    def comparable(self) -> tuple[Change, ...]:
        """The changes without what may differ while they mean the same: keys made meanwhile, numbers of rows."""
        return tuple(replace(c, rows=None, bytes=None) for c in self.changes if c.kind is not Kind.KEY)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "changes": [_document(c) for c in self.changes],
            "later": [{"kind": c.kind, "object": c.object, "what": c.what} for c in self.later],
            "serving": list(self.serving),
            "obstacles": [{"object": o.object, "problem": o.problem, "fix": o.fix} for o in self.obstacles],
            "warnings": list(self.warnings),
        }


def _document(change: Change) -> dict[str, Any]:
    size = {} if change.bytes is None else {"bytes": change.bytes}
    return {"kind": change.kind, "object": change.object, "what": change.what, "rows": change.rows, **size}


class ApplyError(Exception):
    """Apply stopped and the database is as it was. The text names objects and SQLSTATEs, never values."""


class ObstaclesError(ApplyError):
    """The plan has obstacles."""

    def __init__(self, obstacles: tuple[Obstacle, ...]) -> None:
        super().__init__("; ".join(f"{o.object}: {o.problem}" for o in obstacles))
        self.obstacles = obstacles


class StalePlanError(ApplyError):
    """The database has changed since the plan was made."""


@dataclass(slots=True)
class Made:
    """The masking views and look-up functions that there are to be, for the record."""

    views: list[MadeAs] = field(default_factory=list)
    functions: list[MadeAs] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """A plan in the making. `serving`: sessions of those that serve other rules, for whose sake what has to go goes later (ADR 0029)."""

    changes: list[Change] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    made: Made = field(default_factory=Made)
    later: list[Change] = field(default_factory=list)
    serving: tuple[str, ...] = ()
    login: str | None = None

    def beside(self) -> Draft:
        """A draft whose changes come elsewhere in the same plan."""
        return replace(self, changes=[])

    def going(self, first: list[Change] | None = None) -> list[Change]:
        """Where a change belongs that takes something away: among what comes `first`, or the changes, or later."""
        if self.serving:
            return self.later
        return self.changes if first is None else first

    def add(self, kind: Kind, object_: str, what: str, *sql: str) -> None:
        """A change that is SQL statements."""
        self.changes.append(Change(kind, object_, what, Statements(sql)))

    def finish(self) -> ApplyPlan:
        """The plan, each obstacle and warning once."""
        return ApplyPlan(
            tuple(self.changes),
            tuple(dict.fromkeys(self.obstacles)),
            tuple(dict.fromkeys(self.warnings)),
            tuple(self.later),
            self.serving,
            self.login,
        )


def options(column: Column) -> Mapping[str, object]:
    """A mask's parameters as `keys.mask.make_mask` takes them."""
    return {} if column.mask is None else {n: v for n, v in column.mask.params if v is not None}
