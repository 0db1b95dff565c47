"""Each hint: a statement that provokes it, and what to do instead, with what that gives. Hints that no statement can follow stand apart.

The world of the statements is `tests/hints/conftest.py`: a small bank, sealed and masked by `RULES`, behind pgveil without a calculator; the
same bank under `OTHER_RULES`, for hints that say to change the rules; and once more with a calculator, and roles that may look values up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TELLER, AGENT, OWNER = "hn_teller", "hn_agent", "hn_owner"
WRITER = "hn_writer"  # at COMPUTING; may write card numbers that it sees masked
SEEKER, HURRIED = "hn_seeker", "hn_hurried"  # at COMPUTING; they may look card numbers up
COMPUTING = "computing_bank"
PAN, OTHER_PAN = "4111111111111111", "5500000000000004"
MASKED_PAN = "************1111"
BY_ITSELF = "Send the query by itself, without PREPARE, DECLARE, EXPLAIN or other statements around it: then pgveil computes it."
ANN, PHONE, MASKED_PHONE = "Ann Lee", "13812345678", "138****5678"


@dataclass(frozen=True)
class Step:
    """A statement that works, and its rows; None for one that returns none. `login` None: whoever was refused."""

    sql: str
    rows: list[tuple[Any, ...]] | None = None
    params: Any = None
    login: str | None = None


@dataclass(frozen=True)
class Case:
    """`sql` is refused for `reason` (none: it fails at a limit) with `hint`; the steps of `works` follow the hint.

    `before`: statements of the same session that come first. `other_rules`: the rows of `sql` itself under OTHER_RULES. `bank`: the fixture.
    """

    name: str
    hint: str
    reason: str
    login: str
    sql: str
    works: tuple[Step, ...] = ()
    params: Any = None
    before: tuple[str, ...] = ()
    other_rules: list[tuple[Any, ...]] | None = None
    sqlstate: str = "0AP01"
    bank: str = "bank"


CASES = (
    # -- the login may not
    Case(
        "refused column",
        "Name the columns that you need without it, or ask for a role that may see it.",
        "verdict",
        AGENT,
        "select * from cards where id = 1",
        (
            Step("select id, pan, kind from cards where id = 1", [(1, MASKED_PAN, "gold")]),
            Step("select pan, cvv from cards where id = 1", [(PAN, "123")], login=TELLER),
        ),
        sqlstate="42501",
    ),
    Case(
        "pg_dump's lock",
        "Dump with a login that sees every column clear, or leave the table out: pg_dump -T 'public.cards'",
        "verdict",
        AGENT,
        "lock table public.cards in access share mode",
        (Step("begin; lock table public.cards in access share mode; commit", login=TELLER),),
        sqlstate="42501",
    ),
    # -- changes of tables that can't work on sealed columns
    Case(
        "another type",
        "Leave the column out of the change: clients see the type that the rules give it.",
        "unsupported",
        TELLER,
        "alter table cards alter column kind type varchar(40), alter column pan type varchar(16) using pan::varchar(16)",
        (
            Step("alter table tokens alter column id type int, alter token type varchar(19) using token::varchar(19)"),
            Step("select pan from cards where id = 1", [(PAN,)]),
        ),
    ),
    Case(
        "a default",
        "Give the value in the INSERT: pgveil seals it there.",
        "unsupported",
        TELLER,
        "alter table tokens alter column token set default 'none'",
        (Step("begin; insert into tokens values (9, 'none'); rollback"),),
    ),
    Case(
        "a column dropped",
        "Where its values are no longer wanted, write CASCADE behind its name.",
        "unsupported",
        TELLER,
        "alter table tokens drop column token",
        (Step("begin; alter table tokens drop column token cascade; rollback"),),
    ),
    Case(
        "a check",
        "Check it in the application; whether the column IS NULL can be asked here.",
        "unsupported",
        TELLER,
        "alter table tokens add check (token <> 'x')",
        (Step("begin; alter table tokens add check (token is not null); rollback"),),
    ),
    Case(
        "an index on an expression",
        "Index the column itself, without an operator class: that serves = and IN.",
        "unsupported",
        TELLER,
        "create index on tokens (lower(token))",
        (Step("begin; create index on tokens (token); rollback"),),
    ),
    Case(
        "unique and randomized",
        "Only a deterministic column can be unique: `mode: deterministic` in the rules.",
        "unsupported",
        TELLER,
        "create unique index on cards (cvv)",
        (Step("begin; create unique index on cards (pan); rollback"),),
    ),
    Case(
        "a join's condition on what it does not see",
        "Write the condition in WHERE, or rename the item in FROM.",
        "unsupported",
        TELLER,
        "select id from customers c where exists (select 1 from customers c, cards a join payments p on p.id = a.id and a.id = c.id)",
        (
            Step(
                "select id from customers c where exists (select 1 from customers d, cards a join payments p on p.id = a.id where a.id = c.id)",
                [(1,)],
            ),
        ),
    ),
    Case(
        "search by a masked column",
        "Select the column as it is, or search by another column.",
        "lookup",
        AGENT,
        f"select id from cards where pan = '{PAN}'",
        (
            Step("select id, pan from cards order by id", [(1, MASKED_PAN), (2, "************0004")]),
            Step("select pan from cards where kind = 'gold'", [(MASKED_PAN,)]),
        ),
        sqlstate="42501",
    ),
    Case(
        "a view that masks would make",
        "Use a login that sees the table's protected columns clear, or connect to the server directly.",
        "unfenced",
        AGENT,
        "create temp view numbers as select phone from customers",
        (
            Step("create temp table numbers as select phone from customers", login=TELLER),
            Step("select phone from customers where id = 1", [(PHONE,)], login=TELLER),
        ),
        sqlstate="42501",
    ),
    Case(
        "a view that only its session sees",
        "Put the view's query into WITH, or make a view that is not temporary.",
        "unsupported",
        TELLER,
        "create temp view numbers as select phone from customers",
        (Step("with numbers as (select id, phone from customers) select phone from numbers where id = 1", [(PHONE,)]),),
    ),
    Case(
        "an owner's DO",
        "Use a login that privileges keep out; `pgveil check RULES --database URL` shows which they don't, and why.",
        "unfenced",
        OWNER,
        "do $$ begin null; end $$",
        (Step("do $$ begin null; end $$", login=TELLER),),
    ),
    Case(
        "a function that shows what lies below privileges",
        "Call it with a login that sees every protected column clear, or connect to the server directly.",
        "unfenced",
        AGENT,
        "select count(*) > 0 from pg_get_wal_resource_managers()",
        (Step("select count(*) > 0 from pg_get_wal_resource_managers()", [(True,)], login=TELLER),),
        sqlstate="42501",
    ),
    Case(
        "an owner's COPY to a file, of nothing protected",
        "Use FROM STDIN or TO STDOUT (\\copy in psql).",
        "unfenced",
        OWNER,
        "copy (select 1) to '/tmp/pgveil_hint'",
        (Step("copy (select 1) to stdout", [("1",)]),),
    ),
    # -- masked columns
    Case(
        "masked column of the table that is written",
        "Select the rows' keys first, then write by the keys; return the key columns only.",
        "unsupported",
        AGENT,
        "insert into customers (id, name) values (90, 'Zoe') returning name",
        (
            Step("insert into customers (id, name) values (90, 'Zoe') returning id", [(90,)]),
            Step("update customers set notes = 'called' where name = 'Z**' returning id, name", [(90, "Z**")]),
            Step("delete from customers where id = 90"),
        ),
    ),
    Case(
        "partition",
        "Query the whole table in plain form, or leave the masked columns out.",
        "unsupported",
        AGENT,
        "select guest from visits_2026",
        (
            Step("select guest from visits where day >= '2026-01-01' and day < '2027-01-01'", [("A** L**",)]),
            Step("select id from visits_2026", [(1,)]),
        ),
    ),
    Case(
        "view over masked columns",
        'Query the table "public.customers" itself: its masked columns are masked there.',
        "unsupported",
        AGENT,
        "select phone from v_phones where id = 1",
        (Step("select phone from customers where id = 1", [(MASKED_PHONE,)]),),
    ),
    Case(
        "view that is not analysed",
        "Query the tables that it reads.",
        "unsupported",
        TELLER,
        "select phone from v_sorted",
        (Step("select phone from customers order by phone limit 1", [(PHONE,)]),),
    ),
    Case(
        "function that reads",
        "Query the tables themselves instead of calling the function.",
        "unsupported",
        AGENT,
        "select find_phone(1)",
        (Step("select phone from customers where id = 1", [(MASKED_PHONE,)]),),
    ),
    # -- sealed columns
    Case(
        "work on a sealed value",
        "Select the column as it is; compare it with =, IN or = ANY (deterministic columns) or IS NULL.",
        "compute",
        TELLER,
        "select id from cards where pan like '41%'",
        (
            Step("select id, pan from cards order by id", [(1, PAN), (2, OTHER_PAN)]),
            Step(f"select id from cards where pan = '{PAN}'", [(1,)]),
            Step(f"select id from cards where pan in ('{PAN}', '1')", [(1,)]),
            Step("select id from cards where pan = any(%s)", [(2,)], ([OTHER_PAN],)),
            Step("select id from cards where pan is null", []),
        ),
    ),
    Case(
        "order",
        "Sort in the application, or order by another column.",
        "ordering",
        TELLER,
        "select pan from cards order by pan",
        (Step("select pan from cards order by id", [(PAN,), (OTHER_PAN,)]),),
    ),
    Case(
        "randomized",
        "Search by another column, or declare the column `mode: deterministic` and apply the rules.",
        "randomized",
        TELLER,
        "select id from cards where cvv = '123'",
        (Step(f"select id from cards where pan = '{PAN}' and cvv is not null", [(1,)]),),
        other_rules=[(1,)],
    ),
    Case(
        "two domains",
        "Give both columns the same `domain`, `type` and `mode: deterministic` in the rules, and apply them.",
        "cross_domain",
        TELLER,
        "select k.id from customers c join cards k on k.pan = c.id_number",
        other_rules=[(2,)],
    ),
    Case(
        "copy into another domain",
        "Both must be sealed under the same `domain` and `type`, and the login must see both clear; else read, then write.",
        "cross_domain",
        TELLER,
        "insert into cards (id, pan) select 9, id_number from customers where id = 1",
        (
            Step("select id_number from customers where id = 1", [("ID1",)]),
            Step("insert into cards (id, pan) values (11, %s) returning id", [(11,)], (PAN,)),
        ),
    ),
    Case(
        "copy of what is masked",
        "Leave the column out, or allow the role `write: values` on it in the rules.",
        "oracle",
        AGENT,
        "insert into cards (id, pan) select 9, pan from payments where id = 1",
        (Step("insert into cards (id, pan) select 9, pan from payments where id = 1", login=TELLER),),
        sqlstate="42501",
    ),
    Case(
        "made by the database",
        "Give the value as a literal or a parameter, without a function or an expression around it.",
        "plain_into_sealed",
        TELLER,
        "update cards set pan = upper('x1') where id = 1",
        (
            Step("update cards set pan = 'X1' where id = 1 returning pan", [("X1",)]),
            Step("update cards set pan = %s where id = 1 returning pan", [("X2",)], ("X2",)),
        ),
    ),
    Case(
        "cast",
        "Leave the cast out, or cast to the column's own type: varchar(19).",
        "plain_into_sealed",
        TELLER,
        "select id from cards where pan = %s::varchar(4)",
        (
            Step("select id from cards where pan = %s", [(1,)], (PAN,)),
            Step("select id from cards where pan = %s::varchar(19)", [(1,)], (PAN,)),
        ),
        params=(PAN,),
    ),
    Case(
        "one parameter for two things",
        "Use one parameter for the sealed column and another one for the rest.",
        "unsupported",
        TELLER,
        "select id from cards where pan = %(a)s and kind = %(a)s",
        (Step("select id from cards where pan = %(a)s and kind = %(b)s", [(1,)], {"a": PAN, "b": "gold"}),),
        params={"a": PAN},
    ),
    Case(
        "sealed into plain",
        "Store it in a column that the rules seal under the same domain, or leave it out.",
        "sealed_into_plain",
        TELLER,
        "insert into orders (id, item) select id, pan from cards",
        (
            Step("insert into payments (id, pan) select 7, pan from cards where id = 2"),
            Step("insert into orders (id) select id + 100 from cards returning id", [(101,), (102,)]),
        ),
    ),
    # -- forms that are not analysed
    Case(
        "not parsed",
        "It names something protected. Write it as SELECT, INSERT, UPDATE or DELETE in plain form.",
        "unparsed",
        TELLER,
        "select phone from customers where name is nfc normalized order by id",
        (
            Step(
                "select phone from customers where normalize(name, nfc) = name order by id",
                [(PHONE,), ("13987654321",)],
            ),
        ),
    ),
    Case(
        "not accounted for",
        "Write the statement in a plainer form.",
        "unparsed",
        TELLER,
        "select date_trunc(x, now()) is null from customers c(i, x) where false",
        (Step("select date_trunc('day', now()) is null from customers where false", []),),
    ),
    Case(
        "an operator before its operand",
        "Write a function instead: abs(x) for @ x.",
        "unsupported",
        TELLER,
        "select @ id from customers order by id limit 1",
        (Step("select abs(id) from customers order by id limit 1", [(1,)]),),
    ),
    Case(
        "row type",
        "Name the columns instead.",
        "unsupported",
        TELLER,
        "select (null::cards).pan",
        (Step("select pan from cards where false", []),),
    ),
    Case(
        "a star over unknown columns",
        "Name the columns instead of *.",
        "unsupported",
        TELLER,
        "select * from generate_series(1, 1) g, cards where cards.id = 1",
        (Step("select g, cards.pan from generate_series(1, 1) g, cards where cards.id = 1", [(1, PAN)]),),
    ),
    Case(
        "a later WITH query",
        "Define each WITH query before those that read it, under a name that no table has.",
        "unsupported",
        TELLER,
        "with recursive a as (select phone from b), b as (select phone from customers where id = 1) select phone from a",
        (
            Step(
                "with recursive b as (select phone from customers where id = 1), a as (select phone from b)"
                " select phone from a",
                [(PHONE,)],
            ),
        ),
    ),
    Case(
        "NATURAL JOIN with a function",
        "Write JOIN ... USING with the columns.",
        "unsupported",
        TELLER,
        "select phone from customers natural join jsonb_populate_record(null::orders, '{\"id\": 1}') o",
        (
            Step(
                "select phone from customers join jsonb_populate_record(null::orders, '{\"id\": 1}') o using (id)",
                [(PHONE,)],
            ),
        ),
    ),
    Case(
        "INSERT of a star over unknown columns",
        "Name the columns of the query instead of *.",
        "unsupported",
        TELLER,
        'insert into customers (id, name) select * from jsonb_to_record(\'{"a": 50, "b": "Cy"}\') as x(a int, b text)',
        (
            Step(
                "insert into customers (id, name) select x.a, x.b"
                ' from jsonb_to_record(\'{"a": 50, "b": "Cy"}\') as x(a int, b text) returning id',
                [(50,)],
            ),
        ),
    ),
    Case(
        "a row from a star",
        "Write SET column = value for each column.",
        "unsupported",
        TELLER,
        'update customers set (name, notes) = (select * from json_each_text(\'{"Di": "x"}\')) where id = 1',
        (Step("update customers set name = 'Di', notes = 'x' where id = 1 returning name, notes", [("Di", "x")]),),
    ),
    Case(
        "a part of a column",
        "Assign the whole column.",
        "unsupported",
        TELLER,
        "update customers set tags[1] = 'new' where id = 1",
        (Step("update customers set tags = array['new', 'b'] where id = 1 returning tags", [(["new", "b"],)]),),
    ),
    Case(
        "a statement of another kind",
        "Write it as SELECT, INSERT, UPDATE or DELETE.",
        "unsupported",
        TELLER,
        "explain refresh materialized view customers",
        (
            Step(
                "explain (costs off) select phone from customers where false",
                [("Result",), ("  One-Time Filter: false",)],
            ),
        ),
    ),
    Case(
        "a rule that reads",
        "Write it with a login that sees the column clear, or take that rule, trigger or default away.",
        "unsupported",
        AGENT,
        "insert into calls (id) values (1)",
        (Step("insert into calls (id) values (1) returning id", [(1,)], login=TELLER),),
    ),
    # -- names of the session
    Case(
        "an argument that is computed",
        "Give a constant as the argument, without a function or an expression around it.",
        "plain_into_sealed",
        TELLER,
        f"execute by_pan(upper('{PAN}'))",
        (Step(f"execute by_pan('{PAN}')", [(1,)]),),
        before=("prepare by_pan(text) as select id from cards where pan = $1",),
    ),
    Case(
        "a name that nothing was prepared under",
        "Prepare it with PREPARE or by the protocol.",
        "unsupported",
        TELLER,
        "execute nothing_yet(1)",
        (
            Step("prepare nothing_yet(int) as select phone from customers where id = $1"),
            Step("execute nothing_yet(1)", [(PHONE,)]),
        ),
        sqlstate="26000",
    ),
    Case(
        "the same by an owner",
        "Prepare or declare it in a statement of this session, not in a function; or use a login that privileges keep out.",
        "unfenced",
        OWNER,
        "execute nothing_yet(1)",
        (
            Step("prepare nothing_yet(int) as select $1 + 1"),
            Step("execute nothing_yet(1)", [(2,)]),
        ),
        sqlstate="42501",
    ),
    # -- values that are one of several
    Case(
        "a constant among masks",
        "Select the column as it is, and put the constant in its place in the application.",
        "lookup",
        AGENT,
        "select coalesce(pan, 'none') from cards where id = 1",
        (Step("select pan from cards where id = 1", [(MASKED_PAN,)]),),
        sqlstate="42501",
    ),
    Case(
        "a constant that is cast among sealed values",
        "Write it as a string without a cast, or put it in its place in the application.",
        "compute",
        TELLER,
        "select coalesce(pan, 'none'::varchar(3)) from cards where id = 1",
        (
            Step("select coalesce(pan, 'none') from cards where id = 1", [(PAN,)]),
            Step("select pan from cards where id = 1", [(PAN,)]),
        ),
    ),
    Case(
        "a value of either of two columns",
        "Select them as columns of their own, or give both the same `domain`, `type`, `mode`, level and `mask`.",
        "cross_domain",
        TELLER,
        "select pan from cards where id = 1 union all select id_number from customers where id = 1",
        (Step("select k.pan, c.id_number from cards k join customers c using (id) where id = 1", [(PAN, "ID1")]),),
        other_rules=[(PAN,), ("ID1",)],
    ),
    # -- COPY and cursors
    Case(
        "COPY to a file of the server",
        "Use FROM STDIN or TO STDOUT (\\copy in psql).",
        "copy",
        TELLER,
        "copy cards to '/tmp/cards'",
        (Step("copy cards (id, pan) to stdout", [("1", PAN), ("2", OTHER_PAN)]),),
    ),
    Case(
        "a condition on sealed values",
        "Leave sealed columns out of the condition; filter the rows before they are sent.",
        "copy",
        TELLER,
        "copy cards (id, pan) from stdin where pan is not null",
        (Step("copy cards (id, pan) from stdin where id > 5"),),
    ),
    Case(
        "COPY into a view",
        "Copy into the table itself.",
        "copy",
        TELLER,
        "copy v_phones from stdin",
        (Step("copy customers (id, phone) from stdin"),),
    ),
    Case(
        "COPY with another statement",
        "Send the COPY by itself.",
        "copy",
        TELLER,
        "copy cards (pan) to stdout; select 1",
        (Step("copy cards (pan) to stdout", [(PAN,), (OTHER_PAN,)]),),
    ),
    Case(
        "options of COPY that are none",
        "Write COPY table (columns) FROM STDIN or TO STDOUT, or COPY (SELECT ...) TO STDOUT, with options that COPY's documentation lists.",
        "copy",
        TELLER,
        "copy cards (pan) to stdout (format csv, delimiter 'ab')",
        (Step("copy cards (pan) to stdout (format csv, delimiter ';')"),),
    ),
    Case(
        "an encoding of COPY that is not read",
        "Use ENCODING 'UTF8', or SET client_encoding TO 'UTF8'.",
        "copy",
        TELLER,
        "copy cards (pan) to stdout (encoding 'GBK')",
        (Step("copy cards (pan) to stdout (encoding 'UTF8')", [(PAN,), (OTHER_PAN,)]),),
    ),
    Case(
        "the oldest form of COPY with masks",
        "Write the options behind WITH: COPY table TO STDOUT WITH (FORMAT binary)",
        "copy",
        AGENT,
        "copy binary customers to stdout",
        (Step("copy customers (id) to stdout with (format binary)"),),
    ),
    Case(
        "COPY of a partitioned table",
        "Try the COPY (SELECT ...) TO variant.",
        "copy",
        AGENT,
        "copy visits to stdout",
        (Step("copy (select id, guest from visits) to stdout", [("1", "A** L**")]),),
        sqlstate="42809",
    ),
    Case(
        "a value that the server would compare",
        "Leave the column out, or allow the role `write: values` on it in the rules.",
        "oracle",
        AGENT,
        "insert into cards (id, pan) values (91, '4000000000000091')",
        (
            Step("insert into cards (id, kind) values (91, 'x') returning id", [(91,)]),
            Step(
                "insert into cards (id, pan) values (93, '4000000000000091') returning pan",
                [("************0091",)],
                login=WRITER,
            ),
        ),
        sqlstate="42501",
        bank=COMPUTING,
    ),
    Case(
        "COPY of values that are counted",
        "Send INSERT statements: each of their values is counted.",
        "copy",
        WRITER,
        "copy cards (id, pan) from stdin",
        (Step("insert into cards (id, pan) values (92, '4000000000000092') returning pan", [("************0092",)]),),
        bank=COMPUTING,
    ),
    # -- texts and settings
    Case(
        "an escape that versions of the server read differently",
        "Check the text's quotes and escapes, its encoding and its length.",
        "lexer",
        TELLER,
        f"select id from cards where pan in (E'\\v', '{PAN}')",
        (Step(f"select id from cards where pan in (E'\\x0b', '{PAN}')", [(1,)]),),
        sqlstate="42601",
    ),
    Case(
        "settings in the same text",
        "Send the statements one by one.",
        "settings",
        TELLER,
        "set search_path = public; select phone from customers where id = 1",
        (Step("set search_path = public"), Step("select phone from customers where id = 1", [(PHONE,)])),
    ),
    Case(
        "pgveil's own schema",
        "Name the tables themselves; pgveil masks them. To look after its objects, connect to the server directly; a dump leaves them out by pg_dump -N 'pgveil*'.",
        "unsupported",
        AGENT,
        "select phone from {schema}.customers where id = 1",
        (Step("select phone from customers where id = 1", [(MASKED_PHONE,)]),),
        sqlstate="42501",
    ),
    Case(
        "pgveil's own schema in search_path",
        "Take pgveil's schemas out of search_path: SET search_path = public",
        "settings",
        AGENT,
        "select phone from customers where id = 1",
        (Step("SET search_path = public"), Step("select phone from customers where id = 1", [(MASKED_PHONE,)])),
        before=("set search_path = {schema}",),
        sqlstate="42501",
    ),
    Case(
        "a name that the client's encoding has not",
        "Set client_encoding to UTF8: a name that pgveil puts into the text is not in this one.",
        "lexer",
        AGENT,
        'select 1 from U&"\\5BA2\\6237" where "name" is null',
        (Step("set client_encoding = 'UTF8'"), Step('select name from "客户"', [("A** L**",)])),
        before=("set client_encoding = 'LATIN1'",),
        sqlstate="22021",
    ),
    # -- what pgveil computes
    Case(
        "computed inside DECLARE",
        BY_ITSELF,
        "ordering",
        TELLER,
        "declare c cursor with hold for select pan from cards order by pan desc",
        (Step("select pan from cards order by pan desc", [(OTHER_PAN,), (PAN,)]),),
        bank=COMPUTING,
    ),
    Case(
        "computed inside PREPARE",
        BY_ITSELF,
        "plain_into_sealed",
        TELLER,
        "prepare p(text) as update cards set pan = upper($1) where id = 1",
        (Step("update cards set pan = upper(%s) where id = 1 returning pan", [("X1",)], ("x1",)),),
        bank=COMPUTING,
    ),
    Case(
        "computed inside EXPLAIN",
        BY_ITSELF,
        "compute",
        TELLER,
        "explain select id from cards where pan like '41%'",
        (Step("select id from cards where pan like '41%'", [(1,)]),),
        bank=COMPUTING,
    ),
    Case(
        "computed beside another statement",
        BY_ITSELF,
        "compute",
        TELLER,
        "select 1; select lower(pan) from cards where id = 1",
        (Step("select lower(pan) from cards where id = 1", [(PAN,)]),),
        bank=COMPUTING,
    ),
    Case(
        "computed by nobody, inside DECLARE",
        "Select the column as it is; compare it with =, IN or = ANY (deterministic columns) or IS NULL.",
        "compute",
        TELLER,
        "declare c cursor with hold for select id from cards where pan || random()::text = 'x'",
        (Step(f"select id from cards where pan = '{PAN}'", [(1,)]),),
        bank=COMPUTING,
    ),
    Case(
        "a type of the database's own",
        "Cast it to a built-in type, such as text; a column in a subquery.",
        "compute",
        TELLER,
        "select lower(pan), mood from cards join moods using (id)",
        (
            Step(
                "select lower(pan), mood from cards join (select id, mood::text from moods) m using (id)",
                [(PAN, "good")],
            ),
        ),
        bank=COMPUTING,
    ),
    Case(
        "a setting that hides values",
        "SET datestyle TO 'ISO'.",
        "compute",
        TELLER,
        "select lower(pan), since from cards join moods using (id)",
        (
            Step("set datestyle to 'ISO'"),
            Step("select lower(pan), since::date::text from cards join moods using (id)", [(PAN, "2026-02-03")]),
        ),
        before=("set timezone to 'UTC'", "set datestyle to 'SQL'"),
        bank=COMPUTING,
    ),
    Case(
        "a function that reads the clock",
        "Select the columns without that function, and call it in a statement of its own.",
        "compute",
        TELLER,
        "select lower(pan), age(timestamp '2020-01-01') is null from cards where id = 1",
        (
            Step("select lower(pan) from cards where id = 1", [(PAN,)]),
            Step("select age(timestamp '2020-01-01') is null", [(False,)]),
        ),
        bank=COMPUTING,
    ),
    Case(
        "more rows than are fetched",
        "Add a condition that the database can evaluate by itself, so that fewer rows are fetched.",
        "",
        TELLER,
        "select upper(secret) from many",
        (Step("select upper(secret) from many where id = 7", [("X7",)]),),
        sqlstate="54000",
        bank=COMPUTING,
    ),
    Case(
        "more rows than are computed",
        "Ask for fewer rows, or raise calculator.rows and calculator.size in pgveil's configuration.",
        "",
        TELLER,
        "select lower(pan) from cards where id = 1 union all select repeat(pan, i) from cards, generate_series(1, 30) i",
        (
            Step(
                "select lower(pan) from cards where id = 1 union all select pan from cards where id = 2",
                [(PAN,), (OTHER_PAN,)],
            ),
        ),
        sqlstate="54000",
        bank=COMPUTING,
    ),
    # -- look-ups
    Case(
        "an array constant that is looked up",
        "Write IN ('...', '...'), or give the array as a parameter.",
        "lookup",
        SEEKER,
        f"select id from cards where pan = any('{{{PAN},x}}')",
        (
            Step(f"select id, pan from cards where pan in ('{PAN}', 'x')", [(1, MASKED_PAN)]),
            Step("select id from cards where pan = any(%s)", [(1,)], ([PAN, "x"],)),
        ),
        sqlstate="42501",
        bank=COMPUTING,
    ),
    Case(
        "an array constant that is looked up by EXECUTE",
        "Write the argument as ARRAY['...', '...'].",
        "lookup",
        SEEKER,
        f"execute by_pans('{{{PAN},x}}')",
        (Step(f"execute by_pans(ARRAY['{PAN}', 'x'])", [(1,)]),),
        before=("prepare by_pans(text[]) as select id from cards where pan = any($1)",),
        sqlstate="42501",
        bank=COMPUTING,
    ),
    Case(
        "too many look-ups",
        "Wait a minute, look up fewer values at once, or have `lookups: {per_minute: ...}` of the role raised in the rules.",
        "lookup_rate",
        HURRIED,
        f"select id from cards where pan in ('{PAN}', 'x', 'y')",
        (Step(f"select id from cards where pan in ('{PAN}', 'x')", [(1,)]),),
        sqlstate="53400",
        bank=COMPUTING,
    ),
)

# Hints that no rewritten statement can follow, and why; many speak to the operator.
_CALCULATOR = (
    "the calculator is not there, is busy, or can't do as the server does: tests/calculator and tests/session try them"
)
_OPERATOR = "tells the operator what to set up"
_FAILOVER = "while the server that is asked for is away: tests/faults/test_failover.py"
_CONNECTION = "of the connection, before any statement"
NOT_BY_REWRITING = {
    "Name the generated column in the rules first, with a mask or `level: general`, and run pgveil apply --reload.": "a change of rules; tests/fixtures/decisions/newer.sql has a column that is named",
    "A failover is under way, or this login's default_transaction_read_only says otherwise. Try again.": _FAILOVER,
    "See server.target_session_attrs in pgveil's configuration; try again after the failover.": _FAILOVER,
    "If tables or columns were changed a moment ago, try again.": "the witness's of a write: tests/ddl",
    "Raise the limit of open files for pgveil's processes (LimitNOFILE in systemd, ulimit -n), or lower limits.connections.": _OPERATOR,
    "Run: pgveil apply --reload. Where newer rules are applied than this pgveil serves: pgveil reload.": "tells the operator: tests/hints/test_hints.py::test_apply_is_what_was_missing does it",
    "Send the statement again.": "only while a view or function is being replaced: tests/session/test_premise.py, tests/ddl",
    "Run the statement again.": "only while new rules come in between the analysis and the decision",
    "Commit first: pgveil knows a view once others can see it. Or select from the view's own tables.": "test_hints.py::test_commit_first",
    "Change the settings in a statement before it.": "what follows it is every other order of settings and statements: tests/settings",
    "Prepare the statement again, or fetch its rows before the settings change.": "about what is prepared already: "
    "tests/calculator/test_computing.py::test_each_step_has_the_settings_of_its_moment",
    "RESET {}.": "another statement first, and the same one again: tests/settings/test_settings.py",
    "Prepare the statement again.": "about what is prepared already: tests/session/test_renewing.py",
    "Call the function with SELECT.": "another message of the protocol: test_hints.py::test_function_calls",
    "Execute it by the protocol, or send the statement itself.": "about a name of the protocol: "
    "test_hints.py::test_what_is_computed_has_no_name_in_sql",
    "Select the columns as they are, and convert or sort them in the application.": "of what the catalog does not know yet: "
    "tests/session/test_strangers.py",
    "Choose another name.": "about a name of the protocol: test_hints.py::test_reserved_names",
    "If it was made a moment ago, try again; if it exists all the same, write the statement in a plainer form.": "the server is asked first, and its own "
    "error comes: only what it knows and the analysis does not gets this",
    "Qualify table names with their schema, or end the transaction and send the statement again.": "only where the server can't be asked for "
    "the settings: tests/session/test_session_server.py",
    "If views or functions were changed a moment ago, try again; else name the columns of the table itself.": "the witness's, "
    "when the analysis was wrong: tests/session/test_session_server.py",
    "Close those that are not used any longer.": "a limit of thousands: tests/session/test_session.py::test_limits_of_the_books",
    "Send the long value in a statement of its own.": "a limit of 64 MiB: tests/session",
    "Send bulk data with COPY, or in several statements.": "a message too long for the protocol ends the connection: tests/proxy/test_framing.py",
    "Statements that touch nothing protected go on. Tell the operator of pgveil.": _OPERATOR,
    "Write the table's name or alias before the column.": "the server finds an ambiguous name itself, and first",
    "Write COPY table (columns) FROM STDIN or TO STDOUT, or COPY (SELECT ...) TO STDOUT.": "the server finds a wrong COPY itself, and first",
    "Write it as INSERT, UPDATE and DELETE, one after the other.": "not PostgreSQL: the server says so first",
    # What PostgreSQL's grammar does not have, and the parser does: refused in case.
    "Write it as SELECT with FROM, WHERE, GROUP BY, HAVING, WINDOW and ORDER BY alone.": "not PostgreSQL: the server says so first",
    "Write it as a table, a subquery or a function with an alias that names its columns: f(...) AS t(a, b).": "not PostgreSQL",
    "Write JOIN ... ON or JOIN ... USING.": "not PostgreSQL: the server says so first",
    "Write INSERT INTO table (columns) VALUES or SELECT.": "not PostgreSQL: the server says so first",
    "Write UPDATE table SET column = value FROM ... WHERE.": "not PostgreSQL: the server says so first",
    "If it was made a moment ago, try again; if it was made in this transaction, commit first.": "a relation that is seconds old: "
    "tests/leaks",
    "You will need to rewrite or cast the expression.": "PostgreSQL's own words, for its own error",
    "List columns of the table, each once, and none that is generated.": "PostgreSQL's own errors, for a list of COPY that it refuses too",
    "Use quoted CSV field to represent {}.": "PostgreSQL's own words, about data and not about a statement",
    'Use "{}" to represent {}.': "PostgreSQL's own words, about data and not about a statement",
    "If the table was changed a moment ago, try again; else list the columns: COPY table (columns) ...": "the witness's, for a change "
    "that is seconds old",
    "Its log says more.": _OPERATOR,
    "Try again after the DDL.": "the catalog kept changing while it was read",
    "Run another pgveil for the rest.": _OPERATOR,
    "Create the database with encoding UTF8, or take its tables out of the rules.": _OPERATOR,
    "See pgveil's log; check `catalog.dsn` in its configuration.": _OPERATOR,
    "If a pooler stands between pgveil and the server, let it log in as the client's own user.": _OPERATOR,
    "Connect with sslmode=require or stronger.": _CONNECTION,
    "Close connections, or raise limits.connections or workers in pgveil's configuration.": _CONNECTION,
    "Close connections, or raise limits.connections_per_login in pgveil's configuration.": _CONNECTION,
    "Split the statement, or send its values as parameters or with COPY.": "a text of a million characters: tests/proxy/test_limits.py",
    "Connect replicas and base backups to the PostgreSQL server directly, with a login of their own.": _CONNECTION,
    "Let pg_hba.conf ask for scram-sha-256 on connections that come from pgveil.": _OPERATOR,
    "Set channel_binding=disable in the client, or give pgveil the certificate and key that the PostgreSQL server has, or let pgveil reach "
    "the server without TLS (a Unix socket or the same machine).": _CONNECTION,
}
# Modules all of whose hints are told elsewhere, with the reason.
ELSEWHERE = {
    "proxy/session/keeping.py:Ensure that no rows": "PostgreSQL's own: tests/writes/test_written_back.py",
    "proxy/decisions.py:Drop what you made under that name": "tests/writes/test_loose_triggers.py",
    "proxy/control.py": "of the commands, to the operator",
    "proxy/server.py:The address is in listen.proxy_protocol": "of the connection, to the operator: tests/proxy/test_balancer.py",
    "proxy/logins.py": "of the connection, to the operator: tests/proxy/test_logins.py",
    "proxy/tls.py": "of the connection, to the operator: tests/proxy/test_certificates.py",
    "proxy/calculator/": _CALCULATOR,
    "proxy/session/collect.py": _CALCULATOR,
    "proxy/session/judging.py:Select the columns as they are": _CALCULATOR,
}
