"""Sealed values carried over past pgveil, from a column that a login sees masked to one of the same key domain that it sees clear (F8.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.apply import ApplyError, execute
from rules.load import check_rules_text, load_rules_text

if TYPE_CHECKING:
    from tests.lifecycle.conftest import Place

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, card text UNIQUE, note text);
CREATE TABLE orders (id int PRIMARY KEY, pay_card text, item text);
INSERT INTO customers SELECT i, 'C' || i, 'n' FROM generate_series(1, 9) i;
INSERT INTO orders SELECT i, 'C' || i, 'tea' FROM generate_series(1, 3) i;
"""
WRITER = "GRANT SELECT, INSERT, UPDATE, DELETE ON customers, orders TO ap_agent, ap_app;"

RULES = """
version: 1
tables:
  public.customers: {columns: {card: {level: core, mode: deterministic, type: text, domain: card, mask: {kind: keep_last, n: 1}}}}
  public.orders: {columns: {pay_card: {level: core, mode: deterministic, type: text, domain: card, mask: {kind: keep_last, n: 1}}}}
roles:
  app: {logins: [ap_app], levels: {core: clear}}
  agent: {logins: [ap_agent], levels: {core: masked}, columns: {public.orders.pay_card: clear}}
"""
MEANT = RULES.replace("public.orders.pay_card: clear}}", "public.orders.pay_card: clear}, mixed_domains: [card]}")
APART = RULES.replace(
    "pay_card: {level: core, mode: deterministic, type: text, domain: card,",
    "pay_card: {level: core, mode: deterministic, type: text,",
)

MOVES = (
    "UPDATE orders SET pay_card = (SELECT card FROM customers WHERE id = 7) WHERE id = 3",
    "UPDATE orders SET pay_card = c.card FROM customers c WHERE c.id = 7 AND orders.id = 3",
    "DO $$ BEGIN UPDATE public.orders SET pay_card = (SELECT card FROM public.customers WHERE id = 7) WHERE id = 3; END $$",
    "INSERT INTO orders SELECT 10, card, 'x' FROM customers WHERE id = 7",
    "INSERT INTO orders VALUES (3, '') ON CONFLICT (id) DO UPDATE SET pay_card = (SELECT card FROM customers WHERE id = 7)",
    "MERGE INTO orders o USING customers c ON o.id = 3 AND c.id = 7 WHEN MATCHED AND c.id = 7 THEN UPDATE SET pay_card = c.card",
    "CREATE TEMP TABLE t AS SELECT card FROM customers WHERE id = 7; UPDATE orders SET pay_card = t.card FROM t WHERE orders.id = 3",
)
MOVED = "SELECT count(*) FROM orders o JOIN customers c ON o.pay_card = c.card WHERE c.id = 7"


async def moved_by(place: Place, login: str) -> list[str]:
    """The moves that worked, each taken back."""
    sealed = await place.admin.fetchval("SELECT card FROM customers WHERE id = 7")
    worked = []
    for sql in MOVES:
        text = sql.replace("VALUES (3, '')", f"VALUES (3, '{sealed}')")
        probe = f"{text}; DO $p$ BEGIN ASSERT EXISTS ({MOVED.replace('count(*)', '1')}); END $p$"
        if not await place.sqlstate_of_text(login, probe):
            worked.append(sql)
    return worked


async def test_the_server_does_not_part_them(place: Place) -> None:
    """Why there must be an obstacle: what is meant works, and what is apart does not open."""
    await place.admin.execute(SCHEMA + WRITER)
    plan = await place.apply(MEANT)
    assert [w for w in plan.warnings if "mixed_domains" in w and "ap_agent" in w]
    assert await moved_by(place, "ap_agent") == list(MOVES)


async def test_who_could_move_values_is_an_obstacle(place: Place) -> None:
    await place.admin.execute(SCHEMA + WRITER)
    plan = await place.plan(RULES)
    (obstacle,) = plan.obstacles
    assert obstacle.object == "public.orders.pay_card"
    assert "ap_agent" in obstacle.problem
    assert "public.customers.card" in obstacle.problem
    assert "ap_app" not in obstacle.problem
    with pytest.raises(ApplyError):
        await execute(
            place.admin, plan, load_rules_text(RULES, "r"), place.ring, random=bytes, progress=lambda *_: None
        )
    assert not (await place.plan(APART)).obstacles
    alike = RULES.replace("public.orders.pay_card: clear", "public.orders.pay_card: masked")
    assert not (await place.plan(alike)).obstacles


READ, WRITE = "GRANT SELECT ON customers TO ap_agent;", "GRANT INSERT ON orders TO ap_agent;"

WAYS = {
    READ + WRITE: True,
    READ: False,
    WRITE: False,
    READ + "GRANT SELECT, DELETE ON orders TO ap_agent;": False,
    READ + "GRANT UPDATE (item) ON orders TO ap_agent;": False,
    READ + "GRANT UPDATE (pay_card) ON orders TO ap_agent;": True,
    READ + "GRANT UPDATE ON orders TO ap_centre;": True,
    "GRANT SELECT (card) ON customers TO PUBLIC;" + WRITE: True,
    "GRANT SELECT (id, note) ON customers TO ap_agent;" + WRITE: False,
    READ + "ALTER TABLE orders OWNER TO ap_agent;": True,
    "GRANT pg_read_all_data TO ap_agent;" + WRITE: True,
    # Views and functions with their owner's rights.
    "CREATE VIEW v AS SELECT id, card FROM customers; GRANT SELECT ON v TO ap_agent;" + WRITE: True,
    "CREATE VIEW v AS SELECT id, note FROM customers; GRANT SELECT ON v TO ap_agent;" + WRITE: False,
    READ + "CREATE VIEW v AS SELECT id, pay_card FROM orders; GRANT UPDATE ON v TO ap_agent;": True,
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'SELECT card::text FROM customers LIMIT 1';"
    + WRITE: True,
    # Rows of a child are its parent's.
    READ + "CREATE TABLE late (more int) INHERITS (orders); GRANT INSERT ON late TO ap_agent;": True,
}


async def test_by_which_privileges(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    for grants, can in WAYS.items():
        transaction = place.admin.transaction()
        await transaction.start()
        await place.admin.execute(grants)
        from lifecycle.apply.plan import plan_inside  # noqa: PLC0415 - within a transaction of ours
        from lifecycle.database import fix_settings  # noqa: PLC0415 - as above

        await fix_settings(place.admin)
        plan = await plan_inside(place.admin, load_rules_text(RULES, "r"), place.ring, values=False)
        told = [o for o in plan.obstacles if "key domain (card)" in o.problem]
        await transaction.rollback()
        assert bool(told) is can, (grants, plan.obstacles)


async def test_privileges_that_apply_would_give_back_count(place: Place) -> None:
    await place.admin.execute(SCHEMA + WRITER)
    alike = RULES.replace("public.orders.pay_card: clear", "public.orders.pay_card: masked")
    await place.apply(alike)
    assert await place.sqlstate("ap_agent", "UPDATE orders SET pay_card = pay_card WHERE id = 3") == "42501"
    assert [o.object for o in (await place.plan(RULES)).obstacles] == ["public.orders.pay_card"]


def warnings_of(text: str) -> list[str]:
    rules, problems = check_rules_text(text, "rules.yaml")
    assert rules is not None
    return [p.message for p in problems]


def test_check_tells_of_such_rules() -> None:
    (told,) = warnings_of(RULES)
    assert "role agent" in told
    assert "key domain card" in told
    assert warnings_of(MEANT) == warnings_of(APART) == []
    (idle,) = warnings_of(MEANT.replace("public.orders.pay_card: clear", "public.orders.pay_card: masked"))
    assert "alike" in idle
    assert load_rules_text(RULES, "r").version != load_rules_text(MEANT, "r").version


async def test_each_role_that_makes_the_difference_must_mean_it(place: Place) -> None:
    await place.admin.execute(SCHEMA + WRITER)
    second = "  second: {logins: [ap_agent], levels: {core: masked}, columns: {public.orders.pay_card: clear}%s}\n"
    assert (await place.plan(MEANT + second % "")).obstacles
    assert not (await place.plan(MEANT + second % ", mixed_domains: [card]")).obstacles
    assert not (await place.plan(MEANT + "  all: {logins: [ap_agent], levels: {core: clear}}\n")).obstacles
