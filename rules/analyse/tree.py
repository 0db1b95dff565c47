"""One statement's tokens as a sqlglot tree, with the way back from every node to our own tokens.

sqlglot never sees the client's literals, parameters, comments or odd identifiers: its text is rebuilt from our tokens, each literal and
parameter as a constant that spells its token's number. So what sqlglot's tokenizer does differently from PostgreSQL's cannot matter.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import TokenType

from rules.analyse.keywords import FOREIGN
from rules.analyse.normalise import Normalised, normalise
from rules.budget import TOO_DEEP, TooComplexError
from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.budget import Budget
    from rules.lexer import Lexed, Token

# It would log the text of statements that it does not understand.
logging.getLogger("sqlglot").disabled = True

_NUMBER_BASE = 10**9
# Numbers that lie far apart stay recognisable, whatever sqlglot adds to one.
_NUMBER_STEP = 16
MAX_TREE_DEPTH = 400
# Operators whose long chains nest to the left, and are walked without recursion.
CHAINED = (exp.And, exp.Or, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe)
_LEFT_DEEP = (*CHAINED, exp.SetOperation)
_OPENING = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET})
_CLOSING = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET})
_BEHIND_TYPES = frozenset({TokenType.STRING, TokenType.WITH})


class ParseError(Exception):
    """sqlglot did not understand the statement. `token`: our token nearest to where it stopped, or None."""

    def __init__(self, message: str, token: int | None = None) -> None:
        super().__init__(message)
        self.token = token


class _Parser(PostgresParser):
    """sqlglot's parser with a bound on its steps: it tries forms one after the other, and goes back to its start for each."""

    def __init__(self, dialect: Postgres, budget: Budget) -> None:
        super().__init__(dialect=dialect)
        self._budget = budget
        self._behind: dict[int, int] | None = None

    def _advance(self, times: int = 1) -> None:
        self._budget.spend()
        super()._advance(times)

    def _parse_types(
        self,
        check_func: bool = False,
        schema: bool = False,
        allow_identifiers: bool = True,
        with_collation: bool = False,
    ) -> exp.Expr | None:
        # Where a function may stand, sqlglot reads `date(...)` and `array[...]` as a type first, and then again: what is nested n deep 2^n times.
        if check_func and not self._types_a_constant():
            return None
        return super()._parse_types(check_func, schema, allow_identifiers, with_collation)

    def _types_a_constant(self) -> bool:
        """Whether a type with something in parentheses or brackets could be one here: `char(3) 'abc'`, `timestamp(3) with time zone '...'`."""
        if self._next.token_type not in _OPENING:
            return True
        if self._behind is None:
            self._behind = self._found_behind()
        at = self._behind.get(self._index + 1, self._tokens_size)
        if at >= self._tokens_size:
            return False
        return self._tokens[at].token_type in _BEHIND_TYPES or self._tokens[at].text.lower() == "without"

    def _found_behind(self) -> dict[int, int]:
        """For each opening parenthesis or bracket the token behind its closing one."""
        found: dict[int, int] = {}
        opened: list[int] = []
        for index, token in enumerate(self._tokens):
            if token.token_type in _OPENING:
                opened.append(index)
            elif token.token_type in _CLOSING and opened:
                found[opened.pop()] = index + 1
        return found


def _dialect() -> Postgres:
    """PostgreSQL's, but subscripts stay as they are written: to move them, sqlglot looks at the types of all that stands before, for each again."""
    dialect = Postgres()
    dialect.INDEX_OFFSET = 0
    return dialect


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
    """Parse one statement.

    Raises ParseError where sqlglot does not understand it, or reads it as an opaque command, and TooComplexError beyond the text's budget.
    """
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
        dialect = _dialect()
        trees = _Parser(dialect, lexed.budget).parse(dialect.tokenize(text), text)
    except RecursionError as error:
        raise TooComplexError(TOO_DEEP) from error
    except (SqlglotError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ParseError("the statement could not be parsed") from error
    if len(trees) != 1 or trees[0] is None:
        raise ParseError("the statement could not be parsed")
    root = trees[0]
    if isinstance(root, exp.Command) or any(isinstance(node, exp.Command) for node in root.walk()):
        raise ParseError("the statement is of a kind that is not analysed")
    if _depth(root, lexed.budget) > MAX_TREE_DEPTH:
        raise TooComplexError(TOO_DEEP)
    return Tree(lexed, first, last, root, tuple(starts), normal)


def operands(node: exp.Expr) -> list[exp.Expr]:
    """What an expression is made of. `a + b - c`, which nests to the left, is made of three, however long it is."""
    if not isinstance(node, CHAINED):
        return list(node.iter_expressions())
    found: list[exp.Expr] = []
    while isinstance(node, CHAINED):
        found.append(node.expression)
        node = node.this
    return [node, *reversed(found)]


def _depth(root: exp.Expr, budget: Budget) -> int:
    deepest = 0
    stack: list[tuple[exp.Expr, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        budget.spend()
        deepest = max(deepest, depth)
        left = node.this if isinstance(node, _LEFT_DEEP) else None
        stack.extend(
            (child, depth if child is left and isinstance(child, _LEFT_DEEP) else depth + 1)
            for child in node.iter_expressions()
        )
    return deepest
