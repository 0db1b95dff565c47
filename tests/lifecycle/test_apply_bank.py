"""The demonstration bank under its own rules: the views against the masks' other form, and hostile statements straight at the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from keys.mask import make_mask
from keys.sealed import open_batch
from keys.types import CANONICAL_SETTINGS, decode, encode, parse_type
from lifecycle.apply import execute, make_plan
from lifecycle.demo.bank import generate, roles_sql, rules_yaml
from lifecycle.demo.load import load
from rules.load import load_rules_text
from rules.model import Protection, Verdict, quote_ident, view_name

if TYPE_CHECKING:
    from lifecycle.demo.bank import Bank
    from rules.model import Column, Rules
    from tests.lifecycle.conftest import Place

FENCED = {"agent": ("call_centre",), "analyst": (), "dba": ()}


@pytest.fixture
async def bank(any_place: Place) -> tuple[Place, Bank, Rules]:
    """The bank, its rules applied."""
    made = generate(customers=150)
    await load(any_place.admin, made)
    await any_place.admin.execute(roles_sql())
    rules = load_rules_text(rules_yaml(), "bank.rules.yaml")
    plan = await make_plan(any_place.admin, rules, any_place.ring)
    assert plan.obstacles == ()
    await execute(any_place.admin, plan, rules, any_place.ring, random=os.urandom, progress=lambda *_: None)
    return any_place, made, rules


async def texts(connection: asyncpg.Connection[Any], relation: str, columns: list[str]) -> list[tuple[str | None, ...]]:
    """A relation's columns as text under the canonical settings, by id."""
    async with connection.transaction():
        await connection.execute("SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'")
        shown = ", ".join(f"{quote_ident(c)}::text" for c in columns)
        return [tuple(r) for r in await connection.fetch(f"SELECT {shown} FROM {relation} ORDER BY id")]


def expected(column: Column, plain: str | None, verdict: Verdict) -> str | None:
    """What a view must show of a masked column, by the mask's own form in Python."""
    if plain is None or verdict is Verdict.REFUSED:
        return None
    if verdict is Verdict.CLEAR:
        return plain
    assert column.mask is not None
    assert column.type is not None
    type_ = parse_type(column.type)
    params = {n: v for n, v in column.mask.params if v is not None}
    masked = make_mask(column.mask.kind, params, type_).apply(
        decode(type_, plain.encode(), 0, settings=CANONICAL_SETTINGS)
    )
    return None if masked is None else encode(type_, masked, 0).decode()


async def test_views_show_what_the_masks_say_and_sealed_columns_open(bank: tuple[Place, Bank, Rules]) -> None:
    place, made, rules = bank
    for login, memberships in FENCED.items():
        policy = rules.principal(login, memberships).policy
        connection = await asyncpg.connect(place.server.dsn(place.name, login))
        for table in rules.tables.values():
            masked = [c for c in table.columns.values() if c.protection is Protection.MASKED]
            if not masked:
                continue
            names = [c.name.column for c in masked]
            view = f"{policy.schema}.{quote_ident(view_name(table.name))}"
            shown = await texts(connection, view, names)
            plain = await texts(place.admin, str(table.name), names)
            assert len(shown) == len(made.tables[table.name.name])
            for got, real in zip(shown, plain, strict=True):
                assert got == tuple(expected(c, v, policy.verdict(c.name)) for c, v in zip(masked, real, strict=True))
            assert await rest_is_as_in_the_table(place, connection, view, str(table.name), names)
        await connection.close()
    pans = [r[0] for r in await place.admin.fetch("SELECT pan FROM cards ORDER BY id")]
    opened = open_batch(place.ring.keys("pan"), [p.encode() for p in pans])
    assert tuple(o.decode() for o in opened if o is not None) == made.tables["cards"].column("pan")


async def rest_is_as_in_the_table(
    place: Place, connection: asyncpg.Connection[Any], view: str, table: str, masked: list[str]
) -> bool:
    """Whether the columns that are not masked are those of the table."""
    rows = await place.admin.fetch(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0", table
    )
    rest = [r[0] for r in rows if r[0] not in masked]
    return await texts(connection, view, rest) == await texts(place.admin, table, rest)


HOSTILE = """
SELECT * FROM customers
SELECT c FROM customers c
SELECT c.* FROM customers AS c(a, b, d, e)
SELECT to_jsonb(c) FROM customers c
SELECT (c).phone FROM customers c
SELECT array_agg(c) FROM customers c
SELECT phone FROM ONLY customers
TABLE customers
SELECT phone || '' FROM customers
SELECT min(phone), max(phone) FROM customers
SELECT count(*) FROM customers GROUP BY phone
SELECT id FROM customers ORDER BY phone
SELECT 1 FROM customers WHERE phone LIKE '1%'
SELECT 1 / (CASE WHEN phone > '' THEN 0 ELSE 1 END) FROM customers
SELECT phone::int FROM customers
WITH x AS (SELECT * FROM customers) SELECT * FROM x
SELECT * FROM customers a JOIN customers b USING (phone)
SELECT a.id FROM customers a NATURAL JOIN customers b
SELECT * FROM (SELECT * FROM customers) AS q(a, b)
SELECT (SELECT phone FROM customers LIMIT 1)
SELECT row_to_json(x) FROM (SELECT phone FROM customers) x
SELECT query_to_xml('SELECT * FROM customers', true, true, '')
SELECT table_to_xml('customers', true, true, '')
SELECT database_to_xml(true, true, '')
SELECT schema_to_xml('public', true, true, '')
SELECT * FROM xmltable('/table/row' PASSING table_to_xml('customers', true, false, '') COLUMNS phone text)
SELECT ts_stat.* FROM ts_stat('SELECT to_tsvector(phone) FROM customers')
EXPLAIN ANALYZE SELECT * FROM customers WHERE phone > ''
EXPLAIN SELECT * FROM customers WHERE phone = '13800138000'
COPY customers TO STDOUT
COPY (SELECT phone FROM customers) TO STDOUT
DECLARE x CURSOR FOR SELECT * FROM customers
PREPARE p AS SELECT * FROM customers; EXECUTE p
DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM customers LOOP RAISE NOTICE '%', r; END LOOP; END $$
DO $$ BEGIN EXECUTE 'SELECT phone FROM public.customers'; END $$
CREATE TEMP TABLE stolen AS SELECT * FROM customers
CREATE TEMP VIEW peep AS SELECT * FROM customers; SELECT * FROM peep
CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql AS 'SELECT phone FROM public.customers'; SELECT pg_temp.f()
CREATE FUNCTION pg_temp.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$; SELECT id FROM @V@.customers WHERE pg_temp.leak(phone)
SELECT * FROM @V@.customers WHERE phone ~ '(((('
SELECT phone::int FROM @V@.customers
SELECT income / 0 FROM @V@.customers
SELECT * FROM @V@.accounts WHERE number LIKE '%'
SELECT * FROM pg_stats WHERE tablename IN ('customers', 'accounts', 'orders')
SELECT * FROM pg_stats_ext
SELECT * FROM pg_statistic
SELECT most_common_vals FROM pg_stats
SELECT adbin FROM pg_attrdef
SELECT * FROM pg_stat_activity
UPDATE customers SET address = phone WHERE id = 1
UPDATE customers SET gender = 'X' WHERE id = 1
UPDATE customers SET gender = gender WHERE id = 1 RETURNING *
UPDATE customers SET address = (SELECT email FROM customers WHERE id = 2) WHERE id = 1
INSERT INTO customers (id, name, gender, phone, email, birth_date, id_number, locale, branch, opened_on) SELECT 9999, name, gender, phone, email, birth_date, id_number, locale, branch, opened_on FROM customers WHERE id = 1
INSERT INTO customers (id, gender) VALUES (1, 'F') ON CONFLICT (id) DO UPDATE SET address = customers.phone
INSERT INTO customers (id, gender) VALUES (1, 'F') RETURNING phone
INSERT INTO orders (customer_id, details, category, amount, ordered_at) VALUES (1, 'x', 'x', 1, now()) RETURNING details
MERGE INTO customers c USING (SELECT 1 AS id) s ON c.id = s.id WHEN MATCHED THEN UPDATE SET address = c.phone
DELETE FROM customers WHERE phone > '' RETURNING *
SELECT * FROM customers FOR UPDATE
LOCK TABLE customers; SELECT phone FROM customers
SET ROLE app; SELECT phone FROM customers
SET SESSION AUTHORIZATION app; SELECT phone FROM customers
SET ROLE pgveil_owner; SELECT phone FROM customers
RESET ROLE; SELECT phone FROM customers
GRANT SELECT ON customers TO CURRENT_USER; SELECT phone FROM customers
ALTER TABLE customers DISABLE TRIGGER ALL
CREATE RULE r AS ON INSERT TO customers DO ALSO SELECT * FROM customers
CREATE TRIGGER t AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()
CREATE TEMP TABLE probe (p varchar(20) REFERENCES customers (phone))
CREATE INDEX ON customers (phone)
CREATE STATISTICS s ON phone, email FROM customers
ANALYZE VERBOSE customers
SELECT * FROM pgveil_private.pseudonym_key
SELECT lo_import('/etc/passwd')
SELECT pg_read_file('PG_VERSION')
ALTER VIEW @V@.customers SET (security_invoker = true)
CREATE OR REPLACE VIEW @V@.customers AS SELECT * FROM public.customers
"""


async def everything_said(place: Place, login: str, script: str) -> str:
    """All that a login hears of a script: rows, notices, errors with their details."""
    heard: list[str] = []
    connection = await asyncpg.connect(place.server.dsn(place.name, login))
    connection.add_log_listener(lambda _, message: heard.append(str(message.as_dict())))
    transaction = connection.transaction()
    await transaction.start()
    try:
        if script.startswith("COPY"):
            await connection.copy_from_query("SELECT phone FROM customers", output=lambda data: _hear(heard, data))
        for statement in script.split("; ") if "$$" not in script else [script]:
            heard.extend(str(tuple(r)) for r in await connection.fetch(statement))
    except asyncpg.PostgresError as error:
        heard.append(str(error.as_dict()))
    except asyncpg.InternalClientError:
        pass
    finally:
        connection.terminate()
    return "\n".join(heard)


async def _hear(heard: list[str], data: bytes) -> None:
    heard.append(data.decode())


async def test_hostile_statements_get_nothing_masked_out(bank: tuple[Place, Bank, Rules]) -> None:
    place, made, rules = bank
    customers, accounts, cards = made.tables["customers"], made.tables["accounts"], made.tables["cards"]
    for login, memberships in FENCED.items():
        policy = rules.principal(login, memberships).policy
        secrets = {v for name in ("phone", "email", "address", "id_number") for v in customers.column(name) if v}
        secrets |= {*accounts.column("number"), *cards.column("pan")}
        for script in HOSTILE.strip().splitlines():
            heard = await everything_said(place, login, script.replace("@V@", policy.schema))
            found = [s for s in secrets if s in heard]
            assert not found, (login, script, len(found))
    # The same ears hear everything where nothing is fenced.
    assert customers.column("phone")[0] in await everything_said(place, "app", "SELECT * FROM customers")
    notice = "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM customers LOOP RAISE NOTICE '%', r; END LOOP; END $$"
    assert customers.column("phone")[0] in await everything_said(place, "app", notice)
