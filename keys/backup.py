"""A backup of a key directory in one file: master key and key ring, encrypted under a passphrase.

The data keys are random and only in `ring.json`, so a copy of `master.key` alone opens nothing. A backup has both, as they were at one
moment. docs/sealed-format.md has the format field by field.

`backups.json`, beside the ring, notes which keys are in which backup: no secret, and what `pgveil doctor` judges by.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keys.durable import LockedError, NotRegularError, create, locked, read_bounded, read_regular, replace
from keys.providers import ProviderError
from keys.providers.file import MASTER_FILE, FileMasterKey
from keys.ring import LOCK_FILE, MAX_RING_BYTES, RING_FILE, RingError, read_ring
from keys.sealed import open_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keys.ring import KeyRing

NOTES_FILE = "backups.json"
MIN_PASSPHRASE = 12  # characters: a bound against an empty file, no measure of strength
MAX_PASSPHRASE = 1024  # bytes
MAX_BACKUP_BYTES = 2 * MAX_RING_BYTES  # base64 of the ring, and some hundred bytes
_MAX_NOTES_BYTES = 1 << 20
_MAX_NOTES = 100
_FORMAT = "pgveil-backup-1"
_PROBE = b"pgveil backup"
# RFC 7914; 128 MiB and about half a second for whoever guesses, too.
_COST = 1 << 17
_MAX_COST = 1 << 20


class BackupError(Exception):
    """A backup cannot be made, read or put back. Texts name files, domains and key ids, never keys or passphrases."""


class _Derivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """scrypt's parameters (RFC 7914): `salt` 16 bytes."""

    n: int
    r: int
    p: int
    salt: bytes


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup says of itself in clear, authenticated with the rest. `created`: RFC 3339, UTC. `newest`: the ring's last key id."""

    format: str
    created: str
    keys: int
    newest: int
    scrypt: _Derivation


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: _Head
    sealed: bytes


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The two files of a key directory, as they are."""

    master: bytes
    ring: bytes

    def __repr__(self) -> str:
        return "_Content(...)"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One backup that was made of this directory. `keys`: the ids of the keys that are in it."""

    created: str
    file: str
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that opened: every live key in it unwrapped and tried."""

    file: Path
    created: str
    ring: KeyRing
    content: _Content

    @property
    def note(self) -> Note:
        """What a key directory is told of it."""
        return Note(self.created, str(self.file.absolute()), tuple(e.id for e in self.ring.entries()))

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")

    def __repr__(self) -> str:
        return f"Backup({self.created!r}, {self.live} keys)"

    @property
    def live(self) -> int:
        """How many keys open values."""
        return sum(e.live for e in self.ring.entries())


def back_up(
    directory: Path,
    target: Path,
    passphrase: bytes,
    *,
    random: Callable[[int], bytes],
    clock: Callable[[], float] = time.time,
    cost: int = _COST,
) -> Backup:
    """Write a backup of `directory` to a new file, read it again from the disk, try every key, and note it. Raises BackupError.

    The file is removed again where what was read is not what was written.
    """
    try:
        with locked(directory / LOCK_FILE, time.sleep):
            content = _read_directory(directory)
    except LockedError:
        raise BackupError(f"key ring {directory / RING_FILE} is being changed by another process") from None
    except OSError as error:
        raise BackupError(f"key directory {directory}: {error.strerror}") from error
    ring = _open(directory, content)
    created = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="seconds")
    entries = ring.entries()
    newest = max((e.id for e in entries), default=0)
    head = _Head(_FORMAT, created, len(entries), newest, _Derivation(cost, 8, 1, random(16)))
    sealed = _cipher(head, passphrase).encrypt(msgspec.json.encode(content), [msgspec.json.encode(head)])
    try:
        create(target, msgspec.json.format(msgspec.json.encode(_File(head, sealed)), indent=1) + b"\n")
    except FileExistsError:
        raise BackupError(f"{target} exists already and is not overwritten") from None
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror}") from error
    try:
        made = read_backup(target, passphrase)
    except BackupError:
        target.unlink(missing_ok=True)
        raise
    _note(directory, made.note)
    return made


def read_backup(file: Path, passphrase: bytes) -> Backup:
    """Open a backup and try every key in it. Raises BackupError."""
    content = read_bounded(file, MAX_BACKUP_BYTES, f"{file}", BackupError)
    try:
        found = msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BackupError(f"{file} is cut short, damaged or not a backup of pgveil's keys") from None
    if found.head.format != _FORMAT:
        raise BackupError(f"{file} has another format than {_FORMAT}")
    if not _affordable(found.head.scrypt):
        raise BackupError(f"{file} asks for a derivation that pgveil does not make")
    try:
        plain = _cipher(found.head, passphrase).decrypt(found.sealed, [msgspec.json.encode(found.head)])
        inner = msgspec.json.decode(plain, type=_Content)
    except (InvalidTag, ValueError):
        raise BackupError(f"{file} does not open: another passphrase, or the file was altered") from None
    return Backup(file, found.head.created, _open(file, inner), inner)


def restore(backup: Backup, directory: Path) -> None:
    """Make the key directory that was backed up, or finish making it. Nothing that is there is overwritten. Raises BackupError."""
    wanted = {MASTER_FILE: backup.content.master, RING_FILE: backup.content.ring}
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            raise BackupError(f"others than its owner reach {directory}; run: chmod 700 {directory}")
        missing = [name for name, content in wanted.items() if not _is_there(directory / name, content)]
        for name in missing:
            create(directory / name, wanted[name])
    except FileExistsError:
        raise BackupError(f"{directory} is not a directory") from None
    except OSError as error:
        raise BackupError(f"key directory {directory}: {error.strerror}") from error
    _open(directory, _read_directory(directory))
    if backup.note not in notes_of(directory):
        _note(directory, backup.note)


def notes_of(directory: Path) -> tuple[Note, ...]:
    """The backups that were noted in a key directory, oldest first; none where there are no readable notes."""
    try:
        content, _ = read_regular(directory / NOTES_FILE, _MAX_NOTES_BYTES)
        return msgspec.json.decode(content, type=tuple[Note, ...])
    except (OSError, NotRegularError, msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def _note(directory: Path, note: Note) -> None:
    notes = (*notes_of(directory), note)[-_MAX_NOTES:]
    content = msgspec.json.format(msgspec.json.encode(notes), indent=1) + b"\n"
    try:
        with locked(directory / LOCK_FILE, time.sleep):
            replace(directory / NOTES_FILE, content)
    except (LockedError, OSError) as error:
        raise BackupError(f"all is done, but {directory / NOTES_FILE} cannot be written") from error


def _is_there(path: Path, content: bytes) -> bool:
    """Whether the file holds this already, from a restore that was cut off. Raises BackupError where it holds something else."""
    try:
        found, _ = read_regular(path, MAX_RING_BYTES)
    except FileNotFoundError:
        return False
    except NotRegularError:
        raise BackupError(f"{path} is not a regular file; nothing was changed") from None
    if not hmac.compare_digest(found, content):
        raise BackupError(f"{path} is there already and is another one; nothing was changed")
    return True


def _read_directory(directory: Path) -> _Content:
    try:
        master = FileMasterKey.read_line(directory / MASTER_FILE)
    except ProviderError as error:
        raise BackupError(str(error)) from None
    ring = directory / RING_FILE
    return _Content(master, read_bounded(ring, MAX_RING_BYTES, f"key ring {ring}", BackupError))


def _open(place: Path, content: _Content) -> KeyRing:
    """The ring, with each live key tried on a value: what would be found too late is found now."""
    try:
        master = FileMasterKey.of_line(place / MASTER_FILE, content.master)
        ring = read_ring(place / RING_FILE, content.ring, master)
        for domain in ring.domains():
            for key in ring.keys(domain).values():
                if open_sealed(key, seal(key, _PROBE, nonce=None)) != _PROBE:
                    raise BackupError(f"{place}: key {key.key_id} does not open what it has sealed")
    except (ProviderError, RingError) as error:
        raise BackupError(str(error)) from None
    return ring


def _affordable(kdf: _Derivation) -> bool:
    power = kdf.n > 1 and kdf.n & (kdf.n - 1) == 0
    return power and kdf.n <= _MAX_COST and kdf.r == 8 and kdf.p == 1 and len(kdf.salt) == 16


def _cipher(head: _Head, passphrase: bytes) -> AESSIV:
    """AES-256-SIV (RFC 5297) under scrypt's 64 bytes (RFC 7914); the salt is drawn anew for each backup."""
    kdf = head.scrypt
    return AESSIV(Scrypt(salt=kdf.salt, length=64, n=kdf.n, r=kdf.r, p=kdf.p).derive(passphrase))
