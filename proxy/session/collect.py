"""Rows of the server that a computation is made from: held column by column, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.replies import Trouble
from proxy.session.rows import locate

if TYPE_CHECKING:
    from proxy.session.limits import SessionLimits
    from proxy.session.rows import OpenColumn
    from proxy.wire.framing import Batch

TOO_MANY = "pgveil would have to fetch more than {} to compute this statement's result"
NARROW_IT = "Add a condition that the database can evaluate by itself, so that fewer rows are fetched."
_CELL: Final = 48  # what a value costs beyond its bytes: the head of a bytes object, and its place in a list
FULL: Final = Trouble(
    "53200",
    "the statements that pgveil computes hold too many rows at the moment",
    hint="Try again, or raise calculator.held in pgveil's configuration.",
)


class Budget:
    """What the sessions of one worker may hold of fetched rows, in bytes, together."""

    __slots__ = ("_most", "held")

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Whether there is room for so much more; if so it is taken."""
        if self.held + size > self._most:
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """So much is free again."""
        self.held -= size


class Collector:
    """What one execution returned. `columns`: the opened values of each result column, in text form.

    `finished`: the execution has ended, well (`complete`) or not. `more`: the server holds further rows.
    What it has of the budget is free again when nobody holds it any longer.
    """

    __slots__ = ("_budget", "_held", "_limits", "_size", "columns", "complete", "finished", "more", "tag")

    def __init__(self, limits: SessionLimits, budget: Budget) -> None:
        self._limits = limits
        self._budget = budget
        self._size = 0
        self._held = 0
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
            self._let_go()
            return too_much(f"{self._limits.collected_bytes} bytes")
        held = len(raw) + _CELL * columns * (len(batch.starts) - 1)
        if not self._budget.take(held):
            self._let_go()
            return FULL
        self._held += held
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
        self._let_go()
        self.finished = True

    def _let_go(self) -> None:
        self.columns = []
        self._budget.give(self._held)
        self._held = 0

    def __del__(self) -> None:
        self._budget.give(self._held)


def too_much(what: str) -> Trouble:
    """The error of a statement that would need more than a limit allows."""
    return Trouble("54000", TOO_MANY.format(what), hint=NARROW_IT)
