"""What kind of statement a token range is, as far as its first words tell: which part is to be analysed, and what it does to the session."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.lexer import Lexed

_QUERIES = frozenset({"select", "values", "table", "with", "insert", "update", "delete", "("})
_DDL = frozenset({"create", "alter", "drop", "grant", "revoke", "comment", "reassign", "security", "import", "refresh"})
# Utilities that name tables and give nothing away.
_HARMLESS = frozenset(
    {
        "lock",
        "truncate",
        "vacuum",
        "analyze",
        "analyse",
        "cluster",
        "reindex",
        "checkpoint",
        "discard",
        "set",
        "reset",
        "show",
    }
)
_MEANING = frozenset(
    {
        "search_path",
        "schema",
        "role",
        "authorization",
        "standard_conforming_strings",
        "client_encoding",
        "names",
        "all",
        "session",
        "backslash_quote",
    }
)


class StatementKind(StrEnum):
    """How a statement is judged."""

    QUERY = "query"  # analysed
    EXPLAIN = "explain"  # the statement behind it is analysed; its rows are a plan's text
    CURSOR = "cursor"  # DECLARE: the query behind FOR is analysed
    CREATE_AS = "create_as"  # CREATE TABLE/VIEW ... AS query
    COPY_QUERY = "copy_query"  # COPY (query) TO: the query is analysed
    COPY_TABLE = "copy_table"  # COPY name ...: judged by the columns it names
    PREPARE = "prepare"
    DYNAMIC = "dynamic"  # DO and CALL: runs text that is not here
    DDL = "ddl"
    HARMLESS = "harmless"
    OTHER = "other"  # anything else: refused if it names something protected


@dataclass(frozen=True, slots=True)
class Classified:
    """`first..last`: the tokens to analyse (of COPY_TABLE: the whole). `unsettles`: settings that texts depend on may be others afterwards."""

    kind: StatementKind
    first: int
    last: int
    unsettles: bool = False


def classify(lexed: Lexed, first: int, last: int) -> Classified:
    """The kind of the statement of tokens `first..last`."""
    word = _word(lexed, first)
    if word in _QUERIES:
        return Classified(StatementKind.QUERY, first, last)
    if word == "explain":
        return _explain(lexed, first, last)
    if word == "declare":
        return _declare(lexed, first, last)
    if word == "copy":
        return _copy(lexed, first, last)
    if word == "create":
        return _create(lexed, first, last)
    if word in {"do", "call"}:
        return Classified(StatementKind.DYNAMIC, first, last, unsettles=True)
    if word in {"prepare", "execute"}:
        # PREPARE TRANSACTION names nothing; EXECUTE runs what PREPARE was judged for.
        return Classified(StatementKind.PREPARE, first, last, unsettles=word == "execute")
    if word in {"set", "reset", "discard"}:
        words = {_word(lexed, i) for i in range(first + 1, min(first + 5, last + 1))}
        return Classified(StatementKind.HARMLESS, first, last, unsettles=not words.isdisjoint(_MEANING))
    if word in _DDL:
        return Classified(StatementKind.DDL, first, last)
    return Classified(StatementKind.HARMLESS if word in _HARMLESS else StatementKind.OTHER, first, last)


def _word(lexed: Lexed, index: int) -> str:
    token = lexed.tokens[index]
    return token.value if token.kind in (Kind.WORD, Kind.PUNCT) else ""


def _closing(lexed: Lexed, opening: int, last: int) -> int | None:
    depth = 0
    for index in range(opening, last + 1):
        text = _word(lexed, index)
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return index
    return None


def _explain(lexed: Lexed, first: int, last: int) -> Classified:
    at = first + 1
    if at <= last and _word(lexed, at) == "(" and (at + 1 > last or _word(lexed, at + 1) not in _QUERIES):
        closing = _closing(lexed, at, last)
        at = last + 1 if closing is None else closing + 1
    while at <= last and _word(lexed, at) in {"analyze", "analyse", "verbose"}:
        at += 1
    if at > last or _word(lexed, at) not in _QUERIES:
        inner = classify(lexed, at, last) if at <= last else None
        kind = (
            StatementKind.OTHER if inner is None or inner.kind is not StatementKind.PREPARE else StatementKind.PREPARE
        )
        return Classified(kind, first, last, unsettles=inner is not None and inner.unsettles)
    return Classified(StatementKind.EXPLAIN, at, last)


def _declare(lexed: Lexed, first: int, last: int) -> Classified:
    for index in range(first + 2, min(first + 12, last)):
        if _word(lexed, index) == "for":
            return Classified(StatementKind.CURSOR, index + 1, last)
    return Classified(StatementKind.OTHER, first, last)


def _copy(lexed: Lexed, first: int, last: int) -> Classified:
    if first < last and _word(lexed, first + 1) == "(":
        closing = _closing(lexed, first + 1, last)
        if closing is not None and closing > first + 2:
            return Classified(StatementKind.COPY_QUERY, first + 2, closing - 1)
        return Classified(StatementKind.OTHER, first, last)
    return Classified(StatementKind.COPY_TABLE, first, last)


def _create(lexed: Lexed, first: int, last: int) -> Classified:
    kinds = {"table", "view", "materialized"}
    for index in range(first + 1, min(first + 8, last + 1)):
        word = _word(lexed, index)
        if word in kinds:
            has_query = any(
                _word(lexed, i) == "as" and i < last and _word(lexed, i + 1) in _QUERIES for i in range(index, last)
            )
            return Classified(StatementKind.CREATE_AS if has_query else StatementKind.DDL, first, last)
        if word not in {"or", "replace", "temp", "temporary", "unlogged", "global", "local", "recursive"}:
            break
    return Classified(StatementKind.DDL, first, last)


@dataclass(frozen=True, slots=True)
class CopyTable:
    """COPY name [(columns)] FROM/TO. `schema` None: unqualified; `columns` None: all of them."""

    schema: str | None
    name: str
    name_token: int
    columns: tuple[str, ...] | None
    writes: bool


def copy_table(lexed: Lexed, first: int, last: int) -> CopyTable | None:
    """The parts of a COPY_TABLE statement; None where they are not as expected."""
    at = first + 1
    if (
        at <= last
        and lexed.tokens[at].value == "binary"
        and lexed.tokens[at].kind is Kind.WORD
        and at < last
        and lexed.tokens[at + 1].kind in (Kind.WORD, Kind.QUOTED)
    ):
        at += 1
    if at > last or lexed.tokens[at].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    names, name_token = [lexed.tokens[at].value], at
    while at + 2 <= last and _word(lexed, at + 1) == ".":
        at += 2
        names.append(lexed.tokens[at].value)
        name_token = at
    columns: tuple[str, ...] | None = None
    if at + 1 <= last and _word(lexed, at + 1) == "(":
        closing = _closing(lexed, at + 1, last)
        if closing is None:
            return None
        columns = tuple(t.value for t in lexed.tokens[at + 2 : closing] if t.kind in (Kind.WORD, Kind.QUOTED))
        at = closing
    direction = _word(lexed, at + 1) if at + 1 <= last else ""
    if direction not in {"from", "to"} or len(names) > 3:
        return None
    return CopyTable(names[-2] if len(names) > 1 else None, names[-1], name_token, columns, direction == "from")
