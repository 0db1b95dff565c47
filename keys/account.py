"""The account that PostgreSQL's programs run as where pgveil runs as root, and a copy of them that it can reach.

PostgreSQL refuses to run as root, and another account may be unable to enter the directories that the programs are in (a clone below /root
say). Nobody's directory is opened for it: what is needed is copied to where it is allowed to go.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

# The first of these that exists.
ACCOUNTS: Final = ("postgres", "pgserver", "nobody")
_COMMON: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - names there are made by mkdtemp, or looked at before they are used
_SECONDS: Final = 10.0


class AccountError(Exception):
    """There is no account to run as, or nothing that it can reach. `hint`: what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def server_account() -> pwd.struct_passwd | None:
    """The account for PostgreSQL's programs: None for our own. Raises AccountError."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AccountError(
        "root can't run PostgreSQL and there is no other account to run it as",
        f"Run pgveil as an account of its own, or make one of the accounts {', '.join(ACCOUNTS)}.",
    )


def identity_of(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """The arguments of `subprocess` for a program that runs as that account."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}


def can_enter(account: pwd.struct_passwd | None, directory: Path) -> bool:
    """Whether the account gets to what is in a directory; asked of the kernel, which knows about links, groups and lists of access."""
    if account is None:
        return True
    tried = subprocess.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)], **_quiet(account))  # noqa: PLW1510, S603
    return tried.returncode == 0


def common_directory(account: pwd.struct_passwd | None) -> Path:
    """A directory for temporary files that the account can enter: ours where it can, else the system's. Raises AccountError."""
    for directory in (Path(tempfile.gettempdir()), *_COMMON):
        if directory.is_dir() and can_enter(account, directory):
            return directory
    raise AccountError(
        f"no directory for temporary files can be entered by account {'?' if account is None else account.pw_name}",
        "Set TMPDIR to one that every account can enter.",
    )


def reachable_programs(bin_dir: Path, account: pwd.struct_passwd | None) -> Path:
    """`bin_dir`, or where a copy of it is that the account can run: `bin`, `lib` and `share` of one installation. Raises AccountError.

    A wheel's shared libraries are beside its package (auditwheel: `NAME.libs`) and found by their place, so the copy has the same places. It is made
    once, in the directory for temporary files, and used again. It is ours and nobody else can write to it; one that is not so is left alone.
    """
    if _run(bin_dir, account):
        return bin_dir
    source = bin_dir.resolve().parent
    status = (source / "bin" / "postgres").stat()
    named = hashlib.sha256(f"{source}\n{status.st_mtime_ns}\n{status.st_size}".encode()).hexdigest()[:16]
    target = common_directory(account) / f"pgveil-programs-{os.geteuid()}-{named}"
    try:
        if not target.exists():
            _copy(source, target)
        found = target.lstat()
    except OSError as error:
        raise AccountError(*_unreachable(bin_dir, account, error.strerror or "can't be copied")) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise AccountError(*_unreachable(bin_dir, account, f"{target} is not ours alone"))
    copied = target / source.parent.name / source.name / "bin"
    if not _run(copied, account):
        raise AccountError(*_unreachable(bin_dir, account, f"they do not run in {target}"))
    return copied


def _unreachable(bin_dir: Path, account: pwd.struct_passwd | None, why: str) -> tuple[str, str]:
    name = "this account" if account is None else f"account {account.pw_name}"
    return (
        f"{name} can't run PostgreSQL's programs in {bin_dir}, and no copy of them: {why}",
        "Install PostgreSQL where every account reaches it (your distribution's server package), or pgveil outside directories that others can't enter.",
    )


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all: a name appears when everything is behind it. Whoever comes second leaves his copy."""
    made = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        package = source.parent
        for part in (*(source / name for name in ("bin", "lib", "share")), package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, made / part.relative_to(package.parent), symlinks=True)
        _open_to_all(made)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _open_to_all(root: Path) -> None:
    """The copy's own modes: an installation under a strict umask is for its owner only."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod((stat.S_IMODE(mode) | 0o444 | (0o111 if mode & 0o100 else 0)) & ~0o022)


def _run(bin_dir: Path, account: pwd.struct_passwd | None) -> bool:
    try:
        return not any(
            subprocess.run([str(bin_dir / name), "--version"], **_quiet(account)).returncode  # noqa: PLW1510, S603
            for name in ("postgres", "initdb")
        )
    except (OSError, subprocess.SubprocessError):
        return False


def _quiet(account: pwd.struct_passwd | None) -> dict[str, Any]:
    nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return {**identity_of(account), **nowhere, "check": False, "timeout": _SECONDS}
