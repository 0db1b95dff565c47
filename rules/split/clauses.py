"""Where the clauses of each SELECT begin and end, by tokens (PostgreSQL manual, SELECT).

The words that begin a clause are reserved, so outside parentheses they mean nothing else, but for the few that `_is_clause` tells apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.lexer import Lexed

_SETS: Final = frozenset({"union", "intersect", "except"})
_TAIL: Final = frozenset({"order", "limit", "offset", "fetch", "for"})
_CLAUSES: Final = frozenset({"into", "from", "where", "group", "having", "window"}) | _TAIL
_OPENING: Final = frozenset({"(", "["})
_CLOSING: Final = frozenset({")", "]"})

Span = tuple[int, int]


@dataclass(slots=True)
class Clauses:
    """One SELECT: tokens `first` (the word SELECT itself) to `last`, and the spans behind each clause's words.

    `spans`: by clause word, first and last token of what stands behind it (behind BY for GROUP and ORDER); empty clauses are left out.
    `starts`: by clause word, the token of the word. `alone`: no set operation has it as an arm, so ORDER BY and LIMIT are its own.
    `tail`: the first token of ORDER BY, LIMIT, OFFSET, FETCH or FOR, or None.
    """

    first: int
    last: int
    alone: bool = True
    spans: dict[str, Span] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    tail: int | None = None

    @property
    def items(self) -> Span | None:
        """The select list, without DISTINCT."""
        return self.spans.get("select")


def select_clauses(lexed: Lexed, first: int, last: int) -> list[Clauses]:
    """Every SELECT of tokens `first..last`, in the order of the text."""
    found: list[Clauses] = []
    levels: list[list[Clauses]] = [[]]
    for index in range(first, last + 1):
        token = lexed.tokens[index]
        value = token.value if token.kind in (Kind.WORD, Kind.PUNCT) else ""
        if value in _OPENING:
            levels.append([])
        elif value in _CLOSING:
            _end(lexed, levels.pop(), index - 1)
        elif value == "select" and not _is_name(lexed, index, first):
            made = Clauses(index, last)
            found.append(made)
            levels[-1].append(made)
        elif value in _SETS and not _is_name(lexed, index, first):
            _end_arm(levels[-1], index - 1)
        elif value in _CLAUSES and levels[-1] and levels[-1][-1].last == last and _is_clause(lexed, index, first):
            levels[-1][-1].starts.setdefault(value, index)
    _end(lexed, levels[0], last)
    for each in found:
        _spans(lexed, each)
    return found


def _is_name(lexed: Lexed, index: int, first: int) -> bool:
    """Whether a reserved word is a column's name or a label here."""
    return index > first and lexed.tokens[index - 1].value in {".", "as"}


def _is_clause(lexed: Lexed, index: int, first: int) -> bool:
    before = lexed.tokens[index - 1].value if index > first else ""
    word = lexed.tokens[index].value
    if before in {".", "as"}:
        return False
    if word == "from":
        return before != "distinct" or lexed.tokens[index - 2].value not in {"is", "not"}
    if word == "group":
        return before != "within"
    return True


def _end_arm(level: list[Clauses], at: int) -> None:
    for each in level:
        each.alone = False
    if level:
        level[-1].last = min(level[-1].last, at)


def _end(lexed: Lexed, level: list[Clauses], at: int) -> None:
    """The level's parenthesis closes."""
    if not level:
        return
    level[-1].last = min(level[-1].last, at)
    if len(level) > 1 or (level[0].first > 0 and _has_set_before(lexed, level[0].first)):
        for each in level:
            each.alone = False


def _has_set_before(lexed: Lexed, first: int) -> bool:
    """Whether the SELECT is a later arm, behind one in parentheses."""
    before = lexed.tokens[first - 1].value
    return before in _SETS or (before in {"all", "distinct"} and first > 1 and lexed.tokens[first - 2].value in _SETS)


def _spans(lexed: Lexed, block: Clauses) -> None:
    tails = [at for word, at in block.starts.items() if word in _TAIL]
    block.tail = min(tails, default=None)
    order = sorted((at, word) for word, at in [*block.starts.items(), ("select", block.first)] if at <= block.last)
    ends = [at - 1 for at, _ in order[1:]] + [block.last]
    for (at, word), end in zip(order, ends, strict=True):
        begin = at + 1
        if word in {"group", "order"} and begin <= end and lexed.tokens[begin].value == "by":
            begin += 1
        if word == "select":
            begin = _past_distinct(lexed, begin, end)
        if begin <= end:
            block.spans[word] = (begin, end)


def _past_distinct(lexed: Lexed, begin: int, end: int) -> int:
    if begin <= end and lexed.tokens[begin].value == "all" and lexed.tokens[begin].kind is Kind.WORD:
        return begin + 1
    if begin > end or lexed.tokens[begin].value != "distinct" or lexed.tokens[begin].kind is not Kind.WORD:
        return begin
    if begin + 1 <= end and lexed.tokens[begin + 1].value == "on":
        closing = closing_of(lexed, begin + 2, end)
        return end + 1 if closing is None else closing + 1
    return begin + 1


def closing_of(lexed: Lexed, opening: int, last: int) -> int | None:
    """The token that closes the bracket at `opening`; None where there is none up to `last`."""
    depth = 0
    for index in range(opening, last + 1):
        token = lexed.tokens[index]
        if token.kind is not Kind.PUNCT:
            continue
        depth += (token.value in _OPENING) - (token.value in _CLOSING)
        if depth == 0:
            return index
    return None


def split_at(lexed: Lexed, span: Span, word: str) -> list[Span]:
    """The pieces of a span between the `word`s outside brackets and CASE ... END. The AND of a BETWEEN is none."""
    pieces: list[Span] = []
    depth = cases = between = 0
    begin = span[0]
    for index in range(span[0], span[1] + 1):
        token = lexed.tokens[index]
        value = token.value if token.kind in (Kind.WORD, Kind.PUNCT) else ""
        depth += (value in _OPENING) - (value in _CLOSING)
        if depth or (index > span[0] and lexed.tokens[index - 1].value in {".", "as"}):
            continue
        cases += (value == "case") - (value == "end")
        if cases:
            continue
        between += value == "between"
        if value != word:
            continue
        if word == "and" and between:
            between -= 1
            continue
        pieces.append((begin, index - 1))
        begin = index + 1
    pieces.append((begin, span[1]))
    return pieces


def has_outside(lexed: Lexed, span: Span, word: str) -> bool:
    """Whether `word` stands in the span outside brackets and CASE ... END."""
    return len(split_at(lexed, span, word)) > 1
