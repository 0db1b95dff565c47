"""The fuzz targets without the fuzzer: every seed, every finding of the past, and some blind changes to them, the same each time."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.registry import MODULES, seeds, target

FINDINGS = Path(__file__).parent / "findings"


def changed(data: bytes, random: Random) -> bytes:
    """Another input that has something of this one."""
    made = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(made) + 1)
        match random.randrange(4):
            case 0:
                made[at : at + 1] = bytes((random.randrange(256),))
            case 1:
                del made[at : at + random.randint(1, 8)]
            case 2:
                made[at:at] = made[max(0, at - 8) : at]
            case _:
                made[at : at + 4] = random.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\4"))
    return bytes(made)


@pytest.mark.parametrize("name", MODULES)
def test_seeds_and_some_changes_to_them(name: str) -> None:
    chosen = target(name)
    run = chosen.make()
    begun = seeds(name)
    random = Random(name)
    for seed in random.sample(begun, min(len(begun), chosen.blind)):
        assert run(seed) > 0
    for _ in range(chosen.blind):
        run(changed(random.choice(begun), random)[: chosen.longest])


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*/*.bin")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_found_once(path: Path) -> None:
    target(path.parent.name).make()(path.read_bytes())
