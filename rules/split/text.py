"""One statement's tokens with what the analysis said of them: the view that every proposal works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from rules.lexer import Kind
from rules.split.clauses import Clauses, Span, select_clauses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.analyse import Survey
    from rules.analyse.record import Block, TableUse
    from rules.lexer import Lexed, Token

NAMES: Final = (Kind.WORD, Kind.QUOTED)


@dataclass(slots=True)
class Text:
    """The statement of tokens `first..last`. `relation_tokens`: those that name a relation in FROM, or are its alias there."""

    lexed: Lexed
    first: int
    last: int
    survey: Survey
    blocks: list[tuple[Clauses, Block]] = field(default_factory=list)
    relation_tokens: set[int] = field(default_factory=set)
    _depths: list[int] = field(default_factory=list, init=False, repr=False)

    def depth(self, index: int) -> int:
        """In how many parentheses and brackets a token of the statement stands."""
        if not self._depths:
            depth = 0
            for token in self.lexed.tokens[self.first : self.last + 1]:
                self._depths.append(depth)
                if token.kind is Kind.PUNCT:
                    depth += (token.value in "([") - (token.value in ")]")
        return self._depths[index - self.first]

    def token(self, index: int) -> Token:
        """A token."""
        return self.lexed.tokens[index]

    def value(self, index: int) -> str:
        """A token's value, '' outside the statement and for constants."""
        return self.lexed.tokens[index].value if self.first <= index <= self.last else ""

    def source(self, span: Span) -> str:
        """The client's own text from a span's first token to its last."""
        return self.lexed.text[self.lexed.tokens[span[0]].start : self.lexed.tokens[span[1]].end]

    def is_name(self, index: int) -> bool:
        """Whether a token is an identifier or keyword."""
        return self.lexed.tokens[index].kind in NAMES

    def outer_words(self) -> Iterator[tuple[int, str]]:
        """Unquoted words outside parentheses and brackets, with their indexes; none that names something by its place (behind a dot or AS)."""
        depth = 0
        for index in range(self.first, self.last + 1):
            token = self.token(index)
            if token.kind is Kind.PUNCT:
                depth += (token.value in "([") - (token.value in ")]")
            if not depth and token.kind is Kind.WORD and self.value(index - 1) not in {".", "as"}:
                yield index, token.value

    def tables_in(self, span: Span) -> list[TableUse]:
        """The relations named in a span."""
        return [t for t in self.survey.tables if span[0] <= t.first and t.last <= span[1]]

    def names_cte(self, span: Span) -> bool:
        """Whether a common table expression is named in a span."""
        return any(span[0] <= t <= span[1] for t in self.survey.cte_references)

    @property
    def modifies(self) -> bool:
        """Whether the statement writes, locks rows or stores its result."""
        root = self.survey.tree.root
        if root.find(exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Into) is not None:
            return True
        if root.find(exp.Lock) is not None and self.locking is None:
            return True
        return not isinstance(root, exp.Query | exp.Table)

    @property
    def locking(self) -> Span | None:
        """The locking clauses of a statement that is one SELECT, where the rows that are locked are all those that it finds."""
        if len(self.blocks) != 1:
            return None
        clauses = self.blocks[0][0]
        if "for" not in clauses.starts or not {"limit", "offset", "fetch"}.isdisjoint(clauses.starts):
            return None
        return clauses.starts["for"], clauses.last


def read(lexed: Lexed, statement: Span, survey: Survey) -> Text | None:
    """The statement with its SELECTs found both ways; None where the two ways do not agree."""
    text = Text(lexed, *statement, survey)
    clauses = select_clauses(lexed, *statement)
    silent = []  # without a token of their own, as SELECT NULL
    for block in survey.blocks:
        if _is_values(block.node):
            continue
        own = next(iter(_own_tokens(text, block.node)), None)
        inside = [] if own is None else [c for c in clauses if c.first < own <= c.last]
        if own is None:
            silent.append(block)
        elif inside:
            text.blocks.append((max(inside, key=lambda c: c.first), block))
        else:
            return None
    found = {c.first for c, _ in text.blocks}
    left = [c for c in clauses if c.first not in found]
    if len(left) != len(silent) or len(text.blocks) != len(found):
        return None
    text.blocks += zip(left, silent, strict=True)
    text.blocks.sort(key=lambda pair: pair[0].first)
    for use in survey.tables:
        text.relation_tokens |= set(range(use.first, use.last + 1))
        if use.aliased:
            at = use.last + 1 + (text.value(use.last + 1) == "*")
            text.relation_tokens.add(at + (text.value(at) == "as"))
    return text


def _is_values(node: exp.Select) -> bool:
    """Whether sqlglot has made the SELECT of a VALUES in a WITH."""
    source = node.args.get("from_")
    values = None if source is None else source.this
    return isinstance(values, exp.Values) and values.alias == "_values"


def _own_tokens(text: Text, node: exp.Select) -> Iterator[int]:
    """Tokens of a SELECT that are in none of its subqueries."""
    pending: list[exp.Expr] = [
        child for key, child in _children(node) if key != "with_" and not isinstance(child, exp.Query)
    ]
    while pending:
        each = pending.pop(0)
        token = text.survey.tree.token_of(each) if isinstance(each, exp.Identifier | exp.Star) else None
        if token is None:
            token = text.survey.tree.constant_token(each)
        if token is not None:
            yield token
        pending += [child for _, child in _children(each) if not isinstance(child, exp.Query)]


def _children(node: exp.Expr) -> Iterable[tuple[str, exp.Expr]]:
    for key, value in node.args.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, exp.Expr):
                yield key, each
