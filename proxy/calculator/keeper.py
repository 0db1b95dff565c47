"""The process that makes one engine, stands beside it, and takes it away: `python -m proxy.calculator.keeper`.

Its standard input is a pipe from whoever started it. When that ends, even by SIGKILL, the keeper stops the engine and removes its
directory; when the keeper itself is killed, the kernel stops the engine (prctl(2), PR_SET_PDEATHSIG). On its standard output it writes one
line of JSON when the engine answers, or why it does not. What PostgreSQL writes goes to /dev/null once it runs: it could hold values.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from keys.hygiene import harden_process
from proxy.calculator.hardening import CALCULATOR, FIRST_DATABASE, STEWARD, cluster_statements, template_statements
from proxy.calculator.programs import CalculatorUnavailable, engine_account, own_name
from proxy.wire.messages import PROTOCOL_3_0, Back, Startup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SUPERUSER: Final = "postgres"
SOCKET: Final = ".s.PGSQL.5432"
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_MAKING_SECONDS: Final = 120.0
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 5.0
_PAUSE: Final = 0.05
_SHOWN: Final = 500

# Nothing is kept, so nothing has to survive; nobody may know what is computed, so nothing is said; no file may hold a row.
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "2MB",
    "max_wal_size": "4MB",
    "wal_buffers": "256kB",
    "autovacuum": "off",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_prepared_transactions": "0",
    "superuser_reserved_connections": "0",
    "shared_buffers": "4MB",
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
    "jit": "off",
    "temp_file_limit": "0",
    "track_activities": "off",
    "track_counts": "off",
    "update_process_title": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "client_min_messages": "warning",
    "restart_after_crash": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# The engine's processes see nothing of ours.
_ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. `memory`: bytes that one process of the engine may have beside what all share; `work`: bytes of one sort or hash."""

    programs: Path
    directory: Path
    connections: int
    memory: int
    work: int
    milliseconds: int


class _Cluster:
    """One engine, from an empty directory to its end. Synchronous. Methods raise CalculatorUnavailable, OSError."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._data = order.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def make(self) -> None:
        """The data directory, with roles, privileges and settings."""
        account = engine_account()
        if account is not None:
            os.chown(self._order.directory, account.pw_uid, account.pw_gid)
        options = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--auth=peer"]
        self._run("initdb", *options, f"--username={SUPERUSER}", f"--pgdata={self._data}")
        name = own_name().replace('"', '""')
        roles = (CALCULATOR, STEWARD)
        self._write("pg_hba.conf", f"local all {','.join(roles)} peer map=pgveil\n")
        self._write("pg_ident.conf", "".join(f'pgveil "{name}" {role}\n' for role in roles))
        self._write("postgresql.conf", "".join(f"{name} = '{value}'\n" for name, value in self._settings().items()))
        order = self._order
        statements = (*template_statements(order.connections, order.milliseconds), *cluster_statements())
        # No superuser ever logs in: this is done in a process that talks to nobody else, and the door is not open yet.
        single = ("--single", "-j", "-D", str(self._data), "-c", "exit_on_error=on", "-c", "log_min_messages=warning")
        self._run("postgres", *single, "template0", given="".join(f"{text};\n\n" for text in statements))

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._popen(subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while self.running and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(_PAUSE)
        self.stop()
        raise CalculatorUnavailable("the calculator's PostgreSQL did not start", detail=self._complaint())

    def stop(self) -> None:
        """End it at once; there is nothing to be saved."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _settings(self) -> dict[str, str]:
        order = self._order
        return {
            **SETTINGS,
            "unix_socket_directories": str(order.directory),
            "max_connections": str(order.connections),
            "work_mem": f"{order.work // 1024}kB",
        }

    def _write(self, name: str, text: str) -> None:
        # The file is there, made by initdb, and belongs to the engine's account.
        (self._data / name).write_text(text)

    def _run(self, program: str, *arguments: str, given: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
            [self._order.programs / program, *arguments],
            input=given.encode(),
            capture_output=True,
            check=False,
            timeout=_MAKING_SECONDS,
            **self._as_engine(),
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-_SHOWN:]
            raise CalculatorUnavailable(f"the calculator's PostgreSQL can't be made: {program} failed", detail=said)

    def _popen(self, errors: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            [self._order.programs / "postgres", "-D", self._data],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            **self._as_engine(),
        )

    def _as_engine(self) -> dict[str, Any]:
        account = engine_account()
        identity: dict[str, Any] = {}
        if account is not None:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return {**identity, "env": dict(_ENVIRONMENT), "cwd": "/", "preexec_fn": _bind(os.getpid(), self._order.memory)}

    def _answers(self) -> bool:
        """Whether it lets us in: it listens a moment before it does."""
        pairs = ((b"user", CALCULATOR.encode()), (b"database", FIRST_DATABASE.encode()))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_ANSWER_SECONDS)
            try:
                probe.connect(str(self._order.directory / SOCKET))
                probe.sendall(Startup(PROTOCOL_3_0, pairs).build())
                return probe.recv(1)[:1] == bytes((Back.AUTHENTICATION,))
            except OSError:
                return False

    def _complaint(self) -> str:
        """What PostgreSQL says when it is started once more; nobody has given it a value yet."""
        said = subprocess.run(  # noqa: S603
            [self._order.programs / "postgres", "-D", self._data, "-c", "log_min_messages=fatal"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_STOP_SECONDS,
            **self._as_engine(),
        )
        words = bytes(said.stderr).decode(errors="replace")
        return words.strip()[-_SHOWN:]


def _bind(parent: int, memory: int) -> Callable[[], None]:
    """What a child does before it becomes a program of PostgreSQL: bind its life to the keeper's, and itself to limits."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform.startswith("linux") else None

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGQUIT), *[ctypes.c_ulong(0)] * 3)
            if os.getppid() != parent:
                os._exit(1)

    return child


def keep(order: Order, tell: Callable[[Mapping[str, object]], None]) -> int:
    """Make the engine, and stay until standard input or the engine ends. The exit code: 0, 1 (the engine ended), 3 (it can't be made)."""
    engine = _Cluster(order)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    try:
        engine.make()
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        stopping: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stopping.append(number))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        engine.start()
        tell({"state": "ready"})
        while engine.running and not stopping:
            ready, _, _ = select.select([0, wake_read], [], [])
            if 0 in ready and os.read(0, 1) == b"":
                return 0
            if wake_read in ready:
                os.read(wake_read, 64)
    except CalculatorUnavailable as error:
        tell({"state": "failed", "why": error.message, "detail": error.detail, "hint": error.hint})
    except (OSError, subprocess.SubprocessError) as error:
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        tell({"state": "failed", "why": f"the calculator's PostgreSQL can't be made: {why}"})
    else:
        return 0 if stopping else 1
    finally:
        engine.stop()
        shutil.rmtree(order.directory, ignore_errors=True)
    return 3


def main(arguments: Sequence[str]) -> int:
    """The command line; `engine.py` makes it."""
    parser = argparse.ArgumentParser(prog="pgveil-calculator")
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    for number in ("--connections", "--memory", "--work", "--milliseconds"):
        parser.add_argument(number, type=int, required=True)
    told = parser.parse_args(arguments)
    harden_process()
    order = Order(told.programs, told.directory, told.connections, told.memory, told.work, told.milliseconds)
    return keep(order, lambda state: print(json.dumps(state), flush=True))  # noqa: T201 - this is how it reports


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
