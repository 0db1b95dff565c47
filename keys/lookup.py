"""Look-up tickets: a value that pgveil vouches for, so that nobody finds rows by it past pgveil (ADR 0015).

A ticket is the base64 of an HMAC-SHA-256 (RFC 2104) and the value's text in UTF-8. The code covers the column's name, so a ticket for one column
says nothing about another one. `lookup_value` in the database (`keys.mask_sql`) takes tickets apart with the same key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

LOOKUP_DOMAIN = "pgveil:lookup"
"""The key ring's domain whose key makes the codes."""

MAC_SIZE = 32
NOTHING = b""
"""The ticket of a value that no column can hold: it finds nothing."""


def ticket(key: bytes, column: str, value: bytes) -> bytes:
    """The ticket for `value`, UTF-8 text as PostgreSQL reads it into the column's type; `column` is `schema.table.column`. ASCII."""
    code = hmac.new(key, column.encode() + b"\0" + value, hashlib.sha256).digest()
    return base64.b64encode(code + value)
