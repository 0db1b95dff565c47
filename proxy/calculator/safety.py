"""What the calculator can't run rightly, told from a statement's text; the engine's own privileges are the wall behind it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from rules.lexer import literal_value
from rules.tokens import Kind, LexError

if TYPE_CHECKING:
    from rules.tokens import Lexed, Token

# White space and comments, then a parenthesis or the first word. Every client encoding is ASCII where it matters here.
_GAP: Final = rb"(?:[ \t\n\r\f\v(]|--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*"
_QUERY: Final = re.compile(_GAP + rb"(?:SELECT|VALUES|TABLE|WITH)\b", re.IGNORECASE)

# SQLValueFunctions: the clock, and who asks where (PostgreSQL documentation, 9.9.5 and 9.27.1). No privilege keeps them.
_WORDS: Final = frozenset(
    (
        *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
        *("current_catalog", "current_role", "current_schema", "current_user", "session_user", "system_user", "user"),
    )
)
# Types whose values name things of the catalog they are read with (documentation, 8.19).
_CATALOG_TYPES: Final = frozenset(
    (
        *("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator"),
        *("regproc", "regprocedure", "regrole", "regtype", "aclitem"),
    )
)
# Collations that are the same everywhere.
_COLLATIONS: Final = frozenset(("C", "POSIX", "default", "pg_c_utf8", "ucs_basic"))
# Constants of date and time types that stand for the moment at which they are read (documentation, 8.5.1.4).
_MOMENTS: Final = frozenset(("now", "today", "tomorrow", "yesterday"))
_LETTERS: Final = re.compile(r"[^\W\d_]+")
# "tomorrow 12:00 Europe/Berlin" is a time; a sentence is not.
_LONGEST_TIME: Final = 4
_ENDS: Final = frozenset((".", "as"))


def is_query(text: bytes) -> bool:
    """Whether a text begins as a query does. A nested comment in front of it is taken for none: the text is then refused."""
    return _QUERY.match(text) is not None


@cache
def known_functions() -> frozenset[str]:
    """Names of pg_catalog's functions that the calculator runs; of a few, some forms only (age(timestamp) reads the clock)."""
    return _functions()[0]


@cache
def foreign_functions() -> frozenset[str]:
    """Names of pg_catalog's functions that it runs in no form: they read a clock, a catalog, a file, another session, or remember."""
    return _functions()[1]


@cache
def _functions() -> tuple[frozenset[str], frozenset[str]]:
    lines = files("proxy.calculator").joinpath("functions.txt").read_text().splitlines()
    middle = lines.index("--")
    return frozenset(lines[1:middle]), frozenset(lines[middle + 1 :])


def unsafe_word(lexed: Lexed) -> Token | None:
    """The first token that the calculator would answer otherwise than the server, or not at all; None where there is none."""
    tokens = lexed.tokens
    for at, token in enumerate(tokens):
        before = tokens[at - 1] if at else None
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        if _is_unsafe(lexed, at, before, after):
            return token
    return None


def _is_unsafe(lexed: Lexed, at: int, before: Token | None, after: Token | None) -> bool:
    token = lexed.tokens[at]
    if token.kind is Kind.STRING:
        try:
            return _is_moment(literal_value(lexed, at))
        except LexError:
            return True
    if token.kind not in (Kind.WORD, Kind.QUOTED):
        return False
    if after is not None and after.value == "(" and token.value in foreign_functions():
        return True
    if _follows(before, "collate"):
        qualified = after is not None and after.value == "."
        return lexed.tokens[at + 2 if qualified else at].value not in _COLLATIONS
    if token.value in _CATALOG_TYPES:
        return True
    # After a dot or AS it is a name.
    return token.kind is Kind.WORD and token.value in _WORDS and (before is None or before.value not in _ENDS)


def _follows(before: Token | None, word: str) -> bool:
    return before is not None and before.kind is Kind.WORD and before.value == word


def _is_moment(text: str) -> bool:
    words = [word.lower() for word in _LETTERS.findall(text)]
    return len(words) <= _LONGEST_TIME and not _MOMENTS.isdisjoint(words)
