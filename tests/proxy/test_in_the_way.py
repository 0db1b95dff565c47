"""A refusal names the column that is in the way, not another one that pgveil could have coped with (F2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.decisions import Gate
from proxy.session.gate import Refuse, Settings
from proxy.vocabulary import VOCABULARY_QUERY, vocabulary
from rules.applied import as_applied
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.load import load_rules_text
from tests.rules.test_decisions_golden import VisibleSealer

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

SETUP = """
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80), email varchar(120));
CREATE TABLE accounts (id bigint PRIMARY KEY, customer_id bigint, balance numeric(12,2), iban varchar(34) UNIQUE);
CREATE TABLE cards (id bigint PRIMARY KEY, customer_id bigint, account_id bigint, pan varchar(19) UNIQUE, expires_on date, status text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, item text);
"""
RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {level: important, mask: name}
      email: {level: important, mask: email}
  public.cards:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
      expires_on: {level: core, mode: randomized, type: date, mask: year}
  public.accounts:
    columns:
      balance: {level: core, mode: randomized, type: "numeric(12,2)", mask: {kind: range, width: 100000}}
      iban: {level: core, mode: deterministic, type: varchar(34), domain: iban, mask: {kind: keep_last, n: 4}}
roles:
  mixed:
    logins: [mixed]
    levels: {core: clear, important: masked}
    columns: {public.accounts.iban: masked, public.cards.expires_on: refused}
"""
SETTINGS = Settings(True, "UTF8", ("public",), "mixed")

CASES = {
    # The second table's sealed column can be worked on after opening; the first one's may not be searched.
    "SELECT a.iban = 'x', l.e FROM accounts a, LATERAL (SELECT k.pan || 'x' e FROM cards k WHERE k.account_id = a.id) l": "iban",
    "SELECT l.e, a.id FROM accounts a, LATERAL (SELECT upper(k.pan) e FROM cards k WHERE k.account_id = a.id) l WHERE a.iban = 'x'": "iban",
    "SELECT upper(k.pan) FROM cards k WHERE EXISTS (SELECT FROM accounts a WHERE a.iban = 'x' AND a.id = k.account_id)": "iban",
    "SELECT max(k.pan), (SELECT count(*) FROM accounts a WHERE a.iban IN ('x', 'y')) FROM cards k": "iban",
    "SELECT a.balance + 1, l.n FROM accounts a, LATERAL (SELECT count(*) n FROM cards k WHERE k.pan = a.iban) l": "iban",
    "COPY (SELECT upper(k.pan) FROM cards k JOIN accounts a ON a.id = k.account_id WHERE a.iban = 'x') TO STDOUT": "iban",
    "SELECT upper(k.pan), k.expires_on FROM cards k": "expires_on",
    "SELECT t.id, l.* FROM customers t, LATERAL (SELECT * FROM cards k WHERE k.customer_id = t.id) l": "expires_on",
    # What is stored must be clear to whoever stores it.
    "UPDATE cards SET pan = upper(k.pan) || a.iban FROM cards k, accounts a WHERE a.id = k.account_id AND k.id = cards.id": "iban",
    "INSERT INTO orders (id, item) SELECT a.balance::int, l.p FROM accounts a, LATERAL (SELECT upper(k.pan) p FROM cards k) l": "balance",
}


@pytest.fixture(scope="module")
def gate(pg: Postgres) -> Gate:
    with psycopg.connect(pg.dsn(pg.create_database()), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute(SETUP.encode())
        rows = {name: connection.execute(sql.encode()).fetchall() for name, sql in CATALOG_QUERIES.items()}
        words = connection.execute(VOCABULARY_QUERY.encode()).fetchone()
    assert words is not None
    rules = load_rules_text(RULES, "rules.yaml")
    catalog = as_applied(rules, build_catalog(rows))
    return Gate(rules, catalog, VisibleSealer(), computes=True, vocabulary=vocabulary(*words.values()))


@pytest.mark.parametrize(("sql", "column"), CASES.items())
def test_the_column_in_the_way_is_named(gate: Gate, sql: str, column: str) -> None:
    decision = gate.decide(sql.encode(), gate.principal("mixed"), SETTINGS, extended=False)
    assert isinstance(decision, Refuse), decision
    assert decision.refusal.column is not None
    assert decision.refusal.column.column == column
    assert column in decision.refusal.message
    if decision.position is not None and "*" not in sql:
        assert sql[decision.position - 1 :].startswith(column)
