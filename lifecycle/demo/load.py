"""Putting the bank into a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.demo.bank import schema_sql

if TYPE_CHECKING:
    import asyncpg

    from lifecycle.demo.bank import Bank


async def load(connection: asyncpg.Connection, bank: Bank) -> None:
    """Make the bank's tables in an empty database and fill them, in one transaction. Raises asyncpg.PostgresError."""
    async with connection.transaction():
        await connection.execute(schema_sql())
        for name, table in bank.tables.items():
            await connection.copy_records_to_table(
                name, schema_name="public", records=bank.copy_rows(name), columns=table.names
            )
            # The rows brought their keys with them; the next one made by the database must not repeat one.
            await connection.fetchval(
                "SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", f"public.{name}", len(table)
            )
    await connection.execute("ANALYZE")
