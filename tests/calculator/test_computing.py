"""Questions and answers: what comes back is what PostgreSQL makes of the statement and its values."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keys.types import OutputSettings
from proxy.calculator.client import STATEMENTS
from proxy.session.computing import Answer
from proxy.session.replies import Trouble
from proxy.wire.arrays import text_array
from proxy.wire.messages import parse_row_description

from .conftest import LIMITS, Desk

if TYPE_CHECKING:
    from .conftest import MakeDesk

LEAF = "WITH pgveil_leaf_0(id, name) AS (SELECT u.c0::int4, u.c1::varchar(30) FROM unnest($%d::text[], $%d::text[]) AS u(c0, c1)) "
TEXTS = 1009
PEOPLE = ((b"2", b"1", b"3"), (b"ann", "ümit".encode(), None))


async def test_a_statement_runs_over_the_rows_that_it_is_given(any_desk: Desk) -> None:
    sql = LEAF % (1, 2) + "SELECT upper(name), id FROM pgveil_leaf_0 AS customers ORDER BY id"
    outcome = await any_desk.outcome(sql, types=(TEXTS, TEXTS), arrays=PEOPLE)
    assert isinstance(outcome, Answer)
    fields = parse_row_description(outcome.description[5:])
    assert [(f.name, f.type, f.format) for f in fields] == [(b"upper", 25, 0), (b"id", 23, 0)]
    assert outcome.parameters == (TEXTS, TEXTS)
    assert outcome.tag == b"SELECT 3"
    assert await any_desk.rows(sql, types=(TEXTS, TEXTS), arrays=PEOPLE) == [
        ("ÜMIT".encode(), b"1"),
        (b"ANN", b"2"),
        (None, b"3"),
    ]


async def test_the_client_s_parameters_stand_before_the_rows(any_desk: Desk) -> None:
    sql = LEAF % (3, 4) + "SELECT name || $2, id + $1 FROM pgveil_leaf_0 WHERE id >= $1 ORDER BY id"
    given = {"types": (0, 0, TEXTS, TEXTS), "values": (struct.pack("!i", 2), b"!"), "arrays": PEOPLE}
    rows = await any_desk.rows(sql, formats=(1, 0), result_formats=(0, 1), **given)
    assert rows == [(b"ann!", struct.pack("!i", 4)), (None, struct.pack("!i", 5))]
    told = await any_desk.outcome(sql, describe=True, types=(0, 0, TEXTS, TEXTS))
    assert isinstance(told, Answer)
    assert told.parameters == (23, 25, TEXTS, TEXTS)
    assert [f.type for f in parse_row_description(told.description[5:])] == [25, 23]
    assert told.rows == ()


@pytest.mark.parametrize("formats", [(), (0,), (1,)])
async def test_one_format_for_all_parameters(desk: Desk, formats: tuple[int, ...]) -> None:
    values = (struct.pack("!i", 7), struct.pack("!i", 8)) if formats == (1,) else (b"7", b"8")
    sql = LEAF % (3, 4) + "SELECT $1::int4 + $2::int4 + count(*) FROM pgveil_leaf_0"
    assert await desk.value(sql, values=values, formats=formats, arrays=PEOPLE) == b"18"


async def test_no_rows(any_desk: Desk) -> None:
    sql = LEAF % (1, 2) + "SELECT count(*), max(name), array_agg(id) FROM pgveil_leaf_0"
    assert await any_desk.rows(sql, arrays=((), ())) == [(b"0", None, None)]


async def test_errors_are_postgresql_s_with_their_positions(any_desk: Desk) -> None:
    error = await any_desk.error(LEAF % (1, 2) + "SELECT 'é', nam FROM pgveil_leaf_0", arrays=PEOPLE)
    fields = {chr(code): text for code, text in error.pairs}
    assert (error.sqlstate, fields["M"]) == ("42703", b'column "nam" does not exist')
    assert fields["P"] == str(len(LEAF % (1, 2)) + 13).encode()
    assert "nam" not in repr(error)
    error = await any_desk.error("SELECT 1 / $1::int4", values=(b"0",))
    assert error.sqlstate == "22012"
    # The connection goes on, and so does the statement.
    assert await any_desk.value("SELECT 1 / $1::int4", values=(b"1",)) == b"1"


async def test_settings_are_those_of_the_session(any_desk: Desk) -> None:
    when = (
        "SELECT '2024-07-01 12:00:00+00'::timestamptz, '1 day 2 hours'::interval, 'a'::bytea, 0.1::float4 + 0.2::float8"
    )
    assert await any_desk.rows(when) == [
        (b"2024-07-01 12:00:00+00", b"1 day 02:00:00", b"\\x61", b"0.30000000149011613")
    ]
    other = OutputSettings("SQL, DMY", "Europe/Berlin", "escape", -3, "iso_8601")
    assert await any_desk.rows(when, settings=other) == [
        (b"01/07/2024 14:00:00 CEST", b"P1DT2H", b"a", b"0.30000000149")
    ]
    latin = OutputSettings(client_encoding="LATIN1")
    assert await any_desk.rows(b"SELECT upper('\xe9')", settings=latin) == [(b"\xc9",)]
    assert await any_desk.rows(
        "SELECT upper(x) FROM unnest($1::text[]) AS u(x)", arrays=((b"\xe4",),), settings=latin
    ) == [(b"\xc4",)]
    assert await any_desk.value(r"SELECT 'a\\b'", standard_conforming_strings=False) == rb"a\b"
    assert await any_desk.value(r"SELECT 'a\\b'") == rb"a\\b"


async def test_each_step_has_the_settings_of_its_moment(any_desk: Desk) -> None:
    """Constants are read when a statement is prepared, parameters when they are bound; values are shown when it runs."""
    german, american = OutputSettings("German, DMY"), OutputSettings("SQL, MDY")
    zoned = OutputSettings("ISO, YMD", "Asia/Tokyo", others=(("xmloption", "document"),))
    sql = "SELECT '02.01.2030'::date, $1::date, '2030-01-02 00:00 UTC'::timestamptz"
    given: dict[str, Any] = {"values": (b"02/01/2030",), "read": german, "bound": american, "settings": zoned}
    for _ in range(2):
        rows = await any_desk.rows(sql, **given)
        assert rows == [(b"2030-01-02", b"2030-02-01", b"2030-01-02 09:00:00+09")]
    assert await any_desk.value("SELECT '02/01/2030'::date", settings=american) == b"02/01/2030"
    found = await any_desk.outcome(sql, **given)
    assert isinstance(found, Answer)
    assert found.tag == b"SELECT 1"


async def test_a_setting_that_the_engine_does_not_know(desk: Desk) -> None:
    outcome = await desk.outcome("SELECT 1", settings=OutputSettings(timezone="Moon/Crater"))
    assert isinstance(outcome, Trouble)
    assert outcome.sqlstate == "0AP01"
    assert await desk.value("SELECT 1") == b"1"


async def test_nothing_stays_from_one_question_to_the_next(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, connections=1))
    sql = "SELECT x FROM unnest($1::text[]) AS u(x) ORDER BY x"
    assert await desk.rows(sql, arrays=((b"b", b"a"),)) == [(b"a",), (b"b",)]
    assert await desk.rows(sql, arrays=((b"c",),)) == [(b"c",)]
    assert (await desk.error("SELECT 1 / 0")).sqlstate == "22012"
    assert await desk.rows(sql, arrays=((),)) == []


async def test_prepared_statements_are_bounded(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, connections=1))
    for number in range(STATEMENTS + 20):
        assert await desk.value(f"SELECT {number}") == str(number).encode()
    (connection,) = desk.pool._idle
    assert len(connection._statements) == STATEMENTS
    for number in (0, STATEMENTS + 19):
        assert await desk.value(f"SELECT {number}") == str(number).encode()
    assert await desk.value("SELECT 'today'::date = 'tomorrow'::date - 1") == b"t"
    assert not any(b"today" in key.text for key in connection._statements)


async def test_names_of_types(any_desk: Desk) -> None:
    done = asyncio.Event()
    asked = [(23, -1), (1043, 34), (1042, -1), (1042, 14), (1700, 655366), (1184, 3), (1009, -1), (16999, -1), (23, -1)]
    job = any_desk.pool.for_locale(any_desk.locale).type_names(asked, done.set)
    await done.wait()
    assert isinstance(job.outcome, Answer)
    expected = [
        "integer",
        "character varying(30)",
        "bpchar",
        "character(10)",
        "numeric(10,2)",
        "timestamp(3) with time zone",
    ]
    assert [name.decode() for name in job.outcome.rows] == [*expected, "text[]", "", "integer"]


def test_the_binary_form_of_an_array() -> None:
    assert text_array([]) == struct.pack("!iiI", 0, 0, 25)
    assert (
        text_array([b"ab", None, b""])
        == struct.pack("!iiIii", 1, 1, 25, 3, 1) + b"\0\0\0\2ab" + b"\xff\xff\xff\xff" + b"\0\0\0\0"
    )
