"""What the commands of this package show on a terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rules.problems import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifecycle.apply.model import ApplyPlan


def _table(title: str, *columns: str) -> Table:
    """A table in which nothing is cut off, however narrow the terminal is."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 10_000:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} TB"


def show_plan(plan: ApplyPlan) -> None:
    """The plan as a table; then warnings; then, where there are any, the obstacles."""
    console = Console()
    if plan.changes:
        table = _table("Changes", "change", "object", "what", "rows")
        for change in plan.changes:
            rows = "" if change.rows is None else f"{change.rows:,}"
            rows += "" if change.bytes is None else f" ({_size(change.bytes)})"
            table.add_row(*(Text(printable(cell)) for cell in (change.kind, change.object, change.what, rows)))
        console.print(table)
    if plan.later:
        table = _table("Later, when no pgveil serves other rules any longer", "change", "object", "what")
        for change in plan.later:
            table.add_row(*(Text(printable(cell)) for cell in (change.kind, change.object, change.what)))
        console.print(table)
        console.print(
            Text(f"Other rules are served by {', '.join(map(printable, plan.serving))}: reload, and apply again.")
        )
    for warning in plan.warnings:
        console.print(Text(f"warning: {printable(warning)}"))
    if plan.obstacles:
        table = _table("Obstacles: nothing can be changed", "object", "problem", "what helps")
        for obstacle in plan.obstacles:
            table.add_row(*(Text(printable(cell)) for cell in (obstacle.object, obstacle.problem, obstacle.fix)))
        console.print(table)
    if plan.empty and not plan.later:
        console.print(Text("Nothing to do: the database is as the rules say."))


@contextlib.contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar of rows sealed, on the standard error output; gives the function that `execute` reports to."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown or not total) as bar:
        tasks: dict[str, int] = {}

        def report(table: str, done: int, in_all: int) -> None:
            if table not in tasks:
                tasks[table] = int(bar.add_task(printable(table), total=in_all))
            bar.update(bar.task_ids[list(tasks).index(table)], completed=done)

        yield report
