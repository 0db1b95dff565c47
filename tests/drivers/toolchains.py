"""Programs of other languages: copied out of the source tree, made once, and kept until their sources change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

MAKE_SECONDS = 500
REQUIRED = "PGVEIL_TOOLCHAINS"


class ToolchainMissing(Exception):  # noqa: N818 - the name says what is wrong
    """What a program is made with can't be had here; the text says what, and why."""


def required() -> bool:
    """Whether a missing toolchain is a failure: `.ci/run` says so, where each of them is installed."""
    return os.environ.get(REQUIRED) == "required"


def tool(name: str) -> str:
    """The path of a program. Raises ToolchainMissing."""
    found = shutil.which(name)
    if found is None:
        raise ToolchainMissing(f"{name} is not installed here")
    return found


def cache() -> Path:
    """Where they are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pgveil-drivers"


def made(name: str, source: Path, command: list[str]) -> Path:
    """A copy of `source` in which `command` has run well. Raises ToolchainMissing where it fails, as without its registry."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes() + b"\0")
    place = cache() / f"{name}-{digest.hexdigest()[:16]}"
    if (place / ".made").exists():
        return place
    building = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(source, building)
    try:
        done = subprocess.run(
            command,
            cwd=building,
            capture_output=True,
            check=False,
            timeout=MAKE_SECONDS,
            stdin=subprocess.DEVNULL,
            # Only what the build tool itself says counts, not where this happens to run.
            env={k: v for k, v in os.environ.items() if k != "GOFLAGS"},
        )
    except subprocess.TimeoutExpired:
        raise ToolchainMissing(f"{' '.join(command)} did not end within {MAKE_SECONDS} seconds") from None
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-1500:]
        raise ToolchainMissing(f"{' '.join(command)} failed: {said}")
    (building / ".made").touch()
    shutil.rmtree(place, ignore_errors=True)
    building.rename(place)
    return place
