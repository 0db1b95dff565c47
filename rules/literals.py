"""What constants are worth: from the text between their quotes to their values (PostgreSQL documentation chapter 4.1.2, scan.l, parser.c).

Errors are LexErrors at the offset of the constant, which the caller gives; none holds a part of the value.
"""

from __future__ import annotations

import re
from typing import Final

from rules.tokens import LexError

MAX_RADIX_DIGITS: Final = 1000  # of 0x, 0o and 0b constants; keeps their conversion to decimal cheap

# Between the closing quote of one part of a constant and the body of the next: a line break must be in it, block comments may not.
CONTINUED = r"(?>(?:[ \t\f]++|--[^\n\r]*+)*)[\n\r](?>(?:[ \t\n\r\f]++|--[^\n\r]*+[\n\r])*)'"
_QUOTE_RE: Final = re.compile(rf"'(?:'|{CONTINUED})")
_ESCAPE_RE: Final = re.compile(
    rf"\\(?:([0-7]{{1,3}})|x([0-9A-Fa-f]{{1,2}})|u([0-9A-Fa-f]{{4}})|U([0-9A-Fa-f]{{8}})|(.))|'(?:'|{CONTINUED})",
    re.DOTALL,
)
_CHARACTER_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def plain_value(body: str) -> str:
    """Undo doubled quotes, and join the parts of a continued constant."""
    return _QUOTE_RE.sub(_one_quote, body) if "'" in body else body


def bits_value(body: str, *, hexadecimal: bool, start: int) -> str:
    """The bits of a bit string constant's body, one character each."""
    digits = plain_value(body)
    if not set(digits) <= set("0123456789abcdefABCDEF" if hexadecimal else "01"):
        raise LexError("invalid digit in a bit string constant", start)
    return "".join(f"{int(d, 16):04b}" for d in digits) if hexadecimal else digits


def number_value(source: str, start: int) -> str:
    """Decimal text that every version's type input reads."""
    digits = source.replace("_", "")
    if len(digits) < 2 or digits[1] not in "xXoObB":
        return digits
    if len(digits) > MAX_RADIX_DIGITS:
        raise LexError(f"integer constant with more than {MAX_RADIX_DIGITS} digits", start)
    return str(int(digits, 0))


def escaped_value(body: str, start: int) -> str:
    """The value of an escape string's body. Its bytes must make valid UTF-8 in the end, whatever escapes they came from."""
    if "\\" not in body:
        return plain_value(body)
    out = bytearray()
    at = 0
    high = 0  # the first half of a surrogate pair, when its other half is due
    for match in _ESCAPE_RE.finditer(body):
        if match.start() > at:
            _no_half_pair(high, start)
            out += body[at : match.start()].encode()
        at = match.end()
        octal, two, four, eight, char = match.groups()
        if four is not None or eight is not None:
            code, high = _pair(int(four or eight, 16), high, start)
            out += chr(code).encode() if code else b""
            continue
        _no_half_pair(high, start)
        if octal is not None:
            out.append(int(octal, 8) & 0xFF)
        elif two is not None:
            out.append(int(two, 16))
        elif char is not None:
            out += _escaped_character(char, start).encode()
        else:
            out += _one_quote(match).encode()
    _no_half_pair(high, start)
    out += body[at:].encode()
    return _valid_utf8(bytes(out), start)


def _escaped_character(char: str, start: int) -> str:
    if char in "uU":
        raise LexError("invalid Unicode escape", start)
    if char == "v":
        raise LexError("the escape \\v means different things to different versions of PostgreSQL", start)
    return _CHARACTER_ESCAPES.get(char, char)


def _valid_utf8(raw: bytes, start: int) -> str:
    # Raised outside of the handler: a UnicodeDecodeError holds the value, and must not travel along as context.
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        value = "\0"
    if "\0" in value:
        raise LexError('invalid byte sequence for encoding "UTF8" in a string constant', start)
    return value


def _no_half_pair(high: int, start: int) -> None:
    if high:
        raise LexError("invalid Unicode surrogate pair", start)


def _pair(code: int, high: int, start: int) -> tuple[int, int]:
    """One UTF-16 or UTF-32 unit behind the half pair `high` (or 0): the finished code point or 0, and the half pair that is now open."""
    if not 0 < code <= 0x10FFFF:
        raise LexError("invalid Unicode escape value", start)
    second = 0xDC00 <= code <= 0xDFFF
    if second != bool(high):
        raise LexError("invalid Unicode surrogate pair", start)
    if second:
        return 0x10000 + ((high & 0x3FF) << 10) + (code & 0x3FF), 0
    return (0, code) if 0xD800 <= code <= 0xDBFF else (code, 0)


def unicode_value(body: str, escape: str, start: int) -> str:
    """The value of a U& constant or identifier whose doubled quotes are undone."""
    if escape not in body:
        return body
    mark = re.escape(escape)
    units = re.compile(rf"{mark}(?:({mark})|([0-9A-Fa-f]{{4}})|\+([0-9A-Fa-f]{{6}}))|([^{mark}]+)|(.)", re.DOTALL)
    out: list[str] = []
    high = 0
    for match in units.finditer(body):
        doubled, four, six, rest, bad = match.groups()
        if bad is not None:
            raise LexError("invalid Unicode escape", start)
        if four is not None or six is not None:
            code, high = _pair(int(four or six, 16), high, start)
            out.append(chr(code) if code else "")
            continue
        _no_half_pair(high, start)
        out.append(rest if doubled is None else doubled)
    _no_half_pair(high, start)
    return "".join(out)


def _one_quote(match: re.Match[str]) -> str:
    return "'" if match.group() == "''" else ""
