"""The database as the jobs of this package reach it: one connection, its settings fixed, its catalog read whole. I/O by asyncpg."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import asyncpg

from rules.catalog import CATALOG_QUERIES, Catalog, CatalogError, build_catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    Connection = asyncpg.Connection[Any]

__all__ = ["DatabaseError", "DatabaseUrlError", "connect", "describe_error", "fix_settings", "read_catalog"]

_CONNECT_SECONDS = 10.0
_ATTEMPTS = 3

# What the text forms of values, the names in definitions and the scanning of our own statements depend on. Local to the transaction.
_SETTINGS = (
    ("search_path", "pg_catalog"),
    ("datestyle", "ISO, MDY"),
    ("timezone", "UTC"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("check_function_bodies", "on"),
    ("row_security", "off"),
    ("default_tablespace", ""),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
)


class DatabaseError(Exception):
    """The database cannot be reached or read. The text names no value and no part of the connection URL."""


class DatabaseUrlError(ValueError):
    """Not a connection URL. The text does not quote it: it may hold a password."""


async def connect(
    dsn: str, *, application: str, host: tuple[str, int] | None = None, tls: Sequence[Any] = (None,)
) -> Connection:
    """A connection; `host` and port where the URL is to lead elsewhere. Raises DatabaseError; DatabaseUrlError where the URL is not one.

    `tls`: what asyncpg is told of it, one attempt after the other; None: as the URL says.
    """
    for last in range(1 - len(tls), 1):
        try:
            return await _connect(dsn, application, host, tls[last - 1])
        except DatabaseError:
            if not last:
                raise
    raise AssertionError("there is an attempt at least")


async def _connect(dsn: str, application: str, host: tuple[str, int] | None, tls: Any) -> Connection:
    name, port = (None, None) if host is None else host
    try:
        return await asyncpg.connect(
            dsn,
            host=name,
            port=port,
            timeout=_CONNECT_SECONDS,
            ssl=tls,
            server_settings={"application_name": application, "client_encoding": "UTF8"},
        )
    except ssl.SSLCertVerificationError as error:  # a ValueError, too
        raise DatabaseError(f"the server's certificate is not accepted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise DatabaseError(f"TLS with the server fails: {error.reason or type(error).__name__}") from None
    except asyncpg.PostgresError as error:
        raise DatabaseError(f"the database refuses the connection: {describe_error(error)}") from None
    except (asyncpg.InterfaceError, ValueError):
        raise DatabaseUrlError("not a PostgreSQL connection URL that can be used") from None
    except TimeoutError:
        raise DatabaseError("the database does not answer in time") from None
    except OSError as error:
        raise DatabaseError(f"the database cannot be reached: {error.strerror or type(error).__name__}") from None


async def fix_settings(connection: Connection) -> None:
    """Fix, until the end of the transaction, what our statements and the texts of values depend on."""
    for name, value in _SETTINGS:
        await connection.execute("SELECT pg_catalog.set_config($1, $2, true)", name, value)


async def read_catalog(connection: Connection) -> Catalog:
    """The catalog, of one moment where the caller's transaction is repeatable read or holds its locks. Raises DatabaseError."""
    for _ in range(_ATTEMPTS):
        rows = {name: await connection.fetch(sql) for name, sql in CATALOG_QUERIES.items()}
        try:
            return build_catalog(rows)
        except CatalogError:
            continue
    raise DatabaseError("the database's catalog keeps changing while it is read: try again after the other DDL")


def describe_error(error: asyncpg.PostgresError) -> str:
    """What a server's error may say: its condition, SQLSTATE and the objects it names, never its texts, which may quote values."""
    named = (
        (word, getattr(error, field, None))
        for word, field in (
            ("schema", "schema_name"),
            ("table", "table_name"),
            ("column", "column_name"),
            ("type", "data_type_name"),
            ("constraint", "constraint_name"),
        )
    )
    objects = ", ".join(f"{word} {name}" for word, name in named if name)
    condition = type(error).__name__.removesuffix("Error")
    return f"{condition} (SQLSTATE {error.sqlstate})" + (f" on {objects}" if objects else "")


async def rows_of(connection: Connection, query: str, batch: int) -> AsyncIterator[list[asyncpg.Record]]:
    """The rows of a query by a cursor of the server's, `batch` at a time. Needs a transaction; the cursor is closed at the end.

    A cursor sees the table as it was when it was declared, so the rows may be updated meanwhile.
    """
    await connection.execute(f"DECLARE pgveil_rows NO SCROLL CURSOR FOR {query}")
    # Prepared anew for each cursor: the driver's cache would take the columns of the last one for this one's.
    fetch = await connection.prepare(f"FETCH FORWARD {batch} FROM pgveil_rows")
    while rows := await fetch.fetch():
        yield rows
    await connection.execute("CLOSE pgveil_rows")
