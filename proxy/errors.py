"""What the proxy itself has to say: ErrorResponse bytes, and the exceptions that end up as one.

No message, detail or hint ever holds a value, a password or a key: whoever raises one of these writes text of their own.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def error_response(
    sqlstate: str,
    message: str,
    *,
    severity: str = "ERROR",
    detail: str | None = None,
    hint: str | None = None,
    position: int | None = None,
    context: str | None = None,
    source: tuple[str, int, str] | None = None,
) -> bytes:
    """An ErrorResponse message, type byte and length included (PostgreSQL 55.7, 55.8).

    `severity` goes out both as the localised field S and as V, which drivers compare. `position` is 1-based, in characters. `context`: CONTEXT.
    `source`: file, line and routine.
    """
    at = None if position is None else str(position)
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail, "H": hint, "P": at, "W": context}
    if source is not None:
        fields |= {"F": source[0], "L": str(source[1]), "R": source[2]}
    return b"E" + _fields(fields)


def notice_response(
    sqlstate: str,
    message: str,
    *,
    severity: str = "NOTICE",
    detail: str | None = None,
    hint: str | None = None,
) -> bytes:
    """A NoticeResponse message, type byte and length included."""
    return b"N" + _fields({"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail, "H": hint})


def _fields(fields: Mapping[str, str | None]) -> bytes:
    body = b"".join(_field(tag, text) for tag, text in fields.items() if text is not None)
    return pack("!i", len(body) + 5) + body + b"\0"


def _field(tag: str, text: str) -> bytes:
    # A zero byte would end the field early and let the rest be read as another one.
    return tag.encode() + text.encode("utf-8", "replace").replace(b"\0", b" ") + b"\0"


class PgveilError(Exception):
    """Anything that the proxy reports on its own account. Subclasses give the SQLSTATE."""

    sqlstate = "XX000"

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def response(self, severity: str = "FATAL") -> bytes:
        """The error as an ErrorResponse; FATAL means that the connection ends with it."""
        return error_response(self.sqlstate, self.message, severity=severity, detail=self.detail, hint=self.hint)


class ProtocolError(PgveilError):
    """A peer sent what the protocol does not allow. The connection cannot go on: the message boundary is lost."""

    sqlstate = "08P01"


class NoPostgresClient(ProtocolError):  # noqa: N818
    """What came first can't be from a PostgreSQL client. The server hangs up on it without a word, and so does pgveil."""


class UnsupportedProtocol(ProtocolError):  # noqa: N818 - named as PostgreSQL says it
    """A version of the protocol that we don't speak; PostgreSQL's own SQLSTATE for it."""

    sqlstate = "0A000"


class LimitError(ProtocolError):
    """A peer sent what the protocol allows and pgveil's limits do not."""

    sqlstate = "54000"


class NotSupported(PgveilError):  # noqa: N818 - named as PostgreSQL names the SQLSTATE
    """A feature that cannot be protected, so it is refused."""

    sqlstate = "0A000"


class AuthenticationRefused(PgveilError):  # noqa: N818
    """The authentication cannot pass through the proxy."""

    sqlstate = "28000"


class TooManyConnections(PgveilError):  # noqa: N818
    """The worker is full."""

    sqlstate = "53300"


class TooManyLogins(TooManyConnections):
    """Too many others were logging in until it was too late."""


class ServerUnreachable(PgveilError):  # noqa: N818
    """No connection to the PostgreSQL server could be made, or not in the way that sslmode asks."""

    sqlstate = "08001"


class HostUnreachable(ServerUnreachable):
    """The host itself did not answer: asking it in another way (sslmode) is of no use."""


class ServerLost(PgveilError):  # noqa: N818
    """The connection to the PostgreSQL server ended while the client still used it."""

    sqlstate = "08006"


class ShuttingDown(PgveilError):  # noqa: N818
    """pgveil stops."""

    sqlstate = "57P01"


class ConfigError(Exception):
    """A configuration that cannot be used. The text names file, line and column where there are any, and the fix."""
