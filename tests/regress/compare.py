"""Both runs side by side, file by file."""

from __future__ import annotations

import difflib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.regress.stand import Stand
from tests.regress.suite import meets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.regress.source import Source
    from tests.regress.suite import Suite

DIRECT: Final = "direct"
PROXIED: Final = "proxied"
AGAIN: Final = "again"  # direct once more, to see what differs of itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file: whether each side printed what is in expected/, and whether both printed the same bytes. Seconds of each side."""

    name: str
    direct: bool
    proxied: bool
    identical: bool
    seconds: tuple[float, float]


def compare(
    source: Source,
    suite: Suite,
    names: Iterable[str],
    out: Path,
    *,
    other: str = PROXIED,
    setup: str = "elsewhere",
    progress: Callable[[str, str], None] = lambda *_: None,
) -> list[Outcome]:
    """Run the files on two fresh clusters at once; what psql printed is left in `out`/direct and `out`/`other`."""
    names = tuple(names)
    with ThreadPoolExecutor(2) as pool:
        sides = [pool.submit(_run, source, suite, names, out / side, side, setup, progress) for side in (DIRECT, other)]
        direct, proxied = (side.result() for side in sides)
    return [_outcome(suite, name, direct[name], proxied[name]) for name in names]


def difference(out: Path, name: str, other: str = PROXIED) -> str:
    """The lines in which the outputs of a file differ."""
    before, after = ((out / side / f"{name}.out").read_text(errors="replace").splitlines() for side in (DIRECT, other))
    return "\n".join(difflib.unified_diff(before, after, f"{name} direct", f"{name} {other}", lineterm="", n=2))


_Ran = tuple[bytes, float]


def _run(
    source: Source,
    suite: Suite,
    names: tuple[str, ...],
    out: Path,
    side: str,
    setup: str,
    progress: Callable[[str, str], None],
) -> dict[str, _Ran]:
    out.mkdir(parents=True, exist_ok=True)
    ran: dict[str, _Ran] = {}
    with Stand.make(source, through=side == PROXIED, setup=setup) as stand:
        for name in names:
            begun = time.monotonic()
            output = stand.run(suite.script(name))
            ran[name] = output, time.monotonic() - begun
            (out / f"{name}.out").write_bytes(output)
            progress(side, name)
        assert stand.opens() == (side == PROXIED), "pgveil is not where it should be"
    return ran


def _outcome(suite: Suite, name: str, direct: _Ran, proxied: _Ran) -> Outcome:
    answers = suite.expected(name)
    return Outcome(
        name,
        meets(direct[0], answers),
        meets(proxied[0], answers),
        direct[0] == proxied[0],
        (round(direct[1], 1), round(proxied[1], 1)),
    )
