"""`pgveil apply`: show what has to change in a database for the rules to hold there, ask, and change it."""

# ruff: noqa: PLC0415 - drivers, ciphers and tables are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Protocol

import typer

from rules.problems import json_text, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keys.ring import KeyRing
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.database import Connection
    from rules.model import Rules

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil
_NOT_TAKEN_UP = 4  # applied, and the running pgveil goes on by what it had
_CONFIG = Path("pgveil.yaml")
# A worker says within a moment of its reload that it serves the new rules.
_LOOKS, _LOOK_SECONDS = 20, 0.25
_LOCK_SECONDS = 10.0


class Running(Protocol):
    """The pgveil that runs by a configuration, as the command line knows it (`proxy.control_command`); it is the context's object."""

    def files(self, config: Path) -> tuple[Path, Path]:
        """Its rules file and its key directory. Raises PgveilError, which ends the command."""

    def login(self, config: Path) -> str | None:
        """The login of its own connections to the database, where the configuration names one. Raises PgveilError."""

    def reload(self, config: Path) -> str | None:
        """Make it take up its files as they are now. None: done; else why it was not."""


def register(app: typer.Typer) -> None:
    """Add the commands over the data to pgveil's command line."""
    app.command("apply")(apply)
    app.command("plain-types")(plain_types)


def apply(
    context: typer.Context,
    *,
    database: Annotated[
        str,
        typer.Option("--database", help="The database (postgresql:// URL).", metavar="DSN", envvar="PGVEIL_DATABASE"),
    ],
    rules: Annotated[
        Path | None,
        typer.Option("--rules", help="The rules file (YAML); default: the configuration's.", metavar="FILE"),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="The key directory; default: the configuration's.", metavar="DIRECTORY"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="pgveil's configuration file; default: pgveil.yaml.", metavar="FILE"),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Make the pgveil that runs by this configuration take the rules up.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: Annotated[
        float, typer.Option("--lock-timeout", help="Seconds to wait for a lock; 0 waits for ever.", min=0, max=86_400)
    ] = _LOCK_SECONDS,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Bring a database to what the rules say: seal columns, make masking views, take privileges away. All or nothing.

    Exit code 0: done, or nothing to do. 1: not done: with --plan there is something to do; or it was declined. 2: bad usage, or
    obstacles. 3: the database or the keys cannot be reached. 4: done, but with --reload the running pgveil did not take it up.
    """
    import asyncio

    from lifecycle.apply.model import ApplyError
    from lifecycle.database import DatabaseError, DatabaseUrlError

    if plan and reload:
        _fail(
            _USAGE, "--plan changes nothing, so there is nothing for --reload to make pgveil take up: give one of them"
        )
    running: Running | None = context.obj
    rules, keys = _files(running, rules, keys, config, reload=reload)
    loaded, ring = _rules(rules), _ring(keys)
    named = running is not None and (config is not None or _CONFIG.is_file())
    login = running.login(config or _CONFIG) if running is not None and named else None
    taking_up = None if not reload or running is None else partial(running.reload, config or _CONFIG)
    try:
        code = asyncio.run(
            _apply(
                loaded,
                ring,
                database,
                taking_up,
                login=login,
                only_plan=plan,
                yes=yes,
                lock_seconds=lock_timeout,
                as_json=json_,
            )
        )
    except (DatabaseError, ApplyError) as error:
        _fail(_IO, str(error))
    except DatabaseUrlError:
        _fail(
            _USAGE,
            "--database is not a PostgreSQL connection URL that can be used; write postgresql://user@host:port/database",
        )
    if code:
        raise typer.Exit(code)


def plain_types(
    rules: Annotated[Path, typer.Argument(help="The rules file (YAML).", metavar="RULES")],
) -> None:
    """Write the SQL that gives sealed columns their logical types, for a plain database that a dump was restored into (docs/compatibility.md)."""
    from keys.types import TypeSpecError
    from lifecycle.plain import plain_types_sql

    try:
        typer.echo(plain_types_sql(_rules(rules)), nl=False)
    except TypeSpecError as error:
        _fail(_USAGE, str(error))


def _files(
    running: Running | None, rules: Path | None, keys: Path | None, config: Path | None, *, reload: bool
) -> tuple[Path, Path]:
    """The rules and the keys: as they are given, else as the configuration says. With `reload` they must be the running pgveil's."""
    if rules is not None and keys is not None and not reload:
        return rules, keys
    if running is None or (config is None and not _CONFIG.is_file()):
        _fail(_USAGE, "say --rules and --keys, or --config with pgveil's configuration file, which names both")
    theirs = running.files(config or _CONFIG)
    for option, given, named in (("--rules", rules, theirs[0]), ("--keys", keys, theirs[1])):
        if reload and given is not None and given.resolve() != named.resolve():
            _fail(_USAGE, f"the running pgveil takes up {named}, which its configuration names: leave {option} out")
    return rules or theirs[0], keys or theirs[1]


async def _apply(
    rules: Rules,
    ring: KeyRing,
    dsn: str,
    take_up: Callable[[], str | None] | None,
    *,
    login: str | None,
    only_plan: bool,
    yes: bool,
    lock_seconds: float,
    as_json: bool,
) -> int:
    import os
    from dataclasses import replace

    import asyncpg

    from keys.ring import RingError
    from lifecycle.apply import execute, make_plan
    from lifecycle.database import DatabaseError, connect, describe_error
    from lifecycle.show import progress_bar, show_plan

    connection = await connect(dsn, application="pgveil apply")
    try:
        plan = await make_plan(connection, rules, ring, login=login)
        if not as_json:
            show_plan(plan)
        wanted = not plan.obstacles and not plan.empty and not only_plan
        applied = wanted and (yes or _agreed(as_json=as_json))
        if applied:
            with progress_bar(plan.rows, shown=not as_json) as progress:
                left = await execute(
                    connection, plan, rules, ring, random=os.urandom, progress=progress, lock_seconds=lock_seconds
                )
            if not left:
                plan, applied = replace(plan, changes=()), False
                typer.echo("Nothing was left to do: another pgveil apply has done it meanwhile.", err=as_json)
        if take_up is None or not (applied or plan.empty):
            return _told(plan, {}, applied=applied, as_json=as_json, only_plan=only_plan)
        why = take_up()
        if why is None:
            await _the_rest(connection, rules, ring, lock_seconds, login)
        return _told(plan, {"reloaded": why is None, "why": why}, applied=applied, as_json=as_json)
    except asyncpg.PostgresError as error:
        raise DatabaseError(f"the database says: {describe_error(error)}") from None
    except UnicodeError:
        raise DatabaseError("a stored text is not of the database's encoding") from None
    except RingError as error:
        raise DatabaseError(str(error)) from None
    finally:
        await connection.close(timeout=5)


async def _the_rest(
    connection: Connection, rules: Rules, ring: KeyRing, lock_seconds: float, login: str | None
) -> None:
    """What had to stay for the sake of the pgveil that has just taken the rules up. For others' sake it stays on, until a later run."""
    import asyncio
    import os

    from lifecycle.apply import execute, make_plan

    for _ in range(_LOOKS):
        plan = await make_plan(connection, rules, ring, login=login)
        if not plan.later:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    if plan.changes and not plan.obstacles:
        await execute(
            connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None, lock_seconds=lock_seconds
        )


def _told(
    plan: ApplyPlan, taken_up: Mapping[str, object], *, applied: bool, as_json: bool, only_plan: bool = False
) -> int:
    from lifecycle.apply.model import Kind

    if as_json:
        typer.echo(json_text({"applied": applied, **taken_up, **plan.document()}))
    elif applied:
        typer.echo(f"Done: {len(plan.changes)} changes.")
        if any(c.kind is Kind.KEY for c in plan.changes):
            typer.echo("New keys were made: back them up now, with `pgveil keys backup`.")
    if (why := taken_up.get("why")) is not None:
        typer.echo(
            f"pgveil: the database is as the rules say, but the running pgveil has not taken them up: {why}", err=True
        )
        typer.echo("pgveil: when that is mended: pgveil reload", err=True)
        return _NOT_TAKEN_UP
    if taken_up and not as_json:
        typer.echo("The running pgveil has taken the rules up.")
    if plan.obstacles:
        return _USAGE
    if only_plan and plan.later:
        return _NOT_SO
    return 0 if applied or plan.empty else _NOT_SO


def _agreed(*, as_json: bool) -> bool:
    """Whether the operator says yes. A program can't be asked: it says --yes."""
    import sys

    if as_json or not sys.stdin.isatty():
        typer.echo("pgveil: nothing was changed; say --yes to apply this without being asked", err=True)
        return False
    return typer.confirm("Apply these changes?")


def _rules(path: Path) -> Rules:
    from rules.load import load_rules
    from rules.problems import RulesError

    try:
        return load_rules(path)
    except RulesError as error:
        _fail(_USAGE, str(error))


def _ring(directory: Path) -> KeyRing:
    from keys.providers import ProviderError
    from keys.providers.file import MASTER_FILE, FileMasterKey
    from keys.ring import KeyRing, RingError

    try:
        return KeyRing.open(directory, FileMasterKey.load(directory / MASTER_FILE))
    except (ProviderError, RingError) as error:
        _fail(_IO, f"{error}; make a key directory with: pgveil keys init {directory}")


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {readable(message)}", err=True)
    raise typer.Exit(code)
