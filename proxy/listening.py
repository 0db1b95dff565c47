"""Listening sockets: made once, by whoever outlives the workers, and taken from without losing a connection.

A connection that the kernel has accepted waits in its socket's queue, and is gone when the last holder closes the socket. So the supervisor makes
the sockets and never closes them while it serves: one for each worker's place (SO_REUSEPORT, so that the kernel spreads clients over them), the
Unix socket and those that systemd has passed for all workers together. A worker that ends leaves its queue to its successor (docs/adr/0022).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from proxy.config import Address
from proxy.descriptors import OUT_OF_RESOURCES, Spare
from proxy.errors import ConfigError
from proxy.repeated import Repeated
from proxy.troubles import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from proxy.config import Listen

# Taken in one go before anybody else of the loop has a turn.
_AT_ONCE: Final = 16
# Running out of file descriptors ends when connections do; trying at once again would only burn a processor.
_ACCEPT_PAUSE: Final = 0.2
# ECONNABORTED and what accept(2) says Linux passes on from the network: they concern one connection.
_SHRUGGED_OFF: Final = frozenset(
    (errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH)
)
# sd_listen_fds(3): where the descriptors begin, and more than anybody passes.
_FIRST_DESCRIPTOR: Final = 3
_MAX_DESCRIPTORS: Final = 64


@dataclass(frozen=True, slots=True)
class Listening:
    """The sockets of one pgveil. `places`: those of each worker; `shared`: those that every worker takes from.

    `unix_path`: of a Unix socket that is ours to remove.
    """

    places: tuple[tuple[socket.socket, ...], ...]
    shared: tuple[socket.socket, ...]
    unix_path: Path | None = None

    @property
    def port(self) -> int:
        """The TCP port; 0 where there is none."""
        for sock in (*(s for place in self.places for s in place), *self.shared):
            if sock.family != socket.AF_UNIX:
                return int(sock.getsockname()[1])
        return 0

    def close(self) -> None:
        """Take no more connections, as far as this process is concerned."""
        for sock in (*(s for place in self.places for s in place), *self.shared):
            sock.close()
        if self.unix_path is not None:
            self.unix_path.unlink(missing_ok=True)


def make(listen: Listen, places: int, passed: tuple[socket.socket, ...] = ()) -> Listening:
    """Everything that is listened on, listening. `passed` by systemd, it is all there is. Raises OSError, ConfigError."""
    if passed:
        return Listening(((),) * places, passed)
    with contextlib.ExitStack() as undo:
        made: list[tuple[socket.socket, ...]] = []
        port = listen.port
        for _ in range(places):
            sockets = bind(listen, port, shared_port=True)
            for sock in sockets:
                undo.callback(sock.close)
            made.append(sockets)
            port = int(sockets[0].getsockname()[1])
        if listen.unix_directory is None:
            undo.pop_all()
            return Listening(tuple(made), ())
        path = Path(Address(str(listen.unix_directory), port).unix_path or "")
        unix = listen_unix(path, listen.backlog)
        undo.pop_all()
        return Listening(tuple(made), (unix,), path)


def bind(listen: Listen, port: int, *, shared_port: bool = False) -> tuple[socket.socket, ...]:
    """A listening socket for every address that the configured name has, all on one port. Raises OSError."""
    found = socket.getaddrinfo(listen.address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, _, _, _, address in dict.fromkeys(found):
            place = (address[0], port, *address[2:])
            sock = _listen(family, place, listen.backlog, shared_port=shared_port)
            undo.callback(sock.close)
            sockets.append(sock)
            port = int(sock.getsockname()[1])
        undo.pop_all()
    return tuple(sockets)


def _listen(family: int, address: tuple[object, ...], backlog: int, *, shared_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def listen_unix(path: Path, backlog: int, *, mode: int = 0o777) -> socket.socket:
    """A listening Unix socket at `path`, in place of one that a killed run has left. Raises OSError, ConfigError.

    Mode 0777 is PostgreSQL's own: the directory says who may connect. Nobody can before `listen`, so not before the mode is set either.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(
                f"{path}: exists and is no socket: remove it, or set listen.unix_directory to another directory"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise ConfigError(
                    f"{path}: another server listens there: stop it, or set listen.port to another number"
                )
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def passed_by_systemd(environ: MutableMapping[str, str], pid: int) -> tuple[socket.socket, ...]:
    """The sockets that a service manager has opened for this process (sd_listen_fds(3)); the variables are taken away. Raises ConfigError."""
    owner, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if owner != str(pid) or not count.isascii() or not count.isdigit() or not 0 < int(count) <= _MAX_DESCRIPTORS:
        return ()
    sockets = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        try:
            sock = socket.socket(fileno=descriptor)
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens:
            raise ConfigError(
                f"descriptor {descriptor}, which systemd has passed, is no listening stream socket: "
                "let the socket unit have ListenStream= only, and Accept=no"
            )
        sockets.append(sock)
    return tuple(sockets)


class Acceptor:
    """Takes connections of one listening socket, in the event loop, by callback.

    A task that waits for `accept` loses the connection that it has just been given when it is cancelled; a callback can't be caught in between.
    """

    def __init__(
        self,
        listener: socket.socket,
        take: Callable[[socket.socket, object], None],
        turned_away: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._listener = listener
        self._spare = Spare()
        self._turned_away = turned_away
        self._take = take
        self._log = structlog.get_logger("worker")
        self._loop = asyncio.get_running_loop()
        self._failures = Repeated(self._log, "accept.failed", "accept.again", self._loop.time, level="error")
        self._pause: asyncio.TimerHandle | None = None
        self._active = False

    def start(self) -> None:
        """Take connections from now on."""
        if not self._active:
            self._active = True
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Take no more; what was taken has been given to `take`."""
        if not self._active:
            return
        self._active = False
        self._spare.close()
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    told = 0
                    while told < _AT_ONCE and self._spare.turn_away(self._listener):
                        told += 1
                    self._failures.failed("", reason_of(error), count=told)
                    self._turned_away(told)
                    self._loop.remove_reader(self._listener)
                    self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._again)
                    return
                if error.errno not in _SHRUGGED_OFF:
                    self._log.error("accept.ended", errno=error.errno)
                    self.stop()
                    return
                continue
            self._failures.ended("")
            sock.setblocking(False)
            self._take(sock, address)

    def _again(self) -> None:
        self._pause = None
        if self._active:
            self._loop.add_reader(self._listener, self._accept)
