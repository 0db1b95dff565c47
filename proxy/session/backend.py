"""The server's messages: each meets the expectation at the head of the pipeline, and goes to the client, is rewritten, or is swallowed."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.errors import ProtocolError
from proxy.session.copy_streams import FAIL_REASON
from proxy.session.failures import Failures
from proxy.session.localtext import MISSING
from proxy.session.pipeline import Expectation, Flow, Kind, Route, Step
from proxy.session.premise import REPLACED, UNKNOWN
from proxy.session.replies import (
    UNDEFINED_FUNCTION,
    UNDEFINED_PORTAL,
    UNDEFINED_STATEMENT,
    Trouble,
    as_the_clients,
    own_words,
    server_report,
    without_values,
)
from proxy.session.reports import REPORTS, Reports
from proxy.session.results import WITNESS, Results
from proxy.session.state import AUDIT_DOWN, State
from proxy.session.strangers import Strangers
from proxy.session.witness import disagreement
from proxy.wire import messages
from proxy.wire.framing import Batch, Direction, Framer, Message
from proxy.wire.messages import Back
from rules.encodings import EncodingError, decode_sql
from rules.plan import Reason

if TYPE_CHECKING:
    from proxy.session.gate import Judge, OffsetMap
    from proxy.session.lane import Lane
    from proxy.session.premise import Premise
    from proxy.session.statements import Run
    from proxy.session.witness import Finding, Shown
    from proxy.wire.messages import ErrorFields
    from rules.plan import Plan

_ROWS: Final = frozenset((Back.DATA_ROW,))
_COPY: Final = frozenset((Back.COPY_DATA,))
_ANY: Final = _ROWS | _COPY
_NO_BATCH: Final[frozenset[int]] = frozenset()
_INTERPRET: Final = frozenset(limits.BACKEND_MAXIMUM) - {Back.DATA_ROW, Back.COPY_DATA}
_ASYNC: Final = frozenset((Back.NOTICE, Back.NOTIFICATION, Back.PARAMETER_STATUS))

# The error that the server must give to what was sent in place of a refused message.
_REPLACED: Final = {
    Kind.QUERY: UNDEFINED_FUNCTION,
    Kind.PARSE: UNDEFINED_FUNCTION,
    Kind.FUNCTION_CALL: UNDEFINED_FUNCTION,
    Kind.BIND: UNDEFINED_STATEMENT,
    Kind.EXECUTE: UNDEFINED_PORTAL,
}

# First words of completion tags after which another statement or portal may bear a known name, or the catalog be another one.
_RENAMING: Final = frozenset((b"DEALLOCATE", b"DISCARD", b"DECLARE", b"CLOSE", b"ROLLBACK", b"PREPARE"))
# Their tags count the rows of one Execute, others' all of the statement's.
_COUNTING_ON: Final = frozenset((b"SELECT", b"FETCH", b"MOVE"))
_DDL: Final = frozenset((b"CREATE", b"ALTER", b"DROP", b"GRANT", b"REVOKE", b"IMPORT", b"REASSIGN"))


class _Look(Enum):
    """Whether the catalog has been looked at since the server's last bytes came."""

    NONE = "nobody has asked"
    ASKED = "asked for"
    DONE = "done"
    FAILED = "it can't be read"


class Backend:
    """The server's direction of a session."""

    __slots__ = (
        "_authorized",
        "_failures",
        "_framer",
        "_lane",
        "_late",
        "_look",
        "_reports",
        "_results",
        "_state",
        "_strangers",
        "ended",
        "ended_with",
        "held",
    )

    def __init__(self, state: State, lane: Lane) -> None:
        self._state = state
        self._lane = lane
        self._framer = Framer(Direction.BACKEND, interpret=_INTERPRET)
        self._failures = Failures(state)
        self._strangers = Strangers(state)
        self._reports = Reports(state)
        self._late = False  # the message in hand waited for the catalog
        self._look = _Look.NONE
        self._results = Results(state, self._failures)
        self._authorized: bytes | None = None  # who has logged in, by the server's account (in the client's encoding)
        self.ended = False  # the server said why it ends the connection
        self.ended_with: str | None = None  # that error's SQLSTATE
        self.held = False  # waiting for an audit record

    @property
    def quiet(self) -> bool:
        """Whether nothing is held, and the next byte begins a message."""
        waiting = self.held or self._strangers.waiting is not None or self._reports.waiting is not None
        return not waiting and self._framer.at_boundary

    @property
    def buffered(self) -> int:
        """Bytes of the server not looked at yet."""
        return self._framer.buffered

    def feed(self, data: bytes) -> None:
        """Take the server's next bytes."""
        self._framer.feed(data)
        self._look = _Look.NONE

    def pump(self) -> bool:
        """Go as far as possible; whether anything moved. Raises ProtocolError."""
        state = self._state
        framer = self._framer
        moved = False
        while state.closing is None:
            head = state.pipeline.head
            if head is not None and not self._passes(head):
                return moved
            if self._is_over():
                return moved  # what was found out has ended the connection, and what waits is nobody's
            if self._strangers.waiting is not None or self._reports.waiting is not None:
                self.held = not self._waited()
                if self.held:
                    return moved
                moved = True
                continue
            self.held = False
            wanted = self._wanted(head)
            if framer.batch is not wanted:
                framer.batch = wanted
            event = framer.next_event()
            if event is None:
                return moved
            moved = True
            if isinstance(event, bytes):
                self._results.stream(event)
                state.fatal_allowed = framer.at_boundary
            elif isinstance(event, Batch):
                self._results.rows(event)
            else:
                assert isinstance(event, Message)
                state.fatal_allowed = True
                if self._stops(head, event):
                    continue
                self._message(event.kind, event.raw)
        return moved

    def _passes(self, head: Expectation) -> bool:
        """Whether anything may pass for the head now."""
        if head.premise is not None and not self._stands(head, head.premise):
            self.held = self._framer.buffered > 0
            return False
        if head.shares and head.run is not None and not self._state.take_up(head, head.run):
            self._audit_down(head)
        if head.ticket and not self._may_answer(head):
            self.held = True
            return False
        return True

    def _stops(self, head: Expectation | None, event: Message) -> bool:
        """Whether a message has to wait: a description for the catalog, a report for its record."""
        if event.kind == Back.ROW_DESCRIPTION:
            return self._strangers.stop(event.raw)
        return event.kind in REPORTS and self._reports.stop(head, event.raw)

    def _waited(self) -> bool:
        """Let the message pass that has waited, if it may."""
        raw = self._strangers.take()
        if raw is not None:
            self._message(Back.ROW_DESCRIPTION, raw, late=True)
            return True
        raw = self._reports.take()
        if raw is not None:
            self._message(raw[0], raw)
        return raw is not None

    def _wanted(self, head: Expectation | None) -> frozenset[int]:
        """Which messages of the head are looked at in batches."""
        if head is None or head.failed:
            return _NO_BATCH
        if head.copy_out is not None:
            return _COPY
        if head.run is None and head.note is None and head.collector is None:
            return _ANY if self._state.new_views else _NO_BATCH
        if not self._results.reads(head):
            return _NO_BATCH
        return _ANY if self._state.new_views else _ROWS

    def _is_over(self) -> bool:
        return self._state.closing is not None

    def _stands(self, head: Expectation, premise: Premise) -> bool:
        """Whether what has come for the head may pass: the catalog has been looked at since. What was judged by another one ends here."""
        state = self._state
        if self._look is _Look.NONE and self._framer.buffered:
            self._look = _Look.ASKED
            state.outdate()
        if self._look not in (_Look.DONE, _Look.FAILED):
            return False
        holds = self._look is _Look.DONE and premise.holds(state)
        if not holds:
            head.premise = None
            if not head.failed:
                self._failures.fail(head, REPLACED if self._look is _Look.DONE else UNKNOWN, WITNESS)
        return True

    def catalog_looked_at(self) -> None:
        """The judge knows the catalog as it is now."""
        if self._look is _Look.ASKED:
            self._look = _Look.DONE

    def _may_answer(self, head: Expectation) -> bool:
        """Whether the audit record of what the server answers is durable. One that was given up ends the statement instead."""
        trail = self._state.trail
        if trail.durable(head.ticket):
            head.ticket = 0
            return True
        if not trail.settled(head.ticket):
            return False
        head.ticket = 0
        if head.error is None and not head.failed:
            self._audit_down(head)
        return True

    def _audit_down(self, head: Expectation) -> None:
        trouble = Trouble(AUDIT_DOWN.sqlstate, AUDIT_DOWN.message, hint=AUDIT_DOWN.hint)
        self._failures.fail(head, trouble, AUDIT_DOWN)

    # -- messages --------------------------------------------------------------------------------------------------------------------

    def catalog_given_up(self) -> None:
        """The catalog can't be read now: a description that waits for it is judged by what is known."""
        self._strangers.given_up = self._strangers.waiting is not None
        if self._look is _Look.ASKED:
            self._look = _Look.FAILED

    def _message(self, kind: int, raw: bytes, *, late: bool = False) -> None:
        """`late`: it waited for the catalog."""
        state = self._state
        self._late = late
        if kind in _ASYNC:
            self._announce(kind, raw)
        elif kind == Back.ERROR:
            self._error(raw)
        elif kind == Back.READY:
            self._ready(raw)
        else:
            step = state.pipeline.step(kind)
            head = state.pipeline.head
            assert head is not None
            if head.failed:
                self._swallow(head, kind, raw, step)
            elif head.probing and kind != Back.READY:
                if kind == Back.COMMAND_COMPLETE:
                    head.probes = head.probes[1:]
            elif head.kind is Kind.QUERY or head.kind is Kind.EXECUTE:
                self._running(head, kind, raw, step)
            else:
                self._prepared(head, kind, raw, step)

    def _announce(self, kind: int, raw: bytes) -> None:
        """Notices, notifications and settings belong to no expectation."""
        state = self._state
        if kind == Back.NOTICE:
            head = state.pipeline.head
            raw, _ = server_report(raw, None if head is None else _offsets(head))
            if state.principal.exposed:
                raw = without_values(raw)
        elif kind == Back.NOTIFICATION:
            if state.judge.hushes(state.identity.login):
                raw = messages.without_payload(raw)
        elif kind == Back.PARAMETER_STATUS:
            name, value = messages.parse_parameter_status(raw[5:])
            state.tracker.parameter(name, value)
            if name == b"application_name":
                state.trail.goes_by(value.decode("utf-8", "replace"))
            head = state.pipeline.head
            if name == b"session_authorization" and head is not None and head.kind is Kind.STARTUP:
                self._authorized = value
        state.to_client.append(raw)

    def _same_login(self) -> bool:
        """Whether the server has let in the login that the principal was made for. Ends the session where it has not.

        Only what it says before the first ReadyForQuery counts: SET SESSION AUTHORIZATION later on never changes who asks.
        """
        state = self._state
        login = state.identity.login
        authorized = self._authorized
        if authorized is None or authorized == login.encode():
            return True
        try:
            if decode_sql(authorized, state.tracker.settings.client_encoding) == login:
                return True
        except EncodingError:
            pass  # a name that can't be read is another one
        state.fatal_report(
            "28000",
            "the server has logged in another user than the one that pgveil was asked for",
            hint="If a pooler stands between pgveil and the server, let it log in as the client's own user.",
        )
        return False

    def _swallow(self, head: Expectation, kind: int, raw: bytes, step: Step) -> None:
        """Answers to what has been answered with our error already."""
        if step is Step.COPY_IN and head.copy_in is not None:
            head.copy_in.over()
            self._state.pipeline.copy_begins()
            self._stop_copying()
            return
        if step is Step.COPY_IN:
            self._state.fatal_report("57014", "pgveil ended a COPY that it could not let go on")
            return
        if kind == Back.COMMAND_COMPLETE:
            self._note_tag(head, messages.parse_command_complete(raw[5:]))
        if step is Step.DONE:
            self._state.pipeline.done()

    def _prepared(self, head: Expectation, kind: int, raw: bytes, step: Step) -> None:
        """Answers to everything but an execution."""
        state = self._state
        if head.route is Route.REPLACE or (head.route is Route.SKIP and head.note is None):
            raise ProtocolError("the server accepted what it had to refuse")
        if kind in (Back.ROW_DESCRIPTION, Back.NO_DATA):
            answer = self._described(head, raw if kind == Back.ROW_DESCRIPTION else None)
            if answer is None:
                return
            raw = answer or raw
        elif kind == Back.BACKEND_KEY:
            state.cancel_key = messages.parse_backend_key(raw[5:])
        elif kind == Back.PARAMETER_DESCRIPTION:
            raw = self._parameters(head, raw)
            _keep_parameters(head, raw)
        if step is Step.DONE:
            state.pipeline.done()
            if head.note is not None:
                head.note.answered()
            if head.instead is not None:
                state.to_client.append(head.instead)
        if head.route is Route.FORWARD:
            state.to_client.append(raw)

    def _parameters(self, head: Expectation, raw: bytes) -> bytes:
        """A ParameterDescription with the types that the client declared, or the column's, in place of the sealed form's."""
        statement = head.statement
        plan = None if statement is None else statement.plan
        if statement is None or plan is None or not plan.params:
            return raw
        types = list(messages.parse_parameter_description(raw[5:]))
        for param in plan.params:
            place = param.number - 1
            if place < len(types):
                declared = statement.types[place] if place < len(statement.types) else 0
                types[place] = declared or self._state.codec.parameter_oid(
                    param.column, array=param.array, exact=param.exact and not param.listed
                )
        return messages.build_parameter_description(tuple(types))

    def _finding(self, plan: Plan | None, raw: bytes, decided: Judge | None) -> Finding:
        """What the witness says of a description. `decided`: by whose lights, where newer rules are in force since."""
        state = self._state
        trouble = self._strangers.trouble(raw) if self._late else None
        if trouble is not None:
            return trouble
        judge, principal = state.judge, state.principal
        if decided is not None:
            judge, principal = decided, decided.principal(state.identity.login)
        return state.cache.find(judge, principal, plan, raw, state.codec.logical_type)

    def _described(self, head: Expectation, raw: bytes | None) -> bytes | None:
        """Check a description (None: NoData) that was asked for; the message for the client, b"" for unchanged, None where it failed."""
        state = self._state
        if head.witness is not None:
            if raw is not None and self._late:
                head.witness.trouble = self._strangers.trouble(raw)
            head.witness.described(raw, state.judge, state.principal, state.codec.logical_type)
            return b""
        statement = head.statement if head.portal is None else head.portal.statement
        shown: Shown | None = None
        decided = head.portal.judge if head.portal is not None else None if statement is None else statement.judge
        if raw is not None:
            plan = None if statement is None else statement.plan
            finding = self._finding(plan, raw, decided)
            if isinstance(finding, Trouble):
                if head.undo is not None:
                    head.undo()
                state.outdate()
                self._failures.fail(head, finding, WITNESS)
                state.pipeline.done()
                return None
            shown = finding
        if statement is not None and not self._late and decided is None:
            self._lane.described(statement, head.kind, raw or b"", shown)
        if head.portal is not None:
            head.portal.agree(shown)
        elif statement is not None:
            statement.agree(shown)
        return b"" if shown is None else shown.message

    # -- executions ------------------------------------------------------------------------------------------------------------------

    def _running(self, head: Expectation, kind: int, raw: bytes, step: Step) -> None:
        """Answers to a Query or an Execute."""
        state = self._state
        if head.route is Route.REPLACE:
            raise ProtocolError("the server ran what it had to refuse")
        if kind == Back.ROW_DESCRIPTION:
            self._query_described(head, raw)
            return
        if step is Step.COPY_IN or step is Step.COPY_OUT:
            if not self._copy_begins(head, raw, step):
                return
        elif kind == Back.COPY_DONE and head.copy_out is not None:
            if not self._results.copied(head):
                return
        elif kind in (Back.COMMAND_COMPLETE, Back.EMPTY_QUERY, Back.PORTAL_SUSPENDED):
            self._completed(head, kind, raw)
        if step is Step.DONE:
            state.pipeline.done()
            if head.note is not None:
                head.note.answered()
            if head.copy_in is not None:
                head.copy_in.over()
        if head.route is Route.FORWARD:
            inserted = kind == Back.COMMAND_COMPLETE and head.portal is not None and head.portal.inserts
            state.to_client.append(messages.as_insert(raw) if inserted else raw)

    def _copy_begins(self, head: Expectation, raw: bytes, step: Step) -> bool:
        """COPY data is about to flow; whether the client is to hear of it."""
        state = self._state
        response = messages.parse_copy_response(raw[5:])
        if step is Step.COPY_OUT:
            head.flow = Flow.COPY_OUT
            if head.copy_out is None or head.copy_out.agrees(response):
                return True
            self._failures.fail(head, disagreement(None), WITNESS)
            return False
        state.pipeline.copy_begins()
        if head.copy_in is None:
            return True
        if head.copy_in.begin(response):
            return True
        self._stop_copying()
        return False

    def _stop_copying(self) -> None:
        """Make the server give up the COPY that it has begun."""
        self._state.to_server.append(messages.build_copy_fail(FAIL_REASON))
        self._state.pipeline.copy_ended()

    def _query_described(self, head: Expectation, raw: bytes) -> None:
        """A result of a simple Query begins."""
        state = self._state
        run = head.run
        plan = None if run is None else run.plan
        finding = self._finding(plan, raw, head.judge)
        if isinstance(finding, Trouble):
            state.outdate()
            self._failures.fail(head, finding, WITNESS)
            return
        if run is not None:
            run.shown = finding
        head.flow = Flow.ROWS
        if head.learn is not None:
            if not self._late and finding.message == raw:
                head.learn(finding.message)
            head.learn = None
        state.to_client.append(finding.message)

    def _completed(self, head: Expectation, kind: int, raw: bytes) -> None:
        """A statement of a Query or an Execute ended, or a portal has rows left."""
        head.flow = Flow.NONE
        run = head.run
        tag = messages.parse_command_complete(raw[5:]) if kind == Back.COMMAND_COMPLETE else b""
        if head.collector is not None:
            # The statement goes on in the calculator: whoever computes ends the run.
            head.collector.ended(tag, more=kind == Back.PORTAL_SUSPENDED)
        elif run is not None and kind != Back.EMPTY_QUERY:
            suspended = kind == Back.PORTAL_SUSPENDED
            rows = run.rows if suspended else _rows_of(tag, run)
            if tag and tag.partition(b" ")[0] not in _COUNTING_ON:
                run.before = 0
            self._state.end_run(run, "suspended" if suspended else "ok", None, rows)
        elif run is None and head.note is None:
            self._state.observer.passed(1)
            if head.learn is not None and tag:
                head.learn(b"")
        if tag:
            self._note_tag(head, tag)
            self._state.pipeline.copy_finished()

    def _note_tag(self, head: Expectation, tag: bytes) -> None:
        """What a completion tag says about the session's settings, its names and the catalog."""
        state = self._state
        if head.ddl:
            state.ddl_ran = True
            plans = () if head.run is None else head.run.admit.plans
            state.new_views |= any(plan is not None and bool(plan.touched) for plan in plans)
        word = tag.partition(b" ")[0]
        if word in _DDL:
            state.ddl_ran = True
        elif word == b"COMMIT" and state.ddl_ran:
            state.ddl_ran = False
            state.outdate()
        if word in _RENAMING:
            self._renamed(head, tag, word)
        if head.renaming is not None:
            head.renaming.completed(state)

    def _renamed(self, head: Expectation, tag: bytes, word: bytes) -> None:
        """Names may stand for other statements or portals now: what they return is checked again before it passes."""
        state = self._state
        if tag in (b"DISCARD ALL", b"DEALLOCATE ALL"):
            pending = {
                e.statement.name for e in state.pipeline.waiting() if e.kind is Kind.PARSE and e.statement is not None
            }
            state.statements.keep(pending)
        elif word == b"DEALLOCATE" and head.dropped_name is not None:
            state.statements.remove(head.dropped_name)
        if word in (b"DEALLOCATE", b"DISCARD"):
            for statement in state.statements:
                statement.doubt()
        for portal in state.portals:
            portal.doubt()

    # -- errors ----------------------------------------------------------------------------------------------------------------------

    def _error(self, raw: bytes) -> None:
        state = self._state
        head = state.pipeline.head
        response, fields = server_report(raw, None if head is None else _offsets(head))
        response = as_the_clients(response, None if head is None else _plan(head))
        if state.principal.exposed:
            response = without_values(response)
        if head is None or fields.fatal:
            if fields.fatal:
                self.ended, self.ended_with = True, fields.sqlstate
            state.observer.error(fields.sqlstate)
            state.to_client.append(response)
            return
        if head.check is not None:
            understood = head.refusal is not None and head.refusal.reason is not Reason.UNPARSED
            own = own_words(raw, head.check, understood=understood)
            ours, response = own is None, own or response
        elif head.missing is not None:
            ours, response = fields.sqlstate not in MISSING, head.missing
        else:
            expected = fields.sqlstate == _REPLACED.get(head.kind)
            ours = head.route is Route.REPLACE and (expected or head.in_any_case)
        sqlstate = fields.sqlstate
        if head.witness is not None:
            response = head.witness.error(response)
        if head.failed or head.route is Route.SKIP:
            _keep(head, response, sqlstate)
        elif ours:
            assert head.error is not None
            if head.refusal is not None:
                state.refused(head.refusal)
            state.to_client.append(head.error)
        elif not self._tell_fault(head, fields):
            state.observer.error(sqlstate)
            state.to_client.append(response)
        if head.run is not None:
            self._failures.end_run(head.run, sqlstate)
        head.flow = Flow.NONE
        self._drop(head)

    def _tell_fault(self, head: Expectation, fields: ErrorFields) -> bool:
        """The server takes no more COPY data; whether that is for what was wrong with the client's, which it is told instead."""
        stream = head.copy_in
        if stream is None:
            return False
        stream.over()
        if stream.fault is None or not stream.told_by(fields):
            return False
        self._state.refused(stream.fault.refusal)
        self._state.to_client.append(stream.fault.response)
        self._failures.record(head, stream.fault.refusal)
        return True

    def _drop(self, head: Expectation) -> None:
        """Take back what the server ignores after the head's error."""
        state = self._state
        dropped = state.pipeline.error()
        if any(entry.mend for entry in dropped):
            # The ReadyForQuery that was waited for will not come: the server has failed by itself, as the client was told.
            self._failures.mended()
        for entry in reversed(dropped):
            if entry.undo is not None:
                entry.undo()
            if entry.copy_in is not None:
                entry.copy_in.over()
            if entry.run is not None and entry is not head:
                state.end_run(entry.run, "error", None)

    # -- ready -----------------------------------------------------------------------------------------------------------------------

    def _ready(self, raw: bytes) -> None:
        state = self._state
        pipeline = state.pipeline
        status = messages.parse_ready(raw[5:])
        if pipeline.take_stray_ready():
            state.to_client.append(raw)
            return
        pipeline.step(Back.READY)
        head = pipeline.head
        if head is not None and head.kind is Kind.STARTUP and not self._same_login():
            return
        done = pipeline.done()
        if done.copy_in is not None:
            done.copy_in.over()
        if done.run is not None and done.run.index < len(done.run.ids):
            # A server that is ready without having said how every statement ended: none is left open in the audit log.
            state.end_run(done.run, "error", None)
        pipeline.status = status
        self._settle(status)
        if done.mend:
            if status == b"T":
                self._failures.mend()
                return
            self._failures.mended()
        if done.route is Route.FORWARD or done.route is Route.REPLACE:
            state.to_client.append(raw)
        elif done.note is not None:
            done.note.drop()

    def _settle(self, status: bytes) -> None:
        """What is over with a ReadyForQuery."""
        state = self._state
        pipeline = state.pipeline
        state.tracker.ready(status, quiet=pipeline.idle)
        if pipeline.idle:
            state.ddl_in_flight = False
        if status != b"I":
            return
        if state.ddl_ran:
            state.ddl_ran = False
            state.outdate()
        state.new_views = False
        state.end_portals()


def _keep_parameters(head: Expectation, raw: bytes) -> None:
    """What a ParameterDescription says, for who asked: the client, or a computation of a statement that nobody has described."""
    statement = head.statement
    if statement is None or statement.computed is not None:
        return
    if head.route is Route.FORWARD:
        statement.parameters = messages.parse_parameter_description(raw[5:])
    elif statement.told is None:
        statement.types = messages.parse_parameter_description(raw[5:])


def _keep(head: Expectation, response: bytes, sqlstate: str) -> None:
    """An error that is nobody's but ours."""
    if head.note is not None:
        head.note.error = (response, sqlstate)


def _offsets(head: Expectation) -> OffsetMap | None:
    if head.witness is not None:
        return head.witness.offsets
    if head.run is not None or head.offsets is not None:
        return head.offsets if head.run is None else head.run.admit.offsets
    statement = head.statement if head.portal is None else head.portal.statement
    return None if statement is None else statement.offsets


def _plan(head: Expectation) -> Plan | None:
    statement = head.statement if head.portal is None else head.portal.statement
    return None if statement is None else statement.plan


def _rows_of(tag: bytes, run: Run) -> int | None:
    """The row count of a completion tag, else what was counted."""
    last = tag.rpartition(b" ")[2]
    if last.isdigit():
        return int(last)
    return run.rows or None
