"""A value of the type that the client declared, taken for a column of another: the server's assignment casts, where they lose nothing.

What an assignment would change silently (1.5 to an integer, a timestamp's time to a date) is refused instead: the same parameter may stand
in a comparison, where the changed value would match wrong rows. Under `exact` it is known to, and the value equals nothing.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from keys.typeio_base import ScalarCodec, UnrepresentableError, WireValueError, client_text, need_length
from keys.typeio_datetime import DateCodec, TimestampCodec, stamp_micros
from keys.typeio_json import JsonbCodec, JsonCodec
from keys.typeio_number import FloatCodec, IntegerCodec, Number, NumericCodec, load_number, parse_number, single
from keys.typeio_text import TextCodec, UuidCodec
from keys.typeio_zone import DAY, from_utc, to_utc

if TYPE_CHECKING:
    from keys.typeio_base import LogicalType, OutputSettings

_TEXTS = frozenset({25, 1043, 1042, 19})
_INTEGERS = {21: IntegerCodec(2, "smallint"), 23: IntegerCodec(4, "integer"), 20: IntegerCodec(8, "bigint")}
_FLOATS = {700: FloatCodec(4, "real"), 701: FloatCodec(8, "double precision")}
_NUMBERS = frozenset({21, 23, 20, 1700, 700, 701})
_DATES = frozenset({1082, 1114, 1184})
_JSON = frozenset({114, 3802})


def castable(type_: LogicalType, oid: int) -> bool:
    """Whether a value declared with this OID can be assigned to a scalar column of `type_`."""
    if type_.labels is not None or type_.array:
        return oid != 0 and oid == type_.oid
    if oid == type_.oid:
        return True
    if type_.oid in {25, 1043, 1042}:
        return oid in _TEXTS or oid in _INTEGERS or oid in {1700, 2950}
    return any(type_.oid in family and oid in family for family in (_NUMBERS, _DATES, _JSON))


def cast(
    type_: LogicalType,
    codec: ScalarCodec,
    oid: int,
    data: bytes,
    *,
    binary: bool,
    settings: OutputSettings | None,
    exact: bool,
) -> bytes:
    """Wire data of declared type `oid` as canonical bytes of `type_`, whose codec is given. `castable` must hold."""
    if oid in _NUMBERS:
        number = _number(oid, data, settings, binary=binary)
        return _number_to(type_, codec, oid, number, exact=exact)
    if oid in _DATES:
        return _date_to(type_, codec, _date(oid, data, settings, binary=binary), oid, settings, exact=exact)
    source: ScalarCodec = {2950: UuidCodec(), 114: JsonCodec(), 3802: JsonbCodec()}.get(oid, TextCodec())
    plain = (
        source.load(data, exact=False) if binary else source.parse(client_text(data, settings), settings, exact=False)
    )
    if oid == 1042:
        plain = plain.rstrip(b" ")
    return codec.parse(plain.decode(), settings, exact=exact)


def _number(oid: int, data: bytes, settings: OutputSettings | None, *, binary: bool) -> Number | str | float:
    """A declared number: floats as themselves, the rest as decimal."""
    if oid == 1700:
        return load_number(data) if binary else parse_number(client_text(data, settings))
    if oid in _INTEGERS:
        source = _INTEGERS[oid]
        plain = (
            source.load(data, exact=False)
            if binary
            else source.parse(client_text(data, settings), settings, exact=False)
        )
        return parse_number(plain.decode())
    if binary:
        need_length(data, 4 if oid == 700 else 8)
        return float(struct.unpack("!f" if oid == 700 else "!d", data)[0])
    value = float(_FLOATS[oid].parse(client_text(data, settings), settings, exact=False))
    return single(value) if oid == 700 else value


def _number_to(type_: LogicalType, codec: ScalarCodec, oid: int, number: Number | str | float, *, exact: bool) -> bytes:
    if isinstance(codec, FloatCodec):
        return _to_float(codec, number, exact=exact)
    if isinstance(number, float):
        # float4_numeric and float8_numeric go through 6 and 15 digits.
        number = parse_number(f"{number:.{6 if oid == 700 else 15}g}")
    if isinstance(codec, NumericCodec):
        return codec.fit(number, exact=exact)
    if not isinstance(codec, IntegerCodec):
        plain = number if isinstance(number, str) else number.text().decode()
        return codec.parse(plain, None, exact=exact)
    if isinstance(number, str) or number.fraction.strip("0"):
        raise _lossy(
            f"a number that is not whole can't be taken for a protected column of type {type_.name}", exact=exact
        )
    value = int(number.text().partition(b".")[0]) if len(number.whole) <= 19 else None
    if value is None or not codec.holds(value):
        raise (UnrepresentableError if exact else WireValueError)("22003", f"{type_.name} out of range")
    return codec.fit(value)


def _lossy(message: str, *, exact: bool) -> WireValueError:
    return UnrepresentableError("0AP01", message) if exact else WireValueError("0AP01", message)


def _to_float(codec: FloatCodec, number: Number | str | float, *, exact: bool) -> bytes:
    if isinstance(number, str):
        return codec.parse(number, None, exact=exact)
    if isinstance(number, Number):
        return codec.parse(number.text().decode(), None, exact=exact)
    if not math.isfinite(number):
        return codec.load(struct.pack("!d" if codec.size == 8 else "!f", number), exact=exact)
    if exact and codec.size == 4 and single(number) != number:
        raise UnrepresentableError("22003", "value has more digits than type real")
    return codec.fit(number)


def _date(oid: int, data: bytes, settings: OutputSettings | None, *, binary: bool) -> bytes:
    source: ScalarCodec = DateCodec() if oid == 1082 else TimestampCodec(oid == 1184)
    return (
        source.load(data, exact=False) if binary else source.parse(client_text(data, settings), settings, exact=False)
    )


def _date_to(
    type_: LogicalType, codec: ScalarCodec, canonical: bytes, oid: int, settings: OutputSettings | None, *, exact: bool
) -> bytes:
    if canonical.endswith(b"infinity"):
        return canonical
    micros = stamp_micros(canonical)
    if oid == 1184:
        micros = from_utc(micros, settings)
    if isinstance(codec, DateCodec):
        if micros % DAY:
            raise _lossy(
                "a timestamp with a time of day can't be taken for a protected column of type date", exact=exact
            )
        return codec.canonical(micros // DAY)
    if not isinstance(codec, TimestampCodec):
        raise WireValueError("42804", f"column is of type {type_.name} but the parameter is declared as another type")
    return codec.canonical(to_utc(micros, settings) if codec.tz else micros, exact=exact)
