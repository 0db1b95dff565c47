"""Whether a key ring opens what a database has stored: some values of every column of pgveil's sealed domain, without any rules.

Which keys a value needs, it says itself (its key id). What opens is counted and forgotten. I/O by asyncpg.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from keys.sealed import SealedError, key_id_of, open_sealed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keys.ring import KeyRing
    from keys.sealed import DataKey

LOOKED_AT = 200
"""Values of one column that are opened."""

_SECONDS = 10.0
# Partitions and children are asked themselves; generated, foreign and system relations hold no sealed values.
_COLUMNS = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) COLLATE pg_catalog."C" AS relation,
       pg_catalog.quote_ident(a.attname) AS attribute, GREATEST(c.reltuples, 0)::pg_catalog.float8 AS rows
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
 WHERE c.relkind = 'r' AND NOT a.attisdropped AND a.attnum > 0
   AND t.typname = 'sealed' AND tn.nspname = 'pgveil'
 ORDER BY 1, a.attnum"""


class StoredError(Exception):
    """The database can't be asked. The text names no value and no part of the connection URL."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of the values of one column. `missing`: ids of keys that the ring has not, with how many values ask for each."""

    column: str
    opened: int
    damaged: int
    missing: Mapping[int, int]

    @property
    def well(self) -> bool:
        """Whether everything that was looked at opened."""
        return not self.damaged and not self.missing


async def open_stored(dsn: str, ring: KeyRing) -> tuple[Opened, ...]:
    """Up to LOOKED_AT values of each sealed column of a database. Raises StoredError."""
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            dsn, timeout=_SECONDS, server_settings={"application_name": "pgveil keys", "client_encoding": "UTF8"}
        )
    except asyncpg.PostgresError as error:
        raise StoredError(f"the database refuses the connection (SQLSTATE {error.sqlstate})") from None
    except (asyncpg.InterfaceError, ValueError):
        raise StoredError("not a PostgreSQL connection URL that can be used") from None
    except (OSError, TimeoutError) as error:
        raise StoredError(f"the database cannot be reached: {type(error).__name__}") from None
    keys = {k: key for domain in ring.domains() for k, key in ring.keys(domain).items()}
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return tuple([await _column(connection, row, keys) for row in await connection.fetch(_COLUMNS)])
    except asyncpg.InsufficientPrivilegeError:
        raise StoredError("this login may not read the sealed columns; take the tables' owner or a superuser") from None
    except asyncpg.PostgresError as error:
        raise StoredError(f"the database says SQLSTATE {error.sqlstate}") from None
    finally:
        await connection.close(timeout=5)


def sampled(rows: float) -> str:
    """What stands behind a table's name to read LOOKED_AT values and more of so many rows, and not always the first."""
    share = 100 * 4 * LOOKED_AT / rows if rows > 0 else 100
    return f" TABLESAMPLE SYSTEM ({share})" if share < 100 else ""


async def _column(connection: asyncpg.Connection[Any], row: asyncpg.Record, keys: Mapping[int, DataKey]) -> Opened:
    relation, attribute, rows = row["relation"], row["attribute"], row["rows"]
    values = await connection.fetch(
        f"SELECT {attribute}::pg_catalog.text FROM ONLY {relation}{sampled(rows)} "  # noqa: S608 - quoted by the server
        f"WHERE {attribute} IS NOT NULL LIMIT {LOOKED_AT}"
    )
    opened, damaged = 0, 0
    missing: Counter[int] = Counter()
    for (value,) in values:
        sealed = str(value).encode()
        try:
            key_id = key_id_of(sealed)
            if key_id in keys:
                open_sealed(keys[key_id], sealed)
                opened += 1
            else:
                missing[key_id] += 1
        except SealedError:
            damaged += 1
    return Opened(f"{relation}.{attribute}", opened, damaged, dict(missing))
