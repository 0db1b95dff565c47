"""A proving ground of one's own for the fault tests: a server that may be killed, and a pgveil of two workers in front that may be too.

Nothing here is shared with other tests, since everything in it is there to be broken.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keys.account import server_account
from lifecycle.demo.bank import generate, rules_yaml
from lifecycle.demo.postgres import Postgres, free_port
from tests.e2e.world import READY_SECONDS, prepare, records_in, wait_ready, write_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

LEDGER_RULES = """  public.ledger:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
  public.memos:
    columns:
      memo: {level: core, protection: sealed, mode: randomized, type: text}
"""
LEDGER_SQL = """
CREATE TABLE ledger (n int8 PRIMARY KEY, pan varchar(19) NOT NULL);
CREATE TABLE memos (n int8, memo text NOT NULL);
CREATE TABLE plain (n int8 PRIMARY KEY, note text);
INSERT INTO plain SELECT n, 'note ' || n FROM generate_series(1, 100) n;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger, memos, plain TO app;
GRANT SELECT ON ledger, memos, plain TO teller;
"""


# `pgveil run` with services of the tests' own.
_SUPERVISE = """
import asyncio, sys, time
from pathlib import Path
from proxy import logs
from proxy.config import load_config
path, factory = Path(sys.argv[1]), sys.argv[2]
settings = load_config(path)
logs.configure(level="info")
from proxy.monitoring import Monitoring
from proxy.supervisor import Supervisor, worker_command
page = Monitoring(settings.metrics, workers=settings.workers, version="test", now=time.time)
try:
    asyncio.run(Supervisor(settings, worker_command(path, factory), watcher=page, monotonic=time.monotonic).run())
finally:
    page.close()
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def until(holds: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Wait for something to become true; a generous limit, and no judgement of how long it took."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def slay(pid: int) -> bool:
    """SIGKILL, and the end that follows. False: it was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    until(lambda: not alive(pid), "a killed process ends")
    return True


def crash(server: Postgres) -> None:
    """The postmaster and all that it has started, killed: what a power cut leaves of the processes, though not of the disk."""
    assert server._process is not None
    family = children(server._process.pid)
    server.stop(signal.SIGKILL)
    for pid in family:
        slay(pid)


@dataclass
class Ground:
    """Everything that stands. With `tls` there is a certificate in `home`, which the server shows as well."""

    pg: Postgres
    home: Path
    database: str
    tls: bool = False  # on both legs
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    crowds: int = 0  # that have worked here

    @property
    def log(self) -> Path:
        """What pgveil has logged."""
        return self.home / "pgveil.log"

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.home / "pgveil.yaml"

    @property
    def sslmode(self) -> str:
        """What each leg asks for."""
        return "require" if self.tls else "disable"

    def dsn(self, login: str = "app", *, direct: bool = False, name: str = "") -> str:
        """A connection URL."""
        port = self.pg.port if direct else self.port
        return f"postgresql://{login}@127.0.0.1:{port}/{self.database}?sslmode={self.sslmode}&connect_timeout=10" + (
            f"&application_name={name}" if name else ""
        )

    def configure(self, *, workers: int = 2, server: str = "", more: str = "", dsn: str | None = None) -> None:
        """Write the configuration. `server`: instead of the one server's address; `more`: further sections."""
        hosts = server or f"hosts: 127.0.0.1:{self.pg.port}"
        if self.tls:
            more += "tls: {certificate: server.crt, key: server.key}\n"
        self.config.write_text(
            f"workers: {workers}\n"
            f"listen: {{address: 127.0.0.1, port: {self.port}}}\n"
            f"server:\n  sslmode: {self.sslmode}\n  {hosts}\n"
            f"catalog: {{dsn: '{dsn or self.pg.dsn(self.database)}'}}\n"
            f"metrics: {{port: {self.metrics_port}}}\n"
            f"calculator: {{enabled: off}}\n{more}"
        )

    def start(self, *, factory: str | None = None, limit: Callable[[], None] | None = None) -> None:
        """`pgveil run`, until it is ready. `factory`: of the workers' services; `limit` runs in the process before pgveil does."""
        self.launch(factory=factory, limit=limit)
        assert self.process is not None
        wait_ready(self.metrics_port, self.process, self.log)

    def settle(self) -> None:
        """After the first start, until both workers serve: it is ready with one, and a reload asks those that serve."""
        assert self.process is not None

        def reloads() -> list[int]:
            return [e["workers"] for e in self.events("reload.applied") if "workers" in e]

        sent = 0
        while 2 not in reloads():
            sent += 1
            self.process.send_signal(signal.SIGHUP)
            until(lambda: len(reloads()) >= sent, "the reload is applied")  # noqa: B023
        # One that came after a reload has been given one of its own.
        until(lambda: len(reloads()) == sent + (1 in reloads()), "no reload is under way")

    def launch(self, *, factory: str | None = None, limit: Callable[[], None] | None = None) -> None:
        """The same, without waiting."""
        command = ["-m", "proxy", "run", "--config", str(self.config)]
        if factory is not None:
            command = ["-c", _SUPERVISE, str(self.config), factory]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=limit,  # noqa: PLW1509 - no threads that matter hold locks here
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )

    def beside(self, home: Path) -> Ground:
        """Another pgveil before the same database, not started: with the same rules and keys, and an audit log of its own."""
        home.mkdir(exist_ok=True)
        shutil.copy(self.home / "rules.yaml", home)
        shutil.copytree(self.home / "keys", home / "keys")
        if self.tls:
            shutil.copy(self.home / "server.crt", home)
            shutil.copy(self.home / "server.key", home)
        other = Ground(self.pg, home, self.database, self.tls)
        other.configure()
        return other

    def stop(self) -> None:
        """SIGTERM, and the end that follows."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        workers = children(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                for pid in workers:
                    slay(pid)

    def workers(self) -> list[int]:
        """The process ids of the workers that run."""
        assert self.process is not None
        return [pid for pid in children(self.process.pid) if b"proxy.worker_process" in _command_line(pid)]

    def ready(self) -> bool:
        """What /readyz says."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5).read()
        except OSError:
            return False
        return True

    def readiness(self) -> dict[str, bool]:
        """The checks of /readyz by name."""
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/readyz", timeout=5)
        except urllib.error.HTTPError as error:
            answer = error
        checks: dict[str, bool] = json.loads(answer.read())["checks"]
        return checks

    def samples(self, name: str) -> list[str]:
        """A metric's samples, as the page has them, zeros too."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).read().decode()
        return [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there are none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.samples(name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))

    def events(self, name: str) -> list[dict[str, Any]]:
        """What pgveil has logged under an event's name."""
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == name:
                    found.append(event)
        return found

    def records(self) -> list[dict[str, Any]]:
        """Every audit record, in file order."""
        return list(records_in(self.home / "audit"))

    def verify_audit(self) -> None:
        """`pgveil audit verify` finds the log whole."""
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "audit", "verify", str(self.home / "audit")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _with_tls(server: Postgres, certificate: Path) -> Postgres:
    """The same server, which shows this certificate."""
    owner = server_account()
    server.prepare()
    for name in ("server.crt", "server.key"):
        file = Path(shutil.copy(certificate / name, server.data.resolve()))
        file.chmod(0o600)
        if owner is not None:
            os.chown(file, owner.pw_uid, owner.pw_gid)
    files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
    return replace(server, settings={**server.settings, "ssl": "on", **files})


def make_ground(home: Path, version: str = "16", *, tls: bool = False, **settings: str) -> Ground:
    """A durable server with the bank and a ledger in it, rules applied; pgveil is configured and not started."""
    server = Postgres.make(version, durable=True, settings=settings)
    if tls:
        write_certificate(home)
        server = _with_tls(server, home)
    server.start()
    database = server.create_database()
    rules = rules_yaml().replace("tables:\n", "tables:\n" + LEDGER_RULES, 1)
    asyncio.run(prepare(server, home, database, generate(customers=30), rules_text=rules, more_sql=LEDGER_SQL))
    ground = Ground(server, home, database, tls)
    ground.configure()
    return ground
