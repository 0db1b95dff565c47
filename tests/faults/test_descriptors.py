"""File descriptors exhausted: who comes is told, who is there goes on, and so does the audit log."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.descriptors import Spare, enough, none_left
from tests.faults.ground import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.ground import Ground

FILES = 80


def _few() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def _fill(ground: Ground, held: ExitStack) -> tuple[list[psycopg.Connection[Any]], psycopg.OperationalError]:
    """Connections until one is refused, and how."""
    connections: list[psycopg.Connection[Any]] = []
    for _ in range(FILES):
        try:
            connections.append(held.enter_context(psycopg.connect(ground.dsn(), autocommit=True)))
        except psycopg.OperationalError as error:
            return connections, error
    raise AssertionError("the descriptors did not end")


def test_descriptors_end_and_come_back(ground: Ground, tmp_path: Path) -> None:
    other = ground.beside(tmp_path / "few")
    other.configure(workers=1)
    other.start(limit=_few)
    try:
        assert other.events("descriptors.few"), "the operator is told at the start"
        with ExitStack() as held:
            connections, error = _fill(other, held)
            assert len(connections) > 5
            # What else has to be opened takes the last ones; in the end the client itself can't be taken in.
            with ExitStack() as sockets:
                for _ in range(FILES):
                    sock = sockets.enter_context(closing(socket.create_connection(("127.0.0.1", other.port), 30)))
                    sock.settimeout(0.2)
                    try:
                        answer = sock.recv(4096)
                    except TimeoutError:
                        continue  # taken in, and waiting for its first packet
                    assert b"C53300\0" in answer
                    assert b"no file descriptors left" in answer
                    break
                else:
                    raise AssertionError("nobody was turned away")
            assert "no file descriptors left" in str(error) or "too many clients" in str(error)
            assert other.events("accept.failed")
            assert other.metric("pgveil_connections_refused_total", reason="limit") >= 1
            first = connections[0]
            for n in range(20):
                first.execute("insert into ledger values (%s, %s)", (7000 + n, f"4000000{n:06d}"))
            assert first.execute("delete from ledger where n >= 7000").rowcount == 20
            assert other.metric("pgveil_audit_healthy") == 1
        until(lambda: other.metric("pgveil_connections") == 0, "the connections are over")
        until(lambda: _connects(other), "once there are descriptors again, clients are taken")
        assert len(other.workers()) == 1
    finally:
        other.stop()
    other.verify_audit()


def _connects(ground: Ground) -> bool:
    try:
        with psycopg.connect(ground.dsn("teller")) as teller:
            return teller.execute("select pan from cards limit 1").fetchone() is not None
    except psycopg.OperationalError:
        return False


def test_the_spare_one_tells_and_is_taken_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        spare = Spare()
        for _ in range(3):
            with socket.create_connection(listener.getsockname(), 10) as client:
                until(lambda: spare.turn_away(listener), "somebody was there")
                client.settimeout(10)
                assert client.recv(4096) == none_left().response()
                assert client.recv(4096) == b""
            assert not spare.turn_away(listener), "nobody is there"
        spare.close()


@pytest.mark.parametrize(("limit", "connections", "does"), [(2100, 1000, True), (1024, 1000, False), (-1, 9999, True)])
def test_how_many_are_enough(limit: int, connections: int, does: bool) -> None:
    assert enough(limit, connections) is does
