"""What is known of a computed statement before it runs, and the cache of it; what a portal of one holds."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proxy.session.gate import OffsetMap
from proxy.wire.messages import NO_DATA, Bind, Field, build_parameter_description, build_row_description

if TYPE_CHECKING:
    from collections.abc import Hashable

    from proxy.session.computing import Compute
    from proxy.session.gate import Admit
    from proxy.session.localtext import LocalText
    from rules.plan import Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as the calculator described it. `types`: the client's parameters; `fields`: the result's columns, all in text form.

    `fetched`: which of the client's parameters the fetch refers to. The others' values are no business of the server.
    """

    local: LocalText
    types: tuple[int, ...]
    fields: tuple[Field, ...]
    fetched: frozenset[int]

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


@dataclass(slots=True, eq=False)
class Asked:
    """What the client bound, and what is left of the answer. `rows`: None until the portal has run; then those not sent yet."""

    values: tuple[bytes | None, ...] = field(repr=False)
    formats: tuple[int, ...]
    result_formats: tuple[int, ...]
    rows: deque[bytes] | None = field(default=None, repr=False)

    def take(self, limit: int) -> list[bytes]:
        """The next rows, at most `limit` (0: all)."""
        rows = self.rows
        if rows is None:
            return []
        count = min(limit, len(rows)) if limit > 0 else len(rows)
        return [rows.popleft() for _ in range(count)]


# Any place in a text that pgveil made, in terms of the client's: its beginning.
_SOMEWHERE = 1 << 30


def fetch_of(compute: Compute) -> Admit:
    """The statement that brings the rows. An error's place in it means nothing to the client, unless the judgement knows the way back."""
    fetch = compute.leaves[0].fetch if compute.together is None else compute.together
    if fetch.offsets.edits:
        return fetch
    return replace(fetch, offsets=OffsetMap(((0, _SOMEWHERE, 0, 0),)))


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

    def __init__(self, size: int = 1024, longest: int = 16384) -> None:
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
