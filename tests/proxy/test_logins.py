"""Logins that nobody finishes keep nobody else out, and take only so many of the server's connections (docs/adr/0033)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.config import Limits
from proxy.errors import TooManyLogins
from proxy.logins import Logins
from proxy.metrics import NullMetrics, Turned
from proxy.services import Unprotected
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lifecycle.demo.postgres import Postgres
    from proxy.server import Worker

    MakeWorker = Callable[..., Awaitable[Worker]]


class Login:
    """Takes a place and keeps it until it is told to go."""

    def __init__(self, logins: Logins, address: str, seconds: float = 30.0, *, reaches: bool = True) -> None:
        self._reaches = reaches
        self._logins = logins
        self._address = address
        self._seconds = seconds
        self.inside = asyncio.Event()
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._logins.place(self._address, asyncio.get_running_loop().time() + self._seconds) as place:
            if self._reaches:
                place.taken()
            self.inside.set()
            await self._go.wait()

    async def leave(self) -> None:
        self._go.set()
        await self.task


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_places_are_counted_in_all_and_by_address() -> None:
    logins = Logins(Limits(logins=4, logins_per_address=2, pressed_seconds=60))
    made = [Login(logins, address) for address in "aaabbbc"]
    await _settle()
    assert [each.inside.is_set() for each in made] == [True, True, False, True, True, False, False]
    assert logins.waiting == 3
    await made[0].leave()
    await _settle()
    assert made[2].inside.is_set(), "a's own place is free again, and it is a's turn"
    await made[3].leave()
    await _settle()
    assert [each.inside.is_set() for each in made[5:]] == [True, False]
    for login in (made[1], made[2], made[4], made[5], made[6]):
        await login.leave()
    assert (logins.waiting, logins._held.total(), logins._holders) == (0, 0, set())


async def test_within_an_address_the_newest_is_the_first() -> None:
    """Whoever floods waits behind himself; an honest login of the same address comes next."""
    logins = Logins(Limits(logins=8, logins_per_address=1, pressed_seconds=60))
    flood = [Login(logins, "a") for _ in range(20)]
    await _settle()
    honest = Login(logins, "a")
    await _settle()
    await flood[0].leave()
    await _settle()
    assert honest.inside.is_set()
    assert not any(each.inside.is_set() for each in flood[1:])
    for login in (*flood[1:], honest):
        login.task.cancel()
    await asyncio.gather(*(each.task for each in (*flood, honest)), return_exceptions=True)
    assert (logins.waiting, logins._held.total()) == (0, 0)


async def test_who_takes_his_time_is_ended_while_others_wait() -> None:
    logins = Logins(Limits(logins=4, logins_per_address=2, pressed_seconds=0.1))
    slow, elsewhere = Login(logins, "a"), Login(logins, "b")
    await asyncio.sleep(0.2)
    assert not slow.task.done(), "nobody waits"
    stalled, waits = Login(logins, "a"), Login(logins, "a")
    with pytest.raises(TimeoutError):
        await slow.task
    await asyncio.wait_for(waits.inside.wait(), 10)
    await asyncio.sleep(0.2)
    assert not elsewhere.task.done(), "he keeps nobody waiting"
    assert not stalled.task.done(), "nobody waits any more"
    for login in (stalled, waits, elsewhere):
        login.task.cancel()
    await asyncio.gather(*(each.task for each in (stalled, waits, elsewhere)), return_exceptions=True)
    assert logins._held.total() == 0


async def test_a_server_that_does_not_answer_is_nobody_s_fault() -> None:
    """The shorter time is the client's, for his answers."""
    logins = Logins(Limits(logins=1, logins_per_address=0, pressed_seconds=0.1))
    first = Login(logins, "a", reaches=False)
    await _settle()
    second = Login(logins, "b")
    await asyncio.sleep(0.3)
    assert not first.task.done()
    await first.leave()
    await asyncio.wait_for(second.inside.wait(), 10)
    await second.leave()


async def test_who_waits_for_too_long_is_told_so() -> None:
    logins = Logins(Limits(logins=1, logins_per_address=0, pressed_seconds=60))
    first = Login(logins, "a")
    await _settle()
    second = Login(logins, "b", seconds=0.05)
    with pytest.raises(TooManyLogins, match="sorry, too many clients already") as caught:
        await second.task
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("53300", True)
    assert logins.waiting == 0
    await first.leave()


async def test_a_place_that_is_given_in_the_moment_of_giving_up_is_not_lost() -> None:
    logins = Logins(Limits(logins=1, logins_per_address=1, pressed_seconds=60))
    first = Login(logins, "a")
    await _settle()
    second, third = Login(logins, "b"), Login(logins, "c")
    await _settle()
    first._go.set()
    while not logins._held["b"]:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)
    second.task.cancel()
    await asyncio.gather(first.task, second.task, return_exceptions=True)
    await asyncio.wait_for(third.inside.wait(), 10)
    await third.leave()
    assert logins._held.total() == 0


class _Counting(NullMetrics):
    def __init__(self) -> None:
        self.turned: list[Turned] = []

    def connection_refused(self, reason: Turned) -> None:
        self.turned.append(reason)


async def test_startups_that_never_answer_leave_room_for_honest_logins(
    password_pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    limits = Limits(connections=400, logins=8, logins_per_address=6, pressed_seconds=0.5, close_seconds=1.0)
    services, metrics = Unprotected(), _Counting()
    services.metrics = metrics
    worker = await worker_for(password_pg, limits=limits, services=services)
    startup = m.Startup(m.PROTOCOL_3_0, ((b"user", b"scram_user"), (b"database", b"postgres"))).build()
    silent = []
    for _ in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(startup)
        silent.append((reader, writer))
    await asyncio.wait_for(silent[0][0].readexactly(1), 10)
    for _ in range(3):
        dsn = password_pg.dsn(port=worker.port, user="scram_user")
        async with await psycopg.AsyncConnection.connect(dsn, password="correct horse") as connection:
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
        asked = await asyncio.to_thread(
            password_pg.psql,
            "SELECT count(*) FROM pg_stat_activity WHERE state IS NULL AND backend_type = 'client backend'",
        )
        assert int(asked) <= 8
    assert metrics.turned.count(Turned.TIMEOUT) >= 1
    for _, writer in silent:
        writer.transport.abort()
    await wait_until(lambda: not worker.connections)
    assert worker._under_way.waiting == 0
    assert worker._under_way._held.total() == 0
