"""The look-ups of each login, counted for all workers of one pgveil together: small files in a directory that the workers share.

A file holds the start of a minute and what has been spent in it. It is changed under a lock (flock), in microseconds. Where that fails nobody
looks up anything.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FORM: Final = struct.Struct("!dQ")  # seconds of the monotonic clock at which the window began, look-ups spent in it
WINDOW_SECONDS: Final = 60.0


class LocalLookupMeter:
    """The same for one process alone."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._windows: dict[str, tuple[float, int]] = {}

    def spend(self, login: str, count: int, per_minute: int) -> bool:
        """See LookupMeter."""
        window = _spent(self._windows.get(login), self._monotonic(), count, per_minute)
        if window is None:
            return False
        self._windows[login] = window
        return True


class SharedLookupMeter:
    """Implements `proxy.session.metering.LookupMeter`. `monotonic` must be one clock for all processes of the machine."""

    def __init__(self, directory: Path, monotonic: Callable[[], float]) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._monotonic = monotonic

    def spend(self, login: str, count: int, per_minute: int) -> bool:
        """See LookupMeter."""
        try:
            file = os.open(self._path(login), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            raw = os.pread(file, _FORM.size, 0)
            before = _FORM.unpack(raw) if len(raw) == _FORM.size else None
            window = _spent(before, self._monotonic(), count, per_minute)
            if window is None:
                return False
            os.pwrite(file, _FORM.pack(*window), 0)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(file)

    def _path(self, login: str) -> Path:
        # A login can be any bytes; its digest is a file's name.
        return self._directory / hashlib.sha256(login.encode()).hexdigest()[:32]


def _spent(window: tuple[float, int] | None, now: float, count: int, per_minute: int) -> tuple[float, int] | None:
    """The window after `count` more; None where that is too many. One begins with the first look-up after the last one ended."""
    began, spent = (now, 0) if window is None or not 0 <= now - window[0] < WINDOW_SECONDS else window
    return None if spent + count > per_minute else (began, spent + count)
