"""Parse, Bind, Describe, Execute: the client's prepared statements, with their parameters sealed and their descriptions checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.errors import ProtocolError
from proxy.session.computing import Compute, Write
from proxy.session.copying import ask
from proxy.session.gate import Admit, BadValue, Pass, Refuse
from proxy.session.judging import PLAN_CHANGED, too_many, too_much_text
from proxy.session.metering import elements, over_limit
from proxy.session.names import Renaming
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.premise import Premise
from proxy.session.prepared import Asked
from proxy.session.renewing import Renewing, sent
from proxy.session.replies import DEALLOCATE, REFUSED_NAME, RESERVED, deallocated
from proxy.session.state import AUDIT_DOWN
from proxy.session.statements import Portal, PreparedStatement
from proxy.wire import messages
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from proxy.session.copying import Copying
    from proxy.session.judging import Judging, Steps
    from proxy.session.state import State
    from proxy.session.writer import Writer
    from proxy.wire.framing import Framer, Head
    from rules.plan import Plan

_RESERVED_NAME: Final = Refusal(
    Reason.UNSUPPORTED,
    "42602",
    "names of statements and portals that begin with pgveil_ are reserved",
    hint="Choose another name.",
)


class Extended:
    """Handlers of the extended query protocol. Each sends its message on, or returns steps that do."""

    __slots__ = ("_computer", "_copying", "_framer", "_judging", "_renewing", "_state", "_whole")

    def __init__(self, state: State, judging: Judging, computer: Writer, copying: Copying, framer: Framer) -> None:
        self._state = state
        self._judging = judging
        self._renewing = Renewing(state, judging, computer)
        self._computer = computer
        self._copying = copying
        self._framer = framer
        self._whole: PreparedStatement | None = None  # of the Bind that is being collected

    # -- Parse -----------------------------------------------------------------------------------------------------------------------

    def parse(self, raw: bytes) -> Steps:
        """Judge the text; remember the statement."""
        state = self._state
        judging = self._judging
        message = messages.parse_parse(raw[5:])
        if message.name:
            # A PREPARE under way may take the name.
            yield from judging.names_settled()
        decision = yield from judging.decide(message.text, extended=True)
        if state.ignores():
            return
        if isinstance(decision, Refuse):
            judging.refuse_text(Kind.PARSE, decision, name=message.name, types=message.types)
            return
        refusal = self._no_room(message.name, message.text)
        if refusal is not None:
            name = REFUSED_NAME if message.name.startswith(RESERVED) else message.name
            judging.refuse(Kind.PARSE, refusal, name=name)
            return
        if isinstance(decision, Compute | Write):
            yield from self._computer.parse(message, decision)
            return
        statement = PreparedStatement(
            message.name, message.text, message.types, decision, state.tracker.settings, state.judge.generation
        )
        if isinstance(decision, Admit):
            state.observer.message_objects(1)
        if isinstance(decision, Admit) or decision.instead is not None:
            raw = messages.build_parse(message.name, *sent(statement))
        elif DEALLOCATE.match(message.text):
            statement.dropped_name = deallocated(message.text)
        statement.names = state.names_version if decision.by_name else None
        statement.judge = judging.decided_by(decision)
        if isinstance(decision, Pass) and decision.noted is not None:
            decision.noted(0)
        undo = state.statements.put(message.name, statement)
        state.send(raw, Expectation(Kind.PARSE, statement=statement, undo=undo))

    def _no_room(self, name: bytes, text: bytes) -> Refusal | None:
        state = self._state
        if name.startswith(RESERVED):
            return _RESERVED_NAME
        if len(state.statements) >= state.limits.statements and state.statements.get(name) is None:
            return too_many("prepared statements", state.limits.statements)
        if state.statements.cost + len(text) > state.limits.statement_text and name:
            return too_much_text(state.limits.statement_text)
        return None

    # -- Bind ------------------------------------------------------------------------------------------------------------------------

    def bind_head(self, head: Head) -> Steps | None:
        """A Bind begins. One whose statement touches nothing protected goes on as it comes, whatever its size."""
        state = self._state
        if state.ignores():
            self._skip(head)
            return None
        names = messages.parse_bind_head(head.raw[5:])
        if names is None:
            if head.complete:
                raise ProtocolError("malformed bind message: a name has no end")
            if head.size > limits.BIND:
                return self._bind(head, messages.BindHead(RESERVED, b""), None)
            self._framer.take_whole()
            return None
        statement = state.statements.get(names.statement)
        plain = statement is None or (
            statement.plan is None and not statement.decision.unshown and self._judging.current(statement)
        )
        if plain and not _reserved(names) and len(state.portals) < state.limits.portals:
            self._forward_bind(head.raw, names.portal, statement)
            return None
        return self._bind(head, names, statement)

    def bind_whole(self, raw: bytes) -> Steps | None:
        """A Bind that was collected: its names did not fit the head, or its statement has a plan."""
        statement, self._whole = self._whole, None
        if self._state.ignores():
            return None
        if statement is not None:
            self._bind_planned(raw, statement)
            return None
        names = messages.parse_bind_head(raw[5:])
        if names is None:
            raise ProtocolError("malformed bind message: a name has no end")
        return self._bind(raw, names, self._state.statements.get(names.statement))

    def _bind(self, message: Head | bytes, names: messages.BindHead, statement: PreparedStatement | None) -> Steps:
        state = self._state
        refusal = None
        if _reserved(names):
            refusal = _RESERVED_NAME
        elif len(state.portals) >= state.limits.portals and state.portals.get(names.portal) is None:
            refusal = too_many("portals", state.limits.portals)
        elif statement is not None:
            found = yield from self._renewing.renewed(statement)
            if isinstance(found, Refusal):
                refusal = found
            else:
                statement = found
        if state.ignores():
            self._skip(message)
            return
        plan = None if statement is None else statement.plan
        size = len(message) if isinstance(message, bytes) else message.size
        if refusal is None and plan is not None and size > limits.BIND:
            refusal = _too_long(size)
        if refusal is not None:
            self._skip(message)
            self._judging.refuse(Kind.BIND, refusal, shape="" if statement is None else _shape(statement))
        elif plan is None or statement is None:
            raw = message if isinstance(message, bytes) else message.raw
            self._forward_bind(raw, names.portal, statement)
        elif isinstance(message, bytes):
            self._bind_planned(message, statement)
        elif message.complete:
            self._bind_planned(message.raw, statement)
        else:
            self._whole = statement
            self._framer.take_whole()

    def _skip(self, message: Head | bytes) -> None:
        if not isinstance(message, bytes) and not message.complete:
            self._framer.skip_rest()

    def _forward_bind(self, raw: bytes, name: bytes, statement: PreparedStatement | None) -> None:
        """Send a Bind as it came (or its head, the rest follows by itself)."""
        state = self._state
        portal = None if statement is None else statement.plain_portal
        names = None if statement is None else statement.names
        if portal is None or portal.name != name or portal.names != names:
            portal = Portal(name, statement, names=names)
            if statement is not None:
                statement.plain_portal = portal
        portal.bound()
        portal.judge = None if statement is None else statement.judge
        state.send(raw, Expectation(Kind.BIND, portal=portal, undo=state.portals.put(name, portal)))

    def _bind_planned(self, raw: bytes, statement: PreparedStatement) -> None:
        """Send a Bind with its protected parameters sealed."""
        state = self._state
        bind = messages.parse_bind(raw[5:])
        plan = statement.plan
        assert plan is not None
        asked = None
        if statement.computed is not None:
            forms = statement.forms, state.tracker.output
            asked = Asked(bind.values, bind.formats, bind.result_formats, read=forms[0], bound=forms[1])
            bind = statement.computed.fetch_bind(bind)
            raw = messages.build_bind(*bind)
        values: Sequence[bytes | None] = bind.values
        if plan.params:
            try:
                raw, values = self._sealed(bind, statement, plan)
            except BadValue as bad:
                refusal = Refusal(bad.reason, bad.sqlstate, bad.message, bad.detail, column=bad.column)
                self._judging.refuse(Kind.BIND, refusal, shape=_shape(statement))
                return
            state.observer.message_objects(1)
        beyond = over_limit(state.meter, state.principal, plan.metered + elements(plan, values))
        if beyond is not None:
            self._judging.refuse(Kind.BIND, beyond, shape=_shape(statement))
            return
        portal = Portal(bind.portal, statement, bind.result_formats, asked_for=asked, names=statement.names)
        portal.judge = statement.judge
        state.send(raw, Expectation(Kind.BIND, portal=portal, undo=state.portals.put(bind.portal, portal)))

    def _sealed(
        self, bind: messages.Bind, statement: PreparedStatement, plan: Plan
    ) -> tuple[bytes, list[bytes | None]]:
        """The Bind with sealed parameters, as text, and its values. Raises BadValue."""
        state = self._state
        codec = state.codec
        values = list(bind.values)
        formats = list(bind.formats) * (len(values) if len(bind.formats) == 1 else 1) or [0] * len(values)
        for param in plan.params:
            place = param.number - 1
            if place >= len(values):
                continue  # the server says how many it wants
            value = values[place]
            declared = statement.types[place] if place < len(statement.types) else 0
            if value is not None:
                values[place] = codec.seal_param(
                    param.column,
                    value,
                    formats[place],
                    declared,
                    state.tracker.output,
                    array=param.array,
                    exact=param.exact,
                    cast=param.cast,
                    given=param.given,
                    login=state.principal.login,
                )
            formats[place] = 0
        state.observer.sealed(len(plan.params))
        raw = messages.build_bind(bind.portal, bind.statement, tuple(formats), tuple(values), bind.result_formats)
        return raw, values

    # -- Describe --------------------------------------------------------------------------------------------------------------------

    def describe(self, raw: bytes) -> Steps | None:
        """Ask the server, and have the answer checked."""
        state = self._state
        if state.ignores():
            return None
        target = messages.parse_target(raw[5:])
        if target.kind == b"P":
            portal = state.portals.get(target.name) or Portal(target.name, None)
            self._describe_portal(raw, portal, Route.FORWARD, _answer(portal))
            return None
        statement = state.statements.get(target.name)
        if statement is None or self._judging.current(statement):
            self._describe_statement(raw, statement)
            return None
        return self._describe_again(raw, statement)

    def _describe_again(self, raw: bytes, statement: PreparedStatement) -> Steps:
        """A statement whose decision may not hold any longer is described under the decision that does."""
        found = yield from self._renewing.renewed(statement)
        if self._state.ignores():
            return
        if isinstance(found, Refusal):
            self._judging.refuse(Kind.BIND, found, shape=_shape(statement))
        else:
            self._describe_statement(raw, found)

    def _describe_statement(self, raw: bytes, statement: PreparedStatement | None) -> None:
        computed = None if statement is None else statement.computed
        self._state.send(
            raw,
            Expectation(
                Kind.DESCRIBE_STATEMENT,
                Route.FORWARD if computed is None else Route.GUARD,
                statement=statement,
                others=self._others(),
                instead=None if computed is None else computed.prepared.described(),
            ),
        )

    def _describe_portal(self, raw: bytes, portal: Portal, route: Route, instead: bytes | None = None) -> None:
        portal.fresh = portal.trusted = True
        route = route if instead is None else Route.GUARD
        entry = Expectation(Kind.DESCRIBE_PORTAL, route, portal=portal, others=self._others(), instead=instead)
        entry.undo = portal.not_asked
        self._state.send(raw, entry)

    def _others(self) -> bool:
        return self._state.unknown_executes > 0

    # -- Execute ---------------------------------------------------------------------------------------------------------------------

    def execute(self, raw: bytes) -> Steps | None:
        """Run a portal. One that touches nothing protected and is known to the witness goes on at once."""
        state = self._state
        if state.ignores():
            return None
        message = messages.parse_execute(raw[5:])
        portal = state.portals.get(message.portal)
        if portal is None:
            if message.portal.startswith(RESERVED):
                self._judging.refuse(Kind.EXECUTE, _RESERVED_NAME)
                return None
            portal = Portal(message.portal, None)
        statement = portal.statement
        if (
            portal.plan is not None
            or (statement is not None and asks(statement.decision))
            or portal.names is not None
            or not self._judging.writes_settled()
            or (statement is not None and statement.generation != state.judge.generation)
        ):
            return self._execute(raw, portal, message.limit)
        self._ensure_description(portal)
        self._run(raw, portal, Expectation(Kind.EXECUTE, portal=portal, others=self._others()))
        return None

    def _execute(self, raw: bytes, portal: Portal, limit: int) -> Steps:
        state = self._state
        judging = self._judging
        arrived = state.clock()
        statement = portal.statement
        if statement is not None:
            refusal = yield from self._stale(portal, statement)
            if state.ignores():
                return
            if refusal is not None:
                judging.refuse(Kind.EXECUTE, refusal, shape=_shape(statement))
                return
        plan = portal.plan
        if plan is None:
            # It may commit what was written before: COMMIT is a statement like others here.
            yield from judging.settle_writes()
        self._ensure_description(portal)
        if plan is not None and plan.writes and plan.results is not None and not portal.own_verified:
            # What a disagreement would find out afterwards might be committed by then.
            judging.flush()
            yield lambda: bool(portal.own_verified) or state.ignores()
        if state.ignores():
            return
        if portal.asked_for is not None:
            yield from self._computer.execute(portal, limit, arrived)
            return
        entry = Expectation(Kind.EXECUTE, portal=portal, others=self._others())
        if statement is not None and not (yield from self._witnessed(statement, entry)):
            return
        if statement is not None and isinstance(statement.decision, Admit) and plan is not None:
            before = portal.run
            entry.run, entry.ticket = state.start_run(statement.decision, arrived, counts=limit > 0, portal=portal)
            entry.shares = before is not None and entry.run is before
            if entry.run is None:
                judging.refuse(Kind.EXECUTE, AUDIT_DOWN, shape=_shape(statement))
                return
        self._run(raw, portal, entry)
        if entry.copy_in is not None:
            judging.flush()
            yield from self._copying.wait(entry)

    def _witnessed(self, statement: PreparedStatement, entry: Expectation) -> Generator[Callable[[], bool], None, bool]:
        """Ask the second witness of a COPY or a write; whether it agrees. Else the client has been told, or will be."""
        state, decision = self._state, statement.decision
        if not asks(decision):
            return True
        stores = decision.witness if isinstance(decision, Admit) and not copies(decision) else None
        key = (stores or b"", state.judge.generation)
        if key in state.witnessed:
            return True
        witness = yield from ask(state, decision)
        if witness.failed or state.ignores():
            return False
        refusal = self._copying.agreed(decision, witness, entry)
        if refusal is None and statement.generation != state.judge.generation:
            refusal = yield from self._judging.recheck(statement)
        if state.ignores():
            return False
        if refusal is not None:
            self._judging.refuse(Kind.EXECUTE, refusal, shape=decision.shape if isinstance(decision, Admit) else "")
        elif stores is not None:
            state.witnessed.add(key)
        return refusal is None

    def _stale(
        self, portal: Portal, statement: PreparedStatement
    ) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Why a portal can't run that was bound when a name stood for something else, or a view or function for another one, or whose values'
        form is not known.

        Under other rules it keeps what it had, as a query that runs does: the server has planned it, and holds its locks.
        """
        state = self._state
        if portal.names is not None:
            yield from self._judging.names_settled()
            if portal.names != state.names_version:
                return PLAN_CHANGED
        if statement.generation != state.judge.generation:
            refusal = yield from self._judging.still(portal, statement)
            if refusal is not None:
                return refusal
        plan = statement.plan
        shows = portal.asked_for is not None or (plan is not None and plan.opens)
        return (yield from self._judging.forms_known()) if shows else None

    def _ensure_description(self, portal: Portal) -> None:
        """Ask for the description that no client's Describe has brought since the Bind: what the names mean now, to the server."""
        distrusted = not portal.trusted
        if distrusted:
            self._state.distrusted(portal)
        if distrusted or (not portal.fresh and not portal.without_rows):
            self._describe_portal(messages.build_describe(b"P", portal.name), portal, Route.GUARD)

    def _run(self, raw: bytes, portal: Portal, entry: Expectation) -> None:
        state = self._state
        statement = portal.statement
        if statement is not None:
            entry.dropped_name = statement.dropped_name
            if isinstance(statement.decision, Pass) and statement.decision.noted is not None:
                statement.decision.noted(1)
            entry.ddl = statement.decision.ddl
            entry.premise = Premise.of(statement)
            if entry.premise is not None:
                entry.premise.judge = portal.judge
            if statement.decision.names:
                entry.renaming = Renaming(
                    statement.decision.names, statement.settings, statement.generation, portal.judge
                )
            if entry.ddl:
                state.ddl_in_flight = True
            state.afterwards(statement.decision)
        if entry.run is None or entry.run.writes:
            state.unknown_executes += 1
        state.send(raw, entry)


def asks(decision: Pass | Admit) -> bool:
    """Whether the server has to be asked what the statement reads or fills, as its answer will not tell."""
    return (decision.copies if isinstance(decision, Pass) else decision.witness) is not None


def copies(admit: Admit) -> bool:
    """Whether a text is a COPY with a plan."""
    return any(plan is not None and plan.copy is not None for plan in admit.plans)


def _reserved(names: messages.BindHead) -> bool:
    return names.portal.startswith(RESERVED) or names.statement.startswith(RESERVED)


def _answer(portal: Portal) -> bytes | None:
    """What a Describe of a computed statement's portal is answered with."""
    computed = None if portal.statement is None else portal.statement.computed
    if computed is None or portal.asked_for is None:
        return None
    return computed.prepared.result(portal.asked_for.result_formats)


def _shape(statement: PreparedStatement) -> str:
    return statement.decision.shape if isinstance(statement.decision, Admit) else ""


def _too_long(size: int) -> Refusal:
    return Refusal(
        Reason.LIMIT,
        "54000",
        f"a bind message of {size} bytes for a statement on protected columns, more than the {limits.BIND} that can be held",
        hint="Send the long value in a statement of its own.",
    )
