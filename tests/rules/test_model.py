"""What the rules' values say of a login: verdicts, strictness, classes; and names as SQL text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.load import load_rules_text
from rules.model import ColumnName, Level, Rules, TableName, Verdict, class_id, quote_ident, quote_literal, view_name

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

TEXT = """
version: 1
tables:
  public.c:
    columns:
      phone: {level: important, mask: phone}
      card: {level: core, type: text, mode: deterministic, mask: bank_card}
      cvv: {level: core, type: text, mode: randomized}
      note: {level: general}
roles:
  teller: {logins: [anna], member_of: [tellers], levels: {core: masked, important: clear}}
  auditor: {member_of: [auditors], levels: {core: refused, important: masked}}
  cards: {logins: [carl], levels: {important: masked}, columns: {public.c.card: clear, public.c.cvv: clear}}
"""
PHONE, CARD, CVV = (ColumnName("public", "c", c) for c in ("phone", "card", "cvv"))


@pytest.fixture
def rules() -> Rules:
    return load_rules_text(TEXT, "f")


def verdicts(rules: Rules, login: str, *memberships: str) -> tuple[str, str, str]:
    policy = rules.principal(login, memberships).policy
    return policy.verdict(PHONE).value, policy.verdict(CARD).value, policy.verdict(CVV).value


def test_a_role_by_login_and_by_membership(rules: Rules) -> None:
    assert verdicts(rules, "anna") == ("clear", "masked", "refused")
    assert verdicts(rules, "bob", "tellers") == ("clear", "masked", "refused")
    assert rules.principal("bob", {"tellers"}).roles == ("teller",)


def test_a_login_that_is_the_role_itself(rules: Rules) -> None:
    assert rules.principal("tellers", ()).roles == ("teller",)


def test_single_columns_go_before_levels(rules: Rules) -> None:
    assert verdicts(rules, "carl") == ("masked", "clear", "clear")


def test_with_several_roles_the_strictest_holds(rules: Rules) -> None:
    principal = rules.principal("anna", {"auditors", "other"})
    assert principal.roles == ("auditor", "teller")
    assert verdicts(rules, "anna", "auditors") == ("masked", "refused", "refused")


def test_a_stranger_gets_the_strictest_and_never_clear(rules: Rules) -> None:
    assert rules.principal("nobody", ()).roles == ()
    assert verdicts(rules, "nobody") == ("masked", "refused", "refused")
    lonely = load_rules_text(TEXT.split("roles:", maxsplit=1)[0], "f")
    assert verdicts(lonely, "nobody") == ("masked", "masked", "refused")


def test_a_level_that_a_role_does_not_name_gets_the_strictest() -> None:
    text = (
        TEXT.split("roles:", maxsplit=1)[0]
        + "roles: {r: {logins: [x], levels: {core: clear}}, s: {logins: [y], levels: {important: refused}}}"
    )
    assert verdicts(load_rules_text(text, "f"), "x") == ("refused", "clear", "clear")


def test_a_class_names_its_verdicts(rules: Rules) -> None:
    anna, bob, carl = (rules.principal(n, m).policy for n, m in (("anna", ()), ("bob", ("tellers",)), ("carl", ())))
    assert anna == bob
    assert anna.id != carl.id
    assert len(anna.id) == 12
    assert anna.schema == f"pgveil_{anna.shown}"
    assert class_id(dict(sorted(anna.verdicts.items(), reverse=True))) == anna.id


def test_unknown_columns_are_refused_to_every_class(rules: Rules) -> None:
    assert rules.principal("carl", ()).policy.verdict(ColumnName("public", "c", "other")) is Verdict.REFUSED


def test_what_is_protected(rules: Rules) -> None:
    assert [c.name for c in rules.protected_columns()] == [CARD, CVV, PHONE]
    assert rules.protected_tables() == {TableName("public", "c")}
    note = rules.column(ColumnName("public", "c", "note"))
    assert note is not None
    assert not note.protected
    assert note.level is Level.GENERAL
    assert rules.column(ColumnName("public", "none", "x")) is None


def test_view_names_fit_an_identifier_and_stay_apart() -> None:
    assert view_name(TableName("public", "t")) == "t"
    assert view_name(TableName("crm", "t")) == "crm.t"
    long = [TableName("crm", "客" * 20 + c) for c in "ab"]
    names = [view_name(t) for t in long]
    assert len(set(names)) == 2
    assert all(len(n.encode()) <= 63 for n in names)


@settings(max_examples=60)
@given(st.text(alphabet=st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=15))
def test_quoting_cannot_be_broken_out_of(value: str) -> None:
    ident, literal = quote_ident(value), quote_literal(value)
    assert ident[1:-1].replace('""', "") == value.replace('"', "")
    assert literal.endswith("'")
    assert "'" not in literal.removeprefix("E")[1:-1].replace("''", "")


async def test_the_server_reads_quoted_text_back(pg: Postgres) -> None:
    values = ["plain", "it's", 'say "hi"', "back\\slash", "\\'", "客户", "a\nb", "\\", "'", "E'"]
    connection = await asyncpg.connect(pg.dsn())
    for conforming in ("on", "off"):
        await connection.execute(f"SET standard_conforming_strings = {conforming}")
        for value in values:
            row = (await connection.fetch(f"SELECT {quote_literal(value)} AS {quote_ident(value)}"))[0]
            assert dict(row) == {value: value}
    await connection.close()
