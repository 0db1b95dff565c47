"""The text that the calculator runs: the judgement's, with the fetched rows' definitions put in; and the way back from its errors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.calculator.safety import foreign_functions, known_functions
from proxy.errors import error_response
from proxy.session.gate import OffsetMap
from proxy.wire.messages import Back, ErrorFields, build_error
from rules.encodings import EncodingError, decode_sql, encode_sql
from rules.lexer import lex
from rules.model import quote_ident
from rules.plan import Reason, Refusal
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from keys.types import OutputSettings
    from proxy.session.computing import CalculatorError, Compute, Leaf
    from proxy.session.gate import Settings
    from proxy.wire.messages import Field

    LeafColumns = Sequence[tuple[str, str]]  # names and SQL spellings of types

NOT_ALLOWED: Final = "42501"
UNDEFINED_OBJECT: Final = "42704"
UNDEFINED_FUNCTION: Final = "42883"
UNDEFINED_SCHEMA: Final = "3F000"
MISSING: Final = frozenset((UNDEFINED_FUNCTION, UNDEFINED_SCHEMA))
_SCHEMA_OF: Final = re.compile(rb'schema "(.+)" does not exist')
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)?")
_CALLED: Final = re.compile(rb"(?:aggregate |function )+([^(\s]+)\(")
ROW_NAME: Final = b"pgveil_row"  # what the judgement calls the rows of a query that is only sorted afterwards

# Types whose text means something in their own database or locale only: regproc and its kin, record, aclitem, money.
_LOCAL_TYPES: Final = frozenset((24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, 2249, 2287, 1033, 790))
_LOCAL_ARRAYS: Final = frozenset((1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192, 1034, 791))
# From here on OIDs are those of a database's own making (PostgreSQL, src/include/access/transam.h).
FIRST_OWN: Final = 16384
# timestamptz, its array, ranges and multiranges: styles other than ISO may print the zone as an abbreviation, which means several.
_ZONED: Final = frozenset((1184, 1185, 3910, 3911, 4534, 6153))
_FLOATS: Final = frozenset((700, 701, 1021, 1022))
# Fields of an error that speak of a place in a text of the calculator's, or of its surroundings.
_INSIDE: Final = frozenset(b"pq")
# Errors that quote values, the client's own words among them, and never a relation's name: data, integrity, what a function raises.
_OF_VALUES: Final = ("22", "23", "P0")


@dataclass(frozen=True, slots=True)
class LocalText:
    """What the calculator is asked. `text` is in the client's encoding, the leaves' arrays are its parameters behind the client's.

    `offsets`: from `text` to the client's own. `names`: what stands in errors for names that pgveil made.
    """

    text: bytes = field(repr=False)
    offsets: OffsetMap
    arrays: int
    names: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class LeafTypes:
    """A leaf's columns as the server describes them: their names in the local text, and each one's (OID, modifier)."""

    names: tuple[str, ...]
    types: tuple[tuple[int, int], ...]


def leaf_types(leaf: Leaf, fields: Sequence[Field], settings: Settings) -> LeafTypes | None:
    """The columns of a leaf under the judgement's names, or where it gives none the server's; None where their number disagrees."""
    names = leaf.columns or tuple(decode_sql(f.name, settings.client_encoding) for f in fields)
    if len(names) != len(fields):
        return None
    return LeafTypes(names, tuple((f.type, f.typmod) for f in fields))


def unsuitable(columns: LeafTypes, output: OutputSettings) -> Refusal | None:
    """Why the calculator can't be given the leaf's columns in the text form that the session's settings make of them."""
    for name, (oid, _) in zip(columns.names, columns.types, strict=True):
        if oid in _LOCAL_TYPES or oid in _LOCAL_ARRAYS:
            return unknown_type(f"Column {name}")
        if oid in _ZONED and not output.date_style.startswith("ISO"):
            return _setting(name, "DateStyle", "SET datestyle TO 'ISO'")
        if oid in _FLOATS and output.extra_float_digits < 1:
            return _setting(name, "extra_float_digits", "SET extra_float_digits TO 1")
    return None


def unknown_type(what: str) -> Refusal:
    """The refusal of a column or parameter whose type only its own database knows."""
    return Refusal(
        Reason.COMPUTE,
        "0AP01",
        "pgveil cannot compute on a type that only this database knows",
        f"{what} is of such a type, and the statement needs it beside opened values.",
        "Cast it to a built-in type, such as text; a column in a subquery.",
    )


def _setting(name: str, setting: str, remedy: str) -> Refusal:
    return Refusal(
        Reason.COMPUTE,
        "0AP01",
        f"pgveil cannot compute on column {name} under the session's {setting}",
        "Its text form under this setting does not tell the value.",
        f"{remedy}.",
    )


def compose(compute: Compute, columns: Sequence[LeafColumns], before: int, settings: Settings) -> LocalText | Refusal:
    """The text for the calculator. `columns`: each leaf's; `before`: how many parameters stand before the arrays."""
    definitions = []
    number = before
    for leaf, of in zip(compute.leaves, columns, strict=True):
        definitions.append(_definition(leaf.name, of, number))
        number += len(of)
    inserted = compute.with_before + ", ".join(definitions) + compute.with_after
    at = compute.with_at
    try:
        text = encode_sql(compute.text[:at] + inserted + compute.text[at:], settings.client_encoding)
        names = [(leaf.name.encode(), _shown_name(leaf, settings)) for leaf in compute.leaves]
    except EncodingError:
        return Refusal(Reason.COMPUTE, "0AP01", "the statement cannot be written in the session's client_encoding")
    offsets = _through(compute.offsets, at, len(inserted)) if compute.positions else OffsetMap(nowhere=True)
    return LocalText(text, offsets, number - before, (*names, (ROW_NAME, b"the result")))


def _definition(name: str, columns: LeafColumns, before: int) -> str:
    """A leaf as a common table expression over its arrays. Names are qualified: nothing depends on a search_path."""
    names = ", ".join(quote_ident(name) for name, _ in columns)
    arrays = ", ".join(f"pg_catalog.unnest(${before + i + 1})" for i in range(len(columns)))
    cells = ", ".join(f"a{i}" for i in range(len(columns)))
    values = ", ".join(f"r.a{i}::{spelling}" for i, (_, spelling) in enumerate(columns))
    body = f"SELECT {values} FROM ROWS FROM ({arrays}) AS r ({cells})"  # noqa: S608 - names are quoted, types are the engine's words
    return f"{quote_ident(name)} ({names}) AS ({body})"


def _shown_name(leaf: Leaf, settings: Settings) -> bytes:
    plans = leaf.fetch.plans
    tables = plans[0].tables if plans and plans[0] is not None else ()
    return encode_sql(tables[0].name, settings.client_encoding) if len(tables) == 1 else b"a relation"


def _through(offsets: OffsetMap, at: int, length: int) -> OffsetMap:
    """The way back from a text into which `length` characters were inserted at `at`."""
    before = [e for e in offsets.edits if e[0] < at]
    after = [(start + length, size, original, width) for start, size, original, width in offsets.edits if start >= at]
    return OffsetMap((*before, (at, length, offsets.original(at + 1) - 1, 0), *after))


def parameters_in(text: bytes, settings: Settings) -> frozenset[int]:
    """The numbers of the parameters that a text of the judgement's refers to."""
    words = decode_sql(text, settings.client_encoding)
    lexed = lex(words, standard_conforming_strings=settings.standard_conforming_strings)
    return frozenset(int(t.value) for t in lexed.tokens if t.kind is Kind.PARAM)


def with_types(text: bytes, types: Mapping[int, str], settings: Settings) -> bytes:
    """A text with each parameter that `types` names given as an array of text and taken for one of that type. Constants stay as they are."""
    words = decode_sql(text, settings.client_encoding)
    pieces: list[str] = []
    at = 0
    for token in lex(words, standard_conforming_strings=settings.standard_conforming_strings).tokens:
        if token.kind is Kind.PARAM and int(token.value) in types:
            pieces += [words[at : token.end], f"::pg_catalog.text[]::{types[int(token.value)]}[]"]
            at = token.end
    return encode_sql("".join([*pieces, words[at:]]), settings.client_encoding)


def client_error(error: CalculatorError, local: LocalText) -> bytes:
    """The calculator's error as the ErrorResponse that PostgreSQL would have given on the client's own text."""
    pairs = []
    for code, text in error.pairs:
        if code in _INSIDE or (code == ord("W") and b"pgveil" in text):
            continue
        if code == ord("P"):
            if text.isdigit() and not local.offsets.nowhere:
                pairs.append((code, str(local.offsets.original(int(text))).encode()))
            continue
        pairs.append((code, text if error.sqlstate.startswith(_OF_VALUES) else _named(text, local.names)))
    if not pairs:
        return error_response(error.sqlstate, "the statement could not be computed")
    return build_error(ErrorFields(tuple(pairs)), Back.ERROR)


def _named(text: bytes, names: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A message with the client's names in place of ours, where these stand as names of their own."""
    for name, instead in names:
        text = re.sub(rb"(?<![\w$])" + re.escape(name) + rb"(?![\w$])", lambda _, put=instead: put, text)  # type: ignore[misc]
    return text


def not_allowed() -> Refusal:
    """The refusal of what the calculator may not run: functions that reach files, other servers, or the calculator itself."""
    return Refusal(
        Reason.COMPUTE,
        "0AP01",
        "pgveil cannot run a function of this statement on opened values",
        "Its calculator runs functions that depend on their arguments alone.",
        "Select the columns without that function, and call it in a statement of its own.",
    )


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something that the calculator misses and that is none of PostgreSQL's: it may be the database's own.

    `question`: a text that fails with one of MISSING when it is analysed, if the database has nothing of that name; None for a name that can't
    be asked for.
    """

    question: bytes | None


def foreign(error: CalculatorError) -> Foreign | None:
    """What an error of the calculator's is about, where that is a function or a schema that is none of PostgreSQL's."""
    pattern = {UNDEFINED_FUNCTION: _CALLED, UNDEFINED_SCHEMA: _SCHEMA_OF}.get(error.sqlstate)
    message = ErrorFields(error.pairs).get("M") or b""
    found = None if pattern is None else pattern.match(message)
    if found is None:
        return None
    name = found[1].decode("utf-8", "replace")
    if error.sqlstate == UNDEFINED_SCHEMA:
        # The session's own temporary schema is known by another name.
        return Foreign(None if name == "pg_temp" else _question(name, "regnamespace"))
    bare = name.rpartition(".")[2]
    return None if bare in known_functions() or bare in foreign_functions() else Foreign(_question(name, "regproc"))


def _question(name: str, kind: str) -> bytes | None:
    if _PLAIN_NAME.fullmatch(name) is None:
        return None
    quoted = ".".join(quote_ident(part) for part in name.split("."))
    return f"SELECT '{quoted}'::pg_catalog.{kind}".encode()


def not_known() -> Refusal:
    """The refusal of a type, collation or function that the calculator has not: it may be the database's own."""
    return Refusal(
        Reason.COMPUTE,
        "0AP01",
        "pgveil cannot compute with a type, collation or function that is not PostgreSQL's own",
        "The statement names one, and works on opened values, which the database can't.",
        "Select the columns as they are, and convert or sort them in the application.",
    )
