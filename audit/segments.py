"""The files of one writer: their names, their recovery after a crash, and the writing of the newest one. No asyncio, no threads.

    <directory>/<writer>/lock             held (flock) by the process that writes
    <directory>/<writer>/00000001.jsonl   segments, in order
    <directory>/<writer>/00000002.part    a segment being begun: not one yet, left behind only by a crash
    <directory>/<writer>/00000001.torn    the incomplete end that a crash left in segment 1, cut off at the next start

Two rules carry the guarantees:

1. A segment appears (by rename) when its first records are durable, so the newest one always has the chain's newest record in it.
2. A file that failed once is never written again. After a failed fsync the kernel may have dropped the pages and marked them clean, so
   a later fsync that succeeds says nothing (PostgreSQL's "fsyncgate", 2018). Whatever was in doubt is written anew in a new file.
"""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.errors import AuditDamaged
from audit.event import LogRecovered
from audit.record import GENESIS, Decoder, Malformed

if TYPE_CHECKING:
    from pathlib import Path

    from audit.storage import Storage

LOCK = "lock"
MAX_SEGMENTS = 99_999_999
_WRITER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SEGMENT = re.compile(r"([0-9]{8})\.jsonl")


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a chain. `hash` stands for the chain up to it. A chain without records: seq 0, GENESIS."""

    writer: str
    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an existing directory holds: the chain's head, its newest segment (0: none), and what a crash left to report."""

    head: Head
    segment: int
    torn: LogRecovered | None


def is_writer_name(name: str) -> bool:
    """Whether a writer may be called so: lower-case letters, digits, - and _; at most 63."""
    return _WRITER.fullmatch(name) is not None


def segment_name(number: int) -> str:
    """The file name of a segment."""
    return f"{number:08}.jsonl"


def segment_numbers(names: list[str]) -> list[int]:
    """The segments among file names, ascending."""
    return sorted(int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name)))


def recover(storage: Storage, directory: Path, writer: str) -> Recovered:
    """Bring a writer's directory, whose lock is held, into order after whatever happened, and tell where its chain stands.

    Safe to be killed in, at any point, any number of times. AuditDamaged: the newest segment does not end as a crash would leave it.
    """
    names = storage.names(directory)
    for name in names:
        if name.endswith(".part"):
            storage.remove(directory / name)
    numbers = segment_numbers(names)
    if not numbers:
        return Recovered(Head(writer), 0, None)
    number = numbers[-1]
    path = directory / segment_name(number)
    head = _rewrite(storage, path, writer)
    side = path.with_suffix(".torn")
    torn = None
    if side.name in storage.names(directory):
        data = storage.read(side)
        torn = LogRecovered(number, len(data), hashlib.sha256(data).hexdigest())
    return Recovered(head, number, torn)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The end of a segment as (its last complete line, what comes after).

    What comes after can be the start of a line, and NUL bytes where a file system had made the file longer before it had the content.
    """
    filled = data.rstrip(b"\0")
    end = filled.rfind(b"\n") + 1
    return data[filled.rfind(b"\n", 0, max(0, end - 1)) + 1 : end], data[end:]


def _head(line: bytes, writer: str, path: Path) -> Head:
    """The head that a segment's last complete line stands for."""
    try:
        record = Decoder().decode(line)
    except Malformed as error:
        raise AuditDamaged(f"{path}: the last line: {error}; see `pgveil audit verify`") from None
    if record.body.writer != writer:
        raise AuditDamaged(f"{path}: the last line was written by {record.body.writer!r}; see `pgveil audit verify`")
    return Head(writer, record.body.seq, record.hash)


def _rewrite(storage: Storage, path: Path, writer: str) -> Head:
    """Put a fresh copy of a segment's complete lines in its place, and its incomplete end, if any, beside it.

    The process that wrote it may have died before an fsync or after a failed one, whatever its last record says: only what is
    written anew is known to be durable (rule 2).
    """
    data = storage.read(path)
    line, rest = _split(data)
    head = _head(line, writer, path)
    if rest:
        _write_file(storage, path.with_suffix(".torn"), rest)
    _write_file(storage, path, data[: len(data) - len(rest)])
    return head


def _write_file(storage: Storage, path: Path, data: bytes) -> None:
    """Put a durable file of that content in place of whatever had the name."""
    part = path.with_suffix(".part")  # `recover` has removed one that a crash had left
    handle = storage.create(part)
    try:
        storage.write(handle, data)
        storage.sync(handle)
    finally:
        storage.close(handle)
    storage.rename(part, path)
    storage.sync_directory(path.parent)


class SegmentWriter:
    """Writes the newest segment. After an OSError nothing but `newest`, `start` and `close` may be called, in that order."""

    def __init__(self, storage: Storage, directory: Path, segment_bytes: int) -> None:
        self._storage = storage
        self._directory = directory
        self._limit = segment_bytes
        self._number = 0
        self._handle: int | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append complete lines and return when they are durable; in the next segment where this one is full."""
        if self._handle is None or self._size + len(data) > self._limit:
            self.start(self._number + 1, data)
            return
        self._storage.write(self._handle, data)
        self._storage.sync(self._handle)
        self._size += len(data)

    def newest(self) -> int:
        """The number of the newest segment there is; it may not be durable itself."""
        return max(segment_numbers(self._storage.names(self._directory)), default=0)

    def start(self, number: int, data: bytes) -> None:
        """Begin a segment with `data` in it, and return when that is durable (rule 1)."""
        if number > MAX_SEGMENTS:
            raise OSError(f"{self._directory} is full: {MAX_SEGMENTS} segments")
        self.close()
        path = self._directory / segment_name(number)
        part = path.with_suffix(".part")
        names = self._storage.names(self._directory)
        if path.name in names:
            raise FileExistsError(f"{path} is there already")
        if part.name in names:
            self._storage.remove(part)
        self._handle = self._storage.create(part)
        self._storage.write(self._handle, data)
        self._storage.sync(self._handle)
        self._storage.rename(part, path)
        self._storage.sync_directory(self._directory)
        self._number = number
        self._size = len(data)

    def close(self) -> None:
        """Close the segment. It makes nothing durable that was not before."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._storage.close(handle)


def heads(directory: Path, storage: Storage) -> dict[str, Head]:
    """The newest complete record of every writer under `directory`, as a checkpoint would sign it. AuditDamaged, OSError."""
    found = {}
    for writer in sorted(storage.names(directory)):
        if not is_writer_name(writer):
            continue
        numbers = segment_numbers(storage.names(directory / writer))
        if numbers:
            path = directory / writer / segment_name(numbers[-1])
            line, _ = _split(storage.read(path))
            found[writer] = _head(line, writer, path)
    return found


def errno_name(error: OSError) -> str:
    """ "ENOSPC" and the like; the class's name where there is no number."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
