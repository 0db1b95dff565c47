"""The wall: what masked logins can read straight at the server, without any proxy; and what everybody else still can."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lifecycle.apply import ApplyError, execute, make_plan
from rules.load import load_rules_text
from rules.record import read_record

if TYPE_CHECKING:
    from tests.lifecycle.conftest import Place

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, phone varchar(20) UNIQUE, income numeric(12,2), born date, note text, card text);
INSERT INTO customers SELECT i, 'John Smith', '138001380' || i, 123456.5, '1990-05-17', 'n' || i, 'CARD' || i FROM generate_series(10, 99) i;
CREATE SCHEMA s;
CREATE TABLE s."订单" (id int, "收件人" text);
INSERT INTO s."订单" VALUES (1, '张三');
GRANT USAGE ON SCHEMA s TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON customers TO ap_app, ap_dba;
GRANT SELECT, INSERT, UPDATE ON customers TO ap_centre;
GRANT SELECT ON s."订单" TO PUBLIC;
ANALYZE;
"""

RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {level: important, mask: name}
      phone: {level: important, mask: phone}
      income: {level: important, mask: {kind: range, width: 50000}}
      born: {level: important, mask: year}
      card: {level: core, mode: deterministic, type: text}
  s."订单":
    columns:
      收件人: {level: important, mask: name}
roles:
  application: {logins: [ap_app], levels: {core: clear, important: clear}}
  lead: {logins: [ap_lead], levels: {core: clear, important: clear}}
  agent:
    logins: [ap_agent]
    levels: {core: refused, important: masked}
    columns: {public.customers.name: clear, public.customers.born: refused}
  dba: {logins: [ap_dba], levels: {core: masked, important: refused}}
"""


@pytest.fixture
async def walled(any_place: Place) -> Place:
    """The schema with the rules applied."""
    await any_place.admin.execute(SCHEMA)
    await any_place.apply(RULES)
    return any_place


async def test_a_masked_login_gets_masks_and_nothing_else(walled: Place) -> None:
    for sql in (
        "SELECT phone FROM customers",
        "SELECT * FROM customers",
        "SELECT customers FROM customers",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT id FROM customers WHERE phone = '13800138010'",
        "SELECT id FROM customers ORDER BY income",
        "SELECT count(phone) FROM customers",
        "UPDATE customers SET note = phone",
        "UPDATE customers SET note = 'x' WHERE phone = '13800138010'",
        "INSERT INTO customers VALUES (1, 'x') RETURNING phone",
        "DELETE FROM customers WHERE id = 10",
        "COPY customers TO STDOUT",
        'SELECT "收件人" FROM s."订单"',
    ):
        assert await walled.sqlstate("ap_agent", sql) == "42501", sql
    assert await walled.run("ap_agent", "SELECT id, name, note FROM customers WHERE id = 10") == [
        (10, "John Smith", "n10")
    ]
    schema = walled.view(RULES, "ap_agent", "ap_centre")
    row = await walled.run(
        "ap_agent", f"SELECT id, name, phone, income::text, born, note FROM {schema}.customers WHERE id = 10"
    )
    assert row == [(10, "John Smith", "138****8010", "100000.00", None, "n10")]
    assert await walled.run("ap_agent", f'SELECT * FROM {schema}."s.订单"') == [(1, "张*")]
    types = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}.customers'::regclass AND attnum > 0 ORDER BY attnum"
    assert await walled.admin.fetch(types.format(schema)) == await walled.admin.fetch(types.format("public"))
    assert await walled.run(
        "ap_agent",
        "SELECT count(*) FROM pg_stats WHERE tablename = 'customers' AND attname IN ('phone', 'income', 'born')",
    ) == [(0,)]


_UNSEEN_WRITES = (
    # The size of the log record tells whether old equals new, EXPLAIN shows it, and so do HOT's counter and the log's position.
    "EXPLAIN (ANALYZE, WAL, COSTS OFF, TIMING OFF, SUMMARY OFF) UPDATE customers SET phone = '13800138010' WHERE id = 10",
    "UPDATE customers SET phone = '13800138010' WHERE id = 10",
    "UPDATE customers SET phone = NULL",
    "UPDATE customers SET phone = DEFAULT",
    "UPDATE customers SET (note, income) = ('x', 1) WHERE id = 10",
    "DO $$ BEGIN UPDATE public.customers SET phone = '13800138010' WHERE id = 10; END $$",
    "DO $$ BEGIN EXECUTE 'UPDATE public.customers SET income = 123456.5 WHERE id = 10'; END $$",
    "INSERT INTO customers (id, name) VALUES (10, 'x') ON CONFLICT (id) DO UPDATE SET born = '1990-05-17'",
    "MERGE INTO customers c USING (VALUES (10)) v (i) ON c.id = v.i WHEN MATCHED THEN UPDATE SET phone = '13800138010'",
    "WITH w AS (UPDATE customers SET phone = '13800138010' WHERE id = 10 RETURNING id) SELECT * FROM w",
    # A unique constraint tells by its error, any index by the pages that it touches.
    "INSERT INTO customers (id, name, phone) VALUES (1000, 'x', '13800138010')",
    "INSERT INTO customers (id, name, born) VALUES (1000, 'x', '1990-05-17')",
    "INSERT INTO customers (id, name, income) VALUES (1000, 'x', 123456.5)",  # an indexed generated column is made of it
    # A sealed value of one's own choosing could be compared; a forged or moved one stored.
    "INSERT INTO customers (id, name, card) SELECT 1000, 'x', card FROM customers WHERE id = 10",
    "UPDATE customers SET card = (SELECT card FROM customers WHERE id = 11) WHERE id = 10",
    "DO $$ BEGIN UPDATE public.customers SET card = '~' || repeat('A', 43) WHERE id = 10; END $$",
    # Views hand writes on with their owner's rights.
    "UPDATE contacts SET phone = '13800138010' WHERE id = 10",
    "INSERT INTO contacts (id, phone) VALUES (1000, '13800138010')",
    "UPDATE cards_of SET card = NULL WHERE id = 10",
)


async def test_nothing_unseen_is_written(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.admin.execute("""
        CREATE INDEX ON customers (born);
        ALTER TABLE customers ADD COLUMN half numeric GENERATED ALWAYS AS (income / 2) STORED;
        CREATE INDEX ON customers (half);
        CREATE VIEW contacts AS SELECT id, phone, note FROM customers;
        GRANT SELECT, INSERT, UPDATE ON contacts TO ap_agent;
    """)
    await place.apply(RULES)
    await place.admin.execute(
        "CREATE VIEW cards_of AS SELECT id, card, note FROM customers; GRANT ALL ON cards_of TO ap_agent"
    )
    await place.apply(RULES)
    for sql in _UNSEEN_WRITES:
        assert await place.sqlstate("ap_agent", sql) == "42501", sql


async def test_what_is_seen_clear_or_compared_with_nothing_can_be_written(walled: Place) -> None:
    assert await walled.sqlstate("ap_agent", "INSERT INTO customers (id, name, income) VALUES (1000, 'a', 1)") == ""
    assert await walled.sqlstate("ap_agent", "UPDATE customers SET name = 'b', note = 'n' WHERE id = 1000") == ""
    assert await walled.sqlstate("ap_agent", "SELECT id FROM customers WHERE id = 1000 FOR UPDATE") == ""
    assert await walled.sqlstate("ap_dba", "DELETE FROM customers WHERE id = 1000") == ""
    assert await walled.sqlstate("ap_app", "UPDATE customers SET phone = phone, card = card WHERE id = 10") == ""


async def test_the_masking_view_is_written_where_masks_are_searched(walled: Place) -> None:
    agent, dba = walled.view(RULES, "ap_agent", "ap_centre"), walled.view(RULES, "ap_dba")
    sql = f"UPDATE {agent}.customers SET note = 'm' WHERE phone = '138****8011' RETURNING id, phone, note"
    assert await walled.run("ap_agent", sql) == [(11, "138****8011", "m")]
    assert await walled.run("ap_agent", f"SELECT id FROM {agent}.customers WHERE phone LIKE '%8012' FOR UPDATE") == [
        (12,)
    ]
    for column, value in (("phone", "'1'"), ("income", "1"), ("born", "NULL"), ("card", "NULL")):
        found = await walled.sqlstate("ap_agent", f"UPDATE {agent}.customers SET {column} = {value} WHERE id = 11")
        assert found in {"42501", "55000", "0A000"}, column
    # What they could not do with the table they can't do with the view.
    assert await walled.sqlstate("ap_agent", f"DELETE FROM {agent}.customers WHERE id = 11") == "42501"
    assert await walled.sqlstate("ap_agent", f"INSERT INTO {agent}.customers (id, name) VALUES (1001, 'x')") == "42501"
    assert await walled.run(
        "ap_dba", f"DELETE FROM {dba}.customers WHERE phone IS NULL AND id = 11 RETURNING note"
    ) == [("m",)]


async def test_who_held_more_is_named(any_place: Place) -> None:
    await any_place.admin.execute(SCHEMA + "GRANT pg_write_all_data TO ap_owner;")
    try:
        plan = await any_place.plan(RULES)
    finally:
        await any_place.admin.execute("REVOKE pg_write_all_data FROM ap_owner")
    told = [c.what for c in plan.changes if c.kind == "revoke"]
    assert any(w.startswith("UPDATE from ap_centre, by which ap_agent") for w in told), told
    assert any("ap_owner is a member of pg_write_all_data" in w for w in plan.warnings)


async def test_clear_logins_are_as_before(walled: Place) -> None:
    for login in ("ap_app", "ap_lead"):
        rows = await walled.run(login, "SELECT name, phone, income FROM customers WHERE phone = '13800138010'")
        assert len(rows) == 1
        assert await walled.sqlstate(login, "SELECT * FROM customers") == ""
        assert await walled.run(login, 'SELECT "收件人" FROM s."订单"') == [("张三",)]
    # The lead had it through the group; the group's limited members have not.
    connection = await asyncpg.connect(walled.server.dsn(walled.name, "ap_lead"))
    await connection.execute("SET ROLE ap_centre")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT phone FROM customers")
    await connection.close()


async def test_other_classes_views_are_closed(walled: Place) -> None:
    agent, dba = walled.view(RULES, "ap_agent"), walled.view(RULES, "ap_dba")
    assert agent != dba
    assert await walled.sqlstate("ap_dba", f"SELECT * FROM {agent}.customers") == "42501"
    assert await walled.sqlstate("ap_agent", f"SELECT * FROM {dba}.customers") == "42501"
    assert await walled.sqlstate("ap_agent", "SELECT * FROM pgveil.privileges_before") == "42501"
    assert await walled.sqlstate("ap_agent", "SELECT pgveil.mask_phone('1')") == "42501"
    assert await walled.run("ap_dba", f"SELECT name, phone, born FROM {dba}.customers WHERE id = 10") == [
        (None, None, None)
    ]


async def test_a_second_run_finds_nothing_to_do(walled: Place) -> None:
    plan = await walled.plan(RULES)
    assert plan.changes == ()


async def test_grants_made_since_are_taken_again_and_revoked_ones_stay_revoked(walled: Place) -> None:
    await walled.admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ap_agent")
    await walled.apply(RULES)
    assert await walled.sqlstate("ap_agent", "SELECT phone FROM customers") == "42501"
    await walled.admin.execute(
        "REVOKE SELECT ON customers FROM ap_dba; REVOKE SELECT (id, note, card) ON customers FROM ap_dba"
    )
    await walled.apply(RULES)
    assert await walled.sqlstate("ap_dba", "SELECT id FROM customers") == "42501"
    assert (await walled.plan(RULES)).empty


async def test_looser_rules_give_back_what_stricter_ones_took(walled: Place) -> None:
    query = "SELECT object, column_name, grantee, privilege, taken FROM pgveil.privileges_before"
    looser = (
        RULES.replace("levels: {core: refused, important: masked}", "levels: {core: clear, important: clear}")
        .replace("columns: {public.customers.name: clear, public.customers.born: refused}", "")
        .replace(
            "dba: {logins: [ap_dba], levels: {core: masked, important: refused}}",
            "dba: {logins: [ap_dba], levels: {core: clear, important: clear}}",
        )
    )
    await walled.apply(looser)
    for login in ("ap_agent", "ap_dba", "ap_lead"):
        assert await walled.sqlstate(login, "SELECT * FROM customers") == ""
    assert (await walled.plan(looser)).empty
    kept = {r["object"] for r in await walled.admin.fetch(query)}
    # Logins that no rule names (the other tests') are masked still, and have what PUBLIC has: nothing of customers.
    assert '"public"."customers"' not in kept
    await walled.apply(RULES)
    assert await walled.sqlstate("ap_agent", "SELECT phone FROM customers") == "42501"
    assert await walled.sqlstate("ap_agent", "SELECT note FROM customers") == ""


async def test_new_columns_are_granted_and_shown_by_the_next_run(walled: Place) -> None:
    await walled.admin.execute("ALTER TABLE customers ADD COLUMN extra text DEFAULT 'e'")
    assert await walled.sqlstate("ap_agent", "SELECT extra FROM customers") == "42501"
    await walled.apply(RULES)
    assert await walled.run("ap_agent", "SELECT extra FROM customers WHERE id = 10") == [("e",)]
    schema = walled.view(RULES, "ap_agent")
    assert await walled.run("ap_agent", f"SELECT extra FROM {schema}.customers WHERE id = 10") == [("e",)]
    assert (await walled.plan(RULES)).empty


async def test_a_changed_mask_replaces_the_view(walled: Place) -> None:
    changed = RULES.replace(
        "phone: {level: important, mask: phone}", "phone: {level: important, mask: {kind: constant, value: none}}"
    )
    plan = await walled.apply(changed)
    assert {c.kind for c in plan.changes} <= {"masking view", "drop", "grant", "record"}
    schema = walled.view(changed, "ap_agent")
    assert await walled.run("ap_agent", f"SELECT phone FROM {schema}.customers WHERE id = 10") == [("none",)]
    assert (await walled.plan(changed)).empty


async def test_a_view_replaced_by_hand_is_put_right(walled: Place) -> None:
    schema = walled.view(RULES, "ap_agent")
    await walled.admin.execute(f"CREATE OR REPLACE VIEW {schema}.customers AS SELECT * FROM public.customers")
    plan = await walled.apply(RULES)
    assert not plan.empty
    rows = await walled.run("ap_agent", f"SELECT phone FROM {schema}.customers WHERE id = 10")
    assert "*" in rows[0][0]


async def test_functions_replaced_by_hand_are_put_right(walled: Place) -> None:
    await walled.admin.execute(
        "CREATE OR REPLACE FUNCTION pgveil.mask_phone(v text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v"
    )
    assert [c.what for c in (await walled.apply(RULES)).changes] == ["install the masks' functions"]
    schema = walled.view(RULES, "ap_agent")
    assert "*" in (await walled.run("ap_agent", f"SELECT phone FROM {schema}.customers WHERE id = 10"))[0][0]
    assert (await walled.plan(RULES)).empty


async def test_views_and_functions_that_show_masked_columns_are_taken_too(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(SCHEMA)
    await place.admin.execute("""
        CREATE VIEW contacts AS SELECT id, upper(phone) AS p FROM customers;
        CREATE VIEW ids AS SELECT id, note FROM customers;
        CREATE MATERIALIZED VIEW frozen AS SELECT phone FROM customers;
        CREATE VIEW second AS SELECT p FROM contacts;
        CREATE VIEW invoker WITH (security_invoker) AS SELECT id, phone FROM customers;
        GRANT SELECT ON contacts, ids, frozen, second, invoker TO ap_centre, ap_app;
        CREATE FUNCTION peep() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT phone FROM public.customers';
        CREATE PROCEDURE "Do It"(INOUT x text) LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN EXECUTE 'SELECT phone FROM public.customers LIMIT 1' INTO x; END $$;
        CREATE FUNCTION harmless() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
    """)
    await place.apply(RULES)
    for sql in (
        "SELECT p FROM contacts",
        "SELECT * FROM frozen",
        "SELECT * FROM second",
        "SELECT phone FROM invoker",
        "SELECT peep()",
        "CALL \"Do It\"('')",
    ):
        assert await place.sqlstate("ap_agent", sql) == "42501", sql
        for login in ("ap_app", "ap_lead"):
            assert await place.sqlstate(login, sql) == "", (login, sql)
    for sql in ("SELECT note FROM ids LIMIT 1", "SELECT harmless()"):
        assert await place.sqlstate("ap_agent", sql) == "", sql
    assert (await place.plan(RULES)).empty


async def test_partitions_can_be_read_no_more_than_their_parent(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("""
        CREATE TABLE p (id int, phone text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        INSERT INTO p VALUES (1, '13800138000');
        GRANT SELECT ON p, p1 TO ap_agent;
    """)
    rules = """
version: 1
tables:
  public.p: {columns: {phone: {level: important, mask: phone}}}
roles:
  agent: {logins: [ap_agent], levels: {important: masked}}
"""
    await place.apply(rules)
    for table in ("p", "p1"):
        assert await place.sqlstate("ap_agent", f"SELECT phone FROM {table}") == "42501"
        assert await place.run("ap_agent", f"SELECT id FROM {table}") == [(1,)]
    assert (await place.plan(rules)).empty


async def test_triggers_and_foreign_keys_of_their_own_are_no_way_round(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(SCHEMA)
    await place.admin.execute("GRANT ALL ON customers TO ap_agent; GRANT CREATE ON SCHEMA public TO ap_agent")
    await place.apply(RULES)
    assert (
        await place.sqlstate("ap_agent", "CREATE TABLE probe (p varchar(20) REFERENCES customers (phone))") == "42501"
    )
    sql = (
        "CREATE TRIGGER x BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    assert await place.sqlstate("ap_agent", sql) == "42501"
    assert await place.sqlstate("ap_agent", "UPDATE customers SET note = '' WHERE id = 10") == ""


async def test_who_cannot_be_fenced_is_named(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(SCHEMA)
    await place.admin.execute(
        "ALTER TABLE customers OWNER TO ap_owner; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO ap_centre"
    )
    plan = await place.apply(RULES)
    told = "\n".join(plan.warnings)
    assert "login postgres is a superuser" in told
    assert "login ap_owner owns public.customers" in told
    assert "default privileges of postgres grant SELECT on new tables to ap_centre" in told
    # Its own class's view is there all the same: the proxy splices it in.
    schema = place.view(RULES, "ap_owner")
    assert len(await place.run("ap_owner", f"SELECT * FROM {schema}.customers")) == 90


DERIVED = """
ALTER TABLE customers ADD COLUMN digits text GENERATED ALWAYS AS (right(phone, 4)) STORED,
    ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple'::regconfig, phone)) STORED;
"""


async def test_generated_columns_made_of_masked_ones_are_masked(place: Place) -> None:
    await place.admin.execute(SCHEMA + DERIVED)
    plan = await place.apply(RULES)
    assert any("digits is made of public.customers.phone" in w for w in plan.warnings)
    for column in ("digits", "words"):
        assert await place.sqlstate("ap_agent", f"SELECT {column} FROM customers") == "42501", column
        assert await place.run("ap_app", f"SELECT count({column}) > 0 FROM customers") == [(True,)]
    names = await place.admin.fetch("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'customers'")
    shown = [
        await place.run("ap_agent", f"SELECT DISTINCT digits, words, name FROM {schema}.customers")
        for (schema,) in names
        if await place.sqlstate("ap_agent", f"SELECT digits FROM {schema}.customers") == ""
    ]
    assert shown == [[(None, None, "John Smith")]], "its class's view shows NULL"
    again = await place.plan(RULES)
    assert not again.changes
    assert not any("is made of" in w for w in again.warnings), "nothing is left to be done"


async def test_the_rules_may_say_otherwise_of_generated_columns(place: Place) -> None:
    await place.admin.execute(SCHEMA + DERIVED)
    said = RULES.replace("      born:", "      digits: {level: general}\n      words: {level: general}\n      born:")
    plan = await place.apply(said)
    assert not any("is made of" in w for w in plan.warnings)
    assert await place.run("ap_agent", "SELECT count(digits) > 0, count(words) > 0 FROM customers") == [(True, True)]


FAMILY = """
CREATE TABLE vip (shout text GENERATED ALWAYS AS (upper(name) || phone) STORED, town text) INHERITS (customers);
INSERT INTO vip (id, name, phone, town) VALUES (500, 'Anna Kowal', '13800001234', 'Delft');
GRANT SELECT ON vip TO ap_app, ap_centre;
"""


async def test_what_a_child_makes_of_its_parents_columns_is_masked(place: Place) -> None:
    await place.admin.execute(SCHEMA + FAMILY)
    await place.apply(RULES)
    for column in ("shout", "phone", "vip"):
        assert await place.sqlstate("ap_agent", f"SELECT {column} FROM vip") == "42501", column
    assert await place.run("ap_agent", "SELECT town FROM vip") == [("Delft",)]
    assert await place.run("ap_app", "SELECT shout, town FROM vip") == [("ANNA KOWAL13800001234", "Delft")]
    schema = place.view(RULES, "ap_agent", "ap_centre")
    assert await place.run("ap_agent", f"SELECT shout, name, phone, town FROM {schema}.vip") == [
        (None, "Anna Kowal", "138****1234", "Delft")
    ]
    assert not (await place.plan(RULES)).changes


async def test_a_column_that_is_derived_later_is_work(any_place: Place) -> None:
    place = any_place
    if place.admin.get_server_version().major < 17:
        pytest.skip("SET EXPRESSION is of PostgreSQL 17")
    await place.admin.execute(SCHEMA + "ALTER TABLE customers ADD words text GENERATED ALWAYS AS (upper(note)) STORED")
    await place.apply(RULES)
    assert await place.run("ap_agent", "SELECT words FROM customers WHERE id = 10") == [("N10",)]
    assert await _derived(place) == {()}
    await place.admin.execute("ALTER TABLE customers ALTER words SET EXPRESSION AS (upper(phone))")
    plan = await place.apply(RULES)
    assert any("words is made of public.customers.phone" in w for w in plan.warnings)
    assert await place.sqlstate("ap_agent", "SELECT words FROM customers") == "42501"
    assert await _derived(place) == {("words",)}
    assert not (await place.plan(RULES)).changes


async def _derived(place: Place) -> set[tuple[str, ...]]:
    """What the masking views of customers hide for what it is made of, by the record."""
    record = read_record(await place.admin.fetchval("SELECT obj_description('pgveil.applied'::regclass)"))
    assert record is not None
    return {v.derived for v in record.views if v.name == "customers"}


async def test_row_level_security_is_an_obstacle(place: Place) -> None:
    await place.admin.execute(SCHEMA + "ALTER TABLE customers ENABLE ROW LEVEL SECURITY")
    plan = await place.plan(RULES)
    assert ("public.customers", "it has row-level security") in {
        (o.object, o.problem.split(",")[0]) for o in plan.obstacles
    }


async def test_grant_option_is_an_obstacle(place: Place) -> None:
    await place.admin.execute(SCHEMA + "GRANT SELECT ON customers TO ap_dba WITH GRANT OPTION")
    plan = await place.plan(RULES)
    assert [o.object for o in plan.obstacles] == ["public.customers"]
    assert "ap_dba holds SELECT" in plan.obstacles[0].problem


async def test_a_limited_member_of_a_clear_login_is_an_obstacle(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.admin.execute("CREATE ROLE ap_under LOGIN; GRANT ap_lead TO ap_under")
    try:
        plan = await place.plan(RULES)
        assert any("ap_under, a member of ap_lead" in o.problem for o in plan.obstacles)
    finally:
        await place.admin.execute("DROP ROLE ap_under")


async def test_classes_that_nobody_is_in_are_dropped(walled: Place) -> None:
    stale = walled.view(RULES, "ap_dba")
    changed = RULES.replace("dba: {logins: [ap_dba], levels: {core: masked, important: refused}}", "")
    plan = await walled.apply(changed)
    assert stale in {c.object for c in plan.changes if c.kind == "drop"}
    assert await walled.admin.fetchval("SELECT to_regnamespace($1)", stale) is None


async def test_a_column_masked_first_and_sealed_later(walled: Place) -> None:
    sealed = RULES.replace(
        "      card: {level", "      note: {level: core, mode: deterministic, type: text}\n      card: {level"
    )
    await walled.apply(sealed)
    schema = walled.view(sealed, "ap_agent")
    rows = await walled.run("ap_agent", f"SELECT note FROM {schema}.customers WHERE id = 10")
    assert rows[0][0].startswith("~")
    assert (await walled.plan(sealed)).empty


async def test_pseudonyms_are_those_of_the_ring(any_place: Place) -> None:
    from keys.mask import make_mask  # noqa: PLC0415
    from keys.types import parse_type  # noqa: PLC0415

    place = any_place
    await place.admin.execute(SCHEMA)
    rules = RULES.replace(
        "name: {level: important, mask: name}", "name: {level: important, mask: {kind: pseudonym, scope: crm}}"
    ).replace("columns: {public.customers.name: clear, public.customers.born: refused}", "")
    await place.apply(rules)
    key = place.ring.newest("pgveil:pseudonym").material
    mask = make_mask("pseudonym", {"scope": "crm"}, parse_type("text"), pseudonym_key=key)
    shown = mask.apply(b"John Smith")
    assert shown is not None
    schema = place.view(rules, "ap_agent")
    assert await place.run("ap_agent", f"SELECT DISTINCT name FROM {schema}.customers") == [(shown.decode(),)]
    assert await place.sqlstate("ap_agent", "SELECT pgveil_private.pseudonym('John Smith', 'crm', 16)") == "42501"
    assert (await place.plan(rules)).empty


async def test_a_login_that_may_not_is_told_so(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    connection = await asyncpg.connect(place.server.dsn(place.name, "ap_app"))
    rules = load_rules_text(RULES, "rules.yaml")
    plan = await make_plan(connection, rules, place.ring)
    assert "ap_app" in {o.object for o in plan.obstacles}
    with pytest.raises(ApplyError):
        await execute(connection, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)
    await connection.close()


async def test_the_owner_of_everything_need_not_be_a_superuser(any_place: Place) -> None:
    place = any_place
    place.server.psql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgveil_owner') THEN CREATE ROLE pgveil_owner NOLOGIN; END IF; END $$;"
        f'GRANT pgveil_owner TO ap_owner; ALTER DATABASE "{place.name}" OWNER TO ap_owner'
    )
    try:
        connection = await asyncpg.connect(place.server.dsn(place.name, "ap_owner"))
        await connection.execute(SCHEMA.replace("ANALYZE;", ""))
        rules = load_rules_text(RULES, "rules.yaml")
        plan = await make_plan(connection, rules, place.ring)
        assert plan.obstacles == ()
        await execute(connection, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)
        assert (await make_plan(connection, rules, place.ring)).empty
        assert await place.sqlstate("ap_agent", "SELECT phone FROM customers") == "42501"
        await connection.close()
    finally:
        place.server.psql("REVOKE pgveil_owner FROM ap_owner")


async def test_a_login_that_changes_its_class_keeps_nothing_of_the_old_one(walled: Place) -> None:
    old = walled.view(RULES, "ap_agent")
    # Two logins in the class, so that it stays when one leaves.
    both = RULES.replace("logins: [ap_agent]", "logins: [ap_agent, ap_dba]").replace(
        "dba: {logins: [ap_dba]", "dba: {logins: [ap_owner]"
    )
    await walled.apply(both)
    assert await walled.sqlstate("ap_dba", f"SELECT * FROM {old}.customers") == ""
    await walled.apply(RULES)
    assert await walled.sqlstate("ap_dba", f"SELECT * FROM {old}.customers") == "42501"
    assert await walled.admin.fetchval("SELECT has_schema_privilege('ap_dba', $1, 'USAGE')", old) is False
    assert (await walled.plan(RULES)).empty


async def test_what_is_built_on_a_masking_view_is_not_dropped_with_it(walled: Place) -> None:
    stale = walled.view(RULES, "ap_dba")
    await walled.admin.execute(f"CREATE VIEW mine AS SELECT id FROM {stale}.customers")
    rules = load_rules_text(
        RULES.replace("dba: {logins: [ap_dba], levels: {core: masked, important: refused}}", ""), "rules.yaml"
    )
    plan = await walled.plan(rules)
    with pytest.raises(ApplyError, match="2BP01"):
        await execute(walled.admin, plan, rules, walled.ring, random=os.urandom, progress=lambda *_: None)
    assert await walled.admin.fetchval("SELECT count(*) FROM mine") == 90


async def test_sealed_in_the_database_and_not_in_the_rules_is_an_obstacle(walled: Place) -> None:
    rules = RULES.replace("card: {level: core, mode: deterministic, type: text}", "card: {level: general}")
    plan = await walled.plan(rules)
    assert [(o.object, o.problem) for o in plan.obstacles] == [
        ("public.customers.card", "it is sealed in the database, and the rules do not seal it")
    ]


async def test_a_child_that_the_rules_name_is_masked_like_its_parent(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("""
        CREATE TABLE people (id int, phone text);
        CREATE TABLE staff (salary numeric, nick text) INHERITS (people);
        INSERT INTO staff VALUES (1, '13800138000', 50, 'joe');
        GRANT SELECT ON people, staff TO ap_agent;
    """)
    rules = """
version: 1
tables:
  public.people: {columns: {phone: {level: important, mask: phone}}}
  public.staff: {columns: {nick: {level: important, mask: {kind: constant, value: x}}}}
roles:
  agent: {logins: [ap_agent], levels: {important: masked}}
"""
    await place.apply(rules)
    schema = place.view(rules, "ap_agent")
    assert await place.run("ap_agent", f"SELECT phone, nick FROM {schema}.staff") == [("138****8000", "x")]
    assert await place.run("ap_agent", f"SELECT phone FROM {schema}.people") == [("138****8000",)]
    assert await place.sqlstate("ap_agent", "SELECT phone FROM staff") == "42501"
    assert (await place.plan(rules)).empty


async def test_pgveils_own_role_must_not_be_able_to_log_in(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.apply(RULES)
    await place.admin.execute("ALTER ROLE pgveil_owner LOGIN")
    try:
        assert [o.object for o in (await place.plan(RULES)).obstacles] == ["pgveil_owner"]
    finally:
        await place.admin.execute("ALTER ROLE pgveil_owner NOLOGIN")
