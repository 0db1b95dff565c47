"""Every limit is reached and says so; whoever gives up is forgotten; nothing of it harms the next question."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keys.types import OutputSettings
from proxy.calculator.locale import Locale
from proxy.session.computing import Answer, Question
from proxy.session.replies import Trouble

from .conftest import LIMITS

if TYPE_CHECKING:
    from .conftest import Desk, MakeDesk

SLOW = "SELECT count(*) FROM (SELECT generate_series(1, 2000000000)) AS s"


async def trouble(desk: Desk, sql: str, **given: Any) -> Trouble:
    outcome = await desk.outcome(sql, **given)
    assert isinstance(outcome, Trouble), outcome
    assert outcome.hint
    assert await desk.value("SELECT 1") == b"1"
    return outcome


async def test_too_many_rows_and_bytes(desk: Desk) -> None:
    assert len(await desk.rows(f"SELECT generate_series(1, {LIMITS.rows})")) == LIMITS.rows
    for sql in (
        f"SELECT generate_series(1, {LIMITS.rows + 1})",
        "SELECT generate_series(1, 100000000)",
        "SELECT repeat('x', 1000) FROM generate_series(1, 15000)",
        f"SELECT repeat('x', {LIMITS.size})",
    ):
        assert (await trouble(desk, sql)).sqlstate == "54000", sql


async def test_too_much_is_given(desk: Desk) -> None:
    values = (b"x" * 1000,) * (LIMITS.size // 1000 + 1)
    told = await trouble(desk, "SELECT count(*) FROM unnest($1::text[])", arrays=(values,))
    assert told.sqlstate == "54000"


async def test_memory_and_no_file(desk: Desk) -> None:
    for sql in (
        "SELECT length(repeat('x', 900000000))",
        "SELECT max(x) FROM (SELECT md5(i::text) AS x FROM generate_series(1, 3000000) AS s(i) ORDER BY 1 DESC OFFSET 0) t",
        "SELECT count(*) FROM (SELECT DISTINCT md5(i::text) FROM generate_series(1, 3000000) AS s(i)) t",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM generate_series(1, 500)",
        "WITH RECURSIVE t(x) AS (VALUES ('x') UNION ALL SELECT x || x FROM t) SELECT length(x) FROM t",
    ):
        assert (await trouble(desk, sql)).sqlstate in {"53200", "54000"}, sql


async def test_time(make_desk: MakeDesk) -> None:
    """The engine's own limit is ten seconds here; the pool takes an engine that keeps none for hung."""
    desk = make_desk(limits=replace(LIMITS, connections=1, seconds=0.2))
    desk.pool._grace = 0.1
    told = await trouble(desk, SLOW)
    assert told.sqlstate == "57014"
    assert "0.2 seconds" in told.message


async def test_the_engines_own_limit_of_time(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, connections=1, seconds=60))
    await desk.value("SELECT 1")
    (connection,) = desk.pool._idle
    assert (await connection.simple("SET statement_timeout = 100")).error is None
    assert (await trouble(desk, SLOW)).sqlstate == "57014"


async def test_the_queue(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, connections=1, waiting=1, seconds=0.5))
    calculator = desk.pool.for_locale(desk.locale)
    slow = calculator.run(Question(SLOW.encode(), OutputSettings()), lambda: None)
    waits = asyncio.create_task(desk.outcome("SELECT 1"))
    await asyncio.sleep(0)
    turned = await desk.outcome("SELECT 1")
    assert isinstance(turned, Trouble)
    assert turned.sqlstate == "53300"
    assert "too many" in turned.message
    waited = await waits
    assert isinstance(waited, Trouble)
    assert waited.sqlstate == "53300"
    assert "wait" in waited.message
    slow.cancel()


async def test_connections_are_bounded_and_shared(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, waiting=200))
    plain = replace(desk, locale=Locale())
    outcomes = await asyncio.gather(*((desk, plain)[i % 2].outcome(f"SELECT {i}") for i in range(100)))
    assert all(isinstance(o, Answer) for o in outcomes)
    assert 1 <= len(desk.pool._idle) <= LIMITS.connections
    assert desk.pool.jobs == 0


async def test_a_cancelled_question_ends_in_the_engine(make_desk: MakeDesk) -> None:
    desk = make_desk(limits=replace(LIMITS, connections=1))
    calculator = desk.pool.for_locale(desk.locale)
    woken: list[int] = []
    job = calculator.run(Question(SLOW.encode(), OutputSettings()), lambda: woken.append(1))
    await asyncio.sleep(0.2)
    job.cancel()
    # Its place is free at once, and nobody is woken.
    assert await desk.value("SELECT 1") == b"1"
    assert job.finished
    assert not woken
    early = calculator.run(Question(b"SELECT 1", OutputSettings()), lambda: woken.append(1))
    early.cancel()
    assert await desk.value("SELECT 1") == b"1"
    assert not woken


@pytest.mark.parametrize(
    "locale",
    [
        Locale("xx_XX.UTF-8", "xx_XX.UTF-8", version="2.36"),
        Locale("C.UTF-8", "C.UTF-8", version="2.36"),
        Locale("C", "C", "i", "en-US", version="153.120"),
        Locale("C", "C", "d", "x"),
        Locale(monetary="xx_XX.UTF-8"),
    ],
)
async def test_a_locale_that_the_engine_does_not_have(make_desk: MakeDesk, locale: Locale) -> None:
    desk = make_desk(locale=locale)
    calculator = desk.pool.for_locale(locale)
    assert calculator.collation
    for _ in range(2):
        outcome = await desk.outcome("SELECT 1")
        assert isinstance(outcome, Trouble)
        assert outcome.sqlstate == "0AP01"
        assert str(locale) in (outcome.detail or "")
        assert not calculator.collation
    # Others are not concerned.
    assert await replace(desk, locale=Locale("C.UTF-8", "C.UTF-8")).value("SELECT upper('ü')") == "Ü".encode()
    assert await replace(desk, locale=Locale()).value("SELECT upper('ü')") == "ü".encode()
