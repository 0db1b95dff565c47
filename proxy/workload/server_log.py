"""PostgreSQL's log in its three forms: stderr, csvlog and jsonlog (documentation 20.8.4, 20.8.5)."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Final

import msgspec

from proxy.workload.entry import MAX_TEXT, Entry, Passed, entry_or_bad
from proxy.workload.messages import statement_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.workload.entry import Item, Lines

OTHER: Final = "a message without a statement"
# The first severity in a line ends log_line_prefix; what is behind the two spaces is the message.
_LINE: Final = re.compile(
    r"(?P<prefix>.*?)(?P<severity>DEBUG[1-5]?|LOG|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC"
    r"|DETAIL|HINT|QUERY|CONTEXT|LOCATION|STATEMENT|BACKTRACE): {2}(?P<message>.*)",
    re.DOTALL,
)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: [A-Za-z0-9+:/_-]+)?")
# The ways to write user and database into a prefix that are in use: "user=u,db=d" and "u@d".
_USER: Final = re.compile(r"\buser=([^,\s]+)")
_DATABASE: Final = re.compile(r"\b(?:db|database)=([^,\s]+)")
_AT: Final = re.compile(r"(?:^|[\s\[(:])([^\s@\[(:]+)@([^\s@\]):]+)[\s\]):]*$")
_NOBODY: Final = "[unknown]"

_CSV_COLUMNS: Final = 23  # of version 12; later ones add some at the end
_CSV_USER, _CSV_DATABASE, _CSV_SEVERITY, _CSV_MESSAGE = 1, 2, 11, 13


def looks_like_log(line: str) -> bool:
    """Whether a line begins a message of a stderr log."""
    return _LINE.match(line) is not None


def looks_like_csvlog(row: list[str]) -> bool:
    """Whether a row has a csvlog's columns."""
    return len(row) >= _CSV_COLUMNS and _TIME.match(row[0]) is not None


def read_stderr(lines: Lines) -> Iterator[Item]:
    """A log as written by log_destination = stderr. A message goes on in lines that begin with a tab."""
    pending: tuple[int, re.Match[str], list[str]] | None = None
    for line in lines:
        if line.startswith("\t") and pending is not None:
            pending[2].append(line[1:])
            continue
        if pending is not None:
            yield _message(*pending)
            pending = None
        match = _LINE.fullmatch(line.rstrip("\r\n"))
        if match is not None:
            pending = (lines.number, match, [])
        elif line.strip():
            yield Passed(lines.number, "not a line of a PostgreSQL log in English")
    if pending is not None:
        yield _message(*pending)


def _message(number: int, match: re.Match[str], more: list[str]) -> Item:
    message = match["message"] + ("\n" + "".join(more).rstrip("\r\n") if more else "")
    said = statement_in(match["severity"], message)
    if said is None:
        return Passed(number, OTHER, bad=False)
    login, database = _who(match["prefix"])
    when = _TIME.search(match["prefix"])
    return entry_or_bad(Entry(number, said.text, said.extended, 1, login, database, None if when is None else when[0]))


def _who(prefix: str) -> tuple[str | None, str | None]:
    user, database = _USER.search(prefix), _DATABASE.search(prefix)
    if user is not None:
        return _known(user[1]), None if database is None else _known(database[1])
    both = _AT.search(prefix)
    return (None, None) if both is None else (_known(both[1]), _known(both[2]))


def _known(name: str) -> str | None:
    return None if name in {"", _NOBODY} else name


def read_csvlog(lines: Lines) -> Iterator[Item]:
    """A log as written by log_destination = csvlog."""
    for number, row in rows_of(lines):
        if row is None or not looks_like_csvlog(row):
            yield Passed(number, "not a row of a csvlog")
            continue
        said = statement_in(row[_CSV_SEVERITY], row[_CSV_MESSAGE])
        if said is None:
            yield Passed(number, OTHER, bad=False)
            continue
        login, database = _known(row[_CSV_USER]), _known(row[_CSV_DATABASE])
        yield entry_or_bad(Entry(number, said.text, said.extended, 1, login, database, _time_in(row[0])))


def rows_of(lines: Lines) -> Iterator[tuple[int, list[str] | None]]:
    """The rows of a CSV file with the line on which each begins; None for one that is not CSV. Reading goes on behind it."""
    csv.field_size_limit(MAX_TEXT)
    reader = csv.reader(lines, strict=True)
    while True:
        first = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield first, None
            continue
        if row:
            yield first, row


class _JsonLine(msgspec.Struct):
    """What is needed of a jsonlog's object."""

    error_severity: str
    message: str = ""
    user: str | None = None
    dbname: str | None = None
    timestamp: str | None = None


def read_jsonlog(lines: Lines) -> Iterator[Item]:
    """A log as written by log_destination = jsonlog: one object a line."""
    decoder = msgspec.json.Decoder(_JsonLine)
    for line in lines:
        if not line.strip():
            continue
        try:
            found = decoder.decode(line.encode("utf-8", "surrogateescape"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield Passed(lines.number, "not an object of a jsonlog")
            continue
        said = statement_in(found.error_severity, found.message)
        if said is None:
            yield Passed(lines.number, OTHER, bad=False)
            continue
        when = _time_in(found.timestamp or "")
        yield entry_or_bad(Entry(lines.number, said.text, said.extended, 1, found.user, found.dbname, when))


def _time_in(text: str) -> str | None:
    match = _TIME.match(text)
    return None if match is None else match[0]
