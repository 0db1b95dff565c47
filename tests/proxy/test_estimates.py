"""How much would be fetched to compute a statement is said beforehand, by explain, check --workload and observe alike (F10.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.decisions import Gate
from proxy.estimates import estimate
from proxy.explain import explain
from proxy.observe.findings import Place, finding
from proxy.session.computing import Compute, Write
from rules.catalog import Catalog
from rules.load import load_rules_text
from rules.model import TableName
from tests.proxy.golden import RULES, SETTINGS, bank_catalog
from tests.rules.test_decisions_golden import VisibleSealer

LIMIT = 100_000


def counted(**rows: int) -> Gate:
    """The bank, with a calculator, whose tables have been counted."""
    bank = bank_catalog()
    of = {bank.by_name[TableName("public", name)].oid: count for name, count in rows.items()}
    return Gate(load_rules_text(RULES, "rules.yaml"), replace(bank, rows=of), VisibleSealer(), computes=True)


def effects(gate: Gate, sql: str, limit: int | None = LIMIT) -> list[str]:
    principal = gate.principal("teller")
    decision = gate.decide(sql.encode(), principal, SETTINGS, extended=False)
    place = Place(gate.protection.catalog, "r1", gate.names, limit)
    return [e for e in finding(decision, principal, gate, place).effects if e.startswith("reads")]


ALL = "reads all of about 200,000 rows of public.cards, which ends in 54000: calculator.rows is 100,000"
SOME = "reads those of about 200,000 rows of public.cards, which may end in 54000: calculator.rows is 100,000"


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("select upper(pan) from cards", [ALL]),
        ("select id from cards where lower(pan) = 'x'", [ALL]),
        ("select count(*) from cards where pan like '4%'", [ALL]),
        ("update cards set credit = credit + 1", [ALL]),
        ("select upper(pan) from cards where id = 7", [SOME]),
        ("select id from cards where kind = 'gold' and pan like '4%'", [SOME]),
        ("select upper(id_number) from customers", []),
        ("select pan from cards", []),
    ],
)
def test_what_passes_the_limit_is_foretold(sql: str, told: list[str]) -> None:
    assert effects(counted(cards=204_123, customers=99_000), sql) == told
    assert effects(counted(cards=99_999, customers=99_000), sql) == []
    assert effects(counted(), sql) == []
    assert effects(counted(cards=204_123), sql, None) == []


def test_explain_says_how_much_is_read_either_way() -> None:
    gate = counted(cards=1_234)
    (statement,) = explain(gate, "select upper(pan) from cards", "teller", SETTINGS, rows=LIMIT).statements
    (read,) = statement.reads
    assert (read.table, read.rows, read.narrowed, read.limit) == ("public.cards", 1_200, False, LIMIT)
    assert read.text == "all of about 1,200 rows of public.cards"
    (statement,) = explain(gate, "select upper(pan) from cards", "teller", SETTINGS, rows=1_000).statements
    assert statement.reads[0].text.endswith("which ends in 54000: calculator.rows is 1,000")
    (statement,) = explain(counted(), "select upper(pan) from cards", "teller", SETTINGS, rows=LIMIT).statements
    assert statement.reads == ()


def test_the_largest_table_of_a_fetch_counts() -> None:
    gate = counted(cards=3, payments=500_000)
    sql = "select upper(c.pan), p.pan from cards c join payments p on p.pan = c.pan"
    decision = gate.decide(sql.encode(), gate.principal("teller"), SETTINGS, extended=False)
    assert isinstance(decision, Compute | Write)
    leaves = decision.leaves if isinstance(decision, Compute) else decision.source.leaves
    found = [estimate(leaf.fetch, gate.protection.catalog) for leaf in leaves]
    assert max(e.rows for e in found if e is not None) == 500_000


def test_rows_of_a_family() -> None:
    bank = bank_catalog()
    name = TableName("public", "visits")
    parent = bank.by_name[name]
    children = [bank.relations[oid] for oid in parent.children]
    assert (parent.kind, len(children) > 0) == ("p", True)

    def about(rows: dict[int, int]) -> int | None:
        return replace(bank, rows=rows).about_rows(name)

    each = {child.oid: 10 for child in children}
    assert about(each) == 10 * len(children)
    assert about({**each, parent.oid: 7}) == 7
    assert about({}) is None
    assert about({parent.oid: 7}) == 7
    assert replace(bank, rows={1: 2}) == bank, "a count changes nothing that is judged by"
    assert bank.about_rows(TableName("public", "absent")) is None
    inherited = Catalog("1", "d", 1, {1: replace(parent, oid=1, kind="r", children=(2,)), 2: replace(parent, oid=2, name=TableName("s", "c"), children=())}, rows={1: 5, 2: 6})  # fmt: skip
    assert inherited.about_rows(name) == 11
