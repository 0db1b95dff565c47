"""Programs and directories for an account that can't enter where pgveil is: nobody's modes change, and what runs is ours."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keys import account as accounts
from keys.account import AccountError, can_enter, common_directory, identity_of, reachable_programs, server_account
from lifecycle.demo.postgres import Postgres, PostgresUnavailableError, find_bin_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A home that nobody else enters, as /root is."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files of the test's own, that everybody enters."""
    made = Path("/var/tmp") / f"pgveil-test-{os.getpid()}"
    made.mkdir()
    made.chmod(0o1777)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(made))
    yield made
    shutil.rmtree(made)


def installed(home: Path) -> Path:
    """An installation in the private home: the embedded one's programs."""
    source = find_bin_dir("16").parent
    package = source.parent
    shutil.copytree(source, home / package.name / source.name, symlinks=True)
    shutil.copytree(f"{package}.libs", home / f"{package.name}.libs")
    return home / package.name / source.name / "bin"


def modes(root: Path) -> dict[Path, int]:
    return {p: stat.S_IMODE(p.stat().st_mode) for p in (root, *root.parents, *root.rglob("*")) if not p.is_symlink()}


@as_root
def test_a_copy_is_made_once_and_runs(private: Path, temporary: Path) -> None:
    bin_dir = installed(private)
    before = modes(private)
    account = server_account()
    first = reachable_programs(bin_dir, account)
    assert first.is_relative_to(temporary)
    assert modes(private) == before, "nobody's directory changes mode"
    told = subprocess.run([first / "postgres", "--version"], **identity_of(account), capture_output=True, check=True)
    assert b"PostgreSQL" in told.stdout
    inode = (first / "postgres").stat().st_ino
    assert reachable_programs(bin_dir, account) == first
    assert (first / "postgres").stat().st_ino == inode
    assert len(list(temporary.iterdir())) == 1, "nothing half made is left"
    assert all(not p.stat().st_mode & 0o022 for p in temporary.rglob("*") if not p.is_symlink())


@as_root
def test_a_server_runs_where_nobody_may_enter(private: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_dir = installed(private)
    before = modes(private)
    monkeypatch.setattr("lifecycle.demo.postgres.find_bin_dir", lambda _: reachable_programs(bin_dir, server_account()))
    with Postgres.make("16", root=private / "server") as pg:
        assert pg.psql("SELECT 1") == "1\n"
        data = pg.data.resolve()
        assert not data.is_relative_to(private)
        assert {p: m for p, m in modes(private).items() if p in before} == before
    assert not data.exists()
    assert not (private / "server").exists()


@as_root
def test_what_stands_in_the_copy_s_place_is_not_used(private: Path, temporary: Path) -> None:
    """Whoever can write to the directory for temporary files could have put programs there."""
    bin_dir = installed(private)
    account = server_account()
    assert account is not None
    reachable_programs(bin_dir, account)
    (made,) = temporary.iterdir()
    os.chown(made, account.pw_uid, account.pw_gid)
    with pytest.raises(AccountError, match="is not ours alone") as refused:
        reachable_programs(bin_dir, account)
    assert "Install PostgreSQL where every account reaches it" in refused.value.hint
    os.chown(made, 0, 0)
    made.chmod(0o775)
    with pytest.raises(AccountError, match="is not ours alone"):
        reachable_programs(bin_dir, account)
    shutil.rmtree(made)
    made.symlink_to("/usr")
    with pytest.raises(AccountError, match="is not ours alone"):
        reachable_programs(bin_dir, account)


@as_root
def test_what_cannot_be_copied_or_run_is_told_at_once(
    private: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private / "bin").mkdir()
    (private / "bin" / "postgres").write_text("#!/nonexistent\n")
    (private / "bin" / "postgres").chmod(0o700)
    with pytest.raises(AccountError, match="they do not run in"):
        reachable_programs(private / "bin", server_account())
    monkeypatch.setattr(accounts, "_COMMON", ())
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(private))
    with pytest.raises(AccountError, match="no directory for temporary files") as refused:
        reachable_programs(private / "bin", server_account())
    assert "TMPDIR" in refused.value.hint
    monkeypatch.setattr("lifecycle.demo.postgres.find_spec", lambda _: None)
    with pytest.raises(PostgresUnavailableError, match="needs: pip install"):
        find_bin_dir("16")


@as_root
def test_a_private_place_for_temporary_files_is_not_used(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(private))
    assert common_directory(server_account()) == Path("/tmp")
    assert common_directory(None) == private


@as_root
def test_who_can_enter(private: Path) -> None:
    account = server_account()
    assert not can_enter(account, private)
    assert not can_enter(account, private / "nothing")
    assert can_enter(account, Path("/"))
    assert can_enter(None, private)


def test_our_own_account_needs_no_copy(tmp_path: Path) -> None:
    assert reachable_programs(find_bin_dir("16"), None) == find_bin_dir("16")


def test_root_without_any_other_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(AccountError, match="no other account") as refused:
        server_account()
    assert "postgres, pgserver, nobody" in refused.value.hint
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_account() is None
