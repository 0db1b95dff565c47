"""Which kind of file a workload is, and its reader."""

from __future__ import annotations

import csv
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from proxy.workload.server_log import looks_like_csvlog, looks_like_log, read_csvlog, read_jsonlog, read_stderr
from proxy.workload.sql_file import read_sql
from proxy.workload.statistics import looks_like_statistics, read_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from proxy.workload.entry import Item, Lines


class Format(StrEnum):
    """The kinds of files that are read."""

    STDERR = "stderr"  # PostgreSQL's log as text
    CSVLOG = "csvlog"
    JSONLOG = "jsonlog"
    STATISTICS = "statistics"  # an export of pg_stat_statements
    SQL = "sql"


_HEAD: Final = 64 * 1024  # bytes that are looked at
_READERS: Final[dict[Format, Callable[[Lines], Iterator[Item]]]] = {
    Format.STDERR: read_stderr,
    Format.CSVLOG: read_csvlog,
    Format.JSONLOG: read_jsonlog,
    Format.STATISTICS: read_statistics,
    Format.SQL: read_sql,
}


def reader(form: Format) -> Callable[[Lines], Iterator[Item]]:
    """The reader of a format."""
    return _READERS[form]


def detect(file: BinaryIO) -> Format:
    """The format of a file by its beginning; SQL where it looks like nothing else. The file is read from where it stands, and put back."""
    begin = file.tell()
    head = file.read(_HEAD).decode("utf-8", "replace")
    file.seek(begin)
    lines = [line for line in head.splitlines(keepends=True) if line.strip()]
    if not lines:
        return Format.SQL
    if _is_json(lines[0]):
        return Format.JSONLOG
    row = _first_row(lines)
    if looks_like_csvlog(row):
        return Format.CSVLOG
    if looks_like_statistics(row):
        return Format.STATISTICS
    return Format.STDERR if any(looks_like_log(line) for line in lines) else Format.SQL


def _is_json(line: str) -> bool:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "error_severity" in found


def _first_row(lines: list[str]) -> list[str]:
    try:
        return next(csv.reader(lines))
    except (csv.Error, StopIteration):
        return []
