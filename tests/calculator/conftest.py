"""Calculators for the tests: an engine a version, and ways to ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from keys.types import OutputSettings
from lifecycle.demo.postgres import PostgresUnavailableError, find_bin_dir
from proxy.calculator.engine import Engine, EngineSpec, plan_engine
from proxy.calculator.locale import Locale
from proxy.calculator.pool import Outcome, Pool, PoolLimits
from proxy.config import CalculatorSettings
from proxy.session.computing import Answer, CalculatorError, Question
from proxy.wire.messages import parse_data_row

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("16", "18")
LIMITS = PoolLimits(connections=3, waiting=8, seconds=10.0, rows=20_000, size=8 * 1024 * 1024)
MEMORY = 128 * 1024 * 1024


def spec(version: str = "18", *, seconds: float = 10.0, **settings: Any) -> EngineSpec:
    """What an engine of that version is made from; skips where it is not installed."""
    try:
        programs = find_bin_dir(version)
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    given = CalculatorSettings(
        enabled="on", bin_dir=programs, connections=8, seconds=seconds, memory=MEMORY, **settings
    )
    planned = plan_engine(given, 1)
    assert planned is not None
    return planned


@dataclass
class Desk:
    """A pool, and a plain way to ask it."""

    pool: Pool
    locale: Locale

    async def outcome(
        self, sql: str | bytes, *, describe: bool = False, settings: OutputSettings | None = None, **given: Any
    ) -> Outcome:
        """Whatever comes of a question."""
        text = sql.encode() if isinstance(sql, str) else sql
        question = Question(text, settings or OutputSettings(), **given)
        calculator = self.pool.for_locale(self.locale)
        done = asyncio.Event()
        job = (calculator.describe if describe else calculator.run)(question, done.set)
        assert not job.finished
        await done.wait()
        return job.outcome

    async def rows(self, sql: str | bytes, **given: Any) -> list[tuple[bytes | None, ...]]:
        """The rows of a question that has an answer."""
        outcome = await self.outcome(sql, **given)
        assert isinstance(outcome, Answer), (outcome, sql)
        return [parse_data_row(row[5:]) for row in outcome.rows]

    async def value(self, sql: str | bytes, **given: Any) -> bytes | None:
        """The only value of an answer."""
        ((value,),) = await self.rows(sql, **given)
        return value

    async def error(self, sql: str | bytes, **given: Any) -> CalculatorError:
        """PostgreSQL's error about a question."""
        outcome = await self.outcome(sql, **given)
        assert isinstance(outcome, CalculatorError), outcome
        return outcome


class Engines:
    """Engines started so far, by version, in a loop of their own that lives as long as the session."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._started: dict[str, Engine] = {}

    def directory(self, version: str) -> Path:
        """Where the engine of that version listens."""
        if version not in self._started:
            engine = Engine(spec(version), monotonic=time.monotonic)
            self._runner.run(self._begin(engine))
            self._started[version] = engine
        return self._started[version].directory

    async def _begin(self, engine: Engine) -> None:
        await engine.start()
        async with asyncio.timeout(60):
            await engine.wait_ready()

    async def _stop(self) -> None:
        for engine in self._started.values():
            await engine.stop()

    def close(self) -> None:
        """Stop them."""
        self._runner.run(self._stop())
        self._runner.close()


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """Engines that stop when the session ends."""
    started = Engines()
    yield started
    started.close()


MakeDesk = Callable[..., Desk]


@pytest_asyncio.fixture
async def make_desk(engines: Engines) -> AsyncIterator[MakeDesk]:
    """Makes desks for an engine's version and limits."""
    desks: list[Desk] = []

    def make(version: str = "18", limits: PoolLimits = LIMITS, locale: Locale | None = None, **given: Any) -> Desk:
        pool = Pool(engines.directory(version), limits, monotonic=time.monotonic, **given)
        desks.append(Desk(pool, locale or Locale("C.UTF-8", "C.UTF-8")))
        return desks[-1]

    yield make
    for desk in desks:
        await desk.pool.close()


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """A desk at the engine of the newest version."""
    return make_desk()


@pytest.fixture(params=VERSIONS)
def any_desk(request: pytest.FixtureRequest, make_desk: MakeDesk) -> Desk:
    """A desk at an engine of each version."""
    return make_desk(request.param)
