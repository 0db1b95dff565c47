"""Look-up tickets: a value that pgveil vouches for, so that nobody finds rows by it past pgveil (ADR 0015).

A ticket is the base64 of an HMAC-SHA-256 (RFC 2104), the time when it was made and the value's text in UTF-8. The code covers the column's name and the
login, too: a ticket for one column says nothing about another one, and is no use to another login, nor to anybody `TICKET_SECONDS` later.
`ticket_value` in the database (`keys.mask_sql`) takes tickets apart with the same key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

LOOKUP_DOMAIN = "pgveil:lookup"
"""The key ring's domain whose key makes the codes."""

MAC_SIZE = 32
TICKET_SECONDS: Final = 600
"""So long a ticket is good, and so far may the clocks of pgveil and the server be apart."""
TIME_SIZE: Final = 8
TICKETS_REMEMBERED: Final = 65536
"""Of a transaction's values for columns that are not seen, so many bytes of tickets are remembered, the last ones."""

NOTHING = b""
"""The ticket of a value that no column can hold: it finds nothing."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a ticket is for, the server's session_user, and when it was made: seconds since 1970."""

    login: str
    made: int


def ticket(key: bytes, column: str, value: bytes, bearer: Bearer) -> bytes:
    """The ticket for `value`, UTF-8 text as PostgreSQL reads it into the column's type; `column` is `schema.table.column`. ASCII."""
    told = bearer.made.to_bytes(TIME_SIZE, "big") + value
    code = hmac.new(key, b"\0".join((column.encode(), bearer.login.encode(), told)), hashlib.sha256).digest()
    return base64.b64encode(code + told)
