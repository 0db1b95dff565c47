"""A report on a terminal: what is not so, by group, worst first, each with what fixes it; then what is well, as codes."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from doctor.model import Severity
from rules.problems import printable

if TYPE_CHECKING:
    from doctor.examine import Report
    from doctor.model import Finding

_STYLES: Final = {Severity.BAD: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}


def show(report: Report, *, everything: bool = False, console: Console | None = None) -> None:
    """Print a report. `everything`: why each finding matters, and every check that is well."""
    console = console or Console()
    told = [f for f in report.findings if f.checked and f.severity is not Severity.OK and f.accepted is None]
    for group, findings in groupby(told, key=lambda f: f.group):
        console.print(_table(group.value, list(findings), everything=everything))
        console.print()
    _not_checked(console, [f for f in report.findings if not f.checked and f.accepted is None])
    _accepted(console, [f for f in report.findings if f.accepted is not None])
    well = [f for f in report.findings if f.severity is Severity.OK]
    if everything:
        for finding in well:
            console.print(Text.assemble(("ok  ", "green"), f"{finding.code}: {printable(finding.text)}"))
    counts = report.counts()
    console.print(
        Text(
            f"{counts['bad']} bad, {counts['warning']} warnings, {counts['note']} notes, {counts['accepted']} accepted, "
            f"{counts['ok']} checks ok ({printable(report.database)})"
        )
    )


def _table(title: str, findings: list[Finding], *, everything: bool) -> Table:
    """One group's findings; nothing is cut off, however narrow the terminal is."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2, 0, 0)
    )
    table.add_column(no_wrap=True, width=max(len(s) for s in Severity))
    table.add_column(overflow="fold")
    for finding in findings:
        cell = Text.assemble((finding.code, "bold"), ": ", printable(finding.text))
        if everything:
            cell.append(f"\nwhy: {printable(finding.why)}", style="italic")
        cell.append(f"\nfix: {printable(finding.fix)}", style="green")
        table.add_row(Text(finding.severity.value, style=_STYLES[finding.severity]), cell)
    return table


def _not_checked(console: Console, findings: list[Finding]) -> None:
    """Those that could not look, by what is missing: one thing often keeps many from it."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for finding in findings:
        by_reason[finding.text, finding.fix].append(finding.code)
    for (text, fix), codes in by_reason.items():
        console.print(Text.assemble(("warning  ", "yellow"), f"{printable(text)}: {', '.join(codes)}"))
        console.print(Text(f"fix: {printable(fix)}", style="green"))


def _accepted(console: Console, findings: list[Finding]) -> None:
    for finding in findings:
        accepted = finding.accepted
        assert accepted is not None
        who = "".join(
            (f", {accepted.by}" if accepted.by else "", f", until {accepted.until}" if accepted.until else "")
        )
        of = f" of {finding.object}" if finding.object else ""
        console.print(Text(printable(f"accepted  {finding.code}{of}: {accepted.reason}{who}")))
