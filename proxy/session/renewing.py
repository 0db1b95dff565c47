"""Prepared statements under another decision: made again at the server, in front of what uses them (ADR 0029).

    client           session                                                 server
    Bind of s   -->  Close s, Parse s (the text of now), Describe s, Flush   ->
                     answers swallowed; the description is what was told     <-
                     Bind                                                    ->

The client sees nothing of it, unless the result has another type than it was told: then it gets the error that PostgreSQL gives, at each use,
until it prepares the statement again, or what has changed is undone. Portals keep the statement that they were bound to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.session.asking import Failed
from proxy.session.computing import Compute, Write
from proxy.session.fetching import server_types
from proxy.session.gate import Admit, Refuse
from proxy.session.judging import NOT_RENEWED, PLAN_CHANGED, alike
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.prepared import fetch_of
from proxy.session.replies import AGAIN_NAME
from proxy.session.settings import Probe
from proxy.session.statements import PreparedStatement, parameter_types
from proxy.wire import messages
from rules.named import NameUse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from proxy.session.gate import Pass, Settings
    from proxy.session.judging import Judging
    from proxy.session.state import State
    from proxy.session.writer import Writer
    from rules.plan import Refusal

    Made = Generator[Callable[[], bool], None, PreparedStatement | Refusal | None]

_NEVER: Final = -1  # no generation: the statement is judged again at each use


class Renewing:
    """Keeps one session's prepared statements what the rules, the catalog and the settings in force make of them."""

    __slots__ = ("_computer", "_judging", "_state")

    def __init__(self, state: State, judging: Judging, computer: Writer) -> None:
        self._state = state
        self._judging = judging
        self._computer = computer
        judging.renewed = self.renewed

    def renewed(self, statement: PreparedStatement, *, between: bool = False) -> Made:
        """The statement that the name stands for, under what holds now; why it can't be used; None where the batch has ended.

        `between`: what needs it is a simple Query, so what is asked of the server is synced.
        """
        state, judging = self._state, self._judging
        refusal = yield from judging.ready(statement)
        if refusal is not None or state.ignores():
            return refusal
        if judging.current(statement) or (state.pipeline.idle and state.pipeline.status == b"E"):
            return statement  # in a transaction that has failed the server runs nothing
        found, text = yield from judging.again(statement)
        if state.ignores():
            return None
        if isinstance(found, Refuse):
            return found.refusal
        if found is None or (isinstance(found, Compute | Write) and statement.made is not None):
            return PLAN_CHANGED
        if isinstance(found, Compute | Write) and _reads_the_same(statement, state.tracker.settings):
            return (yield from self._computed(statement, found))
        if isinstance(found, Compute | Write):
            return PLAN_CHANGED
        if statement.computed is None and statement.there and alike(found, statement):
            judging.confirm(statement, found)
            return statement
        if not _reads_the_same(statement, state.tracker.settings):
            return PLAN_CHANGED
        if statement.made is NameUse.PREPARES:
            return (yield from self._prepare_again(statement, found, text, between=between))
        return (yield from self._parse_again(statement, found, between=between))

    # -- statements of the protocol ----------------------------------------------------------------------------------------------------

    def _parse_again(self, old: PreparedStatement, decision: Pass | Admit, *, between: bool) -> Made:
        state = self._state
        new = self._successor(old, decision, _declared(old))
        text, types = sent(new)
        if _outdated(old, new):
            asked = [(Kind.PARSE, messages.build_parse(new.name, text, types))]
            refusal = yield from self._replace(old, new, asked, between=between)
            if refusal is not None:
                return refusal
        else:
            state.statements.put(new.name, new)
        if between or new.told is None:
            return new  # each answer to a simple Query is described
        entry = Expectation(Kind.DESCRIBE_STATEMENT, Route.GUARD, statement=new, others=state.unknown_executes > 0)
        state.send(messages.build_describe(b"S", new.name), entry)
        self._judging.flush()
        yield lambda: new.verified or state.ignores()
        if state.ignores():
            return None
        if _columns(b"" if new.shown is None else new.shown.message) == _columns(new.told):
            return new
        new.generation = _NEVER
        return PLAN_CHANGED

    def _successor(self, old: PreparedStatement, decision: Pass | Admit, types: tuple[int, ...]) -> PreparedStatement:
        state = self._state
        return PreparedStatement(
            old.name,
            old.text,
            types,
            decision,
            state.tracker.settings,
            state.judge.generation,
            dropped_name=old.dropped_name,
            names=state.names_version if decision.by_name else None,
            told=_told(old),
            parameters=old.parameters,
            origin=old.origin or old.settings,
            forms=old.forms,
        )

    def _computed(self, old: PreparedStatement, decision: Compute | Write) -> Made:
        state = self._state
        declared = _declared(old) if old.computed is None else old.computed.declared
        made = yield from self._computer.described(decision, declared)
        if made is None or state.ignores():
            return None
        if isinstance(made, Failed):
            return made.refusal or PLAN_CHANGED
        computed, writing = made
        prepared = computed.prepared
        fetch = fetch_of(computed.compute)
        new = replace(self._successor(old, fetch, prepared.types), parameters=None, computed=computed, writing=writing)
        known = old.parameters if old.computed is None else old.types
        told = new.told
        shown = b"" if not prepared.fields else prepared.result(())
        if (known is not None and known != prepared.types) or (told is not None and _columns(shown) != _columns(told)):
            return PLAN_CHANGED
        text, types = sent(new)
        if _outdated(old, new):
            asked = [(Kind.PARSE, messages.build_parse(new.name, text, types))]
            yield from self._replace(old, new, asked, between=False)
        else:
            state.statements.put(new.name, new)
        return new

    # -- statements of PREPARE ---------------------------------------------------------------------------------------------------------

    def _prepare_again(self, old: PreparedStatement, decision: Pass | Admit, text: bytes, *, between: bool) -> Made:
        new = self._successor(old, decision, old.types)
        new.made, new.told = old.made, None
        asked = [
            (Kind.CLOSE, messages.build_close(b"S", AGAIN_NAME)),
            (Kind.PARSE, messages.build_parse(AGAIN_NAME, text)),
            (Kind.BIND, messages.build_bind(AGAIN_NAME, AGAIN_NAME)),
            (Kind.EXECUTE, messages.build_execute(AGAIN_NAME)),
            (Kind.CLOSE, messages.build_close(b"P", AGAIN_NAME)),
            (Kind.CLOSE, messages.build_close(b"S", AGAIN_NAME)),
        ]
        refusal = yield from self._replace(old, new, asked, between=between)
        return new if refusal is None else refusal

    # -- the exchange ------------------------------------------------------------------------------------------------------------------

    def _replace(
        self, old: PreparedStatement, new: PreparedStatement, asked: list[tuple[Kind, bytes]], *, between: bool
    ) -> Generator[Callable[[], bool], None, Refusal | None]:
        """Close the statement and send what makes it anew. Where the server does the first and not the second, it has none any longer.

        `between` the client's requests the answers are waited for; else an error is the client's, in the place of what needed the statement.
        """
        state = self._state
        restore = state.statements.put(old.name, new)
        assert restore is not None
        before = old.absent

        def untouched() -> None:
            restore()
            old.absent = before

        def lost() -> None:
            restore()
            old.absent = True

        state.observer.message_objects(1)
        probe = Probe(len(asked) + 2) if between else None
        route = Route.SKIP if between else Route.GUARD
        close = messages.build_close(b"S", old.name)
        state.send(close, Expectation(Kind.CLOSE, route, note=probe, undo=untouched))
        for kind, data in asked:
            state.send(data, Expectation(kind, route, note=probe, undo=lost))
        if probe is None:
            return None
        state.send(messages.SYNC, Expectation(Kind.SYNC, Route.SKIP, note=probe))
        yield lambda: probe.finished
        if probe.error is None:
            return None
        self._judging.interrupted = probe.error
        return NOT_RENEWED


def _reads_the_same(statement: PreparedStatement, now: Settings) -> bool:
    """Whether the text means to the server today what it meant when it was parsed, which is what a prepared statement goes on meaning."""
    then = statement.origin or statement.settings
    encoded = then.client_encoding == now.client_encoding or statement.text.isascii()
    return encoded and (
        then.standard_conforming_strings == now.standard_conforming_strings or b"\\" not in statement.text
    )


def _declared(statement: PreparedStatement) -> tuple[int, ...]:
    """The parameter types that the client sends values by, as far as they are known."""
    return statement.types if statement.parameters is None else statement.parameters


def _told(statement: PreparedStatement) -> bytes | None:
    """The description that the client may know."""
    if statement.computed is None:
        return statement.told
    prepared = statement.computed.prepared
    return prepared.result(()) if prepared.fields else b""


def sent(statement: PreparedStatement) -> tuple[bytes, tuple[int, ...]]:
    """What the server holds of a statement of the protocol: its text and the types of its parameters."""
    decision = statement.decision
    if not isinstance(decision, Admit):
        return statement.text if decision.instead is None else decision.instead.text, statement.types
    if statement.computed is None:
        return decision.text, parameter_types(statement.types, statement.plan)
    return decision.text, server_types(decision, statement.types, statement.computed.prepared.fetched)


def _outdated(old: PreparedStatement, new: PreparedStatement) -> bool:
    """Whether the server has to hold another statement.

    A column that is sealed now has another type to the server, which would refuse what it has planned for ever, though the client is told the same.
    """
    return old.absent or sent(new) != sent(old) or not _opened(new) <= _opened(old)


def _opened(statement: PreparedStatement) -> frozenset[int]:
    plan = statement.plan
    results = () if plan is None or plan.results is None else plan.results
    return frozenset(index for index, column in enumerate(results) if column.open is not None)


def _columns(described: bytes) -> tuple[tuple[bytes, int, int], ...]:
    """What PostgreSQL compares: names and types (equalRowTypes)."""
    if not described:
        return ()
    return tuple((f.name, f.type, f.typmod) for f in messages.parse_row_description(described[5:]))
