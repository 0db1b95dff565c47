"""A primary and its standby (pg_basebackup), both behind pgveil: who is led where, and what a failover does."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError, free_port
from proxy.config import Address, Server
from proxy.hosts import Hosts, NoSuchHost
from proxy.metrics import NullMetrics
from proxy.own_login import OwnLogin
from tests.faults.clients import Crowd, pan_of
from tests.faults.ground import Ground, crash, make_ground, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = 8


class Pair:
    """A primary, its standby, and where they are. Commits wait for the standby, so that a failover loses none."""

    def __init__(self, ground: Ground, standby: Postgres) -> None:
        self.ground = ground
        self.primary = ground.pg
        self.standby = standby
        self.first = Address("127.0.0.1", self.primary.port)
        self.second = Address("127.0.0.1", standby.port)

    def before(self, home: Path, attrs: str, *, swapped: bool = False) -> Ground:
        """A pgveil before both, not started. `swapped`: the standby is the first host."""
        other = self.ground.beside(home)
        hosts = [str(self.first), str(self.second)]
        if swapped:
            hosts.reverse()
        other.configure(workers=1, server=f"hosts: {hosts}\n  target_session_attrs: {attrs}")
        return other


def make_standby(primary: Postgres) -> Postgres:
    """A streaming replica; started."""
    standby = Postgres.make(primary.version_name, durable=True)
    account = primary._as_server()
    standby.root.chmod(0o777)
    program = str(primary.bin_dir / "pg_basebackup")
    subprocess.run(
        [program, "-d", primary.dsn(), "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast"],
        check=True,
        capture_output=True,
        **account,
    )
    standby.start()
    return standby


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    try:
        ground = make_ground(tmp_path_factory.mktemp("pair"), "15", wal_level="replica")
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    standby = make_standby(ground.pg)
    ground.pg.psql("alter system set synchronous_standby_names = '*'")
    ground.pg.psql("alter system set synchronous_commit = 'remote_apply'; select pg_reload_conf()")
    yield Pair(ground, standby)
    standby.destroy()
    ground.pg.destroy()


def reached(ground: Ground) -> int:
    """The port of the server that a client of pgveil's is on."""
    with psycopg.connect(ground.dsn("teller")) as teller:
        row = teller.execute("select inet_server_port()").fetchone()
        assert row is not None
        assert teller.execute("select pan from cards limit 1").fetchone() is not None
        return int(row[0])


@pytest.mark.parametrize(
    ("attrs", "wanted"),
    [
        ("any", ["standby", "primary"]),
        ("read-write", ["primary"]),
        ("read-only", ["standby"]),
        ("primary", ["primary"]),
        ("standby", ["standby"]),
        ("prefer-standby", ["standby"]),
    ],
)
async def test_hosts_of_a_kind_in_order(pair: Pair, attrs: str, wanted: list[str]) -> None:
    """The standby is the first host, a third one does not answer."""
    silent = Address("127.0.0.1", free_port())
    server = Server(hosts=(pair.second, silent, pair.first), sslmode="disable", target_session_attrs=attrs)
    hosts = Hosts(server, NullMetrics())
    hosts.start(OwnLogin(pair.primary.dsn()))
    try:
        await hosts.order(again=True)
        named = {pair.first: "primary", pair.second: "standby"}
        assert [named[address] for address in await hosts.order()] == wanted
        assert await hosts.own_address() is not None
    finally:
        await hosts.stop()


@pytest.mark.parametrize(("attrs", "lenient"), [("standby", False), ("read-only", False), ("prefer-standby", True)])
async def test_no_host_of_a_kind(pair: Pair, attrs: str, lenient: bool) -> None:
    server = Server(hosts=(pair.first,), sslmode="disable", target_session_attrs=attrs)
    hosts = Hosts(server, NullMetrics())
    hosts.start(OwnLogin(pair.primary.dsn()))
    try:
        if lenient:
            assert await hosts.order() == (pair.first,)
        else:
            with pytest.raises(NoSuchHost, match=f"no PostgreSQL server that can be reached is {attrs}"):
                await hosts.order()
    finally:
        await hosts.stop()


def test_a_standby_is_read_through_pgveil(pair: Pair, tmp_path: Path) -> None:
    """Sealed values open there, the audit log is written, and writes get PostgreSQL's own error."""
    reader = pair.before(tmp_path / "reader", "prefer-standby")
    reader.start()
    try:
        assert reached(reader) == pair.standby.port
        with psycopg.connect(reader.dsn(), autocommit=True) as app:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                app.execute("insert into ledger values (1, '4000000000001')")
            assert app.execute("select 1").fetchone() == (1,)
        assert reader.metric("pgveil_server_hosts", kind="standby") == 1
    finally:
        reader.stop()
    reader.verify_audit()


def test_a_session_that_says_otherwise_is_ended(pair: Pair, tmp_path: Path) -> None:
    """A login whose sessions begin read only is no read-write session, whatever pgveil's own login saw (as in libpq)."""
    writer = pair.before(tmp_path / "writer", "read-write", swapped=True)
    writer.start()
    try:
        assert reached(writer) == pair.primary.port
        pair.primary.psql("alter role analyst set default_transaction_read_only = on")
        with pytest.raises(psycopg.OperationalError, match="that was reached is not read-write"):
            psycopg.connect(writer.dsn("analyst"))
        pair.primary.psql("alter role analyst reset default_transaction_read_only")
        psycopg.connect(writer.dsn("analyst")).close()
    finally:
        writer.stop()


def test_failover(pair: Pair, tmp_path: Path) -> None:
    """The primary dies under writing clients, the standby is promoted: clients and the catalog's reader follow, no confirmed write is lost."""
    writer = pair.before(tmp_path / "failover", "read-write")
    writer.start()
    try:
        assert reached(writer) == pair.primary.port
        with Crowd(writer, CLIENTS) as crowd:
            until(lambda: crowd.commits > 60, "the clients work")
            crash(pair.primary)
            until(lambda: not writer.readiness()["catalog"], "the operator is told")
            # Behind all the others that try, on a busy machine libpq's own limit may come first.
            until(lambda: "that can be reached is read-write" in refusal(writer), "who comes is told what is missing")
            pair.standby.psql("alter system set synchronous_standby_names = ''")
            pair.standby.psql("select pg_promote()")
            wanted = crowd.commits + 60
            until(lambda: crowd.commits > wanted, "the clients go on on the new primary", 60)
        assert not crowd.stuck()
        until(writer.ready, "pgveil is ready")
        assert reached(writer) == pair.standby.port
        assert writer.metric("pgveil_failovers_total") == 1
        assert writer.metric("pgveil_server_hosts", kind="primary") == 1
        with psycopg.connect(writer.dsn("app")) as app:
            stored: dict[int, str] = dict(app.execute("select n, pan from ledger").fetchall())
        entries = {n: entry for client in crowd.clients for n, entry in client.entries.items() if entry.acknowledged}
        assert entries
        assert all(stored.get(n) in {pan_of(n, v) for v in (e.acknowledged, e.attempted)} for n, e in entries.items())
        # DDL on the new primary is seen: the catalog's reader has followed.
        pair.standby.psql("alter table ledger rename to book; alter table plain rename to ledger", pair.ground.database)
        with psycopg.connect(writer.dsn("teller"), autocommit=True) as teller:
            until(lambda: _is_answered(teller, "select note from ledger where n = 1"), "the renamed table is known")
    finally:
        writer.stop()
    writer.verify_audit()


def refusal(ground: Ground) -> str:
    """What a new client is told; nothing where it is let in."""
    try:
        psycopg.connect(ground.dsn("teller")).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def _is_answered(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> bool:
    try:
        return connection.execute(sql).fetchone() is not None
    except psycopg.Error:
        return False
