"""The demonstration bank: valid check digits, canaries that stand for one person only, and a database that takes it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import stdnum.cn.ric
import stdnum.luhn
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle.demo.bank import MAX_CUSTOMERS, TABLES, Bank, generate, roles_sql, rules_yaml, schema_sql
from lifecycle.demo.canaries import DigitStrings, ExhaustedError, identity_number, luhn_complete, prefix_free
from lifecycle.demo.load import load
from rules.load import load_rules_text
from rules.model import ColumnName, Level, Protection, Rules, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres


@pytest.fixture(scope="module")
def bank() -> Bank:
    return generate()


@pytest.fixture(scope="module")
def small() -> Bank:
    return generate(3, 300)


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules_text(rules_yaml(), "bank.rules.yaml")


def protected(bank: Bank, rules: Rules) -> Iterator[tuple[ColumnName, tuple[Any, ...]]]:
    for column in rules.protected_columns():
        yield column.name, bank.tables[column.name.table].column(column.name.column)


def test_the_same_seed_gives_the_same_bank_and_another_one_another() -> None:
    first, again, other = generate(1, 50), generate(1, 50), generate(2, 50)
    assert first == again
    assert first.tables["customers"].column("name") != other.tables["customers"].column("name")


def test_sizes(bank: Bank) -> None:
    assert len(bank.tables["customers"]) == 20_000
    assert tuple(bank.tables) == TABLES
    assert all(len(t) > 5000 for t in bank.tables.values())
    for table in bank.tables.values():
        assert {len(c) for c in table.columns} == {len(table)}


@pytest.mark.parametrize("customers", [1, 2, 7])
def test_even_a_tiny_bank_has_something_in_every_table(customers: int) -> None:
    assert all(len(t) for t in generate(9, customers).tables.values())


@pytest.mark.parametrize("customers", [0, -1, MAX_CUSTOMERS + 1])
def test_a_bank_too_small_or_too_large_is_an_error(customers: int) -> None:
    with pytest.raises(ValueError, match="customers, not"):
        generate(1, customers)


def test_card_numbers_have_valid_check_digits_and_every_length(bank: Bank) -> None:
    pans = bank.tables["cards"].column("pan")
    assert all(stdnum.luhn.is_valid(p) for p in pans)
    assert {len(p) for p in pans} == {16, 17, 18, 19}


def test_identity_numbers_are_valid_and_tell_the_birth_date_and_gender(bank: Bank) -> None:
    table = bank.tables["customers"]
    for number, born, gender in zip(
        table.column("id_number"), table.column("birth_date"), table.column("gender"), strict=True
    ):
        assert stdnum.cn.ric.is_valid(number)
        assert stdnum.cn.ric.get_birth_date(number) == born
        assert (int(number[16]) % 2 == 1) == (gender == "M")


def test_every_protected_value_is_unique(bank: Bank, rules: Rules) -> None:
    for name, values in protected(bank, rules):
        if name == ColumnName("public", "orders", "pan"):
            continue
        assert len(set(values)) == len(values), name


def test_cards_in_orders_are_cards_of_the_same_person(bank: Bank) -> None:
    cards = bank.tables["cards"]
    owner = dict(zip(cards.column("pan"), cards.column("customer_id"), strict=True))
    orders = bank.tables["orders"]
    pairs = list(zip(orders.column("pan"), orders.column("customer_id"), strict=True))
    assert all(owner[pan] == customer for pan, customer in pairs if pan is not None)
    assert any(pan is None for pan, _ in pairs)


def test_no_protected_value_occurs_in_anything_else(small: Bank, rules: Rules) -> None:
    columns = {
        name: values for name, values in protected(small, rules) if name != ColumnName("public", "orders", "pan")
    }
    texts = Counter(
        str(value)
        for name, table in small.tables.items()
        for column, values in zip(table.names, table.columns, strict=True)
        for value in values
        if not (name == "orders" and column == "pan")
    )
    everything = "\n".join(texts.elements())
    for name, values in columns.items():
        for value in values:
            if not isinstance(value, bytes):
                assert everything.count(str(value)) == 1, name


def test_chinese_names_of_the_whole_bank_are_apart_from_each_other_and_from_the_texts(bank: Bank) -> None:
    names = {n for n in bank.tables["customers"].column("name") if not n.isascii()}
    assert {len(n) for n in names} == {2, 3, 4}
    inside = {n[a:b] for n in names for a in range(len(n)) for b in range(a + 2, len(n) + 1) if b - a < len(n)}
    assert names.isdisjoint(inside)
    texts = {
        t
        for table, column in (("reviews", "body"), ("support_tickets", "body"))
        for t in bank.tables[table].column(column)
    }
    texts |= {a for a in bank.tables["customers"].column("address") if not a.isascii()}
    grams = {t[at : at + size] for t in texts for size in (2, 3, 4) for at in range(len(t) - size + 1)}
    assert names.isdisjoint(grams)


def test_both_languages_are_there(bank: Bank) -> None:
    share = Counter(bank.tables["customers"].column("locale"))
    assert set(share) == {"zh_CN", "en_US"}
    assert min(share.values()) > 5000


def test_the_rules_say_what_each_post_sees(rules: Rules) -> None:
    def verdict(login: str, table: str, column: str, *memberships: str) -> Verdict:
        return rules.principal(login, memberships).policy.verdict(ColumnName("public", table, column))

    assert verdict("app", "cards", "pan") is Verdict.CLEAR
    assert verdict("teller", "customers", "id_number") is Verdict.CLEAR
    assert verdict("teller", "customers", "fingerprint") is Verdict.REFUSED
    assert verdict("agent", "customers", "name", "call_centre") is Verdict.CLEAR
    assert verdict("agent", "customers", "phone", "call_centre") is Verdict.MASKED
    assert verdict("agent", "cards", "pan", "call_centre") is Verdict.MASKED
    assert verdict("analyst", "cards", "pan") is Verdict.REFUSED
    assert verdict("analyst", "customers", "phone") is Verdict.MASKED
    assert verdict("dba", "customers", "phone") is Verdict.REFUSED
    assert verdict("dba", "orders", "pan") is Verdict.MASKED
    assert verdict("stranger", "customers", "email") is not Verdict.CLEAR


def test_the_rules_cover_core_important_and_general(rules: Rules) -> None:
    columns = [c for t in rules.tables.values() for c in t.columns.values()]
    assert {c.level for c in columns} == set(Level)
    assert all(c.protection is Protection.SEALED for c in columns if c.level is Level.CORE)


async def test_a_database_takes_it(pg: Postgres, small: Bank, rules: Rules) -> None:
    database = pg.create_database()
    connection = await asyncpg.connect(pg.dsn(database))
    try:
        await load(connection, small)
        await connection.execute(roles_sql())
        await connection.execute(roles_sql())
        for name, table in small.tables.items():
            assert await connection.fetchval(f"SELECT count(*) FROM {name}") == len(table)
        row = await connection.fetchrow("SELECT * FROM customers WHERE id = 17")
        assert row is not None
        assert tuple(row) == list(small.copy_rows("customers"))[16]
        fresh = await connection.fetchval(
            "INSERT INTO reviews (customer_id, stars, body, written_at) VALUES (1, 5, 'x', now()) RETURNING id"
        )
        assert fresh == len(small.tables["reviews"]) + 1
        declared = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        )
        there = {(r["table_name"], r["column_name"]) for r in declared}
        assert {
            (c.table, c.column) for t in rules.tables.values() for c in (x.name for x in t.columns.values())
        } <= there
    finally:
        await connection.close()


async def test_each_post_may_do_its_work_and_no_more(pg: Postgres, small: Bank) -> None:
    database = pg.create_database()
    owner = await asyncpg.connect(pg.dsn(database))
    await load(owner, small)
    await owner.execute(roles_sql())
    await owner.close()
    allowed = {
        "app": "DELETE FROM reviews WHERE id = 1",
        "teller": "UPDATE customers SET branch = 'x' WHERE id = 1",
        "agent": "UPDATE support_tickets SET status = 'closed' WHERE id = 1",
        "analyst": "SELECT count(*) FROM orders",
        "dba": "DELETE FROM reviews WHERE id = 2",
    }
    refused = {
        "app": "DROP TABLE reviews",
        "teller": "DELETE FROM customers",
        "agent": "UPDATE customers SET branch = 'x'",
        "analyst": "DELETE FROM orders",
        "dba": "ALTER TABLE customers ADD COLUMN extra int",
    }
    for login, statement in allowed.items():
        connection = await asyncpg.connect(pg.dsn(database, login))
        await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(refused[login])
        await connection.close()


def test_the_schema_stands_by_itself(pg: Postgres) -> None:
    pg.psql(schema_sql(), pg.create_database())


@settings(max_examples=200)
@given(st.from_regex(r"[0-9]{8,18}", fullmatch=True))
def test_luhn_agrees_with_stdnum(digits: str) -> None:
    assert stdnum.luhn.is_valid(luhn_complete(digits))


@settings(max_examples=200)
@given(st.dates(min_value=dt.date(1900, 1, 1)), st.integers(0, 999))
def test_identity_check_digit_agrees_with_stdnum(born: Any, serial: int) -> None:
    number = identity_number("110101", born, serial)
    assert stdnum.cn.ric.calc_check_digit(number) == number[-1]


def test_numbers_inside_numbers_are_refused_in_either_order() -> None:
    beginnings = {2: ("1", "2"), 4: ("9",)}
    forward = DigitStrings(beginnings)
    forward.fresh(lambda: "12")
    with pytest.raises(ExhaustedError):
        forward.fresh(lambda: "9120")
    with pytest.raises(ExhaustedError):
        forward.fresh(lambda: "12")
    backward = DigitStrings(beginnings)
    backward.fresh(lambda: "9120")
    with pytest.raises(ExhaustedError):
        backward.fresh(lambda: "20")


def test_prefix_free() -> None:
    assert prefix_free(["Lee", "Leeson", "Li", "Adam", "Adams", "Li"]) == ["Adams", "Leeson", "Li"]
