"""Cancel requests reach the server on a way of their own, from any worker, and only so many."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.cancels import Bucket
from proxy.config import Address, Limits, Server, Tls
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lifecycle.demo.postgres import Postgres
    from proxy.server import Worker

    MakeWorker = Callable[..., Awaitable[Worker]]


async def one(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


async def login(worker: Worker, protocol: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, m.BackendKey]:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.Startup(protocol, ((b"user", b"postgres"),)).build())
    key = None
    while (message := await one(reader))[0] != m.Back.READY:
        if message[0] == m.Back.BACKEND_KEY:
            key = m.parse_backend_key(message[5:])
    assert key is not None
    return reader, writer, key


async def send(worker: Worker, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(packet)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(("protocol", "length"), [(m.PROTOCOL_3_0, 4), (m.PROTOCOL_3_2, 32)])
async def test_any_worker_passes_it_on(
    password_pg: Postgres, worker_for: MakeWorker, protocol: int, length: int
) -> None:
    """PostgreSQL 18 gives long keys with protocol 3.2."""
    first, second = await worker_for(password_pg), await worker_for(password_pg)
    reader, writer, key = await login(first, protocol)
    assert len(key.key) == length
    writer.write(m.build_query(b"SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    answer = None
    while answer is None:
        assert await send(second, m.CancelRequest(key.process_id, key.key).build()) == b""
        try:
            answer = await asyncio.wait_for(one(reader), 1)
            while answer[0] != m.Back.ERROR:
                answer = await one(reader)
        except TimeoutError:  # it came before the statement had begun
            continue
    assert m.parse_error(answer[5:]).sqlstate == "57014"
    writer.close()


async def test_a_driver_cancels_over_tls(tls_pg: Postgres, worker_for: MakeWorker, certificates: Any) -> None:
    """libpq 17 and newer cancels over TLS where the connection has it; on to the server it is TLS as well."""
    pair = certificates.proxy
    server = Server(hosts=(Address("127.0.0.1", tls_pg.port),), sslmode="require")
    worker = await worker_for(server=server, tls=Tls(certificate=pair.certificate, key=pair.key, required=True))
    async with await psycopg.AsyncConnection.connect(tls_pg.dsn(port=worker.port), sslmode="require") as connection:
        running = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        while not running.done():
            await connection.cancel_safe(timeout=5)
            await asyncio.wait((running,), timeout=0.1)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await running


async def test_a_wrong_key_cancels_nothing_and_is_not_answered(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    reader, writer, key = await login(worker, m.PROTOCOL_3_0)
    writer.write(m.build_query(b"SELECT pg_sleep(0.3)"))
    wrong = bytes(byte ^ 0xFF for byte in key.key)
    assert await send(worker, m.CancelRequest(key.process_id, wrong).build()) == b""
    kinds = [(await one(reader))[0] for _ in range(4)]
    assert kinds == [m.Back.ROW_DESCRIPTION, m.Back.DATA_ROW, m.Back.COMMAND_COMPLETE, m.Back.READY]
    writer.close()


async def test_it_goes_to_every_host(pg: Postgres, worker_for: MakeWorker) -> None:
    """Nobody knows which of them has the key. One that is down holds nothing up."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    servers = [await asyncio.start_server(note, "127.0.0.1", 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    dead = await asyncio.start_server(note, "127.0.0.1", 0)
    dead_port = dead.sockets[0].getsockname()[1]
    dead.close()
    await dead.wait_closed()
    hosts = tuple(Address("127.0.0.1", port) for port in (ports[0], dead_port, ports[1]))
    worker = await worker_for(server=Server(hosts=hosts, sslmode="disable"))
    packet = m.CancelRequest(7, b"key!").build()
    assert await send(worker, packet) == b""
    assert seen == [packet, packet]
    for server in servers:
        server.close()


async def test_only_so_many_pass(worker_for: MakeWorker) -> None:
    seen = 0

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        await reader.read(100)
        seen += 1
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    worker = await worker_for(
        server=Server(hosts=(address,), sslmode="disable"), limits=Limits(cancels_per_second=1, close_seconds=1)
    )
    worker._around.cancels._clock = lambda: worker._around.cancels._last  # time stands still
    for _ in range(5):
        assert await send(worker, m.CancelRequest(7, b"key!").build()) == b""
    assert seen == 2
    server.close()


def test_the_bucket_fills_with_time() -> None:
    now = 0.0
    bucket = Bucket(2, lambda: now)
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now = 1000
    assert [bucket.take() for _ in range(5)] == [True] * 4 + [False]
