"""Sorting after opening: the database does the query but for its last ORDER BY and what stands behind it."""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rules.lexer import Kind
from rules.model import quote_ident
from rules.split.clauses import Clauses, Span, split_at
from rules.split.parts import JOINED, Built, leaf_name

if TYPE_CHECKING:
    from rules.split.text import Text

_SUFFIX: Final = frozenset({"asc", "desc", "nulls", "using"})


def sorted_tail(text: Text) -> Built | None:
    """One leaf, the query without its tail; None where the order can't be told from the query's columns."""
    outputs = text.survey.outputs
    block = text.blocks[-1][0] if text.blocks else None
    top = [c for c, _ in text.blocks if text.depth(c.first) == 0]
    if outputs is None or not outputs or block is None or not top:
        return None
    names = [o.name for o in outputs]
    last = top[-1]
    if last.tail is None or "order" not in last.spans or "for" in last.starts or None in names:
        return None
    united = len(top) > 1 or not last.alone
    if not united and _distinct_on(text, last):
        return None
    built = _Tail(text, last, [n for n in names if n is not None], united=united)
    return built.build()


def _distinct_on(text: Text, block: Clauses) -> bool:
    return text.value(block.first + 1) == "distinct" and text.value(block.first + 2) == "on"


class _Tail:
    def __init__(self, text: Text, block: Clauses, names: list[str], *, united: bool) -> None:
        self.text = text
        self.block = block
        self.names = names
        self.united = united
        self.hidden: list[Span] = []

    def build(self) -> Built | None:
        text, block = self.text, self.block
        order, tail = block.spans["order"], block.tail
        assert tail is not None
        edits: list[tuple[int, int, str]] = []
        for item in split_at(text.lexed, order, ","):
            edit = self._item(item)
            if edit is False:
                return None
            if isinstance(edit, tuple):
                edits.append(edit)
        if self.hidden and not self._may_hide():
            return None
        columns = [f"c{i}" for i in range(len(self.names))] + [f"k{i}" for i in range(len(self.hidden))]
        shown = ", ".join(f'"{JOINED}"."c{i}" AS {quote_ident(n)}' for i, n in enumerate(self.names))
        head = f'SELECT {shown} FROM {leaf_name(0)} AS "{JOINED}"'
        edits.append((text.first, tail - 1, head))
        return Built([(tuple(columns), self._fetch(tail))], edits, with_first=True)

    def _fetch(self, tail: int) -> str:
        text = self.text
        if not self.hidden:
            return text.source((text.first, tail - 1))
        items = self.block.items
        assert items is not None
        more = "".join(f", ({text.source(span)}) AS k{i}" for i, span in enumerate(self.hidden))
        behind = text.source((items[1] + 1, tail - 1)) if items[1] + 1 <= tail - 1 else ""
        return f"{text.source((text.first, items[1]))}{more} {behind}"

    def _may_hide(self) -> bool:
        """Whether columns can be added to the select list: not where they would change which rows are distinct."""
        text, block = self.text, self.block
        return not self.united and block.items is not None and text.value(block.first + 1) != "distinct"

    def _item(self, item: Span) -> tuple[int, int, str] | bool:
        """The edit of an ORDER BY item, True where it stays as it is, False where it can't be had."""
        text = self.text
        end = item[0]
        while end < item[1] and not self._ends(end + 1):
            end += 1
        if item[0] == end:
            token = text.token(end)
            if token.kind is Kind.NUMBER or (text.is_name(end) and token.value in self.names):
                return True
        if self.united:
            return False
        self.hidden.append((item[0], end))
        return item[0], end, f'"{JOINED}"."k{len(self.hidden) - 1}"'

    def _ends(self, index: int) -> bool:
        text = self.text
        return text.token(index).kind is Kind.WORD and text.value(index) in _SUFFIX and text.value(index - 1) != "."
