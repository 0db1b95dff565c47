"""Rows of COPY data, whatever the format: what the three codecs have in common.

A codec reads a stream that may be cut anywhere, and gives rows whose fields stand as they stood in the stream, so that a row nobody changes
is written again byte for byte. Only the fields that are asked for are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

BAD_FORMAT = "22P04"  # bad_copy_file_format
TOO_LONG = "54000"  # program_limit_exceeded


class CopyDataError(Exception):
    """The stream is not of its format, in PostgreSQL's own words. No part of the data is in it.

    `line` as the server counts them; `field`: the 0-based place of the field that it is about.
    """

    def __init__(
        self,
        message: str,
        line: int = 0,
        field: int | None = None,
        *,
        hint: str | None = None,
        sqlstate: str = BAD_FORMAT,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.field = field
        self.hint = hint
        self.sqlstate = sqlstate


@dataclass(slots=True)
class Row:
    """One row, or with `data` false something else that is passed on as it is (a header, an end marker): its only field.

    `fields` are raw; in the binary format None is a null. `end`: what ends the row in the stream. `line`: the server's count at its end.
    """

    fields: list[bytes | None]
    end: bytes
    line: int
    data: bool = True


class CopyCodec(Protocol):
    """One direction of one COPY."""

    @property
    def buffered(self) -> int:
        """Bytes held of a row that is not all here."""

    @property
    def error(self) -> CopyDataError | None:
        """What is wrong with the stream behind the last row that it gave; it gives no more then."""

    def feed(self, data: bytes) -> list[Row]:
        """The rows that are complete with these bytes."""

    def finish(self) -> list[Row]:
        """The stream has ended: the rows that this completes."""

    def is_default(self, row: Row, index: int) -> bool:
        """Whether a field is the marker that stands for the column's default."""

    def read(self, row: Row, index: int) -> bytes | None:
        """A field's value, in the form of its type that the format uses; None for null."""

    def write(self, row: Row, index: int, value: bytes | None) -> None:
        """Put a value in a field's place."""

    def join(self, row: Row) -> bytes:
        """The row as it stands in the stream."""


def too_long(limit: int, line: int) -> CopyDataError:
    """A row beyond the limit."""
    return CopyDataError(
        f"a row of COPY data with sealed columns is longer than the {limit} bytes that can be held",
        line,
        hint="Send the long value in a statement of its own.",
        sqlstate=TOO_LONG,
    )
