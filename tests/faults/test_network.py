"""A network that stalls in the middle of a message, a peer that vanishes without a word, a client that reads nothing."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.faults.dam import DOWN, UP, Dam
from tests.faults.ground import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.ground import Ground

Connection = psycopg.Connection[Any]
ROWS = 40
LOOK = f"select n, pan from ledger where n between 5000 and {5000 + ROWS} order by n"
MANY = "select pan, repeat('x', 1000) from ledger, generate_series(1, 5000) where n >= 5000 and n < 5040"


def pans() -> list[tuple[int, str]]:
    """What the table holds."""
    return [(5000 + n, f"622202{n:010d}") for n in range(ROWS)]


@pytest.fixture(scope="module")
def filled(any_ground: Ground) -> Iterator[Ground]:
    """Rows to look at. Without TLS, and with it on both legs: there a stall is within a record."""
    ground = any_ground
    with psycopg.connect(ground.dsn(), autocommit=True) as app:
        assert bool(app.pgconn.ssl_in_use) is ground.tls
        assert app.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (ground.tls,)
        app.cursor().executemany("insert into ledger values (%s, %s)", pans())
    yield ground
    with psycopg.connect(ground.dsn(), autocommit=True) as app:
        app.execute("delete from ledger where n >= 5000")


@dataclass
class Dammed:
    """A pgveil of one worker whose way to the server has a dam."""

    dam: Dam
    ground: Ground


@pytest.fixture(scope="module")
def dammed(filled: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dammed]:
    other = filled.beside(tmp_path_factory.mktemp("dam") / "home")
    with Dam(filled.pg.port) as dam:
        other.configure(
            workers=1,
            server=f"hosts: 127.0.0.1:{dam.port}",
            more="limits: {authentication_seconds: 2, close_seconds: 0.5}\n",
        )
        other.start()
        yield Dammed(dam, other)
        dam.release()
        other.stop()


def through(dam: Dam, ground: Ground, name: str = "") -> Connection:
    """A connection by way of a dam before pgveil."""
    dsn = f"postgresql://app@127.0.0.1:{dam.port}/{ground.database}?sslmode={ground.sslmode}&application_name={name}"
    return psycopg.connect(dsn, autocommit=True)


def others_go_on(ground: Ground) -> None:
    """A new client is served, whichever worker takes it, and one more on each."""
    for _ in range(4):
        with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
            assert teller.execute(LOOK).fetchall() == pans()


def served(ground: Ground) -> bool:
    """Whether a new client is."""
    try:
        with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
            return bool(teller.execute(LOOK).fetchall() == pans())
    except psycopg.OperationalError:
        return False


class Asking(threading.Thread):
    """Runs something that may take as long as a test likes. `outcome` is what came of it."""

    def __init__(self, connection: Connection, sql: str, *args: object) -> None:
        super().__init__(daemon=True)
        self._what = (connection, sql, args)
        self.outcome: list[tuple[Any, ...]] | psycopg.Error | None = None
        self.start()

    def run(self) -> None:
        """In a thread."""
        connection, sql, args = self._what
        try:
            cursor = connection.execute(sql.encode(), args or None)
            self.outcome = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            self.outcome = error


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("after", [0, 3, 40])
def test_a_client_s_network_stalls_in_the_middle_of_a_message(filled: Ground, direction: str, after: int) -> None:
    with Dam(filled.port) as dam, through(dam, filled) as slow:
        dam.hold(direction, after)
        asking = Asking(slow, LOOK)
        assert dam.held.wait(30)
        others_go_on(filled)
        assert asking.is_alive()
        dam.release()
        asking.join(30)
        assert asking.outcome == pans()


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("after", [0, 3, 40])
def test_the_server_s_network_stalls_in_the_middle_of_a_message(dammed: Dammed, direction: str, after: int) -> None:
    """Nothing of the rest is guessed, a client whose way is open goes on, and a write is done once."""
    dam, ground = dammed.dam, dammed.ground
    with psycopg.connect(ground.dsn(), autocommit=True) as slow:
        assert slow.execute("select 1").fetchone() == (1,)
        dam.hold(direction, after)
        asking = Asking(slow, "insert into ledger values (6000, '4000000000001') returning pan")
        assert dam.held.wait(30)
        assert asking.is_alive()
        assert ground.metric("pgveil_connections") == 1, "the worker answers"
        dam.release()
        asking.join(30)
        assert asking.outcome == [("4000000000001",)]
        assert slow.execute("delete from ledger where n = 6000").rowcount == 1
    until(lambda: ground.metric("pgveil_connections") == 0, "the connection is over")
    ground.verify_audit()


def test_a_client_that_gives_up_during_a_stall_leaves_nothing(dammed: Dammed) -> None:
    dam, ground = dammed.dam, dammed.ground
    slow = psycopg.connect(ground.dsn(), autocommit=True)
    # Known to pgveil, so that it has no question of its own; while one is under way it does not look at the client.
    assert slow.execute(LOOK).fetchall() == pans()
    dam.hold(DOWN, 3)
    try:
        asking = Asking(slow, LOOK)
        assert dam.held.wait(30)
        with socket.socket(fileno=os.dup(slow.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        until(lambda: ground.metric("pgveil_connections") == 0, "the connection is given up")
        asking.join(30)
        assert isinstance(asking.outcome, psycopg.OperationalError)
    finally:
        dam.release()
    until(ground.ready, "pgveil is ready")


@pytest.mark.parametrize("where", ["client", "server"])
def test_a_login_that_stalls_is_ended(dammed: Dammed, where: str) -> None:
    """In the middle of the startup packet, or of the server's answer to it."""
    dam, ground = dammed.dam, dammed.ground
    until(ground.ready, "pgveil is ready")
    before = ground.metric("pgveil_connections_refused_total", reason="timeout")
    body = b"user\0app\0database\0" + ground.database.encode() + b"\0\0"
    packet = struct.pack("!ii", len(body) + 8, 196608) + body
    if where == "server":
        dam.hold(DOWN, 2)
    try:
        with closing(socket.create_connection(("127.0.0.1", ground.port), timeout=30)) as raw:
            raw.sendall(packet if where == "server" else packet[:20])
            answer = b""
            while data := raw.recv(4096):
                answer += data
    finally:
        dam.release()
    assert b"the login took too long" in answer
    assert ground.metric("pgveil_connections_refused_total", reason="timeout") == before + 1
    until(ground.ready, "pgveil is ready again")


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _reads_nothing(ground: Ground, tmp_path: Path, seconds: float) -> None:
    """Some 200 MB wait for a client that takes nothing; then it takes them all."""
    other = ground.beside(tmp_path / "full")
    other.configure(workers=1)
    other.start()
    try:
        with psycopg.connect(other.dsn(name="idler"), autocommit=True) as app:
            backend = app.info.backend_pid
            app.execute("select pan from ledger limit 1")
            (worker,) = other.workers()
            before = _memory(worker)
            app.pgconn.send_query(MANY.encode())
            app.pgconn.flush()
            with psycopg.connect(ground.dsn("postgres", direct=True), autocommit=True) as admin:

                def blocked() -> bool:
                    row = admin.execute("select wait_event from pg_stat_activity where pid = %s", (backend,)).fetchone()
                    return row == ("ClientWrite",)

                until(blocked, "the server is kept from sending")
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    others_go_on(other)
                    assert blocked()
            others_go_on(other)
            assert _memory(worker) - before < 64 << 20, "what nobody takes stays at the server"
            started = [r for r in other.records() if r["kind"] == "statement" and r["application"] == "idler"]
            assert started, "the record stands before a row does"
            rows = 0
            app.pgconn.set_single_row_mode()
            while (result := app.pgconn.get_result()) is not None:
                rows += result.ntuples
            assert rows == ROWS * 5000
    finally:
        other.stop()
    other.verify_audit()


def test_a_client_that_reads_nothing(filled: Ground, tmp_path: Path) -> None:
    _reads_nothing(filled, tmp_path, 0.0)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_client_that_reads_nothing_for_a_minute(filled: Ground, tmp_path: Path) -> None:
    _reads_nothing(filled, tmp_path, 60.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """A network of its own, and the two ends of the cable to it. Names and addresses are this process's: runs share the kernel's network."""

    space: str
    near: str
    far: str
    near_link: str
    far_link: str

    @classmethod
    def of(cls, process: int) -> Machine:
        block = process % 2**14 * 4  # a /30 of 10.213.0.0/16
        near, far = (f"10.213.{(block + n) >> 8}.{(block + n) & 255}" for n in (1, 2))
        return cls(f"pgveil-far-{process}", near, far, f"pgvn{process}", f"pgvf{process}")


@contextmanager
def another_machine() -> Iterator[Machine]:
    """A machine joined by a cable that can be pulled. Skips where that is not allowed; takes away what it has made, and nothing else."""
    machine = Machine.of(os.getpid())
    space, undo = machine.space, []
    commands = [
        (f"ip netns add {space}", f"ip netns del {space}"),
        (
            f"ip link add {machine.near_link} type veth peer name {machine.far_link} netns {space}",
            f"ip link del {machine.near_link}",
        ),
        (f"ip addr add {machine.near}/30 dev {machine.near_link}", None),
        (f"ip link set {machine.near_link} up", None),
        (f"ip -n {space} addr add {machine.far}/30 dev {machine.far_link}", None),
        (f"ip -n {space} link set {machine.far_link} up", None),
    ]
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed: a machine that vanishes is not tried")
    try:
        for command, undoing in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(
                    f"a machine that vanishes is not tried: `{command}` is not allowed here ({done.stderr.strip()})"
                )
            undo += [undoing] if undoing is not None else []
        yield machine
    finally:
        for command in reversed(undo):
            subprocess.run(command.split(), capture_output=True, check=False)


_FAR_CLIENT = """
import psycopg, sys
connection = psycopg.connect(sys.argv[1], autocommit=True)
print(connection.execute("select pan from ledger limit 1").fetchone()[0], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("unsent", [False, True])
def test_a_client_whose_machine_vanishes_is_noticed(filled: Ground, tmp_path: Path, unsent: bool) -> None:
    """No FIN, no RST: keepalive finds the idle one, the limit of unacknowledged bytes the one that was being sent rows."""
    other = filled.beside(tmp_path / "vanished")
    other.configure(
        workers=1,
        more="keepalive: {idle_seconds: 1, interval_seconds: 1, count: 2, unacknowledged_seconds: 2}\nlimits: {close_seconds: 0.5}\n",
    )
    with another_machine() as machine:
        text = other.config.read_text().replace("address: 127.0.0.1", f"address: {machine.near}", 1)
        other.config.write_text(text)
        other.start()
        try:
            dsn = f"postgresql://app@{machine.near}:{other.port}/{other.database}?sslmode={other.sslmode}"
            program = _FAR_CLIENT
            if unsent:
                program = program.replace(
                    "sys.stdin.read()", f"connection.pgconn.send_query({MANY.encode()!r}); sys.stdin.read()"
                )
            command = ["ip", "netns", "exec", machine.space, sys.executable, "-c", program, dsn]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as far:
                assert far.stdout is not None
                assert far.stdout.readline()
                assert other.metric("pgveil_connections") == 1
                subprocess.run(["ip", "link", "set", machine.near_link, "down"], check=True)
                try:
                    until(lambda: other.metric("pgveil_connections") == 0, "the client is given up")
                finally:
                    far.kill()
            ended = [r for r in other.records() if r["kind"] == "logout"]
            assert len(ended) == 1
        finally:
            other.stop()


# What stands on the server's machine: it takes connections from the cable and hands them to the server by a Unix socket, which no cable carries.
_FAR_SERVER = """
import asyncio, sys
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def serve(reader, writer):
    further, back = await asyncio.open_unix_connection(sys.argv[3])
    await asyncio.gather(pump(reader, back), pump(further, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]))
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def server_on(machine: Machine, ground: Ground, path: Path) -> Iterator[None]:
    """The ground's server, as a machine in another network would be: at its far address, with its own port."""
    where = (machine.far, str(ground.pg.port), str(path))
    command = ["ip", "netns", "exec", machine.space, sys.executable, "-c", _FAR_SERVER, *where]
    with Dam(ground.pg.port, path), subprocess.Popen(command, stdout=subprocess.PIPE) as far:
        try:
            assert far.stdout is not None
            assert far.stdout.readline() == b"ready\n"
            yield
        finally:
            far.kill()


@contextmanager
def cable_pulled(machine: Machine) -> Iterator[None]:
    """At the far end: what is sent gets lost, and nobody says so."""
    subprocess.run(["ip", "-n", machine.space, "link", "set", machine.far_link, "down"], check=True)
    yield
    subprocess.run(["ip", "-n", machine.space, "link", "set", machine.far_link, "up"], check=True)


@pytest.mark.parametrize("asking", [False, True])
def test_a_server_whose_machine_vanishes_is_noticed(filled: Ground, tmp_path: Path, asking: bool) -> None:
    """Nobody's FIN or RST: an idle client's server is found gone by keepalive, that of one who asks by what is not acknowledged."""
    other = filled.beside(tmp_path / "vanished")
    with another_machine() as machine, server_on(machine, filled, tmp_path / "way"):
        other.configure(
            workers=1,
            server=f"hosts: {machine.far}:{filled.pg.port}",
            more="keepalive: {idle_seconds: 1, interval_seconds: 1, count: 2, unacknowledged_seconds: 2}\nlimits: {close_seconds: 0.5}\n",
        )
        other.start()
        try:
            until(lambda: served(other), "the way is there")
            with psycopg.connect(other.dsn(), autocommit=True) as app:
                assert app.execute(LOOK).fetchall() == pans()
                with cable_pulled(machine):
                    question = Asking(app, LOOK) if asking else None
                    until(lambda: other.metric("pgveil_connections") == 0, "the server is given up")
                    question = question or Asking(app, LOOK)
                    question.join(30)
                assert isinstance(question.outcome, psycopg.OperationalError)
                assert "the PostgreSQL server closed the connection" in str(question.outcome)
            until(lambda: served(other), "the way is found again")
        finally:
            other.stop()
    sessions = Counter(r["kind"] for r in other.records() if r["kind"] in {"login", "logout"})
    assert sessions == {"login": 3, "logout": 3}
    other.verify_audit()
    left = f"select count(*) from pg_stat_activity where datname = '{filled.database}' and usename in ('app', 'teller')"
    until(lambda: filled.pg.psql(left).strip() == "0", "nothing of it is left at the server")


def test_both_sides_ask_whether_the_peer_is_there(filled: Ground, tmp_path: Path) -> None:
    """What the kernel has been told, of each TCP connection of a worker (ss shows the timers)."""
    if shutil.which("ss") is None:
        pytest.skip("iproute2 is not installed: nobody shows the kernel's timers")
    other = filled.beside(tmp_path / "options")
    other.configure(workers=1, more="keepalive: {idle_seconds: 77}\n")
    other.start()
    try:
        with psycopg.connect(other.dsn(), autocommit=True) as app:
            app.execute("select 1")
            (worker,) = other.workers()

            def asked() -> bool:
                shown = subprocess.run(
                    ["ss", "-tnop", "state", "established"], capture_output=True, text=True, check=False
                ).stdout
                timers = [line for line in shown.splitlines() if f"pid={worker}," in line]
                client = [line for line in timers if f":{other.port} " in line]
                server = [line for line in timers if f":{other.pg.port} " in line]
                return (
                    bool(client)
                    and all("timer:(keepalive,1min" in line for line in client)
                    and any("timer:(keepalive,1min" in line for line in server)
                )

            # What was said last may not be acknowledged yet; its timer is shown instead.
            until(asked, "both are asked")
    finally:
        other.stop()
