"""Which rules running pgveils serve in a database, as everybody there can see: shared advisory locks of their own connections (ADR 0029).

They need no privilege and no table, and go with the connection. Sources: PostgreSQL documentation, "Advisory Locks", pg_locks.
"""

from __future__ import annotations

import hashlib
from typing import Final

_CLASS: Final = 0x70677665  # "pgve"; the second number names the rules
_WRAP: Final = 1 << 32

ANNOUNCE_QUERY: Final = "SELECT pg_catalog.pg_try_advisory_lock_shared($1::pg_catalog.int4, $2::pg_catalog.int4)"
WITHDRAW_QUERY: Final = "SELECT pg_catalog.pg_advisory_unlock_shared($1::pg_catalog.int4, $2::pg_catalog.int4)"
# objsubid 2: a lock by two numbers. A prepared transaction holds locks too, and is no pgveil: it has no process.
SERVING_QUERY: Final = f"""
SELECT l.objid::pg_catalog.int8 AS rules, l.pid, COALESCE(a.usename::pg_catalog.text, '') AS login
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.classid = {_CLASS}::pg_catalog.oid AND l.objsubid = 2 AND l.granted
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
 ORDER BY 1, 2
"""  # noqa: S608 - a number


def number_of(version: str) -> int:
    """The number that stands for a rules file of this version, as pg_locks shows it."""
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:4])


def lock_of(version: str) -> tuple[int, int]:
    """The two numbers of the lock, as the functions take them."""
    number = number_of(version)
    return _CLASS, number - _WRAP if number >= _WRAP // 2 else number
