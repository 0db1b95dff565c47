"""Errors and notices of the server that can quote rows: what they may show is in the audit log before they pass (ADR 0031).

The text of the statement does not tell: a not-null constraint shows the whole row that fails, a trigger says what it likes. Nothing of the kind is
recorded beforehand for each write, which would be dear; it is recorded when the server's report is here, and the report waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from audit.errors import AuditUnavailable
from proxy.session.pipeline import Flow, Route
from proxy.session.replies import withheld, without_values
from proxy.wire.messages import Back, parse_error
from rules.model import TableName

if TYPE_CHECKING:
    from proxy.session.pipeline import Expectation
    from proxy.session.state import State
    from proxy.wire.messages import ErrorFields
    from rules.model import ColumnName
    from rules.plan import Plan

# Classes of SQLSTATE (PostgreSQL, appendix A) whose messages name objects, settings and states, and never quote values.
_SAYS_NOTHING: Final = frozenset(
    (
        *("00", "01", "02", "03", "08", "09", "0A", "0B", "0L", "0P", "24", "25", "26", "28", "2B", "2D", "34", "3B"),
        *("3D", "3F", "40", "42", "53", "54", "55", "57", "58"),
    )
)
# The key that it quotes may be of either table, and it names one.
_FOREIGN_KEY: Final = "23503"
_NOT_SHOWN: Final = frozenset((Route.REPLACE, Route.SKIP, Route.CHECK))
_RECORDED_AS: Final = "(an error or notice of the server)"


def may_quote(fields: ErrorFields, context: bytes | None) -> bool:
    """Whether a report may hold values that the text of the statement does not: words of a function or trigger, a DETAIL with a row or key."""
    return context is not None or fields.sqlstate[:2] not in _SAYS_NOTHING


class Reports:
    """Holds back one report at a time."""

    __slots__ = ("_known", "_of", "_state", "_ticket", "waiting")

    def __init__(self, state: State) -> None:
        self._state = state
        self.waiting: bytes | None = None
        self._ticket = 0
        self._of: Expectation | None = None  # whose reports have been recorded as reading `_known`
        self._known: frozenset[ColumnName] = frozenset()

    def stop(self, head: Expectation | None, raw: bytes) -> bool:
        """Whether a report must wait, or be changed. Raises ProtocolError."""
        if raw[0] == Back.ERROR and head is not None and (head.failed or head.route in _NOT_SHOWN):
            return False
        fields = parse_error(raw[5:])
        context = fields.get("W")
        if head is not None and head.flow in (Flow.COPY_IN, Flow.COPY_ENDED) and context and b"\n" not in context:
            context = None  # the line of COPY data, in the client's words
        if not may_quote(fields, context) or (context is None and _is_of_the_sealed_domain(fields)):
            return False
        state = self._state
        plan, withhold = state.judge.report(state.identity.login, _relation(fields, context), context)
        if withhold:
            raw = without_values(raw)
        if plan is None or self._is_recorded(head, plan):
            self.waiting = raw if withhold else None
            return withhold
        self._record(head, plan, fields)
        self.waiting = raw if self._ticket else withheld(raw)
        return True

    def take(self) -> bytes | None:
        """The report that waited, once its record is durable, or given up; None while it waits."""
        raw, trail = self.waiting, self._state.trail
        if raw is None or not trail.settled(self._ticket):
            return None
        durable = trail.durable(self._ticket)
        self.waiting, self._ticket = None, 0
        return raw if durable else withheld(raw)

    def _is_recorded(self, head: Expectation | None, plan: Plan) -> bool:
        wanted = {t.column for t in plan.touched}
        if head is not None and head is self._of:
            wanted -= self._known
        run = None if head is None else head.run
        if run is not None and run.plan is not None:
            wanted -= {t.column for t in run.plan.touched if t.read}
        return not wanted

    def _record(self, head: Expectation | None, plan: Plan, fields: ErrorFields) -> None:
        trail = self._state.trail
        run = None if head is None else head.run
        shape = _RECORDED_AS if run is None or not run.admit.shape else run.admit.shape
        try:
            self._ticket, number = trail.start(self._state.principal, plan, shape)
        except AuditUnavailable:
            self._ticket = 0
            return
        trail.end(number, None, 0.0, "ok" if _is_notice(fields) else "error", fields.sqlstate)
        known = self._known if head is self._of else frozenset()
        self._of, self._known = head, known | {t.column for t in plan.touched}


def _is_notice(fields: ErrorFields) -> bool:
    return fields.sqlstate[:2] in {"00", "01", "02"}


def _is_of_the_sealed_domain(fields: ErrorFields) -> bool:
    """A text that is no sealed value, in words that name domain and check and quote nothing; in a COPY, pgveil's own stand-in."""
    return (fields.get("s"), fields.get("d")) == (b"pgveil", b"sealed")


def _relation(fields: ErrorFields, context: bytes | None) -> TableName | None:
    """The one relation whose rows a report may quote, as far as it says so."""
    schema, table = fields.get("s"), fields.get("t")
    if context is not None or schema is None or table is None or fields.sqlstate == _FOREIGN_KEY:
        return None
    return TableName(schema.decode(errors="replace"), table.decode(errors="replace"))


REPORTS: Final = frozenset((Back.ERROR, Back.NOTICE))
