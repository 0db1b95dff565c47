"""What the machine says of pgveil's files and processes: owners, modes, disks, memory. Read from the file system and /proc."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keys.backup import notes_of
from keys.providers.file import MASTER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keys.backup import Note
    from proxy.config import Config

PROC: Final = Path("/proc")
SWAPS: Final = Path("/proc/swaps")
_MAX_STATUS: Final = 65_536


@dataclass(frozen=True, slots=True)
class PathFacts:
    """A file or directory. `there`: false where it is not, or can't be looked at: `problem` says why, `hidden` that we may not."""

    path: Path
    there: bool
    problem: str = ""
    hidden: bool = False
    directory: bool = False
    mode: int = 0
    uid: int = 0
    device: int = 0

    @property
    def shown_mode(self) -> str:
        """The permission bits, as chmod takes them."""
        return f"{self.mode:04o}"


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that a directory is on."""

    free: int
    size: int
    free_files: int
    files: int


@dataclass(frozen=True, slots=True)
class Process:
    """A worker of this pgveil that runs. `open_files`: its soft limit; None where unlimited or unknown. `core`: the same in bytes."""

    pid: int
    uid: int
    open_files: int | None
    core: int | None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine. `swap`: the devices and files that are swapped to and are neither memory nor encrypted."""

    uid: int
    cpus: int
    config: PathFacts
    rules: PathFacts
    rules_directory: PathFacts
    keys: PathFacts
    master: PathFacts
    ring: PathFacts
    audit: PathFacts
    dsn_file: PathFacts | None
    client_key: PathFacts | None
    server_key: PathFacts | None
    unix_directory: PathFacts | None
    disks: Mapping[str, Disk]
    swap: tuple[str, ...]
    workers: tuple[Process, ...]
    calculator_in_memory: bool | None
    worktree: Path | None
    backups: tuple[Note, ...] = ()


def read_host(config: Config, *, proc: Path = PROC, swaps: Path = SWAPS) -> Host:
    """Everything at this moment. Raises nothing: what can't be read is not there."""
    return Host(
        uid=os.geteuid(),
        cpus=os.cpu_count() or 1,
        config=path_facts(config.file),
        rules=path_facts(config.rules),
        rules_directory=path_facts(config.rules.absolute().parent),
        keys=path_facts(config.keys),
        master=path_facts(config.keys / MASTER_FILE),
        ring=path_facts(config.keys / "ring.json"),
        audit=path_facts(config.audit),
        dsn_file=_optional(config.catalog.dsn_file),
        client_key=_optional(config.tls.key),
        server_key=_optional(config.server.key),
        unix_directory=_optional(config.listen.unix_directory),
        disks=dict(_disks(config)),
        swap=swapped_to(swaps),
        workers=tuple(workers_of(config.file, proc)),
        calculator_in_memory=_in_memory(config),
        worktree=worktree_of(config.keys),
        backups=notes_of(config.keys),
    )


def path_facts(path: Path) -> PathFacts:
    """A path, not followed where it is a link at its end."""
    try:
        status = path.lstat()
    except OSError as error:
        hidden = error.errno in {errno.EACCES, errno.EPERM}
        return PathFacts(path, there=False, problem=error.strerror or "cannot be looked at", hidden=hidden)
    return PathFacts(
        path,
        there=True,
        directory=stat.S_ISDIR(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        device=status.st_dev,
    )


def _optional(path: Path | None) -> PathFacts | None:
    return None if path is None else path_facts(path)


def _disks(config: Config) -> Iterator[tuple[str, Disk]]:
    for path in (config.audit, config.keys):
        with suppress(OSError):
            found = os.statvfs(path)
            yield (
                str(path),
                Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files),
            )


def swapped_to(swaps: Path = SWAPS) -> tuple[str, ...]:
    """Swap that lasts in clear: neither compressed memory (zram) nor a device that dm-crypt makes (proc(5))."""
    try:
        lines = swaps.read_text().splitlines()[1:]
    except OSError:
        return ()
    names = [line.split()[0] for line in lines if line.split()]
    return tuple(n for n in names if not n.rpartition("/")[2].startswith("zram") and not _encrypted(n))


def _encrypted(device: str) -> bool:
    with suppress(OSError):
        name = Path(device).resolve().name
        return Path(f"/sys/block/{name}/dm/uuid").read_text().startswith("CRYPT-")
    return False


def workers_of(config: Path, proc: Path = PROC) -> Iterator[Process]:
    """The workers that run with this configuration file, of all that we may see."""
    wanted = config.absolute()
    for directory in sorted(proc.glob("[0-9]*"), key=lambda d: int(d.name)):
        with suppress(OSError, ValueError, IndexError):
            words = [w.decode(errors="replace") for w in (directory / "cmdline").read_bytes().split(b"\0")]
            if "proxy.worker_process" not in words:
                continue
            given = Path(words[words.index("--config") + 1])
            # A worker lets nobody look at its directory (keys.hygiene), so a relative path is compared by what is there of it.
            if given == wanted or (not given.is_absolute() and wanted.parts[-len(given.parts) :] == given.parts):
                yield _process(directory)


def _process(directory: Path) -> Process:
    status = (directory / "status").read_text()[:_MAX_STATUS]
    uid = next(int(line.split()[2]) for line in status.splitlines() if line.startswith("Uid:"))
    limits = (directory / "limits").read_text()
    return Process(int(directory.name), uid, _limit(limits, "Max open files"), _limit(limits, "Max core file size"))


def _limit(limits: str, name: str) -> int | None:
    for line in limits.splitlines():
        if line.startswith(name):
            soft = line[len(name) :].split()[0]
            return None if soft == "unlimited" else int(soft)
    return None


def _in_memory(config: Config) -> bool | None:
    from proxy.calculator.programs import memory_backed  # noqa: PLC0415

    try:
        return memory_backed(config.calculator.directory)
    except OSError:
        return None


def worktree_of(path: Path) -> Path | None:
    """The git working tree that a path lies in."""
    return next((p for p in path.absolute().parents if (p / ".git").exists()), None)
