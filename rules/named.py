"""Statements that make, use or drop a session's names: prepared statements (PREPARE, EXECUTE, DEALLOCATE) and cursors (DECLARE, FETCH, MOVE, CLOSE).

What such a name stands for is known to the session only; here it is read off the tokens which name a statement speaks of, and where its
parts are. Names are folded and truncated as the server's scanner does, so they compare as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.lexer import Lexed

_OPTIONS_OF_A_CURSOR = frozenset(
    {"binary", "insensitive", "asensitive", "no", "scroll", "cursor", "with", "without", "hold"}
)


class NameUse(StrEnum):
    """What a statement does with a name."""

    PREPARES = "prepares"
    EXECUTES = "executes"
    DEALLOCATES = "deallocates"
    DECLARES = "declares"
    FETCHES = "fetches"
    CLOSES = "closes"
    FORGETS = "forgets"  # DISCARD ALL: every prepared statement and every cursor


@dataclass(frozen=True, slots=True)
class Named:
    """One statement's name. `name` None: ALL of them. `token`: where it stands.

    `parts`: of PREPARE the declared types, of EXECUTE the arguments, each as its first and last token. `inner`: of PREPARE and DECLARE the
    first token of the statement that it is about. `hold`: a cursor WITH HOLD.
    """

    use: NameUse
    name: str | None
    token: int
    parts: tuple[tuple[int, int], ...] = ()
    inner: int = 0
    hold: bool = False


def read_prepare(lexed: Lexed, first: int, last: int) -> Named | None:
    """PREPARE name [(types)] AS statement; None for anything else, PREPARE TRANSACTION among it."""
    parsed = _name_and_parts(lexed, first, last)
    if parsed is None:
        return None
    parts, behind = parsed
    if behind >= last or _word(lexed, behind) != "as":
        return None
    return Named(NameUse.PREPARES, lexed.tokens[first + 1].value, first + 1, parts, behind + 1)


def read_execute(lexed: Lexed, first: int, last: int) -> Named | None:
    """EXECUTE name [(arguments)]. Behind it may stand WITH [NO] DATA, in CREATE TABLE AS."""
    parsed = _name_and_parts(lexed, first, last)
    if parsed is None:
        return None
    parts, behind = parsed
    if behind <= last and _word(lexed, behind) != "with":
        return None
    return Named(NameUse.EXECUTES, lexed.tokens[first + 1].value, first + 1, parts)


def read_declare(lexed: Lexed, first: int, last: int) -> Named | None:
    """DECLARE name [options] CURSOR [options] FOR query."""
    if first + 1 > last or not _is_name(lexed, first + 1):
        return None
    words = []
    for index in range(first + 2, min(first + 12, last)):
        word = _word(lexed, index)
        if word == "for":
            hold = "hold" in words and "with" in words
            return Named(NameUse.DECLARES, lexed.tokens[first + 1].value, first + 1, inner=index + 1, hold=hold)
        if word not in _OPTIONS_OF_A_CURSOR:
            return None
        words.append(word)
    return None


def read_fetch(lexed: Lexed, first: int, last: int) -> Named | None:
    """FETCH and MOVE, in all their forms: the cursor's name comes last."""
    if last == first or not _is_name(lexed, last):
        return None
    return Named(NameUse.FETCHES, lexed.tokens[last].value, last)


def read_drop(lexed: Lexed, first: int, last: int) -> Named | None:
    """CLOSE name or ALL, DEALLOCATE [PREPARE] name or ALL, DISCARD ALL."""
    word = _word(lexed, first)
    at = first + 1
    if word == "deallocate" and at < last and _word(lexed, at) == "prepare":
        at += 1
    if at != last or not _is_name(lexed, at):
        return None
    everything = _word(lexed, at) == "all"
    if word == "discard":
        return Named(NameUse.FORGETS, None, at) if everything else None
    use = NameUse.CLOSES if word == "close" else NameUse.DEALLOCATES
    return Named(use, None if everything else lexed.tokens[at].value, at)


def _name_and_parts(lexed: Lexed, first: int, last: int) -> tuple[tuple[tuple[int, int], ...], int] | None:
    """What stands in parentheses behind the name, and the token behind that."""
    if first + 1 > last or not _is_name(lexed, first + 1):
        return None
    if first + 2 > last or _word(lexed, first + 2) != "(":
        return (), first + 2
    depth, begin = 0, first + 3
    parts: list[tuple[int, int]] = []
    for index in range(first + 2, last + 1):
        text = _word(lexed, index)
        depth += (text in {"(", "["}) - (text in {")", "]"})
        if depth == 0 or (depth == 1 and text == ","):
            parts.append((begin, index - 1))
            begin = index + 1
        if depth == 0:
            well = all(start <= end for start, end in parts)
            return (tuple(parts), index + 1) if well else None
    return None


def _is_name(lexed: Lexed, index: int) -> bool:
    return lexed.tokens[index].kind in (Kind.WORD, Kind.QUOTED)


def _word(lexed: Lexed, index: int) -> str:
    token = lexed.tokens[index]
    return token.value if token.kind in (Kind.WORD, Kind.PUNCT) else ""
