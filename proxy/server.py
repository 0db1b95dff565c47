"""One worker: its listening sockets, its connections, its end. `proxy.supervisor` runs several of them, tests run one in their own loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final

import structlog

from proxy.cancels import Bucket
from proxy.connection import Connection, Surroundings
from proxy.metrics import Turned
from proxy.relay import Leg
from proxy.tls import ALPN, client_side, server_side
from proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.services import Services

# Connections beyond the limit that are still heard: they may be cancel requests, and a login among them gets a proper error.
_MARGIN: Final = 64
# The first byte of a TLS record that carries a handshake (RFC 8446, 5.1): direct TLS.
_TLS_HANDSHAKE: Final = b"\x16"
# Running out of file descriptors ends when connections do; trying at once again would only burn a processor.
_ACCEPT_PAUSE: Final = 0.2
_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# ECONNABORTED and what accept(2) says Linux passes on from the network: they concern one connection.
_SHRUGGED_OFF: Final = frozenset(
    (errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH)
)


class Worker:
    """One process's share of the clients."""

    def __init__(
        self,
        config: Config,
        services: Services,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], float],
        shared_port: bool = False,
    ) -> None:
        self._config = config
        self._services = services
        self._shared_port = shared_port
        self._tls = client_side(config.tls)
        self._log = structlog.get_logger("worker")
        self._around = Surroundings(
            config=config,
            services=services,
            upstream=Upstream(config.server, server_side(config.server), self._new_leg, services.hosts),
            tls=self._tls,
            cancels=Bucket(config.limits.cancels_per_second, monotonic),
            admit=self._admit,
            release=self._release,
            now=now,
        )
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._admitted = 0
        self._count = 0

    @property
    def port(self) -> int:
        """The TCP port listened on."""
        for sock in self._sockets:
            if sock.family != socket.AF_UNIX:
                return int(sock.getsockname()[1])
        raise RuntimeError("not listening")

    @property
    def connections(self) -> int:
        """Connections at any stage."""
        return len(self._tasks)

    async def start(self, inherited: tuple[socket.socket, ...] = ()) -> None:
        """Start the services, then listen: on the configured address, and on sockets that somebody else has bound.

        Raises OSError when the address can't be had, and what `Services.start` raises.
        """
        await self._services.start()
        try:
            self._sockets = await self._bind()
        except BaseException:
            await self._services.stop()
            raise
        self._sockets += inherited
        for sock in self._sockets:
            sock.setblocking(False)
            self._acceptors.append(asyncio.create_task(self._accept(sock)))
        self._log.info("worker.ready", port=self.port)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more clients, wait for those there are, then send the rest away with SQLSTATE 57P01."""
        for acceptor in self._acceptors:
            acceptor.cancel()
        await asyncio.gather(*self._acceptors, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        if self._tasks and drain_seconds > 0:
            self._log.info("worker.draining", connections=len(self._tasks), seconds=drain_seconds)
            await asyncio.wait(self._tasks, timeout=drain_seconds)
        for connection in self._connections:
            connection.shutdown()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.limits.close_seconds + 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._services.stop()
        self._log.info("worker.stopped")

    # -- listening -------------------------------------------------------------------------------------------------------------------

    async def _bind(self) -> list[socket.socket]:
        """A listening socket for every address that the configured name has."""
        listen = self._config.listen
        found = await asyncio.get_running_loop().getaddrinfo(
            listen.address, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                sockets.append(self._listen(family, address))
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def _listen(self, family: int, address: tuple[object, ...]) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._shared_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(self._config.listen.backlog)
        except OSError:
            sock.close()
            raise
        return sock

    async def _accept(self, listener: socket.socket) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._log.error("accept.failed", errno=error.errno)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                elif error.errno not in _SHRUGGED_OFF:
                    self._log.error("accept.ended", errno=error.errno)
                    raise
                continue
            if len(self._tasks) >= self._config.limits.connections + _MARGIN:
                self._services.metrics.connection_refused(Turned.LIMIT)
                sock.close()
                continue
            task = asyncio.create_task(self._serve(sock, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- one connection --------------------------------------------------------------------------------------------------------------

    async def _serve(self, sock: socket.socket, address: object) -> None:
        unix = sock.family == socket.AF_UNIX
        try:
            direct = not unix and self._tls is not None and await self._begins_with_tls(sock)
            leg = await self._leg(sock, direct=direct)
        except OSError:  # ssl.SSLError is an OSError
            self._services.metrics.connection_refused(Turned.TLS)
            sock.close()
            return
        except Exception:  # noqa: BLE001 - the others go on
            self._log.exception("connection.failed")
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        self._count += 1
        connection = Connection(
            self._around, leg, self._count, address=_shown(address, unix=unix), unix=unix, encrypted=direct
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _begins_with_tls(self, sock: socket.socket) -> bool:
        """Look at the first byte without taking it. Raises OSError when none comes."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            async with asyncio.timeout(self._config.limits.authentication_seconds):
                await readable.wait()
        finally:
            loop.remove_reader(sock)
        return sock.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE

    async def _leg(self, sock: socket.socket, *, direct: bool) -> Leg:
        """The client's leg. Direct TLS without its ALPN could be a web page's request led here, so it is refused (PostgreSQL 55.2.10)."""
        loop = asyncio.get_running_loop()
        limits = self._config.limits
        leg = self._new_leg()
        if not direct or self._tls is None:
            await loop.connect_accepted_socket(lambda: leg, sock)
            return leg
        # Both loops give back the transport of a TLS connection, but not both our protocol.
        await loop.connect_accepted_socket(
            lambda: leg,
            sock,
            ssl=self._tls.context,
            ssl_handshake_timeout=limits.authentication_seconds,
            ssl_shutdown_timeout=limits.close_seconds,
        )
        if leg.tls is None or leg.tls.selected_alpn_protocol() != ALPN:
            leg.abort()
            raise ssl.SSLError("no ALPN")
        return leg

    def _new_leg(self) -> Leg:
        return Leg(self._config.limits.write_buffer, self._config.limits.close_seconds)

    def _admit(self) -> bool:
        if self._admitted >= self._config.limits.connections:
            return False
        self._admitted += 1
        return True

    def _release(self) -> None:
        self._admitted -= 1


def _shown(address: object, *, unix: bool) -> str:
    if unix or not isinstance(address, tuple):
        return "unix"
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"
