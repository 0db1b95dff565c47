"""Workers and their supervisor: logins of every kind, limits, and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from lifecycle.demo.postgres import free_port
from proxy.config import Address, Limits, Listen, Server
from proxy.databases import CatalogUnavailable
from proxy.errors import ConfigError
from proxy.listening import listen_unix
from proxy.services import Unprotected
from proxy.wire import messages as m
from proxy.worker_process import load_factory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from proxy.server import Worker
    from proxy.session.link import SessionContext, SessionLike

    MakeWorker = Callable[..., Awaitable[Worker]]

PASSWORD = "correct horse"


@pytest.mark.parametrize("user", ["scram_user", "md5_user", "password_user"])
async def test_passwords_are_the_servers_business(password_pg: Postgres, worker_for: MakeWorker, user: str) -> None:
    worker = await worker_for(password_pg)
    dsn = password_pg.dsn(user=user, port=worker.port)
    async with await psycopg.AsyncConnection.connect(dsn, password=PASSWORD) as connection:
        row = await (await connection.execute("SELECT current_user")).fetchone()
        assert row == (user,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(dsn, password="wrong")


async def test_a_refused_login_has_the_servers_words(password_pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(password_pg)
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        await psycopg.AsyncConnection.connect(password_pg.dsn(user="nobody_user", port=worker.port))
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        await psycopg.AsyncConnection.connect(password_pg.dsn("nowhere", port=worker.port))


async def test_one_too_many_is_told_so(pg: Postgres, worker_for: MakeWorker, wait_until: Any) -> None:
    worker = await worker_for(pg, limits=Limits(connections=2))
    dsn = pg.dsn(port=worker.port)
    first = await psycopg.AsyncConnection.connect(dsn)
    second = await psycopg.AsyncConnection.connect(dsn)
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        await psycopg.AsyncConnection.connect(dsn)
    await first.close()
    await wait_until(lambda: worker._admitted == 1)
    third = await psycopg.AsyncConnection.connect(dsn)
    await second.close()
    await third.close()


class Stopping(Unprotected):
    """Its sessions do not come about: `meets` is awaited instead. Keeps what it is told of logins that failed."""

    def __init__(self, meets: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.meets = meets
        self.asked = 0
        self.contexts: list[SessionContext] = []
        self.failed: list[str | None] = []
        self.ended = 0

    async def connect_session(self, context: SessionContext) -> SessionLike:
        self.asked += 1
        self.contexts.append(context)
        await self.meets()
        return await super().connect_session(context)

    def session_ended(self, context: SessionContext) -> None:
        self.ended += 1

    def login_failed(self, context: SessionContext, sqlstate: str | None) -> None:
        self.failed.append(sqlstate)


async def _unreachable() -> None:
    raise CatalogUnavailable("pgveil can't read the database's catalog")


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


async def _broken() -> None:
    raise ValueError("a fault of pgveil's own")


@pytest.mark.parametrize(
    ("meets", "told", "recorded"),
    [
        (_unreachable, "can't read the database's catalog", "08001"),
        (_broken, "internal error", "XX000"),
        (_never, "the login took too long", None),
    ],
)
async def test_a_login_that_fails_behind_the_server_s_ok_is_told_of_once(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any, meets: Any, told: str, recorded: str | None
) -> None:
    services = Stopping(meets)
    worker = await worker_for(pg, services=services, limits=Limits(authentication_seconds=2, close_seconds=1))
    with pytest.raises(psycopg.OperationalError, match=told):
        await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port))
    await wait_until(lambda: worker.connections == 0)
    assert services.asked > 0
    assert services.failed == [recorded] * services.asked, "libpq may have tried twice"
    assert (services.ended, worker._admitted, +worker._logins) == (0, 0, {})


async def test_a_login_that_a_worker_s_end_cuts_is_told_of_once(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    services = Stopping(_never)
    worker = await worker_for(pg, services=services)
    _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
    await wait_until(lambda: services.asked)
    await worker.stop()
    assert (services.failed, services.ended) == ([None], 0)
    writer.transport.abort()


async def test_a_client_that_leaves_before_its_session_stands_is_told_of_once(
    pg: Postgres, worker_for: MakeWorker, wait_until: Any
) -> None:
    """Its session comes about and ends at once: it is the session that knows whether it had begun."""
    gone = asyncio.Event()
    services = Stopping(gone.wait)  # type: ignore[arg-type]
    worker = await worker_for(pg, services=services)
    _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
    await wait_until(lambda: services.asked)
    writer.transport.abort()
    gone.set()
    await wait_until(lambda: worker.connections == 0)
    assert (services.failed, services.ended) == ([], 1)


async def test_one_too_many_is_told_of_once(pg: Postgres, worker_for: MakeWorker, wait_until: Any) -> None:
    services = Stopping(lambda: asyncio.sleep(0))
    worker = await worker_for(pg, services=services, limits=Limits(connections=1, close_seconds=1))
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)):
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port), sslmode="disable")
        await wait_until(lambda: worker.connections == 1)
        assert services.failed == ["53300"]


async def test_silent_connections_do_not_add_up(pg: Postgres, worker_for: MakeWorker) -> None:
    """Beyond a margin above the limit nobody is heard at all."""
    worker = await worker_for(pg, limits=Limits(connections=1))
    silent = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(65)]
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    assert await reader.read() == b""
    assert worker.connections == 65
    for _, silent_writer in [*silent, (reader, writer)]:
        silent_writer.transport.abort()


async def test_a_login_takes_only_so_long(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg, limits=Limits(authentication_seconds=0.1, close_seconds=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"\0\0")
    answer = await reader.read()
    assert m.parse_error(answer[5:]).sqlstate == "28000"
    writer.close()


async def test_the_first_host_that_answers_is_taken(pg: Postgres, worker_for: MakeWorker) -> None:
    hosts = (Address("127.0.0.1", free_port()), Address(pg.host, pg.port))
    worker = await worker_for(server=Server(hosts=hosts, sslmode="prefer"))
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)) as connection:
        await connection.execute("SELECT 1")


STARTING = m.build_error(
    m.ErrorFields(((ord("S"), b"FATAL"), (ord("C"), b"57P03"), (ord("M"), b"starting up"))), m.Back.ERROR
)


@pytest.mark.parametrize("last_words", [b"", STARTING])
async def test_a_host_that_is_not_ready_is_passed_over(pg: Postgres, worker_for: MakeWorker, last_words: bytes) -> None:
    """One that closes the connection at once, and one that starts up. Where there is no other, its words are the client's."""

    async def unready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(last_words)
        writer.close()

    server = await asyncio.start_server(unready, "127.0.0.1", 0)
    first = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    worker = await worker_for(server=Server(hosts=(first, Address(pg.host, pg.port)), sslmode="disable"))
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)) as connection:
        await connection.execute("SELECT 1")
    alone = await worker_for(server=Server(hosts=(first,), sslmode="disable"))
    with pytest.raises(
        psycopg.OperationalError, match="starting up" if last_words else "closed the connection at once"
    ):
        await psycopg.AsyncConnection.connect(pg.dsn(port=alone.port))
    server.close()


async def test_a_server_that_does_not_answer(worker_for: MakeWorker) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    worker = await worker_for(server=Server(hosts=(address,), sslmode="prefer", connect_seconds=0.1))
    with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
        await psycopg.AsyncConnection.connect(host="127.0.0.1", port=worker.port, user="x")
    server.close()


async def test_draining_waits_for_those_who_work(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    connection = await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port))
    port = worker.port
    stopping = asyncio.create_task(worker.stop(drain_seconds=30))
    await asyncio.sleep(0.05)
    with pytest.raises(psycopg.OperationalError):
        await psycopg.AsyncConnection.connect(pg.dsn(port=port))
    row = await (await connection.execute("SELECT 1")).fetchone()
    assert row == (1,)
    await connection.close()
    await stopping


# -- processes -----------------------------------------------------------------------------------------------------------------------

SUPERVISE = """
import asyncio, sys, time
from pathlib import Path
from proxy.config import load_config
from proxy.supervisor import Supervisor, worker_command
from proxy import logs
logs.configure()
path = Path(sys.argv[1])
supervisor = Supervisor(load_config(path), worker_command(path, sys.argv[2]), monotonic=time.monotonic)
sys.exit(asyncio.run(supervisor.run()))
"""


class Running:
    """`pgveil run` with sessions that forward everything."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.events: list[dict[str, Any]] = []

    async def until(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Read log lines until `event` has come `count` times."""
        assert self.process.stderr is not None
        while True:
            found = [line for line in self.events if line["event"] == event]
            if len(found) >= count:
                return found
            line = await self.process.stderr.readline()
            assert line, self.events
            self.events.append(json.loads(line))


@pytest.fixture
async def supervised(pg: Postgres, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    started: list[Running] = []

    async def start(
        workers: int = 2, drain: float = 5, factory: str = "proxy.services:unprotected", lame_duck: float = 0
    ) -> Running:
        port = free_port()
        config = tmp_path / "pgveil.yaml"
        config.write_text(
            f"workers: {workers}\nlisten: {{port: {port}, unix_directory: {tmp_path}}}\n"
            f"limits: {{drain_seconds: {drain}, lame_duck_seconds: {lame_duck}}}\n"
            f"server: {{hosts: '127.0.0.1:{pg.port}', sslmode: disable}}\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SUPERVISE, str(config), factory), stderr=asyncio.subprocess.PIPE, env={**os.environ}
        )
        running = Running(process, port)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.returncode is None:
            running.process.kill()
            await running.process.wait()


async def fetch(pg: Postgres, port: int, **options: Any) -> int:
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=port), **options) as connection:
        row = await (await connection.execute("SELECT 1")).fetchone()
        assert row is not None
        return int(row[0])


async def test_workers_share_a_port_and_come_back(
    pg: Postgres, supervised: Callable[..., Awaitable[Running]], tmp_path: Path
) -> None:
    running = await supervised()
    await running.until("worker.ready", 2)
    assert [await fetch(pg, running.port) for _ in range(8)] == [1] * 8
    async with await psycopg.AsyncConnection.connect(
        host=str(tmp_path), port=running.port, user="postgres"
    ) as connection:
        assert await (await connection.execute("SELECT 2")).fetchone() == (2,)
    victim = _workers_of(running.process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    (ended,) = await running.until("worker.ended")
    assert (ended["pid"], ended["exit_code"]) == (victim, -9)
    await running.until("worker.ready", 3)
    assert [await fetch(pg, running.port) for _ in range(8)] == [1] * 8
    running.process.send_signal(signal.SIGHUP)
    running.process.send_signal(signal.SIGTERM)
    assert await running.process.wait() == 0
    assert not (tmp_path / f".s.PGSQL.{running.port}").exists()


async def test_a_lame_duck_takes_connections_until_its_time_is_over(
    pg: Postgres, supervised: Callable[..., Awaitable[Running]]
) -> None:
    running = await supervised(workers=1, lame_duck=3600)
    await running.until("worker.ready")
    assert await fetch(pg, running.port) == 1
    running.process.send_signal(signal.SIGTERM)
    (leaving,) = await running.until("supervisor.leaving")
    assert leaving["seconds"] == 3600
    assert await fetch(pg, running.port) == 1
    running.process.send_signal(signal.SIGTERM)
    await running.until("supervisor.stopping")
    assert await running.process.wait() == 0


async def test_a_lame_duck_s_time_ends_by_itself(pg: Postgres, supervised: Callable[..., Awaitable[Running]]) -> None:
    running = await supervised(workers=1, lame_duck=0.2)
    await running.until("worker.ready")
    assert await fetch(pg, running.port) == 1
    running.process.send_signal(signal.SIGTERM)
    await running.until("supervisor.leaving")
    await running.until("supervisor.stopping")
    assert await running.process.wait() == 0


async def test_workers_end_with_a_killed_supervisor(
    supervised: Callable[..., Awaitable[Running]], wait_until: Any
) -> None:
    running = await supervised(workers=1, drain=0)
    await running.until("worker.ready")
    (pid,) = _workers_of(running.process.pid)
    running.process.kill()
    await running.process.wait()
    await wait_until(lambda: not _alive(pid))


async def test_a_hopeless_configuration_ends_the_run(supervised: Callable[..., Awaitable[Running]]) -> None:
    running = await supervised(workers=1, factory="proxy.services:nothing_of_the_kind")
    assert running.process.stderr is not None
    output = await running.process.stderr.read()
    assert await running.process.wait() == 2
    assert b"no services factory" in output
    assert b"Traceback" not in output


def _workers_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return [int(word) for word in file.read().split()]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_unix_sockets_are_taken_over_only_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    first = listen_unix(path, 5)
    with pytest.raises(ConfigError, match="another server listens there"):
        listen_unix(path, 5)
    first.close()
    listen_unix(path, 5).close()
    other = tmp_path / "file"
    other.write_text("")
    with pytest.raises(ConfigError, match="is no socket"):
        listen_unix(other, 5)


@pytest.mark.parametrize("name", ["nowhere:at_all", "proxy.services:nothing", "proxy.services", ""])
def test_factories_are_found_or_not(name: str) -> None:
    with pytest.raises(ConfigError, match="no services factory"):
        load_factory(name)


async def test_an_address_in_use(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(pg)
    with pytest.raises(OSError, match="in use"):
        await worker_for(pg, listen=Listen(port=worker.port))
