"""The connection that watches a database: one that was cut is made anew before anybody is refused for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from proxy.databases import CatalogUnavailable, Databases
from proxy.plan_cache import SilentCache
from proxy.session.values import ValueCodec
from rules.load import load_rules

if TYPE_CHECKING:
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgveil catalog' and datname = '{}'"


def _databases(home: Path, dsn: str, answered: list[bool]) -> Databases:
    rules = home / "rules.yaml"
    rules.write_text("version: 1\ntables: {}\n")
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    codec = ValueCodec(ring, random=os.urandom)
    return Databases(
        dsn, load_rules(rules), codec, observer=SilentCache(), changed=lambda *_: None, answered=answered.append
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


async def test_one_that_can_not_be_made_is_told(pg: Postgres, tmp_path: Path) -> None:
    answered: list[bool] = []
    databases = _databases(tmp_path, "postgresql://nobody@127.0.0.1:1/none", answered)
    with pytest.raises(CatalogUnavailable, match="can't read"):
        await databases.gate("none")
    assert answered == [False]
