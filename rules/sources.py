"""Texts of the catalog: bodies of functions, definitions of views, rules, defaults. Each is read once, and not again with every catalog."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from rules.configuration import changes, sets
from rules.lexer import Kind, LexError, lex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rules.lexer import Lexed, Token

_CHARACTERS: Final = 512 * 1024  # of texts as tokens, which take some seventy times their length
_WORDS_KEPT: Final = 1_000_000  # of what texts say: some 60 bytes each
_WORD: Final = re.compile(r"[^\W\d][\w$]*")
_BEFORE_RELATIONS: Final = frozenset({"from", "join", "only", "table", "using", "into", "update", ",", "."})
_BEFORE_STATEMENTS: Final = frozenset({";", "begin", "then", "else", "loop", ">>"})


@dataclass(frozen=True, slots=True)
class Said:
    """What judging asks of a text. `words`: its identifiers.

    `called`: names before a parenthesis, and operators; `dotted`: names behind a dot, which can be calls as well (`t.f`); `placed`: names where
    a relation stands. `inserted`: names that stand behind INSERT INTO only, which shows nothing of what is there. `does`: it has a DO. `copies`: it has a COPY. `changes`, `sets`: as `rules.configuration` has them.
    """

    words: frozenset[str]
    called: frozenset[str]
    dotted: frozenset[str]
    placed: frozenset[str]
    inserted: frozenset[str]
    does: bool
    copies: bool
    changes: bool
    sets: bool

    @property
    def size(self) -> int:
        """How many words are kept."""
        return 1 + sum(map(len, (self.words, self.called, self.dotted, self.placed, self.inserted)))


class Sources:
    """What catalogs' texts say. It outlives a catalog, since most DDL leaves them as they are."""

    def __init__(self, characters: int = _CHARACTERS, words: int = _WORDS_KEPT) -> None:
        self._lexed: LRUCache[str, Lexed] = LRUCache(characters, getsizeof=lambda lexed: len(lexed.text) + 1)
        self._said: LRUCache[str, Said | LexError] = LRUCache(words, getsizeof=_weight)
        self._spelled: LRUCache[str, frozenset[str]] = LRUCache(words, getsizeof=lambda found: 1 + len(found))

    def lexed(self, text: str) -> Lexed:
        """A text as tokens. Raises LexError."""
        known = self._lexed.get(text)
        if known is None:
            known = lex(text)
            if len(text) < self._lexed.maxsize:
                self._lexed[text] = known
        return known

    def said(self, text: str) -> Said:
        """Raises LexError."""
        known = self._said.get(text)
        if known is None:
            known = _read(text)
            if _weight(known) <= self._said.maxsize:
                self._said[text] = known
        if isinstance(known, LexError):
            raise known
        return known

    def spelled(self, text: str) -> frozenset[str]:
        """What looks like a word in a text, wherever it stands."""
        known = self._spelled.get(text)
        if known is None:
            known = frozenset(_WORD.findall(text.lower()))
            if len(known) < self._spelled.maxsize:
                self._spelled[text] = known
        return known


def _weight(known: Said | LexError) -> int:
    return 1 if isinstance(known, LexError) else known.size


def _read(text: str) -> Said | LexError:
    try:
        lexed = lex(text)
    except LexError as error:
        return error
    tokens, words = lexed.tokens, lexed.words
    called, dotted, placed = set(), set(), set()
    for at, token in enumerate(tokens):
        if token.kind is Kind.OP:
            called.add(token.value)
        elif token.kind in (Kind.WORD, Kind.QUOTED):
            if at + 1 < len(tokens) and tokens[at + 1].value == "(":
                called.add(token.value)
            if at and tokens[at - 1].value == ".":
                dotted.add(token.value)
            if stands_as_relation(tokens, at):
                placed.add(token.value)
    does = any(
        t.kind is Kind.WORD and t.value == "do" and (following.kind is Kind.STRING or following.value == "language")
        for t, following in pairwise(tokens)
    )
    return Said(
        words,
        frozenset(called),
        frozenset(dotted),
        frozenset(placed),
        _inserted(tokens, words),
        does=does,
        copies=copies(tokens),
        changes=changes(lexed),
        sets=sets(lexed),
    )


def _inserted(tokens: Sequence[Token], words: frozenset[str]) -> frozenset[str]:
    """The names that stand behind INSERT INTO and nowhere else. None where a clause of INSERT can read what is there."""
    if "insert" not in words or not words.isdisjoint({"returning", "conflict"}):
        return frozenset()
    targets: set[int] = set()
    for at, (first, second) in enumerate(pairwise(tokens)):
        if (first.value, second.value) == ("insert", "into") and at + 2 < len(tokens):
            dotted = at + 4 < len(tokens) and tokens[at + 3].value == "."
            targets.add(at + 4 if dotted else at + 2)
    named = (t.value for at, t in enumerate(tokens) if at not in targets and t.kind in (Kind.WORD, Kind.QUOTED))
    return frozenset(tokens[at].value for at in targets).difference(named)


def stands_as_relation(tokens: Sequence[Token], at: int) -> bool:
    """Whether what stands before a name, but for parentheses, is what stands before a relation."""
    back = at - 1
    while back > 0 and tokens[back].value == "(":
        back -= 1
    return at > 0 and tokens[back].value in _BEFORE_RELATIONS


def copies(tokens: Sequence[Token]) -> bool:
    """Whether a statement of a function's body is COPY, which there can't be from or to the client."""
    return any(
        t.kind is Kind.WORD and t.value == "copy" and (i == 0 or tokens[i - 1].value in _BEFORE_STATEMENTS)
        for i, t in enumerate(tokens)
    )
