"""Proof, or disproof, that a log is whole: every line, every link, of every writer. Streams; memory does not grow with the log.

What it can find by itself: any change, removal, insertion or exchange of bytes or lines before the newest record of a chain. What it
cannot: a chain cut off exactly after some record, and a chain forged from some record on to its end, because nothing outside the log
says how it went on. `expect_heads` and `expect_seqs`, noted elsewhere at some earlier time, find those.
"""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from audit.event import LogClosed, LogRecovered, LogRestored
from audit.reading import lines, segments, writers
from audit.record import GENESIS, MAX_LINE_BYTES, Decoder, Malformed
from audit.segments import LOCK, Head, segment_name
from audit.storage import is_locked

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from audit.reading import Line
    from audit.record import Record

MAX_FINDINGS = 1000
"""Findings (and notes) that are kept; the rest are counted."""

WINDOW = 40_000
"""How many of the newest digests are kept, to compare what was written again after a failure.

More than twice a writer's longest queue (audit.log.MAX_QUEUE_LIMIT), which is the most that can be in doubt at a time.
"""

UNKNOWN = b""
"""The digest of a record that could not be read."""

_GENESIS = bytes.fromhex(GENESIS)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be (or, as a note, that is worth knowing)."""

    file: str
    """Relative to the directory; the writer's directory where no file is meant."""
    line: int
    """From 1; 0 where no line is meant."""
    offset: int
    """Byte offset of the line in the file."""
    seq: int | None
    """The sequence number that was due there, or that was asked for."""
    message: str


@dataclass(slots=True)
class Chain:
    """What was read of one writer."""

    writer: str
    segments: int = 0
    records: int = 0
    """Records, without those that stand twice."""
    head: Head | None = None
    """The newest record that could be read."""
    live: bool = False
    """A process is writing to it now."""


@dataclass(slots=True)
class Report:
    """The result. Truthful as a whole only where `ok`."""

    chains: list[Chain] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    untold: int = 0
    """Findings over MAX_FINDINGS, which were counted only."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings and not self.untold


def verify(
    directory: Path, *, expect_heads: Collection[str] = (), expect_seqs: Mapping[str, int] | None = None
) -> Report:
    """Check every writer's chain under `directory`. OSError where it cannot be read.

    `expect_heads`: hashes that must be of records in some chain. `expect_seqs`: a sequence number that a writer's chain must reach.
    """
    report = Report()
    missing = set(expect_heads)
    names = writers(directory)
    for writer in names:
        check = _ChainCheck(directory / writer, writer, report, missing)
        report.chains.append(check.run())
    for digest in sorted(missing):
        _add(report, Finding("", 0, 0, None, f"no record has the expected hash {digest}"))
    reached = {chain.writer: 0 if chain.head is None else chain.head.seq for chain in report.chains}
    for writer, seq in sorted((expect_seqs or {}).items()):
        if reached.get(writer, 0) < seq:
            _add(
                report,
                Finding(writer, 0, 0, seq, f"the chain ends at {reached.get(writer, 0)}, record {seq} is not there"),
            )
    if not names and report.ok:
        report.notes.append(Finding("", 0, 0, None, "there is no chain here"))
    return report


def verify_newest(directory: Path) -> Report:
    """Check the newest segment of every writer by itself: how it goes on from the one before is not looked at. OSError as `verify`."""
    report = Report()
    for writer in writers(directory):
        report.chains.append(_ChainCheck(directory / writer, writer, report, set()).run_newest())
    return report


def _add(report: Report, finding: Finding) -> None:
    if len(report.findings) < MAX_FINDINGS:
        report.findings.append(finding)
    else:
        report.untold += 1


class _ChainCheck:
    """One writer's segments, in order. Holds where the chain stands, and the digests that a failed write may have us compare."""

    def __init__(self, home: Path, writer: str, report: Report, missing: set[str]) -> None:
        self._home = home
        self._report = report
        self._missing = missing
        self._decoder = Decoder()
        self._chain = Chain(writer)
        self._seq = 0  # of the newest record
        self._hash: bytes = _GENESIS  # of the newest record; UNKNOWN after a damaged line
        self._window: deque[bytes] = deque(maxlen=WINDOW)  # hashes of the records up to _seq
        self._copies: deque[bytes] = deque()  # hashes that the segment before has and this one must repeat
        self._restart: int | None = None  # where a segment that repeats records begins, until a record says why it does
        self._first: int | None = None  # the segment's first sequence number
        self._last: Record | None = None
        self._recovered: dict[int, LogRecovered] = {}

    def run(self) -> Chain:
        # Asked before reading: a writer that stops meanwhile leaves a complete end.
        self._chain.live = is_locked(self._home / LOCK)
        files = segments(self._home)
        self._chain.segments = len(files)
        for (before, _), (number, path) in pairwise([(0, self._home), *files]):
            if number != before + 1:
                self._note(path, None, f"there is no {segment_name(before + 1)}")
            self._segment(number, path, newest=number == files[-1][0])
        self._other_files()
        if not files:
            self._note(self._home, None, "there are no segments")
        elif not self._chain.live and not (self._last and isinstance(self._last.body.event, LogClosed)):
            message = "the chain does not end with log_closed: its writer was killed, or the end was taken away"
            self._note(files[-1][1], None, message)
        return self._chain

    def run_newest(self) -> Chain:
        """The newest segment alone. Its first record is taken at its word."""
        self._chain.live = is_locked(self._home / LOCK)
        files = segments(self._home)
        self._chain.segments = len(files)
        if files:
            number, path = files[-1]
            for line in lines(path):
                with suppress(Malformed):
                    first = self._decoder.decode(line.text).body.seq
                    self._seq, self._hash = first - 1, _GENESIS if first == 1 else UNKNOWN
                break
            self._segment(number, path, newest=True)
        return self._chain

    def _segment(self, number: int, path: Path, *, newest: bool) -> None:
        self._forget_segment()
        empty = True
        for line in lines(path):
            empty = False
            if not line.complete:
                self._incomplete(path, line, newest=newest)
                continue
            try:
                record = self._decoder.decode(line.text)
            except Malformed as error:
                self._find(path, line, str(error))
                self._advance(UNKNOWN)
            else:
                self._record(number, path, line, record)
        if empty:
            self._find(path, None, "the segment is empty")
        if self._restart is not None:
            self._find(
                path, None, f"the segment repeats records from {self._restart} on, and none of its records says why"
            )
        if self._copies:
            message = f"{len(self._copies)} records of the segment before are not repeated with those before them"
            self._find(path, None, message)

    def _forget_segment(self) -> None:
        self._copies.clear()
        self._restart = self._first = None

    def _incomplete(self, path: Path, line: Line, *, newest: bool) -> None:
        if line.size > MAX_LINE_BYTES:
            self._find(path, line, f"a line of {line.size} bytes, longer than any record")
        elif newest and self._chain.live:
            self._note(path, line, "the last line is incomplete: it is being written")
        else:
            torn = "a crash tore it (the writer's next start sets it aside), or it was cut"
            self._find(path, line, f"the last line is incomplete: {torn}")

    def _record(self, number: int, path: Path, line: Line, record: Record) -> None:
        body, digest = record.body, bytes.fromhex(record.hash)
        if body.writer != self._chain.writer:
            self._find(path, line, f"the record is of the writer {body.writer!r}")
        if line.number == 1:
            self._first = body.seq
            if body.seq <= self._seq:
                self._begin_again(path, line, body.seq)
        if body.seq != self._seq + 1:
            self._find(path, line, f"record {body.seq} stands where {self._seq + 1} was due")
            self._seq = body.seq - 1
            self._window.clear()
            self._copies.clear()
        elif self._hash not in (UNKNOWN, bytes.fromhex(body.prev)):
            self._find(path, line, f"record {body.seq} is not linked to the record before it")
        if self._copies:
            if self._copies.popleft() not in (UNKNOWN, digest):
                self._find(path, line, f"record {body.seq} is another one in the segment before")
        else:
            self._chain.records += 1
        self._advance(digest)
        self._missing.discard(record.hash)
        self._learn(number, path, line, record)

    def _learn(self, number: int, path: Path, line: Line, record: Record) -> None:
        """What the record itself tells about the chain."""
        body = record.body
        if self._last is not None and body.time < self._last.body.time and body.seq > self._last.body.seq:
            self._note(path, line, f"the clock went back, from {self._last.body.time} to {body.time}")
        self._last = record
        self._chain.head = Head(self._chain.writer, body.seq, record.hash)
        if isinstance(body.event, LogRecovered):
            self._recovered[body.event.segment] = body.event
        elif isinstance(body.event, LogRestored):
            self._explain(number, path, body.event)

    def _advance(self, digest: bytes) -> None:
        self._seq += 1
        self._hash = digest
        self._window.append(digest)

    def _begin_again(self, path: Path, line: Line, seq: int) -> None:
        """The segment begins with records that were seen before: go back to them, and have them compared."""
        back = self._seq - seq + 1
        if back > len(self._window):
            self._find(path, line, f"record {seq} again, further back than any failed write explains")
            return
        self._copies.extend(reversed([self._window.pop() for _ in range(back)]))
        self._seq = seq - 1
        if self._window:
            self._hash = self._window[-1]
        else:
            self._hash = _GENESIS if seq == 1 else UNKNOWN
        self._restart = seq

    def _explain(self, number: int, path: Path, event: LogRestored) -> None:
        """What was found in a segment that was given up, at records that stand again here, harms nothing."""
        if event.first != self._first or event.segment >= number:
            return
        self._restart = None
        given_up = {self._name(self._home / segment_name(n)) for n in range(event.segment, number)}
        for finding in tuple(self._report.findings):
            if finding.file in given_up and finding.seq is not None and finding.seq >= event.first:
                self._report.findings.remove(finding)
                message = f"{finding.message}; given up after a failed write ({event.error}), whole in {path.name}"
                self._report.notes.append(replace(finding, message=message))

    def _other_files(self) -> None:
        for path in sorted(self._home.iterdir()):
            if path.suffix == ".torn" and path.stem.isdecimal():
                self._torn(path)
            elif path.suffix == ".part" and not self._chain.live:
                self._note(
                    path, None, "left behind by a crash while a segment was begun; the writer's next start removes it"
                )
            elif path.name != LOCK and path.suffix not in (".jsonl", ".part"):
                self._note(path, None, "no file of the log")
        for event in self._recovered.values():
            path = (self._home / segment_name(event.segment)).with_suffix(".torn")
            self._note(
                path, None, f"{event.bytes} bytes that a crash left incomplete were set aside here; the file is gone"
            )

    def _torn(self, path: Path) -> None:
        event = self._recovered.pop(int(path.stem), None)
        if event is None:
            self._note(path, None, "set aside after a crash; no record tells of it (yet)")
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != event.sha256:
            self._find(path, None, f"it is not what was set aside at the start after the crash ({event.bytes} bytes)")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._home.parent))

    def _finding(self, path: Path, line: Line | None, message: str) -> Finding:
        number, offset = (0, 0) if line is None else (line.number, line.offset)
        return Finding(self._name(path), number, offset, self._seq + 1, message)

    def _find(self, path: Path, line: Line | None, message: str) -> None:
        _add(self._report, self._finding(path, line, message))

    def _note(self, path: Path, line: Line | None, message: str) -> None:
        if len(self._report.notes) < MAX_FINDINGS:
            self._report.notes.append(self._finding(path, line, message))
