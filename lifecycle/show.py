"""What the commands of this package show on a terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rules.problems import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lifecycle.apply.model import ApplyPlan, Change


# Below this a table's cells are a word wide.
_TABLE_COLUMNS = 100


def _show(console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table in which nothing is cut off; on a narrow terminal a paragraph for each row."""
    if console.width < _TABLE_COLUMNS:
        console.print(Text(f"{title}:"))
        for first, *others in rows:
            console.print(Text(printable(first), style="bold"))
            for cell in filter(None, others):
                console.print(Padding(Text(printable(cell)), (0, 0, 0, 4)))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def _amount(change: Change) -> str:
    rows = "" if change.rows is None else f"{change.rows:,}"
    return rows + ("" if change.bytes is None else f" ({_size(change.bytes)})")


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


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
        rows = [(str(c.kind), c.object, c.what, _amount(c)) for c in plan.changes]
        _show(console, "Changes", ("change", "object", "what", "rows"), rows)
        if plan.seconds >= 1:
            console.print(
                Text(f"Sealing takes about {_time(plan.seconds)}; the tables that are sealed can't be used meanwhile.")
            )
    if plan.later:
        later = [(str(c.kind), c.object, c.what) for c in plan.later]
        _show(console, "Later, when no pgveil serves other rules any longer", ("change", "object", "what"), later)
        console.print(
            Text(f"Other rules are served by {', '.join(map(printable, plan.serving))}: reload, and apply again.")
        )
    for warning in plan.warnings:
        console.print(Text(f"warning: {printable(warning)}"))
    if plan.obstacles:
        obstacles = [(o.object, o.problem, o.fix) for o in plan.obstacles]
        _show(console, "Obstacles: nothing can be changed", ("object", "problem", "what helps"), obstacles)
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
