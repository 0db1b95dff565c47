"""The two ends of a connection, and the relay that moves a session's bytes between them.

A `Leg` is one TCP or Unix connection. Before the session exists its bytes are read with `read()`, as a dialogue; from `attach` on they go to
the relay, by callback and without a task. Both protocols of a connection obey one rule: whoever can't be written to is the reason why
somebody else is not read, so no buffer grows beyond the transport's high-water mark and one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import TYPE_CHECKING, Final, Protocol, cast

import structlog

from proxy import limits
from proxy.alerts import LastWord, speaking
from proxy.config import Keepalive
from proxy.errors import PgveilError, ProtocolError
from proxy.wire.messages import TERMINATE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.session.link import SessionLike

# What a peer may send before the session exists: a startup packet and a few authentication messages.
_DIALOGUE_BUFFER: Final = limits.STARTUP_PACKET + 2 * limits.AUTH_MESSAGE
_BY_DEFAULT: Final = Keepalive()


class LegClosed(Exception):  # noqa: N818
    """The peer has gone."""


class LegSink(Protocol):
    """Who takes a leg's events once the session exists."""

    def received(self, leg: Leg, data: bytes) -> None:
        """Bytes came."""

    def ended(self, leg: Leg) -> None:
        """The peer will send nothing more, or the connection is lost."""

    def fullness_changed(self, leg: Leg) -> None:
        """The transport's buffer rose above the high-water mark or fell below the low one."""


class Leg(asyncio.Protocol):
    """One side's connection. `full`: its buffer is above the high-water mark. `is_read`: its peer's bytes are taken.
    `most_unsent` is the largest number of bytes that ever waited in its transport's buffer."""

    def __init__(
        self,
        write_buffer: int = 256 * limits.KIB,
        close_seconds: float = 10.0,
        keepalive: Keepalive = _BY_DEFAULT,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._write_buffer = write_buffer
        self._close_seconds = close_seconds
        self._keepalive = keepalive
        self._transport: asyncio.Transport | None = None
        self._beneath: asyncio.Transport | None = None  # what TLS runs on, where we began it
        self._sink: LegSink | None = None
        self._kept = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self.word = LastWord()
        self.is_read = True
        self._eof = False
        self._abort: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()
        self.full = False
        self.most_unsent = 0

    @property
    def transport(self) -> asyncio.Transport:
        """The transport in use: the plain one, then TLS's."""
        assert self._transport is not None
        return self._transport

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS connection, where there is one."""
        found: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return found

    @property
    def is_closed(self) -> bool:
        """Whether the connection is no more."""
        return self._closed.done()

    @property
    def pending(self) -> int:
        """Bytes that came and that nobody has taken."""
        return len(self._kept)

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        stream = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._adopt(stream)
        _tune(stream, self._keepalive)

    def data_received(self, data: bytes) -> None:
        """Bytes came: for the relay, or kept for `read`."""
        if self._sink is not None:
            self._sink.received(self, data)
        else:
            self.keep(data)

    def keep(self, data: bytes) -> None:
        """Let bytes wait for `read` or the next `attach`. Nobody reads what comes while the connection closes."""
        if self._abort is not None:
            return
        self._kept += data
        if len(self._kept) > _DIALOGUE_BUFFER:
            self.set_reading(on=False)
        self._wake()

    def eof_received(self) -> bool:
        """The peer ends its direction, which in PostgreSQL's protocol ends the connection; the transport closes after flushing."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is gone changes nothing
        """The connection is gone, by whichever side."""
        if self._abort is not None:
            self._abort.cancel()
        if not self._closed.done():
            self._closed.set_result(None)
        self._ended()

    def pause_writing(self) -> None:
        """The peer takes less than it is sent."""
        self.full = True
        if self._sink is not None:
            self._sink.fullness_changed(self)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.full = False
        if self._sink is not None:
            self._sink.fullness_changed(self)

    @property
    def has_left(self) -> bool:
        """Whether the peer has ended, even behind bytes that have not been read; where the system tells."""
        hung_up = getattr(select, "POLLRDHUP", 0)
        if self._eof or self.transport.is_closing() or not hung_up:
            return self._eof or self.transport.is_closing()
        asked = select.poll()
        asked.register(self.transport.get_extra_info("socket").fileno(), hung_up)
        return bool(asked.poll(0))

    # -- for the dialogue ------------------------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """What has come, waiting for at least one byte. Raises LegClosed. One reader at a time."""
        while not self._kept:
            if self._eof:
                raise LegClosed
            assert self._waiter is None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._kept)
        self._kept.clear()
        self.set_reading(on=True)
        return data

    async def start_tls(
        self, context: ssl.SSLContext, *, server_side: bool, hostname: str | None = None, seconds: float = 60.0
    ) -> None:
        """Go on inside TLS. Nothing may be pending. Raises OSError (ssl.SSLError and ConnectionError among them)."""
        assert not self._kept
        plain = self.transport
        self.word.descriptor = plain.get_extra_info("socket").fileno()
        try:
            with speaking(self.word):
                transport = await self._loop.start_tls(
                    plain,
                    self,
                    context,
                    server_side=server_side,
                    server_hostname=hostname,
                    ssl_handshake_timeout=seconds,
                    ssl_shutdown_timeout=self._close_seconds,
                )
        except OSError:
            self._cut(plain)
            await self.word.heard()
            raise
        except BaseException:
            self._cut(plain)
            raise
        if transport is None:  # asyncio before 3.12 gives None when the peer leaves during the handshake
            self._cut(plain)
            raise ConnectionAbortedError
        self._adopt(transport)
        self._beneath = plain
        self.is_read = True

    # -- for the relay ---------------------------------------------------------------------------------------------------------------

    def attach(self, sink: LegSink) -> bytes:
        """From now on events go to `sink`. Gives what had come and was not read."""
        self._sink = sink
        data = bytes(self._kept)
        self._kept.clear()
        return data

    def detach(self) -> None:
        """Events go nowhere any more."""
        self._sink = None

    @property
    def at_eof(self) -> bool:
        """Whether the peer has ended."""
        return self._eof

    def set_reading(self, *, on: bool) -> None:
        """Read from the peer, or let its bytes wait in the kernel.

        It is what TLS runs on that is not read. TLS itself must be: uvloop's throws away what it holds when the peer's end comes while it
        is paused, and a server's last words with it.
        """
        if on is self.is_read or self._eof or self.transport.is_closing():
            return
        self.is_read = on
        transport = self._beneath or self.transport
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def write(self, pieces: list[bytes]) -> None:
        """Send these bytes after what is already waiting."""
        transport = self.transport
        if transport.is_closing():
            return
        if len(pieces) == 1:
            transport.write(pieces[0])
        else:
            transport.writelines(pieces)
        unsent = transport.get_write_buffer_size()
        if unsent > self.most_unsent:  # noqa: PLR1730 - `max` costs three times as much, on every write
            self.most_unsent = unsent

    def close(self) -> None:
        """Send what waits, then close; after `close_seconds`, cut. A peer that takes nothing holds nobody up."""
        if self._transport is None or self.is_closed or self._abort is not None:
            return
        self.transport.close()
        if self._beneath is not None and not self.is_read and not self._beneath.is_closing():
            self._beneath.resume_reading()  # TLS's end is an exchange
        self._abort = self._loop.call_later(self._close_seconds, self.transport.abort)

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._transport is not None and not self.is_closed:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Until the connection is no more."""
        await asyncio.shield(self._closed)

    # -- inside ----------------------------------------------------------------------------------------------------------------------

    def _cut(self, plain: asyncio.Transport) -> None:
        """The end of a handshake that failed. Neither asyncio nor uvloop tells us of a reset within it: `wait_closed` waited for ever."""
        plain.abort()
        self.connection_lost(None)

    def _adopt(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=self._write_buffer)

    def _ended(self) -> None:
        if self._eof:
            return
        self._eof = True
        self._wake()
        if self._sink is not None:
            self._sink.ended(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _tune(transport: asyncio.Transport, keepalive: Keepalive) -> None:
    """Small messages leave at once, vanished peers are noticed."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    with contextlib.suppress(OSError):  # a peer that reset the connection already: reading will tell
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", keepalive.idle_seconds),
            ("TCP_KEEPINTVL", keepalive.interval_seconds),
            ("TCP_KEEPCNT", keepalive.count),
            ("TCP_USER_TIMEOUT", keepalive.unacknowledged_seconds * 1000),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Traffic(Protocol):
    """Who counts bytes."""

    def from_client(self, size: int) -> None:
        """Bytes received from clients."""

    def from_server(self, size: int) -> None:
        """Bytes received from the server."""


class Relay:
    """Moves a session's bytes. `over` is done, with the reason, when no more will be moved; both legs are closing then."""

    def __init__(self, client: Leg, server: Leg, session: SessionLike, traffic: Traffic) -> None:
        self._client = client
        self._server = server
        self._session = session
        self._traffic = traffic
        self._log = structlog.get_logger("relay")
        self._leaving: PgveilError | None = None  # what the client is told as soon as nothing is under way
        self._asked = False  # the client has sent something
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def start(self, from_client: bytes = b"", from_server: bytes = b"") -> None:
        """Begin with what came behind the handshake and what the legs have kept since."""
        from_client += self._client.attach(self)
        from_server += self._server.attach(self)
        if from_server:
            self.received(self._server, from_server)
        if from_client:
            self.received(self._client, from_client)
        self.pump()
        for leg in (self._server, self._client):
            if leg.at_eof:
                self.ended(leg)

    def pump(self) -> None:
        """Send what the session has put out, then see who is to be read. Also to be called when the session changed by itself."""
        if self.over.done():
            return
        session = self._session
        self._send()
        if session.closing is not None:
            self._finish(session.closing)
        elif self._leaving is not None and session.at_rest and self._asked:
            self._leave(self._leaving)
        else:
            self._steer()

    def later(self, turn: Callable[[], None]) -> None:
        """Have a function called behind what others wait for, unless the client has left by then."""
        asyncio.get_running_loop().call_soon(self._turn, turn)

    def _turn(self, turn: Callable[[], None]) -> None:
        if self.over.done():
            return
        if self._client.has_left:
            self.ended(self._client)
        else:
            turn()

    def leave(self, error: PgveilError, *, patient: bool = False) -> None:
        """End the connection as soon as nothing is under way, telling the client `error`. `patient`: it has yet to ask its first question."""
        self._leaving = error
        self._asked = self._asked or not patient
        self.pump()

    def shutdown(self, error: PgveilError) -> None:
        """End the connection from our side. The client is told, where a message can stand."""
        self._fail(error, "shutdown")

    def received(self, leg: Leg, data: bytes) -> None:
        """Bytes for the session (LegSink)."""
        if leg is self._client:
            self._asked = True
            self._traffic.from_client(len(data))
            self._run(self._session.client_received, data)
        else:
            self._traffic.from_server(len(data))
            self._run(self._session.server_received, data)

    def ended(self, leg: Leg) -> None:
        """A peer will send nothing more (LegSink)."""
        if leg is self._client:
            self._run(self._session.client_eof)
            self._finish("client_gone")
        else:
            self._run(self._session.server_eof)
            self._finish("server_gone")

    def fullness_changed(self, leg: Leg) -> None:  # noqa: ARG002 - the rule looks at both
        """Backpressure begins or ends (LegSink)."""
        if not self.over.done():
            self._steer()

    def _send(self) -> None:
        session = self._session
        pieces = session.to_client
        if pieces:
            self._client.write(pieces)
            pieces.clear()
        pieces = session.to_server
        if pieces:
            self._server.write(pieces)
            pieces.clear()

    def _run(self, step: Callable[..., bool | None], *data: bytes) -> None:
        """One step of the session, then its output. Whatever goes wrong in it ends this connection, and no other."""
        if self.over.done():
            return
        try:
            passed = step(*data)
        except PgveilError as error:
            self._fail(error, "protocol" if isinstance(error, ProtocolError) else "refused")
        except Exception:  # noqa: BLE001 - as the docstring says
            self._log.exception("session.failed")
            self._fail(PgveilError("internal error in pgveil", hint="Its log says more."), "internal")
        else:
            if passed and self._leaving is None:
                self._send()
            else:
                self.pump()

    def _steer(self) -> None:
        """Who is read. The client's requests wait while their answers do, as they would in the server.

        The server is read even while it takes nothing itself: it may be waiting for us to take its output first.
        """
        client, server, session = self._client, self._server, self._session
        blocked = client.full
        from_client = session.wants_client and not server.full and not blocked
        if from_client is not client.is_read:
            client.set_reading(on=from_client)
        from_server = session.wants_server and not blocked
        if from_server is not server.is_read:
            server.set_reading(on=from_server)

    def _leave(self, error: PgveilError) -> None:
        """The end at a moment when it takes nothing away; the server is told, too."""
        self._server.write([TERMINATE])
        self._fail(error, "drained")

    def _fail(self, error: PgveilError, reason: str) -> None:
        if self.over.done():
            return
        session = self._session
        if session.to_client:
            self._client.write(session.to_client)
            session.to_client.clear()
        if session.may_speak:
            self._client.write([error.response()])
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        if self.over.done():
            return
        self.over.set_result(reason)
        for leg in (self._client, self._server):
            leg.detach()
            leg.close()
