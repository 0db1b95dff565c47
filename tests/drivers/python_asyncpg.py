"""asyncpg: binary formats, named prepared statements, a look at every type that it meets; with its pool."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import ssl
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.drivers.checks import FAILING
from tests.drivers.ground import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

    Connection = asyncpg.Connection[Any]

VERSION = asyncpg.__version__
LACKING: Mapping[str, str] = {
    "channel_binding": "asyncpg has no channel binding",
    "text": "asyncpg takes text format only for types that it does not know",
    "pipeline": "asyncpg has no pipelines",
    "two_phase": "asyncpg has no interface to it",
    "introspection": "asyncpg looks at types only, which `binary` and `describe` show",
}
CODES = (
    *("New", "13912345678", "6222020000000009", Decimal("12.34"), dt.date(1999, 12, 31)),
    *(dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC), 0.5, 7, True, uuid.UUID(int=5)),
    *(b"\0\1\xff", '{"a": [1, null]}', ["x", None, "é"], "happy"),
)
FIELDS = (
    *("severity", "sqlstate", "message", "detail", "hint", "position", "schema_name", "table_name"),
    *("column_name", "data_type_name", "constraint_name", "context"),
)


async def connect(target: Target, **options: Any) -> Connection:
    context = ssl.create_default_context(cafile=str(target.root_certificate))
    made: Connection = await asyncpg.connect(
        **{
            "host": target.host,
            "port": target.port,
            "database": target.database,
            "user": target.user,
            "password": target.password,
            "ssl": context,
            "timeout": 20,
            **options,
        }
    )
    return made


def plainly(rows: Any) -> Any:
    return [tuple(row) for row in rows] if isinstance(rows, list) else rows


def check(body: Callable[[Connection, Target], Awaitable[Any]], **options: Any) -> Observe:
    """A check of one connection."""

    async def run(target: Target) -> Any:
        connection = await connect(target, **options)
        try:
            return await body(connection, target)
        finally:
            await connection.close(timeout=10)

    return lambda target: asyncio.run(run(target))


def columns(target: Target) -> list[str]:
    return [c for c in COLUMNS if c != "essay" or target.user == "clerk"]


async def failure(awaited: Awaitable[Any]) -> Any:
    try:
        await awaited
    except asyncpg.PostgresError as error:
        return [type(error).__name__, *(getattr(error, f, None) for f in FIELDS)]
    return "no error"


async def who(connection: Connection, target: Target) -> Any:
    return plainly(await connection.fetch("select current_user"))


def tls_wrong_authority(target: Target) -> Any:
    other = ssl.create_default_context(cafile=str(target.root_certificate.with_name("other.crt")))
    try:
        asyncio.run(connect(target, ssl=other))
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return "no error"


def tls_direct(target: Target) -> Any:
    """asyncpg leaves it to the application to name the protocol, which PostgreSQL 17 asks for as pgveil does."""
    context = ssl.create_default_context(cafile=str(target.root_certificate))
    context.set_alpn_protocols(["postgresql"])
    return check(who, ssl=context, direct_tls=True)(target)


def scram(target: Target) -> Any:
    async def run() -> Any:
        return await failure(connect(target, password="wrong"))

    return asyncio.run(run())


async def simple(connection: Connection, target: Target) -> Any:
    s = target.schema
    seen = [await connection.execute(f"select name, card from {s}.people where id = 3; select 1; set lc_time = 'C'")]
    return [*seen, await connection.execute("begin; select 1; rollback")]


async def prepared(connection: Connection, target: Target) -> Any:
    s = target.schema
    statement = await connection.prepare(f"select name, card, credit, born, tags from {s}.people where id = $1")
    seen: list[Any] = [[tuple(r) for r in await statement.fetch(i)] for i in (1, 2, 3, 20)]
    seen.append(
        [[p.name for p in statement.get_parameters()], [(a.name, a.type.name) for a in statement.get_attributes()]]
    )
    if target.user == "clerk":
        found = await connection.prepare(f"select id from {s}.people where card = $1 and credit = $2")
        seen.append([(p.name, p.oid) for p in found.get_parameters()])
        for i in (1, 2, 3):
            seen.append(plainly(await found.fetch(f"62000000000{i:05}", Decimal(f"{i * 37}.50"))))
        listed = f"select id from {s}.people where card = any($1) order by id"
        seen.append(plainly(await connection.fetch(listed, ["6200000000000001", "6200000000000009"])))
        seen.append(
            plainly(await connection.fetch(f"select id from {s}.people where mood = any($1) order by id", ["sad"]))
        )
    return seen


async def binary(connection: Connection, target: Target) -> Any:
    sql = f"select {', '.join(columns(target))} from {target.schema}.people where id in (1, 2, 3, 20) order by id"
    return plainly(await connection.fetch(sql))


async def describe(connection: Connection, target: Target) -> Any:
    statement = await connection.prepare(f"select {', '.join(columns(target))}, 1 as one from {target.schema}.people")
    shown = [(a.name, a.type.name, a.type.kind) for a in statement.get_attributes()]
    if target.user != "clerk":
        return shown
    marks = ", ".join(f"${i}" for i in range(1, len(CODES) + 1))
    names = ", ".join(COLUMNS[1 : len(CODES) + 1])
    insert = await connection.prepare(f"insert into {target.schema}.people ({names}) values ({marks})")
    return [shown, [(p.name, p.kind) for p in insert.get_parameters()]]


async def write(connection: Connection, target: Target) -> Any:
    s = target.schema
    names = ", ".join(COLUMNS[1 : len(CODES) + 1])
    marks = ", ".join(f"${i}" for i in range(1, len(CODES) + 1))
    sql = f"insert into {s}.people (id, {names}) values (9100, {marks}) returning {names}"
    return [
        plainly(await connection.fetch(sql, *CODES)),
        await connection.execute(f"update {s}.people set card = $1, level = $2 where id = $3", "1", -3, 9100),
        plainly(await connection.fetch(f"select {names} from {s}.people where id = 9100")),
        await connection.execute(f"delete from {s}.people where card = $1", "1"),
    ]


async def batch(connection: Connection, target: Target) -> Any:
    s = target.schema
    transaction = connection.transaction()
    await transaction.start()
    rows = [(9200 + i, f"Batch {i}", f"63{i:014}", Decimal(i)) for i in range(50)]
    insert = f"insert into {s}.people (id, name, card, credit) values ($1, $2, $3, $4)"
    await connection.executemany(insert, rows)
    seen = [plainly(await connection.fetch(f"select id, card, credit from {s}.people where id >= 9200 order by id"))]
    many = f"update {s}.people set level = $2 where card = $1 returning id, card"
    seen.append(plainly(await connection.fetchmany(many, [(f"63{i:014}", i) for i in range(5)])))
    seen.append(await failure(connection.executemany(insert, [*[(9300, "x", None, None)], rows[0]])))
    await transaction.rollback()
    return seen


async def cursor(connection: Connection, target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    async with connection.transaction():
        sql = f"select id, name, card from {s}.people where id <= $1 order by id"
        seen.append([tuple(r) async for r in connection.cursor(sql, 30, prefetch=7)])
        held = await connection.cursor(sql, 40)
        seen.append([tuple(r) for r in await held.fetch(3)])
        seen.append(plainly(await connection.fetch(f"select card from {s}.people where id = 1")))
        await held.forward(5)
        seen.append([tuple(r) for r in await held.fetch(100)])
        await connection.execute(f"declare c scroll cursor for select id, card, level from {s}.people order by id")
        for text in ("fetch 3 from c", "fetch absolute 50 from c", "fetch backward 2 from c"):
            seen.append(plainly(await connection.fetch(text)))
    return seen


async def copy_out(connection: Connection, target: Target) -> Any:
    seen: list[Any] = []
    sql = f"select id, name, phone, card, credit, born, note from {target.schema}.people order by id"
    for form in ("text", "csv", "binary"):
        out = io.BytesIO()
        await connection.copy_from_query(sql, output=out, format=form)
        seen.append(out.getvalue().hex())
    if target.user == "clerk":
        out = io.BytesIO()
        names = ["id", "card", "photo", "mood"]
        tag = await connection.copy_from_table("people", schema_name=target.schema, columns=names, output=out)
        seen.append([tag, sorted(out.getvalue().decode().splitlines())])
    return seen


async def copy_in(connection: Connection, target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    names = list(COLUMNS[: len(CODES) + 1])
    transaction = connection.transaction()
    await transaction.start()
    rows = [(9300 + i, *CODES[:2], f"64{i:014}", *CODES[3:]) for i in range(100)]
    seen.append(await connection.copy_records_to_table("people", schema_name=s, records=rows, columns=names))
    seen.append(plainly(await connection.fetch(f"select {', '.join(names)} from {s}.people where id >= 9300")))
    source = io.BytesIO(b"9500\tX\t6700000000000001\t2001-02-03\n9501\tY\t\\N\t\\N\n")
    seen.append(
        await connection.copy_to_table("people", schema_name=s, source=source, columns=["id", "name", "card", "born"])
    )
    seen.append(plainly(await connection.fetch(f"select id, card, born from {s}.people where id >= 9500")))
    await transaction.rollback()
    return seen


async def notify(connection: Connection, target: Target) -> Any:
    got: asyncio.Queue[Any] = asyncio.Queue()
    await connection.add_listener("news", lambda _c, _p, channel, payload: got.put_nowait((channel, payload)))
    other = await connect(target)
    await other.execute("select pg_notify('news', 'é')")
    await other.execute("notify news, 'second'")
    await other.close()
    return [await asyncio.wait_for(got.get(), 20) for _ in range(2)]


async def notice(connection: Connection, target: Target) -> Any:
    got: list[Any] = []
    connection.add_log_listener(lambda _c, m: got.append([m.severity, m.sqlstate, m.message, m.hint]))
    await connection.execute("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$")
    await asyncio.sleep(0)
    return got


async def cancel(connection: Connection, target: Target) -> Any:
    seen = []
    for text in ("select pg_sleep(60)", f"select pg_sleep(60) from {target.schema}.people"):
        try:
            await connection.fetch(text, timeout=0.5)
        except TimeoutError:
            seen.append("timeout")
        seen.append(plainly(await connection.fetch(f"select name from {target.schema}.people where id = 1")))
    return seen


async def large_object(connection: Connection, target: Target) -> Any:
    """By functions: asyncpg has no interface of its own to them."""
    data = bytes(range(256)) * 4096
    oid = await connection.fetchval("select lo_from_bytea(0, $1)", data)
    got = plainly(await connection.fetch("select lo_get($1) = $2, lo_get($1, 255, 3)", oid, data))
    await connection.execute("select lo_unlink($1)", oid)
    return got


async def big(connection: Connection, target: Target) -> Any:
    text = "漢字 and some more, " * 150_000
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"insert into {target.schema}.people (id, name, essay) values (9500, $1, $2)", text, text)
    row = await connection.fetchrow(f"select name, essay from {target.schema}.people where id = 9500")
    assert row is not None
    await transaction.rollback()
    return [row[0] == text, row[1] == text]


async def errors(connection: Connection, target: Target) -> Any:
    return {
        f"{name} {way}": await failure(getattr(connection, way)(text.format(s=target.schema)))
        for name, text in FAILING.items()
        for way in ("execute", "fetch")
    }


async def transaction(connection: Connection, target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    async with connection.transaction():
        seen.append(await connection.fetchval(f"select card from {s}.people where id = 2"))
        try:
            async with connection.transaction():
                await connection.execute(f"select 1 / (id - id) from {s}.people")
        except asyncpg.PostgresError as error:
            seen.append(error.sqlstate)
        seen.append(
            [connection.is_in_transaction(), await connection.fetchval(f"select phone from {s}.people where id = 1")]
        )
    outer = connection.transaction(isolation="serializable", readonly=True)
    await outer.start()
    seen.append((await failure(connection.fetch(f"select nosuch from {s}.people")))[:4])
    seen.append((await failure(connection.fetch(f"select name from {s}.people")))[:4])
    await outer.rollback()
    seen.append(await connection.fetchval(f"select card from {s}.people where id = 3"))
    return seen


def pool(target: Target) -> Any:
    async def run() -> Any:
        context = ssl.create_default_context(cafile=str(target.root_certificate))
        made = await asyncpg.create_pool(
            host=target.host,
            port=target.port,
            database=target.database,
            user=target.user,
            password=target.password,
            ssl=context,
            min_size=2,
            max_size=3,
        )
        s = target.schema

        async def one(number: int) -> Any:
            async with made.acquire() as connection:
                await connection.execute("set search_path = pg_catalog")
                return plainly(await connection.fetch(f"select name, card from {s}.people where id = $1", number))

        try:
            return await asyncio.gather(*(one(i) for i in range(1, 20)))
        finally:
            await made.close()

    return asyncio.run(run())


async def modes(connection: Connection, target: Target) -> Any:
    """Without the cache of statements, as behind a pooler."""
    s = target.schema
    found = await connection.fetch(f"select id, card from {s}.people where id = any($1::bigint[]) order by id", [1, 2])
    return [plainly(found), await connection.fetchval(f"select card from {s}.people where id = $1", 3)]


OBSERVE: Mapping[str, Observe] = {
    "tls_off": check(who, ssl=False),
    "tls_require": check(who, ssl="require"),
    "tls_verify_full": check(who),
    "tls_wrong_authority": tls_wrong_authority,
    "tls_direct": tls_direct,
    "scram": scram,
    "simple": check(simple),
    "prepared": check(prepared),
    "binary": check(binary),
    "describe": check(describe),
    "write": check(write),
    "batch": check(batch),
    "cursor": check(cursor),
    "copy_out": check(copy_out),
    "copy_in": check(copy_in),
    "notify": check(notify),
    "notice": check(notice),
    "cancel": check(cancel),
    "large_object": check(large_object),
    "big": check(big),
    "errors": check(errors),
    "transaction": check(transaction),
    "pool": pool,
    "modes": check(modes, statement_cache_size=0),
}
