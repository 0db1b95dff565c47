"""`pgveil audit` as people and programs call it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from audit import commands
from audit.event import ColumnAccess, LoginFailed, StatementEnded, StatementStarted
from audit.log import AuditLog

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    ticks = iter(range(1000))

    async def write() -> None:
        log = await AuditLog.open(tmp_path, writer="w0", clock=lambda: START + timedelta(seconds=next(ticks)))
        access = ColumnAccess("public.customers.card", "core", "masked", True, False)
        log.append(LoginFailed("c0", "mallory\x1b[2J\n", "shop", "10.0.0.9:9", "psql", "28P01"))
        log.append(
            StatementStarted(
                "c1",
                "alice",
                ("clerk",),
                "abcdef012345",
                "shop",
                "10.0.0.1:5",
                "psql",
                "select",
                "select [card] from customers",
                ("public.customers",),
                (access,),
                False,
                1,
            )
        )
        log.append(StatementEnded("c1", 1, 42, 1500, "ok", None))
        await log.close()

    asyncio.run(write())
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    app = typer.Typer()
    commands.register(app)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["audit", *arguments], env=env)


def test_verify(log: Path) -> None:
    result = run("verify", str(log))
    assert result.exit_code == 0
    assert "The log is whole." in result.output
    assert "newest of w0: 5 " in result.output
    assert run("verify", env={"PGVEIL_AUDIT": str(log)}).exit_code == 0


def test_verify_for_programs(log: Path) -> None:
    result = run("verify", str(log), "--json")
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["findings"] == []
    head = report["chains"][0]["head"]
    assert head["seq"] == 5
    result = run("verify", str(log), "--expect-head", head["hash"], "--expect-seq", "w0:5", "--expect-seq", "w0:2")
    assert result.exit_code == 0
    result = run("verify", str(log), "--expect-head", "0" * 64, "--expect-seq", "w0:6", "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["findings"]) == 2


def test_verify_of_a_damaged_log(log: Path) -> None:
    path = log / "w0" / "00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"alice"', b'"eve\x1b[m"'))
    result = run("verify", str(log))
    assert result.exit_code == 1
    assert "w0/00000001.jsonl:3 (byte" in result.output
    assert "The log is not whole." in result.output
    assert "\x1b" not in result.output


def test_tail(log: Path) -> None:
    result = run("tail", str(log), "-n", "3")
    assert result.exit_code == 0
    first, *rest = result.output.splitlines()
    assert len(rest) == 2
    assert "statement alice@10.0.0.1:5 shop c1 select [public.customers.card (core, masked, r)]" in first
    assert "select [card] from customers" in first
    assert [json.loads(line)["seq"] for line in run("tail", str(log), "--json").stdout.splitlines()] == [1, 2, 3, 4, 5]


def test_nothing_that_a_client_sends_reaches_the_terminal(log: Path) -> None:
    result = run("tail", str(log))
    assert "\x1b" not in result.output
    assert "mallory\\x1b[2J\\n@10.0.0.9:9" in result.output


def test_follow(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def add() -> None:
        log_ = await AuditLog.open(log, writer="w1", clock=lambda: START + timedelta(days=1))
        await log_.close()

    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            asyncio.run(add())
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("audit.commands.time.sleep", nap)
    result = run("tail", str(log), "-n", "1", "--follow")
    assert [line.split()[2] for line in result.output.splitlines() if line.startswith("2026")] == [
        "w0:5",
        "w1:1",
        "w1:2",
    ]


def test_search(log: Path) -> None:
    result = run("search", str(log), "--table", "customers", "--login", "alice", "--since", "2026-03-01")
    assert result.exit_code == 0
    assert result.output.rstrip().endswith("=> ok, 42 rows, 1.5 ms")
    found = [json.loads(line) for line in run("search", str(log), "--kind", "statement", "--json").stdout.splitlines()]
    assert [f["outcome"]["rows"] for f in found] == [42]
    assert run("search", str(log), "--login", "nobody").output == ""
    assert run("search", str(log), "--until", "2026-03-01T09:30:02+00:00", "--json").stdout.count("\n") == 3
    assert run("search", str(log), "--since", "1d", "--until", "2026-03-01T11:30:00+02:00").exit_code == 0


def test_search_has_a_limit(log: Path) -> None:
    result = run("search", str(log), "--limit", "2", "--json")
    assert result.stdout.count("\n") == 2
    assert "more than 2" in result.stderr
    assert "more than" not in run("search", str(log), "--limit", "4").stderr


def test_damage_is_told(log: Path) -> None:
    path = log / "w0" / "00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"alice"', b'"eve"'))
    for command in ("search", "tail"):
        assert "1 lines do not check" in run(command, str(log)).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--expect-head", "abc"),
        ("verify", "--expect-seq", "w0"),
        ("verify", "--expect-seq", "w0:x"),
        ("search", "--since", "yesterday"),
        ("search", "--until", "999999d"),
        ("search", "--kind", "nothing"),
        ("search", "--outcome", "fine"),
        ("search", "--limit", "0"),
        ("tail", "-n", "-1"),
    ],
)
def test_bad_usage(log: Path, arguments: tuple[str, ...]) -> None:
    result = run(arguments[0], str(log), *arguments[1:])
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["verify", "tail", "search"])
def test_a_directory_that_is_not_there(tmp_path: Path, command: str) -> None:
    # The command line's own main turns an OSError into exit code 3.
    assert isinstance(run(command, str(tmp_path / "nowhere")).exception, FileNotFoundError)
    assert run(command).exit_code == 2
