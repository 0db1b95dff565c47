"""Logs, statistics and SQL files: every statement found, and every line that is none told of by its number."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ConfigError
from proxy.workload.entry import Entry, Lines, Passed
from proxy.workload.formats import Format, detect, reader

if TYPE_CHECKING:
    from proxy.workload.entry import Item


def read(text: str | bytes, form: Format | None = None) -> list[Item]:
    file = io.BytesIO(text.encode() if isinstance(text, str) else text)
    return list(reader(form or detect(file))(Lines(file)))


def entries(items: list[Item]) -> list[Entry]:
    return [item for item in items if isinstance(item, Entry)]


def bad(items: list[Item]) -> list[int]:
    return [item.line for item in items if isinstance(item, Passed) and item.bad]


STDERR = """\
2026-03-01 10:00:00.123 UTC [77] LOG:  database system is ready to accept connections
2026-03-01 10:00:01.000 UTC [78] app@bank LOG:  statement: select a
\tfrom t -- LOG:  not a message
\twhere b = 'x'
2026-03-01 10:00:02.000 UTC [78] app@bank LOG:  execute <unnamed>: select $1
2026-03-01 10:00:02.000 UTC [78] app@bank DETAIL:  parameters: $1 = 'x'
2026-03-01 10:00:03.000 UTC [78] app@bank LOG:  duration: 0.123 ms  statement: select 3
2026-03-01 10:00:03.000 UTC [78] app@bank LOG:  duration: 0.050 ms  parse s1: select 4
2026-03-01 10:00:03.000 UTC [78] app@bank LOG:  duration: 0.050 ms  bind s1/p: select 4
2026-03-01 10:00:04.000 UTC [78] app@bank LOG:  duration: 7.000 ms  execute s1/p: select 4
2026-03-01 10:00:04.000 UTC [78] app@bank LOG:  duration: 7.000 ms  execute fetch from s1/p: select 4
2026-03-01 10:00:05.000 UTC [78] app@bank ERROR:  column "a" does not exist at character 8
2026-03-01 10:00:05.000 UTC [78] app@bank STATEMENT:  select a
this is no line of a log
2026-03-01 10:00:06.000 UTC [79] [unknown]@[unknown] LOG:  connection received: host=[local]
2026-03-01 10:00:07.000 UTC [80]: user=web,db=shop,app=x LOG:  statement: select 5
"""


class TestServerLog:
    def test_stderr(self) -> None:
        items = read(STDERR)
        assert entries(items) == [
            Entry(
                2,
                "select a\nfrom t -- LOG:  not a message\nwhere b = 'x'",
                False,
                1,
                "app",
                "bank",
                "2026-03-01 10:00:01.000 UTC",
            ),
            Entry(5, "select $1", True, 1, "app", "bank", "2026-03-01 10:00:02.000 UTC"),
            Entry(7, "select 3", False, 1, "app", "bank", "2026-03-01 10:00:03.000 UTC"),
            Entry(10, "select 4", True, 1, "app", "bank", "2026-03-01 10:00:04.000 UTC"),
            Entry(16, "select 5", False, 1, "web", "shop", "2026-03-01 10:00:07.000 UTC"),
        ]
        assert bad(items) == [14]

    def test_nothing_is_lost_between_items(self) -> None:
        """Every line is a statement's, a message's without one, or bad."""
        items = read(STDERR)
        continued = sum(line.startswith("\t") for line in STDERR.splitlines())
        assert len(items) + continued == len(STDERR.splitlines())

    def test_a_log_in_another_language_is_said_to_be(self) -> None:
        items = read("2026-03-01 10:00:00 CET [1] PROTOKOLL:  Anweisung: select 1\n", Format.STDERR)
        assert [(i.line, i.why) for i in items if isinstance(i, Passed)] == [
            (1, "not a line of a PostgreSQL log in English")
        ]

    def test_csvlog(self) -> None:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")

        def row(message: str, severity: str = "LOG", user: str = "app") -> list[str]:
            made = [""] * 26
            made[0], made[1], made[2], made[11], made[13] = (
                "2026-03-01 10:00:00.000 UTC",
                user,
                "bank",
                severity,
                message,
            )
            return made

        writer.writerow(row('statement: select "a"\nfrom t'))
        writer.writerow(row("execute s: select $1", user=""))
        writer.writerow(row("division by zero", "ERROR"))
        text = out.getvalue() + 'not,a,row\n"broken"x,1\n'
        items = read(text)
        assert entries(items) == [
            Entry(1, 'select "a"\nfrom t', False, 1, "app", "bank", "2026-03-01 10:00:00.000 UTC"),
            Entry(3, "select $1", True, 1, None, "bank", "2026-03-01 10:00:00.000 UTC"),
        ]
        assert bad(items) == [5, 6]

    def test_a_csvlog_that_is_still_being_written(self) -> None:
        whole = "2026-03-01 10:00:00.000 UTC,app,bank," + "," * 8 + 'LOG,00000,"statement: select 1"' + "," * 12
        items = read(f"{whole}\n2026-03-01 10:00:00.000 UTC,app,bank," + "," * 8 + 'LOG,00000,"statement: sel')
        assert [e.text for e in entries(items)] == ["select 1"]
        assert bad(items) == [2]

    def test_jsonlog(self) -> None:
        def line(**fields: Any) -> str:
            return json.dumps({"timestamp": "2026-03-01 10:00:00.000 UTC", "error_severity": "LOG", **fields}) + "\n"

        text = (
            line(user="app", dbname="bank", message="duration: 1.0 ms  statement: select\n1")
            + line(message="checkpoint starting: time")
            + "{broken\n"
        )
        items = read(text)
        assert entries(items) == [Entry(1, "select\n1", False, 1, "app", "bank", "2026-03-01 10:00:00.000 UTC")]
        assert bad(items) == [3]

    def test_what_is_no_utf8_is_told(self) -> None:
        items = read(b"2026-03-01 10:00:00 UTC [1] LOG:  statement: select '\xff'\n")
        assert (entries(items), bad(items)) == ([], [1])


class TestStatistics:
    def test_rows(self) -> None:
        text = (
            "rolname,query,calls,stats_since\n"
            'app,"select a from t where b = $1",1200,2026-01-01 00:00:00+00\n'
            "app,<insufficient privilege>,3,\n"
            'web,"select\n2",many,\n'
            'web,"select\n$1",7,\n'
        )
        items = read(text)
        assert entries(items) == [
            Entry(2, "select a from t where b = $1", True, 1200, "app", None, "2026-01-01 00:00:00+00"),
            Entry(6, "select\n$1", True, 7, "web", None, None),
        ]
        assert bad(items) == [3, 4]

    def test_without_a_header_it_is_none(self) -> None:
        with pytest.raises(ConfigError, match="must name the columns"):
            read("select 1,2\n", Format.STATISTICS)


class TestSql:
    def test_statements_of_a_script(self) -> None:
        text = (
            "\\set ON_ERROR_STOP on\n"
            "-- a comment; with a semicolon;\n"
            "select 1; select 2\n"
            "  from t; -- done\n"
            "create function f() returns int language sql begin atomic\n"
            "  select 1;\n"
            "  select 2;\n"
            "end;\n"
            "do $$ begin\n"
            "  perform 1;\n"
            "end $$;\n"
            "copy t (a) from stdin;\n"
            "select 'data';\n"
            "\\.\n"
            "insert into t values ('a;\n"
            "b');\n"
            "select 'last'"
        )
        items = read(text)
        assert [(e.line, e.text.split()[0], e.text.split()[-1]) for e in entries(items)] == [
            (3, "select", "1"),
            (3, "select", "t"),
            (5, "create", "end"),
            (9, "do", "$$"),
            (12, "copy", "stdin"),
            (15, "insert", "b')"),
            (17, "select", "'last'"),
        ]
        assert [(i.line, i.bad) for i in items if isinstance(i, Passed)] == [(1, False)]

    def test_an_open_string_is_told_with_its_first_line(self) -> None:
        items = read("select 1;\nselect 'open;\nselect 2;\n")
        assert [e.text for e in entries(items)] == ["select 1"]
        assert bad(items) == [2]

    def test_long_texts_take_time_in_proportion(self) -> None:
        body = "  perform 1;\n" * 30_000
        items = read(f"do $$ begin\n{body}end $$;\nselect 1;\n")
        assert len(entries(items)) == 2


@pytest.mark.parametrize("form", list(Format))
@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_are_items_or_a_clear_error(form: Format, data: bytes) -> None:
    try:
        items = read(data, form)
    except ConfigError:
        assert form is Format.STATISTICS
        return
    assert all(item.line >= 1 for item in items)


@given(data=st.binary(max_size=200))
@settings(max_examples=60)
def test_any_bytes_are_of_some_format(data: bytes) -> None:
    assert detect(io.BytesIO(data)) in set(Format)


def test_lines_that_nest_without_end_are_no_jsonlog() -> None:
    nested = b"[" * 50_000
    assert detect(io.BytesIO(nested)) is Format.SQL
    (passed,) = reader(Format.JSONLOG)(Lines(io.BytesIO(b'{"error_severity":"LOG","x":' + nested)))
    assert isinstance(passed, Passed)
    assert passed.why == "not an object of a jsonlog"
