"""docs/rules.md says what is so: its examples load, and every key, mask, default and option is in it."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import pytest
import typer.main

from proxy.workload.command import check
from rules.load import check_rules_text
from rules.logical import LOGICAL_TYPES
from rules.masks import MASK_KINDS
from rules.problems import Severity
from rules.schema import COLUMN_KEYS, ROLE_KEYS, TABLE_KEYS, TOP_KEYS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def text(request: pytest.FixtureRequest) -> str:
    root: Path = request.config.rootpath
    return (root / "docs" / "rules.md").read_text()


def test_every_example_loads(text: str) -> None:
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```yaml")
    assert len(blocks) >= 4
    for _, block in blocks:
        rules, problems = check_rules_text(textwrap.dedent(block), "docs/rules.md")
        assert rules is not None, problems
        assert all(p.severity is Severity.WARNING and "stored plain" in p.message for p in problems), problems


def test_every_key_has_its_row(text: str) -> None:
    for key in (*TOP_KEYS, *TABLE_KEYS, *COLUMN_KEYS, *ROLE_KEYS):
        assert re.search(rf"^\| `{key}` \|", text, re.MULTILINE), key


def test_every_mask_has_its_row_with_parameters_and_defaults(text: str) -> None:
    for name, kind in MASK_KINDS.items():
        row = re.search(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        assert row is not None, name
        for key, param in kind.params.items():
            default = ", required" if param.default is None else f" ({param.default or 'empty'})"
            assert f"`{key}`{default}" in row[0], (name, key)


def test_every_type_is_named(text: str) -> None:
    section = text.split("## Types")[1].split("##", maxsplit=1)[0]
    for name in LOGICAL_TYPES:
        assert re.search(rf"`{name}\b", section), name


def test_every_option_is_named(text: str, request: pytest.FixtureRequest) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(check)
    params = typer.main.get_command(app).params
    options = {o for p in params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")} - {"--help"}
    assert {"--database", "--as", "--strict", "--json", "--workload"} <= options
    assert "(observe.md" in text, "the workload's options are there"
    observe = (request.config.rootpath / "docs" / "observe.md").read_text()
    assert not {option for option in options if option not in text + observe}
