"""A forwarder between two ends that a test can make stop: in the middle of a message, in either direction, without closing anything."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

UP, DOWN = "up", "down"


class Dam:
    """Forwards TCP connections to `target`; with `path`, those to a Unix socket, which is reached from other networks too. `hold(direction, after)` lets so many more bytes pass that way, on all connections together.

    `held` is set as soon as something waits; `release` lets everything flow.
    """

    def __init__(self, target: int, path: Path | None = None) -> None:
        self._target = target
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = int(self._listener.getsockname()[1])
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        self._state = threading.Condition()
        self._left: dict[str, int | None] = {UP: None, DOWN: None}
        self.held = threading.Event()
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._listener.close()
        for leg in self._pairs:
            _end(leg)

    def hold(self, direction: str, after: int) -> None:
        """Stop that way after so many bytes."""
        with self._state:
            self.held.clear()
            self._left[direction] = after

    def release(self) -> None:
        """Let everything flow."""
        with self._state:
            self._left = {UP: None, DOWN: None}
            self._state.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs += [client, server]
            for leg in (client, server) if client.family == socket.AF_INET else (server,):
                leg.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._forward, args=(client, server, UP), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, DOWN), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(65536):
                while data:
                    count = self._allowed(direction, len(data))
                    target.sendall(data[:count])
                    data = data[count:]
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for leg in (source, target):
                _end(leg)

    def _allowed(self, direction: str, wanted: int) -> int:
        """How many bytes may pass now; waits while there are none."""
        with self._state:
            while (left := self._left[direction]) == 0:
                self.held.set()
                self._state.wait()
            if left is None:
                return wanted
            count = min(left, wanted)
            self._left[direction] = left - count
            return count


def _end(leg: socket.socket) -> None:
    """Close a connection. As long as a thread reads from it, `close` alone leaves it open: the server kept such a session for ever."""
    with suppress(OSError):
        leg.shutdown(socket.SHUT_RDWR)
    leg.close()
