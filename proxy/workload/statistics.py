"""An export of pg_stat_statements as CSV with a header (documentation F.32): `query` and `calls`, and who where it is told.

\\copy (SELECT rolname, query, calls FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())) TO 'statements.csv' CSV HEADER
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigError
from proxy.workload.entry import Entry, Passed, entry_or_bad
from proxy.workload.server_log import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.workload.entry import Item, Lines

_LOGIN: Final = ("rolname", "usename", "username", "user")
_DATABASE: Final = ("datname", "database", "dbname")
_WHEN: Final = ("stats_since", "first_seen")
# What the view shows of other roles' statements to those who may not read them.
_HIDDEN: Final = "<insufficient privilege>"


def looks_like_statistics(row: Sequence[str]) -> bool:
    """Whether a row is the header of such an export."""
    return "query" in [name.strip().lower() for name in row]


def read_statistics(lines: Lines) -> Iterator[Item]:
    """The statements of an export. Raises ConfigError where there is no header with `query`."""
    rows = rows_of(lines)
    _, header = next(rows, (0, None))
    if header is None or not looks_like_statistics(header):
        raise ConfigError("the first line must name the columns, `query` among them (and `calls`, `rolname`)")
    names = [name.strip().lower() for name in header]
    for number, row in rows:
        yield _entry(number, names, row)


def _entry(number: int, names: list[str], row: list[str] | None) -> Item:
    if row is None or len(row) != len(names):
        return Passed(number, "not a row with the header's columns")
    fields = dict(zip(names, row, strict=True))
    text = fields["query"]
    if text.strip() in {"", _HIDDEN}:
        return Passed(number, "the statement's text was hidden from whoever made the export")
    calls = fields.get("calls", "1")
    if not (calls.isascii() and calls.isdigit() and len(calls) < 19):
        return Passed(number, "`calls` is not a number")
    return entry_or_bad(
        Entry(number, text, True, int(calls), _first(fields, _LOGIN), _first(fields, _DATABASE), _first(fields, _WHEN))
    )


def _first(fields: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if fields.get(name)), None)
