"""The control socket and the commands that speak to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from typer.testing import CliRunner

from proxy.cli import make_app
from proxy.config import parse_config
from proxy.control import _LONGEST, Control, NotRunning, ask
from proxy.reloading import changed, needs_restart, taken_up
from proxy.reports import Outcome, Reported, WorkerReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DONE = Reported(Outcome.APPLIED, (WorkerReport(0, 11, "applied"),), needs_restart=("listen.port",))
REFUSED = Reported(Outcome.REFUSED, (WorkerReport(0, 11, "refused", "why"),), why="rules.yaml:1:1: no")


class Supervisor:
    """Answers at once, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def reload(self) -> Reported:
        self.asked.append("reload")
        return DONE

    async def restart(self) -> Reported:
        self.asked.append("restart")
        return REFUSED


@pytest_asyncio.fixture
async def control(tmp_path: Path) -> AsyncIterator[tuple[Path, Supervisor]]:
    path, supervisor = tmp_path / "pgveil.sock", Supervisor()
    made = Control(path, supervisor)
    await made.start()
    yield path, supervisor
    made.close()
    assert not path.exists()


async def test_what_is_asked_is_done_and_answered(control: tuple[Path, Supervisor]) -> None:
    path, supervisor = control
    assert await asyncio.to_thread(ask, path, "reload") == DONE
    assert await asyncio.to_thread(ask, path, "restart") == REFUSED
    assert supervisor.asked == ["reload", "restart"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "for pgveil's own account and root"


@pytest.mark.parametrize(
    "words", [b"", b"\n", b'{"command": "stop"}\n', b'{"command": "reload", "more": 1}\n', b"\xff" * 100]
)
async def test_nonsense_is_not_answered(control: tuple[Path, Supervisor], words: bytes) -> None:
    path, supervisor = control
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(words)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert supervisor.asked == []


async def test_a_question_has_an_end(control: tuple[Path, Supervisor]) -> None:
    path, supervisor = control
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b" " * _LONGEST + b'{"command": "reload"}\n')
    with contextlib.suppress(ConnectionError):  # it has not read all of it
        assert await reader.read() == b""
    writer.close()
    assert supervisor.asked == []
    assert await asyncio.to_thread(ask, path, "reload") == DONE


async def test_a_socket_that_another_pgveil_has_is_left_alone(control: tuple[Path, Supervisor]) -> None:
    path, supervisor = control
    second = Control(path, Supervisor())
    with capture_logs() as logged:
        await second.start()
    second.close()
    assert [event["event"] for event in logged] == ["control.unavailable"]
    assert await asyncio.to_thread(ask, path, "reload") == DONE
    assert supervisor.asked == ["reload"]


async def test_one_that_a_killed_pgveil_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pgveil.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(NotRunning):
        ask(path, "reload")
    control = Control(path, Supervisor())
    await control.start()
    assert await asyncio.to_thread(ask, path, "reload") == DONE
    control.close()


async def test_without_a_place_for_it_pgveil_runs_all_the_same(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "s", tmp_path / ("x" * 200)):
        control = Control(path, Supervisor())
        with capture_logs() as logged:
            await control.start()
        assert [event["event"] for event in logged] == ["control.unavailable"]
        control.close()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pgveil.yaml"
    config.write_text("audit: state/audit\n")
    asked = []

    def answer(path: Path, command: str) -> Reported:
        asked.append((path, command))
        return DONE if command == "reload" else REFUSED

    monkeypatch.setattr("proxy.control_command.ask", answer)
    run = CliRunner().invoke
    done = run(make_app(), ["reload", "--config", str(config)])
    assert done.exit_code == 0
    assert "worker 0 (pid 11): applied" in done.stdout
    assert "waiting for a restart of pgveil: listen.port" in done.stdout
    done = run(make_app(), ["restart", "--config", str(config)])
    assert done.exit_code == 1
    assert "rules.yaml:1:1: no" in done.stderr
    done = run(make_app(), ["restart", "--json", "--control", "elsewhere"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["workers"] == [{"worker": 0, "pid": 11, "outcome": "refused", "why": "why"}]
    here = tmp_path / "state" / "pgveil.sock"
    assert asked == [(here, "reload"), (here, "restart"), (Path("elsewhere"), "restart")]


def test_what_a_running_worker_takes_up() -> None:
    path = Path("/x/pgveil.yaml")
    before = parse_config("tls: {certificate: a, key: b}\nlimits: {connections: 5}\n", path)
    after = parse_config(
        "rules: other.yaml\nworkers: 3\ntls: {certificate: c, key: b}\nlimits: {connections: 6, cancels_per_second: 7}\n"
        "server: {hosts: db:1, sslmode: require}\n",
        path,
    )
    assert set(needs_restart(before, after)) == {"workers", "limits.cancels_per_second", "server.hosts"}
    running = taken_up(before, after)
    assert set(changed(running, after)) == set(needs_restart(before, after))
    assert (running.rules, running.tls, running.limits.connections) == (after.rules, after.tls, 6)
    assert running.server.sslmode == "require"
    assert running.server.hosts == before.server.hosts
