"""The two forms of each kind of mask: a function over canonical bytes, and a SQL expression over a column. `keys.mask` chooses."""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from keys import mask_text
from keys.typeio_base import CANONICAL_SETTINGS, LogicalType, WireValueError
from keys.typeio_datetime import DateCodec, TimestampCodec, year_start
from keys.typeio_number import FloatCodec, Number, NumericCodec, parse_number, shortest, single
from keys.types import codec, decode_literal, encode
from keys.typespec import type_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, int | str]
    Forms = tuple[Callable[[bytes], bytes | None], Callable[[str], str]]

PSEUDONYM_DIGITS = 16
PSEUDONYM_SHORTEST = 10  # characters that a column needs: the prefix and 32 bits
MIN_KEY_BYTES = 16
HUGE, HUGE_SINGLE = 1e300, 1e38  # from here a float's range is an infinity: its lower bound could overflow


class MaskError(ValueError):
    """A mask whose parameters, or whose column's type, do not fit. The text says what would; rules are not secret."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the forms of a mask depend on besides its parameters. The schemas are quoted."""

    type: LogicalType
    text: bool
    schema: str
    private: str
    key: bytes | None

    @property
    def limit(self) -> int | None:
        """The characters that a text column holds; None for no limit."""
        return self.type.typmod - 4 if self.type.oid in {1043, 1042} and self.type.typmod >= 0 else None


def private_schema(schema: str) -> str:
    """The schema, closed to everyone, of the pseudonym's function and key: who could name the function could try values out."""
    return f"{schema}_private"


def quote_ident(name: str) -> str:
    """An identifier as SQL text."""
    return '"' + name.replace('"', '""') + '"'


def quote_constant(value: str) -> str:
    """A string constant as SQL text, the same under every standard_conforming_strings."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _on_text(change: Callable[[str], str]) -> Callable[[bytes], bytes]:
    return lambda canonical: change(canonical.decode()).encode()


def _call(context: Context, function: str, *arguments: str) -> Callable[[str], str]:
    """A call over the column as text; the cast takes the padding of character(n) off."""
    rest = "".join(f", {a}" for a in arguments)
    return lambda column: f"{context.schema}.{function}(CAST({column} AS pg_catalog.text){rest})"


def _keep(context: Context, head: int, tail: int, least: int) -> Forms:
    def apply(text: str) -> str:
        return mask_text.keep(text, head, tail, least)

    return _on_text(apply), _call(context, "mask_keep", str(head), str(tail), str(least))


def _keep_first(context: Context, values: Values) -> Forms:
    return _keep(context, int(values["n"]), 0, 0)


def _keep_last(context: Context, values: Values) -> Forms:
    return _keep(context, 0, int(values["n"]), 0)


def _keep_first_last(context: Context, values: Values) -> Forms:
    return _keep(context, int(values["first"]), int(values["last"]), 0)


def _id_number(context: Context, _values: Values) -> Forms:
    return _keep(context, 1, 1, mask_text.ID_SHORTEST)


def _name(context: Context, _values: Values) -> Forms:
    return _on_text(mask_text.name), _call(context, "mask_name")


def _phone(context: Context, _values: Values) -> Forms:
    return _on_text(mask_text.phone), _call(context, "mask_phone")


def _email(context: Context, _values: Values) -> Forms:
    return _on_text(mask_text.email), _call(context, "mask_email")


def _bank_card(context: Context, _values: Values) -> Forms:
    return _on_text(mask_text.bank_card), _call(context, "mask_bank_card")


def _year(context: Context, _values: Values) -> Forms:
    if context.text:
        return _on_text(mask_text.year), _call(context, "mask_year")
    source = codec(context.type)
    assert isinstance(source, DateCodec | TimestampCodec)
    return lambda canonical: year_start(source, canonical), lambda column: f"{context.schema}.mask_year({column})"


def _range(context: Context, values: Values) -> Forms:
    width = int(values["width"])
    if context.text:
        limit = context.limit

        def apply(text: str) -> str:
            return mask_text.number_range(text, width, limit)

        return _on_text(apply), _call(context, "mask_range", str(width), "NULL" if limit is None else str(limit))
    source = codec(context.type)
    if isinstance(source, FloatCodec):
        return _float_range(context, source.size, width)
    least = _least(context.type)
    bound = "NULL" if least is None else str(least)
    return (
        lambda canonical: _number_range(context.type, canonical, width, least),
        lambda column: f"{context.schema}.mask_range(CAST({column} AS pg_catalog.numeric), {width}, {bound})",
    )


def _least(type_: LogicalType) -> int | None:
    """The least whole number that the type holds, rounded towards zero; None where there is none."""
    source = codec(type_)
    if not isinstance(source, NumericCodec):
        return -1 << (8 * type_.typlen - 1)
    if source.precision is None:
        return None
    # Integer arithmetic for either sign of the scale: 10^(p-s) - 10^-s, without its fraction.
    if source.scale >= 0:
        return 1 - int(10 ** max(source.precision - source.scale, 0))
    return (1 - int(10**source.precision)) * int(10**-source.scale)


def _number_range(type_: LogicalType, canonical: bytes, width: int, least: int | None) -> bytes:
    number = parse_number(canonical.decode())
    if isinstance(number, str):
        return canonical
    low = _whole_floor(number) // width * width
    low = low if least is None else max(low, least)
    return decode_literal(type_, str(low))


def _whole_floor(number: Number) -> int:
    whole = int(number.whole or "0")
    if not number.negative:
        return whole
    return -whole - (1 if number.fraction.strip("0") else 0)


def _float_range(context: Context, size: int, width: int) -> Forms:
    huge = HUGE if size == 8 else HUGE_SINGLE

    def apply(canonical: bytes) -> bytes:
        value = float(canonical)
        value = value if size == 8 else single(value)
        if abs(value) >= huge:
            value = math.copysign(math.inf, value)
        if not math.isfinite(value):
            return shortest(value, size)
        if -width <= value < width:
            # Next to zero the division would underflow, which the server makes an error.
            low = -float(width) if value < 0 else 0.0
        else:
            low = float(math.floor(value / width)) * width
        return shortest(low if size == 8 else single(low), size)

    return apply, lambda column: f"{context.schema}.mask_range(CAST({column} AS pg_catalog.float8), {width}, {huge!r})"


def _constant(context: Context, values: Values) -> Forms:
    text = str(values["value"])
    try:
        canonical: bytes | None = decode_literal(context.type, text, exact=True)
        reason = ""
    except WireValueError as error:
        canonical, reason = None, error.message
    if canonical is None:
        raise MaskError(f"mask constant, parameter 'value': not of type {context.type.name}: {reason}")
    shown = canonical
    literal = quote_constant(encode(context.type, canonical, 0, settings=CANONICAL_SETTINGS).decode())
    return (
        lambda _canonical: shown,
        lambda column: f"CASE WHEN {column} IS NOT NULL THEN {literal}::{type_sql(context.type)} END",
    )


def _null(_context: Context, _values: Values) -> Forms:
    return lambda _canonical: None, lambda _column: "NULL"


def _pseudonym(context: Context, values: Values) -> Forms:
    limit = context.limit
    if limit is not None and limit < PSEUDONYM_SHORTEST:
        raise MaskError(
            f"mask pseudonym needs room for {PSEUDONYM_SHORTEST} characters; {context.type.name} has {limit}"
        )
    key = context.key
    if key is not None and len(key) < MIN_KEY_BYTES:
        raise MaskError(f"mask pseudonym needs a key of at least {MIN_KEY_BYTES} bytes")
    count = PSEUDONYM_DIGITS if limit is None else min(PSEUDONYM_DIGITS, limit - 2)
    scope = str(values["scope"])

    def apply(canonical: bytes) -> bytes:
        if key is None:
            raise MaskError("mask pseudonym needs its key here")
        # No text holds a NUL, so scope and value can't be mistaken for another pair.
        digest = hmac.new(key, scope.encode() + b"\0" + canonical, hashlib.sha256).hexdigest()
        return b"p_" + digest[:count].encode()

    arguments = f"{quote_constant(scope)}, {count}"
    return apply, lambda column: f"{context.private}.pseudonym(CAST({column} AS pg_catalog.text), {arguments})"


FORMS: Mapping[str, Callable[[Context, Values], Forms]] = MappingProxyType(
    {
        "keep_first": _keep_first,
        "keep_last": _keep_last,
        "keep_first_last": _keep_first_last,
        "name": _name,
        "phone": _phone,
        "email": _email,
        "bank_card": _bank_card,
        "id_number": _id_number,
        "year": _year,
        "range": _range,
        "constant": _constant,
        "null": _null,
        "pseudonym": _pseudonym,
    }
)
