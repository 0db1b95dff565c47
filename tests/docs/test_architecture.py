"""docs/architecture.md and docs/adr say what is so: each module has its line, each file and test that they name is there."""

from __future__ import annotations

import ast
import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("rules", "keys", "audit", "proxy", "lifecycle", "doctor", "console")
MAPPED = re.compile(r"^- `((?:\w+/)+\w+\.py)`: (\S.*)$", re.MULTILINE)
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|pyproject\.toml|LICENSE)(?:::([\w:]+))?`")


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return request.config.rootpath


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "architecture.md").read_text()


def test_every_module_is_in_the_map(root: Path, page: str) -> None:
    there = {str(path.relative_to(root)) for package in PACKAGES for path in (root / package).rglob("*.py")}
    mapped = dict(MAPPED.findall(page))
    missing = sorted(there - mapped.keys())
    assert not missing, "add to docs/architecture.md:\n" + "\n".join(suggested(root, path) for path in missing)
    assert not mapped.keys() - there, "take out of docs/architecture.md"
    assert len(mapped) == len(MAPPED.findall(page)), "a module has one line"


def suggested(root: Path, path: str) -> str:
    """A line for the map, from the module's docstring."""
    text = ast.get_docstring(ast.parse((root / path).read_text())) or "?"
    return f"- `{path}`: {text.splitlines()[0]}"


def test_modules_stand_under_their_package(page: str) -> None:
    for package, part in zip(PACKAGES, re.split(r"^### (?:\w+)/$", page, flags=re.MULTILINE)[1:], strict=True):
        assert all(path.startswith(f"{package}/") for path, _ in MAPPED.findall(part))


def documents(root: Path) -> Iterator[Path]:
    yield root / "docs" / "architecture.md"
    yield root / "SECURITY.md"
    yield root / "docs" / "threat-model.md"
    yield from sorted((root / "docs" / "adr").glob("*.md"))


def test_every_file_and_test_that_is_named_exists(root: Path) -> None:
    checked = 0
    for document in documents(root):
        for path, inside in NAMED.findall(document.read_text()):
            file = root / path
            assert file.exists(), f"{document.name} names {path}"
            if inside:
                checked += 1
                names = {
                    n.name
                    for n in ast.walk(ast.parse(file.read_text()))
                    if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                }
                assert set(inside.split("::")) <= names, f"{document.name} names {path}::{inside}"
    assert checked >= 10


def test_links_lead_somewhere(root: Path) -> None:
    for document in (*documents(root), root / "docs" / "errors.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_decisions_are_numbered_once_and_have_their_three_parts(root: Path) -> None:
    pages = sorted((root / "docs" / "adr").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    # Numbers are given out before the pages are written, so one may be free.
    assert all(re.fullmatch(r"\d{4}", number) for number in numbers)
    assert len(set(numbers)) == len(numbers) >= 26
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]} ")
        assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Context", "Decision", "Cost"]
        assert len(text.splitlines()) <= 60, "a page"


def test_no_dependency_is_under_the_gpl() -> None:
    """Of what an installation without extras brings along, direct or not."""
    seen: set[str] = set()
    pending = ["pgveil"]
    while pending:
        name = pending.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for other platforms
        for line in found.requires or ():
            requirement = Requirement(line)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name.lower() not in seen:
                seen.add(requirement.name.lower())
                pending.append(requirement.name)
        told = found.metadata.json
        # Long `license` fields are texts, and those of other licences may name the GPL.
        fields = [told.get("license_expression", ""), *str(told.get("license", "")).splitlines()[:1]]
        licences = [str(field) for field in (*fields, *told.get("classifier", ()))]
        assert not any(re.search(r"\b[AL]?GPL|GNU (Affero |Lesser )?General Public", text) for text in licences), name
    assert len(seen) > 15
