"""`pgveil apply`: show what has to change in a database for the rules to hold there, ask, and change it."""

# ruff: noqa: PLC0415 - drivers, ciphers and tables are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from keys.ring import KeyRing
    from lifecycle.apply.model import ApplyPlan
    from rules.model import Rules

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil
_LOCK_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add the commands over the data to pgveil's command line."""
    app.command("apply")(apply)
    app.command("plain-types")(plain_types)


def apply(
    rules: Annotated[Path, typer.Option("--rules", help="The rules file (YAML).", metavar="FILE")],
    keys: Annotated[Path, typer.Option("--keys", help="The key directory.", metavar="DIRECTORY")],
    database: Annotated[
        str,
        typer.Option("--database", help="The database (postgresql:// URL).", metavar="DSN", envvar="PGVEIL_DATABASE"),
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: Annotated[
        float, typer.Option("--lock-timeout", help="Seconds to wait for a lock; 0 waits for ever.", min=0, max=86_400)
    ] = _LOCK_SECONDS,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """Bring a database to what the rules say: seal columns, make masking views, take privileges away. All or nothing.

    Exit code 0: done, or nothing to do. 1: not done: with --plan there is something to do; or it was declined. 2: bad usage, or
    obstacles. 3: the database or the keys cannot be reached.
    """
    import asyncio

    from lifecycle.apply.model import ApplyError
    from lifecycle.database import DatabaseError, DatabaseUrlError

    loaded, ring = _rules(rules), _ring(keys)
    try:
        code = asyncio.run(
            _apply(loaded, ring, database, only_plan=plan, yes=yes, lock_seconds=lock_timeout, as_json=json_)
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


async def _apply(
    rules: Rules, ring: KeyRing, dsn: str, *, only_plan: bool, yes: bool, lock_seconds: float, as_json: bool
) -> int:
    import os

    import asyncpg

    from keys.ring import RingError
    from lifecycle.apply import execute, make_plan
    from lifecycle.database import DatabaseError, connect, describe_error
    from lifecycle.show import progress_bar, show_plan

    connection = await connect(dsn, application="pgveil apply")
    try:
        plan = await make_plan(connection, rules, ring)
        if not as_json:
            show_plan(plan)
        if plan.obstacles or plan.empty or only_plan or not (yes or _agreed(as_json=as_json)):
            return _told(plan, applied=False, as_json=as_json, only_plan=only_plan)
        with progress_bar(plan.rows, shown=not as_json) as progress:
            await execute(
                connection, plan, rules, ring, random=os.urandom, progress=progress, lock_seconds=lock_seconds
            )
        return _told(plan, applied=True, as_json=as_json)
    except asyncpg.PostgresError as error:
        raise DatabaseError(f"the database says: {describe_error(error)}") from None
    except UnicodeError:
        raise DatabaseError("a stored text is not of the database's encoding") from None
    except RingError as error:
        raise DatabaseError(str(error)) from None
    finally:
        await connection.close(timeout=5)


def _told(plan: ApplyPlan, *, applied: bool, as_json: bool, only_plan: bool = False) -> int:
    from lifecycle.apply.model import Kind

    if as_json:
        typer.echo(json.dumps({"applied": applied, **plan.document()}, ensure_ascii=False, indent=2))
    elif applied:
        typer.echo(f"Done: {len(plan.changes)} changes.")
        if any(c.kind is Kind.KEY for c in plan.changes):
            typer.echo("New keys were made: back them up now, with `pgveil keys backup`.")
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
    from keys.providers.file import FileMasterKey
    from keys.ring import KeyRing, RingError

    try:
        return KeyRing.open(directory, FileMasterKey.load(directory / "master.key"))
    except (ProviderError, RingError) as error:
        _fail(_IO, f"{error}; make a key directory with: pgveil keys init {directory}")


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {message}", err=True)
    raise typer.Exit(code)
