"""What doctor reads of a database, on each version that pgveil is tested on, by a superuser and by a login without rights."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from doctor.database import read_database
from doctor.facts import Missing
from doctor.sealed import read_samples
from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.demo.bank import generate
from rules.load import load_rules
from tests.e2e.world import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from doctor.facts import Database, Sample
    from lifecycle.demo.postgres import Postgres


def test_a_bank_that_is_applied(any_pg: Postgres, tmp_path: Path) -> None:
    name = any_pg.create_database()
    login = f"doctor_{os.getpid()}"
    asyncio.run(prepare(any_pg, tmp_path, name, generate(customers=10), more_sql=f"CREATE ROLE {login} LOGIN"))
    try:
        rules = load_rules(tmp_path / "rules.yaml")
        ring = KeyRing.open(tmp_path / "keys", FileMasterKey.load(tmp_path / "keys" / "master.key"))

        async def read(user: str) -> tuple[Database, tuple[Sample, ...] | Missing]:
            database, connection = await read_database(any_pg.dsn(name, user), rules, ring, time.time)
            try:
                return database, await read_samples(connection, rules, ring, database.state.catalog)
            finally:
                await connection.close()

        database, samples = asyncio.run(read("postgres"))
        assert not isinstance(database.plan, Missing)
        assert database.plan.empty
        assert not isinstance(database.hba, Missing)
        assert {line.method for line in database.hba} == {"trust"}
        assert all(line.error is None and line.place.startswith("pg_hba.conf:") for line in database.hba)
        assert any(line.only_loopback and line.remote for line in database.hba)
        assert database.md5_logins == ()
        assert database.open_columns == database.open_objects == ()
        assert database.version // 10_000 == any_pg.version
        assert database.our_address == "127.0.0.1"
        assert not isinstance(samples, Missing)
        assert sum(s.looked for s in samples) > 30
        assert all(s.opened == s.looked for s in samples)

        database, samples = asyncio.run(read(login))
        assert isinstance(database.plan, Missing)
        assert isinstance(database.hba, Missing)
        assert isinstance(database.md5_logins, Missing)
        assert isinstance(samples, Missing)
        assert database.open_columns == ()
        assert {"log_statement", "fsync"} <= database.settings.keys()
    finally:
        any_pg.psql(f'DROP DATABASE "{name}" WITH (FORCE); DROP ROLE {login}')
