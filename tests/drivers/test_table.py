"""docs/compatibility.md says what the tests hold: its rows are the checks, its columns the drivers at their versions, its cells what is run or lacking.

A check that fails is a failure of test_drivers.py; so a page on which every check that is run works is right exactly as long as the tests pass.
"""

from __future__ import annotations

from tests.drivers.checks import CHECKS
from tests.drivers.compare import targets
from tests.drivers.registry import DRIVERS
from tests.drivers.table import PAGE, cell, lacking, page


def test_the_page_is_what_the_tests_have() -> None:
    cells = {
        (name, check): cell(name, check, None if lacking(name, check) else dict.fromkeys(targets(check), ""))
        for name in DRIVERS
        for check in CHECKS
    }
    assert PAGE.read_text() == page(cells), "run: make compatibility"


def test_a_failure_shows() -> None:
    assert (
        cell("psql", "text", {"open": "", "clear": "x: 1 directly, 2 through pgveil", "masked": "y"})
        == "no: clear, masked"
    )


def test_reasons_are_of_checks_that_there_are() -> None:
    for driver in DRIVERS.values():
        assert set(driver.lacking) <= set(CHECKS)
