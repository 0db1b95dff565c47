"""docs/fuzzing.md: its table is of the targets that there are, and says what the runs' totals say."""

from __future__ import annotations

import json
import re

from tests.fuzz.page import PAGE, TOTALS, add_up, write
from tests.fuzz.registry import MODULES


def test_the_page_is_what_the_totals_say() -> None:
    page = PAGE.read_text()
    assert page == write(page, json.loads(TOTALS.read_text())), "run: python -m tests.fuzz.page"


def test_every_target_was_run_and_makes_its_promises() -> None:
    page = PAGE.read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|.*\d \|$", page, re.MULTILINE) == [*MODULES]
    promised = re.findall(r"^- ((?:`[a-z-]+`(?:, )?)+): ", page, re.MULTILINE)
    assert sorted(re.findall(r"`([a-z-]+)`", " ".join(promised))) == sorted(MODULES)


def test_over_a_million_messages_and_none_that_is_not_looked_into() -> None:
    totals = json.loads(TOTALS.read_text())["targets"]
    assert sum(one["mutated"] for one in totals.values()) > 1_000_000
    assert not [name for name, one in totals.items() if one["growth_mib"] is None], "each was weighed"
    assert not [name for name, one in totals.items() if one["mutated"] < 1000], "no corpus alone"
    assert not any(one["findings"] for one in totals.values())


def test_runs_add_up() -> None:
    one = {
        "target": "login", "seconds": 1.5, "executions": 2, "messages": 3, "mutated": 1, "coverage": 4, "features": 5, "corpus": 6,
        "slowest_ms": 7.5, "peak_mib": 8, "growth_mib": 0, "failures": {"X": 9}, "fatal": ["oom-1"], "broken": "",
    }  # fmt: skip
    other = one | {"executions": 10, "coverage": 1, "failures": {}, "fatal": [], "growth_mib": None}
    total = add_up([{"at": "2026-01-02T", "targets": [one]}, {"at": "2026-01-03T", "targets": [other]}])
    assert total["last"] == "2026-01-03T"[:10]
    login = total["targets"]["login"]
    assert (login["executions"], login["messages"], login["mutated"], login["coverage"]) == (12, 6, 2, 4)
    assert (login["growth_mib"], login["findings"]) == (0, 2)
