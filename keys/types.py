"""Logical types: what clients send and see of a protected column, to and from the canonical bytes that are sealed.

Canonical bytes are PostgreSQL's own text output in UTF-8 under fixed settings (DateStyle ISO, TimeZone UTC, extra_float_digits 1), so
that values which the type's `=` calls equal have equal bytes. It differs from the text output in five places:

- character(n) is without its trailing blanks, which comparisons ignore;
- numeric without a scale is without trailing zeros (1.0 = 1.00), so the scale that was written is not shown again;
- -0 of real and double precision is 0, its equal;
- bytea is its raw bytes, half the size of its text form;
- jsonb is exactly the server's text; there 1.0 and 1.00 are equal and yet two texts, so `equality_is_bytes` is false for it.

Two witnesses of every conversion: `tests/keys/test_types_server.py` asks the server itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from keys.typeio_array import ArrayValue, dump_array, load_array, parse_array, print_array
from keys.typeio_base import (
    CANONICAL_SETTINGS,
    UNKNOWN_OIDS,
    LogicalType,
    OutputSettings,
    ScalarCodec,
    TypeSpecError,
    UnrepresentableError,
    WireValueError,
    client_text,
    refuse_encoding,
)
from keys.typeio_cast import cast, castable
from keys.typeio_datetime import DateCodec, TimeCodec, TimestampCodec, TimeTzCodec
from keys.typeio_json import JsonbCodec, JsonCodec
from keys.typeio_number import FloatCodec, IntegerCodec, NumericCodec
from keys.typeio_text import BoolCodec, ByteaCodec, CharCodec, EnumCodec, TextCodec, UuidCodec
from keys.typespec import BASES, array_of, parse_type, with_enum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CANONICAL_SETTINGS",
    "ArrayValue",
    "LogicalType",
    "OutputSettings",
    "TypeSpecError",
    "UnrepresentableError",
    "WireValueError",
    "accepts_oid",
    "array_of",
    "decode",
    "decode_array",
    "decode_literal",
    "encode",
    "encode_array",
    "encoder",
    "equality_is_bytes",
    "parse_type",
    "with_enum",
]

TEXT, BINARY = 0, 1  # format codes (PostgreSQL documentation, section 55.7)
_BYTES_TYPES = frozenset({25, 1043, 17, 114})  # whose binary form is the canonical one
_TEXT_OIDS = frozenset({25, 1043})  # one binary form; a compared varchar is described as text
_WORDED_TYPES = frozenset({25, 1043, 1042, 114, 3802})  # whose binary form is in the client's encoding
_ARRAY_ELEMENTS = {b.array_oid: b.oid for b in BASES} | {1003: 19}


@lru_cache(maxsize=1024)
def codec(type_: LogicalType) -> ScalarCodec:
    """The codec of a scalar type (of an array: of its elements)."""
    scalar = type_.scalar
    if scalar.labels is not None:
        return EnumCodec(scalar.name, frozenset(scalar.labels))
    make = _CODECS.get(scalar.oid)
    if make is None:
        raise TypeSpecError(f"no codec for type {scalar.name}")
    return make(scalar, None if scalar.typmod < 0 else scalar.typmod)


def _numeric(_type: LogicalType, typmod: int | None) -> NumericCodec:
    if typmod is None:
        return NumericCodec()
    scale = (typmod - 4) & 0x7FF
    return NumericCodec((typmod - 4) >> 16, (scale ^ 1024) - 1024)


_CODECS: Mapping[int, Callable[[LogicalType, int | None], ScalarCodec]] = MappingProxyType(
    {
        25: lambda _type, _typmod: TextCodec(),
        1043: lambda _type, typmod: TextCodec(None if typmod is None else typmod - 4),
        1042: lambda _type, typmod: CharCodec(1 if typmod is None else typmod - 4),
        21: lambda type_, _typmod: IntegerCodec(2, type_.name),
        23: lambda type_, _typmod: IntegerCodec(4, type_.name),
        20: lambda type_, _typmod: IntegerCodec(8, type_.name),
        1700: _numeric,
        700: lambda type_, _typmod: FloatCodec(4, type_.name),
        701: lambda type_, _typmod: FloatCodec(8, type_.name),
        16: lambda _type, _typmod: BoolCodec(),
        1082: lambda _type, _typmod: DateCodec(),
        1083: lambda _type, typmod: TimeCodec(typmod),
        1266: lambda _type, typmod: TimeTzCodec(typmod),
        1114: lambda _type, typmod: TimestampCodec(tz=False, precision=typmod),
        1184: lambda _type, typmod: TimestampCodec(tz=True, precision=typmod),
        2950: lambda _type, _typmod: UuidCodec(),
        17: lambda _type, _typmod: ByteaCodec(),
        114: lambda _type, _typmod: JsonCodec(),
        3802: lambda _type, _typmod: JsonbCodec(),
    }
)


def accepts_oid(type_: LogicalType, oid: int) -> bool:
    """Whether a parameter that the client declared with this type OID can be taken for `type_`.

    Unknown always; the type itself; and types that the server would assign to it, where no value is changed silently on the way.
    """
    if oid in UNKNOWN_OIDS or (oid == type_.oid and oid != 0):
        return True
    if type_.element is not None:
        element = _ARRAY_ELEMENTS.get(oid)
        return element is not None and accepts_oid(type_.element, element)
    return castable(type_, oid)


def decode(
    type_: LogicalType,
    data: bytes,
    format: int,  # noqa: A002 - the protocol's own word
    *,
    declared_oid: int = 0,
    settings: OutputSettings | None = None,
    exact: bool = False,
) -> bytes:
    """A value in the client's wire form (0 text, 1 binary) as canonical bytes.

    `declared_oid` is the type that Parse gave the parameter. `settings` are the session's: without them what depends on them is refused.
    `exact`: for comparisons, where an assignment's rounding or cutting would be wrong: such values raise UnrepresentableError.
    Raises WireValueError, never with the value.
    """
    if type_.array:
        return _array_literal(
            type_, decode_array(type_, data, format, declared_oid=declared_oid, settings=settings, exact=exact)
        )
    return _decode_scalar(type_, data, format, declared_oid, settings, exact=exact)


def _decode_scalar(
    type_: LogicalType,
    data: bytes,
    format: int,  # noqa: A002
    declared_oid: int,
    settings: OutputSettings | None,
    *,
    exact: bool,
) -> bytes:
    if declared_oid not in UNKNOWN_OIDS and declared_oid != type_.oid:
        if not castable(type_, declared_oid):
            raise WireValueError(
                "42804", f"column is of type {type_.name} but the parameter is declared as another type"
            )
        return cast(type_, codec(type_), declared_oid, data, binary=format == BINARY, settings=settings, exact=exact)
    if format == BINARY:
        if settings is not None and not data.isascii() and type_.oid in _WORDED_TYPES:
            refuse_encoding(settings)
        return codec(type_).load(data, exact=exact)
    return codec(type_).parse(client_text(data, settings), settings, exact=exact)


def decode_array(
    type_: LogicalType,
    data: bytes,
    format: int,  # noqa: A002
    *,
    declared_oid: int = 0,
    settings: OutputSettings | None = None,
    exact: bool = False,
    absent: bytes | None = None,
) -> ArrayValue:
    """As `decode`, for an array type: its shape, with each element's canonical bytes (None for NULL).

    `absent`: what stands for an element that the type cannot hold, instead of UnrepresentableError; with `exact` only.
    """
    element = _element(type_)
    declared = _ARRAY_ELEMENTS.get(declared_oid, 0)
    if not accepts_oid(type_, declared_oid):
        raise WireValueError("42804", f"column is of type {type_.name} but the parameter is declared as another type")

    def decode_element(data: bytes) -> bytes:
        try:
            return _decode_scalar(element, data, format, declared, settings, exact=exact)
        except UnrepresentableError:
            if absent is None:
                raise
            return absent

    if format == BINARY:
        sent, value = load_array(data)
        wanted = declared or element.oid
        if wanted and sent != wanted and not {sent, wanted} <= _TEXT_OIDS:
            raise WireValueError("42804", "binary data has another array element type than expected")
        return value.map(decode_element)
    sizes, texts = parse_array(client_text(data, settings))
    raw = ArrayValue(sizes, tuple(None if t is None else t.encode() for t in texts))
    return raw.map(decode_element)


def _element(type_: LogicalType) -> LogicalType:
    if type_.element is None:
        raise TypeSpecError(f"{type_.name} is not an array")
    return type_.element


def _array_literal(type_: LogicalType, value: ArrayValue) -> bytes:
    scalar = codec(type_)
    return print_array(value.map(lambda e: scalar.show(e, CANONICAL_SETTINGS)) if type_.scalar.oid == 17 else value)


_NUMBER = re.compile(r"[+-]?\s*(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9._]+(?:[eE][+-]?[0-9_]+)?)", re.ASCII)


def decode_literal(
    type_: LogicalType, text: str, *, number: bool = False, settings: OutputSettings | None = None, exact: bool = False
) -> bytes:
    """The value of a SQL constant as canonical bytes: a string constant's content, or with `number` a numeric constant's text."""
    if not number:
        return decode(type_, _literal_bytes(text), TEXT, exact=exact, settings=settings)
    joined = re.sub(r"\s+", "", text)
    if _NUMBER.fullmatch(text.strip()) is None:
        raise WireValueError("42601", "syntax error in a numeric constant")
    if type_.array or not castable(type_, 1700):
        raise WireValueError("42804", f"column is of type {type_.name} but the constant is a number")
    return cast(type_, codec(type_), 1700, joined.encode(), binary=False, settings=None, exact=exact)


def _literal_bytes(text: str) -> bytes:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise WireValueError("22021", 'invalid byte sequence for encoding "UTF8"')
    return text.encode()


def encode(
    type_: LogicalType,
    canonical: bytes,
    format: int,  # noqa: A002
    *,
    settings: OutputSettings = CANONICAL_SETTINGS,
) -> bytes:
    """Canonical bytes in the form that the client asked for, as the server would send them under `settings`.

    Raises WireValueError 0AP01 where a setting can't be honoured.
    """
    change = encoder(type_, format, settings)
    return canonical if change is None else change(canonical)


def encoder(
    type_: LogicalType,
    format: int,  # noqa: A002
    settings: OutputSettings = CANONICAL_SETTINGS,
) -> Callable[[bytes], bytes] | None:
    """`encode` for many values of one column: None where the client's form is the canonical one."""
    if type_.array:
        return lambda canonical: encode_array(type_, _stored_array(type_, canonical), format, settings=settings)
    scalar = codec(type_)
    guarded = format == TEXT or type_.oid in _WORDED_TYPES or type_.labels is not None
    plain = not guarded or _encoding_is_utf8(settings)
    if format == BINARY:
        change: Callable[[bytes], bytes] | None = (
            None if type_.oid in _BYTES_TYPES or type_.labels is not None else scalar.dump
        )
    else:
        change = None if scalar.shows_canonical(settings) else (lambda canonical: scalar.show(canonical, settings))
    return change if plain else _guard(change, settings)


def _guard(change: Callable[[bytes], bytes] | None, settings: OutputSettings) -> Callable[[bytes], bytes]:
    def guarded(canonical: bytes) -> bytes:
        shown = canonical if change is None else change(canonical)
        if not shown.isascii():
            refuse_encoding(settings)
        return shown

    return guarded


def _encoding_is_utf8(settings: OutputSettings) -> bool:
    return settings.client_encoding.upper().replace("-", "") in {"UTF8", "UNICODE", "SQL_ASCII"}


def _stored_array(type_: LogicalType, canonical: bytes) -> ArrayValue:
    """The shape and canonical elements of a canonical array literal."""
    sizes, texts = parse_array(canonical.decode())
    value = ArrayValue(sizes, tuple(None if t is None else t.encode() for t in texts))
    if type_.scalar.oid != 17:
        return value
    scalar = codec(type_)
    return value.map(lambda e: scalar.parse(e.decode(), None, exact=False))


def encode_array(
    type_: LogicalType,
    value: ArrayValue,
    format: int,  # noqa: A002
    *,
    settings: OutputSettings = CANONICAL_SETTINGS,
) -> bytes:
    """An array of canonical elements in the form that the client asked for."""
    element = _element(type_)
    change = encoder(element, format, settings)
    shown = value if change is None else value.map(change)
    return dump_array(shown, element.oid) if format == BINARY else print_array(shown)


def equality_is_bytes(type_: LogicalType) -> bool:
    """Whether `=` of the type is equality of canonical bytes. False for json, which has no `=`, and jsonb (1.0 = 1.00 inside).

    A column's nondeterministic collation is not seen here: its `=` on text is wider than bytes.
    """
    return type_.scalar.oid not in {114, 3802}
