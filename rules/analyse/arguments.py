"""The arguments of EXECUTE: which of them are constants, and which tokens these cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.constants import Extent, extent_of
from rules.analyse.tree import ParseError, parse

if TYPE_CHECKING:
    from rules.lexer import Lexed


def constants(lexed: Lexed, part: tuple[int, int], *, array: bool) -> list[Extent] | None:
    """The constants that an argument of tokens `part` is made of: one, or none for NULL; with `array` also those between the brackets of ARRAY[...].

    None where it is anything else.
    """
    try:
        tree = parse(lexed, *part)
    except ParseError:
        return None
    node: exp.Expr = tree.root
    if isinstance(node, exp.Null):
        return []
    extent = extent_of(tree, node)
    if extent is not None:
        whole = (extent.first, extent.last) == part
        return [extent] if whole and not (array and extent.negative) else None
    if not array:
        return None
    if isinstance(node, exp.Cast) and node.to.sql("postgres").lower() in {"text[]", "varchar[]"}:
        node = node.this
    if not isinstance(node, exp.Array):
        return None
    found = [extent_of(tree, item) for item in node.expressions if not isinstance(item, exp.Null)]
    return [e for e in found if e is not None] if all(e is not None for e in found) else None


def is_element(lexed: Lexed, part: tuple[int, int], extent: Extent) -> bool:
    """Whether a constant is one of an array's elements, rather than the whole argument."""
    return (extent.first, extent.last) != part and lexed.tokens[part[0]].value == "array"
