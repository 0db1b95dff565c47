"""Backups of a key directory: what is in them, what they survive, and what they never show."""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from keys import backup as backups
from keys.backup import BackupError, back_up, notes_of, read_backup, restore
from keys.commands import register
from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from keys.sealed import SealedError, open_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from lifecycle.demo.postgres import Postgres

WORDS = b"correct horse battery"
COST = 2  # scrypt's, so that the tests are quick


def ring(directory: Path) -> KeyRing:
    return KeyRing.open(directory, FileMasterKey.load(directory / "master.key"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    made = KeyRing.initialise(directory, FileMasterKey.generate(directory / "master.key", os.urandom))
    for domain in ("pan", "iban", "pan"):
        made.create(domain, os.urandom)
    return directory


@pytest.fixture
def run() -> Callable[..., Result]:
    app = typer.Typer()

    @app.callback()
    def pgveil() -> None:
        """The root."""

    register(app)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *map(str, arguments)])


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words"
    file.touch(mode=0o600)
    file.write_bytes(WORDS + b"\n")
    return file


def make(keys: Path, target: Path) -> backups.Backup:
    return back_up(keys, target, WORDS, random=os.urandom, clock=lambda: 1_800_000_000.0, cost=COST)


def test_a_backup_is_all_that_is_needed(keys: Path, tmp_path: Path) -> None:
    sealed = seal(ring(keys).newest("pan"), b"4929000011112101", nonce=None)
    older = seal(ring(keys).keys("pan")[1], b"x", nonce=bytes(16))
    make(keys, tmp_path / "b")
    for file in keys.iterdir():
        file.unlink()
    keys.rmdir()
    restore(read_backup(tmp_path / "b", WORDS), keys)
    back = ring(keys)
    assert open_sealed(back.newest("pan"), sealed) == b"4929000011112101"
    assert open_sealed(back.keys("pan")[1], older) == b"x"
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in keys.iterdir()}
    assert modes == dict.fromkeys(("master.key", "ring.json", "ring.lock", "backups.json"), 0o600)
    assert [(n.file, n.keys) for n in notes_of(keys)] == [(str(tmp_path / "b"), (1, 2, 3))], "for doctor"
    back.create("pan", os.urandom)
    assert {e.id for e in ring(keys).entries()} == {1, 2, 3, 4}, "ids go on where they were"


def test_a_copy_of_the_master_key_alone_is_not(keys: Path, tmp_path: Path) -> None:
    """What the documentation said before: the reason for backups."""
    sealed = seal(ring(keys).newest("pan"), b"4929000011112101", nonce=None)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "master.key").write_bytes((keys / "master.key").read_bytes())
    (other / "master.key").chmod(0o600)
    fresh = KeyRing.initialise(other, FileMasterKey.load(other / "master.key"))
    fresh.create("pan", os.urandom)
    with pytest.raises(SealedError):
        open_sealed(fresh.newest("pan"), sealed)


def test_a_backup_shows_no_key(keys: Path, tmp_path: Path) -> None:
    made = make(keys, tmp_path / "b")
    content = (tmp_path / "b").read_bytes()
    master = (keys / "master.key").read_bytes()
    assert master[16:40] not in content
    assert b"pan" not in content
    for shown in (repr(made), repr(made.content), str(made)):
        assert "pgveil-master" not in shown
        assert "wrapped" not in shown
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
    with pytest.raises(TypeError):
        made.__reduce__()


def test_another_passphrase_and_every_altered_byte_are_refused(keys: Path, tmp_path: Path) -> None:
    make(keys, tmp_path / "b")
    with pytest.raises(BackupError, match="does not open: another passphrase, or the file was altered"):
        read_backup(tmp_path / "b", WORDS + b"!")
    document = json.loads((tmp_path / "b").read_bytes())
    for field, value in (("created", "2027-01-01T00:00:00+00:00"), ("keys", 2), ("newest", 99)):
        (tmp_path / "c").write_text(json.dumps({**document, "head": {**document["head"], field: value}}))
        with pytest.raises(BackupError, match="does not open"):
            read_backup(tmp_path / "c", WORDS)
    whole = (tmp_path / "b").read_bytes()
    for cut in range(0, len(whole), 97):
        (tmp_path / "c").write_bytes(whole[:cut])
        with pytest.raises(BackupError, match="cut short, damaged or not a backup"):
            read_backup(tmp_path / "c", WORDS)


@pytest.mark.parametrize("change", [{"n": 1 << 30}, {"n": 3}, {"n": 0}, {"r": 1 << 20}, {"p": 1 << 20}, {"salt": ""}])
def test_a_derivation_without_bounds_is_not_made(keys: Path, tmp_path: Path, change: dict[str, object]) -> None:
    make(keys, tmp_path / "b")
    document = json.loads((tmp_path / "b").read_bytes())
    document["head"]["scrypt"].update(change)
    (tmp_path / "b").write_text(json.dumps(document))
    with pytest.raises(BackupError, match="a derivation that pgveil does not make"):
        read_backup(tmp_path / "b", WORDS)


def test_what_is_no_file_or_too_long(tmp_path: Path, keys: Path) -> None:
    for target, told in ((tmp_path, "not a regular file"), (tmp_path / "none", "cannot be read: No such file")):
        with pytest.raises(BackupError, match=told):
            read_backup(target, WORDS)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(backups.MAX_BACKUP_BYTES + 1)
    with pytest.raises(BackupError, match="longer than"):
        read_backup(tmp_path / "long", WORDS)
    (tmp_path / "there").touch()
    with pytest.raises(BackupError, match="exists already and is not overwritten"):
        make(keys, tmp_path / "there")
    assert notes_of(keys) == ()


def test_a_ring_that_does_not_open_gets_no_backup(keys: Path, tmp_path: Path) -> None:
    FileMasterKey.generate(tmp_path / "other.key", os.urandom)
    (tmp_path / "other.key").replace(keys / "master.key")
    with pytest.raises(BackupError, match="opens with master key"):
        make(keys, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_backup_that_reads_back_wrong_is_removed(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that forgets: what was written is read again before anybody relies on it."""

    def torn(path: Path, content: bytes) -> None:
        path.write_bytes(content[:-40])

    monkeypatch.setattr(backups, "create", torn)
    with pytest.raises(BackupError, match="cut short"):
        make(keys, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert notes_of(keys) == ()


def test_restore_goes_on_where_it_was_cut_off_and_overwrites_nothing(keys: Path, tmp_path: Path) -> None:
    backup = make(keys, tmp_path / "b")
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (target / "master.key").write_bytes((keys / "master.key").read_bytes())
    (target / "master.key").chmod(0o600)
    restore(backup, target)
    restore(backup, target)
    assert ring(target).entries() == ring(keys).entries()
    (target / "ring.json").write_text("{}")
    with pytest.raises(BackupError, match="is there already and is another one; nothing was changed"):
        restore(backup, target)
    assert (target / "ring.json").read_text() == "{}"
    target.chmod(0o750)
    with pytest.raises(BackupError, match="others than its owner reach"):
        restore(backup, target)
    with pytest.raises(BackupError, match="is not a directory"):
        restore(backup, tmp_path / "b")


def test_notes_say_which_keys_are_in_which_backup(keys: Path, tmp_path: Path) -> None:
    make(keys, tmp_path / "a")
    ring(keys).create("dob", os.urandom)
    make(keys, tmp_path / "b")
    assert [(n.file, n.keys) for n in notes_of(keys)] == [
        (str(tmp_path / "a"), (1, 2, 3)),
        (str(tmp_path / "b"), (1, 2, 3, 4)),
    ]
    assert notes_of(keys)[0].created == "2027-01-15T08:00:00+00:00"
    many = tuple(msgspec.structs.replace(notes_of(keys)[0], file=str(n)) for n in range(200))
    (keys / "backups.json").write_bytes(msgspec.json.encode(many))
    make(keys, tmp_path / "c")
    assert len(notes_of(keys)) == 100
    (keys / "backups.json").write_text("[{]")
    assert notes_of(keys) == ()


class TestCommands:
    def test_backup_and_restore(
        self, keys: Path, tmp_path: Path, words: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backups, "back_up", functools.partial(back_up, cost=COST))
        done = run("backup", keys, tmp_path / "b", "--passphrase-file", words)
        assert done.exit_code == 0, done.output
        assert "3 live keys, each tried." in done.stdout
        done = run("check-backup", tmp_path / "b", "--passphrase-file", words, "--json")
        assert json.loads(done.stdout) == {
            "created": read_backup(tmp_path / "b", WORDS).created,
            "live": 3,
            "columns": [],
        }
        done = run("restore", tmp_path / "b", tmp_path / "back", "--passphrase-file", words)
        assert done.exit_code == 0, done.output
        assert ring(tmp_path / "back").entries() == ring(keys).entries()
        assert "pgveil-master-1:" not in done.output

    @pytest.mark.parametrize("content", [b"short\n", b"x" * 1025, b""])
    def test_a_passphrase_has_bounds(
        self, keys: Path, tmp_path: Path, words: Path, run: Callable[..., Result], content: bytes
    ) -> None:
        words.write_bytes(content)
        done = run("backup", keys, tmp_path / "b", "--passphrase-file", words)
        assert done.exit_code == 2
        assert "a passphrase has 12 characters or more" in done.stderr
        assert not (tmp_path / "b").exists()

    def test_a_passphrase_file_that_others_read_is_refused(
        self, keys: Path, tmp_path: Path, words: Path, run: Callable[..., Result]
    ) -> None:
        words.chmod(0o644)
        done = run("backup", keys, tmp_path / "b", "--passphrase-file", words)
        assert done.exit_code == 2
        assert f"chmod 600 {words}" in done.stderr


def test_stored_values_are_opened(
    pg: Postgres, keys: Path, tmp_path: Path, words: Path, run: Callable[..., Result]
) -> None:
    """A backup from before the newest key is good in itself, and not enough for this database: exit code 1, and which key is missing."""
    pg.psql("CREATE DATABASE backups")
    held = ring(keys)
    values = [seal(held.newest("pan"), b"a", nonce=None).decode(), seal(held.newest("iban"), b"b", nonce=None).decode()]
    make(keys, tmp_path / "b")
    late = seal(ring(keys).create("dob", os.urandom), b"c", nonce=None).decode()
    pg.psql(
        'CREATE SCHEMA pgveil; CREATE DOMAIN pgveil.sealed AS text; CREATE SCHEMA "we ird";'
        'CREATE TABLE "we ird"."T" (p pgveil.sealed, "i" pgveil.sealed); CREATE TABLE t (d pgveil.sealed);'
        f"INSERT INTO \"we ird\".\"T\" VALUES ('{values[0]}', '{values[1]}'), (NULL, NULL)",
        "backups",
    )
    arguments = ("check-backup", tmp_path / "b", "--passphrase-file", words, "--database", pg.dsn("backups"))
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert '"we ird"."T".p: 1 values open' in done.stdout
    pg.psql(f"INSERT INTO t VALUES ('{late}'), ('{values[0][:-6]}'), ('not sealed')", "backups")
    done = run(*arguments)
    assert done.exit_code == 1
    assert "public.t.d: 0 values open, 1 need key 4, which is not there, 2 do not open" in done.stdout
    assert json.loads(run(*arguments, "--json").stdout)["columns"][2]["missing_keys"] == [4]
    refused = run(*arguments[:-1], "postgresql://postgres:secret-word@127.0.0.1:1/backups")
    assert refused.exit_code == 3
    assert "cannot be reached" in refused.stderr
    assert "secret-word" not in refused.output


def test_a_kill_within_a_restore_leaves_what_can_be_finished(keys: Path, tmp_path: Path) -> None:
    """Before each step of the restore the process is gone; the next restore finishes what is there."""
    make(keys, tmp_path / "b")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom keys import backup, durable\n"
        "left = int(sys.argv[3])\nreal = durable.create\n"
        "def create(path, content):\n    global left\n    left -= 1\n    os.kill(os.getpid(), 9) if left < 0 else None\n"
        "    real(path, content)\n"
        "backup.create = create\n"
        f"backup.restore(backup.read_backup(Path(sys.argv[1]), {WORDS!r}), Path(sys.argv[2]))\n"
    )
    for steps in (0, 1):
        target = tmp_path / f"t{steps}"
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "b"), str(target), str(steps)], check=False
        )
        assert done.returncode == -9
        restore(read_backup(tmp_path / "b", WORDS), target)
        assert ring(target).entries() == ring(keys).entries()
