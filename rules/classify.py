"""What kind of statement a token range is, as far as its first words tell: which part is to be analysed, and what it does to the session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.configuration import Change, of_set
from rules.lexer import Kind
from rules.named import read_declare, read_drop, read_execute, read_fetch, read_prepare

if TYPE_CHECKING:
    from rules.lexer import Lexed
    from rules.named import Named

_QUERIES = frozenset({"select", "values", "table", "with", "insert", "update", "delete", "merge", "("})
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
_NAMING = frozenset({"prepare", "execute", "deallocate", "declare", "fetch", "move", "close"})
_ELSEWHERE = frozenset({"savepoint", "release", "rollback", "abort", "commit", "end", "listen", "unlisten", "notify"})
# They end a transaction or go back in it, and with it what SET LOCAL and what was undone had set.
_ENDING = frozenset({"rollback", "abort", "commit", "end"})


class StatementKind(StrEnum):
    """How a statement is judged."""

    QUERY = "query"  # analysed
    EXPLAIN = "explain"  # the statement behind it is analysed; its rows are a plan's text
    CURSOR = "cursor"  # DECLARE: the query behind FOR is analysed
    CREATE_AS = "create_as"  # CREATE TABLE/VIEW ... AS query
    COPY_QUERY = "copy_query"  # COPY (query) TO: the query is analysed
    COPY_TABLE = "copy_table"  # COPY name ...: judged by the columns it names
    PREPARE = "prepare"  # the statement behind AS is analysed
    EXECUTE = "execute"  # runs a prepared statement of the session: by itself, in EXPLAIN or in CREATE TABLE AS
    FETCH = "fetch"  # FETCH and MOVE: rows of a cursor of the session
    DYNAMIC = "dynamic"  # DO and CALL: runs text that is not here
    DDL = "ddl"
    HARMLESS = "harmless"
    ELSEWHERE = "elsewhere"  # its names are of savepoints or channels, whatever relations bear them
    OTHER = "other"  # anything else: refused if it names something protected


@dataclass(frozen=True, slots=True)
class Classified:
    """`first..last`: the tokens to analyse (of COPY_TABLE: the whole). `changes`: what it may do to the session's
    settings. `ends`: a transaction, or a part of one, so that settings may be again what they were before it.

    `named`: the session's name that the statement makes, uses or drops. `wrapped`: of EXECUTE what it stands in: "explain", "create" or nothing.
    `explained`: EXPLAIN stands before it all, so that its rows are a plan's text.
    """

    kind: StatementKind
    first: int
    last: int
    changes: Change = Change.NONE
    named: Named | None = None
    wrapped: str = ""
    explained: bool = False
    ends: bool = False


def classify(lexed: Lexed, first: int, last: int) -> Classified:
    """The kind of the statement of tokens `first..last`."""
    word = _word(lexed, first)
    if word in _QUERIES:
        return Classified(StatementKind.QUERY, first, last)
    if word == "explain":
        return replace(_explain(lexed, first, last), explained=True)
    if word == "copy":
        return _copy(lexed, first, last)
    if word == "create":
        return _create(lexed, first, last)
    if word in {"do", "call"}:
        return Classified(StatementKind.DYNAMIC, first, last, changes=Change.ALL)
    if word in _NAMING:
        return _naming(lexed, word, first, last)
    if word in {"set", "reset", "discard"}:
        named = read_drop(lexed, first, last) if word == "discard" else None
        return Classified(StatementKind.HARMLESS, first, last, of_set(lexed, first, last), named)
    if word in _ELSEWHERE:
        return Classified(StatementKind.ELSEWHERE, first, last, ends=word in _ENDING)
    if word in _DDL:
        return Classified(StatementKind.DDL, first, last)
    changes = Change.ALL if word == "load" else Change.NONE  # a library can do anything
    return Classified(StatementKind.HARMLESS if word in _HARMLESS else StatementKind.OTHER, first, last, changes)


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
    if at <= last and _word(lexed, at) in _QUERIES:
        return Classified(StatementKind.EXPLAIN, at, last)
    word = _word(lexed, at) if at <= last else ""
    if word == "execute":
        return _execute(lexed, at, last, "explain")
    if word == "declare":
        inner = _declare(lexed, at, last)
        if inner.kind is StatementKind.CURSOR:
            return Classified(StatementKind.EXPLAIN, inner.first, last)
    if word == "create":
        inner = _create(lexed, at, last)
        if inner.kind in (StatementKind.CREATE_AS, StatementKind.EXECUTE):
            return inner
    return Classified(StatementKind.OTHER, first, last)


def _naming(lexed: Lexed, word: str, first: int, last: int) -> Classified:
    """A statement about prepared statements or cursors of the session."""
    if word == "declare":
        return _declare(lexed, first, last)
    if word == "execute":
        return _execute(lexed, first, last, "")
    if word in {"fetch", "move"}:
        return Classified(StatementKind.FETCH, first, last, changes=Change.ALL, named=read_fetch(lexed, first, last))
    if word in {"close", "deallocate"}:
        return Classified(StatementKind.HARMLESS, first, last, named=read_drop(lexed, first, last))
    named = read_prepare(lexed, first, last)
    # PREPARE TRANSACTION names nothing.
    kind = StatementKind.OTHER if named is None else StatementKind.PREPARE
    return Classified(kind, _inner(named, first), last, named=named, ends=named is None)


def _declare(lexed: Lexed, first: int, last: int) -> Classified:
    named = read_declare(lexed, first, last)
    return Classified(
        StatementKind.OTHER if named is None else StatementKind.CURSOR, _inner(named, first), last, named=named
    )


def _execute(lexed: Lexed, first: int, last: int, wrapped: str) -> Classified:
    named = read_execute(lexed, first, last)
    kind = StatementKind.OTHER if named is None else StatementKind.EXECUTE
    return Classified(kind, first, last, changes=Change.ALL, named=named, wrapped=wrapped)


def _inner(named: Named | None, first: int) -> int:
    return first if named is None else named.inner


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
            behind = [_word(lexed, i + 1) for i in range(index, last) if _word(lexed, i) == "as"]
            if "execute" in behind:
                return _create_by_execute(lexed, index, last)
            has_query = not _QUERIES.isdisjoint(behind)
            return Classified(StatementKind.CREATE_AS if has_query else StatementKind.DDL, first, last)
        if word not in {"or", "replace", "temp", "temporary", "unlogged", "global", "local", "recursive"}:
            break
    return Classified(StatementKind.DDL, first, last)


def _create_by_execute(lexed: Lexed, first: int, last: int) -> Classified:
    """CREATE TABLE ... AS EXECUTE."""
    at = next(i for i in range(first, last) if _word(lexed, i) == "as" and _word(lexed, i + 1) == "execute")
    return _execute(lexed, at + 1, last, "create")


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
