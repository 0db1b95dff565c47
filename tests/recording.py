"""The record of what is applied, for databases whose sealed columns and masking views are made by a test's own SQL and not by `pgveil apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rules.applied import recorded
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.model import quote_literal

if TYPE_CHECKING:
    import asyncpg

    from rules.model import Rules


async def put_record(connection: asyncpg.Connection[Any], rules: Rules) -> None:
    """Write down that everything that is there is as the rules want it."""
    catalog = build_catalog({name: await connection.fetch(sql) for name, sql in CATALOG_QUERIES.items()})
    document = recorded(rules, catalog).applied
    assert document is not None
    await connection.execute("CREATE OR REPLACE VIEW pgveil.applied AS SELECT 1 AS nothing")
    await connection.execute(f"COMMENT ON VIEW pgveil.applied IS {quote_literal(document)}")
