"""json and jsonb (RFC 8259 as PostgreSQL documentation, section 8.14, takes it)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from keys.typeio_base import OutputSettings, ScalarCodec, WireValueError, invalid_syntax, utf8
from keys.typeio_number import parse_number

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 200  # far below the server's own stack limit, and safe for ours


class _Number(str):
    """A JSON number in numeric_out's form."""

    __slots__ = ()


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


def _number(text: str) -> _Number:
    number = parse_number(text)
    assert not isinstance(number, str)  # JSON has no words for numbers
    return _Number(number.text().decode())


def _scan(text: str) -> Any:
    """The document as Python values, numbers as `_Number`. Raises WireValueError."""
    if _depth(text) > MAX_DEPTH:
        raise WireValueError(
            "54001", f"json nested deeper than {MAX_DEPTH} levels is not supported in protected columns"
        )
    try:
        return json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refuse_constant)
    except WireValueError as error:
        # A number beyond numeric: our own error, without the value, but not with the parser's frames as its context.
        found = (error.sqlstate, error.message)
    except (ValueError, RecursionError):
        found = ("22P02", "invalid input syntax for type json")
    raise WireValueError(*found)


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


class JsonCodec(ScalarCodec):
    """json: kept as written, once it is known to be JSON."""

    label = "json"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """Any JSON document. Escapes are not looked into, so that what the server keeps is kept."""
        del settings, exact
        if _depth(text) > MAX_DEPTH:
            raise WireValueError(
                "54001", f"json nested deeper than {MAX_DEPTH} levels is not supported in protected columns"
            )
        good = True
        try:
            json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            good = False
        if not good:
            raise invalid_syntax(self.label)
        return text.encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """The binary form is the text form."""
        return self.parse(utf8(data), None, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """The binary form is the text form."""
        return canonical


class JsonbCodec(ScalarCodec):
    """jsonb, as the server prints it: keys by length and bytes, the last of equal keys, numbers in numeric's form with their scale."""

    label = "jsonb"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """Any JSON document without NUL or lone surrogates."""
        del settings, exact
        return "".join(_print(_scan(text))).encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """A version byte, 1, then the text form."""
        if not data:
            raise WireValueError("08P01", "insufficient data left in message")
        if data[0] != 1:
            raise WireValueError("XX000", f"unsupported jsonb version number {data[0]}")
        return self.parse(utf8(data[1:]), None, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """A version byte, 1, then the text form."""
        return b"\x01" + canonical


_CONTROL = re.compile(r'[\x00-\x1f"\\]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _string(text: str) -> str:
    if "\0" in text:
        raise WireValueError("22P05", "unsupported Unicode escape sequence")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise invalid_syntax("json")
    return '"' + _CONTROL.sub(lambda m: _SHORT.get(m[0]) or f"\\u{ord(m[0]):04x}", text) + '"'


def _print(value: Any) -> Iterator[str]:
    if isinstance(value, _Number):
        yield str(value)
    elif isinstance(value, str):
        yield _string(value)
    elif isinstance(value, dict):
        yield from _print_object(value)
    elif isinstance(value, list):
        yield "["
        for i, item in enumerate(value):
            yield ", " if i else ""
            yield from _print(item)
        yield "]"
    else:
        yield {True: "true", False: "false", None: "null"}[value]


def _print_object(value: dict[str, Any]) -> Iterator[str]:
    # Printing the keys first judges them: a bad one must be refused before it is sorted by its bytes.
    keys = {key: _string(key) for key in value}
    yield "{"
    for i, key in enumerate(sorted(keys, key=lambda k: (len(k.encode()), k.encode()))):
        yield ", " if i else ""
        yield f"{keys[key]}: "
        yield from _print(value[key])
    yield "}"
