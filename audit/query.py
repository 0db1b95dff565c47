"""Reading the log: the newest records, those that match, and what comes next. Streams; memory does not grow with the log.

Lines that do not check (a wrong hash, no record) are passed over and counted: what is shown is what was written. Whether anything is
missing only `audit.verify` can tell.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from audit.event import LoggedOut, LogOpened, Refused, StatementEnded, StatementStarted
from audit.reading import lines, lines_backward, segments, writers
from audit.record import Body, Decoder, Malformed, plain_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from audit.event import Event
    from audit.record import Record

MAX_TAIL = 100_000
"""Records that `tail` holds at most."""

MAX_HELD = 4096
"""Matches of one writer that wait for the outcome of an earlier one; over it, the earlier one is given without."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for. An empty set asks nothing; a record must match every field that asks, by any of its values.

    Names of tables and columns match from the right: "phone" and "customers.phone" match public.customers.phone.
    """

    logins: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    """The events' kinds. Asked nothing, all but `outcome`, which comes with its statement."""
    outcomes: frozenset[str] = frozenset()
    """Of statements."""
    reasons: frozenset[str] = frozenset()
    """Of refusals."""
    clients: frozenset[str] = frozenset()
    """Addresses, with or without the port."""
    connections: frozenset[str] = frozenset()
    text: str | None = None
    """A part of the normalised statement, whatever the case of its letters."""
    since: str | None = None
    """Times in the log's own form, both included."""
    until: str | None = None

    def matches(self, body: Body) -> bool:
        """Whether the record matches, its outcome aside."""
        event = body.event
        kind = type(event).__struct_config__.tag
        if (self.since is not None and body.time < self.since) or (self.until is not None and body.time > self.until):
            return False
        if kind not in self.kinds if self.kinds else isinstance(event, StatementEnded):
            return False
        if self.outcomes and not isinstance(event, StatementStarted | StatementEnded):
            return False
        return self._who(event) and self._what(event)

    def accepts(self, outcome: Event | None) -> bool:
        """Whether a statement's outcome is one of those asked for."""
        return not self.outcomes or (isinstance(outcome, StatementEnded) and outcome.outcome in self.outcomes)

    def _who(self, event: Event) -> bool:
        client = getattr(event, "client", "")
        return (
            _among(self.logins, getattr(event, "login", None))
            and _among(self.connections, getattr(event, "connection", None))
            and (not self.roles or not self.roles.isdisjoint(getattr(event, "roles", ())))
            and (not self.clients or not self.clients.isdisjoint((client, client.rpartition(":")[0])))
        )

    def _what(self, event: Event) -> bool:
        accesses = event.columns if isinstance(event, StatementStarted) else ()
        columns = [access.column for access in accesses]
        tables = event.tables if isinstance(event, StatementStarted) else ()
        if isinstance(event, Refused) and event.column is not None:
            columns = [event.column]
            tables = (event.column.rpartition(".")[0],)
        return (
            _named(self.columns, columns)
            and _named(self.tables, tables)
            and (not self.levels or any(a.level in self.levels for a in accesses))
            and (not self.verdicts or any(a.verdict in self.verdicts for a in accesses))
            and _among(self.actions, getattr(event, "action", None))
            and _among(self.reasons, event.reason if isinstance(event, Refused) else None)
            and (self.text is None or self.text.casefold() in getattr(event, "statement", "").casefold())
        )


def _among(asked: frozenset[str], value: str | None) -> bool:
    return not asked or value in asked


def _named(asked: frozenset[str], names: tuple[str, ...] | list[str]) -> bool:
    return not asked or any(name == part or name.endswith("." + part) for name in names for part in asked)


@dataclass(slots=True)
class Found:
    """A record that matches, with the outcome of the statement where it is one and the log has it."""

    record: Record
    outcome: StatementEnded | None = None
    settled: bool = True
    """Nothing that comes later can change `outcome`."""

    def as_json(self) -> bytes:
        """One line of JSON: the record's members, `hash`, and `outcome` where there is one."""
        plain: dict[str, Any] = msgspec.to_builtins(self.record.body)
        plain["hash"] = self.record.hash
        if self.outcome is not None:
            plain["outcome"] = msgspec.to_builtins(self.outcome)
        return plain_json(plain)


@dataclass(slots=True)
class Damage:
    """How many lines were passed over because they do not check."""

    lines: int = 0


def search(directory: Path, query: Query, damage: Damage | None = None) -> Iterator[Found]:
    """Every matching record of every writer, in order of time. OSError where the log cannot be read."""
    damage = Damage() if damage is None else damage
    chains = [_joined(_chain(directory / writer, damage), query) for writer in writers(directory)]
    return heapq.merge(*chains, key=lambda found: found.record.body.time)


def _chain(home: Path, damage: Damage) -> Iterator[Record]:
    """The complete records of one writer, each once."""
    decoder = Decoder()
    seq = 0
    for _, path in segments(home):
        for line in lines(path):
            if not line.complete:
                continue
            try:
                record = decoder.decode(line.text)
            except Malformed:
                damage.lines += 1
                continue
            # After a failed write, a segment begins with copies of what the one before may have.
            if record.body.seq > seq:
                seq = record.body.seq
                yield record


def _joined(records: Iterator[Record], query: Query) -> Iterator[Found]:
    """The matching records in order, each statement with its outcome."""
    join = _Join(query)
    for record in records:
        join.learn(record.body.event)
        if query.matches(record.body):
            join.hold(record)
        yield from join.ready(MAX_HELD)
    yield from join.ready(0)


class _Join:
    """Matches of one writer in order, statements held back until their outcome is known."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._held: deque[Found] = deque()
        self._waiting: dict[str, dict[int, Found]] = {}  # statements by connection and statement_id

    def learn(self, event: Event) -> None:
        """Settle what the event settles: a statement, all of a connection that ended, all of a process that died."""
        if isinstance(event, StatementEnded):
            found = self._waiting.get(event.connection, {}).get(event.statement_id)
            if found is not None:
                found.outcome = event
                # A suspended portal may go on; its next outcome replaces this one.
                if event.outcome != "suspended":
                    self._settle(found)
        elif isinstance(event, LoggedOut):
            for found in tuple(self._waiting.get(event.connection, {}).values()):
                self._settle(found)
        elif isinstance(event, LogOpened):
            for found in [f for statements in self._waiting.values() for f in statements.values()]:
                self._settle(found)

    def hold(self, record: Record) -> None:
        """Take a match."""
        found = Found(record)
        event = record.body.event
        if isinstance(event, StatementStarted):
            found.settled = False
            self._waiting.setdefault(event.connection, {})[event.statement_id] = found
        self._held.append(found)

    def ready(self, most: int) -> Iterator[Found]:
        """The matches from the front on that are settled, and those before the newest `most`."""
        while self._held and (self._held[0].settled or len(self._held) > most):
            found = self._held.popleft()
            if not found.settled:
                self._settle(found)
            event = found.record.body.event
            if self._query.accepts(found.outcome if isinstance(event, StatementStarted) else event):
                yield found

    def _settle(self, found: Found) -> None:
        found.settled = True
        event = found.record.body.event
        assert isinstance(event, StatementStarted)
        statements = self._waiting.get(event.connection, {})
        if statements.get(event.statement_id) is found:
            del statements[event.statement_id]
            if not statements:
                del self._waiting[event.connection]


@dataclass(slots=True)
class _Position:
    segment: int = 0
    offset: int = 0
    seq: int = 0


class Follower:
    """Reads what is added to a log, of every writer, new writers included. Begins with the newest records of what is there."""

    def __init__(self, directory: Path, damage: Damage | None = None) -> None:
        self._directory = directory
        self._decoder = Decoder()
        self._positions: dict[str, _Position] = {}
        self.damage = Damage() if damage is None else damage

    def tail(self, count: int) -> list[Record]:
        """The newest `count` records (at most MAX_TAIL) in order of time; `poll` then goes on after them."""
        found: list[Record] = []
        for writer in writers(self._directory):
            found += self._tail(writer, min(count, MAX_TAIL))
        found.sort(key=lambda record: record.body.time)
        return found[max(0, len(found) - count) :]

    def poll(self) -> list[Record]:
        """What was added since, in order of time."""
        found: list[Record] = []
        for writer in writers(self._directory):
            found += self._poll(writer)
        found.sort(key=lambda record: record.body.time)
        return found

    def _tail(self, writer: str, count: int) -> list[Record]:
        position = self._positions[writer] = _Position()
        newest_first: list[Record] = []
        for number, path in reversed(segments(self._directory / writer)):
            for line in lines_backward(path):
                if not position.segment:
                    position.segment, position.offset = number, line.offset + line.size
                if len(newest_first) >= count:
                    return newest_first[::-1]
                record = self._decode(line.text)
                if record is not None and (not newest_first or record.body.seq < newest_first[-1].body.seq):
                    newest_first.append(record)
                    position.seq = max(position.seq, record.body.seq)
        return newest_first[::-1]

    def _poll(self, writer: str) -> list[Record]:
        position = self._positions.setdefault(writer, _Position())
        found = []
        for number, path in segments(self._directory / writer):
            if number < position.segment:
                continue
            if number > position.segment:
                position.segment, position.offset = number, 0
            for line in lines(path, position.offset):
                if not line.complete:
                    break
                position.offset = line.offset + line.size
                record = self._decode(line.text)
                if record is not None and record.body.seq > position.seq:
                    position.seq = record.body.seq
                    found.append(record)
        return found

    def _decode(self, text: bytes) -> Record | None:
        try:
            return self._decoder.decode(text)
        except Malformed:
            self.damage.lines += 1
            return None
