"""Why something of the system's or the server's failed, in one word for the log: no address, no person, no value."""

from __future__ import annotations

import errno
import re
import ssl
from typing import Final

import asyncpg

from proxy.tls import failure_word

_NUMBER: Final = re.compile(r"\[Errno (\d+)\]")


def reason_of(error: BaseException) -> str:
    """The condition and SQLSTATE of a server's error, the name of a system's error number (`ENOSPC`), what TLS failed by, or the kind of error."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__.removesuffix('Error')[:56]}:{error.sqlstate}"
    if isinstance(error, ssl.SSLError):
        return f"tls:{failure_word(error)}"[:64]
    if isinstance(error, TimeoutError):
        return "timeout"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            # asyncio's own, for a name with several addresses, has the numbers in its text only.
            number = cause.errno or next((int(n) for n in _NUMBER.findall(str(cause))), None)
            if number is not None and number in errno.errorcode:
                return errno.errorcode[number]
        cause = cause.__cause__
    return type(error).__name__[:64]
