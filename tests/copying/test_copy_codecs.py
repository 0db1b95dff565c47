"""The codecs alone: however a stream is cut, its rows are the same, and a row that nobody changes is written again byte for byte."""

from __future__ import annotations

from itertools import pairwise
from struct import pack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.copy_binary import BinaryCodec
from proxy.wire.copy_text import line_codec
from rules.copy_format import ColumnList, CopyForm, CopyFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.wire.copy_rows import CopyCodec, Row

LIMIT = 1 << 16
CSV = CopyFormat(CopyForm.CSV, delimiter=b",", null=b"")
FORMATS = (
    CopyFormat(),
    CopyFormat(delimiter=b"|", null=b""),
    CopyFormat(delimiter=b"A", null=b"nil", header=True),
    CSV,
    CopyFormat(CopyForm.CSV, delimiter=b";", null=b"nil", quote=b"'", escape=b"\\"),
    CopyFormat(CopyForm.CSV, delimiter=b"^", null=b"", quote=b"~", escape=b"~", ends=False),
    CopyFormat(CopyForm.CSV, delimiter=b",", null=b"", force_quote=ColumnList(every=True)),
)
NAMES = ("a", "b", "c")
# What means something somewhere, more often than not.
BYTES = st.lists(st.sampled_from([bytes((b,)) for b in b"\\\\..nNx1\t|,;^'\"~A\r\n\n\x00\xe9b "]), max_size=40).map(
    b"".join
)
VALUES = st.none() | st.lists(st.sampled_from([*"\\.,;|'\"~^A\t\r\nnil\x01é "]), max_size=8).map(
    lambda c: "".join(c).encode()
)


def whole(make: Callable[[], CopyCodec], data: bytes, cuts: list[int]) -> tuple[list[Row], str]:
    """The rows of a stream that is cut, and how it ended."""
    codec = make()
    rows: list[Row] = []
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    for start, end in pairwise(edges):
        rows += codec.feed(data[start:end])
        assert codec.buffered <= len(data)
    rows += codec.finish()
    error = codec.error
    return rows, "" if error is None else f"{error.message} {error.line} {error.field} {error.sqlstate}"


@given(st.sampled_from(FORMATS), BYTES, st.lists(st.integers(0, 200), max_size=5))
@settings(max_examples=400)
def test_any_cut_of_any_bytes_gives_the_same(form: CopyFormat, data: bytes, cuts: list[int]) -> None:
    def make() -> CopyCodec:
        return line_codec(form, NAMES, limit=LIMIT)

    once = whole(make, data, [])
    assert whole(make, data, cuts) == once
    every = whole(make, data, list(range(len(data))))
    assert every == once
    rows, error = once
    codec = make()
    written = b"".join(codec.join(row) for row in rows)
    assert data.startswith(written)
    ended = any(not row.data or b"." in row.end for row in rows)
    assert error or ended or written == data


@given(st.sampled_from(FORMATS), st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=6), st.booleans())
@settings(max_examples=300)
def test_what_is_written_is_read(form: CopyFormat, values: list[tuple[bytes | None, ...]], quoting: bool) -> None:
    null = form.null
    codec = line_codec(form, NAMES, limit=LIMIT, quoting=quoting)
    data = b"x\n" if form.header else b""
    for row_values in values:
        (row,) = line_codec(
            form if not form.header else CopyFormat(delimiter=b"A", null=null), NAMES, limit=LIMIT
        ).feed(form.delimiter * 2 + b"\n")
        for index, value in enumerate(row_values):
            codec.write(row, index, value)
        data += codec.join(row)
    rows = [r for r in [*codec.feed(data), *codec.finish()] if r.data]
    ambiguous = form.form is CopyForm.TEXT
    got = [tuple(codec.read(row, i) for i in range(3)) for row in rows]
    assert got == [tuple(None if ambiguous and v == null else v for v in row) for row in values]


@given(
    st.lists(st.lists(st.none() | st.binary(max_size=9), min_size=2, max_size=2), max_size=5),
    st.lists(st.integers(0, 300), max_size=5),
    st.binary(max_size=5),
    st.booleans(),
)
@settings(max_examples=200)
def test_binary_streams(rows: list[list[bytes | None]], cuts: list[int], extension: bytes, trailer: bool) -> None:
    data = b"PGCOPY\n\xff\r\n\0" + pack("!ii", 0, len(extension)) + extension
    for row in rows:
        data += pack("!h", 2) + b"".join(pack("!i", -1) if v is None else pack("!i", len(v)) + v for v in row)
    data += b"\xff\xff" if trailer else b""

    def make() -> CopyCodec:
        return BinaryCodec(2, limit=LIMIT)

    found, error = whole(make, data, cuts)
    assert not error
    assert [row.fields for row in found if row.data] == rows
    assert b"".join(make().join(row) for row in found) == data


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=4))
def test_any_bytes_behind_a_header(data: bytes, cuts: list[int]) -> None:
    stream = b"PGCOPY\n\xff\r\n\0" + bytes(8) + data

    def make() -> CopyCodec:
        return BinaryCodec(2, limit=LIMIT)

    assert whole(make, stream, cuts)[1] == whole(make, stream, [])[1]


@pytest.mark.parametrize("form", [CopyFormat(), CSV])
def test_a_row_beyond_the_limit(form: CopyFormat) -> None:
    codec = line_codec(form, NAMES, limit=1000)
    for _ in range(100):
        codec.feed(b"x" * 100)
        assert codec.buffered <= 1100
    assert codec.error is not None
    assert codec.error.sqlstate == "54000"


def test_a_binary_row_beyond_the_limit() -> None:
    codec = BinaryCodec(2, limit=1000)
    codec.feed(b"PGCOPY\n\xff\r\n\0" + bytes(8) + pack("!hi", 2, 600) + b"x" * 600)
    codec.feed(pack("!i", 0x7FFFFFFF))
    assert codec.error is not None
    assert codec.error.sqlstate == "54000"


def test_a_long_row_in_small_pieces_is_looked_at_once() -> None:
    """A megabyte in pieces of a few bytes, with characters that could mean something all over, takes no quadratic time."""
    for form, piece in ((CopyFormat(), b"\\\\x"), (CSV, b'""x')):
        codec = line_codec(form, NAMES, limit=1 << 22)
        codec.feed(b'"' if form is CSV else b"")
        for _ in range(100_000):
            codec.feed(piece)
        assert codec.buffered >= 300_000


def test_lines_are_counted_as_the_server_counts_them() -> None:
    codec = line_codec(CSV, NAMES, limit=LIMIT)
    rows = codec.feed(b'a,b,c\n"x\ny",2,3\n4,5,6\n')
    assert [row.line for row in rows] == [1, 3, 4]
