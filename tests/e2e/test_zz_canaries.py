"""Last of the end-to-end tests: nothing that was sent to a masked role over the whole suite, and no file of pgveil's, holds a protected value.

Every protected value of the demonstration bank is unique, and none occurs inside another, so a hit is a leak.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from rules.load import load_rules
from rules.model import Verdict

if TYPE_CHECKING:
    from tests.e2e.world import World

_SHORTEST = 5  # names of two characters occur everywhere; what is checked must be unmistakable


def _canaries(world: World) -> dict[str, set[str]]:
    """Protected values as text, by full column name."""
    found: dict[str, set[str]] = {}
    rules = load_rules(world.home / "rules.yaml")
    for column in rules.protected_columns():
        table = world.bank.tables[column.name.table]
        place = table.names.index(column.name.column)
        values = {str(row[place]) for row in world.bank.copy_rows(column.name.table) if row[place] is not None}
        if column.name.column in {"phone", "email", "id_number", "pan", "number"}:
            found[str(column.name)] = {v for v in values if len(v) >= _SHORTEST}
    return found


def _memberships(world: World, login: str) -> frozenset[str]:
    return frozenset({"call_centre"}) if login == "agent" else frozenset()


@pytest.mark.parametrize("login", ["agent", "analyst", "dba"])
def test_no_canary_was_sent(world: World, login: str) -> None:
    rules = load_rules(world.home / "rules.yaml")
    policy = rules.principal(login, _memberships(world, login)).policy
    with psycopg.connect(world.dsn(login), autocommit=True) as connection:
        for sql in (
            "select phone, email from customers",
            "select name, phone from customers order by phone",
            "select birth_date, email, income from customers",
        ):
            try:
                connection.execute(sql).fetchall()
            except psycopg.Error:
                continue
    sent = bytes(world.tap.sent[login]).decode(errors="replace")
    assert len(sent) > 1000, "the tap saw traffic"
    checked = 0
    for column in rules.protected_columns():
        if policy.verdict(column.name) is Verdict.CLEAR or str(column.name) not in _canaries(world):
            continue
        for value in _canaries(world)[str(column.name)]:
            checked += 1
            assert value not in sent, f"a value of {column.name} reached {login}"
    assert checked > 100


def test_no_file_of_pgveils_holds_a_canary(world: World) -> None:
    values = set().union(*_canaries(world).values())
    pattern = re.compile("|".join(map(re.escape, sorted(values))))
    files = [p for p in world.home.rglob("*") if p.is_file()]
    assert any(p.suffix == ".jsonl" for p in files)
    for path in files:
        assert pattern.search(path.read_bytes().decode(errors="replace")) is None, path


def test_a_canary_would_be_found(world: World) -> None:
    """The test itself: a clear role's traffic does hold canaries."""
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("select phone from customers").fetchall()
    sent = bytes(world.tap.sent["teller"]).decode(errors="replace")
    assert any(v in sent for v in _canaries(world)["public.customers.phone"])
