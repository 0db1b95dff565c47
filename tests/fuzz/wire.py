"""Bytes from the network before anybody gives them a meaning: framing, message bodies, first packets and logins."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any, Final

from proxy import limits
from proxy.errors import PgveilError, ProtocolError
from proxy.session.handshake import Authentication, BeginTls, Greeting, Login
from proxy.wire import messages as m
from proxy.wire.framing import Batch, Chunk, Direction, Framer, Head
from tests.fuzz.target import Cursor, Target, promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BACK: Final = m.Back
_FRONT: Final = m.Front
# What the two directions of a session ask of the framer, and an odd mixture.
_WALKS: Final[tuple[tuple[frozenset[int], frozenset[int], dict[int, int]], ...]] = (
    (frozenset(), frozenset(), {}),
    (frozenset(limits.FRONTEND_MAXIMUM) - {_FRONT.COPY_DATA, _FRONT.BIND}, frozenset(), {_FRONT.BIND: 133}),
    (frozenset(limits.BACKEND_MAXIMUM) - {_BACK.DATA_ROW}, frozenset((_BACK.DATA_ROW,)), {}),
    (frozenset(range(256)), frozenset(b"DdT"), {_FRONT.BIND: 7, _FRONT.QUERY: 9}),
)
_AFTER_HEAD: Final = ("", "skip_rest", "take_whole", "stream_rest")

# -- framing -------------------------------------------------------------------------------------------------------------------------


def _walk(framer: Framer, pieces: list[bytes], after_head: str, most: int) -> tuple[list[Any], str]:
    """All events, neighbours joined where the cut decides, and the error that ended them."""
    events: list[Any] = []
    try:
        for piece in pieces:
            framer.feed(piece)
            while (event := framer.next_event()) is not None:
                last = events[-1] if events else None
                if isinstance(event, bytes) and isinstance(last, bytes):
                    events[-1] = last + event
                elif isinstance(event, Batch) and isinstance(last, Batch) and last.kind == event.kind:
                    moved = [len(last.raw) + start for start in event.starts]
                    events[-1] = Batch(event.kind, last.raw + event.raw, last.starts[:-1] + moved)
                elif isinstance(event, Chunk) and isinstance(last, Chunk) and not last.last:
                    events[-1] = Chunk(last.data + event.data, event.last)
                else:
                    events.append(event)
                if isinstance(event, Head) and after_head and (after_head == "take_whole" or not event.complete):
                    getattr(framer, after_head)()
                promise(len(events) <= most, "the walk makes more events than there are bytes")
            promise(framer.buffered <= most, "the framer holds more than it was fed")
    except ProtocolError as error:
        return events, f"{type(error).__name__}: {error.message}"
    return events, ""


def _framing() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        direction = cursor.pick((Direction.FRONTEND, Direction.BACKEND))
        interpret, batch, heads = cursor.pick(_WALKS)
        after_head = cursor.pick(_AFTER_HEAD)
        step = 1 + cursor.byte() % 64
        stream = cursor.rest()

        def walk(pieces: list[bytes]) -> tuple[list[Any], str]:
            framer = Framer(direction, interpret=interpret, batch=batch, heads=heads)
            return _walk(framer, pieces, after_head, len(stream) + 1)

        whole = walk([stream])
        cut = walk([stream[i : i + step] for i in range(0, len(stream), step)])
        if not whole[1] and not cut[1]:
            promise(whole == cut, "the same stream gives other events when it is cut")
        promise(
            bool(whole[1]) == bool(cut[1]), "the same stream is an error only when it is cut, or only when it is not"
        )
        return len(whole[0])

    return run


def _framing_seeds() -> Iterator[bytes]:
    front = (
        m.build_parse(b"s", b"select $1", (25,)) + m.build_bind(b"", b"s", (), (b"x",)) + m.build_execute(b"") + m.SYNC
    )
    back = (
        m.PARSE_COMPLETE
        + m.build_data_row((b"1", None)) * 3
        + m.build_command_complete(b"SELECT 3")
        + m.build_ready(b"I")
    )
    for direction, stream in ((0, front), (1, back)):
        for walk in range(len(_WALKS)):
            for after in range(len(_AFTER_HEAD)):
                yield bytes((direction, walk, after, 6)) + stream


# -- message bodies ------------------------------------------------------------------------------------------------------------------


def _only(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Read, and build nothing of it."""

    def read(body: bytes) -> None:
        parse(body)

    return read


def _negotiated(body: bytes) -> bytes:
    found = m.parse_negotiate(body)
    return m.build_negotiate(found.version, found.unknown)


def _mechanisms(body: bytes) -> bytes:
    return m.build_sasl(m.parse_sasl_mechanisms(body))


def _description(body: bytes) -> bytes:
    return m.build_row_description(m.parse_row_description(body))


# A body to the message that would be built of what was read in it; None where nobody builds it.
_BODIES: Final[tuple[tuple[str, Callable[[bytes], bytes | None]], ...]] = (
    ("query", lambda b: m.build_query(m.parse_query(b))),
    ("parse", lambda b: m.build_parse(*m.parse_parse(b))),
    ("bind", lambda b: m.build_bind(*m.parse_bind(b))),
    ("bind head", _only(m.parse_bind_head)),
    ("describe", lambda b: m.build_describe(*m.parse_target(b))),
    ("execute", lambda b: m.build_execute(*m.parse_execute(b))),
    ("function call", _only(m.parse_function_call)),
    ("sasl initial", lambda b: m.build_sasl_initial(*m.parse_sasl_initial(b))),
    ("first packet", _only(m.parse_first_packet)),
    ("authentication", lambda b: m.build_authentication(*m.parse_authentication(b))),
    ("sasl mechanisms", _mechanisms),
    ("negotiate", _negotiated),
    ("backend key", lambda b: m.build_backend_key(*m.parse_backend_key(b))),
    ("parameter status", lambda b: m.build_parameter_status(*m.parse_parameter_status(b))),
    ("ready", lambda b: m.build_ready(m.parse_ready(b))),
    ("row description", _description),
    ("parameter description", lambda b: m.build_parameter_description(m.parse_parameter_description(b))),
    ("data row", lambda b: m.build_data_row(m.parse_data_row(b))),
    ("command complete", lambda b: m.build_command_complete(m.parse_command_complete(b))),
    ("error", lambda b: m.build_error(m.parse_error(b))),
    ("copy response", lambda b: m.build_copy_response(_BACK.COPY_IN, m.parse_copy_response(b))),
    ("notification", lambda b: m.build_notification(*m.parse_notification(b))),
)
_EXAMPLES: Final[tuple[bytes, ...]] = (
    m.build_query(b"select 1")[5:],
    m.build_parse(b"name", b"select $1, $2", (25, 0))[5:],
    m.build_bind(b"p", b"s", (1, 0), (b"\0\0\0\1", None), (1,))[5:],
    m.build_bind(b"p", b"s")[5:],
    m.build_describe(b"S", b"name")[5:],
    m.build_execute(b"p", 10)[5:],
    pack("!IhHi", 953, 0, 1, 4) + b"\0\0\0\7" + pack("!h", 1),
    m.build_sasl_initial(b"SCRAM-SHA-256", b"n,,n=,r=rOprNGfwEbeRWgbNEkqO")[5:],
    m.Startup(m.PROTOCOL_3_2, ((b"user", b"ann"), (b"database", b"shop"))).build(),
    m.build_authentication(m.Auth.MD5, b"salt")[5:],
    m.build_sasl((b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"))[9:],
    m.build_negotiate(0x0003_0000, (b"_pq_.x",))[5:],
    m.build_backend_key(7, b"key!")[5:],
    m.build_parameter_status(b"client_encoding", b"UTF8")[5:],
    m.build_ready(b"T")[5:],
    m.build_row_description((m.Field(b"a", 5000, 3, 25, -1, -1, 0), m.Field(b"b", 0, 0, 23, 4, -1, 1)))[5:],
    m.build_parameter_description((25, 23))[5:],
    m.build_data_row((b"1", None, b""))[5:],
    m.build_command_complete(b"SELECT 3")[5:],
    m.build_error(m.ErrorFields(((ord("S"), b"ERROR"), (ord("C"), b"42601"), (ord("M"), b"no"))))[5:],
    m.build_copy_response(_BACK.COPY_IN, m.CopyResponse(1, (1, 1)))[5:],
    m.build_notification(7, b"channel", b"payload")[5:],
)


def _messages() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        name, again = cursor.pick(_BODIES)
        body = cursor.rest()
        try:
            built = again(body)
        except ProtocolError:
            return 1
        promise(
            built is None or built[5:] in (body, pack("!i", m.Auth.SASL) + body),
            f"another {name} comes out than went in",
        )
        return 1

    return run


def _message_seeds() -> Iterator[bytes]:
    for number in range(len(_BODIES)):
        yield bytes((number,)) + _EXAMPLES[number]


# -- logins --------------------------------------------------------------------------------------------------------------------------

SIDES: Final = b"CS"


def chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """An input as what client (C) and server (S) say in turn: a byte for who, two for the length, the bytes."""
    cursor = Cursor(data)
    while not cursor.empty:
        side = cursor.byte()
        yield (side if side in SIDES else SIDES[side & 1]), cursor.take(int.from_bytes(cursor.take(2), "big"))


def joined(said: list[tuple[int, bytes]]) -> bytes:
    """The other way round. No piece may be longer than 65,535 bytes."""
    return b"".join(bytes((side,)) + len(data).to_bytes(2, "big") + data for side, data in said)


def _greet(greeting: Greeting, said: Iterator[tuple[int, bytes]]) -> tuple[Login | None, int]:
    """The client's packets up to its login; how many pieces there were."""
    count = 0
    for side, data in said:
        count += 1
        if side != SIDES[0]:
            continue
        greeting.feed(data)
        for _ in range(len(data) + 2):
            match greeting.next_step():
                case None:
                    break
                case BeginTls():
                    greeting.encrypted()
                case Login() as login:
                    return login, count
                case m.CancelRequest():
                    return None, count
        promise(len(greeting.unread) <= limits.STARTUP_PACKET, "packets pile up before the login")
    return None, count


def _login() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        flags = cursor.byte()
        said = chunks(cursor.rest())
        greeting = Greeting(tls=bool(flags & 1), required=bool(flags & 2), encrypted=bool(flags & 4))
        count = 0
        try:
            login, count = _greet(greeting, said)
            if login is None:
                return count
            promise(
                b"\0" not in login.user.encode() and len(login.user.encode()) <= limits.IDENTIFIER, "an odd login name"
            )
            promise(login.startup.get(b"replication") in (None, b"0") or not _streams(login), "replication passes")
            dialogue = Authentication(login, binding=bool(flags & 8))
            for side, piece in said:
                count += 1
                (dialogue.client_received if side == SIDES[0] else dialogue.server_received)(piece)
                if dialogue.done or dialogue.rejected is not None:
                    break
            if not dialogue.done:
                # What follows tells whether it is; until then the connection holds it (`let_in`).
                told = m.AUTHENTICATION_OK in dialogue.to_client
                promise(told <= dialogue.let_in, "the client is told that it is in, and is not")
        except PgveilError:
            return count + 1
        return count

    return run


def _streams(login: Login) -> bool:
    value = login.startup.get(b"replication") or b""
    return value.lower() not in (b"false", b"off", b"no", b"0")


def _login_seeds() -> Iterator[bytes]:
    client, server = SIDES
    start = (
        client,
        m.Startup(0x0003_0000, ((b"user", b"ann"), (b"database", b"shop"), (b"application_name", b"psql"))).build(),
    )
    newer = (client, m.Startup(0x0003_0002, ((b"user", b"ann"), (b"_pq_.x", b"1"))).build())
    # The exchange of RFC 7677, section 3.
    first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    answer = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    scram = [
        (server, m.build_sasl((b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"))),
        (client, m.build_sasl_initial(b"SCRAM-SHA-256", first)),
        (server, m.build_authentication(m.Auth.SASL_CONTINUE, answer)),
        (client, m.message(_FRONT.AUTHENTICATION, final)),
        (server, m.build_authentication(m.Auth.SASL_FINAL, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")),
        (server, m.AUTHENTICATION_OK),
    ]
    md5 = [
        (server, m.build_authentication(m.Auth.MD5, b"salt")),
        (client, m.message(_FRONT.AUTHENTICATION, b"md5" + b"0" * 32 + b"\0")),
        (server, m.AUTHENTICATION_OK),
    ]
    no = [(server, m.build_error(m.ErrorFields(((ord("S"), b"FATAL"), (ord("C"), b"28P01"), (ord("M"), b"no")))))]
    asks = [(client, m.SSL_REQUEST_PACKET), (client, m.GSSENC_REQUEST_PACKET)]
    for flags in (0, 1, 3, 5, 8):
        for talk in (
            [start, *scram],
            [*asks, start, *md5],
            [newer, (server, m.build_negotiate(0x0003_0000, ())), *scram],
            [start, *no],
        ):
            yield bytes((flags,)) + joined(talk)
    yield bytes((0,)) + joined([(client, m.CancelRequest(7, b"key!").build())])


TARGETS: Final = (
    Target("framing", "message headers of both directions, cut anywhere", _framing, _framing_seeds),
    Target("messages", "message bodies of both directions", _messages, _message_seeds, longest=1024),
    Target("login", "startup, SSL, GSS and cancel packets; the authentication's dialogue", _login, _login_seeds),
)
