"""The table of docs/fuzzing.md: `python -m tests.fuzz.page RUN.json ...` adds the runs up; without runs the page is written as the totals say.

A run's JSON is what `make fuzz` leaves in .fuzz/. The sum is kept in tests/fuzz/totals.json, so that a test can hold the page against it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from tests.fuzz.registry import MODULES, target
from tests.fuzz.run import largest

ROOT: Final = Path(__file__).parent.parent.parent
PAGE: Final = ROOT / "docs" / "fuzzing.md"
TOTALS: Final = Path(__file__).parent / "totals.json"
BEGIN: Final = "<!-- from here on: python -m tests.fuzz.page -->\n"
END: Final = "<!-- up to here -->\n"
_SUMMED: Final = ("executions", "messages", "mutated", "seconds")
_MOST: Final = ("coverage", "features", "corpus", "slowest_ms", "peak_mib")


def add_up(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One run of several: what was done is added, of measures the largest counts."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for one in run["targets"]:
            total = found.setdefault(
                one["target"], dict.fromkeys((*_SUMMED, *_MOST), 0) | {"findings": 0, "growth_mib": None}
            )
            for name in _SUMMED:
                total[name] = round(total[name] + one[name], 1)
            for name in _MOST:
                total[name] = max(total[name], one[name])
            total["growth_mib"] = largest(total["growth_mib"], one["growth_mib"])
            total["findings"] += len(one["failures"]) + len(one["fatal"]) + bool(one["broken"])
    return {
        "last": max(run["at"] for run in runs)[:10],
        "targets": {name: found[name] for name in MODULES if name in found},
    }


def table(totals: dict[str, Any]) -> str:
    """The generated part of the page."""
    lines = [
        f"The runs that are counted here ended on {totals['last']}.",
        "",
        "| Target | Reads | Executions | Messages | of which mutated | Coverage | Corpus | Slowest (ms) | Memory (MiB) | Growth (MiB) | Open findings |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in totals["targets"].items():
        done = (one["executions"], one["messages"], one["mutated"])
        numbers = (*done, one["coverage"], one["corpus"], round(one["slowest_ms"]), one["peak_mib"])
        growth = "-" if one["growth_mib"] is None else f"{one['growth_mib']:,}"
        lines.append(
            f"| `{name}` | {target(name).about} | "
            + " | ".join(f"{n:,}" for n in numbers)
            + f" | {growth} | {one['findings']:,} |"
        )
    executions, messages, mutated, findings = (
        sum(one[key] for one in totals["targets"].values()) for key in ("executions", "messages", "mutated", "findings")
    )
    lines.append(f"| all | | {executions:,} | {messages:,} | {mutated:,} | | | | | | {findings:,} |")
    return "\n".join(lines) + "\n"


def write(page: str, totals: dict[str, Any]) -> str:
    """The page with its table anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(totals)}\n{END}{after}"


def main() -> None:
    if runs := [json.loads(Path(name).read_text()) for name in sys.argv[1:]]:
        TOTALS.write_text(json.dumps(add_up(runs), indent=1) + "\n")
    PAGE.write_text(write(PAGE.read_text(), json.loads(TOTALS.read_text())))


if __name__ == "__main__":
    main()
