"""`pgveil explain`: what pgveil would do with a statement for a login, and why, asked of the live catalog. Nothing is run."""

# ruff: noqa: PLC0415 - drivers and the analysis are loaded when the command runs, not whenever pgveil prints its help

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit, urlunsplit

import typer

from proxy.errors import ConfigError, ServerUnreachable
from rules.problems import json_text, printable

if TYPE_CHECKING:
    from keys.ring import KeyRing
    from proxy.config import CalculatorSettings
    from proxy.explain import Explanation
    from proxy.own_login import OwnLogin
    from proxy.session.gate import Settings
    from rules.catalog import Catalog
    from rules.model import Rules

_DEFAULT: Final = Path("pgveil.yaml")
_CONNECT_SECONDS: Final = 10.0
_QUERY_SECONDS: Final = 60.0
_MAX_TEXT: Final = 4 * 1024 * 1024  # more than the analysis takes; keeps a wrong pipe from filling the memory

_Sql = Annotated[str, typer.Argument(help="The statement; `-` reads it from the standard input.", metavar="SQL")]
_As = Annotated[str, typer.Option("--as", help="The login that would send it.", metavar="LOGIN")]
_Config = Annotated[Path, typer.Option("--config", "-c", help="pgveil's configuration.", metavar="FILE")]
_Rules = Annotated[Path | None, typer.Option("--rules", help="A rules file instead of the configured one.")]
_Database = Annotated[
    str | None, typer.Option("--database", help="A database's URL, or another database's name.", metavar="DSN")
]
_Path = Annotated[
    str | None, typer.Option("--search-path", help="Instead of the login's own, as SET would take it.", metavar="LIST")
]
_Calculator = Annotated[
    bool | None,
    typer.Option(
        "--calculator/--no-calculator",
        help="Judge as with pgveil's calculator, or without; by default as the configuration has it, and with it where there is none.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def explain(
    sql: _Sql,
    login: _As,
    config: _Config = _DEFAULT,
    rules: _Rules = None,
    database: _Database = None,
    search_path: _Path = None,
    calculator: _Calculator = None,
    json_: _Json = False,
) -> None:
    """Show what pgveil makes of a statement for a login: verdicts, the text that runs, results, audit record; or the refusal and its way out.

    Needs a configuration file, or --rules with --database. Exit code 0: it would run. 1: refused. 2: bad usage. 3: no database.
    """
    import asyncio

    from proxy.explain import REFUSED

    place = _place(config, rules, database)
    if calculator is not None:
        place = replace(place, computes=calculator)
    text = _text(sql)
    world = asyncio.run(_ask(place.login, login, search_path))
    explanation = _judge(place, world, text, login)
    if json_:
        typer.echo(json_text(explanation.document() | {"login_exists": world.known}))
    else:
        _print(explanation, world, keys=place.ring is not None)
    if explanation.outcome == REFUSED:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Place:
    """What to judge by. `ring` None: there are no keys to seal with, so sealed constants are shown without their key.

    `computes`: a pgveil of this configuration has a calculator, which may fetch so many `rows` for a statement.
    """

    rules: Rules
    login: OwnLogin
    ring: KeyRing | None
    computes: bool = True
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class _World:
    """What the database says. `known`: it has the login."""

    catalog: Catalog
    settings: Settings
    known: bool


def _place(config: Path, rules: Path | None, database: str | None) -> _Place:
    """Raises ConfigError."""
    from proxy.config import CalculatorSettings, load_config
    from proxy.own_login import OwnLogin

    if rules is not None and database is not None and "://" in database:
        return _Place(_rules(rules), OwnLogin(database), None, rows=CalculatorSettings().rows)

    if rules is not None and not config.exists():
        raise ConfigError("with --rules and without a configuration file, --database must be a postgresql:// URL")
    settings = load_config(config)
    login = settings.catalog
    dsn = login.dsn
    if dsn is None and login.dsn_file is not None:
        dsn = login.dsn_file.read_text().strip()
    if database is not None and "://" in database:
        dsn = database
    if dsn is None:
        raise ConfigError("`catalog.dsn` or `catalog.dsn_file` must say how pgveil itself logs in, or use --database")
    if database is not None and "://" not in database:
        dsn = urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
    return _Place(
        _rules(rules or settings.rules),
        OwnLogin(dsn, settings.server),
        _ring(settings.keys),
        _has_calculator(settings.calculator),
        settings.calculator.rows,
    )


def _rules(path: Path) -> Rules:
    from rules.load import load_rules
    from rules.problems import RulesError

    try:
        return load_rules(path)
    except RulesError as error:
        raise ConfigError(str(error)) from error


def _has_calculator(settings: CalculatorSettings) -> bool:
    """Whether a worker would have one, found as `pgveil run` finds it."""
    from proxy.calculator.engine import can_be_had

    return can_be_had(settings)


def _ring(directory: Path) -> KeyRing | None:
    """The keys, if whoever asks may read them; the explanation is the same without."""
    from keys.providers.file import MASTER_FILE, FileMasterKey, KeyFileError
    from keys.ring import KeyRing, RingError

    try:
        return KeyRing.open(directory, FileMasterKey.load(directory / MASTER_FILE))
    except (RingError, KeyFileError, OSError):
        return None


def _text(sql: str) -> str:
    """Raises ConfigError for what is no text."""
    try:
        text = sql if sql != "-" else sys.stdin.read(_MAX_TEXT + 1)
        text.encode()
    except UnicodeError:
        raise ConfigError("the statement is not valid text in this terminal's encoding") from None
    if len(text) > _MAX_TEXT:
        raise ConfigError(f"the statement has more than {_MAX_TEXT} characters")
    if not text.strip():
        raise ConfigError("there is no statement")
    return text


async def _ask(own: OwnLogin, login: str, search_path: str | None) -> _World:
    """The catalog, and the settings that a session of the login begins with. Raises ConfigError, ServerUnreachable."""
    import asyncpg

    from proxy.databases import read_catalog
    from proxy.offline import login_settings
    from proxy.troubles import reason_of

    try:
        connection = await own.connect("pgveil explain", seconds=_CONNECT_SECONDS, query_seconds=_QUERY_SECONDS)
        try:
            _, catalog = await read_catalog(connection)
            settings, known = await login_settings(connection, catalog, login, search_path)
        finally:
            await connection.close()
    except asyncpg.PostgresError as error:
        raise ServerUnreachable("the database refuses", detail=f"{error.sqlstate}: {error}") from error
    except (OSError, TimeoutError) as error:  # a certificate that is not accepted is a ValueError, too
        raise ServerUnreachable("the database cannot be reached", detail=reason_of(error)) from error
    except (ValueError, asyncpg.InterfaceError):
        # Their words can hold the URL, and that a password.
        raise ConfigError("the database's URL can't be used; write postgresql://user@host:port/database") from None
    return _World(catalog, settings, known)


def _judge(place: _Place, world: _World, text: str, login: str) -> Explanation:
    from proxy.decisions import Gate
    from proxy.explain import explain as tell
    from proxy.offline import ThrowawayKeys
    from proxy.session.values import ValueCodec

    codec = ValueCodec(place.ring or ThrowawayKeys(), random=secrets.token_bytes, enums=world.catalog.enums)
    gate = Gate(place.rules, world.catalog, codec, computes=place.computes)
    return tell(gate, text, login, world.settings, keys=place.ring is not None, rows=place.rows)


def _print(explanation: Explanation, world: _World, *, keys: bool) -> None:
    from rich.console import Console

    from proxy.explain_text import show

    if not world.known:
        typer.echo(f"note: the database has no login {printable(explanation.login)}", err=True)
    if not keys:
        typer.echo("note: the keys can't be read from here, so sealed constants are shown as <sealed>", err=True)
    show(Console(), explanation)
