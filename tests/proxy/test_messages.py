"""Codecs: what is built parses to the same, what is malformed is refused, and nothing but ProtocolError comes out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import LimitError, NotSupported, ProtocolError, error_response, notice_response
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

text = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b""))
name = text.filter(bool)
value = st.none() | st.binary(max_size=30)
int16 = st.integers(-(1 << 15), (1 << 15) - 1)
int32 = st.integers(-(1 << 31), (1 << 31) - 1)
oid = st.integers(0, (1 << 32) - 1)
formats = st.lists(st.integers(0, 1), max_size=4).map(tuple)
values = st.lists(value, max_size=5).map(tuple)


@st.composite
def binds(draw: st.DrawFn) -> m.Bind:
    given_values = draw(values)
    lengths = {0, 1, len(given_values)}
    codes = draw(
        st.sampled_from(sorted(lengths)).flatmap(lambda n: st.lists(st.integers(0, 1), min_size=n, max_size=n))
    )
    return m.Bind(draw(text), draw(text), tuple(codes), given_values, draw(formats))


fields = st.builds(m.Field, text, oid, int16, oid, int16, int32, st.integers(0, 1))

ROUND_TRIPS: list[tuple[st.SearchStrategy[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = [
    (text, m.build_query, m.parse_query),
    (st.builds(m.Parse, text, text, st.lists(oid, max_size=4).map(tuple)), lambda p: m.build_parse(*p), m.parse_parse),
    (binds(), lambda b: m.build_bind(*b), m.parse_bind),
    (st.builds(m.Target, st.sampled_from([b"S", b"P"]), text), lambda t: m.build_describe(*t), m.parse_target),
    (st.builds(m.Target, st.sampled_from([b"S", b"P"]), text), lambda t: m.build_close(*t), m.parse_target),
    (st.builds(m.Execute, text, int32), lambda e: m.build_execute(*e), m.parse_execute),
    (st.builds(m.ParameterStatus, text, text), lambda s: m.build_parameter_status(*s), m.parse_parameter_status),
    (
        st.builds(m.BackendKey, int32, st.binary(min_size=1, max_size=256)),
        lambda k: m.build_backend_key(*k),
        m.parse_backend_key,
    ),
    (st.sampled_from([b"I", b"T", b"E"]), m.build_ready, m.parse_ready),
    (st.lists(fields, max_size=4).map(tuple), m.build_row_description, m.parse_row_description),
    (st.lists(oid, max_size=5).map(tuple), m.build_parameter_description, m.parse_parameter_description),
    (values, m.build_data_row, m.parse_data_row),
    (text, m.build_command_complete, m.parse_command_complete),
    (
        st.lists(st.tuples(st.integers(1, 255), text), max_size=5).map(lambda pairs: m.ErrorFields(tuple(pairs))),
        m.build_error,
        m.parse_error,
    ),
    (
        st.builds(m.CopyResponse, st.integers(0, 1), formats),
        lambda r: m.build_copy_response(m.Back.COPY_IN, r),
        m.parse_copy_response,
    ),
    (st.builds(m.Notification, int32, text, text), lambda n: m.build_notification(*n), m.parse_notification),
    (st.builds(m.SaslInitial, text, value), lambda s: m.build_sasl_initial(*s), m.parse_sasl_initial),
    (
        st.builds(m.Negotiated, int32, st.lists(text, max_size=3).map(tuple)),
        lambda n: m.build_negotiate(*n),
        m.parse_negotiate,
    ),
    (
        st.builds(m.Authentication, int32, st.binary(max_size=20)),
        lambda a: m.build_authentication(*a),
        m.parse_authentication,
    ),
]
NAMES = [getattr(parse, "__name__", "?") for _, _, parse in ROUND_TRIPS]
PARSERS = [parse for _, _, parse in ROUND_TRIPS] + [
    m.parse_function_call,
    m.parse_first_packet,
    m.parse_sasl_mechanisms,
]


@pytest.mark.parametrize(("strategy", "build", "parse"), ROUND_TRIPS, ids=NAMES)
def test_round_trip(
    strategy: st.SearchStrategy[Any], build: Callable[[Any], bytes], parse: Callable[[bytes], Any]
) -> None:
    @given(strategy)
    @settings(max_examples=40, deadline=None)
    def check(original: Any) -> None:
        raw = build(original)
        assert int.from_bytes(raw[1:5], "big") == len(raw) - 1
        assert parse(raw[5:]) == original

    check()


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_any_bytes_parse_or_are_refused(parse: Callable[[bytes], Any]) -> None:
    @given(st.binary(max_size=60))
    @settings(max_examples=60, deadline=None)
    def check(data: bytes) -> None:
        with suppress(ProtocolError):
            parse(data)

    check()


@pytest.mark.parametrize(("strategy", "build", "parse"), ROUND_TRIPS, ids=NAMES)
def test_trailing_bytes_are_refused(
    strategy: st.SearchStrategy[Any], build: Callable[[Any], bytes], parse: Callable[[bytes], Any]
) -> None:
    if parse in (m.parse_authentication, m.parse_backend_key):
        pytest.skip("their last part takes all that is left")

    @given(strategy)
    @settings(max_examples=10, deadline=None)
    def check(original: Any) -> None:
        with pytest.raises(ProtocolError):
            parse(build(original)[5:] + b"\1")

    check()


@given(st.lists(st.tuples(name, text), max_size=5))
@settings(max_examples=60, deadline=None)
def test_startup_round_trip(parameters: list[tuple[bytes, bytes]]) -> None:
    startup = m.Startup(m.PROTOCOL_3_2, tuple(parameters))
    assert m.parse_first_packet(startup.build()) == startup
    assert (startup.major, startup.minor) == (3, 2)


def test_the_last_of_two_startup_parameters_holds() -> None:
    startup = m.Startup(m.PROTOCOL_3_0, ((b"user", b"a"), (b"user", b"b")))
    assert startup.get(b"user") == b"b"
    assert startup.get(b"database") is None


def test_first_packets() -> None:
    assert m.parse_first_packet(m.SSL_REQUEST_PACKET) == m.SSLRequest()
    assert m.parse_first_packet(m.GSSENC_REQUEST_PACKET) == m.GSSEncRequest()
    for key in (b"1234", b"k" * 32, b"k" * 256):
        cancel = m.CancelRequest(7, key)
        assert m.parse_first_packet(cancel.build()) == cancel
        assert "k" * 4 not in repr(cancel)
    for bad in (
        m.CancelRequest(7, b"").build(),
        m.CancelRequest(7, b"k" * 257).build(),
        m.SSL_REQUEST_PACKET + b"x",
        b"\0\0\0\x08\0\2\0\0",  # protocol 2.0
        b"\0\0\0\x09\0\3\0\0x",
        b"\0\0\0\x0a\0\3\0\0\0x",
        b"\0\0\0\x09\0\4\0\0\0",
    ):
        with pytest.raises(ProtocolError):
            m.parse_first_packet(bad)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(m.BackendKey(1, b"secret"))
    assert "secret" not in repr(m.parse_error(b"Msecret\0C22P02\0\0"))


def test_bind_head() -> None:
    body = m.build_bind(b"portal", b"stmt", (), (b"x",))[5:]
    assert m.parse_bind_head(body) == (b"portal", b"stmt")
    assert m.parse_bind_head(body[:12]) == (b"portal", b"stmt")
    assert m.parse_bind_head(body[:11]) is None
    assert m.parse_bind_head(b"portal") is None


def test_bind_formats_must_match() -> None:
    body = m.build_bind(b"", b"", (0, 1, 1), (b"x",))[5:]
    with pytest.raises(ProtocolError, match="3 parameter formats but 1"):
        m.parse_bind(body)


def test_function_call() -> None:
    body = b"\0\0\0\x07" + b"\0\1\0\1" + b"\0\2\0\0\0\1x\xff\xff\xff\xff" + b"\0\1"
    assert m.parse_function_call(body) == m.FunctionCall(7, (1,), (b"x", None), 1)


def test_sasl_mechanisms() -> None:
    raw = m.build_sasl((b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"))
    request = m.parse_authentication(raw[5:])
    assert request.code == m.Auth.SASL
    assert m.parse_sasl_mechanisms(request.data) == (b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256")


def test_error_fields_are_edited() -> None:
    fields = m.parse_error(error_response("22P02", "bad", detail="d", hint="h", position=3)[5:])
    assert fields.sqlstate == "22P02"
    assert fields.get("P") == b"3"
    assert not fields.fatal
    edited = fields.replace("D", None).replace("M", b"other").replace("W", b"where")
    assert [edited.get(code) for code in "DMWH"] == [None, b"other", b"where", b"h"]
    assert m.parse_error(m.build_error(edited)[5:]) == edited


def test_a_zero_byte_cannot_enter_a_string() -> None:
    with pytest.raises(ProtocolError):
        m.build_query(b"select 1\0; drop")


def test_error_response_cannot_be_broken_out_of() -> None:
    fields = m.parse_error(error_response("XX000", "a\0Cevil", severity="FATAL")[5:])
    assert fields.get("M") == b"a Cevil"
    assert fields.fatal
    assert fields.get("S") == fields.get("V") == b"FATAL"
    notice = notice_response("01000", "word", severity="WARNING", hint="h")
    assert notice[:1] == b"N"
    assert m.parse_error(notice[5:]).get("S") == b"WARNING"


def test_exceptions_become_responses() -> None:
    fields = m.parse_error(NotSupported("no", detail="d", hint="h").response()[5:])
    assert [fields.get(code) for code in "VCMDH"] == [b"FATAL", b"0A000", b"no", b"d", b"h"]
    assert m.parse_error(LimitError("x").response("ERROR")[5:]).sqlstate == "54000"
