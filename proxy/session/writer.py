"""Writes whose values the database can't compute: the source's rows are computed, sealed, and given to the statement that writes them.

    client            session                                       server                 calculator
    Execute      -->  Execute of the source's fetch              -> (locks the rows)
                      rows, opened                               <-
                      text, types, values                        --------------------->   computes
                      sealed values, as parameters               <---------------------
                      Parse Bind Describe Execute of the write   ->
    rows, tag    <-   as the server gives them, or computed      <-

The source's fetch bears the client's names at the server, as `proxy.session.computer` has it; the write has names of pgveil's own. The record
of the write is durable before anything that was fetched is looked at. All of it is in the client's transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.session.asking import Failed, declared_type, inferring, refused, shown_fields, troubled
from proxy.session.assigning import Assignment, assignable, cells_of, mismatch
from proxy.session.collect import Collector, too_much
from proxy.session.computer import Computer
from proxy.session.computing import KEEP, Compute, Question, Write
from proxy.session.copying import ask, disagreed
from proxy.session.fetching import FETCH_NAME, server_types
from proxy.session.gate import BadValue
from proxy.session.judging import READ_OTHERWISE
from proxy.session.keeping import asked_for, held
from proxy.session.localtext import LeafTypes, parameters_in, with_types
from proxy.session.metering import metered, over_limit
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.premise import Premise
from proxy.session.prepared import TEXT_ARRAY_OID, TEXT_OID, Asked, PreparedWrite, audited, fetch_of, fetching
from proxy.session.replies import bad_value_response
from proxy.session.state import AUDIT_DOWN
from proxy.session.statements import Portal, PreparedStatement
from proxy.session.witness import disagreement
from proxy.wire import messages
from proxy.wire.arrays import text_array
from rules.plan import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from proxy.session.gate import Admit
    from proxy.session.judging import Judging, Steps
    from proxy.session.prepared import Computed, Prepared
    from proxy.session.state import State
    from proxy.session.statements import Run

    Columns = list[list[bytes | None]]

APPLY_NAME: Final = b"pgveil_apply_"
_TEXT_FORM, _BINARY_FORM = 0, 1


class Writer(Computer):
    """Runs one session's computed statements, those that write among them."""

    __slots__ = ("_count",)

    def __init__(self, state: State, judging: Judging) -> None:
        super().__init__(state, judging)
        self._count = 0

    # -- the client's messages -------------------------------------------------------------------------------------------------------

    def query(self, decision: Compute | Write, arrived: float) -> Steps:
        """A Query whose one statement is computed."""
        if isinstance(decision, Compute):
            yield from super().query(decision, arrived)
        else:
            yield from self._in_place_of_query(self._write(decision, arrived))

    def parse(self, message: messages.Parse, decision: Compute | Write) -> Steps:
        """A Parse of a statement that is computed."""
        if isinstance(decision, Compute):
            yield from super().parse(message, decision)
            return
        self._drop_unnamed(message.name)
        made = yield from self._prepared(decision, message.types)
        if made is None or self._state.ignores():
            return
        if isinstance(made, Failed):
            self._fail(made, decision.source, None)
            return
        self._parse_fetch(message, made[0], made[1])

    def execute(self, portal: Portal, limit: int, arrived: float) -> Steps:
        """Run a portal, or go on with one."""
        statement, asked = portal.statement, portal.asked_for
        assert statement is not None
        assert asked is not None
        writing = statement.writing
        if writing is None:
            yield from super().execute(portal, limit, arrived)
            return
        if self._reads_otherwise(writing, asked):
            self._fail(refused(READ_OTHERWISE), writing.write.source, None)
            return
        run, ticket = self._state.start_run(_told(writing.write), arrived, counts=limit > 0, portal=portal)
        if run is None:
            self._fail(refused(AUDIT_DOWN), writing.write.source, None)
        elif asked.applied is not None:
            self._send_execute(asked.applied, run, ticket, limit, Route.FORWARD)
        elif asked.rows is not None:
            self._released(asked, run, limit)
        else:
            collector = self._fetcher.execute(portal, run, ticket)
            yield from self._fetcher.collected(collector)
            if collector.complete and not self._state.ignores():
                yield from self._apply(writing, collector, asked, run, ticket, limit)

    def _reads_otherwise(self, writing: PreparedWrite, asked: Asked) -> bool:
        """Whether the server would read the write's constants, or the client's parameters for it, otherwise than when they came."""
        now = self._state.tracker.output
        if asked.outdated(now):
            return True
        begun = asked.applied is not None or asked.rows is not None
        constants = b"'" in writing.text and asked.read is not None and not asked.read.reads_as(now)
        values = any(asked.values) and asked.bound is not None and not asked.bound.reads_as(now)
        return not begun and (constants or values)

    def described(
        self, decision: Compute | Write, declared: tuple[int, ...]
    ) -> Generator[Callable[[], bool], None, tuple[Computed, PreparedWrite | None] | Failed | None]:
        """What a prepared statement is under a decision; None where the server ended the batch meanwhile. `declared`: its parameters' types."""
        if isinstance(decision, Write):
            return (yield from self._prepared(decision, declared))
        made = yield from self.prepare(decision, declared)
        return made if made is None or isinstance(made, Failed) else (made, None)

    # -- what has to be known before -------------------------------------------------------------------------------------------------

    def _prepared(
        self, write: Write, declared: tuple[int, ...]
    ) -> Generator[Callable[[], bool], None, tuple[Computed, PreparedWrite] | Failed | None]:
        """Learn the types of all parts; None where the server ended the batch meanwhile."""
        source = yield from (self._kept(write, declared) if write.kept else self.prepare(write.source, declared))
        if source is None or isinstance(source, Failed):
            return source
        own = source.prepared
        columns = tuple(f.type for f in own.fields[: len(write.targets)])
        if write.kept:
            columns = (TEXT_OID,) * len(write.targets)
        if len(columns) != len(write.targets):
            return troubled(disagreement(None))
        values = tuple(TEXT_OID if t is not None else oid for t, oid in zip(write.targets, columns, strict=True))
        known = own.fetched | own.computed
        types = tuple(t if n in known else declared_type(n, declared) for n, t in enumerate(own.types, 1))
        statement = self._fetcher.describe_admitted(fetching(write.apply), types + values)
        self._judging.flush()
        yield lambda: self._state.ignores() or statement.verified
        if self._state.ignores():
            return None
        applied = parameters_in(write.apply.text, self._state.tracker.settings)
        inferred = inferring([statement])
        types = tuple(t or (inferred(n) if n in applied or n in known else 0) for n, t in enumerate(types, 1))
        text = yield from self._text(write, values)
        if isinstance(text, Failed):
            return text
        fields = shown_fields(statement)
        returning = yield from self._returning(write, statement, types)
        if isinstance(returning, Failed):
            return returning
        if returning is not None:
            fields, types = returning.fields, returning.types
        types = tuple(t or TEXT_OID for t in types)
        writing = PreparedWrite(write, text, types, columns, own, returning)
        return replace(source, prepared=replace(own, types=types, fields=fields)), writing

    def _kept(
        self, write: Write, declared: tuple[int, ...]
    ) -> Generator[Callable[[], bool], None, Computed | Failed | None]:
        """The source of a statement that may write masks back."""
        leaf = self._fetcher.describe(write.source.leaves[0], declared)
        self._judging.flush()
        yield lambda: self._state.ignores() or leaf.verified
        return None if self._state.ignores() else asked_for(self._state, write, leaf, declared)

    def _returning(
        self, write: Write, statement: PreparedStatement, types: tuple[int, ...]
    ) -> Generator[Callable[[], bool], None, Prepared | Failed | None]:
        """What is computed of the rows that the write returns; its parameters' types are found where they were not known (0)."""
        if write.returning is None:
            return None
        described = yield from self._calculations.local(write.returning, [statement], types, len(types))
        if isinstance(described, Failed):
            return described
        question = self._calculations.question(described)
        answer = yield from self._calculations.answer(lambda c, wake: c.describe(question, wake), described.local)
        return answer if isinstance(answer, Failed) else described.described_by(answer)

    def _text(self, write: Write, values: tuple[int, ...]) -> Generator[Callable[[], bool], None, bytes | Failed]:
        """What runs: for any number of rows, the arrays of values under their types."""
        if write.many is None:
            return write.apply.text
        spelled = yield from self._calculations.spelled(
            [LeafTypes(("",) * len(values), tuple((oid, -1) for oid in values))]
        )
        if isinstance(spelled, Failed):
            return spelled
        types = {number: name for number, (_, name) in enumerate(spelled[0], write.first)}
        return with_types(write.many.text, types, self._state.tracker.settings)

    # -- running ---------------------------------------------------------------------------------------------------------------------

    def _write(self, write: Write, arrived: float) -> Steps:
        """The statement of a simple Query."""
        made = yield from self._prepared(write, ())
        if made is None or self._state.ignores():
            return
        if isinstance(made, Failed):
            self._fail(made, write.source, None)
            return
        run, ticket = self._state.start_run(_told(write), arrived)
        if run is None:
            self._fail(refused(AUDIT_DOWN), write.source, None)
            return
        fetcher = self._fetcher
        fetcher.close(FETCH_NAME)
        portal = fetcher.portal(
            fetcher.statement(FETCH_NAME, fetch_of(write.source)), messages.build_bind(FETCH_NAME, FETCH_NAME)
        )
        collector = fetcher.execute(portal, run, ticket)
        fetcher.close(portal.name)
        yield from fetcher.collected(collector)
        if collector.complete and not self._state.ignores():
            yield from self._apply(made[1], collector, Asked((), (), ()), run, ticket, None)

    def _apply(
        self, writing: PreparedWrite, collector: Collector, asked: Asked, run: Run, ticket: int, limit: int | None
    ) -> Steps:
        """Compute the values and write them. `limit`: of the client's Execute; None for a Query, which wants a description first."""
        state = self._state
        source = writing.write.source
        state.under_way = run
        if writing.write.kept:
            columns = self._held(writing, collector, asked)
        else:
            columns = yield from self._values(writing, collector, asked)
        bound = columns if isinstance(columns, Failed) else self._admitted(writing, columns, asked)
        if isinstance(bound, Failed):
            self._fail(bound, source, run)
            return
        yield lambda: state.trail.settled(ticket) or state.ignores()
        if not state.trail.durable(ticket):
            self._fail(refused(AUDIT_DOWN), source, run)
            return
        if writing.write.apply.witness is not None:
            witness = yield from ask(state, writing.write.apply)
            if witness.failed or state.ignores():
                state.under_way = None
                state.end_run(run, "error", None)
                return
            refusal = disagreed(state, witness)
            if refusal is not None:
                self._fail(refused(refusal), source, run)
                return
        portal = self._opened(writing, bound, shown=limit is None and writing.returning is None)
        self._judging.flush()
        # What a disagreement would find out afterwards might be committed by then.
        yield lambda: portal.verified or state.ignores()
        if state.ignores():
            state.under_way = None
            state.end_run(run, "error", None)
            return
        if writing.returning is None:
            state.under_way = None
            asked.applied = portal
            self._send_execute(portal, run, ticket, limit or 0, Route.FORWARD)
        else:
            yield from self._returned(writing, portal, asked, run, ticket, limit)

    def _held(self, writing: PreparedWrite, collector: Collector, asked: Asked) -> Columns | Failed:
        """What is written beside masks that are not; why it can't be, where values that are to be kept are not what is there."""
        if collector.more:
            return troubled(too_much(f"{self._state.limits.collected_rows} rows"))
        try:
            found = held(self._state, writing.write, writing.types, collector, asked)
        except BadValue as bad:
            return _bad(bad)
        return refused(found) if isinstance(found, Refusal) else found

    def _values(
        self, writing: PreparedWrite, collector: Collector, asked: Asked
    ) -> Generator[Callable[[], bool], None, Columns | Failed]:
        """The source's rows, column by column, sealed where they have to be."""
        write = writing.write
        if not write.targets:
            return []
        text = asked.shown_in(())
        outcome = yield from self._calculations.run(writing.source, write.source, collector, text)
        if isinstance(outcome, Failed):
            return outcome
        plan = write.apply.plans[0]
        compared = {p.number for p in plan.params if p.exact} if plan is not None else set()
        columns = cells_of(outcome.rows, len(write.targets))
        for place, (target, oid) in enumerate(zip(write.targets, writing.sources, strict=True)):
            if target is None:
                continue
            assigned = yield from self._assigned(
                Assignment(
                    target,
                    oid,
                    self._state.codec,
                    write.first + place in compared,
                    self._state.principal.login,
                ),
                columns[place],
            )
            if isinstance(assigned, Failed):
                return assigned
            columns[place] = assigned
        return columns

    def _assigned(
        self, assignment: Assignment, cells: list[bytes | None]
    ) -> Generator[Callable[[], bool], None, list[bytes | None] | Failed]:
        """A column's values as the sealed column holds them: converted as an assignment does it, then sealed."""
        state = self._state
        converts = assignment.converts(state.tracker.output)
        if converts:
            pair = ((assignment.source, -1), (assignment.target, -1))
            spelled = yield from self._calculations.spelled([LeafTypes(("", ""), pair)])
            if isinstance(spelled, Failed):
                return spelled
            (_, source), (_, target) = spelled[0]
            if not assignable(assignment.source, assignment.target):
                return Failed("42804", mismatch(assignment.column, source, target))
            question = Question(
                assignment.text(source, target),
                state.tracker.output,
                (TEXT_ARRAY_OID,),
                result_formats=(_BINARY_FORM,),
                arrays=(cells,),
            )
            outcome = yield from self._calculations.answer(lambda c, wake: c.run(question, wake), None)
            if isinstance(outcome, Failed):
                return outcome
            cells = cells_of(outcome.rows, 1)[0]
        try:
            return [
                None if cell is None else assignment.seal(cell, state.tracker.output, converted=converts)
                for cell in cells
            ]
        except BadValue as bad:
            return _bad(bad)

    def _admitted(self, writing: PreparedWrite, columns: Columns, asked: Asked) -> messages.Bind | Failed:
        """The parameters of the write, where the login may make the look-ups by computed values that it makes, one a row.

        A column that keeps its value is none.
        """
        state, write = self._state, writing.write
        rows = 1 if write.many is None or not columns else len(columns[0])
        unchanged = sum(c[0] in (None, KEEP.encode()) for c in columns) if write.kept else 0
        beyond = over_limit(state.meter, state.principal, metered(write.apply.plans) * rows - unchanged)
        return self._bound(writing, columns, asked) if beyond is None else refused(beyond)

    def _bound(self, writing: PreparedWrite, columns: Columns, asked: Asked) -> messages.Bind | Failed:
        """The parameters of the write: the client's, sealed where they have to be, and the values."""
        state, write = self._state, writing.write
        plan = write.apply.plans[0]
        assert plan is not None
        sealed = {p.number: p for p in plan.params if p.number < write.first}
        needed = parameters_in(write.apply.text, state.tracker.settings)
        formats = list(asked.formats) * (len(asked.values) if len(asked.formats) == 1 else 1) or [0] * len(asked.values)
        values: list[bytes | None] = []
        for number, value in enumerate(asked.values, 1):
            param = sealed.get(number)
            if value is None or number not in needed:
                values.append(None)
            elif param is None:
                values.append(value)
            else:
                try:
                    values.append(
                        state.codec.seal_param(
                            param.column,
                            value,
                            formats[number - 1],
                            declared_type(number, writing.types),
                            asked.bound or state.tracker.output,
                            array=param.array,
                            exact=param.exact,
                            cast=param.cast,
                            given=param.given,
                            login=state.principal.login,
                        )
                    )
                except BadValue as bad:
                    return _bad(bad)
                formats[number - 1] = _TEXT_FORM
        if write.many is None:
            values += [c[0] if c else None for c in columns]
            formats += [_TEXT_FORM] * len(columns)
        else:
            values += [text_array(c) for c in columns]
            formats += [_BINARY_FORM] * len(columns)
        shown = () if writing.returning is not None else asked.result_formats
        return messages.Bind(b"", b"", tuple(formats), tuple(values), shown)

    def _opened(self, writing: PreparedWrite, bind: messages.Bind, *, shown: bool) -> Portal:
        """The write, prepared and bound. `shown`: its description is the client's."""
        state, write = self._state, writing.write
        self._count += 1
        name = APPLY_NAME + b"%d" % self._count
        decision = fetching(write.apply if write.many is None else write.many)
        statement = PreparedStatement(name, writing.text, (), decision, state.tracker.settings, state.judge.generation)
        portal = Portal(name, statement, bind.result_formats, inserts=write.rows is not None)
        count = len(writing.sources)
        values = (TEXT_ARRAY_OID if write.many is not None else TEXT_OID,) * count
        if write.many is None:
            values = tuple(
                TEXT_OID if target is not None else oid
                for target, oid in zip(write.targets, writing.sources, strict=True)
            )
        referred = parameters_in(write.apply.text, state.tracker.settings)
        types = server_types(write.apply, writing.types, referred)[: write.parameters] + values
        self._fetcher.close(name)
        self._fetcher.ask(Kind.PARSE, messages.build_parse(name, writing.text, types), statement=statement)
        self._fetcher.ask(Kind.BIND, messages.build_bind(*bind._replace(portal=name, statement=name)), portal=portal)
        results = decision.plans[0] is not None and decision.plans[0].results is not None
        route = Route.FORWARD if shown and results else Route.GUARD
        state.send(messages.build_describe(b"P", name), Expectation(Kind.DESCRIBE_PORTAL, route, portal=portal))
        self._fetcher.ask(Kind.CLOSE, messages.build_close(b"S", name))
        return portal

    def _send_execute(
        self, portal: Portal, run: Run, ticket: int, limit: int, route: Route, collector: Collector | None = None
    ) -> None:
        state = self._state
        state.unknown_executes += 1
        entry = Expectation(
            Kind.EXECUTE,
            route,
            portal=portal,
            run=run,
            ticket=ticket,
            collector=collector,
            undo=None if collector is None else collector.drop,
            premise=Premise.of(portal.statement, ours=True),
        )
        state.send(messages.build_execute(portal.name, limit), entry)
        if limit <= 0:
            # It has come to its end, and would else be kept until the transaction's.
            self._fetcher.ask(Kind.CLOSE, messages.build_close(b"P", portal.name))

    def _returned(
        self, writing: PreparedWrite, portal: Portal, asked: Asked, run: Run, ticket: int, limit: int | None
    ) -> Steps:
        """Run the write, and compute what the client gets of what it returns."""
        state, write = self._state, writing.write
        assert writing.returning is not None
        assert write.returning is not None
        collector = Collector(state.limits, state.budget)
        self._send_execute(portal, run, ticket, 0, Route.GUARD, collector)
        yield from self._fetcher.collected(collector)
        if not collector.complete or state.ignores():
            return
        shown = asked.shown_in(asked.result_formats)
        outcome = yield from self._calculations.run(writing.returning, write.returning, collector, shown)
        if isinstance(outcome, Failed):
            self._fail(outcome, write.source, run)
            return
        if limit is None:
            state.to_client.append(outcome.description)
        asked.tag = collector.tag
        full = asked.keep(outcome.rows, limit or 0, state.budget, state.tracker.output)
        if full is not None:
            self._fail(troubled(full), write.source, run)
            return
        self._released(asked, run, limit or 0)

    def _released(self, asked: Asked, run: Run, limit: int) -> None:
        """The portal's next rows, and the tag of the write behind the last."""
        state = self._state
        rows = asked.take(limit)
        state.to_client += rows
        if 0 < limit == len(rows):
            self._end(run, "suspended", len(rows))
            state.to_client.append(messages.PORTAL_SUSPENDED)
        else:
            self._end(run, "ok", len(rows))
            state.to_client.append(messages.build_command_complete(asked.tag))


def _told(write: Write) -> Admit:
    """The write as the audit log is told of it: with all that its source touches."""
    plan = write.apply.plans[0]
    source = audited(write.source).plans[0]
    assert plan is not None
    assert source is not None
    touched = {t.column: t for t in plan.touched}
    for each in source.touched:
        known = touched.get(each.column)
        touched[each.column] = each if known is None else replace(known, read=known.read or each.read)
    told = replace(
        plan,
        action=write.action,
        tables=tuple(dict.fromkeys((*plan.tables, *source.tables))),
        touched=tuple(touched[name] for name in sorted(touched)),
        lookups=plan.lookups or source.lookups,
    )
    return replace(fetching(write.apply), plans=(told,), shape=write.shape)


def _bad(bad: BadValue) -> Failed:
    refusal = Refusal(bad.reason, bad.sqlstate, bad.message, bad.detail, column=bad.column)
    return Failed(bad.sqlstate, bad_value_response(bad), refusal)
