"""The master key in a file: `pgveil-master-1:` and 32 bytes in base64, one line, readable by its owner only.

What it wraps goes through AES-256-SIV (RFC 5297); its 64-byte key is made of the file's 32 bytes by HKDF-SHA-256 (RFC 5869).
"""

from __future__ import annotations

import binascii
import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.durable import NotRegularError, create, read_regular
from keys.providers import ProviderError, UnwrapError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MASTER_FILE = "master.key"
"""Where a key directory has it."""

MATERIAL_SIZE = 32
_PREFIX = b"pgveil-master-1:"
_LINE_SIZE = len(_PREFIX) + 44 + 1
_PURPOSE = b"pgveil master key 1: wrap"


class KeyFileError(ProviderError):
    """The master key's file is not there, not safe, or not a master key. `path` names it; the text says what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"master key file {path}: {problem}")
        self.path = path


class FileMasterKey:
    """A master key from a file. Its bytes are held by the cipher only, and shown nowhere."""

    __slots__ = ("_cipher", "_path")

    def __init__(self, path: Path, material: bytes) -> None:
        self._path = path
        derived = HKDF(algorithm=SHA256(), length=64, salt=None, info=_PURPOSE).derive(material)
        self._cipher = AESSIV(derived)

    @classmethod
    def load(cls, path: Path) -> FileMasterKey:
        """Read the file. Raises KeyFileError where anyone but its owner could have read or written it, and where it is no key."""
        return cls.of_line(path, cls.read_line(path))

    @classmethod
    def of_line(cls, path: Path, line: bytes) -> FileMasterKey:
        """The master key of a file's content, from a backup say; `path` names it in errors. Raises KeyFileError."""
        return cls(path, _decode(path, line))

    @classmethod
    def read_line(cls, path: Path) -> bytes:
        """The file's content, which is the key. Raises KeyFileError where anyone but its owner could have read or written it."""
        try:
            line, status = read_regular(path, _LINE_SIZE)
        except NotRegularError:
            raise KeyFileError(path, "is not a regular file") from None
        except OSError as error:
            _explain(path, error)
        if status.st_uid not in (os.geteuid(), 0):
            raise KeyFileError(path, f"belongs to user id {status.st_uid}; run: chown {os.geteuid()} {path}")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyFileError(path, f"has mode {mode:04o}, so others than its owner reach it; run: chmod 600 {path}")
        return line

    @classmethod
    def generate(cls, path: Path, random: Callable[[int], bytes]) -> FileMasterKey:
        """Make a new master key in a new file, durably. Raises KeyFileError, also where the file exists: it is never overwritten."""
        material = random(MATERIAL_SIZE)
        if len(material) != MATERIAL_SIZE:
            raise ValueError(f"a master key has {MATERIAL_SIZE} bytes, not {len(material)}")
        line = _PREFIX + binascii.b2a_base64(material, newline=False) + b"\n"
        try:
            create(path, line)
        except FileExistsError:
            raise KeyFileError(path, "exists already and is not overwritten") from None
        except OSError as error:
            _explain(path, error)
        return cls(path, material)

    @property
    def name(self) -> str:
        """`file:` and the path."""
        return f"file:{self._path}"

    def wrap(self, plaintext: bytes, associated: bytes) -> bytes:
        """SIV and ciphertext: 16 bytes more than `plaintext`, which must not be empty."""
        return self._cipher.encrypt(plaintext, [associated])

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Undo `wrap`. Raises UnwrapError."""
        try:
            return self._cipher.decrypt(wrapped, [associated])
        except InvalidTag:
            raise UnwrapError(f"does not open with master key {self.name}") from None

    def __repr__(self) -> str:
        return f"FileMasterKey({str(self._path)!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def _decode(path: Path, line: bytes) -> bytes:
    if not line.startswith(_PREFIX):
        raise KeyFileError(path, "is not a pgveil master key (it does not begin with pgveil-master-1:)")
    body = line[len(_PREFIX) :].removesuffix(b"\n")
    try:
        material = binascii.a2b_base64(body, strict_mode=True)
    except binascii.Error:
        raise KeyFileError(path, "is damaged: what follows pgveil-master-1: is not base64") from None
    if len(material) != MATERIAL_SIZE or len(line) > _LINE_SIZE:
        raise KeyFileError(path, f"is damaged: it does not hold {MATERIAL_SIZE} bytes")
    return material


def _explain(path: Path, error: OSError) -> NoReturn:
    if error.errno == errno.ELOOP:
        raise KeyFileError(path, "is a symbolic link; name the file itself") from None
    raise KeyFileError(path, error.strerror or "cannot be used") from error
