"""`pgveil keys`: what it writes, prints and exits with."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from keys.commands import register
from keys.providers.file import FileMasterKey
from keys.ring import KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result


@pytest.fixture
def run() -> Callable[..., Result]:
    app = typer.Typer()

    @app.callback()
    def pgveil() -> None:
        """The root, so that `keys` stays a group of its own."""

    register(app)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *map(str, arguments)])


@pytest.fixture
def made(tmp_path: Path, run: Callable[..., Result]) -> Path:
    directory = tmp_path / "keys"
    assert run("init", directory).exit_code == 0
    return directory


def ring(directory: Path) -> KeyRing:
    return KeyRing.open(directory, FileMasterKey.load(directory / "master.key"), clock=lambda: 1_800_000_000.0)


def test_init(made: Path) -> None:
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in made.iterdir()} == {"master.key": 0o600, "ring.json": 0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert ring(made).entries() == ()


def test_init_says_what_must_not_be_lost(tmp_path: Path, run: Callable[..., Result]) -> None:
    done = run("init", tmp_path / "k")
    assert f"pgveil keys backup {tmp_path / 'k'} FILE" in done.stdout
    assert "pgveil-master-1:" not in done.output


@pytest.mark.parametrize("present", ["master.key", "ring.json"])
def test_init_overwrites_nothing(made: Path, run: Callable[..., Result], present: str) -> None:
    for name in {"master.key", "ring.json"} - {present}:
        (made / name).unlink()
    before = (made / present).read_bytes()
    done = run("init", made)
    assert done.exit_code == 2
    assert present in done.stderr
    assert [p.name for p in made.iterdir()] == [present]
    assert (made / present).read_bytes() == before


def test_init_takes_an_empty_private_directory_only(tmp_path: Path, run: Callable[..., Result]) -> None:
    tmp_path.chmod(0o750)
    done = run("init", tmp_path)
    assert done.exit_code == 2
    assert f"chmod 700 {tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o700)
    assert run("init", tmp_path).exit_code == 0


def test_init_takes_no_directory_of_other_things(tmp_path: Path, run: Callable[..., Result]) -> None:
    """A checkout of pgveil has a directory `keys` of code; the quickstart's command once put a key there, or said to change its mode."""
    place = tmp_path / "keys"
    place.mkdir(mode=0o755)
    (place / "ring.py").write_text("")
    result = run("init", str(place))
    assert result.exit_code == 2
    assert "has other files in it; name a directory for the keys alone" in result.stderr
    assert [p.name for p in place.iterdir()] == ["ring.py"]
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    (volume / "lost+found").mkdir()
    assert run("init", str(volume)).exit_code == 0


def test_init_where_it_cannot(tmp_path: Path, run: Callable[..., Result]) -> None:
    (tmp_path / "file").touch()
    assert run("init", tmp_path / "file").exit_code == 2
    done = run("init", tmp_path / "no" / "parent")
    assert done.exit_code == 3
    assert "No such file" in done.stderr
    assert run("init").exit_code == 2


def test_init_on_a_full_disk(tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keys.durable.os.write", full)
    done = run("init", tmp_path / "k")
    assert done.exit_code == 3
    assert "No space left" in done.stderr
    assert list((tmp_path / "k").iterdir()) == []


def test_list(made: Path, run: Callable[..., Result]) -> None:
    assert run("list", made).stdout == "No keys yet.\n"
    for domain in ("public.cards.pan", "public.cards.pan", "名前"):
        ring(made).create(domain, os.urandom)
    ring(made).destroy(1)
    # Nothing to verify with is needed: an auditor may list.
    (made / "master.key").unlink()
    assert run("list", made).stdout.splitlines() == [
        "     1  public.cards.pan  version 1  created 2027-01-15T08:00:00+00:00  destroyed 2027-01-15T08:00:00+00:00",
        "     2  public.cards.pan  version 2  created 2027-01-15T08:00:00+00:00  live",
        "     3  名前  version 1  created 2027-01-15T08:00:00+00:00  live",
    ]
    listed = json.loads(run("list", made, "--json").stdout)
    assert listed["keys"][0] == {
        "id": 1,
        "domain": "public.cards.pan",
        "version": 1,
        "created": "2027-01-15T08:00:00+00:00",
        "destroyed": "2027-01-15T08:00:00+00:00",
    }
    assert [(k["id"], k["destroyed"]) for k in listed["keys"][1:]] == [(2, None), (3, None)]


def test_list_of_nothing(tmp_path: Path, run: Callable[..., Result]) -> None:
    done = run("list", tmp_path / "nowhere")
    assert done.exit_code == 3
    assert "ring.json" in done.stderr


def test_check(made: Path, run: Callable[..., Result]) -> None:
    ring(made).create("public.cards.pan", os.urandom)
    ring(made).create("public.cards.pan", os.urandom)
    ring(made).destroy(1)
    done = run("check", made)
    assert (done.exit_code, done.stdout) == (0, "All 1 live keys open.\n")
    done = run("check", made, "--json")
    assert json.loads(done.stdout) == {"ok": True, "live": 1, "failing": [], "problem": None}


def test_check_names_what_does_not_open(made: Path, run: Callable[..., Result]) -> None:
    for domain in ("a", "b", "c"):
        ring(made).create(domain, os.urandom)
    document = json.loads((made / "ring.json").read_text())
    document["ring"]["keys"][1]["domain"] = "z"
    (made / "ring.json").write_text(json.dumps(document))
    done = run("check", made)
    assert done.exit_code == 1
    assert "z version 1 (key 2)" in done.stderr
    done = run("check", made, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["ok"], report["failing"]) == (False, [2])


def test_check_with_another_master(made: Path, run: Callable[..., Result]) -> None:
    (made / "master.key").unlink()
    FileMasterKey.generate(made / "master.key", os.urandom)
    done = run("check", made)
    assert done.exit_code == 1
    assert "another ring's master key" in done.stderr


def test_check_of_a_master_key_that_others_read(made: Path, run: Callable[..., Result]) -> None:
    (made / "master.key").chmod(0o640)
    done = run("check", made)
    assert done.exit_code == 1
    assert "chmod 600" in done.stderr


@pytest.mark.parametrize("gone", ["master.key", "ring.json"])
def test_check_without_a_file(made: Path, run: Callable[..., Result], gone: str) -> None:
    (made / gone).unlink()
    done = run("check", made)
    assert done.exit_code == 3
    assert gone in done.stderr
