"""The whole surface of the log towards the file system, so that tests can put a failing or forgetful one in its place."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Storage(Protocol):
    """What the log asks of a file system. Every method may raise OSError; handles are opaque integers."""

    def make_directory(self, path: Path) -> None:
        """Make a directory (0700) and its parents where missing, durably."""

    def lock(self, path: Path) -> int:
        """Take the exclusive lock of a file, made (0600) where missing. BlockingIOError: somebody else holds it."""

    def names(self, directory: Path) -> list[str]:
        """The names in a directory."""

    def read(self, path: Path) -> bytes:
        """A file's content."""

    def create(self, path: Path) -> int:
        """A new file (0600), open for appending. FileExistsError where there is one of that name."""

    def write(self, handle: int, data: bytes) -> None:
        """Append all of `data`. After an error, any part of it may have been written."""

    def sync(self, handle: int) -> None:
        """Return when everything written is durable (fdatasync)."""

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's entries are durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same directory, in place of one that may have it."""

    def remove(self, path: Path) -> None:
        """Take a file out of its directory."""

    def close(self, handle: int) -> None:
        """Close a file, or give up a lock."""


class OsStorage:
    """The operating system's files."""

    def make_directory(self, path: Path) -> None:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(each.parent)
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is not a directory")

    def lock(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def names(self, directory: Path) -> list[str]:
        return [entry.name for entry in directory.iterdir()]

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path) -> int:
        return os.open(path, _FLAGS, 0o600)

    def write(self, handle: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def sync(self, handle: int) -> None:
        # Linux's fdatasync also writes the size; elsewhere it may be missing.
        getattr(os, "fdatasync", os.fsync)(handle)

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def close(self, handle: int) -> None:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of that file now. A reader's question: it holds the lock itself for an instant, shared."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(handle)
