"""Made-up streams: what the server makes of them on plain data is what comes of them through a session, however they are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.session.copied import copy_out as computed_copy
from proxy.wire.messages import COPY_DONE, Field, build_data_row, build_row_description, parse_copy_response
from rules.copy_format import ColumnList, CopyForm, CopyFormat

from .conftest import Copied, copy_in, copy_out

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMS = (
    "format text",
    "format text, delimiter '|', null ''",
    "format csv",
    "format csv, null 'n', quote '''', delimiter ';'",
    "format csv, escape '\\', header, force_null (card), force_not_null (note)",
    "format csv, quote '~', null 'n'",
)
STREAMS = st.lists(
    st.sampled_from(
        [
            "\\",
            "\\.",
            "\\N",
            "n",
            "x",
            "\t",
            "|",
            ",",
            ";",
            "'",
            '"',
            '""',
            "~",
            "\r",
            "\n",
            "\n",
            "\r\n",
            "é",
            "\\x41",
            "\\101",
            "\\\n",
            "a\tb\tc\n",
            "a,b,c\n",
        ]
    ),
    max_size=14,
).map("".join)
TEXTS = st.none() | st.text(st.sampled_from("\\.,;|'\"~\t\r\nnNx é\x01"), max_size=6)


Pair = tuple[psycopg.Connection[Any], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def pair(every: Copied) -> Iterator[Pair]:
    """Two connections for all examples, one straight to the server."""
    with every.plainly() as direct, every.connect() as through:
        direct.execute("truncate plain, sealed")
        yield direct, through


def outcome(connection: psycopg.Connection[Any], table: str, form: str, data: bytes, size: int) -> tuple[Any, ...]:
    """How COPY FROM ends and what it leaves."""
    with connection.transaction(force_rollback=True):
        try:
            with connection.transaction():
                ending: tuple[Any, ...] = (
                    copy_in(connection, f"copy {table} (plain, note, card) from stdin ({form})", data, size),
                )
        except psycopg.Error as error:
            words = error.diag.message_primary or ""
            if error.sqlstate == "22001":  # the value is too long: the message is the type's
                words = words.split(" for type")[0]
            return (
                error.sqlstate,
                words,
                (error.diag.context or "").replace("COPY sealed", "COPY plain").split(": ")[0],
            )
        rows = connection.execute(f"select plain, note, card from {table}").fetchall()
    return (*ending, rows)


@given(form=st.sampled_from(FORMS), stream=STREAMS, size=st.sampled_from([1, 3, 1000]))
@example(form=FORMS[0], stream="\\.é", size=1)
@example(form=FORMS[0], stream="\\.éé\nx", size=3)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_stream_ends_as_on_plain_data(pair: Pair, form: str, stream: str, size: int) -> None:
    direct, through = pair
    data = stream.encode()
    expected = outcome(direct, "plain", form, data, 1000)
    assert outcome(through, "sealed", form, data, size) == expected


@given(
    form=st.sampled_from([*FORMS[:4], "format csv, force_quote *", "format binary", FORMS[5]]),
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=5),
    single=st.booleans(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_values_come_out_as_on_plain_data(
    pair: Pair, form: str, rows: list[tuple[str | None, ...]], single: bool
) -> None:
    direct, through = pair
    columns = "note" if single else "plain, note, card"
    direct.execute("truncate plain, sealed")  # what was rolled back leaves room, and rows may take it in another order
    got = []
    for connection, table in ((direct, "plain"), (through, "sealed")):
        with connection.transaction(force_rollback=True):
            for row in rows:
                connection.execute(f"insert into {table} (plain, note, card) values (%s, %s, %s)", row)
            got.append(copy_out(connection, f"copy {table} ({columns}) to stdout ({form})"))
    assert got[0] == got[1]


COMPUTED_FORMS = (
    ("format text", CopyFormat()),
    ("format text, delimiter '|', null 'n', header", CopyFormat(delimiter=b"|", null=b"n", header=True)),
    ("format csv, header", CopyFormat(form=CopyForm.CSV, delimiter=b",", null=b"", header=True)),
    (
        "format csv, force_quote *, quote '~', delimiter ';', null 'x'",
        CopyFormat(
            form=CopyForm.CSV, delimiter=b";", null=b"x", quote=b"~", escape=b"~", force_quote=ColumnList(every=True)
        ),
    ),
    ("format csv, escape '\\'", CopyFormat(form=CopyForm.CSV, delimiter=b",", null=b"", escape=b"\\")),
    ("format binary", CopyFormat(form=CopyForm.BINARY)),
)
NAMES = ("a", 'b, "c"', "\\. d|")


@given(
    form=st.sampled_from(COMPUTED_FORMS),
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=4),
    columns=st.integers(min_value=1, max_value=3),
)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_computed_rows_are_written_as_the_server_writes_them(
    pair: Pair, form: tuple[str, CopyFormat], rows: list[tuple[str | None, ...]], columns: int
) -> None:
    """What a COPY of computed rows sends, message by message."""
    direct, _ = pair
    sql, written = form
    names = NAMES[:columns]
    listed = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    literals = [", ".join("null" if v is None else _literal(v) for v in row[:columns]) for row in rows]
    nothing = ", ".join(["null::text"] * columns)
    source = " union all ".join([f"select {nothing} where false", *(f"select {values}" for values in literals)])
    expected = copy_out(direct, f"copy (select * from ({source}) v ({listed})) to stdout ({sql})")
    description = build_row_description(tuple(Field(name.encode(), 0, 0, 25, -1, -1, 0) for name in names))
    data_rows = [build_data_row(tuple(None if v is None else v.encode() for v in row[:columns])) for row in rows]
    begin, *data, end = computed_copy(written, description, data_rows)
    assert parse_copy_response(begin[5:]).columns == (int(written.form is CopyForm.BINARY),) * columns
    assert end == COPY_DONE
    assert [message[5:] for message in data] == expected


def _literal(value: str) -> str:
    return "e'" + value.replace("\\", "\\\\").replace("'", "''") + "'::text"
