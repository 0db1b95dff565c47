"""SQLAlchemy on psycopg and on asyncpg: reflection, ORM writes and reads of sealed and masked columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from tests.e2e.world import World


def test_sync(world: World) -> None:
    engine = sa.create_engine(world.dsn("teller").replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        table = sa.Table("cards", sa.MetaData(), autoload_with=connection)
        pan = connection.execute(sa.select(table.c.pan).limit(1)).scalar_one()
        assert str(pan).isdigit()
        found = connection.execute(sa.select(table.c.id).where(table.c.pan == pan)).all()
        assert len(found) == 1
        several = connection.execute(sa.select(table.c.id).where(table.c.pan.in_([pan, "0"]))).all()
        assert several == found
    engine.dispose()


async def test_async(world: World) -> None:
    engine = create_async_engine(world.dsn("teller").replace("postgresql://", "postgresql+asyncpg://"))
    cards = sa.table("cards", sa.column("id", sa.BigInteger), sa.column("pan", sa.String(19)))
    async with engine.connect() as connection:
        pan = (await connection.execute(sa.select(cards.c.pan).limit(1))).scalar_one()
        found = (await connection.execute(sa.select(cards.c.id).where(cards.c.pan == pan))).all()
        assert len(found) == 1
    await engine.dispose()


@pytest.mark.parametrize("login", ["agent", "analyst"])
def test_masked_roles_read_masks(world: World, login: str) -> None:
    engine = sa.create_engine(world.dsn(login).replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        phones = connection.execute(sa.text("select phone from customers limit 5")).scalars().all()
        assert all("*" in phone for phone in phones)
    engine.dispose()
