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

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.session.asking import Calculations, Failed, refused, troubled
from proxy.session.copied import copy_out, result_formats
from proxy.session.fetching import FETCH_NAME, Fetcher, server_types
from proxy.session.judging import READ_OTHERWISE
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.prepared import Asked, Computed, Prepared, audited, fetch_of
from proxy.session.replies import CHECK_NAME, REFUSED_NAME, REFUSED_TEXT
from proxy.session.state import AUDIT_DOWN
from proxy.session.statements import PreparedStatement
from proxy.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable

    from audit.event import Outcome
    from proxy.session.computing import Answer, Compute
    from proxy.session.judging import Judging, Steps
    from proxy.session.prepared import PreparedWrite
    from proxy.session.state import State
    from proxy.session.statements import Portal, Run
    from rules.copy_format import CopyFormat


class Computer:
    """Runs one session's computed statements."""

    __slots__ = ("_calculations", "_fetcher", "_judging", "_state")

    def __init__(self, state: State, judging: Judging) -> None:
        self._state = state
        self._judging = judging
        self._fetcher = Fetcher(state)
        self._calculations = Calculations(state)

    # -- simple queries --------------------------------------------------------------------------------------------------------------

    def query(self, compute: Compute, arrived: float) -> Steps:
        """A Query whose one statement is computed."""
        yield from self._in_place_of_query(self._query(compute, arrived))

    def _in_place_of_query(self, steps: Steps) -> Steps:
        """What a Query is made of. It ends with a Sync in the Query's place, whatever comes of it."""
        state = self._state
        yield from self._judging.settle_writes()
        yield from self._judging.after_batch()
        if state.ignores():
            return
        self._fetcher.forget_unnamed()
        state.unknown_executes = 0
        yield from steps
        if state.broken:
            # The client was told of an error that the server does not know of.
            if not state.pipeline.ignoring:
                state.send_failing(Route.SKIP)
            state.broken = False
        state.send(messages.SYNC, Expectation(Kind.SYNC))

    def _query(self, compute: Compute, arrived: float) -> Steps:
        state = self._state
        run, ticket = self._state.start_run(audited(compute), arrived, counts=True)
        if run is None:
            self._fail(refused(AUDIT_DOWN), compute, None)
            return
        fetch = fetch_of(compute)
        fetcher = self._fetcher
        fetcher.close(FETCH_NAME)
        statement = fetcher.statement(FETCH_NAME, fetch)
        portal = fetcher.portal(statement, messages.build_bind(FETCH_NAME, FETCH_NAME))
        leaves = [statement] if compute.together is None else [fetcher.describe(leaf, ()) for leaf in compute.leaves]
        collector = fetcher.execute(portal, run, ticket)
        fetcher.close(FETCH_NAME)
        yield from fetcher.collected(collector)
        if not collector.complete or state.ignores():
            return
        state.under_way = run
        outcome: Prepared | Answer | Failed = yield from self._calculations.local(compute, leaves, (), 0)
        if isinstance(outcome, Prepared):
            asked = Asked((), (), () if compute.copy is None else result_formats(compute.copy))
            outcome = yield from self._calculations.run(outcome, compute, collector, asked)
        if isinstance(outcome, Failed):
            self._fail(outcome, compute, run)
            return
        self._end(run, "ok", len(outcome.rows))
        if compute.copy is not None:
            self._copied(compute.copy, outcome)
            return
        state.to_client.append(outcome.description)
        state.to_client += outcome.rows
        state.to_client.append(messages.build_command_complete(outcome.tag))

    def _copied(self, form: CopyFormat, answer: Answer) -> None:
        """The rows as the data of a COPY."""
        to_client = self._state.to_client
        to_client += copy_out(form, answer.description, answer.rows)
        to_client.append(messages.build_command_complete(b"COPY %d" % len(answer.rows)))

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
        leaves = [self._fetcher.describe(leaf, declared) for leaf in compute.leaves]
        state.to_server.append(messages.FLUSH)
        yield lambda: state.ignores() or all(leaf.verified for leaf in leaves)
        if state.ignores():
            return None
        begun = yield from self._calculations.local(compute, leaves, declared, max(compute.parameters, len(declared)))
        if isinstance(begun, Failed):
            return begun
        question = self._calculations.question(begun)
        outcome = yield from self._calculations.answer(lambda c, wake: c.describe(question, wake), begun.local)
        if isinstance(outcome, Failed):
            return outcome
        prepared = begun.described_by(outcome)
        if compute.copy is not None:
            prepared = replace(prepared, fields=())  # COPY describes no columns
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
            compute.parameters,
            compute.copy,
            compute.offsets,
            tuple(leaf.fetch.text for leaf in compute.leaves),
            None if compute.together is None else compute.together.text,
            state.tracker.output.date_style.startswith("ISO"),
            state.tracker.output.extra_float_digits > 0,
        )

    def parse(self, message: messages.Parse, compute: Compute) -> Steps:
        """A Parse of a statement that is computed: the fetch bears the client's name at the server."""
        self._drop_unnamed(message.name)
        computed = yield from self.prepare(compute, message.types)
        if computed is None or self._state.ignores():
            return
        if isinstance(computed, Failed):
            self._fail(computed, compute, None)
            return
        self._parse_fetch(message, computed, None)

    def _drop_unnamed(self, name: bytes) -> None:
        """The server drops the unnamed statement before it looks at the text that would replace it."""
        if not name:
            undo = self._state.statements.remove(b"")
            self._fetcher.ask(Kind.CLOSE, messages.build_close(b"S", b""), undo=undo)

    def _parse_fetch(self, message: messages.Parse, computed: Computed, writing: PreparedWrite | None) -> None:
        """Send the fetch under the client's name."""
        state = self._state
        fetch = fetch_of(computed.compute)
        prepared = computed.prepared
        statement = PreparedStatement(
            message.name,
            message.text,
            prepared.types,
            fetch,
            state.tracker.settings,
            state.judge.generation,
            computed=computed,
            writing=writing,
            forms=state.tracker.output,
        )
        types = server_types(fetch, prepared.types, prepared.fetched)
        undo = state.statements.put(message.name, statement)
        state.observer.message_objects(1)
        state.send(
            messages.build_parse(message.name, fetch.text, types),
            Expectation(Kind.PARSE, statement=statement, undo=undo),
        )

    # -- portals ---------------------------------------------------------------------------------------------------------------------

    def execute(self, portal: Portal, limit: int, arrived: float) -> Steps:
        """Run a portal, or go on with one. Each Execute of the client's is one of the server's, whose word on the portal counts."""
        state = self._state
        statement, asked = portal.statement, portal.asked_for
        assert statement is not None
        assert asked is not None
        computed = statement.computed
        assert computed is not None
        if asked.outdated(state.tracker.output):
            self._fail(refused(READ_OTHERWISE), computed.compute, None)
            return
        run, ticket = self._state.start_run(audited(computed.compute), arrived, counts=True, portal=portal)
        if run is None:
            self._fail(refused(AUDIT_DOWN), computed.compute, None)
            return
        collector = self._fetcher.execute(portal, run, ticket)
        yield from self._fetcher.collected(collector)
        if not collector.complete or state.ignores():
            return
        state.under_way = run
        if asked.rows is None:
            if computed.compute.copy is not None:
                asked.result_formats = result_formats(computed.compute.copy)
            outcome = yield from self._calculations.run(computed.prepared, computed.compute, collector, asked)
            if isinstance(outcome, Failed):
                self._fail(outcome, computed.compute, run)
                return
            if computed.compute.copy is not None:
                self._end(run, "ok", len(outcome.rows))
                self._copied(computed.compute.copy, outcome)
                return
            full = asked.keep(outcome.rows, limit, state.budget, state.tracker.output)
            if full is not None:
                self._fail(troubled(full), computed.compute, run)
                return
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

    def _fail(self, failed: Failed, compute: Compute, run: Run | None) -> None:
        """End the statement with an error that the server is made to give, so that its transaction is what it has to be."""
        state = self._state
        ticket = 0
        if failed.refusal is not None:
            number = run.ids[0] or None if run is not None and run.ids else None
            ticket = state.trail.refused(state.principal, failed.refusal, compute.shape, number)
        if failed.question is None:
            if failed.refusal is not None:
                state.observer.refused(failed.refusal.reason)
            state.observer.error(failed.sqlstate)
        if run is not None:
            state.under_way = None
            state.end_run(run, "cancelled" if failed.sqlstate == "57014" else "error", failed.sqlstate)
        entry = Expectation(Kind.PARSE, Route.REPLACE, error=failed.response, ticket=ticket)
        if failed.question is not None:
            entry.refusal = failed.refusal
            self._ask_first(failed.question, replace(entry, route=Route.CHECK, missing=failed.missing))
        state.send(messages.build_parse(REFUSED_NAME, REFUSED_TEXT), entry)

    def _ask_first(self, question: bytes, entry: Expectation) -> None:
        self._fetcher.close(CHECK_NAME)
        self._state.send(messages.build_parse(CHECK_NAME, question), entry)
        self._fetcher.close(CHECK_NAME)

    def _end(self, run: Run, outcome: Outcome, rows: int) -> None:
        self._state.under_way = None
        self._state.end_run(run, outcome, None, rows)
