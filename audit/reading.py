"""Lines of segment files as readers see them: with their place, one at a time, none longer than a record may be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from audit.record import MAX_LINE_BYTES
from audit.segments import is_writer_name, segment_name, segment_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_CHUNK_BYTES = 1 << 16


class Line(NamedTuple):
    """A line and where it stands. `text` has its newline, unless it is the file's incomplete end or too long (then: its start)."""

    number: int
    """From 1."""
    offset: int
    """Byte offset of its first byte in the file."""
    text: bytes
    size: int
    """Bytes of the whole line, newline included."""

    @property
    def complete(self) -> bool:
        """Whether it ends with its newline and is all here."""
        return self.text.endswith(b"\n") and len(self.text) == self.size


def writers(directory: Path) -> list[str]:
    """The writers under `directory`, sorted. OSError where it cannot be read."""
    return sorted(p.name for p in directory.iterdir() if is_writer_name(p.name) and p.is_dir())


def segments(home: Path) -> list[tuple[int, Path]]:
    """A writer's segments in order."""
    return [(n, home / segment_name(n)) for n in segment_numbers([p.name for p in home.iterdir()])]


def lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The lines of a file from byte `start` on, as it is now; what is added later is not waited for.

    With a `start`, line numbers count from there.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        number, offset = 0, file.seek(start)
        while offset < end and (text := file.readline(MAX_LINE_BYTES + 1)):
            number += 1
            size = len(text)
            more = text
            while not more.endswith(b"\n") and (more := file.readline(MAX_LINE_BYTES)):
                size += len(more)
            yield Line(number, offset, text, size)
            offset += size


def lines_backward(path: Path) -> Iterator[Line]:
    """The complete lines of a file, the last one first; numbers are 0. Ends early at a line longer than a record may be."""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        rest = b""
        first = True
        while start > 0 and len(rest) <= MAX_LINE_BYTES:
            size = min(_CHUNK_BYTES, start)
            start -= size
            file.seek(start)
            data = file.read(size) + rest
            if first:
                # What follows the last newline is not a line yet.
                data = data[: data.rfind(b"\n") + 1]
                first = not data
            cut = data.find(b"\n") + 1 if start > 0 else 0
            rest, whole = data[:cut], data[cut:]
            end = start + len(data)
            for body in reversed(whole.split(b"\n")[:-1]):
                end -= len(body) + 1
                yield Line(0, end, body + b"\n", len(body) + 1)
