"""The guard's part in following the catalog: no session that waits for it is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from proxy.config import parse_config
from proxy.databases import CatalogUnavailable
from proxy.guard import Guard
from proxy.guarded import Recorder
from proxy.metrics import NullMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from audit.log import AuditLog


class _Databases:
    """Answers each refresh in turn; an exception is raised."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.refreshes = 0
        self.during: Callable[[], None] = lambda: None
        self.gate = ""

    def current(self, _name: str) -> str:
        return self.gate

    async def refresh(self, _name: str) -> None:
        self.refreshes += 1
        await asyncio.sleep(0)
        self.during()
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
    outdated: int = 1
    refreshed: int = 0
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    judge: str = ""
    busy: bool = False

    def judged_by(self, judge: str, *, at_once: bool) -> None:
        if at_once or not self.busy:
            self.judge = judge

    def catalog_refreshed(self) -> None:
        self.catalog_stale = False
        self.refreshed += 1
        if self.again:
            self.again -= 1
            self.ask()
        else:
            self.fresh.set()

    def ask(self) -> None:
        self.catalog_stale = True
        self.outdated += 1
        self.on_stale()

    def catalog_unreachable(self) -> None:
        self.given_up += 1


@dataclass
class _Context:
    number: int = 1
    database: str = "shop"

    def pump(self) -> None:
        """Nothing to move."""


@dataclass
class _Client:
    session: _Session
    context: _Context = field(default_factory=_Context)


def _guard(monkeypatch: pytest.MonkeyPatch, databases: _Databases, *sessions: _Session) -> Guard:
    monkeypatch.setattr("proxy.guard.POLL_SECONDS", 0.01)
    guard = Guard(parse_config("", Path("pgveil.yaml")), 1, NullMetrics())
    monkeypatch.setattr(guard, "_databases", databases, raising=False)
    clients = {number: _Client(session, _Context(number)) for number, session in enumerate(sessions)}
    monkeypatch.setattr(guard, "_clients", clients)
    for session in sessions:
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


async def test_who_asks_while_the_catalog_is_read_waits_for_the_next_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    session, databases = _Session(again=0), _Databases()
    _guard(monkeypatch, databases, session)

    def during() -> None:
        if databases.refreshes == 1:
            session.ask()
        assert not session.refreshed

    databases.during = during
    session.on_stale()
    await _until_fresh(session)
    assert (databases.refreshes, session.refreshed) == (2, 1)


async def test_who_asks_again_and_again_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, other, databases = _Session(again=10_000), _Session(again=0), _Databases()
    _guard(monkeypatch, databases, busy, other)
    busy.on_stale()
    await _until_fresh(other)
    assert databases.refreshes <= 2
    busy.again = 0
    await _until_fresh(busy)


async def test_each_reload_gives_what_is_on_its_way_a_minute_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a statement that is running at a reload, a minute after an earlier one, has its result withheld."""
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(
        asyncio.get_running_loop(), "call_later", lambda _seconds, call, *with_: timers.append(partial(call, *with_))
    )
    resting, busy, gone = _Session(again=0), _Session(again=0), _Session(again=0, busy=True)
    databases = _Databases()
    guard = _guard(monkeypatch, databases, resting, busy, gone)

    def reload(gate: str) -> None:
        before, databases.gate = databases.gate, gate
        guard._hand_over({"shop": before})  # type: ignore[dict-item]

    reload("first")
    assert [s.judge for s in (resting, busy, gone)] == ["first", "first", ""]
    busy.busy = True
    reload("second")
    assert [s.judge for s in (resting, busy, gone)] == ["second", "first", "second"], "who missed one waits no longer"
    timers.pop(0)()
    assert busy.judge == "first", "it has begun after that reload"
    timers.pop(0)()
    assert busy.judge == "second"
    assert timers == []
    gone.busy = True
    reload("third")
    del guard._clients[2]
    timers.pop(0)()
    assert [s.judge for s in (resting, busy, gone)] == ["third", "third", "second"], "who has left is let be"


async def test_a_session_that_fails_when_it_is_woken_keeps_nobody_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that waited for records of one fsync are taken off the heap at once; who came behind it was never woken."""
    guard = _guard(monkeypatch, _Databases())
    woken: list[int] = []

    def wake(number: int, _seq: int) -> None:
        woken.append(number)
        if number == 1:
            raise LookupError

    for number in (1, 2, 3):
        recorder = Recorder(cast("AuditLog", None), guard._waiting, partial(wake, number), lambda: None)
        guard._waiting.add(number, recorder)
    guard._durable(3)
    assert woken == [1, 2, 3]
