"""What the story happens on: a directory, PostgreSQL in it, pgveil in front. Everything ends and goes when the stage is left."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from lifecycle.demo.bank import rules_yaml
from lifecycle.demo.postgres import Postgres, free_port, remove_with_data

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE: Final = "bank"
CATALOG_LOGIN: Final = "pgveil"
KEPT: Final = Path(".demo")

_MARK: Final = "pgveil-demonstration"
_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_COMMAND_SECONDS: Final = 120.0
_PAUSE: Final = 0.05
_COLUMNS: Final = 88


class StageError(Exception):
    """The stage can't be set. The text says why, and what would help."""


class Stage:
    """`with Stage.make(keep=...) as stage:`. `home` holds every file."""

    def __init__(self, home: Path, lock: int) -> None:
        self.home = home
        self.postgres = Postgres.make("16", root=home / "postgres")
        self.port = free_port()
        self.metrics_port = free_port()
        self._lock = lock
        self._proxy: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, *, keep: bool) -> Self:
        """A stage in a temporary directory, or in `.demo` of the current one. Raises StageError, PostgresUnavailableError, OSError."""
        if keep:
            _clear(KEPT)
            KEPT.mkdir()
        home = (KEPT if keep else Path(tempfile.mkdtemp(prefix="pgveil-demo-"))).absolute()
        lock = os.open(home / _MARK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            return cls(home, lock)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody's impatience may leave a server behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._stop_proxy()
        self.postgres.destroy()
        shutil.rmtree(self.home, ignore_errors=True)
        os.close(self._lock)

    def dsn(self, login: str, *, direct: bool = False) -> str:
        """A connection URL: through pgveil, or straight to the server."""
        port = self.postgres.port if direct else self.port
        return f"postgresql://{login}@127.0.0.1:{port}/{DATABASE}"

    def write(self, name: str, text: str) -> Path:
        """A file in the stage's directory."""
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        return path

    def write_rules(self) -> Path:
        """The bank's rules, as rules.yaml."""
        return self.write("rules.yaml", rules_yaml())

    def configuration(self) -> str:
        """pgveil.yaml."""
        return f"""\
rules: rules.yaml
keys: keys
audit: audit
workers: 1
listen:
  port: {self.port}
server:
  hosts: 127.0.0.1:{self.postgres.port}
  sslmode: disable            # one machine, one story; elsewhere verify-full
catalog:
  dsn: {self.dsn(CATALOG_LOGIN, direct=True)}
metrics:
  port: {self.metrics_port}
limits:
  drain_seconds: 1
"""

    def pgveil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of pgveil's in the stage's directory. Standard output and error output come as one text."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=self.home,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=_COMMAND_SECONDS,
            check=False,
            # A Ctrl-C is for the story, which then ends everything in order.
            start_new_session=True,
        )

    def start_proxy(self) -> None:
        """`pgveil run`, until it is ready. Raises StageError with the end of its log."""
        log = self.home / "pgveil.log"
        with log.open("ab") as out:
            self._proxy = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run"],
                cwd=self.home,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._proxy.poll() is None:
            try:
                self.page("readyz")
            except OSError:
                time.sleep(_PAUSE)
            else:
                return
        raise StageError(f"pgveil did not become ready:\n{log.read_text(errors='replace')[-2000:]}")

    def page(self, name: str) -> str:
        """A page of pgveil's monitoring listener. Raises OSError."""
        asking = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=5)
        try:
            asking.request("GET", f"/{name}")
            answer = asking.getresponse()
            text = answer.read().decode()
        finally:
            asking.close()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{name}: {answer.status}")
        return text

    def wait(self) -> None:
        """Until pgveil ends; it does not by itself."""
        assert self._proxy is not None
        self._proxy.wait()

    def _stop_proxy(self) -> None:
        if self._proxy is None:
            return
        self._proxy.send_signal(signal.SIGTERM)
        try:
            self._proxy.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._proxy.kill()
            self._proxy.wait()
        self._proxy = None


def _environment() -> dict[str, str]:
    """Ours without what would change what the commands do or how they print it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return kept | {
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "COLUMNS": str(_COLUMNS),
    }


def _clear(home: Path) -> None:
    """Make place for a new stage: what a killed one left goes, anything else stays and is an error."""
    if not home.exists():
        return
    try:
        lock = os.open(home / _MARK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise StageError(f"{home} is there and is no demonstration's: move it away") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StageError(f"a demonstration runs in {home} already: stop it with Ctrl-C where it was started") from None
    finally:
        os.close(lock)
    for pid in _left_behind(home):
        raise StageError(f"a killed demonstration left PostgreSQL running: stop it with: kill -INT {pid}")
    remove_with_data(home / "postgres")
    shutil.rmtree(home)


def _left_behind(home: Path) -> Iterator[int]:
    """The server that still runs in a stage whose story was killed."""
    try:
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, 0)
    except (OSError, ValueError):
        return
    yield pid
