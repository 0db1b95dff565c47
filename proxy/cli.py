"""The `pgveil` command. Other packages add their commands by the entry point group `pgveil.commands` (docs/adr/0002).

Exit codes: 0 ok, 1 the thing checked is not so, 2 usage or bad input, 3 cannot reach or I/O, 70 a bug. A failure is one or a few lines on
the standard error output, never a traceback: those quote values.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from proxy import control_command, logs
from proxy.config import Config, load_config, reference
from proxy.errors import ConfigError, PgveilError
from proxy.explain_command import explain
from proxy.observe import command as observe
from proxy.workload.command import check
from rules.problems import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.calculator.engine import Engine

OK: Final = 0
NOT_SO: Final = 1
BAD_INPUT: Final = 2
UNREACHABLE: Final = 3
BUG: Final = 70  # sysexits.h, EX_SOFTWARE

PLUGINS: Final = "pgveil.commands"
# The factory of what a worker serves with; see proxy.services.
SERVICES: Final = "proxy.assembly:make_services"


def make_app() -> typer.Typer:
    """The application with its own commands and those of the plug-ins."""
    app = typer.Typer(
        name="pgveil",
        help="A PostgreSQL proxy that makes a customer-information policy hold at the database.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    app.command("run")(run)
    app.command("check-config")(check_config)
    app.command("config-reference")(config_reference)
    app.command("limits")(show_limits)
    app.command("explain")(explain)
    app.command("check")(check)
    observe.register(app)
    control_command.register(app)
    for plugin in sorted(entry_points(group=PLUGINS), key=lambda entry: entry.name):
        _plug_in(app, plugin.name)
    return app


def _plug_in(app: typer.Typer, name: str) -> None:
    """Let a plug-in register. One that can't be loaded must not take the others with it; it says so when it is missed."""
    (plugin,) = entry_points(group=PLUGINS, name=name)
    try:
        register = plugin.load()
    except ImportError as error:
        missing = error.name or "a module"
        typer.echo(f"pgveil: the {name} commands are not available: {missing} cannot be imported", err=True)
        return
    register(app)


def main() -> None:
    """The console script."""
    guarded(lambda: make_app()(standalone_mode=True))


def guarded(command: Callable[[], None]) -> None:
    """Run a command; end the process as the module's docstring says where it fails."""
    try:
        command()
    except ConfigError as error:
        _fail(str(error), BAD_INPUT)
    except PgveilError as error:
        _fail("\n".join(part for part in (error.message, error.detail, error.hint) if part), UNREACHABLE)
    except OSError as error:
        # Its file name, if any, and the system's words; `str` of other exceptions may hold anything.
        name = f"{error.filename}: " if isinstance(error.filename, str) else ""
        _fail(f"{name}{error.strerror or type(error).__name__}", UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort; its text may hold values
        told = logs.describe(error)
        _fail(f"internal error: {told['type']} at {(told['at'] or ['?'])[-1]}", BUG)


def _fail(text: str, code: int) -> None:
    for line in text.split("\n"):
        typer.echo(f"pgveil: {printable(line)}", err=True)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgveil {_own_version()}")
        raise typer.Exit


def _own_version() -> str:
    try:
        return version("pgveil")
    except PackageNotFoundError:
        return "(not installed)"


def _common(
    context: typer.Context,
    *,
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """A PostgreSQL proxy that makes a customer-information policy hold at the database."""
    context.obj = control_command.Running()


ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", dir_okay=False)]
_DEFAULT_FILE: Final = Path("pgveil.yaml")


def run(config: ConfigFile = _DEFAULT_FILE) -> None:
    """Run the proxy: workers on one port, until SIGTERM or SIGINT."""
    from proxy.control import Control  # noqa: PLC0415
    from proxy.holding import hold_audit  # noqa: PLC0415
    from proxy.listening import passed_by_systemd  # noqa: PLC0415
    from proxy.monitoring import Monitoring  # noqa: PLC0415
    from proxy.notify import manager_of  # noqa: PLC0415
    from proxy.supervisor import Supervisor, worker_command  # noqa: PLC0415
    from proxy.tls import expiry, refuse_expired  # noqa: PLC0415

    manager = manager_of(os.environ, os.getpid(), time.monotonic_ns)
    passed = passed_by_systemd(os.environ, os.getpid())
    settings = read_settings(config)
    if settings.tls.certificate is not None:
        # As at a reload. A worker that starts again later goes on with what was good then.
        refuse_expired(settings.tls.certificate, expiry(settings.tls.certificate), time.time())
    held = hold_audit(settings.audit)
    workers = settings.workers or os.cpu_count() or 1
    page = None
    if settings.metrics.port is not None:
        page = Monitoring(settings.metrics, workers=workers, version=_own_version(), now=time.time)
        page.certificates(settings)

    async def supervise() -> int:
        engine = await _engine(settings, workers)
        if page is not None:
            page.note("calculator", lambda: "off" if engine is None else "ready" if engine.ready else "not ready")
        command = worker_command(config, SERVICES, None if engine is None else engine.directory)
        supervisor = Supervisor(
            settings,
            command,
            watcher=page,
            engine=engine,
            manager=manager,
            passed=passed,
            monotonic=time.monotonic,
        )
        if page is not None:
            page.require("serving", lambda: not supervisor.leaving)
        control = Control(settings.control_socket, supervisor)
        await control.start()
        try:
            return await supervisor.run()
        finally:
            control.close()

    try:
        code = asyncio.run(supervise())
    finally:
        if page is not None:
            page.close()
        os.close(held)
    if code:
        raise typer.Exit(code)


async def _engine(settings: Config, workers: int) -> Engine | None:
    """The calculator's engine, prepared and not started; None where there is none. Raises ConfigError, OSError."""
    from proxy.calculator.engine import Engine, plan_engine  # noqa: PLC0415
    from proxy.databases import server_version  # noqa: PLC0415

    if settings.calculator.enabled == "off":
        return None
    prefer = (
        None if settings.calculator.bin_dir is not None else await server_version(settings.catalog, settings.server)
    )
    spec = plan_engine(settings.calculator, workers, prefer)
    if spec is None:
        return None
    engine = Engine(spec, monotonic=time.monotonic)
    engine.prepare()
    return engine


def check_config(config: ConfigFile = _DEFAULT_FILE) -> None:
    """Read the configuration file and tell what is wrong with it."""
    load_config(config)
    typer.echo(f"{config}: ok")


def config_reference() -> None:
    """Print the documentation of every setting (docs/configuration.md)."""
    typer.echo(reference(), nl=False)


def show_limits() -> None:
    """Print every limit with its value and what happens there (docs/limits.md)."""
    from proxy.limit_table import page  # noqa: PLC0415

    typer.echo(page(), nl=False)


def read_settings(path: Path) -> Config:
    """The configuration, with this process's log set up as it says. Raises ConfigError."""
    settings = load_config(path)
    logs.configure(level=settings.log.level)
    return settings
