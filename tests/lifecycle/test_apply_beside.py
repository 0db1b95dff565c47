"""Rules that change while a pgveil serves others: what they need stands side by side until nobody needs the old (ADR 0029)."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from lifecycle.apply import execute, make_plan
from lifecycle.apply.inspect import read_state
from lifecycle.apply.model import OWNER
from lifecycle.database import fix_settings
from rules.record import read_record
from rules.serving import ANNOUNCE_QUERY, lock_of
from tests.lifecycle.conftest import rules_of
from tests.lifecycle.test_apply_wall import RULES, SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rules.record import Record
    from tests.lifecycle.conftest import Place

OLD = RULES
# The agent may see no phone any longer, and births; another table's column is protected; the centre's columns stay.
NEW = (
    RULES.replace("public.customers.name: clear", "public.customers.name: masked, public.customers.phone: refused")
    .replace("public.customers.born: refused", "public.customers.born: clear")
    .replace('  s."订单":', "  public.other:\n    columns:\n      a: {level: important, mask: name}\n" + '  s."订单":')
)
OTHER = OLD.replace("mask: phone", 'mask: "null"').replace(
    "levels: {core: refused, important: masked}", "levels: {core: masked, important: clear}"
)
LOOKING = OLD.replace(
    "public.customers.born: refused", "public.customers.phone: {verdict: masked, lookup: equality}"
).replace("phone: {level: important, mask: phone}", "phone: {level: important, type: varchar(20), mask: phone}")


@pytest.fixture
async def ground(place: Place) -> Place:
    await place.admin.execute(SCHEMA)
    await place.admin.execute("CREATE TABLE other (id int, a text); GRANT SELECT ON other TO ap_centre, ap_dba")
    return place


@asynccontextmanager
async def serving(place: Place, rules: str, login: str = "postgres") -> AsyncIterator[None]:
    """A pgveil's own connection that says which rules are served."""
    connection = await asyncpg.connect(place.server.dsn(place.name, login))
    try:
        assert await connection.fetchval(ANNOUNCE_QUERY, *lock_of(rules_of(rules).version))
        yield
    finally:
        await connection.close()


async def held(place: Place) -> set[Any]:
    """Everybody's privileges, the views and functions of pgveil's, and its memory, at this moment."""
    async with place.admin.transaction():
        await fix_settings(place.admin)
        state = await read_state(place.admin)
    views = {(n, v.digest) for n, v in state.views.items()}
    # What pgveil's own role may read is never taken from it.
    others = {a for a in state.held if a.grantee != OWNER}
    return {
        state.catalog.applied,
        *others,
        *views,
        *state.lookups,
        *state.taken,
        *((a, "given") for a in state.given),
        *state.schemas,
    }


async def recorded(place: Place) -> Record:
    found = await place.admin.fetchval("SELECT obj_description('pgveil.applied'::regclass, 'pg_class')")
    record = read_record(found)
    assert record is not None
    return record


async def test_what_is_served_stays_and_what_is_new_is_there(ground: Place) -> None:
    await ground.apply(OLD)
    old, new = (ground.view(rules, "ap_agent", "ap_centre") for rules in (OLD, NEW))
    assert old != new
    async with serving(ground, OLD):
        await ground.apply(NEW)
        # As the old rules have it.
        phones = await ground.run("ap_agent", f'SELECT phone FROM "{old}".customers LIMIT 1')
        assert "*" in phones[0][0]
        assert await ground.sqlstate("ap_agent", "SELECT id, name FROM customers") == ""
        # And as the new ones.
        assert await ground.run("ap_agent", f'SELECT phone FROM "{new}".customers LIMIT 1') == [(None,)]
        assert await ground.sqlstate("ap_agent", "SELECT id, born FROM customers") == ""
        # Both are recorded, so both are served (ADR 0028).
        assert {v.schema for v in (await recorded(ground)).views} >= {old, new}
        # No more than the one or the other.
        assert await ground.sqlstate("ap_agent", "SELECT phone FROM customers") == "42501"
        assert await ground.sqlstate("ap_agent", "SELECT income FROM customers") == "42501"
        assert await ground.sqlstate("ap_agent", "SELECT a FROM other") == "", "as long as it is not protected there"
        again = await ground.plan(NEW)
        assert (again.changes, again.obstacles) == ((), ())
        assert again.later
        assert again.serving[0].startswith("postgres (pid ")
    await ground.apply(NEW)
    assert old not in {v.schema for v in (await recorded(ground)).views}
    assert await ground.sqlstate("ap_agent", f'SELECT phone FROM "{old}".customers LIMIT 1') in ("3F000", "42P01")
    assert await ground.sqlstate("ap_agent", "SELECT id, name FROM customers") == "42501"
    assert await ground.sqlstate("ap_agent", "SELECT a FROM other") == "42501"
    again = await ground.plan(NEW)
    assert (again.changes, again.later) == ((), ())


async def test_whom_the_rules_limit_gains_nothing_by_saying_that_he_serves_the_old(ground: Place) -> None:
    await ground.apply(OLD)
    async with serving(ground, OLD, "ap_agent"):
        assert (await ground.apply(NEW)).later == ()
        assert await ground.sqlstate("ap_agent", "SELECT id, name FROM customers") == "42501"


async def test_where_pgveil_s_own_login_is_known_nobody_else_is_one(ground: Place) -> None:
    """Whom no role names, too: anybody can hold the lock. Without the name he keeps the old standing, as a pgveil would."""
    await ground.apply(OLD)
    rules = rules_of(NEW)
    for login in ("ap_owner", "postgres"):
        async with serving(ground, OLD, login):
            plans = {
                own: await make_plan(ground.admin, rules, ground.ring, login=own) for own in (None, login, "ap_app")
            }
            assert [bool(plan.serving) for plan in plans.values()] == [True, True, False], login
            assert any(w.startswith(f"{login} (pid") for w in plans["ap_app"].warnings)
            assert not any("serves other rules" in w for w in plans[login].warnings)
    async with serving(ground, OLD, "ap_owner"):
        plan = await make_plan(ground.admin, rules, ground.ring, login="ap_app")
        await execute(ground.admin, plan, rules, ground.ring, random=os.urandom, progress=lambda *_: None)
        assert await ground.sqlstate("ap_agent", "SELECT id, name FROM customers") == "42501"
    # It may be limited by the rules: what is named is believed.
    await ground.apply(OLD)
    async with serving(ground, OLD, "ap_agent"):
        assert (await make_plan(ground.admin, rules, ground.ring, login="ap_agent")).serving


async def test_who_serves_the_same_rules_or_another_database_keeps_nothing(ground: Place) -> None:
    await ground.apply(OLD)
    elsewhere = await asyncpg.connect(ground.server.dsn("postgres"))
    await elsewhere.fetchval(ANNOUNCE_QUERY, *lock_of(rules_of(OLD).version))
    async with serving(ground, NEW):
        assert (await ground.apply(NEW)).later == ()
    await elsewhere.close()


async def test_a_view_that_is_in_the_way_of_sealing_is_made_again(ground: Place) -> None:
    await ground.apply(OLD)
    sealed = OTHER.replace(
        "card: {level: core", "note: {level: core, mode: randomized, type: text}\n      card: {level: core"
    )
    old, new = (ground.view(rules, "ap_agent", "ap_centre") for rules in (OLD, sealed))
    phones = await ground.run("ap_agent", f'SELECT phone FROM "{old}".customers ORDER BY id')
    async with serving(ground, OLD):
        await ground.apply(sealed)
        assert await ground.sqlstate("ap_agent", f'SELECT note FROM "{new}".customers') == ""
        assert await ground.run("ap_agent", f'SELECT phone FROM "{old}".customers ORDER BY id') == phones
        assert {v.schema for v in (await recorded(ground)).views} >= {old, new}
        assert (await ground.plan(sealed)).changes == ()


async def test_a_view_that_masks_what_is_sealed_goes_at_once(ground: Place) -> None:
    await ground.apply(OLD)
    sealed = OTHER.replace(
        "name: {level: important, mask: name}", "name: {level: core, mode: randomized, type: text, mask: name}"
    )
    old = ground.view(OLD, "ap_dba")
    assert await ground.sqlstate("ap_dba", f'SELECT name FROM "{old}".customers') == ""
    async with serving(ground, OLD):
        await ground.apply(sealed)
        assert await ground.sqlstate("ap_dba", f'SELECT name FROM "{old}".customers') == "42P01"


async def test_whatever_the_order_the_end_is_the_same(ground: Place) -> None:
    """Rules that change back and forth while others are served leave what the last of them would have made alone."""
    texts = (OLD, NEW, OTHER, LOOKING)
    random = Random(29)
    await ground.apply(OLD)
    begun = await held(ground)
    ends = {OLD: begun}
    for _ in range(8):
        order = [random.choice(texts) for _ in range(3)]
        for served, rules in zip([OLD, *order[:-1]], order, strict=True):
            async with serving(ground, served):
                await ground.apply(rules)
                assert (await ground.plan(rules)).changes == ()
        await ground.apply(order[-1])
        now = await held(ground)
        assert ends.setdefault(order[-1], now) ^ now == set()
    await ground.apply(OLD)
    assert await held(ground) ^ begun == set()
