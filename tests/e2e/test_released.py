"""Ways in which a login that sees everything gets values that its statement's text does not name: each is on record before the value leaves (F8.3).

The watch on the tap (tests/e2e/watch.py) looks for the record at the moment when the bytes pass. Each way has a connection of its own, so no other
way's record counts for it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.e2e.world import World

READ = "select phone from customers where id = 7"
# Each is sent through pgveil, statement by statement; errors are what some of them are about.
WAYS = {
    "DO, as a notice": ["do $$ begin raise notice '%', (select phone from customers where id = 7); end $$"],
    "DO, as an error": ["do $$ begin raise exception '%', (select phone from customers where id = 7); end $$"],
    "DO, as a detail": [
        "do $$ begin raise 'x' using detail = (select phone from customers where id = 7), errcode = '42501'; end $$"
    ],
    "DO, into a setting": [
        "do $$ begin perform set_config('a.b', (select phone from customers where id = 7), false); end $$",
        "select current_setting('a.b')",
    ],
    "DO, into application_name": [
        "do $$ begin perform set_config('application_name', (select phone from customers where id = 7), false); end $$"
    ],
    "DO, into a sequence": [
        "create temp sequence s",
        "do $$ begin perform setval('s', (select phone::bigint from customers where phone ~ '^[0-9]+$' limit 1)); end $$",
        "select last_value from s",
    ],
    "DO, into a large object": [
        "do $$ begin perform lo_from_bytea(77001, (select phone::bytea from customers where id = 7)); end $$",
        "select convert_from(lo_get(77001), 'UTF8')",
        "select lo_unlink(77001)",
    ],
    "DO, into a temporary table": [
        "do $$ begin create temp table t as select phone from customers; end $$",
        "select * from t limit 20",
    ],
    "DO, a notification": [
        "listen c",
        "do $$ begin perform pg_notify('c', (select phone from customers where id = 7)); end $$",
    ],
    "DO, a cursor": [
        "begin",
        "do $$ declare c refcursor := 'c'; begin open c for select phone from customers; end $$",
        "fetch 20 from c",
    ],
    "DO, a prepared statement": [
        "do $$ begin execute 'prepare q as select phone from customers limit 20'; end $$",
        "execute q",
    ],
    "DO, a temporary view": [
        "do $$ begin create temp view v as select phone from customers limit 20; end $$",
        "select * from v",
    ],
    "a function of its own": [
        "create function pg_temp.f() returns setof text language sql as 'select phone from customers limit 20'",
        "select pg_temp.f()",
    ],
    "a function of its own that runs a text": [
        "create function pg_temp.f(t text) returns text language plpgsql as 'declare r text; begin execute t into r; return r; end'",
        f"select pg_temp.f('{READ}')",
    ],
    "a procedure of its own": [
        "create procedure pg_temp.p() language plpgsql as $$ begin raise notice '%', (select phone from customers where id = 7); end $$",
        "call pg_temp.p()",
    ],
    "a temporary table": ["create temp table t as select phone from customers limit 20", "select * from t"],
    "query_to_xml": [f"select query_to_xml('{READ}', true, true, '')"],
    "query_to_xml_and_xmlschema": [f"select query_to_xml_and_xmlschema('{READ}', true, true, '')"],
    "table_to_xml": ["select table_to_xml('customers', true, true, '')"],
    "cursor_to_xml": [
        "begin",
        "declare c cursor for select phone from customers limit 20",
        "select cursor_to_xml('c', 20, true, true, '')",
    ],
    "ts_stat": ["select word from ts_stat('select to_tsvector(''simple'', phone) from customers') limit 5"],
    "ts_rewrite": [
        "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, to_tsquery(''simple'', phone) from customers where id = 7')"
    ],
    "statistics": ["select histogram_bounds from pg_stats where tablename = 'customers' and attname = 'phone'"],
    "the row that fails a not-null constraint": ["update customers set branch = null where id = 7"],
    "the row that fails a check": ["update customers set gender = 'x' where id = 7"],
    "the row that fails, by a DO": ["do $$ begin update customers set gender = 'x' where id = 7; end $$"],
    "the row that fails, prepared": ["prepare q as update customers set gender = 'x' where id = 7", "execute q"],
    "the row that fails, in a copy of it": [
        "create temp table t as select id, phone, branch from customers where id < 9",
        "alter table t alter branch set not null",
        "update t set branch = null where id = 7",
    ],
    "EXPLAIN ANALYZE of a function": [
        "create function pg_temp.f() returns text language plpgsql as $$ begin raise notice '%', (select phone from customers where id = 7); return 1; end $$",
        "explain analyze select pg_temp.f()",
    ],
    "a cursor over a function": [
        "create function pg_temp.f() returns setof text language sql as 'select phone from customers limit 20'",
        "begin",
        "declare c cursor for select pg_temp.f()",
        "fetch all from c",
    ],
    "a trigger on a temporary table": [
        "create temp table t (a int)",
        "create function pg_temp.f() returns trigger language plpgsql as $$ begin raise notice '%', (select phone from customers where id = 7); return new; end $$",
        "create trigger g before insert on t for each row execute function pg_temp.f()",
        "insert into t values (1)",
    ],
    "a deferred trigger, at COMMIT": [
        "create temp table t (a int)",
        "create function pg_temp.f() returns trigger language plpgsql as $$ begin raise notice '%', (select phone from customers where id = 7); return new; end $$",
        "create constraint trigger g after insert on t deferrable initially deferred for each row execute function pg_temp.f()",
        "begin",
        "insert into t values (1)",
        "commit",
    ],
    "a default": [
        "create function pg_temp.f() returns text language sql as 'select phone from customers where id = 7'",
        "create temp table t (a int, b text default pg_temp.f())",
        "insert into t (a) values (1) returning b",
    ],
    "a rule": [
        "create temp table t (a text)",
        "create rule r as on update to t do instead select phone from customers limit 20",
        "update t set a = 'x'",
    ],
    "an operator of its own": [
        "create function pg_temp.f(int) returns text language sql as 'select phone from customers where id = $1'",
        "create operator pg_temp.@#@ (rightarg = int, function = pg_temp.f)",
        "select operator(pg_temp.@#@) 7",
    ],
    "an aggregate of its own": [
        "create function pg_temp.f(text, int) returns text language sql as 'select phone from customers where id = $2'",
        "create aggregate pg_temp.g(int) (sfunc = pg_temp.f, stype = text)",
        "select pg_temp.g(7)",
    ],
    "a cast of its own": [
        "create type pg_temp.y as (a int)",
        "create function pg_temp.f(pg_temp.y) returns text language sql as 'select phone from customers where id = $1.a'",
        "create cast (pg_temp.y as text) with function pg_temp.f(pg_temp.y)",
        "select row(7)::pg_temp.y::text",
    ],
    "a domain of its own": [
        "create function pg_temp.f(int) returns boolean language plpgsql as $$ begin raise notice '%', (select phone from customers where id = $1); return true; end $$",
        "create domain pg_temp.d as int check (pg_temp.f(value))",
        "select 7::pg_temp.d",
    ],
    "a field that is a function": [
        "create temp table t (id int)",
        "insert into t values (7)",
        "create function pg_temp.secret(t) returns text language sql as 'select phone from customers where id = $1.id'",
        "select (t.*).secret from t",
        "select pg_temp.secret(t) from t",
    ],
    "another session's statement": ["select query from pg_stat_activity"],
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_released_is_on_record(world: World, way: str) -> None:
    watch = world.tap.watch
    assert watch is not None
    found = len(watch.found)
    with psycopg.connect(world.dsn("app"), autocommit=True) as app:
        for sql in WAYS[way]:
            with contextlib.suppress(psycopg.Error):
                cursor = app.execute(sql)
                if cursor.description is not None:
                    cursor.fetchall()
        app.execute("rollback")  # the connection stands
    assert watch.found[found:] == []


def test_the_server_s_own_detail_reaches_who_sees_everything_clear(world: World) -> None:
    with psycopg.connect(world.dsn("app"), autocommit=True, application_name="detail") as app:
        with pytest.raises(psycopg.errors.NotNullViolation) as caught:
            app.execute("update customers set branch = null where id = 7")
        (phone,) = app.execute(READ).fetchone() or ("",)
    assert phone in (caught.value.diag.message_detail or "")
    record = world.record(kind="statement", application="detail", action="other")
    assert "public.customers.phone" in {c["column"] for c in record["columns"]}


# Of each the last is sent three times, and what it reads is on record each time: what a view shows is there when it is read.
VIEWS = {
    "made by DO": [
        "do $$ begin create temp view tv as select phone from customers limit 20; end $$",
        "select * from tv",
    ],
    "over a temporary table": [
        "create temp table few as select id from customers limit 20",
        "create view tv as select c.phone from customers c join few using (id)",
        "select * from tv",
    ],
    "made by a function": [
        "create function pg_temp.mk() returns void language sql as 'create temp view tv as select phone from public.customers limit 20'",
        "select pg_temp.mk()",
        "select max(phone) from tv",
    ],
    "that hides a table": [
        "do $$ begin create temp view support_tickets as select phone from customers limit 20; end $$",
        "select * from support_tickets",
    ],
    "over another one": [
        "do $$ begin create temp view tu as select phone from customers limit 20; end $$",
        "create view tv as select * from tu",
        "select * from tv",
    ],
    "in a COPY": [
        "do $$ begin create temp view tv as select phone from customers limit 20; end $$",
        "copy (select * from tv) to stdout",
    ],
}


def told_of(world: World, application: str) -> list[dict[str, Any]]:
    """The records of statements of an application's."""
    return [r for r in world.records() if r["kind"] == "statement" and r["application"] == application]


@pytest.mark.parametrize("way", VIEWS)
def test_each_reading_of_a_temporary_view_is_on_record(world: World, way: str) -> None:
    name = f"view {way}"
    *before, last = VIEWS[way]
    with psycopg.connect(world.dsn("app"), autocommit=True, application_name=name) as app:
        for sql in before:
            app.execute(sql)
        for prepare in (False, True, True):
            made = len(told_of(world, name))
            if last.startswith("copy"):
                with app.cursor() as cursor, cursor.copy(last) as copy:
                    assert list(copy)
            else:
                assert app.execute(last, prepare=prepare).fetchall()
            told = told_of(world, name)[made:]
            assert [{c["column"] for c in r["columns"] if c["read"]} >= {"public.customers.phone"} for r in told] == [
                True
            ]
