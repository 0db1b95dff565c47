"""Whole objects saved by a login that sees masks: what it read and writes back changes nothing and is no error (F1.3, ADR 0027)."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from proxy.session import asking
from proxy.session.gate import Pass, Settings
from proxy.session.localtext import parameters_in
from proxy.session.statements import PreparedStatement
from tests.writes.conftest import AGENT

if TYPE_CHECKING:
    from tests.writes.conftest import Bank

CUSTOMER = "SELECT name, phone, email, birth_date, address, notes FROM customers WHERE id = 1"
CARD = "SELECT pan, expires_on, credit FROM cards WHERE id = {}"
SAVE_CUSTOMER = "UPDATE customers SET name = %s, phone = %s, email = %s, birth_date = %s, address = %s, notes = %s, city = %s WHERE id = %s"
SAVE_CARD = "UPDATE cards SET customer_id = %s, pan = %s, expires_on = %s, credit = %s, status = %s WHERE id = %s"


def _customer(connection: psycopg.Connection[Any]) -> list[Any]:
    row = connection.execute(CUSTOMER.encode()).fetchone()
    assert row is not None
    assert row[0] == "A*** K****"
    return list(row)


@pytest.mark.parametrize("prepare", [False, True, None])
def test_a_whole_object_is_saved_and_its_masks_are_not(bank: Bank, prepare: bool | None) -> None:
    before = bank.real(CUSTOMER)
    with bank.connect(AGENT) as connection:
        cursor: psycopg.Cursor[Any] = psycopg.ClientCursor(connection) if prepare is None else connection.cursor()
        for city in ("Leiden", "Gouda"):
            values = (*_customer(connection), city, 1)
            cursor.execute(SAVE_CUSTOMER, values, prepare=prepare)
            assert cursor.statusmessage == "UPDATE 1"
            assert bank.real("SELECT city FROM customers WHERE id = 1") == [(city,)]
    assert bank.real(CUSTOMER) == before


@pytest.mark.parametrize("prepare", [False, True, None])
@pytest.mark.parametrize("card", [21, 23, 24])
def test_sealed_columns_too(bank: Bank, prepare: bool | None, card: int) -> None:
    before = bank.real(CARD.format(card))
    with bank.connect(AGENT) as connection:
        row = connection.execute(CARD.format(card).encode()).fetchone()
        assert row is not None
        cursor: psycopg.Cursor[Any] = psycopg.ClientCursor(connection) if prepare is None else connection.cursor()
        for status in ("lost", "active"):
            cursor.execute(SAVE_CARD, (1, *row, status, card), prepare=prepare)
            assert cursor.statusmessage == "UPDATE 1"
            assert bank.real(f"SELECT status, customer_id FROM cards WHERE id = {card}") == [(status, 1)]
    assert bank.real(CARD.format(card)) == before


async def test_asyncpg_saves_in_binary_under_the_columns_own_types(bank: Bank) -> None:
    connection = await asyncpg.connect(bank.dsn(AGENT))
    before = bank.real(CARD.format(21))
    try:
        card = await connection.fetchrow(CARD.format(21))
        assert card is not None
        text = "UPDATE cards SET pan = $1, expires_on = $2, credit = $3, status = $4 WHERE id = $5 RETURNING id, pan, status"
        statement = await connection.prepare(text)
        assert [p.name for p in statement.get_parameters()] == ["varchar", "date", "numeric", "text", "int8"]
        for status in ("s1", "s2"):
            assert [tuple(r) for r in await statement.fetch(*card.values(), status, 21)] == [(21, card["pan"], status)]
        async with connection.transaction():
            assert await connection.execute(text, *card.values(), "active", 21) == "UPDATE 1"
        customer = await connection.fetchrow("SELECT name, birth_date FROM customers WHERE id = 2")
        text = "UPDATE customers SET name = $1, birth_date = $2 WHERE id = $3"
        statement = await connection.prepare(text)
        assert [p.name for p in statement.get_parameters()] == ["varchar", "date", "int8"]
        assert customer is not None
        assert await connection.execute(text, *customer.values(), 2) == "UPDATE 1"
    finally:
        await connection.close()
    assert bank.real(CARD.format(21)) == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET name = 'A*** K****' WHERE id = 1",  # nothing else is left
        "UPDATE customers SET name = name, city = 'x' WHERE id = 1",
        "UPDATE customers AS c SET phone = '138****1234', city = 'x' WHERE c.id = 1 RETURNING c.phone, c.city",
        "UPDATE customers SET birth_date = date '1984-01-01', city = 'x' WHERE name LIKE 'A***%' AND id = 1",
        "UPDATE customers SET notes = NULL, email = 'a*********@example.net'::varchar WHERE id = 1",
        "UPDATE cards SET pan = '************2101'::varchar(19), credit = 1000 WHERE id = 21",
        "UPDATE cards SET credit = '1000.00', expires_on = '2028-01-01' WHERE id IN (21)",
        "UPDATE cards SET pan = NULL, status = 'active' WHERE id = 24",
        "UPDATE cards SET pan = 'whatever' WHERE id = -1",
        "UPDATE cards SET (pan, status) = ('************2101', 'active') WHERE id = 21",
        "UPDATE cards SET status = 'active', (pan, credit) = ROW (NULL, NULL::numeric) WHERE id = 24",
        "UPDATE customers SET (name, city, phone) = ('A*** K****', 'x', '138****1234') WHERE id = 1",
        "UPDATE customers SET name = v.n, city = 'x' FROM (VALUES (1, 'A*** K****')) AS v (i, n) WHERE id = v.i",
        "UPDATE customers c SET name = CASE c.id WHEN 1 THEN 'A*** K****' ELSE 'x' END, city = 'x' WHERE id = 1",
        "UPDATE customers c SET name = o.name, city = 'x' FROM customers o WHERE o.id = c.id AND c.id = 1",
        "UPDATE cards SET pan = '************2101', status = o.item FROM (VALUES (1, 'active')) AS o (k, item) WHERE o.k = customer_id AND cards.id = 21",
    ],
)
def test_constants_and_forms(bank: Bank, sql: str) -> None:
    columns = "SELECT id, name, phone, email, birth_date, notes FROM customers ORDER BY id"
    before = bank.real(columns), bank.real("SELECT id, pan, expires_on, credit FROM cards ORDER BY id")
    with bank.connect(AGENT) as connection:
        wanted = 0 if sql.endswith("-1") else 1
        assert connection.execute(sql.encode()).rowcount == wanted
    assert (bank.real(columns), bank.real("SELECT id, pan, expires_on, credit FROM cards ORDER BY id")) == before


CASES = [
    "(CASE WHEN (id = 21) THEN '************2101' WHEN id = 22 THEN '************2202' ELSE NULL END)::varchar(19)",
    "CASE id WHEN 21 THEN '************2101'::varchar ELSE CASE WHEN true THEN '************2202' END END",
    "CAST((CASE WHEN status IN (CASE WHEN id > 0 THEN 'active' END) THEN ('************2101') ELSE '************2202' END) AS varchar(19))",
]


@pytest.mark.parametrize("value", CASES)
def test_a_case_for_each_row(bank: Bank, value: str) -> None:
    """Django's bulk_update."""
    real = "SELECT id, pan, expires_on, credit, status FROM cards ORDER BY id"
    before = bank.real(real)
    date = "(CASE id WHEN 21 THEN '2028-01-01' WHEN 22 THEN '2027-01-01' END)::date"
    credit = "CASE WHEN id = 22 THEN 0 ELSE +1000.0 END"
    sql = (
        f"UPDATE cards SET pan = {value}, expires_on = {date}, credit = {credit}, status = status WHERE id IN (21, 22)"
    )
    with bank.connect(AGENT) as connection:
        for prepare in (False, True):
            assert connection.execute(sql.encode(), prepare=prepare).rowcount == 2
        for right, wrong in (("2202'", "2201'"), ("2101'", "2202'"), ("'2027-01-01'", "NULL"), ("+1000.0", "1001")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="can't be changed"):
                connection.execute(sql.replace(right, wrong).encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="can't be changed"):
            connection.execute(sql.replace("(21, 22)", "(21, 22, 23)").encode())
    assert bank.real(real) == before


def test_a_text_is_read_once_for_all_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred objects in one UPDATE took minutes, in which the worker served nobody: the text was read anew for each parameter."""
    read: list[bytes] = []

    def reading(text: bytes, settings: Settings) -> frozenset[int]:
        read.append(text)
        return parameters_in(text, settings)

    monkeypatch.setattr(asking, "parameters_in", reading)
    arms = " ".join(f"when ${n} then ${n + 1}" for n in range(1, 200, 2))
    leaf = PreparedStatement(b"s", f"select case id {arms} end".encode(), (23,) * 200, Pass(), Settings(), 1)
    other = PreparedStatement(b"t", b"select $201", (20,) * 201, Pass(), Settings(), 1)
    inferred = asking.inferring([leaf, other])
    assert [inferred(n) for n in range(1, 203)] == [23] * 200 + [20, 25]
    assert len(read) == 2


@pytest.mark.parametrize("prepare", [False, True])
def test_a_case_of_parameters(bank: Bank, prepare: bool) -> None:
    sql = """UPDATE cards SET pan = (CASE WHEN (cards.id = %s) THEN %s WHEN (cards.id = %s) THEN %s ELSE NULL END)::varchar(19),
             status = (CASE WHEN (cards.id = %s) THEN %s WHEN (cards.id = %s) THEN %s ELSE NULL END)::text WHERE cards.id IN (%s, %s)"""
    before = bank.real("SELECT id, pan FROM cards ORDER BY id")
    values = [22, "************2202", 24, None, 22, "c1", 24, "c2", 22, 24]
    with bank.connect(AGENT) as connection:
        assert connection.execute(sql, values, prepare=prepare).rowcount == 2
        assert bank.real("SELECT status FROM cards WHERE id IN (22, 24) ORDER BY id") == [("c1",), ("c2",)]
        values[1::2] = ["************2202", "************2202", "lost", "lost", 24]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="can't be changed"):
            connection.execute(sql, values, prepare=prepare)
    assert bank.real("SELECT id, pan FROM cards ORDER BY id") == before
    with bank.connect("wr_teller") as teller:
        teller.execute("UPDATE cards SET status = CASE id WHEN 22 THEN 'blocked' ELSE 'active' END")


@pytest.mark.parametrize(
    ("table", "sql", "count"),
    [
        ("people", "UPDATE people SET name = 'A*** K****' WHERE id = 1", 1),  # an identity is all that is left
        ("people", "UPDATE people SET name = 'A*** K****', phone = '138****1234' WHERE id = 1 RETURNING id, name", 1),
        ("people", "UPDATE people SET name = 'x' WHERE id = 2", 0),
        ("numbered", "UPDATE numbered SET name = 'A*** K****' WHERE id = 1", 1),  # beside an identity ALWAYS
    ],
)
def test_where_nothing_but_the_key_is_left(bank: Bank, table: str, sql: str, count: int) -> None:
    everything = f"SELECT * FROM {table}"
    before = bank.real(everything)
    with bank.connect(AGENT) as connection:
        assert connection.execute(sql.encode()).rowcount == count
        assert connection.execute(sql.encode(), prepare=True).rowcount == count
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql.encode().replace(b"A***", b"B***").replace(b"id = 2", b"id = 1"))
    assert bank.real(everything) == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET name = 'B*** K****', city = 'lost' WHERE id = 1",
        "UPDATE customers SET phone = '13800001234', city = 'lost' WHERE id = 1",  # the real one
        "UPDATE customers SET phone = NULL, city = 'lost' WHERE id = 1",
        "UPDATE customers SET name = 'A*** K****', city = 'lost'",  # not everybody's
        "UPDATE customers SET notes = '{}', city = 'lost' WHERE id = 1",
        "UPDATE cards SET pan = '4929000011112101', status = 'lost' WHERE id = 21",
        "UPDATE cards SET pan = '************2102', status = 'lost' WHERE id = 21",
        "UPDATE cards SET expires_on = '2028-03-31', status = 'lost' WHERE id = 21",
        "UPDATE cards SET credit = NULL, status = 'lost' WHERE id = 21",
        "UPDATE cards SET pan = upper('x'), status = 'lost' WHERE id = 21",
        "UPDATE cards SET (pan, status) = ('************2102', 'lost') WHERE id = 21",
        "UPDATE cards SET (pan, status) = (SELECT '************2101', 'lost') WHERE id = 21",
        "UPDATE cards SET pan = CASE WHEN true THEN '************2101' || '' END, status = 'lost' WHERE id = 21",
        "UPDATE cards SET pan = v.p, status = 'lost' FROM (VALUES (21, '************2101')) AS v (i, p) WHERE id = v.i",
        "UPDATE customers SET name = v.n, city = 'lost' FROM (VALUES (1, 'B*** K****')) AS v (i, n) WHERE id = v.i",
        "UPDATE customers c SET name = o.name, city = 'lost' FROM customers o WHERE o.id = c.id + 1 AND c.id = 1",
        "UPDATE cards SET pan = DEFAULT, status = 'lost' WHERE id = 24",
    ],
)
def test_what_is_not_shown_is_refused_and_nothing_is_stored(bank: Bank, sql: str) -> None:
    with bank.connect(AGENT) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            connection.execute(sql.encode())
        assert "can't be changed by a login that sees it masked" in str(caught.value)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql.encode(), prepare=True)
        with connection.transaction():
            connection.execute("SAVEPOINT s")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.encode())
            connection.execute("ROLLBACK TO s")
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert (
        bank.real("SELECT 1 FROM customers WHERE city = 'lost' UNION ALL SELECT 1 FROM cards WHERE status = 'lost'")
        == []
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; UPDATE cards SET pan = '************2101', status = 'lost' WHERE id = 21",
        "UPDATE customers SET name = 'A*** K****', city = 'lost' WHERE id = 1; UPDATE customers SET city = 'lost' WHERE id = 2",
        "PREPARE kept AS UPDATE customers SET name = 'A*** K****', city = 'lost' WHERE id = 1",
        "EXPLAIN UPDATE customers SET name = 'A*** K****', city = 'lost' WHERE id = 1",
    ],
)
def test_what_has_to_come_by_itself_is_told_so(bank: Bank, sql: str) -> None:
    """As psycopg2's execute_batch sends what it is given."""
    with bank.connect(AGENT) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        connection.execute(sql.encode())
    assert "by itself" in str(caught.value.diag.message_hint)
    assert bank.real("SELECT 1 FROM customers WHERE city = 'lost'") == []


def test_a_right_and_a_wrong_guess_look_alike(bank: Bank) -> None:
    """Values are held against masks only, so no answer hangs on what is stored."""
    with bank.connect(AGENT) as connection:
        errors = []
        for guess in ("13800001234", "13800009234"):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute("UPDATE customers SET phone = %s WHERE id = 1", (guess,))
            errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_pipelines(bank: Bank) -> None:
    with bank.connect(AGENT) as connection:
        row = connection.execute(CARD.format(22).encode()).fetchone()
        assert row is not None
        with connection.pipeline():
            cursors = [connection.execute(SAVE_CARD, (1, *row, status, 22)) for status in ("p1", "p2", "blocked")]
        assert [c.statusmessage for c in cursors] == ["UPDATE 1"] * 3
    assert bank.real("SELECT pan, credit, status FROM cards WHERE id = 22") == [
        ("4929000011112202", Decimal("10.00"), "blocked")
    ]


def test_it_is_recorded_as_an_update_that_read_masks(bank: Bank) -> None:
    with bank.connect(AGENT, application_name="written-back") as connection:
        connection.execute("UPDATE cards SET credit = 1000, status = 'active' WHERE id = 21")
    records = [r for r in bank.records("statement") if r.get("application") == "written-back"]
    assert [r["action"] for r in records] == ["update"]
    assert {(c["column"], c["verdict"]) for c in records[0]["columns"]} == {("public.cards.credit", "masked")}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET name = 'A*** K****', city = 'x' WHERE id = 1",
        "UPDATE customers SET name = 'x' WHERE id = 1",
        "UPDATE cards SET pan = '************2101', status = 'active' WHERE id = 21 RETURNING pan",
        "UPDATE cards SET pan = NULL WHERE id = -1",
    ],
)
@pytest.mark.parametrize("prepare", [False, True])
def test_a_read_only_transaction_says_what_postgresql_says(bank: Bank, sql: str, prepare: bool) -> None:
    errors = []
    for direct in (True, False):
        with bank.connect("wr_teller" if direct else AGENT, direct=direct) as connection:
            connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
                connection.execute("UPDATE customers SET city = 'x'" if direct else sql.encode(), prepare=prepare)
            errors.append((caught.value.diag.message_primary, caught.value.diag.statement_position))
    assert errors[0] == errors[1]


UPSERT = """INSERT INTO clients (id, name, phone, pan, credit, city, version) VALUES (4800, {0}, 0), (4801, {1}, DEFAULT)
ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, phone = excluded.phone, pan = EXCLUDED.pan, credit = EXCLUDED.credit, city = EXCLUDED.city || '!',
version = clients.version + 1"""
SHOWN = "'A*** K**** 4***', '138****{0}', {1}, {2}, '{3}'"
MASKS = [SHOWN.format(4800, "'************4800'", "4000", "{city}"), SHOWN.format(4801, "NULL", "4000.00", "{city}")]


@pytest.mark.parametrize("prepare", [False, True, None])
def test_upserts_of_rows_that_are_there(bank: Bank, prepare: bool | None) -> None:
    real = "SELECT id, name, phone, pan, credit FROM clients WHERE id IN (4800, 4801) ORDER BY id"
    before = bank.real(real)
    seen = "SELECT city, version FROM clients WHERE id IN (4800, 4801) ORDER BY id"
    with bank.connect(AGENT) as connection:
        cursor: psycopg.Cursor[Any] = psycopg.ClientCursor(connection) if prepare is None else connection.cursor()
        version = bank.real(seen)[0][1]
        sql = UPSERT.format(*(m.format(city="u") for m in MASKS))
        cursor.execute(sql.encode(), prepare=prepare)
        assert cursor.statusmessage == "INSERT 0 2"
        assert bank.real(seen) == [("u!", version + 1)] * 2
        cursor.execute((sql + " WHERE version < 0").encode(), prepare=prepare)
        assert cursor.statusmessage == "INSERT 0 0"
        found = cursor.execute(
            (sql + " WHERE clients.version > 0 RETURNING id, city, pan AS p").encode(), prepare=prepare
        ).fetchall()
        assert found == [(4800, "u!", "************4800"), (4801, "u!", None)]
        assert cursor.statusmessage == "INSERT 0 2"
        assert cursor.description is not None
        assert [c.name for c in cursor.description] == ["id", "city", "p"]
        whole = cursor.execute((sql + " RETURNING *").encode(), prepare=prepare).fetchall()
        assert [len(row) for row in whole] == [13, 13]
    assert bank.real(real) == before


@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [
        ("'138****4800'", "'13811119999'", psycopg.errors.InsufficientPrivilege),
        ("'************4800'", "'4929000011114800'", psycopg.errors.InsufficientPrivilege),
        ("'************4800'", "NULL", psycopg.errors.InsufficientPrivilege),
        ("4000,", "4001,", psycopg.errors.InsufficientPrivilege),
        ("(4801,", "(999999,", psycopg.errors.InsufficientPrivilege),
        ("EXCLUDED.pan", "'************4800'", psycopg.errors.InsufficientPrivilege),
        ("(id)", "(pan)", psycopg.errors.InsufficientPrivilege),
        ("version = clients.version + 1", "version = EXCLUDED.version", psycopg.errors.InsufficientPrivilege),
    ],
)
def test_upserts_that_are_more(bank: Bank, right: str, wrong: str, error: type[psycopg.Error]) -> None:
    sql = UPSERT.format(*(m.format(city="lost") for m in MASKS)).replace(right, wrong)
    with bank.connect(AGENT) as connection, pytest.raises(error):
        connection.execute(sql.encode())
    assert bank.real("SELECT 1 FROM clients WHERE city LIKE 'lost%'") == []


def test_an_upsert_of_one_row_twice(bank: Bank) -> None:
    sql = UPSERT.format(*(m.format(city="lost") for m in (MASKS[0], MASKS[0]))).replace("(4801,", "(4800,")
    errors = []
    with bank.connect(AGENT) as connection:
        with pytest.raises(psycopg.errors.CardinalityViolation) as caught:
            connection.execute(sql.encode())
        errors.append(caught.value.diag)
    with bank.connect("wr_teller", direct=True) as connection:
        connection.execute("CREATE TEMP TABLE one (id int PRIMARY KEY, c int)")
        with pytest.raises(psycopg.errors.CardinalityViolation) as caught:
            connection.execute("INSERT INTO one VALUES (1, 1), (1, 2) ON CONFLICT (id) DO UPDATE SET c = EXCLUDED.c")
        errors.append(caught.value.diag)
    assert [(d.message_primary, d.message_hint) for d in errors[:1]] == [
        (d.message_primary, d.message_hint) for d in errors[1:]
    ]
