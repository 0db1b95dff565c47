"""The least that a proxy in Python can be: two protocols that write what they read to each other. Run as python -m bench.forwarder PORT SERVER_PORT."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One connection of a pair."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stand ready."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        other = self.other
        if other is None or other.transport is None:
            self.early.append(data)
        else:
            other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is gone changes nothing
        """Neither goes on without the other."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Entrance(Side):
    """A client's side: it finds its own server."""

    def __init__(self, server: int) -> None:
        super().__init__()
        self._server = server
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        _, other = await asyncio.get_running_loop().create_connection(Side, "127.0.0.1", self._server)
        other.other, self.other = self, other
        for data in self.early:
            self.data_received(data)


async def _main(port: int, server: int) -> None:
    listening = await asyncio.get_running_loop().create_server(lambda: Entrance(server), "127.0.0.1", port)
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2])))
