"""What a session under fuzz stands on: a gate over the bank's rules, keys that are always the same, an audit log and a calculator to steer."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from audit.errors import AuditUnavailable
from audit.event import StatementEnded, StatementStarted
from proxy.decisions import Gate
from proxy.plan_cache import GateLimits
from proxy.session.computing import Answer, CalculatorError, Compute, Write
from proxy.session.gate import Admit
from proxy.session.limits import SessionLimits
from proxy.session.prepared import fetch_of
from proxy.session.replies import Trouble
from proxy.session.values import ValueCodec
from proxy.wire import messages as m
from rules.load import load_rules_text
from rules.model import Verdict
from tests.fuzz.target import promise
from tests.rules.test_decisions_golden import RULES, bank_catalog
from tests.session.conftest import Ring
from tests.session.conversation import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audit.event import Event
    from proxy.session.computing import Question
    from proxy.session.gate import Decision, Names, Settings
    from rules.copy_format import CopyPlan
    from rules.model import ColumnName, Principal
    from rules.plan import Plan

# What is sealed in the bank's tables, by column; long enough not to come about by chance.
CANARIES: Final = {"pan": "6222021234567890123", "id_number": "11010519491231002X", "credit": "123456789.25"}
SHOWN: Final = tuple(value.encode() for value in CANARIES.values())
_OTHERS: Final = {"cvv": "737"}
LOGINS: Final = ("teller", "agent", "owner")
LIMITS: Final = SessionLimits(
    pending=48,
    statements=24,
    statement_text=8192,
    portals=24,
    collected_rows=50,
    collected_bytes=8192,
    held_client=16384,
    held_server=16384,
)
_ENCODER: Final = msgspec.json.Encoder()
_RULES: Final = load_rules_text(RULES, "rules.yaml")


def bank_values() -> ValueCodec:
    """A codec whose keys are the same in every process, as seeds hold sealed values."""
    ring = Ring()
    for column in _RULES.protected_columns():
        ring.newest(column.domain or str(column.name))
    return ValueCodec(ring, random=Random(5).randbytes)


class Ground:
    """What all sessions of one target share. `gates`: one that leaves nothing to the calculator, and one that does."""

    def __init__(self) -> None:
        self.values = bank_values()
        bounds = GateLimits(plans=512, texts=512, principals=4)
        self.gates = [
            Gate(_RULES, bank_catalog(), self.values, limits=bounds, computes=computes) for computes in (False, True)
        ]
        self.sealed = {
            column.name: self.values.seal_literal(column, (CANARIES | _OTHERS)[column.name.column])
            for column in _RULES.protected_columns()
            if column.name.column in CANARIES | _OTHERS
        }
        catalog = bank_catalog()
        self.places = {
            (relation.name, column.name): (relation.oid, column.attnum)
            for relation in catalog.relations.values()
            for column in relation.columns
        }


class Watched:
    """The gate, and a look at what it decides, so that the server of the test can describe and answer what it is asked to run."""

    def __init__(self, ground: Ground, gate: Gate, results: dict[bytes, Result]) -> None:
        self._ground = ground
        self._gate = gate
        self._results = results
        self.writes: dict[bytes, str] = {}  # texts that write protected data, with their shape in the audit log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gate, name)

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        decision = self._gate.decide(sql, principal, settings, extended=extended, names=names)
        if isinstance(decision, Compute):
            self._expect(fetch_of(decision))
        elif isinstance(decision, Write):
            self._expect(fetch_of(decision.source))
            self._expect(decision.apply)
            if decision.many is not None:
                self._expect(decision.many)
        elif isinstance(decision, Admit):
            self._expect(decision)
        return decision

    def _expect(self, admit: Admit) -> None:
        plans = [plan for plan in admit.plans if plan is not None]
        if any(plan.writes and plan.touched for plan in plans):
            self.writes[admit.text] = admit.shape
        if len(plans) == len(admit.plans) == 1:
            self._results[admit.text] = self._result(plans[0])
            if admit.witness is not None and plans[0].copy is not None:
                self._results[admit.witness] = self._described(plans[0].copy)

    def _result(self, plan: Plan) -> Result:
        fields, row = [], []
        results = plan.results or (plan.copy.results if plan.copy is not None else ())
        for index, column in enumerate(results):
            name = column.open.name if column.open is not None else None
            oid, attnum = (0, 0) if name is None or not column.direct else self._place(name)
            fields.append(m.Field(b"c%d" % index, oid, attnum, 25, -1, -1, 0))
            row.append(b"%d" % index if name is None else self._ground.sealed.get(name))
        highest = max((param.number for param in plan.params), default=0)
        return Result(tuple(fields), [tuple(row)] * 2 if fields else [], (25,) * highest)

    def _described(self, copy: CopyPlan) -> Result:
        """The columns of a COPY, and behind them those that the witness asks for."""
        named = [(c.name, c.sealed) for c in copy.columns] if copy.into else []
        named += [] if copy.into else [(f"c{i}", r.open) for i, r in enumerate(copy.results)]
        named += [(name, None) for name in copy.everything]
        places = [(0, 0) if column is None else self._place(column.name) for _, column in named]
        fields = [m.Field(n.encode(), *at, 25, -1, -1, 0) for (n, _), at in zip(named, places, strict=True)]
        return Result(tuple(fields))

    def _place(self, name: ColumnName) -> tuple[int, int]:
        return self._ground.places.get((name.relation, name.column), (0, 0))


class Records:
    """An audit log that the input steers. It remembers which records let which values pass."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.durable = 0
        self.prompt = True
        self.down = False

    def append(self, event: Event) -> int:
        if self.down:
            raise AuditUnavailable("down")
        self.events.append(event)
        told = _ENCODER.encode(event)
        promise(not any(value in told for value in SHOWN), "a value is in the audit log")
        if self.prompt:
            self.durable = len(self.events)
        return len(self.events)

    def told(self, column: str) -> bool:
        """Whether a durable record says that the column was read in the clear."""
        return any(
            access.column.rpartition(".")[2] == column and access.verdict == Verdict.CLEAR
            for event in self.events[: self.durable]
            if isinstance(event, StatementStarted)
            for access in event.columns
        )

    def started(self, shape: str) -> bool:
        """Whether a durable record says that a statement of that shape has started."""
        known = self.events[: self.durable]
        return any(isinstance(event, StatementStarted) and event.statement == shape for event in known)

    def open_statements(self) -> set[int]:
        """Statements that started and have not ended."""
        started = {event.statement_id for event in self.events if isinstance(event, StatementStarted)}
        return started - {event.statement_id for event in self.events if isinstance(event, StatementEnded)}


class _Asked:
    """A question to the calculator."""

    def __init__(self, question: Question | None, wake: Callable[[], None]) -> None:
        self.question = question
        self.cancelled = False
        self._wake = wake
        self._outcome: Answer | CalculatorError | Trouble | None = None

    @property
    def finished(self) -> bool:
        return self._outcome is not None

    @property
    def outcome(self) -> Answer | CalculatorError | Trouble:
        assert self._outcome is not None
        return self._outcome

    def cancel(self) -> None:
        self.cancelled = True

    def finish(self, outcome: Answer | CalculatorError | Trouble) -> None:
        self._outcome = outcome
        self._wake()


_COLUMN: Final = m.build_row_description((m.Field(b"v", 0, 0, 25, -1, -1, 0),))


class Echo:
    """A calculator whose rows are the values that it was given. It answers at once (`prompt`) or when it is told to."""

    def __init__(self, login: str) -> None:
        self.prompt = True
        self.troubled = 0
        self._login = login
        self._waiting: list[_Asked] = []

    def describe(self, question: Question, wake: Callable[[], None]) -> _Asked:
        return self._take(_Asked(question, wake))

    def run(self, question: Question, wake: Callable[[], None]) -> _Asked:
        given = [value for value in question.values if value is not None]
        given += [value for array in question.arrays for value in array if value is not None]
        if self._login != "teller":
            promise(not any(value in SHOWN for value in given), "the calculator is given a value that is to be masked")
        return self._take(_Asked(question, wake))

    def type_names(self, types: Sequence[tuple[int, int]], wake: Callable[[], None]) -> _Asked:
        asked = _Asked(None, wake)
        asked.finish(Answer(rows=tuple(b"text" for _ in types)))
        return asked

    def answer(self) -> bool:
        """Answer what waits; whether anything did."""
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            if not asked.cancelled:
                asked.finish(self._outcome(asked))
        return bool(waiting)

    def _take(self, asked: _Asked) -> _Asked:
        if self.prompt:
            asked.finish(self._outcome(asked))
        else:
            self._waiting.append(asked)
        return asked

    def _outcome(self, asked: _Asked) -> Answer | CalculatorError | Trouble:
        self.troubled, kind = 0, self.troubled
        if kind == 1:
            return Trouble("57014", "no", hint="no")
        if kind == 2:
            return CalculatorError(
                "22012", ((ord("S"), b"ERROR"), (ord("C"), b"22012"), (ord("M"), b"division by zero"))
            )
        question = asked.question
        assert question is not None
        values = [*question.values, *(value for array in question.arrays for value in array)]
        rows = tuple(m.build_data_row((value,)) for value in values[:8])
        return Answer((25,) * len(question.types), _COLUMN, rows, b"SELECT %d" % len(rows))
