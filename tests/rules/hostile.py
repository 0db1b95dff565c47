"""Texts that grow: each production of the grammar nested and repeated, over the tables of tests/rules/test_decisions_golden.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Form = Callable[[int], str]


def _around(before: str, inner: str, after: str, rest: str = " from customers", start: str = "select ") -> Form:
    return lambda n: f"{start}{before * n}{inner}{after * n}{rest}"


def _listed(item: str, between: str = ",", before: str = "select ", after: str = " from customers") -> Form:
    """`{}` in the item is its number."""
    return lambda n: before + between.join(item.replace("{}", str(i)) for i in range(n)) + after


def _doubling(n: int) -> str:
    steps = "".join(f", a{i + 1} as (select x.*, y.* from a{i} x, a{i} y)" for i in range(n))
    return f"with a0 as (select * from customers){steps} select 1 from a{n}"


_CONDITION: Final = "select id from customers where "

NESTED: Final[Mapping[str, Form]] = {
    "parentheses": _around("(", "phone", ")"),
    "array": _around("array[", "phone", "]"),
    "array-query": _around("array(select ", "phone", " from customers)"),
    "subscript": _around("notes[", "1", "]"),
    "row": _around("row(", "phone", ")"),
    "function": _around("upper(", "phone", ")"),
    "unknown-function": _around("f(", "phone", ")"),
    "schema-function": _around("pg_catalog.upper(", "phone", ")"),
    "named-argument": _around("f(a => ", "phone", ")"),
    "variadic": _around("f(variadic ", "phone", ")"),
    "date": _around("date(", "phone", ")"),
    "varchar": _around("varchar(", "phone", ")"),
    "numeric": _around("numeric(", "id", ")"),
    "timestamp": _around("timestamp(", "phone", ")"),
    "timestamptz": _around("timestamp(", "1", ") with time zone"),
    "interval-type": _around("interval(", "1", ")"),
    "interval": _around("interval ", "'1'", ""),
    "struct": _around("struct(", "phone", ")"),
    "map": _around("map[", "phone", "]"),
    "json-type": _around("json(", "phone", ")"),
    "enum": _around("enum(", "phone", ")"),
    "any-array": _around("any(array[", "phone", "])", start="select phone = "),
    "any": _around("any(", "phone", ")", start="select phone = "),
    "cast": _around("cast(", "phone", " as text)"),
    "type-modifier": _around("numeric(", "1", ")", start="select id::"),
    "array-type": _around("", "phone::text", "[]"),
    "casts": _around("", "phone", "::text"),
    "case": _around("case when true then ", "phone", " end"),
    "case-subject": _around("case ", "phone", " when 'a' then 'b' end"),
    "case-else": _around("case when id = 1 then 'x' else ", "phone", " end"),
    "coalesce": _around("coalesce(", "phone", ", 'x')"),
    "nullif": _around("nullif(", "phone", ", 'x')"),
    "greatest": _around("greatest(", "phone", ", 'x')"),
    "not": _around("not ", "true", ""),
    "minus": _around("- ", "id", ""),
    "plus": _around("+ ", "id", ""),
    "operator": _around("@ ", "id", ""),
    "power-right": _around("2 ^ (", "id", ")"),
    "collate": _around("(", "phone", ' collate "C")'),
    "at-time-zone": _around("(", "now()", " at time zone 'UTC')"),
    "between": _around("id between 1 and (", "2", ")::int"),
    "in": _around("1 in (", "id", ")"),
    "in-query": _around("1 in (select ", "1", " from customers)"),
    "exists": _around("exists(select ", "1", " from customers)"),
    "scalar": _around("(select ", "phone", " from customers)"),
    "trim": _around("trim(both from ", "phone", ")"),
    "extract": _around("extract(year from ", "notes", ")"),
    "substring": _around("substring(", "phone", " from 1 for 2)"),
    "overlay": _around("overlay(", "phone", " placing 'x' from 1)"),
    "position": _around("position('a' in ", "phone", ")"),
    "json-object": _around("json_object('a': ", "phone", ")"),
    "json-array": _around("json_array(", "phone", ")"),
    "json-arrows": _around("(", "notes", " -> 'a')"),
    "xml": _around("xmlelement(name a, ", "phone", ")"),
    "filter": _around("count(*) filter (where ", "true", ")"),
    "window": _around("sum(", "id", ") over (order by id)"),
    "window-order": _around("sum(1) over (order by ", "id", ")"),
    "frame": _around("sum(", "1", ") over (rows between 1 preceding and 1 following)"),
    "within-group": _around("percentile_cont(0.5) within group (order by ", "id", ")"),
    "from-query": _around("(select * from ", "customers", ") t", "", "select 1 from "),
    "from-parentheses": _around("(", "customers", ")", "", "select 1 from "),
    "from-joins": _around("(customers a join ", "customers", " on true)", "", "select 1 from "),
    "lateral": _around("customers a, lateral (select * from ", "customers", ") t", "", "select 1 from "),
    "rows-from": _around("rows from (f(", "1", "))", " t, customers", "select 1 from "),
    "with": _around("with a as (", "select phone from customers", ") select 1 from a", "", ""),
    "recursive": _around(
        "with recursive a as (", "select 1 from customers", " union select 1 from a) select 1", "", ""
    ),
    "union-right": _around("select 1 union (", "select phone from customers", ")", "", ""),
    "grouping-sets": _around("grouping sets (", "id", ")", "", "select 1 from customers group by "),
    "rollup": _around("grouping sets (rollup (id), ", "id", ")", "", "select 1 from customers group by "),
    "insert": _around("(", "1", ")", "", "insert into customers (id) values "),
    "update": _around("coalesce(", "phone", ", 'x')", "", "update customers set phone = "),
    "returning": _around("upper(", "phone", ")", "", "delete from customers returning "),
    "on-conflict": _around(
        "(", "excluded.name", ")", "", "insert into customers (id) values (1) on conflict (id) do update set name = "
    ),
    "merge": _around(
        "(", "true", ")", " then delete", "merge into customers c using cards k on true when matched and "
    ),
    "copy": _around("(select * from ", "customers", ") t", ") to stdout", "copy (select 1 from "),
    "explain": _around("(select * from ", "customers", ") t", "", "explain select 1 from "),
    "prepare": _around("coalesce(", "phone", ", $1)", " from customers", "prepare p as select "),
    "declare": _around("upper(", "phone", ")", " from customers", "declare c cursor for select "),
    "create-view": _around("(select * from ", "customers", ") t", "", "create view v as select 1 from "),
    "create-table": _around("(", "1", ")", ")", "create table customers (a int check "),
    "begin-atomic": _around(
        "begin atomic ", "select 1 from customers;", " end;", "", "create function f() returns int "
    ),
    "comment": _around("/*", "x", "*/"),
}

REPEATED: Final[Mapping[str, Form]] = {
    "in-sealed": _listed("'1{}'", before=f"{_CONDITION}id_number in (", after=")"),
    "in-masked": _listed("'1{}'", before=f"{_CONDITION}phone in (", after=")"),
    "in-plain": _listed("{}", before="select phone from customers where id in (", after=")"),
    "any-array": _listed("'1{}'", before=f"{_CONDITION}phone = any(array[", after="])"),
    "any-array-cast": _listed("'1{}'", before=f"{_CONDITION}id_number = any(array[", after="]::text[])"),
    "row-in": _listed("('1{}', {})", before=f"{_CONDITION}(phone, id) in (", after=")"),
    "values": _listed("('a{}', '{}', '{}')", before="insert into customers (name, phone, id_number) values ", after=""),
    "values-parameters": _listed("(${}1)", before="insert into customers (id_number) values ", after=""),
    "values-one-parameter": _listed("($1)", before="insert into customers (id_number) values ", after=""),
    "equal-one-parameter": _listed("id_number = $1", " or ", "select phone from customers where ", ""),
    "values-from": _listed("({})", before="select phone from customers, (values ", after=") v (x)"),
    "returning": _listed("phone", before="insert into customers (id) values (1) returning ", after=""),
    "set": _listed("c{} = {}", before="update customers set phone = '1', ", after=" where id = 1"),
    "case": _listed("when id = {} then 'x'", " ", "select phone, case ", " end from customers"),
    "case-masked": _listed("when id = {} then phone", " ", "select case ", " end from customers"),
    "case-subject": _listed("when '1{}' then 'x'", " ", "select case id_number ", " end from customers"),
    "update-case": _listed("when {} then '{}'", " ", "update customers set id_number = case id ", " end where id = 1"),
    "sum": _listed("1", "+", "select phone, id + ", " from customers"),
    "sum-sealed": _listed("1", "+", "select credit + ", " from cards"),
    "product": _listed("id", "*", "select phone, ", " from customers"),
    "power": _listed("id", "^", "select phone, ", " from customers"),
    "concatenation": _listed("'a'", "||", "select phone || ", " from customers"),
    "compared": _listed("id", " = ", "select phone from customers where ", ""),
    "and": _listed("id = {}", " and ", f"{_CONDITION}phone = '1' and ", ""),
    "and-sealed": _listed("id_number = '{}'", " and ", _CONDITION, ""),
    "or-masked": _listed("phone = '{}'", " or ", _CONDITION, ""),
    "or-pairs": _listed("(id_number = '{}' and id = {})", " or ", _CONDITION, ""),
    "like": _listed("id_number like '{}%'", " or ", _CONDITION, ""),
    "not-in": _listed("phone not in ('{}')", " and ", _CONDITION, ""),
    "is-null": _listed("phone is not null", " or ", _CONDITION, ""),
    "between": _listed("phone between '{}' and '{}'", " or ", _CONDITION, ""),
    "columns": _listed("phone"),
    "stars": _listed("*"),
    "qualified-stars": _listed("c.*", after=" from customers c"),
    "aliases": _listed("phone as a{}"),
    "functions": _listed("upper(id_number)"),
    "casts": _listed("phone::text"),
    "arrays": _listed("phone", before="select array[", after="] from customers"),
    "coalesce": _listed("phone", before="select coalesce(", after=") from customers"),
    "arguments": _listed("phone", before="select f(", after=") from customers"),
    "subscripts": _listed("[1]", "", "select phone, notes", " from customers"),
    "intervals": _listed("interval '1 day'", " + ", "select phone, now() + ", " from customers"),
    "json-keys": _listed("'k{}': phone", before="select json_object(", after=") from customers"),
    "json-arrows": _listed("'a'", " -> ", "select phone, notes -> ", " from customers"),
    "scalars": _listed("(select phone from customers)", after=""),
    "windows": _listed("sum(id) over (partition by phone)"),
    "named-windows": _listed("w{} as (order by id)", before="select phone from customers window ", after=""),
    "filters": _listed("count(*) filter (where phone = '1')"),
    "from": _listed("customers c{}", before="select 1 from ", after=""),
    "from-views": _listed("v_cards v{}", before="select 1 from ", after=""),
    "from-values": _listed("(values (1)) v{}", before="select phone from customers, ", after=""),
    "joins": _listed("join customers c{} on c{}.id = c.id", " ", "select c.phone from customers c ", ""),
    "using": _listed("join customers c{} using (id)", " ", "select c.phone from customers c ", ""),
    "natural": _listed("natural join customers c{}", " ", "select c.phone from customers c ", ""),
    "laterals": _listed("lateral (select phone) l{}", before="select 1 from customers, ", after=""),
    "unions": _listed("select phone from customers", " union all ", "", ""),
    "unions-distinct": _listed("select id_number from customers", " union ", "", ""),
    "excepts": _listed("(select phone from customers)", " except ", "", ""),
    "ctes": _listed("a{} as (select phone from customers)", before="with ", after=" select * from a0"),
    "cte-chain": _listed("a{}1 as (select * from customers)", before="with recursive ", after=" select * from a01"),
    "cte-chain-unions": _listed(
        "a{}1 as (select id from customers union all select id from a{}1)", before="with recursive ", after=" select * from a01"
    ),
    "group-by": _listed("id", before="select phone from customers group by ", after=""),
    "order-by": _listed("phone", before="select phone from customers order by ", after=""),
    "order-by-place": _listed("1", before="select phone from customers order by ", after=""),
    "grouping-sets": _listed("(id, phone)", before="select 1 from customers group by grouping sets (", after=")"),
    "cubes": _listed("cube (id, phone)", before="select 1 from customers group by ", after=""),
    "distinct-on": _listed("id", before="select distinct on (", after=") phone from customers"),
    "strings": _listed("'a'\n", "", "select phone, ", " from customers"),
    "escapes": _listed("\\'", "", "select phone, e'", "' from customers"),
    "dollars": _listed("$a$ $b$", "", "select phone, $a{}$", "$a{}$ from customers"),
    "comments": _listed("/* x */ -- y\n", "", "select phone ", " from customers"),
    "operators": _listed("@", "", "select phone, 1 ", " 2 from customers"),
    "parameters": _listed("${}1", before="select phone from customers where id in (", after=")"),
    "numbers": _listed("1.5e{}", before="select phone from customers where id in (", after=")"),
    "statements": _listed("select phone from customers", ";", "", ""),
    "mixed-statements": _listed("select 1; update customers set name = 'x'", ";", "", ""),
    "explains": _listed("explain select phone from customers", ";", "", ""),
    "prepares": _listed("prepare p{} as select phone from customers", ";", "", ""),
    "copies": _listed("copy customers to stdout", ";", "", ""),
    "locks": _listed("customers", before="select phone from customers for update of ", after=""),
    "merges": _listed("when matched and c.id = {} then update set name = 'x'", " ", "merge into customers c using cards k on true ", ""),
    "create-columns": _listed("c{} int", before="create table customers (", after=")"),
    "alter-columns": _listed("add column c{} int", before="alter table customers ", after=""),
    "grants": _listed("phone", before="grant select (", after=") on customers to x"),
    "drop": _listed("customers", before="drop table ", after=""),
    "truncate": _listed("customers", before="truncate ", after=""),
    "sets": _listed("set search_path = public, pg_catalog", ";", "select phone from customers;", ""),
    "execute": _listed("'{}'", before="prepare p as select phone from customers where id = $1; execute p(", after=")"),
    "doubling": lambda n: _doubling(n // 10),
    "wide": _listed("a{}.*", before="with a as (select c.*, k.* from customers c, cards k) select ", after=" from a a0"),
}  # fmt: skip
