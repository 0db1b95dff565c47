"""A worker as a process: made by the supervisor, on uvloop where there is one, ended by signals or with the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final, cast

import structlog
import typer

from proxy.channel import MAX_WHY, Abort, Answer, Commit, Cover, Failed, Line, Order, Prepare, Ready, Retire
from proxy.cli import BUG, guarded, read_settings
from proxy.descriptors import enough, raise_limit
from proxy.errors import ConfigError, PgveilError
from proxy.reloading import Reloading
from proxy.server import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.services import ServicesFactory

# The supervisor's end of the line.
_STANDARD_INPUT: Final = 0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the supervisor tells a worker. `place`: which of the sockets are its own; `sockets`: inherited descriptors by place, and
    those of all workers (None).

    `calculator`: where its engine is; None: there is none, and the worker makes none of its own.
    """

    number: int
    place: int
    factory: str
    sockets: tuple[tuple[int | None, int], ...] = ()
    calculator: Path | None = None


def load_factory(name: str) -> ServicesFactory:
    """The services factory of that name, "module:function". Raises ConfigError."""
    module, _, function = name.partition(":")
    try:
        return cast("ServicesFactory", getattr(import_module(module), function))
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"no services factory {name!r}: write module:function") from None


def serve(config: Path, options: WorkerOptions) -> None:
    """Run the worker to its end, by a configuration file. Raises ConfigError, PgveilError, OSError."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, options))


async def _serve(file: Path, options: WorkerOptions) -> None:
    line = await Line.open(socket.socket(fileno=os.dup(_STANDARD_INPUT)), Order)
    try:
        config = _settings(file, options)
        limit = raise_limit()
        if not enough(limit, config.limits.connections):
            structlog.get_logger("worker").warning(
                "descriptors.few", limit=limit, connections=config.limits.connections
            )
        services = load_factory(options.factory)(config, options.number)
        worker = Worker(config, services, monotonic=time.monotonic, now=time.time)
        place = Place(worker, Reloading(config, worker, services), line)
        place.listen()
        own, others = _inherited(options)
        await worker.start(own, others)
    except (ConfigError, PgveilError, OSError) as error:
        line.send(Failed(_why(error)))
        raise
    line.send(Ready())
    await place.stop.wait()
    await worker.stop(place.drain_seconds)
    await place.leave()


def _settings(file: Path, options: WorkerOptions) -> Config:
    config = read_settings(file)
    calculator = replace(config.calculator, engine=options.calculator)
    if options.calculator is None:
        calculator = replace(calculator, enabled="off")
    return replace(config, calculator=calculator)


def _inherited(options: WorkerOptions) -> tuple[tuple[socket.socket, ...], dict[int, tuple[socket.socket, ...]]]:
    """Our own sockets with those of all workers, and those of other places."""
    own: list[socket.socket] = []
    others: dict[int, tuple[socket.socket, ...]] = {}
    for place, descriptor in options.sockets:
        sock = socket.socket(fileno=descriptor)
        if place is None or place == options.place:
            own.append(sock)
        else:
            others[place] = (*others.get(place, ()), sock)
    return tuple(own), others


def _why(error: Exception) -> str:
    """What the operator must know of a failure; texts of ours only."""
    if isinstance(error, PgveilError):
        return "\n".join(part for part in (error.message, error.detail, error.hint) if part)[:MAX_WHY]
    if isinstance(error, ConfigError):
        return str(error)[:MAX_WHY]
    if isinstance(error, OSError):
        name = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return f"{name}{error.strerror or type(error).__name__}"[:MAX_WHY]
    return f"internal error: {type(error).__name__}"


class Place:
    """A worker's place under its supervisor: what it is told, and how it ends.

    `stop` is set by SIGTERM, SIGINT, the supervisor's word, or its end. SIGHUP means nothing here: a worker that reloaded alone would differ
    from its siblings.
    """

    def __init__(self, worker: Worker, reloading: Reloading, line: Line) -> None:
        self._worker = worker
        self._reloading = reloading
        self._line = line
        self._log = structlog.get_logger("worker")
        self._listening: asyncio.Task[None] | None = None
        self.stop = asyncio.Event()

    @property
    def drain_seconds(self) -> float:
        """How long clients may go on, by the configuration in force."""
        return self._worker.limits.drain_seconds

    def listen(self) -> None:
        """From now on signals and the supervisor are heard."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        self._listening = loop.create_task(self._hear())

    async def leave(self) -> None:
        """Hear no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        self._line.close()

    async def _hear(self) -> None:
        while (order := await self._line.receive()) is not None:
            match order:
                case Cover(places):
                    self._worker.cover(places)
                case Prepare(number):
                    self._line.send(Answer(number, await self._prepare()))
                case Commit(number):
                    self._commit()
                    self._line.send(Answer(number))
                case Abort():
                    self._reloading.abort()
                case Retire():
                    self.stop.set()
        self._log.warning("worker.orphaned")
        self.stop.set()

    async def _prepare(self) -> str | None:
        """Why it can't be done; None where it was."""
        try:
            await self._reloading.prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, what is in force stays so
            if not isinstance(error, ConfigError | PgveilError | OSError):
                self._log.exception("reload.failed")
            return _why(error)
        return None

    def _commit(self) -> None:
        """All or nothing. What can't fail and does leaves nobody knows what in force: then a new process is better than this one."""
        try:
            self._reloading.commit()
        except Exception:  # noqa: BLE001 - as the docstring says
            self._log.exception("reload.failed")
            os._exit(BUG)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _command(
    config: Annotated[Path, typer.Option()],
    number: Annotated[int, typer.Option()],
    place: Annotated[int, typer.Option()],
    factory: Annotated[str, typer.Option()],
    listen: Annotated[list[str] | None, typer.Option()] = None,
    calculator: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """One worker, as `pgveil run` starts it. Each `listen` is PLACE:DESCRIPTOR, or `all`:DESCRIPTOR."""
    sockets = tuple(_socket(word) for word in listen or ())
    serve(config, WorkerOptions(number, place, factory, sockets, calculator))


def _socket(word: str) -> tuple[int | None, int]:
    place, _, descriptor = word.partition(":")
    return None if place == "all" else int(place), int(descriptor)


if __name__ == "__main__":
    guarded(lambda: typer.run(_command))
