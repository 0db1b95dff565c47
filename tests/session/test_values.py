"""Values in and out of a session."""

from __future__ import annotations

from dataclasses import replace
from struct import pack

import pytest

from keys.types import OutputSettings
from proxy.session.gate import BadValue
from proxy.session.values import _ENCODERS, ELEMENTS
from rules.catalog import EnumType
from rules.model import MaskSpec, OnDamage, Verdict
from rules.plan import Reason

from .conftest import BORN, CARD, NOTE, SCORE, Bench, column

PLAIN = OutputSettings()


def test_parameters_and_constants_seal_alike(bench: Bench) -> None:
    codec = bench.codec
    text = codec.seal_param(BORN, b"1990-02-03", 0, 0, PLAIN)
    assert text == codec.seal_literal(BORN, "1990-02-03")
    assert text == codec.seal_param(BORN, pack("!i", -3619), 1, 1082, PLAIN)
    assert codec.seal_literal(SCORE, "-7", number=True) == codec.seal_literal(SCORE, "-7")
    assert codec.seal_literal(NOTE, "x") != codec.seal_literal(NOTE, "x")


@pytest.mark.parametrize("form", [0, 1])
def test_a_text_that_the_statement_casts_is_read_as_the_columns_type(bench: Bench, form: int) -> None:
    """As pgjdbc sends `?::date` with setString; without the cast PostgreSQL refuses a varchar for a date."""
    codec = bench.codec
    with pytest.raises(BadValue):
        codec.seal_param(BORN, b"1990-02-03", form, 1043, PLAIN)
    assert codec.seal_param(BORN, b"1990-02-03", form, 1043, PLAIN, cast=True) == codec.seal_literal(BORN, "1990-02-03")
    with pytest.raises(BadValue):
        codec.seal_param(BORN, b"1990-02-03", form, 23, PLAIN, cast=True)


def test_enums_are_the_databases_own(bench: Bench) -> None:
    mood = replace(CARD, type="enum public.mood(sad)", name=CARD.name._replace(column="mood"), mask=None)
    one = bench.codec.in_database()
    one.know_enums({"public.mood": EnumType(70001, 70002, ("sad", "glad"))})
    assert one.logical_type(mood).oid == one.parameter_oid(mood, array=False) == 70001
    assert one.parameter_oid(mood, array=True) == 70002
    sealed = one.seal_param(mood, b"glad", 0, 70001, PLAIN)
    assert one.open_batch(mood, Verdict.CLEAR, [sealed], 1) == [b"glad"]
    assert bench.codec.logical_type(mood).oid == 0
    one.know_enums({"public.mood": EnumType(70003, 70004, ("sad",))})
    assert one.logical_type(mood).oid == 70003
    with pytest.raises(BadValue):
        one.seal_param(mood, b"glad", 0, 70003, PLAIN)


def test_so_many_elements(bench: Bench) -> None:
    most = "{" + "1," * (ELEMENTS - 1) + "1}"
    with pytest.raises(BadValue) as caught:
        bench.codec.seal_literal(SCORE, most.replace("{", "{1,"), array=True)
    assert (caught.value.reason, caught.value.sqlstate) == (Reason.LIMIT, "54000")


def test_round_trip_in_both_formats(bench: Bench) -> None:
    sealed = bench.codec.seal_literal(SCORE, "258")
    assert bench.codec.open_batch(SCORE, Verdict.CLEAR, [sealed, None], 0) == [b"258", None]
    assert bench.codec.open_batch(SCORE, Verdict.CLEAR, [sealed], 1) == [b"\0\0\1\2"]


def test_arrays_are_sealed_element_by_element(bench: Bench) -> None:
    codec = bench.codec
    a, b = codec.seal_literal(CARD, "a"), codec.seal_literal(CARD, "b c")
    made = codec.seal_param(CARD, b'{a,"b c",NULL}', 0, 0, PLAIN, array=True)
    assert made.replace(b'"', b"") == b"{" + a + b"," + b + b",NULL}"
    assert made == codec.seal_literal(CARD, '{a,"b c",NULL}', array=True)
    assert codec.parameter_oid(CARD, array=True) == 1015
    assert codec.parameter_oid(CARD, array=False) == 1043
    assert codec.parameter_oid(CARD, array=True, exact=True) == 1009
    assert codec.parameter_oid(CARD, array=False, exact=True) == 25


@pytest.mark.parametrize(
    ("of", "text", "state"),
    [(BORN, "no date", "22007"), (SCORE, "zzz", "22P02"), (SCORE, "99999999999", "22003"), (CARD, "9" * 20, "22001")],
)
def test_bad_values_have_the_servers_codes_and_no_value(bench: Bench, of: object, text: str, state: str) -> None:
    assert isinstance(of, type(CARD))
    with pytest.raises(BadValue) as caught:
        bench.codec.seal_param(of, text.encode(), 0, 0, PLAIN)
    assert caught.value.sqlstate == state
    assert caught.value.reason is Reason.BAD_VALUE
    assert text not in str(caught.value) + str(caught.value.detail)


def test_what_a_column_cannot_hold_equals_nothing(bench: Bench) -> None:
    codec = bench.codec
    never = codec.seal_param(CARD, b"9" * 20, 0, 0, PLAIN, exact=True)
    assert never != codec.seal_param(CARD, b"9" * 19, 0, 0, PLAIN, exact=True)
    assert never == codec.seal_literal(CARD, "9" * 20, exact=True)


def test_array_elements_that_a_column_cannot_hold_equal_nothing(bench: Bench) -> None:
    codec = bench.codec
    texts = "{4000," + "9" * 20 + ",NULL}"
    made = codec.seal_param(CARD, texts.encode(), 0, 0, PLAIN, array=True, exact=True)
    assert made == codec.seal_literal(CARD, texts, array=True, exact=True)
    first, never, null = made.decode().strip("{}").split(",")
    assert (first, null) == (codec.seal_literal(CARD, "4000").decode(), "NULL")
    assert never not in {codec.seal_literal(CARD, "9" * 19).decode(), first}
    with pytest.raises(BadValue, match="too long"):
        codec.seal_param(CARD, texts.encode(), 0, 0, PLAIN, array=True)


def test_masks(bench: Bench) -> None:
    sealed = bench.codec.seal_literal(CARD, "6222021234567890123")
    assert bench.codec.open_batch(CARD, Verdict.MASKED, [sealed, None], 0) == [b"***************0123", None]
    with pytest.raises(BadValue, match="permission denied"):
        bench.codec.open_batch(CARD, Verdict.REFUSED, [sealed], 0)
    with pytest.raises(BadValue, match="permission denied"):
        bench.codec.open_batch(NOTE, Verdict.MASKED, [bench.codec.seal_literal(NOTE, "x")], 0)


@pytest.mark.parametrize("bad", [b"plain text", b"~AAA" + b"A" * 30])
def test_damage(bench: Bench, bad: bytes) -> None:
    with pytest.raises(BadValue) as caught:
        bench.codec.open_batch(CARD, Verdict.CLEAR, [None, bad], 0)
    assert (caught.value.sqlstate, caught.value.reason) == ("XX001", Reason.DAMAGED)
    assert "public.customers.card" in caught.value.message
    assert bad.decode() not in caught.value.message + str(caught.value.detail)
    assert bench.codec.open_batch(SCORE, Verdict.CLEAR, [bad], 1) == [b"\xff\xff\xff\xff"]
    nothing = replace(SCORE, on_damage=OnDamage.PLACEHOLDER, placeholder=None)
    assert bench.codec.open_batch(nothing, Verdict.CLEAR, [bad], 0) == [None]


def test_values_do_not_open_as_another_columns(bench: Bench) -> None:
    with pytest.raises(BadValue):
        bench.codec.open_batch(NOTE, Verdict.CLEAR, [bench.codec.seal_literal(CARD, "x")], 0)


def test_a_missing_key(bench: Bench) -> None:
    bench.ring.missing.add(str(CARD.name))
    with pytest.raises(BadValue, match="no key"):
        bench.codec.seal_literal(CARD, "x")
    with pytest.raises(BadValue, match="no key"):
        bench.codec.open_batch(CARD, Verdict.CLEAR, [b"x"], 0)


def test_rules_that_cannot_be_used(bench: Bench) -> None:
    for bad in (column("z", "no_such_type"), column("z", "int4", mask=MaskSpec("keep_last"))):
        with pytest.raises(BadValue) as caught:
            bench.codec.logical_type(bad)
        assert caught.value.sqlstate == "0AP01"


def test_changed_rules_are_seen(bench: Bench) -> None:
    assert bench.codec.logical_type(CARD).oid == 1043
    assert bench.codec.logical_type(replace(CARD, type="text")).oid == 25


def test_the_clients_encoding_is_refused_where_it_matters(bench: Bench) -> None:
    latin = OutputSettings(client_encoding="LATIN1")
    assert bench.codec.open_batch(CARD, Verdict.CLEAR, [bench.codec.seal_literal(CARD, "abc")], 0, latin) == [b"abc"]
    with pytest.raises(BadValue) as caught:
        bench.codec.open_batch(CARD, Verdict.CLEAR, [bench.codec.seal_literal(CARD, "é")], 0, latin)
    assert caught.value.sqlstate == "0AP01"


def test_encoders_are_bounded(bench: Bench) -> None:
    """A client may set its settings as often as it likes."""
    sealed = bench.codec.seal_literal(BORN, "1990-02-03")
    for number in range(3 * _ENCODERS):
        settings = OutputSettings(timezone=f"Etc/Zone{number}")
        assert bench.codec.open_batch(BORN, Verdict.CLEAR, [sealed], 0, settings) == [b"1990-02-03"]
    assert 0 < len(bench.codec._known[BORN.name].encoders) <= _ENCODERS
