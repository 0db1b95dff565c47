"""What the code of a database fills from masked columns (F2.2): told by its text, and held against where a server then finds the value."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from lifecycle.database import fix_settings, read_catalog
from rules.catalog import Catalog
from rules.derived import with_derived
from rules.filled import _Names, filled_columns
from rules.flows import Flows, Ran, Row
from rules.hidden import hidden_reads
from rules.lexer import LexError, lex
from rules.load import load_rules_text
from rules.model import ColumnName
from rules.protect import ProtectionMap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lifecycle.demo.postgres import Postgres

RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {level: important, mask: name}
      phone: {level: core, protection: masked, stored: plain, mask: phone}
      city: {level: general}
roles:
  app: {logins: [app], levels: {core: clear, important: clear}}
"""
NAME, PHONE, BOTH = "name", "phone", "name, phone"
SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text, phone text, city text, tsv tsvector, more text);
INSERT INTO customers VALUES (1, 'Canaryname', 'Canaryphone', 'Oslo');
CREATE TABLE audit (id serial, op text, who text, row_data jsonb, n int);
CREATE TABLE history (op text, id int, name text, phone text, city text, tsv tsvector, more text);
CREATE TABLE archive (id int, name text, phone text, city text, tsv tsvector, more text);
CREATE TABLE second (whom text);
CREATE SCHEMA other;
CREATE TABLE other.log (at timestamptz DEFAULT now(), a text, b text);
CREATE VIEW people AS SELECT id, name AS called, city FROM customers;
CREATE VIEW audit_view AS SELECT id, who FROM audit;
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE FUNCTION note_it(op text, what text) RETURNS void LANGUAGE sql AS 'INSERT INTO audit (op, who) VALUES ($1, what)';
CREATE FUNCTION note_again(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM note_it('again', what || '!'); END $$;
CREATE FUNCTION note_std(what text) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO audit (who) VALUES (what); END;
CREATE TABLE strict (a int UNIQUE, b text);
CREATE PROCEDURE pass_on(what text, INOUT there text) LANGUAGE plpgsql AS $$ BEGIN there := upper(what); END $$;
CREATE FUNCTION name_of(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT name FROM customers WHERE id = $1';
"""

# The body of an AFTER ROW trigger on customers; what is filled, from what; whether something is told that can't be read.
Case = tuple[str, dict[str, str], bool]
BODIES: tuple[Case, ...] = (
    ("insert into audit(who) values (new.name);", {"audit.who": NAME}, False),
    ("INSERT INTO public.audit AS a (op, who, n) VALUES (TG_OP, lower(NEW.Name), new.id) RETURNING id INTO new.id;", {"audit.who": NAME}, False),
    ('insert into audit(op, "who") select \'U\', new."name" where new.phone is not null;', {"audit.who": NAME}, False),
    ("insert into audit(op, n) values (tg_op, new.id), (new.city, 2);", {}, False),
    ("insert into audit(op, who) values (tg_op, 'x'), ('y', new.name || new.phone);", {"audit.who": BOTH}, False),
    ("insert into audit(row_data) values (to_jsonb(new));", {"audit.row_data": BOTH}, False),
    ("insert into audit(row_data, op) values (jsonb_build_object('n', old.name), 'U');", {"audit.row_data": NAME}, False),
    ("insert into archive select new.*;", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("insert into archive values (old.*);", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("insert into history select 'U', old.*;", {"history.name": NAME, "history.phone": PHONE}, False),
    ("insert into history values (tg_op, (new).*);", dict.fromkeys(("history.id", "history.name", "history.phone", "history.city", "history.tsv", "history.more"), BOTH), False),
    ("insert into archive select * from customers where id = new.id;", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("insert into archive select c.* from customers c where id = new.id;", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("insert into audit(who) select called from people where id = new.id;", {"audit.who": NAME}, False),
    ("insert into audit(who, n) select x.n, x.i from (select new.name as n, new.id as i) x;", {"audit.who": NAME, "audit.n": NAME}, False),
    ("with x as (select new.name as n) insert into audit(who, n) select n, 1 from x;", {"audit.who": NAME}, False),
    ("insert into audit(who) with x as (select new.name as n) select n from x;", {"audit.who": NAME}, False),
    ("insert into audit(who) select 'a' union all (select new.phone) union select 'c';", {"audit.who": PHONE}, False),
    ("insert into audit(id, who) values (1, 'a'); insert into audit(id, who) values (1, new.name);", {"audit.who": NAME}, False),
    ("update audit set who = new.name, n = new.id; insert into audit(op) values ('x');", {"audit.who": NAME}, False),
    ("insert into audit(n) values (1); update only public.audit as a set (op, who) = (select new.city, new.phone) where true;", {"audit.op": PHONE, "audit.who": PHONE}, False),
    ("insert into audit(n) values (1); update audit a set who = x.v, n = 2 from (values (new.name)) x(v);", {"audit.who": NAME}, False),
    ("update customers set more = name where id = new.id and more is null;", {"customers.more": NAME}, False),
    ("insert into other.log(a) values (new.name) on conflict do nothing;", {"log.a": NAME}, False),
    (
        "create unique index if not exists on_op on audit(op); insert into audit(op, who) values ('k', new.name) on conflict (op) do update set who = excluded.who, n = excluded.id;",
        {"audit.who": NAME},
        False,
    ),
    (
        ("insert into audit(n) values (1); merge into audit a using (select new.id as i, new.name as w) s on a.n = s.i when matched then update set who = s.w, op = 'm' "
        "when not matched then insert (op, who) values ('n', s.w);"),
        {"audit.who": NAME},
        False,
    ),
    ("declare v text := new.name; b text; begin b := upper(v); insert into audit(who, op) values (b, 'x'); end;", {"audit.who": NAME}, False),
    ("declare r record; begin r := new; insert into audit(who, n) values (r.name, r.id); end;", {"audit.who": NAME}, False),
    ("declare r customers; begin if tg_op = 'DELETE' then r = old; else r = new; end if; insert into audit(who, n) values (r.name, r.id); end;", {"audit.who": NAME}, False),
    ("declare r customers%rowtype; begin select * into r from customers where id = new.id; insert into audit(who, n) values (r.phone, r.id); end;", {"audit.who": PHONE}, False),
    ("declare i int; w text; begin select new.id, new.name into strict i, w; insert into audit(who, n) values (w, i); end;", {"audit.who": NAME}, False),
    ("declare n alias for new; begin insert into audit(who) values (n.name); end;", {"audit.who": NAME}, False),
    ("declare a audit; begin a = row(1, 'op', null, null, 1); a.row_data = to_jsonb(new.*); insert into audit values (a.*); end;", {"audit.row_data": BOTH}, False),
    ("declare r record; begin for r in select name as w, id from customers loop insert into audit(who) values (r.w); end loop; end;", {"audit.who": NAME}, False),
    ("declare x text; begin foreach x in array array[new.name, 'b'] loop insert into audit(who) values (x); end loop; end;", {"audit.who": NAME}, False),
    ("declare c cursor for select phone from customers; x text; begin open c; fetch c into x; insert into audit(who) values (x); end;", {"audit.who": PHONE}, False),
    ("declare c refcursor; x text; begin open c for select phone from customers; fetch c into x; insert into audit(who) values (x); end;", {"audit.who": PHONE}, False),
    ("perform note_it('x', new.name);", {"audit.op": NAME, "audit.who": NAME}, False),
    ("perform note_again(new.phone);", {"audit.op": PHONE, "audit.who": PHONE}, False),
    ("perform note_std(new.name);", {"audit.who": NAME}, False),
    ("perform note_it('x', new.city);", {}, False),
    ("insert into audit(who, n) values (public.name_of(new.id), 1);", {"audit.who": BOTH}, False),
    ("insert into audit(who, n) values (case when new.city = 'x' then 'y' else new.name end, case when new.name = 'a' then 1 else 2 end);", {"audit.who": NAME, "audit.n": NAME}, False),
    ("insert into audit(who) values (current_query());", {"audit.who": BOTH}, False),
    ("execute 'insert into audit(who) values ($1)' using new.name;", {"audit.who": NAME}, False),
    ("execute format('insert into %I(who) values ($1)', 'audit') using new.name;", {}, True),
    ("insert into audit_view(who) values (new.name);", {}, True),
    ("create temp table t_kept as select new.*; insert into audit(who) select name from t_kept; drop table t_kept;", {}, True),
    ("create temp table t_kept (a text); insert into t_kept values (new.name); insert into audit(who) select a from t_kept; drop table t_kept;", {}, True),
    ("<<blk>> declare v text; begin blk.v := new.name; insert into audit(who) values (v); insert into audit(op) values (blk.v); end;", {"audit.who": NAME, "audit.op": NAME}, False),
    ("declare v text := ''; begin call pass_on(new.name, v); insert into audit(who) values (v); end;", {"audit.who": NAME}, False),
    (
        "declare d text; begin insert into strict values (1, new.name), (1, new.name); exception when others then get stacked diagnostics d = pg_exception_detail; insert into audit(who) values (d); end;",
        {"audit.who": BOTH, "strict.b": NAME},
        False,
    ),
    ("begin perform new.name::int; exception when others then insert into audit(who, op) values (sqlerrm, sqlstate); end;", {"audit.who": BOTH}, False),
    ('insert into audit(who) values (new.name::text collate "C"), (null); insert into audit(op) values (current_user);', {"audit.who": NAME}, False),
    ("insert into audit(who) select word from ts_stat('select to_tsvector(''simple'', name) from customers');", {}, True),
    ("insert into audit(op) values ('new.name'); /* insert into audit(who) values (new.name) */", {}, False),
    ("if new.name is distinct from old.name then insert into audit(op) values ('changed'); end if;", {}, False),
    ("update audit set n = n + 1 where who = new.name; delete from audit where who = new.name;", {}, False),
)  # fmt: skip


async def _found(connection: asyncpg.Connection[Any]) -> tuple[dict[str, str], bool]:
    filled, unread, _ = filled_columns(await _protection(connection))
    return {f"{f.target.table}.{f.target.column}": ", ".join(c.column for c in f.made_of) for f in filled}, bool(unread)


async def _protection(connection: asyncpg.Connection[Any], rules: str = RULES) -> ProtectionMap:
    async with connection.transaction():
        await fix_settings(connection)
        catalog: Catalog = await read_catalog(connection)
        await connection.execute("SET LOCAL search_path = public; SET LOCAL quote_all_identifiers = off")
    return ProtectionMap(with_derived(load_rules_text(rules, "rules.yaml"), catalog), catalog, unknown=False)


async def _holding(connection: asyncpg.Connection[Any]) -> set[str]:
    """The columns, but for the rules' own, in which the canaries are."""
    held = set()
    for table in ("customers", "audit", "history", "archive", "second", "strict", "other.log"):
        for row in await connection.fetch(f"SELECT (jsonb_each_text(to_jsonb(t))).* FROM {table} t"):
            if "canary" in (row["value"] or "").lower():
                held.add(f"{table.removeprefix('other.')}.{row['key']}")
    return held - {"customers.name", "customers.phone"}


async def _open(server: Postgres) -> asyncpg.Connection[Any]:
    connection = await asyncpg.connect(server.dsn(server.create_database()))
    await connection.execute(SCHEMA)
    return connection


@pytest.fixture
async def database(pg: Postgres) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await _open(pg)
    yield connection
    await connection.close()


@pytest.fixture
async def any_database(any_pg: Postgres) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await _open(any_pg)
    yield connection
    await connection.close()


async def test_where_the_server_then_has_them(database: asyncpg.Connection[Any]) -> None:
    """What holds a canary was told, or that something can't be read; and nothing else than what is expected was told."""
    assert await _found(database) == ({}, False)
    wrong = []
    for body, expected, unread in BODIES:
        transaction = database.transaction()
        await transaction.start()
        text = f"begin {body} return null; end"
        await database.execute(f"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $f$ {text} $f$")
        await database.execute("CREATE TRIGGER t AFTER INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()")
        found = await _found(database)
        await database.execute("UPDATE customers SET city = 'Rome', name = 'Canaryname' WHERE id = 1")
        held = await _holding(database)
        await transaction.rollback()
        if found != (expected, unread) or not (found[1] or held <= found[0].keys()):
            wrong.append((body, found, held))
    assert not wrong, "\n".join(map(str, wrong))


OTHERS: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("CREATE RULE r AS ON UPDATE TO customers DO ALSO INSERT INTO audit (who) VALUES (new.name)", {"audit.who": NAME}, False),
    ("CREATE RULE r AS ON UPDATE TO customers DO ALSO (INSERT INTO audit (op) VALUES (new.city); INSERT INTO archive SELECT old.*)", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("CREATE RULE r AS ON UPDATE TO customers DO ALSO UPDATE audit SET who = old.phone; INSERT INTO audit (n) VALUES (1)", {"audit.who": PHONE}, False),
    (
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(tsv, 'pg_catalog.simple', name, city)",
        {"customers.tsv": NAME},
        False,
    ),
    ("CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", {}, False),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.more := new.name; NEW.tsv = to_tsvector('simple', coalesce(NEW.phone, '')); RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()"),
        {"customers.more": NAME, "customers.tsv": PHONE},
        False,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SELECT new.name INTO new.more; RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()"),
        {"customers.more": NAME},
        False,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW := jsonb_populate_record(NEW, jsonb_build_object('more', NEW.name)); RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()"),
        {},
        True,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO archive SELECT * FROM now_there; INSERT INTO audit(who) SELECT w.name FROM was w; RETURN NULL; END $$;"
        "CREATE TRIGGER t AFTER UPDATE ON customers REFERENCING NEW TABLE AS now_there OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION t()"),
        {"archive.name": NAME, "archive.phone": PHONE, "audit.who": NAME},
        False,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit(who) VALUES (new.name); RETURN NULL; END $$;"
        "CREATE FUNCTION u() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO second VALUES (new.who); RETURN NULL; END $$;"
        "CREATE TRIGGER u AFTER INSERT ON audit FOR EACH ROW EXECUTE FUNCTION u(); CREATE TRIGGER t AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()"),
        {"audit.who": NAME, "second.whom": NAME},
        False,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := (SELECT name FROM customers WHERE id = new.n); RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION t(); INSERT INTO audit (n) VALUES (1)"),
        {"audit.who": NAME},
        False,
    ),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE customers SET name = new.called WHERE id = old.id; INSERT INTO audit(who, n) VALUES (old.called, old.id); RETURN NEW; END $$;"
        "CREATE TRIGGER t INSTEAD OF UPDATE ON people FOR EACH ROW EXECUTE FUNCTION t(); UPDATE people SET city = 'x'"),
        {"audit.who": NAME},
        False,
    ),
    ("CREATE FUNCTION any_name() RETURNS text LANGUAGE sql AS 'SELECT min(name) FROM customers'; ALTER TABLE audit ALTER op SET DEFAULT any_name(); INSERT INTO audit (n) VALUES (1)", {"audit.op": BOTH}, False),
    (
        ("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit(who) VALUES (new.name); RETURN NULL; END $$;"
        "CREATE TRIGGER t AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t(); UPDATE customers SET name = name;"
        "CREATE FUNCTION move() RETURNS void LANGUAGE sql AS 'INSERT INTO second SELECT who FROM audit'; SELECT move()"),
        {"audit.who": NAME, "second.whom": NAME},
        False,
    ),
    (
        ("""CREATE TABLE "My Table" (i int, "Who" text); CREATE FUNCTION "T t"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "My Table" VALUES (1, new.name); RETURN NULL; END $$;"""
        """CREATE TRIGGER t AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION "T t"(); UPDATE customers SET name = name;"""
        """CREATE FUNCTION "Move"() RETURNS void LANGUAGE sql AS 'INSERT INTO second SELECT "Who" FROM "My Table"'; SELECT "Move"()"""),
        {"My Table.Who": NAME, "second.whom": NAME},
        False,
    ),
    ("CREATE PROCEDURE keep() LANGUAGE sql AS 'INSERT INTO archive SELECT * FROM customers'; CALL keep()", {"archive.name": NAME, "archive.phone": PHONE}, False),
    ("CREATE PROCEDURE keep() LANGUAGE sql BEGIN ATOMIC INSERT INTO audit (op, who) SELECT city, called FROM people; END; CALL keep()", {"audit.who": NAME}, False),
    ("CREATE FUNCTION keep() RETURNS void LANGUAGE plpgsql AS $$ BEGIN TRUNCATE audit; INSERT INTO audit (n) SELECT count(*) FROM customers; END $$; SELECT keep()", {}, False),
)  # fmt: skip


async def test_rules_vectors_transition_tables_and_functions(any_database: asyncpg.Connection[Any]) -> None:
    wrong = []
    for sql, expected, unread in OTHERS:
        transaction = any_database.transaction()
        await transaction.start()
        await any_database.execute(sql)
        found = await _found(any_database)
        await any_database.execute("UPDATE customers SET city = 'Rome', name = 'Canaryname' WHERE id = 1")
        held = await _holding(any_database)
        await transaction.rollback()
        if found != (expected, unread) or not (found[1] or held <= found[0].keys()):
            wrong.append((sql, found, held))
    assert not wrong, "\n".join(map(str, wrong))


async def test_the_rules_may_name_them(database: asyncpg.Connection[Any]) -> None:
    """As everybody's, or as protected; what is filled from there is found by the name that it then has."""
    await database.execute(
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit(who, op) VALUES (new.name, new.phone); RETURN NULL; END $$;"
        "CREATE FUNCTION u() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO second VALUES (new.who); RETURN NULL; END $$;"
        "CREATE TRIGGER u AFTER INSERT ON audit FOR EACH ROW EXECUTE FUNCTION u(); CREATE TRIGGER t AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION t()"
    )
    for level, second in (("{level: important, mask: name}", ["public.audit.who"]), ("{level: general}", None)):
        named = RULES.replace("roles:", f"  public.audit: {{columns: {{who: {level}}}}}\nroles:")
        filled, _, _ = filled_columns(await _protection(database, named))
        found = {str(f.target): [str(c) for c in f.made_of] for f in filled}
        expected = {"public.audit.op": ["public.customers.phone"]} | ({"public.second.whom": second} if second else {})
        assert found == expected


@pytest.mark.parametrize("language", ["plpython3u", "c"])
async def test_what_can_t_be_read_is_told(database: asyncpg.Connection[Any], language: str) -> None:
    catalog = (await _protection(database)).catalog
    from dataclasses import replace  # noqa: PLC0415

    from rules.catalog import Function  # noqa: PLC0415
    from rules.model import TableName  # noqa: PLC0415

    customers = catalog.by_name[TableName("public", "customers")]
    name = TableName("public", "odd")
    changed = replace(
        catalog,
        relations={**catalog.relations, customers.oid: replace(customers, trigger_functions=(name,))},
        functions=(*catalog.functions, Function(1, name, "o", language, False, "")),
    )
    _, (unread,), _ = filled_columns(ProtectionMap(load_rules_text(RULES, "rules.yaml"), changed, unknown=False))
    assert (str(unread.relation), {c.column for c in unread.columns}) == ("public.customers", {"name", "phone"})
    assert unread.by == "trigger function public.odd of public.customers"


async def test_what_is_only_put_there_is_not_read_there(database: asyncpg.Connection[Any]) -> None:
    """A SECURITY DEFINER trigger that adds rows to a masked table shows nobody what is in it; one that could tell is still told of."""
    rules = RULES.replace("roles:", "  public.audit: {columns: {who: {level: important, mask: name}}}\nroles:")
    for body, extra, read in (
        ("INSERT INTO audit(who) VALUES (new.name);", "", False),
        ("INSERT INTO public.audit SELECT 1, 'U', new.name;", "CREATE INDEX ON audit (n)", False),
        ("INSERT INTO audit(who) VALUES (new.name);", "CREATE INDEX ON audit (who)", True),
        ("INSERT INTO audit(who) VALUES (new.name) RETURNING who INTO new.city;", "", True),
        ("INSERT INTO audit(who) VALUES (new.name) ON CONFLICT DO NOTHING;", "", True),
        ("INSERT INTO audit(who) SELECT who FROM audit;", "", True),
        ("UPDATE audit SET who = new.name;", "", True),
        (
            "INSERT INTO audit(who) VALUES (new.name);",
            "CREATE TRIGGER z BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            True,
        ),
    ):
        transaction = database.transaction()
        await transaction.start()
        await database.execute(
            f"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $f$ BEGIN {body} RETURN new; END $f$;"
            f"CREATE TRIGGER t BEFORE UPDATE ON second FOR EACH ROW EXECUTE FUNCTION t(); {extra}"
        )
        found = hidden_reads(await _protection(database, rules))
        await transaction.rollback()
        assert bool(found) is read, body


def test_no_text_stops_it() -> None:
    """Whatever words follow each other: an answer, and no error."""
    words = "insert into audit update only set merge using when matched then select distinct on from where values ( ) ( ) , , ; . * = := new old name phone v declare begin end loop for in open fetch with as union all returning conflict do execute 'insert into audit values ($1)' $1 call create table if not exists << >> copy get stacked diagnostics strict case [ ] :: alias % rowtype row customers r"
    chosen = random.Random(22)
    catalog = Catalog("1", "d", 160000, {})
    protection = ProtectionMap(load_rules_text(RULES, "rules.yaml"), catalog, unknown=False)
    name = ColumnName("public", "customers", "name")
    row = Row(("id", "name"), {"name": frozenset({name})})
    world = _Names(protection, {})
    found = 0
    for _ in range(1500):
        text = " ".join(chosen.choices(words.split(), k=chosen.randrange(1, 60)))
        try:
            lexed = lex(text)
        except LexError:
            continue
        found += len(Flows(lexed, world, {"new": row, "old": row}, frozenset({name})).found())
    assert found > 100
    long = "begin " + " ".join(f"v{i} := v{i + 1};" for i in range(2000)) + " v2000 := new.name; end"
    assert Ran("is too long to be followed") in Flows(lex(long), world, {"new": row}).found()
