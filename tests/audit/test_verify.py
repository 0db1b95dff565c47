"""Verification finds every change that it can find, says where, and owns up to what it cannot."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import verify as verify_module
from audit.event import ColumnAccess, Event, LoggedOut, LogRestored, StatementEnded, StatementStarted
from audit.log import AuditLog
from audit.record import GENESIS, MAX_LINE_BYTES, Body, encode, stamp
from audit.storage import OsStorage
from audit.verify import Report, verify, verify_newest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
ENCODER = msgspec.json.Encoder()
SEGMENTS = ("w0/00000001.jsonl", "w0/00000002.jsonl", "w0/00000003.jsonl", "w1/00000001.jsonl")


def statement(number: int) -> StatementStarted:
    access = ColumnAccess("public.customers.card", "core", "masked", True, False)
    return StatementStarted(
        "c1", "alice", ("clerk",), "abcdef012345", "shop", "10.0.0.1:5", "psql", "select", "select card from customers",
        ("public.customers",), (access,), False, number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two chains, one of three segments."""
    directory = tmp_path_factory.mktemp("whole")
    ticks = iter(range(10_000))

    async def write() -> None:
        for writer, lives in (("w0", 3), ("w1", 1)):
            for _ in range(lives):
                log = await AuditLog.open(
                    directory, writer=writer, clock=lambda: START + timedelta(microseconds=next(ticks))
                )
                for number in range(3):
                    log.append(statement(number))
                    log.append(StatementEnded("c1", number, number, 100, "ok", None))
                await log.close()

    asyncio.run(write())
    return directory


@pytest.fixture
def log(whole: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(whole, tmp_path / "log"))


def messages(report: Report) -> list[str]:
    return [f.message for f in report.findings]


def chain(events: Sequence[Event], writer: str = "w", seq: int = 1, prev: str = GENESIS) -> list[bytes]:
    """Lines that follow each other, as a writer (or a forger) makes them."""
    lines = []
    for event in events:
        line, prev = encode(Body(seq, stamp(START), writer, prev, event), ENCODER)
        lines.append(line)
        seq += 1
    return lines


def write_segments(directory: Path, *segments: Sequence[bytes]) -> None:
    (directory / "w").mkdir()
    for number, lines in enumerate(segments, 1):
        (directory / "w" / f"{number:08}.jsonl").write_bytes(b"".join(lines))


def test_a_whole_log(whole: Path) -> None:
    report = verify(whole)
    assert report.ok
    assert not report.notes
    assert [(c.writer, c.segments, c.records) for c in report.chains] == [("w0", 3, 24), ("w1", 1, 8)]
    assert [c.head is not None and c.head.seq for c in report.chains] == [24, 8]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_one_byte_changed_is_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SEGMENTS))
    content = (whole / name).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != content[at]))
    check_found(whole, name, content[:at] + bytes([value]) + content[at + 1 :])


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_bytes_put_in_or_taken_out_are_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SEGMENTS))
    content = (whole / name).read_bytes()
    at = data.draw(st.integers(0, len(content)))
    added = data.draw(st.binary(max_size=3))
    to = data.draw(st.integers(at, min(len(content), at + 3)))
    changed = content[:at] + added + content[to:]
    if changed != content:
        check_found(whole, name, changed)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_lines_taken_out_put_in_or_exchanged_are_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SEGMENTS))
    lines = (whole / name).read_bytes().splitlines(keepends=True)
    one = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1))
    what = data.draw(st.sampled_from(["remove", "swap", "copy", "foreign"]))
    changed = list(lines)
    if what == "remove":
        if one == len(lines) - 1 and name in {SEGMENTS[2], SEGMENTS[3]}:
            return  # the chain's own end: see test_a_cut_end_needs_outside_knowledge
        del changed[one]
    elif what == "swap":
        changed[one], changed[other] = changed[other], changed[one]
    elif what == "copy":
        changed.insert(other, lines[one])
    else:
        foreign = (whole / SEGMENTS[0 if name != SEGMENTS[0] else 3]).read_bytes().splitlines(keepends=True)
        changed.insert(other, foreign[min(one, len(foreign) - 1)])
    if changed != lines:
        check_found(whole, name, b"".join(changed))


def check_found(whole: Path, name: str, content: bytes) -> None:
    with TemporaryDirectory() as place:
        directory = Path(shutil.copytree(whole, Path(place) / "log"))
        (directory / name).write_bytes(content)
        report = verify(directory)
        assert not report.ok
        assert any(f.file.startswith(name[:2]) for f in report.findings)


@pytest.mark.parametrize("name", SEGMENTS)
def test_every_byte_of_the_newest_line_counts(whole: Path, log: Path, name: str) -> None:
    path = log / name
    content = path.read_bytes()
    for at in range(content.rfind(b"\n", 0, -1) + 1, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not verify(log).ok, at


def test_a_finding_says_where(log: Path) -> None:
    path = log / SEGMENTS[1]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"rows":0', b'"rows":9')
    path.write_bytes(b"".join(lines))
    (finding,) = verify(log).findings
    assert finding.file == SEGMENTS[1]
    assert (finding.line, finding.offset, finding.seq) == (3, len(lines[0]) + len(lines[1]), 11)
    assert "hash does not match" in finding.message


@pytest.mark.parametrize(("name", "found"), [(SEGMENTS[0], True), (SEGMENTS[1], True)])
def test_a_segment_taken_away_is_found(log: Path, name: str, found: bool) -> None:
    (log / name).unlink()
    report = verify(log)
    assert report.ok is not found
    assert any("was due" in m for m in messages(report))


def test_segments_exchanged_are_found(log: Path) -> None:
    one, other = (log / name for name in SEGMENTS[:2])
    one_content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_content)
    assert not verify(log).ok


def test_a_chain_under_another_name_is_found(log: Path) -> None:
    shutil.copytree(log / "w1", log / "w2")
    assert any("is of the writer 'w1'" in m for m in messages(verify(log)))


def test_a_cut_end_needs_outside_knowledge(whole: Path, log: Path) -> None:
    before = verify(whole).chains[0].head
    assert before is not None
    path = log / SEGMENTS[2]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    report = verify(log)
    assert report.ok  # nothing in the log can tell
    assert any("end was taken away" in n.message for n in report.notes)  # but it is worth a note
    assert messages(verify(log, expect_heads=[before.hash])) == [f"no record has the expected hash {before.hash}"]
    assert messages(verify(log, expect_seqs={"w0": before.seq})) == ["the chain ends at 22, record 24 is not there"]
    assert verify(log, expect_seqs={"w0": 22, "w1": 8}).ok
    shutil.rmtree(log / "w1")
    assert verify(log).ok
    assert not verify(log, expect_seqs={"w1": 1}).ok


def test_a_forged_end_needs_outside_knowledge(whole: Path, log: Path) -> None:
    before = verify(whole).chains[1].head
    assert before is not None
    (log / SEGMENTS[3]).write_bytes(b"".join(chain([LoggedOut("c", "mallory", n) for n in range(8)], "w1")))
    assert verify(log, expect_seqs={"w1": 8}).ok
    assert not verify(log, expect_heads=[before.hash]).ok


def test_an_incomplete_end_is_wrong_unless_somebody_is_writing(log: Path) -> None:
    path = log / SEGMENTS[3]
    path.write_bytes(path.read_bytes()[:-10])
    assert any("incomplete" in m for m in messages(verify(log)))
    storage = OsStorage()
    handle = storage.lock(log / "w1" / "lock")
    try:
        report = verify(log)
        assert report.ok
        assert report.chains[1].live
        assert ["being written" in n.message for n in report.notes] == [True]
    finally:
        storage.close(handle)


def test_an_incomplete_line_in_the_middle_is_wrong_even_then(log: Path) -> None:
    path = log / SEGMENTS[0]
    path.write_bytes(path.read_bytes()[:-10])
    storage = OsStorage()
    handle = storage.lock(log / "w0" / "lock")
    try:
        assert not verify(log).ok
    finally:
        storage.close(handle)


# What a failed write leaves

EVENTS = [LoggedOut("c", "alice", n) for n in range(5)]


def test_records_written_again_after_a_failure(tmp_path: Path) -> None:
    lines = chain([*EVENTS, LogRestored(1, 3, "EIO", 0), EVENTS[0]])
    for end in (lines[2:5], lines[2:4], [*lines[2:4], lines[4][:20]], [], [b"\0" * 50], [lines[2][:5], b"\0" * 50]):
        directory = tmp_path / str(abs(hash(tuple(end))))
        directory.mkdir()
        write_segments(directory, [*lines[:2], *end], lines[2:])
        report = verify(directory)
        assert report.ok, (end, report.findings)
        assert report.chains[0].records == 7
        assert report.chains[0].head is not None
        assert report.chains[0].head.seq == 7


def test_records_that_stand_twice_must_be_the_same(tmp_path: Path) -> None:
    lines = chain([*EVENTS, LogRestored(1, 3, "EIO", 0)])
    two = lines[:2]
    other = chain([EVENTS[4], EVENTS[4]], seq=3, prev=two[1][-67:-3].decode())
    write_segments(tmp_path, [*two, *other], lines[2:])
    assert messages(verify(tmp_path)) == [
        "record 3 is another one in the segment before",
        "record 4 is another one in the segment before",
    ]


@pytest.mark.parametrize("restored", [[], [LogRestored(1, 2, "EIO", 0)], [LogRestored(2, 3, "EIO", 0)]])
def test_repeating_without_a_reason_is_wrong(tmp_path: Path, restored: list[Event]) -> None:
    lines = chain([*EVENTS, *restored])
    write_segments(tmp_path, lines[:5], lines[2:])
    assert any("none of its records says why" in m for m in messages(verify(tmp_path)))


def test_repeating_must_repeat_all(tmp_path: Path) -> None:
    lines = chain([*EVENTS[:2], LogRestored(1, 3, "EIO", 0), *EVENTS[2:]])
    write_segments(tmp_path, lines[:6], lines[2:4])
    assert any("2 records of the segment before are not repeated" in m for m in messages(verify(tmp_path)))


def test_repeating_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "WINDOW", 3)
    lines = chain([*EVENTS, LogRestored(1, 2, "EIO", 0)])
    write_segments(tmp_path, lines[:5], lines[1:])
    assert any("further back" in m for m in messages(verify(tmp_path)))


def test_from_the_very_first_record_on(tmp_path: Path) -> None:
    lines = chain([*EVENTS, LogRestored(1, 1, "ENOSPC", 2)])
    write_segments(tmp_path, lines[:1], lines)
    assert verify(tmp_path).ok


# Files


def test_other_files_are_worth_a_note(log: Path) -> None:
    (log / "w0" / "00000009.part").write_text("")
    (log / "w0" / "00000003.torn").write_text("x")
    (log / "w0" / "notes.txt").write_text("")
    (log / "README").write_text("")
    report = verify(log)
    assert report.ok
    assert sorted(n.file for n in report.notes) == ["w0/00000003.torn", "w0/00000009.part", "w0/notes.txt"]


def test_what_was_set_aside_is_checked(tmp_path: Path) -> None:
    async def life() -> None:
        log = await AuditLog.open(tmp_path, writer="w", clock=lambda: START)
        await log.close()

    asyncio.run(life())
    path = tmp_path / "w" / "00000001.jsonl"
    path.write_bytes(path.read_bytes() + b'{"seq":')
    asyncio.run(life())
    torn = tmp_path / "w" / "00000001.torn"
    assert torn.read_bytes() == b'{"seq":'
    report = verify(tmp_path)
    assert report.ok
    assert not report.notes
    torn.write_bytes(b'{"seq";')
    assert any("not what was set aside" in m for m in messages(verify(tmp_path)))
    torn.unlink()
    report = verify(tmp_path)
    assert report.ok
    assert ["set aside" in n.message for n in report.notes] == [True]


def test_empty_and_absent(tmp_path: Path) -> None:
    report = verify(tmp_path)
    assert report.ok
    assert [n.message for n in report.notes] == ["there is no chain here"]
    (tmp_path / "w").mkdir()
    assert [n.message for n in verify(tmp_path).notes] == ["there are no segments"]
    (tmp_path / "w" / "00000001.jsonl").write_bytes(b"")
    assert messages(verify(tmp_path)) == ["the segment is empty"]
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_memory_is_bounded_by_the_longest_line(tmp_path: Path, newline: bytes) -> None:
    lines = chain(EVENTS)
    write_segments(tmp_path, [*lines[:2], b"x" * (3 * MAX_LINE_BYTES) + newline, *lines[2:]])
    report = verify(tmp_path)
    size = 3 * MAX_LINE_BYTES + (1 if newline else len(lines[2]))
    assert any(f"a line of {size} bytes" in m for m in messages(report))


def test_findings_are_limited_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "MAX_FINDINGS", 5)
    write_segments(tmp_path, [b"x\n"] * 20)
    report = verify(tmp_path)
    assert len(report.findings) == 5
    assert report.untold == 15
    assert not report.ok


def test_a_clock_that_went_back_is_worth_a_note(tmp_path: Path) -> None:
    def falling() -> Iterator[datetime]:
        for seconds in range(100):
            yield START - timedelta(seconds=seconds)

    times = falling()

    async def life() -> None:
        log = await AuditLog.open(tmp_path, writer="w", clock=lambda: next(times))
        await log.close()

    asyncio.run(life())
    report = verify(tmp_path)
    assert report.ok
    assert ["clock went back" in n.message for n in report.notes] == [True]


def test_the_newest_segments_alone(whole: Path, tmp_path: Path) -> None:
    assert verify_newest(whole).ok
    assert [(c.writer, c.head and c.head.seq) for c in verify_newest(whole).chains] == [
        (c.writer, c.head and c.head.seq) for c in verify(whole).chains
    ]
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    older, newest = copy / SEGMENTS[0], copy / SEGMENTS[2]
    older.write_bytes(older.read_bytes().replace(b"alice", b"smith", 1))
    assert verify_newest(copy).ok
    assert not verify(copy).ok
    text = newest.read_bytes()
    for changed in (
        text.replace(b"alice", b"smith", 1),
        text[:-1],
        b"".join(text.splitlines(keepends=True)[:1] + text.splitlines(keepends=True)[2:]),
        b"",
        b"none\n" + text,
    ):
        newest.write_bytes(changed)
        assert not verify_newest(copy).ok
