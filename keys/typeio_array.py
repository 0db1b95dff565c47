"""Arrays: the text literal and the binary form (PostgreSQL documentation, section 8.15; array_in, array_out, array_recv, array_send)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from keys.typeio_base import BLANKS, WireValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DIMENSIONS = 6
MAX_ELEMENTS = 1_000_000  # a bound on what one value may make us hold; the server's own is 134,217,727


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """An array: its sizes, outermost first (empty: no element at all), and its elements in row-major order, None for NULL.

    Every lower bound is 1. What the elements' bytes mean is the caller's business.
    """

    sizes: tuple[int, ...]
    elements: tuple[bytes | None, ...]

    def map(self, change: Callable[[bytes], bytes]) -> ArrayValue:
        """The same shape with `change` applied to every element that is not NULL."""
        return ArrayValue(self.sizes, tuple(None if e is None else change(e) for e in self.elements))


def _malformed() -> WireValueError:
    return WireValueError("22P02", "malformed array literal")


_TOKEN = re.compile(
    rf'[{BLANKS}]*(?:(?P<mark>[{{}},])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>(?:[^"\\{{}},{BLANKS}]|\\.|[{BLANKS}]+(?=[^"{{}},{BLANKS}]))+))',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _tokens(text: str) -> Iterator[tuple[str, str | None]]:
    """('{' | '}' | ',', None) for marks, ('value', text or None for NULL) for elements."""
    position = 0
    end = len(text.rstrip(BLANKS))
    # A backslash may keep the last blank; the element's own pattern then reaches beyond `end`.
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise _malformed()
        position = found.end()
        if found["mark"] is not None:
            yield found["mark"], None
        elif found["quoted"] is not None:
            yield "value", _ESCAPE.sub(r"\1", found["quoted"])
        else:
            bare = found["bare"]
            yield "value", None if bare.upper() == "NULL" else _ESCAPE.sub(r"\1", bare)


def parse_array(text: str) -> tuple[tuple[int, ...], list[str | None]]:
    """The sizes and elements of an array literal. Raises WireValueError; bounds other than the default are refused with 0AP01."""
    if text.lstrip(BLANKS).startswith("["):
        raise WireValueError("0AP01", "array literals with explicit bounds are not supported in protected columns")
    parser = _Parser()
    for kind, value in _tokens(text):
        parser.take(kind, value)
    return parser.finish()


class _Parser:
    """The grammar of array literals: nesting of one shape, commas between items, nothing after the last brace."""

    def __init__(self) -> None:
        self.elements: list[str | None] = []
        self.sizes: list[int | None] = []  # by depth; None until the first sub-array of that depth is closed
        self.counts: list[int] = []  # items so far in each open brace
        self.leaf_depth: int | None = None
        self.state = "start"  # start, open (after {), item (after an item), comma, done

    def take(self, kind: str, value: str | None) -> None:
        if kind == "{":
            self._open()
        elif kind == "}":
            self._close()
        elif kind == ",":
            if self.state != "item":
                raise _malformed()
            self.state = "comma"
        else:
            self._item(value)

    def _open(self) -> None:
        if self.state not in {"start", "open", "comma"}:
            raise _malformed()
        depth = len(self.counts) + 1
        if depth > MAX_DIMENSIONS:
            raise WireValueError(
                "54000", f"number of array dimensions ({depth}) exceeds the maximum allowed ({MAX_DIMENSIONS})"
            )
        if self.leaf_depth is not None and depth > self.leaf_depth:
            raise _malformed()
        if self.counts:
            self.counts[-1] += 1
        self.counts.append(0)
        if len(self.sizes) < depth:
            self.sizes.append(None)
        self.state = "open"

    def _close(self) -> None:
        if self.state not in {"open", "item"}:
            raise _malformed()
        depth = len(self.counts)
        count = self.counts.pop()
        known = self.sizes[depth - 1]
        if known is None:
            self.sizes[depth - 1] = count
        elif known != count:
            raise _malformed()
        if not count and self.leaf_depth is None:
            self.leaf_depth = depth
        self.state = "item" if self.counts else "done"

    def _item(self, value: str | None) -> None:
        depth = len(self.counts)
        if self.state not in {"open", "comma"} or not depth:
            raise _malformed()
        if self.leaf_depth is None:
            self.leaf_depth = depth
        if depth != self.leaf_depth or len(self.sizes) > depth:
            raise _malformed()
        self.counts[-1] += 1
        if len(self.elements) >= MAX_ELEMENTS:
            raise WireValueError("54000", f"array size exceeds the maximum allowed ({MAX_ELEMENTS})")
        self.elements.append(value)
        self.state = "item"

    def finish(self) -> tuple[tuple[int, ...], list[str | None]]:
        if self.state != "done":
            raise _malformed()
        if not self.elements:
            return (), []
        return tuple(s for s in self.sizes if s is not None), self.elements


_NEEDS_QUOTES = re.compile(rb'[{}",\\ \t\n\v\f\r]')


def print_array(value: ArrayValue) -> bytes:
    """array_out's literal of elements that are in their text form."""
    if not value.sizes:
        return b"{}"
    return _print_level(value.sizes, iter(value.elements))


def _print_level(sizes: tuple[int, ...], elements: Iterator[bytes | None]) -> bytes:
    if len(sizes) == 1:
        return b"{" + b",".join(_print_element(e) for e in islice(elements, sizes[0])) + b"}"
    return b"{" + b",".join(_print_level(sizes[1:], elements) for _ in range(sizes[0])) + b"}"


def _print_element(element: bytes | None) -> bytes:
    if element is None:
        return b"NULL"
    if element and element.upper() != b"NULL" and _NEEDS_QUOTES.search(element) is None:
        return element
    return b'"' + element.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_INT = struct.Struct("!i")
_HEADER = struct.Struct("!iiI")
_DIMENSION = struct.Struct("!ii")


def load_array(data: bytes) -> tuple[int, ArrayValue]:
    """The element type's OID and the array of an array_send message. Raises WireValueError."""
    if len(data) < _HEADER.size:
        raise _short()
    dimensions, flags, oid = _HEADER.unpack_from(data)
    if dimensions < 0:
        raise WireValueError("22P03", f"invalid number of dimensions: {dimensions}")
    if dimensions > MAX_DIMENSIONS:
        raise WireValueError(
            "54000", f"number of array dimensions ({dimensions}) exceeds the maximum allowed ({MAX_DIMENSIONS})"
        )
    if flags not in {0, 1}:
        raise WireValueError("22P03", "invalid array flags")
    position = _HEADER.size + dimensions * _DIMENSION.size
    if len(data) < position:
        raise _short()
    sizes, total = _load_sizes(data, dimensions)
    elements = []
    for _ in range(total):
        element, position = _load_element(data, position)
        elements.append(element)
    if position != len(data):
        raise WireValueError("22P03", "incorrect binary data format")
    return oid, ArrayValue(sizes if total else (), tuple(elements))


def _load_sizes(data: bytes, dimensions: int) -> tuple[tuple[int, ...], int]:
    sizes = []
    total = 1
    for i in range(dimensions):
        size, lower = _DIMENSION.unpack_from(data, _HEADER.size + i * _DIMENSION.size)
        if size < 0:
            raise WireValueError("54000", "array size exceeds the maximum allowed")
        if lower != 1 and size:
            raise WireValueError(
                "0AP01", "arrays with other lower bounds than 1 are not supported in protected columns"
            )
        sizes.append(size)
        total *= size
    if total > MAX_ELEMENTS:
        raise WireValueError("54000", f"array size exceeds the maximum allowed ({MAX_ELEMENTS})")
    return tuple(sizes), total if dimensions else 0


def _load_element(data: bytes, position: int) -> tuple[bytes | None, int]:
    if len(data) < position + 4:
        raise _short()
    (length,) = _INT.unpack_from(data, position)
    position += 4
    if length == -1:
        return None, position
    if length < 0 or len(data) < position + length:
        raise WireValueError("22P03", "insufficient data left in message")
    return bytes(data[position : position + length]), position + length


def _short() -> WireValueError:
    return WireValueError("08P01", "insufficient data left in message")


def dump_array(value: ArrayValue, element_oid: int) -> bytes:
    """array_send's form of elements that are in their binary form."""
    nulls = any(e is None for e in value.elements)
    parts = [_HEADER.pack(len(value.sizes), int(nulls), element_oid)]
    parts += [_DIMENSION.pack(size, 1) for size in value.sizes]
    for element in value.elements:
        parts.append(_INT.pack(-1 if element is None else len(element)))
        if element is not None:
            parts.append(element)
    return b"".join(parts)
