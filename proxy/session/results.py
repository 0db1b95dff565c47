"""Rows and COPY data on their way to the client: whether they may pass, and the opening of what is sealed in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProtocolError
from proxy.session.gate import BadValue
from proxy.session.pipeline import Expectation, Flow, Kind, Route
from proxy.session.replies import Trouble, holds_sealed, scrubbed
from proxy.session.rows import open_rows
from proxy.session.witness import disagreement
from proxy.wire import messages
from proxy.wire.copy_rows import CopyDataError
from proxy.wire.messages import Back
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from proxy.session.failures import Failures
    from proxy.session.state import State
    from proxy.session.statements import Portal
    from proxy.session.witness import Opening, Shown
    from proxy.wire.framing import Batch

WITNESS: Final = Refusal(Reason.WITNESS, "42501", "the server's description disagrees with the analysis")

_NEW_VIEW: Final = Trouble(
    "0AP01",
    "pgveil withheld the result: it holds sealed values of a view that was made in this transaction",
    hint="Commit first: pgveil knows a view once others can see it. Or select from the view's own tables.",
)


class Results:
    """What the server sends between a description and the end of a statement. The methods are the backend's."""

    __slots__ = ("_failures", "_state")

    def __init__(self, state: State, failures: Failures) -> None:
        self._state = state
        self._failures = failures

    def reads(self, head: Expectation) -> bool:
        """Whether DataRows of an execution or a question of ours must be looked at: to open, count or keep them."""
        if head.failed:
            return False
        if head.probing:
            return True
        run = head.run
        if head.note is not None or head.collector is not None or run is None:
            return True
        shown = _shown(head)
        explains = run.plan is not None and run.plan.explains
        opened = shown is not None and bool(shown.openings)
        return run.counts or explains or opened or self._state.new_views

    def stream(self, data: bytes) -> None:
        """Rows that nobody reads, or COPY data."""
        head = self._state.pipeline.head
        if head is not None and head.failed:
            return
        if self._may_flow(head):
            self._state.to_client.append(data)

    def rows(self, batch: Batch) -> None:
        """Rows that somebody reads."""
        state = self._state
        head = state.pipeline.head
        if head is not None and head.note is not None:
            head.note.row = messages.parse_data_row(batch.raw[5 : batch.starts[1]])
            return
        if head is not None and head.probing:
            if not state.tracker.forms_probed(messages.parse_data_row(batch.raw[5 : batch.starts[1]])):
                self._failures.fail(head, disagreement(None), WITNESS)
            return
        if not self._may_flow(head):
            return
        assert head is not None
        if batch.kind == Back.COPY_DATA:
            if head.copy_out is None:
                self._pass(head, batch)
            else:
                self._copy(head, batch)
            return
        run = head.run
        if run is not None and head.collector is None:
            run.rows += _size(batch)
        shown = _shown(head)
        if head.collector is not None:
            self._collect(head, shown, batch)
        elif run is not None and run.plan is not None and run.plan.explains:
            self._explain(batch)
        elif shown is None or not shown.openings:
            self._pass(head, batch)
        else:
            self._open(head, shown, batch)

    def _pass(self, head: Expectation, batch: Batch) -> None:
        """Rows without anything to open, unless they hold what should have been opened: of a view that this transaction has made."""
        if self._state.new_views and holds_sealed(batch.raw):
            self._failures.fail(head, _NEW_VIEW, Refusal(Reason.UNSUPPORTED, _NEW_VIEW.sqlstate, _NEW_VIEW.message))
            return
        self._state.to_client.append(batch.raw)

    def _explain(self, batch: Batch) -> None:
        """Lines of a plan, in which sealed constants are quoted."""
        lines = open_rows(batch, 1, (0,), lambda _, cells: [None if c is None else scrubbed(c) for c in cells])
        self._state.to_client.append(lines)

    def _copy(self, head: Expectation, batch: Batch) -> None:
        """Data of a COPY with sealed columns."""
        state = self._state
        assert head.copy_out is not None
        try:
            data, opened = head.copy_out.take(batch)
        except BadValue as bad:
            self._damaged(head, bad)
            return
        except CopyDataError as error:
            self._failures.fail(head, _unread(error), WITNESS)
            return
        state.observer.opened(opened)
        state.observer.message_objects(_size(batch))
        if data:
            state.to_client.append(data)

    def copied(self, head: Expectation) -> bool:
        """The server ends the data; whether all of it could be read."""
        assert head.copy_out is not None
        try:
            head.copy_out.end()
        except CopyDataError as error:
            self._failures.fail(head, _unread(error), WITNESS)
            return False
        return True

    def _may_flow(self, head: Expectation | None) -> bool:
        """Whether rows or COPY data of the head may pass. Ends the statement where the witness has not agreed."""
        if head is None or head.kind not in (Kind.EXECUTE, Kind.QUERY):
            raise ProtocolError("the server sent rows that nothing asked for")
        if head.route is not Route.FORWARD and head.collector is None:
            raise ProtocolError("the server ran what it had to refuse")
        if head.flow in (Flow.ROWS, Flow.COPY_OUT):
            return True
        if head.portal is not None and head.portal.verified and (head.portal.shown is not None):
            head.flow = Flow.ROWS
            return True
        self._failures.fail(head, disagreement(None), WITNESS)
        return False

    def _open(self, head: Expectation, shown: Shown, batch: Batch) -> None:
        state = self._state
        try:
            data = opened(state, shown, batch, head.portal)
        except BadValue as bad:
            self._damaged(head, bad)
            return
        state.to_client.append(data)

    def _damaged(self, head: Expectation, bad: BadValue) -> None:
        trouble = Trouble(bad.sqlstate, bad.message, bad.detail)
        self._failures.fail(head, trouble, Refusal(bad.reason, bad.sqlstate, bad.message, column=bad.column))

    def _collect(self, head: Expectation, shown: Shown | None, batch: Batch) -> None:
        """Keep rows for a computation, column by column."""
        state = self._state
        collector = head.collector
        assert collector is not None
        assert shown is not None
        openings = {o.index: o for o in shown.openings}

        def opener(which: int, cells: list[bytes | None]) -> list[bytes | None]:
            opening = openings.get(which)
            return cells if opening is None else _values(state, shown, head.portal, opening, cells)

        try:
            trouble = collector.take(batch, len(shown.formats), opener)
        except BadValue as bad:
            collector.drop()
            self._damaged(head, bad)
            return
        if trouble is not None:
            collector.drop()
            self._failures.fail(head, trouble, Refusal(Reason.LIMIT, trouble.sqlstate, trouble.message))
            return
        state.observer.opened(_size(batch) * len(openings))
        state.observer.message_objects(_size(batch))


def opened(state: State, shown: Shown, batch: Batch, portal: Portal | None) -> bytes:
    """Rows with their sealed values opened, and counted. `portal`: whose formats they have; None: those of the description. Raises BadValue, ProtocolError."""
    openings = shown.openings

    def opener(which: int, cells: list[bytes | None]) -> list[bytes | None]:
        return _values(state, shown, portal, openings[which], cells)

    data = open_rows(batch, len(shown.formats), [o.index for o in openings], opener)
    state.observer.opened(_size(batch) * len(openings))
    state.observer.message_objects(_size(batch))
    return data


def _values(
    state: State, shown: Shown, portal: Portal | None, opening: Opening, cells: list[bytes | None]
) -> list[bytes | None]:
    """The values of one sealed column in the form that was asked for. Raises BadValue."""
    form = shown.formats[opening.index] if portal is None else portal.format_of(opening.index)
    return state.codec.open_batch(opening.column, opening.verdict, cells, form, state.tracker.output)


def _unread(error: CopyDataError) -> Trouble:
    return Trouble(error.sqlstate, f"pgveil withheld the rest of the COPY: {error.message}", hint=error.hint)


def _shown(head: Expectation) -> Shown | None:
    if head.portal is not None:
        return head.portal.shown
    return None if head.run is None else head.run.shown


def _size(batch: Batch) -> int:
    """How many messages a batch holds."""
    return len(batch.starts) - 1
