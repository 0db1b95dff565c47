"""What the two directions of a session share: the books, the pipeline, the outputs, and the few ways in which they act on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from audit.errors import AuditUnavailable
from proxy.errors import error_response
from proxy.session.gate import Pass
from proxy.session.pipeline import UNTIL_READY, Expectation, Kind, Pipeline, Route
from proxy.session.replies import REFUSED_NAME, REFUSED_TEXT
from proxy.session.settings import SettingsTracker
from proxy.session.statements import Book, Portal, PreparedStatement, Run
from proxy.wire import messages
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from audit.event import Outcome
    from proxy.errors import PgveilError
    from proxy.session.collect import Budget
    from proxy.session.computing import Calculator, Computation
    from proxy.session.gate import Admit, Judge
    from proxy.session.limits import SessionLimits
    from proxy.session.metering import LookupMeter
    from proxy.session.prepared import ComputeCache
    from proxy.session.trail import Identity, Trail
    from proxy.session.values import ValueCodec
    from proxy.session.witness import DescriptionCache
    from proxy.wire.messages import BackendKey
    from rules.model import Principal
    from rules.plan import Action

AUDIT_DOWN: Final = Refusal(
    Reason.AUDIT,
    "58030",
    "the audit log cannot be written, so statements on protected data cannot run",
    hint="Statements that touch nothing protected go on. Tell the operator of pgveil.",
)


class SessionObserver(Protocol):
    """What a session reports. Every call is cheap and none raises; times in seconds."""

    def statement(self, action: Action | None, added: float, server: float) -> None:
        """A statement ended: seconds that pgveil added and that the server took. None: it touched nothing protected."""

    def passed(self, count: int) -> None:
        """So many statements ended that touched nothing protected."""

    def refused(self, reason: Reason) -> None:
        """A statement was refused."""

    def opened(self, values: int) -> None:
        """Sealed values opened for a result."""

    def sealed(self, values: int) -> None:
        """Parameters sealed for the server."""

    def error(self, sqlstate: str) -> None:
        """The client was sent an ErrorResponse."""

    def message_objects(self, count: int) -> None:
        """Messages that were rebuilt, or given objects beyond the pipeline's own entry."""


class SilentObserver:
    """Reports nothing."""

    def statement(self, action: Action | None, added: float, server: float) -> None:
        """Nothing."""

    def passed(self, count: int) -> None:
        """Nothing."""

    def refused(self, reason: Reason) -> None:
        """Nothing."""

    def opened(self, values: int) -> None:
        """Nothing."""

    def sealed(self, values: int) -> None:
        """Nothing."""

    def error(self, sqlstate: str) -> None:
        """Nothing."""

    def message_objects(self, count: int) -> None:
        """Nothing."""


class State:
    """The session's memory. `frontend` and `backend` read and change it; nobody else does."""

    __slots__ = (
        "_principal",
        "_principal_generation",
        "broken",
        "budget",
        "cache",
        "calculator",
        "cancel_key",
        "cancelled",
        "catalog_lost",
        "catalog_stale",
        "clock",
        "closing",
        "codec",
        "computation",
        "computed",
        "ddl_in_flight",
        "ddl_ran",
        "fatal_allowed",
        "hold_client",
        "identity",
        "judge",
        "limits",
        "meter",
        "names_version",
        "new_views",
        "observer",
        "outdated",
        "pipeline",
        "portals",
        "recorded",
        "renaming_sent",
        "statements",
        "successor",
        "to_client",
        "to_server",
        "tracker",
        "trail",
        "under_way",
        "unknown_executes",
        "wake",
        "witnessed",
    )

    def __init__(
        self,
        *,
        judge: Judge,
        codec: ValueCodec,
        identity: Identity,
        trail: Trail,
        clock: Callable[[], float],
        limits: SessionLimits,
        observer: SessionObserver,
        cache: DescriptionCache,
        calculator: Calculator | None,
        computed: ComputeCache,
        budget: Budget,
        wake: Callable[[], None],
        meter: LookupMeter,
    ) -> None:
        self.judge = judge
        self.successor: Judge | None = None  # judges by newer rules, from the next statement on
        self.codec = codec
        self.identity = identity
        self.trail = trail
        self.clock = clock
        self.limits = limits
        self.observer = observer
        self.cache = cache
        self.calculator = calculator
        self.computed = computed
        self.meter = meter
        self.budget = budget
        self.wake = wake  # for the calculator: the computation has finished
        self.computation: Computation | None = None  # what the client waits for
        self.under_way: Run | None = None  # the execution whose rows are being computed on
        self.recorded: dict[
            int, Run
        ] = {}  # executions that the audit log says have started and not that they have ended
        self.cancelled = False  # the client gave the computation up
        self.cancel_key: BackendKey | None = None  # as the server gave it to the client
        self.pipeline = Pipeline()
        self.statements: Book[PreparedStatement] = Book()
        self.portals: Book[Portal] = Book(self._let_go)
        self.tracker = SettingsTracker()
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.closing: str | None = None
        self.catalog_stale = False
        self.catalog_lost = False  # it could not be read when it was asked for
        self.outdated = 0  # grows each time that something asks for the catalog
        self.ddl_in_flight = False  # DDL was sent and the pipeline has not been quiet since
        self.ddl_ran = False  # DDL has run and may not have been committed yet
        self.new_views = False  # some of it was over protected columns: what it made is in no catalog yet
        self.broken = False  # an error of ours ended the batch: the client's messages are dropped up to its sync
        self.hold_client = False  # the server must first be brought into the state that the client was told
        self.unknown_executes = 0  # executions in this batch that are not known to only read
        self.renaming_sent = False  # something that changes them was sent and may not have been answered
        self.names_version = 0  # grows with each name that SQL makes or drops
        # Writes whose columns the server has described in this transaction, whose locks keep that true; and the judge's generation then.
        self.witnessed: set[tuple[bytes, int]] = set()
        self.fatal_allowed = True  # false while the client has had a part of a message
        self._principal: Principal | None = None
        self._principal_generation = -1

    @property
    def principal(self) -> Principal:
        """Who asks, under the rules in force."""
        generation = self.judge.generation
        if self._principal is None or self._principal_generation != generation:
            self._principal = self.judge.principal(self.identity.login)
            self._principal_generation = generation
        return self._principal

    def succeed(self) -> None:
        """Take up the newer rules: nothing is on its way that was judged by the older. Portals that are open keep their judge."""
        if self.successor is None:
            return
        for portal in self.portals:
            portal.judge = portal.judge or self.judge
        for statement in self.statements:
            statement.judge = None
        self.judge, self.successor = self.successor, None

    def outdate(self) -> None:
        """Ask for the catalog as it is from now on."""
        self.catalog_stale = True
        self.outdated += 1

    def afterwards(self, decision: Pass | Admit) -> None:
        """A text was sent: settings that it may have changed, and what names stand for where it may have changed that, are known no longer."""
        tracker = self.tracker
        if isinstance(decision, Pass):
            tracker.shadows |= decision.shadows
        if decision.unsettles and not decision.forms:
            tracker.meaning_touched = True
            self.witnessed.clear()
            for portal in self.portals:
                portal.trusted = False
        if decision.unsettles or (decision.ends and tracker.touched):
            tracker.unsettle(views=decision.unsettles and not decision.forms)

    def distrusted(self, portal: Portal) -> None:
        """Another portal may bear its name: what follows is an execution of its own."""
        portal.trusted = True
        self._let_go(portal)

    def ignores(self) -> bool:
        """Whether the client's messages mean nothing until its next sync."""
        return self.pipeline.ignoring or self.broken

    def names_pending(self) -> bool:
        """Whether something under way may change the names that SQL gives."""
        if self.renaming_sent:
            self.renaming_sent = any(entry.renaming is not None for entry in self.pipeline.waiting())
        return self.renaming_sent

    def end_portals(self, *, unnamed: bool = False) -> None:
        """A transaction has ended, and with it all portals but those that were bound since (`unnamed`: that one was), and cursors WITH HOLD."""
        if not len(self.portals):
            return
        waiting = self.pipeline.waiting()
        kept = {e.portal.name for e in waiting if e.kind is Kind.BIND and e.portal is not None} if waiting else set()
        if unnamed:
            kept.add(b"")
        held = {p.name for p in self.portals if p.statement is not None and p.statement.hold}
        for portal in self.portals:
            if portal.name not in held:
                portal.judge = None
        self.portals.keep(kept | held)

    def forget_unnamed(self) -> Callable[[], None] | None:
        """A simple Query destroys the unnamed statement and portal (PostgreSQL 55.2.3); returns what takes that back."""
        statement = self.statements.remove(b"")
        portal = self.portals.remove(b"")
        if statement is None or portal is None:
            return statement or portal

        def undo() -> None:
            statement()
            portal()

        return undo

    def send(self, data: bytes, expectation: Expectation) -> None:
        """A message to the server that will be answered."""
        self.to_server.append(data)
        if self.witnessed and _may_let_go(expectation):
            self.witnessed.clear()
        if expectation.renaming is not None:
            self.renaming_sent = True
        if self.tracker.touched and expectation.kind in UNTIL_READY and expectation.route is not Route.SKIP:
            # Where it ends a transaction, an error before it has undone what was set, and SET LOCAL is over.
            self.tracker.doubt = True
        self.pipeline.sent(expectation)

    def send_failing(self, route: Route) -> None:
        """Make the server fail, by a Parse of a text that it cannot analyse."""
        self.send(messages.build_parse(REFUSED_NAME, REFUSED_TEXT), Expectation(Kind.PARSE, route))

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal."""
        self.observer.refused(refusal.reason)
        self.observer.error(refusal.sqlstate)

    def refuse_error(self, error: bytes, sqlstate: str) -> bytes:
        """Count an error of ours on its way to the client."""
        self.observer.error(sqlstate)
        return error

    def fatal(self, error: PgveilError) -> None:
        """End the session with an error."""
        self.end("FATAL: " + error.message, error.response(), error.sqlstate)

    def fatal_report(self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None) -> None:
        """End the session with an error made here."""
        response = error_response(sqlstate, message, severity="FATAL", detail=detail, hint=hint)
        self.end("FATAL: " + message, response, sqlstate)

    def end(self, why: str, response: bytes, sqlstate: str) -> None:
        """The first end counts. The client gets its error unless it has been sent a part of a message."""
        if self.closing is not None:
            return
        self.closing = why
        self.to_server.clear()
        if self.fatal_allowed:
            self.to_client.append(self.refuse_error(response, sqlstate))
        self.end_runs("disconnected")

    def start_run(
        self, admit: Admit, arrived: float, *, counts: bool = False, portal: Portal | None = None
    ) -> tuple[Run | None, int]:
        """Record the start of each statement of a text: the execution, and the ticket of its last record. None: it cannot be recorded.

        A portal whose execution has not ended goes on with it: it is suspended, or was sent and may be so when its next rows are asked for.
        """
        going_on = None if portal is None else portal.run
        if portal is not None and going_on is not None:
            same = going_on.admit.shape == admit.shape and going_on.admit.generation == admit.generation
            if same and not going_on.over:
                going_on.sent = self.clock()
                return going_on, 0
            self._let_go(portal)
        ids: list[int] = []
        ticket = 0
        for plan in admit.plans:
            number = 0
            if plan is not None and plan.touched:
                try:
                    ticket, number = self.trail.start(self.principal, plan, admit.shape)
                except AuditUnavailable:
                    self.end_run(Run(admit, tuple(ids), arrived), "error", "58030")
                    return None, 0
            ids.append(number)
        run = Run(admit, tuple(ids), arrived, sent=self.clock(), counts=counts and ticket > 0, portal=portal)
        if portal is not None:
            portal.run = run
        if ticket:
            self.recorded[run.number] = run
        return run, ticket

    def take_up(self, head: Expectation, run: Run) -> bool:
        """An Execute that was to go on with the execution before it is to be answered. Where that has ended, it is one of its own; whether it may be."""
        head.shares = False
        if not run.over:
            return True
        portal = head.portal
        if portal is not None and self.portals.get(portal.name) is not portal:
            portal = None  # nobody can ask it for more
        head.run, head.ticket = self.start_run(run.admit, self.clock(), counts=True, portal=portal)
        return head.run is not None

    def end_runs(self, outcome: Outcome) -> None:
        """Every execution under way is over."""
        computation, self.computation = self.computation, None
        if computation is not None:
            computation.cancel()
        run, self.under_way = self.under_way, None
        if run is not None:
            self.end_run(run, outcome, None)
        for entry in self.pipeline.waiting():
            if entry.run is not None:
                self.end_run(entry.run, outcome, None)
                entry.run = None
        # And those that were still waiting for their record.
        for run in tuple(self.recorded.values()):
            self.end_run(run, outcome, None)

    def end_run(self, run: Run, outcome: Outcome, sqlstate: str | None, rows: int | None = None) -> None:
        """The current statement of a run, and where it did not succeed all that follow, are over.

        A portal that is suspended goes on with its execution: that ends with its last rows, or with the portal.
        """
        if run.ids and run.over:
            return
        if outcome == "suspended" and (run.portal is not None or self._awaited(run)):
            self._suspend(run, rows)
            return
        now = self.clock()
        rows = rows if rows is None and not run.before else (rows or 0) + run.before
        last = run.index + 1 if outcome in ("ok", "suspended") else len(run.ids)
        for position in range(run.index, min(last, len(run.ids))):
            number = run.ids[position]
            if number:
                self.trail.end(number, rows, now - run.arrived, outcome, sqlstate)
        plan = run.plan
        sent = run.sent or now
        self.observer.statement(None if plan is None else plan.action, sent - run.arrived, now - sent)
        run.index = last
        if last >= len(run.ids):
            self.recorded.pop(run.number, None)
        run.shown = None
        run.rows = run.before = 0

    def _suspend(self, run: Run, rows: int | None) -> None:
        plan, now = run.plan, self.clock()
        self.observer.statement(None if plan is None else plan.action, 0.0, now - (run.sent or now))
        run.before += rows or 0
        run.shown = None
        run.rows = 0

    def _awaited(self, run: Run) -> bool:
        """Whether more of its rows have been asked for than those that are answered now."""
        head = self.pipeline.head
        return any(entry.run is run and entry is not head for entry in self.pipeline.waiting())

    def _let_go(self, portal: Portal) -> None:
        """Nothing leads to a portal any longer: what it has not given yet, and has not been asked for, it never will."""
        run, portal.run = portal.run, None
        if run is None or run.over:
            return
        run.portal = None
        if run is not self.under_way and not any(entry.run is run for entry in self.pipeline.waiting()):
            self.end_run(run, "suspended", None)


def _may_let_go(entry: Expectation) -> bool:
    """Whether what is sent may end a transaction, or go back in it, and with it the locks that it holds."""
    return entry.kind in UNTIL_READY or (entry.kind is Kind.EXECUTE and entry.run is None)
