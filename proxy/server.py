"""One worker: its listening sockets, its connections, its end. `proxy.supervisor` runs several of them, tests run one in their own loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from proxy.alerts import speaking
from proxy.balancer import HeaderError, client_behind, speaks_for_others
from proxy.cancels import Bucket
from proxy.connection import FIRST_QUESTION_SECONDS, Connection, Surroundings
from proxy.descriptors import turn_away
from proxy.errors import ProtocolError, TooManyConnections
from proxy.listening import Acceptor, bind
from proxy.logins import Logins
from proxy.metrics import Turned
from proxy.relay import Leg
from proxy.tls import ALPN, client_side, failure_word, refuse_expired, server_side
from proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from proxy.config import Config, Limits
    from proxy.errors import PgveilError
    from proxy.services import Services
    from proxy.tls import ClientSide

_First = TypeVar("_First")

# Connections beyond the limit that are still heard: they may be cancel requests, and a login among them gets a proper error.
_MARGIN: Final = 64
# The first byte of a TLS record that carries a handshake (RFC 8446, 5.1): direct TLS.
_TLS_HANDSHAKE: Final = b"\x16"


class Worker:
    """One process's share of the clients."""

    def __init__(
        self,
        config: Config,
        services: Services,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._services = services
        self._now = now
        self._cancels = Bucket(config.limits.cancels_per_second, monotonic)
        self._log = structlog.get_logger("worker")
        self._under_way = Logins(config.limits)
        self._around = self._surroundings(config)
        self._sockets: tuple[socket.socket, ...] = ()
        self._others: tuple[socket.socket, ...] = ()
        self._acceptors: list[Acceptor] = []
        self._places: dict[int, list[Acceptor]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._draining = False
        self._over = False  # draining is at its end as well
        self._admitted = 0
        self._logins: Counter[str] = Counter()
        self._count = 0

    def _surroundings(self, config: Config) -> Surroundings:
        """What connections get that begin under this configuration. Raises ConfigError."""
        return Surroundings(
            config=config,
            services=self._services,
            upstream=Upstream(config.server, server_side(config.server), self._new_leg, self._services.hosts),
            tls=client_side(config.tls),
            cancels=self._cancels,
            admit=self._admit,
            enter=self._enter,
            release=self._release,
            logins=self._under_way,
            now=self._now,
        )

    @property
    def port(self) -> int:
        """The TCP port listened on; 0 where only Unix sockets are."""
        for sock in (*self._sockets, *self._others):
            if sock.family != socket.AF_UNIX:
                return int(sock.getsockname()[1])
        return 0

    @property
    def connections(self) -> int:
        """Connections at any stage."""
        return len(self._tasks)

    @property
    def limits(self) -> Limits:
        """Those in force."""
        return self._config.limits

    async def start(
        self, sockets: tuple[socket.socket, ...] = (), places: Mapping[int, tuple[socket.socket, ...]] | None = None
    ) -> None:
        """Start the services, then take connections: of the sockets given, else of the configured address.

        `places`: the sockets of other workers' places, which `cover` names. Raises OSError when the address can't be had, and what
        `Services.start` raises.
        """
        await self._services.start()
        try:
            self._sockets = sockets or bind(self._config.listen, self._config.listen.port)
        except BaseException:
            await self._services.stop()
            raise
        self._acceptors = [Acceptor(sock, self._take, self._turned_away) for sock in self._sockets]
        for acceptor in self._acceptors:
            acceptor.start()
        for place, others in (places or {}).items():
            self._others += others
            self._places[place] = [Acceptor(sock, self._take, self._turned_away) for sock in others]
        self._log.info("worker.ready", port=self.port)

    def cover(self, places: Collection[int]) -> None:
        """Take the connections of these places, and of no others but our own. Nothing once the worker drains."""
        if self._draining:
            return
        for place, acceptors in self._places.items():
            for acceptor in acceptors:
                if place in places:
                    acceptor.start()
                else:
                    acceptor.stop()

    def prepare(self, config: Config) -> Callable[[], None]:
        """What puts this configuration in force for connections to come; running ones keep what they began with. Raises ConfigError."""
        around = self._surroundings(config)
        ours, known = around.tls, self._around.tls
        if ours is not None and (known is None or ours.certificate != known.certificate):
            # One that runs and has expired stays, so that other things can be reloaded still.
            refuse_expired(config.tls.certificate, ours.until, self._now())

        def commit() -> None:
            self._config, self._around = config, around
            self._under_way.limits = config.limits

        return commit

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more clients, and let those that there are go: each as soon as nothing of it is under way, the rest after `drain_seconds`.

        All get SQLSTATE 57P01.
        """
        self._draining = True
        for acceptor in (*self._acceptors, *(a for place in self._places.values() for a in place)):
            acceptor.stop()
        for sock in (*self._sockets, *self._others):
            sock.close()
        if self._tasks and drain_seconds > 0:
            self._log.info("worker.draining", connections=len(self._tasks), seconds=drain_seconds)
            await self._drain(drain_seconds)
        self._over = True
        for connection in list(self._connections):
            connection.shutdown()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.limits.close_seconds + 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._services.stop()
        self._log.info("worker.stopped")

    async def _drain(self, seconds: float) -> None:
        """Until all have gone, or for so long."""
        for connection in list(self._connections):
            connection.leave()
        moment = min(seconds, FIRST_QUESTION_SECONDS)
        await asyncio.wait(self._tasks, timeout=moment)
        for silent in self._silent:
            silent.cancel()
        for connection in list(self._connections):
            connection.hurry()
        if self._tasks and seconds > moment:
            await asyncio.wait(self._tasks, timeout=seconds - moment)

    def _take(self, sock: socket.socket, address: object) -> None:
        """A connection that was just accepted."""
        if len(self._tasks) >= self._config.limits.connections + _MARGIN:
            self._services.metrics.connection_refused(Turned.LIMIT)
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one connection --------------------------------------------------------------------------------------------------------------

    async def _serve(self, sock: socket.socket, address: object) -> None:
        unix = sock.family == socket.AF_UNIX
        around = self._around
        direct = silent = False
        try:
            try:
                if not unix and speaks_for_others(address, around.config.listen.proxy_protocol):
                    address = await self._unheard(self._client_behind(sock, address))
                if not unix and around.tls is not None:
                    direct = await self._unheard(self._begins_with_tls(sock))
            except TimeoutError:
                silent = True
            leg = await self._leg(sock, around.tls if direct else None)
        except EOFError:
            sock.close()
            return
        except HeaderError as error:
            self._services.metrics.connection_refused(Turned.PROTOCOL)
            self._log.info("client.no_header", address=_shown(address, unix=unix), why=str(error))
            turn_away(
                sock,
                ProtocolError(str(error), hint="The address is in listen.proxy_protocol of pgveil's configuration."),
            )
            return
        except OSError as error:  # ssl.SSLError is an OSError
            self._services.metrics.connection_refused(Turned.TLS)
            self._log.info("client.tls_failed", reason=failure_word(error))
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
            around, leg, self._count, address=_shown(address, unix=unix), unix=unix, encrypted=direct
        )
        self._connections.add(connection)
        if self._over:
            connection.shutdown()
        elif self._draining:
            connection.leave()
        try:
            await (connection.refuse_silence() if silent else connection.run())
        finally:
            self._connections.discard(connection)

    async def _client_behind(self, sock: socket.socket, balancer: object) -> object:
        async with asyncio.timeout(self._config.limits.authentication_seconds):
            return await client_behind(sock, balancer)

    async def _unheard(self, first: Coroutine[Any, Any, _First]) -> _First:
        """Wait for a connection's first bytes; whoever drains may give up waiting."""
        task = asyncio.current_task()
        assert task is not None
        self._silent.add(task)
        try:
            return await first
        finally:
            self._silent.discard(task)

    async def _begins_with_tls(self, sock: socket.socket) -> bool:
        """Look at the first byte without taking it. Raises TimeoutError when none comes, OSError."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            async with asyncio.timeout(self._config.limits.authentication_seconds):
                await readable.wait()
        finally:
            loop.remove_reader(sock)
        return sock.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE

    async def _leg(self, sock: socket.socket, direct: ClientSide | None) -> Leg:
        """The client's leg. Direct TLS without its ALPN could be a web page's request led here, so it is refused (PostgreSQL 55.2.10)."""
        loop = asyncio.get_running_loop()
        limits = self._config.limits
        leg = self._new_leg()
        leg.word.descriptor = sock.fileno()
        if direct is None:
            with speaking(leg.word):
                await loop.connect_accepted_socket(lambda: leg, sock)
            return leg
        # Both loops give back the transport of a TLS connection, but not both our protocol.
        with speaking(leg.word):
            try:
                await loop.connect_accepted_socket(
                    lambda: leg,
                    sock,
                    ssl=direct.context,
                    ssl_handshake_timeout=limits.authentication_seconds,
                    ssl_shutdown_timeout=limits.close_seconds,
                )
            except OSError:
                await leg.word.heard()
                raise
        if leg.tls is None or leg.tls.selected_alpn_protocol() != ALPN:
            leg.abort()
            raise ssl.SSLError("no ALPN")
        return leg

    def _turned_away(self, count: int) -> None:
        for _ in range(count):
            self._services.metrics.connection_refused(Turned.LIMIT)

    def _new_leg(self) -> Leg:
        return Leg(self._config.limits.write_buffer, self._config.limits.close_seconds, self._config.keepalive)

    def _admit(self) -> PgveilError | None:
        if self._admitted >= self._config.limits.connections:
            return TooManyConnections(
                "sorry, too many clients already: pgveil's limit is reached",
                hint="Close connections, or raise limits.connections or workers in pgveil's configuration.",
            )
        self._admitted += 1
        return None

    def _enter(self, login: str) -> PgveilError | None:
        most = self._config.limits.connections_per_login
        if most and self._logins[login] >= most:
            return TooManyConnections(
                f"too many connections for role {_quoted(login)}: pgveil's limit is reached",
                hint="Close connections, or raise limits.connections_per_login in pgveil's configuration.",
            )
        self._logins[login] += 1
        return None

    def _release(self, login: str | None) -> None:
        self._admitted -= 1
        if login is not None:
            self._logins[login] -= 1
            if not self._logins[login]:
                del self._logins[login]


def _quoted(login: str) -> str:
    return '"' + login.replace('"', '""') + '"'


def _shown(address: object, *, unix: bool) -> str:
    if unix or not isinstance(address, tuple):
        return "unix"
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"
