"""What somebody with a masked login, a psql prompt and no scruples types to get at the real values. A table; `test_attempts` runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Script:
    """Statements that make one try together. `leak`: the entry of the leak list that it belongs to.

    Places in them: <files>, a directory that the server may write, with a file `phones`; <psql>, <port> and <database> of the server.
    `blunt`: why it brings nothing up even where nothing is protected, and is tried all the same.
    """

    leak: str
    statements: tuple[str, ...]
    blunt: str = ""


_ROW = "branch, locale, gender, birth_date, opened_on, id_number, name"
_VALUES = "'b', 'en_US', 'F', '2000-01-01', '2020-01-01', '110101200001010019', 'Nobody'"

_NOTHING_OF_PGVEIL = "a database that nobody has masked holds nothing of pgveil's"
# As a superuser, from inside the server.
_PSQL = '<psql> -XAt -h 127.0.0.1 -p <port> -U postgres -d <database> -c "SELECT phone FROM customers"'

# By leak: attempts of one statement each.
SINGLE: dict[str, tuple[str, ...]] = {
    "error texts": (
        "SELECT phone::int2 FROM customers",
        "SELECT email::date FROM customers WHERE id = 1",
        "SELECT ('{' || email)::json FROM customers",
        "SELECT address::inet FROM customers WHERE id = 2",
        "SELECT (name || phone)::uuid FROM customers ORDER BY id",
        "SELECT regexp_match(phone, '(' || email) FROM customers",
        "SELECT to_date(phone, 'YYYY-MM-DD'), phone::int FROM customers",
        "UPDATE customers SET gender = 'X' WHERE id = 1",
        "UPDATE customers SET closed_on = '1900-01-01' WHERE id = 1",
        "UPDATE customers SET locale = NULL WHERE id = 1",
        "UPDATE customers SET id = 2 WHERE id = 1",
        "UPDATE customers SET phone = NULL WHERE id = 1",
        "UPDATE accounts SET kind = 'x' WHERE id = 1",
        "DELETE FROM customers WHERE id = 1",
        "SELECT pg_catalog.set_config('bank.phone', phone, false), current_setting('bank.phone') FROM customers",
        "SELECT cast(phone AS xml) FROM customers",
    ),
    "statistics": (
        "SELECT * FROM pg_stats WHERE tablename = 'customers'",
        "SELECT most_common_vals, histogram_bounds FROM pg_catalog.pg_stats WHERE schemaname = 'public'",
        "SELECT stavalues1, stavalues2, stavalues3 FROM pg_statistic WHERE starelid = 'customers'::regclass",
        "SELECT * FROM pg_stats_ext",
        "SELECT * FROM pg_stats_ext_exprs",
        "SELECT stxdmcv FROM pg_statistic_ext_data",
    ),
    "log settings": (
        "SET log_statement = 'all'",
        "SET log_min_duration_statement = 0",
        "SET log_parameter_max_length_on_error = -1",
        "SET log_min_messages = debug5",
    ),
    "explain": (
        "EXPLAIN SELECT id FROM customers WHERE phone = (SELECT phone FROM customers WHERE id = 1)",
        "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF) SELECT phone, email FROM customers WHERE phone > '1'",
        "EXPLAIN (VERBOSE, FORMAT json) SELECT * FROM customers",
        "EXPLAIN ANALYZE SELECT count(*) FROM customers WHERE phone LIKE '13%'",
        "EXPLAIN (VERBOSE) UPDATE customers SET branch = 'x' WHERE phone = '13800138000'",
        "EXPLAIN (GENERIC_PLAN) SELECT id FROM customers WHERE phone = $1",
    ),
    "views": (
        "SELECT * FROM contact_list",
        "SELECT p FROM contact_again",
        "SELECT phone FROM contact_copy",
        "SELECT whole FROM contact_rows",
        "SELECT (whole).phone FROM contact_rows",
        "SELECT row_to_json(v) FROM contact_list v",
        "TABLE contact_list",
        "SELECT count(*) FROM contact_list, pg_sleep(0) WHERE phone LIKE '1%' HAVING max(phone) > '' AND max(phone)::int > 0",
    ),
    "security definer": (
        "SELECT phone_of(1)",
        "SELECT public.phone_of(id) FROM customers",
        'SELECT "phone_of"(id) FROM customers',
        "SELECT * FROM everybody()",
        "SELECT (everybody()).phone",
        "SELECT any_text('SELECT string_agg(phone, '','') FROM customers')",
        "CALL phone_into(1, NULL)",
        "SELECT phone_in_error(1)",
        "SELECT #@ 1::bigint",
        "SELECT 1::bigint OPERATOR(public.#@)",
        "SELECT phones_of(id) FROM customers",
        "SELECT phones_of(id) OVER (ORDER BY id) FROM customers",
        "SELECT id FROM customers WHERE phone_of(id)::int > 0",
        "SELECT invoked(1)",
        "SELECT inside_out(1)",
        "SELECT file_of('<files>/phones')",
        "SELECT file_of_again('<files>/phones')",
        "SELECT * FROM rows_of()",
        "SELECT convert_from(any_file('<files>/phones'), 'UTF8')",
        "SELECT convert_from(#@@ '<files>/phones'::text, 'UTF8')",
    ),
    "DO blocks": (
        "DO $$ DECLARE r text; BEGIN SELECT phone INTO r FROM customers WHERE id = 1; RAISE NOTICE '%', r; END $$",
        "DO $x$ BEGIN RAISE EXCEPTION '%', (SELECT string_agg(phone, ',') FROM public.customers); END $x$",
        "DO LANGUAGE plpgsql 'DECLARE r record; BEGIN FOR r IN SELECT * FROM customers LOOP RAISE WARNING ''%'', r; END LOOP; END'",
        "DO $$ BEGIN ASSERT false, (SELECT phone FROM customers LIMIT 1); END $$",
        "DO $$ BEGIN PERFORM set_config('a.b', (SELECT phone FROM customers LIMIT 1), false); RAISE INFO '%', current_setting('a.b'); END $$",
        "DO $$ DECLARE c refcursor; r text; BEGIN OPEN c FOR SELECT phone FROM customers; FETCH c INTO r; RAISE NOTICE '%', r; END $$",
    ),
    "dynamic SQL": (
        "DO $$ DECLARE r text; BEGIN EXECUTE 'SELECT ph' || 'one FROM cust' || 'omers' INTO r; RAISE NOTICE '%', r; END $$",
        "DO $$ DECLARE r text; BEGIN EXECUTE format('SELECT phone FROM %I', 'cust' || 'omers') INTO r; RAISE NOTICE '%', r; END $$",
        "DO $$ DECLARE r text; BEGIN EXECUTE convert_from(decode('c0', 'hex'), 'LATIN1'); EXECUTE 'TABLE customers' INTO r; END $$",
        "DO $$ DECLARE r text; BEGIN EXECUTE reverse('sremotsuc MORF enohp TCELES') INTO r; RAISE NOTICE '%', r; END $$",
    ),
    "query_to_xml": (
        "SELECT query_to_xml('SELECT phone FROM customers', true, true, '')",
        "SELECT table_to_xml('customers', true, true, '')",
        "SELECT table_to_xml_and_xmlschema('public.customers', true, true, '')",
        "SELECT schema_to_xml('public', true, true, '')",
        "SELECT database_to_xml(true, true, '')",
        "SELECT query_to_xml_and_xmlschema('TABLE cust' || 'omers', true, true, '')",
        "SELECT * FROM ts_stat('SELECT to_tsvector(phone) FROM customers')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, plainto_tsquery(phone) FROM customers')",
    ),
    "set role": (
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SET LOCAL ROLE teller",
        "SET ROLE pgveil_owner",
        "SELECT set_config('role', 'app', false)",
        "SELECT set_config('session_authorization', 'teller', false)",
    ),
    "copy to program or file": (
        "COPY customers TO PROGRAM 'cat > <files>/stolen'",
        "COPY (SELECT phone FROM customers) TO PROGRAM 'cat > <files>/stolen'",
        "COPY (SELECT phone FROM customers) TO '<files>/stolen'",
        "COPY customers TO '<files>/stolen'",
        "COPY (SELECT 1) TO PROGRAM 'cat <files>/phones > <files>/stolen'",
        f"COPY (SELECT 1) TO PROGRAM '{_PSQL} > <files>/stolen'",
    ),
    "copy": (
        "COPY customers TO STDOUT",
        "COPY customers (id, phone) TO STDOUT (FORMAT csv)",
        "COPY (SELECT phone FROM customers) TO STDOUT",
        "COPY (TABLE customers) TO STDOUT (FORMAT binary)",
        "COPY (SELECT c FROM customers c) TO STDOUT",
        "COPY (DELETE FROM customers WHERE id = 5 RETURNING phone) TO STDOUT",
    ),
    "U& names": (
        'SELECT U&"ph\\006Fne" FROM U&"c\\0075stomers"',
        "SELECT U&\"ph!006Fne\" UESCAPE '!' FROM U&\"!0063ustomers\" UESCAPE '!'",
        'SELECT c.U&"\\0070hone" FROM customers c',
        'TABLE U&"\\0063\\0075\\0073\\0074\\006f\\006d\\0065\\0072\\0073"',
    ),
    "quoted and folded names": (
        "SELECT PHONE FROM CUSTOMERS",
        'SELECT "phone" FROM "public"."customers"',
        'SELECT PhOnE FROM PUBLIC."customers" AS "C"',
        'SELECT "C"."phone" FROM customers "C"',
        'SELECT x."public" FROM customers AS x (a, b, c, "public")',
        "SELECT d FROM customers AS x (a, b, c, d)",
        "SELECT (x).phone FROM customers x",
        "SELECT x FROM customers x",
        "SELECT (SELECT y FROM (SELECT x.*) y) FROM customers x",
        "SELECT * FROM ONLY customers",
        "SELECT * FROM customers *",
        "TABLE customers",
        "SELECT public.customers.phone FROM public.customers",
        "SELECT to_jsonb(customers) FROM customers",
        "SELECT row(c.*) FROM customers c",
        "SELECT (row_to_json(c)::jsonb)->>'phone' FROM customers c",
        "SELECT hashtext(phone), md5(phone) FROM customers",
        "SELECT customers::text FROM customers",
        "SELECT format('%s', c) FROM customers c",
        "SELECT json_agg(c) FROM customers c",
        "SELECT array_agg(phone) FROM customers",
        "SELECT xmlforest(phone, email) FROM customers",
        "SELECT * FROM json_populate_record(NULL::customers, (SELECT to_json(c) FROM customers c LIMIT 1))",
        "SELECT phone(c) FROM customers c",
        "SELECT c.phone FROM (VALUES (1)) v, LATERAL (SELECT * FROM customers) c",
        "SELECT * FROM customers NATURAL JOIN customers AS other",
        "SELECT * FROM customers JOIN customers other USING (phone)",
        "WITH customers AS (SELECT * FROM public.customers) SELECT phone FROM customers",
        "WITH RECURSIVE r AS (SELECT phone, 1 n FROM customers UNION ALL SELECT phone, n + 1 FROM r WHERE n < 2) SELECT * FROM r",
        "SELECT phone FROM customers UNION SELECT email FROM customers",
        "SELECT phone FROM customers EXCEPT SELECT '1'",
        "SELECT 'x', (SELECT phone FROM customers WHERE id = 1)",
        "VALUES ((SELECT phone FROM customers WHERE id = 1))",
        "SELECT * FROM customers TABLESAMPLE BERNOULLI (100)",
        "SELECT phone FROM customers FOR UPDATE",
    ),
    "invisible characters": (
        "SELECT\u00a0phone FROM customers",
        "SELECT phone\u200b FROM customers",
        "SELECT phone FROM\u2003customers",
        "SELECT\x0bphone\x0cFROM\x0bcustomers",
        "SELECT phone FROM \ufeffcustomers",
        "\ufeffSELECT phone FROM customers",
        'SELECT phone FROM "customers\u200b"',
        "SELECT phone FROM customer\u017f",
        "SELECT phone FROM CUSTOMER\u212a",
    ),
    "comments": (
        "SELECT/**/phone/* /* nested */ FROM nothing */FROM/**/customers",
        "SELECT phone -- FROM nothing\nFROM customers",
        "SELECT phone FROM -- \r customers\n customers",
        "SELECT 1/*'*/, phone FROM customers --'",
        "SELECT $$/*$$, phone FROM customers --$$*/$$",
        "SELECT c /* . */ . /* x */ phone FROM public /**/ . /**/ customers c",
        "/* leading */ TABLE /* inner */ customers /* trailing",
    ),
    "multi-statement strings": (
        "SELECT 1; SELECT phone FROM customers",
        "BEGIN; SET LOCAL search_path = lair, public; SELECT phone FROM customers; COMMIT",
        "SET search_path = public; SELECT phone FROM customers",
        ";;; ; SELECT phone FROM customers ;;",
        "CREATE TEMP TABLE t AS SELECT phone FROM customers; SELECT * FROM t",
        "SELECT '\\'; SELECT phone FROM customers; --'",
    ),
    "advisory tricks": (
        "SELECT pg_try_advisory_lock(replace(phone, '*', '0')::bigint) FROM customers",
        "SELECT classid::bigint * 4294967296 + objid::bigint FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT pg_advisory_unlock_all()",
    ),
    "sort order": ("SELECT id, phone FROM customers ORDER BY phone, email, id_number",),
    "aggregates": (
        "SELECT min(phone), max(email), string_agg(address, ',') FROM customers WHERE id = 1",
        "SELECT min(id_number) FROM customers",
        "SELECT sum(income), avg(balance) FROM customers c JOIN accounts a ON a.customer_id = c.id WHERE c.id = 1",
        "SELECT mode() WITHIN GROUP (ORDER BY phone), percentile_disc(0) WITHIN GROUP (ORDER BY email) FROM customers WHERE id = 1",
        "SELECT phone, count(*) FROM customers GROUP BY ROLLUP (phone)",
        "SELECT DISTINCT ON (email) email FROM customers",
        "SELECT string_agg(pan, ',') FROM cards",
        "SELECT details, min(details) FROM orders GROUP BY 1",
    ),
    "window frames": (
        "SELECT first_value(phone) OVER w, lag(email) OVER w FROM customers WINDOW w AS (ORDER BY id ROWS BETWEEN CURRENT ROW AND CURRENT ROW)",
        "SELECT nth_value(phone, 1) OVER (PARTITION BY phone ORDER BY email) FROM customers",
        "SELECT max(income) OVER (ORDER BY income RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM customers",
        "SELECT array_agg(phone) OVER (ROWS UNBOUNDED PRECEDING) FROM customers",
    ),
    "writes that read": (
        "INSERT INTO support_tickets (customer_id, channel, subject, body, status, created_at) SELECT id, 'mail', phone, email, 'open', now() FROM customers WHERE id = 1 RETURNING *",
        "UPDATE customers SET branch = phone WHERE id = 1 RETURNING branch",
        "UPDATE support_tickets t SET body = c.phone FROM customers c WHERE c.id = t.customer_id RETURNING t.body",
        "UPDATE customers SET branch = branch WHERE id = 1 RETURNING *",
        "UPDATE customers SET branch = branch WHERE id = 1 RETURNING phone",
        "DELETE FROM reviews r USING customers c WHERE c.id = r.customer_id RETURNING c.phone",
        "UPDATE customers SET (branch, locale) = (SELECT phone, 'x') WHERE id = 1",
        "UPDATE customers SET email = phone WHERE id = 1",
        "WITH w AS (UPDATE customers SET branch = branch WHERE id = 1 RETURNING *) SELECT * FROM w",
        "SELECT phone INTO lair.loot FROM customers",
        "CREATE TABLE lair.loot AS TABLE customers",
        "MERGE INTO reviews r USING customers c ON c.id = r.customer_id WHEN MATCHED THEN UPDATE SET body = c.phone",
    ),
    "system columns": (
        "SELECT ctid, xmin, tableoid FROM customers",
        "SELECT xmin, phone FROM customers",
    ),
}


def _scripts() -> Iterator[Script]:
    """Attempts of several statements."""

    def script(leak: str, *statements: str, blunt: str = "") -> Script:
        return Script(leak, statements, blunt)

    yield script(
        "error texts",
        f"INSERT INTO customers ({_ROW}, phone, email) VALUES ({_VALUES}, '1', NULL)",
        blunt="the error quotes the writer's own row",
    )
    yield script(
        "log settings", "SET client_min_messages = debug5", "SELECT phone FROM customers WHERE email LIKE 'a%'"
    )
    for setting in ("debug_print_plan", "debug_print_parse", "debug_print_rewritten"):
        yield script(
            "log settings",
            "SET client_min_messages = log",
            f"SET {setting} = on",
            "SELECT id FROM customers WHERE phone > email",
            blunt="a plan holds the statement's own constants, and no row",
        )
    yield script("statistics", "ANALYZE customers", "SELECT histogram_bounds, most_common_vals FROM pg_stats")
    yield script(
        "statistics",
        "CREATE STATISTICS lair.s (mcv) ON phone, email FROM customers",
        "ANALYZE customers",
        "SELECT m.* FROM pg_statistic_ext_data d, pg_mcv_list_items(d.stxdmcv) m",
    )
    yield script(
        "views",
        "CREATE VIEW lair.v AS SELECT phone FROM public.customers",
        "SELECT * FROM lair.v",
        "CREATE VIEW lair.w WITH (security_invoker) AS SELECT * FROM public.contact_list",
        "SELECT * FROM lair.w",
    )
    yield script("views", "CREATE TEMP VIEW v AS TABLE public.customers", "SELECT * FROM v")
    yield script("views", "CREATE MATERIALIZED VIEW lair.m AS SELECT phone FROM public.customers", "TABLE lair.m")
    yield script(
        "views",
        "CREATE OR REPLACE VIEW public.contact_list AS SELECT id, name, phone, phone::text AS email FROM customers",
        "SELECT email FROM contact_list",
    )
    yield script(
        "security definer",
        "CREATE FUNCTION lair.f() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT string_agg(phone, '','') FROM public.customers'",
        "SELECT lair.f()",
    )
    yield script(
        "dynamic SQL",
        "CREATE FUNCTION lair.g() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN EXECUTE 'SELECT string_agg(phone, '','') FROM cust' || 'omers' INTO r; RETURN r; END $$",
        "SELECT lair.g()",
        "SELECT * FROM lair.g()",
    )
    yield script("dynamic SQL", "PREPARE p AS SELECT phone FROM customers", "EXECUTE p")
    yield script(
        "dynamic SQL",
        "PREPARE q (int) AS SELECT phone FROM public.customers WHERE id = $1",
        "EXECUTE q (1)",
        "EXPLAIN VERBOSE EXECUTE q (1)",
    )
    yield script(
        "large objects",
        "DO $$ BEGIN PERFORM lo_from_bytea(77001, (SELECT string_agg(phone, ',') FROM customers)::bytea); END $$",
        "SELECT convert_from(lo_get(77001), 'UTF8')",
        "SELECT lo_unlink(77001)",
    )
    yield script(
        "large objects",
        "SELECT lo_from_bytea(77002, string_agg(phone, ',')::bytea) FROM customers",
        "SELECT convert_from(lo_get(77002), 'UTF8')",
        "SELECT lo_unlink(77002)",
    )
    yield script(
        "large objects",
        "SELECT lo_from_bytea(77003, string_agg(phone, ',')::bytea) FROM customers",
        "SELECT lo_export(77003, '<files>/stolen')",
        "SELECT data FROM pg_largeobject",
        "SELECT lo_unlink(77003)",
    )
    yield script(
        "large objects",
        "SELECT lo_import('<files>/phones', 77004)",
        "SELECT convert_from(lo_get(77004), 'UTF8')",
        "SELECT lo_unlink(77004)",
    )
    for source in ("'<files>/phones'", f"PROGRAM '{_PSQL}'", "PROGRAM 'cat <files>/phones'"):
        yield script(
            "copy to program or file",
            "CREATE TEMP TABLE loot (l text)",
            f"COPY loot FROM {source}",
            "TABLE loot",
        )
    yield script(
        "copy to program or file",
        "CREATE TEMP TABLE loot (l text)",
        "CREATE FUNCTION lair.fetch() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COPY loot FROM '<files>/phones'; END $$",
        "SELECT lair.fetch()",
        "TABLE loot",
    )
    yield script(
        "functions in C",
        "CREATE FUNCTION lair.f(sql text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all'",
        "SELECT convert_from(lair.f('<files>/phones'), 'UTF8')",
    )
    yield script(
        "functions in C",
        "CREATE OPERATOR lair.## (RIGHTARG = text, FUNCTION = 'pg_read_file')",
        "SELECT lair.## '<files>/phones'::text",
        "SELECT OPERATOR(lair.##) '<files>/phones'::text",
    )
    yield script(
        "dynamic SQL",
        "CREATE FUNCTION lair.nested() RETURNS text LANGUAGE plpgsql AS $a$ BEGIN DO $b$ BEGIN PERFORM set_config('a.b', (SELECT string_agg(phone, ',') FROM public.customers), false); END $b$; RETURN current_setting('a.b'); END $a$",
        "SELECT lair.nested()",
    )
    yield script(
        "system catalogs",
        "UPDATE pg_proc SET proname = 'innocent' WHERE proname = 'pg_read_file'",
        "SELECT innocent('<files>/phones')",
        "UPDATE pg_proc SET proname = 'pg_read_file' WHERE proname = 'innocent'",
    )
    yield script(
        "system catalogs",
        "UPDATE pg_class SET relname = 'innocent' WHERE relname = 'cust' || 'omers' AND relnamespace = 'public'::regnamespace",
        "SELECT phone FROM innocent",
        "UPDATE pg_class SET relname = 'cust' || 'omers' WHERE relname = 'innocent'",
    )
    yield script(
        "system catalogs",
        "ALTER SCHEMA public RENAME TO innocent",
        "SELECT phone FROM innocent.customers",
        "ALTER SCHEMA innocent RENAME TO public",
    )
    yield script(
        "rules and triggers",
        "CREATE FUNCTION lair.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', OLD; RETURN NEW; END $$",
        "CREATE TRIGGER tell BEFORE UPDATE ON public.customers FOR EACH ROW EXECUTE FUNCTION lair.tell()",
        "UPDATE customers SET branch = branch WHERE id = 1",
        "DROP TRIGGER tell ON public.customers",
    )
    yield script(
        "rules and triggers",
        "CREATE TABLE lair.loot (row text)",
        "CREATE RULE loot AS ON UPDATE TO public.customers DO ALSO INSERT INTO lair.loot VALUES (OLD.phone)",
        "UPDATE customers SET branch = branch WHERE id = 1",
        "TABLE lair.loot",
        "DROP RULE loot ON public.customers",
    )
    yield script(
        "rules and triggers",
        "CREATE TABLE lair.bait (id bigint)",
        "CREATE RULE r AS ON INSERT TO lair.bait DO ALSO SELECT phone FROM public.customers",
        "INSERT INTO lair.bait VALUES (1)",
    )
    yield script(
        "rules and triggers",
        "CREATE TABLE lair.bait (id bigint)",
        "CREATE FUNCTION lair.peek() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', (SELECT string_agg(phone, ',') FROM public.customers); RETURN NEW; END $$",
        "CREATE TRIGGER peek BEFORE INSERT ON lair.bait FOR EACH ROW EXECUTE FUNCTION lair.peek()",
        "INSERT INTO lair.bait VALUES (1)",
    )
    yield script(
        "rules and triggers",
        "CREATE TABLE lair.bait (id bigint, p text DEFAULT public.phone_of(1))",
        "INSERT INTO lair.bait (id) VALUES (1) RETURNING p",
    )
    yield script(
        "rules and triggers",
        "CREATE DOMAIN lair.nosy AS bigint CHECK (public.phone_in_error(VALUE) IS NULL)",
        "SELECT 1::lair.nosy",
    )
    yield script(
        "rules and triggers",
        "CREATE FUNCTION lair.steady(bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT phone FROM public.customers WHERE id = $1); END $$",
        "CREATE TABLE lair.bait (id bigint, p text GENERATED ALWAYS AS (lair.steady(id)) STORED)",
        "INSERT INTO lair.bait (id) VALUES (1) RETURNING p",
    )
    yield script(
        "user types and operators",
        "CREATE TYPE lair.pair AS (a text, b text)",
        "SELECT (phone, email)::lair.pair FROM customers",
        "SELECT (ROW(phone, email)::lair.pair).a FROM customers",
    )
    yield script(
        "user types and operators",
        "CREATE FUNCTION lair.shouted(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN true; END $$",
        "CREATE DOMAIN lair.shouting AS text CHECK (lair.shouted(VALUE))",
        "SELECT phone::lair.shouting FROM customers",
    )
    yield script(
        "user types and operators",
        "CREATE FUNCTION lair.told(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'cast %', $1; RETURN 1; END $$",
        "CREATE TYPE lair.box AS (v int)",
        "CREATE FUNCTION lair.boxed(text) RETURNS lair.box LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'cast %', $1; RETURN ROW(1); END $$",
        "CREATE CAST (text AS lair.box) WITH FUNCTION lair.boxed(text) AS ASSIGNMENT",
        "SELECT phone::text::lair.box FROM customers",
    )
    yield script(
        "user types and operators",
        "CREATE FUNCTION lair.shout(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'heard % %', $1, $2; END $$",
        "CREATE OPERATOR lair.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = lair.shout)",
        "SELECT id FROM customers WHERE phone::text OPERATOR(lair.===) 'x'",
        "SELECT id FROM customers c JOIN customers d ON c.phone::text === d.email::text",
    )
    yield script(
        "user types and operators",
        "CREATE FUNCTION lair.hear(text, text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'heard % %', $1, $2; RETURN true; END $$",
        "CREATE OPERATOR lair.<<<>>> (LEFTARG = text, RIGHTARG = text, FUNCTION = lair.hear)",
        "SELECT id FROM customers WHERE phone::text OPERATOR(lair.<<<>>>) 'x'",
        "SELECT id FROM customers WHERE phone::text <<<>>> email::text AND id = 1",
    )
    yield script(
        "search_path shadowing",
        "CREATE FUNCTION lair.length(text) RETURNS int LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN 1; END $$",
        "SET search_path = lair, public, pg_catalog",
        "SELECT length(phone) FROM customers",
        "SELECT id FROM customers WHERE length(email) > 0",
    )
    yield script(
        "search_path shadowing",
        "CREATE FUNCTION lair.\"left\"(text, int) RETURNS text LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN $1; END $$",
        "CREATE FUNCTION lair.substr(text, int, int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN $1; END $$",
        "CREATE FUNCTION lair.regexp_replace(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN $1; END $$",
        "CREATE FUNCTION lair.textcat(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'heard %', $1; RETURN $1; END $$",
        "CREATE OPERATOR lair.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = lair.textcat)",
        "SET search_path = lair, public, pg_catalog",
        "SELECT phone, email, address FROM customers",
    )
    yield script(
        "search_path shadowing",
        "CREATE FUNCTION lair.noisy(text, text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'heard % %', $1, $2; RETURN true; END $$",
        "CREATE OPERATOR lair.= (LEFTARG = text, RIGHTARG = text, FUNCTION = lair.noisy)",
        "SET search_path = lair, public, pg_catalog",
        "SELECT id FROM customers WHERE phone::text = 'x'::text",
    )
    yield script(
        "search_path shadowing",
        "CREATE TABLE lair.customers (id int, phone text)",
        "SELECT phone FROM customers",
        "SELECT phone FROM public.customers",
        "SET search_path = public, lair",
        "SELECT phone FROM customers",
        "DROP TABLE lair.customers",
    )
    yield script(
        "temp tables of the same name",
        "CREATE TEMP TABLE customers (id int, phone text)",
        "SELECT phone FROM customers",
        "SELECT phone FROM public.customers",
        "DROP TABLE pg_temp.customers",
        "SELECT phone FROM customers",
    )
    yield script(
        "temp tables of the same name",
        "CREATE TEMP TABLE customers AS SELECT 1 AS id",
        "BEGIN",
        "DROP TABLE customers",
        "SELECT phone FROM customers",
        "ROLLBACK",
        "DISCARD ALL",
        "SELECT phone FROM customers",
    )
    yield script(
        "temp tables of the same name",
        "CREATE TEMP TABLE loot (LIKE public.customers INCLUDING ALL)",
        "INSERT INTO loot SELECT * FROM public.customers",
        "TABLE loot",
    )
    yield script(
        "temp tables of the same name",
        "CREATE TEMP TABLE child () INHERITS (public.customers)",
        "SELECT * FROM public.customers",
    )
    yield script("set role", "SET ROLE teller", "SELECT phone FROM customers", "RESET ROLE")
    yield script("set role", "SET ROLE call_centre", "SELECT phone FROM customers", "SET ROLE NONE")
    yield script("set role", "SET SESSION AUTHORIZATION app", "SELECT phone FROM customers")
    yield script(
        "standard_conforming_strings",
        "SET standard_conforming_strings = off",
        "SELECT '\\'', phone FROM customers --'",
        "SELECT 'a\\\\', phone FROM customers",
        "SELECT E'\\'', phone FROM customers --'",
        "SET standard_conforming_strings = on",
        "SELECT '\\', phone FROM customers",
    )
    yield script(
        "client_encoding",
        "SET client_encoding = 'LATIN1'",
        "SELECT phone FROM customers",
        "SET client_encoding = 'SQL_ASCII'",
        "SELECT phone FROM customers",
        "SET NAMES 'GBK'",
        "SELECT phone FROM customers",
    )
    yield script(
        "cursors",
        "BEGIN",
        "DECLARE c CURSOR WITH HOLD FOR SELECT phone FROM customers",
        "FETCH ALL FROM c",
        "COMMIT",
        "FETCH ALL FROM c",
        "CLOSE c",
    )
    yield script(
        "cursors",
        "BEGIN",
        "DECLARE c SCROLL CURSOR FOR TABLE public.customers",
        "MOVE 1 IN c",
        "FETCH BACKWARD 1 FROM c",
        "FETCH ABSOLUTE 2 FROM c",
        "COMMIT",
    )
    yield script(
        "cursors",
        "BEGIN",
        "DO $$ DECLARE c refcursor := 'mine'; BEGIN OPEN c FOR SELECT phone FROM customers; END $$",
        "FETCH ALL FROM mine",
        "COMMIT",
    )
    yield script(
        "cursors",
        "CREATE FUNCTION lair.curse() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'yours'; BEGIN OPEN c FOR SELECT phone FROM public.customers; RETURN c; END $$",
        "BEGIN",
        "SELECT lair.curse()",
        'FETCH ALL FROM "yours"',
        "COMMIT",
    )
    yield script("notify", "LISTEN loot", "SELECT pg_notify('loot', phone) FROM customers", "SELECT 1")
    yield script(
        "notify",
        "LISTEN loot",
        "DO $$ BEGIN PERFORM pg_notify('loot', (SELECT phone FROM customers LIMIT 1)); END $$",
        "SELECT 1",
    )
    yield script(
        "sequences",
        "CREATE SEQUENCE lair.s",
        "SELECT setval('lair.s', replace(phone, '*', '1')::bigint) FROM customers WHERE id = 1",
        "SELECT last_value FROM lair.s",
    )
    yield script(
        "sequences",
        "CREATE SEQUENCE lair.s",
        "DO $$ BEGIN PERFORM setval('lair.s', (SELECT phone FROM customers WHERE id = 1)::bigint); END $$",
        "SELECT currval('lair.s')",
    )
    yield script(
        "prepared across SET",
        "PREPARE s AS SELECT phone FROM customers",
        "SET search_path = lair",
        "EXECUTE s",
        "SET search_path = public",
        "EXECUTE s",
    )
    yield script(
        "own indexes and constraints",
        "CREATE INDEX ON public.customers ((phone::int))",
        "ALTER TABLE public.customers ADD CHECK (phone < 'x')",
    )
    yield script(
        "own indexes and constraints",
        "ALTER TABLE public.customers ALTER phone TYPE int USING phone::int",
        "ALTER TABLE public.customers ADD COLUMN lair int GENERATED ALWAYS AS (phone::int) STORED",
    )
    yield script(
        "own indexes and constraints",
        "CREATE TABLE lair.probe (p varchar(20) REFERENCES public.customers (phone))",
        "INSERT INTO lair.probe VALUES ('1')",
        blunt="answers a guess of the writer's own; test_oracles asks what it answers",
    )
    yield script(
        "own indexes and constraints",
        "CREATE TABLE lair.part (LIKE public.customers)",
        "ALTER TABLE lair.part INHERIT public.customers",
        "SELECT * FROM public.customers",
    )
    yield script(
        "own indexes and constraints",
        "CREATE POLICY p ON public.customers USING (phone::int > 0)",
        "SELECT id FROM customers",
        blunt="a superuser passes policies",
    )
    yield script(
        "pgveil's own objects",
        "SELECT * FROM pgveil.privileges_before",
        "SELECT * FROM pgveil_private.pseudonym_key",
        "SELECT pgveil.mask_phone('1')",
        blunt=_NOTHING_OF_PGVEIL,
    )
    yield script(
        "pgveil's own objects",
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pgveil%'",
        "CREATE OR REPLACE FUNCTION pgveil.mask_phone(v text) RETURNS text LANGUAGE sql RETURN v",
        blunt=_NOTHING_OF_PGVEIL,
    )


SCRIPTS: tuple[Script, ...] = tuple(_scripts())
