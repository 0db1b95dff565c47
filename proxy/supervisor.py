"""`pgveil run`: N workers on one port, each a process of its own; a worker that dies is started again, one that is replaced loses no client.

The supervisor makes the listening sockets, a place for each worker, and never closes them while it serves: what waits in a place's queue is
taken by the successor, and until there is one a sibling covers the place (docs/adr/0022). Each worker's standard input is a line to the
supervisor: it ends when the supervisor does, even by SIGKILL, and so does the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from proxy.channel import Abort, Commit, Cover, Prepare
from proxy.children import Child
from proxy.config import load_config
from proxy.errors import ConfigError
from proxy.listening import make
from proxy.notify import SilentManager
from proxy.reloading import needs_restart, taken_up
from proxy.reports import Outcome, Reported, WorkerReport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from proxy.calculator.engine import Engine
    from proxy.config import Config
    from proxy.listening import Listening
    from proxy.notify import Manager

# A worker that dies young is started again ever more slowly; one that lived this long has earned a quick restart.
_OLD: Final = 30.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
# Beyond draining and closing, before SIGKILL.
_GRACE: Final = 10.0
# Settings that only another supervisor takes up.
_OWN: Final = ("workers", "control", "listen", "metrics", "calculator")
# A worker reads rules and keys and lays them over its catalogs, which for a large schema takes a second or two.
_ANSWER_SECONDS: Final = 30.0
# A successor that does not serve by then is given up.
_START_SECONDS: Final = 60.0
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

    def reloaded(self, config: Config, *, applied: bool) -> None:
        """A reload came to its end; `config` is in force."""


@dataclass(slots=True)
class _Place:
    """A worker's place, whoever fills it. `lock`: held by whoever puts another worker there."""

    number: int
    worker: Child | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Supervisor:
    """Keeps the workers, and the calculator's engine beside them.

    `command` makes a worker's command line from its number, its place, and the inherited sockets ("PLACE:DESCRIPTOR"). `passed`: sockets of systemd.
    """

    def __init__(
        self,
        config: Config,
        command: Callable[[int, int, list[str]], list[str]],
        *,
        watcher: WorkerWatcher | None = None,
        engine: Engine | None = None,
        manager: Manager | None = None,
        passed: tuple[socket.socket, ...] = (),
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._command = command
        self._watcher = watcher
        self._engine = engine
        self._manager = SilentManager() if manager is None else manager
        self._passed = passed
        self._monotonic = monotonic
        self._log = structlog.get_logger("supervisor")
        self._places: list[_Place] = []
        self._children: set[Child] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._listening: Listening
        self._state = 0  # reloads that were put in force
        self._orders = 0
        self._hopeless = False
        self._served = False  # a worker has served: what another one can't begin with is no mistake that all make
        self._ready = False
        self._leaving = False

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by place."""
        return {place.number: place.worker.pid for place in self._places if place.worker is not None}

    @property
    def control(self) -> Path:
        """Where the commands reach this supervisor."""
        return self._config.control_socket

    @property
    def leaving(self) -> bool:
        """Whether it has been told to stop. Read from the probes' threads."""
        return self._leaving

    def stop(self) -> None:
        """Take connections for `limits.lame_duck_seconds` more, for those who have not looked at /readyz yet; then end. The second call ends at once."""
        seconds = self._config.limits.lame_duck_seconds
        if self._leaving or seconds <= 0 or not self._ready:
            self._stop_now()
            return
        self._leaving = True
        self._log.info("supervisor.leaving", seconds=seconds)
        self._begin(self._stop_after(seconds))

    async def _stop_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._stop_now()

    def _stop_now(self) -> None:
        """Let the workers drain and end; `run` then returns."""
        self._leaving = True
        if self._stopping.is_set():
            return
        self._log.info("supervisor.stopping", workers=len(self._children))
        self._manager.stopping()
        self._stopping.set()
        # Nobody is to wait in a queue that nobody takes from any more.
        self._listening.close()
        for child in self._children:
            child.stop(self._patience)

    async def run(self) -> int:
        """Until stopped. The exit code: 0, or 2 when a worker found the configuration unusable. Raises OSError, ConfigError."""
        count = self._config.workers or os.cpu_count() or 1
        self._listening = make(self._config.listen, count, self._passed)
        try:
            self._hear_signals()
            self._begin(self._manager.watch())
            self._log.info("supervisor.started", workers=count, port=self._listening.port)
            if self._engine is not None:
                await self._engine.start()
            self._places = [_Place(number) for number in range(count)]
            async with asyncio.TaskGroup() as group:
                for place in self._places:
                    group.create_task(self._keep(place))
        finally:
            for task in self._tasks:
                task.cancel()
            self._listening.close()
            if self._engine is not None:
                await self._engine.stop()
        return 2 if self._hopeless else 0

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self.reload()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._begin(self.restart()))

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- reload

    async def reload(self) -> Reported:
        """Let every worker put configuration, rules, keys and certificates in force as the files have them now; or none, where one can't."""
        async with self._changing:
            if self._ready:
                self._manager.reloading()
            try:
                reported = await self._reload()
            finally:
                if self._ready and not self._stopping.is_set():
                    self._manager.ready()
        applied = reported.outcome is Outcome.APPLIED
        if applied:
            self._log.info("reload.applied", workers=len(reported.workers), names=list(reported.needs_restart) or None)
        else:
            self._log.error("reload.refused", why=_one_line(reported.why))
        if self._watcher is not None:
            self._watcher.reloaded(self._config, applied=applied)
        return reported

    async def _reload(self) -> Reported:
        try:
            fresh = load_config(self._config.file)
        except ConfigError as error:
            return Reported(Outcome.REFUSED, why=str(error))
        workers = [(place, place.worker) for place in self._places if place.worker is not None and place.worker.serves]
        self._orders += 1
        prepare = Prepare(self._orders)
        answers = await asyncio.gather(*(w.ask(prepare, prepare.number, _ANSWER_SECONDS) for _, w in workers))
        told = tuple(
            WorkerReport(place.number, worker.pid, "kept the old state" if why is None else "refused", why)
            for (place, worker), why in zip(workers, answers, strict=True)
        )
        # One that has ended meanwhile is no obstacle: its successor reads what is there now.
        reasons = [
            why
            for (_, worker), why in zip(workers, answers, strict=True)
            if why is not None and not worker.ended.done()
        ]
        if reasons or self._stopping.is_set():
            for _, worker in workers:
                worker.tell(Abort(prepare.number))
            return Reported(Outcome.REFUSED, told, why=reasons[0] if reasons else "pgveil is stopping")
        self._state += 1
        needed = needs_restart(self._config, fresh)
        self._config = taken_up(self._config, fresh)
        told = await self._commit([(place, w) for (place, w), why in zip(workers, answers, strict=True) if why is None])
        for place in self._places:
            # Who has begun to serve since the first step was asked nothing, and was not behind yet when it said so.
            if place.worker is not None and place.worker.serves and place.worker.state != self._state:
                self._begin(self._catch_up(place.worker))
        return Reported(Outcome.APPLIED, told, needs_restart=needed)

    async def _catch_up(self, worker: Child) -> None:
        """A worker may have read what was there before the last reload. If it can't reload either, its place is better empty."""
        await self.reload()
        if worker.state != self._state and worker.serves:
            worker.kill()

    async def _commit(self, workers: list[tuple[_Place, Child]]) -> tuple[WorkerReport, ...]:
        """The second step. A worker that does not confirm it is replaced: its successor has the new state for certain."""
        self._orders += 1
        commit = Commit(self._orders)
        for _, worker in workers:
            worker.state = self._state
        answers = await asyncio.gather(*(w.ask(commit, commit.number, _ANSWER_SECONDS) for _, w in workers))
        told = []
        for (place, worker), why in zip(workers, answers, strict=True):
            if why is not None:
                worker.kill()
            told.append(WorkerReport(place.number, worker.pid, "applied" if why is None else "replaced", why))
        return tuple(told)

    # -- restart

    async def restart(self) -> Reported:
        """Replace the workers one after another, each only when its successor serves. Ends at the first that does not come up."""
        async with self._changing:
            told: list[WorkerReport] = []
            why: str | None = None
            for place in self._places:
                if self._stopping.is_set():
                    why = "pgveil is stopping"
                    break
                report = await self._replace(place)
                told.append(report)
                if report.why is not None:
                    why = report.why
                    break
        if why is None:
            self._restarted()
            self._log.info("restart.done", workers=len(told))
        else:
            self._log.error("restart.refused", why=_one_line(why))
        return Reported(Outcome.APPLIED if why is None else Outcome.REFUSED, tuple(told), why=why)

    def _restarted(self) -> None:
        """The workers have read the configuration again; what is the supervisor's own stays as it was."""
        with contextlib.suppress(ConfigError):  # broken since: the next reload says so
            own = {name: getattr(self._config, name) for name in _OWN}
            self._config = replace(load_config(self._config.file), **own)

    async def _replace(self, place: _Place) -> WorkerReport:
        async with place.lock:
            old = place.worker
            if self._stopping.is_set():
                return WorkerReport(place.number, 0 if old is None else old.pid, "kept", "pgveil is stopping")
            # Another number than the old one's, whose audit log is in use until it has ended.
            count = len(self._places)
            number = place.number + (count if old is not None and old.number < count else 0)
            child = await self._spawn(place, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(child.ready), _START_SECONDS)
            if not child.serves:
                child.expected = True
                child.kill()
                code = await child.ended
                why = child.why or f"the successor did not come up (exit code {code}); pgveil's log says why"
                pid = child.pid if old is None else old.pid
                return WorkerReport(place.number, pid, "kept", why)
            place.worker = child
        self._cover()
        if old is not None:
            old.stop(self._patience)
            await asyncio.shield(old.ended)
        self._log.info("worker.replaced", worker=place.number, pid=child.pid)
        return WorkerReport(place.number, child.pid, "replaced")

    # -- places

    async def _keep(self, place: _Place) -> None:
        """One worker's place, whoever fills it."""
        pause = _FIRST_PAUSE
        proven = False
        while not self._stopping.is_set():
            began = self._monotonic()
            async with place.lock:
                if self._stopping.is_set():
                    return
                if place.worker is None or place.worker.ended.done():
                    place.worker = await self._spawn(place, place.number)
                worker = place.worker
            code = await asyncio.shield(worker.ended)
            if self._stopping.is_set():
                # A successor that was on its way.
                await asyncio.gather(*(child.ended for child in self._children))
                return
            if place.worker is not worker:
                proven = True
                continue
            if code in _HOPELESS and not proven and not self._served:
                self._hopeless = True
                self._stop_now()
                return
            proven = proven or code not in _NOT_STARTED
            pause = _FIRST_PAUSE if self._monotonic() - began > _OLD else min(pause * 2, _LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _spawn(self, place: _Place, number: int) -> Child:
        """A worker on its way to that place. Raises OSError."""
        sockets = [(f"{p}", sock) for p, own in enumerate(self._listening.places) for sock in own]
        sockets += [("all", sock) for sock in self._listening.shared]
        descriptors = [sock.fileno() for _, sock in sockets]
        words = [f"{name}:{sock.fileno()}" for name, sock in sockets]
        child = await Child.start(self._command(number, place.number, words), descriptors, number, self._state)
        self._children.add(child)
        if self._watcher is not None:
            self._watcher.worker_started(number, child.pid)
        child.ready.add_done_callback(lambda _: self._has_come(child))
        child.ended.add_done_callback(lambda ended: self._has_ended(place, child, ended))
        if self._stopping.is_set():
            child.stop(self._patience)
        return child

    def _has_come(self, child: Child) -> None:
        """A worker serves, or will not. One that began to read before the last reload was put in force may have read what was there before."""
        if not child.serves:
            return
        self._served = True
        self._cover()
        if child.state != self._state:
            self._begin(self._catch_up(child))
        if not self._ready and all(place.worker is not None and place.worker.serves for place in self._places):
            self._ready = True
            self._manager.ready(f"{len(self._places)} workers on port {self._listening.port}")

    def _has_ended(self, place: _Place, child: Child, ended: asyncio.Task[int]) -> None:
        self._children.discard(child)
        if ended.cancelled():
            return
        expected = child.expected or self._stopping.is_set()
        if self._watcher is not None:
            self._watcher.worker_ended(child.number, child.pid, ended.result(), expected=expected)
        if not expected:
            self._log.error("worker.ended", worker=child.number, pid=child.pid, exit_code=ended.result())
        if place.worker is child:
            self._cover()

    def _cover(self) -> None:
        """Let those who serve take the connections of places where nobody does. Each is told all of its own whenever that changes."""
        serving = [(place, place.worker) for place in self._places if place.worker is not None and place.worker.serves]
        empty = tuple(p.number for p in self._places if all(p is not place for place, _ in serving))
        for index, (_, worker) in enumerate(serving):
            wanted = empty[index :: len(serving)]
            if wanted != worker.covered:
                worker.covered = wanted
                worker.tell(Cover(wanted))

    @property
    def _patience(self) -> float:
        """How long a worker may take to end."""
        return self._config.limits.drain_seconds + self._config.limits.close_seconds + _GRACE


def _one_line(why: str | None) -> str:
    """As much of an explanation as a log line takes."""
    return "; ".join((why or "").splitlines())[:256]


def worker_command(
    config: Path, factory: str, calculator: Path | None = None
) -> Callable[[int, int, list[str]], list[str]]:
    """The command line of a worker for a configuration file, a services factory ("module:function"), and the calculator's directory."""

    def command(number: int, place: int, sockets: list[str]) -> list[str]:
        line = [sys.executable, "-P", "-m", "proxy.worker_process", "--config", str(config), "--number", str(number)]
        line += ["--place", str(place), "--factory", factory]
        for word in sockets:
            line += ["--listen", word]
        return line if calculator is None else [*line, "--calculator", str(calculator)]

    return command
