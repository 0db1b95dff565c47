"""Prepared statements, portals and executions: what the session remembers of what it sent.

The books follow what was SENT. Each change made by a message is taken back when the server turns out to ignore the message (an error before it in the
same pipeline), newest first, so that after any error they say again what the server has; what was sent behind the next sync stays. A record too many is harmless: the server
answers with its own error. A wrong one is not, so whatever could have replaced a statement or portal behind the protocol's back (DEALLOCATE, DECLARE,
CLOSE in SQL) takes `verified` away, and the description is checked again before the next rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary, ref

from proxy.session.gate import Admit, Pass

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from keys.types import OutputSettings
    from proxy.session.gate import Judge, OffsetMap, Settings
    from proxy.session.prepared import Asked, Computed, PreparedWrite
    from proxy.session.witness import Shown
    from rules.named import NameUse
    from rules.plan import Plan

_TEXT, _TEXT_ARRAY = 25, 1009


@dataclass(slots=True, eq=False)
class PreparedStatement:
    """A statement that the client parsed. `text` is the client's own; `types` are the parameter types that it declared.

    `settings` and `generation`: what the decision was made under. `shown`: the description that the second witness agreed with, None
    until then (and for a statement without rows: `verified` alone tells).
    `computed`: the decision is what fetches the rows, and the calculator makes the client's result of them.
    `forms`: of a computed statement, how its constants are read.
    `names`: where the decision rests on the session's names, their version then. `made`: by PREPARE, or the query of a cursor by DECLARE (`hold`:
    WITH HOLD), with `text` that of the whole PREPARE or DECLARE.
    `told`, `parameters`: the RowDescription (b"": no rows) and the parameter types that the client may know it by, None where it has been told none.
    `absent`: the server lost it while it was made again. `origin`: the settings of its Parse, where `settings` are later ones.
    `row`, `row_under`: for the fast lane (proxy.session.lane), the description that its portals must have, and the settings that it holds under;
    `row_shown`: of a planned read, what the client is told in its place.
    `judge`: of a FETCH, who decided on its cursor, where that was under older rules.
    """

    name: bytes
    text: bytes
    types: tuple[int, ...]
    decision: Pass | Admit
    settings: Settings
    generation: int
    verified: bool = False
    shown: Shown | None = None
    plain_portal: Portal | None = None
    dropped_name: bytes | None = None
    computed: Computed | None = None
    writing: PreparedWrite | None = None
    names: int | None = None
    forms: OutputSettings | None = None
    made: NameUse | None = None
    hold: bool = False
    told: bytes | None = None
    parameters: tuple[int, ...] | None = None
    absent: bool = False
    origin: Settings | None = None
    judge: Judge | None = None
    row: bytes | None = None
    row_under: Settings | None = None
    row_shown: Shown | None = None

    @property
    def there(self) -> bool:
        """Whether the server has it, and the client may know it as it is."""
        return not self.absent and self.generation >= 0

    @property
    def vouched(self) -> float | None:
        """When the oldest tickets were made that are in what the server holds of it, or is sent for it."""
        parts = [self.decision]
        if self.computed is not None:
            parts += [leaf.fetch for leaf in self.computed.compute.leaves]
        if self.writing is not None:
            parts.append(self.writing.write.apply)
        return min((p.vouched for p in parts if isinstance(p, Admit) and p.vouched is not None), default=None)

    @property
    def plan(self) -> Plan | None:
        """The plan of its one statement, None where it touches nothing protected."""
        return self.decision.plans[0] if isinstance(self.decision, Admit) and self.decision.plans else None

    @property
    def offsets(self) -> OffsetMap | None:
        """Of the text that the server holds, where it was edited."""
        edited = self.decision if isinstance(self.decision, Admit) else self.decision.instead
        return None if edited is None else edited.offsets

    def agree(self, shown: Shown | None) -> None:
        """The second witness agrees to what it returns (None: no rows)."""
        self.verified = True
        self.shown = shown
        if self.told is None:
            self.told = b"" if shown is None else shown.message

    def ask_again(self) -> None:
        """What it returns is described anew before the next rows."""
        self.verified = False
        self.shown = self.row = None
        if self.plain_portal is not None:
            self.plain_portal.doubt()

    def doubt(self) -> None:
        """Another statement may have taken the name."""
        self.ask_again()
        self.told = self.parameters = None

    @property
    def cost(self) -> int:
        """Bytes that the record holds."""
        return len(self.name) + len(self.text) + 4 * len(self.types)


@dataclass(slots=True, eq=False)
class Portal:
    """A bound statement, a cursor of SQL, or (statement None) one of which pgveil knows nothing: a cursor that a function has opened.

    `names`: as of the statement, at the Bind. `formats`: the result formats of Bind. A portal of a statement without a plan holds nothing of
    its own and is shared by all its Binds. `asked_for`: what the client bound to a computed statement, and what it has not taken of the answer.
    `fresh`: the server has been asked to describe it since it was bound. The server looks at its names again at each Bind, so what it said of
    the statement, or of another portal of it, need not be true of this one. `judge`: whose decision it is, where newer rules are in force since.
    `run`: the execution that its rows belong to, until it has ended: a portal is executed once, however many messages ask for its rows. `trusted`: nothing was sent since that may have closed it and opened
    another one of its name; else the server is asked again. `inserts`: the client is told of its UPDATE as of an INSERT.
    """

    name: bytes
    statement: PreparedStatement | None
    formats: tuple[int, ...] = ()
    own_verified: bool | None = None
    own_shown: Shown | None = None
    asked_for: Asked | None = None
    names: int | None = None
    fresh: bool = False
    judge: Judge | None = None
    run: Run | None = None
    trusted: bool = True
    inserts: bool = False

    @property
    def cost(self) -> int:
        """Portals are counted, not weighed."""
        return 0

    @property
    def plan(self) -> Plan | None:
        """The plan of the statement."""
        return None if self.statement is None else self.statement.plan

    @property
    def verified(self) -> bool:
        """Whether the second witness has agreed to what this portal returns."""
        if self.own_verified is None:
            return self.statement is not None and self.statement.verified
        return self.own_verified

    @property
    def shown(self) -> Shown | None:
        """The agreed description, None for a portal without rows or without one."""
        if self.own_shown is not None or self.own_verified is not None:
            return self.own_shown
        return None if self.statement is None else self.statement.shown

    def bound(self) -> None:
        """It is bound anew."""
        self.fresh = False
        self.judge = None
        self.trusted = True

    def not_asked(self) -> None:
        """No description will come."""
        self.fresh = self.trusted = False

    @property
    def without_rows(self) -> bool:
        """Whether the server has said that the statement returns none; it refuses to run one of which that is no longer true."""
        statement = self.statement
        return (
            statement is not None and statement.verified and statement.shown is None and self.own_verified is not False
        )

    def agree(self, shown: Shown | None) -> None:
        """The second witness agrees. What is true of the portal is true of its statement, but for the formats."""
        self.own_verified = True
        self.own_shown = shown
        if self.statement is not None:
            self.statement.agree(shown)

    def doubt(self) -> None:
        """Another portal may have taken the name."""
        self.own_verified = self.fresh = False
        self.own_shown = None

    def format_of(self, index: int) -> int:
        """The format code of result column `index` (Bind: none given is text, one given is for all)."""
        if not self.formats:
            return 0
        return self.formats[0] if len(self.formats) == 1 else self.formats[index]


@dataclass(slots=True, eq=False)
class Run:
    """One execution of a text with plans, from its arrival to its end.

    `index`: the statement that answers now. `ids`: the audit number of each statement, 0 where it has no record. `shown`: the agreed
    description of the current rows. `arrived` and `sent` are monotonic seconds. `rows`: rows of the current statement that were counted, with `counts`; `before`: those of earlier Executes of `portal`, whose execution it is.
    """

    admit: Admit
    ids: tuple[int, ...]
    arrived: float
    sent: float = 0.0
    counts: bool = False
    index: int = 0
    shown: Shown | None = None
    rows: int = 0
    before: int = 0
    portal: Portal | None = None

    @property
    def over(self) -> bool:
        """Whether all of its statements have ended."""
        return self.index >= len(self.ids)

    @property
    def number(self) -> int:
        """The audit number of its first statement that has one, 0 without any."""
        return next((number for number in self.ids if number), 0)

    @property
    def plan(self) -> Plan | None:
        """The current statement's plan."""
        return self.admit.plans[self.index] if self.index < len(self.admit.plans) else None

    @property
    def writes(self) -> bool:
        """Whether any of the statements can change data; an unplanned one can."""
        return any(p is None or p.writes for p in self.admit.plans)


def parameter_types(declared: tuple[int, ...], plan: Plan | None) -> tuple[int, ...]:
    """The parameter types for the server: those that the client declared, text for sealed ones."""
    params = () if plan is None else plan.params
    most = max((p.number for p in params), default=0)
    types = list(declared) + [0] * (most - len(declared))
    for param in params:
        types[param.number - 1] = _TEXT_ARRAY if param.array else _TEXT
    return tuple(types)


class _Record(Protocol):
    @property
    def cost(self) -> int: ...


R = TypeVar("R", bound=_Record)


class _Change(Generic[R]):
    """One change of what a name stands for; calling it takes it back, whatever became of the name since.

    It lives as long as somebody may take it back. `before` and `after`: the changes of the same name next to it, of those that live.
    """

    __slots__ = ("__weakref__", "_after", "_before", "_book", "_name", "_previous")

    def __init__(self, book: Book[R], name: bytes, previous: R | None, before: _Change[R] | None) -> None:
        self._book = book
        self._name = name
        self._previous = previous
        self._before = None if before is None else ref(before)
        self._after: _Change[R] | None = None
        if before is not None:
            before._after = self  # noqa: SLF001 - of its own kind

    def __call__(self) -> None:
        before = None if self._before is None else self._before()
        if before is not None:
            before._after = self._after  # noqa: SLF001
        if self._after is None:
            self._book.take_back(self._name, self._previous, before)
        else:
            # The name has been given to another one since, which stays.
            self._after._previous, self._after._before = self._previous, self._before  # noqa: SLF001


class Book(Generic[R]):
    """Records by name, with a way back for every change. `cost` is the bytes that they hold."""

    __slots__ = ("_dropped", "_last", "_records", "cost")

    def __init__(self, dropped: Callable[[R], None] | None = None) -> None:
        self._dropped = dropped  # told of each record that no name leads to any longer
        self._records: dict[bytes, R] = {}
        self._last: WeakValueDictionary[bytes, _Change[R]] = WeakValueDictionary()  # the newest change of each name
        self.cost = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[R]:
        return iter(self._records.values())

    def get(self, name: bytes) -> R | None:
        """The record of that name."""
        return self._records.get(name)

    def put(self, name: bytes, record: R) -> Callable[[], None] | None:
        """Set a record; returns what takes it back, or None where nothing changed."""
        previous = self._records.get(name)
        if previous is record:
            return None
        self._set(name, record)
        return self._change(name, previous)

    def remove(self, name: bytes) -> Callable[[], None] | None:
        """Forget a record; returns what takes it back, or None where there was none."""
        previous = self._records.get(name)
        if previous is None:
            return None
        self._set(name, None)
        return self._change(name, previous)

    def take_back(self, name: bytes, record: R | None, newest: _Change[R] | None) -> None:
        """A name stands for `record` again; `newest` is its newest change then."""
        self._set(name, record)
        if newest is None:
            self._last.pop(name, None)
        else:
            self._last[name] = newest

    def _change(self, name: bytes, previous: R | None) -> _Change[R]:
        change = self._last[name] = _Change(self, name, previous, self._last.get(name))
        return change

    def keep(self, names: Container[bytes]) -> None:
        """Forget every record whose name is not in `names`."""
        for name in [n for n in self._records if n not in names]:
            self._set(name, None)

    def clear(self) -> None:
        """Forget every record."""
        self.keep(())

    def _set(self, name: bytes, record: R | None) -> None:
        previous = self._records.pop(name, None)
        if previous is not None:
            self.cost -= previous.cost
            if self._dropped is not None and previous is not record:
                self._dropped(previous)
        if record is not None:
            self._records[name] = record
            self.cost += record.cost
