"""`pgveil apply` given pgveil's own address: it says so, and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.world import World


def test_apply_must_not_go_through_pgveil(world: World) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy", "apply", "--plan"),
            *("--rules", str(world.home / "rules.yaml"), "--keys", str(world.home / "keys")),
            *("--database", f"postgresql://postgres@127.0.0.1:{world.port}/{world.database}?sslmode=disable"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in {2, 3}, done.stdout
    assert "goes through pgveil" in done.stderr


def test_check_must_not_either(world: World) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy", "check", str(world.home / "rules.yaml")),
            *("--database", f"postgresql://postgres@127.0.0.1:{world.port}/{world.database}?sslmode=disable"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done.stdout
    assert "through pgveil" in done.stderr
