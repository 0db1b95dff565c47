"""Codecs of protocol 3.0 to 3.2: strict parsers of message bodies, and builders of whole messages (PostgreSQL 55.7).

Parsers take the body (what follows the length) and raise ProtocolError unless all of it is used. Text that only the server's encoding
can explain stays bytes. Builders return the message with its type byte and length.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error, pack
from typing import Final, NamedTuple

from proxy import limits
from proxy.errors import ProtocolError, UnsupportedProtocol

INT16: Final = Struct("!h")
UINT16: Final = Struct("!H")
INT32: Final = Struct("!i")
UINT32: Final = Struct("!I")

PROTOCOL_3_0: Final = 0x0003_0000
PROTOCOL_3_2: Final = 0x0003_0002
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"


class Front:
    """Type bytes of what the client sends."""

    BIND: Final = 0x42
    CLOSE: Final = 0x43
    DESCRIBE: Final = 0x44
    EXECUTE: Final = 0x45
    FUNCTION_CALL: Final = 0x46
    FLUSH: Final = 0x48
    PARSE: Final = 0x50
    QUERY: Final = 0x51
    SYNC: Final = 0x53
    TERMINATE: Final = 0x58
    COPY_DONE: Final = 0x63
    COPY_DATA: Final = 0x64
    COPY_FAIL: Final = 0x66
    AUTHENTICATION: Final = 0x70  # password, SASL and GSS answers


class Back:
    """Type bytes of what the server sends."""

    PARSE_COMPLETE: Final = 0x31
    BIND_COMPLETE: Final = 0x32
    CLOSE_COMPLETE: Final = 0x33
    NOTIFICATION: Final = 0x41
    COMMAND_COMPLETE: Final = 0x43
    DATA_ROW: Final = 0x44
    ERROR: Final = 0x45
    COPY_IN: Final = 0x47
    COPY_OUT: Final = 0x48
    EMPTY_QUERY: Final = 0x49
    BACKEND_KEY: Final = 0x4B
    NOTICE: Final = 0x4E
    AUTHENTICATION: Final = 0x52
    PARAMETER_STATUS: Final = 0x53
    ROW_DESCRIPTION: Final = 0x54
    FUNCTION_RESULT: Final = 0x56
    COPY_BOTH: Final = 0x57
    READY: Final = 0x5A
    COPY_DONE: Final = 0x63
    COPY_DATA: Final = 0x64
    NO_DATA: Final = 0x6E
    PORTAL_SUSPENDED: Final = 0x73
    PARAMETER_DESCRIPTION: Final = 0x74
    NEGOTIATE_VERSION: Final = 0x76


def message(kind: int, body: bytes) -> bytes:
    """Any message from its type and body."""
    return pack("!Bi", kind, len(body) + 4) + body


SYNC: Final = message(Front.SYNC, b"")
FLUSH: Final = message(Front.FLUSH, b"")
TERMINATE: Final = message(Front.TERMINATE, b"")
COPY_DONE: Final = message(Front.COPY_DONE, b"")
PARSE_COMPLETE: Final = message(Back.PARSE_COMPLETE, b"")
BIND_COMPLETE: Final = message(Back.BIND_COMPLETE, b"")
CLOSE_COMPLETE: Final = message(Back.CLOSE_COMPLETE, b"")
NO_DATA: Final = message(Back.NO_DATA, b"")
EMPTY_QUERY: Final = message(Back.EMPTY_QUERY, b"")
PORTAL_SUSPENDED: Final = message(Back.PORTAL_SUSPENDED, b"")


class Reader:
    """A strict cursor over a message body."""

    __slots__ = ("_at", "_body", "_what")

    def __init__(self, body: bytes, what: str) -> None:
        self._body = body
        self._at = 0
        self._what = what

    def _fail(self, why: str) -> ProtocolError:
        return ProtocolError(f"malformed {self._what}: {why}")

    def _take(self, form: Struct) -> int:
        try:
            value: int = form.unpack_from(self._body, self._at)[0]
        except error:
            raise self._fail("it ends early") from None
        self._at += form.size
        return value

    def int16(self) -> int:
        """A signed 16-bit number."""
        return self._take(INT16)

    def uint16(self) -> int:
        """An unsigned 16-bit number (counts of parameters go up to 65,535)."""
        return self._take(UINT16)

    def int32(self) -> int:
        """A signed 32-bit number."""
        return self._take(INT32)

    def uint32(self) -> int:
        """An unsigned 32-bit number (OIDs)."""
        return self._take(UINT32)

    def byte(self) -> int:
        """One byte."""
        if self._at >= len(self._body):
            raise self._fail("it ends early")
        self._at += 1
        return self._body[self._at - 1]

    def text(self) -> bytes:
        """A zero-terminated string, without the zero."""
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise self._fail("a string has no end")
        value = self._body[self._at : end]
        self._at = end + 1
        return value

    def take(self, count: int) -> bytes:
        """`count` bytes."""
        end = self._at + count
        if count < 0 or end > len(self._body):
            raise self._fail("it ends early")
        value = self._body[self._at : end]
        self._at = end
        return value

    def value(self) -> bytes | None:
        """A length and that many bytes; None for length -1 (null)."""
        length = self.int32()
        if length == -1:
            return None
        return self.take(length)

    def rest(self) -> bytes:
        """Everything left."""
        return self.take(len(self._body) - self._at)

    def formats(self) -> tuple[int, ...]:
        """A count and that many format codes, each 0 (text) or 1 (binary)."""
        codes = tuple(self.int16() for _ in range(self.uint16()))
        if any(code not in (0, 1) for code in codes):
            raise self._fail("a format code is neither 0 nor 1")
        return codes

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._body) - self._at

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self._fail(f"{self.left} bytes too many")


def _value(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else INT32.pack(len(value)) + value


def _formats(codes: tuple[int, ...]) -> bytes:
    return pack(f"!H{len(codes)}h", len(codes), *codes)


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise ProtocolError("a zero byte inside a string")
    return value + b"\0"


# -- before authentication: packets without a type byte ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Startup:
    """StartupMessage. `version` is major << 16 | minor. `parameters` in the order they came; a name may come twice (the last one holds)."""

    version: int
    parameters: tuple[tuple[bytes, bytes], ...]

    @property
    def major(self) -> int:
        """Major protocol version."""
        return self.version >> 16

    @property
    def minor(self) -> int:
        """Minor protocol version."""
        return self.version & 0xFFFF

    def get(self, name: bytes) -> bytes | None:
        """The value of a parameter, as the server would take it."""
        found = None
        for key, value in self.parameters:
            if key == name:
                found = value
        return found

    def build(self) -> bytes:
        """The packet, length included."""
        pairs = b"".join(_text(key) + _text(value) for key, value in self.parameters)
        return pack("!iI", len(pairs) + 9, self.version) + pairs + b"\0"


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks for TLS."""


@dataclass(frozen=True, slots=True)
class GSSEncRequest:
    """The client asks for GSSAPI encryption."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The client asks for another connection's statement to be cancelled. `key` has 4 bytes before protocol 3.2, up to 256 since."""

    process_id: int
    key: bytes

    def build(self) -> bytes:
        """The packet, length included."""
        return pack("!iii", len(self.key) + 12, CANCEL_REQUEST, self.process_id) + self.key

    def __repr__(self) -> str:
        """The key is a secret: whoever has it can cancel."""
        return f"CancelRequest(process_id={self.process_id})"


FirstPacket = Startup | SSLRequest | GSSEncRequest | CancelRequest

SSL_REQUEST_PACKET: Final = pack("!ii", 8, SSL_REQUEST)
GSSENC_REQUEST_PACKET: Final = pack("!ii", 8, GSSENC_REQUEST)


def parse_first_packet(packet: bytes) -> FirstPacket:
    """A packet without a type byte, its length included and right (the caller has cut it out)."""
    reader = Reader(packet, "startup packet")
    if reader.int32() != len(packet):
        raise ProtocolError("malformed startup packet: wrong length")
    code = reader.int32()
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        reader.end()
        return SSLRequest() if code == SSL_REQUEST else GSSEncRequest()
    if code == CANCEL_REQUEST:
        process_id = reader.int32()
        key = reader.rest()
        if not 1 <= len(key) <= limits.CANCEL_KEY:
            raise ProtocolError("malformed cancel request: the key has an impossible length")
        return CancelRequest(process_id, key)
    if code >> 16 != 3:
        raise UnsupportedProtocol(
            f"unsupported frontend protocol {(code >> 16) & 0xFFFF}.{code & 0xFFFF}: pgveil supports 3.0 to 3.2"
        )
    return Startup(code, tuple(_parameters(reader)))


def _parameters(reader: Reader) -> list[tuple[bytes, bytes]]:
    pairs = []
    while name := reader.text():
        pairs.append((name, reader.text()))
    reader.end()
    return pairs


# -- authentication ------------------------------------------------------------------------------------------------------------------


class Auth:
    """Codes of the server's authentication requests."""

    OK: Final = 0
    KERBEROS: Final = 2
    CLEARTEXT: Final = 3
    MD5: Final = 5
    GSS: Final = 7
    GSS_CONTINUE: Final = 8
    SSPI: Final = 9
    SASL: Final = 10
    SASL_CONTINUE: Final = 11
    SASL_FINAL: Final = 12


class Authentication(NamedTuple):
    """An authentication request: its code, and the code's own data."""

    code: int
    data: bytes


def parse_authentication(body: bytes) -> Authentication:
    """Authentication*; the data is what follows the code."""
    reader = Reader(body, "authentication request")
    return Authentication(reader.int32(), reader.rest())


def build_authentication(code: int, data: bytes = b"") -> bytes:
    """An authentication request."""
    return message(Back.AUTHENTICATION, INT32.pack(code) + data)


AUTHENTICATION_OK: Final = build_authentication(Auth.OK)


def parse_sasl_mechanisms(data: bytes) -> tuple[bytes, ...]:
    """The mechanisms of AuthenticationSASL's data."""
    reader = Reader(data, "list of SASL mechanisms")
    names = []
    while name := reader.text():
        names.append(name)
    reader.end()
    return tuple(names)


def build_sasl(mechanisms: tuple[bytes, ...]) -> bytes:
    """AuthenticationSASL."""
    return build_authentication(Auth.SASL, b"".join(_text(name) for name in mechanisms) + b"\0")


class SaslInitial(NamedTuple):
    """SASLInitialResponse: the mechanism chosen and the first answer, None where there is none."""

    mechanism: bytes
    response: bytes | None


def parse_sasl_initial(body: bytes) -> SaslInitial:
    """SASLInitialResponse (a 'p' message, told from others by where it stands)."""
    reader = Reader(body, "SASL response")
    parsed = SaslInitial(reader.text(), reader.value())
    reader.end()
    return parsed


def build_sasl_initial(mechanism: bytes, response: bytes | None) -> bytes:
    """SASLInitialResponse."""
    return message(Front.AUTHENTICATION, _text(mechanism) + _value(response))


class Negotiated(NamedTuple):
    """NegotiateProtocolVersion: the newest version (major << 16 | minor) that is spoken, and the options that are not known."""

    version: int
    unknown: tuple[bytes, ...]


def parse_negotiate(body: bytes) -> Negotiated:
    """NegotiateProtocolVersion."""
    reader = Reader(body, "protocol version negotiation")
    version = reader.int32()
    count = reader.int32()
    if not 0 <= count <= len(body):
        raise ProtocolError("malformed protocol version negotiation: impossible count")
    names = tuple(reader.text() for _ in range(count))
    reader.end()
    return Negotiated(version, names)


def build_negotiate(version: int, unknown: tuple[bytes, ...]) -> bytes:
    """NegotiateProtocolVersion."""
    return message(Back.NEGOTIATE_VERSION, pack("!ii", version, len(unknown)) + b"".join(map(_text, unknown)))


class BackendKey(NamedTuple):
    """BackendKeyData: what a CancelRequest must show."""

    process_id: int
    key: bytes

    def __repr__(self) -> str:
        """The key is a secret."""
        return f"BackendKey(process_id={self.process_id})"


def parse_backend_key(body: bytes) -> BackendKey:
    """BackendKeyData."""
    reader = Reader(body, "cancellation key")
    parsed = BackendKey(reader.int32(), reader.rest())
    if not 1 <= len(parsed.key) <= limits.CANCEL_KEY:
        raise ProtocolError("malformed cancellation key: impossible length")
    return parsed


def build_backend_key(process_id: int, key: bytes) -> bytes:
    """BackendKeyData."""
    return message(Back.BACKEND_KEY, INT32.pack(process_id) + key)


# -- what the client sends -----------------------------------------------------------------------------------------------------------


def parse_query(body: bytes) -> bytes:
    """Query: the text, in the client's encoding."""
    reader = Reader(body, "query")
    text = reader.text()
    reader.end()
    return text


def build_query(text: bytes) -> bytes:
    """Query."""
    return message(Front.QUERY, _text(text))


class Parse(NamedTuple):
    """Parse: statement name ('' for the unnamed one), text, and the types that the client gives (0: not given)."""

    name: bytes
    text: bytes
    types: tuple[int, ...]


def parse_parse(body: bytes) -> Parse:
    """Parse."""
    reader = Reader(body, "parse message")
    name = reader.text()
    text = reader.text()
    types = tuple(reader.uint32() for _ in range(reader.uint16()))
    reader.end()
    return Parse(name, text, types)


def build_parse(name: bytes, text: bytes, types: tuple[int, ...] = ()) -> bytes:
    """Parse."""
    return message(Front.PARSE, _text(name) + _text(text) + pack(f"!H{len(types)}I", len(types), *types))


class BindHead(NamedTuple):
    """What a Bind begins with."""

    portal: bytes
    statement: bytes


def parse_bind_head(head: bytes) -> BindHead | None:
    """Portal and statement from the first bytes of a Bind's body; None where the names do not end within them."""
    portal, found, rest = head.partition(b"\0")
    if not found:
        return None
    statement, found, _ = rest.partition(b"\0")
    return BindHead(portal, statement) if found else None


class Bind(NamedTuple):
    """Bind. `formats`: none (all text), one (for all) or one a parameter; `result_formats` likewise. A value of None is null."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


def parse_bind(body: bytes) -> Bind:
    """Bind."""
    reader = Reader(body, "bind message")
    portal = reader.text()
    statement = reader.text()
    formats = reader.formats()
    values = tuple(reader.value() for _ in range(reader.uint16()))
    if len(formats) > 1 and len(formats) != len(values):
        raise ProtocolError(f"bind message has {len(formats)} parameter formats but {len(values)} parameters")
    result_formats = reader.formats()
    reader.end()
    return Bind(portal, statement, formats, values, result_formats)


def build_bind(
    portal: bytes,
    statement: bytes,
    formats: tuple[int, ...] = (),
    values: tuple[bytes | None, ...] = (),
    result_formats: tuple[int, ...] = (),
) -> bytes:
    """Bind."""
    parts = [_text(portal), _text(statement), _formats(formats), UINT16.pack(len(values))]
    parts += [_value(value) for value in values]
    parts.append(_formats(result_formats))
    return message(Front.BIND, b"".join(parts))


class Target(NamedTuple):
    """What Describe and Close name. `kind` is b"S" (statement) or b"P" (portal)."""

    kind: bytes
    name: bytes


def parse_target(body: bytes) -> Target:
    """Describe or Close."""
    reader = Reader(body, "describe or close message")
    target = Target(reader.take(1), reader.text())
    reader.end()
    if target.kind not in (b"S", b"P"):
        raise ProtocolError("malformed describe or close message: neither statement nor portal")
    return target


def build_describe(kind: bytes, name: bytes) -> bytes:
    """Describe."""
    return message(Front.DESCRIBE, kind + _text(name))


def build_close(kind: bytes, name: bytes) -> bytes:
    """Close."""
    return message(Front.CLOSE, kind + _text(name))


class Execute(NamedTuple):
    """Execute. `limit`: most rows wanted, 0 for all."""

    portal: bytes
    limit: int


def parse_execute(body: bytes) -> Execute:
    """Execute."""
    reader = Reader(body, "execute message")
    parsed = Execute(reader.text(), reader.int32())
    reader.end()
    return parsed


def build_execute(portal: bytes, limit: int = 0) -> bytes:
    """Execute."""
    return message(Front.EXECUTE, _text(portal) + INT32.pack(limit))


class FunctionCall(NamedTuple):
    """FunctionCall: the fastpath interface."""

    oid: int
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_format: int


def parse_function_call(body: bytes) -> FunctionCall:
    """FunctionCall."""
    reader = Reader(body, "function call")
    oid = reader.uint32()
    formats = reader.formats()
    values = tuple(reader.value() for _ in range(reader.uint16()))
    result_format = reader.int16()
    reader.end()
    return FunctionCall(oid, formats, values, result_format)


def build_copy_fail(reason: bytes) -> bytes:
    """CopyFail."""
    return message(Front.COPY_FAIL, _text(reason))


def build_copy_data(data: bytes) -> bytes:
    """CopyData, either way."""
    return message(Front.COPY_DATA, data)


# -- what the server sends -----------------------------------------------------------------------------------------------------------


class ParameterStatus(NamedTuple):
    """ParameterStatus: a setting and its value."""

    name: bytes
    value: bytes


def parse_parameter_status(body: bytes) -> ParameterStatus:
    """ParameterStatus."""
    reader = Reader(body, "parameter status")
    parsed = ParameterStatus(reader.text(), reader.text())
    reader.end()
    return parsed


def build_parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus."""
    return message(Back.PARAMETER_STATUS, _text(name) + _text(value))


def parse_ready(body: bytes) -> bytes:
    """ReadyForQuery: b"I" (idle), b"T" (in a transaction) or b"E" (in a failed one)."""
    if body not in (b"I", b"T", b"E"):
        raise ProtocolError("malformed ready-for-query message")
    return body


def build_ready(status: bytes) -> bytes:
    """ReadyForQuery."""
    return message(Back.READY, status)


class Field(NamedTuple):
    """One column of a RowDescription. `table` and `attnum` are 0 where it is no column of a table; `format` is 0 until Bind says."""

    name: bytes
    table: int
    attnum: int
    type: int
    size: int
    typmod: int
    format: int


_FIELD: Final = Struct("!IhIhih")


def parse_row_description(body: bytes) -> tuple[Field, ...]:
    """RowDescription."""
    reader = Reader(body, "row description")
    fields = []
    for _ in range(reader.uint16()):
        name = reader.text()
        field = Field(name, *_FIELD.unpack(reader.take(_FIELD.size)))
        if field.format not in (0, 1):
            raise ProtocolError("malformed row description: a format code is neither 0 nor 1")
        fields.append(field)
    reader.end()
    return tuple(fields)


def build_row_description(fields: tuple[Field, ...]) -> bytes:
    """RowDescription."""
    rows = b"".join(_text(field.name) + _FIELD.pack(*field[1:]) for field in fields)
    return message(Back.ROW_DESCRIPTION, UINT16.pack(len(fields)) + rows)


def parse_parameter_description(body: bytes) -> tuple[int, ...]:
    """ParameterDescription: the type of each parameter."""
    reader = Reader(body, "parameter description")
    types = tuple(reader.uint32() for _ in range(reader.uint16()))
    reader.end()
    return types


def build_parameter_description(types: tuple[int, ...]) -> bytes:
    """ParameterDescription."""
    return message(Back.PARAMETER_DESCRIPTION, pack(f"!H{len(types)}I", len(types), *types))


def parse_data_row(body: bytes) -> tuple[bytes | None, ...]:
    """DataRow: the values; None for null."""
    reader = Reader(body, "data row")
    values = tuple(reader.value() for _ in range(reader.uint16()))
    reader.end()
    return values


def build_data_row(values: tuple[bytes | None, ...]) -> bytes:
    """DataRow."""
    return message(Back.DATA_ROW, UINT16.pack(len(values)) + b"".join(map(_value, values)))


def parse_command_complete(body: bytes) -> bytes:
    """CommandComplete: the tag, like b"SELECT 3"."""
    reader = Reader(body, "command tag")
    tag = reader.text()
    reader.end()
    return tag


def build_command_complete(tag: bytes) -> bytes:
    """CommandComplete."""
    return message(Back.COMMAND_COMPLETE, _text(tag))


def as_insert(raw: bytes) -> bytes:
    """The CommandComplete of an UPDATE as that of an INSERT of so many rows."""
    return build_command_complete(b"INSERT 0 " + parse_command_complete(raw[5:]).rpartition(b" ")[2])


class ErrorFields(NamedTuple):
    """ErrorResponse or NoticeResponse: (code, text) pairs in the order they came. `repr` shows no text, as that may hold values."""

    pairs: tuple[tuple[int, bytes], ...]

    def get(self, code: str) -> bytes | None:
        """The text of a field by its one-letter code (S V C M D H P p q W s t c d n F L R)."""
        wanted = ord(code)
        for kind, text in self.pairs:
            if kind == wanted:
                return text
        return None

    def replace(self, code: str, text: bytes | None) -> ErrorFields:
        """The same with one field changed, added at the end, or (None) left out."""
        wanted = ord(code)
        kept = [(kind, text if kind == wanted and text is not None else old) for kind, old in self.pairs]
        if text is None:
            return ErrorFields(tuple(pair for pair in kept if pair[0] != wanted))
        if all(kind != wanted for kind, _ in kept):
            kept.append((wanted, text))
        return ErrorFields(tuple(kept))

    @property
    def sqlstate(self) -> str:
        """The five characters of the SQLSTATE; '' where the server gave none."""
        return (self.get("C") or b"").decode("ascii", "replace")

    @property
    def fatal(self) -> bool:
        """Whether the server ends the connection with it."""
        return (self.get("V") or self.get("S")) in (b"FATAL", b"PANIC")

    def __repr__(self) -> str:
        """Without texts."""
        return f"ErrorFields(sqlstate={self.sqlstate!r})"


def parse_error(body: bytes) -> ErrorFields:
    """ErrorResponse or NoticeResponse."""
    reader = Reader(body, "error or notice")
    pairs = []
    while code := reader.byte():
        pairs.append((code, reader.text()))
    reader.end()
    return ErrorFields(tuple(pairs))


def build_error(fields: ErrorFields, kind: int = Back.ERROR) -> bytes:
    """ErrorResponse, or NoticeResponse with that `kind`."""
    return message(kind, b"".join(bytes((code,)) + _text(text) for code, text in fields.pairs) + b"\0")


class CopyResponse(NamedTuple):
    """CopyInResponse, CopyOutResponse or CopyBothResponse: overall format (0 text, 1 binary) and each column's."""

    format: int
    columns: tuple[int, ...]


def parse_copy_response(body: bytes) -> CopyResponse:
    """CopyInResponse, CopyOutResponse or CopyBothResponse."""
    reader = Reader(body, "copy response")
    overall = reader.byte()
    columns = reader.formats()
    reader.end()
    if overall not in (0, 1):
        raise ProtocolError("malformed copy response: the format is neither 0 nor 1")
    return CopyResponse(overall, columns)


def build_copy_response(kind: int, response: CopyResponse) -> bytes:
    """CopyInResponse, CopyOutResponse or CopyBothResponse, by `kind`."""
    return message(kind, bytes((response.format,)) + _formats(response.columns))


class Notification(NamedTuple):
    """NotificationResponse."""

    process_id: int
    channel: bytes
    payload: bytes


def parse_notification(body: bytes) -> Notification:
    """NotificationResponse."""
    reader = Reader(body, "notification")
    parsed = Notification(reader.int32(), reader.text(), reader.text())
    reader.end()
    return parsed


def without_payload(raw: bytes) -> bytes:
    """A NotificationResponse that says nothing but its channel."""
    told = parse_notification(raw[5:])
    return build_notification(told.process_id, told.channel, b"")


def build_notification(process_id: int, channel: bytes, payload: bytes) -> bytes:
    """NotificationResponse."""
    return message(Back.NOTIFICATION, INT32.pack(process_id) + _text(channel) + _text(payload))
