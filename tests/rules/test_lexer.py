"""`rules.lexer` by itself; `test_lexer_server.py` lets real servers judge it."""

from __future__ import annotations

import re
import traceback

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rules.lexer import Kind, Lexed, LexError, LexLimits, Token, lex, literal_value

W, Q, S, B, N = Kind.WORD, Kind.QUOTED, Kind.STRING, Kind.BITSTRING, Kind.NUMBER
P, OP, X = Kind.PARAM, Kind.OP, Kind.PUNCT

# Text that is dense in whatever begins, ends, continues or escapes something.
# fmt: off
PIECES = st.sampled_from([
    "a", "B ", "_é", "n", "e", "x'1f'", "b'0'", "u&", "U&'\\0041'", " UESCAPE ", "'!'", 'U&"a!0041"', "select ", "begin ", "atomic ", "end",
    "'", "''", "'a'", "'\n'", '"', '""', '"q"', "$", "$$", "$a$", "$1", "\\", "\\'", "\\x41", "--", "-- c\n", "/*", "*/", "/* c */", "\n",
    " ", "\t", "\f", "\v", "+", "-", "*", "/", "<", "=", "!", "@", "(", ")", "[", "]", ",", ";", ":", "::", ":=", ".", "..", "1", "1_0",
    "1.5", "1e5", "0x1F", "e+", "{", "中", "\u3000", "\xa0", "\ud800", "\0",
])
# fmt: on
SOUP = st.lists(PIECES, max_size=14).map("".join)


def show(text: str, *, scs: bool = True) -> list[tuple[Kind, str, str]]:
    return [(t.kind, text[t.start : t.end], t.value) for t in lex(text, standard_conforming_strings=scs).tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n\r\f-- nothing", []),
        ("SELECT Ab$1", [(W, "SELECT", "select"), (W, "Ab$1", "ab$1")]),
        ("Émile ÀB", [(W, "Émile", "Émile"), (W, "ÀB", "Àb")]),
        ("K\u212a", [(W, "K\u212a", "k\u212a")]),  # the Kelvin sign is not folded to k
        ("a\xa0b\u3000c", [(W, "a\xa0b\u3000c", "a\xa0b\u3000c")]),  # spaces of Unicode belong to the name
        ('"A""b"', [(Q, '"A""b"', 'A"b')]),
        ('u&"d\\0061t\\+000061"', [(Q, 'u&"d\\0061t\\+000061"', "data")]),
        ("U&\"d!0061\" /* x */ UESCAPE '!'", [(Q, "U&\"d!0061\" /* x */ UESCAPE '!'", "da")]),
        ("U&'a' /* * */ UESCAPE /* /* */ */ '!'", [(S, "U&'a' /* * */ UESCAPE /* /* */ */ '!'", "")]),
        ("U&'d!0061'uEsCaPe $$!$$x", [(S, "U&'d!0061'uEsCaPe $$!$$", ""), (W, "x", "x")]),
        ("U&'a' uescaped", [(S, "U&'a'", ""), (W, "uescaped", "uescaped")]),
        ("u&'a'&u", [(S, "u&'a'", ""), (OP, "&", "&"), (W, "u", "u")]),
        ("u &'a'", [(W, "u", "u"), (OP, "&", "&"), (S, "'a'", "")]),
        ("au&'a'", [(W, "au", "au"), (OP, "&", "&"), (S, "'a'", "")]),
        ("date'x'", [(W, "date", "date"), (S, "'x'", "")]),
        ("n'x' n 'x'", [(S, "n'x'", ""), (W, "n", "n"), (S, "'x'", "")]),
        ("'it''s'", [(S, "'it''s'", "")]),
        ("'a' 'b'", [(S, "'a'", ""), (S, "'b'", "")]),
        ("'a' -- '\n 'b'", [(S, "'a' -- '\n 'b'", "")]),
        ("'a'\n-- x\n--\r'b'", [(S, "'a'\n-- x\n--\r'b'", "")]),
        ("'a' /* */\n'b'", [(S, "'a'", ""), (S, "'b'", "")]),
        ("e'a\\'b'", [(S, "e'a\\'b'", "")]),
        ("'a\\'", [(S, "'a\\'", "")]),
        ("b'0''1'", [(B, "b'0'", ""), (S, "'1'", "")]),
        ("x'1'\n'f'", [(B, "x'1'\n'f'", "")]),
        ("$$'$$ $a$$$$b$$a$", [(S, "$$'$$", ""), (S, "$a$$$$b$$a$", "")]),
        ("$é$ $e$ $é$", [(S, "$é$ $e$ $é$", "")]),
        ("$1$a$ $1 $a$", [(P, "$1", "1"), (S, "$a$ $1 $a$", "")]),
        ("$007", [(P, "$007", "7")]),
        ("a$b$c $0", [(W, "a$b$c", "a$b$c"), (P, "$0", "0")]),
        ("1..10", [(N, "1", "1"), (X, "..", ".."), (N, "10", "10")]),
        ("1.5.5 .5", [(N, "1.5", "1.5"), (N, ".5", ".5"), (N, ".5", ".5")]),
        ("1. 1.e5 1e-5", [(N, "1.", "1."), (N, "1.e5", "1.e5"), (N, "1e-5", "1e-5")]),
        ("0x_1F 0o17 0b1_0 1_0.0_1", [(N, v, v) for v in ("0x_1F", "0o17", "0b1_0", "1_0.0_1")]),
        ("a.*", [(W, "a", "a"), (X, ".", "."), (OP, "*", "*")]),
        ("a::b :c :=", [(W, "a", "a"), (X, "::", "::"), (W, "b", "b"), (X, ":", ":"), (W, "c", "c"), (X, ":=", ":=")]),
        ("a!=b", [(W, "a", "a"), (OP, "!=", "<>"), (W, "b", "b")]),
        ("=-1", [(OP, "=", "="), (OP, "-", "-"), (N, "1", "1")]),
        ("@-1", [(OP, "@-", "@-"), (N, "1", "1")]),
        ("+-=-+", [(OP, "+-=", "+-="), (OP, "-", "-"), (OP, "+", "+")]),
        ("*--\n-", [(OP, "*", "*"), (OP, "-", "-")]),
        ("+/*-*/-", [(OP, "+", "+"), (OP, "-", "-")]),
        ("|/**/|", [(OP, "|", "|"), (OP, "|", "|")]),
        ("/* /* */ ' */ a /*/**/*/b", [(W, "a", "a"), (W, "b", "b")]),
        ("->>'$.a'", [(OP, "->>", "->>"), (S, "'$.a'", "")]),
    ],
)
def test_tokens(text: str, expected: list[tuple[Kind, str, str]]) -> None:
    assert show(text) == expected


def test_backslashes_in_ordinary_constants_when_not_conforming() -> None:
    assert show("'a\\' b'", scs=False) == [(S, "'a\\' b'", "")]
    assert show("n'a\\' b'", scs=False) == [(S, "n'a\\' b'", "")]
    assert show("'a\\'' b'", scs=True)[0] == (S, "'a\\'' b'", "")
    assert show("U&\"a!0041\" uescape '\\!'", scs=False) == [(Q, "U&\"a!0041\" uescape '\\!'", "aA")]


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("a 'b", "unterminated quoted string", 2),
        ("e'a\\'", "unterminated quoted string", 0),
        ("E'a'\n'b\\'", "unterminated quoted string", 0),
        ("n'", "unterminated quoted string", 0),
        ("U&'a", "unterminated quoted string", 0),
        ('a "b', "unterminated quoted identifier", 2),
        ('u&"b', "unterminated quoted identifier", 0),
        ('a ""', "zero-length delimited identifier", 2),
        ('a U&""', "zero-length delimited identifier", 2),
        ("b'1", "unterminated bit string literal", 0),
        ("x'1", "unterminated hexadecimal string literal", 0),
        ("a /* /* */", "unterminated /* comment", 2),
        ("a $b$ $c$", "unterminated dollar-quoted string", 2),
        ("a $b", "syntax error", 2),
        ("1a", "trailing junk after numeric literal", 0),
        ("1.5e", "trailing junk after numeric literal", 0),
        ("0x", "trailing junk after numeric literal", 0),
        ("0o18", "trailing junk after numeric literal", 0),
        ("0x1$", "trailing junk after numeric literal", 0),
        ("1__0", "trailing junk after numeric literal", 0),
        (".5é", "trailing junk after numeric literal", 0),
        ("$1abc", "trailing junk after parameter", 0),
        ("$1_000", "trailing junk after parameter", 0),
        ("$2147483648", "parameter number too large", 0),
        ("a \\", "syntax error", 2),
        ("a \v b", "syntax error", 2),
        ("a {b}", "syntax error", 2),
        ("a\0b", "statement text holds a NUL character", 1),
        ("'a\0b'", "statement text holds a NUL character", 2),
        ("a \ud800", "statement text is not valid Unicode", 2),
        ("(a))", "syntax error: a parenthesis was not opened", 3),
        ("(a", "syntax error at end of input: a parenthesis is not closed", 2),
        ("U&'a' UESCAPE x", "UESCAPE must be followed by a simple string literal", 14),
        ("U&'a' UESCAPE n'!'", "UESCAPE must be followed by a simple string literal", 14),
        ("U&'a' UESCAPE", "UESCAPE must be followed by a simple string literal", 13),
        ("U&'a' UESCAPE 'ab'", "invalid Unicode escape character", 14),
        ("U&'a' UESCAPE '+'", "invalid Unicode escape character", 14),
        ('a U&"\\00"', "invalid Unicode escape", 2),
        ('a U&"\\D800"', "invalid Unicode surrogate pair", 2),
        ('a U&"\\+110000"', "invalid Unicode escape value", 2),
        ("@" * 64, "operator too long", 0),
    ],
)
def test_refusals(text: str, message: str, position: int) -> None:
    with pytest.raises(LexError) as caught:
        lex(text)
    assert (caught.value.message, caught.value.position) == (message, position)
    assert str(caught.value) == f"{message} (at character {position + 1})"


def test_unicode_constants_need_conforming_strings() -> None:
    with pytest.raises(LexError, match="unsafe use of string constant with Unicode escapes"):
        lex("U&'a'", standard_conforming_strings=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it''s'", "it's"),
        ("'a\\n'", "a\\n"),
        ("n'a'", "a"),
        ("'a'\n'''b'", "a'b"),
        ("'a' -- '' \n\n 'b'\r'c'", "abc"),
        (r"e'\b\f\n\r\t\\\'\q'", "\b\f\n\r\t\\'q"),
        (r"e'\101\x41\u0041\U00000041\x4\7'", "AAAA\x04\x07"),
        (r"e'\uD83D\uDE00 \U0000d83d\U0000de00'", "😀 😀"),
        (r"e'\xC3\xa9 \303\251 é\é'", "é é éé"),
        ("e'a\\\nb'", "a\nb"),
        ("e'\\''\n'\\''''", "'''"),
        ("e'\\1'\n'01'", "\x0101"),
        (r"U&'\0061\+01F600\d83d\de00\\ '''", "a😀😀\\ '"),
        ("U&'\\00'\n'41'", "A"),  # escapes are read after the parts are joined
        ("U&'!0061!!\\' UESCAPE '!'", "a!\\"),
        ("U&'^0061]' uescape '^'", "a]"),
        ("U&'\\0061' uescape '!'", "\\0061"),
        ("$$a''\\n$$", "a''\\n"),
        ("$x$a$$b$x$", "a$$b"),
        ("b'01'\n'1'", "011"),
        ("x'1F'", "00011111"),
        ("B''", ""),
        ("1_000", "1000"),
        ("0x_ff", "255"),
        ("0O17", "15"),
        ("0b101", "5"),
        ("1.50e+3", "1.50e+3"),
        (".5", ".5"),
        ("007", "007"),
    ],
)
def test_values(text: str, value: str) -> None:
    lexed = lex("select " + text)
    assert lexed.literals == (1,)
    assert literal_value(lexed, 1) == value


def test_values_when_not_conforming() -> None:
    lexed = lex("'a\\'b' n'\\x41' e'\\n' $$\\n$$", standard_conforming_strings=False)
    assert [literal_value(lexed, i) for i in lexed.literals] == ["a'b", "A", "\n", "\\n"]


# fmt: off
REFUSED_LITERALS = [
    r"e'\u12'", r"e'\U0011000'", r"e'\U00110000'", r"e'\ud800'", r"e'\ud800x'", r"e'\udc00'", "e'\\ud83d'\n'\\ude00'", r"e'\ud83d\n'",
    r"e'\0'", r"e'\x00'", r"e'\u0000'", r"e'\400'", r"e'\xff'", r"e'\xC3'", r"e'\xed\xa0\x80'", r"e'\v'", r"U&'\00g0'", r"U&'\'",
    r"U&'\+00006'", r"U&'\0000'", r"U&'\d83d'", r"U&'\d83d\\'", r"U&'\d83dx'", r"U&'\de00'", r"U&'\+110000'", "x'1g'", "b'2'",
    "0x" + "f" * 2000,
]
# fmt: on


@pytest.mark.parametrize("literal", REFUSED_LITERALS)
def test_values_that_the_server_refuses(literal: str) -> None:
    lexed = lex("secret " + literal)
    with pytest.raises(LexError) as caught:
        literal_value(lexed, 1)
    assert caught.value.position == 7


def test_no_value_is_in_an_exception_or_what_it_carries() -> None:
    lexed = lex(r"e'topsecret\xff'")
    with pytest.raises(LexError) as caught:
        literal_value(lexed, 0)
    assert "topsecret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    for text in ("select 'topsecret", '"topsecret', "$topsecret$ x", "1topsecret", "x'topsecret"):
        with pytest.raises(LexError) as caught:
            lex(text)
        assert "topsecret" not in str(caught.value)
        assert caught.value.__context__ is None


def test_only_constants_have_values() -> None:
    with pytest.raises(LexError, match="not a constant"):
        literal_value(lex("a"), 0)


def test_identifiers_are_cut_as_the_server_cuts_them() -> None:
    assert lex("A" * 70).tokens[0].value == "a" * 63
    assert lex('"' + "é" * 40 + '"').tokens[0].value == "é" * 31
    assert lex("x" * 61 + "中").tokens[0].value == "x" * 61
    assert lex("x" * 60 + "中").tokens[0].value == "x" * 60 + "中"
    assert lex('U&"' + "\\00e9" * 40 + '"').tokens[0].value == "é" * 31


def test_shape_takes_constants_and_comments_out() -> None:
    lexed = lex("SELECT /* hi */ \"N\", n, N'x', E'y', $$z$$, b'1', x'f', 1.5, $01, a != -2 -- end")
    assert lexed.shape == "select \"N\" , n , n's' , 's' , 's' , b's' , b's' , 0 , $1 , a <> - 0"
    assert lexed.words == {"select", "N", "n", "a"}
    assert lexed.quoted_words == {"N"}
    assert [lexed.tokens[i].kind for i in lexed.literals] == [S, S, S, B, B, N, N]


def test_different_tokens_have_different_shapes() -> None:
    texts = [
        "a",
        '"a b"',
        '"a" b',
        'a "b"',
        "n",
        '"n"',
        "1",
        "'s'",
        "n's'",
        "n 's'",
        "b'1'",
        "b 's'",
        "$1",
        "$2",
        "\"'s'\"",
        '"0"',
        '"""a"',
    ]
    texts += [
        "- -",
        "@-",
        "@ -",
        ": :",
        "::",
        ". .",
        "..",
        "'s' 's'",
        "a.b",
        '"a.b"',
        '"$1"',
        "<>",
        "< >",
        "-1",
        "u&'x'&u",
        '""""',
    ]
    shapes = [lex(t).shape for t in texts]
    by_shape = {
        s: [(k.kind, k.value) for k in lex(t).tokens if k.kind is not N] for s, t in zip(shapes, texts, strict=True)
    }
    for text, shape in zip(texts, shapes, strict=True):
        assert by_shape[shape] == [(k.kind, k.value) for k in lex(text).tokens if k.kind is not N]
    assert len(set(shapes)) == len(texts)


def pieces(text: str) -> list[str]:
    lexed = lex(text)
    return [text[lexed.tokens[a].start : lexed.tokens[b].end] for a, b in lexed.statements]


BODY = "create or replace function f() returns int language sql begin atomic {} end"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ; ;; ", []),
        ("a", ["a"]),
        ("a;", ["a"]),
        (";a;;b c;", ["a", "b c"]),
        ("'a;b';\"c;d\";$$;$$;/*;*/e--;", ["'a;b'", '"c;d"', "$$;$$", "e"]),
        ("create rule r as on insert to t do also (insert into u values (1); delete from v); b", None),
        (BODY.format("select 1; select 2;") + "; b", [BODY.format("select 1; select 2;"), "b"]),
        (BODY.format("") + "; b", [BODY.format(""), "b"]),
        (BODY.format(";;") + "; b", [BODY.format(";;"), "b"]),
        (
            BODY.format("select case when true then 1 end; select 1 end; select 2 case; select t.end as end;") + ";b",
            None,
        ),
        (BODY.format("select begin atomic from t;") + "; b", [BODY.format("select begin atomic from t;"), "b"]),
        (BODY.format(BODY.format("select 1;") + "; select 2;") + "; b", None),
        ("begin; select atomic; end; b", ["begin", "select atomic", "end", "b"]),
        ("select begin atomic from t; select 1; end; b", ["select begin atomic from t", "select 1", "end", "b"]),
        ("create function begin(atomic int default (1)) returns int return 1; b", None),
        ('create function f() begin "atomic"; b', ['create function f() begin "atomic"', "b"]),
        ("create procedure p() begin atomic insert into t values (1); end; b", None),
        ("create table begin (x int); select atomic; b", ["create table begin (x int)", "select atomic", "b"]),
    ],
)
def test_statements(text: str, expected: list[str] | None) -> None:
    """`None`: two statements, the second of which is `b`."""
    expected = [text[: text.rindex(";")], "b"] if expected is None else expected
    assert pieces(text) == expected


def test_backslash_sensitivity() -> None:
    assert lex("'a\\b'").backslash_sensitive
    assert lex("n'\\'").backslash_sensitive
    assert lex("'\\' '", standard_conforming_strings=False).backslash_sensitive
    assert not lex("E'\\n' U&'\\0041' $$\\$$ \"\\\" 'a'").backslash_sensitive


def test_limits() -> None:
    small = LexLimits(max_length=40, max_tokens=3, max_depth=2)
    assert len(lex("a b c", limits=small).tokens) == 3
    with pytest.raises(LexError, match="longer than 40 characters"):
        lex("a" * 41, limits=small)
    with pytest.raises(LexError, match="more than 3 tokens"):
        lex("a b c d", limits=small)
    with pytest.raises(LexError, match="more than 3 tokens"):
        lex("a /* * */ b /* * */ c d", limits=small)
    with pytest.raises(LexError, match="nest deeper than 2") as caught:
        lex("([(", limits=small)
    assert caught.value.position == 2


@pytest.mark.parametrize(
    "unit",
    ["+", "-- ", "/*", "' ", "'\n", "$a", "((", "1e", "a.", '"', "e'\\", "u&'", "'a'\n--", "=-", "*/", "b'1'\n", "$$"],
)
def test_long_texts_take_linear_steps(unit: str) -> None:
    """Repetition that a backtracking expression would drown in ends at once, by tokens or by an error."""
    text = unit * (400_000 // len(unit))
    for scs in (True, False):
        try:
            lex(text, standard_conforming_strings=scs)
        except LexError:
            continue


GAP = re.compile(r"(?:[ \t\n\r\f]|--[^\n\r]*|/\*.*\*/)*", re.DOTALL)


def check_invariants(text: str, lexed: Lexed) -> None:
    at = 0
    for token in lexed.tokens:
        assert at <= token.start < token.end <= len(text)
        assert GAP.fullmatch(text[at : token.start])
        at = token.end
    assert GAP.fullmatch(text[at:])
    again = lex(lexed.shape, standard_conforming_strings=lexed.standard_conforming_strings)
    assert again.shape == lexed.shape
    assert [t.kind for t in again.tokens] == [t.kind for t in lexed.tokens]
    assert again.words == lexed.words
    assert again.statements == lexed.statements
    assert again.literals == lexed.literals
    for first, last in lexed.statements:
        assert 0 <= first <= last < len(lexed.tokens)
    for index in lexed.literals:
        try:
            literal_value(lexed, index)
        except LexError as error:
            assert error.position == lexed.tokens[index].start  # noqa: PT017 - a refusal is as good as a value


@settings(max_examples=200, deadline=None)
@given(st.one_of(SOUP, st.text(max_size=40)), st.booleans())
@example("a" * 63 + "é" + ' "' + "b" * 70 + '"', True)
def test_any_text_gives_tokens_or_an_error(text: str, scs: bool) -> None:
    try:
        lexed = lex(text, standard_conforming_strings=scs)
    except LexError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - either outcome is fine
        return
    check_invariants(text, lexed)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=10), st.booleans())
def test_insensitive_texts_mean_the_same_either_way(parts: list[str], scs: bool) -> None:
    text = "".join(parts)
    try:
        lexed = lex(text, standard_conforming_strings=scs)
    except LexError:
        return
    if not lexed.backslash_sensitive and "u&'" not in text.lower():
        other = lex(text, standard_conforming_strings=not scs)
        assert other.tokens == lexed.tokens


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_a_quoted_value_comes_back(value: str) -> None:
    doubled = value.replace("'", "''")
    for text in (
        f"'{doubled}'",
        "e'" + doubled.replace("\\", "\\\\") + "'",
        "U&'" + doubled.replace("\\", "\\\\") + "'",
        f"$q${value}$q$",
    ):
        if text[0] == "$" and "$q" in value + "$":
            continue
        lexed = lex(text)
        assert [t.kind for t in lexed.tokens] == [S]
        assert literal_value(lexed, 0) == value


def test_tokens_are_plain_values() -> None:
    assert lex("a").tokens == (Token(Kind.WORD, 0, 1, "a"),)
