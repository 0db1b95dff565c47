"""Logical types without a server: spellings, what is refused and how, and that nothing but WireValueError ever comes out of bad bytes."""

from __future__ import annotations

import struct
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.types import (
    ArrayValue,
    OutputSettings,
    TypeSpecError,
    UnrepresentableError,
    WireValueError,
    accepts_oid,
    array_of,
    decode,
    decode_array,
    decode_literal,
    encode,
    encode_array,
    encoder,
    equality_is_bytes,
    parse_type,
    with_enum,
)
from rules.decide import UNSUPPORTED

SCALARS = (
    "text", "varchar(5)", "varchar", "char(5)", "smallint", "integer", "bigint", "numeric", "numeric(6,2)", "numeric(4,-2)", "real", "float8",
    "boolean", "date", "time", "time(2)", "timetz", "timestamp", "timestamp(1)", "timestamptz", "uuid", "bytea", "json", "jsonb", "enum mood(a, b)",
)  # fmt: skip
ALL = (*SCALARS, *(f"{s}[]" for s in SCALARS))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("VARCHAR ( 19 )", "character varying(19)"),
        ("character  varying", "character varying"),
        ("char", "character(1)"),
        ("bpchar(3)", "character(3)"),
        ("int", "integer"),
        ("pg_catalog.int4", "integer"),
        ("decimal(12)", "numeric(12,0)"),
        ("numeric(3, -2)", "numeric(3,-2)"),
        ("float", "double precision"),
        ("float(24)", "real"),
        ("float(25)", "double precision"),
        ("timestamptz(3)", "timestamp(3) with time zone"),
        ("timestamp(3) with time zone", "timestamp(3) with time zone"),
        ("timestamp with time zone", "timestamp with time zone"),
        ("time(0)", "time(0) without time zone"),
        ("text array", "text[]"),
        ("int[][3]", "integer[]"),
        ("varchar(5) [ ]", "character varying(5)[]"),
        ("enum public.mood(a,b)", "public.mood"),
        ('enum "My Types"."Mood"', '"My Types"."Mood"'),
    ],
)
def test_spellings(spec: str, name: str) -> None:
    type_ = parse_type(spec)
    assert type_.name == name
    assert type_.array == name.endswith("[]") == (type_.element is not None)


@pytest.mark.parametrize(
    "spec",
    [
        "", "money", "interval", "varchar(0)", "varchar(10485761)", "varchar(a)", "varchar(1,2)", "text(5)", "numeric(0)", "numeric(1001)",
        "numeric(5,1001)", "numeric(1,2,3)", "timestamp(7)", "time(-1)", "float(54)", "float(0)", "date with time zone", "bpchar", "text; drop",
        "int()", "enum", "enum m(a,a)", "enum m(a", "enum m(,)", "enum m(" + "x" * 64 + ")", "my.type", "[]", "x" * 200_000,
    ],
)  # fmt: skip
def test_bad_spellings(spec: str) -> None:
    with pytest.raises(TypeSpecError):
        parse_type(spec)


def test_enum_labels() -> None:
    type_ = parse_type("enum s.m( a b ,'c, d', 'it''s' )")
    assert type_.labels == ("a b", "c, d", "it's")
    filled = with_enum(parse_type("enum s.m[]"), oid=7, array_oid=8, labels=("x",))
    assert (filled.oid, filled.scalar.oid, filled.scalar.labels) == (8, 7, ("x",))
    assert decode(filled, b"{x}", 0) == b"{x}"
    with pytest.raises(WireValueError, match="not known") as caught:
        decode(parse_type("enum s.m"), b"x", 0)
    assert caught.value.sqlstate == "0AP01"
    with pytest.raises(TypeSpecError):
        with_enum(parse_type("text"), oid=1)


def sqlstate(spec: str, data: bytes, form: int = 0, **rest: object) -> str:
    with pytest.raises(WireValueError) as caught:
        decode(parse_type(spec), data, form, **rest)  # type: ignore[arg-type]
    return caught.value.sqlstate


@pytest.mark.parametrize(
    ("spec", "data", "state"),
    [
        ("text", b"\xff", "22021"),
        ("text", b"a\0b", "22021"),
        ("text", b"\xed\xa0\x80", "22021"),
        ("integer", b"\0\0\0", "08P01"),
        ("integer", b"\0\0\0\0\0", "22P03"),
        ("boolean", b"", "08P01"),
        ("uuid", b"x" * 17, "22P03"),
        ("numeric", b"\0", "08P01"),
        ("numeric", struct.pack("!hhHH", -1, 0, 0, 0), "22P03"),
        ("numeric", struct.pack("!hhHH", 0, 0, 0x1234, 0), "22P03"),
        ("numeric", struct.pack("!hhHH", 0, 0, 0, 0x4000), "22P03"),
        ("numeric", struct.pack("!hhHHh", 1, 0, 0, 0, 10000), "22P03"),
        ("numeric", struct.pack("!hhHHh", 2, 0, 0, 0, 1), "08P01"),
        ("numeric(3,0)", struct.pack("!hhHHh", 1, 0, 0, 0, 1000), "22003"),
        ("date", struct.pack("!i", 2_147_483_000), "22008"),
        ("time", struct.pack("!q", -1), "22008"),
        ("timetz", struct.pack("!qi", 0, 60_000), "22009"),
        ("timestamp", struct.pack("!q", (1 << 63) - 2), "22008"),
        ("jsonb", b"", "08P01"),
        ("jsonb", b"\x02{}", "XX000"),
        ("varchar(2)", b"abc", "22001"),
        ("enum m(a)", b"b", "22P02"),
        ("text[]", b"", "08P01"),
        ("text[]", struct.pack("!iiI", 7, 0, 25), "54000"),
        ("text[]", struct.pack("!iiI", -1, 0, 25), "22P03"),
        ("text[]", struct.pack("!iiI", 1, 2, 25), "22P03"),
        ("text[]", struct.pack("!iiI", 1, 0, 25), "08P01"),
        ("text[]", struct.pack("!iiI", 1, 0, 23), "08P01"),
        ("text[]", struct.pack("!iiIii", 1, 0, 25, 1, 0), "0AP01"),
        ("text[]", struct.pack("!iiIii", 1, 0, 25, -1, 1), "54000"),
        ("text[]", struct.pack("!iiIii", 1, 0, 25, 2_000_000_000, 1), "54000"),
        ("text[]", struct.pack("!iiIiiii", 2, 0, 25, 2_000_000, 1, 2_000_000, 1), "54000"),
        ("text[]", struct.pack("!iiIii", 1, 0, 25, 1, 1), "08P01"),
        ("text[]", struct.pack("!iiIiii", 1, 0, 25, 1, 1, 5), "22P03"),
        ("text[]", struct.pack("!iiIiii", 1, 0, 25, 1, 1, -2), "22P03"),
        ("text[]", struct.pack("!iiIiii", 1, 0, 23, 1, 1, -1), "42804"),
        ("text[]", struct.pack("!iiI", 0, 0, 25) + b"x", "22P03"),
    ],
)
def test_bad_binary(spec: str, data: bytes, state: str) -> None:
    assert sqlstate(spec, data, 1) == state


def test_binary_special_values() -> None:
    assert decode(parse_type("date"), b"\x7f\xff\xff\xff", 1) == b"infinity"
    assert decode(parse_type("timestamptz"), b"\x80" + b"\0" * 7, 1) == b"-infinity"
    assert decode(parse_type("float8"), struct.pack("!d", -0.0), 1) == b"0"
    assert decode(parse_type("numeric"), struct.pack("!hhHH", 0, 0, 0xC000, 0), 1) == b"NaN"
    # The sender's scale cuts digits (numeric_recv), and leading zero groups are no digits.
    assert decode(parse_type("numeric"), struct.pack("!hhHH2h", 2, 0, 0x4000, 1, 1, 2390), 1) == b"-1.2"
    assert decode(parse_type("numeric(8,1)"), struct.pack("!hhHH2h", 2, 1, 0, 0, 0, 7), 1) == b"7.0"


@pytest.mark.parametrize(("spec", "oids"), [
    ("text", {0, 705, 25, 1043, 1042, 19, 20, 21, 23, 1700, 2950}),
    ("varchar(5)", {0, 705, 25, 1043, 1042, 19, 20, 21, 23, 1700, 2950}),
    ("integer", {0, 705, 20, 21, 23, 700, 701, 1700}),
    ("numeric(6,2)", {0, 705, 20, 21, 23, 700, 701, 1700}),
    ("date", {0, 705, 1082, 1114, 1184}),
    ("timestamptz", {0, 705, 1082, 1114, 1184}),
    ("time", {0, 705, 1083}),
    ("uuid", {0, 705, 2950}),
    ("bytea", {0, 705, 17}),
    ("boolean", {0, 705, 16}),
    ("jsonb", {0, 705, 114, 3802}),
    ("enum m(a)", {0, 705}),
    ("text[]", {0, 705, 1009, 1015, 1014, 1003, 1016, 1005, 1007, 1231, 2951}),
    ("date[]", {0, 705, 1182, 1115, 1185}),
])  # fmt: skip
def test_accepts_oid(spec: str, oids: set[int]) -> None:
    """Nothing that the server would not assign: a parameter declared as text is no date."""
    assert {oid for oid in range(5000) if accepts_oid(parse_type(spec), oid)} == oids


def test_declared_as_a_type_that_does_not_fit() -> None:
    assert sqlstate("date", b"2024-01-01", declared_oid=25) == "42804"
    assert sqlstate("text[]", b"{a}", declared_oid=25) == "42804"
    assert sqlstate("time", b"12:00", declared_oid=1266) == "42804"


@pytest.mark.parametrize(
    ("spec", "data", "declared"),
    [
        ("integer", b"1.5", 1700),
        ("integer", b"NaN", 701),
        ("date", b"2024-01-01 00:00:01", 1114),
        ("smallint", b"40000", 23),
        ("bigint", b"1" * 40, 1700),
    ],
)
def test_what_an_assignment_would_change_is_refused(spec: str, data: bytes, declared: int) -> None:
    """In a comparison such a value equals nothing; elsewhere it is an error, never another value."""
    with pytest.raises(WireValueError) as caught:
        decode(parse_type(spec), data, 0, declared_oid=declared)
    assert not isinstance(caught.value, UnrepresentableError)
    with pytest.raises(UnrepresentableError):
        decode(parse_type(spec), data, 0, declared_oid=declared, exact=True)


@pytest.mark.parametrize(
    ("spec", "text", "stored"),
    [
        ("numeric(5,2)", "1.005", b"1.01"),
        ("varchar(3)", "abc  ", b"abc"),
        ("timestamp(1)", "2024-01-01 00:00:00.25", b"2024-01-01 00:00:00.3"),
    ],
)
def test_exact(spec: str, text: str, stored: bytes) -> None:
    """An assignment rounds or cuts; a comparison with the same value finds nothing."""
    type_ = parse_type(spec)
    assert decode_literal(type_, text) == stored
    with pytest.raises(UnrepresentableError):
        decode_literal(type_, text, exact=True)
    assert decode_literal(type_, stored.decode(), exact=True) == stored


def test_exact_fits_and_overflows() -> None:
    assert decode_literal(parse_type("numeric(5,2)"), "1.500", exact=True) == b"1.50"
    assert decode_literal(parse_type("numeric(5,2)"), "-0", exact=True) == b"0.00"
    assert decode_literal(parse_type("char(3)"), "ab     ", exact=True) == b"ab"
    for spec, text in (
        ("numeric(5,2)", "1000"),
        ("numeric(5,2)", "Infinity"),
        ("varchar(3)", "abcd"),
        ("char(3)", "abcd"),
    ):
        with pytest.raises(UnrepresentableError):
            decode_literal(parse_type(spec), text, exact=True)
    # The server reads an untyped constant by the type's own input function: beyond it, an error there too.
    with pytest.raises(WireValueError) as caught:
        decode_literal(parse_type("smallint"), "40000", exact=True)
    assert caught.value.sqlstate == "22003"
    assert not isinstance(caught.value, UnrepresentableError)
    with pytest.raises(UnrepresentableError):
        decode_literal(parse_type("smallint"), "40000", number=True, exact=True)


@pytest.mark.parametrize(
    ("spec", "text", "canonical"),
    [
        ("integer", "- 5", b"-5"),
        ("integer", "5.0", b"5"),
        ("integer", "1e2", b"100"),
        ("numeric(6,2)", "1.5", b"1.50"),
        ("text", "007", b"7"),
        ("varchar(5)", "1.50", b"1.50"),
        ("float8", "1e3", b"1000"),
        ("real", "0.1", b"0.1"),
        ("bigint", "0x1F", b"31"),
    ],
)
def test_numeric_constants(spec: str, text: str, canonical: bytes) -> None:
    assert decode_literal(parse_type(spec), text, number=True) == canonical


def test_bad_constants() -> None:
    for spec, text, state in (
        ("date", "5", "42804"),
        ("integer[]", "5", "42804"),
        ("integer", "abc", "42601"),
        ("uuid", "1", "42804"),
    ):
        with pytest.raises(WireValueError) as caught:
            decode_literal(parse_type(spec), text, number=True)
        assert caught.value.sqlstate == state
    with pytest.raises(WireValueError) as caught:
        decode_literal(parse_type("text"), "\ud800")
    assert caught.value.sqlstate == "22021"


def test_what_needs_the_session_is_refused_without_it() -> None:
    assert sqlstate("timestamptz", b"2024-01-01 10:00:00") == "0AP01"
    assert sqlstate("timetz", b"10:00:00") == "0AP01"
    assert sqlstate("timetz", b"10:00:00", settings=OutputSettings(timezone="Europe/Paris")) == "0AP01"
    assert decode(parse_type("timetz"), b"10:00:00", 0, settings=OutputSettings(timezone="<+08>-08")) == b"10:00:00+08"
    assert sqlstate("timestamptz", b"2024-01-01 10:00:00", settings=OutputSettings(timezone="Not/AZone")) == "0AP01"
    assert sqlstate("timestamp", b"2024-01-01 10:00:00+00", declared_oid=1184) == "0AP01"
    assert sqlstate("timestamptz", b"12024-01-01 10:00:00", settings=OutputSettings(timezone="Europe/Paris")) == "0AP01"


def test_output_that_cannot_be_honoured_is_refused() -> None:
    for spec, canonical, session in (
        ("date", b"2024-01-01", OutputSettings(date_style="Stardate, MDY")),
        ("timestamptz", b"2024-01-01 00:00:00+00", OutputSettings(timezone="../etc/passwd")),
        ("timestamptz", b"2024-01-01 00:00:00+00", OutputSettings(timezone="<+99>-99")),
        ("timestamptz", b"2024-01-01 00:00:00+00", OutputSettings(timezone="<+08>-08", date_style="SQL, MDY")),
        ("timestamptz", b"0044-03-15 00:00:00+00 BC", OutputSettings(timezone="Europe/Paris")),
        ("bytea", b"x", OutputSettings(bytea_output="base64")),
        ("text", "é".encode(), OutputSettings(client_encoding="LATIN1")),
        ("text[]", "{é}".encode(), OutputSettings(client_encoding="GBK")),
    ):
        with pytest.raises(WireValueError) as caught:
            encode(parse_type(spec), canonical, 0, settings=session)
        assert caught.value.sqlstate == "0AP01"
    assert encode(parse_type("text"), b"plain", 0, settings=OutputSettings(client_encoding="LATIN1")) == b"plain"


def test_other_client_encodings() -> None:
    latin = OutputSettings(client_encoding="LATIN1")
    assert decode(parse_type("text"), b"plain", 0, settings=latin) == b"plain"
    assert sqlstate("text", b"\xe9", settings=latin) == "0AP01"
    assert sqlstate("text", "é".encode(), 1, settings=latin) == "0AP01"
    assert decode(parse_type("integer"), b"\0\0\0\xff", 1, settings=latin) == b"255"
    assert (
        decode(parse_type("text"), "é".encode(), 0, settings=OutputSettings(client_encoding="SQL_ASCII"))
        == "é".encode()
    )


def test_encoder_is_none_where_the_clients_form_is_canonical() -> None:
    shown = {s: encoder(parse_type(s), 0) is None for s in SCALARS}
    assert [s for s, none in shown.items() if not none] == ["char(5)", "bytea"]
    assert encoder(parse_type("text"), 1) is None
    assert encoder(parse_type("timestamptz"), 0, OutputSettings(timezone="Asia/Shanghai")) is not None
    assert encoder(parse_type("timestamptz"), 0, OutputSettings(timezone="Etc/UTC")) is None


def test_arrays_element_by_element() -> None:
    type_ = parse_type("bytea[]")
    value = decode_array(type_, b'{{"\\\\x00ff",NULL}}', 0)
    assert value == ArrayValue((1, 2), (b"\x00\xff", None))
    assert encode_array(type_, value, 0) == b'{{"\\\\x00ff",NULL}}'
    assert decode_array(type_, encode_array(type_, value, 1), 1) == value
    assert decode(type_, b'{{"\\\\x00FF",null}}', 0) == b'{{"\\\\x00ff",NULL}}'
    assert array_of(parse_type("date")) == parse_type("date[]")
    with pytest.raises(TypeSpecError):
        decode_array(parse_type("text"), b"{}", 0)
    assert sqlstate("varchar(2)[]", b"{abc}") == "22001"


def test_texts_of_either_kind_are_taken_for_each_other_in_binary_arrays() -> None:
    text = parse_type("text[]")
    sent = encode_array(text, decode_array(text, b"{a,NULL}", 0), 1)
    assert decode_array(parse_type("varchar(3)[]"), sent, 1).elements == (b"a", None)
    with pytest.raises(WireValueError):
        decode_array(parse_type("uuid[]"), sent, 1)


def test_deep_json_is_refused_not_crashed_on() -> None:
    for spec in ("json", "jsonb"):
        assert sqlstate(spec, b"[" * 100_000) == "54001"
        assert sqlstate(spec, b'{"a":' * 100_000) == "54001"
        assert decode(parse_type(spec), b'["' + b"[" * 500 + b'"]', 0) == b'["' + b"[" * 500 + b'"]'


def test_equality_is_bytes() -> None:
    assert [s for s in SCALARS if not equality_is_bytes(parse_type(s))] == ["json", "jsonb"]
    assert not equality_is_bytes(parse_type("jsonb[]"))


@given(
    data=st.binary(max_size=40) | st.text(max_size=20).map(str.encode),
    spec=st.sampled_from(ALL),
    form=st.integers(0, 1),
    exact=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_value_or_wire_value_error(data: bytes, spec: str, form: int, exact: bool) -> None:
    """And a value comes back the same from both of its forms."""
    type_ = parse_type(spec)
    try:
        canonical = decode(type_, data, form, settings=OutputSettings(), exact=exact)
    except WireValueError:
        return
    for shown in (0, 1):
        assert decode(type_, encode(type_, canonical, shown), shown) == canonical


BAD = [("integer", b"s3cretvalue"), ("text", b"s3cretvalue\xff"), ("numeric(3,1)", b"987654321"), ("json", b'{"s3cretvalue'), ("jsonb", b'{"s3cretvalue"'),
       ("uuid", b"s3cretvalue"), ("date", b"s3cretvalue"), ("timestamptz", b"s3cretvalue 10:00"), ("text[]", b"{s3cretvalue"), ("real", b"0x1p987654321"),
       ("bytea", b"\\xs3cretvalue"), ("boolean", b"s3cretvalue"), ("enum m(a)", b"s3cretvalue"), ("varchar(3)", b"s3cretvalue"), ("jsonb", b"1e987654321")]  # fmt: skip


@pytest.mark.parametrize(("spec", "data"), BAD)
def test_no_error_holds_the_value(spec: str, data: bytes) -> None:
    """Neither the message nor an exception behind it, which a log might print."""
    with pytest.raises(WireValueError) as caught:
        decode(parse_type(spec), data, 0)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__context__ is None
    text = "".join(traceback.format_exception_only(error)) + repr(vars(error))
    assert "s3cret" not in text
    assert "987654321" not in text


def test_a_form_that_can_not_be_protected_has_one_sqlstate_everywhere() -> None:
    """keys imports nothing of ours, so the code stands twice (docs/adr/0034)."""
    assert sqlstate("timetz", b"10:00:00") == UNSUPPORTED == "0AP01"
