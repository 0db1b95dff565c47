"""README.md and CHANGELOG.md: links that lead somewhere, commands that exist, an excerpt that the demonstration really prints."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import typer

from lifecycle.demo.bank import DEFAULT_CUSTOMERS, generate
from proxy.cli import make_app
from rules.load import load_rules_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LINK = re.compile(r"\]\(([^)#]+?)(?:#([^)]+))?\)")


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/quickstart.md"])
def test_links_lead_somewhere(root: Path, page: str) -> None:
    text = (root / page).read_text()
    for target, anchor in _LINK.findall(text):
        if target.startswith("https://"):
            continue
        file = (root / page).parent / target
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, anchor


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/quickstart.md"])
def test_every_command_that_is_named_exists(root: Path, page: str) -> None:
    group: Any = typer.main.get_command(make_app())
    named = set(re.findall(r"(?:`|\$ |^)pgveil ([a-z-]+)", (root / page).read_text(), re.MULTILINE))
    assert named
    assert named <= set(group.commands)


def test_every_option_that_is_named_exists(readme: str) -> None:
    group: Any = typer.main.get_command(make_app())
    for line in re.findall(r"(?:^\$ |`)(pgveil [a-z][^`\n]*)", readme, re.MULTILINE):
        words = line.split("#")[0].split()
        command = group.commands[words[1]]
        if hasattr(command, "commands") and len(words) > 2:
            command = command.commands[words[2]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= options, line


def test_the_rules_load(blocks_of: Callable[[str], list[Any]]) -> None:
    (block,) = (b for b in blocks_of("README.md") if b.language == "yaml")
    load_rules_text(block.text, "README.md")


def test_the_excerpt_shows_the_demonstrations_people(blocks_of: Callable[[str], list[Any]]) -> None:
    """The values are those of the bank as `make demo` makes it, the sentences those of the story."""
    (excerpt,) = (b.text for b in blocks_of("README.md") if b.language == "text")
    bank = generate(customers=DEFAULT_CUSTOMERS)
    people, cards = bank.tables["customers"], bank.tables["cards"]
    for at in (0, 1):
        for name in ("name", "phone", "birth_date"):
            assert f"    {name} " in excerpt
            assert str(people.column(name)[at]) in excerpt
    assert str(cards.column("pan")[0]) in excerpt


def test_the_excerpts_sentences_are_the_storys(root: Path, blocks_of: Callable[[str], list[Any]]) -> None:
    (excerpt,) = (b.text for b in blocks_of("README.md") if b.language == "text")
    story = (root / "lifecycle/demo/asking.py").read_text()
    claims = re.findall(r"✓ (.+)", excerpt)
    assert len(claims) >= 3
    for claim in claims:
        assert claim in story, claim


def test_the_changelog_speaks_of_this_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[{re.escape(version)}\] - ", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
