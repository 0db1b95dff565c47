"""What of the rules can't be served in a database, told: in the log where it changes, by name, and as a number for the page and /readyz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.decisions import Gate
    from proxy.observe.gate import ObservingGate

_TOLD: Final = 32  # of one database at once, one a line


class Differing:
    """Of one worker's databases. `count` is told how much it is in the database of pgveil's own URL."""

    def __init__(self, log: Any, count: Callable[[int], None]) -> None:
        self._log = log
        self._count = count
        self._known: dict[str, tuple[str, ...]] = {}

    def look(self, database: str, gate: Gate | ObservingGate, *, home: bool) -> None:
        """A database was looked at, or the rules have changed."""
        problems = gate.not_served()
        if problems != self._known.get(database, ()):
            for problem in problems[:_TOLD]:
                self._log.warning("applied.differs", database=database, count=len(problems), why=problem)
            if not problems:
                self._log.info("applied.agrees", database=database)
        self._known[database] = problems
        if home:
            self._count(len(problems))

    def forget(self, database: str) -> None:
        """Nothing is kept of it any more."""
        self._known.pop(database, None)
