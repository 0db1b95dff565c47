"""The end of workers: what is under way goes on, who is idle is sent away, and a restart refuses nobody."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest

from proxy.control import ask
from proxy.reports import Outcome
from tests.faults.ground import alive, slay, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.ground import Ground

PAN = "select pan from cards order by id limit 1"


class Told:
    """A client, with what it was told while it asked nothing: libpq takes that for a notice where it reads it behind another answer."""

    def __init__(self, dsn: str, *, autocommit: bool = False) -> None:
        self.connection = psycopg.connect(dsn, autocommit=autocommit)
        self._notices: list[str | None] = []
        self.connection.add_notice_handler(lambda notice: self._notices.append(notice.sqlstate))

    def sent_away(self) -> str | None:
        """The SQLSTATE; waits for it."""
        if not self.connection.closed:
            readable, _, _ = select.select([self.connection.fileno()], [], [], 60)
            assert readable, "nothing was said to an idle client"
        with pytest.raises(psycopg.OperationalError) as caught:
            self.connection.execute("select 1")
        return caught.value.sqlstate or (self._notices[-1] if self._notices else None)


def test_sigterm_drains(any_ground: Ground, tmp_path: Path) -> None:
    """Idle clients go at once, transactions as they end, the last ones at the limit; nobody new is taken."""
    ground = any_ground
    other = ground.beside(tmp_path / "beside")
    other.configure(more="limits: {drain_seconds: 10}\n")
    other.start()
    assert other.process is not None
    with ExitStack() as stack:
        try:
            idle = [Told(other.dsn("teller"), autocommit=True) for _ in range(4)]
            busy = [Told(other.dsn("app")) for _ in range(3)]
            for client in (*idle, *busy):
                stack.callback(client.connection.close)
            for client in idle[:3]:
                client.connection.execute(PAN, prepare=True)
            failed, working, lasting = (client.connection for client in busy)
            working.execute("insert into ledger values (-3, '4000000000000')")
            lasting.execute("insert into ledger values (-4, '4000000000000')")
            with suppress(psycopg.errors.UndefinedTable):
                failed.execute("select * from nowhere")
            began = time.monotonic()
            other.process.send_signal(signal.SIGTERM)
            assert {client.sent_away() for client in idle} == {"57P01"}
            assert time.monotonic() - began < 10, "they did not wait for the others"
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(other.dsn("teller"))
            # A transaction goes on, one that has failed too: its client has not heard of its end yet.
            assert working.execute("select pan from ledger where n = -3").fetchone() == ("4000000000000",)
            failed.rollback()
            working.commit()
            assert {client.sent_away() for client in busy[:2]} == {"57P01"}
            assert busy[2].sent_away() == "57P01", "the limit is reached"
            assert other.process.wait(60) == 0
        finally:
            other.stop()
    with psycopg.connect(ground.dsn("app"), autocommit=True) as app:
        rows = app.execute("delete from ledger where n in (-3, -4) returning n").fetchall()
        assert rows == [(-3,)], "what was committed is there, what was cut is not"
    other.verify_audit()
    ends = [r for r in other.records() if r["kind"] in {"login", "logout"}]
    assert sum(r["kind"] == "login" for r in ends) == sum(r["kind"] == "logout" for r in ends) == 7


class Callers:
    """Clients that connect, ask once and leave, all the time."""

    def __init__(self, ground: Ground, count: int) -> None:
        self._ground = ground
        self._over = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, count: int) -> None:
        """Wait until so many more have been answered."""
        wanted = self.answered + count
        until(lambda: self.answered >= wanted or bool(self.failures), "clients are answered", 60)

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                with psycopg.connect(self._ground.dsn("teller"), autocommit=True) as connection:
                    assert connection.execute(PAN).fetchone() is not None
                self.answered += 1
            except psycopg.Error as error:
                self.failures.append(f"{type(error).__name__} {error.sqlstate}: {error}")


@pytest.mark.timeout(300)  # four workers start, one after another
def test_a_restart_refuses_nobody(any_ground: Ground) -> None:
    """Workers are replaced twice (their numbers come round), clients come all the time, a transaction goes on through it."""
    ground = any_ground
    before = set(ground.workers())
    drained = len(ground.events("worker.draining"))
    with psycopg.connect(ground.dsn("app")) as app, Callers(ground, 3) as callers:
        app.execute("insert into ledger values (-5, '4000000000000')")
        callers.more(5)
        restarting = threading.Thread(target=lambda: answers.append(ask(ground.home / "pgveil.sock", "restart")))
        answers: list[Any] = []
        restarting.start()
        # The old worker of this transaction is told to go, and waits for it.
        until(lambda: len(ground.events("worker.draining")) > drained, "its old worker drains", 90)
        callers.more(5)
        assert app.execute("select pan from ledger where n = -5").fetchone() == ("4000000000000",)
        app.execute("delete from ledger where n = -5")
        app.commit()
        restarting.join(120)
        assert answers
        callers.more(5)
        answers.append(ask(ground.home / "pgveil.sock", "restart"))
        callers.more(5)
    assert callers.failures == []
    assert [a.outcome for a in answers] == [Outcome.APPLIED, Outcome.APPLIED]
    assert [[w.outcome for w in a.workers] for a in answers] == [["replaced", "replaced"]] * 2
    now = set(ground.workers())
    assert len(now) == 2
    assert not now & before
    assert ground.ready()
    assert not any(alive(pid) for pid in before)
    ground.verify_audit()


def test_a_successor_that_does_not_come_up_leaves_the_old_workers(ground: Ground) -> None:
    path = ground.home / "rules.yaml"
    text = path.read_text()
    before = set(ground.workers())
    with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
        path.write_text("tables: {")
        try:
            answer = ask(ground.home / "pgveil.sock", "restart")
        finally:
            path.write_text(text)
        assert answer.outcome is Outcome.REFUSED
        assert "rules.yaml:" in (answer.why or "")
        assert set(ground.workers()) == before
        assert teller.execute(PAN).fetchone() is not None


def test_nobody_is_refused_while_a_worker_is_dead(ground: Ground) -> None:
    """Its place is covered by its sibling, and what waited in its queue is taken by its successor: every connect succeeds, at once."""
    stopping = threading.Event()
    refused: list[OSError] = []
    connects = [0]

    def knock() -> None:
        while not stopping.is_set():
            try:
                with socket.create_connection(("127.0.0.1", ground.port), timeout=30):
                    connects[0] += 1
            except OSError as error:
                refused.append(error)
            time.sleep(0.002)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        for victim in ground.workers():
            count = len(ground.workers())
            assert slay(victim)
            until(lambda: len(ground.workers()) == count and victim not in ground.workers(), "it is replaced")  # noqa: B023
            until(lambda: all(_answers(ground) for _ in range(8)), "every place answers")
    finally:
        stopping.set()
        thread.join(60)
    assert not refused
    assert connects[0] > 10
    until(ground.ready, "both serve again")


def _answers(ground: Ground) -> bool:
    with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
        return teller.execute(PAN).fetchone() is not None
