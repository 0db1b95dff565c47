"""The sum of it: many writing clients, workers and the server killed at random moments, and the books compared afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.clients import Crowd, pan_of
from tests.faults.ground import crash, slay, until

if TYPE_CHECKING:
    from tests.faults.ground import Ground

CLIENTS = 16
KILLS = 20
FEW_KILLS, FEW_SEED = 3, 6  # a worker, the server, a worker
BETWEEN = 48  # commits that must have been confirmed since the last kill
SERVER_SHARE = 0.25


def _kill_something(ground: Ground, chance: random.Random) -> str:
    """A worker, or the server; what it was."""
    if chance.random() < SERVER_SHARE:
        crash(ground.pg)
        ground.pg.start()
        return "server"
    until(lambda: bool(ground.workers()), "a worker is there to be killed")
    return "worker" if slay(chance.choice(ground.workers())) else "nobody"


def _kills(ground: Ground, kills: int, seed: int) -> tuple[Crowd, Counter[str]]:
    """What happened, with everything at rest again."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with Crowd(ground, CLIENTS) as crowd:
        while done["worker"] + done["server"] < kills:
            wanted = crowd.commits + BETWEEN
            until(lambda wanted=wanted: crowd.commits >= wanted, "the clients go on", 60)  # type: ignore[misc]
            time.sleep(chance.random() / 4)
            done[_kill_something(ground, chance)] += 1
        wanted = crowd.commits + BETWEEN
        until(lambda: crowd.commits >= wanted, "the clients go on after the last kill", 60)
    assert not crowd.stuck(), "no client hangs"
    until(lambda: len(ground.workers()) == 2, "every worker is replaced")
    until(ground.ready, "pgveil is ready")
    return crowd, done


def _settle(ground: Ground, crowd: Crowd, done: Counter[str]) -> None:
    """Compare every client's journal with the table and with the audit log, and print the sums."""
    with psycopg.connect(ground.dsn("app")) as app:
        stored: dict[int, str] = dict(app.execute("select n, pan from ledger").fetchall())
    with psycopg.connect(ground.dsn("postgres", direct=True)) as direct:
        sealed: dict[int, str] = dict(direct.execute("select n, pan::text from ledger").fetchall())
    entries = {n: entry for client in crowd.clients for n, entry in client.entries.items()}
    lost = [n for n, e in entries.items() if e.acknowledged and stored.get(n) is None]
    wrong = [
        n
        for n, pan in stored.items()
        if n in entries
        and pan not in {pan_of(n, v) for v in range(max(1, entries[n].acknowledged), entries[n].attempted + 1)}
    ]
    half_sealed = [n for n, value in sealed.items() if stored.get(n) is None or stored[n] in value]
    recorded: Counter[tuple[str, str]] = Counter()
    for record in ground.records():
        if record["kind"] == "statement":
            recorded[record["application"], "read" if record["action"] == "select" else "write"] += 1
    unrecorded = [
        name
        for client in crowd.clients
        for journal, what in ((client.released, "read"), (client.confirmed, "write"))
        for name, count in journal.items()
        if recorded[name, what] < count
    ]
    released = sum(client.released.total() for client in crowd.clients)
    names = {name for client in crowd.clients for name in client.released | client.confirmed}
    errors = sum((client.errors for client in crowd.clients), Counter[str]())
    print(
        f"\n{CLIENTS} clients, kills: {dict(done)}; commits confirmed {crowd.commits}, lost {len(lost)}, wrong {len(wrong)}, "
        f"half sealed {len(half_sealed)}, in doubt {sum(1 for e in entries.values() if not e.acknowledged)}; protected rows released "
        f"{released}, records of them {sum(c for (n, w), c in recorded.items() if w == 'read' and n in names)}, "
        f"connections lost {sum(len(c.lost_connections) for c in crowd.clients)}"
    )
    for text, count in errors.most_common():
        print(f"  {count:4} {text}")
    assert not lost, "no confirmed write is lost"
    assert not wrong, "what is stored is what was confirmed, or what was in doubt"
    assert not half_sealed, "every stored value is sealed, and opens"
    assert not unrecorded, "every released row and every confirmed write has its record"
    assert not [text for client in crowd.clients for text in client.wrong]
    ground.verify_audit()


@pytest.mark.timeout(600)
def test_writing_clients_and_kills(ground: Ground) -> None:
    crowd, done = _kills(ground, KILLS, seed=5)
    _settle(ground, crowd, done)


@pytest.mark.timeout(600)
def test_writing_clients_and_kills_over_tls(tls_ground: Ground) -> None:
    """On both legs; a few kills only."""
    crowd, done = _kills(tls_ground, FEW_KILLS, FEW_SEED)
    _settle(tls_ground, crowd, done)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_writing_clients_and_many_kills(ground: Ground) -> None:
    for seed in range(3):
        with psycopg.connect(ground.dsn("postgres", direct=True), autocommit=True) as direct:
            direct.execute("truncate ledger")
        crowd, done = _kills(ground, KILLS, seed)
        _settle(ground, crowd, done)
