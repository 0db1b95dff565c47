"""Microseconds a field: sealing and opening in batches of 1, 20 and 1000, against a plain loop over the library's AESSIV.

`python -m bench.sealing` prints the table of docs/sealed-format.md. Each figure is the best of several rounds, the rounds of all
contestants taken in turn, so that a busy machine slows them alike. The loop makes no text: it is the cipher's own cost.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from keys.sealed import DataKey, open_batch, seal_batch

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 9
_FIELDS_A_ROUND = 4000
_COLUMNS = ("seal det.", "open det.", "seal rand.", "open rand.", "AESSIV loop seal", "AESSIV loop open")


def contestants(size: int, count: int) -> list[Callable[[], object]]:
    """What is timed, in the order of `_COLUMNS`."""
    material = os.urandom(64)
    key = DataKey("public.cards.pan", 1, material)
    cipher = AESSIV(material)
    associated = [b"pgveil sealed:~AAB:public.cards.pan"]
    values = [os.urandom(size) for _ in range(count)]
    deterministic = seal_batch(key, values, randomized=False, random=os.urandom)
    randomized = seal_batch(key, values, randomized=True, random=os.urandom)
    plain = [cipher.encrypt(v, associated) for v in values]
    return [
        lambda: seal_batch(key, values, randomized=False, random=os.urandom),
        lambda: open_batch({1: key}, deterministic),
        lambda: seal_batch(key, values, randomized=True, random=os.urandom),
        lambda: open_batch({1: key}, randomized),
        lambda: [cipher.encrypt(v, associated) for v in values],
        lambda: [cipher.decrypt(p, associated) for p in plain],
    ]


def microseconds(size: int, count: int) -> list[float]:
    """Per field, in the order of `_COLUMNS`."""
    timed = contestants(size, count)
    best = [float("inf")] * len(timed)
    repeats = max(1, _FIELDS_A_ROUND // count)
    for _ in range(_ROUNDS):
        for place, work in enumerate(timed):
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            best[place] = min(best[place], (time.perf_counter() - start) / repeats / count * 1e6)
    return best


def main() -> None:
    """Print the table."""
    print("| bytes | fields | " + " | ".join(_COLUMNS) + " |")
    print("|" + "---:|" * (2 + len(_COLUMNS)))
    for size in (11, 19, 200):
        for count in (1, 20, 1000):
            print(f"| {size} | {count} | " + " | ".join(f"{m:.2f}" for m in microseconds(size, count)) + " |")


if __name__ == "__main__":
    main()
