"""The server's part of a computed statement: messages of pgveil's own within the client's batch.

Their answers are nobody's, their errors the client's. No Sync is among them: all of it is in the client's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.collect import Collector
from proxy.session.localtext import parameters_in
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.premise import Premise
from proxy.session.prepared import TEXT_ARRAY_OID, TEXT_OID, fetching
from proxy.session.statements import Portal, PreparedStatement
from proxy.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.computing import Leaf
    from proxy.session.gate import Admit
    from proxy.session.judging import Steps
    from proxy.session.state import State
    from proxy.session.statements import Run

FETCH_NAME: Final = b"pgveil_fetch"
LEAF_NAME: Final = b"pgveil_leaf"


class Fetcher:
    """Sends them for one session."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def ask(
        self,
        kind: Kind,
        data: bytes,
        *,
        statement: PreparedStatement | None = None,
        portal: Portal | None = None,
        undo: Callable[[], None] | None = None,
    ) -> None:
        """Send a message of ours within the client's batch."""
        self._state.send(data, Expectation(kind, Route.GUARD, statement=statement, portal=portal, undo=undo))

    def close(self, name: bytes) -> None:
        """Close a statement and a portal of ours; what an error left open once, too."""
        self.ask(Kind.CLOSE, messages.build_close(b"P", name))
        self.ask(Kind.CLOSE, messages.build_close(b"S", name))

    def forget_unnamed(self) -> None:
        """A simple Query destroys the unnamed statement and portal (PostgreSQL 55.2.3)."""
        self.ask(Kind.CLOSE, messages.build_close(b"S", b""), undo=self._state.forget_unnamed())
        self.ask(Kind.CLOSE, messages.build_close(b"P", b""))

    def statement(self, name: bytes, admit: Admit, types: tuple[int, ...] = ()) -> PreparedStatement:
        """Parse a statement under a name of ours."""
        state = self._state
        made = PreparedStatement(name, admit.text, (), admit, state.tracker.settings, state.judge.generation)
        self.ask(Kind.PARSE, messages.build_parse(name, admit.text, types), statement=made)
        return made

    def portal(self, statement: PreparedStatement, bind: bytes) -> Portal:
        """Bind a portal of ours by the whole message, and have its description checked."""
        made = Portal(FETCH_NAME, statement)
        self.ask(Kind.BIND, bind, portal=made)
        self.ask(Kind.DESCRIBE_PORTAL, messages.build_describe(b"P", FETCH_NAME), portal=made)
        return made

    def describe(self, leaf: Leaf, declared: tuple[int, ...]) -> PreparedStatement:
        """Ask for a leaf's columns; the statement is `verified` when they are there."""
        return self.describe_admitted(fetching(leaf.fetch), declared)

    def describe_admitted(self, admit: Admit, declared: tuple[int, ...]) -> PreparedStatement:
        """Ask for a statement's parameters and columns; it is `verified` when they are there."""
        types = server_types(admit, declared, parameters_in(admit.text, self._state.tracker.settings))
        close = messages.build_close(b"S", LEAF_NAME)
        self.ask(Kind.CLOSE, close)
        made = self.statement(LEAF_NAME, admit, types)
        self.ask(Kind.DESCRIBE_STATEMENT, messages.build_describe(b"S", LEAF_NAME), statement=made)
        self.ask(Kind.CLOSE, close)
        return made

    def execute(self, portal: Portal, run: Run | None, ticket: int) -> Collector:
        """Fetch all rows of a portal. The limit is one more than may come, so that the server never sends much more."""
        state = self._state
        collector = Collector(state.limits, state.budget)
        entry = Expectation(
            Kind.EXECUTE, Route.GUARD, portal=portal, run=run, ticket=ticket, collector=collector, undo=collector.drop
        )
        entry.premise = Premise.of(portal.statement, ours=True)
        state.send(messages.build_execute(portal.name, state.limits.collected_rows + 1), entry)
        return collector

    def collected(self, collector: Collector) -> Steps:
        """Wait for its end."""
        self._state.to_server.append(messages.FLUSH)
        yield lambda: collector.finished or self._state.ignores()


def server_types(fetch: Admit, types: tuple[int, ...], referred: frozenset[int]) -> tuple[int, ...]:
    """The parameter types for a statement: text where it is sealed, and where the statement knows nothing of a parameter."""
    plan = fetch.plans[0] if fetch.plans else None
    most = max((len(types), *referred))
    sealed = {} if plan is None else {p.number: TEXT_ARRAY_OID if p.array else TEXT_OID for p in plan.params}
    made = []
    for number in range(1, most + 1):
        known = types[number - 1] if number <= len(types) else 0
        made.append(sealed.get(number, known) if number in referred else TEXT_OID)
    return tuple(made)
