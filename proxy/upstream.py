"""Ways to the PostgreSQL server: hosts in order, each with the attempts that sslmode allows (libpq, 32.19.3); and cancel requests."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.alerts import speaking
from proxy.descriptors import OUT_OF_RESOURCES, none_left
from proxy.errors import HostUnreachable, ProtocolError, ServerUnreachable
from proxy.hosts import NoSuchHost
from proxy.relay import Leg, LegClosed
from proxy.tls import Encryption, distrust, ladder
from proxy.wire.messages import SSL_REQUEST_PACKET

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterator

    from proxy.config import Address, Server
    from proxy.hosts import Hosts
    from proxy.wire.messages import CancelRequest

# The server closes a cancel request's connection when it has sent the signal, which is a matter of milliseconds.
_CANCEL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Route:
    """One attempt. `last_of_host`: the next route goes to another host."""

    address: Address
    encryption: Encryption
    last_of_host: bool


class Upstream:
    """Makes connections to the server. One a worker."""

    def __init__(
        self, settings: Server, context: ssl.SSLContext, new_leg: Callable[[], Leg], hosts: Hosts | None = None
    ) -> None:
        self._hosts = hosts
        self._settings = settings
        self._context = context
        self._new_leg = new_leg

    async def routes(self) -> AsyncIterator[Route]:
        """Every attempt, in order. Where none of the hosts that were thought right would do, they are asked once more. Raises NoSuchHost."""
        tried: set[Address] = set()
        addresses = self._settings.hosts if self._hosts is None else await self._hosts.order()
        while addresses:
            for address in addresses:
                for route in self._routes_to(address):
                    yield route
            tried.update(addresses)
            if self._hosts is None:
                return
            try:
                addresses = tuple(a for a in await self._hosts.order(again=True) if a not in tried)
            except NoSuchHost:
                return

    def _routes_to(self, address: Address) -> Iterator[Route]:
        attempts = ladder(self._settings.sslmode, unix=address.unix_path is not None)
        for number, encryption in enumerate(attempts, 1):
            yield Route(address, encryption, number == len(attempts))

    async def open(self, route: Route) -> Leg:
        """A connection that is ready for the startup packet.

        Raises HostUnreachable, or ServerUnreachable where another route to the same host may help (their texts name no address), and
        TooManyConnections where there is no file descriptor left.
        """
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                leg = await self._connect(route.address)
                try:
                    if route.encryption is not Encryption.PLAIN:
                        await self._encrypt(leg, route)
                except BaseException:
                    leg.abort()
                    raise
                return leg
        except TimeoutError:
            raise HostUnreachable("the PostgreSQL server did not answer in time") from None
        except LegClosed:
            raise ServerUnreachable("the PostgreSQL server closed the connection at once") from None
        except OSError as error:
            why = distrust(error)
            if why is None:
                raise ServerUnreachable("TLS with the PostgreSQL server failed") from error
            raise ServerUnreachable(f"the PostgreSQL server's certificate {why.told}", hint=why.hint) from error

    async def _connect(self, address: Address) -> Leg:
        loop = asyncio.get_running_loop()
        path = address.unix_path
        leg = self._new_leg()
        try:
            with speaking(leg.word):
                if path is not None:
                    await loop.create_unix_connection(lambda: leg, path)
                else:
                    await loop.create_connection(lambda: leg, address.host, address.port)
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise none_left() from error
            raise HostUnreachable("the PostgreSQL server could not be reached") from error
        return leg

    async def _encrypt(self, leg: Leg, route: Route) -> None:
        """SSLRequest, its one-byte answer, TLS."""
        leg.write([SSL_REQUEST_PACKET])
        answer = await leg.read()
        if answer[:1] == b"N" and route.encryption is Encryption.OFFERED and len(answer) == 1:
            return
        if answer[:1] in (b"N", b"E"):
            raise ServerUnreachable("the PostgreSQL server does not support TLS, but sslmode asks for it")
        if answer != b"S" or leg.pending:
            # More than one byte was put there by somebody who wants it taken for what the server says inside TLS (CVE-2021-23222).
            raise ProtocolError("the PostgreSQL server answered a request for TLS with something else")
        await leg.start_tls(
            self._context, server_side=False, hostname=route.address.host, seconds=self._settings.connect_seconds
        )

    async def cancel(self, request: CancelRequest) -> None:
        """Pass a cancel request on. Raises nothing: nobody is told what became of one.

        To every host, because the key does not say which of them knows it and the others ignore it.
        """
        async with asyncio.TaskGroup() as group:
            for address in self._settings.hosts:
                group.create_task(self._cancel_at(address, request))

    async def _cancel_at(self, address: Address, request: CancelRequest) -> None:
        for route in self._routes_to(address):
            with contextlib.suppress(ServerUnreachable, ProtocolError, TimeoutError, LegClosed):
                try:
                    leg = await self.open(route)
                except HostUnreachable:
                    return
                try:
                    async with asyncio.timeout(_CANCEL_SECONDS):
                        leg.write([request.build()])
                        await leg.read()
                finally:
                    leg.close()
                    await leg.wait_closed()
                return
