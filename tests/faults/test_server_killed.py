"""The server killed and started again: what clients, operators and the catalog's reader see, and that everything comes back by itself."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.ground import crash, until

if TYPE_CHECKING:
    from tests.faults.ground import Ground


def test_the_server_is_killed_and_comes_back(ground: Ground) -> None:
    idle = psycopg.connect(ground.dsn("teller"), autocommit=True)
    writing = psycopg.connect(ground.dsn("app"))
    writing.execute("insert into ledger values (-2, '4000000000000')")
    crash(ground.pg)
    with pytest.raises(psycopg.OperationalError) as lost:
        idle.execute("select pan from cards")
    assert lost.value.sqlstate in {None, "08006", "57P01"}
    with pytest.raises(psycopg.OperationalError):
        writing.commit()
    with pytest.raises(psycopg.OperationalError, match="the PostgreSQL server could not be reached"):
        psycopg.connect(ground.dsn("teller"))
    assert ground.metric("pgveil_connections_refused_total", reason="server") >= 1
    until(lambda: not ground.readiness()["catalog"], "pgveil says that it is not ready")
    ground.pg.start()
    until(ground.ready, "pgveil is ready again")
    with psycopg.connect(ground.dsn("teller")) as teller:
        assert teller.execute("select pan from cards limit 1").fetchone() is not None
    with psycopg.connect(ground.dsn("app")) as app:
        assert app.execute("select count(*) from ledger where n = -2").fetchone() == (0,), "never committed"
    ground.verify_audit()


def test_ddl_made_while_the_catalog_could_not_be_read_is_seen(ground: Ground) -> None:
    """A column is renamed while pgveil has no server: what was known before the crash is not what is judged by after it."""
    try:
        with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
            assert teller.execute("select pan from ledger limit 1").fetchall() is not None
        crash(ground.pg)
        ground.pg.start()
        with psycopg.connect(ground.dsn("postgres", direct=True), autocommit=True) as direct:
            direct.execute("alter table ledger rename to book")
            direct.execute("alter table plain rename to ledger")
        with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller:
            with pytest.raises(psycopg.Error):
                teller.execute("select pan from ledger")
            until(lambda: _answers(teller), "the new ledger is read")
    finally:
        with psycopg.connect(ground.dsn("postgres", direct=True), autocommit=True) as direct:
            direct.execute("alter table ledger rename to plain")
            direct.execute("alter table book rename to ledger")
    until(ground.ready, "pgveil is ready again")


def test_a_server_that_forgets_leaves_a_record_of_a_write_that_is_gone(ground: Ground) -> None:
    """Its files are put back to where they were before the write, which it had acknowledged: a restored backup, a lying disk."""
    ground.pg.stop()
    before = ground.pg.root / "before"
    subprocess.run(["cp", "-a", ground.pg.data, before], check=True)
    ground.pg.start()
    until(ground.ready, "pgveil is ready")
    with psycopg.connect(ground.dsn("app", name="forgotten"), autocommit=True) as app:
        app.execute("insert into ledger values (-3, '4000000000000')")
        assert app.execute("select count(*) from ledger where n = -3").fetchone() == (1,)
    ground.pg.stop()
    shutil.rmtree(ground.pg.data)
    before.rename(ground.pg.data)
    ground.pg.start()
    until(ground.ready, "pgveil is ready again")
    with psycopg.connect(ground.dsn("app")) as app:
        assert app.execute("select count(*) from ledger where n = -3").fetchone() == (0,), "the server has forgotten it"
    mine = [r for r in ground.records() if r["kind"] == "statement" and r["application"] == "forgotten"]
    (write,) = (r for r in mine if r["action"] == "insert")
    ended = [r for r in ground.records() if r["kind"] == "outcome" and r["connection"] == write["connection"]]
    assert any(r["statement_id"] == write["statement_id"] and r["outcome"] == "ok" for r in ended), ended
    ground.verify_audit()


def _answers(teller: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        return teller.execute("select note from ledger where n = 1").fetchone() == ("note 1",)
    except psycopg.Error:
        return False
