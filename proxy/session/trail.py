"""The session's side of the audit log: one record when a statement starts, one when it ends, one for each refusal.

Records are appended here and become durable elsewhere; the session holds back what may not go before (`proxy.session.session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from audit.errors import AuditUnavailable
from audit.event import ColumnAccess, Refused, StatementEnded, StatementStarted

if TYPE_CHECKING:
    from audit.event import Event, Outcome
    from rules.model import Principal
    from rules.plan import Plan, Refusal


class Recorder(Protocol):
    """The audit log as a session sees it. Tickets grow; `durable` is the highest one whose record survives a crash."""

    @property
    def durable(self) -> int: ...

    def append(self, event: Event) -> int:
        """Queue a record. Raises AuditUnavailable when it cannot be recorded now."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is connected. `client` is "address:port" or "local"; `connection` is unique within the log. `application`: by the startup packet."""

    login: str
    database: str
    client: str
    application: str
    connection: str


class Trail:
    """Appends the session's records and knows which are durable."""

    __slots__ = ("_application", "_durable", "_identity", "_last", "_number", "_recorder", "last_write", "lost")

    def __init__(self, recorder: Recorder, identity: Identity) -> None:
        self._recorder = recorder
        self._identity = identity
        self._application = identity.application
        self._number = 0
        self._durable = 0
        self._last = 0
        self.last_write = 0  # ticket of the newest record of a writing statement
        self.lost = 0  # tickets up to this one were given up when the log failed

    def goes_by(self, application: str) -> None:
        """The server reports another application_name."""
        self._application = application

    def durable(self, ticket: int) -> bool:
        """Whether the record of `ticket` (0: none) survives a crash."""
        return ticket <= self._durable or ticket <= self._recorder.durable

    def settled(self, ticket: int) -> bool:
        """Whether waiting for `ticket` is over: durable, or given up."""
        return ticket <= self.lost or self.durable(ticket)

    def became_durable(self, ticket: int) -> None:
        """The log reports that everything up to `ticket` is durable."""
        self._durable = max(self._durable, ticket)

    def failed(self) -> None:
        """The log cannot write: nothing waits for its records any longer."""
        self.lost = self._last

    def start(self, principal: Principal, plan: Plan, shape: str) -> tuple[int, int]:
        """Record that a statement starts; its (ticket, number). Raises AuditUnavailable."""
        self._number += 1
        who = self._identity
        ticket = self._recorder.append(
            StatementStarted(
                connection=who.connection,
                login=who.login,
                roles=principal.roles,
                policy_class=principal.policy.id,
                database=who.database,
                client=who.client,
                application=self._application,
                action=plan.action.value,
                statement=shape,
                tables=tuple(str(t) for t in plan.tables),
                columns=tuple(
                    ColumnAccess(str(t.column), t.level.value, t.verdict.value, t.read, t.written) for t in plan.touched
                ),
                lookup=plan.lookups,
                statement_id=self._number,
            )
        )
        self._last = max(self._last, ticket)
        if plan.writes:
            self.last_write = ticket
        return ticket, self._number

    def end(self, number: int, rows: int | None, seconds: float, outcome: Outcome, sqlstate: str | None = None) -> None:
        """Record how statement `number` ended; lost when the log cannot take it, as nothing depends on it."""
        micros = max(0, round(seconds * 1_000_000))
        try:
            self._recorder.append(StatementEnded(self._identity.connection, number, rows, micros, outcome, sqlstate))
        except AuditUnavailable:
            return

    def refused(
        self, principal: Principal, refusal: Refusal, shape: str, number: int | None = None, *, observed: bool = False
    ) -> int:
        """Record a refusal (`observed`: the statement runs all the same); its ticket, 0 where the log cannot take it (a refusal releases nothing, so it goes on without)."""
        who = self._identity
        try:
            ticket = self._recorder.append(
                Refused(
                    connection=who.connection,
                    login=who.login,
                    roles=principal.roles,
                    policy_class=principal.policy.id,
                    database=who.database,
                    client=who.client,
                    application=self._application,
                    reason=refusal.reason.value,
                    sqlstate=refusal.sqlstate,
                    column=None if refusal.column is None else str(refusal.column),
                    statement=shape,
                    statement_id=number,
                    observed=observed,
                )
            )
        except AuditUnavailable:
            return 0
        self._last = max(self._last, ticket)
        return ticket
