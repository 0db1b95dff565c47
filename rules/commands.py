"""`pgveil check`: judge a rules file, alone or against a database, and show who sees what. `pgveil schema`: print the file's form."""

# ruff: noqa: PLC0415 - drivers and tables are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rules.load import check_rules, read_rules_file
from rules.model import Verdict
from rules.problems import Problem, RulesError, Severity, json_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from rules.catalog import Catalog
    from rules.load import Checked
    from rules.model import Column, Principal, Rules

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil
_CONNECT_SECONDS = 10
# Of the table of verdicts, in characters with the frame: the level, and a class's id.
_LEVEL_WIDTH, _CLASS_WIDTH = 16, 15
_QUERY_SECONDS = 60

_File = Annotated[Path, typer.Argument(help="The rules file (YAML).", metavar="RULES")]
_Database = Annotated[
    str | None, typer.Option("--database", help="Compare with this database (postgresql:// URL).", metavar="DSN")
]
_Login = Annotated[str | None, typer.Option("--as", help="Show what this login gets.", metavar="LOGIN")]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Warnings fail too: unclassified columns that look sensitive, for one.")
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

# Logins that rules speak of or that could connect; a role that cannot log in is nobody who asks.
_LOGINS_QUERY = """
SELECT r.rolname::text AS name, r.rolcanlogin AS can_login
  FROM pg_catalog.pg_roles r
 WHERE NOT pg_catalog.starts_with(r.rolname::text, 'pg_')
"""


def register(app: typer.Typer) -> None:
    """Add the rules' commands to pgveil's command line."""
    app.command("schema")(schema)


@dataclass(frozen=True, slots=True)
class _Live:
    """What a database says: its catalog, and whether each of its roles may log in."""

    catalog: Catalog
    roles: dict[str, bool]


@dataclass(frozen=True, slots=True)
class _Holder:
    """A login under the rules. `fenced`: whether privileges can keep it out of every protected table, and why not; None without a database."""

    principal: Principal
    fenced: bool | None
    why: str | None = None


def check(
    rules: _File, database: _Database = None, login: _Login = None, strict: _Strict = False, json_: _Json = False
) -> None:
    """Check a rules file; with a database, that both agree and that nothing sensitive is left out; and show who sees what.

    The command line's `check` is in `proxy.workload.command`, which judges statements as well. Exit code 0: all is well. 1: errors (with --strict, warnings too). 2: bad usage. 3: the database cannot be reached.
    """
    checked = _read(rules)
    if checked.rules is None:
        _show(rules, checked.problems, None, (), as_json=json_)
        raise typer.Exit(_NOT_SO)
    problems = list(checked.problems)
    live = None if database is None else _reach(database)
    if live is not None:
        from rules.agreement import compare, missing_roles

        problems += compare(checked.rules, live.catalog, str(rules), checked.places, strict=strict)
        problems += missing_roles(checked.rules, live.roles, str(rules))
    holders = _holders(checked.rules, live, login)
    ordered = tuple(sorted(problems, key=lambda p: (p.line, p.column, p.message)))
    _show(rules, ordered, checked.rules, holders, as_json=json_)
    if any(p.severity is Severity.ERROR or strict for p in ordered):
        raise typer.Exit(_NOT_SO)


def schema() -> None:
    """Print the JSON Schema of rules files, for editors."""
    from rules.schema import json_schema

    typer.echo(json_text(json_schema()))


def _read(path: Path) -> Checked:
    """What a file gave. Ends the command where there is no file to read."""
    if not path.is_file():
        _fail(_USAGE, f"{path} is not a file")
    try:
        text = read_rules_file(path)
    except RulesError as error:
        _fail(_USAGE, str(error))
    return check_rules(text, str(path))


def _reach(dsn: str) -> _Live:
    """The database's answer. Ends the command where there is none; a DSN is never shown, since it can hold a password."""
    import asyncio

    import asyncpg

    from rules.catalog import CatalogError

    try:
        return asyncio.run(_ask(dsn))
    except (asyncpg.PostgresError, CatalogError) as error:
        _fail(_IO, f"the database says: {error}")
    except TimeoutError:
        _fail(_IO, "the database does not answer in time")
    except OSError as error:  # a certificate that is not accepted is a ValueError, too
        _fail(_IO, f"the database cannot be reached: {error.strerror or type(error).__name__}")
    except (ValueError, asyncpg.InterfaceError):
        _fail(
            _USAGE,
            "--database is not a PostgreSQL connection URL that can be used; write postgresql://user@host:port/database",
        )


async def _ask(dsn: str) -> _Live:
    import asyncpg

    from rules.catalog import build_catalog
    from rules.catalog_texts import CatalogReader

    connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS, command_timeout=_QUERY_SECONDS)
    try:
        try:
            # Through pgveil a catalog is that of a plain database, so nothing could be said of it: pgveil's own words are the answer then.
            await connection.fetch("SELECT FROM pgveil.applied LIMIT 0")
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            pass
        except asyncpg.InsufficientPrivilegeError as error:
            if "through pgveil" in str(error):
                raise
        reading = await CatalogReader().read(connection)
        roles = await connection.fetch(_LOGINS_QUERY)
    finally:
        await connection.close()
    return _Live(build_catalog(reading.rows, reading.texts), {r["name"]: r["can_login"] for r in roles})


def _holders(rules: Rules, live: _Live | None, only: str | None) -> tuple[_Holder, ...]:
    """The logins to show, sorted: one, or every one that can connect, or without a database those that the file names."""
    if only is not None:
        names = {only}
    elif live is not None:
        names = {name for name, can_login in live.roles.items() if can_login}
    else:
        names = {login for role in rules.roles.values() for login in role.logins}
    return tuple(_holder(rules, live, name) for name in sorted(names))


def _holder(rules: Rules, live: _Live | None, login: str) -> _Holder:
    if live is None:
        return _Holder(rules.principal(login, ()), None)
    catalog = live.catalog
    why = catalog.unfenced_by(login, rules.protected_tables())
    return _Holder(rules.principal(login, catalog.memberships(login)), why is None, why)


def _show(
    path: Path, problems: tuple[Problem, ...], rules: Rules | None, holders: tuple[_Holder, ...], *, as_json: bool
) -> None:
    if as_json:
        typer.echo(json_text(_document(path, problems, rules, holders)))
        return
    for problem in problems:
        typer.echo(str(problem), err=True)
    if rules is None:
        return
    columns = sum(len(t.columns) for t in rules.tables.values())
    protected = rules.protected_columns()
    typer.echo(
        f"{path}: version {rules.version}, {len(rules.tables)} tables, {columns} columns, {len(protected)} of them protected"
    )
    if holders:
        _print_tables(rules, holders)


def _print_tables(rules: Rules, holders: tuple[_Holder, ...]) -> None:
    """Who is in which class, and what each class sees: logins of one class see the same."""
    from rich.console import Console

    console = Console()
    classes = {h.principal.policy.id: h.principal.policy for h in holders}
    numbers = {id_: str(number) for number, id_ in enumerate(classes, start=1)}
    columns = rules.protected_columns()
    names = max((len(str(c.name)) for c in columns), default=0)
    wide = names + _LEVEL_WIDTH + len(classes) * _CLASS_WIDTH <= console.width
    _print_logins(console, holders, {} if wide else numbers)
    if wide:
        seen = [(c, [str(policy.verdict(c.name)) for policy in classes.values()]) for c in columns]
        _print_verdicts(console, tuple(classes), seen)
        return
    verdicts = tuple(Verdict)
    by_verdict = [
        (c, [" ".join(numbers[p.id] for p in classes.values() if p.verdict(c.name) is v) for v in verdicts])
        for c in columns
    ]
    _print_verdicts(console, tuple(v.value for v in verdicts), by_verdict)


def _print_logins(console: Console, holders: tuple[_Holder, ...], numbers: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    live = any(h.fenced is not None for h in holders)
    logins = Table("login", "roles", title="Logins", title_justify="left")
    for header in (*(["no."] if numbers else []), "class", *(["kept out by privileges"] if live else [])):
        logins.add_column(header)
    for h in holders:
        id_ = h.principal.policy.id
        number = [numbers[id_]] if numbers else []
        fenced = [] if h.fenced is None else ["yes" if h.fenced else f"no: {h.why}"]
        row = (h.principal.login, ", ".join(h.principal.roles) or "none", *number, id_, *fenced)
        logins.add_row(*(Text(printable(cell)) for cell in row))
    console.print(logins)


def _print_verdicts(console: Console, headers: tuple[str, ...], rows: Iterable[tuple[Column, list[str]]]) -> None:
    """A line for each column: the verdict of each class, or the classes' numbers under each verdict."""
    from rich.table import Table
    from rich.text import Text

    verdicts = Table("column", "level", *headers, title="Verdicts by class", title_justify="left")
    for column, cells in rows:
        verdicts.add_row(*(Text(printable(cell)) for cell in (str(column.name), str(column.level), *cells)))
    console.print(verdicts)


def _document(
    path: Path, problems: tuple[Problem, ...], rules: Rules | None, holders: tuple[_Holder, ...]
) -> dict[str, Any]:
    return {
        "file": str(path),
        "version": None if rules is None else rules.version,
        "errors": sum(p.severity is Severity.ERROR for p in problems),
        "warnings": sum(p.severity is Severity.WARNING for p in problems),
        "problems": [
            {"line": p.line, "column": p.column, "severity": p.severity, "message": p.message, "fix": p.fix}
            for p in problems
        ],
        "logins": [
            {
                "login": h.principal.login,
                "roles": h.principal.roles,
                "class": h.principal.policy.id,
                "fenced": h.fenced,
                "verdicts": {str(c): v for c, v in sorted(h.principal.policy.verdicts.items())},
            }
            for h in holders
        ],
    }


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {message}", err=True)
    raise typer.Exit(code)
