"""From the first byte to AuthenticationOk: what passes, what is changed, what is refused."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import limits
from proxy.errors import (
    AuthenticationRefused,
    LimitError,
    NoPostgresClient,
    NotSupported,
    PgveilError,
    ProtocolError,
    error_response,
    notice_response,
)
from proxy.session.handshake import Authentication, BeginTls, Greeting, Login, Send, check_startup
from proxy.wire import messages as m

ALICE = m.Startup(m.PROTOCOL_3_0, ((b"user", b"alice"), (b"database", b"shop"), (b"client_encoding", b"UTF8")))


def startup(*pairs: tuple[bytes, bytes], version: int = m.PROTOCOL_3_0) -> m.Startup:
    return m.Startup(version, ((b"user", b"alice"), *pairs))


def steps(greeting: Greeting, pieces: list[bytes]) -> list[object]:
    found: list[object] = []
    for piece in pieces:
        greeting.feed(piece)
        while (step := greeting.next_step()) is not None:
            found.append(step)
            if isinstance(step, BeginTls):
                greeting.encrypted()
            if isinstance(step, Login | m.CancelRequest):
                return found
    return found


def login_of(packet: m.Startup) -> Login:
    return check_startup(packet)


@pytest.mark.parametrize("bytewise", [False, True])
def test_plain_startup(bytewise: bool) -> None:
    raw = ALICE.build()
    pieces = [raw[i : i + 1] for i in range(len(raw))] if bytewise else [raw]
    assert steps(Greeting(tls=False), pieces) == [Login("alice", "shop", ALICE)]


def test_database_defaults_to_the_user() -> None:
    assert login_of(startup()).database == "alice"


def test_tls_refused_then_plain() -> None:
    raw = m.GSSENC_REQUEST_PACKET + m.SSL_REQUEST_PACKET + ALICE.build()
    assert steps(Greeting(tls=False), [raw]) == [Send(b"N"), Send(b"N"), Login("alice", "shop", ALICE)]


def test_tls_begins() -> None:
    found = steps(Greeting(tls=True, required=True), [m.SSL_REQUEST_PACKET, ALICE.build()])
    assert found == [BeginTls(), Login("alice", "shop", ALICE)]


def test_what_is_stuffed_behind_the_request_for_tls_is_refused() -> None:
    greeting = Greeting(tls=True)
    greeting.feed(m.SSL_REQUEST_PACKET + ALICE.build())
    with pytest.raises(ProtocolError, match="unencrypted data after SSL request"):
        greeting.next_step()


@pytest.mark.parametrize("packet", [m.SSL_REQUEST_PACKET, m.GSSENC_REQUEST_PACKET])
def test_asking_twice_is_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError, match="twice"):
        steps(Greeting(tls=False), [packet, packet])
    with pytest.raises(ProtocolError, match="twice"):
        steps(Greeting(tls=True, encrypted=True), [m.SSL_REQUEST_PACKET])


def test_plain_where_tls_is_required() -> None:
    with pytest.raises(AuthenticationRefused, match="encrypted connections only"):
        steps(Greeting(tls=True, required=True), [ALICE.build()])
    cancel = m.CancelRequest(1, b"1234")
    assert steps(Greeting(tls=True, required=True), [cancel.build()]) == [cancel]


@pytest.mark.parametrize("length", [0, 3, 7, limits.STARTUP_PACKET + 5, 0x7FFFFFFF, -1])
def test_impossible_first_lengths(length: int) -> None:
    with pytest.raises(NoPostgresClient, match="invalid length"):
        steps(Greeting(tls=False), [length.to_bytes(4, "big", signed=True)])


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n", b"\0\0\0\x08\0\1\0\0"]
)
def test_other_protocols(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        steps(Greeting(tls=False), [garbage])


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_any_first_bytes_give_steps_or_an_error(data: bytes, tls: bool, cut: int) -> None:
    with suppress(PgveilError):
        steps(Greeting(tls=tls), [data[:cut], data[cut:]])


@pytest.mark.parametrize("value", [b"true", b"database", b"1", b"on", b"", b"t", b"maybe"])
def test_replication_is_refused(value: bytes) -> None:
    with pytest.raises(NotSupported, match="replication"):
        login_of(startup((b"replication", value)))


@pytest.mark.parametrize("value", [b"false", b"off", b"OFF", b"0", b"no"])
def test_no_replication_is_none(value: bytes) -> None:
    assert login_of(startup((b"replication", value))).user == "alice"


@pytest.mark.parametrize(
    "packet",
    [
        m.Startup(m.PROTOCOL_3_0, ()),
        m.Startup(m.PROTOCOL_3_0, ((b"user", b""),)),
        startup((b"user", b"bob")),
        startup((b"database", b"a"), (b"database", b"b")),
        startup((b"replication", b"false"), (b"replication", b"true")),
        m.Startup(m.PROTOCOL_3_0, ((b"user", b"u" * 64),)),
        startup((b"database", b"d" * 64)),
        m.Startup(m.PROTOCOL_3_0, ((b"user", b"\xff"),)),
    ],
)
def test_a_doubtful_login_is_refused(packet: m.Startup) -> None:
    with pytest.raises(AuthenticationRefused):
        login_of(packet)


# -- the dialogue --------------------------------------------------------------------------------------------------------------------

PLUS = (b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256")


FOLLOWING = m.build_parameter_status(b"TimeZone", b"UTC") + m.build_ready(b"I")


def begun(packet: m.Startup = ALICE, *, binding: bool = False) -> Authentication:
    authentication = Authentication(login_of(packet), binding=binding)
    authentication.to_server.clear()
    return authentication


def test_the_servers_startup_packet_is_the_clients() -> None:
    assert Authentication(login_of(ALICE)).to_server == [ALICE.build()]


def test_trust_and_what_follows_is_left_alone() -> None:
    authentication = begun()
    following = m.build_parameter_status(b"TimeZone", b"UTC") + m.build_ready(b"I")
    authentication.server_received(m.AUTHENTICATION_OK + following)
    assert authentication.done
    assert authentication.to_client == [m.AUTHENTICATION_OK]
    assert authentication.unread == (b"", following)


@pytest.mark.parametrize(
    "request_", [m.build_authentication(m.Auth.CLEARTEXT), m.build_authentication(m.Auth.MD5, b"salt")]
)
def test_passwords_pass_unchanged(request_: bytes) -> None:
    authentication = begun()
    authentication.server_received(request_)
    assert authentication.to_client == [request_]
    answer = m.message(m.Front.AUTHENTICATION, b"password\0")
    for i in range(len(answer)):
        authentication.client_received(answer[i : i + 1])
    assert authentication.to_server == [answer]
    authentication.server_received(m.AUTHENTICATION_OK + FOLLOWING[:1])
    assert authentication.done


def scram(authentication: Authentication, flag: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> None:
    authentication.client_received(m.build_sasl_initial(mechanism, flag + b",,n=,r=nonce"))


def test_plus_is_taken_off_the_list() -> None:
    authentication = begun()
    authentication.server_received(m.build_sasl(PLUS))
    assert authentication.to_client == [m.build_sasl((b"SCRAM-SHA-256",))]
    scram(authentication, b"n")
    assert authentication.to_server == [m.build_sasl_initial(b"SCRAM-SHA-256", b"n,,n=,r=nonce")]
    challenge = m.build_authentication(m.Auth.SASL_CONTINUE, b"r=nonce2,s=,i=4096")
    authentication.server_received(challenge)
    authentication.client_received(m.message(m.Front.AUTHENTICATION, b"c=biws,r=nonce2,p="))
    final = m.build_authentication(m.Auth.SASL_FINAL, b"v=")
    authentication.server_received(final + m.AUTHENTICATION_OK + FOLLOWING)
    assert authentication.to_client[1:] == [challenge, final, m.AUTHENTICATION_OK]
    assert authentication.done


@pytest.mark.parametrize(("flag", "mechanism"), [(b"y", b"SCRAM-SHA-256"), (b"p=tls-server-end-point", PLUS[0])])
def test_a_client_that_would_bind_is_told_why_not(flag: bytes, mechanism: bytes) -> None:
    authentication = begun()
    authentication.server_received(m.build_sasl(PLUS))
    with pytest.raises(AuthenticationRefused, match="channel binding") as caught:
        scram(authentication, flag, mechanism)
    assert "channel_binding=disable" in str(caught.value.hint)
    assert authentication.to_server == []


def test_plus_stays_where_the_channel_is_the_same() -> None:
    authentication = begun(binding=True)
    authentication.server_received(m.build_sasl(PLUS))
    assert authentication.to_client == [m.build_sasl(PLUS)]
    scram(authentication, b"p=tls-server-end-point", PLUS[0])
    assert len(authentication.to_server) == 1


def test_without_plus_a_client_may_say_y() -> None:
    authentication = begun()
    authentication.server_received(m.build_sasl((b"SCRAM-SHA-256",)))
    scram(authentication, b"y")
    assert len(authentication.to_server) == 1


def test_plus_alone_is_refused() -> None:
    with pytest.raises(AuthenticationRefused, match="channel binding"):
        begun().server_received(m.build_sasl(PLUS[:1]))


@pytest.mark.parametrize(
    ("code", "word"), [(7, "GSSAPI"), (9, "SSPI"), (2, "Kerberos"), (6, "method 6"), (99, "method 99")]
)
def test_methods_that_cannot_pass(code: int, word: str) -> None:
    with pytest.raises(AuthenticationRefused, match=word):
        begun().server_received(m.build_authentication(code))


def test_the_servers_refusal_is_the_clients() -> None:
    authentication = begun()
    refusal = error_response("28P01", "password authentication failed", severity="FATAL")
    authentication.server_received(refusal)
    assert authentication.to_client == [refusal]
    assert authentication.rejected is not None
    assert authentication.rejected.sqlstate == "28P01"
    assert authentication.untouched
    assert not authentication.done


def test_a_refusal_after_a_dialogue_is_final() -> None:
    authentication = begun()
    authentication.server_received(m.build_authentication(m.Auth.CLEARTEXT))
    assert not authentication.untouched
    authentication.client_received(m.message(m.Front.AUTHENTICATION, b"x\0"))
    authentication.server_received(error_response("28P01", "no"))
    assert not authentication.untouched


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("state", ["3D000", "42501", "53300", "55000", "57P03"])
def test_who_is_not_let_into_the_database_is_refused_behind_the_ok(state: str, size: int) -> None:
    """PostgreSQL looks for the database, and for the right to connect to it, when it knows who asks."""
    authentication = begun()
    notice, refusal = notice_response("01000", "hello"), error_response(state, "no", severity="FATAL")
    stream = m.AUTHENTICATION_OK + notice + refusal
    for at in range(0, len(stream), size):
        assert (authentication.done, authentication.rejected) == (False, None)
        authentication.server_received(stream[at : at + size])
    assert getattr(authentication.rejected, "sqlstate", None) == state
    assert not authentication.untouched
    assert authentication.to_client == [m.AUTHENTICATION_OK, notice, refusal]


def test_whoever_speaks_behind_the_ok_has_to_wait() -> None:
    authentication = begun()
    authentication.server_received(m.AUTHENTICATION_OK)
    question = m.message(m.Front.QUERY, b"select 1\0")
    authentication.client_received(question)
    assert authentication.let_in
    authentication.server_received(FOLLOWING)
    assert authentication.done
    assert authentication.unread == (question, FOLLOWING)


def test_notices_pass() -> None:
    authentication = begun()
    notice = notice_response("01000", "hello")
    authentication.server_received(notice + m.AUTHENTICATION_OK)
    assert authentication.to_client == [notice, m.AUTHENTICATION_OK]


def test_an_early_client_is_refused() -> None:
    with pytest.raises(ProtocolError, match="before it was asked"):
        begun().client_received(m.message(m.Front.AUTHENTICATION, b"x\0"))
    authentication = begun()
    authentication.server_received(m.build_authentication(m.Auth.CLEARTEXT))
    with pytest.raises(ProtocolError, match="before it was asked"):
        authentication.client_received(m.message(m.Front.AUTHENTICATION, b"x\0") * 2)
    authentication = begun()
    authentication.server_received(m.build_authentication(m.Auth.CLEARTEXT))
    with pytest.raises(ProtocolError, match="type 'Q'"):
        authentication.client_received(m.build_query(b"select 1"))


def test_what_a_server_may_not_say_yet() -> None:
    with pytest.raises(ProtocolError, match="during authentication"):
        begun().server_received(m.build_ready(b"I"))


def test_an_endless_dialogue_ends() -> None:
    authentication = begun()
    with pytest.raises(LimitError, match="messages"):
        authentication.server_received(notice_response("01000", "x") * (limits.AUTH_MESSAGES + 1))


def test_long_messages_end_it() -> None:
    authentication = begun()
    with pytest.raises(LimitError):
        authentication.server_received(b"E" + (limits.AUTH_REQUEST + 1).to_bytes(4, "big"))
    authentication = begun()
    authentication.server_received(m.build_authentication(m.Auth.CLEARTEXT))
    with pytest.raises(ProtocolError):
        authentication.client_received(b"p" + (limits.AUTH_MESSAGE + 1).to_bytes(4, "big"))


# -- protocol versions ---------------------------------------------------------------------------------------------------------------


def test_protocol_3_2_passes() -> None:
    login = login_of(startup(version=m.PROTOCOL_3_2))
    assert not login.lowered
    assert login.startup.version == m.PROTOCOL_3_2
    authentication = begun(startup(version=m.PROTOCOL_3_2))
    down = m.build_negotiate(m.PROTOCOL_3_0, ())
    authentication.server_received(down + m.AUTHENTICATION_OK)
    assert authentication.to_client == [down, m.AUTHENTICATION_OK]


def test_newer_minor_versions_and_options_are_answered_by_us() -> None:
    packet = startup((b"_pq_.new", b"1"), (b"options", b"-c x=y"), version=0x0003_270F)
    login = login_of(packet)
    assert login.startup == startup((b"options", b"-c x=y"), version=m.PROTOCOL_3_2)
    ours = m.build_negotiate(m.PROTOCOL_3_2, (b"_pq_.new",))
    authentication = begun(packet)
    authentication.server_received(m.AUTHENTICATION_OK)
    assert authentication.to_client == [ours, m.AUTHENTICATION_OK]
    authentication = begun(packet)
    authentication.server_received(m.build_negotiate(m.PROTOCOL_3_0, ()) + m.AUTHENTICATION_OK)
    assert authentication.to_client == [m.build_negotiate(m.PROTOCOL_3_0, (b"_pq_.new",)), m.AUTHENTICATION_OK]


@pytest.mark.parametrize("version", [0x0002_0000, 0x0004_0000, 0x0001_0000])
def test_other_major_versions(version: int) -> None:
    with pytest.raises(ProtocolError, match="unsupported frontend protocol"):
        steps(Greeting(tls=False), [startup(version=version).build()])


@given(st.binary(max_size=100), st.binary(max_size=100), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_dialogue_ends_in_messages_or_an_error(server: bytes, client: bytes, ask: bool) -> None:
    authentication = begun()
    with suppress(PgveilError):
        if ask:
            authentication.server_received(m.build_sasl(PLUS))
            authentication.client_received(client)
        authentication.server_received(server)


@given(st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_same_dialogue(places: list[int]) -> None:
    stream = (
        notice_response("01000", "x")
        + m.build_negotiate(m.PROTOCOL_3_0, (b"_pq_.x",))
        + m.AUTHENTICATION_OK
        + m.build_ready(b"I")
    )
    marks = sorted({min(p, len(stream)) for p in places} | {0, len(stream)})
    authentication = begun()
    rest = b""
    for a, b in pairwise(marks):
        if authentication.done:
            rest += stream[a:b]
        else:
            authentication.server_received(stream[a:b])
    assert b"".join(authentication.to_client) + authentication.unread[1] + rest == stream
