"""Bytes between real clients and a real server: nothing changed, nothing kept, nobody waited for in vain."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from lifecycle.demo.postgres import Postgres
from proxy import limits
from proxy.config import Address, Limits, Server
from proxy.errors import NotSupported, ProtocolError
from proxy.services import Unprotected
from proxy.session.link import PassThroughSession, SessionContext
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.relay import Leg
    from proxy.server import Worker
    from proxy.session.link import SessionLike

    MakeWorker = Callable[..., Awaitable[Worker]]


class Recorder(Unprotected):
    """Keeps the sessions and what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[SessionContext] = []
        self.sessions: list[SessionLike] = []

    async def connect_session(self, context: SessionContext) -> SessionLike:
        session = await super().connect_session(context)
        self.contexts.append(context)
        self.sessions.append(session)
        return session


def legs_of(worker: Worker) -> list[tuple[Leg, Leg]]:
    found = []
    for connection in worker._connections:
        assert connection._server is not None
        found.append((connection._client, connection._server))
    return found


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.01)


async def settled(worker: Worker) -> None:
    """Until every connection is gone."""
    await until(lambda: not worker.connections)


def pause_reading(writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]


def resume_reading(writer: asyncio.StreamWriter) -> None:
    writer.transport.resume_reading()  # type: ignore[attr-defined]


async def raw(worker: Worker, user: bytes = b"postgres") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A logged-in connection without a driver; everything up to ReadyForQuery is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", user), (b"database", b"postgres"))).build())
    while (await one(reader))[0] != m.Back.READY:
        pass
    return reader, writer


async def one(reader: asyncio.StreamReader) -> bytes:
    """One message."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


# -- drivers -------------------------------------------------------------------------------------------------------------------------


async def test_psycopg_and_what_the_session_is_told(any_pg: Postgres, worker_for: MakeWorker) -> None:
    services = Recorder()
    worker = await worker_for(any_pg, services=services)
    dsn = any_pg.dsn(port=worker.port)
    async with await psycopg.AsyncConnection.connect(dsn, application_name="till") as connection:
        rows = await (await connection.execute("SELECT current_user, %s::int", [7])).fetchall()
        assert rows == [("postgres", 7)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1/0")
        await connection.rollback()
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", [i]) for i in range(50)]
        assert [await cursor.fetchone() for cursor in cursors] == [(i,) for i in range(50)]
    (context,) = services.contexts
    assert (context.login, context.database, context.client_tls) == ("postgres", "postgres", False)
    assert context.parameters[b"application_name"] == b"till"
    assert context.client_address.startswith("127.0.0.1:")


async def test_copy_both_ways(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)) as connection:
        cursor = connection.cursor()
        await cursor.execute("CREATE TEMP TABLE t (a int, b text)")
        async with cursor.copy("COPY t FROM STDIN") as copy:
            for i in range(20_000):
                await copy.write_row((i, "x" * (i % 200)))
        async with cursor.copy("COPY t TO STDOUT") as copy:
            rows = [row async for row in copy.rows()]
        assert len(rows) == 20_000
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            async with cursor.copy("COPY t FROM STDIN") as copy:
                await copy.write(b"no columns\n")


async def test_asyncpg_prepared_cursor_and_binary_copy(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    connection = await asyncpg.connect(pg.dsn(port=worker.port))
    try:
        assert await connection.fetchval("SELECT $1::numeric + 1", 41) == 42
        async with connection.transaction():
            rows = [row[0] async for row in connection.cursor("SELECT generate_series(1, 500)", prefetch=50)]
        assert rows == list(range(1, 501))
        await connection.execute("CREATE TEMP TABLE u (a int)")
        await connection.copy_records_to_table("u", records=[(i,) for i in range(100)])
        assert await connection.fetchval("SELECT sum(a) FROM u") == 4950
    finally:
        await connection.close()


async def test_notifications(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    listener = await asyncpg.connect(pg.dsn(port=worker.port))
    speaker = await asyncpg.connect(pg.dsn(port=worker.port))
    heard: asyncio.Queue[str] = asyncio.Queue()
    try:
        await listener.add_listener("news", lambda *args: heard.put_nowait(args[3]))
        await speaker.execute("NOTIFY news, 'hello'")
        assert await heard.get() == "hello"
    finally:
        await listener.close()
        await speaker.close()


@pytest.mark.parametrize("version", ["3.0", "latest"])
async def test_psql_18_speaks_either_protocol(worker_for: MakeWorker, password_pg: Postgres, version: str) -> None:
    services = Recorder()
    worker = await worker_for(password_pg, services=services)
    process = await asyncio.create_subprocess_exec(
        str(password_pg.bin_dir / "psql"),
        *("-XqAt", "-d", f"{password_pg.dsn(port=worker.port)}?max_protocol_version={version}", "-c", "SELECT 6*7"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert output == b"42\n"
    assert services.contexts[0].protocol == (m.PROTOCOL_3_0 if version == "3.0" else m.PROTOCOL_3_2)


# -- size and pressure ---------------------------------------------------------------------------------------------------------------


async def test_a_huge_value_is_never_held(pg: Postgres, worker_for: MakeWorker) -> None:
    """100 MB each way: the most that ever waits on a leg is the high-water mark and one read."""
    worker = await worker_for(pg)
    size = 100 * limits.MIB
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)) as connection:
        cursor = await connection.execute("SELECT repeat('x', %s)", [size])
        row = await cursor.fetchone()
        assert row is not None
        assert len(row[0]) == size
        row = await (await connection.execute("SELECT length(%s::text)", [row[0]])).fetchone()
        assert row == (size,)
        ((client, server),) = legs_of(worker)
        assert client.most_unsent < limits.MIB
        assert server.most_unsent < limits.MIB


async def test_a_client_that_never_reads_stops_its_server(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    reader, writer = await raw(worker)
    pause_reading(writer)
    writer.write(m.build_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 200000)"))
    ((client, server),) = legs_of(worker)
    await until(lambda: client.full)
    await asyncio.sleep(0.1)
    assert client.most_unsent < limits.MIB
    assert (server.is_read, client.is_read) == (False, False)  # nor are its further requests taken
    resume_reading(writer)
    rows = 0
    while (message := await one(reader))[0] != m.Back.READY:
        rows += message[0] == m.Back.DATA_ROW
    assert rows == 200_000
    await until(lambda: server.is_read)
    writer.close()


async def test_a_server_that_does_not_read_stops_its_client(worker_for: MakeWorker) -> None:
    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(m.AUTHENTICATION_OK + m.build_ready(b"I"))
        pause_reading(writer)
        await done.wait()
        writer.close()

    done = asyncio.Event()
    server = await asyncio.start_server(lazy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = await worker_for(config=None, server=Server(hosts=(Address("127.0.0.1", port),), sslmode="disable"))
    _, writer = await raw(worker)
    copy = m.build_copy_data(b"x" * 60_000)
    ((client, upstream),) = legs_of(worker)
    while client.is_read:
        writer.write(copy)
        await asyncio.sleep(0)
    assert upstream.full
    assert upstream.most_unsent < limits.MIB
    done.set()
    writer.close()
    await settled(worker)
    server.close()


async def test_a_session_that_waits_is_not_read_for(pg: Postgres, worker_for: MakeWorker) -> None:
    """What the audit does: the answer is held until somebody outside of the connection says so."""

    class Waiting(PassThroughSession):
        __slots__ = ("context", "held")

        def __init__(self, context: SessionContext) -> None:
            super().__init__()
            self.context = context
            self.held: list[bytes] = []

        def server_received(self, data: bytes) -> bool:
            passed = super().server_received(data)
            self.held += self.to_client
            self.to_client.clear()
            self.wants_server = False
            return passed

        def release(self) -> None:
            self.to_client += self.held
            self.held.clear()
            self.wants_server = True
            self.context.pump()

    sessions: list[Waiting] = []

    class Holding(Unprotected):
        async def connect_session(self, context: SessionContext) -> SessionLike:
            sessions.append(Waiting(context))
            return sessions[-1]

    worker = await worker_for(pg, services=Holding())
    login = asyncio.create_task(raw(worker))
    await until(lambda: sessions and sessions[0].held)
    await asyncio.sleep(0.05)
    assert not login.done()
    ((_, server),) = legs_of(worker)
    assert not server.is_read
    sessions[0].release()
    while not login.done():
        await asyncio.sleep(0.01)
        if sessions[0].held:
            sessions[0].release()
    _, writer = await login
    writer.close()


async def test_small_messages_do_not_wait(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    _, writer = await raw(worker)
    for leg in legs_of(worker)[0]:
        sock = leg.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    writer.close()


# -- ends ----------------------------------------------------------------------------------------------------------------------------


async def backends(pg: Postgres, connection: Any) -> int:
    row = await (
        await connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'doomed'")
    ).fetchone()
    return int(row[0])


@pytest.mark.parametrize("how", ["abort", "close", "half-close"])
async def test_a_client_that_goes_takes_its_backend_along(pg: Postgres, worker_for: MakeWorker, how: str) -> None:
    worker = await worker_for(pg)
    reader, writer = await raw(worker)
    writer.write(m.build_query(b"SET application_name = 'doomed'"))
    while (await one(reader))[0] != m.Back.READY:
        pass
    async with await psycopg.AsyncConnection.connect(pg.dsn(), autocommit=True) as watcher:
        assert await backends(pg, watcher) == 1
        if how == "abort":
            writer.transport.abort()
        elif how == "close":
            writer.close()
        else:
            writer.write_eof()
            assert await reader.read() == b""
        while await backends(pg, watcher):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await settled(worker)
    writer.close()


async def test_a_killed_backend_is_reported_by_postgres_itself(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    reader, writer = await raw(worker)
    writer.write(m.build_query(b"SELECT pg_terminate_backend(pg_backend_pid())"))
    seen = [await one(reader)]
    while not reader.at_eof():
        try:
            seen.append(await one(reader))
        except asyncio.IncompleteReadError:
            break
    fields = m.parse_error(seen[-1][5:])
    assert (fields.sqlstate, fields.fatal) == ("57P01", True)
    writer.close()


async def test_a_crashed_server_is_reported_by_us(worker_for: MakeWorker) -> None:
    with Postgres.make("16") as server:
        worker = await worker_for(server)
        reader, writer = await raw(worker)
        writer.write(m.build_query(b"SELECT pg_backend_pid()"))
        answer = [await one(reader) for _ in range(4)]
        (pid,) = m.parse_data_row(answer[1][5:])
        assert pid is not None
        os.kill(int(pid), signal.SIGKILL)
        fields = m.parse_error((await one(reader))[5:])
        assert (fields.sqlstate, fields.fatal) == ("08006", True)
        assert await reader.read() == b""
        writer.close()
        await settled(worker)
        server.stop(signal.SIGKILL)  # a new client is told as well
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
        # Its children may hold the listening socket for a moment longer than it lives.
        assert m.parse_error((await one(reader))[5:]).sqlstate in {"08001", "08006"}
        writer.close()


@pytest.mark.parametrize(
    ("sent", "sqlstate"),
    [
        (b"\0\0\0\x08\0\2\0\0", "0A000"),
        (m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"), (b"replication", b"true"))).build(), "0A000"),
        (m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build() + m.build_query(b"SELECT 1"), "08P01"),
    ],
)
async def test_bad_beginnings_get_a_clear_error(
    pg: Postgres, worker_for: MakeWorker, sent: bytes, sqlstate: str
) -> None:
    worker = await worker_for(pg)
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(sent)
    fields = m.parse_error((await one(reader))[5:])
    assert (fields.sqlstate, fields.fatal) == (sqlstate, True)
    assert await reader.read() == b""
    writer.close()
    await settled(worker)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x7f\xff\xff\xff",
        b"\0\0\x27\x15",
        b"\0\0\0\x07abc",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_no_client_of_postgresql_begins_with_ends_as_there(
    pg: Postgres, worker_for: MakeWorker, sent: bytes
) -> None:
    """In silence: a client that hangs up at once would see an error event instead of an end."""
    worker = await worker_for(pg)
    heard = []
    for port in (pg.port, worker.port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        heard.append(await reader.read())
        writer.close()
    assert heard[0] == heard[1]
    await settled(worker)


async def test_garbage_in_a_session_ends_it_with_a_word(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    reader, writer = await raw(worker)
    writer.write(b"\xff\0\0\0\x04")
    assert m.parse_error((await one(reader))[5:]).sqlstate == "08P01"
    writer.close()
    await settled(worker)


async def test_a_session_that_cannot_begin(pg: Postgres, worker_for: MakeWorker) -> None:
    class Refusing(Unprotected):
        async def connect_session(self, context: SessionContext) -> SessionLike:
            raise NotSupported("not yet")

    worker = await worker_for(pg, services=Refusing())
    with pytest.raises(psycopg.OperationalError, match="not yet"):
        await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port))


@pytest.mark.parametrize(("failure", "sqlstate"), [(RuntimeError("s3cret"), "XX000"), (ProtocolError("bad"), "08P01")])
async def test_a_session_that_fails_ends_alone_and_says_nothing(
    pg: Postgres, worker_for: MakeWorker, failure: Exception, sqlstate: str
) -> None:
    class Failing(PassThroughSession):
        def client_received(self, data: bytes) -> bool:
            if data[:1] == b"Q":
                raise failure
            return super().client_received(data)

    class Services(Unprotected):
        async def connect_session(self, context: SessionContext) -> SessionLike:
            return Failing()

    worker = await worker_for(pg, services=Services())
    other = await raw(worker)
    reader, writer = await raw(worker)
    writer.write(m.build_query(b"SELECT 1"))
    answer = await one(reader)
    assert m.parse_error(answer[5:]).sqlstate == sqlstate
    assert b"s3cret" not in answer
    assert await reader.read() == b""
    writer.close()
    await until(lambda: worker.connections == 1)
    other[1].close()


async def test_no_word_of_ours_enters_a_message_cut_short(worker_for: MakeWorker) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(m.AUTHENTICATION_OK + m.build_ready(b"I") + m.build_data_row((b"x" * 1000,))[:300])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(broken, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = await worker_for(server=Server(hosts=(Address("127.0.0.1", port),), sslmode="disable"))
    reader, writer = await raw(worker)
    assert len(await reader.read()) == 300
    writer.close()
    server.close()


async def test_stopping_tells_clients(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    reader, writer = await raw(worker)
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", worker.port)  # says nothing
    await until(lambda: worker.connections == 2)
    await worker.stop()
    assert m.parse_error((await one(reader))[5:]).sqlstate == "57P01"
    assert m.parse_error((await one(idle_reader))[5:]).sqlstate == "57P01"
    writer.close()
    idle_writer.close()


async def test_a_client_that_takes_nothing_cannot_hold_the_end_up(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg, limits=Limits(close_seconds=0.2))
    _, writer = await raw(worker)
    pause_reading(writer)
    writer.write(m.build_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 200000)"))
    ((client, _),) = legs_of(worker)
    await until(lambda: client.full)
    await worker.stop()
    assert worker.connections == 0
    writer.transport.abort()


async def test_no_tasks_remain(pg: Postgres, worker_for: MakeWorker) -> None:
    before = asyncio.all_tasks()
    worker = await worker_for(pg)
    for _ in range(5):
        _, writer = await raw(worker)
        writer.close()
    await settled(worker)
    left = asyncio.all_tasks() - before
    assert left <= set(worker._acceptors)
    assert worker._admitted == 0
    assert not worker._connections
