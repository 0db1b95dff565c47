"""Reading a catalog as a guest: what is read is what whoever locks would read, and nobody meets a lock (docs/adr/0033)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from rules.catalog import CATALOG_QUERIES, Catalog, build_catalog
from rules.catalog_texts import MAX_WAITS, UNREADABLE, CatalogReader
from rules.model import TableName
from tests.rules.test_catalog import SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lifecycle.demo.postgres import Postgres
    from rules.catalog_texts import Reading

MORE = """
CREATE FUNCTION f_atomic(x int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM customers WHERE id = x; END;
CREATE FUNCTION s_std(state bigint, x int) RETURNS bigint LANGUAGE sql RETURN state + (SELECT count(*) FROM customers) + x;
CREATE AGGREGATE odd_total(int) (sfunc = s_std, stype = bigint, initcond = '0');
CREATE OPERATOR ?# (rightarg = int, function = f_std);
CREATE RULE told AS ON UPDATE TO base_b DO ALSO INSERT INTO base_a SELECT id FROM customers;
CREATE VIEW joined AS SELECT * FROM base_a JOIN "Odd Schema"."客户 表" ON a = id;
CREATE VIEW moods AS SELECT 'sad'::mood AS m, card::shorter AS c, f_std(1) AS f FROM customers;
"""
# What changes a text, without a change to the row that holds it.
RENAMES = [
    "ALTER TABLE customers RENAME TO people",
    "ALTER TABLE people RENAME COLUMN name TO called",
    "ALTER VIEW v1 RENAME COLUMN who TO whom",
    'ALTER SCHEMA "Odd Schema" RENAME TO even',
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    "ALTER DOMAIN shorter RENAME TO shortest",
    "ALTER FUNCTION f_std RENAME TO f_other",
    "ALTER FUNCTION f_other SET SCHEMA pgveil",
    "ALTER TABLE base_a ADD COLUMN owner_id int",
    "CREATE OR REPLACE VIEW v2 AS SELECT whom AS who FROM v1 WHERE whom > ''",
    "CREATE OR REPLACE RULE told AS ON UPDATE TO base_b DO ALSO NOTHING",
    "DROP VIEW joined",
]


@pytest.fixture
async def connection(any_pg: Postgres) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(any_pg.dsn(any_pg.create_database()))
    await connection.execute(SCHEMA)
    await connection.execute(MORE)
    yield connection
    await connection.close()


class Counting:
    """A connection that counts the texts that are asked for."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self.texts: list[int] = []

    async def fetch(self, query: str, /) -> Any:
        return await self._connection.fetch(query)

    async def fetchval(self, query: str, /, *arguments: Any) -> Any:
        self.texts += arguments
        return await self._connection.fetchval(query, *arguments)

    def transaction(self, *, isolation: Any, readonly: bool) -> Any:
        return self._connection.transaction(isolation=isolation, readonly=readonly)


async def _loud(connection: asyncpg.Connection[Any]) -> Catalog:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return build_catalog({name: await connection.fetch(query) for name, query in CATALOG_QUERIES.items()})


def _built(reading: Reading) -> Catalog:
    return build_catalog(reading.rows, reading.texts)


async def test_it_is_the_same_catalog_after_every_change(connection: asyncpg.Connection[Any]) -> None:
    reader = CatalogReader()
    first = await reader.read(connection)
    assert first.whole
    assert _built(first).relations == (await _loud(connection)).relations
    for change in RENAMES:
        await connection.execute(change)
        reading = await reader.read(connection)
        loud = await _loud(connection)
        assert reading.whole, change
        assert _built(reading).version == loud.version, change


async def test_only_what_may_have_changed_is_read_again(connection: asyncpg.Connection[Any]) -> None:
    counted = Counting(connection)
    reader = CatalogReader()
    await reader.read(counted)
    assert len(counted.texts) > 8
    counted.texts.clear()
    for change in (
        "CREATE TABLE another (a int, b text DEFAULT 'x')",
        "ALTER TABLE heir ADD COLUMN more int",
        "TRUNCATE customers CASCADE",
        "ANALYZE",
        "CREATE INDEX ON customers (name)",
        "GRANT SELECT ON customers TO PUBLIC",
    ):
        await connection.execute(change)
        assert (await reader.read(counted)).whole
        assert counted.texts == [], change
    view = await connection.fetchval("SELECT 'v2'::regclass::oid::int8")
    await connection.execute("ALTER VIEW v2 RENAME COLUMN who TO whom")
    await reader.read(counted)
    assert view in counted.texts
    assert len(counted.texts) <= 2, "its own, and that of the view over it"


async def test_nobody_s_lock_is_waited_for_long_and_nobody_meets_one(
    any_pg: Postgres, connection: asyncpg.Connection[Any]
) -> None:
    """With every table under ACCESS EXCLUSIVE the tables are known all the same; texts over them are taken for anything."""
    locker = await asyncpg.connect(any_pg.dsn(await connection.fetchval("SELECT current_database()::text")))
    reader, counted = CatalogReader(), Counting(connection)
    async with locker.transaction():
        await locker.execute('LOCK TABLE customers, base_a, base_b, "Odd Schema"."客户 表" IN ACCESS EXCLUSIVE MODE')
        blocked = await reader.read(counted)
        assert not blocked.whole
        assert list(blocked.texts.values()).count(UNREADABLE) >= MAX_WAITS
        catalog = _built(blocked)
        assert catalog.by_name[TableName("public", "customers")].column("name") is not None
        assert catalog.by_name[TableName("public", "v1")].definition == UNREADABLE
    after = await reader.read(connection)
    assert after.whole
    assert _built(after).version == (await _loud(connection)).version
    await locker.close()


async def test_the_statements_of_a_reading_lock_system_catalogs_only(
    any_pg: Postgres, connection: asyncpg.Connection[Any]
) -> None:
    """Looked at from within its one transaction, where whatever was locked still is."""
    held: list[str] = []

    class Looking(Counting):
        async def fetch(self, query: str, /) -> Any:
            rows = await connection.fetch(query)
            held.extend(
                str(r[0])
                for r in await connection.fetch(
                    "SELECT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                    " WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.oid >= 16384"
                )
            )
            return rows

    await CatalogReader().read(Looking(connection))
    assert held == []
    await _loud(connection)
    async with connection.transaction():
        await connection.fetch(CATALOG_QUERIES["relations"])
        locked = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384"
        )
        assert locked > 0, "the measure does not see what it is for"
