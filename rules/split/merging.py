"""What the actions of a MERGE write: each value's tokens, and the column that it goes to (PostgreSQL manual, MERGE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rules.lexer import Kind
from rules.split.clauses import Span, closing_of, split_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.split.text import Text

_SILENT: Final = frozenset({"delete", "do"})
_OF_CONSTANTS: Final = frozenset({"null", "true", "false", "case", "when", "then", "else", "end", "and", "or", "not"})


def assigned(text: Text, columns: Sequence[str]) -> list[tuple[Span, str]] | None:
    """The values of all actions; None where an action has another form. `columns`: the target's, for an INSERT without a list of them."""
    found: list[tuple[Span, str]] = []
    for action in _actions(text):
        match text.value(action[0]):
            case "update":
                values = _set(text, action)
            case "insert":
                values = _inserted(text, action, columns)
            case word:
                values = [] if word in _SILENT else None
        if values is None:
            return None
        found += values
    return found


def of_constants(text: Text, span: Span) -> bool:
    """Whether a value is computed of constants and parameters: no name in it could be a column's, of the target or of the source."""
    for index in range(span[0], span[1] + 1):
        if not text.is_name(index):
            continue
        after = text.token(index + 1) if index < span[1] else None
        called = after is not None and after.value == "(" and after.kind is Kind.PUNCT
        typed = text.value(index - 1) == "::" or (after is not None and after.kind is Kind.STRING)
        if text.value(index) == "select" or not (called or typed or text.value(index) in _OF_CONSTANTS):
            return False
    return True


def _actions(text: Text) -> Iterator[Span]:
    """What stands behind each THEN, up to the next WHEN."""
    cases = 0
    begin: int | None = None
    for index, word in text.outer_words():
        cases += (word == "case") - (word == "end")
        if cases:
            continue
        if word in {"when", "returning"} and begin is not None:
            yield begin, index - 1
            begin = None
        elif word == "then":
            begin = index + 1
    if begin is not None:
        yield begin, text.last


def _set(text: Text, action: Span) -> list[tuple[Span, str]] | None:
    first, last = action
    if text.value(first + 1) != "set" or first + 2 > last:
        return None
    found: list[tuple[Span, str]] = []
    for begin, end in split_at(text.lexed, (first + 2, last), ","):
        if text.value(begin + 1) != "=" or not text.is_name(begin) or begin + 2 > end:
            return None
        found.append(((begin + 2, end), text.value(begin)))
    return found


def _inserted(text: Text, action: Span, columns: Sequence[str]) -> list[tuple[Span, str]] | None:
    at, last = action[0] + 1, action[1]
    if text.value(at) == "(":
        closing = closing_of(text.lexed, at, last)
        names = [] if closing is None else split_at(text.lexed, (at + 1, closing - 1), ",")
        if closing is None or any(a != b for a, b in names):
            return None
        columns, at = [text.value(a) for a, _ in names], closing + 1
    if text.value(at) == "overriding":
        at += 3
    if text.value(at) == "default":
        return []
    if text.value(at) != "values" or text.value(at + 1) != "(" or text.value(last) != ")" or at + 2 > last - 1:
        return None
    items = split_at(text.lexed, (at + 2, last - 1), ",")
    return list(zip(items, columns, strict=False))
