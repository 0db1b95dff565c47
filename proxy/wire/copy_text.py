"""COPY's text and csv formats: fields of a line, their values, and values written as the server writes them (src/backend/commands/copyto.c)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.wire.copy_lines import Line, Lines
from proxy.wire.copy_rows import CopyDataError, Row
from rules.copy_format import CopyForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.copy_format import CopyFormat

_LETTERS: Final = {b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\v": b"\\v"}
_MEANT: Final = {escape[1:]: char for char, escape in _LETTERS.items()}
_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.)|$)", re.DOTALL)
_BYTE: Final = 0xFF


class _LineCodec:
    """What text and csv share. `incoming`: the stream is the client's; else the server's own, which ends lines with a newline and has no marker."""

    __slots__ = ("_default", "_delimiter", "_error", "_header", "_lines", "_null")

    def __init__(self, form: CopyFormat, lines: Lines) -> None:
        self._lines = lines
        self._delimiter = form.delimiter
        self._null = form.null
        self._default = form.default
        self._header = form.header
        self._error: CopyDataError | None = None

    @property
    def buffered(self) -> int:
        """See CopyCodec."""
        return self._lines.buffered

    @property
    def line(self) -> int:
        """The line that is being read."""
        return self._lines.number

    @property
    def error(self) -> CopyDataError | None:
        """See CopyCodec."""
        return self._error or self._lines.error

    def feed(self, data: bytes) -> list[Row]:
        """See CopyCodec."""
        return self._rows(self._lines.feed(data))

    def finish(self) -> list[Row]:
        """See CopyCodec."""
        lines = self._lines.finish()
        rows = self._rows(lines[:-1])
        if self._lines.unclosed and lines and not self._header:  # a header is not taken apart
            self._error = CopyDataError("unterminated CSV quoted field", lines[-1].number)
            return rows
        return rows + self._rows(lines[-1:])

    def _rows(self, lines: list[Line]) -> list[Row]:
        rows = []
        for line in lines:
            if self._header:
                self._header = False
                rows.append(Row([line.text], line.end, line.number, data=False))
            elif line.marker and not line.text:
                rows.append(Row([b""], line.end, line.number, data=False))
            else:
                rows.append(Row(self._split(line.text), line.end, line.number))
        return rows

    def _split(self, line: bytes) -> list[bytes | None]:
        raise NotImplementedError

    def is_default(self, row: Row, index: int) -> bool:
        """See CopyCodec."""
        return self._default is not None and row.fields[index] == self._default

    def join(self, row: Row) -> bytes:
        """See CopyCodec."""
        return self._delimiter.join([f or b"" for f in row.fields]) + row.end


class TextCodec(_LineCodec):
    """The text format."""

    __slots__ = ("_cut", "_escaped")

    def __init__(self, form: CopyFormat, *, limit: int) -> None:
        super().__init__(form, Lines(form, limit))
        delimiter = re.escape(form.delimiter)
        self._cut = re.compile(rb"\\.|" + delimiter, re.DOTALL)
        self._escaped = re.compile(rb"[\\\b\f\n\r\t\v]|" + delimiter)

    def _split(self, line: bytes) -> list[bytes | None]:
        delimiter = self._delimiter
        if b"\\" not in line or (b"\\\\" not in line and b"\\" + delimiter not in line):
            return [*line.split(delimiter)]
        fields: list[bytes | None] = []
        start = 0
        for found in self._cut.finditer(line):
            if found.group() == delimiter:
                fields.append(line[start : found.start()])
                start = found.end()
        fields.append(line[start:])
        return fields

    def read(self, row: Row, index: int) -> bytes | None:
        """See CopyCodec."""
        raw = row.fields[index]
        if raw is None or raw == self._null:
            return None
        return _ESCAPE.sub(_meant, raw) if b"\\" in raw else raw

    def write(self, row: Row, index: int, value: bytes | None) -> None:
        """See CopyCodec."""
        row.fields[index] = self._null if value is None else self._escaped.sub(_letter, value)


def _letter(found: re.Match[bytes]) -> bytes:
    char = found.group()
    return _LETTERS.get(char) or b"\\" + char


def _meant(found: re.Match[bytes]) -> bytes:
    octal, digits, char = found.groups()
    if octal is not None:
        return bytes((int(octal, 8) & _BYTE,))
    if digits is not None:
        return bytes((int(digits, 16),))
    return b"" if char is None else _MEANT.get(char, char)


class CsvCodec(_LineCodec):
    """The csv format. `names`: the columns', for the FORCE options. `quoting`: every field that is written goes into quotes."""

    __slots__ = (
        "_doubled",
        "_escape",
        "_force_null",
        "_force_quote",
        "_keep_null",
        "_quote",
        "_quoting",
        "_single",
        "_special",
        "_stops",
    )

    def __init__(self, form: CopyFormat, names: Sequence[str], *, limit: int, quoting: bool = False) -> None:
        super().__init__(form, Lines(form, limit))
        columns = tuple(names)
        self._quote = form.quote
        self._escape = form.escape
        self._force_quote = form.force_quote.among(columns)
        self._force_null = form.force_null.among(columns)
        self._keep_null = form.force_not_null.among(columns)
        self._quoting = quoting
        self._single = len(columns) == 1
        self._special = re.compile(b"[" + re.escape(form.delimiter + form.quote) + b"\r\n]")
        self._doubled = re.compile(b"[" + re.escape(form.quote + form.escape) + b"]")
        self._stops = re.compile(b"[" + re.escape(form.delimiter + form.quote + form.escape) + b"]")

    def _split(self, line: bytes) -> list[bytes | None]:
        delimiter = self._delimiter
        if self._quote not in line:
            return [*line.split(delimiter)]
        fields: list[bytes | None] = []
        start = at = 0
        quoted = False
        while (found := self._stops.search(line, at)) is not None:
            char, at = found.group(), found.end()
            if not quoted:
                if char == self._quote:
                    quoted = True
                elif char == delimiter:
                    fields.append(line[start : found.start()])
                    start = at
            elif char == self._escape and line[at : at + 1] in (self._quote, self._escape) and at < len(line):
                at += 1
            elif char == self._quote:
                quoted = False
        fields.append(line[start:])
        return fields

    def read(self, row: Row, index: int) -> bytes | None:
        """See CopyCodec."""
        raw = row.fields[index]
        if raw is None or self._quote not in raw:
            return raw if raw != self._null or index in self._keep_null else None
        value = self._unquoted(raw)
        return None if index in self._force_null and value == self._null else value

    def _unquoted(self, raw: bytes) -> bytes:
        parts: list[bytes] = []
        start = at = 0
        quoted = False
        while (found := self._doubled.search(raw, at)) is not None:
            char, at = found.group(), found.end()
            if quoted and char == self._escape and at < len(raw) and raw[at : at + 1] in (self._quote, self._escape):
                parts.append(raw[start : found.start()])
                start, at = at, at + 1
            elif char == self._quote:
                quoted = not quoted
                parts.append(raw[start : found.start()])
                start = at
        parts.append(raw[start:])
        return b"".join(parts)

    def write(self, row: Row, index: int, value: bytes | None) -> None:
        """See CopyCodec."""
        if value is None:
            row.fields[index] = self._null
        elif (
            self._quoting
            or index in self._force_quote
            or value == self._null
            or (self._single and value == b"\\.")
            or self._special.search(value) is not None
        ):
            escape = self._escape
            body = self._doubled.sub(lambda found: escape + found.group(), value)
            row.fields[index] = self._quote + body + self._quote
        else:
            row.fields[index] = value


def line_codec(form: CopyFormat, names: Sequence[str], *, limit: int, quoting: bool = False) -> TextCodec | CsvCodec:
    """The codec of a text or csv stream."""
    if form.form is CopyForm.CSV:
        return CsvCodec(form, names, limit=limit, quoting=quoting)
    return TextCodec(form, limit=limit)
