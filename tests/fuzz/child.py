"""One target under the fuzzer, in a process of its own: `python -m tests.fuzz.child TARGET DIRECTORY [libFuzzer's options]`.

Findings are kept in DIRECTORY and the run goes on: one file for each kind of failure, the first input that showed it. What can't be survived
(a hang, memory) ends the process; libFuzzer then leaves the input there. `stats.json` says what has been done so far.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

import atheris

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.target import Target

INSTRUMENTED: Final = ["proxy", "rules", "keys", "audit", "lifecycle"]
SLOW_SECONDS: Final = 2.0  # of processor time, instrumented; what takes longer is a finding
# Memory of the process beyond what it had when it was warm; what grows more is a finding. The fuzzer's own books (its corpus, what each
# input reached) are in it, and grow by a few MiB in an hour.
GROWTH_MIB: Final = 160
WARM_EXECUTIONS: Final = 3000  # or the whole corpus, where that is smaller
WARM_SECONDS: Final = 15.0
_TELL_SECONDS: Final = 1.0
_FRAMES: Final = 3


class Run:
    """Counts and keeps what happens."""

    def __init__(self, target: Target, directory: Path) -> None:
        self._run = target.make()
        self._directory = directory
        self._told = 0.0
        self._begun = time.monotonic()
        # The corpus comes first, as it is: nothing is mutated before, nor is the process warm.
        self._replayed = 1 + sum(1 for _ in (directory / "corpus").iterdir())
        self._warm_mib: int | None = None
        self._grown_mib: int | None = None
        self._executions = 0
        self._messages = 0
        self._mutated = 0
        self._slowest = (0.0, b"")
        self._failures: dict[str, int] = {}

    def one(self, data: bytes) -> None:
        """One input."""
        begun = time.thread_time()
        try:
            count = self._run(data)
            self._messages += count
            if self._executions >= self._replayed:
                self._mutated += count
        except Exception as error:  # noqa: BLE001 - that is the question
            self._failed(_signature(error), data, traceback.format_exc())
        took = time.thread_time() - begun
        self._executions += 1
        if took > self._slowest[0]:
            self._slowest = (took, data)
        if took > SLOW_SECONDS:
            self._failed("slow", data, f"{took:.1f} s\n")
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._weigh(data)
            self.tell()

    def _weigh(self, data: bytes) -> None:
        """Whether memory grows that should not."""
        held = _resident_mib()
        if self._warm_mib is None:
            warm = self._executions >= min(WARM_EXECUTIONS, self._replayed)
            if warm and time.monotonic() - self._begun >= WARM_SECONDS:
                self._warm_mib = held
            return
        self._grown_mib = max(self._grown_mib or 0, held - self._warm_mib)
        if self._grown_mib > GROWTH_MIB:
            self._failed("growth", data, f"{self._warm_mib} MiB when warm, {held} MiB now\n")

    def _failed(self, signature: str, data: bytes, text: str) -> None:
        known = self._failures.get(signature, 0)
        self._failures[signature] = known + 1
        if not known:
            name = f"failure-{hashlib.sha256(signature.encode()).hexdigest()[:8]}"
            (self._directory / f"{name}.bin").write_bytes(data)
            (self._directory / f"{name}.txt").write_text(f"{signature}\n\n{text}")
            self.tell()

    def tell(self) -> None:
        """Write down what has been done."""
        self._told = time.monotonic()
        told = {
            "executions": self._executions,
            "messages": self._messages,
            "mutated": self._mutated,
            "slowest_ms": round(self._slowest[0] * 1000, 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "growth_mib": self._grown_mib,
            "failures": self._failures,
        }
        path = self._directory / "stats.json"
        path.with_suffix(".new").write_text(json.dumps(told))
        os.replace(path.with_suffix(".new"), path)  # noqa: PTH105 - read by another process at any time
        (self._directory / "slowest.bin").write_bytes(self._slowest[1])


def _resident_mib() -> int:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // (1 << 20)


def _signature(error: BaseException) -> str:
    """What makes two failures the same one: the error's type and the innermost places, without line numbers of the harness."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__}: {places}"


def main() -> None:
    name, directory, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.registry import target as find  # noqa: PLC0415 - imported under the fuzzer's eyes

        target = find(name)
    run = Run(target, Path(directory))
    arguments = [sys.argv[0], f"-max_len={target.longest}", *options]
    mutate = target.mutate
    if mutate is None:
        atheris.Setup(arguments, run.one)
    else:
        atheris.Setup(arguments, run.one, custom_mutator=_mutator(mutate))
    atheris.Fuzz()


def _mutator(mutate: Callable[..., bytes]) -> Callable[[bytes, int, int], bytes]:
    def custom(data: bytes, longest: int, seed: int) -> bytes:
        return mutate(data, longest, seed, lambda piece, most: bytes(atheris.Mutate(piece, most)))

    return custom


if __name__ == "__main__":
    main()
