"""What systemd is told, and the sockets that it passes, with a systemd of the test's own."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.errors import ConfigError
from proxy.listening import passed_by_systemd
from proxy.notify import SilentManager, Systemd, manager_of

if TYPE_CHECKING:
    from tests.faults.ground import Ground


class FakeSystemd:
    """The receiving end of NOTIFY_SOCKET, and a listening socket that it passes."""

    def __init__(self, directory: Path) -> None:
        self.address = directory / "notify"
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbox.bind(str(self.address))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._heard: queue.Queue[dict[str, str]] = queue.Queue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        """Take what comes, as systemd does: its queue is short."""
        while words := self._inbox.recv(4096):
            self._heard.put(dict(line.split("=", 1) for line in words.decode().splitlines()))

    def until(self, word: str) -> dict[str, str]:
        """Take messages up to one that says `word`."""
        while True:
            message = self._heard.get(timeout=60)
            if word in message:
                return message

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.address))
        self.listener.close()


def test_a_service_with_a_socket(ground: Ground, tmp_path: Path) -> None:
    other = ground.beside(tmp_path / "beside")
    systemd = FakeSystemd(tmp_path)

    def pass_the_socket() -> None:
        os.dup2(systemd.listener.fileno(), 3)
        os.set_inheritable(3, True)

    run = (sys.executable, "-m", "proxy", "run", "--config", str(other.config))
    with other.log.open("ab") as out:
        # LISTEN_PID must be the id of the process that is executed, which only that process knows.
        process = subprocess.Popen(
            [*("sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"), *run],
            stdout=out,
            stderr=out,
            start_new_session=True,
            close_fds=False,
            preexec_fn=pass_the_socket,  # noqa: PLW1509 - no threads that matter hold locks here
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "NOTIFY_SOCKET": str(systemd.address),
                "WATCHDOG_USEC": "1000000",
                "LISTEN_FDS": "1",
            },
        )
    other.process = process
    port = systemd.listener.getsockname()[1]
    try:
        # A client that comes before anybody serves waits for it.
        dsn = (
            other.dsn("teller")
            .replace(f":{other.port}/", f":{port}/")
            .replace("connect_timeout=10", "connect_timeout=90")
        )
        with psycopg.connect(dsn, autocommit=True) as early:
            ready = systemd.until("READY")
            assert ready["STATUS"] == f"2 workers on port {port}"
            assert early.execute("select pan from cards limit 1").fetchone() is not None
            systemd.until("WATCHDOG")
            before = time.monotonic_ns() // 1000
            process.send_signal(signal.SIGHUP)
            reloading = systemd.until("RELOADING")
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            systemd.until("READY")
            process.send_signal(signal.SIGTERM)
            systemd.until("STOPPING")
            assert process.wait(60) == 0
        assert other.events("reload.applied")
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", other.port)):
            raise AssertionError("what systemd passes is all that is listened on")
        # The socket is systemd's: who comes now waits for the next start.
        socket.create_connection(("127.0.0.1", port)).close()
    finally:
        other.stop()
        systemd.close()


def test_without_a_service_manager_nobody_is_told() -> None:
    assert isinstance(manager_of({}, 1, time.monotonic_ns), SilentManager)
    assert isinstance(manager_of({"NOTIFY_SOCKET": "relative"}, 1, time.monotonic_ns), SilentManager)
    environ = {"NOTIFY_SOCKET": "@pgveil-nobody", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "2"}
    manager = manager_of(environ, 1, time.monotonic_ns)
    assert environ == {}, "no child speaks in our name"
    assert isinstance(manager, Systemd)
    assert manager._watchdog is None, "the watchdog is another process's"
    manager.ready()  # nobody listens there: said in the log, and nothing else


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(f"\0pgveil-test-{os.getpid()}")
        inbox.settimeout(10)
        Systemd(f"@pgveil-test-{os.getpid()}", None, time.monotonic_ns).stopping()
        assert inbox.recv(100) == b"STOPPING=1\nSTATUS=draining"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "77", "LISTEN_FDS": "0"},
    ],
)
def test_sockets_that_are_not_for_us(environ: dict[str, str]) -> None:
    assert passed_by_systemd(environ, 77) == ()
    assert environ == {}


def test_what_is_no_listening_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    with right:
        monkeypatch.setattr("proxy.listening._FIRST_DESCRIPTOR", left.detach())
        with pytest.raises(ConfigError, match="no listening stream socket"):
            passed_by_systemd({"LISTEN_PID": "77", "LISTEN_FDS": "1"}, 77)
