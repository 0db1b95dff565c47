"""The engine's life: made, killed, made again, gone with whoever started it, and never on a disk."""

# ruff: noqa: ASYNC110, ASYNC240 - processes and files in memory are looked at; there is nothing to wait on
from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from proxy.calculator import engine as module
from proxy.calculator.engine import PREFIX, Engine, plan_engine, remove_leftovers
from proxy.calculator.locale import Locale
from proxy.calculator.pool import Pool
from proxy.calculator.programs import CalculatorUnavailable, find_programs, memory_backed
from proxy.config import CalculatorSettings
from proxy.errors import ConfigError
from proxy.session.replies import Trouble

from .conftest import LIMITS, Desk, spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from proxy.calculator.engine import EngineSpec

SECONDS = 20
CANARY = "canary-7f3a91-of-the-calculator"


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory that only this test uses."""
    made = Path("/dev/shm") / f"pgveil-test-{os.getpid()}-{time.monotonic_ns()}"
    made.mkdir(mode=0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def planned(base: Path) -> EngineSpec:
    return spec(directory=base, seconds=3.0)


@pytest_asyncio.fixture
async def engine(planned: EngineSpec) -> AsyncIterator[Engine]:
    made = Engine(planned, monotonic=time.monotonic)
    await made.start()
    async with asyncio.timeout(SECONDS):
        await made.wait_ready()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def desk(engine: Engine) -> AsyncIterator[Desk]:
    pool = Pool(engine.directory, LIMITS, monotonic=time.monotonic)
    yield Desk(pool, Locale("C.UTF-8", "C.UTF-8"))
    await pool.close()


def postmaster(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


async def answered(desk: Desk) -> None:
    """Until there is an answer again; before, there is a Trouble with a hint."""
    async with asyncio.timeout(SECONDS):
        while True:
            outcome = await desk.outcome("SELECT upper('ü')")
            if not isinstance(outcome, Trouble):
                return
            assert (outcome.sqlstate, bool(outcome.hint)) == ("57P03", True)
            await asyncio.sleep(0.05)


async def test_it_is_gone_when_it_is_stopped(planned: EngineSpec, base: Path) -> None:
    engine = Engine(planned, monotonic=time.monotonic)
    await engine.start()
    async with asyncio.timeout(SECONDS):
        await engine.wait_ready()
    pid, directory = postmaster(engine.directory), engine.directory
    assert directory.stat().st_mode & 0o777 == 0o700
    sockets = [p for p in directory.iterdir() if p.is_socket()]
    assert [p.stat().st_mode & 0o777 for p in sockets] == [0o700]
    await engine.stop()
    assert not engine.ready
    assert not alive(pid)
    assert list(base.iterdir()) == []


async def test_stopped_before_it_was_ready(planned: EngineSpec, base: Path) -> None:
    engine = Engine(planned, monotonic=time.monotonic)
    await engine.start()
    await asyncio.sleep(0.1)
    await engine.stop()
    assert list(base.iterdir()) == []


async def test_it_takes_little_memory(engine: Engine, desk: Desk) -> None:
    await desk.value("SELECT 1")
    size = sum(f.stat().st_blocks * 512 for f in engine.directory.rglob("*") if f.is_file())
    assert size < 48 * 1024 * 1024


@pytest.mark.parametrize("whom", ["postmaster", "keeper"])
async def test_killed_it_comes_back(engine: Engine, desk: Desk, whom: str) -> None:
    await answered(desk)
    first = postmaster(engine.directory)
    keeper = engine.keeper
    assert keeper is not None
    os.kill(first if whom == "postmaster" else keeper, signal.SIGKILL)
    await until(lambda: not alive(first))
    # A backend of the first one's answers until it notices that its postmaster has gone.
    await until(lambda: engine.ready and engine.keeper not in (None, keeper))
    await answered(desk)
    assert postmaster(engine.directory) != first


async def test_a_backend_that_is_killed_takes_only_its_question(engine: Engine, desk: Desk) -> None:
    await desk.value("SELECT 1")
    (connection,) = desk.pool._idle
    assert connection._key is not None
    os.kill(connection._key.process_id, signal.SIGKILL)
    # The postmaster begins again with all of them; an idle connection that has ended is tried no further.
    await answered(desk)
    assert alive(postmaster(engine.directory))


async def test_questions_under_way_when_it_is_killed_have_an_outcome(engine: Engine, desk: Desk) -> None:
    await answered(desk)
    slow = asyncio.create_task(desk.outcome("SELECT count(*) FROM (SELECT generate_series(1, 2000000000)) AS s"))
    await asyncio.sleep(0.2)
    os.kill(postmaster(engine.directory), signal.SIGKILL)
    outcome = await slow
    assert isinstance(outcome, Trouble)
    await answered(desk)


SUPERVISE = """
import asyncio, sys, time
from pathlib import Path
from proxy.calculator.engine import Engine, plan_engine
from proxy.config import CalculatorSettings
async def main():
    settings = CalculatorSettings(enabled="on", bin_dir=Path(sys.argv[1]), directory=Path(sys.argv[2]))
    engine = Engine(plan_engine(settings, 1), monotonic=time.monotonic)
    await engine.start()
    await engine.wait_ready()
    print(engine.directory, engine.keeper, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def supervise(planned: EngineSpec, base: Path) -> tuple[subprocess.Popen[bytes], Path, int]:
    """A process that keeps an engine, as the supervisor does; where the engine is, and its keeper."""
    line = [sys.executable, "-c", SUPERVISE, str(planned.programs.directory), str(base)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    for said in process.stdout:
        directory, _, keeper = said.decode().strip().rpartition(" ")
        if directory.startswith(str(base)):
            return process, Path(directory), int(keeper)
    raise AssertionError("no engine")


async def test_it_ends_with_a_supervisor_that_is_killed(planned: EngineSpec, base: Path) -> None:
    process, directory, _ = await asyncio.to_thread(supervise, planned, base)
    pid = postmaster(directory)
    process.kill()
    process.wait()
    await until(lambda: not alive(pid) and not directory.exists())
    # Of the run nothing but an empty directory is left, until the next one.
    remove_leftovers(base)
    assert list(base.iterdir()) == []


async def test_it_ends_when_everybody_is_killed_and_the_next_run_cleans_up(planned: EngineSpec, base: Path) -> None:
    process, directory, keeper = await asyncio.to_thread(supervise, planned, base)
    pid = postmaster(directory)
    os.kill(keeper, signal.SIGSTOP)
    process.kill()
    process.wait()
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: not alive(pid))
    assert (directory / "data" / "PG_VERSION").exists()
    other = Engine(planned, monotonic=time.monotonic)
    other.prepare()
    assert [p for p in base.iterdir() if p != other.directory.parent] == []
    # One that is in use stays.
    remove_leftovers(base)
    assert other.directory.parent.exists()
    await other.stop()


def test_leftovers_of_others_stay(base: Path) -> None:
    (base / f"{PREFIX}unlocked").mkdir()
    (base / "something").mkdir()
    (base / f"{PREFIX}link").symlink_to(base / "something")
    remove_leftovers(base)
    assert sorted(p.name for p in base.iterdir()) == [f"{PREFIX}link", f"{PREFIX}unlocked", "something"]


# -- no value on a disk --------------------------------------------------------------------------------------------------------------


def holders(directory: Path, canary: bytes) -> list[Path]:
    """Files that hold the canary."""
    found = []
    for file in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and not file.is_symlink() and canary in file.read_bytes():
                found.append(file)
    return found


async def test_no_value_is_written_anywhere(engine: Engine, desk: Desk) -> None:
    temporary = {p.name for p in Path("/tmp").iterdir()}
    names = tuple(f"{CANARY} {i} {'x' * 100}".encode() for i in range(15_000))
    given: dict[str, Any] = {"arrays": (names,), "types": (1009,)}
    leaf = "WITH t(x) AS (SELECT u.c FROM unnest($1::text[]) AS u(c)) "
    await desk.rows(leaf + "SELECT x FROM t ORDER BY reverse(x) DESC", **given)
    await desk.rows(leaf + "SELECT a.x, count(*) FROM t a JOIN t b USING (x) GROUP BY 1 ORDER BY 2, 1", **given)
    spilled = await desk.outcome(
        leaf + "SELECT count(*) FROM (SELECT DISTINCT t.x || i FROM t, generate_series(1, 400) AS s(i)) AS d", **given
    )
    assert isinstance(spilled, Trouble)
    assert (await desk.error(leaf + "SELECT x::int4 FROM t", **given)).sqlstate == "22P02"
    assert (await desk.error(f"SELECT '{CANARY}'::int4")).sqlstate == "22P02"
    await desk.outcome(f"SELECT '{CANARY}' || repeat('x', 900000000)")
    assert holders(engine.directory, CANARY.encode()) == []
    os.kill(postmaster(engine.directory), signal.SIGHUP)
    new = [Path("/tmp") / name for name in {p.name for p in Path("/tmp").iterdir()} - temporary]
    assert [p for p in new if p.is_file() and CANARY.encode() in p.read_bytes()] == []
    assert list((engine.directory / "data" / "base").glob("pgsql_tmp/*")) == []
    assert not (engine.directory / "data" / "log").exists()


async def test_its_processes_hide(engine: Engine, desk: Desk) -> None:
    await desk.value("SELECT 1")
    pid = postmaster(engine.directory)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    if os.geteuid() == 0:
        assert Path(f"/proc/{pid}").stat().st_uid != 0
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PYTHON" not in environment
        assert b"HOME" not in environment


# -- what it is made of --------------------------------------------------------------------------------------------------------------


def test_programs(tmp_path: Path) -> None:
    newest = find_programs()
    assert newest.major == max(find_programs(prefer=major).major for major in (15, 16, 18))
    assert find_programs(newest.directory) == newest
    with pytest.raises(CalculatorUnavailable, match="bin_dir"):
        find_programs(tmp_path)
    for name, words in (("postgres", "echo 'postgres (PostgreSQL) 14.9'"), ("initdb", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(CalculatorUnavailable, match="15 or newer"):
        find_programs(tmp_path)


def test_a_directory_in_memory(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    device = tmp_path.stat().st_dev
    line = f"1 2 {os.major(device)}:{os.minor(device)} / /x rw,relatime shared:1 - {{}} none rw\n"
    for kind, whether in (("tmpfs", True), ("ramfs", True), ("ext4", False), ("overlay", False)):
        mounts.write_text("9 8 0:99999 / /y rw - tmpfs none rw\n" + line.format(kind))
        assert memory_backed(tmp_path, mounts) is whether
    assert memory_backed(Path("/dev/shm"))


def test_what_the_configuration_makes_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = CalculatorSettings(enabled="on")
    assert plan_engine(replace(settings, enabled="off"), 1) is None
    planned = plan_engine(settings, 4)
    assert planned is not None
    assert planned.connections >= 4 * settings.connections
    monkeypatch.setattr(module, "memory_backed", lambda _: False)
    with pytest.raises(ConfigError, match="allow_disk"):
        plan_engine(settings, 1)
    assert plan_engine(replace(settings, enabled="auto"), 1) is None
    assert plan_engine(replace(settings, allow_disk=True), 1) is not None
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="can't be used"):
        plan_engine(replace(settings, directory=tmp_path / "nowhere"), 1)
    with pytest.raises(ConfigError, match="bin_dir"):
        plan_engine(replace(settings, bin_dir=tmp_path), 1)


async def test_programs_that_do_not_work_are_tried_again_and_told_of(planned: EngineSpec, tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    broken = replace(planned, programs=replace(planned.programs, directory=tmp_path))
    engine = Engine(broken, monotonic=time.monotonic)
    await engine.start()
    pool = Pool(engine.directory, LIMITS, monotonic=time.monotonic)
    outcome = await Desk(pool, Locale()).outcome("SELECT 1")
    assert isinstance(outcome, Trouble)
    assert outcome.sqlstate == "57P03"
    await asyncio.sleep(0.5)
    assert not engine.ready
    await pool.close()
    await engine.stop()
