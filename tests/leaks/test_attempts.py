"""Every attempt of the table, by every masked login, on each way to the server: nothing protected comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lifecycle.demo.bank import roles_sql
from lifecycle.demo.load import load
from tests.leaks.attempts import SCRIPTS, SINGLE, Script
from tests.leaks.den import AGENT, CHIEF, CLERK, SETUP, Den, Session, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

# A superuser can't be fenced past pgveil, and `pgveil apply` says so.
WALKS = tuple((login, way) for login in (CLERK, AGENT, CHIEF) for way in Way if (login, way) != (CHIEF, Way.DIRECT))
# Ways that lead nowhere for a superuser either, or end a transaction.
_TOOTHLESS = frozenset(
    {
        "log settings",
        "set role",
        "system columns",
        "explain",
        "invisible characters",
        "multi-statement strings",
    }
)


def _sessions(den: Den) -> Iterator[Session]:
    for login, way in WALKS:
        session = den.connect(login, way)
        try:
            yield session
        finally:
            session.connection.close()


def _nothing_came(den: Den, session: Session, statements: tuple[str, ...]) -> None:
    found = den.leaks(session.login, den.heard(session.login, session.way) + den.written())
    assert not found, f"{session.login}, {session.way}, {statements}: {found} came back"


@pytest.mark.parametrize("leak", SINGLE)
def test_single_statements(den: Den, leak: str) -> None:
    for session in _sessions(den):
        for sql in SINGLE[leak]:
            session.run((den.fill(sql),))
            _nothing_came(den, session, (sql,))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: f"{s.leak}: {s.statements[0][:40]}")
def test_scripts(lair: Den, script: Script) -> None:
    maker = CLERK
    for session in _sessions(lair):
        if session.login != maker:  # what the one has made is not to be in the other's way
            lair.empty_lair()
            maker = session.login
        session.run([lair.fill(sql) for sql in script.statements])
        _nothing_came(lair, session, script.statements)


@pytest.mark.parametrize("leak", sorted(SINGLE.keys() - _TOOTHLESS))
def test_the_statements_do_bite(den: Den, leak: str) -> None:
    """The attempts are no straw men: to a superuser straight at the server they bring protected values up."""
    session = den.connect("postgres", Way.DIRECT)
    session.connection.execute("BEGIN")
    bitten = 0
    for sql in SINGLE[leak]:
        session.connection.execute("SAVEPOINT a")
        session.run((den.fill(sql),))
        session.connection.execute("ROLLBACK TO a")
        bitten += bool(den.leaks(CLERK, den.heard("postgres", Way.DIRECT) + den.written()))
    session.connection.execute("ROLLBACK")
    session.connection.close()
    assert bitten


@pytest.fixture(scope="module")
def unprotected(den: Den) -> str:
    """The same bank in a database that pgveil does not know, to be copied."""

    async def fill() -> None:
        connection = await asyncpg.connect(den.world.pg.dsn(name))
        try:
            await load(connection, den.world.bank)
            await connection.execute(roles_sql())
            await connection.execute(SETUP)
            await connection.execute("ANALYZE")
        finally:
            await connection.close()

    name = den.world.pg.create_database()
    asyncio.run(fill())
    return name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: f"{s.leak}: {s.statements[0][:40]}")
def test_the_scripts_do_bite(den: Den, unprotected: str, script: Script) -> None:
    """As the statements, each in a database of its own; those that do not say why they are tried all the same."""
    den.admin(f"CREATE DATABASE bitten TEMPLATE {unprotected}")
    try:
        session = den.connect("postgres", Way.DIRECT, dbname="bitten")
        den.heard("postgres", Way.DIRECT)
        session.run([den.fill(sql) for sql in script.statements])
        session.connection.close()
        bitten = den.leaks(CLERK, den.heard("postgres", Way.DIRECT) + den.written())
    finally:
        den.admin("DROP DATABASE bitten WITH (FORCE)")
    assert bool(bitten) == (not script.blunt), bitten
