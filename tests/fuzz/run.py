"""`make fuzz`: every target for a bounded time, one after the other; a table at the end, and the same as JSON.

    python -m tests.fuzz.run [--seconds N] [--out DIRECTORY] [TARGET ...]

DIRECTORY (default .fuzz) keeps the corpus from run to run, and what was found: `TARGET/failure-*.bin` with the traceback beside it. What is
worth keeping goes to tests/fuzz/findings/TARGET/, where `make test` runs it from then on. Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.fuzz.registry import MODULES, seeds, target

_HANG_SECONDS: Final = 30  # for one input, the machine being busy
_MEMORY_MIB: Final = 1536
_FORMAT: Final = 1
_PROGRESS: Final = re.compile(r"cov: (\d+) ft: (\d+)")
# What libFuzzer leaves behind an input that the process did not survive.
_ARTIFACTS: Final = ("crash-*", "timeout-*", "oom-*", "leak-*")


@dataclass(slots=True)
class Outcome:
    """One target's run. `failures`: how often each kind of failure came; `fatal`: inputs that ended the process.

    `mutated`: the messages that are none of the corpus's. `growth_mib` None: it never ran long enough to be warm.
    """

    target: str
    seconds: float = 0.0
    executions: int = 0
    messages: int = 0
    mutated: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    slowest_ms: float = 0.0
    peak_mib: int = 0
    growth_mib: int | None = None
    failures: dict[str, int] = field(default_factory=dict)
    fatal: list[str] = field(default_factory=list)
    broken: str = ""

    @property
    def findings(self) -> int:
        """How many there are to look at."""
        return len(self.failures) + len(self.fatal) + bool(self.broken)


def fuzz(name: str, seconds: float, home: Path) -> Outcome:
    """Run one target for so long; where its process dies of an input, again for the rest."""
    directory = home / name
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("failure-*"):
        old.unlink()
    chosen = target(name)
    for seed in seeds(name):
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    outcome = Outcome(name)
    options = [
        f"-timeout={_HANG_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={directory}/",
        *_dictionary(directory, chosen.dictionary),
        str(corpus),
    ]
    begun = time.monotonic()
    while (left := seconds - (time.monotonic() - begun)) >= 1 and not outcome.broken:
        before = {path.name for pattern in _ARTIFACTS for path in directory.glob(pattern)}
        child = [
            sys.executable,
            "-m",
            "tests.fuzz.child",
            name,
            str(directory),
            f"-max_total_time={int(left)}",
            *options,
        ]
        log = directory / "log"
        (directory / "stats.json").unlink(missing_ok=True)
        with log.open("wb") as file:
            code = subprocess.run(child, stdout=file, stderr=file, check=False).returncode
        _add(outcome, directory, log.read_text(errors="replace"))
        after = {path.name for pattern in _ARTIFACTS for path in directory.glob(pattern)}
        outcome.fatal += sorted(after - before)
        if code and after == before:
            outcome.broken = log.read_text(errors="replace")[-2000:]
    outcome.seconds = round(time.monotonic() - begun, 1)
    outcome.corpus = sum(1 for _ in corpus.iterdir())
    return outcome


def _dictionary(directory: Path, words: tuple[bytes, ...]) -> list[str]:
    if not words:
        return []
    path = directory / "dictionary"
    path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words))
    return [f"-dict={path}"]


def _add(outcome: Outcome, directory: Path, log: str) -> None:
    """What the process did, to what those before it did."""
    for found in _PROGRESS.finditer(log):
        outcome.coverage = max(outcome.coverage, int(found[1]))
        outcome.features = max(outcome.features, int(found[2]))
    stats = directory / "stats.json"
    if not stats.exists():
        return
    told: dict[str, Any] = json.loads(stats.read_text())
    outcome.executions += told["executions"]
    outcome.messages += told["messages"]
    outcome.mutated += told["mutated"]
    outcome.slowest_ms = max(outcome.slowest_ms, told["slowest_ms"])
    outcome.peak_mib = max(outcome.peak_mib, told["peak_mib"])
    outcome.growth_mib = largest(outcome.growth_mib, told["growth_mib"])
    for signature, count in told["failures"].items():
        outcome.failures[signature] = outcome.failures.get(signature, 0) + count


def largest(one: int | None, other: int | None) -> int | None:
    """Of two measures, either of which may not have been taken."""
    return max((n for n in (one, other) if n is not None), default=None)


def table(outcomes: list[Outcome]) -> Table:
    """The outcomes for people."""
    shown = Table(box=None)
    for heading in (
        "target",
        "executions",
        "messages",
        "coverage",
        "features",
        "corpus",
        "findings",
        "slowest ms",
        "peak MiB",
        "growth MiB",
    ):
        shown.add_column(heading, justify="left" if heading == "target" else "right")
    for o in outcomes:
        counts = (o.executions, o.messages, o.coverage, o.features, o.corpus, o.findings)
        shown.add_row(
            o.target, *(f"{n:,}" for n in counts), f"{o.slowest_ms:,.1f}", f"{o.peak_mib:,}", str(o.growth_mib)
        )
    executions, messages, findings = (
        sum(getattr(o, n) for o in outcomes) for n in ("executions", "messages", "findings")
    )
    shown.add_section()
    shown.add_row("all", f"{executions:,}", f"{messages:,}", "", "", "", f"{findings:,}", "", "", "")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--out", type=Path, default=Path(".fuzz"))
    given = parser.parse_args()
    unknown = sorted(set(given.targets) - set(MODULES))
    if unknown:
        parser.error(f"no target {unknown[0]}")
    console = Console(width=120)
    outcomes = []
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    path = given.out / f"{moment}.json"
    for name in given.targets or MODULES:
        outcome = fuzz(name, given.seconds, given.out)
        outcomes.append(outcome)
        console.print(f"{name}: {outcome.executions:,} executions, {outcome.findings} findings")
        for line in (*outcome.failures, *outcome.fatal, *filter(None, [outcome.broken])):
            console.print(f"  {line}", markup=False)
        # After each target, so that a long run that is broken off has not been for nothing.
        told = {"format": _FORMAT, "at": moment, "targets": [asdict(o) for o in outcomes]}
        path.write_text(json.dumps(told, indent=2) + "\n")
    console.print(table(outcomes))
    console.print(f"written: {path}")
    return 1 if any(o.findings for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
