"""Integers, numeric and floating point (PostgreSQL documentation, section 8.1; binary forms as in numeric.c, float.c, int8.c)."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import ClassVar, NamedTuple

import numpy as np

from keys.typeio_base import (
    BLANKS,
    OutputSettings,
    ScalarCodec,
    UnrepresentableError,
    WireValueError,
    invalid_syntax,
    need_length,
    out_of_range,
)

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
# Hexadecimal, octal and binary spellings and underscores are PostgreSQL 16's; 15 refuses them.
_RADIX = r"0[xX](?P<x>(?:_?[0-9a-fA-F])+)|0[oO](?P<o>(?:_?[0-7])+)|0[bB](?P<b>(?:_?[01])+)"
_INTEGER = re.compile(rf"[{BLANKS}]*(?P<sign>[+-]?)(?:{_RADIX}|(?P<d>{_DIGITS}))[{BLANKS}]*")
_NUMERIC = re.compile(
    rf"[{BLANKS}]*(?P<sign>[+-]?)"
    rf"(?:(?P<d>{_DIGITS})?(?P<point>\.)?(?P<f>(?<=\.){_DIGITS})?(?P<e>[eE][+-]?{_DIGITS})?|{_RADIX})[{BLANKS}]*"
)
_MAX_WHOLE = 131072  # digits before the point that numeric can hold (appendix K)
_MAX_FRACTION = 16383
_MAX_EXPONENT = 1_000_000  # beyond it every number overflows; keeps the digit strings short
_EXACT = Context(prec=_MAX_WHOLE + _MAX_FRACTION + 1, rounding=ROUND_HALF_UP, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity"}


class Number(NamedTuple):
    """A finite decimal number as digit strings; `whole` has no leading zeros, so it may be empty."""

    negative: bool
    whole: str
    fraction: str

    @property
    def zero(self) -> bool:
        """Whether the value is zero, whatever its sign and scale."""
        return not self.whole and not self.fraction.strip("0")

    def text(self) -> bytes:
        """numeric_out's form."""
        sign = "-" if self.negative and not self.zero else ""
        point = "." if self.fraction else ""
        return f"{sign}{self.whole or '0'}{point}{self.fraction}".encode()

    def trimmed(self) -> Number:
        """The same value in the smallest scale."""
        return self._replace(fraction=self.fraction.rstrip("0"))


def _radix_value(found: re.Match[str]) -> int | None:
    """The value of a 0x, 0o or 0b spelling; None for a decimal one."""
    for group, base in (("x", 16), ("o", 8), ("b", 2)):
        digits = found[group]
        if digits is not None:
            return int(digits.replace("_", ""), base)
    return None


@dataclass(frozen=True, slots=True)
class IntegerCodec(ScalarCodec):
    """smallint, integer, bigint: `size` bytes."""

    size: int
    name: str

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """A whole number in decimal, 0x, 0o or 0b."""
        del settings, exact
        found = _INTEGER.match(text)
        if found is None:
            raise invalid_syntax(self.name)
        value = _radix_value(found)
        if value is None:
            digits = found["d"].replace("_", "").lstrip("0")
            if len(digits) > 19:
                raise out_of_range(self.name)
            value = int(digits or "0")
        # The server stops at the first digit too many, before it sees what else is wrong.
        canonical = self.fit(-value if found["sign"] == "-" else value)
        if found.end() != len(text):
            raise invalid_syntax(self.name)
        return canonical

    def holds(self, value: int) -> bool:
        """Whether a whole number is in the type's range."""
        bound = 1 << (8 * self.size - 1)
        return -bound <= value < bound

    def fit(self, value: int) -> bytes:
        """Canonical bytes of a whole number, if the type holds it."""
        if not self.holds(value):
            raise out_of_range(self.name)
        return b"%d" % value

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Big-endian two's complement."""
        del exact
        need_length(data, self.size)
        return b"%d" % int.from_bytes(data, "big", signed=True)

    def dump(self, canonical: bytes) -> bytes:
        """Big-endian two's complement."""
        return int(canonical).to_bytes(self.size, "big", signed=True)


def parse_number(text: str, label: str = "numeric") -> Number | str:
    """A decimal number, or one of 'NaN', 'Infinity', '-Infinity'. Keeps the scale that was written."""
    found = _NUMERIC.fullmatch(text)
    if found is None or (found["d"] is None and found["f"] is None and not (found["x"] or found["o"] or found["b"])):
        return _parse_special(text, label)
    negative = found["sign"] == "-"
    value = _radix_value(found)
    if value is not None:
        if value.bit_length() > 4 * _MAX_WHOLE:
            raise _overflow_format()
        return _checked(Number(negative, format(Decimal(value), "f").lstrip("0"), ""))
    whole, fraction = (found["d"] or "").replace("_", ""), (found["f"] or "").replace("_", "")
    exponent = (found["e"] or "e0")[1:].replace("_", "")
    if len(exponent.lstrip("+-0")) > 7 or abs(int(exponent)) > _MAX_EXPONENT:
        raise _overflow_format()
    return _checked(Number(negative, *_shift(whole, fraction, int(exponent))))


def _shift(whole: str, fraction: str, exponent: int) -> tuple[str, str]:
    """Move the point; the scale never goes below zero."""
    if exponent > 0:
        moved = fraction[:exponent].ljust(exponent, "0")
        whole, fraction = whole + moved, fraction[exponent:]
    elif exponent < 0:
        padded = whole.rjust(-exponent, "0")
        whole, fraction = padded[:exponent], padded[exponent:] + fraction
    return whole.lstrip("0"), fraction


def _checked(number: Number) -> Number:
    if len(number.whole) > _MAX_WHOLE or len(number.fraction) > _MAX_FRACTION:
        raise _overflow_format()
    return number


def _overflow_format() -> WireValueError:
    return WireValueError("22003", "value overflows numeric format")


def _parse_special(text: str, label: str) -> str:
    word = text.strip(BLANKS)
    if word.isascii():
        bare = word.lower().lstrip("+-")
        name = _SPECIAL.get(bare)
        if name is not None and len(word) - len(bare) <= (name != "NaN"):
            return "-" + name if word[0] == "-" else name
    raise invalid_syntax(label)


def round_number(number: Number, scale: int) -> Number:
    """To `scale` digits after the point (negative: before it), half away from zero, with exactly that scale."""
    if scale >= 0 and len(number.fraction) <= scale:
        return number._replace(fraction=number.fraction.ljust(scale, "0"))
    value = Decimal(f"{number.whole or '0'}.{number.fraction or '0'}")
    rounded = format(value.quantize(Decimal((0, (1,), -scale)), context=_EXACT), "f")
    whole, _, fraction = rounded.partition(".")
    return Number(number.negative, whole.lstrip("0"), fraction[: max(scale, 0)])


@dataclass(frozen=True, slots=True)
class NumericCodec(ScalarCodec):
    """numeric, or numeric(precision, scale).

    Without a scale canonical form drops trailing zeros, so that 1.0 and 1.00 seal equal as they compare equal.
    """

    precision: int | None = None
    scale: int = 0
    label: ClassVar[str] = "numeric"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """A decimal number, NaN or an infinity."""
        del settings
        return self.fit(parse_number(text), exact=exact)

    def fit(self, value: Number | str, *, exact: bool) -> bytes:
        """Canonical bytes of a number, rounded to the column's scale unless `exact`."""
        if isinstance(value, str):
            if self.precision is not None and value != "NaN":
                raise self._overflow("cannot hold an infinite value", exact=exact)
            return value.encode()
        if self.precision is None:
            return value.trimmed().text()
        rounded = round_number(value, self.scale)
        if exact and rounded.trimmed()[1:] != value.trimmed()[1:]:
            raise UnrepresentableError("22003", "numeric value has more digits than the column")
        room = self.precision - self.scale
        if not rounded.zero and _magnitude(rounded) > room:
            bound = f"10^{room}" if room else "1"
            raise self._overflow(f"must round to an absolute value less than {bound}", exact=exact)
        return rounded.text()

    def _overflow(self, what: str, *, exact: bool) -> WireValueError:
        kind = UnrepresentableError if exact else WireValueError
        detail = f"A field with precision {self.precision}, scale {self.scale} {what}."
        return kind("22003", "numeric field overflow", detail)

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Base-10000 digits after an 8-byte header."""
        return self.fit(load_number(data), exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """Base-10000 digits after an 8-byte header."""
        return dump_number(canonical.decode())


def _magnitude(number: Number) -> int:
    """The position of the first digit that is not zero: 3 for 123, 0 for 0.1, -1 for 0.01."""
    if number.whole:
        return len(number.whole)
    return len(number.fraction.lstrip("0")) - len(number.fraction)


_HEADER = struct.Struct("!hhHH")
_SPECIAL_SIGNS = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def load_number(data: bytes) -> Number | str:
    """numeric_recv: a number with the scale that its sender gave it, or the name of a special value."""
    if len(data) < _HEADER.size:
        raise WireValueError("08P01", "insufficient data left in message")
    count, weight, sign, scale = _HEADER.unpack_from(data)
    if count < 0:
        raise WireValueError("22P03", 'invalid length in external "numeric" value')
    need_length(data, _HEADER.size + 2 * count)
    if sign in _SPECIAL_SIGNS:
        return _SPECIAL_SIGNS[sign]
    if sign not in {0, 0x4000}:
        raise WireValueError("22P03", 'invalid sign in external "numeric" value')
    if scale > _MAX_FRACTION:
        raise WireValueError("22P03", 'invalid scale in external "numeric" value')
    digits = struct.unpack_from(f"!{count}h", data, _HEADER.size)
    if any(not 0 <= d < 10000 for d in digits):
        raise WireValueError("22P03", 'invalid digit in external "numeric" value')
    text = "".join(f"{d:04d}" for d in digits)
    whole, fraction = _shift(text, "", 4 * (weight + 1 - count)) if count else ("", "")
    # The sender's scale decides how much of the fraction counts (numeric_recv truncates).
    return _checked(Number(sign == 0x4000, whole, fraction[:scale].ljust(scale, "0")))


def dump_number(text: str) -> bytes:
    """numeric_send of numeric_out's text."""
    special = {name: code for code, name in _SPECIAL_SIGNS.items()}.get(text)
    if special is not None:
        # The server's header of an infinity shows through as a scale of 32.
        return _HEADER.pack(0, 0, special, 0 if text == "NaN" else 32)
    negative = text.startswith("-")
    whole, _, fraction = text.lstrip("-").partition(".")
    whole = whole.lstrip("0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    padded = whole + fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    digits = [int(padded[i : i + 4]) for i in range(0, len(padded), 4)]
    weight = len(whole) // 4 - 1
    while digits and digits[0] == 0:
        digits.pop(0)
        weight -= 1
    while digits and digits[-1] == 0:
        digits.pop()
    if not digits:
        return _HEADER.pack(0, 0, 0, len(fraction))
    header = _HEADER.pack(len(digits), weight, 0x4000 if negative else 0, len(fraction))
    return header + struct.pack(f"!{len(digits)}h", *digits)


_FLOAT = re.compile(rf"[{BLANKS}]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[{BLANKS}]*")
_SIGNED_NAN = re.compile(rf"^[{BLANKS}]*[+-]nan", re.IGNORECASE | re.ASCII)
_HEX_FLOAT = re.compile(
    rf"[{BLANKS}]*([+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?)[{BLANKS}]*"
)


@dataclass(frozen=True, slots=True)
class FloatCodec(ScalarCodec):
    """real (size 4) and double precision (size 8). Canonical form is the shortest exact one; -0 becomes 0, as they are equal."""

    size: int
    name: str

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """What the C library's strtod takes: decimal, hexadecimal, NaN, infinities."""
        del settings, exact
        found = _HEX_FLOAT.match(text)
        if found is not None:
            nonzero = re.search("[1-9a-fA-F]", re.split("[xXpP]", found[1])[1]) is not None
            canonical = self.fit(_from_hex_float(found[1], self.name), nonzero=nonzero)
        else:
            found = _FLOAT.match(text)
            if found is None:
                # strtod takes a sign before NaN, numeric does not.
                return _parse_special(_SIGNED_NAN.sub("nan", text), self.name).encode()
            canonical = self._decimal(found[1])
        # The C library reports the range of what it could read, before the server sees what is left over.
        if found.end() != len(text):
            raise invalid_syntax(self.name)
        return canonical

    def _decimal(self, text: str) -> bytes:
        value = float(text)
        nonzero = re.search(r"[1-9]", re.split(r"[eE]", text)[0]) is not None
        if self.size == 4 and math.isfinite(value):
            value = _nearest_single(value, text)
        return self.fit(value, nonzero=nonzero)

    def fit(self, value: float, *, nonzero: bool | None = None) -> bytes:
        """Canonical bytes of a finite double; 22003 where it overflows, or `nonzero` and becomes zero."""
        nonzero = value != 0 if nonzero is None else nonzero
        narrow = value if self.size == 8 else single(value)
        if math.isinf(narrow) or (narrow == 0 and nonzero):
            raise out_of_range(self.name)
        return shortest(narrow, self.size)

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """IEEE 754, big-endian."""
        del exact
        need_length(data, self.size)
        return shortest(struct.unpack("!f" if self.size == 4 else "!d", data)[0], self.size)

    def dump(self, canonical: bytes) -> bytes:
        """IEEE 754, big-endian."""
        value = float(canonical)
        return (
            struct.pack("!d", value)
            if self.size == 8
            else struct.pack("!f", _nearest_single(value, canonical.decode()))
        )

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """By extra_float_digits: shortest exact form above 0, else that many digits fewer than the type's."""
        if self.shows_canonical(settings) or canonical.endswith((b"NaN", b"Infinity")):
            return canonical
        digits = max(1, (15 if self.size == 8 else 6) + settings.extra_float_digits)
        value = float(canonical)
        return f"{value if self.size == 8 else _nearest_single(value, canonical.decode()):.{digits}g}".encode()

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Above 0 the server prints the shortest exact form."""
        return settings.extra_float_digits > 0


def _from_hex_float(text: str, name: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        pass
    raise out_of_range(name)


def single(value: float) -> float:
    """The nearest single-precision number, infinite beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _next_single(value: float, towards: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.nextafter(np.float32(value), np.float32(towards)))


def _nearest_single(value: float, text: str) -> float:
    """strtof: rounding the text once. Going through a double rounds twice, which matters only half-way between two singles."""
    near = single(value)
    if near == value or not math.isfinite(near):
        return near
    other = _next_single(near, math.copysign(math.inf, value - near))
    if not math.isfinite(other) or abs(value - near) != abs(other - value):
        return near
    exact, middle = Decimal(text), Decimal(value)
    if exact == middle:
        return near
    return max(near, other) if exact > middle else min(near, other)


def shortest(value: float, size: int) -> bytes:
    """The server's shortest exact form of a double (size 8) or single (size 4): float8out, float4out with extra_float_digits > 0."""
    if math.isnan(value):
        return b"NaN"
    if math.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    if value == 0:
        return b"0"
    digits, exponent = _shortest_digits(abs(value), size)
    sign = "-" if value < 0 else ""
    if -4 <= exponent < (15 if size == 8 else 6):
        return (sign + _plain(digits, exponent)).encode()
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{exponent:+03d}".encode()


def _plain(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    rest = digits[exponent + 1 :]
    return f"{whole}.{rest}" if rest else whole


def _split(scientific: str) -> tuple[str, int]:
    mantissa, _, exponent = scientific.partition("e")
    return mantissa.replace(".", "").rstrip("0") or "0", int(exponent)


def _shortest_digits(value: float, size: int) -> tuple[str, int]:
    """Shortest digits strictly inside the interval that rounds to `value`, and the decimal exponent of the first.

    Python and numpy also accept an end of the interval where ties would round back to `value`; the server never does.
    """
    if size == 8:
        digits, exponent = _split(f"{Decimal(repr(value)):e}")
        low, high = math.nextafter(value, 0), math.nextafter(value, math.inf)
    else:
        one = np.float32(value)
        digits, exponent = _split(np.format_float_scientific(one, unique=True, trim="-"))
        low, high = _next_single(value, 0.0), _next_single(value, math.inf)
    exact = Fraction(value)
    floor = (exact + Fraction(low)) / 2
    ceiling = (exact + Fraction(high)) / 2 if math.isfinite(high) else exact + (exact - floor)
    if floor < _fraction(digits, exponent) < ceiling:
        return digits, exponent
    return _strictly_inside(exact, floor, ceiling, len(digits), exponent)


def _fraction(digits: str, exponent: int) -> Fraction:
    return int(digits) * Fraction(10) ** (exponent - len(digits) + 1)


def _strictly_inside(
    exact: Fraction, floor: Fraction, ceiling: Fraction, length: int, exponent: int
) -> tuple[str, int]:
    for count in range(length, 19):
        unit = Fraction(10) ** (exponent - count + 1)
        nearest = round(exact / unit)
        inside = [n for n in (nearest - 1, nearest, nearest + 1) if floor < n * unit < ceiling]
        if inside:
            best = str(min(inside, key=lambda n: abs(n * unit - exact)))
            return best.rstrip("0"), exponent + len(best) - count
    raise AssertionError("17 digits tell every double from its neighbours")
