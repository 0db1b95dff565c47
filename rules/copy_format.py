"""COPY as values: how its data is written, and what a plan says of it (PostgreSQL documentation, COPY).

`rules.copying` reads them from a text; the session's codecs follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.model import Column
    from rules.plan import ResultColumn


class CopyForm(StrEnum):
    """The three formats."""

    TEXT = "text"
    CSV = "csv"
    BINARY = "binary"


@dataclass(frozen=True, slots=True)
class ColumnList:
    """The columns of FORCE_QUOTE and its like: all of them (`*`), or those named."""

    every: bool = False
    names: tuple[str, ...] = ()

    def among(self, columns: tuple[str, ...]) -> frozenset[int]:
        """The 0-based places of the named ones; of several columns of one name the server means the first."""
        if self.every:
            return frozenset(range(len(columns)))
        return frozenset(columns.index(name) for name in self.names if name in columns)


NO_COLUMNS = ColumnList()


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How rows are written. Characters are single bytes; `null` and `default` are markers in the data's encoding.

    `default`: stands for the column's DEFAULT (COPY FROM, from 16 on). `header`: the first line holds names. `ends`: `\\.` alone on a line ends the
    data (in csv before 18 only). `lenient`: ON_ERROR ignore, a row that does not fit is left out. `encoding`: of the data, None for the client's.
    """

    form: CopyForm = CopyForm.TEXT
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    quote: bytes = b'"'
    escape: bytes = b'"'
    header: bool = False
    default: bytes | None = None
    force_quote: ColumnList = NO_COLUMNS
    force_null: ColumnList = NO_COLUMNS
    force_not_null: ColumnList = NO_COLUMNS
    lenient: bool = False
    ends: bool = True
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class CopyColumn:
    """A column that COPY FROM fills. `sealed`: the rules' column, where its values are sealed on the way."""

    name: str
    sealed: Column | None = None


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a COPY ... FROM STDIN or TO STDOUT carries, and how the server is asked about it first, since COPY describes no columns.

    `into`: COPY FROM. `relation`: the table's bare name, as the server's errors call it. `witness`: the SELECT whose description must agree; None
    for COPY (query), where it is the query itself, tokens `query`. Its columns are `columns` (of COPY TO: `results`), and behind them, where the
    text lists no columns, all columns of the table, which must be called `everything`. `format` is the text's own, filled in for each text.
    """

    into: bool
    columns: tuple[CopyColumn, ...] = ()
    results: tuple[ResultColumn, ...] = ()
    format: CopyFormat = CopyFormat()
    relation: str = ""
    witness: str | None = None
    query: tuple[int, int] | None = None
    everything: tuple[str, ...] = ()

    @property
    def protects(self) -> bool:
        """Whether any column is sealed or opened."""
        return any(c.sealed is not None for c in self.columns) or any(r.open is not None for r in self.results)
