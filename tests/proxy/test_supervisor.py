"""A reload reaches every worker, whenever it begins to serve."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.channel import Commit, Prepare
from proxy.config import load_config
from proxy.reports import Outcome
from proxy.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


@dataclass
class _Worker:
    """Does what it is asked. `during` is called while it prepares."""

    serves: bool
    pid: int
    state: int = 0
    orders: list[type] = field(default_factory=list)
    killed: bool = False
    during: Callable[[], None] = lambda: None
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def ask(self, order: Any, _number: int, _seconds: float) -> str | None:
        self.orders.append(type(order))
        await asyncio.sleep(0)
        if isinstance(order, Prepare):
            self.during()
        return None

    def kill(self) -> None:
        self.killed = True


@dataclass
class _Place:
    number: int
    worker: _Worker | None


async def test_a_worker_that_begins_to_serve_during_a_reload_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgveil.yaml"
    file.write_text("workers: 2\n")
    supervisor = Supervisor(load_config(file), lambda *_: [], monotonic=time.monotonic)
    first, second = _Worker(serves=True, pid=1), _Worker(serves=False, pid=2)
    monkeypatch.setattr(supervisor, "_places", [_Place(1, first), _Place(2, second)])

    def come() -> None:
        if not second.serves:
            second.serves = True
            supervisor._has_come(second)  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor, "_cover", lambda: None)
    monkeypatch.setattr(supervisor, "_ready", True)
    first.during = come
    reported = await supervisor.reload()
    assert reported.outcome is Outcome.APPLIED
    while supervisor._tasks:
        await asyncio.gather(*supervisor._tasks)
    assert second.orders == [Prepare, Commit]
    assert second.state == first.state == supervisor._state
    assert not second.killed
