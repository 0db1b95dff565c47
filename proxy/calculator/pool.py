"""One worker's calculator: questions wait for one of a few connections to the engine, and each has an outcome in the end.

An outcome is an answer, PostgreSQL's error about the statement, or a Trouble: no engine, no time, no room. Nothing of a question or an
answer is logged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from proxy.calculator import troubles
from proxy.calculator.client import Bounds, Connection, DatabaseMissing, EngineLost, TooMuch
from proxy.calculator.engine import socket_path
from proxy.calculator.hardening import CALCULATOR
from proxy.calculator.safety import is_query
from proxy.calculator.steward import LocaleUnknown, Steward
from proxy.errors import LimitError, ProtocolError
from proxy.metrics import Computed, NullMetrics
from proxy.session.computing import Answer, CalculatorError
from proxy.session.replies import Trouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from proxy.calculator.locale import Locale
    from proxy.session.computing import Question

# Beyond the engine's own limit of time, after which it is taken for hung.
_GRACE: Final = 5.0

Outcome = Answer | CalculatorError | Trouble


class PoolObserver(Protocol):
    """Who counts. Every call is cheap and none raises."""

    def computed(self, outcome: Computed, rows: int, seconds: float) -> None:
        """A question has an outcome: rows given, and seconds since it came."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """`connections` at a time, `waiting` for one at most `seconds`; then `seconds` to compute; `size` bytes and `rows`, in and out."""

    connections: int
    waiting: int
    seconds: float
    rows: int
    size: int


class Job:
    """A question on its way: `proxy.session.computing.Computation`."""

    __slots__ = ("_outcome", "_task", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake: Callable[[], None] | None = wake
        self._outcome: Outcome | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def finished(self) -> bool:
        """See Computation."""
        return self._outcome is not None

    @property
    def outcome(self) -> Outcome:
        """See Computation."""
        assert self._outcome is not None
        return self._outcome

    def cancel(self) -> None:
        """See Computation."""
        self._wake = None
        if self._task is not None:
            self._task.cancel()

    def begin(self, task: asyncio.Task[None]) -> None:
        """The task that works on it."""
        self._task = task

    def finish(self, outcome: Outcome) -> None:
        """There is an outcome; whoever waits is told."""
        self._outcome = outcome
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()


class Pool:
    """Connections to the engine in `directory`. `for_locale` gives what a session needs."""

    def __init__(
        self,
        directory: Path,
        limits: PoolLimits,
        *,
        observer: PoolObserver | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self._path = socket_path(directory)
        self._limits = limits
        self._bounds = Bounds(limits.rows, limits.size, limits.seconds)
        self._observer = observer or NullMetrics()
        self._monotonic = monotonic
        self._places = asyncio.Semaphore(limits.connections)
        self._using = 0
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._grace = _GRACE
        self._steward = Steward(self._path, self._bounds)
        self._log = structlog.get_logger("calculator")

    @property
    def jobs(self) -> int:
        """Questions without an outcome yet."""
        return len(self._tasks)

    def for_locale(self, locale: Locale) -> BoundCalculator:
        """The calculator of a server's database with that locale."""
        return BoundCalculator(self, self._steward, locale)

    def submit(self, work: Callable[[], Awaitable[Outcome]], wake: Callable[[], None]) -> Job:
        """Let `work` find an outcome; it does not begin before this returns."""
        job = Job(wake)
        full = len(self._tasks) >= self._limits.connections + self._limits.waiting
        task = asyncio.get_running_loop().create_task(self._work(job, _full if full else work))
        job.begin(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def ask(self, database: str, question: Question, *, execute: bool) -> Outcome:
        """One question on one connection. Raises EngineLost, OSError."""
        if not is_query(question.text):
            return troubles.not_a_query()
        if _size(question) > self._limits.size:
            return troubles.question_too_large(self._limits.size)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._places.acquire()
        except TimeoutError:
            return troubles.waited_too_long(self._limits.seconds)
        self._using += 1
        try:
            return await self._on_connection(database, question, execute=execute)
        finally:
            self._using -= 1
            self._places.release()

    async def close(self) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._idle:
            connection.drop()
        self._idle.clear()

    async def _work(self, job: Job, work: Callable[[], Awaitable[Outcome]]) -> None:
        began = self._monotonic()
        try:
            outcome = await work()
        except (EngineLost, ProtocolError, OSError):
            outcome = troubles.engine_lost()
        except asyncio.CancelledError:
            job.finish(troubles.engine_lost())
            raise
        except Exception:  # noqa: BLE001 - whoever waits is told, whatever it was
            self._log.exception("calculator.bug")
            outcome = troubles.engine_lost()
        rows = len(outcome.rows) if isinstance(outcome, Answer) else 0
        self._observer.computed(_kind(outcome), rows, self._monotonic() - began)
        job.finish(outcome)

    async def _on_connection(self, database: str, question: Question, *, execute: bool) -> Outcome:
        """Once more where a connection turns out to have ended while nobody used it: questions change nothing."""
        connection = self._take(database, question)
        if connection is not None:
            try:
                return await self._use(connection, question, execute=execute)
            except EngineLost as lost:
                if isinstance(lost, TooMuch):
                    return troubles.result_too_large(self._limits.rows, self._limits.size)
            except OSError:
                pass
        self._trim()
        try:
            connection = await Connection.open(self._path, database, CALCULATOR, self._bounds)
            return await self._use(connection, question, execute=execute)
        except TooMuch:
            return troubles.result_too_large(self._limits.rows, self._limits.size)

    async def _use(self, connection: Connection, question: Question, *, execute: bool) -> Outcome:
        """Ask, and keep the connection where it is as good as before. Raises EngineLost, OSError, ProtocolError."""
        good = False
        try:
            async with asyncio.timeout(self._limits.seconds + self._grace):
                outcome = await (connection.run(question) if execute else connection.describe(question))
            good = True
        except TimeoutError:
            outcome = troubles.took_too_long(self._limits.seconds)
        except LimitError:
            raise TooMuch from None
        finally:
            if good and connection.alive:
                self._idle.append(connection)
            else:
                connection.drop()
                # The engine's process looks at its connection only now and then; a cancel request ends what it computes.
                self._later(connection.cancel())
        return outcome

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, database: str, question: Question) -> Connection | None:
        """An idle connection to that database, of those with the right settings the one used last."""
        wanted = (question.settings, question.standard_conforming_strings)
        best = None
        for at in range(len(self._idle) - 1, -1, -1):
            connection = self._idle[at]
            if not connection.alive:
                del self._idle[at]
            elif connection.database == database and (best is None or connection.settings == wanted):
                best = connection
                if connection.settings == wanted:
                    break
        if best is not None:
            self._idle.remove(best)
        return best

    def _trim(self) -> None:
        """Let an idle connection go where a new one would be too many; those in use have the places."""
        while self._idle and len(self._idle) + self._using > self._limits.connections:
            self._idle.pop(0).drop()


def _kind(outcome: Outcome) -> Computed:
    if isinstance(outcome, Answer):
        return Computed.OK
    return Computed.TROUBLE if isinstance(outcome, Trouble) else Computed.ERROR


def _size(question: Question) -> int:
    arrays = sum(len(v) for values in (question.values, *question.arrays) for v in values if v is not None)
    return len(question.text) + arrays


async def _full() -> Outcome:
    return troubles.too_many_wait()


class BoundCalculator:
    """`proxy.session.computing.Calculator` for one database of the server."""

    def __init__(self, pool: Pool, steward: Steward, locale: Locale) -> None:
        self._pool = pool
        self._steward = steward
        self._locale = locale

    @property
    def collation(self) -> bool:
        """False once it is known that the engine can't sort and fold texts as the database does: then nothing is computed."""
        return not self._steward.refuses(self._locale)

    def describe(self, question: Question, wake: Callable[[], None]) -> Job:
        """See Calculator."""
        return self._pool.submit(lambda: self._ask(question, execute=False), wake)

    def run(self, question: Question, wake: Callable[[], None]) -> Job:
        """See Calculator."""
        return self._pool.submit(lambda: self._ask(question, execute=True), wake)

    def type_names(self, types: Sequence[tuple[int, int]], wake: Callable[[], None]) -> Job:
        """See Calculator."""
        return self._pool.submit(lambda: self._steward.type_names(tuple(types)), wake)

    async def prepare(self) -> None:
        """Find out whether the engine knows the locale; says nothing where there is no engine now."""
        try:
            await self._steward.database(self._locale)
        except (EngineLost, ProtocolError, OSError, LocaleUnknown):
            return

    async def _ask(self, question: Question, *, execute: bool) -> Outcome:
        try:
            database = await self._steward.database(self._locale)
            try:
                return await self._pool.ask(database, question, execute=execute)
            except DatabaseMissing:
                # The engine was started anew, and is empty.
                self._steward.forget()
                database = await self._steward.database(self._locale)
                return await self._pool.ask(database, question, execute=execute)
        except LocaleUnknown:
            return troubles.locale_unknown(str(self._locale))
