"""What a server answers to one statement, seen at libpq's level: fields with their types, rows as bytes, tags, errors, notices, states."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGconn, PGresult

STATEMENT = b"twin"
ANSWER_SECONDS = 20  # beyond the logins' statement_timeout: only a hang is longer
_ERROR_FIELDS = {
    "severity": pq.DiagnosticField.SEVERITY_NONLOCALIZED,
    "sqlstate": pq.DiagnosticField.SQLSTATE,
    "message": pq.DiagnosticField.MESSAGE_PRIMARY,
    "detail": pq.DiagnosticField.MESSAGE_DETAIL,
    "hint": pq.DiagnosticField.MESSAGE_HINT,
    "position": pq.DiagnosticField.STATEMENT_POSITION,
    "context": pq.DiagnosticField.CONTEXT,
    "schema": pq.DiagnosticField.SCHEMA_NAME,
    "table": pq.DiagnosticField.TABLE_NAME,
    "column": pq.DiagnosticField.COLUMN_NAME,
    "type": pq.DiagnosticField.DATATYPE_NAME,
    "constraint": pq.DiagnosticField.CONSTRAINT_NAME,
    "routine": pq.DiagnosticField.SOURCE_FUNCTION,
}


class Mode(StrEnum):
    """How a statement travels."""

    SIMPLE = "simple"  # Query
    EXTENDED = "extended"  # Parse, Bind, Describe portal, Execute on the unnamed statement; text both ways
    PREPARED = "prepared"  # Parse, Describe, Bind, Execute on a named statement; binary both ways


class Described(NamedTuple):
    """One column of a RowDescription."""

    name: str
    table: int
    attnum: int
    type: int
    size: int
    typmod: int
    format: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One result. `error`: an error's fields by name, empty where there is none. `rows` of a COPY are its chunks, one column each."""

    tag: str = ""
    params: tuple[int, ...] | None = None
    fields: tuple[Described, ...] | None = None
    rows: tuple[tuple[bytes | None, ...], ...] = ()
    copied: bool = False
    error: dict[str, str] = field(default_factory=dict)

    @property
    def sqlstate(self) -> str:
        """The error's SQLSTATE; empty where there is none."""
        return self.error.get("sqlstate", "")


class HangError(Exception):
    """No answer came in time."""


class LostError(Exception):
    """The connection ended. The text is libpq's."""


def ask(
    pg: PGconn,
    sql: str,
    params: Sequence[bytes | None] = (),
    mode: Mode = Mode.SIMPLE,
    *,
    data: bytes = b"",
    formats: Sequence[int] | None = None,
) -> list[Answer]:
    """Send one statement (with SIMPLE: one Query message, of as many as there are in it) and collect what comes.

    `formats`: of the parameters, 0 text, 1 binary. `data` is what COPY FROM STDIN is given. Raises HangError, LostError.
    """
    try:
        return _ask(pg, sql.encode(), params, mode, data, formats)
    except psycopg.OperationalError as error:
        raise LostError(str(error)) from None


def _ask(
    pg: PGconn, text: bytes, params: Sequence[bytes | None], mode: Mode, data: bytes, formats: Sequence[int] | None
) -> list[Answer]:
    if mode is Mode.SIMPLE:
        pg.send_query(text)
        return _collect(pg, data)
    if mode is Mode.EXTENDED:
        pg.send_query_params(text, list(params), param_formats=formats)
        return _collect(pg, data)
    pg.send_prepare(STATEMENT, text)
    answers = _collect(pg, data)
    if not any(a.error for a in answers):
        pg.send_describe_prepared(STATEMENT)
        answers = _collect(pg, data)
        pg.send_query_prepared(STATEMENT, list(params), param_formats=formats, result_format=1)
        answers += _collect(pg, data)
    pg.send_close_prepared(STATEMENT)
    _collect(pg, b"")
    return answers


def _collect(pg: PGconn, data: bytes) -> list[Answer]:
    answers: list[Answer] = []
    while (result := _next(pg)) is not None:
        status = result.status
        if status == pq.ExecStatus.COPY_IN:
            pg.put_copy_data(data)
            pg.put_copy_end()
        elif status == pq.ExecStatus.COPY_OUT:
            answers.append(Answer(rows=tuple((chunk,) for chunk in _chunks(pg)), copied=True))
        elif status == pq.ExecStatus.FATAL_ERROR:
            answers.append(Answer(error=error_fields(result)))
            if pg.status == pq.ConnStatus.BAD:
                raise LostError(answers[-1].error.get("message") or pg.error_message.decode(errors="replace"))
        else:
            answers.append(_answer(result))
    return answers


def _next(pg: PGconn) -> PGresult | None:
    deadline = time.monotonic() + ANSWER_SECONDS
    pg.flush()
    while pg.is_busy():
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pg.socket], [], [], left)[0]:
            raise HangError
        pg.consume_input()
    return pg.get_result()


def _chunks(pg: PGconn) -> list[bytes]:
    chunks: list[bytes] = []
    while True:
        size, data = pg.get_copy_data(0)
        if size < 0:
            return chunks
        chunks.append(bytes(data))


def _answer(result: PGresult) -> Answer:
    described = result.nfields > 0 or result.status == pq.ExecStatus.TUPLES_OK
    fields = tuple(
        Described(
            (result.fname(i) or b"").decode(),
            result.ftable(i),
            result.ftablecol(i),
            result.ftype(i),
            result.fsize(i),
            result.fmod(i),
            result.fformat(i),
        )
        for i in range(result.nfields)
    )
    rows = tuple(tuple(result.get_value(r, c) for c in range(result.nfields)) for r in range(result.ntuples))
    return Answer(
        tag=(result.command_status or b"").decode(),
        params=tuple(result.param_type(i) for i in range(result.nparams)) or None,
        fields=fields if described else None,
        rows=rows,
    )


def error_fields(result: PGresult) -> dict[str, str]:
    """An error's or a notice's fields that are there."""
    found = {name: result.error_field(code) for name, code in _ERROR_FIELDS.items()}
    return {name: value.decode(errors="replace") for name, value in found.items() if value is not None}
