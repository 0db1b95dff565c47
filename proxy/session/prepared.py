"""What is known of a computed statement before it runs, and the cache of it; what a portal of one holds."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from proxy.session.collect import FULL
from proxy.session.gate import OffsetMap
from proxy.wire.messages import (
    NO_DATA,
    Bind,
    Field,
    build_parameter_description,
    build_row_description,
    parse_row_description,
)
from rules.plan import Action, Plan

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from keys.types import OutputSettings
    from proxy.session.collect import Budget
    from proxy.session.computing import Answer, Compute, Write
    from proxy.session.gate import Admit
    from proxy.session.localtext import LocalText
    from proxy.session.replies import Trouble
    from proxy.session.statements import Portal


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as server and calculator described it. `types`: the client's parameters; `fields`: the result's columns, in text form.

    `fetched`, `computed`: which parameters the fetch refers to, and which the local text. A value goes where it is needed, nowhere else: what
    is compared with opened values is no business of the server. `widths`: how many columns each leaf has.
    """

    local: LocalText
    types: tuple[int, ...]
    fields: tuple[Field, ...]
    fetched: frozenset[int]
    computed: frozenset[int]
    widths: tuple[int, ...]

    @property
    def local_types(self) -> tuple[int, ...]:
        """The parameter types for the calculator, which need not know those of the database's own making."""
        own = (t if number in self.computed else TEXT_OID for number, t in enumerate(self.types, 1))
        return (*own, *((TEXT_ARRAY_OID,) * self.local.arrays))

    def described_by(self, answer: Answer) -> Prepared:
        """The same with what the calculator says of its parameters and result."""
        pairs = zip(self.types, answer.parameters, strict=False)
        types = tuple(found if number in self.computed else own for number, (own, found) in enumerate(pairs, 1))
        fields = parse_row_description(answer.description[5:]) if answer.description else ()
        return replace(self, types=types, fields=fields)

    def described(self) -> bytes:
        """The answer to a Describe of the statement."""
        return build_parameter_description(self.types) + self.result(())

    def result(self, formats: tuple[int, ...]) -> bytes:
        """The answer to a Describe of a portal with these result formats."""
        if not self.fields:
            return NO_DATA
        if len(formats) == 1:
            formats *= len(self.fields)
        if len(formats) != len(self.fields):
            return build_row_description(self.fields)
        return build_row_description(tuple(f._replace(format=c) for f, c in zip(self.fields, formats, strict=True)))


@dataclass(frozen=True, slots=True)
class Computed:
    """What makes a prepared statement a computed one. `declared`: the parameter types that the client gave."""

    compute: Compute
    declared: tuple[int, ...]
    prepared: Prepared

    def fetch_bind(self, bind: Bind) -> Bind:
        """The Bind for the server: the values that the fetch needs, and every column in text form."""
        fetched = self.prepared.fetched
        values = tuple(v if number in fetched else None for number, v in enumerate(bind.values, 1))
        return bind._replace(values=values, result_formats=())


@dataclass(frozen=True, slots=True)
class PreparedWrite:
    """A computed write as server and calculator described it. `text`: what runs. `types`: the client's parameters.

    `sources`: the source's columns' types, one for each target. `source` and `returning`: the local texts.
    """

    write: Write
    text: bytes = field(repr=False)
    types: tuple[int, ...]
    sources: tuple[int, ...]
    source: Prepared
    returning: Prepared | None


@dataclass(slots=True, eq=False)
class Asked:
    """What the client bound, and what is left of the answer. `rows`: None until the portal has run; then those not sent yet.

    `tag`: of the write that returned them. `applied`: the server's portal of a write, which has the rows. `held`: bytes of the rows, where they
    have to wait for a later Execute; `budget` has them back when they are sent, or the portal is gone. `read`, `bound`: how the statement's
    constants and the values are read, by the settings when they came; None: those of now.
    `shown`: the settings under which the rows that are left were made.
    """

    values: tuple[bytes | None, ...] = field(repr=False)
    formats: tuple[int, ...]
    result_formats: tuple[int, ...]
    rows: deque[bytes] | None = field(default=None, repr=False)
    tag: bytes = b""
    applied: Portal | None = None
    budget: Budget | None = None
    held: int = 0
    read: OutputSettings | None = None
    bound: OutputSettings | None = None
    shown: OutputSettings | None = None

    def shown_in(self, result_formats: tuple[int, ...]) -> Asked:
        """The same for another result."""
        return Asked(self.values, self.formats, result_formats, read=self.read, bound=self.bound)

    def format_of(self, parameter: int) -> int:
        """In which format the client sent a parameter (numbered from 1)."""
        formats = self.formats
        return formats[0] if len(formats) == 1 else formats[parameter - 1] if formats else 0

    def outdated(self, now: OutputSettings) -> bool:
        """Whether the rows that are left look otherwise than they would now."""
        return bool(self.rows) and self.shown != now

    def for_calculator(self, computed: frozenset[int]) -> tuple[bytes | None, ...]:
        """The values that the local text refers to, null for the others."""
        return tuple(v if number in computed else None for number, v in enumerate(self.values, 1))

    def keep(self, rows: Sequence[bytes], limit: int, budget: Budget, shown: OutputSettings) -> Trouble | None:
        """The answer's rows, of which an Execute takes `limit` (0: all); the trouble where there is no room for the rest."""
        self.shown = shown
        if 0 < limit < len(rows):
            size = sum(map(len, rows))
            if not budget.take(size):
                return FULL
            self.budget, self.held = budget, size
        self.rows = deque(rows)
        return None

    def take(self, limit: int) -> list[bytes]:
        """The next rows, at most `limit` (0: all)."""
        rows = self.rows
        if rows is None:
            return []
        count = min(limit, len(rows)) if limit > 0 else len(rows)
        taken = [rows.popleft() for _ in range(count)]
        if self.budget is not None:
            size = sum(map(len, taken))
            self.budget.give(size)
            self.held -= size
        return taken

    def __del__(self) -> None:
        """What nobody will take."""
        if self.budget is not None:
            self.budget.give(self.held)


TEXT_OID: Final = 25
TEXT_ARRAY_OID: Final = 1009
COMPUTED: Final = 1024  # statements, for all sessions of a worker on one database
COMPUTED_BYTES: Final = 16 << 10  # of the text of one that is kept

# Any place in a text that pgveil made, in terms of the client's: its beginning.
_NOWHERE: Final = OffsetMap(nowhere=True)
# What the judgement lets pass without a plan is witnessed all the same: nothing protected may be in it.
_NOTHING_PROTECTED: Final = Plan(Action.SELECT)


def fetching(admit: Admit) -> Admit:
    """A statement of pgveil's own for the server. An error's place in it means nothing to the client."""
    plan = admit.plans[0] if admit.plans else None
    return replace(admit, offsets=_NOWHERE, plans=(_NOTHING_PROTECTED if plan is None else plan,))


def fetch_of(compute: Compute) -> Admit:
    """The statement that brings the rows. Its action is that of what they are for."""
    fetch = fetching(compute.leaves[0].fetch if compute.together is None else compute.together)
    plan = fetch.plans[0]
    assert plan is not None
    return replace(fetch, plans=(replace(plan, action=compute.action),))


def audited(compute: Compute) -> Admit:
    """The fetch as the audit log is told of it: what all leaves touch, under the client's shape and action."""
    fetch = fetch_of(compute)
    plan = fetch.plans[0]
    assert plan is not None
    plans: list[Plan] = [plan]
    plans += [p for leaf in compute.leaves for p in leaf.fetch.plans if p is not None]
    touched = tuple(dict.fromkeys(t for p in plans for t in p.touched))
    tables = tuple(dict.fromkeys(t for p in plans for t in p.tables))
    told = replace(plan, action=compute.action, tables=tables, touched=touched, lookups=any(p.lookups for p in plans))
    return replace(fetch, plans=(told,), shape=compute.shape)


class ComputeCache:
    """What was learnt for computed statements, for all sessions on one database: bounded, the least recently used goes.

    `spellings`: SQL names of types by OID and modifier, the same everywhere.
    """

    __slots__ = ("_entries", "_longest", "_size", "_spellings")

    def __init__(self, size: int = COMPUTED, longest: int = COMPUTED_BYTES) -> None:
        self._entries: OrderedDict[Hashable, Prepared] = OrderedDict()
        self._spellings: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._size = size
        self._longest = longest

    def find(self, key: Hashable) -> Prepared | None:
        """What was kept under this key."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def keep(self, key: Hashable, prepared: Prepared) -> None:
        """Remember it, unless it is too long."""
        if len(prepared.local.text) > self._longest:
            return
        self._entries[key] = prepared
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def spelling(self, type_: tuple[int, int]) -> str | None:
        """The SQL name of a type; None where it has not been asked for."""
        return self._spellings.get(type_)

    def spell(self, type_: tuple[int, int], name: str) -> None:
        """Remember the name of a type, "" for one that the calculator does not know."""
        self._spellings[type_] = name
        if len(self._spellings) > self._size:
            self._spellings.popitem(last=False)
