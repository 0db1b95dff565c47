"""pgveil as a guest of its server: what it takes there keeps nobody from anything (docs/adr/0033). Sessions come through pgveil, DDL past it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from proxy.databases import MAX_DATABASES
from tests.faults.ground import children, until

if TYPE_CHECKING:
    from tests.faults.ground import Ground

_NUMBERS = count(1)
HELD = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgveil catalog' AND datname = %s"


def _name() -> str:
    return f"guest_{next(_NUMBERS)}"


def _through(ground: Ground, database: str, login: str = "postgres") -> psycopg.Connection[Any]:
    return psycopg.connect(ground.dsn(login), dbname=database, autocommit=True)


@pytest.fixture
def direct(ground: Ground) -> Any:
    with psycopg.connect(ground.dsn("postgres", direct=True), dbname="postgres", autocommit=True) as connection:
        yield connection


WHO = """
SELECT datname, backend_type, usename, application_name, state, wait_event, now() - backend_start, left(query, 60)
  FROM pg_stat_activity WHERE datname = ANY(%s)
"""


def _do(connection: psycopg.Connection[Any], text: str, *names: str) -> None:
    try:
        connection.execute(sql.SQL(text).format(*map(sql.Identifier, names)))
    except psycopg.errors.ObjectInUse as error:
        raise AssertionError(f"{error}: {connection.execute(WHO, (list(names),)).fetchall()}") from error


def _life_of_a_database(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    """Made, used through pgveil, renamed, used, copied, dropped, made again: each at once behind the other."""
    first, second, third = _name(), _name(), _name()
    _do(direct, "CREATE DATABASE {}", first)
    for name in (first, second):
        with _through(ground, name) as session:
            session.execute("CREATE TABLE IF NOT EXISTS t (a int)")
            assert session.execute("SELECT count(*) FROM t").fetchone() == (0,)
        if name == first:
            _do(direct, "ALTER DATABASE {} RENAME TO {}", first, second)
    _do(direct, "CREATE DATABASE {} TEMPLATE {}", third, second)
    _do(direct, "DROP DATABASE {}", second)
    _do(direct, "CREATE DATABASE {}", second)
    with _through(ground, second) as session, pytest.raises(psycopg.errors.UndefinedTable):
        session.execute("SELECT FROM t")
    with _through(ground, third) as session:
        assert session.execute("SELECT count(*) FROM t").fetchone() == (0,)
    _do(direct, "DROP DATABASE {}", second)
    _do(direct, "DROP DATABASE {}", third)


def test_databases_come_and_go_past_pgveil(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    for _ in range(2):
        _life_of_a_database(ground, direct)


def test_databases_come_and_go_through_pgveil(ground: Ground) -> None:
    with _through(ground, "postgres") as session:
        _life_of_a_database(ground, session)


@pytest.mark.soak
def test_two_hundred_databases(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    for _ in range(67):
        _life_of_a_database(ground, direct)
    until(ground.ready, "pgveil is ready")


def test_a_template_is_not_held(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    for past in (True, False):
        with _through(ground, "template1") as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
            # Its own session may copy the database that it is in, as directly.
            name = _name()
            _do(session, "CREATE DATABASE {}", name)
        made = _name()
        with _through(ground, "postgres") as other:
            _do(direct if past else other, "CREATE DATABASE {}", made)
        for each in (name, made):
            _do(direct, "DROP DATABASE {}", each)


def test_a_session_copies_the_database_that_it_is_in(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    """pgveil's own connection is there for that session's sake. It makes room."""
    source, copy = _name(), _name()
    _do(direct, "CREATE DATABASE {}", source)
    with _through(ground, source) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
        assert direct.execute(HELD, (source,)).fetchone() != (0,)
        _do(session, "CREATE DATABASE {} TEMPLATE {}", copy, source)
        session.execute("ALTER TABLE t ADD b int")
        assert session.execute("SELECT * FROM t").fetchone() == (1, None), "and follows the catalog again"
    until(lambda: direct.execute(HELD, (source,)).fetchone() == (0,), "it goes with the last session")
    for name in (copy, source):
        _do(direct, "DROP DATABASE {}", name)


def test_the_database_of_pgveil_s_own_url_is_not_held_either(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    """It is looked at now and then, for readiness. Whoever copies or renames it meets nobody."""
    copy, other = _name(), _name()
    _do(direct, "CREATE DATABASE {} TEMPLATE {}", copy, ground.database)
    _do(direct, "ALTER DATABASE {} RENAME TO {}", ground.database, other)
    _do(direct, "ALTER DATABASE {} RENAME TO {}", other, ground.database)
    _do(direct, "DROP DATABASE {}", copy)
    until(ground.ready, "pgveil is ready")
    with psycopg.connect(ground.dsn("teller")) as teller:
        assert teller.execute("SELECT pan FROM cards LIMIT 1").fetchone() is not None


def test_names_that_are_no_databases_leave_nothing(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    for guess in range(MAX_DATABASES + 6):
        with pytest.raises(psycopg.OperationalError, match=f'database "guess_{guess}" does not exist'):
            _through(ground, f"guess_{guess}", "app")
    assert ground.ready()
    assert not [e for e in ground.events("catalog.unreachable") if str(e.get("database")).startswith("guess_")]
    name = _name()
    _do(direct, "CREATE DATABASE {}", name)
    with _through(ground, name) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    _do(direct, "DROP DATABASE {}", name)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        _through(ground, name)


def test_a_database_that_lets_nobody_in_says_so_itself(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    name = _name()
    _do(direct, "CREATE DATABASE {} CONNECTION LIMIT 0", name)
    _do(direct, "REVOKE CONNECT ON DATABASE {} FROM PUBLIC", name)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        _through(ground, name, "app")
    _do(direct, "GRANT CONNECT ON DATABASE {} TO app", name)
    with pytest.raises(psycopg.OperationalError, match="too many connections for database"):
        _through(ground, name, "app")
    _do(direct, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        _through(ground, name, "app")
    assert ground.ready()
    _do(direct, "DROP DATABASE {}", name)


# What a superuser that no role names does in a database of which the rules name nothing; the second part leads out of it.
AT_HOME = (
    "DO $$ BEGIN CREATE TABLE t (a int, b text); EXECUTE format('ALTER TABLE %I ADD c int', 't'); END $$",
    "CREATE FUNCTION run(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; END $$",
    "SELECT run('INSERT INTO t VALUES (1)')",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET b = 'x'; COMMIT; END $$",
    "CALL p()",
    "SELECT * FROM ts_stat('SELECT to_tsvector(b) FROM t')",
    "SELECT lo_from_bytea(4711, 'x')",
    "SELECT lo_get(4711)",
    "SELECT count(*) FROM pg_stats WHERE tablename = 't'",
    "ALTER TABLE t RENAME b TO language",
    "CREATE TABLE u (a int); ALTER TABLE u ADD b int; SELECT run('SELECT 1')",
    "DO $$ BEGIN RAISE NOTICE 'copy done, from here to there'; END $$",
)
OUT_OF_IT = (
    "COPY (SELECT 1) TO '/tmp/pgveil_guest'",
    "COPY t FROM PROGRAM 'echo 1'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT query FROM pg_stat_activity",
    "DO $$ BEGIN PERFORM pg_read_file('PG_VERSION'); END $$",
    "DO $$ BEGIN EXECUTE 'copy t from program ''echo 1'''; END $$",
    "DO $$ BEGIN COPY t FROM PROGRAM 'echo 1'; END $$",
    "CREATE FUNCTION out() RETURNS text LANGUAGE sql AS $$ SELECT max(query) FROM pg_stat_activity $$",
    "CREATE FUNCTION out() RETURNS text LANGUAGE internal AS 'pg_read_file_all'",
    "CREATE SERVER s FOREIGN DATA WRAPPER w",
    "SELECT * FROM dblink('dbname=other', 'SELECT 1') AS t (a int)",
    "SELECT lo_import('/etc/hostname')",
    "ALTER SYSTEM SET archive_command = 'echo'",
    "UPDATE pg_proc SET proname = 'innocent' WHERE proname = 'pg_read_file'",
)


def test_a_superuser_is_free_where_nothing_is_protected(ground: Ground, direct: psycopg.Connection[Any]) -> None:
    name = _name()
    _do(direct, "CREATE DATABASE {}", name)
    with _through(ground, name) as session:
        for text in AT_HOME:
            session.execute(text)
        for text in OUT_OF_IT:
            with pytest.raises(psycopg.Error, match="what other databases hold"):
                session.execute(text)
    with (
        _through(ground, ground.database) as session,
        pytest.raises(psycopg.Error, match="privileges can't fence this login"),
    ):
        session.execute(AT_HOME[0])
    _do(direct, "DROP DATABASE {}", name)


def _locks_met(ground: Ground, tries: int) -> int:
    """NOWAIT locks of every kind on tables under views, while DDL of others runs in the same database and sessions go on."""
    database = _name()
    with psycopg.connect(ground.dsn("postgres", direct=True), dbname="postgres", autocommit=True) as admin:
        _do(admin, "CREATE DATABASE {}", database)
    lockers = psycopg.connect(ground.dsn("postgres", direct=True), dbname=database, autocommit=True)
    lockers.execute(
        "CREATE TABLE held (id int, twice int GENERATED ALWAYS AS (id * 2) STORED);"
        "CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM held; END;"
        + "".join(f"CREATE VIEW over_{n} AS SELECT id, twice FROM held WHERE id > {n};" for n in range(50))
    )
    done = threading.Event()

    def define() -> None:
        with _through(ground, database) as session:
            for n in count():
                if done.is_set():
                    return
                session.execute(f"CREATE TABLE made_{n} (a int DEFAULT 1, b text)")
                session.execute(f"CREATE VIEW seen_{n} AS SELECT a FROM made_{n}")
                session.execute(f"DROP TABLE made_{n} CASCADE")

    defining = threading.Thread(target=define)
    met = 0
    with ExitStack() as held:
        watching = held.enter_context(_through(ground, database))
        # What each worker reads when it first comes here is read once.
        while len([e for e in ground.events("catalog.loaded") if e["database"] == database]) < len(ground.workers()):
            held.enter_context(_through(ground, database))
        defining.start()
        try:
            for _ in range(tries):
                try:
                    with lockers.transaction():
                        lockers.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE NOWAIT")
                except psycopg.errors.LockNotAvailable:
                    met += 1
            assert watching.execute("SELECT count(*) FROM over_7").fetchone() == (0,)
        finally:
            done.set()
            defining.join()
    lockers.close()
    with psycopg.connect(ground.dsn("postgres", direct=True), dbname="postgres", autocommit=True) as admin:
        _do(admin, "DROP DATABASE {}", database)
    return met


def test_nobody_meets_a_lock_of_the_catalog_reader_s(ground: Ground) -> None:
    assert _locks_met(ground, 300) == 0


@pytest.mark.soak
def test_nobody_meets_a_lock_in_ten_thousand_tries(ground: Ground) -> None:
    assert _locks_met(ground, 10_000) == 0


def test_a_server_that_stalls_and_goes_on(ground: Ground) -> None:
    """Every process of it stopped, and continued: nothing of pgveil's is left over, and its reason is told once."""
    assert ground.pg._process is not None
    before = len(ground.events("catalog.unreachable"))
    family = [ground.pg._process.pid, *children(ground.pg._process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: len(ground.events("catalog.unreachable")) > before, "it is noticed", 60)
    finally:
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)
    until(lambda: bool(ground.events("catalog.reachable")), "its end is told", 60)
    until(ground.ready, "pgveil is ready again")
    told = ground.events("catalog.unreachable")[before:]
    assert {e["reason"] for e in told} <= {"timeout", "ConnectionDoesNotExist:08003"}
    assert len(told) <= 2 * len(ground.workers())
    with psycopg.connect(ground.dsn("teller")) as teller:
        assert teller.execute("SELECT pan FROM cards LIMIT 1").fetchone() is not None
