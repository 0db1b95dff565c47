"""A client's session as the guard keeps it: what it reports of the login and the catalog, and its side of the audit log."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.errors import AuditUnavailable
from audit.event import Refused, StatementEnded
from proxy.errors import ServerUnreachable
from proxy.session.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from audit.event import Event
    from audit.log import AuditLog
    from proxy.metrics import MetricSink
    from proxy.session.backend import Backend
    from proxy.session.frontend import Frontend
    from proxy.session.link import SessionContext


class CacheMeter:
    """Reports the gate's caches to the metrics."""

    def __init__(self, metrics: MetricSink) -> None:
        self._metrics = metrics

    def hit(self) -> None:
        """See CacheObserver."""
        self._metrics.plan_cache(hit=True)

    def miss(self) -> None:
        """See CacheObserver."""
        self._metrics.plan_cache(hit=False)

    def parsed(self) -> None:
        """See CacheObserver."""
        self._metrics.parsed()

    def entries(self, count: int) -> None:
        """See CacheObserver."""
        self._metrics.plan_cache_entries(count)


class Waiting:
    """Sessions that wait for records of theirs, by the records' numbers."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, Recorder]] = []  # no two have one number

    def add(self, seq: int, recorder: Recorder) -> None:
        """Its session is to be woken when record `seq` is durable."""
        heapq.heappush(self._heap, (seq, recorder))

    def until(self, seq: int) -> list[Recorder]:
        """Who waited for records up to `seq`, each once; they wait no longer."""
        found: dict[Recorder, None] = {}
        while self._heap and self._heap[0][0] <= seq:
            found[heapq.heappop(self._heap)[1]] = None
        return list(found)

    def clear(self) -> None:
        """Nobody waits any longer."""
        self._heap.clear()


class Recorder:
    """The audit log as one session sees it. The session is woken when a record is durable that it may wait for."""

    def __init__(self, log: AuditLog, waiting: Waiting, wake: Callable[[int], None], fail: Callable[[], None]) -> None:
        self._log = log
        self._waiting = waiting
        self.wake = wake
        self.fail = fail

    @property
    def durable(self) -> int:
        """See Recorder."""
        return self._log.durable

    def append(self, event: Event) -> int:
        """See Recorder."""
        ended = isinstance(event, StatementEnded)
        try:
            seq = self._log.append(event, patient=ended)
        except AuditUnavailable:
            # What has happened already is kept for when the log can be written again; only what is about to happen is stopped.
            if not (ended or isinstance(event, Refused)) or self._log.note(event) is None:
                raise
            return 0
        if not ended:
            self._waiting.add(seq, self)
        return seq


@dataclass(slots=True)
class Client:
    """A session and what was known of it at its start."""

    context: SessionContext
    connection: str
    session: GuardedSession
    recorder: Recorder
    since: float


class GuardedSession(Session):
    """A Session that says so when the login is through, and when the catalog must be read again."""

    __slots__ = ("announced", "asked", "fits", "on_stale", "on_start")

    on_stale: Callable[[], None]
    on_start: Callable[[], None]
    fits: Callable[[bool | None, bool | None], None]
    announced: bool
    asked: int

    def server_received(self, data: bytes) -> bool:
        """See Session."""
        passed = super().server_received(data)
        if not self.announced and self.started:
            self.announced = True
            self.on_start()
            try:
                self.fits(*self.standing)
            except ServerUnreachable:
                # Whole messages, up to the ReadyForQuery that the client is not to see.
                self.to_client.clear()
                raise
        return passed

    def _run(self, *sides: Backend | Frontend) -> None:
        super()._run(*sides)
        if self.catalog_stale and self.outdated != self.asked:
            self.asked = self.outdated
            self.on_stale()
