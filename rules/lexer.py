"""PostgreSQL's tokens: where names, constants, operators and statements begin and end.

Follows the server's own scanner (src/backend/parser/scan.l and the look-ahead of parser.c, versions 15 to 18; documentation chapter 4.1,
"Lexical Structure"). One compiled regular expression does the bulk. Where the versions disagree the text is refused unless they agree on
every token boundary: a vertical tab between tokens is white space from 17 on and an error before, so it is refused; `0x1F` and `1_000` are
numbers from 16 on and errors before, so they are numbers here.

The server scans after it has converted the text to its own encoding. Identifiers are folded and truncated, and `\\x` escapes are read, as a
server with encoding UTF8 does it.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from rules.budget import Budget
from rules.literals import CONTINUED, bits_value, escaped_value, number_value, plain_value, unicode_value
from rules.tokens import Kind, Lexed, LexError, LexLimitError, LexLimits, Token

__all__ = ["Kind", "LexError", "LexLimitError", "LexLimits", "Lexed", "Token", "lex", "literal_value"]

DEFAULT_LIMITS: Final = LexLimits()
MAX_IDENTIFIER_BYTES: Final = 63
MAX_OPERATOR_LENGTH: Final = 63
_TOKENS_A_STEP: Final = 8
MAX_PARAMETER: Final = 2**31 - 1

# The parts of the regular expression. Everything that repeats is possessive, so that no text makes it slow. Groups are made so by `(?>...)`
# and not by `(...)*+`: Python before 3.11.5 matches those wrongly (python/cpython#106052), and Debian 12 has such a one.
_HIGH = "\x80-\U0010ffff"  # in a server encoding every byte of a non-ASCII character has its high bit set, and may be in a name
_GAP = r"(?>(?:[ \t\n\r\f]++|--[^\n\r]*+|/\*[^*/]*+\*/)*)"
_PLAIN = rf"'[^']*+(?>(?:'(?:'|{CONTINUED})[^']*+)*)'"
_ESCAPED = rf"'[^'\\]*+(?>(?:(?:\\.|'(?:'|{CONTINUED}))[^'\\]*+)*)'"
_BITS = rf"[bBxX]'[^']*+(?>(?:'{CONTINUED}[^']*+)*)'"
_DOLLAR = rf"\$((?>(?:[A-Za-z_{_HIGH}][A-Za-z0-9_{_HIGH}]*+)?))\$.*?\$\2\$"
_QUOTED = r'"[^"]*+(?>(?:""[^"]*+)*)"'
_NAME = rf"(?![eEbBxXnN]'|[uU]&[\"'])[A-Za-z_{_HIGH}][A-Za-z0-9_${_HIGH}]*+"
_DIGITS = r"[0-9]++(?>(?:_[0-9]++)*)"
_REAL = rf"(?:{_DIGITS}(?>(?:\.(?!\.)(?>(?:{_DIGITS})?))?)|\.{_DIGITS})(?>(?:[eE][+-]?+{_DIGITS})?)"
# The server finds the junk behind a number by longest match; `$` is junk for some forms in some versions, and an error of its own in others.
_NUMBER = rf"(?>0[xX](?:_?[0-9A-Fa-f])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|{_REAL})(?![A-Za-z0-9_${_HIGH}])"
_PARAM = rf"\$[0-9]++(?![A-Za-z_{_HIGH}])"
_PUNCT = r"[(),;\[\]]|\.\.|\.(?![0-9])|::|:=|:"
_OPERATORS = r"(?>(?:(?!--|/\*)[~!@#^&|`?%+\-*/<>=])+)"

# Group numbers; 2 is the tag of a dollar-quoted constant. The order of the alternatives is free: no two begin alike, but for the
# exclusions that they spell out.
_G_DOLLAR, _G_WORD, _G_PUNCT, _G_OP, _G_PLAIN, _G_NUMBER, _G_PARAM = 1, 3, 4, 5, 6, 7, 8
_G_QUOTED, _G_ESCAPED, _G_BITS, _G_UNICODE, _G_COMMENT, _G_END, _G_BAD = 9, 10, 11, 12, 13, 14, 15


def _tokens_pattern(plain: str, unicode_forms: str) -> re.Pattern[str]:
    groups = (
        _NAME,
        _PUNCT,
        _OPERATORS,
        rf"[nN]?+{plain}",
        _NUMBER,
        _PARAM,
        _QUOTED,
        rf"[eE]{_ESCAPED}",
        _BITS,
        rf"[uU]&(?:{unicode_forms})",
        r"/\*",
        r"\Z",
        r".",
    )
    return re.compile(f"{_GAP}(?:({_DOLLAR})|{'|'.join(f'({g})' for g in groups)})", re.DOTALL)


_CONFORMING: Final = _tokens_pattern(_PLAIN, f"{_PLAIN}|{_QUOTED}")
_BACKSLASHES: Final = _tokens_pattern(_ESCAPED, _QUOTED)
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_GAP_RE: Final = re.compile(_GAP)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
_UESCAPE_RE: Final = re.compile(rf"[uU][eE][sS][cC][aA][pP][eE](?![A-Za-z0-9_${_HIGH}])")
_UNICODE_RE: Final = re.compile(rf"[uU]&(?:{_PLAIN}|{_QUOTED})")
_SIGN_KEEPERS: Final = frozenset("~!@#^&|`?%")  # an operator with one of these may end in + or -
_ASCII_FOLD: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_NOT_UESCAPE: Final = frozenset("0123456789abcdefABCDEF+'\" \t\n\r\f\v")


def lex(
    text: str,
    *,
    standard_conforming_strings: bool = True,
    limits: LexLimits = DEFAULT_LIMITS,
    budget: Budget | None = None,
) -> Lexed:
    """The tokens of `text`, which may hold several statements. `budget`: on whose account it is planned; its own if None.

    Raises LexError where the server would refuse the text while scanning it, where versions of the server disagree, and beyond `limits`.
    """
    if len(text) > limits.max_length:
        raise LexLimitError(f"statement text is longer than {limits.max_length} characters", 0)
    if "\0" in text:
        raise LexError("statement text holds a NUL character", text.index("\0"))
    lone = None if text.isascii() else _SURROGATE.search(text)
    if lone is not None:
        raise LexError("statement text is not valid Unicode", lone.start())
    scan = _Scan(text, standard_conforming_strings, limits)
    scan.run()
    return scan.result(Budget.of(len(text)) if budget is None else budget)


class _Scan:
    """One pass over one text."""

    __slots__ = (
        "depth",
        "limits",
        "literals",
        "parts",
        "pattern",
        "quoted",
        "scs",
        "semicolons",
        "sensitive",
        "text",
        "tokens",
        "words",
    )

    def __init__(self, text: str, scs: bool, limits: LexLimits) -> None:
        self.text = text
        self.scs = scs
        self.limits = limits
        self.pattern = _CONFORMING if scs else _BACKSLASHES
        self.tokens: list[Token] = []
        self.parts: list[str] = []
        self.words: set[str] = set()
        self.quoted: set[str] = set()
        self.literals: list[int] = []
        self.semicolons: list[int] = []
        self.depth = 0
        self.sensitive = False

    def run(self) -> None:
        """Fill in the tokens."""
        at = 0
        while at >= 0:
            at = self._stretch(at)
        if self.depth:
            raise LexError("syntax error at end of input: a parenthesis is not closed", len(self.text))

    def _stretch(self, at: int) -> int:
        """Take tokens from `at` up to where the regular expression alone can't go on; the offset to go on from, -1 at the end."""
        text, tokens = self.text, self.tokens
        add, part, word = tokens.append, self.parts.append, self.words.add
        budget = self.limits.max_tokens - len(tokens)
        for match in islice(self.pattern.finditer(text, at), budget + 1):
            group = match.lastindex or _G_BAD
            start, end = match.span(group)
            value = text[start:end]
            if group == _G_WORD:
                value = value.lower() if value.isascii() and end - start <= MAX_IDENTIFIER_BYTES else _fold(value)
                add(Token(Kind.WORD, start, end, value))
                word(value)
                part(value)
            elif group == _G_PUNCT:
                if value not in {",", "."}:
                    self._nest(value, start)
                add(Token(Kind.PUNCT, start, end, value))
                part(value)
            elif group == _G_NUMBER:
                self.literals.append(len(tokens))
                add(Token(Kind.NUMBER, start, end, value))
                part("0")
            elif group == _G_OP and end - start == 1:
                add(Token(Kind.OP, start, end, value))
                part(value)
            elif group == _G_END:
                return -1
            else:
                resume = self._rarer(group, start, end)
                if resume != end:
                    return resume
        raise LexLimitError(f"statement text has more than {self.limits.max_tokens} tokens", at)

    def _rarer(self, group: int, start: int, end: int) -> int:
        """Take one token of the less common kinds; the offset behind what it consumed."""
        text = self.text
        if group == _G_QUOTED:
            self._identifier(text[start + 1 : end - 1].replace('""', '"'), start, end)
        elif group == _G_PLAIN:
            self.sensitive = self.sensitive or text.find("\\", start, end) >= 0
            self._literal(Kind.STRING, start, end, "'s'" if text[start] == "'" else "n's'")
        elif group == _G_PARAM:
            self._parameter(start, end)
        elif group in {_G_ESCAPED, _G_DOLLAR}:
            self._literal(Kind.STRING, start, end, "'s'")
        elif group == _G_BITS:
            self._literal(Kind.BITSTRING, start, end, "b's'")
        elif group == _G_OP:
            return self._operator(start, end)
        elif group == _G_COMMENT:
            return _comment_end(text, start)
        elif group == _G_UNICODE:
            return self._unicode(start, end)
        else:
            raise LexError(_complaint(text, start, self.scs), start)
        return end

    def _literal(self, kind: Kind, start: int, end: int, part: str) -> None:
        self.literals.append(len(self.tokens))
        self.tokens.append(Token(kind, start, end, ""))
        self.parts.append(part)

    def _parameter(self, start: int, end: int) -> None:
        number = self.text[start + 1 : end].lstrip("0") or "0"
        if len(number) > 10 or int(number) > MAX_PARAMETER:
            raise LexError("parameter number too large", start)
        self.tokens.append(Token(Kind.PARAM, start, end, number))
        self.parts.append("$" + number)

    def _identifier(self, name: str, start: int, end: int) -> None:
        if not name:
            raise LexError("zero-length delimited identifier", start)
        name = _truncate(name)
        self.tokens.append(Token(Kind.QUOTED, start, end, name))
        self.words.add(name)
        self.quoted.add(name)
        self.parts.append('"' + name.replace('"', '""') + '"')

    def _operator(self, start: int, end: int) -> int:
        """Apply the rule for a trailing + or -; what it gives back is scanned again."""
        if end - start > MAX_OPERATOR_LENGTH:
            raise LexError("operator too long", start)
        value = self.text[start:end]
        if value[-1] in "+-" and _SIGN_KEEPERS.isdisjoint(value):
            value = value.rstrip("+-") or value[0]
        end = start + len(value)
        value = "<>" if value == "!=" else value
        self.tokens.append(Token(Kind.OP, start, end, value))
        self.parts.append(value)
        return end

    def _unicode(self, start: int, end: int) -> int:
        """Take U&'...' or U&"..." together with its UESCAPE clause."""
        if self.text[start + 2] == "'":
            tail = _uescape_tail(self.text, end, self.pattern, self.scs)
            self._literal(Kind.STRING, start, tail[0], "'s'")
            return tail[0]
        if end - start == 4:
            raise LexError("zero-length delimited identifier", start)
        tail = _uescape_tail(self.text, end, self.pattern, self.scs)
        body = self.text[start + 3 : end - 1].replace('""', '"')
        self._identifier(unicode_value(body, tail[1], start), start, tail[0])
        return tail[0]

    def _nest(self, value: str, start: int) -> None:
        """Follow parentheses and brackets, and note the semicolons outside of them."""
        if value in {"(", "["}:
            self.depth += 1
            if self.depth > self.limits.max_depth:
                raise LexLimitError(f"parentheses nest deeper than {self.limits.max_depth}", start)
        elif value in {")", "]"}:
            self.depth -= 1
            if self.depth < 0:
                raise LexError("syntax error: a parenthesis was not opened", start)
        elif value == ";" and self.depth == 0:
            self.semicolons.append(len(self.tokens))

    def result(self, budget: Budget) -> Lexed:
        """The outcome as a value."""
        tokens = tuple(self.tokens)
        budget.spend(len(tokens) // _TOKENS_A_STEP)
        semicolons = self.semicolons
        if semicolons and "atomic" in self.words:
            semicolons = _between_statements(tokens, semicolons)
        return Lexed(
            text=self.text,
            tokens=tokens,
            shape=" ".join(self.parts),
            words=frozenset(self.words),
            quoted_words=frozenset(self.quoted),
            literals=tuple(self.literals),
            statements=_statements(semicolons, len(tokens)),
            backslash_sensitive=self.sensitive,
            standard_conforming_strings=self.scs,
            budget=budget,
        )


def _fold(name: str) -> str:
    """Fold ASCII letters to lower case, and no others; truncate."""
    return _truncate(name.lower() if name.isascii() else name.translate(_ASCII_FOLD))


def _truncate(name: str) -> str:
    """At most 63 bytes of UTF-8, cut between characters."""
    if name.isascii():
        return name[:MAX_IDENTIFIER_BYTES]
    raw = name.encode()
    return name if len(raw) <= MAX_IDENTIFIER_BYTES else raw[:MAX_IDENTIFIER_BYTES].decode(errors="ignore")


def _comment_end(text: str, start: int) -> int:
    """The offset behind the block comment that begins at `start`; they nest."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(text, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise LexError("unterminated /* comment", start)


def _gap_end(text: str, at: int) -> int:
    """The offset of the next thing that is neither white space nor a comment."""
    while True:
        gap = _GAP_RE.match(text, at)
        at = at if gap is None else gap.end()
        if not text.startswith("/*", at):
            return at
        at = _comment_end(text, at)


def _uescape_tail(text: str, at: int, pattern: re.Pattern[str], scs: bool) -> tuple[int, str]:
    """The UESCAPE clause that may follow at `at`: the offset behind it (`at` without one), and the escape character."""
    word = _UESCAPE_RE.match(text, _gap_end(text, at))
    if word is None:
        return at, "\\"
    start = _gap_end(text, word.end())
    match = pattern.match(text, start)
    group = _G_BAD if match is None else match.lastindex
    if match is None or group not in {_G_PLAIN, _G_ESCAPED, _G_DOLLAR} or text[start] in "nN":
        raise LexError("UESCAPE must be followed by a simple string literal", start)
    char = _string_value(text, start, match.end(), scs)
    if len(char) != 1 or not char.isascii() or char in _NOT_UESCAPE:
        raise LexError("invalid Unicode escape character", start)
    return match.end(), char


def _complaint(text: str, at: int, scs: bool) -> str:
    """The server's message for what begins at `at` and is no token."""
    char = text[at]
    if char in "uU" and text[at + 2] == "'" and not scs:
        return "unsafe use of string constant with Unicode escapes"
    if char == '"' or (char in "uU" and text[at + 2] == '"'):
        return "unterminated quoted identifier"
    if char in "bB":
        return "unterminated bit string literal"
    if char in "xX":
        return "unterminated hexadecimal string literal"
    if char in "'eEnNuU":
        return "unterminated quoted string"
    if char.isdigit() or char == ".":
        return "trailing junk after numeric literal"
    if char == "$":
        if text[at + 1 : at + 2].isdigit():
            return "trailing junk after parameter"
        if re.match(rf"\$(?>(?:[A-Za-z_{_HIGH}][A-Za-z0-9_{_HIGH}]*+)?)\$", text[at:]):
            return "unterminated dollar-quoted string"
    return "syntax error"


def _statements(semicolons: list[int], count: int) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    first = 0
    for semicolon in [*semicolons, count]:
        if semicolon > first:
            found.append((first, semicolon - 1))
        first = semicolon + 1
    return tuple(found)


def _between_statements(tokens: tuple[Token, ...], semicolons: list[int]) -> list[int]:
    """Those of the outermost semicolons that are not inside the body of a function: CREATE FUNCTION ... BEGIN ATOMIC ...; END.

    In a body every statement ends in a semicolon and none can begin with END, so the END that closes the body is the one that stands
    behind a semicolon or behind ATOMIC. Any other END belongs to a CASE or is a column's name. A body can hold CREATE FUNCTION again.
    """
    outside: list[int] = []
    stops = frozenset(semicolons)
    bodies = 0
    awaited = _creates_routine(tokens, 0)  # the statement at hand may still get a body
    nesting = 0
    for at, (kind, _, _, value) in enumerate(tokens):
        if at in stops:
            if bodies == 0:
                outside.append(at)
            awaited = _creates_routine(tokens, at + 1)
        elif kind is Kind.PUNCT:
            nesting += (value in {"(", "["}) - (value in {")", "]"})
        elif kind is not Kind.WORD or nesting:
            continue
        elif awaited and value == "atomic" and _is_word(tokens, at - 1, "begin"):
            bodies += 1
            awaited = _creates_routine(tokens, at + 1)
        elif (
            bodies
            and value == "end"
            and (at - 1 in stops or (_is_word(tokens, at - 1, "atomic") and _is_word(tokens, at - 2, "begin")))
        ):
            bodies -= 1
            awaited = False
    return outside


def _is_word(tokens: tuple[Token, ...], at: int, *values: str) -> bool:
    return 0 <= at < len(tokens) and tokens[at].kind is Kind.WORD and tokens[at].value in values


def _creates_routine(tokens: tuple[Token, ...], at: int) -> bool:
    """Whether a statement that begins at token `at` is CREATE [OR REPLACE] FUNCTION or PROCEDURE."""
    if not _is_word(tokens, at, "create"):
        return False
    replaces = _is_word(tokens, at + 1, "or") and _is_word(tokens, at + 2, "replace")
    return _is_word(tokens, at + (3 if replaces else 1), "function", "procedure")


def literal_value(lexed: Lexed, index: int) -> str:
    """The value of the STRING, BITSTRING or NUMBER token `index`.

    BITSTRING gives its bits, one character each. NUMBER gives decimal text that every version's type input reads: underscores are left
    out, 0x, 0o and 0b converted, the rest as written ("1.", ".5", "1e5").
    Raises LexError for escapes and digits that the server refuses, and for `\\v` in an escape string, which versions read differently.
    """
    token = lexed.tokens[index]
    if token.kind is Kind.STRING:
        return _string_value(lexed.text, token.start, token.end, lexed.standard_conforming_strings)
    if token.kind is Kind.BITSTRING:
        return bits_value(
            lexed.text[token.start + 2 : token.end - 1], hexadecimal=lexed.text[token.start] in "xX", start=token.start
        )
    if token.kind is Kind.NUMBER:
        return number_value(token.value, token.start)
    raise LexError("the token is not a constant", token.start)


def _string_value(text: str, start: int, end: int, scs: bool) -> str:
    lead = text[start]
    if lead == "$":
        skip = text.index("$", start + 1) + 1 - start
        return text[start + skip : end - skip]
    if lead in "uU":
        return _unicode_constant(text, start, end, scs)
    quote = start if lead == "'" else start + 1
    body = text[quote + 1 : end - 1]
    if lead in "eE" or not scs:
        return escaped_value(body, start)
    return plain_value(body)


def _unicode_constant(text: str, start: int, end: int, scs: bool) -> str:
    match = _UNICODE_RE.match(text, start)
    assert match is not None
    body_end = match.end()
    escape = "\\" if body_end == end else _uescape_tail(text, body_end, _CONFORMING if scs else _BACKSLASHES, scs)[1]
    return unicode_value(plain_value(text[start + 3 : body_end - 1]), escape, start)
