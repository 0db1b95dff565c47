"""What was measured, as JSON, as a table and as a picture. Only ratios within one run mean something on a shared machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = 1
BASE: Final = "direct"


@dataclass(frozen=True, slots=True)
class Cell:
    """One pgbench run. `tps` is without the time to connect; `load` is the machine's 1-minute load average before it.

    `cpu_us`: CPU time a transaction of what stands in the middle, user and system, None where nothing does.
    """

    round: int
    workload: str
    target: str
    clients: int
    seconds: int
    tps: float
    latency_ms: float
    load: float
    cpu_us: float | None = None


def medians(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Transactions a second by workload and target."""
    return _by_workload(cells, {id(c): c.tps for c in cells})


def ratios(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """The median, over the rounds, of each target's tps divided by that of `direct` in the same round and workload."""
    base = {(c.round, c.workload): c.tps for c in cells if c.target == BASE}
    return _by_workload(
        cells, {id(c): c.tps / base[c.round, c.workload] for c in cells if (c.round, c.workload) in base}
    )


def cpu(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Microseconds of CPU a transaction of what stands in the middle, by workload and target."""
    return _by_workload(cells, {id(c): c.cpu_us for c in cells if c.cpu_us is not None})


def _by_workload(cells: Sequence[Cell], values: Mapping[int, float]) -> dict[str, dict[str, float]]:
    grouped: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if id(cell) in values:
            grouped.setdefault(cell.workload, {}).setdefault(cell.target, []).append(values[id(cell)])
    return {w: {t: statistics.median(v) for t, v in by.items()} for w, by in grouped.items()}


def machine() -> dict[str, Any]:
    """The facts of the machine that explain numbers; nothing that names it."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) // 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def document(
    started: str, settings: Mapping[str, Any], versions: Mapping[str, str], cells: Sequence[Cell]
) -> dict[str, Any]:
    """The whole result as a JSON value, each raw round in it."""
    return {
        "format": FORMAT,
        "started": started,
        "machine": machine(),
        "versions": dict(versions),
        "settings": dict(settings),
        "cells": [asdict(c) for c in cells],
        "median_tps": medians(cells),
        f"ratio_to_{BASE}": ratios(cells),
        "median_cpu_us": cpu(cells),
    }


def write(content: Mapping[str, Any], directory: Path) -> Path:
    """Write `<started>.json` and `<started>.png`; the JSON file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{str(content['started']).replace(':', '')}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _plot(content, path.with_suffix(".png"))
    return path


def table(content: Mapping[str, Any]) -> Table:
    """Ratios to `direct`, and its transactions a second for scale."""
    found: Mapping[str, Mapping[str, float]] = content[f"ratio_to_{BASE}"]
    targets = _targets(found)
    made = Table(title=f"Throughput, {BASE} = 1.00, and CPU a transaction of what stands in the middle (medians)")
    made.add_column("workload")
    made.add_column(f"{BASE}, tps", justify="right")
    for target in targets:
        made.add_column(target, justify="right")
    for workload, by in found.items():
        scale = f"{content['median_tps'][workload][BASE]:,.0f}"
        spent = content["median_cpu_us"].get(workload, {})
        made.add_row(workload, scale, *(_told(by.get(t), spent.get(t)) for t in targets))
    return made


def _told(ratio: float | None, spent: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" + ("" if spent is None else f" ({spent:.0f} us)")


def _targets(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(t for by in found.values() for t in by if t != BASE))


def _plot(content: Mapping[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import, and only drawing needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    found: Mapping[str, Mapping[str, float]] = content[f"ratio_to_{BASE}"]
    targets = _targets(found)
    figure = Figure(figsize=(1.6 * max(len(found), 3), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / max(len(targets), 1)
    for place, target in enumerate(targets):
        at = [i + place * width for i in range(len(found))]
        axes.bar(at, [by.get(target, 0.0) for by in found.values()], width, label=target)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(found))], list(found), rotation=20, ha="right", fontsize=8)
    axes.set_ylabel(f"throughput, {BASE} = 1")
    axes.set_title(
        f"{content['machine']['cpus']} CPUs, {content['settings']['rounds']} rounds of {content['settings']['seconds']} s",
        fontsize=9,
    )
    if targets:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
