"""The PROXY protocol: whom a balancer speaks for, who is believed, and what anything else gets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.balancer import MAX_HEADER, HeaderError, client_behind, speaks_for_others
from proxy.config import Limits, Listen, Tls
from proxy.services import Unprotected
from proxy.wire import messages as m
from tests.proxy.test_server import Stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lifecycle.demo.postgres import Postgres
    from proxy.server import Worker
    from tests.proxy.conftest import Certificates

    MakeWorker = Callable[..., Awaitable[Worker]]

BALANCER = ("10.0.0.9", 4711)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HERE = (ip_network("127.0.0.1/32"),)


def v2(command: int, family: int, addresses: bytes, extensions: bytes = b"") -> bytes:
    """A header of version 2 (proxy-protocol.txt, 2.2)."""
    body = addresses + extensions
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


V4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 56324, 6432)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 56324, 6432)
)
GOOD = [
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6432\r\n", ("203.0.113.7", 56324)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 6432\r\n", ("2001:db8::7", 56324)),
    (b"PROXY UNKNOWN\r\n", BALANCER),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", BALANCER),
    (v2(1, 0x11, V4), ("203.0.113.7", 56324)),
    (v2(1, 0x11, V4, b"\x04\0\x03abc" + b"\x01\0\x0apostgresql"), ("203.0.113.7", 56324)),
    (v2(1, 0x21, V6), ("2001:db8::7", 56324)),
    (v2(0, 0x00, b""), BALANCER),
    (v2(0, 0x11, V4), BALANCER),
    (v2(1, 0x00, b""), BALANCER),
    (v2(1, 0x31, b"/run/a.sock".ljust(108, b"\0") + b"\0" * 108), BALANCER),
]
BAD = [
    m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build(),
    m.SSL_REQUEST_PACKET + b"\x16\x03\x01\0",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
    b"GET / HTTP/1.1\r\n\r\n",
    b"PROXY TCP4 203.0.113.7 10.0.0.1 56324\r\n",
    b"PROXY TCP4 203.0.113.700 10.0.0.1 56324 6432\r\n",
    b"PROXY TCP4 203.0.113.7 10.0.0.1 99999 6432\r\n",
    b"PROXY TCP6 203.0.113.7 10.0.0.1 56324 6432\r\n",
    b"PROXY TCP9 203.0.113.7 10.0.0.1 56324 6432\r\n",
    b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6432" + b" " * 100 + b"\r\n",
    b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6432\n",
    v2(1, 0x11, V4[:-1]),
    v2(2, 0x11, V4),
    v2(1, 0x11, V4).replace(b"QUIT", b"QUID"),
    v2(1, 0x11, V4, b"\0" * MAX_HEADER),
]


async def told(data: bytes, cuts: list[int], *, ends: bool = False) -> tuple[object, bytes]:
    """What comes of these bytes, sent in pieces, and what is left behind them."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with contextlib.closing(ours), contextlib.closing(theirs):
        asked = asyncio.ensure_future(client_behind(ours, BALANCER))
        start = 0
        for end in [*sorted(cuts), len(data)]:
            theirs.send(data[start:end])
            start = end
            await asyncio.sleep(0)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(5):
            address = await asked
        left = b""
        with contextlib.suppress(BlockingIOError):
            left = ours.recv(100)
        return address, left


@given(st.sampled_from(GOOD), st.lists(st.integers(0, 60), max_size=6), st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_header_in_any_pieces_and_nothing_behind_it(
    case: tuple[bytes, object], cuts: list[int], behind: bytes
) -> None:
    header, address = case
    data = header + behind
    assert asyncio.run(told(data, [min(c, len(data)) for c in cuts])) == (address, behind)


@pytest.mark.parametrize("data", BAD)
async def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(HeaderError) as refused:
        await told(data, [])
    assert "203" not in str(refused.value)


@given(st.binary(min_size=1, max_size=64), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_an_address_or_an_error(data: bytes, known: bool) -> None:
    async def run() -> None:
        with contextlib.suppress(HeaderError):
            await told((SIGNATURE if known else b"") + data, [], ends=True)

    asyncio.run(run())


@pytest.mark.parametrize("header", [GOOD[0][0], GOOD[4][0]])
async def test_a_connection_that_ends_within_a_header(header: bytes) -> None:
    for cut in range(1, len(header)):
        with pytest.raises(HeaderError, match="ended within"):
            await told(header[:cut], [], ends=True)
    with pytest.raises(EOFError):
        await told(b"", [], ends=True)


def test_who_speaks_for_others() -> None:
    networks = (ip_network("10.0.0.0/28"), ip_network("fd00::/8"))
    assert speaks_for_others(("10.0.0.9", 1), networks)
    assert speaks_for_others(("::ffff:10.0.0.9", 1, 0, 0), networks)
    assert speaks_for_others(("fd00::1%eth0", 1, 0, 2), networks)
    assert not speaks_for_others(("10.0.0.16", 1), networks)
    assert not speaks_for_others("", networks)
    assert not speaks_for_others(("10.0.0.9", 1), ())


async def opened(worker: Worker, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"".join(parts))
    return reader, writer


STARTUP = m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"), (b"database", b"postgres"))).build()


async def test_the_client_s_address_is_the_header_s(pg: Postgres, worker_for: MakeWorker, wait_until: Any) -> None:
    services = Stopping(lambda: asyncio.sleep(0))
    worker = await worker_for(pg, services=services, listen=Listen(port=0, proxy_protocol=HERE))
    for header, address in ((GOOD[0][0], "203.0.113.7:56324"), (GOOD[6][0], "[2001:db8::7]:56324")):
        reader, writer = await opened(worker, header, STARTUP)
        await reader.readuntil(b"Z\0\0\0\x05I")
        assert services.contexts[-1].client_address == address
        writer.transport.abort()
    await wait_until(lambda: worker.connections == 0)


async def test_without_a_header_nobody_comes_in_from_there(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    services = Stopping(lambda: asyncio.sleep(0))
    worker = await worker_for(pg, services=services, listen=Listen(port=0, proxy_protocol=HERE))
    with pytest.raises(psycopg.OperationalError, match="PROXY protocol's header can't be read, or is not there"):
        await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port), sslmode="disable")
    reader, _ = await opened(worker, STARTUP)
    assert b"08P01" in await reader.read()
    await wait_until(lambda: worker.connections == 0)
    assert services.asked == 0


async def test_a_header_of_somebody_else_is_an_error(pg: Postgres, worker_for: MakeWorker) -> None:
    """Nobody chooses his address: whoever is not named is not listened to."""
    worker = await worker_for(pg, listen=Listen(port=0, proxy_protocol=(ip_network("10.9.9.9/32"),)))
    reader, writer = await opened(worker, GOOD[0][0], STARTUP)
    assert b"R\0\0\0\x08\0\0\0\0" not in await reader.read()
    writer.transport.abort()
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)):
        pass


async def test_tls_begins_behind_the_header(
    pg: Postgres, worker_for: MakeWorker, certificates: Certificates, wait_until: Any
) -> None:
    tls = Tls(certificate=certificates.server.certificate, key=certificates.server.key)
    worker = await worker_for(pg, services=Unprotected(), tls=tls, listen=Listen(port=0, proxy_protocol=HERE))
    reader, writer = await opened(worker, GOOD[4][0], m.SSL_REQUEST_PACKET)
    assert await reader.readexactly(1) == b"S"
    writer.transport.abort()
    await wait_until(lambda: worker.connections == 0)


async def test_a_header_that_does_not_come_takes_only_so_long(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    limits = Limits(authentication_seconds=1, close_seconds=1)
    worker = await worker_for(pg, limits=limits, listen=Listen(port=0, proxy_protocol=HERE))
    reader, _ = await opened(worker, b"PROXY ")
    assert b"the login took too long" in await reader.read()
    await wait_until(lambda: worker.connections == 0)


async def test_a_look_whether_the_port_is_open_is_no_event(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    services = Stopping(lambda: asyncio.sleep(0))
    worker = await worker_for(pg, services=services, listen=Listen(port=0, proxy_protocol=HERE))
    _, writer = await opened(worker)
    await wait_until(lambda: worker.connections == 1)
    writer.close()
    await wait_until(lambda: worker.connections == 0)
    assert services.failed == []
