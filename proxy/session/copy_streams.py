"""The data of a COPY on its way: opened for the client, sealed for the server. Sans-I/O; what is held is never more than a row and a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.errors import error_response
from proxy.session.gate import BadValue
from proxy.session.replies import STAND_IN
from proxy.session.witness import disagreement
from proxy.wire.copy_binary import BinaryCodec
from proxy.wire.copy_rows import CopyDataError
from proxy.wire.copy_text import line_codec
from proxy.wire.messages import build_copy_data
from rules.copy_format import CopyForm
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keys.types import OutputSettings
    from proxy.session.values import ValueCodec
    from proxy.wire.copy_rows import CopyCodec, Row
    from proxy.wire.framing import Batch
    from proxy.wire.messages import CopyResponse, ErrorFields
    from rules.copy_format import CopyPlan

_CHECK_VIOLATION: Final = "23514"
_CANCELED: Final = "57014"
# What the server is told when the client's data can't be gone on with; it comes back in the server's own error.
FAIL_REASON: Final = b"pgveil refused the data"
_HEADER: Final = 5


class Phase(Enum):
    """Where a COPY FROM is. Data of the client means something while it is open only."""

    WAITING = "waiting"  # for the server's CopyInResponse
    OPEN = "open"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the client's data is refused. `column`: the bare name of the column whose value it is, None where the stream is malformed."""

    refusal: Refusal
    response: bytes
    column: str | None = None


def _codec(copy: CopyPlan, names: Sequence[str], *, incoming: bool) -> CopyCodec:
    form = copy.format
    if form.form is CopyForm.BINARY:
        return BinaryCodec(len(names), limit=limits.COPY_ROW)
    if not incoming:
        form = replace(form, ends=False, default=None)
    return line_codec(form, names, limit=limits.COPY_ROW, quoting=incoming)


def _settings(copy: CopyPlan, output: OutputSettings) -> OutputSettings:
    """The session's, with the data's own encoding; the binary format knows the client's only."""
    encoding = copy.format.encoding
    if encoding is None or copy.format.form is CopyForm.BINARY:
        return output
    return replace(output, client_encoding=encoding)


class CopyOut:
    """COPY TO: rows of the server with sealed fields opened. `names`: the columns', as the server describes them."""

    __slots__ = ("_binary", "_codec", "_count", "_openings", "_settings", "_values")

    def __init__(self, copy: CopyPlan, names: Sequence[str], values: ValueCodec, output: OutputSettings) -> None:
        self._binary = int(copy.format.form is CopyForm.BINARY)
        self._count = len(names)
        self._openings = tuple((i, r.open, r.verdict) for i, r in enumerate(copy.results) if r.open is not None)
        self._codec = _codec(copy, names, incoming=False)
        self._values = values
        self._settings = _settings(copy, output)

    def agrees(self, response: CopyResponse) -> bool:
        """Whether the server begins the COPY that was planned."""
        return response.format == self._binary and len(response.columns) == self._count

    @property
    def buffered(self) -> int:
        """Bytes held of a row that is not all here."""
        return self._codec.buffered

    def take(self, batch: Batch) -> tuple[bytes, int]:
        """CopyData messages as the client gets them, and how many values were opened. Raises BadValue and CopyDataError.

        Each message holds the rows that end in it: the server sends one a row, and clients count on that.
        """
        codec = self._codec
        raw, starts = batch.raw, batch.starts
        found = [codec.feed(raw[starts[i] + _HEADER : starts[i + 1]]) for i in range(len(starts) - 1)]
        if codec.error is not None:
            raise codec.error
        rows = [row for each in found for row in each if row.data]
        for index, column, verdict in self._openings:
            if any(len(row.fields) != self._count for row in rows):
                raise CopyDataError("the server sent a row of another number of fields")
            cells = [codec.read(row, index) for row in rows]
            opened = self._values.open_batch(column, verdict, cells, self._binary, self._settings)
            for row, value in zip(rows, opened, strict=True):
                codec.write(row, index, value)
        parts = [build_copy_data(b"".join([codec.join(row) for row in each])) for each in found if each]
        return b"".join(parts), len(rows) * len(self._openings)

    def end(self) -> None:
        """The server has ended the data. Raises CopyDataError where a part of a row is missing."""
        if self._codec.buffered or self._codec.finish() or self._codec.error is not None:
            raise CopyDataError("the server ended COPY data within a row")


class CopyIn:
    """COPY FROM: rows of the client with the fields of sealed columns sealed."""

    __slots__ = (
        "_binary",
        "_codec",
        "_copy",
        "_end",
        "_sealed",
        "_settings",
        "_values",
        "fault",
        "phase",
        "values_sealed",
    )

    def __init__(self, copy: CopyPlan, values: ValueCodec, output: OutputSettings) -> None:
        self._copy = copy
        self._binary = int(copy.format.form is CopyForm.BINARY)
        self._sealed = tuple((i, c.sealed) for i, c in enumerate(copy.columns) if c.sealed is not None)
        self._codec = _codec(copy, [c.name for c in copy.columns], incoming=True)
        self._values = values
        self._settings = _settings(copy, output)
        self._end = b""  # of the last row
        self.phase = Phase.WAITING
        self.fault: Fault | None = None
        self.values_sealed = 0

    def begin(self, response: CopyResponse) -> bool:
        """The server takes data; whether it begins the COPY that was planned."""
        if response.format == self._binary and len(response.columns) == len(self._copy.columns):
            self.phase = Phase.OPEN
            return True
        trouble = disagreement(None)
        refusal = Refusal(Reason.WITNESS, trouble.sqlstate, trouble.message, hint=trouble.hint)
        self.fault = Fault(refusal, trouble.response())
        self.phase = Phase.OVER
        return False

    @property
    def buffered(self) -> int:
        """Bytes held of a row that is not all here."""
        return self._codec.buffered

    def over(self) -> None:
        """The server takes no more data."""
        self.phase = Phase.OVER

    def feed(self, data: bytes) -> bytes:
        """The rows that are complete with these bytes, for the server; `fault` is set where they are the last."""
        return self._passed(data)

    def finish(self) -> bytes:
        """As `feed`, at the end of the data."""
        return self._passed(None)

    def _passed(self, data: bytes | None) -> bytes:
        parts: list[bytes] = []
        for row in self._codec.finish() if data is None else self._codec.feed(data):
            if row.data:
                self._seal(row)
            parts.append(self._codec.join(row))
            self._end = row.end
            if self.fault is not None:
                break
        if self.fault is None and self._codec.error is not None:
            self.fault = self._malformed(self._codec.error)
        if self.fault is not None and self._end == b"\r":
            parts.append(b"-")  # only now the server knows that no newline belongs to the line's end
        return b"".join(parts)

    def _seal(self, row: Row) -> None:
        """Seal a row's fields, or put what the server will refuse in the place of what can't be."""
        fields, expected = row.fields, len(self._copy.columns)
        if len(fields) > expected:
            # The server refuses the row for its length. It quotes it, so nothing of the client's may be left in it.
            row.fields = [b""] * len(fields)
            return
        for index, column in self._sealed:
            if index >= len(fields):
                return  # "missing data for column"
            if self.fault is not None:
                self._codec.write(row, index, STAND_IN)
                continue
            if self._codec.is_default(row, index):
                continue
            value = self._codec.read(row, index)
            if value is None:
                continue
            try:
                sealed = self._values.seal_param(column, value, self._binary, 0, self._settings)
            except BadValue as bad:
                sealed = STAND_IN
                if not self._copy.format.lenient:
                    self.fault = self._bad(bad, row, index)
            self._codec.write(row, index, sealed)
            self.values_sealed += 1

    def _bad(self, bad: BadValue, row: Row, index: int) -> Fault:
        name = self._copy.columns[index].name
        context = f"COPY {self._copy.relation}, line {row.line}, column {name}"
        response = error_response(bad.sqlstate, bad.message, detail=bad.detail, context=context)
        return Fault(Refusal(bad.reason, bad.sqlstate, bad.message, column=bad.column), response, name)

    def _malformed(self, error: CopyDataError) -> Fault:
        context = f"COPY {self._copy.relation}, line {error.line}" if error.line else None
        if context is not None and error.field is not None:
            context += f", column {self._copy.columns[error.field].name}"
        response = error_response(error.sqlstate, error.message, hint=error.hint, context=context)
        reason = Reason.LIMIT if error.sqlstate.startswith("5") else Reason.BAD_VALUE
        return Fault(Refusal(reason, error.sqlstate, error.message), response)

    def told_by(self, fields: ErrorFields) -> bool:
        """Whether the server's error is what came of `fault`."""
        fault = self.fault
        if fault is None:
            return False
        if fields.sqlstate == _CANCELED:
            return FAIL_REASON in (fields.get("M") or b"")
        context = fields.get("W") or b""
        return fields.sqlstate == _CHECK_VIOLATION and fault.column is not None and fault.column.encode() in context
