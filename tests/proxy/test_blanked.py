"""What the server is shown of a text that pgveil refuses: everything but the values, at the same positions."""

from __future__ import annotations

import pytest

from proxy.blanked import check_garbled, server_check
from proxy.session.gate import Settings
from rules.lexer import LexError, lex


@pytest.mark.parametrize(
    ("text", "blanked"),
    [
        ("select 'Mary', 12345, 1.5e3, .25, 0x1F", "select '1000', 10000, 10000, .10, 1000"),
        ("order by 12, 3 desc limit 20", "order by 12, 3 desc limit 10"),
        ("group by 2, (3), f(4, 5) having x in (6, 7)", "group by 2, (1), f(1, 1) having x in (1, 1)"),
        ("order by 12345, 'x', 34 + 2", "order by 10000, '1', 10 + 1"),
        ("over (order by 2) in (2)", "over (order by 2) in (1)"),
        ("E'a\\'b' N'xy' B'0110' X'ff'", "E'1000' N'10' B'1000' X'10'"),
        ('$$secret$$ $t$it\'s$t$ "Ab" $1', '$$100000$$ $t$1000$t$ "Ab" $1'),
        ("U&'\\0061' UESCAPE '!' -- 'kept'", "U&'10000000000000000' -- 'kept'"),
        ("'one'\n 'two' x", "'1000000000' x"),
        ("'é日本' + é", "'100' + é"),
    ],
)
def test_constants_are_blanked_in_place(text: str, blanked: str) -> None:
    check = server_check(lex(text), "UTF8")
    assert check is not None
    assert check.text.decode() == blanked
    assert len(blanked) == len(text)
    for position, blank, source in check.constants:
        assert blanked[position - 1 :].startswith(blank.decode())
        assert text[position - 1 :].startswith(source.decode())
    assert "Mary" not in repr(check)


@pytest.mark.parametrize(
    ("text", "blanked"),
    [
        ("select (1 from t where a = 'Mary", "select (1 from t where a = '1000"),
        ("select lower(('Mary') from t", "select lower(('1000') from t"),
        ("select 'Mary']", "select '1000']"),
        ("select 'Mary' /* open", None),
        ('select "Mary', None),
        ("select $$Mary", None),
    ],
)
def test_texts_that_are_none(text: str, blanked: str | None) -> None:
    with pytest.raises(LexError) as caught:
        lex(text)
    check = check_garbled(text, caught.value, Settings())
    assert (None if check is None else check.text.decode()) == blanked


def test_texts_that_the_encoding_cannot_hold() -> None:
    assert server_check(lex("select 'x', é"), "SQL_ASCII") is None
