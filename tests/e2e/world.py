"""A whole pgveil for the tests: a server with the demonstration bank, rules applied, `pgveil run` in front, and a tap on every byte.

The tap stands between the tests' clients and pgveil and keeps what each login was sent, so that the canary test can look for protected
values in all of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from lifecycle.demo.bank import Bank, generate, roles_sql, rules_yaml
from lifecycle.demo.load import load
from lifecycle.demo.postgres import Postgres, free_port
from rules.load import load_rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.watch import Watch

CUSTOMERS = 300
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
SHORTEST = 5  # names of two characters occur everywhere; what is checked must be unmistakable
READY_SECONDS = 120  # a limit, not a judgement: a busy machine takes its time


class Tap:
    """Forwards connections to `target` and remembers, by login, every byte that the server's side sent. It declines TLS, to see them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent: dict[str, bytearray] = {}
        self.watch: Watch | None = None
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for leg in (client, server):
            leg.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        login = [""]
        address = "{}:{}".format(*server.getsockname()[:2])
        with self._lock:
            if self.watch is not None:
                self.watch.begins(address)
        threading.Thread(target=self._forward, args=(client, server, login, None), daemon=True).start()
        self._forward(server, client, login, address)

    def _forward(self, source: socket.socket, target: socket.socket, login: list[str], address: str | None) -> None:
        """From the client, or (with the address that pgveil knows it by) to it."""
        up = address is None
        try:
            while data := source.recv(65536):
                if up and not login[0] and data == _SSL_REQUEST:
                    source.sendall(b"N")
                    continue
                if up and not login[0] and b"user\0" in data:
                    login[0] = data.split(b"user\0", 1)[1].split(b"\0", 1)[0].decode()
                if address is not None:
                    with self._lock:
                        self.sent.setdefault(login[0], bytearray()).extend(data)
                        if self.watch is not None:
                            self.watch.sent(login[0], address, data)
                target.sendall(data)
        except OSError:
            pass
        for leg, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            try:
                leg.shutdown(how)
            except OSError:
                continue


@dataclass
class World:
    """Everything that stands. Ports: `pg` the server itself, `tap.port` pgveil as the tests reach it."""

    pg: Postgres
    home: Path
    database: str
    bank: Bank
    port: int
    metrics_port: int
    tap: Tap
    process: subprocess.Popen[bytes]
    logins: dict[str, str] = field(default_factory=dict)

    def dsn(self, login: str, *, direct: bool = False, database: str | None = None) -> str:
        """A connection URL: through pgveil, or straight to the server."""
        port = self.pg.port if direct else self.tap.port
        return f"postgresql://{login}@127.0.0.1:{port}/{database or self.database}"

    @property
    def audit(self) -> Path:
        """The audit log's directory."""
        return self.home / "audit"

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).read().decode()
        samples = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        assert samples, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def record(self, **wanted: object) -> dict[str, Any]:
        """The newest audit record with these fields. Records that gate nothing become durable a moment later, so it is waited for."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            found = [r for r in self.records() if all(r.get(k) == v for k, v in wanted.items())]
            if found:
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(f"no audit record with {wanted}")

    def records(self) -> Iterator[dict[str, Any]]:
        """Every audit record, in file order."""
        return records_in(self.audit)


def canaries_of(world: World) -> dict[str, set[str]]:
    """Protected values as text, by full column name."""
    found: dict[str, set[str]] = {}
    rules = load_rules(world.home / "rules.yaml")
    for column in rules.protected_columns():
        table = world.bank.tables[column.name.table]
        place = table.names.index(column.name.column)
        values = {str(row[place]) for row in world.bank.copy_rows(column.name.table) if row[place] is not None}
        if column.name.column in {"phone", "email", "id_number", "pan", "number"}:
            found[str(column.name)] = {v for v in values if len(v) >= SHORTEST}
    return found


def write_config(
    home: Path,
    pg: Postgres,
    database: str,
    port: int,
    metrics_port: int,
    *,
    sslmode: str = "disable",
    certificate: Path | None = None,
) -> Path:
    """A configuration file in `home`. `sslmode`: towards the server; `certificate`: the directory of one to show clients, else a new one."""
    path = home / "pgveil.yaml"
    if certificate is None:
        write_certificate(home)
    else:
        for name in ("server.crt", "server.key"):
            shutil.copy(certificate / name, home / name)
    path.write_text(
        f"""rules: rules.yaml
keys: keys
audit: audit
workers: 1
listen:
  address: 127.0.0.1
  port: {port}
server:
  hosts: 127.0.0.1:{pg.port}
  sslmode: {sslmode}
catalog:
  dsn: {pg.dsn(database)}
metrics:
  port: {metrics_port}
tls:
  certificate: server.crt
  key: server.key
"""
    )
    return path


def records_in(audit: Path) -> Iterator[dict[str, Any]]:
    """Every audit record under a directory, in file order; a line that is being written is left out."""
    for path in sorted(audit.rglob("*.jsonl")):
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            yield json.loads(line)["event"]


def write_certificate(home: Path) -> None:
    """A self-signed certificate for localhost in `home`: server.crt and server.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (home / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (home / "server.key").touch(mode=0o600)
    (home / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def start_pgveil(config: Path, log: Path) -> subprocess.Popen[bytes]:
    """`pgveil run` as a process of its own."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "proxy", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def wait_ready(metrics_port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until /readyz says so; fails with the log's end."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/readyz", timeout=2).read()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"pgveil did not become ready:\n{log.read_text()[-4000:]}")


async def prepare(
    pg: Postgres, home: Path, database: str, bank: Bank, *, rules_text: str | None = None, more_sql: str = ""
) -> None:
    """The bank in a database, keys made, rules applied (the bank's own, or others). `more_sql` runs before them."""
    (home / "rules.yaml").write_text(rules_yaml() if rules_text is None else rules_text)
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    master = FileMasterKey.generate(keys / "master.key", os.urandom)
    ring = KeyRing.initialise(keys, master)
    rules = load_rules(home / "rules.yaml")
    connection = await asyncpg.connect(pg.dsn(database))
    try:
        await load(connection, bank)
        await connection.execute(roles_sql())
        if more_sql:
            await connection.execute(more_sql)
        await execute(
            connection,
            await make_plan(connection, rules, ring),
            rules,
            ring,
            random=os.urandom,
            progress=lambda *_: None,
        )
    finally:
        await connection.close()


def make_world(
    pg: Postgres,
    home: Path,
    *,
    sslmode: str = "disable",
    certificate: Path | None = None,
    customers: int = CUSTOMERS,
    rules_text: str | None = None,
    more_sql: str = "",
) -> World:
    """Build and start everything. `rules_text`, `more_sql`: as in `prepare`."""
    database = pg.create_database()
    bank = generate(customers=customers)
    asyncio.run(prepare(pg, home, database, bank, rules_text=rules_text, more_sql=more_sql))
    port, metrics_port = free_port(), free_port()
    log = home / "pgveil.log"
    process = start_pgveil(
        write_config(home, pg, database, port, metrics_port, sslmode=sslmode, certificate=certificate), log
    )
    wait_ready(metrics_port, process, log)
    return World(pg, home, database, bank, port, metrics_port, Tap(port), process)


def stop_world(world: World) -> None:
    """SIGTERM, and a clean end within the drain time."""
    world.tap.close()
    stop_process(world.process)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to a pgveil, and a clean end within the drain time."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
