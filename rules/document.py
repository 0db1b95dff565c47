"""YAML text -> a tree of nodes that know where they stand in the text.

ruamel.yaml's parser gives the events; the tree is built here, without recursion, so that depth, size, anchors and duplicate keys are
judged while it grows and every problem has a position. What YAML could do and rules do not need is refused: tags, directives, several
documents, merge keys, keys that are not scalars. Scalars mean what the core schema of YAML 1.2 says ("no" is a word, not a truth).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from ruamel.yaml import events as ev
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A bank's rules for 1,000 tables fit into a tenth of each; what is larger is a mistake or an attack.
MAX_BYTES = 1_048_576
# ruamel.yaml's scanner needs quadratic time for some tokens that do not end.
MAX_LINE = 10_000
MAX_DEPTH = 16
MAX_NODES = 200_000
MAX_PROBLEMS = 100

_INT = re.compile(r"[-+]?[0-9]{1,15}")
_NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is not a plain integer of at most 15 digits: nothing in a rules file is one."""

    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A word, number, truth value or null, with the text it was written as."""

    place: Place
    text: str
    value: str | int | bool | Number | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list. `size` and `height` count nodes and levels with every alias followed."""

    place: Place
    items: tuple[Node, ...]
    size: int
    height: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values in the order written; keys are unique."""

    place: Place
    entries: tuple[tuple[Scalar, Node], ...]
    size: int
    height: int


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem of the YAML itself."""

    place: Place
    message: str
    fix: str | None = None


def read_document(text: str) -> tuple[Node | None, tuple[Fault, ...]]:
    """The tree of a text and what is wrong with it as YAML. The tree is None where there is none to speak of. Raises nothing."""
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        return None, (
            Fault(
                Place(1, 1), f"the file is larger than {MAX_BYTES} bytes", "rules name columns; data belongs elsewhere"
            ),
        )
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            return None, (Fault(Place(number, 1), f"a line of more than {MAX_LINE} characters", "break it"),)
    builder = _Builder()
    try:
        for event in _events(text.removeprefix("\ufeff")):
            builder.take(event)
    except _StopReading as stop:
        builder.faults.append(stop.fault)
        return None, tuple(builder.faults)
    except MarkedYAMLError as error:
        builder.faults.append(_marked(error))
        return None, tuple(builder.faults)
    except ReaderError as error:
        builder.faults.append(_unreadable(text, error))
        return None, tuple(builder.faults)
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, AssertionError) as error:
        # The parser's own slips on broken input; its words could quote anything, so only the kind is told.
        builder.faults.append(
            Fault(builder.last, f"not YAML that can be read ({type(error).__name__})", "look at the lines from here on")
        )
        return None, tuple(builder.faults)
    return builder.root, tuple(builder.faults)


def _events(text: str) -> Iterator[ev.Event]:
    return YAML(typ="safe", pure=True).parse(text)  # type: ignore[no-any-return]


class _StopReading(Exception):  # noqa: N818 - a way out of the loop, not an error of its own
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _Open:
    """A collection whose end has not come yet."""

    __slots__ = ("anchor", "children", "height", "is_mapping", "place", "size")

    def __init__(self, place: Place, anchor: str | None, *, is_mapping: bool) -> None:
        self.place = place
        self.anchor = anchor
        self.is_mapping = is_mapping
        self.children: list[Node] = []
        self.size = 1
        self.height = 0


class _Builder:
    """Takes the parser's events in order; afterwards `root` and `faults` are the result."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.root: Node | None = None
        self.last = Place(1, 1)
        self._behind = self.last
        self._open: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._documents = 0

    def take(self, event: ev.Event) -> None:
        place = _place(event.start_mark)
        if isinstance(event, ev.ScalarEvent) and event.value == "" and event.style is None:
            # The parser puts what is not there at the next token; the reader looks for it behind the last one.
            place = self._behind
        self.last = place
        self._behind = _place(event.end_mark)
        if isinstance(event, ev.DocumentStartEvent):
            self._document(event, place)
        elif isinstance(event, ev.AliasEvent):
            self._alias(event, place)
        elif isinstance(event, ev.ScalarEvent):
            self._no_tag(event, place)
            node = Scalar(place, event.value, event.value if event.style is not None else _plain(event.value))
            if any("\ud800" <= c <= "\udfff" or c == "\x00" for c in event.value):
                self._fault(place, "a character that no PostgreSQL text can hold", "take it out")
                node = Scalar(place, "", "")
            self._name(event.anchor, node)
            self._add(node, 1, 0)
        elif isinstance(event, ev.CollectionStartEvent):
            self._no_tag(event, place)
            if len(self._open) >= MAX_DEPTH:
                raise _StopReading(Fault(place, f"nested more than {MAX_DEPTH} levels deep"))
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            self._open.append(_Open(place, event.anchor, is_mapping=isinstance(event, ev.MappingStartEvent)))
        elif isinstance(event, ev.CollectionEndEvent):
            self._close(self._open.pop())

    def _document(self, event: ev.DocumentStartEvent, place: Place) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _StopReading(
                Fault(place, "a second document", "one file holds one set of rules: remove the line `---`")
            )
        if event.version is not None or event.tags:
            self._fault(place, "YAML directives are not understood", "remove the lines that begin with %")

    def _alias(self, event: ev.AliasEvent, place: Place) -> None:
        if event.anchor not in self._anchors:
            raise _StopReading(
                Fault(
                    place,
                    f"no anchor &{event.anchor[:40]} before this place",
                    "define it above, or write the value out",
                )
            )
        node = self._anchors[event.anchor]
        if node is None:
            raise _StopReading(Fault(place, f"the anchor &{event.anchor[:40]} holds itself", "write the value out"))
        size, height = (1, 0) if isinstance(node, Scalar) else (node.size, node.height)
        if len(self._open) + height > MAX_DEPTH:
            raise _StopReading(Fault(place, f"nested more than {MAX_DEPTH} levels deep"))
        self._add(node, size, height)

    def _add(self, node: Node, size: int, height: int) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise _StopReading(Fault(node.place, f"more than {MAX_NODES} values, aliases followed"))
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.children.append(node)
        parent.size += size
        parent.height = max(parent.height, height + 1)

    def _close(self, done: _Open) -> None:
        node: Node
        if done.is_mapping:
            node = Mapping(done.place, self._entries(done.children), done.size, done.height)
        else:
            node = Sequence(done.place, tuple(done.children), done.size, done.height)
        self._name(done.anchor, node)
        # Its children were counted when they came.
        self._nodes -= done.size - 1
        self._add(node, done.size, done.height)

    def _entries(self, children: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(children[::2], children[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._fault(key.place, "a key must be a word", "write `name: value`")
            elif key.text in entries:
                first = entries[key.text][0].place
                self._fault(
                    key.place,
                    f"the key {key.text[:80]!r} is here twice (first in line {first.line})",
                    "merge the two, or remove one",
                )
            else:
                entries[key.text] = (key, value)
        return tuple(entries.values())

    def _name(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _no_tag(self, event: ev.ScalarEvent | ev.CollectionStartEvent, place: Place) -> None:
        if event.tag is not None:
            self._fault(place, "YAML tags are not understood", "remove the word that begins with !")

    def _fault(self, place: Place, message: str, fix: str) -> None:
        self.faults.append(Fault(place, message, fix))
        if len(self.faults) >= MAX_PROBLEMS:
            raise _StopReading(Fault(place, "too many problems; the rest is not shown"))


def _plain(text: str) -> str | int | bool | Number | None:
    """What an unquoted scalar means in the core schema (YAML 1.2.2, section 10.3.2)."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return Number(text)
    return text


def _place(mark: object) -> Place:
    return Place(getattr(mark, "line", 0) + 1, getattr(mark, "column", 0) + 1)


def _marked(error: MarkedYAMLError) -> Fault:
    problem = str(error.problem or error.context or "not YAML")
    if "cannot start any token" in problem and "\\t" in problem:
        return Fault(_place(error.problem_mark), "a tab where YAML wants spaces", "indent with spaces")
    return Fault(
        _place(error.problem_mark or error.context_mark), f"not YAML: {problem[:200]}", _YAML_FIXES.get(problem)
    )


_YAML_FIXES = {
    "mapping values are not allowed here": "put a value that holds `: ` in quotes, and indent keys of one level alike",
    "could not find expected ':'": "write `name: value` with a space after the colon",
    "found character '\\t' that cannot start any token": "indent with spaces, not with tabs",
    "found unexpected end of stream": "close the quote",
}


def _unreadable(text: str, error: ReaderError) -> Fault:
    before = text[: error.position] if isinstance(error.position, int) else ""
    place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    return Fault(place, "a character that YAML does not allow", "take the control character out")
