"""The log as its writers see it: events in, durability out. The one place of this package that knows asyncio.

`append` numbers, stamps and chains an event at once, without I/O. One task takes whatever has gathered, writes it and waits for the disk
in a thread of its own; while it waits, the next batch gathers (group commit). So many statements share one fsync, and it runs while the
database works on them.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from audit.errors import AuditLocked, AuditUnavailable, RecordTooLarge
from audit.event import LogClosed, LogOpened, LogRestored
from audit.record import FORMAT, MAX_LINE_BYTES, Body, encode, is_plain, printable, stamp
from audit.segments import LOCK, Head, SegmentWriter, errno_name, is_writer_name, recover
from audit.storage import OsStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from audit.event import Event
    from audit.storage import Storage

SEGMENT_BYTES: Final = 64 << 20
"""The newest segment is read and written anew at each start, so it must fit memory at ease."""
MAX_SEGMENT_BYTES: Final = 1 << 30
MAX_QUEUE: Final = 8192
"""Records in memory that are not durable yet: a few seconds of a busy worker."""
MAX_QUEUE_LIMIT: Final = 16384
"""What MAX_QUEUE can be raised to. `verify` keeps this many digests to recognise what was written twice after a failure."""
MAX_QUEUE_BYTES: Final = 64 << 20
MAX_RECORD_BYTES: Final = 256 << 10
"""Room for a statement over some thousand columns."""
PATIENCE: Final = 0.02
"""Seconds that a record which nobody waits for may wait for others to be written with."""
BACKOFF: Final = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Seconds before each attempt to go on after a failed write; the last one repeats."""
CLOSING_ATTEMPTS: Final = 3
"""Attempts to go on, one right after the other, before `close` leaves what it cannot write."""
LOCK_ATTEMPTS: Final = 10
"""A verifier that asks whether the writer lives holds the lock for an instant; that must not stop a start."""


@dataclass(slots=True)
class Statistics:
    """Counts since the log was opened, for the metrics."""

    appended: int = 0
    """Records taken into the queue."""
    refused: int = 0
    """Records that callers wanted to write and could not."""
    fsyncs: int = 0
    """Batches that became durable; each waited for the disk once (twice with a new segment)."""
    failures: int = 0
    """Batches whose write failed; attempts to go on included."""
    bytes: int = 0
    """Bytes that became durable."""


_T = TypeVar("_T")


class _Queued(NamedTuple):
    seq: int
    hash: str
    line: bytes


class _Place(NamedTuple):
    home: Path
    writer: str
    storage: Storage


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of `AuditLog.open` of the same names, checked."""

    clock: Callable[[], datetime]
    segment_bytes: int
    max_queue: int
    max_queue_bytes: int
    max_record_bytes: int
    backoff: tuple[float, ...]
    timer: Callable[[], float]
    observe_fsync: Callable[[float, int], None] | None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("segment_bytes", 1, MAX_SEGMENT_BYTES),
            ("max_queue", 1, MAX_QUEUE_LIMIT),
            ("max_queue_bytes", 1, MAX_SEGMENT_BYTES),
            ("max_record_bytes", 1024, MAX_LINE_BYTES),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least} to {most}")
        if not self.backoff or min(self.backoff) < 0:
            raise ValueError("backoff must name at least one pause, none negative")


class AuditLog:
    """One writer's chain. Use it from one event loop only; `open` it and `close` it there.

    While the log has failed, `append` raises and the log itself tries to go on in a new segment; `healthy` and `on_failure` tell.
    """

    def __init__(self, place: _Place, options: _Options) -> None:
        """For `open` only."""
        self._place = place
        self._options = options
        self._writer = place.writer
        self._segments = SegmentWriter(place.storage, place.home, options.segment_bytes)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"audit-{place.writer}")
        self._lock: int | None = None

        self._loop = asyncio.get_running_loop()
        self._encoder = msgspec.json.Encoder()
        self._queue: deque[_Queued] = deque()
        self._pending = 0  # records appended and not durable: the queue and the batch in flight
        self._pending_bytes = 0
        self._head = Head(place.writer)  # newest durable
        self._seq, self._hash = self._head.seq, self._head.hash  # of the newest appended
        self._failure: AuditUnavailable | None = None
        self._refused_in_failure = 0
        self._wake = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None  # wakes the writer for what nobody waits for
        self._hurry = asyncio.Event()  # closing: no more waiting between attempts
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_count = 0
        self._durable_callbacks: list[Callable[[int], None]] = []
        self._failure_callbacks: list[Callable[[AuditUnavailable], None]] = []
        self.statistics = Statistics()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        writer: str,
        clock: Callable[[], datetime],
        segment_bytes: int = SEGMENT_BYTES,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        max_record_bytes: int = MAX_RECORD_BYTES,
        storage: Storage | None = None,
        backoff: tuple[float, ...] = BACKOFF,
        timer: Callable[[], float] = time.perf_counter,
        observe_fsync: Callable[[float, int], None] | None = None,
    ) -> AuditLog:
        """Open or go on with the chain of `writer` under `directory`, and record that durably.

        `clock`: aware UTC. `timer`: seconds. `observe_fsync(seconds, records)` is called in the event loop after each batch.
        ValueError: a setting out of range. AuditLocked: another process writes there. AuditDamaged: see there.
        AuditUnavailable: the file system refused; nothing is left open, so the caller may try again.
        """
        if not is_writer_name(writer):
            raise ValueError(f"not a writer's name (lower-case letters, digits, - and _): {writer!r}")
        options = _Options(
            clock, segment_bytes, max_queue, max_queue_bytes, max_record_bytes, backoff, timer, observe_fsync
        )
        log = cls(_Place(directory / writer, writer, OsStorage() if storage is None else storage), options)
        try:
            await log._begin()
        except BaseException as error:
            await log._release()
            if isinstance(error, OSError):
                raise AuditUnavailable(
                    f"the audit log in {log._place.home} cannot be opened: {_tell(error)}"
                ) from error
            raise
        return log

    async def _begin(self) -> None:
        storage, home = self._place.storage, self._place.home
        await self._in_thread(storage.make_directory, home)
        self._lock = await _take_lock(storage, home)
        recovered = await self._in_thread(recover, storage, home, self._writer)
        self._head = recovered.head
        self._seq, self._hash = self._head.seq, self._head.hash
        if recovered.torn is not None:
            self._enqueue(recovered.torn)
        self._enqueue(LogOpened(FORMAT, os.getpid()))
        await self._write(self._take(), recovered.segment + 1)
        self._wake.clear()
        self._task = self._loop.create_task(self._run(), name=f"audit-{self._writer}")

    def _in_thread(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        return self._loop.run_in_executor(self._executor, function, *args)

    # What callers use

    def append(self, event: Event, *, patient: bool = False) -> int:
        """Take an event into the log and return its sequence number; it is durable when `durable` has reached that.

        No I/O. AuditUnavailable (RecordTooLarge): it is not in the log, and what depends on it must be refused.
        `patient`: nothing waits for it, so it is written with the next record that something waits for, or PATIENCE seconds later.
        """
        if self._failure is not None:
            self._refuse()
            raise AuditUnavailable(*self._failure.args)
        if self._closing:
            raise AuditUnavailable("the audit log is being closed")
        if self._pending >= self._options.max_queue or self._pending_bytes >= self._options.max_queue_bytes:
            self._refuse()
            raise AuditUnavailable("the audit log's queue is full")
        return self._enqueue(event, patient=patient)

    def note(self, event: Event) -> int | None:
        """Take an event that has happened already (an outcome, a refusal, a logout) and that nothing waits for.

        Taken even while the log has failed or has no room for `append`, up to twice `max_queue`. None: it could not be taken.
        """
        room = self._pending < 2 * self._options.max_queue and self._pending_bytes < 2 * self._options.max_queue_bytes
        if self._closing or not room:
            self._refuse()
            return None
        try:
            return self._enqueue(event)
        except RecordTooLarge:
            return None

    @property
    def durable(self) -> int:
        """The highest sequence number known to be durable."""
        return self._head.seq

    @property
    def head(self) -> Head:
        """The newest durable record and its hash, for a checkpoint to sign."""
        return self._head

    @property
    def healthy(self) -> bool:
        """Whether `append` has reason to succeed."""
        return self._failure is None

    @property
    def failure(self) -> AuditUnavailable | None:
        """What `append` raises now, if it does."""
        return self._failure

    @property
    def queue_length(self) -> int:
        """Records that were appended and are not durable yet."""
        return self._pending

    def on_durable(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Have `callback(seq)` called in the event loop each time `durable` grows. Returns what takes it back."""
        self._durable_callbacks.append(callback)
        return lambda: _discard(self._durable_callbacks, callback)

    def on_failure(self, callback: Callable[[AuditUnavailable], None]) -> Callable[[], None]:
        """Have `callback(reason)` called in the event loop when the log fails. Returns what takes it back."""
        self._failure_callbacks.append(callback)
        return lambda: _discard(self._failure_callbacks, callback)

    async def wait_durable(self, seq: int) -> None:
        """Return when the record `seq` is durable. AuditUnavailable: the log failed first; the record may or may not survive."""
        if seq <= self._head.seq:
            return
        if self._failure is not None:
            raise AuditUnavailable(*self._failure.args)
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiter_count += 1
        heapq.heappush(self._waiters, (seq, self._waiter_count, future))
        await future

    async def close(self) -> None:
        """Write what is queued and a `log_closed`, and give the directory up. AuditUnavailable: not everything could be written."""
        if self._closing:
            if self._task is not None:
                await asyncio.wait([self._task])
            return
        self._enqueue(LogClosed())
        self._closing = True
        self._hurry.set()
        self._wake.set()
        if self._soon is not None:
            self._soon.cancel()
        assert self._task is not None
        try:
            await self._task
        finally:
            last_failure = self._failure
            self._failure = AuditUnavailable("the audit log is closed")
            self._fail_waiters(self._failure)
            await self._release()
        if self._pending:
            raise AuditUnavailable(f"{self._pending} audit records could not be written: {last_failure}")

    async def _release(self) -> None:
        """Close the files and give up the lock; by now whatever is durable is so."""

        def release() -> None:
            with suppress(OSError):
                self._segments.close()
            if self._lock is not None:
                with suppress(OSError):
                    self._place.storage.close(self._lock)

        await self._in_thread(release)
        self._executor.shutdown(wait=False)

    # The chain

    def _refuse(self) -> None:
        self.statistics.refused += 1
        if self._failure is not None:
            self._refused_in_failure += 1

    def _enqueue(self, event: Event, *, patient: bool = False) -> int:
        seq = self._seq + 1
        body = Body(seq, stamp(self._options.clock()), self._writer, self._hash, event)
        try:
            line, digest = encode(body, self._encoder)
            plain = is_plain(line)
        except UnicodeEncodeError:
            plain = False
        if not plain:
            line, digest = encode(msgspec.structs.replace(body, event=printable(event)), self._encoder)
        if len(line) > self._options.max_record_bytes:
            self._refuse()
            raise RecordTooLarge(
                f"an audit record of {len(line)} bytes is over the limit of {self._options.max_record_bytes}"
            )
        self._seq, self._hash = seq, digest
        self._queue.append(_Queued(seq, digest, line))
        self._pending += 1
        self._pending_bytes += len(line)
        self.statistics.appended += 1
        if not patient:
            self._wake.set()
        elif self._soon is None:
            self._soon = self._loop.call_later(PATIENCE, self._patience_ends)
        return seq

    def _patience_ends(self) -> None:
        self._soon = None
        if self._queue:
            self._wake.set()

    def _take(self) -> list[_Queued]:
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def _settle(self, batch: list[_Queued]) -> None:
        """The batch is durable."""
        last = batch[-1]
        size = sum(len(q.line) for q in batch)
        self._head = Head(self._writer, last.seq, last.hash)
        self._pending -= len(batch)
        self._pending_bytes -= size
        self.statistics.fsyncs += 1
        self.statistics.bytes += size
        while self._waiters and self._waiters[0][0] <= last.seq:
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(None)
        for callback in tuple(self._durable_callbacks):
            self._call(callback, last.seq)

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        """One callback's mistake is reported, and neither stops the log nor the other callbacks."""
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001
            self._loop.call_exception_handler({"message": "an audit log callback failed", "exception": error})

    # The writer task

    async def _run(self) -> None:
        try:
            while not (self._closing and not self._queue):
                if not self._closing:
                    await self._wake.wait()
                self._wake.clear()
                if not self._queue:
                    continue
                batch = self._take()
                try:
                    await self._write(batch, None)
                except OSError as error:
                    if not await self._go_on(batch, error):
                        return
        except Exception as error:
            # A mistake of ours must not leave a log that takes records and writes none.
            self._fail(f"the writer has stopped ({type(error).__name__})", error)
            raise

    async def _write(self, batch: list[_Queued], segment: int | None) -> None:
        """Make a batch durable: in the segment being written, or at the start of the given new one."""
        data = b"".join(q.line for q in batch)

        def write() -> float:
            start = self._options.timer()
            if segment is None:
                self._segments.write(data)
            else:
                self._segments.start(segment, data)
            return self._options.timer() - start

        seconds = await self._in_thread(write)
        if segment is not None:
            self._failure = None
        self._settle(batch)
        if self._options.observe_fsync is not None:
            self._call(self._options.observe_fsync, seconds, len(batch))

    async def _go_on(self, batch: list[_Queued], error: OSError) -> bool:
        """After a failed write, try until a new segment has taken everything in doubt. False: the log is closing, and it could not."""
        self._fail(_tell(error), error)
        first = batch[0].seq
        given_up = 0
        attempt = 0
        closing_attempts = 0
        while closing_attempts < CLOSING_ATTEMPTS:
            closing_attempts += self._closing
            await self._pause(attempt)
            attempt += 1
            try:
                newest = await self._in_thread(self._segments.newest)
                if newest != given_up:
                    given_up = newest
                    self._enqueue(LogRestored(newest, first, errno_name(error), self._refused_in_failure))
                batch.extend(self._take())
                await self._write(batch, newest + 1)
            except OSError as again:
                self._fail(_tell(again), again)
            else:
                return True
        return False

    async def _pause(self, attempt: int) -> None:
        seconds = self._options.backoff[min(attempt, len(self._options.backoff) - 1)]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)

    def _fail(self, reason: str, cause: BaseException) -> None:
        self.statistics.failures += 1
        fresh = self._failure is None
        self._failure = AuditUnavailable(f"the audit log cannot be written: {reason}")
        self._failure.__cause__ = cause
        if fresh:
            self._refused_in_failure = 0
            self._fail_waiters(self._failure)
            for callback in tuple(self._failure_callbacks):
                self._call(callback, self._failure)

    def _fail_waiters(self, reason: AuditUnavailable) -> None:
        waiters, self._waiters = self._waiters, []
        for _, _, future in waiters:
            if not future.done():
                future.set_exception(AuditUnavailable(*reason.args))


async def _take_lock(storage: Storage, home: Path) -> int:
    for attempt in range(LOCK_ATTEMPTS):
        try:
            return storage.lock(home / LOCK)
        except BlockingIOError:
            if attempt + 1 < LOCK_ATTEMPTS:
                await asyncio.sleep(0.05)
    raise AuditLocked(f"another process writes the audit log in {home}: give each worker a writer name of its own")


def _tell(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _discard(callbacks: list[Callable[[_T], None]], callback: Callable[[_T], None]) -> None:
    with suppress(ValueError):
        callbacks.remove(callback)
