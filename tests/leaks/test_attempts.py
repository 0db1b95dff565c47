"""Every attempt of the table, by every masked login, on each way to the server: nothing protected comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks.attempts import SCRIPTS, SINGLE, Script
from tests.leaks.den import AGENT, CHIEF, CLERK, Den, Session, Way

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
    for session in _sessions(lair):
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
