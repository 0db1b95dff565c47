"""Statements that pgveil ends while the server runs them well: a description that disagrees, a value that does not open, a lost audit record.

The client is told of an error that the server does not know of. What is here makes it true afterwards, or ends the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.pipeline import Expectation, Flow, Kind, Route
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.session.replies import Trouble
    from proxy.session.state import State
    from proxy.session.statements import Run
    from rules.plan import Refusal

_OTHERS: Final = "The connection ends, as other statements sent with this one may have been committed."


class Failures:
    """Ends statements of one session. The methods are the backend's."""

    __slots__ = ("_mending", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._mending = False  # a failing message was sent to end a transaction block

    def fail(self, head: Expectation, trouble: Trouble, refusal: Refusal) -> None:
        """End the head with an error that the server does not know of, and see that the server's state becomes what the client was told.

        The rest of the answers up to the sync is dropped. Where the sync has not been sent, a failing message goes before it, so that
        everything in the batch is rolled back; where it has, the transaction block, if there is one, is made to fail afterwards. Where neither
        can make the client's picture true, because other executions of the batch may be committed, the connection ends.
        """
        state = self._state
        later = state.pipeline.before_sync()
        ready = state.pipeline.ready_of_head()
        synced = ready is not None
        self.record(head, refusal)
        own = [e for e in later if head.portal is not None and e.portal is head.portal]
        if (synced and head.others) or any(_may_commit(e) and e not in own for e in later):
            detail = " ".join(filter(None, (trouble.detail, _OTHERS)))
            state.fatal_report(trouble.sqlstate, trouble.message, detail, trouble.hint)
            return
        changed = synced and state.pipeline.status == b"I" and any(_may_commit(e) for e in (head, *own))
        note = "What the statement changed, if anything, may have been committed." if changed else None
        state.to_client.append(trouble.response(note))
        state.observer.error(trouble.sqlstate)
        state.observer.refused(refusal.reason)
        head.failed = True
        head.flow = Flow.NONE
        for entry in later:
            entry.failed = True
            if entry.kind in (Kind.DESCRIBE_STATEMENT, Kind.DESCRIBE_PORTAL) and entry.undo is not None:
                entry.undo()
            if entry.run is not None:
                state.end_run(entry.run, "error", None)
                entry.run = None
            if entry.note is not None:
                entry.note.drop()
        if ready is None:
            state.broken = True
        else:
            ready.mend = state.hold_client = True

    def record(self, head: Expectation, refusal: Refusal) -> None:
        """Put a refusal of a statement that the server runs into the audit log, and end the run with it."""
        state = self._state
        number = None
        run = head.run
        if run is not None and run.index < len(run.ids):
            number = run.ids[run.index] or None
        shape = "" if run is None else run.admit.shape
        state.trail.refused(state.principal, refusal, shape, number)
        if run is not None:
            self.end_run(run, refusal.sqlstate)

    def mend(self) -> None:
        """The client was told of an error in a transaction block that the server holds for healthy: make the server fail."""
        state = self._state
        if len(state.pipeline) or self._mending:
            state.fatal_report("25P02", "pgveil could not make the transaction fail after an error within it", _OTHERS)
            return
        self._mending = True
        state.send_failing(Route.SKIP)
        state.send(messages.SYNC, Expectation(Kind.SYNC, mend=True))

    def mended(self) -> None:
        """The server's transaction is what the client was told: the client may go on."""
        self._state.hold_client = self._mending = False

    def end_run(self, run: Run, sqlstate: str) -> None:
        """An execution ended with an error, unless it had ended before."""
        if run.index < len(run.ids):
            self._state.end_run(run, "cancelled" if sqlstate == "57014" else "error", sqlstate)


def _may_commit(entry: Expectation) -> bool:
    """Whether an execution is not known to only read."""
    if entry.kind not in (Kind.EXECUTE, Kind.QUERY) or entry.route is not Route.FORWARD:
        return False
    return entry.run is None or entry.run.writes
