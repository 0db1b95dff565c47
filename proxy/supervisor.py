"""`pgveil run`: N workers on one port, each a process of its own; a worker that dies is started again.

The workers share the port (SO_REUSEPORT) and nothing else. The supervisor holds the port without listening on it, so that a free port that
it was given stays the same while workers come and go, and it makes the Unix socket, which can't be shared that way, and hands it down.
Each worker's standard input is a pipe from the supervisor: it ends when the supervisor does, even by SIGKILL, and so does the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from proxy.config import Address
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.calculator.engine import Engine
    from proxy.config import Config

# A worker that dies young is started again ever more slowly; one that lived this long has earned a quick restart.
_OLD: Final = 30.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
# Beyond draining and closing, before SIGKILL.
_GRACE: Final = 10.0
# Exit codes of a worker that starting again can't help: the configuration has to change. That is so until one has run in its place:
# later somebody is in the middle of a change, or a disk is full, and the siblings still serve.
_HOPELESS: Final = frozenset((2,))
# Exit codes of a worker that has not run: these, and what it waits for is not there (`proxy.cli`).
_NOT_STARTED: Final = _HOPELESS | {3}


class WorkerWatcher(Protocol):
    """Who wants to know of workers (metrics)."""

    def worker_started(self, number: int, pid: int) -> None:
        """A worker runs."""

    def worker_ended(self, number: int, pid: int, exit_code: int, *, expected: bool) -> None:
        """It doesn't any more; negative exit codes are signals."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Sockets that outlive the workers. `unix` is None where none is configured."""

    tcp: socket.socket
    port: int
    unix: socket.socket | None
    unix_path: Path | None

    def close(self) -> None:
        """Give them back."""
        self.tcp.close()
        if self.unix is not None:
            self.unix.close()
        if self.unix_path is not None:
            self.unix_path.unlink(missing_ok=True)


def reserve(config: Config) -> Shared:
    """The port, bound and not listened on, and the Unix socket, listened on. Raises OSError, or ConfigError for a socket in use."""
    listen = config.listen
    family, _, _, _, address = socket.getaddrinfo(
        listen.address, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    tcp = socket.socket(family, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tcp.bind(address)
        port = int(tcp.getsockname()[1])
        path = (
            None if listen.unix_directory is None else Path(Address(str(listen.unix_directory), port).unix_path or "")
        )
        unix = None if path is None else listen_unix(path, listen.backlog)
    except BaseException:
        tcp.close()
        raise
    return Shared(tcp, port, unix, path)


def listen_unix(path: Path, backlog: int) -> socket.socket:
    """A listening Unix socket at `path`, in place of one that a killed run has left. Raises OSError, ConfigError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(
                f"{path}: exists and is no socket: remove it, or set listen.unix_directory to another directory"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise ConfigError(
                    f"{path}: another server listens there: stop it, or set listen.port to another number"
                )
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
        # As PostgreSQL does: the directory says who may connect.
        path.chmod(0o777)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class Supervisor:
    """Keeps the workers, and the calculator's engine beside them.

    `command` makes a worker's command line from its number, the port and the Unix socket's descriptor (or None).
    """

    def __init__(
        self,
        config: Config,
        command: Callable[[int, int, int | None], list[str]],
        *,
        watcher: WorkerWatcher | None = None,
        engine: Engine | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._command = command
        self._watcher = watcher
        self._engine = engine
        self._monotonic = monotonic
        self._log = structlog.get_logger("supervisor")
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._hopeless = False

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by worker number."""
        return {number: process.pid for number, process in self._processes.items()}

    def stop(self) -> None:
        """Let the workers drain and end; `run` then returns."""
        if self._stopping.is_set():
            return
        self._log.info("supervisor.stopping", workers=len(self._processes))
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def reload(self) -> None:
        """Let every worker read rules and configuration again."""
        self._signal(signal.SIGHUP)

    async def run(self) -> int:
        """Until stopped. The exit code: 0, or 2 when a worker found the configuration unusable. Raises OSError, ConfigError."""
        shared = reserve(self._config)
        try:
            loop = asyncio.get_running_loop()
            for ending in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(ending, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.reload)
            count = self._config.workers or os.cpu_count() or 1
            self._log.info("supervisor.started", workers=count, port=shared.port)
            if self._engine is not None:
                await self._engine.start()
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(self._keep(number, shared))
        finally:
            shared.close()
            if self._engine is not None:
                await self._engine.stop()
        return 2 if self._hopeless else 0

    async def _keep(self, number: int, shared: Shared) -> None:
        """One worker's place, whoever fills it."""
        pause = _FIRST_PAUSE
        proven = False
        while not self._stopping.is_set():
            began = self._monotonic()
            code = await self._one(number, shared)
            if self._stopping.is_set():
                return
            if code in _HOPELESS and not proven:
                self._hopeless = True
                self.stop()
                return
            proven = proven or code not in _NOT_STARTED
            pause = _FIRST_PAUSE if self._monotonic() - began > _OLD else min(pause * 2, _LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _one(self, number: int, shared: Shared) -> int:
        """One worker's life."""
        descriptor = None if shared.unix is None else shared.unix.fileno()
        process = await asyncio.create_subprocess_exec(
            *self._command(number, shared.port, descriptor),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=() if descriptor is None else (descriptor,),
            # A Ctrl-C in a terminal goes to the whole group; only the supervisor is to act on it.
            start_new_session=True,
        )
        self._processes[number] = process
        if self._watcher is not None:
            self._watcher.worker_started(number, process.pid)
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        code = await self._end_of(process)
        del self._processes[number]
        expected = self._stopping.is_set()
        if self._watcher is not None:
            self._watcher.worker_ended(number, process.pid, code, expected=expected)
        if not expected:
            self._log.error("worker.ended", worker=number, pid=process.pid, exit_code=code)
        return code

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
        """Its exit code; killed if it does not stop in time once it was told to."""
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                limits = self._config.limits
                await asyncio.wait((ended,), timeout=limits.drain_seconds + limits.close_seconds + _GRACE)
            if not ended.done():
                process.kill()
            return await ended
        finally:
            told.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def worker_command(
    config: Path, factory: str, calculator: Path | None = None
) -> Callable[[int, int, int | None], list[str]]:
    """The command line of a worker for a configuration file, a services factory ("module:function"), and the calculator's directory."""

    def command(number: int, port: int, descriptor: int | None) -> list[str]:
        line = [sys.executable, "-P", "-m", "proxy.worker_process", "--config", str(config), "--number", str(number)]
        line += ["--port", str(port), "--factory", factory]
        if calculator is not None:
            line += ["--calculator", str(calculator)]
        return line if descriptor is None else [*line, "--unix-descriptor", str(descriptor)]

    return command
