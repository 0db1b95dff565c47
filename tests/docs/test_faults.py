"""docs/faults.md: every test that it names is there, and so is every event, metric and alert."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    missing = [f"{file}::{test}" for file, test in named if test not in _functions(ROOT / file)]
    assert not missing


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| Fault", "|---"))]
    assert len(rows) > 25
    assert not [row for row in rows if "`tests/" not in row]


def test_every_fault_test_is_on_the_page() -> None:
    """A file of faults that no operator is told of would be forgotten."""
    files = {path.name for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert files - set(re.findall(r"tests/faults/(test_\w+\.py)", PAGE)) <= {
        "test_dam.py",
        "test_logins.py",
        "test_service_manager.py",
    }


def test_metrics_alerts_and_events_are_real() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    assert not [name for name in set(re.findall(r"`(pgveil_\w+)", PAGE)) if name not in metrics]
    rules = (ROOT / "docker" / "prometheus" / "pgveil.rules.yml").read_text()
    assert not [name for name in set(re.findall(r"`(Pgveil\w+)`", PAGE)) if f"alert: {name}\n" not in rules]
    code = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    events = set(re.findall(r"`((?:worker|accept|catalog|server|audit|descriptors)\.[a-z]+)`", PAGE))
    assert len(events) > 6
    assert not [name for name in events if f'"{name}"' not in code]
