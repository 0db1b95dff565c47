"""`pgveil check`: a rules file, alone or against a database, and a workload under it."""

# ruff: noqa: PLC0415 - drivers and the analysis are loaded when the command runs, not whenever pgveil prints its help

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer

from proxy.errors import ConfigError, ServerUnreachable
from proxy.workload.formats import Format
from rules import commands
from rules.problems import json_text, printable

if TYPE_CHECKING:
    import asyncpg

    from proxy.workload.judge import Account, Asker
    from rules.catalog import Catalog
    from rules.model import Rules

_CONNECT_SECONDS: Final = 10.0
_QUERY_SECONDS: Final = 60.0
_MAX_LOGINS: Final = 10_000
_EVERY: Final = 64  # items between two looks at the progress bar
_SHOWN: Final = 20  # bad lines that are printed; the JSON form has more

_File = Annotated[Path, typer.Argument(help="The rules file (YAML).", metavar="RULES")]
_Database = Annotated[
    str | None, typer.Option("--database", help="Compare with this database (postgresql:// URL).", metavar="DSN")
]
_Login = Annotated[
    str | None,
    typer.Option(
        "--as", help="Show what this login gets; with --workload, judge all of it for this login.", metavar="LOGIN"
    ),
]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Warnings fail too: unclassified columns that look sensitive, for one.")
]
_Workload = Annotated[
    Path | None,
    typer.Option(
        "--workload",
        help="Judge the statements of this file: a PostgreSQL log, an export of pg_stat_statements, or SQL.",
        metavar="FILE",
    ),
]
_Form = Annotated[
    Format | None,
    typer.Option("--format", help="The workload's format, where it is not to be found out from the file."),
]
_Path = Annotated[
    str | None, typer.Option("--search-path", help="For the workload, instead of each login's own.", metavar="LIST")
]
_Calculator = Annotated[
    bool,
    typer.Option("--calculator/--no-calculator", help="Judge the workload as with pgveil's calculator, or without."),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def check(
    rules: _File,
    database: _Database = None,
    login: _Login = None,
    strict: _Strict = False,
    workload: _Workload = None,
    form: _Form = None,
    search_path: _Path = None,
    calculator: _Calculator = True,
    json_: _Json = False,
) -> None:
    """Check a rules file; with a database, that both agree and that nothing sensitive is left out; and show who sees what.

    With --workload: what would become of statements that the database has run, once the rules are applied.

    Exit code 0: all is well. 1: errors (with --strict, warnings too), or statements that would be refused. 2: bad usage. 3: the database
    cannot be reached.
    """
    if workload is None:
        if form is not None or search_path is not None:
            raise ConfigError("--format and --search-path belong to --workload")
        commands.check(rules, database, login, strict, json_)
        return
    if database is None:
        raise ConfigError("--workload needs --database: what a name means, and who is who, only the database knows")
    if not workload.is_file():
        raise ConfigError(f"{workload} is not a file")
    loaded = _rules(rules)
    account = _account(_Task(loaded, database, login, workload, form, search_path, calculator))
    if json_:
        _print_json(account)
    else:
        _print(account, workload)
    if any(kept.finding.outcome == "refused" for kept in account.tally.book().kept):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Task:
    """What was asked for."""

    rules: Rules
    dsn: str
    login: str | None
    workload: Path
    form: Format | None
    search_path: str | None
    calculator: bool


def _rules(path: Path) -> Rules:
    from rules.load import load_rules
    from rules.problems import RulesError

    try:
        return load_rules(path)
    except RulesError as error:
        raise ConfigError(str(error)) from error


def _account(task: _Task) -> Account:
    """Raises ConfigError, ServerUnreachable, OSError."""
    import asyncio

    import asyncpg

    from proxy.databases import read_catalog

    async def ask() -> Account:
        try:
            connection = await asyncpg.connect(
                task.dsn,
                timeout=_CONNECT_SECONDS,
                command_timeout=_QUERY_SECONDS,
                server_settings={"application_name": "pgveil check"},
            )
        except (OSError, TimeoutError) as error:  # a certificate that is not accepted is a ValueError, too
            raise ServerUnreachable("the database cannot be reached") from error
        except (ValueError, asyncpg.InterfaceError):
            # Their words can hold the URL, and that a password.
            raise ConfigError(
                "--database is no URL that can be used: write postgresql://user@host:port/database"
            ) from None
        try:
            _, catalog = await read_catalog(connection)
            return await _judge(task, connection, catalog)
        finally:
            await connection.close()

    try:
        return asyncio.run(ask())
    except asyncpg.PostgresError as error:
        raise ServerUnreachable("the database refuses", detail=f"{error.sqlstate}: {error}") from error


async def _judge(task: _Task, connection: asyncpg.Connection[Any], catalog: Catalog) -> Account:
    from proxy.config import CalculatorSettings
    from proxy.offline import login_settings
    from proxy.workload.entry import Entry, Lines
    from proxy.workload.formats import detect, reader
    from proxy.workload.judge import Asker, Bench

    askers: dict[str, Asker] = {}

    async def meet(login: str) -> None:
        settings, known = await login_settings(connection, catalog, login, task.search_path)
        askers[login] = Asker(login, settings, known)

    everyone = (task.login,) if task.login is not None else await _one_of_each_role(task.rules, connection, catalog)
    for login in everyone:
        await meet(login)
    bench = Bench(
        task.rules,
        catalog,
        askers,
        everyone,
        alone=task.login is not None,
        computes=task.calculator,
        rows=CalculatorSettings().rows,
    )
    with task.workload.open("rb") as file, _Progress(task.workload) as progress:
        lines = Lines(file)
        for number, item in enumerate(reader(task.form or detect(file))(lines)):
            if isinstance(item, Entry) and item.login is not None and item.login not in askers:
                if len(askers) >= _MAX_LOGINS:
                    raise ConfigError(f"the workload names more than {_MAX_LOGINS} logins: use --as")
                await meet(item.login)
            bench.take(item)
            if number % _EVERY == 0:
                progress.at(lines.consumed)
    return bench.account


async def _one_of_each_role(rules: Rules, connection: asyncpg.Connection[Any], catalog: Catalog) -> tuple[str, ...]:
    """A login for each role of the rules, one that holds no other role where there is one; for rules without roles, nobody."""
    rows = await connection.fetch("SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE rolcanlogin ORDER BY 1")
    able = [str(row["name"]) for row in rows]
    found: dict[str, None] = {}
    for role in sorted(rules.roles):
        held = {
            name: rules.principal(name, catalog.memberships(name)).roles for name in (*able, *rules.roles[role].logins)
        }
        holders = sorted((len(roles), name not in able, name) for name, roles in held.items() if role in roles)
        if holders:
            found[holders[0][2]] = None
    return tuple(found) or ("",)


class _Progress:
    """A bar on the standard error output, where that is a terminal."""

    def __init__(self, path: Path) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(path.name, total=path.stat().st_size or None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def at(self, position: int) -> None:
        """So many bytes have been read."""
        self._bar.update(self._task, completed=position)


def _print(account: Account, path: Path) -> None:
    from rich.console import Console

    from proxy.observe.report import show

    book = account.tally.book()
    shapes = len({kept.finding.shape for kept in book.kept})
    typer.echo(f"{path}: {account.calls} statements of {shapes} shapes")
    show(Console(), book)
    if account.elsewhere:
        typer.echo(f"{account.elsewhere} statements in other databases were not judged")
    for why, count in sorted(account.others.items()):
        typer.echo(f"{count} times {why}")
    for login in sorted(account.unknown):
        typer.echo(f"note: the database has no login {printable(login)}", err=True)
    for bad in account.bad[:_SHOWN]:
        typer.echo(f"{path}:{bad.line}: {bad.why}", err=True)
    if account.bad_count:
        typer.echo(f"{account.bad_count} lines or statements of the file were not understood", err=True)


def _print_json(account: Account) -> None:

    from proxy.observe.report import document

    plain = {
        "statements": account.calls,
        "elsewhere": account.elsewhere,
        "others": account.others,
        "unknown_logins": sorted(account.unknown),
        "bad": account.bad_count,
        "bad_lines": [{"line": bad.line, "why": bad.why} for bad in account.bad],
    }
    typer.echo(json_text(plain | document(account.tally.book())))
