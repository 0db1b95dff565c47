"""`pgveil keys backup` and `restore`: one file that is all that is needed, checked by opening what it is for."""

# ruff: noqa: PLC0415 - the cipher libraries are loaded when a command runs, not whenever pgveil prints its help

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from keys.ring import KeyRing
    from keys.stored import Opened

_NOT_SO, _USAGE, _IO = 1, 2, 3  # exit codes, as everywhere in pgveil

_Directory = Annotated[Path, typer.Argument(help="The key directory.", metavar="DIRECTORY")]
_File = Annotated[Path, typer.Argument(help="The backup.", metavar="FILE")]
_Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file with the passphrase; else it is asked for.", metavar="FILE"),
]
_Database = Annotated[
    str | None,
    typer.Option("--database", help="Open stored values of this database with the backup's keys, too.", metavar="DSN"),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def register(group: typer.Typer) -> None:
    """Add the commands to `pgveil keys`."""
    group.command("backup")(backup)
    group.command("restore")(restore)
    group.command("check-backup")(check_backup)


def backup(
    directory: _Directory,
    file: _File,
    passphrase_file: _Passphrase = None,
    database: _Database = None,
    *,
    as_json: _Json = False,
) -> None:
    """Write master key and key ring into one new file, encrypted under a passphrase, and check it by opening it.

    Keep the file and the passphrase apart, and both away from this machine and from the database's backups. Do it again
    whenever `pgveil apply` has made keys: `pgveil doctor` warns while the newest key is in no backup.
    Exit code 1: the file is written and good, but stored values need keys that it has not.
    """
    from keys.backup import BackupError, back_up

    passphrase = _passphrase(passphrase_file, twice=True)
    try:
        made = back_up(directory, file, passphrase, random=os.urandom)
    except BackupError as error:
        _fail(_IO, str(error))
    _tell(f"Wrote {file}: {made.live} live keys, each tried.", made.ring, made.created, database, as_json=as_json)


def restore(
    file: _File,
    directory: _Directory,
    passphrase_file: _Passphrase = None,
    database: _Database = None,
    *,
    as_json: _Json = False,
) -> None:
    """Make the key directory that a backup was made of. Overwrites nothing; goes on where it was cut off.

    Exit code 1: restored, but stored values need keys that the backup has not.
    """
    from keys import backup as backups

    passphrase = _passphrase(passphrase_file, twice=False)
    try:
        found = backups.read_backup(file, passphrase)
        backups.restore(found, directory)
    except backups.BackupError as error:
        _fail(_IO, str(error))
    text = f"Restored {directory} as of {found.created}: {found.live} live keys, each tried."
    _tell(text, found.ring, found.created, database, as_json=as_json)


def check_backup(
    file: _File, passphrase_file: _Passphrase = None, database: _Database = None, *, as_json: _Json = False
) -> None:
    """Open a backup and try every key in it, without restoring anything. Exit code 1: stored values need keys that it has not."""
    from keys.backup import BackupError, read_backup

    try:
        found = read_backup(file, _passphrase(passphrase_file, twice=False))
    except BackupError as error:
        _fail(_IO, str(error))
    text = f"{file} is good: {found.live} live keys as of {found.created}, each tried."
    _tell(text, found.ring, found.created, database, as_json=as_json)


def _tell(text: str, ring: KeyRing, created: str, database: str | None, *, as_json: bool) -> None:
    columns = () if database is None else _stored(database, ring)
    if as_json:
        document = {
            "created": created,
            "live": sum(e.live for e in ring.entries()),
            "columns": [
                {"column": c.column, "opened": c.opened, "damaged": c.damaged, "missing_keys": sorted(c.missing)}
                for c in columns
            ],
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        typer.echo(text)
        for column in columns:
            typer.echo(f"  {column.column}: {_outcome(column)}")
        if database is not None and not columns:
            typer.echo("  The database has no sealed columns.")
    if not all(c.well for c in columns):
        raise typer.Exit(_NOT_SO)


def _outcome(column: Opened) -> str:
    parts = [f"{column.opened} values open"]
    parts += [f"{count} need key {key_id}, which is not there" for key_id, count in sorted(column.missing.items())]
    if column.damaged:
        parts.append(f"{column.damaged} do not open")
    return ", ".join(parts)


def _stored(dsn: str, ring: KeyRing) -> tuple[Opened, ...]:
    import asyncio

    from keys.stored import StoredError, open_stored

    try:
        return asyncio.run(open_stored(dsn, ring))
    except StoredError as error:
        _fail(_IO, str(error))


def _passphrase(file: Path | None, *, twice: bool) -> bytes:
    from keys.backup import MAX_PASSPHRASE, MIN_PASSPHRASE
    from keys.durable import NotRegularError, read_regular

    if file is None:
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice)
        content = str(text).encode()
    else:
        try:
            content, status = read_regular(file, MAX_PASSPHRASE + 2)
        except NotRegularError:
            _fail(_USAGE, f"passphrase file {file} is not a regular file")
        except OSError as error:
            _fail(_IO, f"passphrase file {file}: {error.strerror}")
        if stat.S_IMODE(status.st_mode) & 0o077:
            _fail(_USAGE, f"others than its owner reach {file}; run: chmod 600 {file}")
        content = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(content.decode(errors="replace")) < MIN_PASSPHRASE or len(content) > MAX_PASSPHRASE:
        _fail(_USAGE, f"a passphrase has {MIN_PASSPHRASE} characters or more, and at most {MAX_PASSPHRASE} bytes")
    return content


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"pgveil: {message}", err=True)
    raise typer.Exit(code)
