"""COPY (query) TO STDOUT whose query was computed: the calculator's rows as the messages that the server would have sent (PostgreSQL 55.2.6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.wire import messages
from proxy.wire.copy_binary import HEADER, TRAILER, BinaryCodec
from proxy.wire.copy_rows import Row
from proxy.wire.copy_text import line_codec
from proxy.wire.messages import Back, CopyResponse, build_copy_data, build_copy_response
from rules.copy_format import NO_COLUMNS, CopyForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.wire.copy_rows import CopyCodec
    from rules.copy_format import CopyFormat

_NEWLINE: Final = b"\n"
_MESSAGE_HEADER: Final = 5


def result_formats(form: CopyFormat) -> tuple[int, ...]:
    """The format in which the rows are needed, as in Bind."""
    return (int(form.form is CopyForm.BINARY),)


def copy_out(form: CopyFormat, description: bytes, rows: Sequence[bytes]) -> list[bytes]:
    """The messages up to CopyDone, one row each. `description`, `rows`: whole RowDescription and DataRow messages."""
    fields = messages.parse_row_description(description[_MESSAGE_HEADER:])
    (binary,) = result_formats(form)
    begin = build_copy_response(Back.COPY_OUT, CopyResponse(binary, (binary,) * len(fields)))
    names = [f.name for f in fields]
    data = _binary(len(fields), rows) if binary else _lines(form, names, rows)
    return [begin, *map(build_copy_data, data), messages.COPY_DONE]


def _binary(columns: int, rows: Sequence[bytes]) -> list[bytes]:
    """The header comes with what follows it, as the server sends it."""
    codec = BinaryCodec(columns, limit=limits.COPY_ROW)
    data = [codec.join(Row([*_values(row)], b"", 0)) for row in rows]
    data.append(TRAILER)
    data[0] = HEADER + data[0]
    return data


def _lines(form: CopyFormat, names: list[bytes], rows: Sequence[bytes]) -> list[bytes]:
    # FORCE_QUOTE of single columns is not computed, so their names mean nothing here.
    columns = [""] * len(names)
    data = []
    if form.header:
        unquoted = line_codec(replace(form, force_quote=NO_COLUMNS), columns, limit=limits.COPY_ROW)
        data.append(_line(unquoted, names))
    codec = line_codec(form, columns, limit=limits.COPY_ROW)
    return data + [_line(codec, _values(row)) for row in rows]


def _line(codec: CopyCodec, values: Sequence[bytes | None]) -> bytes:
    line = Row([b""] * len(values), _NEWLINE, 0)
    for index, value in enumerate(values):
        codec.write(line, index, value)
    return codec.join(line)


def _values(row: bytes) -> tuple[bytes | None, ...]:
    return messages.parse_data_row(row[_MESSAGE_HEADER:])
