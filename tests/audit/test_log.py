"""The log as its writers use it: order, group commit, limits, segments, restarts, one process per chain."""

from __future__ import annotations

import asyncio
import stat
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from audit.errors import AuditDamaged, AuditError, AuditLocked, AuditUnavailable, RecordTooLarge
from audit.event import LogClosed, LoggedOut, LogOpened, RulesLoaded
from audit.log import LOCK_ATTEMPTS, MAX_QUEUE_LIMIT, AuditLog
from audit.query import Follower
from audit.segments import heads
from audit.storage import OsStorage
from audit.verify import WINDOW, verify

if TYPE_CHECKING:
    from pathlib import Path

    from audit.record import Record


def clock() -> datetime:
    return datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def event(number: int) -> LoggedOut:
    return LoggedOut("c", "alice", number)


def records(directory: Path) -> list[Record]:
    return Follower(directory).tail(100_000)


async def open_log(directory: Path, **options: Any) -> AuditLog:
    return await AuditLog.open(directory, writer=options.pop("writer", "w"), clock=clock, **options)


class GatedStorage(OsStorage):
    """The disk is as slow as the test wants: a sync waits until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def sync(self, handle: int) -> None:
        self.waiting.set()
        assert self.gate.wait(30)
        super().sync(handle)


async def stalled(log: AuditLog, storage: GatedStorage) -> int:
    """One record in flight, its sync held up."""
    storage.gate.clear()
    storage.waiting.clear()
    seq = log.append(event(0))
    await asyncio.get_running_loop().run_in_executor(None, storage.waiting.wait)
    return seq


async def test_records_come_out_as_they_went_in(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    assert log.durable == 1
    seqs = [log.append(event(n)) for n in range(5)]
    assert seqs == [2, 3, 4, 5, 6]
    assert log.durable == 1  # no I/O in append
    await log.wait_durable(6)
    assert log.durable == 6
    assert log.queue_length == 0
    await log.wait_durable(3)
    await log.close()
    found = records(tmp_path)
    assert [r.body.seq for r in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [type(r.body.event) for r in found] == [LogOpened, *[LoggedOut] * 5, LogClosed]
    assert found[5].body.event == event(4)
    assert {r.body.time for r in found} == {"2026-03-01T09:30:00.000000Z"}
    assert log.head.hash == found[-1].hash
    assert heads(tmp_path, OsStorage()) == {"w": log.head}
    assert verify(tmp_path, expect_heads=[log.head.hash], expect_seqs={"w": 7}).ok


async def test_what_gathers_during_an_fsync_shares_the_next_one(tmp_path: Path) -> None:
    storage = GatedStorage()
    observed: list[tuple[float, int]] = []
    log = await open_log(
        tmp_path, storage=storage, observe_fsync=lambda s, n: observed.append((s, n)), timer=lambda: 2.0
    )
    first = await stalled(log, storage)
    seqs = [log.append(event(n)) for n in range(1000)]
    before = log.statistics.fsyncs
    assert log.durable == first - 1
    storage.gate.set()
    await asyncio.gather(*(log.wait_durable(seq) for seq in seqs))
    assert log.statistics.fsyncs == before + 2
    assert observed == [(0.0, 1), (0.0, 1), (0.0, 1000)]
    await log.close()


async def test_what_nobody_waits_for_starts_no_fsync_of_its_own(tmp_path: Path) -> None:
    """How a statement ended is written with the start of the next one, which does not wait for two fsyncs then."""
    storage = GatedStorage()
    log = await open_log(tmp_path, storage=storage)
    before = log.statistics.fsyncs
    storage.waiting.clear()
    ended = log.append(event(0), patient=True)
    assert log._soon is not None
    when = log._soon.when()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not storage.waiting.is_set()
    started = log.append(event(1))
    await log.wait_durable(started)
    assert log.durable == started == ended + 1
    assert log.statistics.fsyncs == before + 1
    log.append(event(2), patient=True)
    assert log._soon is None or log._soon.when() == when, "one timer for all"
    await log.close()
    assert [r.body.event for r in records(tmp_path)[1:-1]] == [event(0), event(1), event(2)]


async def test_what_nobody_waits_for_is_written_all_the_same(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.wait_durable(log.append(event(0), patient=True))
    await log.close()


async def test_what_is_appended_patiently_during_an_fsync_waits_for_its_own_time(tmp_path: Path) -> None:
    storage = GatedStorage()
    log = await open_log(tmp_path, storage=storage)
    first = await stalled(log, storage)
    before = log.statistics.fsyncs
    log.append(event(1), patient=True)
    storage.gate.set()
    await log.wait_durable(first)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (log.durable, log.statistics.fsyncs) == (first, before + 1)
    await log.close()
    assert verify(tmp_path).ok


async def test_many_concurrent_appends_need_few_fsyncs(tmp_path: Path) -> None:
    log = await open_log(tmp_path)

    async def statement() -> None:
        for number in range(10):
            await log.wait_durable(log.append(event(number)))

    await asyncio.gather(*(statement() for _ in range(100)))
    assert log.statistics.appended == 1001
    assert log.statistics.fsyncs <= 1 + 2 * 10  # a hundred a time, give or take a straggler
    await log.close()


async def test_waiting_in_any_order_and_giving_up(tmp_path: Path) -> None:
    storage = GatedStorage()
    log = await open_log(tmp_path, storage=storage)
    first = await stalled(log, storage)
    later = log.append(event(1))
    waits = [asyncio.ensure_future(log.wait_durable(seq)) for seq in (later, first, later)]
    await asyncio.sleep(0)
    waits[1].cancel()
    storage.gate.set()
    await waits[0]
    await waits[2]
    assert waits[1].cancelled()
    await log.close()


async def test_callbacks_and_their_mistakes(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    told: list[int] = []
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))

    def fail(seq: int) -> None:
        raise RuntimeError("a mistake")

    log.on_durable(fail)
    forget = log.on_durable(told.append)
    await log.wait_durable(log.append(event(1)))
    assert told == [2]
    assert len(wrong) == 1
    forget()
    forget()
    await log.wait_durable(log.append(event(2)))
    assert told == [2]
    await log.close()


async def test_a_full_queue_refuses_statements_and_still_notes_outcomes(tmp_path: Path) -> None:
    storage = GatedStorage()
    log = await open_log(tmp_path, storage=storage, max_queue=4)
    await stalled(log, storage)
    for number in range(3):
        log.append(event(number))
    with pytest.raises(AuditUnavailable, match="full"):
        log.append(event(9))
    assert log.healthy
    noted = [log.note(event(n)) for n in range(5)]
    assert noted[:4] == [6, 7, 8, 9]
    assert noted[4] is None
    assert log.queue_length == 8
    assert log.statistics.refused == 2
    storage.gate.set()
    await log.wait_durable(9)
    log.append(event(10))
    await log.close()
    assert verify(tmp_path).ok


async def test_a_queue_of_bytes_is_limited_too(tmp_path: Path) -> None:
    storage = GatedStorage()
    log = await open_log(tmp_path, storage=storage, max_queue_bytes=1000)
    await stalled(log, storage)
    for number in range(3):
        log.append(event(number))
    with pytest.raises(AuditUnavailable, match="full"):
        log.append(event(9))
    storage.gate.set()
    await log.close()


async def test_a_record_over_the_limit_is_refused_and_leaves_no_gap(tmp_path: Path) -> None:
    log = await open_log(tmp_path, max_record_bytes=1024)
    with pytest.raises(RecordTooLarge, match="over the limit of 1024"):
        log.append(RulesLoaded("v", "s" * 2000))
    assert log.note(RulesLoaded("v", "s" * 2000)) is None
    assert log.append(event(1)) == 2
    await log.close()
    assert verify(tmp_path).ok


async def test_text_that_is_no_unicode_is_logged_escaped(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    log.append(RulesLoaded("v", "\udc80"))
    await log.close()
    assert RulesLoaded("v", "\\udc80") in [r.body.event for r in records(tmp_path)]


async def test_segments_follow_each_other(tmp_path: Path) -> None:
    log = await open_log(tmp_path, segment_bytes=1000)
    for number in range(30):
        await log.wait_durable(log.append(event(number)))
    await log.close()
    paths = sorted((tmp_path / "w").glob("*.jsonl"))
    assert len(paths) > 5
    assert [p.name for p in paths] == [f"{n:08}.jsonl" for n in range(1, len(paths) + 1)]
    assert all(p.stat().st_size <= 1000 for p in paths)
    assert sorted(p.name for p in (tmp_path / "w").iterdir() if p not in paths) == ["lock"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in paths} == {0o600}
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o700
    report = verify(tmp_path)
    assert report.ok
    assert report.chains[0].segments == len(paths)
    assert report.chains[0].records == 32


async def test_a_restart_goes_on_with_the_chain(tmp_path: Path) -> None:
    for life in range(3):
        log = await open_log(tmp_path)
        assert log.durable == 3 * life + 1
        log.append(event(life))
        await log.close()
    assert [r.body.seq for r in records(tmp_path)] == list(range(1, 10))
    report = verify(tmp_path)
    assert report.ok
    assert not report.notes
    assert report.chains[0].segments == 3


async def test_writers_are_independent(tmp_path: Path) -> None:
    logs = [await open_log(tmp_path, writer=name) for name in ("w-0", "w-1")]
    for log in logs:
        log.append(event(1))
        await log.close()
    assert sorted(heads(tmp_path, OsStorage())) == ["w-0", "w-1"]
    report = verify(tmp_path)
    assert report.ok
    assert [c.records for c in report.chains] == [3, 3]


async def test_one_process_a_chain(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    with pytest.raises(AuditLocked, match="another process"):
        await open_log(tmp_path)
    log.append(event(1))
    await log.close()
    again = await open_log(tmp_path)
    await again.close()
    assert LOCK_ATTEMPTS > 1


async def test_closing(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    log.append(event(1))
    closing = asyncio.ensure_future(log.close())
    await asyncio.sleep(0)
    with pytest.raises(AuditUnavailable):
        log.append(event(2))
    assert log.note(event(2)) is None
    await log.close()
    await closing
    with pytest.raises(AuditUnavailable, match="closed"):
        log.append(event(3))
    with pytest.raises(AuditUnavailable, match="closed"):
        await log.wait_durable(99)
    assert not log.healthy


async def test_a_mistake_in_the_writer_fails_the_log(tmp_path: Path) -> None:
    log = await open_log(tmp_path)

    def broken(data: bytes) -> None:
        raise RuntimeError("a mistake")

    log._segments.write = broken  # type: ignore[method-assign]
    seq = log.append(event(1))
    with pytest.raises(AuditUnavailable, match="stopped"):
        await log.wait_durable(seq)
    with pytest.raises(AuditUnavailable, match="stopped"):
        log.append(event(2))
    with pytest.raises(RuntimeError):
        await log.close()


@pytest.mark.parametrize("end", [b"garbage\n", b'{"seq":1}\n', b"x" * 100 + b"\n"])
async def test_an_end_that_no_crash_leaves_is_not_built_upon(tmp_path: Path, end: bytes) -> None:
    log = await open_log(tmp_path)
    await log.close()
    path = tmp_path / "w" / "00000001.jsonl"
    path.write_bytes(path.read_bytes() + end)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(AuditDamaged, match="last line"):
            await open_log(tmp_path)
    assert path.read_bytes() == before
    with pytest.raises(AuditDamaged):
        heads(tmp_path, OsStorage())


async def test_another_writers_segment_is_not_built_upon(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.close()
    (tmp_path / "w").rename(tmp_path / "v")
    with pytest.raises(AuditDamaged, match="'w'"):
        await open_log(tmp_path, writer="v")


async def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(AuditUnavailable, match="cannot be opened"):
            await open_log(place)
    (tmp_path / "w").mkdir()
    (tmp_path / "target").write_text("")
    (tmp_path / "w" / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(AuditUnavailable):
        await open_log(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"writer": "../w"},
        {"writer": ""},
        {"writer": "W"},
        {"segment_bytes": 0},
        {"max_queue": 0},
        {"max_queue": MAX_QUEUE_LIMIT + 1},
        {"max_record_bytes": 10},
        {"max_queue_bytes": 0},
        {"backoff": ()},
        {"backoff": (-1.0,)},
    ],
)
async def test_settings_out_of_range(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|name"):
        await open_log(tmp_path, **options)
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240


def test_the_verifier_remembers_as_much_as_can_be_in_doubt() -> None:
    assert WINDOW > 2 * MAX_QUEUE_LIMIT
    assert issubclass(RecordTooLarge, AuditUnavailable)
    assert issubclass(AuditUnavailable, AuditError)
