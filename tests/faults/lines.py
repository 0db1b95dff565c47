"""A client's connection, plain or with TLS, that loses nothing of what came before a reset."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from struct import pack

from proxy.wire import messages as m

_MOST = 65536


def trusting() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Line:
    """asyncio's streams give nothing but the error after a reset, so this reads the socket itself and keeps TLS in memory."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._loop = asyncio.get_running_loop()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def to(cls, port: int) -> Line:
        """Connect."""
        own = socket.socket()
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
        return cls(own)

    async def secure(self) -> None:
        """Ask for TLS, and go on inside it once pgveil does: a reset before that is one within the handshake, whatever was sent."""
        await self.send(m.SSL_REQUEST_PACKET)
        assert await self.read(1) == b"S"
        tls = trusting().wrap_bio(self._in, self._out, server_side=False)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                assert await self._more(), "the peer has gone within the handshake"
            else:
                break
        await self._flush()
        if tls.version() == "TLSv1.3":
            assert await self._more(), "no ticket came, which ends a server's handshake"
        self._tls = tls

    async def send(self, data: bytes) -> None:
        """A peer that has gone is met when its last words are read."""
        if self._tls is None:
            await self._put(data)
        else:
            self._tls.write(data)
            await self._flush()

    async def send_torn(self, data: bytes) -> None:
        """Half of the TLS record that it makes."""
        assert self._tls is not None
        self._tls.write(data)
        record = self._out.read()
        await self._put(record[: len(record) // 2])

    async def read(self, size: int | None = None) -> bytes:
        """This many bytes, or all until the end; fewer where it ends before."""
        got = b""
        while size is None or len(got) < size:
            part = await self._part(_MOST if size is None else size - len(got))
            if not part:
                break
            got += part
        return got

    def abort(self) -> None:
        """Reset it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        self._socket.close()

    async def _part(self, most: int) -> bytes:
        """Some bytes; none at the end, however it comes."""
        if self._tls is None:
            return await self._take(most)
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                if not await self._more():
                    return b""
            except ssl.SSLError:
                return b""

    async def _more(self) -> bool:
        data = await self._take(_MOST)
        self._in.write(data)
        return bool(data)

    async def _flush(self) -> None:
        await self._put(self._out.read())

    async def _put(self, data: bytes) -> None:
        with suppress(OSError):
            await self._loop.sock_sendall(self._socket, data)

    async def _take(self, most: int) -> bytes:
        try:
            return await self._loop.sock_recv(self._socket, most)
        except OSError:
            return b""
