"""The command line's own manners."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy import cli
from proxy.errors import ConfigError, ServerUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    import typer


def pgveil(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_version_and_help() -> None:
    done = pgveil("--version")
    assert (done.returncode, done.stdout.startswith("pgveil ")) == (0, True)
    assert "run" in pgveil("--help").stdout
    assert pgveil("no-such-command").returncode == 2


def test_check_config(tmp_path: Path) -> None:
    path = tmp_path / "pgveil.yaml"
    path.write_text("workers: many\n")
    done = pgveil("check-config", "--config", str(path))
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pgveil.yaml:1:1: workers: write a whole number from 0 to 256")
    path.write_text("workers: 2\n")
    assert pgveil("check-config", "--config", str(path)).returncode == 0
    assert pgveil("run", "--config", str(tmp_path / "missing.yaml")).returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("a.yaml:1:2: wrong"), 2, "a.yaml:1:2: wrong"),
        (ServerUnreachable("no server", hint="start it"), 3, "no server\npgveil: start it"),
        (OSError(2, "No such file", "x.pem"), 3, "x.pem: No such file"),
        (ValueError("4111111111111111"), 70, "internal error: ValueError at"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failures_are_short_and_hold_no_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def failing() -> typer.Typer:
        raise error

    monkeypatch.setattr(cli, "make_app", failing)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr().err
    assert caught.value.code == code
    assert words in shown
    assert "4111" not in shown
    assert "Traceback" not in shown


def test_a_plug_in_that_cannot_be_loaded_takes_nobody_along() -> None:
    app = cli.make_app()
    assert {command.name for command in app.registered_commands} >= {"run", "check-config", "config-reference"}


def test_a_certificate_that_has_expired_is_refused_at_the_start_as_by_a_reload(
    tmp_path: Path, certificates: Any
) -> None:
    for shown, says in (
        (certificates.expired, "the certificate has expired: put a new one in its place"),
        (certificates.early, "rules.yaml"),
        (certificates.proxy, "rules.yaml"),
    ):
        path = tmp_path / "pgveil.yaml"
        path.write_text(
            f"tls: {{certificate: {shown.certificate}, key: {shown.key}}}\ncalculator: {{enabled: off}}\n"
            "listen: {port: 0}\nworkers: 1\n"
        )
        done = pgveil("run", "--config", str(path))
        assert done.returncode == 2
        assert says in done.stderr
