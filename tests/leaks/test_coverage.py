"""The leak list is complete, what it names is there, and docs/leaks.md says the same."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from tests.leaks.attempts import SCRIPTS, SINGLE
from tests.leaks.coverage import LEAKS, page
from tests.leaks.test_extensions import ATTEMPTS
from tests.leaks.test_oracles import ORACLES

if TYPE_CHECKING:
    import pytest

# What must be on the list, whatever else is.
WANTED = (
    *(
        "error texts",
        "pg_stats",
        "pg_stat_activity",
        "pg_stat_statements",
        "log settings",
        "EXPLAIN",
        "WHERE",
        "ORDER BY",
    ),
    *(
        "CASE",
        "division by zero",
        "timing",
        "JOIN",
        "unique violations",
        "ON CONFLICT",
        "count",
        "sort order",
        "aggregate",
    ),
    *(
        "window frames",
        "sequences",
        "statistics side channels",
        "views",
        "SECURITY DEFINER",
        "DO blocks",
        "dynamic SQL",
    ),
    *(
        "query_to_xml",
        "dblink",
        "foreign tables",
        "large objects",
        "advisory",
        "rules and triggers",
        "user types",
        "shadowing",
    ),
    *(
        "temporary tables",
        "SET ROLE",
        "standard_conforming_strings",
        "client_encoding",
        "U&",
        "quoted names",
        "invisible",
    ),
    *(
        "comments",
        "multi-statement",
        "plan cache",
        "prepared statement",
        "replication",
        "function-call",
        "cursor",
        "NOTIFY",
    ),
    "COPY TO PROGRAM",
)
TABLES = {
    "test_single_statements": frozenset(SINGLE),
    "test_scripts": frozenset(s.leak for s in SCRIPTS),
    "test_right_and_wrong_guesses_look_alike": frozenset(ORACLES),
    "test_nothing_comes_back": frozenset(ATTEMPTS),
}


def test_every_entry_is_there() -> None:
    for wanted in WANTED:
        assert any(wanted in leak.entry for leak in LEAKS), wanted
    assert len({leak.entry for leak in LEAKS}) == len(LEAKS)


def test_every_test_that_is_named_is_there_and_every_part_is_named() -> None:
    named: dict[str, set[str]] = {table: set() for table in TABLES}
    for leak in LEAKS:
        assert leak.tests, leak.entry
        for test in leak.tests:
            found = re.fullmatch(r"([\w.]+)::(\w+)(?:\[(.+)\])?", test)
            assert found is not None, test
            module, function, part = found.groups()
            assert callable(
                getattr(importlib.import_module(module if "." in module else f"tests.leaks.{module}"), function)
            ), test
            if function in TABLES:
                assert part in TABLES[function], test
                named[function].add(part)
    assert {table: frozenset(parts) for table, parts in named.items()} == TABLES


def test_the_page_is_the_list(request: pytest.FixtureRequest) -> None:
    assert (request.config.rootpath / "docs" / "leaks.md").read_text() == page(), "python -m tests.leaks.coverage"
