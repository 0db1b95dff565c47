"""The benchmark: its arithmetic, its files, and (under soak) a short run of the whole."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench import report
from bench.run import main
from bench.targets import BenchError, find_pgbouncer, run
from bench.workloads import RULES, workloads
from rules.load import load_rules_text

if TYPE_CHECKING:
    from pathlib import Path


def cell(number: int, workload: str, target: str, tps: float) -> report.Cell:
    return report.Cell(number, workload, target, 1, 1, tps, 1.0, 0.1)


CELLS = [
    cell(0, "a", "direct", 1000),
    cell(0, "a", "pgveil", 900),
    cell(1, "a", "direct", 100),  # a round in which the machine was busy with something else
    cell(1, "a", "pgveil", 80),
    cell(2, "a", "pgveil", 850),
    cell(2, "a", "direct", 1000),
    cell(0, "b", "direct", 50),
    cell(0, "b", "pgcrypto", 10),
]


def document() -> dict[str, object]:
    return report.document("2026-01-01T00:00:00Z", {"rounds": 3, "seconds": 1}, {"pgveil": "0"}, CELLS)


def test_ratios_are_medians_of_each_rounds_own() -> None:
    assert report.ratios(CELLS) == {
        "a": {"direct": 1.0, "pgveil": pytest.approx(0.85)},
        "b": {"direct": 1.0, "pgcrypto": pytest.approx(0.2)},
    }
    assert report.medians(CELLS)["a"] == {"direct": 1000, "pgveil": 850}


def test_a_target_without_its_base_in_the_round_has_no_ratio() -> None:
    assert report.ratios([cell(0, "a", "pgveil", 1)]) == {}


def test_files_hold_every_raw_round_and_do_not_name_the_machine(tmp_path: Path) -> None:
    path = report.write(document(), tmp_path)
    content = json.loads(path.read_text())
    assert path.name == "2026-01-01T000000Z.json"
    assert len(content["cells"]) == len(CELLS)
    assert set(content["machine"]) == {"cpu", "cpus", "memory_mib", "system", "architecture"}
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_ratios() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table(document()))
    text = console.export_text()
    assert "0.85" in text
    assert "1,000" in text


def test_only_selects_by_name() -> None:
    assert {w.clients for w in workloads("select-only-prepared", pgcrypto=False)} == {1, 16}
    assert all("pgcrypto" in w.scripts for w in workloads("sealed", pgcrypto=True))
    with pytest.raises(BenchError, match="there are: select-only"):
        workloads("nothing", pgcrypto=False)


def test_its_rules_load() -> None:
    assert len(load_rules_text(RULES, "bench").protected_columns()) == 2


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match="ended with 2"):
        run(["sh", "-c", "echo sorry >&2; exit 2"])


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "x"], ["--targets", "oracle"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.soak
def test_a_short_run_measures_every_target(tmp_path: Path) -> None:
    assert main(["--seconds", "1", "--rounds", "1", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    expected = {"direct", "pgveil"} | ({"pgbouncer"} if find_pgbouncer() else set())
    assert {c["target"] for c in content["cells"]} >= expected
    assert all(c["tps"] > 0 for c in content["cells"])
