"""Statements that can run or show what their text does not say are recorded as reading all that the login could read (ADR 0031)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.decisions import Gate
from proxy.session.gate import Admit, NeedNames, NeedSettings, Pass, Refuse, Settings
from proxy.vocabulary import VOCABULARY_QUERY, vocabulary
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.harmless import is_harmless
from rules.load import load_rules_text
from tests.rules.test_decisions_golden import VisibleSealer

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

SETUP = """
CREATE TABLE customers (id bigint PRIMARY KEY, branch_id int NOT NULL, name varchar(80), phone varchar(20));
CREATE TABLE branches (id int PRIMARY KEY, city text, budget int);
CREATE TABLE notes (id int, body text);
CREATE TABLE history (id int, what text);
CREATE FUNCTION plain(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
CREATE FUNCTION reader(int) RETURNS text LANGUAGE sql AS 'SELECT name FROM customers WHERE id = $1';
CREATE FUNCTION runner(text) RETURNS text LANGUAGE plpgsql AS 'DECLARE r text; BEGIN EXECUTE $1 INTO r; RETURN r; END';
CREATE FUNCTION asker(text) RETURNS xml LANGUAGE sql AS 'SELECT query_to_xml($1, true, true, '''')';
CREATE PROCEDURE teller_of() LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''%'', (SELECT name FROM customers LIMIT 1); END';
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO history VALUES (new.id, new.phone); RETURN new; END';
CREATE TRIGGER kept BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION keep();
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.body := (SELECT name FROM customers LIMIT 1); RETURN new; END';
CREATE TRIGGER looked BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION look();
CREATE FUNCTION raw(text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all';
"""
RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {level: important, mask: name}
      phone: {level: important, mask: phone}
roles:
  app: {logins: [app], levels: {important: clear}}
  agent: {logins: [agent], levels: {important: masked}}
"""
SETTINGS = Settings(True, "UTF8", ("public",), "app")
EVERYTHING = frozenset({"name", "phone"})

# What can show anything.
ALL = (
    "DO $$ BEGIN RAISE NOTICE '%', (SELECT name FROM customers LIMIT 1); END $$",
    "SELECT query_to_xml('select name from customers', true, true, '')",
    "SELECT table_to_xml('customers', true, true, '')",
    "SELECT pg_catalog.query_to_xml($1, true, true, '')",
    "SELECT cursor_to_xml('c', 1, true, true, '')",
    "SELECT schema_to_xml('public', true, true, '')",
    "SELECT * FROM ts_stat('select name::tsvector from customers')",
    "SELECT ts_rewrite('a'::tsquery, 'select name::tsquery, name::tsquery from customers')",
    "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'",
    "SELECT * FROM pg_catalog.pg_statistic",
    "SELECT stxdmcv FROM pg_statistic_ext_data",
    "SELECT query FROM pg_stat_activity",
    "SELECT convert_from(lo_get(1), 'UTF8')",
    "SELECT loread(0, 100)",
    "SELECT data FROM pg_largeobject",
    "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL)",
    "SELECT pg_read_file('base/1/1')",
    "SELECT runner('select name from customers')",
    "SELECT asker('select name from customers')",
    "SELECT raw('x')",
    "SELECT made_a_moment_ago(1)",
    "SELECT public.made_a_moment_ago(id) FROM branches",
    "SELECT count(*) FROM branches b, made_a_moment_ago(b.id)",
    "SELECT pg_temp.now()",
    "SELECT pg_temp.mine(1)",
    "CALL made_a_moment_ago()",
    "EXPLAIN ANALYZE SELECT made_a_moment_ago(1)",
    "CREATE TABLE x AS SELECT made_a_moment_ago(1)",
    "COPY (SELECT made_a_moment_ago(1)) TO STDOUT",
    "PREPARE p AS SELECT made_a_moment_ago(1)",
    "DECLARE c CURSOR FOR SELECT made_a_moment_ago(1)",
    "INSERT INTO branches (id) VALUES (made_a_moment_ago())",
    "WITH a (b) AS (SELECT 1), c (d) AS (SELECT made_a_moment_ago(1)) SELECT * FROM c",
    "EXECUTE p",
    "FETCH ALL FROM c",
    "LISTEN c",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT name FROM customers'",
    "CREATE OR REPLACE PROCEDURE pg_temp.f() LANGUAGE sql AS ''",
    "CREATE CONSTRAINT TRIGGER g AFTER INSERT ON branches FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE OPERATOR pg_temp.@#@ (RIGHTARG = int, FUNCTION = f)",
    "CREATE CAST (branches AS text) WITH FUNCTION f(branches)",
    "CREATE DOMAIN d AS int CHECK (f(value))",
    "ALTER FUNCTION f() SECURITY DEFINER",
    "ALTER TABLE branches ALTER COLUMN city TYPE text USING runner(city)",
)
# What reads some columns besides those that it names.
SOME = {
    "SELECT reader(1)": {"name", "phone"},  # of a function the tables are known, not the columns
    "SELECT phone, plain(1), reader(2) FROM customers": {"name", "phone"},
    "CALL teller_of()": {"name", "phone"},
    "UPDATE customers SET branch_id = 2": {"name", "phone"},  # the trigger is given the row
    "INSERT INTO notes (id) VALUES (1)": {"name", "phone"},
    "SELECT name FROM customers": {"name"},
}
# What shows nothing but what it says: no record, and no wait for one.
NOTHING = (
    "SELECT 1",
    "SELECT now(), random(), gen_random_uuid(), current_setting('x', true), clock_timestamp(), pg_backend_pid()",
    "SELECT plain(1)",
    "SELECT public.plain(1)",
    "SELECT id, branch_id FROM customers WHERE id = 1",
    "INSERT INTO branches (id, city) VALUES (1, 'x')",
    "INSERT INTO public.branches(id, city) SELECT 1, 'x'",
    "INSERT INTO branches AS b (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET (city, budget) = (b.city, 1)",
    "WITH a (x, y) AS (SELECT 1, 2), b (z) AS MATERIALIZED (SELECT 3) SELECT * FROM a, b",
    "SELECT * FROM (VALUES (1, 2)) t (a, b) JOIN LATERAL (SELECT 1) AS u(c) ON true",
    "SELECT x.a FROM branches x (a, b)",
    "SELECT cast(city AS varchar(10)), budget::numeric(10, 2), 'x'::character varying(3) FROM branches",
    "SELECT count(*) FILTER (WHERE id IN (1, 2)) OVER (PARTITION BY city) FROM branches",
    "SELECT json_agg(b), jsonb_build_object('a', 1), to_char(now(), 'YYYY'), nextval('s') FROM branches b",
    "SELECT a FROM unnest(ARRAY[1]) WITH ORDINALITY AS t (a, n)",
    "SELECT n FROM rows_of WHERE EXISTS (SELECT 1)",
    "CREATE TABLE x (a int PRIMARY KEY, b int REFERENCES branches (id))",
    "CREATE INDEX i ON branches (city)",
    "SELECT pg_advisory_lock(1), pg_table_size('branches'), pg_get_viewdef(1), has_table_privilege('branches', 'select')",
    "SELECT n_live_tup FROM pg_stat_user_tables",
    "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace",
    "NOTIFY c, 'x'",
    "PREPARE p (int) AS SELECT $1",
    "BEGIN",
    "SET search_path = public",
    "SELECT set_config('a.b', 'c', false)",
    "SELECT EXTRACT(year FROM now()), substring('abc' FROM 1 FOR 2), trim(both FROM 'x'), overlay('a' PLACING 'b' FROM 1)",
    "SELECT grouping(city) FROM branches GROUP BY GROUPING SETS ((city), ())",
    "UPDATE branches SET (city, budget) = ('x', 1) WHERE (id, city) = (1, 'y')",
    "MERGE INTO branches b USING (SELECT 1 AS id) s ON s.id = b.id WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
    "SELECT xmlelement(name a, xmlattributes(1 AS b)), xmlforest(city) FROM branches",
    "SELECT json_object('a': 1), json_array(1, 2)",
)


@pytest.fixture(scope="module")
def gate(pg: Postgres) -> Gate:
    return gate_of(pg, SETUP)


def gate_of(pg: Postgres, setup: str) -> Gate:
    """A gate over a database of this making."""
    with psycopg.connect(pg.dsn(pg.create_database()), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute(setup.encode())
        rows = {name: connection.execute(sql.encode()).fetchall() for name, sql in CATALOG_QUERIES.items()}
        words = connection.execute(VOCABULARY_QUERY.encode()).fetchone()
    assert words is not None
    rules = load_rules_text(RULES, "rules.yaml")
    return Gate(rules, build_catalog(rows), VisibleSealer(), vocabulary=vocabulary(*words.values()))


def read(gate: Gate, sql: str, login: str = "app") -> frozenset[str]:
    """The columns that the record says are read; of a Pass none."""
    decision = gate.decide(sql.encode(), gate.principal(login), SETTINGS, extended=False)
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    if isinstance(decision, Pass):
        return frozenset()
    assert isinstance(decision, Admit), decision
    assert decision.text.decode() == sql
    return frozenset(t.column.column for p in decision.plans if p is not None for t in p.touched if t.read)


@pytest.mark.parametrize("sql", ALL)
def test_what_can_show_anything_is_recorded_as_reading_everything(gate: Gate, sql: str) -> None:
    assert read(gate, sql) == EVERYTHING
    decision = gate.decide(sql.encode(), gate.principal("app"), SETTINGS, extended=False)
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    assert isinstance(decision, Admit)
    assert all(p is not None and p.writes for p in decision.plans), "durable before it runs"


@pytest.mark.parametrize(("sql", "columns"), SOME.items())
def test_what_is_read_besides_the_names_is_recorded(gate: Gate, sql: str, columns: set[str]) -> None:
    assert read(gate, sql) == columns


@pytest.mark.parametrize("sql", NOTHING)
def test_what_shows_what_it_says_has_no_record(gate: Gate, sql: str) -> None:
    assert read(gate, sql) == frozenset()


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("CREATE TEMP VIEW v AS SELECT phone FROM customers", True),
        ("create or replace temporary view v (a) as select id from customers where name = 'x'", True),
        ("CREATE TEMP RECURSIVE VIEW v (a) AS SELECT phone FROM customers", True),
        ("CREATE VIEW pg_temp.v AS SELECT * FROM customers", True),
        ("CREATE TEMP VIEW v AS SELECT id, branch_id FROM customers", False),
        ("CREATE TEMP VIEW v AS SELECT city FROM branches", False),
        ("CREATE VIEW v AS SELECT phone FROM customers", False),
        ("CREATE VIEW public.v AS SELECT phone AS temp FROM customers", False),
        ("CREATE TEMP TABLE view AS SELECT phone FROM customers", False),
    ],
)
def test_a_view_that_no_catalog_shows(gate: Gate, sql: str, refused: bool) -> None:
    """What is read through it later would be neither recorded nor opened."""
    decision = gate.decide(sql.encode(), gate.principal("app"), SETTINGS, extended=False)
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    assert isinstance(decision, Refuse) is refused


VIEWED = replace(SETTINGS, views=frozenset({"v", "branches"}))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM v",
        "TABLE v",
        'SELECT count(*) FROM pg_temp."v"',
        "SELECT city FROM branches",  # it hides a table
        "COPY (SELECT * FROM v) TO STDOUT",
        "EXPLAIN ANALYZE SELECT * FROM v",
        "CREATE TEMP TABLE t AS SELECT * FROM v",
        "CREATE TEMP VIEW w AS SELECT * FROM v",
        "INSERT INTO history SELECT 1, body FROM v",
        "SELECT name FROM customers WHERE name IN (SELECT * FROM v)",
    ],
)
def test_a_temporary_view_is_recorded_as_reading_everything(gate: Gate, sql: str) -> None:
    decision = gate.decide(sql.encode(), gate.principal("app"), VIEWED, extended=False)
    if isinstance(decision, Refuse):
        pytest.skip("a form that is refused anyway")
    assert isinstance(decision, Admit)
    assert decision.plans[0] is not None
    assert {t.column.column for t in decision.plans[0].touched if t.read} == EVERYTHING
    # And the same text where there is no such view as before.
    assert read(gate, sql) != EVERYTHING


def test_which_texts_wait_for_the_names_of_temporary_views(gate: Gate) -> None:
    unknown = replace(SETTINGS, search_path=None, views=None)
    app = gate.principal("app")
    for sql in (
        "SELECT * FROM v",
        "SELECT * FROM branches",
        "PREPARE p AS SELECT * FROM v",
        "COPY (TABLE v) TO STDOUT",
    ):
        assert isinstance(gate.decide(sql.encode(), app, unknown, extended=False), NeedSettings), sql
    for sql in (
        "SELECT 1",
        "BEGIN",
        "COMMIT",
        "DISCARD ALL",
        "VACUUM branches",
        "SET work_mem = 1",
        "CREATE TABLE x ()",
    ):
        assert isinstance(gate.decide(sql.encode(), app, unknown, extended=False), Pass), sql
    made = gate.decide(b"CREATE VIEW x AS SELECT * FROM mine", app, SETTINGS, extended=False)
    assert isinstance(made, Pass)
    assert made.unsettles


def test_what_runs_later_is_recorded_when_it_runs(gate: Gate) -> None:
    decision = gate.decide(b"PREPARE p AS SELECT made_a_moment_ago(1)", gate.principal("app"), SETTINGS, extended=False)
    assert isinstance(decision, Admit)
    (plan,) = decision.plans
    assert plan is not None
    assert plan.later is not None
    assert {t.column.column for t in plan.later.touched} == EVERYTHING


RAW = (
    "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL)",
    "SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes('s', NULL, NULL)",
    "SELECT pg_create_logical_replication_slot('s', 'test_decoding')",
    "SELECT pg_read_file('x')",
    "SELECT pg_read_binary_file('x')",
    "SELECT pg_ls_dir('x')",
    "SELECT pg_ls_waldir()",
    "SELECT pg_stat_file('x')",
    "SELECT pg_show_all_file_settings()",
    "SELECT pg_get_backend_memory_contexts()",
    "EXECUTE p(pg_read_file('x'))",
    "CREATE TABLE x AS SELECT pg_read_file('x')",
)


@pytest.mark.parametrize("sql", RAW)
def test_what_lies_below_privileges_is_not_for_logins_with_limits(gate: Gate, sql: str) -> None:
    decision = gate.decide(sql.encode(), gate.principal("agent"), SETTINGS, extended=False)
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    assert isinstance(decision, Refuse)
    assert decision.refusal.sqlstate == "42501"


def test_what_asks_as_the_caller_is_left_to_privileges(gate: Gate) -> None:
    for sql in ("SELECT query_to_xml('select 1', true, true, '')", "SELECT query FROM pg_stat_activity", "LISTEN c"):
        assert read(gate, sql, "agent") == frozenset()


@pytest.mark.parametrize("name", ["pg_read_file", "dblink", "get_raw_page", "lo_get", "ts_stat", "whatever"])
def test_what_nobody_has_read_is_not_harmless(name: str) -> None:
    assert not is_harmless(name)


BENEATH = {
    "agent_streams": ("ALTER ROLE {role} REPLICATION", ("REPLICATION",)),
    "agent_reads": ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {role}", ("pg_read_file",)),
    "agent_by_group": (
        "GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO lower_group; GRANT lower_group TO {role}",
        ("pg_ls_waldir",),
    ),
    "agent_asks": ("GRANT EXECUTE ON FUNCTION lo_get(oid) TO {role}", ()),
    "agent_plain": ("GRANT EXECUTE ON FUNCTION pg_sleep(float8) TO {role}", ()),
}


def test_who_reaches_below_tables_is_not_fenced_by_privileges_on_them(pg: Postgres) -> None:
    """Direct calls are refused to everybody with limits; who holds the right gets no text that pgveil can't see either."""
    rules = load_rules_text(RULES.replace("[agent]", f"[{', '.join(BENEATH)}]"), "rules.yaml")
    with psycopg.connect(pg.dsn(pg.create_database()), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute(SETUP.encode())
        connection.execute("CREATE ROLE lower_group")
        for role, (sql, _) in BENEATH.items():
            connection.execute(f"CREATE ROLE {role} LOGIN; {sql.format(role=role)}".encode())
        rows = {name: connection.execute(sql.encode()).fetchall() for name, sql in CATALOG_QUERIES.items()}
        connection.rollback()
    catalog = build_catalog(rows)
    gate = Gate(rules, catalog, VisibleSealer())
    for role, (_, rights) in BENEATH.items():
        assert catalog.beneath(role) == rights, role
        assert gate.principal(role).exposed == bool(rights), role
        decision = gate.decide(b"DO $$ BEGIN NULL; END $$", gate.principal(role), SETTINGS, extended=False)
        assert isinstance(decision, Refuse if rights else Pass), role


SENDERS = {
    "": False,
    # A trigger on what is protected is given its rows, and what it calls may be given them.
    "CREATE FUNCTION n() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', row_to_json(new)::text); RETURN new; END $$;"
    "CREATE TRIGGER n AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION n()": True,
    "CREATE FUNCTION send(text) RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('c', $1) $$;"
    "CREATE FUNCTION n() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM send(new.phone); RETURN new; END $$;"
    "CREATE TRIGGER n AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION n()": True,
    "CREATE FUNCTION n() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('NOTIFY c, %L', new.phone); RETURN new; END $$;"
    "CREATE TRIGGER n AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION n()": True,
    "CREATE FUNCTION n() RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('c', string_agg(phone, ',')) FROM customers $$": True,
    "CREATE RULE n AS ON UPDATE TO customers DO ALSO SELECT pg_notify('c', new.phone)": True,
    # What is given, and reads, nothing protected.
    "CREATE FUNCTION n() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', new.city); RETURN new; END $$;"
    "CREATE TRIGGER n AFTER UPDATE ON branches FOR EACH ROW EXECUTE FUNCTION n()": False,
    "CREATE FUNCTION send(text) RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('c', $1) $$": False,
}


@pytest.mark.parametrize(("sql", "sends"), SENDERS.items())
def test_notifications_that_code_of_the_database_s_own_fills(pg: Postgres, sql: str, sends: bool) -> None:
    gate = gate_of(pg, SETUP + ";" + sql)
    assert [gate.hushes(login) for login in ("app", "agent")] == [False, sends]
