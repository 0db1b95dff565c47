"""What the commands print: names of others hold what they like, and a terminal shows them as what they are."""

from __future__ import annotations

import json

import pytest

from rules.problems import json_text, printable, readable

HIDDEN = "\x1b\x7f\x9b\xad\u061c\u200b\u2028\u2029\u202e\u2066\ufeff\U000e0041\ud800"


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda c: f"U+{ord(c):04X}")
def test_nothing_hidden_reaches_a_terminal(hidden: str) -> None:
    assert printable(f"a{hidden}b").isprintable()
    assert hidden not in readable(f"a{hidden}\nb")
    text = json_text({f"a{hidden}": [hidden]})
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {f"a{hidden}": [hidden]}


def test_letters_of_all_languages_stay() -> None:
    assert json_text({"name": "李娜 Jörg"}) == '{\n  "name": "李娜 Jörg"\n}'
    assert readable("one\nübung") == "one\nübung"
