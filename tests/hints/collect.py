"""Every hint that the code can give, read from the source: templates in which `{}` stands for what is put in at run time.

A hint is what is passed as `hint`: by that keyword, or at the place of a parameter or field of that name. Names are followed to the constants of
their module; a hint that is handed on from somewhere else (`refusal.hint`) was found where it was written.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("rules", "proxy")


@dataclass(frozen=True)
class Hint:
    """A template, and where it stands."""

    template: str
    where: str


def hints(root: Path) -> list[Hint]:
    """All of them, sorted."""
    trees = {
        path: ast.parse(path.read_text()) for package in PACKAGES for path in sorted((root / package).rglob("*.py"))
    }
    places: dict[str, set[int]] = {}
    for tree in trees.values():
        for name, indexes in _by_name(tree).items():
            places.setdefault(name, set()).update(indexes)
    found = {
        Hint(template, f"{path.relative_to(root)}:{line}")
        for path, tree in trees.items()
        # A module's own function comes before another module's of the same name.
        for template, line in _given(tree, places | _by_name(tree))
    }
    return sorted(found, key=lambda hint: (hint.template, hint.where))


def _by_name(tree: ast.AST) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for name, index in _places(tree):
        found.setdefault(name, set()).add(index)
    return found


def _places(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Functions and classes with a parameter or field `hint`: the name to call, and the argument's index."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            if "hint" in names:
                yield node.name, names.index("hint") - (names[0] in {"self", "cls"})
        elif isinstance(node, ast.ClassDef):
            fields = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
            if "hint" in fields:
                yield node.name, fields.index("hint")


def _given(tree: ast.Module, places: dict[str, set[int]]) -> Iterator[tuple[str, int]]:
    constants: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                constants.setdefault(target.id, []).append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for value in _arguments(node, places):
                for template in _templates(value, constants):
                    yield template, node.lineno


def _arguments(call: ast.Call, places: dict[str, set[int]]) -> Iterator[ast.expr]:
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "hint")
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    for index in places.get(name, ()):
        if index < len(call.args):
            yield call.args[index]


def _templates(value: ast.expr, constants: dict[str, list[ast.expr]]) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
        case ast.IfExp(body=one, orelse=other):
            yield from _templates(one, constants)
            yield from _templates(other, constants)
        case ast.Name(id=name):
            for each in constants.get(name, ()):
                yield from _templates(each, {})
        case _:
            return
