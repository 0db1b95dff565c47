"""A worker's observations on disk: read when it starts, written now and then and at its end, each time whole."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from keys import durable
from proxy.errors import ConfigError
from proxy.observe.tally import MAX_FILE, BookError, Tally, decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from proxy.config import Observe
    from proxy.observe.findings import Finding


class Keeper:
    """The tally of worker `writer`. `now` gives the time in UTC."""

    def __init__(self, settings: Observe, writer: str, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._path = settings.directory / f"{writer}.json"
        self._now = now
        self._log = structlog.get_logger("observe")
        self._tally = Tally(settings.shapes)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on where the worker of that number stopped, and write from time to time. Raises ConfigError."""
        self._settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._path.exists():
            try:
                self._tally.take_up(decode(durable.read_regular(self._path, MAX_FILE)[0]))
            except (BookError, durable.NotRegularError) as error:
                raise ConfigError(
                    f"{self._path}: {error or 'not a file'}: move it away, or set observe.directory"
                ) from error
        self._task = asyncio.create_task(self._write_on())

    def take(self, found: Finding | None, count: int) -> None:
        """Count a statement: `found` None passes anyway."""
        if found is None:
            self._tally.add_passed(count)
        else:
            self._tally.add(found, count, f"{self._now():%Y-%m-%dT%H:%M:%SZ}")

    async def stop(self) -> None:
        """Write down what is not yet. Raises OSError."""
        if self._task is not None:
            self._stopping.set()
            await self._task
            await self._save()

    async def _write_on(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._settings.seconds)
            try:
                await self._save()
            except OSError as error:
                # What is counted stays in memory, and the next attempt writes all of it.
                self._tally.changed = True
                self._log.error("observe.not_written", errno=error.errno)

    async def _save(self) -> None:
        if self._tally.changed:
            await asyncio.to_thread(durable.replace, self._path, self._tally.encoded())
