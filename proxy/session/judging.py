"""How a text comes to its decision, and how a refusal becomes a genuine error of the server.

Generators yield conditions; whoever runs them goes on when the condition is true. Nothing is judged while what the judgement rests on may be
out of date: settings that a statement under way may change, and a catalog that DDL has changed.
"""

from __future__ import annotations

from dataclasses import replace
from struct import pack
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import ProtocolError
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, Names, NeedNames, NeedSettings, Pass, Refuse
from proxy.session.names import inner_decision, known, name_key
from proxy.session.pipeline import Expectation, Flow, Kind, Route
from proxy.session.premise import CATALOG_UNKNOWN, same
from proxy.session.prepared import fetch_of
from proxy.session.replies import CHECK_NAME, PROBE_NAME, REFUSED_NAME, REFUSED_TEXT, refusal_response
from proxy.session.settings import PROBE_TEXT, Probe
from proxy.wire import messages
from rules.named import NameUse
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from proxy.session.gate import Decision, Judge, Known, Settings
    from proxy.session.state import State
    from proxy.session.statements import Portal, PreparedStatement

    Steps = Generator[Callable[[], bool], None, None]

    class Renew(Protocol):
        """See `proxy.session.renewing`."""

        def __call__(
            self, statement: PreparedStatement, *, between: bool = False
        ) -> Generator[Callable[[], bool], None, PreparedStatement | Refusal | None]: ...


_MAKING: Final = (NameUse.PREPARES, NameUse.DECLARES)
SETTINGS_UNKNOWN: Final = Refusal(
    Reason.SETTINGS,
    "0AP01",
    "pgveil could not learn the session's search_path and settings, on which the meaning of this statement depends",
    hint="Qualify table names with their schema, or end the transaction and send the statement again.",
)
READ_OTHERWISE: Final = Refusal(
    Reason.SETTINGS,
    "0AP01",
    "settings on which this statement's values depend are others than when it was prepared or bound, or gave its first rows",
    hint="Prepare the statement again, or fetch its rows before the settings change.",
)
_SETTINGS_END: Final = Refusal(
    Reason.SETTINGS,
    "0AP01",
    "the transaction whose settings may differ ends within this text, and the meaning of its other statements depends on them",
    hint="Send the statements one by one.",
)
_COMPUTED: Final = Refusal(
    Reason.UNSUPPORTED,
    "0AP01",
    "pgveil computes this statement's result itself, so it can't be run or fetched from by name in SQL",
    hint="Execute it by the protocol, or send the statement itself.",
)
PLAN_CHANGED: Final = Refusal(
    Reason.UNSUPPORTED,
    "0A000",  # PostgreSQL's own, which drivers know
    "cached plan must not change result type",
    "The rules, the catalog or the session's settings have changed since the statement was prepared, and with them what pgveil does to it.",
    "Prepare the statement again.",
    # Drivers that prepare again by themselves look at the routine.
    source=("plancache.c", 730, "RevalidateCachedQuery"),
)
NOT_RENEWED: Final = Refusal(
    Reason.UNSUPPORTED,
    "0A000",
    "the statement could not be prepared again",
    hint="Prepare the statement again.",
)
NO_CALCULATOR: Final = Refusal(
    Reason.COMPUTE,
    "0AP01",
    "the database cannot compute on sealed values, and pgveil's calculator is not there",
    hint="Select the columns as they are and compute in the application, or let the operator of pgveil turn the calculator on.",
)

# What the server is sent in place of a refused message. It fails in the server's own analysis (or look-up) with a code of its own.
_FAILING: Final = {
    Kind.QUERY: messages.build_query(REFUSED_TEXT),
    Kind.BIND: messages.build_bind(b"", REFUSED_NAME),
    Kind.EXECUTE: messages.build_execute(REFUSED_NAME),
    # No function has OID 0.
    Kind.FUNCTION_CALL: messages.message(messages.Front.FUNCTION_CALL, pack("!IHHH", 0, 0, 0, 0)),
}


def _computes_same(new: Compute, old: Compute) -> bool:
    fetches = [(leaf.name, leaf.columns) for leaf in new.leaves] == [(leaf.name, leaf.columns) for leaf in old.leaves]
    return fetches and new.text == old.text and same(fetch_of(new), fetch_of(old))


def _writes_same(new: Write, old: Write) -> bool:
    parts = ((w.source.text, w.targets, w.first, w.many is None) for w in (new, old))
    return len(set(parts)) == 1 and _computes_same(new.source, old.source) and same(new.apply, old.apply)


def computes(decision: Compute | Write) -> bool:
    """Whether the calculator has a part in it: not where masks are written back."""
    return not (isinstance(decision, Write) and decision.kept)


def unshown(decision: Pass | Admit | Compute | Write) -> bool:
    """Whether what no description shows matters to a text, or to what is fetched for it."""
    if isinstance(decision, Write):
        return decision.apply.unshown or unshown(decision.source)
    return fetch_of(decision).unshown if isinstance(decision, Compute) else decision.unshown


def _computed_alike(new: Compute | Write, statement: PreparedStatement) -> bool:
    computed, writing = statement.computed, statement.writing
    if isinstance(new, Compute):
        return writing is None and computed is not None and _computes_same(new, computed.compute)
    return writing is not None and _writes_same(new, writing.write)


def alike(new: Pass | Admit, statement: PreparedStatement) -> bool:
    """Whether what the server holds of a prepared statement, and what pgveil does to it, is what a new decision wants."""
    old = statement.decision
    if isinstance(new, Pass) and isinstance(old, Pass):
        return True
    if isinstance(new, Admit) and isinstance(old, Admit) and same(new, old):
        return True
    # What runs by a name follows the name, as on the server, as long as the text stays as it is.
    return new.by_name and _text(new, statement) == _text(old, statement)


def _text(decision: Pass | Admit, statement: PreparedStatement) -> bytes:
    return decision.text if isinstance(decision, Admit) else statement.text


def unreadable(setting: str) -> Refusal:
    """Constants or comparisons mean something else than pgveil reads in them."""
    return Refusal(
        Reason.SETTINGS,
        "0AP01",
        f"pgveil does not read statements on protected columns under this session's {setting}",
        hint=f"RESET {setting}.",
    )


def _reads_the_same(text: bytes) -> bool:
    """Whether neither standard_conforming_strings nor client_encoding changes what a text says."""
    return text.isascii() and b"\\" not in text


def indifferent(statement: PreparedStatement, settings: Settings) -> bool:
    """Whether a statement passes whatever the settings are: it did when nothing was known of them. Only temporary views matter then."""
    decision = statement.decision
    if statement.settings.views != settings.views:
        return False
    unknown = statement.settings.search_path is None and _reads_the_same(statement.text)
    return unknown and isinstance(decision, Pass) and not (decision.by_name or decision.unshown)


def too_many(what: str, most: int) -> Refusal:
    """A book is full."""
    return Refusal(
        Reason.LIMIT,
        "53400",
        f"too many {what}: pgveil keeps at most {most} a connection",
        hint="Close those that are not used any longer.",
    )


def too_much_text(most: int) -> Refusal:
    """The texts in the books are too long."""
    return Refusal(
        Reason.LIMIT,
        "53400",
        f"prepared statements with more than {most} bytes of text together",
        hint="Close those that are not used any longer.",
    )


class Judging:
    """Decides on texts for one session."""

    __slots__ = ("_state", "fetching", "interrupted", "renewed")

    def __init__(self, state: State) -> None:
        self._state = state
        self.renewed: Renew  # set by who can
        # The server's error that ended a question of ours where the client's statement would have met it, and its SQLSTATE.
        self.interrupted: tuple[bytes, str] | None = None
        # Who decided on the cursor that the last text fetches from, where that was another judge.
        self.fetching: Judge | None = None

    def decide(
        self, text: bytes, *, extended: bool
    ) -> Generator[Callable[[], bool], None, Pass | Admit | Compute | Write | Refuse]:
        """What is to be done with a text."""
        decision = yield from self._decided(text, extended=extended)
        return self._as_run(decision)

    def looked_at(
        self, text: bytes, decision: Pass | Admit | Compute | Write | Refuse
    ) -> Generator[Callable[[], bool], None, Pass | Admit | Compute | Write | Refuse]:
        """The decision on a text that is about to run, by a catalog that has been looked at since the text came, where that can matter."""
        if isinstance(decision, Refuse) or not unshown(decision):
            return decision
        generation = self._state.judge.generation
        refusal = yield from self.look()
        if refusal is not None:
            return Refuse(refusal)
        if generation == self._state.judge.generation or self._state.ignores():
            return decision
        return (yield from self.decide(text, extended=False))

    def look(self) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Have the catalog looked at; the refusal where it can't be."""
        state = self._state
        state.outdate()
        state.catalog_lost = False
        yield lambda: not state.catalog_stale or state.catalog_lost or state.ignores()
        self._no_copy_begun()
        return CATALOG_UNKNOWN if state.catalog_stale and state.catalog_lost else None

    def forgives(self, refusal: Refusal, shape: str) -> bool:
        """Whether what pgveil would refuse runs all the same: observe mode."""
        run = self._as_run(Refuse(refusal, shape))
        if isinstance(run, Pass) and run.noted is not None:
            run.noted(1)
        return not isinstance(run, Refuse)

    def _as_run(self, decision: Pass | Admit | Compute | Write | Refuse) -> Pass | Admit | Compute | Write | Refuse:
        state = self._state
        if self.interrupted is not None:
            return decision  # the client cancelled its statement, not our question
        run = state.judge.as_run(decision, state.principal)
        if isinstance(decision, Refuse) and not isinstance(run, Refuse):
            state.trail.refused(state.principal, decision.refusal, decision.shape, observed=True)
        return run

    def _decided(
        self, text: bytes, *, extended: bool
    ) -> Generator[Callable[[], bool], None, Pass | Admit | Compute | Write | Refuse]:
        """The decision on a text. A statement with plans is decided under known settings only: its values depend on them."""
        state = self._state
        self.interrupted = None
        indifferent = self._indifferent(text, extended=extended)
        if indifferent is not None:
            return self._room_for(indifferent)
        if not (yield from self.quiet()):
            return Refuse(SETTINGS_UNKNOWN)
        state.tracker.judged_by(state.judge.generation)
        decision = self._ask(text, None, extended=extended)
        names = self.fetching = None
        if isinstance(decision, NeedNames):
            found = yield from self._names(decision, extended=extended)
            if isinstance(found, Refuse):
                return found
            names = found
            decision = self._ask(text, names, extended=extended)
        doubtful = isinstance(decision, NeedSettings | Admit | Compute | Write) or (
            isinstance(decision, Refuse) and state.tracker.lost
        )
        if doubtful and not state.tracker.known:
            if (yield from self._probe()):
                return Refuse(SETTINGS_UNKNOWN)
            decision = self._ask(text, names, extended=extended)
        if isinstance(decision, Compute | Write) and computes(decision) and state.calculator is None:
            return Refuse(NO_CALCULATOR, decision.shape)
        if isinstance(decision, NeedSettings | NeedNames):
            return Refuse(SETTINGS_UNKNOWN)
        if isinstance(decision, Admit | Compute | Write):
            refusal = self._under_settings(decision)
            if refusal is not None:
                return Refuse(refusal, decision.shape)
        return self._room_for(decision)

    def _indifferent(self, text: bytes, *, extended: bool) -> Pass | None:
        """The decision on a text that passes whatever the settings are, while these are in doubt.

        Nothing is asked of the server for it: a question before them keeps DISCARD ALL, VACUUM and their like from running in a batch.
        """
        state = self._state
        if not state.tracker.doubt or state.catalog_stale or state.ddl_in_flight or not _reads_the_same(text):
            return None
        decision = self._ask(text, None, extended=extended)
        passes = isinstance(decision, Pass) and not (decision.by_name or decision.unshown) and decision.copies is None
        return decision if isinstance(decision, Pass) and passes else None

    def _under_settings(self, decision: Admit | Compute | Write) -> Refusal | None:
        """Why a text on protected data can't run under the session's settings."""
        tracker = self._state.tracker
        if tracker.unreadable is not None:
            return unreadable(tracker.unreadable)
        ends = isinstance(decision, Admit) and len(decision.plans) > 1 and decision.ends
        return _SETTINGS_END if ends and tracker.meaning_touched else None

    def forms_known(self) -> Generator[Callable[[], bool], None, Refusal | None]:
        """See that it is known how values are shown, for a portal that is about to give some; the refusal where that can't be learnt."""
        state = self._state
        tracker = state.tracker
        quiet = not tracker.doubt or (yield from self.quiet())
        if quiet and not tracker.known and not state.ignores():
            yield from self._probe()
        return None if quiet and tracker.known else SETTINGS_UNKNOWN

    def _ask(self, text: bytes, names: Names | None, *, extended: bool) -> Decision:
        state = self._state
        return state.judge.decide(text, state.principal, state.tracker.settings, extended=extended, names=names)

    def _names(self, need: NeedNames, *, extended: bool) -> Generator[Callable[[], bool], None, Names | Refuse]:
        """What the session knows of the names that a text speaks of, under the rules, the catalog and the settings in force."""
        state = self._state
        yield from self.names_settled()
        prepared: dict[str, Known] = {}
        cursors: dict[str, Known] = {}
        for name in need.prepared:
            key = name_key(name, state.tracker.settings)
            statement = None if key is None else state.statements.get(key)
            # What runs by a name itself is looked up no further.
            if statement is not None and statement.computed is not None:
                return Refuse(_COMPUTED)
            if statement is not None and statement.names is None:
                between = not extended and not state.pipeline.unsynced
                found = yield from self.renewed(statement, between=between)
                if isinstance(found, Refusal):
                    return Refuse(found)
                if found is not None and found.computed is not None:
                    return Refuse(_COMPUTED)
                prepared[name] = known(statement if found is None else found)
        for name in need.cursors:
            key = name_key(name, state.tracker.settings)
            portal = None if key is None else state.portals.get(key)
            if portal is not None and portal.asked_for is not None:
                return Refuse(_COMPUTED)
            if portal is not None and portal.statement is not None and portal.statement.names is None:
                if portal.statement.generation != state.judge.generation:
                    refusal = yield from self.still(portal, portal.statement)
                    if refusal is not None:
                        return Refuse(refusal)
                self.fetching = self.fetching or portal.judge
                cursors[name] = known(portal.statement)
        return Names(prepared, cursors)

    def decided_by(self, decision: Pass | Admit) -> Judge | None:
        """By whose lights the answer to a text is to be looked at, where it does nothing but fetch from a cursor of older rules."""
        alone = (len(decision.plans) if isinstance(decision, Admit) else decision.statements) == 1
        return self.fetching if alone else None

    def names_settled(self) -> Steps:
        """Wait until no statement under way can change the session's names."""
        state = self._state
        if state.names_pending():
            self.flush()
            yield lambda: not state.names_pending() or state.ignores()

    def _room_for(self, decision: Pass | Admit | Compute | Write | Refuse) -> Pass | Admit | Compute | Write | Refuse:
        """Whether the books have room for the names that a text makes."""
        if isinstance(decision, Refuse | Compute | Write) or not decision.names:
            return decision
        state = self._state
        made = {use: [c for c in decision.names if c is not None and c.use is use] for use in _MAKING}
        statements, cursors = made[NameUse.PREPARES], made[NameUse.DECLARES]
        if statements and len(state.statements) + len(statements) > state.limits.statements:
            return Refuse(too_many("prepared statements", state.limits.statements))
        if cursors and len(state.portals) + len(cursors) > state.limits.portals:
            return Refuse(too_many("portals", state.limits.portals))
        texts = state.statements.cost + sum(p.statement.cost for p in state.portals if p.statement is not None)
        if (statements or cursors) and texts + sum(
            len(c.text) for c in statements + cursors
        ) > state.limits.statement_text:
            return Refuse(too_much_text(state.limits.statement_text))
        return decision

    def ready(self, statement: PreparedStatement) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Wait until it is known what a prepared statement is judged by; the refusal where that can't be known."""
        self.interrupted = None
        if statement.decision.unshown:
            refusal = yield from self.look()
            if refusal is not None:
                return refusal
        if (yield from self.quiet()):
            return None
        plain = isinstance(statement.decision, Pass)
        return None if plain and self.forgives(SETTINGS_UNKNOWN, "") else SETTINGS_UNKNOWN

    def still(
        self, portal: Portal, statement: PreparedStatement
    ) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Whether a portal or cursor that is open can go on; the refusal where it can't.

        Under newer rules it keeps what it had. What no description shows is judged again, by who decided.
        """
        state = self._state
        if not statement.decision.unshown:
            return None
        if portal.judge is None:
            return (yield from self.recheck(statement))
        refusal = yield from self.look()
        if refusal is not None or state.ignores() or portal.judge.unchanged_since(statement.generation):
            return refusal
        principal = portal.judge.principal(state.identity.login)
        found = portal.judge.decide(statement.text, principal, statement.settings, extended=True)
        if not isinstance(found, Pass | Admit):
            return PLAN_CHANGED
        inner = found if statement.made is None else inner_decision(found)
        return None if inner is not None and alike(inner, statement) else PLAN_CHANGED

    def recheck(self, statement: PreparedStatement) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Whether what was decided on what a portal was bound to still holds; the refusal where it does not."""
        state = self._state
        refusal = yield from self.ready(statement)
        if refusal is not None or state.ignores() or self.current(statement):
            return refusal
        new, _ = yield from self.again(statement)
        if isinstance(new, Refuse):
            return new.refusal
        if isinstance(new, Compute | Write):
            if not _computed_alike(new, statement):
                return PLAN_CHANGED
            new = fetch_of(new if isinstance(new, Compute) else new.source)
        elif statement.computed is not None or new is None or not alike(new, statement):
            return PLAN_CHANGED
        self.confirm(statement, new)
        return None

    def confirm(self, statement: PreparedStatement, new: Pass | Admit) -> None:
        """A statement is decided on as before, under what holds now."""
        state, held = self._state, statement.decision
        # What the server holds of a text that touches nothing protected stays as it is.
        statement.decision = (
            replace(new, instead=held.instead) if isinstance(new, Pass) and isinstance(held, Pass) else new
        )
        if statement.made is not NameUse.DECLARES:
            statement.origin = statement.origin or statement.settings
            statement.settings = state.tracker.settings
        statement.generation = state.judge.generation
        statement.names = state.names_version if new.by_name else None
        statement.ask_again()

    def holds(self, text: bytes, decision: Pass | Admit) -> Generator[Callable[[], bool], None, bool]:
        """Whether a text that has not been sent yet would still be decided so."""
        if not isinstance(decision, Admit) or decision.generation == self._state.judge.generation:
            return True
        again = yield from self.decide(text, extended=False)
        return isinstance(again, Admit) and same(again, decision)

    def again(
        self, statement: PreparedStatement
    ) -> Generator[Callable[[], bool], None, tuple[Pass | Admit | Compute | Write | Refuse | None, bytes]]:
        """The decision on a statement as it would be now, None where there can be none; and the text that makes it, if that is a PREPARE."""
        state = self._state
        text = statement.text
        if statement.made is NameUse.DECLARES:
            # The server has analysed the cursor's query, under the settings of then.
            found = state.judge.decide(text, state.principal, statement.settings, extended=True)
            if isinstance(found, NeedSettings | NeedNames | Compute | Write):
                return None, text
        else:
            found = yield from self.decide(text, extended=True)
            if statement.made is None or isinstance(found, Compute | Write):
                return found, text
        if isinstance(found, Refuse):
            return self._as_run(found), text
        inner = inner_decision(found)
        return None if inner is None else self._as_run(inner), _text(found, statement)

    def current(self, statement: PreparedStatement) -> bool:
        """Whether a statement was decided under what holds now."""
        state = self._state
        return (
            statement.there
            and not state.catalog_stale
            and statement.generation == state.judge.generation
            and (
                indifferent(statement, state.tracker.settings)
                or (not state.tracker.doubt and self._same_settings(statement))
            )
            and (statement.names is None or (statement.names == state.names_version and not state.names_pending()))
            and state.codec.vouches(statement.vouched)
        )

    def _same_settings(self, statement: PreparedStatement) -> bool:
        settings = self._state.tracker.settings
        return statement.settings is settings or statement.settings == settings or statement.made is NameUse.DECLARES

    def quiet(self) -> Generator[Callable[[], bool], None, bool]:
        """Wait until settings and catalog are up to date; whether they are."""
        state = self._state
        pipeline = state.pipeline
        while not state.ignores():
            if state.catalog_stale:
                yield lambda: not state.catalog_stale
            elif not (state.tracker.doubt or state.ddl_in_flight):
                return True
            elif not pipeline.unsynced:
                if pipeline.idle:
                    state.tracker.doubt = state.ddl_in_flight = False
                else:
                    yield self._drained
            elif state.tracker.doubt:
                yield from self._probe()
                if state.tracker.doubt and not state.ignores():
                    return False
            else:
                # DDL in a batch that is not synced is not committed: no other connection can see it yet.
                return True
        return True

    def _drained(self) -> bool:
        """Whether everything sent is answered. Raises ProtocolError where the server waits for COPY data of the client that waits here."""
        self._no_copy_begun()
        return self._state.pipeline.idle or self._state.ignores()

    def _no_copy_begun(self) -> None:
        head = self._state.pipeline.head
        if head is not None and head.flow is Flow.COPY_IN:
            raise ProtocolError("unexpected message during COPY from stdin")

    def _probe(self) -> Generator[Callable[[], bool], None, bool]:
        """Ask the server for the settings, without touching the client's unnamed statement and portal; whether that was interrupted."""
        state = self._state
        pipeline = state.pipeline
        if state.ignores():
            return False
        between = not pipeline.unsynced
        if between:
            yield self._drained
            if pipeline.status == b"E" or state.ignores():
                return False
        # A probe of an earlier batch may have been cut off behind its Parse; closing what does not exist is no error.
        asked = (
            (Kind.CLOSE, messages.build_close(b"S", PROBE_NAME)),
            (Kind.PARSE, messages.build_parse(PROBE_NAME, PROBE_TEXT)),
            (Kind.BIND, messages.build_bind(PROBE_NAME, PROBE_NAME)),
            (Kind.EXECUTE, messages.build_execute(PROBE_NAME)),
            (Kind.CLOSE, messages.build_close(b"P", PROBE_NAME)),
            (Kind.CLOSE, messages.build_close(b"S", PROBE_NAME)),
        )
        probe = Probe(len(asked) + 1 if between else len(asked))
        route = Route.SKIP if between else Route.GUARD
        for kind, data in asked:
            state.send(data, Expectation(kind, route, note=probe, undo=None if between else probe.drop))
        if between:
            state.send(messages.SYNC, Expectation(Kind.SYNC, Route.SKIP, note=probe))
        else:
            state.to_server.append(messages.FLUSH)
        yield lambda: probe.finished
        self.interrupted = probe.error if probe.error is not None and probe.error[1].startswith("57") else None
        if probe.row is not None:
            state.tracker.probed(probe.row, state.judge)
        return self.interrupted is not None

    def flush(self) -> None:
        """See that the server answers what it has: somebody waits for it."""
        if self._state.pipeline.unsynced and not self._state.pipeline.ignoring:
            self._state.to_server.append(messages.FLUSH)

    def after_batch(self) -> Steps:
        """Wait for the answers to what came before a Query in whose place a Sync of ours will stand.

        An error among them makes the server ignore the Query, and all up to a Sync of the client's; ours would end that too early.
        """
        state = self._state
        if state.pipeline.unsynced:
            self.flush()
            yield lambda: not len(state.pipeline) or state.ignores()

    # -- refusals --------------------------------------------------------------------------------------------------------------------

    def refuse(
        self,
        kind: Kind,
        refusal: Refusal,
        *,
        shape: str = "",
        position: int | None = None,
        name: bytes = b"",
        undo: Callable[[], None] | None = None,
    ) -> None:
        """Send something that must fail, and have its error replaced. `name`: of the statement that a Parse would have made."""
        state = self._state
        ticket = state.trail.refused(state.principal, refusal, shape)
        error = refusal_response(refusal, position)
        interrupted = self.interrupted if refusal in (SETTINGS_UNKNOWN, NOT_RENEWED) else None
        if interrupted is not None:
            # A cancel or a time limit met the probe instead of the client's statement: it is told what it would have been.
            error, sqlstate = interrupted
            refusal = replace(refusal, sqlstate=sqlstate)
        state.refused(refusal)
        data = messages.build_parse(name, REFUSED_TEXT) if kind is Kind.PARSE else _FAILING[kind]
        entry = Expectation(kind, Route.REPLACE, error=error, ticket=ticket, undo=undo)
        entry.in_any_case = interrupted is not None
        state.send(data, entry)

    def refuse_text(self, kind: Kind, refuse: Refuse, *, name: bytes = b"", types: tuple[int, ...] = ()) -> None:
        """Refuse the text of a Query or a Parse (of statement `name`, with the parameter types that the client declared).

        Where the server is asked first, it gets a Parse of the text with its constants blanked. Parse never executes anything, whatever the
        statement (PostgreSQL 55.2.3), and what it makes is closed at once: the Close before it is for one that an error cut off.
        A Query is refused by messages of the extended protocol then, with a Sync of ours; the client can't tell.
        """
        state = self._state
        query = kind is Kind.QUERY
        undo = state.forget_unnamed() if query else None
        check = refuse.check
        if check is None:
            self.refuse(kind, refuse.refusal, shape=refuse.shape, position=refuse.position, name=name, undo=undo)
            return
        ticket = state.trail.refused(state.principal, refuse.refusal, refuse.shape)
        error = refusal_response(refuse.refusal, refuse.position)
        close = messages.build_close(b"S", CHECK_NAME)
        if not name:
            # The server drops the unnamed statement before it looks at the text that would replace it.
            undo = undo if query else state.statements.remove(b"")
            state.send(messages.build_close(b"S", b""), Expectation(Kind.CLOSE, Route.GUARD, undo=undo))
        state.send(close, Expectation(Kind.CLOSE, Route.GUARD))
        state.send(
            messages.build_parse(CHECK_NAME, check.text, types),
            Expectation(Kind.PARSE, Route.CHECK, error=error, refusal=refuse.refusal, check=check, ticket=ticket),
        )
        state.send(close, Expectation(Kind.CLOSE, Route.GUARD))
        state.send(
            messages.build_parse(REFUSED_NAME, REFUSED_TEXT),
            Expectation(Kind.PARSE, Route.REPLACE, error=error, refusal=refuse.refusal, ticket=ticket),
        )
        if query:
            state.send(messages.SYNC, Expectation(Kind.SYNC))

    # -- audit -----------------------------------------------------------------------------------------------------------------------

    def writes_settled(self) -> bool:
        """Whether every writing statement's record is durable, or its statement has been ended because it never will be."""
        trail = self._state.trail
        ticket = trail.last_write
        if trail.durable(ticket):
            return True
        if not trail.settled(ticket):
            return False
        return not any(e.ticket and not e.failed and e.run is not None for e in self._state.pipeline.waiting())

    def settle_writes(self) -> Steps:
        """Wait for `writes_settled`: what comes next may commit."""
        if not self.writes_settled():
            self.flush()
            yield self.writes_settled
