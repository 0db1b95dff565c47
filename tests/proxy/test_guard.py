"""The guard's part in following the catalog: no session that waits for it is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.config import parse_config
from proxy.databases import CatalogUnavailable
from proxy.guard import Guard
from proxy.metrics import NullMetrics

if TYPE_CHECKING:
    import pytest


class _Databases:
    """Answers each refresh in turn; an exception is raised."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.refreshes = 0

    async def refresh(self, _name: str) -> None:
        self.refreshes += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


@dataclass
class _Session:
    """Becomes stale again as often as it is told to, each time that it goes on."""

    again: int
    on_stale: Any = None
    catalog_stale: bool = True
    given_up: int = 0
    fresh: asyncio.Event = field(default_factory=asyncio.Event)

    def catalog_refreshed(self) -> None:
        self.catalog_stale = False
        if self.again:
            self.again -= 1
            self.catalog_stale = True
            self.on_stale()
        else:
            self.fresh.set()

    def catalog_unreachable(self) -> None:
        self.given_up += 1


@dataclass
class _Context:
    database: str = "shop"

    def pump(self) -> None:
        """Nothing to move."""


@dataclass
class _Client:
    session: _Session
    context: _Context = field(default_factory=_Context)


def _guard(monkeypatch: pytest.MonkeyPatch, databases: _Databases, session: _Session) -> Guard:
    monkeypatch.setattr("proxy.guard.POLL_SECONDS", 0.01)
    guard = Guard(parse_config("", Path("pgveil.yaml")), 1, NullMetrics())
    monkeypatch.setattr(guard, "_databases", databases, raising=False)
    monkeypatch.setattr(guard, "_clients", {1: _Client(session)})
    session.on_stale = lambda: guard._stale("shop")
    return guard


async def _until_fresh(session: _Session) -> None:
    async with asyncio.timeout(10):
        await session.fresh.wait()


async def test_a_session_that_becomes_stale_while_it_is_woken_is_woken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session, databases = _Session(again=3), _Databases()
    _guard(monkeypatch, databases, session)
    session.on_stale()
    await _until_fresh(session)
    assert databases.refreshes >= 4


async def test_a_catalog_that_cannot_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session, databases = _Session(again=0), _Databases(CatalogUnavailable("no"), CatalogUnavailable("no"))
    _guard(monkeypatch, databases, session)
    session.on_stale()
    await _until_fresh(session)
    assert session.given_up == 2
