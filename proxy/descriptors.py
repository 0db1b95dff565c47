"""File descriptors: as many as the system allows, and one kept back for saying that there are none left.

A client's connection takes two. One that comes when there is none would wait in the kernel's queue without a word, so a spare one is given up for
the moment that it takes to accept it and tell it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING, Final

from proxy.errors import TooManyConnections

if TYPE_CHECKING:
    import socket

    from proxy.errors import PgveilError

OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_PER_CONNECTION, _OWN = 2, 100  # a leg each way; logs, metrics, the catalog's and the calculator's connections


def none_left() -> TooManyConnections:
    """What a client is told."""
    return TooManyConnections(
        "sorry, too many clients already: pgveil has no file descriptors left",
        hint="Raise the limit of open files for pgveil's processes (LimitNOFILE in systemd, ulimit -n), or lower limits.connections.",
    )


def raise_limit() -> int:
    """Raise the process's soft limit of descriptors to the hard one; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft


def enough(limit: int, connections: int) -> bool:
    """Whether a limit does for so many client connections."""
    return limit == resource.RLIM_INFINITY or limit >= connections * _PER_CONNECTION + _OWN


class Spare:
    """One descriptor kept back."""

    def __init__(self) -> None:
        self._held: int | None = None
        self._take()

    def _take(self) -> None:
        if self._held is None:
            with contextlib.suppress(OSError):
                self._held = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give it up."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def turn_away(self, listener: socket.socket) -> bool:
        """Accept the next connection, tell it that there are no descriptors left, and close it; whether there was one."""
        if self._held is None:
            self._take()
            return False
        self.close()
        try:
            sock, _ = listener.accept()
        except OSError:
            return False
        else:
            turn_away(sock, none_left())
            return True
        finally:
            self._take()


def turn_away(sock: socket.socket, error: PgveilError) -> None:
    """Tell a connection that nobody serves why, and close it."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(error.response())
        # Closing with bytes unread would reset the connection, and the client might never see why.
        sock.recv(65536)
