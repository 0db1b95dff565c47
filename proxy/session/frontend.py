"""The client's messages: each is judged where it has to be, changed where a plan says so, and sent on with what the server will answer.

Handlers are plain where a message goes straight on. Those that may have to wait are generators that yield what they wait for; while one waits,
nothing more is read of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.errors import ProtocolError
from proxy.session.computing import Compute, Write
from proxy.session.copying import Copying, ask
from proxy.session.extended import Extended, asks
from proxy.session.gate import Admit, Pass, Refuse
from proxy.session.judging import PLAN_CHANGED, Judging
from proxy.session.metering import metered, over_limit
from proxy.session.names import Renaming
from proxy.session.pipeline import Expectation, Flow, Kind, Route
from proxy.session.premise import Premise
from proxy.session.prepared import fetch_of
from proxy.session.replies import DEALLOCATE, deallocated
from proxy.session.state import AUDIT_DOWN, State
from proxy.session.writer import Writer
from proxy.wire import messages
from proxy.wire.framing import Chunk, Direction, Framer, Head, Message
from proxy.wire.messages import Front
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from proxy.session.judging import Steps
    from proxy.session.lane import Lane

_INTERPRET: Final = frozenset(limits.FRONTEND_MAXIMUM) - {Front.COPY_DATA, Front.BIND}
# Names are 63 bytes in practice; longer ones make the whole message be read.
_BIND_HEAD: Final = {Front.BIND: 5 + 2 * 64}
# What means something while the server reads COPY data, or ignores everything up to a Sync.
_ALWAYS: Final = frozenset(
    (Front.SYNC, Front.FLUSH, Front.TERMINATE, Front.COPY_DONE, Front.COPY_FAIL, Front.AUTHENTICATION)
)

# Fastpath calls that client libraries make for large objects (libpq's fe-lobj.c): none of them reads tables or runs SQL.
_LARGE_OBJECT_CALLS: Final = frozenset((715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172))

# What one client's messages may take at a time, most of it for planning: then others have their turn, and it is seen whether it has left.
_TURN_SECONDS: Final = 0.1

_FASTPATH: Final = Refusal(
    Reason.UNSUPPORTED,
    "0AP01",
    "pgveil supports the function call sub-protocol for large objects only",
    hint="Call the function with SELECT.",
)


class Frontend:
    """The client's direction of a session."""

    __slots__ = (
        "_computer",
        "_copying",
        "_extended",
        "_framer",
        "_handlers",
        "_judging",
        "_lane",
        "_sliced",
        "_state",
        "_task",
        "_wait",
        "ended",
        "paused",
    )

    def __init__(self, state: State, lane: Lane, *, sliced: bool) -> None:
        self._state = state
        self._lane = lane
        self._sliced = sliced  # somebody gives it another turn
        self.paused = False  # it waits for that
        self._framer = Framer(Direction.FRONTEND, interpret=_INTERPRET, heads=_BIND_HEAD)
        self._judging = Judging(state)
        self._computer = Writer(state, self._judging)
        self._copying = Copying(state, self._framer)
        self._extended = Extended(state, self._judging, self._computer, self._copying, self._framer)
        self._handlers: Mapping[int, Callable[[bytes], Steps | None]] = {
            Front.QUERY: self._query,
            Front.PARSE: self._extended.parse,
            Front.BIND: self._extended.bind_whole,
            Front.DESCRIBE: self._extended.describe,
            Front.EXECUTE: self._extended.execute,
            Front.CLOSE: self._close,
            Front.SYNC: self._sync,
            Front.FLUSH: self._forward,
            Front.FUNCTION_CALL: self._function_call,
            Front.COPY_DONE: self._copy_ended,
            Front.COPY_FAIL: self._copy_ended,
            Front.TERMINATE: self._terminate,
            Front.AUTHENTICATION: self._out_of_place,
        }
        self._task: Steps | None = None
        self.ended = False  # the client said goodbye
        self._wait: Callable[[], bool] | None = None

    @property
    def waiting(self) -> bool:
        """Whether the client's bytes are held back."""
        return self._task is not None or self._state.hold_client

    @property
    def quiet(self) -> bool:
        """Whether no message is in hand or held, and the next byte begins one."""
        return self._task is None and not self.ended and not self.paused and self._framer.at_boundary

    @property
    def buffered(self) -> int:
        """Bytes of the client not looked at yet."""
        return self._framer.buffered

    @property
    def at_boundary(self) -> bool:
        """Whether nothing of a message is missing on the way to the server."""
        return self._framer.at_boundary

    def feed(self, data: bytes) -> None:
        """Take the client's next bytes."""
        self._framer.feed(data)

    def pump(self) -> bool:
        """Go as far as possible; whether anything moved. Raises ProtocolError."""
        state = self._state
        moved = self.paused = False
        until = state.clock() + _TURN_SECONDS if self._sliced else 0.0
        while state.closing is None and not state.hold_client:
            if until and moved and self._framer.buffered and state.clock() > until:
                self.paused = True
                return moved
            if self._task is not None:
                if not self._resume():
                    return moved
                moved = True
                continue
            if len(state.pipeline) >= state.limits.pending:
                self._task = self._wait_for_room()
                continue
            event = self._framer.next_event()
            if event is None:
                return moved
            moved = True
            if state.successor is not None and isinstance(event, Head | Message) and self._is_judged(event):
                self._task = self._after_succession(event)
            elif isinstance(event, bytes):
                state.to_server.append(event)
            elif isinstance(event, Chunk):
                self._copying.data(event.data)
            elif isinstance(event, Head):
                self._task = self._begin(event)
            else:
                assert isinstance(event, Message)
                self._task = self._message(event.kind, event.raw)
        return moved

    def _is_judged(self, event: Head | Message) -> bool:
        """Whether a message begins something, so that newer rules are to hold for it."""
        kind = event.kind
        if kind in _ALWAYS or kind == Front.COPY_DATA:
            return False
        head = self._state.pipeline.head
        return head is None or head.flow is not Flow.COPY_IN

    def _after_succession(self, event: Head | Message) -> Steps:
        """Newer rules are in force: what was judged by the older ones is answered first, by their lights."""
        state = self._state
        self._judging.flush()
        yield lambda: state.pipeline.head is None
        state.succeed()
        steps = self._begin(event) if isinstance(event, Head) else self._message(event.kind, event.raw)
        if steps is not None:
            yield from steps

    def rest(self) -> bool:
        """Whether no message of the client's is in hand."""
        return self._task is None

    def _resume(self) -> bool:
        """Let the waiting handler go on if what it waits for has come."""
        if self._wait is not None and not self._wait():
            return False
        assert self._task is not None
        try:
            self._wait = next(self._task)
        except StopIteration:
            self._task = self._wait = None
        return True

    def _wait_for_room(self) -> Steps:
        state = self._state
        self._judging.flush()
        yield lambda: len(state.pipeline) < state.limits.pending

    def _begin(self, head: Head) -> Steps | None:
        """The first bytes of a Bind, or of COPY data that is not forwarded as it is."""
        if head.kind == Front.COPY_DATA:
            self._copying.head(head)
            return None
        self._copying.message(head.kind)
        self._not_copying()
        return self._extended.bind_head(head)

    def _not_copying(self) -> None:
        """The server takes nothing but COPY data now, and would end the COPY over anything else."""
        head = self._state.pipeline.head
        if head is not None and head.flow is Flow.COPY_IN:
            raise ProtocolError("unexpected message during COPY from stdin")

    def _message(self, kind: int, raw: bytes) -> Steps | None:
        self._copying.message(kind)
        if kind not in _ALWAYS:
            self._not_copying()
            if self._state.ignores():
                return None  # the server would do the same
        return self._handlers[kind](raw)

    def _forward(self, raw: bytes) -> None:
        self._state.to_server.append(raw)

    def _copy_ended(self, raw: bytes) -> None:
        if self._copying.ended(raw[0]):
            self._state.pipeline.copy_ended()
            self._forward(raw)

    def _terminate(self, raw: bytes) -> None:
        self.ended = True
        self._forward(raw)

    @staticmethod
    def _out_of_place(_raw: bytes) -> None:
        raise ProtocolError("an authentication message after the authentication")

    # -- simple queries --------------------------------------------------------------------------------------------------------------

    def _query(self, raw: bytes) -> Steps:
        state = self._state
        judging = self._judging
        arrived = state.clock()
        text = messages.parse_query(raw[5:])
        decision = yield from judging.decide(text, extended=False)
        decision = yield from judging.looked_at(text, decision)
        if state.ignores():
            return
        judged, settings = state.judge.generation, state.tracker.settings
        decision = self._counted(decision)
        if isinstance(decision, Refuse):
            yield from self._refuse_in_turn(decision)
            return
        if isinstance(decision, Compute | Write):
            yield from self._computer.query(decision, arrived)
            return
        entry = Expectation(Kind.QUERY, others=_may_hurt_others(decision) or state.unknown_executes > 0)
        entry.judge = judging.decided_by(decision)
        if decision.unshown:
            entry.premise = Premise(text, decision, state.tracker.settings, False, judged)
        if not (yield from self._witnessed(text, decision, entry)):
            return
        if isinstance(decision, Admit):
            if not (yield from self._recorded(decision, entry, arrived)):
                self._refuse_query(Refuse(AUDIT_DOWN, decision.shape))
                return
            raw = messages.build_query(decision.text)
            entry.probes = decision.probes
            state.observer.message_objects(1)
        else:
            raw = self._passing(raw, text, decision, entry)
        if decision.names:
            entry.renaming = Renaming(decision.names, state.tracker.settings, state.judge.generation)
        yield from judging.settle_writes()
        if not state.ignores():
            entry.learn = self._lane.learner(text, decision, judged, settings)
            self._run_query(raw, entry, decision)
            yield from self._copying.wait(entry)
        elif entry.run is not None:
            state.end_run(entry.run, "error", None)

    @staticmethod
    def _passing(raw: bytes, text: bytes, decision: Pass, entry: Expectation) -> bytes:
        """The message for the server, of a text that touches nothing protected."""
        if decision.instead is not None:
            entry.offsets = decision.instead.offsets
            return messages.build_query(decision.instead.text)
        if DEALLOCATE.match(text):
            entry.dropped_name = deallocated(text)
        return raw

    def _counted(self, decision: Pass | Admit | Compute | Write | Refuse) -> Pass | Admit | Compute | Write | Refuse:
        """The decision on a text that is about to run, or the refusal of its look-ups."""
        state = self._state
        if isinstance(decision, Admit):
            runs = decision
        elif isinstance(decision, Compute | Write):
            runs = fetch_of(decision if isinstance(decision, Compute) else decision.source)
        else:
            return decision
        beyond = over_limit(state.meter, state.principal, metered(runs.plans))
        return decision if beyond is None else Refuse(beyond, decision.shape)

    def _recorded(
        self, decision: Admit, entry: Expectation, arrived: float
    ) -> Generator[Callable[[], bool], None, bool]:
        """Begin the execution's audit records; whether it may be sent."""
        state = self._state
        entry.run, entry.ticket = self._state.start_run(decision, arrived)
        if entry.run is None:
            return False
        if entry.ticket and entry.run.writes:
            # It commits by itself: the record must be there before it runs.
            yield lambda: state.trail.settled(entry.ticket)
            if not state.trail.durable(entry.ticket):
                state.end_run(entry.run, "error", AUDIT_DOWN.sqlstate)
                return False
        entry.run.sent = state.clock()
        return True

    def _witnessed(
        self, text: bytes, decision: Pass | Admit, entry: Expectation
    ) -> Generator[Callable[[], bool], None, bool]:
        """Ask the second witness of a COPY or a write; whether it agrees. Else the client has been told, or will be."""
        state = self._state
        if not asks(decision):
            return True
        witness = yield from ask(state, decision)
        if witness.failed:
            # The client was told of the error; the server waits for a Sync that a simple Query does not send.
            self._send_sync(messages.SYNC)
            return False
        if state.ignores():
            return False
        refusal = self._copying.agreed(decision, witness, entry)
        if refusal is None and not (yield from self._judging.holds(text, decision)):
            refusal = PLAN_CHANGED
        if state.ignores():
            return False
        if refusal is not None:
            self._refuse_query(Refuse(refusal, decision.shape if isinstance(decision, Admit) else ""))
        return refusal is None

    def _run_query(self, raw: bytes, entry: Expectation, decision: Pass | Admit) -> None:
        state = self._state
        if isinstance(decision, Pass) and decision.noted is not None:
            decision.noted(1)
        state.afterwards(decision)
        if decision.ddl:
            entry.ddl = state.ddl_in_flight = True
        entry.undo = state.forget_unnamed()
        state.unknown_executes = 0
        state.send(raw, entry)

    def _refuse_in_turn(self, refuse: Refuse) -> Steps:
        if refuse.check is not None:
            yield from self._judging.after_batch()
        if not self._state.ignores():
            self._refuse_query(refuse)

    def _refuse_query(self, refuse: Refuse) -> None:
        self._judging.refuse_text(Kind.QUERY, refuse)
        self._state.unknown_executes = 0

    def _function_call(self, raw: bytes) -> Steps:
        state = self._state
        call = messages.parse_function_call(raw[5:])
        yield from self._judging.settle_writes()
        if state.ignores():
            return
        if call.oid in _LARGE_OBJECT_CALLS or self._judging.forgives(_FASTPATH, "(function call)"):
            state.send(raw, Expectation(Kind.FUNCTION_CALL))
        else:
            self._judging.refuse(Kind.FUNCTION_CALL, _FASTPATH)

    # -- sync and close --------------------------------------------------------------------------------------------------------------

    def _sync(self, raw: bytes) -> Steps | None:
        state = self._state
        if state.pipeline.sync_is_ignored():
            state.to_server.append(raw)
            return None
        if state.broken or not self._judging.writes_settled() or self._breakable():
            return self._sync_later(raw)
        self._send_sync(raw)
        return None

    def _send_sync(self, raw: bytes) -> None:
        state = self._state
        state.unknown_executes = 0
        state.send(raw, Expectation(Kind.SYNC))

    def _breakable(self) -> bool:
        """Whether a result on its way may turn out not to open while the batch holds executions that a Sync would commit."""
        if not self._state.unknown_executes:
            return False
        return any(
            e.run is not None and e.run.plan is not None and e.run.plan.opens for e in self._state.pipeline.batch()
        )

    def _sync_later(self, raw: bytes) -> Steps:
        state = self._state
        judging = self._judging
        if not state.ignores():
            judging.flush()
            yield lambda: state.ignores() or (judging.writes_settled() and not self._breakable())
            if state.pipeline.sync_is_ignored():
                state.to_server.append(raw)  # the server began to read COPY data meanwhile
                return
        if state.broken:
            # The client was told of an error: the batch must not be committed.
            if not state.pipeline.ignoring:
                state.send_failing(Route.SKIP)
            state.broken = False
        self._send_sync(raw)

    def _close(self, raw: bytes) -> None:
        state = self._state
        target = messages.parse_target(raw[5:])
        undo = state.statements.remove(target.name) if target.kind == b"S" else state.portals.remove(target.name)
        state.send(raw, Expectation(Kind.CLOSE, undo=undo))


def _may_hurt_others(decision: Pass | Admit) -> bool:
    """Whether the text holds several statements of which one at least is not known to only read."""
    if isinstance(decision, Admit):
        return len(decision.plans) > 1 and any(p is None or p.writes for p in decision.plans)
    return decision.statements > 1
