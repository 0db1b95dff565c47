"""What the database makes of protected columns by itself has their protection, unless the rules name it (F2.2)."""

from __future__ import annotations

import pytest

from rules.applied import recorded
from rules.catalog import Catalog, CatalogColumn, Relation
from rules.derived import derived_from, with_derived
from rules.load import load_rules_text
from rules.model import ColumnName, Level, Protection, TableName, Verdict, view_name
from rules.protect import ProtectionMap

RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {{level: important, mask: name}}
      phone: {{level: core, protection: masked, stored: plain, mask: phone}}
      city: {{level: general}}
{more}
roles:
  app: {{logins: [app], levels: {{core: clear, important: clear}}}}
  agent: {{logins: [agent], levels: {{core: masked, important: masked}}, columns: {{public.customers.name: clear}}}}
  analyst: {{logins: [analyst], levels: {{core: refused, important: masked}}}}
"""
TSV = ColumnName("public", "customers", "name_tsv")
BOTH = ColumnName("public", "customers", "both")


def _column(number: int, name: str, default: str | None = None, *, generated: bool = False) -> CatalogColumn:
    return CatalogColumn(name, number, 25, -1, "text", default=default, generated=generated)


COLUMNS = (
    _column(1, "id"),
    _column(2, "name"),
    _column(3, "phone"),
    _column(4, "city"),
    _column(5, "name_tsv", "to_tsvector('simple'::regconfig, (name)::text)", generated=True),
    _column(6, "both", "(((name)::text || ' '::text) || (phone)::text)", generated=True),
    _column(7, "shown", "upper((city)::text)", generated=True),
    _column(8, "said", "'phone'::text", generated=True),
    _column(9, "plain", "(name)::text"),  # a default, which can't read columns: nothing of it is made of them
)
CATALOG = Catalog("1", "d", 160000, {1: Relation(1, TableName("public", "customers"), "r", "o", COLUMNS)})


def test_generated_columns_are_found_with_what_they_are_made_of() -> None:
    rules = load_rules_text(RULES.format(more=""), "rules.yaml")
    assert {str(n): [c.column for c in m] for n, m in derived_from(rules, CATALOG).items()} == {
        "public.customers.name_tsv": ["name"],
        "public.customers.both": ["name", "phone"],
    }


def test_they_are_masked_by_null_at_the_strictest_level_of_their_sources() -> None:
    rules = with_derived(load_rules_text(RULES.format(more=""), "rules.yaml"), CATALOG)
    found = {name: rules.column(name) for name in (TSV, BOTH)}
    assert [c.protection for c in found.values() if c is not None] == [Protection.MASKED] * 2
    assert [(c.level, c.mask.kind) for c in found.values() if c is not None and c.mask is not None] == [
        (Level.IMPORTANT, "null"),
        (Level.CORE, "null"),
    ]
    assert with_derived(rules, CATALOG) is rules, "once is enough"


@pytest.mark.parametrize(
    ("login", "tsv", "both"),
    [
        ("app", Verdict.CLEAR, Verdict.CLEAR),
        (
            "agent",
            Verdict.CLEAR,
            Verdict.MASKED,
        ),  # the name is clear to it by exception, and so is what is made of that alone
        ("analyst", Verdict.MASKED, Verdict.REFUSED),
        ("nobody", Verdict.MASKED, Verdict.REFUSED),
    ],
)
def test_the_verdict_is_the_strictest_of_what_they_are_made_of(login: str, tsv: Verdict, both: Verdict) -> None:
    policy = with_derived(load_rules_text(RULES.format(more=""), "rules.yaml"), CATALOG).principal(login, ()).policy
    assert policy.verdict(TSV) is tsv
    assert policy.verdict(BOTH) is both


def test_the_masking_views_keep_their_schema_when_a_column_is_derived() -> None:
    """DDL that adds one is seen by the view's text alone: nobody's other tables are without views until the next apply."""
    given = load_rules_text(RULES.format(more=""), "rules.yaml")
    for login in ("agent", "analyst", "nobody"):
        before, after = (r.principal(login, ()).policy for r in (given, with_derived(given, CATALOG)))
        assert before.schema == after.schema
        assert before.id != after.id


def test_the_rules_may_say_otherwise() -> None:
    more = "      name_tsv: {level: general}\n      both: {level: important, mask: {kind: keep_first, n: 1}}"
    given = load_rules_text(RULES.format(more=more), "rules.yaml")
    assert derived_from(given, CATALOG) == {}
    assert with_derived(given, CATALOG) is given


def test_nothing_derived_changes_nothing() -> None:
    given = load_rules_text(RULES.format(more=""), "rules.yaml")
    plain = Catalog("1", "d", 160000, {1: Relation(1, TableName("public", "customers"), "r", "o", COLUMNS[:4])})
    assert with_derived(given, plain) is given
    assert with_derived(given, Catalog("1", "d", 160000, {})) is given


def _family(*more: CatalogColumn) -> Catalog:
    """The table and a child of it that has all its columns and some of its own."""
    parent = Relation(1, TableName("public", "customers"), "r", "o", COLUMNS, children=(2,))
    child = Relation(2, TableName("public", "vip"), "r", "o", (*COLUMNS, *more), parents=(1,))
    return Catalog("1", "d", 160000, {1: parent, 2: child})


def test_what_a_child_makes_of_the_columns_that_it_has_by_inheritance() -> None:
    own = _column(10, "shout", "upper((name)::text)", generated=True)
    catalog = _family(own, _column(11, "loud", "upper((city)::text)", generated=True))
    given = load_rules_text(RULES.format(more=""), "rules.yaml")
    rules = with_derived(given, catalog)
    shout = ColumnName("public", "vip", "shout")
    assert {str(n) for n in derived_from(given, catalog)} == {str(TSV), str(BOTH), str(shout)}
    assert rules.principal("nobody", ()).policy.verdict(shout) is Verdict.MASKED
    assert rules.principal("app", ()).policy.verdict(shout) is Verdict.CLEAR
    # What it has by inheritance goes by its parent's name.
    assert set(ProtectionMap(rules, catalog).columns_of(catalog.relations[2])) == {
        *("name", "phone", "name_tsv", "both", "shout")
    }
    assert with_derived(rules, catalog) is rules
    said = RULES.format(more="").replace("roles:", "  public.vip:\n    columns:\n      shout: {level: general}\nroles:")
    assert shout not in derived_from(load_rules_text(said, "rules.yaml"), catalog)


def test_a_masking_view_made_before_a_column_was_derived_is_not_served() -> None:
    """ALTER COLUMN ... SET EXPRESSION: the view shows what was harmless when it was made."""
    given = load_rules_text(RULES.format(more=""), "rules.yaml")
    name = TableName("public", "customers")
    policy = given.principal("nobody", ()).policy
    view = Relation(9, TableName(policy.schema, view_name(name)), "v", "o", COLUMNS, definition="SELECT 1")

    def catalog(tsv: str | None) -> Catalog:
        columns = tuple(_column(5, "name_tsv", tsv, generated=True) if c.name == "name_tsv" else c for c in COLUMNS)
        return Catalog("1", "d", 160000, {1: Relation(1, name, "r", "o", columns), 9: view})

    def judged(now: str, then: str) -> tuple[bool, int]:
        """By the record of one moment, at another: whether the view serves, and what of it /readyz does not like."""
        made = recorded(given, catalog(then)).applied
        at = Catalog("1", "d", 160000, catalog(now).relations, applied=made)
        protection = ProtectionMap(with_derived(given, at), at)
        found = protection.view_problem(with_derived(given, at).principal("nobody", ()).policy, name)
        assert found is None or "customers.name_tsv" in found
        return found is None, sum("name_tsv" in p for p in protection.not_served)

    city, of_name, of_phone = (f"upper(({c})::text)" for c in ("city", "name", "phone"))
    assert judged(city, city) == (True, 0)
    assert judged(of_name, city) == (False, 1)
    assert judged(of_name, of_name) == (True, 0)
    assert judged(of_phone, of_name) == (True, 0), "NULL stands there whatever it is made of"
    assert judged(city, of_name) == (True, 0), "less is shown than could be, until apply"
