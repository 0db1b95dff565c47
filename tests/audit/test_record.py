"""Events and their lines: canonical, chained, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import event as event_module
from audit.event import (
    NAME_LIMIT,
    STATEMENT_LIMIT,
    Event,
    LoginFailed,
    LoginSucceeded,
    RulesLoaded,
    StatementStarted,
    clip,
)
from audit.record import GENESIS, Body, Decoder, Malformed, encode, escape, is_plain, plain_json, printable, stamp

TIME = "2026-03-01T09:30:00.000001Z"
ENCODER = msgspec.json.Encoder()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def events() -> st.SearchStrategy[Any]:
    """Every kind of event, any values."""
    st.register_type_strategy(str, TEXT)
    return st.one_of([st.from_type(each) for each in get_args(Event)])


def line_of(each: Event, seq: int = 1, prev: str = GENESIS) -> bytes:
    return encode(Body(seq, TIME, "w", prev, each), ENCODER)[0]


@given(events())
@settings(max_examples=200, deadline=None)
def test_round_trip_of_every_kind(each: Event) -> None:
    line = line_of(each)
    record = Decoder().decode(line)
    assert record.body.event == each
    assert type(record.body.event) is type(each)
    assert line.count(b"\n") == 1
    assert b"\0" not in line


def test_the_hash_can_be_computed_with_any_tool() -> None:
    line = line_of(RulesLoaded("v", "rules.yaml"))
    covered, _, rest = line.partition(b',"hash":"')
    assert rest == hashlib.sha256(covered).hexdigest().encode() + b'"}\n'
    assert json.loads(line)["hash"] == hashlib.sha256(covered).hexdigest()
    assert list(json.loads(line)) == ["seq", "time", "writer", "prev", "event", "hash"]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Decoder().decode(data)


def resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    """The line with a change and the hash that goes with it, as a forger would write it."""
    assert old in line
    covered = line.replace(old, new).rpartition(b',"hash":"')[0]
    return covered + b',"hash":"' + hashlib.sha256(covered).hexdigest().encode() + b'"}\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":1', b'"seq": 1'),
        (b'"seq":1', b'"seq":1,"seq":1'),
        (b'"seq":1', b'"seq":0'),
        (b'"seq":1', b'"seq":1.0'),
        (b'"seq":1,"time":"' + TIME.encode() + b'"', b'"time":"' + TIME.encode() + b'","seq":1'),
        (b'"version":"v"', b'"version":"v","extra":1'),
        (b'"version":"v"', b'"version":"\\u0076"'),
        (b'"version":"v"', b'"version":"v","previous":null'),
        (b'"kind":"rules"', b'"kind":"nothing"'),
        (b".000001Z", b"Z"),
        (b".000001Z", b".000001+00:00"),
        (GENESIS.encode(), b"0" * 63),
        (b'"version":"v"', b'"version":"\xff"'),
        (b'"source":"rules.yaml"', b'"source":"' + b"r" * 20 + b"\n" + b'"'),
    ],
)
def test_a_line_that_is_not_canonical_is_malformed(old: bytes, new: bytes) -> None:
    with pytest.raises(Malformed):
        Decoder().decode(resealed(line_of(RulesLoaded("v", "rules.yaml")), old, new))


def test_a_forged_line_that_nests_without_end_is_malformed() -> None:
    nested = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b","
    with pytest.raises(Malformed):
        Decoder().decode(resealed(line_of(RulesLoaded("v", "rules.yaml")), b'{"kind"', nested + b'"kind"'))


def test_what_is_no_unicode_text_is_escaped() -> None:
    each = RulesLoaded("v", b"caf\xe9".decode(errors="surrogateescape"))
    with pytest.raises(UnicodeEncodeError):
        line_of(each)
    assert Decoder().decode(line_of(printable(each))).body.event == RulesLoaded("v", "caf\\udce9")
    roles = LoginSucceeded("c", "l", ("clerk", "\ud800"), "", "d", "h", "a")
    escaped = printable(roles)
    assert isinstance(escaped, LoginSucceeded)
    assert escaped.roles == ("clerk", "\\ud800")


HIDDEN = "\x7f\x80\x9b\xad\u061c\u180e\u200b\u200e\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff\ufff9\U000110bd\U0001bca0\U0001d173\U000e0001\U000e0041"


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda c: f"U+{ord(c):04X}")
def test_what_nobody_could_see_is_escaped(hidden: str) -> None:
    each = RulesLoaded("v", f"x{hidden}y")
    assert not is_plain(line_of(each))
    line = line_of(printable(each))
    assert is_plain(line)
    assert hidden not in line.decode()
    assert Decoder().decode(line).body.event == RulesLoaded("v", f"x{escape(hidden)}y")
    assert json.loads(plain_json({"a": hidden})) == {"a": hidden}
    assert plain_json({"a": hidden}).isascii()


def test_the_characters_are_those_of_their_categories() -> None:
    kinds = {"Cc", "Cf", "Zl", "Zp"}
    hidden = [c for c in map(chr, range(0x7F, sys.maxunicode + 1)) if unicodedata.category(c) in kinds]
    assert len(hidden) > 100
    assert [c for c in hidden if is_plain(c.encode())] == []
    shown = "Jörg 李娜 \u3000\xa0 नमस्ते שלום مرحبا 😀"
    assert is_plain(shown.encode())


@given(st.text(max_size=100), st.integers(20, 60))
def test_clip_keeps_to_the_limit_and_is_stable(text: str, limit: int) -> None:
    cut = clip(text, limit)
    assert len(cut) <= limit
    assert clip(cut, limit) == cut
    if len(text) > limit:
        match = re.fullmatch(r"(?s)(.*)…\[\+([0-9]+)\]", cut)
        assert match is not None
        assert text.startswith(match[1])
        assert len(match[1]) + int(match[2]) == len(text)


def test_client_text_is_cut_when_an_event_is_made() -> None:
    failed = LoginFailed("c", "l" * 1000, "d" * 1000, "h" * 1000, "a" * 1000, None)
    for cut in (failed.login, failed.database, failed.client, failed.application):
        assert NAME_LIMIT - 2 < len(cut) <= NAME_LIMIT
        assert cut.endswith(f"…[+{1000 - cut.index('…')}]")
    started = StatementStarted("c", "l", (), "", "d", "h", "a", "select", "x" * 100_000, (), (), False, 1)
    assert STATEMENT_LIMIT - 2 < len(started.statement) <= STATEMENT_LIMIT
    assert started.statement.endswith("]")
    assert Decoder().decode(line_of(started)).body.event == started


def test_every_kind_is_documented() -> None:
    tags = [each.__struct_config__.tag for each in get_args(Event)]
    assert len(set(tags)) == len(tags)
    made = [v for v in vars(event_module).values() if isinstance(v, type) and issubclass(v, event_module._Event)]
    assert {t.__name__ for t in made} == {t.__name__ for t in get_args(Event)} | {"_Event", "_Session"}
    assert all(each.__doc__ for each in get_args(Event))


def test_the_clock_must_give_utc() -> None:
    assert stamp(datetime(2026, 3, 1, 9, 30, 0, 1, tzinfo=UTC)) == TIME
    for wrong in (datetime(2026, 3, 1), datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=2)))):  # noqa: DTZ001
        with pytest.raises(ValueError, match="UTC"):
            stamp(wrong)
