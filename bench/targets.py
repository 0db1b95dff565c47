"""What is measured: the server itself, PgBouncer and pgveil in front of it, each with its own temporary files."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keys.providers.file import MASTER_FILE, FileMasterKey
from keys.ring import KeyRing
from lifecycle.demo.postgres import Postgres, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOGIN: Final = "bench"
START_SECONDS: Final = 30.0
PGBOUNCER: Final = "/usr/sbin/pgbouncer"


class BenchError(RuntimeError):
    """Something that is measured did not start or did not answer; the text has its last words."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that speaks PostgreSQL's protocol on a port of 127.0.0.1."""

    name: str
    port: int
    database: str
    pid: int | None = None  # of what stands in the middle; its children count with it

    @property
    def url(self) -> str:
        """The connection URL of the measuring login."""
        return f"postgresql://{LOGIN}@127.0.0.1:{self.port}/{self.database}"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, as far as they live (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children)


def run(command: Sequence[str], text: str = "", environ: dict[str, str] | None = None) -> str:
    """A command's output. Raises BenchError with its errors when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def find_pgbouncer() -> str | None:
    """PgBouncer's program, or None where it is not installed."""
    return shutil.which("pgbouncer") or (PGBOUNCER if Path(PGBOUNCER).exists() else None)


@contextlib.contextmanager
def pgbouncer(program: str, server: Postgres, database: str, home: Path) -> Iterator[Target]:
    """PgBouncer in session mode: version 1.18 has no prepared statements in the others."""
    port = free_port()
    home.mkdir(parents=True)
    (home / "users.txt").write_text(f'"{LOGIN}" ""\n')
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {home}/users.txt\npool_mode = session\nmax_client_conn = 200\ndefault_pool_size = 64\n"
        "ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n"
    )
    other = _unprivileged()
    for path in (home, *home.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [program, "-q", str(home / "pgbouncer.ini")]
    with _running(command, home / "pgbouncer.log", user=other) as process:
        target = Target("pgbouncer", port, database, process.pid)
        _wait(target, server, process, home / "pgbouncer.log")
        yield target


@contextlib.contextmanager
def forwarder(server: Postgres, database: str, home: Path) -> Iterator[Target]:
    """A bare forwarder in Python on uvloop: what nobody who writes a proxy in Python can be faster than."""
    port = free_port()
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.forwarder", str(port), str(server.port)]
    with _running(command, home / "forwarder.log") as process:
        target = Target("forwarder", port, database, process.pid)
        _wait(target, server, process, home / "forwarder.log")
        yield target


@contextlib.contextmanager
def pgveil(
    server: Postgres, database: str, home: Path, rules: str, domains: Sequence[str], workers: int
) -> Iterator[Target]:
    """`pgveil run` with keys (for `domains`) and an audit log of its own; the audit log syncs to the disk below `home`."""
    port = free_port()
    home.mkdir(parents=True)
    (home / "rules.yaml").write_text(rules)
    (home / "pgveil.yaml").write_text(
        f"workers: {workers}\nlisten: {{address: 127.0.0.1, port: {port}}}\n"
        f'server: {{hosts: "127.0.0.1:{server.port}", sslmode: disable}}\n'
        f"catalog: {{dsn: {server.dsn(database)}}}\nlog: {{level: warning}}\n"
    )
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / MASTER_FILE, os.urandom))
    for domain in domains:
        ring.ensure(domain, os.urandom)
    program = [sys.executable, "-m", "proxy"]
    run([*program, "apply", "--yes", "--config", str(home / "pgveil.yaml"), "--database", server.dsn(database)])
    log = home / "pgveil.log"
    with _running([*program, "run", "--config", str(home / "pgveil.yaml")], log) as process:
        target = Target("pgveil", port, database, process.pid)
        _wait(target, server, process, log)
        yield target


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path, user: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, user=user)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unprivileged() -> int | None:
    """Whom PgBouncer runs as where we are root, because it refuses to run as root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _wait(target: Target, server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a statement gets an answer through `target`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(BenchError):
            run([str(server.bin_dir / "psql"), "-XqAt", "-d", target.url, "-c", "SELECT 1"])
            return
        time.sleep(0.2)
    raise BenchError(f"{target.name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
