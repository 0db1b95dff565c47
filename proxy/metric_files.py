"""The directory in which the metrics of several workers meet.

prometheus-client chooses its way of counting when it is first imported, by PROMETHEUS_MULTIPROC_DIR. So this module, which the supervisor
calls first, imports it late, and is apart from `proxy.metrics`, which can't.
"""

from __future__ import annotations

import math
import os
import re
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping
    from pathlib import Path

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

ENVIRONMENT: Final = "PROMETHEUS_MULTIPROC_DIR"
_ARCHIVE: Final = "ended"
_SUMMED: Final = ("counter", "histogram")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class MetricFilesError(RuntimeError):
    """The directory can't be used; the text says why."""


def prepare(directory: Path, environ: MutableMapping[str, str] | None = None) -> MetricFiles:
    """Empty `directory` of an earlier run's numbers and name it in `environ` (default: this process's, which workers inherit).

    Call it in the supervisor before anything imports `proxy.metrics`, and before a worker starts.
    Raises MetricFilesError when prometheus-client was imported too early, or the directory can't be written.
    """
    target = os.environ if environ is None else environ
    loaded = sys.modules.get("prometheus_client.values")
    if target is os.environ and loaded is not None and not loaded.ValueClass._multiprocess:  # noqa: SLF001 - its only tell
        raise MetricFilesError(
            "prometheus-client was imported before its directory was set: the workers' numbers would not meet"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in directory.glob("*.db"):
            old.unlink()
    except OSError as error:
        raise MetricFilesError(f"the metrics directory {directory} can't be used: {error.strerror}") from error
    target[ENVIRONMENT] = str(directory)
    return MetricFiles(directory)


class MetricFiles:
    """The workers' numbers as one. A collector in the sense of prometheus-client; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # A scrape between the copy of an ended worker's numbers and their removal would count them twice.
        self._lock = threading.Lock()

    def registry(self) -> CollectorRegistry:
        """A registry that holds the merged numbers and nothing else."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415

        merged = CollectorRegistry()
        merged.register(self)
        return merged

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: which metrics there are is for the workers to say."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every process's numbers, merged by each metric's own way (sum, minimum, maximum)."""
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        merge: Any = MultiProcessCollector.merge
        with self._lock:
            # One that a worker is just making, or that a full disk has damaged, must not hide the others.
            files = [str(f) for f in sorted(self._directory.glob("*.db")) if _entries(f) is not None]
            return list(merge(files, accumulate=True))

    def gauge(self, name: str) -> float | None:
        """The merged value of a gauge without labels, or None while no live worker has it."""
        for metric in self.collect():
            if metric.name == name and metric.samples:
                return float(metric.samples[0].value)
        return None

    def bury(self, pid: int) -> None:
        """A worker ended: forget what it had (gauges), keep what it did (counters, histograms) in one file for all ended ones.

        Without that, each restart would leave files behind for ever. Numbers that can't be read are dropped: a scrape sees a counter
        reset, and the supervisor goes on.
        """
        with self._lock:
            for gauge in self._directory.glob(f"gauge_*_{pid}.db"):
                gauge.unlink(missing_ok=True)
            for kind in _SUMMED:
                ended = self._directory / f"{kind}_{pid}.db"
                if ended.exists():
                    _add_up(ended, self._directory / f"{kind}_{_ARCHIVE}.db")
                    ended.unlink()


def _add_up(ended: Path, archive: Path) -> None:
    """Add each number of the file `ended` to that of the same key in `archive`."""
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415

    found = _entries(ended)
    if not found or (archive.exists() and _entries(archive) is None):
        return
    numbers: Any = MmapedDict
    total = numbers(str(archive))
    for key, value in found:
        total.write_value(key, total.read_value(key)[0] + value, 0.0)
    total.close()


def _entries(path: Path) -> list[tuple[str, float]] | None:
    """Keys and values of a file of numbers; None where it is none that prometheus-client could have written."""
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415

    numbers: Any = MmapedDict
    kind = path.name.partition("_")[0]
    try:
        found = [(key, value) for key, value, _, _ in numbers.read_all_values_from_file(str(path))]
    except (OSError, RuntimeError, ValueError, struct.error):
        return None
    return found if all(_is_key(key, kind) for key, _ in found) else None


def _is_key(key: str, kind: str) -> bool:
    """Whether a key is what prometheus-client makes of a metric, a sample of it, labels and a help text."""
    try:
        metric, name, labels, text = msgspec.json.decode(key, type=tuple[str, str, dict[str, str], str])
        bound = float(labels.get("le", "0")) if kind == "histogram" else 0.0
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    named = _NAME.fullmatch(metric) and _NAME.fullmatch(name) and text.isprintable() and not math.isnan(bound)
    return bool(named) and all(map(_LABEL.fullmatch, labels))
