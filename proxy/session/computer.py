"""Statements that the server cannot compute: it gives the rows, the session opens them, the calculator runs the client's text over them.

    client            session                                     server                 calculator
    Query        -->  Parse Bind Describe Execute of the fetch -> (in the client's transaction)
                      rows, witnessed, opened, kept            <-
                      text, types, values                      --------------------->   runs it
    rows         <-   the answer, if the record is durable     <---------------------
                      Sync                                     ->
    Ready        <-                                            <-

No Sync is sent before the answer is known, so a failure of the calculator's is made one of the server's, and the transaction is in the state
that PostgreSQL would have left it in. The steps are the frontend's: nothing more is read of the client while they wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.session.collect import Collector, too_much
from proxy.session.computing import Answer, Question
from proxy.session.judging import PLAN_CHANGED
from proxy.session.localtext import (
    NOT_ALLOWED,
    LeafTypes,
    LocalText,
    client_error,
    compose,
    leaf_types,
    not_allowed,
    parameters_in,
    unknown_type,
    unsuitable,
)
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.prepared import TEXT_ARRAY_OID, TEXT_OID, Asked, Computed, Prepared, audited, fetch_of, fetching
from proxy.session.replies import REFUSED_NAME, REFUSED_TEXT, Trouble, refusal_response
from proxy.session.state import AUDIT_DOWN
from proxy.session.statements import Portal, PreparedStatement
from proxy.session.witness import disagreement
from proxy.wire import messages
from rules.encodings import encode_sql
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Sequence

    from audit.event import Outcome
    from proxy.session.computing import Calculator, Computation, Compute, Leaf
    from proxy.session.gate import Admit
    from proxy.session.judging import Judging, Steps
    from proxy.session.state import State
    from proxy.session.statements import Run
    from proxy.wire.messages import Field

    Cells = Sequence[Sequence[bytes | None]]

FETCH_NAME: Final = b"pgveil_fetch"
LEAF_NAME: Final = b"pgveil_leaf"
_CANCELLED: Final = Trouble("57014", "canceling statement due to user request")


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a computed statement ends with an error that is not the server's. `refusal`: where pgveil would not or could not do it."""

    sqlstate: str
    response: bytes
    refusal: Refusal | None = None


class Computer:
    """Runs one session's computed statements."""

    __slots__ = ("_judging", "_state")

    def __init__(self, state: State, judging: Judging) -> None:
        self._state = state
        self._judging = judging
        judging.renew = self.renew

    # -- simple queries --------------------------------------------------------------------------------------------------------------

    def query(self, compute: Compute, arrived: float) -> Steps:
        """A Query whose one statement is computed. It ends with a Sync in the Query's place, whatever comes of it."""
        state = self._state
        yield from self._judging.settle_writes()
        if state.pipeline.unsynced:
            # An error of what was sent before would make the server ignore the Query up to a Sync of the client's.
            self._judging.flush()
            yield lambda: not len(state.pipeline) or state.ignores()
        if state.ignores():
            return
        self._forget_unnamed()
        state.unknown_executes = 0
        yield from self._query(compute, arrived)
        if state.broken:
            # The client was told of an error that the server does not know of.
            if not state.pipeline.ignoring:
                state.send_failing(Route.SKIP)
            state.broken = False
        state.send(messages.SYNC, Expectation(Kind.SYNC))

    def _forget_unnamed(self) -> None:
        """A simple Query destroys the unnamed statement and portal (PostgreSQL 55.2.3)."""
        state = self._state
        undo = state.forget_unnamed()
        for entry, kind in ((undo, b"S"), (None, b"P")):
            state.send(messages.build_close(kind, b""), Expectation(Kind.CLOSE, Route.GUARD, undo=entry))

    def _query(self, compute: Compute, arrived: float) -> Steps:
        state = self._state
        run, ticket = self._judging.start(audited(compute), arrived, counts=True)
        if run is None:
            self._fail(_refused(AUDIT_DOWN), compute, None)
            return
        fetch = fetch_of(compute)
        statement = PreparedStatement(FETCH_NAME, fetch.text, (), fetch, state.tracker.settings, state.judge.generation)
        portal = Portal(FETCH_NAME, statement)
        self._close(FETCH_NAME)
        self._ask(Kind.PARSE, messages.build_parse(FETCH_NAME, fetch.text), statement=statement)
        self._ask(Kind.BIND, messages.build_bind(FETCH_NAME, FETCH_NAME), portal=portal)
        self._ask(Kind.DESCRIBE_PORTAL, messages.build_describe(b"P", FETCH_NAME), portal=portal)
        leaves = [statement] if compute.together is None else [self._describe(leaf, ()) for leaf in compute.leaves]
        collector = self._execute(portal, run, ticket)
        self._close(FETCH_NAME)
        yield from self._collected(collector)
        if not collector.complete or state.ignores():
            return
        state.under_way = run
        outcome: Prepared | Answer | Failed = yield from self._local(compute, leaves, (), 0)
        if isinstance(outcome, Prepared):
            outcome = yield from self._run(outcome, compute, collector, Asked((), (), ()))
        if isinstance(outcome, Failed):
            self._fail(outcome, compute, run)
            return
        self._end(run, "ok", len(outcome.rows))
        state.to_client.append(outcome.description)
        state.to_client += outcome.rows
        state.to_client.append(messages.build_command_complete(outcome.tag))

    # -- prepared statements ---------------------------------------------------------------------------------------------------------

    def prepare(
        self, compute: Compute, declared: tuple[int, ...]
    ) -> Generator[Callable[[], bool], None, Computed | Failed | None]:
        """Learn the leaves' columns, the parameters' and the result's types; None where the server ended the batch meanwhile.

        `declared`: the parameter types of the client's Parse.
        """
        state = self._state
        key = self._key(compute, declared)
        known = state.computed.find(key)
        if known is not None:
            return Computed(compute, declared, known)
        leaves = [self._describe(leaf, declared) for leaf in compute.leaves]
        state.to_server.append(messages.FLUSH)
        yield lambda: state.ignores() or all(leaf.verified for leaf in leaves)
        if state.ignores():
            return None
        begun = yield from self._local(compute, leaves, declared, max(compute.parameters, len(declared)))
        if isinstance(begun, Failed):
            return begun
        question = self._question(begun)
        outcome = yield from self._answer(lambda c, wake: c.describe(question, wake), begun.local)
        if isinstance(outcome, Failed):
            return outcome
        prepared = begun.described_by(outcome)
        state.computed.keep(key, prepared)
        return Computed(compute, declared, prepared)

    def _key(self, compute: Compute, declared: tuple[int, ...]) -> Hashable:
        state = self._state
        return (
            state.judge.generation,
            state.principal.policy.id,
            state.tracker.settings,
            declared,
            compute.text,
            compute.offsets,
            tuple(leaf.fetch.text for leaf in compute.leaves),
            None if compute.together is None else compute.together.text,
            state.tracker.output.date_style.startswith("ISO"),
            state.tracker.output.extra_float_digits > 0,
        )

    def parse(self, message: messages.Parse, compute: Compute) -> Steps:
        """A Parse of a statement that is computed: the fetch bears the client's name at the server."""
        state = self._state
        if not message.name:
            # The server drops the unnamed statement before it looks at the text that would replace it.
            undo = state.statements.remove(b"")
            state.send(messages.build_close(b"S", b""), Expectation(Kind.CLOSE, Route.GUARD, undo=undo))
        computed = yield from self.prepare(compute, message.types)
        if computed is None or state.ignores():
            return
        if isinstance(computed, Failed):
            self._fail(computed, compute, None)
            return
        fetch = fetch_of(compute)
        prepared = computed.prepared
        statement = PreparedStatement(
            message.name,
            message.text,
            prepared.types,
            fetch,
            state.tracker.settings,
            state.judge.generation,
            computed=computed,
        )
        types = _server_types(fetch, prepared.types, prepared.fetched)
        undo = state.statements.put(message.name, statement)
        state.observer.message_objects(1)
        state.send(
            messages.build_parse(message.name, fetch.text, types),
            Expectation(Kind.PARSE, statement=statement, undo=undo),
        )

    def renew(
        self, statement: PreparedStatement, compute: Compute
    ) -> Generator[Callable[[], bool], None, Refusal | None]:
        """See that a statement still is what the client was told of it, under the decision that holds now."""
        computed = statement.computed
        assert computed is not None
        again = yield from self.prepare(compute, computed.declared)
        if again is None:
            return None
        old = computed.prepared
        if isinstance(again, Failed):
            return again.refusal or PLAN_CHANGED
        new = again.prepared
        if new.types != old.types or new.fields != old.fields or new.fetched != old.fetched:
            return PLAN_CHANGED
        statement.computed = again
        return None

    # -- portals ---------------------------------------------------------------------------------------------------------------------

    def execute(self, portal: Portal, limit: int, arrived: float) -> Steps:
        """Run a portal, or go on with one. Each Execute of the client's is one of the server's, whose word on the portal counts."""
        state = self._state
        statement, asked = portal.statement, portal.asked_for
        assert statement is not None
        assert asked is not None
        computed = statement.computed
        assert computed is not None
        run, ticket = self._judging.start(audited(computed.compute), arrived, counts=True)
        if run is None:
            self._fail(_refused(AUDIT_DOWN), computed.compute, None)
            return
        collector = self._execute(portal, run, ticket)
        yield from self._collected(collector)
        if not collector.complete or state.ignores():
            return
        state.under_way = run
        if asked.rows is None:
            outcome = yield from self._run(computed.prepared, computed.compute, collector, asked)
            if isinstance(outcome, Failed):
                self._fail(outcome, computed.compute, run)
                return
            asked.rows = deque(outcome.rows)
        self._release(asked, run, limit)

    def _release(self, asked: Asked, run: Run, limit: int) -> None:
        """The portal's next rows. It is suspended whenever the limit is reached, as the server's would be."""
        state = self._state
        rows = asked.take(limit)
        state.to_client += rows
        if 0 < limit == len(rows):
            self._end(run, "suspended", len(rows))
            state.to_client.append(messages.PORTAL_SUSPENDED)
        else:
            self._end(run, "ok", len(rows))
            state.to_client.append(messages.build_command_complete(b"SELECT %d" % len(rows)))

    # -- at the server ---------------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        kind: Kind,
        data: bytes,
        *,
        statement: PreparedStatement | None = None,
        portal: Portal | None = None,
    ) -> None:
        """Send a message of ours within the client's batch: its answer is nobody's, its error the client's."""
        self._state.send(data, Expectation(kind, Route.GUARD, statement=statement, portal=portal))

    def _close(self, name: bytes) -> None:
        """Close a statement and a portal of ours; what an error left open once, too."""
        self._ask(Kind.CLOSE, messages.build_close(b"P", name))
        self._ask(Kind.CLOSE, messages.build_close(b"S", name))

    def _describe(self, leaf: Leaf, declared: tuple[int, ...]) -> PreparedStatement:
        """Ask for a leaf's columns; the statement is `verified` when they are there."""
        state = self._state
        fetch = fetching(leaf.fetch)
        statement = PreparedStatement(LEAF_NAME, fetch.text, (), fetch, state.tracker.settings, state.judge.generation)
        types = _server_types(fetch, declared, parameters_in(fetch.text, state.tracker.settings))
        close = messages.build_close(b"S", LEAF_NAME)
        self._ask(Kind.CLOSE, close)
        self._ask(Kind.PARSE, messages.build_parse(LEAF_NAME, fetch.text, types), statement=statement)
        self._ask(Kind.DESCRIBE_STATEMENT, messages.build_describe(b"S", LEAF_NAME), statement=statement)
        self._ask(Kind.CLOSE, close)
        return statement

    def _execute(self, portal: Portal, run: Run, ticket: int) -> Collector:
        """Fetch all rows of a portal. The limit is one more than may come, so that the server never sends much more."""
        state = self._state
        collector = Collector(state.limits)
        entry = Expectation(
            Kind.EXECUTE, Route.GUARD, portal=portal, run=run, ticket=ticket, collector=collector, undo=collector.drop
        )
        state.send(messages.build_execute(portal.name, state.limits.collected_rows + 1), entry)
        return collector

    def _collected(self, collector: Collector) -> Steps:
        self._state.to_server.append(messages.FLUSH)
        yield lambda: collector.finished or self._state.ignores()

    # -- at the calculator -----------------------------------------------------------------------------------------------------------

    def _local(
        self, compute: Compute, leaves: Sequence[PreparedStatement], declared: tuple[int, ...], parameters: int
    ) -> Generator[Callable[[], bool], None, Prepared | Failed]:
        """The text for the calculator, from the leaves' descriptions; of so many parameters of the client's the types as far as known."""
        state = self._state
        settings = state.tracker.settings
        found = [leaf_types(leaf, _fields(s), settings) for leaf, s in zip(compute.leaves, leaves, strict=True)]
        columns = [c for c in found if c is not None]
        if len(columns) != len(found):
            return _troubled(disagreement(None))
        for of in columns:
            refusal = unsuitable(of, state.tracker.output)
            if refusal is not None:
                return _refused(refusal)
        spelled = yield from self._spelled(columns)
        if isinstance(spelled, Failed):
            return spelled
        local = compose(compute, spelled, parameters, settings)
        if isinstance(local, Refusal):
            return _refused(local)
        fetched = parameters_in(fetch_of(compute).text, settings) if parameters else frozenset()
        computed = (
            parameters_in(encode_sql(compute.text, settings.client_encoding), settings) if parameters else fetched
        )
        types = tuple(
            _declared(n, declared) or (0 if n in computed else _inferred(n, leaves)) for n in range(1, parameters + 1)
        )
        return Prepared(local, types, (), fetched, computed, tuple(len(c.names) for c in columns))

    def _spelled(
        self, columns: Sequence[LeafTypes]
    ) -> Generator[Callable[[], bool], None, list[list[tuple[str, str]]] | Failed]:
        """The leaves' columns with the SQL names of their types."""
        known = self._state.computed
        wanted = tuple(dict.fromkeys(t for of in columns for t in of.types if known.spelling(t) is None))
        if wanted:
            outcome = yield from self._answer(lambda c, wake: c.type_names(wanted, wake), None)
            if isinstance(outcome, Failed):
                return outcome
            for type_, name in zip(wanted, outcome.rows, strict=True):
                known.spell(type_, name.decode())
        spelled = [[(n, known.spelling(t) or "") for n, t in zip(of.names, of.types, strict=True)] for of in columns]
        unknown = [name for of in spelled for name, spelling in of if not spelling]
        return _refused(unknown_type(unknown[0])) if unknown else spelled

    def _question(self, prepared: Prepared) -> Question:
        tracker = self._state.tracker
        return Question(
            prepared.local.text,
            tracker.output,
            prepared.local_types,
            standard_conforming_strings=tracker.settings.standard_conforming_strings,
        )

    def _run(
        self, prepared: Prepared, compute: Compute, collector: Collector, asked: Asked
    ) -> Generator[Callable[[], bool], None, Answer | Failed]:
        """Let the calculator run the statement over what was collected."""
        if collector.more:
            return _troubled(too_much(f"{self._state.limits.collected_rows} rows"))
        arrays = _arrays(prepared.widths, collector, together=compute.together is not None)
        if arrays is None:
            return _troubled(disagreement(None))
        question = replace(
            self._question(prepared),
            values=asked.for_calculator(prepared.computed),
            formats=asked.formats,
            result_formats=asked.result_formats,
            arrays=arrays,
        )
        return (yield from self._answer(lambda c, wake: c.run(question, wake), prepared.local))

    def _answer(
        self, start: Callable[[Calculator, Callable[[], None]], Computation], local: LocalText | None
    ) -> Generator[Callable[[], bool], None, Answer | Failed]:
        """Ask the calculator and wait. `local`: the text that its errors are about."""
        state = self._state
        assert state.calculator is not None
        state.cancelled = False
        computation = state.computation = start(state.calculator, state.wake)
        yield lambda: computation.finished or state.cancelled
        state.computation = None
        if not computation.finished:
            computation.cancel()
            return _troubled(_CANCELLED)
        outcome = computation.outcome
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(outcome, Trouble):
            return _troubled(outcome)
        if outcome.sqlstate == NOT_ALLOWED:
            return _refused(not_allowed())
        if local is None:
            return _troubled(Trouble("58000", "the calculator did not answer as expected"))
        return Failed(outcome.sqlstate, client_error(outcome, local))

    # -- ends ------------------------------------------------------------------------------------------------------------------------

    def _fail(self, failed: Failed, compute: Compute, run: Run | None) -> None:
        """End the statement with an error that the server is made to give, so that its transaction is what it has to be."""
        state = self._state
        ticket = 0
        if failed.refusal is not None:
            number = run.ids[0] or None if run is not None and run.ids else None
            ticket = state.trail.refused(state.principal, failed.refusal, compute.shape, number)
            state.observer.refused(failed.refusal.reason)
        state.observer.error(failed.sqlstate)
        if run is not None:
            state.under_way = None
            state.end_run(run, "cancelled" if failed.sqlstate == "57014" else "error", failed.sqlstate)
        entry = Expectation(Kind.PARSE, Route.REPLACE, error=failed.response, ticket=ticket)
        state.send(messages.build_parse(REFUSED_NAME, REFUSED_TEXT), entry)

    def _end(self, run: Run, outcome: Outcome, rows: int) -> None:
        self._state.under_way = None
        self._state.end_run(run, outcome, None, rows)


def _refused(refusal: Refusal) -> Failed:
    return Failed(refusal.sqlstate, refusal_response(refusal), refusal)


def _troubled(trouble: Trouble) -> Failed:
    """The calculator's or a limit's trouble, which the audit log is told of where pgveil is the reason."""
    reason = {"54000": Reason.LIMIT, "42501": Reason.WITNESS}.get(trouble.sqlstate)
    refusal = (
        None if reason is None else Refusal(reason, trouble.sqlstate, trouble.message, trouble.detail, trouble.hint)
    )
    return Failed(trouble.sqlstate, trouble.response(), refusal)


def _fields(statement: PreparedStatement) -> tuple[Field, ...]:
    """The columns of a statement, as the witness agreed to them, under the types that clients see."""
    shown = statement.shown
    return () if shown is None else messages.parse_row_description(shown.message[5:])


def _server_types(fetch: Admit, types: tuple[int, ...], referred: frozenset[int]) -> tuple[int, ...]:
    """The parameter types for a fetch: text where it is sealed, and where the fetch knows nothing of a parameter."""
    plan = fetch.plans[0] if fetch.plans else None
    most = max((len(types), *referred))
    sealed = {} if plan is None else {p.number: TEXT_ARRAY_OID if p.array else TEXT_OID for p in plan.params}
    made = []
    for number in range(1, most + 1):
        known = types[number - 1] if number <= len(types) else 0
        made.append(sealed.get(number, known) if number in referred else TEXT_OID)
    return tuple(made)


def _declared(number: int, types: tuple[int, ...]) -> int:
    return types[number - 1] if number <= len(types) else 0


def _inferred(number: int, leaves: Sequence[PreparedStatement]) -> int:
    """The type that the server found for a parameter in the leaves' texts; text where none of them refers to it."""
    found = (_declared(number, leaf.types) for leaf in leaves if number in parameters_in(leaf.text, leaf.settings))
    return next((oid for oid in found if oid), TEXT_OID)


def _arrays(widths: tuple[int, ...], collector: Collector, *, together: bool) -> Cells | None:
    """The leaves' columns, one after the other; None where the rows are not what was asked for."""
    columns = collector.columns or [[] for _ in range(sum(widths) + together)]
    if len(columns) != sum(widths) + together:
        return None
    if not together:
        return columns
    numbers = columns[0]
    arrays: list[list[bytes | None]] = []
    at = 1
    for leaf, width in enumerate(widths):
        mine = [row for row, number in enumerate(numbers) if number == b"%d" % leaf]
        arrays += [[column[row] for row in mine] for column in columns[at : at + width]]
        at += width
    return arrays
