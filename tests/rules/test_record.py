"""What differs from the record of what is applied is not served, and everything else is: judged on catalogs, without a server."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from proxy.decisions import Gate
from proxy.session.gate import Admit, Pass, Refuse
from rules.difference import REMEDY, text_digest
from rules.load import load_rules_text
from rules.model import TableName
from rules.plan import Reason
from rules.record import Record, read_record, rules_digest
from tests.proxy.golden import RULES, SETTINGS, bank_catalog
from tests.rules.test_decisions_golden import VisibleSealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.catalog import Catalog
    from rules.record import SealedAs

NOTHING = "version: 1\ntables: {}\nroles: {}\n"
PAN = "{level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}"


# Without the tables cards and payments.
LOST = re.sub(r"  public\.(cards|payments):\n    columns:\n(      .*\n)+", "", RULES)


def judge(rules: str = RULES, catalog: Catalog | None = None, **more: object) -> Gate:
    return Gate(load_rules_text(rules, "rules.yaml"), catalog or bank_catalog(), VisibleSealer(), **more)  # type: ignore[arg-type]


def refused(gate: Gate, sql: str, login: str = "teller") -> str | None:
    """The words of a refusal for what is not applied; None where the statement is served."""
    decision = gate.decide(sql.encode(), gate.principal(login), SETTINGS, extended=False)
    if isinstance(decision, Refuse):
        assert decision.refusal.reason is Reason.NOT_APPLIED, (sql, decision.refusal)
        assert (decision.refusal.sqlstate, decision.refusal.hint) == ("55000", REMEDY)
        return decision.refusal.message
    assert isinstance(decision, Pass | Admit), (sql, decision)
    return None


def record_with(change: Callable[[SealedAs], SealedAs]) -> Catalog:
    """The bank, where the record says something else of cards.pan."""
    bank = bank_catalog()
    assert bank.record is not None
    columns = tuple(change(c) if (c.table, c.column) == ("cards", "pan") else c for c in bank.record.columns)
    return replace(bank, applied=msgspec.structs.replace(bank.record, columns=columns).text())


def test_as_it_was_applied_everything_is_served() -> None:
    assert refused(judge(), "select pan from cards where pan = '4111'") is None
    assert refused(judge(), "select phone from customers", "agent") is None


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            RULES.replace(PAN, PAN.replace("mode: deterministic", "mode: randomized").replace("domain: pan, ", "")),
            "rules in force say randomized",
        ),
        (RULES.replace(PAN, PAN.replace("varchar(19)", "varchar(20)")), "rules in force say deterministic varchar(20)"),
        (RULES.replace(PAN, PAN.replace("domain: pan", "domain: other")), "key domain other"),
    ],
)
def test_sealed_otherwise_than_the_rules_say(rules: str, words: str) -> None:
    gate = judge(rules)
    for sql in (
        "select pan from cards",
        "select * from cards",
        "select id from cards where pan = '4111'",
        "insert into cards (id, pan) values ('1', '4111')",
        "update cards set pan = '4111' where id = '1'",
        "select cards from cards",
        "insert into cards (id) values ('1') returning *",
        "copy cards to stdout",
        "copy cards (id, pan) from stdin",
        "explain select pan from cards",
        "delete from cards where pan = '4111'",
        "delete from cards where id = '1' returning pan",
        "delete from cards where id = '1' returning *",
        "delete from cards using payments p where p.pan = cards.pan",
        "create table kept as select pan from cards",
        "declare c cursor for select pan from v_cards",
    ):
        told = refused(gate, sql)
        assert told is not None, sql
        assert words in told, sql
    for sql in (
        "select id, kind from cards",
        "select cvv from cards",
        "update cards set kind = 'x' where id = '1'",
        "insert into cards (id, cvv) values ('1', '123')",
        "insert into cards (id, kind) values ('1', 'x')",
        "copy cards (id, kind) to stdout",
        "select phone from customers",
        "select count(*) from cards",
        "select item from orders",
        "drop table cards",
        # Nothing needs to be known of how it is stored for its row to go.
        "delete from cards",
        "delete from cards where id = '1' returning id, kind",
        "with gone as (delete from cards where kind = 'x' returning id) select count(*) from gone",
        "merge into cards t using orders o on t.id = o.item when matched then delete",
    ):
        assert refused(gate, sql) is None, sql


@pytest.mark.parametrize(
    "rules", [NOTHING, LOST, RULES.replace(PAN, "{level: general}")], ids=("nothing", "lost", "general")
)
@pytest.mark.parametrize("login", ["teller", "owner"])
def test_a_sealed_column_that_the_rules_do_not_know(rules: str, login: str) -> None:
    """F1.6, F10.3: between apply and reload, `tables: {}`, and a copy of a sealed column."""
    gate = judge(rules)
    for sql in (
        "select pan from cards",
        "select * from cards",
        "select id from cards where pan = '4111'",
        "update cards set pan = (select pan from cards where id = '42') where id = '41'",
        "update cards set kind = (select pan from cards where id = '42') where id = '41'",
        "insert into orders (item) select pan from cards",
        "select to_jsonb(c) from cards c",
        "select length(pan) from v_cards",
        "copy cards to stdout",
        "copy (select pan from cards) to stdout",
        "table cards",
        # A row may go; but what no rule names has no level for the record.
        *(() if rules not in {NOTHING, LOST} else ("delete from cards where id = '1'",)),
        "merge into cards t using payments p on t.pan = p.pan when matched then delete",
    ):
        told = refused(gate, sql, login)
        assert told is not None, sql
        assert "the rules in force do not seal it" in told, sql
    for sql in (
        "select id, kind from cards",
        "insert into orders (item) values ('x')",
        "select id from customers",
        "truncate cards",
        *(() if "cvv" in rules and login == "owner" else ("drop table cards", "alter table cards add column more int")),
    ):
        assert refused(gate, sql, login) is None, sql


def test_functions_that_read_an_unknown_sealed_column_are_refused() -> None:
    gate = judge(NOTHING)
    decision = gate.decide(b"select any_card('x')", gate.principal("owner"), SETTINGS, extended=False)
    assert isinstance(decision, Refuse)


@pytest.mark.parametrize("document", [None, "", "{}x", '{"form":2}', '{"form":1,"more":1}'])
def test_without_a_record_that_can_be_read_nothing_sealed_or_masked_is_served(document: str | None) -> None:
    gate = judge(catalog=replace(bank_catalog(), applied=document))
    told = refused(gate, "select pan from cards")
    assert told is not None
    assert "no record of how" in told
    told = refused(gate, "select phone from customers", "agent")
    assert told is not None
    assert "no record of this login's masking view" in told
    for sql, login in (
        ("select phone from customers", "teller"),
        ("select id, notes from customers", "agent"),
        ("select item from orders", "agent"),
    ):
        assert refused(gate, sql, login) is None, sql


def test_a_column_that_apply_has_not_sealed() -> None:
    bank = bank_catalog()
    assert bank.record is not None
    rest = tuple(c for c in bank.record.columns if c.column != "cvv")
    gate = judge(catalog=replace(bank, applied=msgspec.structs.replace(bank.record, columns=rest).text()))
    assert refused(gate, "select cvv from cards") is not None
    assert refused(gate, "select pan from cards") is None


def test_masking_views_that_differ() -> None:
    bank = bank_catalog()
    views = {name: r for name, r in bank.by_name.items() if name.schema.startswith("pgveil_")}
    view = next(r for name, r in views.items() if name.name == "customers")
    changed = replace(bank, relations={**bank.relations, view.oid: replace(view, definition="SELECT 2")})
    told = refused(judge(catalog=changed), "select phone from customers", "agent")
    assert told is not None
    assert "is not the one that pgveil apply has made" in told
    assert refused(judge(catalog=changed), "select guest from visits", "agent") is None
    assert refused(judge(catalog=changed), "select phone from customers") is None
    other = RULES.replace("mask: phone}", "mask: {kind: keep_last, n: 2}}")
    told = refused(judge(other), "select phone from customers", "agent")
    assert told is not None
    assert "there is no masking view" in told
    told = refused(judge(other), "select * from customers", "agent")
    assert told is not None
    assert refused(judge(other), "select id, kind from cards", "agent") is None
    gone = replace(bank, relations={oid: r for oid, r in bank.relations.items() if oid != view.oid})
    told = refused(judge(catalog=gone), "select phone from customers", "agent")
    assert told is not None
    assert "there is no masking view" in told


def test_another_mask_of_a_sealed_column_is_pgveil_s_own_business() -> None:
    other = RULES.replace(PAN, PAN.replace("mask: bank_card", "mask: {kind: keep_last, n: 2}"))
    assert refused(judge(other), "select pan from cards", "agent") is None


@pytest.mark.parametrize(
    ("marks", "served"),
    [
        ({"pan": frozenset({"1:aa"})}, True),
        ({"pan": frozenset({"1:aa", "2:bb"})}, True),
        ({"pan": frozenset({"1:destroyed", "2:bb"})}, True),
        ({"pan": frozenset({"1:bb"})}, False),
        ({}, False),
    ],
)
def test_keys_that_are_not_those_of_the_record(marks: dict[str, frozenset[str]], served: bool) -> None:
    """A key directory that was lost and made anew has other keys under the same numbers."""
    catalog = record_with(lambda c: msgspec.structs.replace(c, keys=("1:aa",)))
    told = refused(judge(catalog=catalog, marks=lambda: marks), "select pan from cards")
    assert (told is None) is served
    if told is not None:
        assert "key 1 of domain pan, which the key ring does not have" in told


def test_a_form_of_a_newer_pgveil_is_not_opened() -> None:
    told = refused(judge(catalog=record_with(lambda c: msgspec.structs.replace(c, format=2))), "select pan from cards")
    assert told == 'column "public.cards.pan" is sealed in form 2, which only a newer pgveil knows'


def test_what_cannot_be_served_is_told() -> None:
    """For /readyz, the metric and the log. What somebody has copied is his own business, and what is not in this database is none."""
    assert judge().not_served() == ()
    assert judge(NOTHING, catalog=replace(bank_catalog(), applied=None)).not_served()
    other = judge(RULES.replace(PAN, PAN.replace("varchar(19)", "varchar(20)")))
    assert any("public.cards.pan" in problem for problem in other.not_served())
    assert len(judge(catalog=replace(bank_catalog(), applied=None)).not_served()) == 6
    bank = bank_catalog()
    lost = judge(LOST).not_served()
    assert {p.split('"')[1] for p in lost} == {
        f"public.{c}" for c in ("cards.credit", "cards.cvv", "cards.pan", "payments.pan")
    }
    cards = bank.by_name[TableName("public", "cards")]
    copy = replace(cards, oid=500, name=TableName("public", "copied"))
    assert judge(catalog=replace(bank, relations={**bank.relations, 500: copy})).not_served() == ()
    without = {
        oid: r for oid, r in bank.relations.items() if r.name.name not in {"cards", "payments", "customers", "visits"}
    }
    empty = judge(catalog=replace(bank, relations=without, applied=None)).not_served()
    assert empty == ()
    view = next(r for name, r in bank.by_name.items() if name.schema.startswith("pgveil_"))
    changed = replace(bank, relations={**bank.relations, view.oid: replace(view, definition="SELECT 2")})
    assert ["is not the one" in p for p in judge(catalog=changed).not_served()] == [True]


def test_the_record_reads_as_it_was_written() -> None:
    record = bank_catalog().record
    assert record is not None
    assert read_record(record.text()) == record
    assert rules_digest(record) != rules_digest(Record())
    assert {v.table for v in record.views} <= set(bank_catalog().by_name)
    assert text_digest("a") == "0cc175b9c0f1b6a831c399e269772661"
    assert TableName("public", "customers").name in {v.name for v in record.views}
