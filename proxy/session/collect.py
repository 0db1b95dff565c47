"""Rows of the server that a computation is made from: held column by column, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.replies import Trouble
from proxy.session.rows import locate

if TYPE_CHECKING:
    from proxy.session.limits import SessionLimits
    from proxy.session.rows import OpenColumn
    from proxy.wire.framing import Batch

TOO_MANY = "pgveil would have to fetch more than {} to compute this statement's result"
NARROW_IT = "Add a condition that the database can evaluate by itself, so that fewer rows are fetched."


class Collector:
    """What one execution returned. `columns`: the opened values of each result column, in text form.

    `finished`: the execution has ended, well (`complete`) or not. `more`: the server holds further rows.
    """

    __slots__ = ("_limits", "_size", "columns", "complete", "finished", "more", "tag")

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._size = 0
        self.columns: list[list[bytes | None]] = []
        self.complete = False
        self.finished = False
        self.more = False
        self.tag = b""

    def take(self, batch: Batch, columns: int, opener: OpenColumn) -> Trouble | None:
        """Keep a batch of rows of so many columns, opened; the trouble where that is too much. Raises as `locate` and `opener` do."""
        raw = batch.raw
        self._size += len(raw)
        if self._size > self._limits.collected_bytes:
            self.columns.clear()
            return too_much(f"{self._limits.collected_bytes} bytes")
        if not self.columns:
            self.columns = [[] for _ in range(columns)]
        if columns:
            for which, (begins, lengths) in enumerate(locate(raw, batch.starts, columns, range(columns))):
                cells = [None if n < 0 else raw[b : b + n] for b, n in zip(begins, lengths, strict=True)]
                self.columns[which] += opener(which, cells)
        return None

    def ended(self, tag: bytes, *, more: bool) -> None:
        """The execution ended with this completion tag, or (`more`) was suspended at its row limit."""
        self.tag = tag
        self.more = more
        self.finished = self.complete = True

    def drop(self) -> None:
        """The server ended it with an error, or ignores it."""
        self.columns.clear()
        self.finished = True


def too_much(what: str) -> Trouble:
    """The error of a statement that would need more than a limit allows."""
    return Trouble("54000", TOO_MANY.format(what), hint=NARROW_IT)
