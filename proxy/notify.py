"""What the service manager is told (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names.

Without that variable nobody is told anything. Written by hand, as systemd's own manual shows for programs that don't want its library: see ADR 0022.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping


# A manager that is busy may let a message wait; what is said once must arrive, and the workers go on meanwhile.
_PATIENCE: Final = 2.0


class Manager(Protocol):
    """The service manager. No call raises."""

    def ready(self, status: str = "") -> None:
        """pgveil serves, for the first time or again after a reload."""

    def reloading(self) -> None:
        """A reload begins."""

    def stopping(self) -> None:
        """The end begins."""

    async def watch(self) -> None:
        """Say that we are alive as often as is asked for, for ever."""


class SilentManager:
    """A Manager that is not there."""

    def ready(self, status: str = "") -> None:
        """Nothing."""

    def reloading(self) -> None:
        """Nothing."""

    def stopping(self) -> None:
        """Nothing."""

    async def watch(self) -> None:
        """Nothing."""


class Systemd:
    """systemd, or what speaks like it. `nanoseconds`: CLOCK_MONOTONIC."""

    def __init__(self, address: str, watchdog: float | None, nanoseconds: Callable[[], int]) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._nanoseconds = nanoseconds
        self._log = structlog.get_logger("supervisor")

    def ready(self, status: str = "") -> None:
        """See Manager."""
        self._tell("READY=1", *((f"STATUS={status}",) if status else ()))

    def reloading(self) -> None:
        """See Manager. The time lets systemd tell this reload's READY=1 from an earlier one."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={self._nanoseconds() // 1000}")

    def stopping(self) -> None:
        """See Manager."""
        self._tell("STOPPING=1", "STATUS=draining")

    async def watch(self) -> None:
        """See Manager."""
        while self._watchdog is not None:
            self._tell("WATCHDOG=1", patience=0.0)
            await asyncio.sleep(self._watchdog / 2)

    def _tell(self, *lines: str, patience: float = _PATIENCE) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(patience)
                sock.connect(self._address)
                sock.send("\n".join(lines).encode())
        except OSError as error:  # a time-out among them
            self._log.warning("notify.failed", errno=error.errno)


def manager_of(environ: MutableMapping[str, str], pid: int, nanoseconds: Callable[[], int]) -> Manager:
    """Whoever the environment names. The variables are taken away, so that no child speaks in our name."""
    address = environ.pop("NOTIFY_SOCKET", "")
    microseconds, owner = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
    if not address.startswith(("/", "@")):
        return SilentManager()
    watched = owner == str(pid) and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
    return Systemd(address, int(microseconds) / 1e6 if watched else None, nanoseconds)
