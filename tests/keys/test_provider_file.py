"""The master key in a file: what is accepted, what is refused, and that nothing shows it."""

from __future__ import annotations

import os
import pickle
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.providers import UnwrapError
from keys.providers.file import FileMasterKey, KeyFileError

if TYPE_CHECKING:
    from pathlib import Path

MATERIAL = bytes(range(32))
LINE = b"pgveil-master-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_generate_then_load(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    made = FileMasterKey.generate(path, lambda size: MATERIAL[:size])
    assert path.read_bytes() == LINE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    wrapped = made.wrap(b"a data key", b"its name")
    assert FileMasterKey.load(path).unwrap(wrapped, b"its name") == b"a data key"


def test_wrapping_is_the_standard_s(tmp_path: Path) -> None:
    """HKDF-SHA-256 to 64 bytes, then AES-256-SIV with the associated data as its one component."""
    master = FileMasterKey.load(write(tmp_path / "k", LINE))
    key = HKDF(algorithm=SHA256(), length=64, salt=None, info=b"pgveil master key 1: wrap").derive(MATERIAL)
    assert master.wrap(b"data", b"name") == AESSIV(key).encrypt(b"data", [b"name"])


def test_generated_under_any_umask_it_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileMasterKey.generate(tmp_path / "k", os.urandom)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "k", LINE)
    with pytest.raises(KeyFileError, match="exists already"):
        FileMasterKey.generate(path, os.urandom)
    assert path.read_bytes() == LINE
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists already"):
        FileMasterKey.generate(tmp_path / "dangling", os.urandom)
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_is_full_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keys.durable.os.write", full)
    with pytest.raises(KeyFileError, match="No space left"):
        FileMasterKey.generate(tmp_path / "k", os.urandom)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o620, 0o602, 0o777])
def test_any_bit_for_others_refuses_the_file(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "k", LINE, mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}") as caught:
        FileMasterKey.load(path)
    assert caught.value.path == path
    assert f"{mode:04o}" in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_modes_of_the_owner_alone_are_fine(tmp_path: Path, mode: int) -> None:
    FileMasterKey.load(write(tmp_path / "k", LINE, mode))


@pytest.mark.parametrize(
    ("owner", "user", "fine"), [(1001, 1000, False), (0, 1000, True), (1000, 1000, True), (1000, 0, False)]
)
def test_whose_file_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, user: int, fine: bool
) -> None:
    path = write(tmp_path / "k", LINE)
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real(descriptor))
        fields[stat.ST_UID] = owner
        return os.stat_result(fields)

    monkeypatch.setattr("keys.durable.os.fstat", fstat)
    monkeypatch.setattr("keys.providers.file.os.geteuid", lambda: user)
    if fine:
        FileMasterKey.load(path)
    else:
        with pytest.raises(KeyFileError, match=f"user id {owner}; run: chown {user}"):
            FileMasterKey.load(path)


def test_what_is_not_a_regular_file(tmp_path: Path) -> None:
    real = write(tmp_path / "real", LINE)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(KeyFileError, match="symbolic link"):
        FileMasterKey.load(tmp_path / "link")
    with pytest.raises(KeyFileError, match="not a regular file"):
        FileMasterKey.load(tmp_path)
    # A named pipe must not hold the process until somebody writes.
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        FileMasterKey.load(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="No such file"):
        FileMasterKey.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"pgveil-master-1:",
        b"pgveil-master-2:" + LINE[16:],
        LINE[:-3],
        LINE[:30],
        LINE + LINE,
        LINE[:-1] + b" \n",
        LINE[:20] + b"\n" + LINE[20:],
        LINE[:16] + b"!" + LINE[17:],
        b"pgveil-master-1:" + bytes(44),
        LINE[:-1] + b"\r\n",
        b"x" * 10_000,
    ],
)
def test_what_is_not_a_master_key(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeyFileError) as caught:
        FileMasterKey.load(write(tmp_path / "k", content))
    assert "AAECAwQF" not in str(caught.value)


def test_the_last_line_break_may_be_missing(tmp_path: Path) -> None:
    FileMasterKey.load(write(tmp_path / "k", LINE[:-1]))


def test_what_does_not_unwrap(tmp_path: Path) -> None:
    master = FileMasterKey.load(write(tmp_path / "k", LINE))
    other = FileMasterKey.generate(tmp_path / "other", os.urandom)
    wrapped = master.wrap(b"data", b"name")
    for key, text, name in (
        (other, wrapped, b"name"),
        (master, wrapped, b"another name"),
        (master, wrapped[:-1], b"name"),
        (master, wrapped[:3], b"name"),
        (master, b"", b"name"),
        (master, bytes([wrapped[0] ^ 1]) + wrapped[1:], b"name"),
    ):
        with pytest.raises(UnwrapError):
            key.unwrap(text, name)


def test_nothing_shows_the_key(tmp_path: Path) -> None:
    master = FileMasterKey.load(write(tmp_path / "k", LINE))
    assert repr(master) == f"FileMasterKey('{tmp_path / 'k'}')"
    assert master.name == f"file:{tmp_path / 'k'}"
    with pytest.raises(TypeError):
        pickle.dumps(master)


def test_a_source_of_randomness_that_runs_dry_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        FileMasterKey.generate(tmp_path / "k", lambda size: bytes(size - 1))
    assert not (tmp_path / "k").exists()
