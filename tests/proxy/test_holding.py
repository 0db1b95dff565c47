"""One pgveil for an audit directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.errors import ConfigError
from proxy.holding import hold_audit

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_one_is_told_so_until_the_first_has_ended(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    held = hold_audit(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="stop it, or give this configuration"):
        hold_audit(directory)
    other = hold_audit(tmp_path / "other")
    os.close(held)
    os.close(hold_audit(directory))
    os.close(other)


def test_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from proxy.holding import hold_audit;"
        "hold_audit(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError):
            hold_audit(tmp_path)
        first.send_signal(signal.SIGKILL)
    os.close(hold_audit(tmp_path))


def test_the_command_ends_at_once(tmp_path: Path) -> None:
    config = tmp_path / "pgveil.yaml"
    config.write_text("listen: {port: 0}\n")
    held = hold_audit(tmp_path / "audit")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(held)
    assert done.returncode == 2
    assert "audit: another pgveil writes to" in done.stderr
    assert "give this configuration a directory of its own" in done.stderr


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "supervisor.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        hold_audit(tmp_path)
