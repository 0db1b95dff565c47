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
from tests.e2e.world import canaries_of

if TYPE_CHECKING:
    from tests.e2e.world import World


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
        if policy.verdict(column.name) is Verdict.CLEAR or str(column.name) not in canaries_of(world):
            continue
        for value in canaries_of(world)[str(column.name)]:
            checked += 1
            assert value not in sent, f"a value of {column.name} reached {login}"
    assert checked > 100


def test_no_file_of_pgveils_holds_a_canary(world: World) -> None:
    values = set().union(*canaries_of(world).values())
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
    assert any(v in sent for v in canaries_of(world)["public.customers.phone"])


def test_nothing_left_without_its_record(world: World) -> None:
    """Over the whole suite: each protected value that was sent to anybody was in the audit log by then, as that session's."""
    watch = world.tap.watch
    assert watch is not None
    # How often it looked depends on how the bytes came: what stands at a piece's end is looked at again with the next.
    assert watch.checked > 20, "the watch saw values"
    assert sorted(set(watch.found)) == []


def test_what_leaves_without_a_record_would_be_found(world: World) -> None:
    """The test itself: a value that comes by a way of which pgveil knows nothing, here a table that somebody filled past it."""
    watch = world.tap.watch
    assert watch is not None
    with psycopg.connect(world.dsn("postgres", direct=True), autocommit=True) as past:
        past.execute("create table if not exists spilled as select phone from customers limit 1")
        past.execute("grant select on spilled to teller")
    before = list(watch.found)
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("select * from spilled").fetchall()
    with psycopg.connect(world.dsn("postgres", direct=True), autocommit=True) as past:
        past.execute("drop table spilled")
    assert watch.found[len(before) :] == [("teller", "public.customers.phone")]
    watch.found[:] = before
