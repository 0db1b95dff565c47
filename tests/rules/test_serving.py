"""Who counts as a pgveil that serves rules in a database (ADR 0029)."""

from __future__ import annotations

import asyncpg
import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from rules.serving import ANNOUNCE_QUERY, SERVING_QUERY, lock_of, number_of


async def test_a_prepared_transaction_is_no_pgveil() -> None:
    """It holds a lock for ever, and nobody to ask is behind it."""
    try:
        server = Postgres.make("16", settings={"max_prepared_transactions": "2"})
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    with server:
        pgveil, other = await asyncpg.connect(server.dsn()), await asyncpg.connect(server.dsn())
        assert await pgveil.fetchval(ANNOUNCE_QUERY, *lock_of("1"))
        first, second = lock_of("2")
        await other.execute(
            f"BEGIN; SELECT pg_advisory_xact_lock_shared({first}, {second}); PREPARE TRANSACTION 'left behind'"
        )
        await other.close()
        rows = await pgveil.fetch(SERVING_QUERY)
        assert [(r["rules"], r["login"]) for r in rows] == [(number_of("1"), "postgres")]
        await pgveil.close()
