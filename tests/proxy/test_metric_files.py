"""Several processes' numbers as one, with real processes, because prometheus-client decides at import."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.metric_files import ENVIRONMENT, MetricFilesError, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER = """
import sys
from prometheus_client import CollectorRegistry
from proxy.metrics import Metrics
from rules.plan import Action
m = Metrics(CollectorRegistry())
m.connection_opened()
m.opened(10)
m.statement(Action.SELECT, 0.0002, 0.3)
m.audit_healthy(healthy=sys.argv[1] == "healthy")
m.server_reached(float(sys.argv[2]))
print("counted", flush=True)
sys.stdin.read()
"""

PAGE = """
import sys
from prometheus_client import generate_latest
from proxy.metric_files import MetricFiles
from pathlib import Path
sys.stdout.write(generate_latest(MetricFiles(Path(sys.argv[1])).registry()).decode())
"""


class Workers:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {**os.environ, ENVIRONMENT: str(directory)}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, health: str, reached: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, health, str(reached)],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        return process

    def page(self) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PAGE, str(self.directory)], capture_output=True, text=True, check=True
        )
        return done.stdout


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    crowd = Workers(tmp_path / "metrics")
    prepare(crowd.directory, {})
    yield crowd
    for process in crowd.processes:
        process.kill()
        process.communicate()


def test_workers_add_up_and_the_ended_keep_their_counts(workers: Workers) -> None:
    files = prepare(workers.directory, {})
    first = workers.start("healthy", 100)
    workers.start("sick", 200)
    page = workers.page()
    assert "pgveil_connections 2.0" in page
    assert "pgveil_opened_values_total 20.0" in page
    assert "pgveil_audit_healthy 0.0" in page
    assert "pgveil_server_reached_timestamp_seconds 200.0" in page
    assert 'pgveil_statement_added_seconds_count{action="select"} 2.0' in page
    assert files.gauge("pgveil_audit_healthy") == 0
    assert files.gauge("pgveil_no_such") is None

    second = workers.processes[1]
    for process in (first, second):
        process.kill()
        process.communicate()
        files.bury(process.pid)
    third = workers.start("healthy", 50)
    page = workers.page()
    assert "pgveil_connections 1.0" in page
    assert "pgveil_opened_values_total 30.0" in page
    assert "pgveil_audit_healthy 1.0" in page
    assert "pgveil_server_reached_timestamp_seconds 50.0" in page
    assert 'pgveil_statement_added_seconds_count{action="select"} 3.0' in page
    assert 'pgveil_statement_server_seconds_bucket{action="select",le="0.5"} 3.0' in page
    left = {f.name for f in workers.directory.glob("*.db")}
    assert not {n for n in left if str(first.pid) in n or str(second.pid) in n}
    assert {n for n in left if str(third.pid) in n}


def test_files_of_an_ended_worker_that_cannot_be_read_are_dropped(workers: Workers) -> None:
    files = prepare(workers.directory, {})
    broken = workers.directory / "counter_424242.db"
    broken.write_bytes(b"\xff" * 64)
    files.bury(424242)
    assert not broken.exists()
    assert workers.page() == ""


def test_one_damaged_file_does_not_hide_the_others(workers: Workers) -> None:
    prepare(workers.directory, {})
    workers.start("healthy", 100)
    whole = workers.page()
    assert "pgveil_" in whole
    for name, content in (
        ("counter_1.db", b""),  # a worker is just making it
        ("counter_2.db", b"\xff" * 64),
        ("gauge_livesum_3.db", b"\x28\0\0\0\0\0\0\0\x04\0\0\0nope" + b" " * 8 + b"\0" * 16),
    ):
        (workers.directory / name).write_bytes(content)
        assert workers.page() == whole


def test_a_damaged_worker_s_numbers_do_not_reach_the_archive(workers: Workers) -> None:
    files = prepare(workers.directory, {})
    entry = b"\x04\0\0\0nope" + b" " * 8 + b"\0" * 16  # a key that is no metric's
    (workers.directory / "counter_424242.db").write_bytes(b"\x28\0\0\0\0\0\0\0" + entry)
    files.bury(424242)
    assert workers.page() == ""


def test_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    old = tmp_path / "counter_1.db"
    old.write_bytes(b"x")
    environ: dict[str, str] = {}
    prepare(tmp_path, environ)
    assert not old.exists()
    assert environ == {ENVIRONMENT: str(tmp_path)}


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(MetricFilesError, match="can't be used"):
        prepare(blocker / "metrics", {})


def test_too_late_is_an_error_and_not_wrong_numbers(tmp_path: Path) -> None:
    code = "import prometheus_client, pathlib, sys; from proxy.metric_files import prepare; prepare(pathlib.Path(sys.argv[1]))"
    environ = {k: v for k, v in os.environ.items() if k != ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environ, check=False
    )
    assert "imported before its directory was set" in done.stderr
