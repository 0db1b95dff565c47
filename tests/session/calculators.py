"""Calculators for tests: one that a script answers for, one that is a PostgreSQL of the tests'; and computed statements made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import pq

from proxy.session.computing import Answer, CalculatorError, Compute, Leaf, Question
from proxy.session.gate import Admit, Decision, OffsetMap, Settings
from proxy.session.replies import Trouble
from proxy.wire import messages as m
from rules.plan import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keys.types import OutputSettings
    from rules.plan import Plan

    from .conftest import Bench

Outcome = Answer | CalculatorError | Trouble


class Asked:
    """A computation that is finished when the test says so."""

    def __init__(self, what: str, question: Question | None, wake: Callable[[], None]) -> None:
        self.what = what
        self.question = question
        self.cancelled = False
        self._wake = wake
        self._outcome: Outcome | None = None

    @property
    def finished(self) -> bool:
        return self._outcome is not None

    @property
    def outcome(self) -> Outcome:
        assert self._outcome is not None
        return self._outcome

    def cancel(self) -> None:
        self.cancelled = True

    def finish(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._wake()


class Scripted:
    """Answers from `outcomes`, at once (`prompt`) or when `next` is called; types are known as `typeN`, but for `unknown`."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.prompt = True
        self.asked: list[Asked] = []
        self.unknown: set[int] = set()

    def describe(self, question: Question, wake: Callable[[], None]) -> Asked:
        return self._take(Asked("describe", question, wake))

    def run(self, question: Question, wake: Callable[[], None]) -> Asked:
        return self._take(Asked("run", question, wake))

    def type_names(self, types: Sequence[tuple[int, int]], wake: Callable[[], None]) -> Asked:
        asked = Asked("types", None, wake)
        self.asked.append(asked)
        names = tuple(b"" if oid in self.unknown else b"type%d" % oid for oid, _ in types)
        asked.finish(Answer(rows=names))
        return asked

    def _take(self, asked: Asked) -> Asked:
        self.asked.append(asked)
        if self.prompt:
            asked.finish(self.outcomes.pop(0))
        return asked

    def next(self) -> None:
        """Finish what waits."""
        self.asked[-1].finish(self.outcomes.pop(0))

    def kinds(self) -> list[str]:
        return [a.what for a in self.asked]


class OnServer:
    """Runs the questions on a PostgreSQL of the tests', at once. `asked` counts, `troubled` is what it says instead."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self.asked: list[str] = []
        self.troubled: Trouble | None = None

    def close(self) -> None:
        self._connection.close()

    def describe(self, question: Question, wake: Callable[[], None]) -> Asked:
        return self._give("describe", self._describe(question), wake)

    def run(self, question: Question, wake: Callable[[], None]) -> Asked:
        return self._give("run", self.troubled or self._run(question), wake)

    def type_names(self, types: Sequence[tuple[int, int]], wake: Callable[[], None]) -> Asked:
        with self._connection.cursor() as cursor:
            names = []
            for oid, typmod in types:
                row = cursor.execute("SELECT format_type(%s, %s)", (oid, typmod)).fetchone()
                assert row is not None
                names.append(b"" if row[0] == "???" else row[0].encode())
        return self._give("types", Answer(rows=tuple(names)), wake)

    def _give(self, what: str, outcome: Outcome, wake: Callable[[], None]) -> Asked:
        self.asked.append(what)
        asked = Asked(what, None, wake)
        asked.finish(outcome)
        return asked

    def _set(self, output: OutputSettings) -> None:
        with self._connection.cursor() as cursor:
            for name, value in (
                ("DateStyle", output.date_style),
                ("TimeZone", output.timezone),
                ("IntervalStyle", output.interval_style),
                ("bytea_output", output.bytea_output),
                ("extra_float_digits", str(output.extra_float_digits)),
                *output.others,
            ):
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _describe(self, question: Question) -> Outcome:
        connection = self._connection.pgconn
        self._set(question.settings)
        made = connection.prepare(b"q", question.text, question.types)
        if made.status != pq.ExecStatus.COMMAND_OK:
            return _error(made)
        found = connection.describe_prepared(b"q")
        connection.exec_(b"DEALLOCATE q")
        parameters = tuple(found.param_type(i) for i in range(found.nparams))
        return Answer(parameters, _description(found))

    def _run(self, question: Question) -> Outcome:
        self._set(question.read or question.settings)
        values = [*question.values, *(_array(a) for a in question.arrays)]
        formats = list(question.formats) or [0]
        formats = formats * len(question.values) if len(formats) == 1 else formats
        formats += [0] * len(question.arrays)
        binary = 1 if question.result_formats and question.result_formats[0] else 0
        connection = self._connection.pgconn
        made = connection.prepare(b"q", question.text, question.types or None)
        if made.status != pq.ExecStatus.COMMAND_OK:
            return _error(made)
        self._set(question.settings)
        found = connection.exec_prepared(
            b"q", cast("list[bytes]", values), [pq.Format(f) for f in formats], pq.Format(binary)
        )
        connection.exec_(b"DEALLOCATE q")
        if found.status != pq.ExecStatus.TUPLES_OK:
            return _error(found)
        rows = tuple(
            m.build_data_row(tuple(found.get_value(r, c) for c in range(found.nfields))) for r in range(found.ntuples)
        )
        return Answer((), _description(found), rows, found.command_status or b"")


def _array(values: Sequence[bytes | None]) -> bytes:
    def one(value: bytes | None) -> bytes:
        if value is None:
            return b"NULL"
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'

    return b"{" + b",".join(map(one, values)) + b"}"


def _description(found: pq.abc.PGresult) -> bytes:
    return m.build_row_description(
        tuple(
            m.Field(found.fname(c) or b"", 0, 0, found.ftype(c), found.fsize(c), found.fmod(c), found.fformat(c))
            for c in range(found.nfields)
        )
    )


def _error(found: pq.abc.PGresult) -> CalculatorError:
    field = pq.DiagnosticField
    wanted = (
        ("S", field.SEVERITY),
        ("V", field.SEVERITY_NONLOCALIZED),
        ("C", field.SQLSTATE),
        ("M", field.MESSAGE_PRIMARY),
        ("D", field.MESSAGE_DETAIL),
        ("H", field.MESSAGE_HINT),
        ("P", field.STATEMENT_POSITION),
        ("W", field.CONTEXT),
    )
    pairs = [(ord(code), found.error_field(of)) for code, of in wanted]
    sqlstate = found.error_field(field.SQLSTATE) or b""
    return CalculatorError(sqlstate.decode(), tuple((c, v) for c, v in pairs if v is not None))


# -- statements ------------------------------------------------------------------------------------------------------------------------

LEAF = '"pgveil_leaf_1" AS customers'


def compute(
    sql: str, leaf: str, columns: Sequence[str], of: Plan, *, parameters: int = 0, generation: int = 1
) -> Compute:
    """A computed statement with one leaf: what `customers` stands for in `sql`'s one FROM."""
    at = sql.index("FROM customers") + len("FROM ")
    fetch = Admit(leaf.encode(), OffsetMap(), (of,), "shape of the leaf", generation)
    return Compute(
        (Leaf("pgveil_leaf_1", tuple(columns), fetch),),
        None,
        sql[:at] + LEAF + sql[at + len("customers") :],
        0,
        "WITH ",
        " ",
        OffsetMap(((at, len(LEAF), at, len("customers")),)),
        parameters,
        Action.SELECT,
        "shape of the whole",
        generation,
    )


def computes(bench: Bench, sql: str, leaf: str, columns: Sequence[str], of: Plan, *, parameters: int = 0) -> None:
    """Let the bench's judge have `sql` computed."""

    def answer(_sql: bytes, _settings: Settings) -> Decision:
        return compute(sql, leaf, columns, of, parameters=parameters, generation=bench.judge.generation)

    bench.judge.table[sql.encode()] = answer
