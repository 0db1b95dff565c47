"""COPY's binary format: a header, tuples of counted fields, a trailer (PostgreSQL documentation, COPY, "Binary Format")."""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Final

from proxy.wire.copy_rows import CopyDataError, Row, too_long

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_HEADER: Final = len(_SIGNATURE) + 8  # and flags, and the length of the extension
HEADER: Final = _SIGNATURE + bytes(8)  # as the server writes it
TRAILER: Final = b"\xff\xff"
_INT16: Final = Struct("!h")
_INT32: Final = Struct("!i")
_OIDS: Final = 1 << 16
_CRITICAL: Final = 16  # flags from this bit on must be known
_TRAILER: Final = -1
_NULL: Final = -1


class _At(Enum):
    HEADER = 1
    TUPLE = 2
    FIELD = 3
    ENDED = 4
    BROKEN = 5  # the server will refuse what it was sent


class BinaryCodec:
    """One binary stream with `columns` fields a row."""

    __slots__ = ("_at", "_buffer", "_columns", "_extension", "_fields", "_held", "_limit", "_line", "error")

    def __init__(self, columns: int, *, limit: int) -> None:
        self._columns = columns
        self._limit = limit
        self._buffer = bytearray()
        self._at = _At.HEADER
        self._fields: list[bytes | None] = []
        self._held = 0  # bytes of `_fields`
        self._extension = 0
        self._line = 0
        self.error: CopyDataError | None = None

    @property
    def buffered(self) -> int:
        """See CopyCodec."""
        return len(self._buffer) + self._held

    @property
    def line(self) -> int:
        """The tuple that is being read, from 1."""
        return self._line

    def feed(self, data: bytes) -> list[Row]:
        """See CopyCodec."""
        rows: list[Row] = []
        if self.error is None:
            try:
                self._read(data, rows)
            except CopyDataError as error:
                self.error = error
                self._buffer.clear()
                self._fields, self._held = [], 0
        return rows

    def _read(self, data: bytes, rows: list[Row]) -> None:
        buffer = self._buffer
        buffer += data
        place = 0
        while (taken := self._take(place, rows)) is not None:
            place = taken
        del buffer[:place]
        if self.buffered > self._limit:
            raise too_long(self._limit, self._line)

    def finish(self) -> list[Row]:
        """See CopyCodec."""
        if self.error is None and self._at is _At.HEADER:
            self.error = self._bad_header()
        elif self.error is None and self._at is _At.FIELD:
            self.error = CopyDataError("unexpected EOF in COPY data", self._line, len(self._fields))
        return []

    def _take(self, place: int, rows: list[Row]) -> int | None:
        """Read one thing at `place`; where the next begins, None if it is not all here."""
        if self._at is _At.TUPLE:
            return self._tuple(place, rows)
        if self._at is _At.FIELD:
            return self._field(place, rows)
        if self._at is _At.HEADER:
            return self._header(place, rows)
        left = len(self._buffer) - place
        if left and self._at is _At.ENDED:
            raise CopyDataError("received copy data after EOF marker", self._line + 1)
        return place + left if left else None

    def _header(self, place: int, rows: list[Row]) -> int | None:
        buffer = self._buffer
        if not _SIGNATURE.startswith(bytes(buffer[: len(_SIGNATURE)])):
            raise self._bad_header()
        if len(buffer) < _HEADER:
            return None
        flags = _INT32.unpack_from(buffer, len(_SIGNATURE))[0]
        extension: int = _INT32.unpack_from(buffer, len(_SIGNATURE) + 4)[0]
        if flags & _OIDS:
            raise CopyDataError("invalid COPY file header (WITH OIDS)")
        if flags >> _CRITICAL:
            raise CopyDataError("unrecognized critical flags in COPY file header")
        if extension < 0:
            raise CopyDataError("invalid COPY file header (missing length)")
        if extension > self._limit:
            raise too_long(self._limit, 0)
        if len(buffer) < _HEADER + extension:
            return None
        end = _HEADER + extension
        rows.append(Row([bytes(buffer[place:end])], b"", 0, data=False))
        self._at = _At.TUPLE
        return end

    def _bad_header(self) -> CopyDataError:
        """What is wrong with a header that is not all here, or begins otherwise."""
        have = len(self._buffer)
        if have < len(_SIGNATURE) or not self._buffer.startswith(_SIGNATURE):
            return CopyDataError("COPY file signature not recognized")
        if have < len(_SIGNATURE) + 4:
            return CopyDataError("invalid COPY file header (missing flags)")
        if have < _HEADER:
            return CopyDataError("invalid COPY file header (missing length)")
        return CopyDataError("invalid COPY file header (wrong length)")

    def _tuple(self, place: int, rows: list[Row]) -> int | None:
        if len(self._buffer) < place + 2:
            return None
        count = _INT16.unpack_from(self._buffer, place)[0]
        if count == _TRAILER:
            self._at = _At.ENDED
        else:
            self._line += 1
            self._at = _At.FIELD if count == self._columns else _At.BROKEN
        if self._at is not _At.FIELD:
            rows.append(Row([_INT16.pack(count)], b"", self._line, data=False))
        elif not self._columns:
            self._complete(rows)
        return place + 2

    def _field(self, place: int, rows: list[Row]) -> int | None:
        buffer = self._buffer
        if len(buffer) < place + 4:
            return None
        size: int = _INT32.unpack_from(buffer, place)[0]
        begin: int = place + 4
        if size == _NULL:
            self._fields.append(None)
        elif size < 0:
            raise CopyDataError("invalid field size", self._line, len(self._fields))
        elif self._held + size > self._limit:
            raise too_long(self._limit, self._line)
        elif len(buffer) < begin + size:
            return None
        else:
            self._fields.append(bytes(buffer[begin : begin + size]))
            self._held += size
            begin += size
        if len(self._fields) == self._columns:
            self._complete(rows)
        return begin

    def _complete(self, rows: list[Row]) -> None:
        rows.append(Row(self._fields, b"", self._line))
        self._fields = []
        self._held = 0
        self._at = _At.TUPLE

    @staticmethod
    def is_default(row: Row, index: int) -> bool:
        """The binary format has no such marker."""
        del row, index
        return False

    @staticmethod
    def read(row: Row, index: int) -> bytes | None:
        """See CopyCodec."""
        return row.fields[index]

    @staticmethod
    def write(row: Row, index: int, value: bytes | None) -> None:
        """See CopyCodec."""
        row.fields[index] = value

    @staticmethod
    def join(row: Row) -> bytes:
        """See CopyCodec."""
        if not row.data:
            return row.fields[0] or b""
        parts = [_INT16.pack(len(row.fields))]
        for value in row.fields:
            if value is None:
                parts.append(_INT32.pack(_NULL))
            else:
                parts += (_INT32.pack(len(value)), value)
        return b"".join(parts)
