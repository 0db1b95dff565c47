"""The alert that TLS sends when a handshake fails (RFC 8446, 6.2): asyncio and uvloop close the connection and throw it away.

Both make the TLS object by the context's `wrap_bio`. Ours remembers where its bytes go, and says the last of them itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARING_SECONDS: Final = 1.0  # for the peer to have read the alert: to close over unread bytes would take it back
_AT_ONCE: Final = 4096


class LastWord:
    """What is said to the peer of a connection if its handshake fails. `descriptor`: of its socket, known before the handshake begins."""

    def __init__(self) -> None:
        self.descriptor = -1
        self._socket: socket.socket | None = None

    def say(self, alert: bytes) -> None:
        """Send it, past the event loop, which is about to close its own descriptor."""
        with suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(self.descriptor))
            self._socket.setblocking(False)
            self._socket.send(alert)
            self._socket.shutdown(socket.SHUT_WR)

    async def heard(self) -> None:
        """Wait until the peer has closed, for a moment at most."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):
                async with asyncio.timeout(HEARING_SECONDS):
                    while await loop.sock_recv(sock, _AT_ONCE):
                        pass
        finally:
            sock.close()


_SPEAKING: Final[ContextVar[LastWord | None]] = ContextVar("alert", default=None)


@contextmanager
def speaking(word: LastWord) -> Iterator[None]:
    """Connections and handshakes that begin within say it. uvloop begins a handshake in the context in which the connection was made."""
    token = _SPEAKING.set(word)
    try:
        yield
    finally:
        _SPEAKING.reset(token)


class _Object(ssl.SSLObject):
    outgoing: ssl.MemoryBIO
    word: LastWord | None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            alert = self.outgoing.read()
            if alert and self.word is not None:
                self.word.say(alert)
            raise


class AlertingContext(ssl.SSLContext):
    """A context whose failed handshakes tell the peer why."""

    sslobject_class = _Object

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *more: Any, **named: Any) -> ssl.SSLObject:
        """See SSLContext."""
        made = super().wrap_bio(incoming, outgoing, *more, **named)
        assert isinstance(made, _Object)
        made.outgoing = outgoing
        made.word = _SPEAKING.get()
        return made
