"""What came out, as a file that is committed, and as the tables of docs/regress.md."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from tests.regress.exceptions import EXCEPTIONS, NOT_AS_EXPECTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.regress.compare import Outcome
    from tests.regress.source import Source

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).parents[2] / "docs/regress.md"
_BETWEEN: Final = re.compile(
    r"(?<=<!-- made by make regress: begin -->\n).*?(?=<!-- made by make regress: end -->)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run. The suite is of release `suite`, the server of release `server`. `different` and `not_as_expected` are file names; the latter of the direct run. Seconds of each side."""

    version: str
    setup: str
    server: str
    suite: str
    date: str
    files: int
    identical: int
    different: tuple[str, ...]
    not_as_expected: tuple[str, ...]
    seconds: tuple[int, int]

    @classmethod
    def of(cls, source: Source, setup: str, outcomes: Sequence[Outcome], date: str) -> Self:
        """The sum of the files."""
        return cls(
            source.version,
            setup,
            source.server,
            source.release,
            date,
            len(outcomes),
            sum(o.identical for o in outcomes),
            tuple(o.name for o in outcomes if not o.identical),
            tuple(o.name for o in outcomes if not o.direct),
            (round(sum(o.seconds[0] for o in outcomes)), round(sum(o.seconds[1] for o in outcomes))),
        )

    def key(self) -> tuple[int, str]:
        """What there is one result of."""
        return int(self.version), self.setup

    def line(self) -> str:
        """One line for people."""
        return (
            f"PostgreSQL {self.server}: {self.files} files of {self.suite}, {self.identical} identical, {len(self.different)} different; "
            f"directly {self.files - len(self.not_as_expected)} as in expected/; {self.seconds[0]} s directly, {self.seconds[1]} s through pgveil"
        )


def load(path: Path = RESULTS) -> list[Result]:
    """The results of the last whole runs, one a version and set-up."""
    if not path.exists():
        return []
    return msgspec.json.decode(path.read_bytes(), type=list[Result])


def write(result: Result) -> None:
    """Put a result in the place of the last one of its kind, and into the page."""
    results = sorted([r for r in load() if r.key() != result.key()] + [result], key=Result.key)
    RESULTS.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    PAGE.write_text(_BETWEEN.sub(lambda _: tables(results), PAGE.read_text()))


def written() -> str:
    """What the page has now."""
    found = _BETWEEN.search(PAGE.read_text())
    assert found is not None
    return found[0]


def tables(results: Sequence[Result]) -> str:
    """Numbers and exceptions as Markdown."""
    lines = [
        "",
        "| Server | Suite of | Protected tables | Files | Identical through pgveil | Different | Direct as in `expected/` | Run on |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.server} | {r.suite} | {r.setup} | {r.files} | {r.identical} | {len(r.different)} | {r.files - len(r.not_as_expected)} | {r.date} |"
            for r in results
        ),
        "",
        *_reasons(
            "Different through pgveil, and why:",
            "No file is different.",
            {
                f"`{name}`, PostgreSQL {version}": reason
                for version, reasons in EXCEPTIONS.items()
                for name, reason in reasons.items()
            },
        ),
        "",
        *_reasons(
            "Not as in `expected/` even directly (15), and why:",
            "Every file is as expected.",
            {f"`{name}`": reason for name, reason in NOT_AS_EXPECTED.items()},
        ),
        "",
    ]
    return "\n".join(lines)


def _reasons(title: str, none: str, reasons: Mapping[str, str]) -> list[str]:
    listed = [f"| {name} | {reason} |" for name, reason in reasons.items()]
    return [title, "", "| File | Reason |", "|---|---|", *listed] if listed else [none]
