"""Findings for people and for programs: what would be refused and what changed, by statement shape, and for whom."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.table import Table
from rich.text import Text

from proxy.observe.findings import NOT_UNDERSTOOD, Outcome
from rules.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from proxy.observe.findings import Finding
    from proxy.observe.tally import Book, Kept, Seen

_LOGINS: Final = 30  # that a table shows; the JSON form has all
_NAMED: Final = 6  # that are named with one shape
_SHAPES: Final = 50  # of each outcome or reason
_TITLES: Final = {
    Outcome.BY_MASK: "would find by masks only",
    Outcome.COMPUTED: "would be computed by pgveil, within its limits (docs/limits.md), from what it fetches",
    Outcome.CHANGED: "would be changed",
    Outcome.RECORDED: "would run as they came, and be recorded",
}


@dataclass(slots=True)
class _Group:
    """Findings that say the same of one shape for several logins."""

    finding: Finding
    by_login: dict[str, int]
    first: str | None
    line: int | None

    @property
    def count(self) -> int:
        return max(self.by_login.values())


def show(console: Console, book: Book) -> None:
    """Print a book: who, then what would be refused by reason, then what would be changed."""
    _by_login(console, book)
    groups = _grouped(book.kept)
    refused: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        if group.finding.outcome is Outcome.REFUSED:
            refused[group.finding.reason or "?"].append(group)
    for reason, of_reason in sorted(refused.items(), key=lambda pair: (-sum(g.count for g in pair[1]), pair[0])):
        _section(console, f"would be refused: {reason} (docs/errors.md#{reason})", of_reason)
    for outcome, title in _TITLES.items():
        _section(console, title, [g for g in groups if g.finding.outcome is outcome])
    for what, count in sorted(book.dropped.items()):
        console.print(f"{count} more, {what}: their shapes are beyond the limit and were not kept")


def document(book: Book) -> dict[str, Any]:
    """The same for programs."""
    return {
        "findings": [_plain(kept) for kept in book.kept],
        "passed": book.passed,
        "dropped": book.dropped,
    }


def _plain(kept: Kept) -> dict[str, Any]:
    finding: dict[str, Any] = msgspec.to_builtins(kept.finding)
    seen: dict[str, Any] = msgspec.to_builtins(kept.seen)
    return finding | {name: value for name, value in seen.items() if value is not None}


def _by_login(console: Console, book: Book) -> None:
    counts: dict[str, dict[Outcome, int]] = defaultdict(lambda: dict.fromkeys(Outcome, 0))
    roles: dict[str, tuple[str, ...]] = {}
    for kept in book.kept:
        counts[kept.finding.login][kept.finding.outcome] += kept.seen.count
        roles[kept.finding.login] = kept.finding.roles
    if not counts:
        return
    table = Table("login", "roles", title="Statements run, by what would become of them", title_justify="left")
    outcomes = [o for o in Outcome if any(c[o] for c in counts.values())]
    for outcome in outcomes:
        table.add_column(outcome.value, justify="right")
    for login in sorted(counts, key=lambda name: (-counts[name][Outcome.REFUSED], name))[:_LOGINS]:
        cells = (login, ", ".join(roles[login]) or "none", *(str(counts[login][o]) for o in outcomes))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    if len(counts) > _LOGINS:
        console.print(f"and {len(counts) - _LOGINS} logins more (--json has them)")


def _grouped(kept: Iterable[Kept]) -> list[_Group]:
    """The most frequent first."""
    groups: dict[object, _Group] = {}
    for each in kept:
        finding, seen = each.finding, each.seen
        key = (finding.outcome, finding.shape, finding.reason, finding.message, finding.hint, finding.effects)
        group = groups.get(key)
        if group is None:
            groups[key] = _Group(finding, {finding.login: seen.count}, seen.first, seen.line)
            continue
        group.by_login[finding.login] = group.by_login.get(finding.login, 0) + seen.count
        if _earlier(seen, group):
            group.first, group.line = seen.first, seen.line
    return sorted(groups.values(), key=lambda g: (-g.count, g.finding.shape))


def _earlier(seen: Seen, group: _Group) -> bool:
    if seen.first is not None and group.first is not None:
        return seen.first < group.first
    return seen.line is not None and group.line is not None and seen.line < group.line


def _section(console: Console, title: str, groups: list[_Group]) -> None:
    if not groups:
        return
    console.print()
    shapes = len({g.finding.shape for g in groups})
    console.print(Text(f"{title}: {shapes} {'shape' if shapes == 1 else 'shapes'}", "bold"))
    for group in groups[:_SHAPES]:
        for line in _group(group):
            console.print(line, soft_wrap=True, highlight=False)
    if len(groups) > _SHAPES:
        console.print(f"  and {len(groups) - _SHAPES} more (--json has them)")


def _group(group: _Group) -> Iterator[Text]:
    finding = group.finding
    yield Text(f"  {printable(finding.shape) or NOT_UNDERSTOOD}", "italic")
    where = "" if group.line is None else f", line {group.line}"
    first = "" if group.first is None else f", first {group.first}"
    if group.line is not None and group.first is None:
        where = f", first on line {group.line}"
    yield Text(f"    run {_times(group)}{first}{where}")
    if finding.message is not None:
        yield Text(f"    ERROR:  {finding.sqlstate}: {printable(finding.message)}")
    if finding.hint is not None:
        yield Text(f"    HINT:  {printable(finding.hint)}")
    if finding.effects:
        yield Text(f"    {printable('; '.join(finding.effects))}")


def _times(group: _Group) -> str:
    """How often by whom: "12 times by app, 3 by web"."""
    order = sorted(group.by_login.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{count} by {printable(login)}" for login, count in order[:_NAMED]]
    named[0] = named[0].replace(" by", " time by" if order[0][1] == 1 else " times by", 1)
    more = len(order) - _NAMED
    return ", ".join(named) + (f", and by {more} logins more" if more > 0 else "")
