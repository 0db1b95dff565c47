"""What the database can't compute on sealed values, through drivers and the whole of pgveil: read, and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest

from tests.e2e.world import records_in

if TYPE_CHECKING:
    from tests.e2e.world import World

LIKE = "SELECT upper(pan) AS pan, right(pan, 4) || '!' FROM cards WHERE pan LIKE '6%' ORDER BY pan LIMIT 3"


def test_simple_and_prepared_read_alike(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as connection:
        simple = psycopg.ClientCursor(connection).execute(LIKE).fetchall()
        assert len(simple) == 3
        assert simple == sorted(simple)
        text = LIKE.replace("'6%'", "%s").replace("'!'", "%s")
        for _ in range(3):
            assert connection.execute(text, ("!", "6%"), prepare=True).fetchall() == simple


async def test_asyncpg_cursors_and_records(world: World) -> None:
    connection = await asyncpg.connect(world.dsn("teller"))
    try:
        async with connection.transaction():
            rows = [
                r["pan"]
                async for r in connection.cursor("SELECT pan FROM cards ORDER BY right(pan, 4), pan", prefetch=7)
            ]
        assert rows == sorted(rows, key=lambda pan: (pan[-4:], pan))
        assert len(rows) > 7
        assert await connection.fetchval("SELECT max(length(pan)) FROM cards") >= 16
    finally:
        await connection.close()


def test_an_error_is_the_transactions(world: World) -> None:
    with psycopg.connect(world.dsn("teller")) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
            connection.execute("SELECT 1 / (length(pan) - length(pan)) FROM cards")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.fixture
def may_delete(world: World) -> None:
    with psycopg.connect(world.pg.dsn(world.database), autocommit=True) as connection:
        connection.execute("GRANT DELETE ON cards TO teller")


@pytest.mark.usefixtures("may_delete")
@pytest.mark.parametrize("client", [psycopg.Cursor, psycopg.ClientCursor])
def test_writes(world: World, client: type[psycopg.Cursor[tuple[object, ...]]]) -> None:
    with psycopg.connect(world.dsn("teller"), cursor_factory=client) as connection:
        first, pan = connection.execute("SELECT id, pan FROM cards ORDER BY id LIMIT 1").fetchall()[0]
        updated = connection.execute(
            "UPDATE cards SET pan = reverse(pan) WHERE id = %s RETURNING pan, length(pan)", (first,)
        )
        assert updated.fetchall() == [(str(pan)[::-1], len(str(pan)))]
        assert updated.statusmessage == "UPDATE 1"
        assert connection.execute("SELECT id FROM cards WHERE pan = %s", (str(pan)[::-1],)).fetchall() == [(first,)]
        written = connection.execute(
            "UPDATE cards SET pan = left(%s, 12) || right(pan, 4) WHERE id = %s", ("4" * 16, first)
        )
        assert written.rowcount == 1
        assert connection.execute("SELECT pan FROM cards WHERE id = %s", (first,)).fetchone() == (
            "4" * 12 + str(pan)[:4][::-1],
        )
        every = connection.execute("SELECT count(*) FROM cards WHERE pan LIKE '6%'").fetchone()
        gone = connection.execute("DELETE FROM cards WHERE pan LIKE '6%' RETURNING id")
        assert [len(gone.fetchall())] == list(every or ())
        assert connection.execute("SELECT count(*) FROM cards WHERE pan LIKE '6%'").fetchone() == (0,)
        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            connection.execute("UPDATE cards SET pan = pan || pan WHERE id = %s", (first,))
        connection.rollback()
        assert connection.execute("SELECT pan FROM cards WHERE id = %s", (first,)).fetchone() == (pan,)


@pytest.mark.usefixtures("may_delete")
@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE cards SET pan = reverse(pan) WHERE id = 1", "UPDATE"),
        ("UPDATE cards SET pan = reverse('x') WHERE id = 1", "UPDATE"),
        ("UPDATE cards SET pan = 'x' WHERE pan LIKE '6%' RETURNING length(pan)", "UPDATE"),
        ("DELETE FROM cards WHERE pan LIKE '6%'", "DELETE"),
        ("INSERT INTO cards (id, pan) SELECT id, reverse(pan) FROM cards", "INSERT"),
        ("SELECT upper(pan) FROM cards FOR UPDATE", "SELECT FOR UPDATE"),
    ],
)
def test_in_a_read_only_transaction(world: World, sql: str, what: str) -> None:
    for client in (psycopg.Cursor, psycopg.ClientCursor):
        with psycopg.connect(world.dsn("teller"), cursor_factory=client) as connection:
            connection.read_only = True
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
                connection.execute(sql.encode())
            assert caught.value.diag.message_primary == f"cannot execute {what} in a read-only transaction"


def test_what_is_written_is_in_the_record(world: World) -> None:
    with psycopg.connect(world.dsn("teller")) as connection:
        connection.execute("UPDATE cards SET pan = upper(pan) WHERE pan LIKE '6%'")
        connection.rollback()
    started = [r for r in records_in(world.audit) if r.get("action") == "update"][-1]
    pans = [t for t in started["columns"] if t["column"].endswith(".pan")]
    assert [(t["read"], t["written"]) for t in pans] == [(True, True)]


@pytest.mark.parametrize("client", [psycopg.Cursor, psycopg.ClientCursor])
def test_a_search_by_a_computed_value(world: World, client: type[psycopg.Cursor[tuple[object, ...]]]) -> None:
    with psycopg.connect(world.dsn("teller"), cursor_factory=client) as connection:
        card, pan = connection.execute("SELECT id, pan FROM cards ORDER BY id LIMIT 1").fetchall()[0]
        for _ in range(2):
            found = connection.execute("SELECT id, pan FROM cards WHERE pan = trim(%s)", (f" {pan} ",))
            assert found.fetchall() == [(card, pan)]
            assert found.statusmessage == "SELECT 1"
    last = [r for r in records_in(world.audit) if r.get("action") == "select"][-1]
    assert last["lookup"] or last["columns"]
