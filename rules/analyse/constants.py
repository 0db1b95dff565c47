"""Literals and parameters with the casts around them: which tokens of the text they cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.analyse.tree import Tree
    from rules.lexer import Lexed

_TYPE_TAILS = {
    ("double",): ("precision",),
    ("character",): ("varying",),
    ("char",): ("varying",),
    ("national",): ("character",),
    ("bit",): ("varying",),
}
_ZONED = frozenset({"time", "timestamp"})


class Extent:
    """Tokens `first..last`, built outwards from the constant's own token."""

    __slots__ = ("casts", "first", "last", "negative", "token")

    def __init__(self, token: int) -> None:
        self.token = token
        self.first = token
        self.last = token
        self.negative = False
        self.casts: list[str] = []


def extent_of(tree: Tree, node: exp.Expr) -> Extent | None:
    """The extent of a constant: a literal or parameter, perhaps negative, in parentheses or cast. None where it is anything else."""
    index = tree.constant_token(node)
    if index is not None:
        return _signed(tree.lexed, Extent(index))
    if not isinstance(node, exp.Paren | exp.Neg | exp.Cast):
        return None
    if isinstance(node, exp.TryCast) or (isinstance(node, exp.Cast) and node.args.get("format")):
        return None
    inner = extent_of(tree, node.this)
    if inner is None:
        return None
    if isinstance(node, exp.Paren):
        return inner if _grow(tree.lexed, inner, "(", ")") else None
    if isinstance(node, exp.Neg):
        return _negate(tree.lexed, inner)
    return _cast(tree.lexed, inner)


def _text(lexed: Lexed, index: int) -> str:
    return lexed.tokens[index].value if 0 <= index < len(lexed.tokens) else ""


def _grow(lexed: Lexed, extent: Extent, before: str, after: str) -> bool:
    if _text(lexed, extent.first - 1) != before or _text(lexed, extent.last + 1) != after:
        return False
    extent.first -= 1
    extent.last += 1
    return True


def _signed(lexed: Lexed, extent: Extent) -> Extent | None:
    """A plus sign before a number, which sqlglot leaves out of its tree, belongs to it; before anything else it is an operation."""
    while _text(lexed, extent.first - 1) == "+":
        if lexed.tokens[extent.token].kind is not Kind.NUMBER:
            return None
        extent.first -= 1
    return extent


def _negate(lexed: Lexed, extent: Extent) -> Extent | None:
    if (
        extent.negative
        or extent.casts
        or _text(lexed, extent.first - 1) != "-"
        or lexed.tokens[extent.token].kind is not Kind.NUMBER
    ):
        return None
    extent.first -= 1
    extent.negative = True
    return _signed(lexed, extent)


def _cast(lexed: Lexed, extent: Extent) -> Extent | None:
    if _text(lexed, extent.last + 1) == "::":
        end = type_end(lexed, extent.last + 2)
        if end is None:
            return None
        extent.casts.append(spelling(lexed, extent.last + 2, end))
        extent.last = end
        return extent
    if (
        _text(lexed, extent.first - 1) == "("
        and _text(lexed, extent.first - 2) == "cast"
        and _text(lexed, extent.last + 1) == "as"
    ):
        end = type_end(lexed, extent.last + 2)
        if end is None or _text(lexed, end + 1) != ")":
            return None
        extent.casts.append(spelling(lexed, extent.last + 2, end))
        extent.first -= 2
        extent.last = end + 1
        return extent
    before = extent.first - 1
    # The form `date '2020-01-01'`, of one word.
    if (
        extent.first == extent.token
        and before >= 0
        and lexed.tokens[before].kind is Kind.WORD
        and _text(lexed, before - 1) not in {".", "zone"}
    ):
        if _text(lexed, before) in {"zone", "precision", "varying"}:
            return None
        extent.casts.append(_text(lexed, before))
        extent.first = before
        return extent
    return None


def spelling(lexed: Lexed, first: int, last: int) -> str:
    """A type's name as people write it, from its tokens."""
    words = " ".join(_text(lexed, i) for i in range(first, last + 1))
    return (
        words.replace(" (", "(")
        .replace("( ", "(")
        .replace(" )", ")")
        .replace(" ,", ",")
        .replace(", ", ",")
        .replace(" [ ]", "[]")
        .replace(" . ", ".")
    )


def type_end(lexed: Lexed, first: int) -> int | None:
    """The last token of the type name that begins at `first`; None where there is none that we know how to read."""
    count = len(lexed.tokens)
    if first >= count or lexed.tokens[first].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    at = first
    while _text(lexed, at + 1) == "." and at + 2 < count and lexed.tokens[at + 2].kind in (Kind.WORD, Kind.QUOTED):
        at += 2
    word = _text(lexed, at)
    tail = _TYPE_TAILS.get((word,))
    if tail is not None and _text(lexed, at + 1) == tail[0]:
        at += 1
    if _text(lexed, at + 1) == "(":
        closing = at + 2
        while closing < count and (lexed.tokens[closing].kind is Kind.NUMBER or _text(lexed, closing) == ","):
            closing += 1
        if _text(lexed, closing) != ")":
            return None
        at = closing
    if (
        word in _ZONED
        and _text(lexed, at + 1) in {"with", "without"}
        and _text(lexed, at + 2) == "time"
        and _text(lexed, at + 3) == "zone"
    ):
        at += 3
    while _text(lexed, at + 1) == "[":
        closing = at + 2
        if closing < count and lexed.tokens[closing].kind is Kind.NUMBER:
            closing += 1
        if _text(lexed, closing) != "]":
            return None
        at = closing
    return at
