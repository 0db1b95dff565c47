"""`write: values`: a login changes what it does not see clear, through pgveil only, each value counted and recorded (ADR 0027)."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from tests.writes.conftest import AGENT, SLOW, WRITER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.writes.conftest import Bank

CARD = "SELECT pan, expires_on, credit FROM cards WHERE id = "
NEW = ("4111111111111111", dt.date(2031, 5, 6), Decimal("77.50"))


@pytest.fixture
def writer(bank: Bank) -> Iterator[psycopg.Connection[Any]]:
    with bank.connect(WRITER) as connection:
        yield connection


def _clean(bank: Bank) -> None:
    with bank.connect("wr_teller") as teller:
        teller.execute("DELETE FROM cards WHERE id > 100")
        teller.execute("DELETE FROM customers WHERE id > 100")


@pytest.mark.parametrize("prepare", [False, True, None])
def test_sealed_values_are_inserted_and_changed(
    bank: Bank, writer: psycopg.Connection[Any], prepare: bool | None
) -> None:
    cursor: psycopg.Cursor[Any] = psycopg.ClientCursor(writer) if prepare is None else writer.cursor()
    sql = "INSERT INTO cards (id, customer_id, pan, expires_on, credit) VALUES (%s, 1, %s, %s, %s) RETURNING id, pan"
    row = cursor.execute(sql, (201, *NEW), prepare=prepare).fetchone()
    assert row == (201, "************1111")
    assert bank.real(CARD + "201") == [NEW]
    sql = "UPDATE cards SET pan = %s, expires_on = %s, credit = %s WHERE id = %s"
    assert cursor.execute(sql, ("4111111111112222", "2032-02-03", "5", 201), prepare=prepare).rowcount == 1
    assert bank.real(CARD + "201") == [("4111111111112222", dt.date(2032, 2, 3), Decimal("5.00"))]
    assert cursor.execute(sql, (None, None, None, 201), prepare=prepare).rowcount == 1
    assert bank.real(CARD + "201") == [(None, None, None)]
    _clean(bank)


def test_plain_values_are_inserted_and_changed(bank: Bank, writer: psycopg.Connection[Any]) -> None:
    writer.execute(
        "INSERT INTO customers (id, name, phone, email, birth_date) VALUES (%s, 'Zoe', %s, %s, %s)",
        (201, "13111112222", "zoe@example.net", dt.date(2001, 2, 3)),
    )
    real = "SELECT phone, email, birth_date FROM customers WHERE id = 201"
    assert bank.real(real) == [("13111112222", "zoe@example.net", dt.date(2001, 2, 3))]
    writer.execute(
        "UPDATE customers SET phone = '13111113333', birth_date = '2002-03-04'::date, city = 'Bern' WHERE id = 201"
    )
    assert bank.real(real) == [("13111113333", "zoe@example.net", dt.date(2002, 3, 4))]
    writer.execute("UPDATE customers SET email = 'zoe2@example.net' WHERE email = 'zoe@example.net'")
    assert bank.real(real)[0][1] == "zoe2@example.net"
    with pytest.raises(psycopg.errors.UniqueViolation):
        writer.execute("UPDATE customers SET email = 'bruno@example.net' WHERE id = 201")
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        writer.execute("UPDATE customers SET phone = %s WHERE id = 201", ("1" * 21,))
    _clean(bank)


def test_a_mask_is_never_stored_over_its_value(bank: Bank, writer: psycopg.Connection[Any]) -> None:
    real = "SELECT phone, email, birth_date FROM customers WHERE id = 2"
    before = bank.real(real)
    row = writer.execute("SELECT phone, email FROM customers WHERE id = 2").fetchone()
    assert row is not None
    sql = "UPDATE customers SET phone = %s, email = %s, birth_date = NULL, city = 'x' WHERE id = 2"
    for _ in range(2):
        assert writer.execute(sql, row).rowcount == 1
    assert bank.real(real) == before


@pytest.mark.parametrize("prepare", [False, True, None])
def test_a_sealed_column_keeps_its_value_under_its_mask(
    bank: Bank, writer: psycopg.Connection[Any], prepare: bool | None
) -> None:
    """Whole objects, with and without one value that is new."""
    cursor: psycopg.Cursor[Any] = psycopg.ClientCursor(writer) if prepare is None else writer.cursor()
    sql = "UPDATE cards SET customer_id = %s, pan = %s, expires_on = %s, credit = %s, status = %s WHERE id = %s"
    for card in (21, 23, 24):
        before = bank.real(f"{CARD}{card}")
        row = writer.execute(f"{CARD}{card}".encode()).fetchone()
        assert row is not None
        for status in ("lost", "active"):
            assert cursor.execute(sql, (1, *row, status, card), prepare=prepare).rowcount == 1
            assert bank.real(f"SELECT status FROM cards WHERE id = {card}") == [(status,)]
        assert bank.real(f"{CARD}{card}") == before
        assert cursor.execute(sql, (1, row[0], row[1], NEW[2], "active", card), prepare=prepare).rowcount == 1
        assert bank.real(f"{CARD}{card}") == [(*before[0][:2], NEW[2])]
        with bank.connect("wr_teller") as teller:
            teller.execute("UPDATE cards SET credit = %s WHERE id = %s", (before[0][2], card))
    kept = bank.real(CARD + "21")
    for column, mask in (("pan", "************2102"), ("pan", "**")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="looks like its mask"):
            cursor.execute(f"UPDATE cards SET {column} = %s WHERE id = 21", (mask,), prepare=prepare)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="looks like its mask"):
            cursor.execute(f"UPDATE cards SET {column} = %s WHERE id IN (21, 22)", (mask,), prepare=prepare)
    assert bank.real(CARD + "21") == kept


def test_beside_columns_that_must_not_be_changed(bank: Bank, writer: psycopg.Connection[Any]) -> None:
    """name is not to be written, phone is, and is kept plain; pan and credit are sealed."""
    real = "SELECT name, phone, email, birth_date, income, notes, pan, expires_on, credit FROM clients WHERE id = 4900"
    sql = """UPDATE clients SET name = %s, phone = %s, email = %s, birth_date = %s, income = %s, notes = %s, pan = %s, expires_on = %s,
             credit = %s, city = %s WHERE id = 4900 RETURNING pan, city"""
    before = bank.real(real)[0]
    row = list(writer.execute(real.encode()).fetchone() or ())
    for cursor in (writer.cursor(), psycopg.ClientCursor(writer)):
        assert cursor.execute(sql, (*row, "x")).fetchone() == (row[6], "x")
        assert bank.real(real) == [before]
    changed = [*row[:1], "13811112222", *row[2:6], "4000000000009999", row[7], None]
    assert writer.execute(sql, (*changed, "y")).fetchone() == ("************9999", "y")
    assert bank.real(real) == [(before[0], "13811112222", *before[2:6], "4000000000009999", before[7], None)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="can't be changed"):
        writer.execute(sql, ("B***", *changed[1:], "lost"))


def test_a_case_for_each_row(bank: Bank, writer: psycopg.Connection[Any]) -> None:
    """Of several values some are masks: those rows keep theirs."""
    before = bank.real("SELECT id, pan FROM cards ORDER BY id")
    sql = "UPDATE cards SET pan = (CASE WHEN id = 21 THEN %s WHEN id = 22 THEN %s END)::varchar(19), status = status WHERE id IN (21, 22)"
    masks = ["************2101", "************2202"]
    for cursor in (writer.cursor(), psycopg.ClientCursor(writer)):
        writer.execute("BEGIN")
        assert cursor.execute(sql, masks).rowcount == 2
        assert cursor.execute(sql, (masks[0], "4111111111111111")).rowcount == 2
        found = writer.execute("SELECT pan FROM cards WHERE id IN (21, 22) ORDER BY id").fetchall()
        assert found == [(masks[0],), ("************1111",)]
        writer.execute("ROLLBACK")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="looks like its mask"):
            cursor.execute(sql, masks[::-1])
    assert bank.real("SELECT id, pan FROM cards ORDER BY id") == before


def test_null_written_back_under_a_mask_that_shows_nothing(bank: Bank, writer: psycopg.Connection[Any]) -> None:
    for sql in ("SET secret = NULL WHERE id = 1", "SET region = 'a', secret = %s WHERE id = 1"):
        assert writer.execute(f"UPDATE parted {sql}".encode(), (None,) if "%s" in sql else None).rowcount == 1
    assert bank.real("SELECT secret FROM parted WHERE id = 1") == [("tea",)]
    writer.execute("UPDATE parted SET secret = 'cocoa' WHERE id = 1")
    assert bank.real("SELECT secret FROM parted WHERE id = 1") == [("cocoa",)]
    writer.execute("UPDATE parted SET secret = 'tea' WHERE id = 1")


def test_masks_that_are_kept_are_no_look_ups(bank: Bank) -> None:
    with bank.connect(SLOW) as connection:
        for _ in range(20):
            assert (
                connection.execute(
                    "UPDATE cards SET pan = '************2101', status = 'active' WHERE id = 21"
                ).rowcount
                == 1
            )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE parted SET region = 'b' WHERE id = 1",
        "UPDATE parted SET region = 'b'",
        "UPDATE parted SET region = 'b', pan = '************2101', phone = '138****1234' WHERE id = 1",
        "UPDATE parted SET region = 'b', pan = '4000000000000007', phone = '13800000000', secret = 'x' WHERE id = 1",
        "UPDATE parted SET region = 'aa' WHERE id = 1",
    ],
)
def test_a_row_that_moves_to_another_partition(bank: Bank, writer: psycopg.Connection[Any], sql: str) -> None:
    before = bank.real("SELECT pan, phone, secret FROM parted WHERE id = 1")[0]
    wanted = ("4000000000000007", "13800000000", "x") if "4000" in sql else before
    writer.execute("BEGIN")
    writer.execute(sql.encode())
    assert writer.execute("SELECT region FROM parted WHERE id = 1").fetchone() == (sql.split("'")[1],)
    writer.execute("COMMIT")
    assert bank.real("SELECT pan, phone, secret FROM parted WHERE id = 1") == [wanted]
    with bank.connect("wr_teller") as teller:
        teller.execute("UPDATE parted SET region = 'a'")
        teller.execute("UPDATE parted SET pan = %s, phone = %s, secret = %s WHERE id = 1", before)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO parted SELECT 3, 'b', pan, '1', NULL FROM parted WHERE id = 1",
        "UPDATE parted SET region = 'b' WHERE id = 1; INSERT INTO parted SELECT 3, 'b', pan, NULL, NULL FROM parted WHERE id = 1",
        "UPDATE parted SET region = 'aa' WHERE id = 1; UPDATE parted SET pan = (SELECT pan FROM parted WHERE id = 1) WHERE id = 2",
        "SELECT set_config('pgveil.moved', 'x', false); INSERT INTO parted SELECT 3, 'b', pan, NULL, NULL FROM parted WHERE id = 1",
    ],
)
def test_moving_a_row_vouches_for_no_other(bank: Bank, sql: str) -> None:
    with bank.connect(WRITER, direct=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(sql.encode())


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO cards (id, customer_id, pan) VALUES (21, 1, '4000000000000001') ON CONFLICT (id) DO UPDATE SET pan = '4000000000000002'",
        "MERGE INTO cards c USING (VALUES (21)) v (i) ON c.id = v.i WHEN MATCHED THEN UPDATE SET pan = '4000000000000002'",
        "WITH w AS (UPDATE cards SET pan = '4000000000000002' WHERE id = 21 RETURNING id) SELECT * FROM w",
        "UPDATE cards SET (pan, status) = ('4000000000000002', 'x') WHERE id = 21",
        "UPDATE cards c SET pan = '4000000000000002' FROM customers k WHERE k.id = c.customer_id AND c.id = 21",
    ],
)
def test_the_forms_of_writing(writer: psycopg.Connection[Any], sql: str) -> None:
    writer.execute("BEGIN")
    writer.execute(sql.encode())
    row = writer.execute("SELECT pan FROM cards WHERE id = 21").fetchone()
    assert row == ("************0002",)
    writer.execute("ROLLBACK")
    writer.execute("PREPARE p AS UPDATE cards SET pan = $1 WHERE id = $2")
    writer.execute("BEGIN")
    writer.execute("EXECUTE p ('4000000000000003', 21)")
    assert writer.execute("SELECT pan FROM cards WHERE id = 21").fetchone() == ("************0003",)
    writer.execute("ROLLBACK; DEALLOCATE p")


@pytest.mark.parametrize(
    "sql",
    [
        "COPY cards (id, pan) FROM STDIN",
        "UPDATE cards SET pan = upper('a') WHERE id = 21",
        "UPDATE cards SET pan = (SELECT pay_card FROM orders WHERE id = 41) WHERE id = 21",
        "UPDATE orders SET pay_card = card FROM (SELECT pan AS card FROM cards WHERE id = 22) c WHERE id = 41",
        "UPDATE customers SET phone = name WHERE id = 2",
        "INSERT INTO orders (id, pay_card) SELECT 201, pan FROM cards WHERE id = 22",
        "UPDATE customers SET phone = '1' WHERE name LIKE 'B%'",
        "UPDATE customers SET name = 'x' WHERE id = 2",
    ],
)
def test_what_is_not_counted_is_refused(writer: psycopg.Connection[Any], sql: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        _run(writer, sql)
    assert caught.value.sqlstate in {"42501", "0AP01"}
    assert caught.value.diag.message_hint


def _run(connection: psycopg.Connection[Any], sql: str) -> None:
    if sql.startswith("COPY"):
        with connection.cursor().copy(sql.encode()) as copy:
            copy.write(b"201\t4000000000000001\n")
    else:
        connection.execute(sql.encode())


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET phone = '13900005678' WHERE id = 2",
        "UPDATE customers SET phone = phone WHERE id = 2",
        "EXPLAIN (ANALYZE, WAL) UPDATE customers SET phone = '13900005678' WHERE id = 2",
        "DO $$ BEGIN UPDATE public.customers SET phone = '13900005678' WHERE id = 2; END $$",
        "UPDATE cards SET pan = '~' || repeat('A', 43) WHERE id = 21",
        "UPDATE cards SET pan = (SELECT pan FROM cards WHERE id = 22) WHERE id = 21",
        "INSERT INTO orders (id, pay_card) SELECT 201, pan FROM cards WHERE id = 22",
        "SELECT set_config('pgveil.given', 'AAAA ', false); UPDATE customers SET phone = '13900005678' WHERE id = 2",
        "SELECT pgveil_write.given('QUJD', 'public.customers.phone')",
        "SELECT pgveil_private.lookup_value('QUJD', 'public.customers.phone')",
        "ALTER TABLE customers DISABLE TRIGGER ALL",
        "CREATE TRIGGER z BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "UPDATE customers SET name = 'x' WHERE id = 2",
    ],
)
def test_past_pgveil_there_is_no_value_without_a_ticket(bank: Bank, sql: str) -> None:
    with bank.connect(WRITER, direct=True) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(sql.encode())
    assert caught.value.sqlstate in {"42501", "23514", "22023"}


def test_a_trigger_of_the_agent_s_is_none(bank: Bank) -> None:
    """Who has no such rule has no privilege either."""
    with bank.connect(AGENT, direct=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("UPDATE cards SET pan = NULL WHERE id = 24")


def test_each_value_counts_and_is_recorded(bank: Bank) -> None:
    outcomes = []
    with bank.connect(SLOW, application_name="slow-writer") as connection:
        for number in range(7):
            try:
                connection.execute("UPDATE cards SET pan = %s WHERE id = -1", (f"400000000000000{number}",))
                outcomes.append("")
            except psycopg.Error as error:
                outcomes.append(str(error.sqlstate))
    assert outcomes == [""] * 5 + ["53400"] * 2
    records = [r for r in bank.records("statement") if r.get("application") == "slow-writer"]
    # Those beyond the limit are begun: what is shown is asked before anything is counted, as it may be no new value.
    assert [(r["action"], r["lookup"]) for r in records] == [("update", True)] * 7


async def test_parameters_have_the_columns_own_types(bank: Bank) -> None:
    connection = await asyncpg.connect(bank.dsn(WRITER))
    try:
        statement = await connection.prepare("UPDATE cards SET pan = $1, expires_on = $2 WHERE id = $3")
        assert [p.name for p in statement.get_parameters()] == ["varchar", "date", "int8"]
        statement = await connection.prepare("UPDATE customers SET phone = $1, birth_date = $2 WHERE id = $3")
        assert [p.name for p in statement.get_parameters()] == ["varchar", "date", "int8"]
        async with connection.transaction():
            await statement.fetch("1", dt.date(2000, 1, 2), -1)
    finally:
        await connection.close()
