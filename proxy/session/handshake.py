"""From the first byte to the server's letting in, without I/O (PostgreSQL 55.2.1, 55.2.10, 55.2.11; sources of its backend_startup.c).

`Greeting` is the client's side up to its startup packet:

    first packet --SSLRequest--> 'S', TLS, again      (once)    or 'N', again
                 --GSSENCRequest--> 'N', again        (once)
                 --CancelRequest--> a CancelRequest   (the end)
                 --StartupMessage--> a Login          (the end)

`Authentication` passes the dialogue between client and server through. Two things only are changed: SCRAM-SHA-256-PLUS is taken off the
server's list unless the channel that it would bind is the same on both sides (docs/adr/0010), and protocol options and minor versions that
pgveil doesn't know are answered by pgveil, so that a server that knows them can't start to speak what the session could not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from
from typing import Final

from proxy import limits
from proxy.errors import AuthenticationRefused, LimitError, NoPostgresClient, NotSupported, ProtocolError
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Event, Framer, Message

NEWEST: Final = m.PROTOCOL_3_2
_SMALLEST_PACKET: Final = 8


class BadLoginName(AuthenticationRefused):
    """The startup packet does not say who logs in, or not for certain."""

    sqlstate = "28000"


# -- the client's side ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Write `reply` in plain, then begin TLS as its server; call `encrypted()` when it stands."""

    reply: bytes = b"S"


@dataclass(frozen=True, slots=True)
class Login:
    """The client's startup packet, checked. `startup` is what the server is sent.

    `unknown`: protocol options that were taken out. `lowered`: the client asked for a newer minor version than pgveil speaks.
    """

    user: str
    database: str
    startup: m.Startup
    unknown: tuple[bytes, ...] = ()
    lowered: bool = False


Step = Send | BeginTls | Login | m.CancelRequest


class Greeting:
    """The client's packets before authentication. Feed bytes, take steps until None; Login and CancelRequest are the last one.

    `tls`: TLS can be had. `required`: a startup packet in plain is refused (a CancelRequest is not: libpq before 17 sends them so).
    Raises PgveilError subclasses, whose response goes to the client.
    """

    __slots__ = ("_buffer", "_encrypted", "_gss_asked", "_required", "_tls", "_tls_asked", "_waiting")

    def __init__(self, *, tls: bool, required: bool = False, encrypted: bool = False) -> None:
        self._tls = tls
        self._required = required
        self._encrypted = encrypted
        self._tls_asked = encrypted
        self._gss_asked = False
        self._waiting = False  # for TLS to stand
        self._buffer = b""

    @property
    def unread(self) -> bytes:
        """What came behind the last packet."""
        return self._buffer

    def encrypted(self) -> None:
        """TLS stands; packets go on inside of it."""
        assert self._waiting
        self._waiting = False
        self._encrypted = True

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        self._buffer += data

    def next_step(self) -> Step | None:
        """What to do next; None: more bytes are needed."""
        assert not self._waiting
        packet = self._cut()
        if packet is None:
            return None
        parsed = m.parse_first_packet(packet)
        match parsed:
            case m.SSLRequest():
                return self._answer_tls()
            case m.GSSEncRequest():
                if self._gss_asked:
                    raise ProtocolError("the client asked for GSSAPI encryption twice")
                self._gss_asked = True
                return Send(b"N")
            case m.CancelRequest():
                return parsed
            case m.Startup():
                if self._required and not self._encrypted:
                    raise AuthenticationRefused(
                        "this server takes encrypted connections only", hint="Connect with sslmode=require or stronger."
                    )
                return check_startup(parsed)

    def _cut(self) -> bytes | None:
        """The next packet, once it is all here."""
        if len(self._buffer) < 4:
            return None
        length = unpack_from("!i", self._buffer)[0]
        if not _SMALLEST_PACKET <= length <= limits.STARTUP_PACKET + 4:  # the length itself is not counted
            raise NoPostgresClient("invalid length of startup packet")
        if len(self._buffer) < length:
            return None
        packet, self._buffer = self._buffer[:length], self._buffer[length:]
        return packet

    def _answer_tls(self) -> Step:
        if self._tls_asked:
            raise ProtocolError("the client asked for TLS twice")
        self._tls_asked = True
        if not self._tls:
            return Send(b"N")
        if self._buffer:
            # Whoever sits between could have put it there, to be taken for what the client says inside TLS (CVE-2021-23214).
            raise ProtocolError(
                "received unencrypted data after SSL request",
                detail="This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            )
        self._waiting = True
        return BeginTls()


def check_startup(startup: m.Startup) -> Login:
    """Who logs in where, and the packet for the server. Refuses what leaves a doubt about it."""
    for name in (b"user", b"database", b"replication"):
        if sum(key == name for key, _ in startup.parameters) > 1:
            raise BadLoginName(f"the startup packet names its {name.decode()} twice")
    _refuse_replication(startup.get(b"replication"))
    user = _identifier(startup.get(b"user") or b"", "user")
    database = _identifier(startup.get(b"database") or b"", "database") or user
    if not user:
        raise BadLoginName("no PostgreSQL user name specified in startup packet")
    known = tuple(pair for pair in startup.parameters if not pair[0].startswith(b"_pq_."))
    unknown = tuple(key for key, _ in startup.parameters if key.startswith(b"_pq_."))
    lowered = startup.version > NEWEST
    return Login(user, database, m.Startup(min(startup.version, NEWEST), known), unknown, lowered)


def _identifier(raw: bytes, what: str) -> str:
    if len(raw) > limits.IDENTIFIER:
        raise BadLoginName(
            f"the {what} name in the startup packet is longer than {limits.IDENTIFIER} bytes",
            detail="Some server versions would cut it and take it for another name.",
        )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadLoginName(f"the {what} name in the startup packet is not UTF-8") from None


def _refuse_replication(value: bytes | None) -> None:
    """Replication streams hand out tables and the log as they are stored, past every rule."""
    if value is None or value.lower() in (b"false", b"off", b"no", b"0"):
        return
    raise NotSupported(
        "replication connections do not pass through pgveil",
        detail="A replication stream carries every column of every row and cannot be judged by role.",
        hint="Connect replicas and base backups to the PostgreSQL server directly, with a login of their own.",
    )


# -- the dialogue with the server ----------------------------------------------------------------------------------------------------

# Requests that the client answers with one message, and those that it does not answer.
_ANSWERED: Final = frozenset((m.Auth.CLEARTEXT, m.Auth.MD5, m.Auth.SASL, m.Auth.SASL_CONTINUE))
_UNANSWERED: Final = frozenset((m.Auth.OK, m.Auth.SASL_FINAL))
_METHODS: Final = {
    m.Auth.GSS: "GSSAPI",
    m.Auth.GSS_CONTINUE: "GSSAPI",
    m.Auth.SSPI: "SSPI",
    m.Auth.KERBEROS: "Kerberos",
}

_FROM_SERVER: Final = frozenset((m.Back.AUTHENTICATION, m.Back.ERROR, m.Back.NOTICE, m.Back.NEGOTIATE_VERSION))
# What may follow AuthenticationOk and begins no session; None: it is not known yet.
_BEFORE_THE_SESSION: Final = frozenset((m.Back.ERROR, m.Back.NOTICE, None))
_EVERYTHING: Final = frozenset(range(256))
# Before anybody has logged in, the server has no reason to write at length.
_REPORTS: Final = {m.Back.ERROR: limits.AUTH_REQUEST, m.Back.NOTICE: limits.AUTH_REQUEST}

_BINDING_HINT: Final = (
    "Set channel_binding=disable in the client, or give pgveil the certificate and key that the PostgreSQL server has, "
    "or let pgveil reach the server without TLS (a Unix socket or the same machine)."
)


class Authentication:
    """The dialogue between startup packet and what follows AuthenticationOk. Bytes in; `to_client` and `to_server` collect what goes on.

    AuthenticationOk says that the client is who he says. Whether he is let into that database, and whether there is one of that name, is
    said next: by an error, or by anything else. So until then it is held (`let_in`).

    `binding`: both legs run TLS and show the same certificate, so channel binding holds across pgveil.
    Ends with `done` (AuthenticationOk is the last of `to_client`, or notices behind it) or `rejected` (the server's ErrorResponse is).
    Raises PgveilError subclasses, whose response goes to the client.
    """

    __slots__ = (
        "_awaited",
        "_back",
        "_binding",
        "_front",
        "_login",
        "_plus_removed",
        "_sasl_begins",
        "_seen",
        "_unsaid",
        "answered",
        "done",
        "let_in",
        "rejected",
        "to_client",
        "to_server",
    )

    def __init__(self, login: Login, *, binding: bool = False) -> None:
        self._login = login
        self._binding = binding
        self._front = Framer(Direction.FRONTEND, interpret=_EVERYTHING)
        self._back = Framer(Direction.BACKEND, interpret=_EVERYTHING, whole_limits=_REPORTS)
        self._seen = 0
        self._awaited = False  # an answer of the client
        self._sasl_begins = False  # and it is a SASLInitialResponse
        self._plus_removed = False
        self._unsaid = login.lowered or bool(login.unknown)  # a negotiation that pgveil owes the client
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = [login.startup.build()]
        self.let_in = False
        self.answered = False  # the client has said something since its startup packet
        self.done = False
        self.rejected: m.ErrorFields | None = None

    @property
    def untouched(self) -> bool:
        """Whether the server has said nothing but (perhaps) its refusal: another way of reaching it may be tried."""
        return self._seen <= 1 and (self._seen == 0 or self.rejected is not None)

    @property
    def unread(self) -> tuple[bytes, bytes]:
        """What client and server sent behind the end of the dialogue, to be given to the session. Once."""
        return self._front.take_unread(), self._back.take_unread()

    def server_received(self, data: bytes) -> None:
        """Bytes from the server."""
        self._back.feed(data)
        while not (self.done or self.rejected):
            if self.let_in and self._back.upcoming not in _BEFORE_THE_SESSION:
                self.done = True
                return
            event = self._back.next_event()
            if event is None:
                return
            self._server_said(self._counted(event))

    def client_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.answered = self.answered or bool(data)
        self._front.feed(data)
        while self._awaited and (event := self._front.next_event()) is not None:
            self._client_said(self._counted(event))
        if not self.let_in and not self._awaited and not self._front.at_boundary:
            raise ProtocolError("the client spoke before it was asked")

    def _counted(self, event: Event) -> Message:
        assert isinstance(event, Message)
        self._seen += 1
        if self._seen > limits.AUTH_MESSAGES:
            raise LimitError(f"authentication took more than {limits.AUTH_MESSAGES} messages")
        return event

    def _server_said(self, message: Message) -> None:
        if message.kind not in _FROM_SERVER:
            raise ProtocolError(f"the server sent a message of type {chr(message.kind)!r} during authentication")
        if message.kind == m.Back.ERROR:
            self.rejected = m.parse_error(message.body)
        elif message.kind == m.Back.NEGOTIATE_VERSION:
            self._negotiated(m.parse_negotiate(message.body))
            return
        elif message.kind == m.Back.AUTHENTICATION:
            self._say_unsaid()
            self._requested(m.parse_authentication(message.body), message.raw)
            return
        self.to_client.append(message.raw)

    def _negotiated(self, server: m.Negotiated) -> None:
        """Pass on what the server can't do, together with what pgveil took out."""
        self._unsaid = False
        self.to_client.append(m.build_negotiate(server.version, self._login.unknown + server.unknown))

    def _say_unsaid(self) -> None:
        if self._unsaid:
            self._unsaid = False
            self.to_client.append(m.build_negotiate(self._login.startup.version, self._login.unknown))

    def _requested(self, request: m.Authentication, raw: bytes) -> None:
        if request.code not in _ANSWERED | _UNANSWERED:
            method = _METHODS.get(request.code, f"method {request.code}")
            raise AuthenticationRefused(
                f"the server asks for {method} authentication, which cannot pass through pgveil",
                hint="Let pg_hba.conf ask for scram-sha-256 on connections that come from pgveil.",
            )
        self._sasl_begins = request.code == m.Auth.SASL
        self._awaited = request.code in _ANSWERED
        self.let_in = request.code == m.Auth.OK
        self.to_client.append(self._offered(request.data, raw) if self._sasl_begins else raw)

    def _offered(self, data: bytes, raw: bytes) -> bytes:
        """AuthenticationSASL as the client may see it."""
        offered = m.parse_sasl_mechanisms(data)
        plus = m.SCRAM_PLUS.encode()
        if self._binding or plus not in offered:
            return raw
        self._plus_removed = True
        left = tuple(name for name in offered if name != plus)
        if not left:
            raise AuthenticationRefused(
                "the server asks for SCRAM with channel binding, which cannot pass through pgveil", hint=_BINDING_HINT
            )
        return m.build_sasl(left)

    def _client_said(self, message: Message) -> None:
        if message.kind != m.Front.AUTHENTICATION:
            raise ProtocolError(f"the client sent a message of type {chr(message.kind)!r} during authentication")
        if self._sasl_begins:
            self._check_binding(m.parse_sasl_initial(message.body))
        self._awaited = self._sasl_begins = False
        self.to_server.append(message.raw)

    def _check_binding(self, initial: m.SaslInitial) -> None:
        """Say clearly what the server would say in a misleading way.

        RFC 5802, 6: a client that could bind but saw no -PLUS says "y", so that a server that offered it detects the removal. The flag
        is part of what the client signs, so pgveil can't change it.
        """
        if not self._plus_removed:
            return
        flag = (initial.response or b"")[:1]
        if flag in (b"y", b"p") or initial.mechanism == m.SCRAM_PLUS.encode():
            raise AuthenticationRefused(
                "SCRAM channel binding cannot pass through pgveil",
                detail="Client and server each use TLS, with different certificates, so that each would take pgveil for an attacker.",
                hint=_BINDING_HINT,
            )
