"""The logical types that a rules file may name, in their canonical spelling. Source: PostgreSQL, "Data Types".

`keys.types` gives them meaning; a test keeps the two in step.
"""

from __future__ import annotations

import json
import re
from datetime import date
from enum import StrEnum
from fractions import Fraction

from rules.names import NameFormError, show_name, split_name


class Family(StrEnum):
    """What kind of value a type holds, as far as masks and recognisers care."""

    TEXT = "text"
    INTEGER = "integer"
    NUMERIC = "numeric"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    UUID = "uuid"
    BYTES = "bytes"
    JSON = "json"
    ENUM = "enum"


_FAMILIES = {
    "text": Family.TEXT,
    "varchar": Family.TEXT,
    "char": Family.TEXT,
    "int2": Family.INTEGER,
    "int4": Family.INTEGER,
    "int8": Family.INTEGER,
    "numeric": Family.NUMERIC,
    "float4": Family.FLOAT,
    "float8": Family.FLOAT,
    "bool": Family.BOOLEAN,
    "date": Family.DATE,
    "time": Family.TIME,
    "timetz": Family.TIME,
    "timestamp": Family.TIMESTAMP,
    "timestamptz": Family.TIMESTAMP,
    "uuid": Family.UUID,
    "bytea": Family.BYTES,
    "json": Family.JSON,
    "jsonb": Family.JSON,
}
# `enum` stands before a name and its labels: enum public.mood(sad, happy).
LOGICAL_TYPES = (*_FAMILIES, "enum")

_ALIASES = {
    "character varying": "varchar",
    "character": "char",
    "bpchar": "char",
    "smallint": "int2",
    "integer": "int4",
    "int": "int4",
    "bigint": "int8",
    "decimal": "numeric",
    "real": "float4",
    "double precision": "float8",
    "boolean": "bool",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}

# The modifier stands before "without time zone", as format_type writes it.
_FORM = re.compile(
    r"([a-z][a-z0-9]*(?: (?:varying|precision))?) ?"
    r"(?:\( ?([0-9]{1,8}) ?(?:, ?(-?[0-9]{1,4}) ?)?\))?"
    r"((?: with(?:out)? time zone)?)"
)
_DIMS = re.compile(r"(?:\s*\[\s*\])*\s*$")
_ENUM = re.compile(r"enum\s+([^()]+?)\s*(?:\((.*)\))?", re.IGNORECASE | re.DOTALL)
_LABEL = re.compile(r"\s*(?:'((?:[^']|'')*)'|([^,'()]+?))\s*(,|$)", re.DOTALL)

# PostgreSQL's own limits (varchar and char: MaxAttrSize; numeric: NUMERIC_MAX_PRECISION; times: MAX_TIMESTAMP_PRECISION).
_MAX_LENGTH = 10_485_760
_MAX_PRECISION = 1000
_MAX_FRACTION = 6


def canonical_type(text: str) -> str | None:
    """The canonical spelling ("character varying(19)" -> "varchar(19)", "int[]" -> "int4[]"), or None for what is not a logical type."""
    dims = _DIMS.search(text)
    assert dims is not None
    body = text[: dims.start()].strip()
    scalar = _canonical_enum(body) if re.match(r"enum\s", body, re.IGNORECASE) else _canonical_scalar(body)
    return None if scalar is None else scalar + ("[]" if "[" in dims[0] else "")


def _canonical_scalar(text: str) -> str | None:
    found = _FORM.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    word, first, second, zone = found.groups()
    if word == "float":
        return _float(first, second, zone)
    if word == "bpchar" and first is None:
        # Its trailing blanks are shown but not compared: no one canonical form would be right.
        return None
    name = _ALIASES.get(word + zone, word + zone)
    modifier = _modifier(name, first, second) if name in _FAMILIES else None
    return None if modifier is None else name + modifier


def _float(first: str | None, second: str | None, zone: str) -> str | None:
    """float(p) names one of the two by the bits of its precision."""
    bits = 53 if first is None else int(first)
    if second is not None or zone or not 1 <= bits <= 53:
        return None
    return "float4" if bits <= 24 else "float8"


def _canonical_enum(text: str) -> str | None:
    found = _ENUM.fullmatch(text)
    if found is None:
        return None
    try:
        parts = split_name(found[1])
    except NameFormError:
        return None
    if len(parts) > 2:
        return None
    name = f"enum {show_name(*parts)}"
    if found[2] is None:
        return name
    labels: list[str] = []
    at = 0
    more = True
    while more:
        label = _LABEL.match(found[2], at)
        if label is None:
            return None
        labels.append(label[2] if label[1] is None else label[1].replace("''", "'"))
        at, more = label.end(), label[3] == ","
    if len(set(labels)) != len(labels) or not all(0 < len(each.encode()) <= 63 for each in labels):
        return None
    return name + "(" + ", ".join("'" + each.replace("'", "''") + "'" for each in labels) + ")"


def _modifier(name: str, first: str | None, second: str | None) -> str | None:
    """The canonical modifier, "" for none; None where the type does not take it."""
    if first is None:
        # "char" alone is char(1) in SQL.
        return "(1)" if name == "char" else ""
    size = int(first)
    if name == "numeric":
        scale = int(second or 0)
        return (
            f"({size},{scale})" if 1 <= size <= _MAX_PRECISION and -_MAX_PRECISION <= scale <= _MAX_PRECISION else None
        )
    if second is not None:
        return None
    if name in {"varchar", "char"}:
        return f"({size})" if 1 <= size <= _MAX_LENGTH else None
    if _FAMILIES[name] in {Family.TIME, Family.TIMESTAMP}:
        return f"({size})" if size <= _MAX_FRACTION else None
    return None


def family(logical: str | None) -> Family | None:
    """The family of a canonical type, of an array's elements likewise; None for no type."""
    if logical is None:
        return None
    word = re.split(r"[ (\[]", logical, maxsplit=1)[0]
    return Family.ENUM if word == "enum" else _FAMILIES[word]


def has_equality(logical: str) -> bool:
    """Whether equal values are equal bytes, so that a column of the type can be sealed deterministic."""
    return family(logical) is not Family.JSON


def is_array(logical: str | None) -> bool:
    """Whether a canonical type is an array."""
    return logical is not None and logical.endswith("[]")


_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_FORMS = {
    Family.NUMERIC: re.compile(r"[-+]?[0-9]{1,100}(?:\.[0-9]{1,100})?"),
    Family.FLOAT: re.compile(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?"),
    Family.BOOLEAN: re.compile("true|false"),
    Family.DATE: re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    Family.TIME: re.compile(_CLOCK),
    Family.TIMESTAMP: re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} {_CLOCK}"),
    Family.UUID: re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    Family.BYTES: re.compile(r"\\x(?:[0-9a-fA-F]{2}){0,1000}"),
}
_INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}


def misfit(text: str, logical: str) -> str | None:
    """Why a fixed text of a rules file cannot be a value of the type ("has 5 characters; ..."); None where it can.

    Stricter than PostgreSQL's own input: one or two plain spellings of each type.
    """
    length = None if is_array(logical) else length_of(logical)
    if length is not None and len(text) > length:
        return f"has {len(text)} characters; {logical} holds {length}"
    return None if _is_of(text, logical) else f"is not a value of type {logical}"


def _is_of(text: str, logical: str) -> bool:
    if is_array(logical):
        return text == "{}"
    kind = family(logical)
    if kind is Family.INTEGER:
        limit = 1 << (_INTEGER_BITS[logical] - 1)
        return re.fullmatch("-?[0-9]{1,19}", text) is not None and -limit <= int(text) < limit
    if kind is Family.ENUM:
        labels = [each.replace("''", "'") for each in re.findall(r"'((?:[^']|'')*)'", logical.partition("(")[2])]
        return text in labels or "(" not in logical
    if kind is Family.JSON:
        # jsonb stores no NUL and no half of a surrogate pair, which JSON's own syntax can spell.
        return _is_json(text) and (logical == "json" or re.search(r"\\u(?:0000|[dD][89a-fA-F])", text) is None)
    if kind is Family.TEXT:
        return True
    assert kind is not None
    if "tz" in logical:
        # The session's TimeZone must not decide what the file means.
        if not text.endswith("+00"):
            return False
        text = text.removesuffix("+00")
    if _FORMS[kind].fullmatch(text) is None:
        return False
    if kind is Family.NUMERIC:
        return _fits_numeric(text, logical)
    return kind not in {Family.DATE, Family.TIMESTAMP} or _is_date(text[:10])


def _fits_numeric(text: str, logical: str) -> bool:
    found = re.fullmatch(r"numeric\((\d+),(-?\d+)\)", logical)
    if found is None:
        return True
    unscaled = Fraction(text) * Fraction(10) ** int(found[2])
    return unscaled.denominator == 1 and abs(unscaled) < 10 ** int(found[1])


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(word: str) -> None:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(word)


def length_of(logical: str) -> int | None:
    """n of varchar(n) and char(n), in characters; None for every other type."""
    found = re.match(r"(?:varchar|char)\((\d+)\)", logical)
    return int(found[1]) if found else None


# pg_type.dat: the OIDs of the logical types and of their arrays.
_OIDS = {
    25: "text", 1043: "varchar", 1042: "char", 21: "int2", 23: "int4", 20: "int8", 1700: "numeric", 700: "float4", 701: "float8",
    16: "bool", 1082: "date", 1083: "time", 1266: "timetz", 1114: "timestamp", 1184: "timestamptz", 2950: "uuid", 17: "bytea",
    114: "json", 3802: "jsonb",
}  # fmt: skip
_ARRAY_OIDS = {
    1009: "text", 1015: "varchar", 1014: "char", 1005: "int2", 1007: "int4", 1016: "int8", 1231: "numeric", 1021: "float4",
    1022: "float8", 1000: "bool", 1182: "date", 1183: "time", 1270: "timetz", 1115: "timestamp", 1185: "timestamptz", 2951: "uuid",
    1001: "bytea", 199: "json", 3807: "jsonb",
}  # fmt: skip


def type_of_oid(oid: int, typmod: int) -> str | None:
    """The canonical type of what RowDescription or pg_attribute shows; None for types that are not logical ones (enums included)."""
    word = _OIDS.get(oid) or _ARRAY_OIDS.get(oid)
    if word is None:
        return None
    kind = _FAMILIES[word]
    modifier = ""
    if typmod >= 0:
        if word in {"varchar", "char"}:
            modifier = f"({typmod - 4})"
        elif word == "numeric":
            # numerictypmodin: precision in the high half, scale as a signed number of 11 bits.
            scale = (((typmod - 4) & 0x7FF) ^ 1024) - 1024
            modifier = f"({((typmod - 4) >> 16) & 0xFFFF},{scale})"
        elif kind in {Family.TIME, Family.TIMESTAMP}:
            modifier = f"({typmod})"
    return word + modifier + ("[]" if oid in _ARRAY_OIDS else "")
