"""How many look-ups a statement makes, and whether the login may make them now (ADR 0015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.model import Principal
    from rules.plan import Plan


class LookupMeter(Protocol):
    """Counts the look-ups of logins, whichever connection they come by."""

    def spend(self, login: str, count: int, per_minute: int) -> bool:
        """Whether `login` may make `count` look-ups now, of at most `per_minute` a minute; if it may, they are made."""


class Unmetered:
    """Lets every look-up pass."""

    def spend(self, login: str, count: int, per_minute: int) -> bool:  # noqa: ARG002 - the protocol's
        """Always."""
        return True


_TOO_MANY: Final = "A look-up compares a value with a column that this login sees masked; each value counts, in IN lists and arrays too."


def over_limit(meter: LookupMeter, principal: Principal, count: int) -> Refusal | None:
    """The refusal of look-ups beyond what the role's rules allow in a minute."""
    most = principal.lookups_per_minute
    if not count or most is None or meter.spend(principal.login, count, most):
        return None
    return Refusal(
        Reason.LOOKUP_RATE,
        "53400",
        f"too many look-ups: this login may make {most} a minute",
        _TOO_MANY,
        "Wait a minute, look up fewer values at once, or have `lookups: {per_minute: ...}` of the role raised in the rules.",
    )


def metered(plans: Iterable[Plan | None]) -> int:
    """The constants by which the plans of a text look up, each parameter counted once."""
    return sum(plan.metered for plan in plans if plan is not None)


def elements(plan: Plan, sealed: Iterable[bytes | None]) -> int:
    """How many values sealed array parameters hold beyond the one that each counts for already.

    What is sealed for a look-up never has a comma in it, so the commas part the elements.
    """
    if not plan.metered:
        return 0
    values = list(sealed)
    arrays = (values[p.number - 1] for p in plan.params if p.array and p.exact and p.number <= len(values))
    return sum(value.count(b",") for value in arrays if value is not None)
