"""Small files that survive a kill at any instruction: written whole or not at all, readable by their owner only.

Order of a replacement: a new file beside the old one, its bytes, fsync, rename over the old one, fsync of the directory. Before the rename a
reader finds the old content, after it the new; the last step makes the rename itself last through a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PRIVATE = 0o600
_LOCK_TRIES = 200
_LOCK_PAUSE = 0.05  # seconds


class LockedError(Exception):
    """Another process holds the lock, and went on holding it."""


def read_regular(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """A regular file's bytes, at most `limit` + 1 of them, and its status. Follows no link at the last step. Raises OSError, NotRegularError."""
    # Without O_NONBLOCK a named pipe in the file's place would hold the process here for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1), status
    finally:
        os.close(descriptor)


class NotRegularError(Exception):
    """Not a regular file."""


def read_bounded(path: Path, limit: int, called: str, error: Callable[[str], Exception]) -> bytes:
    """A regular file's bytes. What is wrong with it is raised as an `error` of a sentence that begins with `called`."""
    try:
        content, _ = read_regular(path, limit)
    except NotRegularError:
        raise error(f"{called} is not a regular file") from None
    except OSError as failure:
        raise error(f"{called} cannot be read: {failure.strerror}") from failure
    if len(content) > limit:
        raise error(f"{called} is longer than {limit} bytes")
    return content


def create(path: Path, content: bytes) -> None:
    """A new private file. Raises FileExistsError, or another OSError and leaves nothing behind."""
    _write_new(path, content)
    sync_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Put `content` in a file's place, or make the file. Raises OSError; then the old content is still there.

    Two writers at once are the caller's to prevent (`locked`).
    """
    fresh = path.with_name(path.name + ".new")
    # A writer that was killed may have left one.
    fresh.unlink(missing_ok=True)
    _write_new(fresh, content)
    try:
        os.rename(fresh, path)  # noqa: PTH104 - one spelling for every step of the write
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, sleep: Callable[[float], None]) -> Iterator[None]:
    """Hold the exclusive lock on a file (flock: the kernel gives it back when its holder dies). Raises LockedError after ten seconds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                sleep(_LOCK_PAUSE)
        else:
            raise LockedError
        yield
    finally:
        os.close(descriptor)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
