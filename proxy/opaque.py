"""Which statements can run or show what their text does not say. They are recorded as reading all that the login could read (ADR 0031)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rules.classify import StatementKind
from rules.dangerous import DANGEROUS_WORDS
from rules.harmless import TELLING_RELATIONS, asks_as_caller, is_harmless
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.vocabulary import Vocabulary
    from rules.catalog import Catalog
    from rules.classify import Classified
    from rules.lexer import Lexed, Token

# Statements in which something is called by its name.
_CALLING: Final = frozenset(
    {
        StatementKind.QUERY,
        StatementKind.EXPLAIN,
        StatementKind.CURSOR,
        StatementKind.CREATE_AS,
        StatementKind.COPY_QUERY,
        StatementKind.PREPARE,
        StatementKind.EXECUTE,
        StatementKind.DYNAMIC,
    }
)
_NAMES: Final = (Kind.WORD, Kind.QUOTED)
# Behind these, and behind other names, a name before a parenthesis is an alias, a table that is written, or a type.
_MAKING: Final = frozenset({"as", "into", "recursive", "with", "prepare", "execute", "::", ")"})
_TEMPORARY: Final = "pg_temp"
# CREATE and ALTER of these make code that runs by itself or under a name; until it is committed, or for good where it is temporary, no catalog shows it.
_CODE: Final = frozenset(
    {"function", "procedure", "routine", "aggregate", "operator", "cast", "rule", "trigger", "domain", "type", "policy"}
    | {"conversion", "language", "transform", "extension", "access"}
)
_KIND_WITHIN: Final = 5  # CREATE OR REPLACE CONSTRAINT TRIGGER
_BEFORE_VIEW: Final = frozenset({"or", "replace", "global", "local", "temp", "temporary", "recursive"})


class Opaque:
    """A database's names, as far as they tell what a statement may show. Without a vocabulary unknown functions are not noticed.

    `raw`: PostgreSQL's own functions that show what no privilege on tables covers: the log, files, memory, other sessions.
    """

    __slots__ = ("_keywords", "_safe", "_telling", "raw")

    def __init__(self, catalog: Catalog, own: Vocabulary | None) -> None:
        looking = frozenset(DANGEROUS_WORDS) if own is None else own.looking
        telling = frozenset(name for name in looking if not is_harmless(name))
        self.raw = frozenset(name for name in telling - TELLING_RELATIONS if not asks_as_caller(name))
        self._telling = telling | TELLING_RELATIONS
        self._keywords = frozenset[str]() if own is None else own.keywords
        self._safe = None if own is None else own.keywords | own.functions | {f.name.name for f in catalog.functions}

    def names(self, lexed: Lexed) -> bool:
        """Whether anything is named in a text that is no key word."""
        return not lexed.words <= self._keywords

    def may_show(self, lexed: Lexed, parts: Iterable[Classified]) -> bool:
        """Whether `shows` may be true of a statement of the text."""
        if not lexed.words.isdisjoint(self._telling) or any(w.startswith(("pg_toast", "dblink")) for w in lexed.words):
            return True
        for part, (first, last) in zip(parts, lexed.statements, strict=True):
            if lexed.tokens[first].value in {"do", "listen"} or _defines_code(lexed.tokens, part, first):
                return True
            if part.kind in _CALLING and self._calls_unknown(lexed.tokens, first, last):
                return True
        return False

    def shows(self, lexed: Lexed, part: Classified, whole: tuple[int, int], words: frozenset[str]) -> bool:
        """Whether a statement can run or show what its text does not say, or opens a channel by which others can."""
        if lexed.tokens[whole[0]].value in {"do", "listen"} and part.kind in (
            StatementKind.DYNAMIC,
            StatementKind.ELSEWHERE,
        ):
            return True
        if _defines_code(lexed.tokens, part, whole[0]):
            return True
        if not words.isdisjoint(self._telling) or any(w.startswith(("pg_toast", "dblink")) for w in words):
            return True
        return part.kind in _CALLING and self._calls_unknown(lexed.tokens, *whole)

    def _calls_unknown(self, tokens: Sequence[Token], first: int, last: int) -> bool:
        safe = self._safe
        if safe is None:
            return False
        for at in range(first + 1, last + 1):
            if tokens[at].value != "(" or tokens[at - 1].kind not in _NAMES:
                continue
            start = at - 1
            while start - 2 >= first and tokens[start - 1].value == "." and tokens[start - 2].kind in _NAMES:
                start -= 2
            temporary = start < at - 1 and tokens[start].value.startswith(_TEMPORARY)
            if (temporary or tokens[at - 1].value not in safe) and not self._makes(tokens, first, start, at, last):
                return True
        return False

    def _makes(self, tokens: Sequence[Token], first: int, start: int, at: int, last: int) -> bool:
        """Whether the name before the parenthesis at `at`, which begins at `start`, is no function's."""
        if start == first:
            return False
        before = tokens[start - 1]
        if before.value in _MAKING:
            return True
        if before.kind is Kind.QUOTED or (before.kind is Kind.WORD and before.value not in self._keywords):
            return True
        return before.value == "," and _is_common_table(tokens, at, last)


def made_view(tokens: Sequence[Token], first: int) -> int | None:
    """Where the word VIEW stands in a CREATE VIEW; None in any other statement."""
    if tokens[first].value != "create":
        return None
    at = next((at for at in range(first + 1, len(tokens)) if tokens[at].value not in _BEFORE_VIEW), first)
    return at if tokens[at].value == "view" else None


def makes_temporary_view(tokens: Sequence[Token], first: int) -> bool:
    """Whether a CREATE VIEW makes one that no catalog but the session's own shows, by its words or its schema.

    One over a temporary table is temporary as well, which its text does not say: `Settings.views`.
    """
    at = made_view(tokens, first)
    if at is None:
        return False
    temporary = any(t.value in {"temp", "temporary"} for t in tokens[first:at])
    return temporary or (tokens[at + 1].value.startswith(_TEMPORARY) and tokens[at + 2].value == ".")


def _defines_code(tokens: Sequence[Token], part: Classified, first: int) -> bool:
    if part.kind is not StatementKind.DDL or tokens[first].value not in {"create", "alter"}:
        return False
    return any(t.kind is Kind.WORD and t.value in _CODE for t in tokens[first + 1 : first + _KIND_WITHIN])


def _is_common_table(tokens: Sequence[Token], at: int, last: int) -> bool:
    """Whether what follows is `(a, b) AS (` or `(a, b) AS MATERIALIZED (`."""
    for index in range(at + 1, last):
        if tokens[index].value == ")":
            return tokens[index + 1].value == "as" and tokens[index + 1].kind is Kind.WORD
        if tokens[index].value != "," and tokens[index].kind not in _NAMES:
            return False
    return False
