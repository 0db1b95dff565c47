"""The logical types that a rules file may name, in their canonical spelling. Source: PostgreSQL, "Data Types".

`keys.types` gives them meaning; a test keeps the two in step.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum


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
    OTHER = "other"


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
LOGICAL_TYPES = tuple(_FAMILIES)

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

# name(modifier) words[]: the modifier stands before "without time zone", as format_type writes it.
_FORM = re.compile(
    r"([a-z][a-z0-9]*(?: (?:varying|precision))?)\s*(?:\(\s*(\d{1,8})\s*(?:,\s*(\d{1,4})\s*)?\))?((?: with(?:out)? time zone)?)((?:\s*\[\s*\])*)"
)

# PostgreSQL's own limits (varchar and char: MaxAttrSize; numeric: NUMERIC_MAX_PRECISION; times: MAX_TIMESTAMP_PRECISION).
_MAX_LENGTH = 10_485_760
_MAX_PRECISION = 1000
_MAX_FRACTION = 6


def canonical_type(text: str) -> str | None:
    """The canonical spelling ("character varying(19)" -> "varchar(19)", "int[]" -> "int4[]"), or None for what is not a logical type."""
    found = _FORM.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    word, first, second, zone, dims = found.groups()
    name = _ALIASES.get(word + zone, word + zone)
    if name not in _FAMILIES:
        return None
    modifier = _modifier(name, first, second)
    if modifier is None:
        return None
    return name + modifier + ("[]" if dims else "")


def _modifier(name: str, first: str | None, second: str | None) -> str | None:
    """The canonical modifier, "" for none; None where the type does not take it."""
    if first is None:
        # "char" alone is char(1) in SQL.
        return "(1)" if name == "char" else ""
    size = int(first)
    if name == "numeric":
        scale = int(second or 0)
        return f"({size},{scale})" if 1 <= size <= _MAX_PRECISION and scale <= size else None
    if second is not None:
        return None
    if name in {"varchar", "char"}:
        return f"({size})" if 1 <= size <= _MAX_LENGTH else None
    if _FAMILIES[name] in {Family.TIME, Family.TIMESTAMP}:
        return f"({size})" if size <= _MAX_FRACTION else None
    return None


def family(logical: str | None) -> Family | None:
    """The family of a canonical type, of an array's elements likewise; None for no type."""
    return None if logical is None else _FAMILIES.get(re.split(r"[(\[]", logical, maxsplit=1)[0], Family.OTHER)


def is_array(logical: str | None) -> bool:
    """Whether a canonical type is an array."""
    return logical is not None and logical.endswith("[]")


_DECIMAL = re.compile(r"[-+]?[0-9]{1,100}(?:\.[0-9]{1,100})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}


def misfit(text: str, logical: str) -> str | None:
    """Why a fixed text of a rules file cannot be a value of the type ("has 5 characters; ..."); None where it can.

    Stricter than PostgreSQL's own input: one plain spelling of each type, none for those whose values nobody writes by hand.
    """
    kind = family(logical)
    if is_array(logical):
        return f"cannot be given for the array type {logical}"
    if kind is Family.TEXT:
        found = re.search(r"\((\d+)\)", logical)
        return (
            f"has {len(text)} characters; {logical} holds {found[1]}" if found and len(text) > int(found[1]) else None
        )
    fits = False
    if kind is Family.INTEGER:
        limit = 1 << (_INTEGER_BITS[logical] - 1)
        fits = re.fullmatch("-?[0-9]{1,19}", text) is not None and -limit <= int(text) < limit
    elif kind in {Family.NUMERIC, Family.FLOAT}:
        fits = _DECIMAL.fullmatch(text) is not None and _fits_numeric(text, logical)
    elif kind is Family.BOOLEAN:
        fits = text in {"true", "false"}
    elif kind is Family.DATE:
        fits = _is_date(text)
    elif kind is Family.UUID:
        fits = _UUID.fullmatch(text) is not None
    return None if fits else f"is not a value of type {logical}"


def _fits_numeric(text: str, logical: str) -> bool:
    found = re.fullmatch(r"numeric\((\d+),(\d+)\)", logical)
    return found is None or len(text.lstrip("+-").split(".")[0].lstrip("0")) <= int(found[1]) - int(found[2])


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
