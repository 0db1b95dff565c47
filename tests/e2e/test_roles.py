"""What each role sees of the bank, through real drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from tests.e2e.world import World


def _customer(world: World) -> dict[str, object]:
    """The first customer as the bank knows it."""
    table = world.bank.tables["customers"]
    return dict(zip(table.names, next(iter(world.bank.copy_rows("customers"))), strict=True))


def _card(world: World) -> dict[str, object]:
    table = world.bank.tables["cards"]
    return dict(zip(table.names, next(iter(world.bank.copy_rows("cards"))), strict=True))


def test_the_database_holds_sealed_values(world: World) -> None:
    with psycopg.connect(world.dsn("postgres", direct=True)) as direct:
        row = direct.execute(
            "select id_number, pan from customers c join cards k on k.customer_id = c.id limit 1"
        ).fetchone()
    assert row is not None
    assert all(value[0] in "~^" for value in row)


def test_teller_sees_clear(world: World) -> None:
    customer = _customer(world)
    with psycopg.connect(world.dsn("teller"), row_factory=dict_row) as teller:
        row = teller.execute(
            "select id, name, phone, id_number from customers where id = %s", (customer["id"],)
        ).fetchone()
    assert row == {k: customer[k] for k in ("id", "name", "phone", "id_number")}


def test_teller_finds_by_sealed_column(world: World) -> None:
    card = _card(world)
    with psycopg.connect(world.dsn("teller")) as teller:
        by_parameter = teller.execute("select id from cards where pan = %s", (card["pan"],)).fetchall()
        by_literal = teller.execute(f"select id, pan from cards where pan = '{card['pan']}'").fetchall()
        by_list = teller.execute("select id from cards where pan = any(%s)", ([card["pan"], "0"],)).fetchall()
        none = teller.execute("select id from cards where pan = %s", ("0",)).fetchall()
    assert by_parameter == by_list == [(card["id"],)]
    assert by_literal == [(card["id"], card["pan"])]
    assert none == []


def test_agent_sees_masks(world: World) -> None:
    customer = _customer(world)
    with psycopg.connect(world.dsn("agent"), row_factory=dict_row) as agent:
        row = agent.execute(
            "select id, name, phone, id_number, birth_date from customers where id = %s", (customer["id"],)
        ).fetchone()
    assert row is not None
    assert row["name"] == customer["name"], "an agent greets the caller by name"
    assert row["phone"] != customer["phone"]
    assert "*" in row["phone"]
    assert "*" in row["id_number"]
    assert row["birth_date"].month == row["birth_date"].day == 1


@pytest.mark.parametrize(
    ("login", "sql", "sqlstate"),
    [
        ("agent", "select fingerprint from customers", "42501"),
        ("agent", "select * from customers", "42501"),
        ("agent", "select pg_column_size(pan) from cards", "42501"),
        ("agent", "create table x as select upper(pan) from cards", "42501"),
        ("analyst", "select pan from cards", "42501"),
        ("analyst", "select id_number from customers", "42501"),
        ("teller", "select version() || pan from cards", "0AP01"),
        ("teller", "select pan::regclass from cards", "0AP01"),
        ("teller", "select fingerprint from customers", "42501"),
        ("analyst", "copy cards to stdout", "42501"),
    ],
)
def test_refusals(world: World, login: str, sql: str, sqlstate: str) -> None:
    with psycopg.connect(world.dsn(login), autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(sql)
        assert caught.value.sqlstate == sqlstate
        assert caught.value.diag.message_hint
        assert connection.execute("select 1").fetchone() == (1,), "the connection goes on"


def test_a_refusal_aborts_the_transaction_as_any_error_does(world: World) -> None:
    with psycopg.connect(world.dsn("agent")) as agent:
        agent.execute("select 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("select fingerprint from customers")
        assert agent.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            agent.execute("select 1")
        agent.rollback()
        assert agent.execute("select 1").fetchone() == (1,)


def test_writes_are_sealed_and_come_back(world: World) -> None:
    pan = "6222020000000000017"
    with psycopg.connect(world.dsn("app"), autocommit=True) as app:
        (customer,) = app.execute("select min(id) from customers").fetchone()  # type: ignore[misc]
        row = app.execute("select * from cards limit 1")
        assert row.description is not None
        names = [d.name for d in row.description]
        template = dict(zip(names, row.fetchone() or (), strict=True)) | {"customer_id": customer, "pan": pan}
        template.pop("id")
        columns = ", ".join(template)
        marks = ", ".join(["%s"] * len(template))
        inserted = app.execute(
            f"insert into cards ({columns}) values ({marks}) returning id, pan", tuple(template.values())
        ).fetchone()
        assert inserted is not None
        assert inserted[1] == pan
        with psycopg.connect(world.dsn("postgres", direct=True)) as direct:
            stored = direct.execute("select pan from cards where id = %s", (inserted[0],)).fetchone()
        assert stored is not None
        assert stored[0].startswith("~")
        other = "6222020000000000025"
        assert app.execute("update cards set pan = %s where pan = %s", (other, pan)).rowcount == 1
        assert app.execute("select pan from cards where id = %s", (inserted[0],)).fetchone() == (other,)
        assert app.execute("delete from cards where pan = %s", (other,)).rowcount == 1


def test_a_value_too_long_gets_the_servers_own_error(world: World) -> None:
    with psycopg.connect(world.dsn("app"), autocommit=True) as app:
        with pytest.raises(psycopg.errors.StringDataRightTruncation) as caught:
            app.execute("update cards set pan = %s where id = 1", ("6" * 40,))
        assert "666666" not in str(caught.value)


def test_savepoints(world: World) -> None:
    with psycopg.connect(world.dsn("agent")) as agent:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), agent.transaction():
            agent.execute("select fingerprint from customers")
        with agent.transaction():
            assert agent.execute("select 1").fetchone() == (1,)


async def test_asyncpg(world: World) -> None:
    card, customer = _card(world), _customer(world)
    teller = await asyncpg.connect(world.dsn("teller"))
    try:
        row = await teller.fetchrow(
            "select k.pan, c.name, c.birth_date from cards k join customers c on c.id = k.customer_id where k.pan = $1",
            card["pan"],
        )
        assert row is not None
        assert row["pan"] == card["pan"]
        assert (
            await teller.fetchval("select id_number from customers where id = $1", customer["id"])
            == customer["id_number"]
        )
        async with teller.transaction():
            async for each in teller.cursor("select pan from cards order by id", prefetch=7):
                assert each["pan"].isdigit()
        statement = await teller.prepare("select pan from cards where pan = $1")
        assert [a.type.name for a in statement.get_attributes()] == ["varchar"]
        assert [p.name for p in statement.get_parameters()] == ["text"], "as PostgreSQL infers it"
    finally:
        await teller.close()


def test_psycopg_pipeline_and_binary(world: World) -> None:
    card = _card(world)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller, teller.pipeline():
        first = teller.execute("select pan from cards where pan = %s", (card["pan"],), binary=True)
        second = teller.execute("select name from customers limit 3")
        assert first.fetchone() == (card["pan"],)
        assert len(second.fetchall()) == 3


async def test_psycopg_async_server_side_cursor(world: World) -> None:
    card = _card(world)
    async with await psycopg.AsyncConnection.connect(world.dsn("teller")) as teller, teller.cursor("c") as cursor:
        await cursor.execute("select pan from cards where id = %s", (card["id"],))
        assert await cursor.fetchall() == [(card["pan"],)]


def test_the_caret_points_into_the_clients_text(world: World) -> None:
    sql = "select name, phone, nonesuch from customers"
    with psycopg.connect(world.dsn("analyst"), autocommit=True) as analyst:
        with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
            analyst.execute(sql)
        assert caught.value.diag.statement_position == str(sql.index("nonesuch") + 1)
