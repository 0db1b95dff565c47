"""Conditions that compare a sealed column with a computed value, as in `email = lower($1)`: computed first, they are a search like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.lexer import Kind
from rules.split.clauses import Span, has_outside, select_clauses, split_at
from rules.split.writing import WriteText, is_constant, one_row

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rules.split.text import Text

_MAX_FOLDED = 16


def fold(text: Text, columns: Collection[str], judge: Callable[[str], bool]) -> WriteText | None:
    """The statement with its computed values as parameters; None where there are none, or the database can't do it all the same.

    `columns`: the names of all columns of the relations that it names: what holds none of them is the same for every row.
    """
    found = [
        value for where in _conditions(text) for piece in where if (value := _value(text, piece, columns)) is not None
    ]
    uses = [t for t in text.survey.tables if t.relation is not None]
    if not 0 < len(found) <= _MAX_FOLDED or not uses:
        return None
    numbers = [int(t.value) for t in text.lexed.tokens[text.first : text.last + 1] if t.kind is Kind.PARAM]
    first = max(numbers, default=0) + 1
    pieces: list[str] = []
    at = text.token(text.first).start
    for index, span in enumerate(sorted(found)):
        pieces += [text.lexed.text[at : text.token(span[0]).start], f"${first + index}"]
        at = text.token(span[1]).end
    pieces.append(text.lexed.text[at : text.token(text.last).end])
    apply = "".join(pieces)
    if not judge(apply):
        return None
    values = [f"({text.source(span)})" for span in sorted(found)]
    targets = (None,) * len(found)
    relation = uses[0].relation
    assert relation is not None
    return WriteText(one_row(values), None, apply, first, many=False, columns=targets, relation=relation)


def _conditions(text: Text) -> list[list[Span]]:
    """The conditions joined by AND of every WHERE."""
    spans = [c.spans["where"] for c in select_clauses(text.lexed, text.first, text.last) if "where" in c.spans]
    if text.value(text.first) in {"update", "delete"}:
        spans += _own_where(text)
    return [split_at(text.lexed, span, "and") for span in spans if not has_outside(text.lexed, span, "or")]


def _own_where(text: Text) -> list[Span]:
    begin: int | None = None
    for index, word in text.outer_words():
        if word == "where":
            begin = index + 1
        elif word == "returning" and begin is not None:
            return [(begin, index - 1)]
    return [] if begin is None or begin > text.last else [(begin, text.last)]


def _value(text: Text, piece: Span, columns: Collection[str]) -> Span | None:
    """The computed value in `column = value` or `value = column`."""
    if has_outside(text.lexed, piece, "not"):
        return None
    sides = _sides(text, piece)
    if sides is None:
        return None
    for column, value in (sides, sides[::-1]):
        if _is_column(text, column, columns) and not is_constant(text, value) and _same_for_all(text, value, columns):
            return value
    return None


def _sides(text: Text, piece: Span) -> tuple[Span, Span] | None:
    depth = 0
    equals: list[int] = []
    for index in range(piece[0], piece[1] + 1):
        token = text.token(index)
        if token.kind is Kind.PUNCT:
            depth += (token.value in "([") - (token.value in ")]")
        elif depth == 0 and token.kind is Kind.OP and token.value in {"=", "<", ">", "<=", ">=", "<>"}:
            equals.append(index if token.value == "=" else -1)
    if len(equals) != 1 or equals[0] <= piece[0] or equals[0] >= piece[1]:
        return None
    return (piece[0], equals[0] - 1), (equals[0] + 1, piece[1])


def _is_column(text: Text, span: Span, columns: Collection[str]) -> bool:
    if not text.is_name(span[1]) or text.value(span[1]) not in columns:
        return False
    return span[0] == span[1] or (span[1] - span[0] == 2 and text.value(span[0] + 1) == ".")


def _same_for_all(text: Text, span: Span, columns: Collection[str]) -> bool:
    words = {text.value(i) for i in range(span[0], span[1] + 1) if text.is_name(i)}
    logical = {"is", "like", "ilike", "in", "between", "similar", "any", "all", "some", "isnull", "notnull"}
    return (
        words.isdisjoint(columns)
        and words.isdisjoint({"select", *logical})
        and words.isdisjoint(t.shown for t in text.survey.tables)
    )
