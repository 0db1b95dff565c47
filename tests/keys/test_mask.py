"""The masks over canonical bytes: what each shows, on the values that masks usually get wrong."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import mask_text
from keys.mask import MASK_KINDS, MaskError, MaskKind, make_mask
from keys.types import parse_type

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = b"k" * 32
NEEDED: dict[str, dict[str, object]] = {"range": {"width": 5}, "constant": {"value": "x"}}
E_ACUTE = "e\u0301"  # one seen character of two code points
FAMILY = "\U0001f468\u200d\U0001f469"  # a joined emoji: two characters here, on purpose


def masked(kind: str, shown: str, spec: str = "text", /, **params: object) -> str | None:
    found = make_mask(kind, params, parse_type(spec), pseudonym_key=KEY).apply(shown.encode())
    return None if found is None else found.decode()


@pytest.mark.parametrize("kind", MASK_KINDS.values(), ids=lambda k: k.name)
def test_examples(kind: MaskKind) -> None:
    value, shown = kind.example
    spec = {"year": "date"}.get(kind.name, "text")
    found = masked(kind.name, value, spec, **dict(kind.example_parameters))
    if kind.name == "pseudonym":
        assert found is not None
        assert shown is not None
        assert (found[:2], len(found)) == (shown[:2], len(shown))
    else:
        assert found == shown


@pytest.mark.parametrize(
    ("kind", "params", "value", "shown"),
    [
        ("keep_first", {"n": 2}, "abcd", "ab**"),
        ("keep_first", {"n": 2}, "ab", "**"),
        ("keep_first", {"n": 2}, "a", "*"),
        ("keep_first", {"n": 0}, "abc", "***"),
        ("keep_first", {"n": 1}, "", ""),
        ("keep_first", {"n": 1}, "   ", " **"),
        ("keep_first", {"n": 1}, E_ACUTE + "b", E_ACUTE + "*"),
        ("keep_first", {"n": 1}, E_ACUTE, "*"),
        ("keep_first", {"n": 1}, "\u0301ab", "\u0301**"),
        ("keep_first", {"n": 1}, FAMILY, "\U0001f468\u200d*"),
        ("keep_first", {"n": 1}, "a\nb\n", "a***"),
        ("keep_last", {}, "1234", "****"),
        ("keep_last", {}, "12345", "*2345"),
        ("keep_last", {"n": 1}, "x" + E_ACUTE, "*" + E_ACUTE),
        ("keep_last", {"n": 1}, "张三", "*三"),
        ("keep_first_last", {"first": 1, "last": 1}, "ab", "**"),
        ("keep_first_last", {"first": 1, "last": 1}, "abc", "a*c"),
        ("keep_first_last", {"first": 0, "last": 0}, "abc", "***"),
        ("name", {}, "张三丰", "张**"),
        ("name", {}, "欧阳娜娜", "欧***"),
        ("name", {}, "张", "*"),
        ("name", {}, "J F Kennedy", "* * K******"),
        ("name", {}, "  ann  lee ", "  a**  l** "),
        ("name", {}, "张三\u3000李四", "张*\u3000李*"),
        ("name", {}, "Ｊｏｈｎ", "Ｊ***"),
        ("name", {}, E_ACUTE + "va", E_ACUTE + "**"),
        ("name", {}, E_ACUTE + " " + E_ACUTE, "* *"),
        ("name", {}, "नीता", "नी*"),
        ("name", {}, "O'Neil-Smith", "O***********"),
        ("name", {}, "a\tb", "a**"),
        ("name", {}, "", ""),
        ("phone", {}, "13800138000", "138****8000"),
        ("phone", {}, "+86 138 0013 8000", "+86 1** **** 8000"),
        ("phone", {}, "(010) 6552-9988", "(010) ****-9988"),
        ("phone", {}, "6552-9988", "****-9988"),
        ("phone", {}, "110", "***"),
        ("phone", {}, "1234567", "*******"),
        ("phone", {}, "１３８００１３８０００", "*" * 11),
        ("phone", {}, "call me", "**** **"),
        ("phone", {}, "13800138000 ext 12", "138******00 *** 12"),
        ("email", {}, "john.smith@example.com", "j*********@example.com"),
        ("email", {}, "j@example.com", "*@example.com"),
        ("email", {}, "张三@example.cn", "张*@example.cn"),
        ("email", {}, "a@b@example.com", "a**@example.com"),
        ("email", {}, "not an address", "*" * 14),
        ("email", {}, "x@13800138000", "*" * 13),
        ("email", {}, "x@138.0013", "*" * 10),
        ("email", {}, "x@例子.公司", "*" * 7),
        ("email", {}, "@example.com", "*" * 12),
        ("email", {}, "john@example.com\n", "*" * 17),
        ("bank_card", {}, "6222021234567890123", "***************0123"),
        ("bank_card", {}, "1234567", "*******"),
        ("bank_card", {}, "12345678901", "***********"),
        ("id_number", {}, "1234567", "*******"),
        ("id_number", {}, "12345678", "1******8"),
        ("year", {}, "1990-05-17", "1990"),
        ("year", {}, "19900517", "1990"),
        ("year", {}, "1990年5月", "1990"),
        ("year", {}, "1990/5/7 10:00", "1990"),
        ("year", {}, "13800138", "********"),
        ("year", {}, "1990", "****"),
        ("year", {}, "1990-05-17\n", "***********"),
        ("range", {"width": 10}, "37", "30-39"),
        ("range", {"width": 10}, "-3.5", "-10--1"),
        ("range", {"width": 10}, "-10.5", "-20--11"),
        ("range", {"width": 10}, " 39.99 ", "30-39"),
        ("range", {"width": 10}, "1e3", "***"),
        ("range", {"width": 10}, "", ""),
        ("constant", {"value": "*"}, "anything", "*"),
    ],
)
def test_text(kind: str, params: Mapping[str, object], value: str, shown: str) -> None:
    assert masked(kind, value, **params) == shown


@pytest.mark.parametrize(
    ("kind", "params", "spec", "value", "shown"),
    [
        ("range", {"width": 10}, "integer", "-1", "-10"),
        ("range", {"width": 100}, "smallint", "-32768", "-32768"),
        ("range", {"width": 10**12}, "bigint", "9223372036854775807", "9223372000000000000"),
        ("range", {"width": 1000}, "numeric(12,2)", "52345.67", "52000.00"),
        ("range", {"width": 1000}, "numeric(4,2)", "-3.50", "-99.00"),
        ("range", {"width": 10}, "numeric(2,2)", "-0.50", "0.00"),
        ("range", {"width": 10}, "numeric", "NaN", "NaN"),
        ("range", {"width": 10}, "numeric", "-Infinity", "-Infinity"),
        ("range", {"width": 10}, "numeric", "12.5", "10"),
        ("range", {"width": 10}, "float8", "12.5", "10"),
        ("range", {"width": 10}, "float8", "-0.5", "-10"),
        ("range", {"width": 10}, "float8", "1e305", "Infinity"),
        ("range", {"width": 10}, "real", "-3e38", "-Infinity"),
        ("range", {"width": 10}, "varchar(3)", "37", "**"),
        ("year", {}, "date", "2024-02-29", "2024-01-01"),
        ("year", {}, "date", "4713-02-03 BC", "4713-01-01 BC"),
        ("year", {}, "date", "infinity", "infinity"),
        ("year", {}, "date", "0044-03-15 BC", "0044-01-01 BC"),
        ("year", {}, "date", "4714-11-24 BC", "-infinity"),
        ("year", {}, "timestamp(3)", "1999-12-31 23:59:59.999", "1999-01-01 00:00:00"),
        ("year", {}, "timestamptz", "2024-06-01 00:00:00+00", "2024-01-01 00:00:00+00"),
        ("constant", {"value": 0}, "integer", "7", "0"),
        ("constant", {"value": True}, "boolean", "f", "t"),
        ("constant", {"value": "1900-01-01"}, "date", "2024-02-29", "1900-01-01"),
        ("constant", {"value": "{}"}, "text[]", "{a}", "{}"),
        ("constant", {"value": "sad"}, "enum mood(sad, glad)", "glad", "sad"),
    ],
)
def test_other_types(kind: str, params: Mapping[str, object], spec: str, value: str, shown: str) -> None:
    assert masked(kind, value, spec, **params) == shown


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_null_stays_null(kind: str) -> None:
    params = NEEDED.get(kind, {})
    assert make_mask(kind, params, parse_type("text"), pseudonym_key=KEY).apply(None) is None


def test_pseudonym() -> None:
    expected = "p_" + hmac.new(KEY, b"s\x00value", hashlib.sha256).hexdigest()
    assert masked("pseudonym", "value", scope="s") == expected[:18]
    assert masked("pseudonym", "value", "varchar(10)", scope="s") == expected[:10]
    assert masked("pseudonym", "value", "char(40)", scope="s") == expected[:18]
    assert masked("pseudonym", "value", scope="s") != masked("pseudonym", "value", scope="t")
    assert masked("pseudonym", "b", scope="a") != masked("pseudonym", "", scope="ab")
    unkeyed = make_mask("pseudonym", {}, parse_type("text"))
    with pytest.raises(MaskError):
        unkeyed.apply(b"x")
    assert "pseudonym" in unkeyed.sql("c")


@pytest.mark.parametrize(
    ("kind", "params", "spec", "words"),
    [
        ("shuffle", {}, "text", "unknown mask"),
        ("keep_first", {"m": 1}, "text", "no parameter"),
        ("keep_first", {"n": -1}, "text", "whole number"),
        ("keep_first", {"n": 33}, "text", "whole number"),
        ("keep_first", {"n": True}, "text", "whole number"),
        ("keep_first", {"n": "1"}, "text", "whole number"),
        ("keep_first", {}, "integer", "does not apply"),
        ("keep_first", {}, "text[]", "does not apply"),
        ("name", {}, "enum m(a)", "does not apply"),
        ("year", {}, "time", "does not apply"),
        ("range", {}, "integer", "needs parameter"),
        ("range", {"width": 0}, "integer", "whole number"),
        ("range", {"width": 5}, "date", "does not apply"),
        ("constant", {}, "text", "needs parameter"),
        ("constant", {"value": "x"}, "integer", "not of type"),
        ("constant", {"value": "toolong"}, "varchar(3)", "not of type"),
        ("constant", {"value": 1.5}, "numeric", "a text"),
        ("pseudonym", {}, "varchar(9)", "room for"),
        ("pseudonym", {"scope": "x" * 64}, "text", "at most"),
        ("pseudonym", {"scope": 5}, "text", "at most"),
        ("pseudonym", {}, "integer", "does not apply"),
    ],
)
def test_bad_masks(kind: str, params: Mapping[str, object], spec: str, words: str) -> None:
    with pytest.raises(MaskError, match=words):
        make_mask(kind, params, parse_type(spec), pseudonym_key=KEY)


def test_short_key() -> None:
    with pytest.raises(MaskError, match="16 bytes"):
        make_mask("pseudonym", {}, parse_type("text"), pseudonym_key=b"short")


def test_mark_ranges_are_sorted_and_apart() -> None:
    flat = [code for pair in mask_text.MARK_RANGES for code in pair]
    assert flat == sorted(flat)
    assert all(a[1] < b[0] for a, b in zip(mask_text.MARK_RANGES, mask_text.MARK_RANGES[1:], strict=False))


VALUES = st.text(st.sampled_from("ab1٣８ .-@张三e\u0301\u0302\u200d\u3000\n*\U0001f468\U0001f3fd"), max_size=16)


@given(value=VALUES, head=st.integers(0, 5), tail=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_never_more_is_shown_than_allowed(value: str, head: int, tail: int) -> None:
    """Counted in seen characters; the result is never longer than the value, so it fits its column."""
    seen = mask_text._SEEN.findall(value)
    shown = mask_text.keep(value, head, tail)
    if len(seen) <= head + tail:
        assert shown == "*" * len(seen)
    else:
        assert shown == "".join(seen[:head]) + "*" * (len(seen) - head - tail) + "".join(seen[len(seen) - tail :])
    for kind in ("name", "phone", "email", "bank_card", "id_number", "year"):
        found = masked(kind, value)
        assert found is not None
        assert len(found) <= len(value)


@given(value=st.text(st.sampled_from("0123456789 -x"), max_size=30))
@settings(max_examples=200, deadline=None)
def test_digits_shown(value: str) -> None:
    count = sum(c.isdigit() for c in value)
    for kind, most in (("phone", 7 if count >= 11 else 4 if count >= 8 else 0), ("bank_card", 4 if count >= 12 else 0)):
        found = masked(kind, value)
        assert found is not None
        assert sum(c.isdigit() for c in found) == most
        assert len(found) == len(value)
        assert "x" not in found
