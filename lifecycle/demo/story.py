"""`pgveil demo`: a bank with pgveil, told in chapters. Every sentence with a tick was checked a moment before it was printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from lifecycle.demo.asking import around, curiosity, four_people, refusals, writing
from lifecycle.demo.bank import generate, roles_sql
from lifecycle.demo.load import load
from lifecycle.demo.preparing import the_bank, the_disk, the_gate, the_plan, the_rules
from lifecycle.demo.proving import the_numbers, the_trail
from lifecycle.demo.stage import CATALOG_LOGIN, DATABASE

if TYPE_CHECKING:
    from lifecycle.demo.bank import Bank
    from lifecycle.demo.plot import Story
    from lifecycle.demo.stage import Stage
    from lifecycle.demo.telling import Teller


async def tell(stage: Stage, teller: Teller, customers: int) -> None:
    """The whole story, in order. Raises ClaimError, StageError, asyncpg.PostgresError, OSError."""
    teller.title(
        "pgveil: a bank's day",
        "A retail bank keeps its customers in PostgreSQL. Everybody who may read a table reads all of it.",
        "We put pgveil in front, and watch what changes and what does not. Lines with a tick were checked before they were printed.",
    )
    bank = generate(customers=customers)
    admin = await _build(stage, bank)
    story: Story | None = None
    try:
        story = await the_bank(stage, teller, bank, admin)
        the_rules(story)
        await the_plan(story)
        await the_disk(story)
        await the_gate(story)
        await four_people(story)
        await curiosity(story)
        await refusals(story)
        await writing(story)
        await around(story)
        the_trail(story)
        the_numbers(story)
    finally:
        for seat in () if story is None else story.seats.values():
            seat.drop()
        admin.terminate()


async def _build(stage: Stage, bank: Bank) -> asyncpg.Connection[Any]:
    """A server with the bank in it, as it would be without pgveil; a superuser's connection to it."""
    stage.postgres.start()
    stage.postgres.psql(f"CREATE DATABASE {DATABASE}")
    admin = await asyncpg.connect(stage.postgres.dsn(DATABASE), ssl=False)
    await load(admin, bank)
    await admin.execute(roles_sql())
    # pgveil reads the catalog with a login of its own, which needs no privilege on any table.
    await admin.execute(f"CREATE ROLE {CATALOG_LOGIN} LOGIN")
    return admin
