"""One connection after its authentication, without I/O: bytes in, bytes out, and what it waits for.

    client --> Frontend: judged, sealed, sent on, leaving an expectation --> server
    client <-- Backend: met with the expectation, checked, opened        <-- server

What is held back, and until when:

    the client's next messages   while settings are asked for, the catalog is read anew, a record of a write is not durable, a result is
                                 computed, or the server is being brought into the state that the client was told
    the server's next messages   while the record of the statement that they answer is not durable
"""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from proxy.errors import LimitError, ProtocolError, ServerLost
from proxy.session.backend import Backend
from proxy.session.collect import Budget
from proxy.session.frontend import Frontend
from proxy.session.gate import BadValue
from proxy.session.lane import Lane, PassingTexts
from proxy.session.limits import SessionLimits
from proxy.session.metering import Unmetered
from proxy.session.pipeline import Expectation, Kind
from proxy.session.prepared import ComputeCache
from proxy.session.state import SessionObserver, SilentObserver, State
from proxy.session.trail import Identity, Recorder, Trail
from proxy.session.witness import DescriptionCache
from proxy.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.computing import Calculator
    from proxy.session.gate import Judge
    from proxy.session.metering import LookupMeter
    from proxy.session.values import ValueCodec
    from proxy.wire.messages import CancelRequest

_AHEAD: Final = 64 << 10  # bytes of the client that are read while it waits
_ALONE: Final = 512 << 20  # bytes of fetched rows, for a session that shares them with none

__all__ = ["Identity", "Recorder", "Session", "SessionObserver"]


class Session:
    """A session between AuthenticationOk and the end. After each call, take `to_client` and `to_server` and look at the wants."""

    __slots__ = ("_backend", "_frontend", "_lane", "_later", "_pump", "_running", "_state", "_turn_due")

    def __init__(
        self,
        *,
        judge: Judge,
        codec: ValueCodec,
        identity: Identity,
        recorder: Recorder,
        clock: Callable[[], float],
        limits: SessionLimits | None = None,
        observer: SessionObserver | None = None,
        cache: DescriptionCache | None = None,
        calculator: Calculator | None = None,
        computed: ComputeCache | None = None,
        budget: Budget | None = None,
        pump: Callable[[], None] = lambda: None,
        later: Callable[[Callable[[], None]], object] | None = None,
        meter: LookupMeter | None = None,
        passing: PassingTexts | None = None,
        fast: bool = True,
    ) -> None:
        """`fast`: with the fast lane, which changes nothing but what a request costs."""
        self._pump = pump
        self._later = later  # has a function called when others have had their turn, and what has come has been read
        self._turn_due = False
        self._running = False
        self._state = State(
            judge=judge,
            codec=codec,
            identity=identity,
            trail=Trail(recorder, identity),
            clock=clock,
            limits=SessionLimits() if limits is None else limits,
            observer=SilentObserver() if observer is None else observer,
            cache=DescriptionCache() if cache is None else cache,
            calculator=calculator,
            computed=ComputeCache() if computed is None else computed,
            budget=Budget(_ALONE) if budget is None else budget,
            wake=self._computed,
            meter=Unmetered() if meter is None else meter,
        )
        self._state.pipeline.sent(Expectation(Kind.STARTUP))
        self._lane = Lane(self._state, PassingTexts() if passing is None else passing, enabled=fast)
        self._frontend = Frontend(self._state, self._lane, sliced=later is not None)
        self._backend = Backend(self._state, self._lane)

    # -- output ----------------------------------------------------------------------------------------------------------------------

    @property
    def to_client(self) -> list[bytes]:
        """Bytes for the client, in order; whoever sends them empties the list."""
        return self._state.to_client

    @to_client.setter
    def to_client(self, pieces: list[bytes]) -> None:
        self._state.to_client = pieces

    @property
    def to_server(self) -> list[bytes]:
        """Bytes for the server, in order; whoever sends them empties the list."""
        return self._state.to_server

    @to_server.setter
    def to_server(self, pieces: list[bytes]) -> None:
        self._state.to_server = pieces

    @property
    def wants_client(self) -> bool:
        """False while nothing more should be read from the client.

        While it has to wait a little is, as that is how its leaving is noticed.
        """
        frontend = self._frontend
        if self._state.closing is not None:
            return False
        return not (frontend.waiting or frontend.paused) or frontend.buffered < _AHEAD

    @property
    def wants_server(self) -> bool:
        """False while nothing more should be read from the server."""
        return self._state.closing is None and not self._backend.held

    @property
    def closing(self) -> str | None:
        """Why the connection must end, once the output is flushed; None while it goes on."""
        return self._state.closing

    @property
    def may_speak(self) -> bool:
        """Whether what went to the client ends between two messages."""
        return self._state.fatal_allowed

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way: no transaction, no request without its answer, no part of one. Ending now takes nothing away."""
        state, frontend = self._state, self._frontend
        pipeline = state.pipeline
        return (
            not self._lane.units
            and pipeline.idle
            and pipeline.status == b"I"
            and not frontend.waiting
            and not frontend.buffered
            and frontend.at_boundary
            and state.computation is None
            and state.closing is None
            and state.fatal_allowed
        )

    @property
    def started(self) -> bool:
        """Whether the server has let the login in for good: after authentication it may still refuse the role or the database."""
        head = self._state.pipeline.head
        return head is None or head.kind is not Kind.STARTUP

    @property
    def standing(self) -> tuple[bool | None, bool | None]:
        """What the server has reported of itself: in_hot_standby and default_transaction_read_only; None: nothing."""
        return self._state.tracker.standby, self._state.tracker.read_only

    @property
    def ended_with(self) -> str | None:
        """The SQLSTATE of the FATAL error with which the server ended the connection, if it has."""
        return self._backend.ended_with

    @property
    def catalog_stale(self) -> bool:
        """Whether the catalog must be read again, for DDL of this session or a relation that it does not know: then call `catalog_refreshed`."""
        return self._state.catalog_stale

    @property
    def outdated(self) -> int:
        """Grows each time that the session asks for the catalog: a reading that began before answers only what was asked until then."""
        return self._state.outdated

    # -- input -----------------------------------------------------------------------------------------------------------------------

    def client_received(self, data: bytes) -> bool:
        """Bytes came from the client; whether they have just passed, so that nothing but the outputs is another than before."""
        lane = self._lane
        if lane.is_open:
            taken = lane.client(data)
            if taken == len(data):
                return True
            data = data[taken:]
        self._leave()
        self._frontend.feed(data)
        self._run(self._frontend)
        if self._frontend.waiting and self._frontend.buffered > self._state.limits.held_client:
            self._state.fatal(LimitError("too much was sent while pgveil had to wait"))
        return False

    def server_received(self, data: bytes) -> bool:
        """Bytes came from the server; whether they have just passed."""
        lane = self._lane
        if lane.units:
            if lane.server(data):
                return True
            data = lane.leave()
        waited = self._frontend.waiting
        self._backend.feed(data)
        self._run(self._backend)
        if waited:
            self._run(self._frontend)
        if self._backend.held and self._backend.buffered > self._state.limits.held_server:
            self._state.fatal(LimitError("the server sent too much while pgveil had to wait"))
        return False

    def client_eof(self) -> None:
        """The client will send nothing more. The server is told, so that it need not wait for the rest of a message."""
        state = self._state
        if state.closing is None:
            if not self._frontend.ended and self._frontend.at_boundary:
                state.to_server.append(messages.TERMINATE)
            state.end_runs("disconnected")
            state.closing = "client_gone"

    def server_eof(self) -> None:
        """The server will send nothing more. The client is told, unless the server has, or a message was cut."""
        state = self._state
        if state.closing is not None:
            return
        if self._backend.ended or self._frontend.ended:
            state.end_runs("disconnected")
        else:
            lost = ServerLost("the PostgreSQL server closed the connection")
            state.end("server_gone", lost.response(), lost.sqlstate)
        state.closing = "server_gone"

    def audit_durable(self, seq: int) -> None:
        """Every audit record up to `seq` is durable."""
        self._state.trail.became_durable(seq)
        lane = self._lane
        if lane.units and lane.server(b""):
            return
        self._run()

    def audit_failed(self) -> None:
        """The audit log cannot write: what waits for a record will not get it. Later records may be taken again."""
        self._state.trail.failed()
        self._run()

    def catalog_refreshed(self) -> None:
        """The judge knows the catalog as it is now."""
        self._state.catalog_stale = False
        self._backend.catalog_looked_at()
        self._run()

    def judged_by(self, judge: Judge, *, at_once: bool = False) -> None:
        """Newer rules are in force, for what begins from now on; what is on its way goes on under the older ones, unless `at_once`."""
        state = self._state
        state.successor = judge
        if at_once:
            state.succeed()
        self._run()

    @property
    def judge(self) -> Judge:
        """Who judges now."""
        return self._state.judge

    @property
    def judges(self) -> frozenset[Judge]:
        """Everybody whose decisions are on their way or open: the one that judges now, and those of open portals."""
        state = self._state
        return frozenset((state.judge, *(p.judge for p in state.portals if p.judge is not None)))

    def catalog_unreachable(self) -> None:
        """The catalog can't be read now. Statements wait on; a result that came already is judged by what is known, or withheld."""
        self._state.catalog_lost = True
        self._backend.catalog_given_up()
        self._run()

    def cancel(self, request: CancelRequest) -> bool:
        """Somebody asks for the end of what runs; whether it was this session's, and a computation. Else it is the server's to end."""
        state = self._state
        key = state.cancel_key
        if key is None or key.process_id != request.process_id or not compare_digest(key.key, request.key):
            return False
        if state.computation is None or state.closing is not None:
            return False
        state.cancelled = True
        self._run()
        self._pump()
        return True

    def abandoned(self) -> None:
        """The connection is gone, however it ended: nobody waits for a computation any longer."""
        computation, self._state.computation = self._state.computation, None
        if computation is not None:
            computation.cancel()

    def _computed(self) -> None:
        """The calculator has an outcome. One that it has at once is found by who asked."""
        if not self._running:
            self._run()
            self._pump()

    def _leave(self) -> None:
        """What is in the fast lane goes into the slow one."""
        kept = self._lane.leave()
        if kept:
            self._backend.feed(kept)

    def _run(self, *sides: Backend | Frontend) -> None:
        """Let a direction go as far as it can. The server's never waits for the client's; the other way round it does."""
        self._running = True
        self._leave()
        try:
            for side in sides or (self._backend, self._frontend):
                side.pump()
        except ProtocolError as error:
            self._state.fatal(error)
        except BadValue as bad:
            self._state.fatal_report(bad.sqlstate, bad.message, bad.detail)
        finally:
            self._running = False
        state = self._state
        if state.successor is not None and self._frontend.rest() and state.pipeline.head is None:
            state.succeed()
        self._lane.look(quiet=self._frontend.quiet and self._backend.quiet)
        if self._frontend.paused and not self._turn_due and self._later is not None:
            self._turn_due = True
            self._later(self._turn)

    def _turn(self) -> None:
        """The client's next messages, after everybody else's; none if it has left meanwhile."""
        self._turn_due = False
        self._run(self._frontend)
        self._pump()
