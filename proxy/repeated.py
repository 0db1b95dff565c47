"""Failures that repeat, in the log: each once with its reason, then a summary now and then, and their end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMARY_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Going:
    """A failure that goes on: since when, why, how often, and when that was last said."""

    since: float
    reason: str
    told: float
    times: int = 1


class Repeated:
    """Tells `log` of failures of several things as `failure`, and of their ends as `end`. `now`: a clock in seconds that only goes forward."""

    def __init__(self, log: Any, failure: str, end: str, now: Callable[[], float], *, level: str = "warning") -> None:
        self._log = log
        self._level = level
        self._failure = failure
        self._end = end
        self._now = now
        self._going: dict[str, _Going] = {}

    def __contains__(self, what: object) -> bool:
        return what in self._going

    def failed(self, what: str, reason: str, **more: object) -> None:
        """`what` has failed, again perhaps. `reason` holds nothing that a log must not."""
        now = self._now()
        going = self._going.get(what)
        if going is None:
            self._going[what] = _Going(now, reason, now)
            getattr(self._log, self._level)(self._failure, reason=reason, **more)
            return
        going.times += 1
        if reason != going.reason or now - going.told >= SUMMARY_SECONDS:
            going.reason, going.told = reason, now
            getattr(self._log, self._level)(
                self._failure, reason=reason, times=going.times, seconds=round(now - going.since, 1), **more
            )

    def ended(self, what: str, **more: object) -> None:
        """It has succeeded."""
        going = self._going.pop(what, None)
        if going is not None:
            self._log.info(
                self._end, reason=going.reason, times=going.times, seconds=round(self._now() - going.since, 1), **more
            )

    def forget(self, what: str) -> None:
        """Nobody tries any more."""
        self._going.pop(what, None)
