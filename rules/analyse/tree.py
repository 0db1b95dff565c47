"""One statement's tokens as a sqlglot tree, with the way back from every node to our own tokens.

sqlglot never sees the client's literals, parameters, comments or odd identifiers: its text is rebuilt from our tokens, each literal and
parameter as a constant that spells its token's number. So what sqlglot's tokenizer does differently from PostgreSQL's cannot matter.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rules.analyse.keywords import FOREIGN
from rules.analyse.normalise import Normalised, normalise
from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.lexer import Lexed, Token

# It would log the text of statements that it does not understand.
logging.getLogger("sqlglot").disabled = True

_NUMBER_BASE = 10**9
# sqlglot moves array subscripts by one; numbers that lie far apart stay recognisable.
_NUMBER_STEP = 16
MAX_TREE_DEPTH = 400


class ParseError(Exception):
    """sqlglot did not understand the statement. `token`: our token nearest to where it stopped, or None."""

    def __init__(self, message: str, token: int | None = None) -> None:
        super().__init__(message)
        self.token = token


def ident(name: str) -> str:
    """An identifier quoted for sqlglot."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree of tokens `first..last` of a lexed text. `normal`: what sqlglot was told otherwise."""

    lexed: Lexed
    first: int
    last: int
    root: exp.Expr
    starts: tuple[int, ...]
    normal: Normalised

    def token_of(self, node: exp.Expr) -> int | None:
        """The index of the token that an Identifier or Star was made from."""
        start = node.meta.get("start")
        if start is None:
            return None
        # Tokens that are left out begin where the next one does.
        return self.first + bisect_right(self.starts, int(start)) - 1

    def constant_token(self, node: exp.Expr) -> int | None:
        """The index of the literal or parameter token that a Literal stands for."""
        if not isinstance(node, exp.Literal):
            return None
        text = str(node.this)
        if node.is_string:
            number = text[1:] if text.startswith("~") else ""
            index = int(number) if number.isdigit() else -1
        elif text.isdigit():
            index, rest = divmod(int(text) - _NUMBER_BASE, _NUMBER_STEP)
            index = -1 if rest else index
        else:
            index = -1
        return index if self.first <= index <= self.last else None


def _spell(token: Token, index: int) -> str:
    match token.kind:
        case Kind.STRING | Kind.BITSTRING | Kind.PARAM:
            return f"'~{index}'"
        case Kind.NUMBER:
            return str(_NUMBER_BASE + index * _NUMBER_STEP)
        case Kind.QUOTED:
            return ident(token.value)
        case Kind.WORD if not token.value.isascii() or token.value in FOREIGN:
            # sqlglot takes some characters for white space that are letters to PostgreSQL.
            return ident(token.value)
        case _:
            return token.value


def parse(lexed: Lexed, first: int, last: int) -> Tree:
    """Parse one statement. Raises ParseError where sqlglot does not understand it, or reads it as an opaque command."""
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    normal = normalise(lexed, first, last)
    for index in range(first, last + 1):
        starts.append(at)
        text = normal.spellings.get(index)
        if text == "":
            continue
        text = _spell(lexed.tokens[index], index) if text is None else text
        pieces.append(text)
        at += len(text) + 1
    text = " ".join(pieces)
    try:
        trees = sqlglot.parse(text, dialect="postgres")
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ParseError("the statement could not be parsed") from error
    if len(trees) != 1 or trees[0] is None:
        raise ParseError("the statement could not be parsed")
    root = trees[0]
    if isinstance(root, exp.Command) or any(isinstance(node, exp.Command) for node in root.walk()):
        raise ParseError("the statement is of a kind that is not analysed")
    if _depth(root) > MAX_TREE_DEPTH:
        raise ParseError("the statement is nested too deeply")
    return Tree(lexed, first, last, root, tuple(starts), normal)


def _depth(root: exp.Expr) -> int:
    deepest = 0
    stack: list[tuple[exp.Expr, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in node.iter_expressions())
    return deepest
