"""The calculator as a worker has it: the supervisor's engine, or one of its own where there is no supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.calculator.engine import Engine, plan_engine
from proxy.calculator.pool import Pool, PoolLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.calculator.locale import Locale
    from proxy.calculator.pool import BoundCalculator, PoolObserver
    from proxy.config import CalculatorSettings


class CalculatorService:
    """`start`, then `bind` for each session, then `stop`. Where the configuration switches it off, nothing is started."""

    def __init__(self, settings: CalculatorSettings, observer: PoolObserver, *, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._observer = observer
        self._monotonic = monotonic
        self._engine: Engine | None = None
        self._pool: Pool | None = None

    async def start(self) -> None:
        """Does not wait for the engine. Raises ConfigError where there has to be one and can't, OSError."""
        settings = self._settings
        if settings.enabled == "off":
            return
        directory = settings.engine
        if directory is None:
            spec = plan_engine(settings, 1)
            if spec is None:
                return
            self._engine = Engine(spec, monotonic=self._monotonic)
            await self._engine.start()
            directory = self._engine.directory
        limits = PoolLimits(
            settings.connections, settings.waiting, settings.seconds, rows=settings.rows, size=settings.size
        )
        self._pool = Pool(directory, limits, observer=self._observer, monotonic=self._monotonic)

    @property
    def available(self) -> bool:
        """Whether there is one, as the configuration and the machine say; it may not run at the moment."""
        return self._pool is not None

    def bind(self, locale: Locale | None) -> BoundCalculator | None:
        """The calculator for a database with that locale; None where there is none."""
        return None if self._pool is None or locale is None else self._pool.for_locale(locale)

    async def stop(self) -> None:
        """End what was started."""
        if self._pool is not None:
            await self._pool.close()
        if self._engine is not None:
            await self._engine.stop()
