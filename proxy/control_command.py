"""`pgveil reload` and `pgveil restart`: ask the running pgveil, and say what came of it, worker by worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
import typer

from proxy.config import load_config
from proxy.control import ask
from proxy.errors import ConfigError, PgveilError
from proxy.reports import Outcome
from rules.problems import readable

if TYPE_CHECKING:
    from proxy.reports import Reported

_NOT_SO: Final = 1  # as in proxy.cli
_File = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration file of the pgveil that runs.", dir_okay=False)
]
_Socket = Annotated[
    Path | None, typer.Option("--control", help="Its control socket; default: where the configuration says.")
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
_DEFAULT_FILE: Final = Path("pgveil.yaml")


class Running:
    """The pgveil that runs by a configuration, for commands that are not the proxy's own (`lifecycle.commands.Running`)."""

    def files(self, config: Path) -> tuple[Path, Path]:
        """Its rules file and its key directory. Raises ConfigError."""
        settings = load_config(config)
        return settings.rules, settings.keys

    def login(self, config: Path) -> str | None:
        """The login of its own connections to the database, where the configuration names one. Raises ConfigError."""
        from proxy.databases import dsn_of  # noqa: PLC0415 - drivers are loaded when they are needed
        from proxy.own_login import login_in  # noqa: PLC0415 - as above

        try:
            return login_in(dsn_of(load_config(config).catalog))
        except (ConfigError, OSError):
            return None  # what is wrong with it is for those to say who log in by it

    def reload(self, config: Path) -> str | None:
        """Make it take up its files as they are now. None: done; else why it was not."""
        try:
            reported = ask(load_config(config).control_socket, "reload")
        except PgveilError as error:
            return error.message
        return None if reported.outcome is Outcome.APPLIED else reported.why or "see its log"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("reload")(reload)
    app.command("restart")(restart)


def reload(config: _File = _DEFAULT_FILE, control: _Socket = None, *, as_json: _Json = False) -> None:
    """Put rules, keys, certificates and limits in force as the files have them now; in every worker, or in none. Exit code 1: in none."""
    _ask("reload", config, control, as_json=as_json)


def restart(config: _File = _DEFAULT_FILE, control: _Socket = None, *, as_json: _Json = False) -> None:
    """Replace the workers one after another, without refusing a client. Exit code 1: not all were replaced."""
    _ask("restart", config, control, as_json=as_json)


def _ask(command: Literal["reload", "restart"], config: Path, control: Path | None, *, as_json: bool) -> None:
    # A configuration that is broken now must still let us find the pgveil that runs: then name its socket.
    reported = ask(load_config(config).control_socket if control is None else control, command)
    if as_json:
        typer.echo(msgspec.json.encode(reported))
    else:
        _tell(command, reported)
    if reported.outcome is not Outcome.APPLIED:
        raise typer.Exit(_NOT_SO)


def _tell(command: str, reported: Reported) -> None:
    for worker in reported.workers:
        typer.echo(f"worker {worker.worker} (pid {worker.pid}): {worker.outcome}")
    if reported.why is not None:
        typer.echo(f"pgveil {command} was refused, and what was in force stays so:", err=True)
        typer.echo(readable(reported.why), err=True)
    elif command == "reload":
        typer.echo("Rules, keys and certificates are in force as the files have them.")
    else:
        typer.echo("Every worker was replaced.")
    if reported.needs_restart:
        typer.echo(f"Changed, and waiting for a restart of pgveil: {', '.join(reported.needs_restart)}")
