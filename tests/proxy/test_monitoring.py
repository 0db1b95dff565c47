"""The supervisor's page over real worker processes."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.metric_files import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

# A supervisor on a leash: one command a line, one answer a line. Its clock stands at 1000.
SUPERVISOR = """
import json, os, subprocess, sys, time
from proxy.config import MetricsPage
from proxy.monitoring import Monitoring
WORKER = '''
import sys
from prometheus_client import CollectorRegistry
from proxy.metrics import Metrics
m = Metrics(CollectorRegistry())
m.opened(5)
m.catalog_loaded(loaded=True)
m.not_applied(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
m.audit_healthy(healthy=sys.argv[1] == "healthy")
m.server_reached(float(sys.argv[2]))
print("counted", flush=True)
sys.stdin.read()
'''
monitoring = Monitoring(MetricsPage(port=0), workers=2, version="1.2.3", now=lambda: 1000.0)
workers = []
print(json.dumps({"port": monitoring.port, "directory": os.environ["PROMETHEUS_MULTIPROC_DIR"]}), flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "start":
        w = subprocess.Popen([sys.executable, "-c", WORKER, *rest], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        w.stdout.readline()
        workers.append(w)
        monitoring.worker_started(len(workers), w.pid)
    elif word == "kill":
        w = workers.pop(0)
        w.kill()
        w.communicate()
        monitoring.worker_ended(0, w.pid, -9, expected=rest == ["expected"])
    print("done", flush=True)
for w in workers:
    w.kill()
    w.communicate()
monitoring.close()
"""


class Leash:
    def __init__(self) -> None:
        environ = {k: v for k, v in os.environ.items() if k != ENVIRONMENT}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts: dict[str, Any] = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self._line() == "done\n"

    def ask(self, path: str) -> tuple[int, str]:
        client = http.client.HTTPConnection("127.0.0.1", self.facts["port"], timeout=20)
        client.request("GET", path)
        answer = client.getresponse()
        found = answer.status, answer.read().decode()
        client.close()
        return found

    def failing(self) -> set[str]:
        status, body = self.ask("/readyz")
        bad = {name for name, holds in json.loads(body)["checks"].items() if not holds}
        assert (status == 200) == (not bad)
        return bad


@pytest.fixture
def leash() -> Iterator[Leash]:
    made = Leash()
    yield made
    with made.process:
        made.process.kill()


def test_not_ready_before_a_worker_is_and_ready_with_it(leash: Leash) -> None:
    assert leash.failing() == {"workers", "catalog", "applied", "audit", "server"}
    leash.say("start healthy 990")
    assert leash.failing() == set()
    _, page = leash.ask("/metrics")
    assert "pgveil_ready 1.0" in page
    assert "pgveil_workers 1.0" in page
    assert "pgveil_workers_configured 2.0" in page
    assert 'version="1.2.3"' in page


def test_one_sick_worker_makes_it_not_ready_until_it_ends(leash: Leash) -> None:
    leash.say("start sick 990")
    leash.say("start healthy 990")
    assert leash.failing() == {"audit"}
    leash.say("kill")
    assert leash.failing() == set()
    _, page = leash.ask("/metrics")
    assert "pgveil_worker_restarts_total 1.0" in page
    assert "pgveil_opened_values_total 10.0" in page


def test_what_is_not_applied_makes_it_not_ready(leash: Leash) -> None:
    leash.say("start healthy 990 2")
    assert leash.failing() == {"applied"}
    _, page = leash.ask("/metrics")
    assert "pgveil_not_applied 2.0" in page
    leash.say("start healthy 990 0")
    assert leash.failing() == {"applied"}, "the worst worker counts"
    leash.say("kill expected")
    assert leash.failing() == set()


def test_an_ending_that_was_asked_for_is_no_restart(leash: Leash) -> None:
    leash.say("start healthy 990")
    leash.say("kill expected")
    _, page = leash.ask("/metrics")
    assert "pgveil_worker_restarts_total 0.0" in page
    assert leash.failing() == {"workers", "catalog", "applied", "audit", "server"}


@pytest.mark.parametrize("heard", [960, 1040])
def test_a_server_not_heard_of_for_long_is_not_reached(leash: Leash, heard: int) -> None:
    """Nor one that was heard of in what is the future since the clock was set back."""
    leash.say(f"start healthy {heard}")
    assert leash.failing() == {"server"}


def test_closing_removes_the_files(leash: Leash) -> None:
    leash.say("start healthy 990")
    directory = Path(leash.facts["directory"])
    assert directory.is_dir()
    assert leash.process.stdin is not None
    leash.process.stdin.close()
    assert leash.process.wait(30) == 0
    assert not directory.exists()


def test_an_address_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import sys, tempfile, pathlib
tempfile.tempdir = sys.argv[2]
from proxy.config import MetricsPage
from proxy.monitoring import Monitoring
try:
    Monitoring(MetricsPage(port=int(sys.argv[1])), workers=1, version="1", now=lambda: 0.0)
except OSError:
    print(len(list(pathlib.Path(sys.argv[2]).iterdir())))
"""
    environ = {k: v for k, v in os.environ.items() if k != ENVIRONMENT}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", code, port, str(tmp_path)], env=environ, capture_output=True, text=True, check=False
        )
    assert done.stdout == "0\n", done.stderr
