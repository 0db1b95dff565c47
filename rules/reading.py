"""Typed reading of a document's nodes: every mismatch becomes a problem with a position and a fix, and reading goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rules.document import MAX_PROBLEMS, Mapping, Number, Place, Scalar, Sequence
from rules.names import NameFormError, single_name
from rules.problems import Problem, Severity, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import StrEnum

    from rules.document import Node

E = TypeVar("E", bound="StrEnum")


class Reader:
    """Collects the problems of one file while its nodes are read. A method that cannot give a value says why and gives None."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: dict[Problem, None] = {}

    @property
    def failed(self) -> bool:
        """Whether any error was found."""
        return any(p.severity is Severity.ERROR for p in self._found)

    def problems(self) -> tuple[Problem, ...]:
        """Everything found, by position; at most MAX_PROBLEMS, errors before warnings where they do not all fit."""
        found = sorted(self._found, key=lambda p: (p.line, p.column, p.severity, p.message))
        if len(found) > MAX_PROBLEMS:
            errors = [p for p in found if p.severity is Severity.ERROR][:MAX_PROBLEMS]
            more = Problem(
                self._file, errors[-1].line if errors else 1, 1, f"{len(found)} problems in all; not every one is shown"
            )
            return (*(errors or found[:MAX_PROBLEMS]), more if errors else found[MAX_PROBLEMS])
        return tuple(found)

    def error(self, place: Place, message: str, fix: str | None = None) -> None:
        """Note an error. The same one reached twice through an alias is one."""
        self._found[Problem(self._file, place.line, place.column, message, fix)] = None

    def warn(self, place: Place, message: str, fix: str | None = None) -> None:
        """Note a warning."""
        self._found[Problem(self._file, place.line, place.column, message, fix, Severity.WARNING)] = None

    def mapping(self, node: Node, what: str, *, empty: bool = False) -> tuple[tuple[Scalar, Node], ...] | None:
        """The entries of a mapping; with `empty`, nothing at all stands for none."""
        if isinstance(node, Mapping):
            return node.entries
        if empty and isinstance(node, Scalar) and node.value is None:
            return ()
        self.error(
            node.place, f"{what} must be a mapping, not {_kind(node)}", "write `key: value` lines, indented below it"
        )
        return None

    def fields(self, node: Node, what: str, known: tuple[str, ...], *, empty: bool = False) -> dict[str, Node] | None:
        """A mapping with fixed keys; unknown ones are errors."""
        entries = self.mapping(node, what, empty=empty)
        if entries is None:
            return None
        fields: dict[str, Node] = {}
        for key, value in entries:
            if key.text in known:
                fields[key.text] = value
            elif key.text == "<<":
                self.error(key.place, "merge keys are not understood", "write the keys out")
            else:
                self.error(key.place, f"unknown key {key.text[:80]!r} in {what}", did_you_mean(key.text, known))
        return fields

    def word(self, node: Node | None, what: str) -> str | None:
        """A string; None where there is no node."""
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return node.value
        if isinstance(node, Scalar) and node.value is not None:
            self.error(
                node.place, f"{what} must be a string, not {_kind(node)}", f'write it in quotes: "{node.text[:80]}"'
            )
        else:
            self.error(node.place, f"{what} must be a string, not {_kind(node)}")
        return None

    def choice(self, node: Node | None, what: str, choices: type[E]) -> E | None:
        """One of an enumeration's words."""
        if node is None:
            return None
        values = [str(c) for c in choices]
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in values:
            return choices(node.value)
        given = repr(node.text[:80]) if isinstance(node, Scalar) else _kind(node)
        fix = did_you_mean(node.text, values) if isinstance(node, Scalar) else f"allowed here: {', '.join(values)}"
        self.error(node.place, f"{what} cannot be {given}", fix)
        return None

    def name(self, node: Node | None, what: str) -> str | None:
        """A name of one part, canonical."""
        text = self.word(node, what)
        if node is None or text is None:
            return None
        try:
            return single_name(text)
        except NameFormError as error:
            self.error(node.place, f"{what}: {error}", error.fix)
            return None

    def names(self, node: Node | None, what: str) -> tuple[tuple[str, Place], ...]:
        """A list of names, canonical, each with its place; a name that comes twice is a warning."""
        return self._list(node, what, self.name)

    def words(self, node: Node | None, what: str) -> tuple[tuple[str, Place], ...]:
        """A list of strings, as `names`."""
        return self._list(node, what, self.word)

    def _list(
        self, node: Node | None, what: str, read: Callable[[Node, str], str | None]
    ) -> tuple[tuple[str, Place], ...]:
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return ()
        if not isinstance(node, Sequence):
            self.error(node.place, f"{what} must be a list, not {_kind(node)}", "write [a, b], or one `- name` a line")
            return ()
        found: dict[str, Place] = {}
        for item in node.items:
            name = read(item, f"an entry of {what}")
            if name is None:
                continue
            if name in found:
                self.warn(item.place, f"{name!r} is in {what} twice")
            found.setdefault(name, item.place)
        return tuple(found.items())

    def required(self, place: Place, what: str, fields: Iterable[str], wanted: Iterable[str]) -> None:
        """Say which keys are missing."""
        there = set(fields)
        for key in wanted:
            if key not in there:
                self.error(place, f"{what} has no `{key}`", f"add `{key}:`")


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "empty"
    if isinstance(node.value, bool):
        return "true or false"
    return "a number" if isinstance(node.value, int | Number) else "a string"
