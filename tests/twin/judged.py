"""How pgveil does a statement: asked of a Gate over a world's sealed database, as the running pgveil's own would say."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from proxy.decisions import Gate
from proxy.session.computing import Compute
from proxy.session.gate import Admit, Pass, Refuse, Settings
from proxy.session.values import ValueCodec
from rules.model import quote_ident
from tests.rules.twins import read_catalog

if TYPE_CHECKING:
    from tests.twin.world import World

PATH = ("pg_catalog", "public")


@dataclass(frozen=True, slots=True)
class Judged:
    """`how`: passed, admitted, computed or refused. `fetched`: of each leaf of a computed one, how many rows it takes from the server."""

    how: str
    fetched: tuple[int, ...] = ()
    reason: str = ""


class Judge:
    """Judges statements for a world's roles. Sealing needs a key ring, which is opened anew from the world's files."""

    def __init__(self, world: World) -> None:
        keys = world.home / "keys"
        ring = KeyRing.open(keys, FileMasterKey.load(keys / "master.key"))
        self._world = world
        self._dsn = world.pg.dsn(world.databases["sealed"])
        catalog = asyncio.run(read_catalog(self._dsn))
        self._gate = Gate(world.rules, catalog, ValueCodec(ring, random=os.urandom), computes=True)

    def judge(self, sql: str, role: str) -> Judged:
        """How a statement without parameters is done for a role."""
        login = self._world.fixture.logins[role]
        decision = self._gate.decide(
            sql.encode(), self._gate.principal(login), Settings(search_path=PATH), extended=True
        )
        if isinstance(decision, Pass):
            return Judged("passed")
        if isinstance(decision, Admit):
            return Judged("admitted")
        if isinstance(decision, Compute):
            return Judged("computed", self._fetched(decision, login))
        assert isinstance(decision, Refuse)
        return Judged("refused", reason=str(decision.refusal.reason))

    def _fetched(self, compute: Compute, login: str) -> tuple[int, ...]:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"set session authorization {quote_ident(login)}".encode())
            counts = []
            for leaf in compute.leaves:
                row = connection.execute(b"select count(*) from (" + leaf.fetch.text + b") as leaf").fetchone()
                assert row is not None
                counts.append(int(row[0]))
        return tuple(counts)
