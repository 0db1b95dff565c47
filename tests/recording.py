"""The record of what is applied, for databases whose sealed columns and masking views are made by a test's own SQL and not by `pgveil apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rules.applied import recorded
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.difference import wanted_views
from rules.model import quote_ident, quote_literal

if TYPE_CHECKING:
    import asyncpg

    from rules.model import Rules


async def put_record(connection: asyncpg.Connection[Any], rules: Rules, *, views: bool = False) -> None:
    """Write down that everything that is there is as the rules want it; `views`: with stand-ins for the masking views."""
    catalog = build_catalog({name: await connection.fetch(sql) for name, sql in CATALOG_QUERIES.items()})
    if views:
        for view in sorted(wanted_views(rules, catalog)):
            await connection.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quote_ident(view.schema)};"
                f"CREATE VIEW {quote_ident(view.schema)}.{quote_ident(view.name)} AS SELECT 1 AS nothing"
            )
        catalog = build_catalog({name: await connection.fetch(sql) for name, sql in CATALOG_QUERIES.items()})
    document = recorded(rules, catalog).applied
    assert document is not None
    await connection.execute("CREATE OR REPLACE VIEW pgveil.applied AS SELECT 1 AS nothing")
    await connection.execute(f"COMMENT ON VIEW pgveil.applied IS {quote_literal(document)}")
