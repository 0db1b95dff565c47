"""What tools see of a database through pgveil, against the same database without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.pq import DiagnosticField

from proxy.session.gate import Pass, Settings
from tests.catalogs.statements import OF_TOOLS
from tests.catalogs.twins import LOGINS

if TYPE_CHECKING:
    from tests.catalogs.twins import Twins

logins = pytest.mark.parametrize("login", LOGINS)


@logins
@pytest.mark.parametrize("sql", OF_TOOLS.values(), ids=OF_TOOLS)
def test_tools_see_the_plain_database(twins: Twins, login: str, sql: str) -> None:
    plain, veiled = twins.both(login, sql)
    assert veiled == plain
    assert twins.asked(login, sql) != sql


_FORMS = {
    "unaliased": "select relname, pg_class.relkind, pg_catalog.pg_class.relhasindex from pg_catalog.pg_class where relnamespace = 'public'::regnamespace",
    "qualified columns": "select pg_catalog.pg_attribute.attname, pg_catalog.pg_attribute.atttypid::regtype::text from pg_catalog.pg_attribute, pg_class c"
    " where c.oid = pg_catalog.pg_attribute.attrelid and c.relnamespace = 'public'::regnamespace",
    "standard's own name": "select information_schema.columns.column_name, columns.data_type from information_schema.columns where table_schema = 'public'",
    "quoted": """select "A"."relname" from "pg_catalog"."pg_class" as "A" where "A".relnamespace = 'public'::regnamespace""",
    "only": "select relname from only pg_class where relkind = 'v'",
    "system columns": "select tableoid::regclass::text, xmin is null, ctid is null, nspname from pg_namespace",
    "system columns of a join": "select n.xmin is null, c.ctid is null, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'v'",
    "system columns with types": "select a.xmin is null, a.attname, a.atttypid::regtype::text from pg_attribute a where a.attrelid = 'cards'::regclass",
    "renamed": "select count(*), min(b) from pg_namespace as n (a, b) where b !~ '^pg'",
    "renamed types": "select b, c::regtype::text from pg_attribute as n (a, b, c) where a = 'cards'::regclass",
    "stars": "select * from pg_sequences",
    "whole row": "select count(c), count(n) from pg_class c, pg_namespace n where n.oid = c.relnamespace and n.nspname <> 'pg_toast'",
    "row to json": "select (row_to_json(a)::jsonb) ->> 'atttypmod' from pg_attribute a where a.attrelid = 'cards'::regclass",
    "using": "select count(*) from (select oid, relname from pg_class) c join pg_type using (oid)",
    "natural": "select count(*) from pg_tables natural join (select schemaname, tablename from pg_tables) x",
    "parenthesised join": "select n.nspname, c.relname from (pg_class c join pg_namespace n on c.relnamespace = n.oid) where c.relkind = 'v'",
    "right join": "select n.nspname, count(c.oid) from pg_class c right join pg_namespace n on c.relnamespace = n.oid where n.nspname !~ '^pg' group by 1",
    "full join": "select count(*) from pg_views v full join pg_tables t on v.schemaname = t.schemaname and v.viewname = t.tablename",
    "lateral": "select n.nspname, x.r from pg_namespace n, lateral (select count(*) r from pg_class c where c.relnamespace = n.oid) x where n.nspname !~ '^pg'",
    "in a select list": "select (select count(*) from pg_namespace), exists(select from pg_class where relname = 'applied'), array(select nspname from pg_namespace order by 1)",
    "set operation": "select nspname from pg_namespace union all select relname from pg_class where relkind = 'v' except select 'x'",
    "with": "with pg_tables as (select 'mine' as a) select a from pg_tables",
    "with of many": "with a(x) as materialized (select nspname from pg_namespace), b as not materialized (select * from a) select * from b",
    "functions with from": "select substring(nspname from 1 for 3), extract(year from now()) > 0, trim(both 'x' from nspname) from pg_namespace",
    "distinct from": "select count(*) from pg_class c where c.relname is distinct from 'x' and c.relname is not distinct from c.relname and c.relkind = 'v'",
    "row locks": "select nspname from pg_namespace, (values (1)) v(x) where false",
    "comments": "select /* from pg_class */ nspname -- from\nfrom /* x */ pg_namespace /* y */ where nspname !~ '^pg' -- z",
    "dangling": "select nspname from pg_namespace--",
    "explain": "explain (costs off) select 1 from pg_am",
    "indexes": "select * from pg_indexes where schemaname = 'public'",
    "statistics": "select relname, schemaname from pg_stat_user_tables",
    "views": "select table_name from information_schema.views where table_schema !~ '^pg_' and table_schema <> 'information_schema'",
    "domains": "select * from information_schema.column_domain_usage",
    "arrays": "select object_name, collection_type_identifier, data_type from information_schema.element_types where object_schema = 'public'",
    "keys": "select * from information_schema.key_column_usage",
    "the standard's row types": "select a.attname, information_schema._pg_char_max_length(information_schema._pg_truetypid(a.*, t.*),"
    " information_schema._pg_truetypmod(a.*, t.*)) from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = 'cards'::regclass and attnum > 0",
}


@logins
@pytest.mark.parametrize("sql", _FORMS.values(), ids=_FORMS)
def test_however_a_catalog_is_named(twins: Twins, login: str, sql: str) -> None:
    plain, veiled = twins.both(login, sql)
    assert veiled == plain


_EVERYTHING = (
    "select nspname from pg_namespace",
    "select relname from pg_class",
    "select relname from pg_class where relname ~ 'pgveil|guard|applied|privileges_before'",
    "select typname from pg_type where typname ~ 'sealed'",
    "select proname from pg_proc where proname ~ 'mask|lookup|give|vouch'",
    "select conname from pg_constraint where conname ~ 'sealed'",
    "select description from pg_description where description ~ 'pgveil|\"form\"'",
    "select count(*) > 0 as own from pg_depend d join pg_class c on c.oid = d.objid where c.relname ~ 'guard'",
    "select c.relname from pg_rewrite r join pg_class c on c.oid = r.ev_class",
    "select pg_describe_object(classid, objid, objsubid) from pg_depend where refobjid = 'cards'::regclass and classid = 'pg_rewrite'::regclass",
    "select * from pg_rules where schemaname <> 'pg_catalog'",
    "select schemaname from pg_stat_all_tables",
    *(
        f"select distinct table_schema from information_schema.{v}"
        for v in ("tables", "columns", "views", "table_constraints")
    ),
    "select schema_name from information_schema.schemata",
    "select routine_schema, routine_name from information_schema.routines where routine_schema !~ '^pg_|^information'",
    "select distinct specific_schema from information_schema.parameters",
    "select distinct constraint_schema from information_schema.check_constraints",
    "select distinct table_schema, grantee from information_schema.role_table_grants",
    "select distinct object_schema from information_schema.data_type_privileges",
    "select distinct udt_schema from information_schema.udt_privileges",
    "select distinct domain_schema from information_schema.domains",
    "select trigger_name from information_schema.triggers",
    "select distinct view_schema from information_schema.view_table_usage",
)


@pytest.mark.parametrize("login", [*LOGINS, "postgres"])
@pytest.mark.parametrize("sql", _EVERYTHING)
def test_nothing_of_pgveils_is_in_a_list(twins: Twins, login: str, sql: str) -> None:
    listed = twins.rows(twins.veiled, login, twins.asked(login, sql))
    words = [str(cell) for row in listed[1:] for cell in row]
    assert not [word for word in words if "pgveil" in word or "sealed" in word or word.startswith("guard_")]


# Nothing is put into these: they run as they came.
_AS_THEY_CAME = (
    "select 'pg_class'::regclass, to_regclass('pg_type')",
    "select pg_class from customers_of_mine pg_class",
    "select * from pg_class tablesample system (1)",
    "select * from other.pg_class",
    "select * from db.pg_catalog.pg_class",
    "select * from pg_class(1)",
    "delete from pg_class where false",
    "update pg_class set relname = relname where false",
    "insert into pg_description values (1)",
    "with d as (delete from pg_depend where false returning 1) select 1",
    "create view v as select * from pg_class",
    "create table t as select * from information_schema.columns",
    "lock table pg_class",
    "grant select on pg_class to public",
    "revoke select on pg_class from public",
    "copy pg_class to stdout",
    "comment on table pg_class is 'x'",
    "analyze pg_class",
    "select pg_authid.rolname from pg_authid",
    "select substring(relname from pg_class) from mine",
)


@pytest.mark.parametrize("sql", _AS_THEY_CAME)
def test_what_is_left_as_it_is(twins: Twins, sql: str) -> None:
    decision = twins.gate.decide(sql.encode(), twins.gate.principal("cl_teller"), Settings(), extended=False)
    assert isinstance(decision, Pass)
    assert decision.instead is None


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (Settings(), True),
        (Settings(search_path=("pg_catalog", "public")), True),
        (Settings(search_path=("public", "pg_catalog")), True),
        (Settings(search_path=("pg_temp_3", "pg_catalog", "public")), True),
        (Settings(search_path=("pg_temp_3", "pg_catalog", "public"), temporary=frozenset({"pg_class"})), False),
        (Settings(search_path=("pg_catalog",), temporary=frozenset({"pg_class"})), False),
    ],
)
def test_a_name_without_a_schema(twins: Twins, settings: Settings, *, changed: bool) -> None:
    sql = "select relname from pg_class"
    assert (twins.asked("cl_teller", sql, settings) != sql) is changed
    assert twins.asked("cl_teller", "select relname from pg_catalog.pg_class", settings) != sql


def test_temporary_relations_named_as_catalogs_are_asked_about(twins: Twins) -> None:
    assert twins.gate.protected_names(frozenset({"pg_class", "mine"})) == {"pg_class"}
    made = twins.gate.decide(
        b"create temp table pg_class (x int)", twins.gate.principal("cl_teller"), Settings(), extended=False
    )
    assert isinstance(made, Pass)
    assert made.unsettles


def test_several_statements_in_one_text(twins: Twins) -> None:
    """A name with its schema is what it is; one without could be made by the statement before."""
    asked = twins.asked("cl_teller", "select nspname from pg_catalog.pg_namespace; select nspname from pg_namespace")
    first, second = asked.split(";")
    assert "pgveil_1" in first
    assert second == " select nspname from pg_namespace"


def test_positions_in_errors_are_the_clients(twins: Twins) -> None:
    sql = "select c.nothing from pg_catalog.pg_class c where c.nowhere"
    decision = twins.gate.decide(sql.encode(), twins.gate.principal("cl_agent"), Settings(), extended=False)
    assert isinstance(decision, Pass)
    assert decision.instead is not None
    text = decision.instead.text.decode()
    for word in ("c.nothing", "c.nowhere", "where"):
        assert decision.instead.offsets.original(text.rindex(word) + 1) == sql.rindex(word) + 1


@logins
def test_a_star_beside_a_system_column_loses_no_column(twins: Twins, login: str) -> None:
    """Types are the stored ones then, in pg_type too."""
    sql = "select n.* from (select a.*, a.xmin from pg_attribute a join pg_type t on t.oid = a.atttypid) n where attrelid = 'cards'::regclass"
    plain, veiled = twins.both(login, f"select attname, attnum::int, attnotnull from ({sql}) x")
    assert veiled == plain


def test_nothing_is_looked_for_where_nothing_is_applied(twins: Twins) -> None:
    """A text that names no catalog costs one look at its words; in a database without pgveil's objects, none is changed at all."""
    gate = twins.gate
    assert gate.decide(b"select 1 from orders", gate.principal("cl_agent"), Settings(), extended=False) == Pass()
    assert not twins.plain_gate().protected_names(frozenset({"pg_class"}))
    sql = b"select * from information_schema.columns"
    found = twins.plain_gate().decide(sql, gate.principal("cl_agent"), Settings(), extended=False)
    assert isinstance(found, Pass)
    assert found.instead is None


def test_more_sealed_columns_than_are_told(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.plain_catalogs.MAX_SEALED", 3)
    gate = twins.successor()
    sql = "select a.attname, t.typname from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = 'cards'::regclass and attnum > 0"
    decision = gate.decide(sql.encode(), gate.principal("cl_teller"), Settings(), extended=False)
    assert isinstance(decision, Pass)
    assert decision.instead is not None
    found = dict(twins.rows(twins.veiled, "cl_teller", decision.instead.text.decode())[1:])
    assert (found["pan"], found["expires_on"], found["status"]) == ("text", "text", "text")
    assert len(found) == 10


def test_no_definition_of_postgresqls_own_is_harmed(twins: Twins) -> None:
    """Some 200 queries over catalogs that nobody here has thought of: what runs instead has the same columns and types, or the same error."""
    own = "SELECT pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v' AND oid < 16384"
    texts = [row[0] for row in twins.rows(twins.veiled, "postgres", own)[1:]]
    changed = 0
    with psycopg.connect(twins.server.dsn(twins.veiled), autocommit=True) as connection:
        for text in texts:
            asked = twins.asked("cl_agent", text)
            changed += asked != text
            described = []
            for sql in {text, asked}:
                made = connection.pgconn.prepare(b"", sql.encode())
                shown = connection.pgconn.describe_prepared(b"")
                columns = [(shown.fname(i), shown.ftype(i), shown.fmod(i)) for i in range(shown.nfields)]
                described.append((made.error_field(DiagnosticField.SQLSTATE), columns))
            assert described[0] == described[-1], text
    assert len(texts) > 100
    assert changed > 80
