"""COPY: data in its three formats, cut anywhere, and what a session makes of it on the way in and out."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random
from struct import pack
from typing import TYPE_CHECKING, Final

from keys.sealed import SEALED_PATTERN
from keys.types import OutputSettings
from proxy.session.copy_streams import FAIL_REASON, CopyIn, CopyOut
from proxy.session.gate import BadValue
from proxy.session.values import ValueCodec
from proxy.wire import messages as m
from proxy.wire.copy_binary import BinaryCodec
from proxy.wire.copy_rows import BAD_FORMAT, TOO_LONG, CopyDataError
from proxy.wire.copy_text import line_codec
from proxy.wire.framing import Batch, Direction, Framer
from rules.copy_format import ColumnList, CopyColumn, CopyForm, CopyFormat, CopyPlan
from rules.model import Verdict
from rules.plan import ResultColumn
from tests.fuzz.target import Cursor, Target, promise
from tests.session.conftest import BORN, CARD, NOTE, SCORE, Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.wire.copy_rows import CopyCodec, Row
    from rules.model import Column

_CSV: Final = CopyFormat(CopyForm.CSV, delimiter=b",", null=b"")
FORMATS: Final = (
    CopyFormat(),
    CopyFormat(delimiter=b"|", null=b"", default=b"\\D"),
    CopyFormat(delimiter=b"A", null=b"nil", header=True),
    CopyFormat(ends=False),
    _CSV,
    CopyFormat(CopyForm.CSV, delimiter=b";", null=b"nil", quote=b"'", escape=b"\\", default=b"d"),
    CopyFormat(CopyForm.CSV, delimiter=b"^", null=b"", quote=b"~", escape=b"~", ends=False, header=True),
    replace(_CSV, force_quote=ColumnList(every=True), force_null=ColumnList(names=("b",))),
    replace(_CSV, force_not_null=ColumnList(every=True), ends=False),
    CopyFormat(CopyForm.BINARY),
)
_NAMES: Final = ("a", "b", "c")
_LARGE: Final = 1 << 20
_SMALL: Final = 64
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_WORDS: Final = (
    b"\\.",
    b"\\N",
    b"\\.\n",
    b"\r\n",
    b'""',
    b'"',
    b"\\",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\3",
    _HEADER,
    b"nil",
)


def _codec(form: CopyFormat, limit: int) -> CopyCodec:
    if form.form is CopyForm.BINARY:
        return BinaryCodec(len(_NAMES), limit=limit)
    return line_codec(form, _NAMES, limit=limit, quoting=True)


def _rows(codec: CopyCodec, pieces: list[bytes], most: int) -> tuple[list[Row], str]:
    """The rows of a stream, and how it ended."""
    rows: list[Row] = []
    for piece in pieces:
        rows += codec.feed(piece)
        promise(codec.buffered <= most, "a codec holds more than it may")
    rows += codec.finish()
    error = codec.error
    if error is None:
        return rows, ""
    promise(error.sqlstate in (BAD_FORMAT, TOO_LONG), "an error of an unknown kind")
    return rows, f"{error.message} {error.line} {error.field}"


def _cuts(data: bytes, step: int) -> list[bytes]:
    return [data[i : i + step] for i in range(0, len(data), step)]


# -- the codecs ----------------------------------------------------------------------------------------------------------------------


def _copy_data() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        form = cursor.pick(FORMATS)
        step = 1 + cursor.byte() % 64
        stream = cursor.rest()
        whole = _rows(_codec(form, _LARGE), [stream], len(stream))
        promise(_rows(_codec(form, _LARGE), _cuts(stream, step), len(stream)) == whole, "a cut changes the rows")
        _rows(_codec(form, _SMALL), _cuts(stream, step), _SMALL + step)
        rows, error = whole
        codec = _codec(form, _LARGE)
        written = b"".join(codec.join(row) for row in rows)
        promise(stream.startswith(written), "a row that nobody changes is written otherwise")
        promise(error or written == stream or any(not row.data or b"." in row.end for row in rows), "data is lost")
        for row in rows:
            if row.data:
                _again(form, codec, row)
        return len(rows) or 1

    return run


def _again(form: CopyFormat, codec: CopyCodec, row: Row) -> None:
    """A field that is read and written is the same value to whoever reads it next; its neighbours stay as they are."""
    if len(row.fields) != len(_NAMES):
        for index in range(len(row.fields)):
            codec.read(row, index)
        return
    values = [codec.read(row, index) for index in range(len(_NAMES))]
    # In text format a null marker of usual letters can't be told from the same value.
    if form.form is CopyForm.TEXT and any(v == form.null for v in values):
        return
    # The last line need not have an end, and a carriage return in a field of csv without quotes would be one.
    made = replace(row, fields=list(row.fields), end=b"\n" if form.form is not CopyForm.BINARY else b"")
    for index, value in enumerate(values):
        codec.write(made, index, value)
    reader = _codec(replace(form, header=False), _LARGE)
    data = codec.join(made)
    if form.form is CopyForm.BINARY:
        reader.feed(_HEADER)
    back = [r for r in [*reader.feed(data), *reader.finish()] if r.data]
    promise(len(back) == 1 and reader.error is None, "a row that is written is no row, or several")
    promise(
        [reader.read(back[0], i) for i in range(len(_NAMES))] == values, "a value that is written is read otherwise"
    )


def _data_seeds() -> Iterator[bytes]:
    lines = (
        b"1\tAnn\t\\N\n2\tBo\\tb\tx\\\\y\n",
        b"1|Ann|\n2|\\D|x\\|y\n\\.\n",
        b"aAbAc\n1AnilAx\n",
        b"1\ta\tb\r\n2\tc\td\r\n",
        b'1,"Ann, ""the"" tall",\n2,"two\nlines",x\n\\.\n',
        b"1;'it\\'s';nil\n2;d;x\n",
        b"a^b^c\r\n1^~x~~y~^z\r\n",
        b'1,,""\n2,"",x\n',
        b'1,\\.,""\n\\.\n2,"",x\n',
        _HEADER + (b"\0\3" + pack("!i", 1) + b"1" + pack("!i", -1) + pack("!i", 3) + b"Ann") * 2 + b"\xff\xff",
    )
    for number, line in enumerate(lines):
        for step in (0, 6):
            yield bytes((number, step)) + line


# -- a session's streams -------------------------------------------------------------------------------------------------------------

_SEALED_COLUMNS: Final = (CARD, NOTE, BORN, SCORE)
_SEALED: Final = re.compile(SEALED_PATTERN.encode())
_SETTINGS: Final = (
    OutputSettings(),
    OutputSettings(date_style="German, DMY", bytea_output="escape"),
    OutputSettings(client_encoding="LATIN1"),
)


def _plan(form: CopyFormat, columns: tuple[Column | None, ...], verdict: Verdict) -> CopyPlan:
    return CopyPlan(
        into=True,
        columns=tuple(CopyColumn(f"c{i}", c) for i, c in enumerate(columns)),
        results=tuple(ResultColumn() if c is None else ResultColumn(open=c, verdict=verdict) for c in columns),
        format=form,
        relation="customers",
    )


def _values() -> ValueCodec:
    """The same keys each time, as seeds hold sealed values."""
    ring = Ring()
    for column in _SEALED_COLUMNS:
        ring.newest(str(column.name))
    return ValueCodec(ring, random=Random(7).randbytes)


def _copy_in() -> Callable[[bytes], int]:
    values = _values()

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        form = replace(cursor.pick(FORMATS), lenient=bool(cursor.byte() & 1))
        columns = (None, cursor.pick(_SEALED_COLUMNS), cursor.pick((None, *_SEALED_COLUMNS)))
        settings = cursor.pick(_SETTINGS)
        step = 1 + cursor.byte()
        stream = cursor.rest()
        copy = CopyIn(_plan(form, columns, Verdict.CLEAR), values, settings)
        binary = int(form.form is CopyForm.BINARY)
        promise(copy.begin(m.CopyResponse(binary, (binary,) * 3)), "the COPY that was planned is another one")
        out: list[bytes] = []
        for piece in _cuts(stream, step):
            out.append(copy.feed(piece))
            promise(copy.buffered <= len(stream), "a stream holds more than it was fed")
            if copy.fault is not None:
                break
        if copy.fault is None:
            out.append(copy.finish())
        if copy.fault is not None:
            m.parse_error(copy.fault.response[5:])
            copy.told_by(m.ErrorFields(((ord("C"), b"57014"), (ord("M"), FAIL_REASON))))
        _only_sealed(form, columns, b"".join(out))
        return 1

    return run


def _only_sealed(form: CopyFormat, columns: tuple[Column | None, ...], sent: bytes) -> None:
    """What the server reads in a sealed column's place is sealed, null, the default, or what its own check refuses."""
    codec = _codec(form, _LARGE)
    rows = [r for r in codec.feed(sent) if r.data]
    rows += [] if codec.error is not None else [r for r in codec.finish() if r.data]
    for row in rows:
        if len(row.fields) > len(columns):
            promise(not any(row.fields), "a row that is too long shows what it holds")
            continue
        for index in range(len(row.fields)):
            if columns[index] is None or codec.is_default(row, index):
                continue
            value = codec.read(row, index)
            promise(
                value is None or value == b"pgveil-bad-value" or _SEALED.fullmatch(value),
                "a value goes to the server in the clear",
            )


def _copy_out() -> Callable[[bytes], int]:
    values = _values()
    shown = [text.encode() for text in _CANARIES]

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        form = cursor.pick(FORMATS)
        columns = (None, cursor.pick(_SEALED_COLUMNS), cursor.pick((None, *_SEALED_COLUMNS)))
        settings = cursor.pick(_SETTINGS)
        verdict = cursor.pick((Verdict.MASKED, Verdict.CLEAR, Verdict.REFUSED))
        step = 1 + cursor.byte()
        stream = cursor.rest()
        copy = CopyOut(_plan(form, columns, verdict), _NAMES, values, settings)
        binary = int(form.form is CopyForm.BINARY)
        promise(copy.agrees(m.CopyResponse(binary, (binary,) * 3)), "the COPY that was planned is another one")
        out = b""
        try:
            for piece in _cuts(stream, step):
                passed, _ = copy.take(_batch(m.build_copy_data(piece)))
                out += passed
                promise(copy.buffered <= len(stream), "a stream holds more than it was fed")
            copy.end()
        except (BadValue, CopyDataError) as error:
            promise(not any(c in str(error).encode() for c in shown), "an error tells a value")
        if verdict is not Verdict.CLEAR:
            promise(not any(canary in out for canary in shown), "a masked value is shown")
        return 1

    return run


def _batch(data: bytes) -> Batch:
    framer = Framer(Direction.BACKEND, batch=frozenset(b"d"))
    framer.feed(data)
    event = framer.next_event()
    if not isinstance(event, Batch):
        raise TypeError(event)
    return event


_CANARIES: Final = ("6222021234567890123", "tall and quiet", "1990-02-03", "123456789")


def _in_seeds() -> Iterator[bytes]:
    card, note, born, score = (text.encode() for text in _CANARIES)
    for number, form in enumerate(FORMATS):
        for column, value in ((0, card), (1, note), (2, born), (3, score)):
            head = bytes((number, 0, column, 0 if column else 2, 0, 40))
            if form.form is CopyForm.BINARY:
                packed = {2: pack("!i", -3619), 3: pack("!i", 77)}.get(column, value)
                fields = [b"1", packed, None if not column else note]
                yield head + _HEADER + _binary(fields) * 2 + b"\xff\xff"
            else:
                yield (
                    head
                    + form.delimiter.join((b"1", value, note))
                    + b"\n"
                    + form.delimiter.join((b"2", form.null, b"x"))
                    + b"\n"
                )


def _binary(fields: list[bytes | None]) -> bytes:
    return pack("!h", len(fields)) + b"".join(pack("!i", -1) if f is None else pack("!i", len(f)) + f for f in fields)


def _out_seeds() -> Iterator[bytes]:
    values = _values()
    for number, form in enumerate(FORMATS):
        for column, of in enumerate(_SEALED_COLUMNS):
            sealed = values.seal_literal(of, _CANARIES[column])
            for verdict in range(3):
                head = bytes((number, column, 0, 0, verdict, 200))
                if form.form is CopyForm.BINARY:
                    yield head + _HEADER + _binary([b"1", sealed, None]) + b"\xff\xff"
                else:
                    yield head + form.delimiter.join((b"1", sealed, b"x")) + b"\n"


TARGETS: Final = (
    Target("copy", "COPY data in text, csv and binary, cut anywhere", _copy_data, _data_seeds, dictionary=_WORDS),
    Target(
        "copy-in", "COPY data of the client, sealed on the way", _copy_in, _in_seeds, longest=1024, dictionary=_WORDS
    ),
    Target(
        "copy-out", "COPY data of the server, opened on the way", _copy_out, _out_seeds, longest=1024, dictionary=_WORDS
    ),
)
