"""What a driver observed through pgveil, held against what it observed directly."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.drivers.checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers.ground import Ground
    from tests.drivers.registry import Driver, Observed

# The target through pgveil, and the one that shows what is right.
PAIRS = {"open": "direct", "clear": "direct", "masked": "twin"}
SHOWN = 2000


def targets(check: str) -> tuple[str, ...]:
    """Where a check is tried through pgveil."""
    return tuple(PAIRS) if CHECKS[check].masked else ("open", "clear")


def compared(ground: Ground, driver: Driver, check: str) -> dict[str, str]:
    """By target through pgveil: what differs from direct, '' where nothing does."""
    found: dict[str, str] = {}
    for name in targets(check):
        through = driver.observe(check, ground.target(name))
        # Debian's server 15 can't be reached by TLS from the first byte: there, it is asked for as ever.
        asked = "tls_verify_full" if check == "tls_direct" else check
        found[name] = _difference(driver.observe(asked, ground.target(PAIRS[name])), through, protected=name != "open")
    return found


def _difference(direct: Observed, through: Observed, *, protected: bool) -> str:
    if direct.error is not None:
        return f"fails directly: {direct.error}"
    if through.error is not None:
        return f"fails through pgveil: {through.error}"
    return "; ".join(_differing("", _alike(direct.value), _alike(through.value), _worded if protected else _same))[
        :SHOWN
    ]


def _alike(value: Any) -> Any:
    """The schemas are told apart by nothing else."""
    return json.loads(re.sub(r"\b(open|hidden)\b", "shop", json.dumps(value)))


# What differs on purpose, for every client: an error never repeats a value for a sealed column (docs/compatibility.md tells so).
_QUOTED = re.compile(r': "[^"]*"')
_KEYS = re.compile(r"\)=\([^)]*\)")


def _same(direct: str) -> tuple[str, ...]:
    return (direct,)


def _worded(direct: str) -> tuple[str, ...]:
    return direct, _QUOTED.sub("", direct), _KEYS.sub(")=(<sealed>)", direct)


def _differing(where: str, direct: Any, through: Any, words: Callable[[str], tuple[str, ...]]) -> list[str]:
    if isinstance(direct, dict) and isinstance(through, dict) and direct.keys() == through.keys():
        return [d for key in direct for d in _differing(f"{where}.{key}", direct[key], through[key], words)]
    if isinstance(direct, list) and isinstance(through, list) and len(direct) == len(through):
        pairs = enumerate(zip(direct, through, strict=True))
        return [d for i, (a, b) in pairs for d in _differing(f"{where}[{i}]", a, b, words)]
    alike = through in words(direct) if isinstance(direct, str) else direct == through
    return [] if alike else [f"{where}: {direct!r} directly, {through!r} through pgveil"]
