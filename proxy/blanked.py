"""A text with its constants blanked, so that the server can say what is wrong with it without seeing a value.

A statement that pgveil does not understand is most often a typing error, and the server's own words for it are better than ours. But a
server logs the text of what fails (log_min_error_statement), and a value for a sealed column must never be in its logs. So it is shown
the same text with every constant replaced by a number of the same length: `'Mary'` by `'1000'`, `42` by `10`. Positions stay right, and a
number is what most types take (casts such as '...'::regclass included), so that nothing is wrong with the blanked text that was not
wrong with the real one; the session leaves out the errors that are about values (class 22).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.session.gate import ServerCheck
from rules.encodings import EncodingError, encode_sql
from rules.lexer import Kind, LexError, lex

if TYPE_CHECKING:
    from proxy.session.gate import Settings
    from rules.lexer import Lexed

_TAG: Final = re.compile(r"\$[^$]*\$")
_OPENING: Final = re.compile(r"(?:[eEnNbBxX]|[uU]&)?'")
# Semicolons instead: no two strings become one over them.
_NO_BRACKETS: Final = str.maketrans(dict.fromkeys("()[]", ";"))
_PLACE: Final = re.compile(r"[0-9]{1,4}")
_AFTER_LIST: Final = frozenset(
    {"having", "window", "union", "intersect", "except", "limit", "offset", "fetch", "for", "order", "select", "values"}
)
_AFTER_PLACE: Final = _AFTER_LIST | {",", ")", ";", "asc", "desc", "nulls"}
_DECIMAL: Final = re.compile(r"[0-9.]+")


def server_check(lexed: Lexed, client_encoding: str) -> ServerCheck | None:
    """What the server is to be asked about a text; None where that can't be written in the client's encoding."""
    return _check(lexed.text, _blanks(lexed, lexed.text), client_encoding)


def check_garbled(text: str, error: LexError, settings: Settings) -> ServerCheck | None:
    """As `server_check`, for a text that is none: brackets that do not match, or a string that does not end. None for anything else."""
    opening = _OPENING.match(text, error.position)
    end = len(text) if opening is None else error.position
    try:
        lexed = lex(
            text[:end].translate(_NO_BRACKETS), standard_conforming_strings=settings.standard_conforming_strings
        )
    except LexError:
        return None
    blanks = _blanks(lexed, text)
    if opening is not None:
        blanks.append((end, len(text), opening.group() + _digits(len(text) - opening.end())))
    return _check(text, blanks, settings.client_encoding)


def _blanks(lexed: Lexed, text: str) -> list[tuple[int, int, str]]:
    """Where the constants are, from and to, and what stands for them."""
    blanks = []
    places = _places(lexed)
    for index in lexed.literals:
        if index in places:
            continue
        token = lexed.tokens[index]
        source = text[token.start : token.end]
        blanks.append((token.start, token.end, _number(source) if token.kind is Kind.NUMBER else _string(source)))
    return blanks


def _places(lexed: Lexed) -> set[int]:
    """Numbers that stand alone in ORDER BY or GROUP BY: they name columns of the result by their places, and are no values."""
    found: set[int] = set()
    lists = [False]
    tokens = lexed.tokens
    for index, token in enumerate(tokens):
        if token.kind is Kind.PUNCT and token.value in {"(", "["}:
            lists.append(False)
        elif token.kind is Kind.PUNCT and token.value in {")", "]"}:
            lists = lists[:-1] or [False]
        elif token.kind is Kind.WORD and token.value == "by":
            lists[-1] = index > 0 and tokens[index - 1].value in {"order", "group"}
        elif token.kind is Kind.WORD and token.value in _AFTER_LIST:
            lists[-1] = False
        elif token.kind is Kind.NUMBER and lists[-1] and _is_place(lexed, index):
            found.add(index)
    return found


def _is_place(lexed: Lexed, index: int) -> bool:
    tokens = lexed.tokens
    after = tokens[index + 1].value if index + 1 < len(tokens) else ";"
    alone = tokens[index - 1].value in {"by", ","} and after in _AFTER_PLACE
    return alone and _PLACE.fullmatch(lexed.text[tokens[index].start : tokens[index].end]) is not None


def _check(text: str, blanks: list[tuple[int, int, str]], client_encoding: str) -> ServerCheck | None:
    pieces: list[str] = []
    constants: list[tuple[int, bytes, bytes]] = []
    at = 0
    try:
        for start, end, blank in blanks:
            pieces += (text[at:start], blank)
            at = end
            source = text[start:end]
            constants.append((start + 1, encode_sql(blank, client_encoding), encode_sql(source, client_encoding)))
        pieces.append(text[at:])
        return ServerCheck(encode_sql("".join(pieces), client_encoding), tuple(constants))
    except EncodingError:
        return None


def _digits(length: int) -> str:
    """The smallest number of that many digits: ORDER BY 12 must not become a place that does not exist."""
    return "1" + "0" * (length - 1) if length else ""


def _number(source: str) -> str:
    if _DECIMAL.fullmatch(source) is None:
        return _digits(len(source))
    blank = re.sub("[0-9]", "0", source)
    return blank.replace("0", "1", 1)


def _string(source: str) -> str:
    tag = _TAG.match(source)
    if tag is not None:
        first, last = tag.end(), len(source) - tag.end()
    else:
        first, last = source.index("'") + 1, source.rindex("'")
    return source[:first] + _digits(last - first) + source[last:]
