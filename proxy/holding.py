"""One pgveil for an audit directory: held by the supervisor while it runs, so that a second one ends at once and says why."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = "supervisor.lock"


def hold_audit(directory: Path) -> int:
    """A descriptor that holds the directory until it is closed, or its process ends. Raises ConfigError, OSError.

    Two configurations with one directory would share the workers' files, the control socket beside them, and each other's reloads.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"audit: another pgveil writes to {directory}: stop it, or give this configuration a directory of its own"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
