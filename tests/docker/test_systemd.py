"""The unit files: what systemd itself says of them, and that they fit pgveil's own limits."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.config import Limits

UNITS = Path(__file__).parents[2] / "docker" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_takes_them(tmp_path: Path) -> None:
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/pgveil/bin/pgveil", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
        + [str(tmp_path / name) for name in ("pgveil.service", "pgveil.socket")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if "pgveil" in line]
    assert (done.returncode, complaints) == (0, [])


def test_draining_ends_before_systemd_loses_patience() -> None:
    service = unit("pgveil.service")["Service"]
    limits = Limits()
    assert int(service["TimeoutStopSec"]) > limits.drain_seconds + limits.close_seconds + 10
    assert service["KillMode"] == "mixed", (
        "the supervisor tells its workers; a SIGTERM to each would cut a restart short"
    )


def test_reload_is_the_command_that_waits_for_its_outcome() -> None:
    service = unit("pgveil.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == service["ExecStart"].replace("pgveil run", "pgveil reload")
    assert unit("pgveil.socket")["Socket"]["Accept"] == "no"
