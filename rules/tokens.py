"""The values that `rules.lexer` gives: tokens, texts taken apart, and the error for texts that can't be."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rules.budget import Budget


class Kind(IntEnum):
    """The kinds of significant tokens; white space and comments are none."""

    WORD = 1  # identifier without quotes, or keyword
    QUOTED = 2  # "...", U&"..." with its UESCAPE clause
    STRING = 3  # '...', E'...', N'...', U&'...' with its UESCAPE clause, $tag$...$tag$; continued ones are one token
    BITSTRING = 4  # B'...', X'...'
    NUMBER = 5
    PARAM = 6  # $1
    OP = 7
    PUNCT = 8  # ( ) [ ] , ; . : :: .. :=


class Token(NamedTuple):
    """One token. `start` and `end` are character offsets, end exclusive.

    `value`: WORD and QUOTED the identifier as the catalog holds it (folded, decoded, truncated to 63 bytes of UTF-8); NUMBER its source
    text; PARAM its number without leading zeros; OP and PUNCT their text, `!=` as `<>`; STRING and BITSTRING nothing.
    """

    kind: Kind
    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True)
class LexLimits:
    """Bounds on one text: characters, tokens, and how deep parentheses and brackets nest."""

    max_length: int = 1024 * 1024
    max_tokens: int = 250_000
    max_depth: int = 200


class LexError(ValueError):
    """The text is not PostgreSQL's, or goes beyond a limit. `position` is a 0-based character offset; no part of the text is in it."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message, position)
        self.message = message
        self.position = position

    def __str__(self) -> str:
        return f"{self.message} (at character {self.position + 1})"


class LexLimitError(LexError):
    """The text goes beyond a limit. PostgreSQL's might be wider."""


@dataclass(frozen=True, slots=True)
class Lexed:
    """A text and its tokens.

    `shape`: the tokens joined by single spaces with the constants out: STRING is 's' (N'...', which the server types as character, n's'),
    BITSTRING b's', NUMBER 0. Two texts of one shape have the same kinds of tokens and the same identifiers, token by token, and a shape is
    its own shape. The constants may still decide what a statement means (ORDER BY 2, 'customers'::regclass).
    `words`: the values of all WORD and QUOTED tokens; `quoted_words`: those of the QUOTED ones.
    `literals`: indexes of the STRING, BITSTRING and NUMBER tokens. `statements`: first and last token of each, without the semicolons;
    empty ones are left out. `backslash_sensitive`: an ordinary constant holds a backslash, so the text means something else when
    standard_conforming_strings is the other way. `budget`: what planning it may still cost.
    """

    text: str
    tokens: tuple[Token, ...]
    shape: str
    words: frozenset[str]
    quoted_words: frozenset[str]
    literals: tuple[int, ...]
    statements: tuple[tuple[int, int], ...]
    backslash_sensitive: bool
    standard_conforming_strings: bool
    budget: Budget = field(compare=False, repr=False)
