"""A worker whose disk and clock can be made to fail, by files beside the configuration.

`eio`: the audit log's next fsyncs fail. `broken1`: the worker of that number can't begin. `clock`: seconds by which the wall clock is off. `refuse-w00`: that worker refuses to reload.
"""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from audit.log import AuditLog
from audit.storage import OsStorage
from proxy.errors import ConfigError
from proxy.guard import Guard

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config import Config
    from proxy.services import Prepared

FACTORY = "tests.faults.faulty:services"


class FailingStorage(OsStorage):
    """The operating system's files, whose fsync fails while a file says so."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def sync(self, handle: int) -> None:
        """See Storage."""
        if self._flag.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(handle)


class FaultyGuard(Guard):
    """A worker's services on such a disk, by such a clock."""

    def _clock(self) -> datetime:
        try:
            off = float((self._config.audit.parent / "clock").read_text() or 0)
        except OSError:
            off = 0.0
        return datetime.now(UTC) + timedelta(seconds=off)

    async def prepare(self, config: Config) -> Prepared:
        """See Services."""
        if (self._config.audit.parent / f"refuse-{self._writer}").exists():
            raise ConfigError("told to refuse")
        return await super().prepare(config)

    async def _open_audit(self) -> AuditLog:
        self._config.audit.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await AuditLog.open(
            self._config.audit,
            writer=self._writer,
            clock=self._clock,
            storage=FailingStorage(self._config.audit.parent / "eio"),
            observe_fsync=self._synced,
        )


def services(config: Config, number: int) -> FaultyGuard:
    """The factory."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - after the supervisor has set its directory

    from proxy.metrics import Metrics  # noqa: PLC0415

    if (config.audit.parent / f"broken{number}").exists():
        raise ConfigError("this worker can't begin")
    return FaultyGuard(config, number, Metrics(CollectorRegistry()))
