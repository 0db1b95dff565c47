"""`pgveil audit verify | tail | search`: is the log whole, what happened last, who did what."""

# ruff: noqa: PLC0415 - the log's readers and rich are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

    from audit.event import Event
    from audit.query import Damage, Found
    from audit.record import Record
    from audit.verify import Finding, Report

_NOT_SO = 1
_POLL_SECONDS = 0.5
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AGO = re.compile(r"([0-9]{1,6})([smhd])")

_Directory = Annotated[
    Path, typer.Argument(help="The log's directory.", envvar="PGVEIL_AUDIT", metavar="DIR", exists=False)
]
_Json = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
_Many = list[str]


def _any_of(option: str, text: str) -> Any:
    return typer.Option(option, help=f"{text} May be given several times: any of them.")


def register(app: typer.Typer) -> None:
    """Add `audit` to pgveil's command line."""
    commands = typer.Typer(help="The audit log: verify it, look at its end, search it.", no_args_is_help=True)
    commands.command("verify")(verify)
    commands.command("tail")(tail)
    commands.command("search")(search)
    app.add_typer(commands, name="audit")


def verify(
    directory: _Directory,
    expect_head: Annotated[
        _Many | None, typer.Option(metavar="HASH", help="A hash noted earlier; some record must have it. Repeatable.")
    ] = None,
    expect_seq: Annotated[
        _Many | None,
        typer.Option(
            metavar="WRITER:SEQ", help="A number noted earlier; the writer's chain must reach it. Repeatable."
        ),
    ] = None,
    json: _Json = False,
) -> None:
    """Check every line and link of every writer's chain. Exit code 1 where anything is wrong."""
    from audit.verify import verify as verify_log

    heads = expect_head or []
    for head in heads:
        if not _DIGEST.fullmatch(head):
            raise typer.BadParameter("a hash is 64 hexadecimal digits, lower-case", param_hint="--expect-head")
    report = verify_log(_existing(directory), expect_heads=heads, expect_seqs=_expected(expect_seq or []))
    if json:
        _print_json(report, directory)
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(_NOT_SO)


def tail(
    directory: _Directory,
    count: Annotated[int, typer.Option("-n", "--count", min=0, max=100_000, help="How many records.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until interrupted.")
    ] = False,
    json: _Json = False,
) -> None:
    """Show the newest records of all writers."""
    from audit.query import Follower

    follower = Follower(_existing(directory))
    show = _shower(json=json)
    show(follower.tail(count))
    while follow:
        time.sleep(_POLL_SECONDS)
        show(follower.poll())
    _tell_damage(follower.damage)


def search(
    directory: _Directory,
    login: Annotated[_Many | None, _any_of("--login", "Session user.")] = None,
    role: Annotated[_Many | None, _any_of("--role", "A role of the rules that the login holds.")] = None,
    table: Annotated[_Many | None, _any_of("--table", "Protected table; its name is enough.")] = None,
    column: Annotated[_Many | None, _any_of("--column", "Protected column; its name is enough.")] = None,
    level: Annotated[_Many | None, _any_of("--level", "Level of a column: core, important, general.")] = None,
    verdict: Annotated[_Many | None, _any_of("--verdict", "Verdict on a column: clear, masked, refused.")] = None,
    action: Annotated[_Many | None, _any_of("--action", "select, insert, update, delete, copy, ddl, other.")] = None,
    kind: Annotated[_Many | None, _any_of("--kind", "Kind of record (see docs/audit-log.md).")] = None,
    outcome: Annotated[_Many | None, _any_of("--outcome", "ok, error, cancelled, disconnected, suspended.")] = None,
    reason: Annotated[_Many | None, _any_of("--reason", "Reason of a refusal.")] = None,
    client: Annotated[_Many | None, _any_of("--client", "Client address, with or without its port.")] = None,
    connection: Annotated[_Many | None, _any_of("--connection", "Connection.")] = None,
    text: Annotated[str | None, typer.Option(help="A part of the normalised statement.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on: 2026-03-01T09:30Z, or 2h ago as 2h.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Stop after so many.")] = 1000,
    json: _Json = False,
) -> None:
    """Find records, each statement with its outcome. A record must match every option given."""
    from audit.query import Damage, Query
    from audit.query import search as search_log

    now = datetime.now(UTC)
    query = Query(
        logins=frozenset(login or ()),
        roles=frozenset(role or ()),
        tables=frozenset(table or ()),
        columns=frozenset(column or ()),
        levels=frozenset(level or ()),
        verdicts=frozenset(verdict or ()),
        actions=frozenset(action or ()),
        kinds=frozenset(kind or ()),
        outcomes=frozenset(outcome or ()),
        reasons=frozenset(reason or ()),
        clients=frozenset(client or ()),
        connections=frozenset(connection or ()),
        text=text,
        since=_moment(since, now, "--since"),
        until=_moment(until, now, "--until"),
    )
    _check_words(query.kinds, query.outcomes)
    damage = Damage()
    show = _shower(json=json)
    matches = search_log(_existing(directory), query, damage)
    show(islice(matches, limit))
    if next(matches, None) is not None:
        typer.echo(f"pgveil: there are more than {limit} records; see --limit", err=True)
    _tell_damage(damage)


# Input


def _existing(directory: Path) -> Path:
    """The directory, or the OSError that says why not (exit code 3)."""
    next(directory.iterdir(), None)
    return directory


def _expected(pairs: Iterable[str]) -> dict[str, int]:
    expected: dict[str, int] = {}
    for pair in pairs:
        writer, _, seq = pair.rpartition(":")
        if not writer or not (seq.isascii() and seq.isdecimal() and len(seq) < 19):
            raise typer.BadParameter("say WRITER:SEQ, as in w1:1200", param_hint="--expect-seq")
        expected[writer] = max(int(seq), expected.get(writer, 0))
    return expected


def _moment(text: str | None, now: datetime, option: str) -> str | None:
    """A time in the log's own form; without a zone it is UTC."""
    from audit.record import stamp

    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            seconds = int(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
            return stamp(now - timedelta(seconds=seconds))
        moment = datetime.fromisoformat(text)
        return stamp(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))
    except (ValueError, OverflowError):
        message = "not a time: say 2026-03-01, 2026-03-01T09:30:00+02:00, or 90m, 2h, 7d for so long ago"
        raise typer.BadParameter(message, param_hint=option) from None


def _check_words(kinds: frozenset[str], outcomes: frozenset[str]) -> None:
    """A misspelt word must not look like an empty answer."""
    from typing import get_args

    from audit.event import Event, Outcome

    known_kinds = {str(each.__struct_config__.tag) for each in get_args(Event)}
    for option, given, known in (("--kind", kinds, known_kinds), ("--outcome", outcomes, set(get_args(Outcome)))):
        for word in given - known:
            raise typer.BadParameter(f"{word!r} is none of {', '.join(sorted(known))}", param_hint=option)


# Output


def visible(text: str) -> str:
    """`text` with everything escaped that could move a terminal's cursor or forge a line: clients choose some of what is logged."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shower(*, json: bool) -> Callable[[Iterable[Record | Found]], None]:
    from audit.query import Found

    console = None if json else _console()

    def show(items: Iterable[Record | Found]) -> None:
        for item in items:
            found = item if isinstance(item, Found) else Found(item)
            if console is None:
                typer.echo(found.as_json())
            else:
                _print_line(console, found)

    return show


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _print_line(console: Console, found: Found) -> None:
    from rich.text import Text

    body = found.record.body
    kind = str(type(body.event).__struct_config__.tag)
    line = Text()
    line.append(f"{body.time[:19].replace('T', ' ')}Z ", style="dim")
    line.append(f"{body.writer}:{body.seq} ", style="dim")
    line.append(f"{kind} ", style=_STYLES.get(kind, "bold"))
    line.append(visible(_describe(body.event)))
    if found.outcome is not None:
        ended = found.outcome
        rows = "" if ended.rows is None else f", {ended.rows} rows"
        state = "" if ended.sqlstate is None else f" {ended.sqlstate}"
        line.append(visible(f" => {ended.outcome}{state}{rows}, {ended.duration_us / 1000:.1f} ms"), style="cyan")
    console.print(line)


_STYLES = {"refusal": "bold red", "login_failed": "bold red", "statement": "bold green", "outcome": "cyan"}


def _describe(event: Event) -> str:
    """What matters of an event, in one line."""
    from audit.event import LoginFailed, LoginSucceeded, Refused, StatementEnded, StatementStarted

    match event:
        case StatementStarted():
            columns = ", ".join(
                f"{c.column} ({c.level}, {c.verdict}, {'r' * c.read}{'w' * c.written})" for c in event.columns
            )
            return f"{_who(event)} {event.action} [{columns}] {event.statement}"
        case Refused():
            column = "" if event.column is None else f" on {event.column}"
            seen = " (observed, not refused)" if event.observed else ""
            return f"{_who(event)} {event.sqlstate} {event.reason}{column}{seen} {event.statement}"
        case LoginSucceeded():
            return f"{_who(event)} roles {', '.join(event.roles) or 'none'} ({event.application})"
        case LoginFailed():
            return f"{event.login}@{event.client} {event.database} {event.sqlstate or ''} ({event.application})"
        case StatementEnded():
            rows = "" if event.rows is None else f" {event.rows} rows"
            return f"{event.connection}#{event.statement_id} {event.outcome} {event.sqlstate or ''}{rows}"
        case _:
            import msgspec

            fields = msgspec.structs.asdict(event)
            return " ".join(f"{name}={value}" for name, value in fields.items())


def _who(event: Any) -> str:
    return f"{event.login}@{event.client} {event.database} {event.connection}"


def _print_json(report: Report, directory: Path) -> None:
    from audit.record import plain_json

    plain = {
        "ok": report.ok,
        "directory": str(directory),
        "chains": report.chains,
        "findings": report.findings,
        "findings_untold": report.untold,
        "notes": report.notes,
    }
    typer.echo(plain_json(plain))


def _print_report(report: Report) -> None:
    from rich.table import Table

    console = _console()
    table = Table("writer", "segments", "records", "state")
    for chain in report.chains:
        table.add_row(
            chain.writer, str(chain.segments), str(chain.records), "being written" if chain.live else "at rest"
        )
    console.print(table)
    for chain in report.chains:
        if chain.head is not None:
            console.print(f"newest of {chain.writer}: {chain.head.seq} {chain.head.hash}", markup=False)
    for label, style, findings in (("note", "yellow", report.notes), ("WRONG", "bold red", report.findings)):
        for finding in findings:
            console.print(f"[{style}]{label}[/] ", end="")
            console.print(visible(_place(finding) + finding.message), markup=False)
    if report.untold:
        console.print(f"[bold red]WRONG[/] and {report.untold} more")
    console.print("[bold green]The log is whole.[/]" if report.ok else "[bold red]The log is not whole.[/]")


def _place(finding: Finding) -> str:
    line = f":{finding.line} (byte {finding.offset})" if finding.line else ""
    return f"{finding.file}{line}: " if finding.file else ""


def _tell_damage(damage: Damage) -> None:
    if damage.lines:
        message = f"pgveil: {damage.lines} lines do not check and were passed over; see `pgveil audit verify`"
        typer.echo(message, err=True)
