"""`pgveil keys`: make a key directory, list its keys, check that every one opens.

A key directory holds `master.key` (the file provider's master key) and `ring.json` (the data keys, wrapped).
"""

# ruff: noqa: PLC0415 - the cipher libraries are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keys import backup_commands

if TYPE_CHECKING:
    from keys.ring import KeyEntry

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil

_Directory = Annotated[Path, typer.Argument(help="The key directory.", metavar="DIRECTORY")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def register(app: typer.Typer) -> None:
    """Add the `keys` commands to pgveil's command line."""
    group = typer.Typer(help="Keys: make a key directory, list and check what is in it.", no_args_is_help=True)
    group.command("init")(init)
    group.command("list")(show)
    group.command("check")(check)
    backup_commands.register(group)
    app.add_typer(group, name="keys")


def init(directory: _Directory) -> None:
    """Make a key directory: a new master key and an empty key ring. Never overwrites anything."""
    from keys.providers import ProviderError
    from keys.providers.file import MASTER_FILE, FileMasterKey
    from keys.ring import RING_FILE, KeyRing, RingError

    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
        names = {p.name for p in directory.iterdir()}
        present = sorted(names & {MASTER_FILE, RING_FILE})
    except FileExistsError:
        _fail(_USAGE, f"{directory} is not a directory")
    except OSError as error:
        _fail(_IO, f"key directory {directory}: {error.strerror}")
    if present:
        _fail(_USAGE, f"{directory} has {' and '.join(present)} already; nothing was changed")
    # A checkout of pgveil has a directory `keys` of code; a volume of its own has these.
    if any(not name.startswith(".") and name != "lost+found" for name in names):
        _fail(_USAGE, f"{directory} has other files in it; name a directory for the keys alone")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        _fail(_USAGE, f"{directory} has mode {mode:04o}, so others than its owner reach it; run: chmod 700 {directory}")
    try:
        master = FileMasterKey.generate(directory / MASTER_FILE, os.urandom)
        KeyRing.initialise(directory, master)
    except (ProviderError, RingError) as error:
        _fail(_IO, str(error))
    typer.echo(f"Made {directory / MASTER_FILE} and {directory / RING_FILE}.")
    typer.echo(
        "Both are needed to read what will be sealed, and `pgveil apply` adds keys to the ring. After each apply: "
        f"pgveil keys backup {directory} FILE"
    )


def show(directory: _Directory, *, as_json: _Json = False) -> None:
    """List the keys of a ring: id, domain, version, times. Needs no master key, and so verifies nothing (see check)."""
    from keys.ring import RingError, read_entries

    try:
        entries = read_entries(directory)
    except RingError as error:
        _fail(_IO, str(error))
    if as_json:
        typer.echo(json.dumps({"keys": [_facts(e) for e in entries]}, ensure_ascii=False))
        return
    for entry in entries:
        end = f"destroyed {entry.destroyed}" if entry.destroyed else "live"
        typer.echo(f"{entry.id:>6}  {entry.domain}  version {entry.version}  created {entry.created}  {end}")
    if not entries:
        typer.echo("No keys yet.")


def check(directory: _Directory, *, as_json: _Json = False) -> None:
    """Open every key of a ring with the master key. Exit code 1 where something does not open, naming what."""
    from keys.providers import ProviderError
    from keys.providers.file import MASTER_FILE, FileMasterKey
    from keys.ring import KeyRing, RingAlteredError, RingError

    problem: str | None = None
    failing: tuple[int, ...] = ()
    live = 0
    try:
        master = FileMasterKey.load(directory / MASTER_FILE)
        live = sum(e.live for e in KeyRing.open(directory, master).entries())
    except RingAlteredError as error:
        problem, failing = str(error), error.key_ids
    except (RingError, ProviderError) as error:
        if isinstance(error.__cause__, OSError):
            _fail(_IO, str(error))
        problem = str(error)
    if as_json:
        typer.echo(json.dumps({"ok": problem is None, "live": live, "failing": failing, "problem": problem}))
    if problem is not None:
        _fail(_NOT_SO, problem)
    if not as_json:
        typer.echo(f"All {live} live keys open.")


def _facts(entry: KeyEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "domain": entry.domain,
        "version": entry.version,
        "created": entry.created,
        "destroyed": entry.destroyed,
    }


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {message}", err=True)
    raise typer.Exit(code)
