"""Look-ups by the real value (ADR 0015): a call centre finds a customer by phone, sees the masked phone, and learns nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from tests.leaks.den import CLERK, FINDER, SLOW, Den, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.leaks.den import Session


@pytest.fixture
def finder(den: Den) -> Iterator[Session]:
    session = den.connect(FINDER, Way.PGVEIL)
    yield session
    session.connection.close()


def _rows(session: Session, sql: str, *args: object) -> list[tuple[Any, ...]]:
    return session.connection.execute(sql.encode(), args or None).fetchall()


@pytest.mark.parametrize(
    "where",
    [
        "phone = '{0}'",
        "'{0}' = phone",
        "c.phone = '{0}'",
        "(phone = '{0}')",
        "phone IN ('{0}')",
        "phone IN ('1', '{0}', '2')",
        "phone = '{0}'::text",
        "phone = CAST('{0}' AS varchar)",
        "phone = '{0}' AND id > 0",
        "id = -1 OR c.phone = '{0}'",
        "phone = '{0}' AND email = '{1}'",
        "id = (SELECT i.id FROM customers i WHERE i.phone = '{0}')",
        "EXISTS (SELECT 1 FROM public.customers i WHERE i.phone = '{0}' AND i.id = c.id)",
    ],
)
def test_a_customer_is_found_and_stays_masked(den: Den, finder: Session, where: str) -> None:
    phone, email = den.value("phone"), den.value("email")
    rows = _rows(finder, "SELECT id, phone FROM customers c WHERE " + where.format(phone, email))
    assert [r[0] for r in rows] == [1]
    assert "*" in rows[0][1]
    assert (
        _rows(finder, "SELECT id, phone FROM customers c WHERE " + where.format("13000000000", "no@example.com")) == []
    )


def test_parameters_arrays_and_prepared_statements(den: Den, finder: Session) -> None:
    phones = [den.value("phone", n) for n in (1, 2)]
    one = "SELECT id FROM customers WHERE phone = %s ORDER BY id"
    for _ in range(3):
        assert _rows(finder, one, phones[0]) == [(1,)]
    assert _rows(finder, "SELECT id FROM customers WHERE phone = any(%s) ORDER BY id", phones) == [(1,), (2,)]
    assert _rows(finder, "SELECT id FROM customers WHERE phone IN (%s, %s) ORDER BY id", *phones) == [(1,), (2,)]
    assert _rows(finder, one, None) == []
    assert _rows(finder, one, "1" * 100) == []
    assert _rows(finder, "SELECT id FROM public.customers WHERE public.customers.phone = %s", phones[1]) == [(2,)]
    finder.connection.execute("PREPARE mine AS SELECT id FROM customers WHERE phone = $1")
    assert _rows(finder, f"EXECUTE mine ('{phones[1]}')") == [(2,)]
    finder.connection.execute("DEALLOCATE mine")


async def test_asyncpg_sees_the_columns_own_types(den: Den) -> None:
    connection = await asyncpg.connect(den.world.dsn(FINDER))
    try:
        statement = await connection.prepare("SELECT id, phone FROM customers WHERE phone = $1 AND birth_date = $2")
        assert [p.name for p in statement.get_parameters()] == ["text", "date"]
        table = den.world.bank.tables["customers"]
        row = await statement.fetchrow(den.value("phone"), table.column("birth_date")[0])
        assert row is not None
        assert row["id"] == 1
        found = await connection.fetch("SELECT id FROM customers WHERE phone = ANY($1)", [den.value("phone", 3), "x"])
        assert [r["id"] for r in found] == [3]
        income = table.column("income")[0]
        assert 1 in [r["id"] for r in await connection.fetch("SELECT id FROM customers WHERE income = $1", income)]
    finally:
        await connection.close()


def test_other_types_are_looked_up_too(den: Den, finder: Session) -> None:
    born = den.value("birth_date")
    finder.connection.execute("SET datestyle = 'German, DMY'")
    finder.connection.execute("SET timezone = 'Asia/Tokyo'")
    assert (1,) in _rows(finder, f"SELECT id FROM customers WHERE birth_date = '{born}'")
    assert (1,) in _rows(finder, f"SELECT id FROM customers WHERE income = {den.value('income')}")
    finder.connection.execute("RESET datestyle")


def test_sealed_columns_are_looked_up_by_equality(den: Den, finder: Session) -> None:
    pan = str(den.world.bank.tables["cards"].column("pan")[0])
    rows = _rows(finder, f"SELECT id, pan FROM cards WHERE pan = '{pan}'")
    assert len(rows) == 1
    assert rows[0][1].startswith("*")
    assert _rows(finder, "SELECT id FROM cards WHERE pan = any(%s)", [pan, "0"]) == [(rows[0][0],)]


@pytest.mark.parametrize(
    ("sql", "right", "wrong"),
    [
        ("SELECT pan = '{0}' FROM cards WHERE pan = '{1}'", True, False),
        ("SELECT pan <> '{0}' FROM cards WHERE pan = '{1}'", False, True),
        ("SELECT pan IS DISTINCT FROM '{0}' FROM cards WHERE pan = '{1}'", False, True),
        ("SELECT CASE WHEN pan IN ('{0}', 'x') THEN 1 ELSE 2 END FROM cards WHERE pan = '{1}'", 1, 2),
    ],
)
def test_a_sealed_column_is_looked_up_wherever_it_is_compared(
    den: Den, finder: Session, sql: str, right: object, wrong: object
) -> None:
    pan, other = (str(value) for value in den.world.bank.tables["cards"].column("pan")[:2])
    assert _rows(finder, sql.format(pan, pan)) == [(right,)]
    assert _rows(finder, sql.format(other, pan)) == [(wrong,)]


def test_writes_by_look_up(den: Den, finder: Session) -> None:
    phone = den.value("phone", 4)
    assert finder.connection.execute(f"UPDATE customers SET branch = 'x' WHERE phone = '{phone}'").rowcount == 1
    assert finder.connection.execute("UPDATE customers SET branch = 'x' WHERE phone = '13000000000'").rowcount == 0
    assert finder.connection.execute("DELETE FROM customers WHERE phone = '13000000000'").rowcount == 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM customers WHERE phone <> '{0}' AND id = 1",
        "SELECT id FROM customers WHERE NOT phone = '{0}'",
        "SELECT id FROM customers WHERE phone LIKE '{0}'",
        "SELECT id FROM customers WHERE phone >= '{0}' AND phone <= '{0}'",
        "SELECT id FROM customers WHERE phone BETWEEN '{0}' AND '{0}'",
        "SELECT id FROM customers ORDER BY phone = '{0}', id",
        "SELECT phone = '{0}' FROM customers WHERE id = 1",
        "SELECT CASE WHEN phone = '{0}' THEN 1 END FROM customers WHERE id = 1",
        "SELECT id FROM customers WHERE (phone = '{0}') IS NOT FALSE AND id = 1",
        "SELECT count(*) FILTER (WHERE phone = '{0}') FROM customers",
        "SELECT c.id FROM customers c JOIN (VALUES ('{0}')) g (p) ON g.p = c.phone",
        "SELECT id FROM customers WHERE phone = (SELECT '{0}')",
        "SELECT id FROM customers WHERE phone || '' = '{0}'",
        "SELECT id FROM customers WHERE phone IS NOT DISTINCT FROM '{0}'",
        "SELECT 1 FROM customers HAVING bool_or(phone = '{0}')",
        "SELECT c.id FROM (SELECT * FROM customers) c WHERE c.phone = '{0}'",
        "SELECT c.id FROM customers c (a, b, id) WHERE phone = '{0}'",
    ],
)
def test_nothing_but_equality_in_a_where_meets_the_real_value(den: Den, finder: Session, sql: str) -> None:
    right, wrong = den.pair("phone")
    assert finder.run((sql.format(right),))[0].without(right) == finder.run((sql.format(wrong),))[0].without(wrong)


def test_other_masked_logins_find_nothing(den: Den) -> None:
    session = den.connect(CLERK, Way.PGVEIL)
    assert _rows(session, f"SELECT id FROM customers WHERE phone = '{den.value('phone')}'") == []
    pan = str(den.world.bank.tables["cards"].column("pan")[0])
    for guess in (pan, "6222020000000000017"):
        outcome = session.run((f"SELECT id FROM cards WHERE pan = '{guess}'",))[0]
        assert outcome.rows == (), "its masks are searched, or nothing"
    session.connection.close()


def test_past_pgveil_the_functions_are_of_no_use(den: Den) -> None:
    schema = den.schema(FINDER)
    session = den.connect(FINDER, Way.DIRECT)
    phone = den.value("phone")
    call = f'SELECT * FROM {schema}."customers.phone=="(ARRAY[%s])'
    assert session.connection.execute("SELECT 1").fetchone() == (1,)
    assert session.connection.execute(call, ("",)).fetchall() == []
    for guess in ("AAAA", "QUJD" * 20):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must come through pgveil"):
            session.connection.execute(call, (guess,))
    with pytest.raises(psycopg.Error):
        session.connection.execute(call, (phone,))
    for sql in (
        f"SELECT id FROM customers WHERE phone = '{phone}'",
        "SELECT pgveil_private.lookup_value('', '')",
        "SELECT pgveil_private.ticket_value('', '')",
        "SELECT * FROM pgveil_private.lookup_key",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.connection.execute(sql.encode())
    session.connection.close()
    other = den.connect(CLERK, Way.DIRECT)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.connection.execute(call.encode(), ("AAAA",))
    other.connection.close()


def test_the_limit_and_the_record(den: Den) -> None:
    session = den.connect(SLOW, Way.PGVEIL)
    phones = [den.value("phone", n) for n in range(1, 9)]
    found = [_rows(session, "SELECT id, phone FROM customers WHERE phone = %s", p) for p in phones[:2]]
    assert [rows[0][0] for rows in found] == [1, 2]
    refused_before = den.world.metric("pgveil_refusals_total")
    for sql, args in (
        ("SELECT id FROM customers WHERE phone = any(%s)", (phones[:4],)),
        ("SELECT id FROM customers WHERE phone IN ('1', '2', '3', '4')", ()),
    ):
        with pytest.raises(psycopg.Error) as caught:
            _rows(session, sql, *args)
        assert caught.value.sqlstate == "53400"
        assert caught.value.diag.message_hint
    assert len(_rows(session, "SELECT id FROM customers WHERE phone = any(%s)", phones[:3])) == 3
    again = den.connect(SLOW, Way.PGVEIL)
    for other in (session, again):
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            _rows(other, "SELECT id FROM customers WHERE phone = %s", phones[5])
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            _rows(other, "SELECT id FROM cards WHERE pan = '4111'")
        assert _rows(other, "SELECT id FROM customers WHERE id = 1") == [(1,)], "everything else goes on"
        other.connection.close()
    assert den.world.metric("pgveil_refusals_total") >= refused_before + 6
    assert den.world.record(kind="statement", login=SLOW, lookup=True)["columns"]
    assert den.world.record(kind="refusal", login=SLOW, reason="lookup_rate")
    lines = "".join(str(r) for r in den.world.records() if r.get("login") == SLOW)
    assert not any(phone in lines for phone in phones), "no value is in the record"
