"""pgveil's own processes killed: a worker under load, one that cannot start again, the supervisor."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.clients import Crowd
from tests.faults.faulty import FACTORY
from tests.faults.ground import alive, slay, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.faults.ground import Ground


def connects(ground: Ground) -> bool:
    """Whether a protected statement is answered on a new connection."""
    try:
        with psycopg.connect(ground.dsn("teller")) as teller:
            return teller.execute("select pan from cards limit 1").fetchone() is not None
    except psycopg.OperationalError:
        return False


def writers(ground: Ground) -> dict[str, str]:
    """Which worker's chain (w00, w01) each application name's connection is in."""
    return {r["application"]: r["connection"][:3] for r in ground.records() if r["kind"] == "login"}


def test_a_killed_worker_takes_its_own_connections_and_no_other(ground: Ground) -> None:
    restarts = ground.metric("pgveil_worker_restarts_total")
    with Crowd(ground, 12) as crowd:
        until(lambda: crowd.commits > 50, "the clients work")
        victim, sibling = sorted(ground.workers())
        before = {c.number: len(c.lost_connections) for c in crowd.clients}
        assert slay(victim)
        until(lambda: len(ground.workers()) == 2, "the worker is replaced")
        wanted = crowd.commits + 100
        until(lambda: crowd.commits > wanted, "the clients go on")
    lost = [c.lost_connections[before[c.number]] for c in crowd.clients if len(c.lost_connections) > before[c.number]]
    ended = [c for c in crowd.clients if len(c.lost_connections) > before[c.number] + 1]
    assert not ended, "nobody loses a connection twice"
    assert sibling in ground.workers()
    (event,) = [e for e in ground.events("worker.ended") if e["pid"] == victim]
    chains = writers(ground)
    theirs = {name for name in chains if name.startswith("client") and chains[name] == f"w{event['worker']:02d}"}
    assert lost, "the victim had clients"
    assert set(lost) <= theirs, "only its own connections are lost"
    assert ground.metric("pgveil_worker_restarts_total") == restarts + 1


@contextmanager
def keys_gone(ground: Ground) -> Iterator[None]:
    """The master key's file is not there."""
    path, away = ground.home / "keys" / "master.key", ground.home / "keys" / "master.away"
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def rules_broken(ground: Ground) -> Iterator[None]:
    """Somebody is in the middle of editing the rules."""
    path = ground.home / "rules.yaml"
    text = path.read_text()
    path.write_text("tables: {")
    try:
        yield
    finally:
        path.write_text(text)


@pytest.mark.parametrize("broken", [keys_gone, rules_broken])
def test_a_worker_that_cannot_start_again_is_tried_again_and_its_sibling_goes_on(
    ground: Ground, broken: Callable[[Ground], AbstractContextManager[None]]
) -> None:
    assert ground.process is not None
    with psycopg.connect(ground.dsn("teller"), autocommit=True) as held:
        with broken(ground):
            victim = next(pid for pid in ground.workers() if not _serves(ground, pid, held.info.backend_pid))
            count = len(ground.events("worker.ended"))
            assert slay(victim)
            until(lambda: len(ground.events("worker.ended")) >= count + 2, "its successor has ended as well")
            assert ground.process.poll() is None, "pgveil goes on"
            assert held.execute("select pan from cards limit 1").fetchone() is not None, "the sibling goes on"
            assert connects(ground), "and takes new clients"
        until(lambda: len(ground.workers()) == 2 and ground.ready(), "once that is repaired the worker comes back")


def test_a_worker_that_cannot_begin_while_another_one_serves_stops_nobody(ground: Ground, tmp_path: Path) -> None:
    """A key file that was away for a moment, while the second worker was on its way."""
    other = ground.beside(tmp_path / "begin")
    (other.home / "broken1").touch()
    other.launch(factory=FACTORY)
    try:
        until(lambda: len(other.events("worker.ended")) >= 2, "it is tried again")
        until(lambda: connects(other), "its sibling serves")
        (other.home / "broken1").unlink()
        until(lambda: len(other.workers()) == 2 and other.ready(), "it comes")
    finally:
        other.stop()


def _serves(ground: Ground, pid: int, backend: int) -> bool:
    """Whether a worker has the connection to a server process: both ends of it are on this machine."""
    with psycopg.connect(ground.dsn("postgres", direct=True)) as direct:
        row = direct.execute("select client_port from pg_stat_activity where pid = %s", (backend,)).fetchone()
    assert row is not None
    return row[0] in _ports(pid)


def _ports(pid: int) -> set[int]:
    """The local TCP ports of a process's sockets."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[9] in inodes}


def test_workers_of_a_killed_supervisor_end_and_the_next_pgveil_takes_over(ground: Ground) -> None:
    """They drain: a transaction under way is finished, no new client is taken."""
    assert ground.process is not None
    orphans = ground.workers()
    with psycopg.connect(ground.dsn("app")) as app:
        app.execute("insert into ledger values (-1, '4000000000000')")
        slay(ground.process.pid)
        ground.process.wait()
        until(lambda: len(ground.events("worker.orphaned")) >= 2, "the workers know")
        ground.launch()  # while the old workers still hold their audit logs
        time.sleep(0.5)
        assert app.execute("select pan from ledger where n = -1").fetchone() == ("4000000000000",)
        app.commit()
    until(lambda: not any(alive(pid) for pid in orphans), "the workers end")
    until(lambda: len(ground.workers()) == 2 and ground.ready(), "the next pgveil stands", 60)
    with psycopg.connect(ground.dsn("app"), autocommit=True) as app:
        assert app.execute("delete from ledger where n = -1 returning pan").fetchone() == ("4000000000000",)
    ground.verify_audit()
