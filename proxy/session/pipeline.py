"""What the server still has to answer, in order, and what each answer does.

Every message that the server will answer leaves an `Expectation`; answers meet them in the order in which they were sent. The table:

    expectation         answers that keep it          answers that end it
    startup             K                             Z
    parse               -                             1
    bind                -                             2
    close               -                             3
    describe statement  t                             T n
    describe portal     -                             T n
    execute             D d c   G H (a COPY begins)   C I s
    query               T D d c C I s   G H           Z
    function call       V                             Z
    sync                -                             Z

`E` ends an expectation of the extended protocol together with everything after it up to the next sync: the server ignores those messages
(PostgreSQL 55.2.3), and `Pipeline.ignoring` is set while that sync has not been sent. In the others it stays until `Z`. `N`, `A` and `S` may come at any
time and belong to nothing. While the server reads COPY data it ignores Sync and Flush, so a sync sent then, before the client ends the data, is
no expectation (55.2.7); the end of the data is one itself (`copy end`), which no answer meets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from proxy.errors import ProtocolError
from proxy.wire.messages import Back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.session.collect import Collector
    from proxy.session.copy_streams import CopyIn, CopyOut
    from proxy.session.gate import Judge, OffsetMap, ServerCheck
    from proxy.session.names import Renaming
    from proxy.session.premise import Premise
    from proxy.session.settings import Probe
    from proxy.session.statements import Portal, PreparedStatement, Run
    from proxy.session.store_witness import Witness
    from rules.plan import Refusal


class Kind(IntEnum):
    """What the server was sent. (Numbers, as they are hashed for each message: a plain Enum's hash is a Python function.)"""

    STARTUP = 0
    PARSE = 1
    BIND = 2
    CLOSE = 3
    DESCRIBE_STATEMENT = 4
    DESCRIBE_PORTAL = 5
    EXECUTE = 6
    QUERY = 7
    FUNCTION_CALL = 8
    SYNC = 9
    COPY_END = 10


class Route(Enum):
    """Who gets the answer."""

    FORWARD = "forward"  # the client
    GUARD = "guard"  # nobody: pgveil asked within the client's pipeline; an error is the client's all the same
    SKIP = "skip"  # nobody: pgveil asked between the client's requests
    REPLACE = "replace"  # the client gets pgveil's error in place of the server's
    CHECK = "check"  # nobody, but an error is the client's: the server was asked about a text that pgveil refuses


class Step(Enum):
    """What an answer does to the expectation that it meets."""

    STAY = "stay"
    DONE = "done"
    COPY_IN = "copy in"
    COPY_OUT = "copy out"


def _row(stay: bytes, done: bytes, *, copies: bool = False) -> Mapping[int, Step]:
    table = {**dict.fromkeys(stay, Step.STAY), **dict.fromkeys(done, Step.DONE)}
    if copies:
        table |= {Back.COPY_IN: Step.COPY_IN, Back.COPY_OUT: Step.COPY_OUT}
    return MappingProxyType(table)


TRANSITIONS: Final[Mapping[Kind, Mapping[int, Step]]] = MappingProxyType(
    {
        Kind.STARTUP: _row(b"K", b"Z"),
        Kind.PARSE: _row(b"", b"1"),
        Kind.BIND: _row(b"", b"2"),
        Kind.CLOSE: _row(b"", b"3"),
        Kind.DESCRIBE_STATEMENT: _row(b"t", b"Tn"),
        Kind.DESCRIBE_PORTAL: _row(b"", b"Tn"),
        Kind.EXECUTE: _row(b"Ddc", b"CIs", copies=True),
        Kind.QUERY: _row(b"TDdcCIs", b"Z", copies=True),
        Kind.FUNCTION_CALL: _row(b"V", b"Z"),
        Kind.SYNC: _row(b"", b"Z"),
        Kind.COPY_END: _row(b"", b""),
    }
)

# An error ends these only with the ReadyForQuery that follows.
UNTIL_READY: Final = frozenset((Kind.STARTUP, Kind.QUERY, Kind.FUNCTION_CALL, Kind.SYNC))


class Flow(Enum):
    """Whether rows or COPY data of the expectation may pass now."""

    NONE = "none"
    ROWS = "rows"
    COPY_OUT = "copy out"
    COPY_IN = "copy in"  # the server reads COPY data
    COPY_ENDED = "copy ended"  # the client has ended the data


@dataclass(slots=True, eq=False)
class Expectation:
    """One message that the server will answer, and what is to be done with the answers.

    `run`: the planned or refused execution, None for what touches nothing protected. `undo` takes back what sending it changed in the
    session's books, for when the server ignores it. `error`: the ErrorResponse that replaces the server's, with `in_any_case`
    whatever that is, else the error that what was sent must give; `refusal`: what it tells of,
    if that is to be counted only when it is told. `check`: what the server was asked about a refused text. `missing`: what is told instead where the server says that a function is not there. `ticket`: the audit record that must be durable before an answer passes. `failed`: an error of ours has gone to the client, the rest of the answers is dropped.
    `others`: statements before it in the same batch (or with it in the same Query) may change data. `mend`: with its ReadyForQuery the server's
    transaction must be made to fail. `dropped_name`: the prepared statement that its text deallocates.
    `renaming`: what its text does to the session's names. `note`: a question of ours.
    `judge`: who decided on the cursor that it fetches from, where that is not the session's judge any longer.
    `premise`: what an answer rests on besides, where nothing of it may pass before the catalog has been looked at.
    `witness`: what the columns of a COPY or a write are, asked before it; `copy_out`, `copy_in`: what changes a COPY's data on its way.
    `shares`: it was sent while the execution `run` was under way, which may have ended when this is answered.
    `probes`: statements of the text before which it asks for the settings; while the first of them is the next, the answers are nobody's.
    `learn`: is told by which description the next text of its shape may pass (proxy.session.lane).
    `offsets`: of a text without a plan that was edited.
    `collector`: takes the rows for a computation, in place of the client. `instead`: what the client gets when all is answered well.
    """

    kind: Kind
    route: Route = Route.FORWARD
    statement: PreparedStatement | None = None
    portal: Portal | None = None
    run: Run | None = None
    error: bytes | None = None
    in_any_case: bool = False
    refusal: Refusal | None = None
    check: ServerCheck | None = None
    missing: bytes | None = None
    ticket: int = 0
    flow: Flow = Flow.NONE
    failed: bool = False
    ddl: bool = False
    others: bool = False
    mend: bool = False
    dropped_name: bytes | None = None
    renaming: Renaming | None = None
    undo: Callable[[], None] | None = None
    note: Probe | None = None
    collector: Collector | None = None
    instead: bytes | None = None
    premise: Premise | None = None
    judge: Judge | None = None
    witness: Witness | None = None
    copy_out: CopyOut | None = None
    copy_in: CopyIn | None = None
    probes: tuple[int, ...] = ()
    shares: bool = False
    learn: Callable[[bytes], None] | None = None
    offsets: OffsetMap | None = None

    @property
    def probing(self) -> bool:
        """Whether what is answered now is a question of pgveil's own in the middle of the client's text."""
        return bool(self.probes) and self.run is not None and self.run.index == self.probes[0]


class Pipeline:
    """The queue of expectations, the server's transaction status, and whether the server ignores what comes."""

    __slots__ = ("_entries", "_stray_syncs", "ignoring", "status", "unsynced")

    def __init__(self) -> None:
        self._entries: deque[Expectation] = deque()
        self._stray_syncs = 0
        self.ignoring = False
        self.unsynced = False  # something of the extended protocol was sent after the last sync
        self.status = b"I"  # as the last ReadyForQuery said

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def head(self) -> Expectation | None:
        """What the next answer belongs to."""
        entries = self._entries
        if not entries:
            return None
        first = entries[0]
        if first.kind is not Kind.COPY_END:
            return first
        entries.popleft()  # data ended that the server never asked for: it drops both
        return self.head

    @property
    def at_ease(self) -> bool:
        """Whether everything is answered, synced and heard, and no answer is known to be still to come."""
        return not (self._entries or self.unsynced or self.ignoring or self._stray_syncs)

    @property
    def idle(self) -> bool:
        """Whether everything is answered and synced."""
        return self.head is None and not self.unsynced

    def waiting(self) -> tuple[Expectation, ...]:
        """Everything not answered, oldest first."""
        return tuple(self._entries)

    def sent(self, expectation: Expectation) -> None:
        """A message went to the server."""
        kind = expectation.kind
        if kind is Kind.SYNC:
            self.unsynced = self.ignoring = False
        elif kind is Kind.QUERY or kind is Kind.FUNCTION_CALL:
            self.unsynced = False
        elif kind is not Kind.STARTUP:
            self.unsynced = True
        self._entries.append(expectation)

    def sync_is_ignored(self) -> bool:
        """Whether the server is known to read COPY data now, so that a Sync means nothing. Remembers that one was sent then."""
        head = self.head
        if head is None or head.flow is not Flow.COPY_IN:
            return False
        self._stray_syncs += 1
        return True

    def copy_ended(self) -> None:
        """The client ended its COPY data (CopyDone or CopyFail)."""
        head = self.head
        if head is None:
            return
        if head.flow is Flow.COPY_IN:
            head.flow = Flow.COPY_ENDED
        else:
            self._entries.append(Expectation(Kind.COPY_END))

    def step(self, answer: int) -> Step:
        """What `answer` does to the head. Raises ProtocolError where the head allows no such answer."""
        head = self.head
        step = None if head is None else TRANSITIONS[head.kind].get(answer)
        if step is None:
            waited = "nothing" if head is None else f"the answer to a {head.kind.name.lower().replace('_', ' ')}"
            raise ProtocolError(f"the server sent a message of type {chr(answer)!r} while {waited} was expected")
        return step

    def done(self) -> Expectation:
        """The head is answered."""
        return self._entries.popleft()

    def copy_begins(self) -> None:
        """The head reads COPY data: syncs sent meanwhile mean nothing to the server."""
        head = self.head
        assert head is not None
        rest = list(self._entries)[1:]
        kept: list[Expectation] = []
        head.flow = Flow.COPY_IN
        for position, entry in enumerate(rest):
            if entry.kind is Kind.COPY_END:
                head.flow = Flow.COPY_ENDED
                kept += rest[position + 1 :]
                break
            if entry.kind is Kind.SYNC and entry.route is Route.FORWARD:
                self._stray_syncs += 1
                continue
            if head.kind is Kind.QUERY:
                raise ProtocolError("a message other than COPY data was sent while the server reads COPY data")
            kept.append(entry)
        self._entries = deque((head, *kept))

    def copy_finished(self) -> None:
        """The statement at the head ended well: syncs sent while it read COPY data were ignored for certain."""
        self._stray_syncs = 0

    def take_stray_ready(self) -> bool:
        """Whether a ReadyForQuery that nothing expects answers a sync which was sent while COPY data was read."""
        head = self.head
        if not self._stray_syncs or (head is not None and head.kind in UNTIL_READY):
            return False
        self._stray_syncs -= 1
        return True

    def error(self) -> list[Expectation]:
        """An ErrorResponse met the head. Returns what the server will not do, in the order it was sent, the head first.

        Empty where the head stays until ReadyForQuery.
        """
        head = self.head
        if head is None or head.kind in UNTIL_READY:
            return []
        dropped = []
        while self._entries and self._entries[0].kind is not Kind.SYNC:
            dropped.append(self._entries.popleft())
        self.ignoring = not self._entries
        return dropped

    def before_sync(self) -> list[Expectation]:
        """What was sent after the head and before the sync of its batch; nothing where the head is no part of a batch."""
        entries = iter(self._entries)
        head = next(entries, None)
        if head is None or head.kind in UNTIL_READY:
            return []
        return list(takewhile(lambda entry: entry.kind is not Kind.SYNC, entries))

    def batch(self) -> list[Expectation]:
        """What was sent after the last sync or simple Query and is not answered."""
        rest: list[Expectation] = []
        for entry in reversed(self._entries):
            if entry.kind in UNTIL_READY:
                break
            rest.append(entry)
        return rest

    def ready_of_head(self) -> Expectation | None:
        """What the ReadyForQuery that follows the head's answers will meet; None where its sync has not been sent."""
        for entry in self._entries:
            if entry.kind in UNTIL_READY:
                return entry
        return None
