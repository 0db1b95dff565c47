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
from typing import TYPE_CHECKING, Annotated, cast

import structlog
import typer

from proxy.cli import guarded, read_settings
from proxy.errors import ConfigError
from proxy.server import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.services import Services, ServicesFactory


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the supervisor tells a worker. `unix_descriptor`: an inherited listening Unix socket.

    `calculator`: where its engine is; None: there is none, and the worker makes none of its own.
    """

    number: int
    port: int
    factory: str
    unix_descriptor: int | None = None
    calculator: Path | None = None


def load_factory(name: str) -> ServicesFactory:
    """The services factory of that name, "module:function". Raises ConfigError."""
    module, _, function = name.partition(":")
    try:
        return cast("ServicesFactory", getattr(import_module(module), function))
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"no services factory {name!r}: write module:function") from None


def serve(config: Config, options: WorkerOptions) -> None:
    """Run the worker to its end. Raises ConfigError, OSError."""
    calculator = replace(config.calculator, engine=options.calculator)
    if options.calculator is None:
        calculator = replace(calculator, enabled="off")
    config = replace(config, calculator=calculator)
    services = load_factory(options.factory)(config, options.number)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, options, services))


async def _serve(config: Config, options: WorkerOptions, services: Services) -> None:
    on_port = replace(config, listen=replace(config.listen, port=options.port))
    worker = Worker(on_port, services, monotonic=time.monotonic, now=time.time, shared_port=True)
    inherited = () if options.unix_descriptor is None else (socket.socket(fileno=options.unix_descriptor),)
    signals = Signals(services)
    signals.install()
    await worker.start(inherited)
    await signals.stop.wait()
    await worker.stop(config.limits.drain_seconds)
    await signals.settle()


class Signals:
    """`stop` is set by SIGTERM, SIGINT, or the end of standard input (the supervisor's end); SIGHUP reloads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger("worker")
        self._reloads: set[asyncio.Task[None]] = set()
        self.stop = asyncio.Event()

    def install(self) -> None:
        """From now on signals are heard."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_reader(0, self._supervisor_ended)

    async def settle(self) -> None:
        """Let reloads that are under way end."""
        await asyncio.gather(*self._reloads, return_exceptions=True)

    def _supervisor_ended(self) -> None:
        if os.read(0, 1) == b"":
            asyncio.get_running_loop().remove_reader(0)
            self._log.warning("worker.orphaned")
            self.stop.set()

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._services.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _command(
    config: Annotated[Path, typer.Option()],
    number: Annotated[int, typer.Option()],
    port: Annotated[int, typer.Option()],
    factory: Annotated[str, typer.Option()],
    unix_descriptor: Annotated[int | None, typer.Option()] = None,
    calculator: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """One worker, as `pgveil run` starts it."""
    serve(read_settings(config), WorkerOptions(number, port, factory, unix_descriptor, calculator))


if __name__ == "__main__":
    guarded(lambda: typer.run(_command))
