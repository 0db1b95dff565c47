"""Every limit of the wire, in one place, with its reason. Sizes are in bytes and count a message's type byte and length."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

KIB: Final = 1024
MIB: Final = 1024 * 1024

# PostgreSQL's MAX_STARTUP_PACKET_LENGTH: a longer first packet is not from a PostgreSQL client.
STARTUP_PACKET: Final = 10_000
# A CancelRequest carries a key of at most 256 bytes (protocol 3.2); PostgreSQL allows the same.
CANCEL_KEY: Final = 256
# NAMEDATALEN - 1. Longer user and database names are cut by some server versions and not by others, so who is meant is not certain.
IDENTIFIER: Final = 63
# PostgreSQL's MaxAllocSize - 1: no message that the server takes or sends is longer.
LARGE_MESSAGE: Final = 0x3FFFFFFE
# PostgreSQL's PQ_SMALL_MESSAGE_LIMIT, for messages that carry names only.
SMALL_MESSAGE: Final = 10_000
# PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH: passwords, SASL and OAuth tokens.
AUTH_MESSAGE: Final = 65_535
# Requests that the server makes during authentication (SASL lists, challenges) are far shorter; an ErrorResponse fits as well.
AUTH_REQUEST: Final = 64 * KIB
# SCRAM needs 3 messages each way, NegotiateProtocolVersion and notices a few more. An endless dialogue is an attack.
AUTH_MESSAGES: Final = 32
# A statement's text is analysed whole. Bulk data belongs in COPY or in parameters, which stream.
STATEMENT: Final = 64 * MIB
# Parameters that are sealed are held whole until the message is rebuilt; a Bind that touches nothing protected streams.
BIND: Final = 64 * MIB
# A row with columns to open is held whole; one without streams.
ROW: Final = 64 * MIB
# A row of COPY data with sealed columns is held whole, with its sealed and its clear form; other COPY data streams.
COPY_ROW: Final = 64 * MIB
# 1,664 columns (MaxTupleAttributeNumber) of 63-byte names (four times that after re-encoding) and 19 fixed bytes make 451,000.
ROW_DESCRIPTION: Final = MIB
# 65,535 parameters of 4 bytes.
PARAMETER_DESCRIPTION: Final = 512 * KIB
# Error and notice texts quote statements, and a statement may be long.
REPORT: Final = STATEMENT + MIB
# search_path and application settings: the server sets no limit; nobody has needed a tenth of this.
PARAMETER_STATUS: Final = MIB
# A notification's payload is under 8,000 bytes on a server built with default settings.
NOTIFICATION: Final = 64 * KIB
# Completion tags, status, keys: a few dozen bytes, with room for protocol 3.2 keys.
SHORT_MESSAGE: Final = 16 * KIB

# The longest message of a type that may pass from the client at all, as the server itself would refuse a longer one.
FRONTEND_MAXIMUM: Final[Mapping[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(b"QPBFd", LARGE_MESSAGE + 1),
        **dict.fromkeys(b"CDEHSXcf", SMALL_MESSAGE + 1),
        ord("p"): AUTH_MESSAGE + 1,
    }
)
BACKEND_MAXIMUM: Final[Mapping[int, int]] = MappingProxyType(
    dict.fromkeys(b"123ACDEGHIKNRSTVWZcdnstv", LARGE_MESSAGE + 5)
)

# The longest message of a type that is interpreted whole, and so held in memory.
FRONTEND_WHOLE: Final[Mapping[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(b"QP", STATEMENT),
        **dict.fromkeys(b"BFd", BIND),
        **dict.fromkeys(b"CDEHSXcf", SMALL_MESSAGE + 1),
        ord("p"): AUTH_MESSAGE + 1,
    }
)
BACKEND_WHOLE: Final[Mapping[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(b"123ICGHIKWZcnsv", SHORT_MESSAGE),
        **dict.fromkeys(b"DVd", ROW),
        **dict.fromkeys(b"EN", REPORT),
        ord("A"): NOTIFICATION,
        ord("R"): AUTH_REQUEST,
        ord("S"): PARAMETER_STATUS,
        ord("T"): ROW_DESCRIPTION,
        ord("t"): PARAMETER_DESCRIPTION,
    }
)
