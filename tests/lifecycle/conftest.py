"""A database of one's own to apply rules to, with logins that no other test has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from rules.load import load_rules_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from lifecycle.apply import ApplyPlan
    from lifecycle.demo.postgres import Postgres
    from rules.model import Rules

LOGINS = ("ap_app", "ap_agent", "ap_dba", "ap_owner", "ap_lead")
ROLES_SQL = (
    "".join(
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN CREATE ROLE {name} {how}; END IF; END $$;\n"
        for name, how in [*((n, "LOGIN") for n in LOGINS), ("ap_centre", "NOLOGIN")]
    )
    + "GRANT ap_centre TO ap_agent, ap_lead;"
)


@dataclass
class Place:
    """A database, a key ring, and what a test does with them."""

    server: Postgres
    name: str
    admin: asyncpg.Connection[Any]
    ring: KeyRing
    keys: Path
    reports: list[tuple[str, int, int]] = field(default_factory=list)

    async def plan(self, rules: Rules | str) -> ApplyPlan:
        """The plan, as the superuser."""
        return await make_plan(self.admin, rules_of(rules), self.ring)

    async def apply(self, rules: Rules | str) -> ApplyPlan:
        """Plan, and do it."""
        plan = await self.plan(rules)
        assert plan.obstacles == ()
        await execute(
            self.admin, plan, rules_of(rules), self.ring, random=os.urandom, progress=lambda *r: self.reports.append(r)
        )
        return plan

    async def run(self, login: str, sql: str) -> list[Any]:
        """Rows that a login gets, as tuples."""
        connection = await asyncpg.connect(self.server.dsn(self.name, login))
        try:
            return [tuple(r) for r in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def sqlstate(self, login: str, sql: str) -> str:
        """The SQLSTATE that a statement of a login ends with; '' where it succeeds."""
        try:
            await self.run(login, sql)
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        return ""

    async def sqlstate_inside(self, sql: str) -> str:
        """The SQLSTATE of a statement of the superuser's within its transaction, which goes on; empty where it succeeds."""
        try:
            async with self.admin.transaction():
                await self.admin.execute(sql)
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        return ""

    async def sqlstate_of_text(self, login: str, sql: str) -> str:
        """The SQLSTATE that a text of several statements ends with, '' where it succeeds; nothing of it stays."""
        connection = await asyncpg.connect(self.server.dsn(self.name, login))
        try:
            await connection.execute(f"BEGIN; {sql}; ROLLBACK")
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        finally:
            await connection.close()
        return ""

    def view(self, rules: Rules | str, login: str, *memberships: str) -> str:
        """The schema of a login's masking views."""
        return rules_of(rules).principal(login, memberships).policy.schema


def rules_of(rules: Rules | str) -> Rules:
    """Rules from their text."""
    return load_rules_text(rules, "rules.yaml") if isinstance(rules, str) else rules


async def make_place(server: Postgres, directory: Path) -> Place:
    """A fresh database and a fresh ring."""
    server.psql(ROLES_SQL)
    name = server.create_database()
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
    return Place(server, name, await asyncpg.connect(server.dsn(name)), ring, keys)


@pytest.fixture
async def place(pg: Postgres, tmp_path: Path) -> AsyncIterator[Place]:
    """On PostgreSQL 16."""
    made = await make_place(pg, tmp_path)
    yield made
    await made.admin.close()


@pytest.fixture
async def any_place(any_pg: Postgres, tmp_path: Path) -> AsyncIterator[Place]:
    """On each version."""
    made = await make_place(any_pg, tmp_path)
    yield made
    await made.admin.close()
