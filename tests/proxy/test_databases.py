"""The connection that watches a database: made anew when it was cut, there while sessions are, and in nobody's way (docs/adr/0033)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from proxy import logs
from proxy.databases import LINGER_SECONDS, MAX_DATABASES, CatalogUnavailable, Databases, _Database
from proxy.own_login import OwnLogin
from proxy.plan_cache import SilentCache
from proxy.repeated import Repeated
from proxy.session.values import ValueCodec
from proxy.troubles import reason_of
from rules.load import load_rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgveil catalog' and datname = '{}'"


def _databases(home: Path, dsn: str, answered: list[bool], forgotten: list[str] | None = None) -> Databases:
    rules = home / "rules.yaml"
    rules.write_text("version: 1\ntables: {}\n")
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    codec = ValueCodec(ring, random=os.urandom)
    return Databases(
        OwnLogin(dsn),
        load_rules(rules),
        codec,
        observer=SilentCache(),
        changed=lambda *_: None,
        answered=answered.append,
        forgotten=([] if forgotten is None else forgotten).append,
    )


async def test_a_connection_that_was_cut_is_made_anew(pg: Postgres, tmp_path: Path) -> None:
    name = pg.create_database()
    answered: list[bool] = []
    databases = _databases(tmp_path, pg.dsn(name), answered)
    gate = await databases.gate(name)
    pg.psql(CUT.format(name))
    pg.psql("create table made (id int)", name)
    generation = gate.generation
    await databases.refresh(name)
    assert gate.generation > generation, "and sees what has changed meanwhile"
    assert answered == [True, True]
    await databases.close()


async def test_a_reload_looks_at_what_was_applied_just_before(pg: Postgres, tmp_path: Path) -> None:
    """Without waiting for the next poll; a database that is away does not stop it."""
    name = pg.create_database()
    databases = _databases(tmp_path, pg.dsn(name), [])
    gate = await databases.gate(name)
    pg.psql("create table made (id int)", name)
    generation = gate.generation
    await databases.look_again()
    assert gate.generation > generation
    pg.psql(f'alter database "{name}" allow_connections false')
    pg.psql(CUT.format(name))
    await databases.look_again()
    await databases.close()


async def test_one_that_can_not_be_made_is_told(pg: Postgres, tmp_path: Path) -> None:
    answered: list[bool] = []
    databases = _databases(tmp_path, "postgresql://nobody@127.0.0.1:1/none", answered)
    with pytest.raises(CatalogUnavailable, match="can't read"):
        await databases.gate("none")
    assert answered == [False]


HELD = "select count(*) from pg_stat_activity where application_name = 'pgveil catalog' and datname = '{}'"


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if await asyncio.to_thread(holds):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("waited in vain")


async def _until_gone(pg: Postgres, name: str) -> None:
    await _until(lambda: pg.psql(HELD.format(name)).strip() == "0")


async def test_the_connection_goes_with_the_last_session(pg: Postgres, tmp_path: Path) -> None:
    name = pg.create_database()
    databases = _databases(tmp_path, pg.dsn(name), [])
    gate = await databases.gate(name)
    assert await databases.gate(name) is gate
    databases.left(name)
    await asyncio.sleep(2 * LINGER_SECONDS)
    assert pg.psql(HELD.format(name)).strip() == "1", "there is still one"
    databases.left(name)
    await _until_gone(pg, name)
    pg.psql("create table made (id int)", name)
    generation = gate.generation
    assert await databases.gate(name) is gate, "what was known is kept"
    assert gate.generation > generation, "and looked at before a session begins"
    await databases.close()


async def test_a_refresh_that_comes_after_the_last_session_opens_nothing(pg: Postgres, tmp_path: Path) -> None:
    """A session that makes a table and goes has asked for one."""
    name = pg.create_database()
    databases = _databases(tmp_path, pg.dsn(name), [])
    await databases.gate(name)
    going = asyncio.create_task(databases.refresh(name))
    databases.left(name)
    await going
    await _until_gone(pg, name)
    await databases.refresh(name)
    assert pg.psql(HELD.format(name)).strip() == "0"
    await databases.close()


async def test_who_comes_at_once_finds_the_connection_still_there(pg: Postgres, tmp_path: Path) -> None:
    name = pg.create_database()
    answered: list[bool] = []
    databases = _databases(tmp_path, pg.dsn(name), answered)
    for _ in range(5):
        await databases.gate(name)
        databases.left(name)
    assert answered == [True], "it was asked once"
    await _until_gone(pg, name)
    await databases.close()


async def test_the_one_that_nobody_used_for_longest_makes_room(pg: Postgres, tmp_path: Path) -> None:
    names = [pg.create_database() for _ in range(3)]
    forgotten: list[str] = []
    databases = _databases(tmp_path, pg.dsn(names[0]), [], forgotten)
    databases.expect(names[0])
    for name in (*names[1:], names[1]):
        await databases.gate(name)
        databases.left(name)
    for n in range(MAX_DATABASES - len(names)):
        databases._databases[f"filler{n}"] = _Database(f"filler{n}", databases._codec.in_database(), users=1)
    another = pg.create_database()
    await databases.gate(another)
    assert forgotten == [names[2]]
    await databases.close()


async def test_what_has_gone_is_forgotten(pg: Postgres, tmp_path: Path) -> None:
    home, dropped, renamed, stays = (pg.create_database() for _ in range(4))
    forgotten: list[str] = []
    databases = _databases(tmp_path, pg.dsn(home), [], forgotten)
    databases.expect(home)
    for name in (dropped, renamed, stays):
        await databases.gate(name)
        databases.left(name)
    await asyncio.to_thread(pg.psql, f'drop database "{dropped}"')
    await asyncio.to_thread(pg.psql, f'alter database "{renamed}" rename to "{renamed}_now"')
    polling = asyncio.create_task(databases.poll(0.05))
    await _until(lambda: len(forgotten) == 2)
    polling.cancel()
    assert sorted(forgotten) == sorted([dropped, renamed])
    assert len(databases._codec._databases) == 2, "nor are their codecs kept"
    await databases.close()


async def test_a_database_that_is_wanted_is_left_at_once(pg: Postgres, tmp_path: Path) -> None:
    """By whoever copies it, though a session of pgveil's client is in it."""
    name = pg.create_database()
    databases = _databases(tmp_path, pg.dsn(name), [])
    await databases.gate(name)
    polling = asyncio.create_task(databases.poll(0.05))
    await asyncio.to_thread(pg.psql, f'create database "{name}_copy" template "{name}"')
    await databases.refresh(name)
    assert pg.psql(HELD.format(name)).strip() == "1"
    polling.cancel()
    await databases.close()


async def test_a_failure_is_told_once_with_its_reason(pg: Postgres, tmp_path: Path) -> None:
    log, now = _Log(), [0.0]
    troubles = Repeated(log, "catalog.unreachable", "catalog.reachable", lambda: now[0])
    for _ in range(200):
        troubles.failed("shop", "ECONNREFUSED", database="shop")
        now[0] += 1
    troubles.failed("shop", "timeout", database="shop")
    troubles.ended("shop", database="shop")
    troubles.ended("shop", database="shop")
    times = [(event, fields.get("times"), fields["reason"]) for event, fields in log.said]
    assert times == [
        ("catalog.unreachable", None, "ECONNREFUSED"),
        ("catalog.unreachable", 61, "ECONNREFUSED"),
        ("catalog.unreachable", 121, "ECONNREFUSED"),
        ("catalog.unreachable", 181, "ECONNREFUSED"),
        ("catalog.unreachable", 201, "timeout"),
        ("catalog.reachable", 201, "timeout"),
    ]
    with pytest.raises(asyncpg.PostgresError) as refused:
        await asyncpg.connect(pg.dsn("no such database"))
    assert reason_of(refused.value) == "InvalidCatalogName:3D000"
    with pytest.raises(OSError, match="Errno") as unheard:
        await asyncpg.connect("postgresql://a:secret@localhost:1/b")
    assert reason_of(unheard.value) == "ECONNREFUSED"
    assert reason_of(OSError(28, "No space left on device", "/secret/path")) == "ENOSPC"
    assert reason_of(TimeoutError()) == "timeout"
    assert all(logs.FIELDS["reason"](fields["reason"]) for _, fields in log.said)


class _Log:
    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    info = warning
