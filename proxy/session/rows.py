"""DataRows with columns to open: located, opened column by column, put together again."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from proxy.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.wire.framing import Batch

_INT16: Final = Struct("!h").unpack_from
_INT32: Final = Struct("!i").unpack_from
_HEAD: Final = Struct("!ci").pack
_LENGTH: Final = Struct("!i").pack
_NULL: Final = _LENGTH(-1)
_FIRST: Final = 7  # type byte, length, number of columns
# From this many rows on, walking all rows at once column by column is quicker than one row after the other.
_TOGETHER: Final = 16

# For each wanted column: where its values begin (behind their lengths), and their lengths (-1: null), row by row.
Places = list[tuple[list[int], list[int]]]


class OpenColumn(Protocol):
    """Opens the values of the i-th wanted column."""

    def __call__(self, which: int, cells: list[bytes | None]) -> list[bytes | None]: ...


def open_rows(batch: Batch, columns: int, wanted: Sequence[int], opener: OpenColumn) -> bytes:
    """The batch's rows with the `wanted` columns (ascending, 0-based) opened. `columns`: how many a row has.

    Raises ProtocolError on malformed rows, and whatever `opener` raises.
    """
    raw = batch.raw
    places = locate(raw, batch.starts, columns, wanted)
    opened = []
    for which, (begins, lengths) in enumerate(places):
        cells = [None if n < 0 else raw[b : b + n] for b, n in zip(begins, lengths, strict=True)]
        opened.append(opener(which, cells))
    return _rebuild(raw, batch.starts, places, opened)


def locate(raw: bytes, starts: list[int], columns: int, wanted: Sequence[int]) -> Places:
    """Where the values of the `wanted` columns are. Raises ProtocolError on malformed rows."""
    find = _one_by_one if len(starts) <= _TOGETHER else _all_together
    places = find(raw, starts, columns, wanted)
    if places is None:
        raise ProtocolError("malformed data row")
    return places


def _one_by_one(raw: bytes, starts: list[int], columns: int, wanted: Sequence[int]) -> Places | None:
    places: Places = [([], []) for _ in wanted]
    last = wanted[-1]
    for row in range(len(starts) - 1):
        end = starts[row + 1]
        at = starts[row] + _FIRST
        if at > end or _INT16(raw, at - 2)[0] != columns:
            return None
        which = 0
        for column in range(last + 1):
            if at + 4 > end:
                return None
            length = _INT32(raw, at)[0]
            at += 4
            if column == wanted[which]:
                places[which][0].append(at)
                places[which][1].append(length)
                which += 1
            if length > 0:
                at += length
            if length < -1 or at > end:
                return None
    return places


def _all_together(raw: bytes, starts: list[int], columns: int, wanted: Sequence[int]) -> Places | None:
    data = np.frombuffer(raw, dtype=np.uint8)
    edges = np.asarray(starts, dtype=np.int64)
    ends = edges[1:]
    at = edges[:-1] + _FIRST
    if bool((at > ends).any()):
        return None
    if bool(((data[at - 2].astype(np.int64) << 8 | data[at - 1]) != columns).any()):
        return None
    chosen = set(wanted)
    places: Places = []
    for column in range(wanted[-1] + 1):
        if bool((at + 4 > ends).any()):
            return None
        quad = data[at[:, None] + np.arange(4)]
        length = quad.view(">i4")[:, 0].astype(np.int64)
        at = at + 4
        if column in chosen:
            places.append((at.tolist(), length.tolist()))
        at = at + np.maximum(length, 0)
        if bool((length < -1).any()) or bool((at > ends).any()):
            return None
    return places


def _rebuild(raw: bytes, starts: list[int], places: Places, opened: list[list[bytes | None]]) -> bytes:
    parts: list[bytes] = []
    add = parts.append
    columns = [(begins, lengths, values) for (begins, lengths), values in zip(places, opened, strict=True)]
    for row in range(len(starts) - 1):
        start, end = starts[row], starts[row + 1]
        size = end - start - 1
        head = len(parts)
        add(b"")
        done = start + 5
        for begins, lengths, values in columns:
            begin, length, value = begins[row], lengths[row], values[row]
            add(raw[done : begin - 4])
            if value is None:
                add(_NULL)
                size -= max(length, 0)
            else:
                add(_LENGTH(len(value)))
                add(value)
                size += len(value) - max(length, 0)
            done = begin + max(length, 0)
        add(raw[done:end])
        parts[head] = _HEAD(b"D", size)
    return b"".join(parts)
