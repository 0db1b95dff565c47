"""Choices that can be made again: what composed a statement that came out differently is made smaller while it still does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

_BLOCKS: Final = (64, 16, 8, 4, 2, 1)
_ATTEMPTS: Final = 600


@dataclass(slots=True)
class Choices:
    """Gives `again` first, then by `chance`, or the first of all options without one. `made` is what was chosen."""

    again: Sequence[int] = ()
    chance: random.Random | None = None
    made: list[int] = field(default_factory=list)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options. The first of them is the plainest."""
        at = len(self.made)
        if at < len(self.again):
            number = min(self.again[at], len(options) - 1)
        else:
            number = 0 if self.chance is None else self.chance.randrange(len(options))
        self.made.append(number)
        return options[number]


def shrunk(made: Sequence[int], still: Callable[[Sequence[int]], bool]) -> list[int]:
    """Fewer and smaller choices of which `still` holds."""
    best, left = list(made), _ATTEMPTS
    for size in _BLOCKS:
        at = len(best)
        while at > 0 and left > 0:
            at = max(at - size, 0)
            for fewer in (
                best[:at] + best[at + size :],
                best[:at] + [0] * len(best[at : at + size]) + best[at + size :],
            ):
                if fewer == best or left <= 0:
                    continue
                left -= 1
                if still(fewer):
                    best = fewer
                    break
    return best
