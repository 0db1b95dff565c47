"""File descriptors exhausted: who comes is told, who is there goes on, and so does the audit log."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.descriptors import Spare, enough, none_left
from tests.faults.ground import until
from tests.faults.imports import FACTORY, WITNESS

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
            (failed, *_) = other.events("accept.failed")
            assert failed["reason"] == "EMFILE"
            assert other.metric("pgveil_connections_refused_total", reason="limit") >= 1
            first = connections[0]
            for n in range(20):
                first.execute("insert into ledger values (%s, %s)", (7000 + n, f"4000000{n:06d}"))
            assert first.execute("delete from ledger where n >= 7000").rowcount == 20
            assert other.metric("pgveil_audit_healthy") == 1
        until(lambda: other.metric("pgveil_connections") == 0, "the connections are over")
        until(lambda: _connects(other), "once there are descriptors again, clients are taken")
        # Each end has one beginning, however often it was tried between them (F10.8).
        begun = [e for e in other.events("accept.failed") if "times" not in e]
        assert len(begun) == len(other.events("accept.again"))
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


def test_nothing_is_imported_while_it_serves(ground: Ground, tmp_path: Path) -> None:
    """An import opens files. Where there was no descriptor left, it ended a session that stood."""
    other = ground.beside(tmp_path / "imports")
    other.configure(
        workers=1,
        server=f"hosts: localhost:{other.pg.port}",
        dsn=f"postgresql://postgres@localhost:{other.pg.port}/{other.database}",
    )
    other.config.write_text(other.config.read_text().replace("enabled: off", "enabled: auto"))
    other.start(factory=FACTORY)
    try:
        with psycopg.connect(other.dsn(), autocommit=True) as app, psycopg.connect(other.dsn("teller")) as teller:
            for text in SPOKEN:
                _say(app, text)
            with app.transaction(force_rollback=True):
                app.execute("insert into ledger values (%s, %s)", (8000, "4000000000800"), binary=True)
                app.execute("update ledger set pan = %s where n = %s", ("4000000000801", 8000), prepare=True)
                app.cursor().executemany("insert into plain values (%s, %s)", [(n, "x") for n in range(8000, 8010)])
                with app.cursor().copy("copy ledger (n, pan) from stdin") as into:
                    into.write_row((8001, "4000000000802"))
                with app.cursor().copy("copy (select n, pan from ledger) to stdout") as out:
                    assert list(out)
                for _ in range(8):
                    app.execute("select pan from ledger where n = %s", (8001,), prepare=True)
            for text in (*ASKED, "select pan from cards limit 5"):
                _say(teller, text)
            for connection, text in ((app, "selec 1"), (app, "select 1/0"), (teller, "insert into cards values (1)")):
                with pytest.raises(psycopg.Error):
                    connection.execute(text)
                connection.rollback()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(other.dsn("nobody_of_that_name"))
        until(lambda: other.metric("pgveil_connections") == 0, "the connections are over")
        assert {e["kind"] for e in other.events("imported")} == {WITNESS}
    finally:
        other.stop()


def _say(connection: psycopg.Connection[Any], text: str) -> None:
    """What is answered does not matter here, an error included."""
    with suppress(psycopg.Error):
        connection.execute(text)
    if not connection.autocommit:
        connection.rollback()


SPOKEN = (
    "set timezone to 'Europe/Paris'",
    "set datestyle to 'German'",
    "reset all",
    "set client_encoding to 'WIN1251'",
    "select pan from ledger -- \N{CYRILLIC SMALL LETTER A}",
    "set client_encoding to 'SJIS'",
    "select n, pan from ledger",
    "reset client_encoding",
    "select pan, n from ledger order by n limit 3",
    "select upper(memo), length(pan) from memos m join ledger l using (n)",
    "insert into ledger select 8100, lower($$4000000000810$$)",
    "select pan from ledger where pan like '4000%' order by pan desc",
    "select max(pan), timestamptz '2024-02-03 04:05 Asia/Tokyo' from ledger",
    "create temp table mine as select 1 as a",
    "create table made_here (a int)",
    "create view seen_here as select n from plain",
    "select * from seen_here",
    "drop view seen_here",
    "drop table made_here",
    "explain select pan from ledger",
    "listen something",
    "notify something",
    "do $$ begin perform 1; end $$",
    "select '{}'::jsonb, now(), 1.5::numeric, array['a']",
)
ASKED = (
    "select name, phone, birth_date from customers order by id limit 5",
    "select upper(name) from customers limit 5",
    "select count(*) from customers where phone like '13%'",
    "select c.name, k.pan from customers c join cards k on k.customer_id = c.id limit 3",
)
