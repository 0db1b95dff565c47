"""COPY through sessions, against the same COPY of a plain table."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import NAMES, Copied, copy_in, copy_out

LISTED = ", ".join(NAMES)
ROWS = [
    (
        1,
        "Ann Lee",
        "6222021234567890123",
        "tall",
        "1990-02-03",
        "10.50",
        "2024-01-02 03:04:05+00",
        "{a,b}",
        "\\x00ff",
        "p",
    ),
    (2, "Bob", None, "", "2001-12-31", "-3.00", None, "{}", "\\x", None),
    (3, None, "4000", 'say "hi", then\nleave\t\\.', None, None, "1999-12-31 23:59:59.5+00", '{"x,y",NULL}', None, ""),
    (4, "Dé", "", "\\N", "0001-01-01", "0.00", "2024-06-01 00:00:00+00", None, "\\x5c5c", "\\."),
    (
        5,
        "E",
        "\\.",
        "a\rb\x01\x0b\x0c\x08",
        "2020-02-29",
        "1234567890.12",
        "2024-06-01 00:00:00+00",
        "{☃}",
        "\\x0a",
        "q,r",
    ),
]
FORMS = (
    "text",
    "csv",
    "binary",
    "text, delimiter '|', null ''",
    "text, delimiter 'A', null 'nil', header",
    "csv, header, force_quote *",
    "csv, delimiter ';', quote '''', null 'NULL'",
    "csv, force_quote (card, note), escape '\\'",
    "csv, quote '~', escape '~', delimiter '^'",
)


@pytest.fixture(autouse=True)
def filled(every: Copied) -> None:
    """Both tables hold the rows."""
    with every.plainly() as direct, every.connect() as through:
        direct.execute("truncate plain, sealed, lone, lone_plain")
        marks = ", ".join(["%s"] * len(NAMES))
        for row in ROWS:
            direct.execute(f"insert into plain ({LISTED}) values ({marks})", row)
            through.execute(f"insert into sealed ({LISTED}) values ({marks})", row)


def plain_rows(every: Copied) -> list[Any]:
    with every.plainly() as direct:
        return direct.execute(f"select {LISTED}, twice from plain order by id").fetchall()


def sealed_rows(every: Copied) -> list[Any]:
    with every.connect() as through:
        return through.execute(f"select {LISTED}, twice from sealed order by id").fetchall()


@pytest.mark.parametrize("form", FORMS)
def test_copy_to_gives_the_bytes_of_plain_data(every: Copied, form: str) -> None:
    for what, other in (
        ("plain", "sealed"),
        ("plain (note, id, born)", "sealed (note, id, born)"),
        ("(select card, id, note from plain)", "(select card, id, note from sealed)"),
        ("(select note from plain)", "(select note from sealed)"),
    ):
        if "force_quote (card" in form and "card" not in what and what != "plain":
            continue
        with every.plainly() as direct, every.connect() as through:
            expected = copy_out(direct, f"copy {what} to stdout (format {form})")
            assert copy_out(through, f"copy {other} to stdout (format {form})") == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_copy_from_stores_what_plain_data_stores(every: Copied, form: str, size: int) -> None:
    with every.plainly() as direct, every.connect() as through:
        data = b"".join(copy_out(direct, f"copy plain to stdout (format {form})"))
        direct.execute("truncate plain, sealed")
        form = (
            form.replace("force_quote *", "header")
            .replace("header, header", "header")
            .replace("force_quote (card, note), ", "")
        )
        expected = copy_in(direct, f"copy plain from stdin (format {form})", data)
        assert copy_in(through, f"copy sealed from stdin (format {form})", data, size) == expected
        assert sealed_rows(every) == plain_rows(every)
        stored = direct.execute("select string_agg(card || note || born || amount, '') from sealed").fetchone()
        assert stored is not None
        assert "6222021234567890123" not in stored[0]
