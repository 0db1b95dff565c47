"""A statement that touches nothing protected gives the same bytes through pgveil as directly: conversations of three clients, recorded."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest

from tests.e2e.world import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.world import World

# BackendKeyData differs from connection to connection: 'K', its length, process id and secret key.
_KEY_DATA = re.compile(rb"K\x00\x00\x00(?:\x0c.{8}|\x28.{36})", re.DOTALL)


def _psycopg(world: World, port: int) -> None:
    with psycopg.connect(
        f"postgresql://app@127.0.0.1:{port}/{world.database}", application_name="identity"
    ) as connection:
        connection.execute("truncate t")
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into t values (%s, %s, %s, %s)",
                [(i, f"note {i}", "2026-01-01 00:00+00", bytes([i])) for i in range(20)],
            )
            with cursor.copy("copy t (id, note) from stdin") as copy:
                for i in range(100, 120):
                    copy.write_row((i, "copied"))
            cursor.execute("select * from t order by id", binary=True)
            cursor.fetchall()
            with cursor.copy("copy (select id, note from t order by id) to stdout") as copy:
                for _ in copy:
                    continue
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute("insert into t values (1)")
        with pytest.raises(psycopg.errors.SyntaxError), connection.transaction():
            connection.execute("selec 1")
        with connection.pipeline():
            for i in range(5):
                connection.execute("select %s::int + 1", (i,))
        with connection.cursor("named") as named:
            named.execute("select generate_series(1, 50)")
            named.fetchmany(7)
        connection.execute("set datestyle to 'German'")
        connection.execute("select 'a'; select 2")
        connection.rollback()


def _asyncpg(world: World, port: int) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(f"postgresql://app@127.0.0.1:{port}/{world.database}")
        await connection.execute("truncate u")
        await connection.executemany("insert into u values ($1, $2, $3)", [(i, ["a", None], "{}") for i in range(10)])
        await connection.copy_records_to_table("u", records=[(99, ["x"], '{"a": 1}')])
        assert len(await connection.fetch("select * from u order by id")) == 11
        async with connection.transaction():
            async for _ in connection.cursor("select generate_series(1, 100)", prefetch=9):
                continue
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchval("select 1 / $1::int", 0)
        await connection.execute("notify news, 'hello'")
        await connection.execute("listen news; notify news, 'again'")
        await connection.close()

    asyncio.run(talk())


def _psql(world: World, port: int) -> None:
    # Of a table with sealed columns \\d shows the logical types, which the server does not (ADR 0038).
    script = "\\d support_tickets\n\\dt\nbegin;\nselect 1;\nselect broken;\nrollback;\nselect count(*) from support_tickets;\n\\copy (select 1) to stdout\n"
    subprocess.run(
        [str(world.pg.bin_dir / "psql"), "-X", "-d", f"postgresql://app@127.0.0.1:{port}/{world.database}"],
        input=script.encode(),
        capture_output=True,
        check=False,
        timeout=30,
    )


def _recorded(talk: Callable[[World, int], None], world: World, port: int) -> bytes:
    tap = Tap(port)
    try:
        talk(world, tap.port)
    finally:
        tap.close()
    return _KEY_DATA.sub(b"K", bytes(tap.sent["app"]))


@pytest.mark.parametrize("talk", [_psycopg, _asyncpg, _psql], ids=["psycopg", "asyncpg", "psql"])
def test_same_bytes(world: World, talk: Callable[[World, int], None]) -> None:
    world.pg.psql(
        "create table if not exists t (id int primary key, note text, at timestamptz, raw bytea);"
        "create table if not exists u (id int, tags text[], body jsonb); grant all on t, u to app",
        world.database,
    )
    direct = _recorded(talk, world, world.pg.port)
    through = _recorded(talk, world, world.port)
    assert len(direct) > 1000
    assert _without_pids(through) == _without_pids(direct)


def _without_pids(raw: bytes) -> bytes:
    """Without the process id that a NotificationResponse carries: it is another one at each run."""
    return re.sub(rb"A(\x00\x00..)....", rb"A\1", raw, flags=re.DOTALL)


def test_psql_watch_and_cancel_leave_no_trace(world: World) -> None:
    with psycopg.connect(world.dsn("app"), autocommit=True) as connection:
        connection.execute("set statement_timeout = 100")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(10)")
        assert connection.execute("select 1").fetchone() == (1,)
