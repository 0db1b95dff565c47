"""A file of SQL statements, as psql reads it: statements end in semicolons, lines that begin with a backslash are psql's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.workload.entry import Entry, Passed, is_text
from rules.classify import StatementKind, classify, copy_table
from rules.lexer import Lexed, LexError, lex
from rules.tokens import LexLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.workload.entry import Item, Lines

# A text that grows without coming to an end is scanned again at lines that may end it: at each while it is short, then ever less often, so
# that the time stays in proportion to its length. It is given up where it is longer than any statement that is judged.
_SHORT: Final = 16 * 1024
_MAX_PIECE: Final = LexLimits().max_length
_END_OF_COPY: Final = "\\."


def read_sql(lines: Lines) -> Iterator[Item]:
    """Every statement of the file, one by one."""
    return _Reader(lines).items()


class _Reader:
    """Collects lines until they are whole statements."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._copying = False  # COPY's data follow, up to a line of their own

    def items(self) -> Iterator[Item]:
        piece: list[str] = []
        size = first = worth = 0
        for line in self._lines:
            number = self._lines.number
            if self._copying:
                self._copying = line.rstrip("\r\n") != _END_OF_COPY
                continue
            if not piece and line.lstrip().startswith("\\"):
                yield Passed(number, "a command of psql's", bad=False)
                continue
            if not piece and not line.strip():
                continue
            if not piece:
                first = number
            piece.append(line)
            size += len(line)
            found = None
            if size >= worth and _may_end(line):
                found = self._whole("".join(piece), first)
                worth = 0 if size < _SHORT else size + size // 8
            if found is None and size > _MAX_PIECE:
                found = [Passed(first, "no end of the statement was found")]
            if found is not None:
                yield from found
                piece, size, worth = [], 0, 0
        if piece:
            yield from self._rest("".join(piece), first)

    def _whole(self, text: str, first: int) -> list[Item] | None:
        """The statements of a text that ends where a statement may; None where it goes on."""
        if not is_text(text):
            return [Passed(first, "not UTF-8, or too long")]
        try:
            lexed = lex(text)
        except LexError:
            return None  # a string, a comment or a parenthesis is open
        if not lexed.tokens:
            return []
        last = len(lexed.tokens) - 1
        if lexed.tokens[last].value != ";" or (lexed.statements and lexed.statements[-1][1] == last):
            return None  # the semicolon is in a comment, or inside a function's body
        return self._entries(lexed, first)

    def _rest(self, text: str, first: int) -> list[Item]:
        """The file's end, which no semicolon closes."""
        try:
            return self._entries(lex(text), first) if is_text(text) else [Passed(first, "not UTF-8, or too long")]
        except LexError:
            return [Passed(first, "no end of the statement was found")]

    def _entries(self, lexed: Lexed, first: int) -> list[Item]:
        found: list[Item] = []
        for begin, end in lexed.statements:
            start, stop = lexed.tokens[begin].start, lexed.tokens[end].end
            found.append(Entry(first + lexed.text.count("\n", 0, start), lexed.text[start:stop]))
            self._copying = _reads_data(lexed, begin, end)
        return found


def _may_end(line: str) -> bool:
    """Whether a statement may end with the line: behind its last semicolon there is at most a comment."""
    _, semicolon, rest = line.rpartition(";")
    return bool(semicolon) and (not rest.strip() or rest.lstrip().startswith(("--", "/*")))


def _reads_data(lexed: Lexed, first: int, last: int) -> bool:
    """Whether the statement is COPY ... FROM STDIN, whose data follow in the file."""
    part = classify(lexed, first, last)
    if part.kind is not StatementKind.COPY_TABLE:
        return False
    parsed = copy_table(lexed, part.first, part.last)
    words = {token.value for token in lexed.tokens[first : last + 1]}
    return parsed is not None and parsed.writes and "stdin" in words
