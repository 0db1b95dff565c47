"""Lines of COPY data in text and csv: where they end, as the server's own reader finds it (src/backend/commands/copyfromparse.c).

The first line end decides which one all lines have. In text a backslash takes the meaning from what follows it, in csv quotes do. What goes
to the server keeps its line ends, so that it counts lines and judges them as it would have.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.wire.copy_rows import CopyDataError, too_long
from rules.copy_format import CopyForm

if TYPE_CHECKING:
    from rules.copy_format import CopyFormat

_BACKSLASH, _DOT, _CR, _LF = b"\\.\r\n"
_MARKER: Final = b"\\."
_HIGH: Final = 0x80  # from here on bytes are parts of longer characters, of up to four
_MARKER_AND_CHARACTER: Final = len(_MARKER) + 4


class Line(NamedTuple):
    """A line without its end. `number`: the server's count. `marker`: it is no line, but what ends the data."""

    text: bytes
    end: bytes
    number: int
    marker: bool = False


class _Eol(Enum):
    UNKNOWN = b""
    NL = b"\n"
    CR = b"\r"
    CRNL = b"\r\n"


class Lines:
    """Cuts one stream. `buffered` never exceeds `limit` and one chunk."""

    __slots__ = (
        "_at",
        "_buffer",
        "_csv",
        "_ended",
        "_eol",
        "_escape",
        "_limit",
        "_markers",
        "_number",
        "_quote",
        "_quoted",
        "_special",
        "error",
    )

    def __init__(self, form: CopyFormat, limit: int) -> None:
        self._csv = form.form is CopyForm.CSV
        self._quote = form.quote[0]
        self._escape = form.escape[0]
        self._markers = form.ends
        self._limit = limit
        special = form.quote + form.escape + b"\r\n" if self._csv else b"\\\r\n"
        self._special = re.compile(b"[" + re.escape(special) + b"]")
        self._buffer = bytearray()
        self._at = 0  # everything before has been looked at
        self._quoted = False  # inside quotes at `_at`
        self._eol = _Eol.UNKNOWN
        self._number = 1
        self._ended = False
        self.error: CopyDataError | None = None

    @property
    def buffered(self) -> int:
        """Bytes of a line that is not all here."""
        return len(self._buffer)

    @property
    def unclosed(self) -> bool:
        """Whether the stream has ended inside quotes."""
        return self._quoted

    @property
    def number(self) -> int:
        """The line that is being read."""
        return self._number

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete with these bytes; `error` is set where they are the last, as the stream is wrong behind them."""
        lines: list[Line] = []
        if not self._ended:
            try:
                self._feed(data, lines)
            except CopyDataError as error:
                self._stop(error)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if it has no end, or what else comes out now that nothing follows. `error` as for `feed`."""
        lines: list[Line] = []
        if not self._ended:
            try:
                self._finish(lines)
            except CopyDataError as error:
                self._stop(error)
        return lines

    def _stop(self, error: CopyDataError) -> None:
        self.error = error
        self._ended = True
        self._buffer.clear()

    def _feed(self, data: bytes, lines: list[Line]) -> None:
        buffer = self._buffer
        before = len(buffer)
        buffer += data
        if not self._plain(before, lines):
            self._scan(lines, final=False)
        if len(buffer) > self._limit:
            raise too_long(self._limit, self._number)

    def _finish(self, lines: list[Line]) -> None:
        self._scan(lines, final=True)
        if self._buffer and not self._ended:
            lines.append(Line(bytes(self._buffer), b"", self._number))
            self._buffer.clear()

    def _plain(self, before: int, lines: list[Line]) -> bool:
        """Every whole line here, where each newline ends one; False where a closer look is needed."""
        if self._quoted or self._eol not in (_Eol.UNKNOWN, _Eol.NL):
            return False
        buffer = self._buffer
        last = buffer.rfind(b"\n", before)
        if last < 0:
            return False
        whole = bytes(buffer[: last + 1])
        if b"\r" in whole or (self._markers and _MARKER in whole):
            return False
        if self._csv:
            if self._quote in whole:
                return False
        elif b"\\\n" in whole or b"\\\\" in whole:
            return False
        self._eol = _Eol.NL
        del buffer[: last + 1]
        self._at = 0
        texts = whole.split(b"\n")
        texts.pop()
        first = self._number
        self._number += len(texts)
        lines += [Line(text, b"\n", number) for number, text in enumerate(texts, first)]
        return True

    def _scan(self, lines: list[Line], *, final: bool) -> None:
        """Look at every character that could mean something, from where the last look ended."""
        buffer = self._buffer
        start = 0
        while not self._ended:
            if self._csv and self._at == start and self._markers and not self._quoted:
                if self._may_be_marker(start, final=final):
                    break
                if self._ended_by_marker(lines, start, start):
                    return
            found = self._special.search(buffer, self._at)
            if found is None:
                self._at = len(buffer)
                break
            at = found.start()
            char = buffer[at]
            if char in (_CR, _LF) and not self._quoted:
                end = self._line_end(char, at, final=final)
                if end is None:
                    self._at = at
                    break
                lines.append(Line(bytes(buffer[start:at]), bytes(buffer[at:end]), self._number))
                self._number += 1
                start = self._at = end
            elif self._csv:
                if not self._in_csv(char, at, final=final):
                    break
            elif not self._backslash(lines, start, at, final=final):
                break
        if not self._ended:
            del buffer[:start]
            self._at -= start

    def _backslash(self, lines: list[Line], start: int, at: int, *, final: bool) -> bool:
        """A backslash of the text format; False where more must come first."""
        buffer = self._buffer
        if at + 1 >= len(buffer):
            self._at = at + 1 if final else at
            return final
        if self._markers and buffer[at + 1] == _DOT:
            if self._may_be_marker(at, final=final):
                self._at = at
                return False
            self._end(lines, start, at)
            return True
        self._at = at + 2
        return True

    def _may_be_marker(self, at: int, *, final: bool) -> bool:
        """Whether what is here could become an end marker at `at`, and so much is missing that this can't be told."""
        head = bytes(self._buffer[at : at + _MARKER_AND_CHARACTER])
        if final or len(head) == _MARKER_AND_CHARACTER:
            return False
        return _MARKER.startswith(head) or head == _MARKER + b"\r" or (head.startswith(_MARKER) and head[2] >= _HIGH)

    def _ended_by_marker(self, lines: list[Line], start: int, at: int) -> bool:
        """In csv only a marker that is alone on its line is one."""
        head = bytes(self._buffer[at : at + 3])
        if head[:2] != _MARKER or head[2:] not in (b"\r", b"\n"):
            return False
        self._end(lines, start, at)
        return True

    def _end(self, lines: list[Line], start: int, at: int) -> None:
        """The data ends with the marker at `at`. What follows means nothing; one character of it lets the server judge the marker itself."""
        buffer = self._buffer
        tail = bytes(buffer[at : at + _MARKER_AND_CHARACTER])
        width = 4 if tail[2:4] == b"\r\n" else 3
        if tail[2:] and tail[2] >= _HIGH:
            width = _MARKER_AND_CHARACTER
        lines.append(Line(bytes(buffer[start:at]), tail[:width], self._number, marker=True))
        self._ended = True
        buffer.clear()
        self._at = 0

    def _in_csv(self, char: int, at: int, *, final: bool) -> bool:
        """A quote, an escape, or a line end inside quotes; False where more must come first."""
        buffer = self._buffer
        self._at = at + 1
        if not self._quoted:
            self._quoted = char == self._quote
        elif char == self._escape and self._escape != self._quote:
            if at + 1 >= len(buffer):
                self._at = at + 1 if final else at
                return final
            if buffer[at + 1] in (self._quote, self._escape):
                self._at = at + 2
        elif char == self._quote:
            self._quoted = False
        elif char == (_LF if self._eol is _Eol.NL else _CR):
            self._number += 1
        return True

    def _line_end(self, char: int, at: int, *, final: bool) -> int | None:
        """Where a line ends that has its end at `at`; None where more must come first. Raises CopyDataError for an end of another kind."""
        eol = self._eol
        if char == _LF:
            if eol in (_Eol.CR, _Eol.CRNL):
                raise self._wrong("newline", "\\n")
            self._eol = _Eol.NL
            return at + 1
        if eol is _Eol.NL:
            raise self._wrong("carriage return", "\\r")
        if eol is _Eol.CR:
            return at + 1
        if at + 1 >= len(self._buffer) and not final:
            return None
        if self._buffer[at + 1 : at + 2] == b"\n":
            self._eol = _Eol.CRNL
            return at + 2
        if eol is _Eol.CRNL:
            raise self._wrong("carriage return", "\\r")
        self._eol = _Eol.CR
        return at + 1

    def _wrong(self, what: str, escaped: str) -> CopyDataError:
        if self._csv:
            return CopyDataError(
                f"unquoted {what} found in data", self._number, hint=f"Use quoted CSV field to represent {what}."
            )
        return CopyDataError(
            f"literal {what} found in data", self._number, hint=f'Use "{escaped}" to represent {what}.'
        )
