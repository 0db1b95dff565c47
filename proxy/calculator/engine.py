"""The engine as the supervisor sees it: a keeper process (`proxy.calculator.keeper`), started again when it ends, stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy.calculator.keeper import SOCKET
from proxy.calculator.programs import CalculatorUnavailable, are_there, find_programs, memory_backed
from proxy.errors import ConfigError
from proxy.logs import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.calculator.programs import Programs
    from proxy.config import CalculatorSettings

PREFIX: Final = "pgveil-calculator-"
_LOCK: Final = "lock"
_HOME: Final = "engine"
# Databases and types' names are asked for on connections of their own, and one that was cancelled may take a moment to go.
_BESIDE: Final = 2
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
# A keeper that lived this long has earned a quick restart.
_OLD: Final = 30.0
_STOP_SECONDS: Final = 15.0
# One sort or hash of a statement may take this part of its memory; a statement with more of them than that ends with an error.
_SORTS: Final = 4
_MAX_LINE: Final = 8192


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the configuration asks for. `base`: where the engine's directory is made. `connections`: of all workers together."""

    programs: Programs
    base: Path
    connections: int
    memory: int
    seconds: float


def plan_engine(settings: CalculatorSettings, workers: int, prefer: int | None = None) -> EngineSpec | None:
    """The engine for so many workers; None where there is none (`enabled: off`, or `auto` and it can't be had: logged).

    `prefer`: the server's major version. Raises ConfigError for `enabled: on` where it can't be had.
    """
    if settings.enabled == "off":
        return None
    try:
        programs = find_programs(settings.bin_dir, prefer)
        _check_memory(settings)
    except CalculatorUnavailable as error:
        if settings.enabled == "on":
            raise ConfigError(f"calculator.enabled is on, but {error.message}: {error.hint}") from None
        structlog.get_logger("calculator").warning("calculator.off", why=_line(error.message, error.hint))
        return None
    connections = workers * (settings.connections + _BESIDE) + 1
    return EngineSpec(programs, settings.directory, connections, settings.memory, settings.seconds)


def can_be_had(settings: CalculatorSettings) -> bool:
    """Whether `plan_engine` finds one."""
    try:
        _check_memory(settings)
    except CalculatorUnavailable:
        return False
    return settings.enabled != "off" and are_there(settings.bin_dir)


def _check_memory(settings: CalculatorSettings) -> None:
    try:
        in_memory = memory_backed(settings.directory)
    except OSError as error:
        raise CalculatorUnavailable(
            f"calculator.directory {settings.directory} can't be used: {error.strerror}",
            hint="Name a directory on a tmpfs.",
        ) from None
    if not in_memory and not settings.allow_disk:
        raise CalculatorUnavailable(
            f"calculator.directory {settings.directory} is not in memory (tmpfs), and opened values must not reach a disk",
            hint="Name a directory on a tmpfs, or set calculator.allow_disk: true where the disk is encrypted.",
        )


class Engine:
    """Keeps one engine running. `directory` is where its socket is, while there is an engine."""

    def __init__(self, spec: EngineSpec, *, monotonic: Callable[[], float]) -> None:
        self._spec = spec
        self._monotonic = monotonic
        self._log = structlog.get_logger("calculator")
        self._root: Path | None = None
        self._lock: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()

    @property
    def directory(self) -> Path:
        """Where the socket is. Only after `start`."""
        assert self._root is not None
        return self._root / _HOME

    @property
    def ready(self) -> bool:
        """Whether it answers, as far as is known."""
        return self._ready.is_set()

    @property
    def keeper(self) -> int | None:
        """The process id of the keeper."""
        return None if self._process is None else self._process.pid

    def prepare(self) -> None:
        """Remove what killed runs have left, and make the directory. Raises OSError."""
        remove_leftovers(self._spec.base)
        self._root, self._lock = _make_root(self._spec.base)

    async def start(self) -> None:
        """Begin; does not wait until it answers. Raises OSError."""
        if self._root is None:
            self.prepare()
        self._task = asyncio.create_task(self._keep())

    async def wait_ready(self) -> None:
        """Until it answers."""
        await self._ready.wait()

    async def stop(self) -> None:
        """End it and remove its directory."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._ready.clear()
        if self._root is not None:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._root = self._lock = None

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = self._monotonic()
            await self._one()
            pause = _FIRST_PAUSE if self._monotonic() - began > _OLD else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _one(self) -> None:
        """One keeper's life."""
        await asyncio.to_thread(self._clear)
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            limit=_MAX_LINE,
        )
        try:
            told = await self._told(process)
            if told.get("state") == "ready":
                self._log.info("calculator.ready", version=str(self._spec.programs.major))
                self._ready.set()
            else:
                self._log.error("calculator.failed", why=_line(told.get("why"), told.get("detail"), told.get("hint")))
            code = await process.wait()
            self._log.error("calculator.ended", exit_code=code)
        finally:
            self._ready.clear()
            await _end(process)
            self._process = None

    async def _told(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            told = json.loads(await process.stdout.readline())
        except ValueError:
            return {"why": "the keeper ended without a word"}
        return told if isinstance(told, dict) else {}

    def _clear(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700)

    def _command(self) -> list[str]:
        spec = self._spec
        numbers = {
            "connections": spec.connections,
            "memory": spec.memory,
            "work": spec.memory // _SORTS,
            "milliseconds": int(spec.seconds * 1000),
        }
        line = [sys.executable, "-P", "-m", "proxy.calculator.keeper", "--programs", str(spec.programs.directory)]
        line += ["--directory", str(self.directory)]
        return [*line, *(text for name, number in numbers.items() for text in (f"--{name}", str(number)))]


def _line(*parts: object) -> str:
    """What is there of these, as one line of the log."""
    text = "; ".join(" ".join(str(part).split()) for part in parts if part)
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_TEXT]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its standard input, which ends it, and wait; kill it if that takes too long."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def socket_path(directory: Path) -> str:
    """The engine's socket in its directory."""
    return str(directory / SOCKET)


def _make_root(base: Path) -> tuple[Path, int]:
    """A new directory and the descriptor of the lock in it, which lasts as long as this process."""
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    if os.geteuid() == 0:
        # The engine's account must pass through; what is inside belongs to it alone.
        root.chmod(0o711)
    lock = os.open(root / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return root, lock


def remove_leftovers(base: Path) -> None:
    """Remove the directories of runs that were killed: those of ours whose lock nobody holds."""
    for root in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if root.lstat().st_uid != os.geteuid() or root.is_symlink():
                continue
            lock = os.open(root / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)
