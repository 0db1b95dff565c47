"""A catalog as it would be after `pgveil apply`: judged by it, statements come to what they come to afterwards."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from proxy.decisions import Gate
from rules.applied import as_applied, holds_nothing_of_ours
from rules.catalog import Catalog, CatalogColumn, Relation
from rules.load import load_rules_text
from rules.model import TableName
from tests.proxy.golden import RULES, bank_catalog, gate, statements
from tests.rules.test_decisions_golden import VisibleSealer, shown

RULES_LOADED = load_rules_text(RULES, "rules.yaml")


def plain(catalog: Catalog) -> Catalog:
    """The bank before anything was applied."""
    kept = {
        r.oid: replace(r, columns=tuple(replace(c, declared_type="text") for c in r.columns))
        for r in catalog.relations.values()
        if not r.name.schema.startswith("pgveil")
    }
    return replace(catalog, relations=MappingProxyType(kept))


def test_everything_is_judged_as_after_apply() -> None:
    after = gate()
    before = Gate(RULES_LOADED, as_applied(RULES_LOADED, plain(bank_catalog())), VisibleSealer())
    for sql in statements():
        for login in ("teller", "agent"):
            assert shown(before, sql, login) == shown(after, sql, login), sql


def test_a_catalog_that_is_applied_stays_as_it_is() -> None:
    once = as_applied(RULES_LOADED, plain(bank_catalog()))
    assert as_applied(RULES_LOADED, once) == once


def test_nobody_s_views_are_there_too() -> None:
    """A login that the rules do not name is in a class of its own, and that has views."""
    catalog = as_applied(RULES_LOADED, plain(bank_catalog()))
    policy = RULES_LOADED.principal("stranger", ()).policy
    assert TableName(policy.schema, "customers") in catalog.by_name


def test_children_are_sealed_with_their_parents() -> None:
    columns = (CatalogColumn("pan", 1, 1043, 23, "character varying(19)"),)
    parent = Relation(1, TableName("public", "cards"), "p", "o", columns, children=(2,))
    child = Relation(2, TableName("public", "cards_1"), "r", "o", columns, parents=(1,))
    catalog = as_applied(RULES_LOADED, Catalog("1", "bank", 160000, {1: parent, 2: child}))
    assert {r.columns[0].declared_type for r in catalog.relations.values() if r.name.schema == "public"} == {
        "pgveil.sealed"
    }


@pytest.mark.parametrize(
    ("change", "nothing"),
    [
        (lambda c: c, True),
        (lambda c: replace(c, schemas=frozenset({"public", "pgveils_own"})), True),
        (lambda c: replace(c, schemas=frozenset({"public", "pgveil"})), False),
        (lambda c: replace(c, schemas=frozenset({"pgveil_0123456789ab"})), False),
        (lambda c: as_applied(RULES_LOADED, c), False),
        (lambda _: bank_catalog(), False),
    ],
)
def test_whether_anything_is_applied(change: object, nothing: bool) -> None:
    assert callable(change)
    assert holds_nothing_of_ours(change(plain(bank_catalog()))) is nothing
