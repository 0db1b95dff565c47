"""`pgveil doctor`: look at the live system, and say what is not as it should be and what fixes it."""

# ruff: noqa: PLC0415 - drivers, ciphers and tables are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rules.problems import json_text, printable

if TYPE_CHECKING:
    from doctor.model import Acceptance
    from proxy.config import Config

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil
_DEFAULT_FILE = Path("pgveil.yaml")


def register(app: typer.Typer) -> None:
    """Add `doctor` to pgveil's command line."""
    app.command("doctor")(doctor)


def doctor(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The configuration file.", dir_okay=False)
    ] = _DEFAULT_FILE,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="The database, by a login that sees more than pgveil's own; a superuser's URL checks everything.",
            metavar="DSN",
            envvar="PGVEIL_DATABASE",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run this check. Repeatable.", metavar="CODE")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Leave this check out. Repeatable.", metavar="CODE")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Say why each finding matters, and what is well.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read tables whole that are otherwise too large to look through.")
    ] = False,
    codes: Annotated[bool, typer.Option("--codes", help="List the checks, and do nothing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Check that the live system is set up so that pgveil's promises hold, and say what to fix. Changes nothing.

    Exit code 0: all is well, but for notes and what is accepted. 1: something is bad, a warning, or could not be looked at. 2: bad
    usage, or a configuration with errors. 3: the database cannot be reached.
    """
    import asyncio
    import time
    from importlib.metadata import PackageNotFoundError, version

    from doctor.examine import CHECKS, CODES, examine
    from doctor.gather import UrlError, gather, without_password
    from doctor.show import show
    from proxy.config import load_config

    if codes:
        for check in CHECKS:
            typer.echo(f"{check.code:<22} {check.title}")
        return
    unknown = sorted({*(only or ()), *(skip or ())} - CODES)
    if unknown:
        _fail(_USAGE, f"no check has the code {unknown[0]}; pgveil doctor --codes lists them")
    settings = load_config(config)
    acceptances = _acceptances(settings, CODES)
    try:
        own = version("pgveil")
    except PackageNotFoundError:
        own = "(not installed)"
    try:
        facts = asyncio.run(gather(settings, database, time.time, own, deep=deep))
    except UrlError as error:
        _fail(_USAGE, str(error))
    report = examine(
        facts, database=without_password(facts.url), acceptances=acceptances, only=only or (), skip=skip or ()
    )
    if json_:
        typer.echo(json_text(report.document()))
    else:
        show(report, everything=why)
    if not report.reached:
        raise typer.Exit(_IO)
    if not report.well:
        raise typer.Exit(_NOT_SO)


def _acceptances(settings: Config, codes: frozenset[str]) -> tuple[Acceptance, ...]:
    from doctor.acceptance import AcceptanceError, load_acceptances

    if settings.doctor.accepted is None:
        return ()
    try:
        return load_acceptances(settings.doctor.accepted, codes)
    except AcceptanceError as error:
        _fail(_USAGE, str(error))


def _fail(code: int, message: str) -> NoReturn:
    for line in message.split("\n"):
        typer.echo(f"pgveil: {printable(line)}", err=True)
    raise typer.Exit(code)
