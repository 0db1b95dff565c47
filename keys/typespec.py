"""The spelling of logical types: `parse_type` reads what people write, and names what format_type would print."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from keys.typeio_base import LogicalType, TypeSpecError


class Base(NamedTuple):
    """A scalar type of the server: OIDs from pg_type.dat, `typlen` as there."""

    oid: int
    array_oid: int
    typlen: int
    name: str


BASES: tuple[Base, ...] = (
    Base(25, 1009, -1, "text"),
    Base(1043, 1015, -1, "character varying"),
    Base(1042, 1014, -1, "character"),
    Base(21, 1005, 2, "smallint"),
    Base(23, 1007, 4, "integer"),
    Base(20, 1016, 8, "bigint"),
    Base(1700, 1231, -1, "numeric"),
    Base(700, 1021, 4, "real"),
    Base(701, 1022, 8, "double precision"),
    Base(16, 1000, 1, "boolean"),
    Base(1082, 1182, 4, "date"),
    Base(1083, 1183, 8, "time without time zone"),
    Base(1266, 1270, 12, "time with time zone"),
    Base(1114, 1115, 8, "timestamp without time zone"),
    Base(1184, 1185, 8, "timestamp with time zone"),
    Base(2950, 2951, 16, "uuid"),
    Base(17, 1001, -1, "bytea"),
    Base(114, 199, -1, "json"),
    Base(3802, 3807, -1, "jsonb"),
)
_BY_NAME = {b.name: b for b in BASES}
_ALIASES = {
    "varchar": "character varying",
    "char varying": "character varying",
    "char": "character",
    "bpchar": "character",
    "int2": "smallint",
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "decimal": "numeric",
    "dec": "numeric",
    "float4": "real",
    "float8": "double precision",
    "float": "double precision",
    "bool": "boolean",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
KNOWN = (
    "text, varchar(n), char(n), smallint, integer, bigint, numeric(p,s), real, double precision, boolean, date, time(p), timetz(p), "
    "timestamp(p), timestamptz(p), uuid, bytea, json, jsonb, enum schema.name(label, ...), and arrays of these: T[]"
)
MAX_SPEC = 100_000  # characters; an enum with very many labels is the longest
_MAX_CHARS = 10_485_760
_PRECISION = frozenset(
    {"time without time zone", "time with time zone", "timestamp without time zone", "timestamp with time zone"}
)

_SPEC = re.compile(
    r"(?:pg_catalog\s*\.\s*)?(?P<name>[a-z][a-z0-9]*(?: (?:varying|precision))?)\s*(?:\((?P<args>[^()]*)\))?(?P<zone> ?(?:with|without) time zone)?"
)
_ARRAY = re.compile(r"\s*(?:\[\s*\d*\s*\]|\barray)$")
_IDENT = r'(?:[A-Za-z_\u0080-\uffff][\w$]*|"(?:[^"]|"")+")'
_ENUM = re.compile(
    rf"enum\s+(?P<name>{_IDENT}(?:\s*\.\s*{_IDENT})?)\s*(?:\((?P<labels>.*)\))?", re.IGNORECASE | re.DOTALL
)
_LABEL = re.compile(r"\s*(?:'(?P<quoted>(?:[^']|'')*)'|(?P<bare>[^,'()]+))\s*(?:,|$)", re.DOTALL)


def parse_type(spec: str) -> LogicalType:
    """The type of a spelling: PostgreSQL's names and aliases with modifiers, `enum name(a, b)`, and `[]` after any of them.

    Raises TypeSpecError, which says what is wrong and what is known.
    """
    if len(spec) > MAX_SPEC:
        raise TypeSpecError(f"a type's spelling has at most {MAX_SPEC} characters")
    text = spec.strip()
    array = False
    while (found := _ARRAY.search(text)) is not None:
        text = text[: found.start()].rstrip()
        array = True
    scalar = _enum(text) if re.match(r"enum\b", text, re.IGNORECASE) else _scalar(text, spec)
    return array_of(scalar) if array else scalar


def array_of(element: LogicalType) -> LogicalType:
    """The array type of a scalar type."""
    oid = next((b.array_oid for b in BASES if b.oid == element.oid and element.labels is None), 0)
    return LogicalType(f"{element.name}[]", oid, -1, element.typmod, array=True, element=element)


def with_enum(
    type_: LogicalType, *, oid: int, array_oid: int = 0, labels: tuple[str, ...] | None = None
) -> LogicalType:
    """An enum (or array of one) completed from the database's catalog. `labels` None keeps those of the spelling."""
    if type_.element is not None:
        element = with_enum(type_.element, oid=oid, labels=labels)
        return replace(type_, oid=array_oid, element=element)
    if type_.labels is None:
        raise TypeSpecError(f"{type_.name} is not an enum")
    return replace(type_, oid=oid, labels=type_.labels if labels is None else labels)


_UNRESERVED = frozenset({"text", "date", "uuid", "bytea", "json", "jsonb"})


def type_sql(type_: LogicalType) -> str:
    """The type in SQL text, where no search_path can shadow it. (The other scalar types are spelled with key words.)"""
    name = type_.scalar.name
    return f"pg_catalog.{type_.name}" if name in _UNRESERVED and type_.scalar.labels is None else type_.name


def _scalar(text: str, spec: str) -> LogicalType:
    folded = re.sub(r"\s+", " ", text.lower()).replace("national ", "")
    found = _SPEC.fullmatch(folded)
    if found is None:
        raise TypeSpecError(f"unknown type {spec!r}; known: {KNOWN}")
    name = found["name"]
    if found["zone"] is not None and name not in {"time", "timestamp"}:
        raise TypeSpecError(f"unknown type {spec!r}; known: {KNOWN}")
    full = f"{name} {found['zone'].strip()}" if found["zone"] else _ALIASES.get(name, name)
    base = _BY_NAME.get(full)
    if base is None:
        raise TypeSpecError(f"unknown type {spec!r}; known: {KNOWN}")
    return _modified(base, name, _arguments(found["args"], spec), spec)


def _arguments(args: str | None, spec: str) -> tuple[int, ...]:
    if args is None:
        return ()
    parts = [a.strip() for a in args.split(",")]
    if not all(re.fullmatch(r"-?[0-9]{1,9}", p) for p in parts):
        raise TypeSpecError(f"the modifier of {spec!r} must be whole numbers")
    return tuple(int(p) for p in parts)


def _modified(base: Base, written: str, args: tuple[int, ...], spec: str) -> LogicalType:
    """The type with its modifier judged; typmods as each type's typmodin makes them."""
    name, typmod = base.name, -1
    if name in {"character", "character varying"}:
        name, typmod = _length(name, written, args, spec)
    elif name == "numeric" and args:
        precision, scale = _numeric(args, spec)
        name, typmod = f"numeric({precision},{scale})", ((precision << 16) | (scale & 0x7FF)) + 4
    elif name in _PRECISION and args:
        if len(args) != 1 or not 0 <= args[0] <= 6:
            raise TypeSpecError(f"{spec!r}: the precision is one number from 0 to 6")
        typmod = args[0]
        first, _, rest = name.partition(" ")
        name = f"{first}({typmod}) {rest}"
    elif written == "float" and args:
        if len(args) != 1 or not 1 <= args[0] <= 53:
            raise TypeSpecError(f"{spec!r}: float takes one number from 1 to 53")
        base = _BY_NAME["real" if args[0] <= 24 else "double precision"]
        name = base.name
    elif args:
        raise TypeSpecError(f"{spec!r}: type {name} takes no modifier")
    return LogicalType(name, base.oid, base.typlen, typmod)


def _length(name: str, written: str, args: tuple[int, ...], spec: str) -> tuple[str, int]:
    if not args:
        if written == "bpchar":
            # Its trailing blanks are shown but not compared: no one canonical form would be right.
            raise TypeSpecError("bpchar without a length is not supported; write char(n), varchar or text")
        return ("character(1)", 5) if name == "character" else (name, -1)
    if len(args) != 1 or not 1 <= args[0] <= _MAX_CHARS:
        raise TypeSpecError(f"{spec!r}: the length is one number from 1 to {_MAX_CHARS}")
    return f"{name}({args[0]})", args[0] + 4


def _numeric(args: tuple[int, ...], spec: str) -> tuple[int, int]:
    precision, scale = (*args, 0)[:2]
    if len(args) > 2 or not 1 <= precision <= 1000 or not -1000 <= scale <= 1000:
        raise TypeSpecError(f"{spec!r}: numeric takes a precision from 1 to 1000 and a scale from -1000 to 1000")
    return precision, scale


def _enum(text: str) -> LogicalType:
    found = _ENUM.fullmatch(text)
    if found is None:
        raise TypeSpecError("an enum is spelled: enum schema.name(label, ...)")
    name = re.sub(r"\s*\.\s*", ".", found["name"])
    labels: list[str] = []
    rest = found["labels"]
    position = 0
    while rest is not None and position < len(rest):
        label = _LABEL.match(rest, position)
        if label is None:
            raise TypeSpecError(
                f"enum {name}: labels are separated by commas; one with a comma, quote or parenthesis is quoted 'so'"
            )
        labels.append(label["bare"].strip() if label["quoted"] is None else label["quoted"].replace("''", "'"))
        position = label.end()
    if len(set(labels)) != len(labels) or not all(0 < len(label.encode()) <= 63 for label in labels):
        raise TypeSpecError(f"enum {name}: labels are distinct and have 1 to 63 bytes")
    return LogicalType(name, 0, 4, -1, labels=tuple(labels))
