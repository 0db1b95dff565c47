"""Leaks by way of the protocol and of other sessions: fast path, replication, portals, prepared statements, plans of other roles, notifications."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest

from proxy.wire import messages as m
from tests.leaks.den import AGENT, CHIEF, CLERK, Den, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = "app"


class Raw:
    """A connection of bytes: what a client can do that no driver would."""

    def __init__(self, port: int, **parameters: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items()) + b"\0"
        self.socket.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)

    def until(self, kinds: bytes) -> bytes:
        """Everything up to a message of one of the kinds, or the end."""
        data = b""
        while True:
            head = self._exactly(5)
            if len(head) < 5:
                return data
            data += head + self._exactly(struct.unpack("!i", head[1:])[0] - 4)
            if head[:1] in [bytes((k,)) for k in kinds]:
                return data

    def send(self, data: bytes) -> bytes:
        """Send, and read up to ReadyForQuery."""
        self.socket.sendall(data)
        return self.until(b"Z")

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                return data
            data += piece
        return data


@pytest.fixture
def raw(den: Den) -> Iterator[Raw]:
    made = Raw(den.world.tap.port, user=CLERK, database=den.world.database)
    made.until(b"Z")
    yield made
    made.socket.close()


@pytest.fixture(autouse=True)
def _only_this(den: Den) -> None:
    """What is searched is what the test itself brings about: in what came before there are guesses of the client's own."""
    for login in (AGENT, CLERK, CHIEF):
        for way in Way:
            den.heard(login, way)


def _clean(den: Den, login: str) -> None:
    for way in (Way.PGVEIL, Way.DIRECT):
        assert not den.leaks(login, den.heard(login, way))


def _calls(den: Den) -> dict[str, bytes]:
    """FunctionCall messages that would bring values up, with the arguments that each function takes."""
    wanted = {
        "pg_read_file(text,bigint,bigint)": (den.fill("<files>/phones"), "0", "1000"),
        "phone_of(bigint)": ("1",),
        "any_text(text)": ("SELECT string_agg(phone, ',') FROM customers",),
        "pg_read_file(text)": (den.fill("<files>/phones"),),
        "file_of(text)": (den.fill("<files>/phones"),),
    }
    made = {}
    with psycopg.connect(den.world.dsn("postgres", direct=True)) as admin:
        for name, arguments in wanted.items():
            row = admin.execute("SELECT %s::regprocedure::oid::int8", (name,)).fetchone()
            assert row is not None
            body = struct.pack("!Ihh", row[0], 0, len(arguments))
            body += b"".join(struct.pack("!i", len(text)) + text.encode() for text in arguments)
            made[name] = m.message(m.Front.FUNCTION_CALL, body + struct.pack("!h", 0))
    return made


def _logged_in(port: int, login: str, den: Den) -> Raw:
    made = Raw(port, user=login, database=den.world.database)
    made.until(b"Z")
    return made


@pytest.mark.parametrize("login", [CLERK, CHIEF])
def test_the_function_call_protocol_reads_nothing(den: Den, login: str) -> None:
    """Functions that read files and run texts: only large objects' own calls pass."""
    raw = _logged_in(den.world.tap.port, login, den)
    for name, call in _calls(den).items():
        assert b"function call sub-protocol for large objects only" in raw.send(call), name
    raw.socket.close()
    _clean(den, login)


def test_the_function_call_protocol_meets_privileges_past_pgveil(den: Den) -> None:
    clerk, boss = (_logged_in(den.past.port, login, den) for login in (CLERK, "postgres"))
    for name, call in _calls(den).items():
        den.heard("postgres", Way.DIRECT)
        clerk.send(call)
        boss.send(call)
        assert den.leaks(CLERK, den.heard("postgres", Way.DIRECT)), f"{name} brings nothing up: not a case"
    for raw in (clerk, boss):
        raw.socket.close()
    _clean(den, CLERK)


@pytest.mark.parametrize("replication", ["true", "database"])
def test_replication_connections_do_not_pass(den: Den, replication: str) -> None:
    made = Raw(den.world.tap.port, user=CHIEF, database=den.world.database, replication=replication)
    assert b"0A000" in made.until(b"Z")
    made.socket.close()
    past = Raw(den.past.port, user=CLERK, database=den.world.database, replication=replication)
    answer = past.until(b"ZE")
    if b"Z" in answer[-6:-5]:
        answer = past.send(m.build_query(b"CREATE_REPLICATION_SLOT s LOGICAL test_decoding"))
    assert b"42501" in answer, "PostgreSQL asks for the REPLICATION attribute"
    past.socket.close()


def test_portals_can_not_be_described_or_fetched_by_other_names(den: Den, raw: Raw) -> None:
    """A SQL cursor is a portal, and a protocol portal a cursor: each by the other's messages."""
    answer = raw.send(m.build_query(b"BEGIN; DECLARE sql_cursor CURSOR FOR SELECT phone FROM customers"))
    answer += raw.send(m.build_describe(b"P", b"sql_cursor") + m.build_execute(b"sql_cursor") + m.SYNC)
    answer += raw.send(m.build_query(b"ROLLBACK"))
    parse = m.build_parse(b"mine", b"SELECT email FROM customers")
    answer += raw.send(parse + m.build_bind(b"portal", b"mine") + m.build_query(b"FETCH ALL FROM portal"))
    answer += raw.send(m.SYNC)
    answer += raw.send(m.build_query(b"BEGIN") + m.build_bind(b"portal", b"mine") + m.SYNC)
    assert answer
    _clean(den, CLERK)


def test_a_prepared_statement_means_what_its_names_mean_now(den: Den, raw: Raw) -> None:
    """Prepared over a table of one's own, executed when the name means the protected one."""
    raw.send(m.build_query(b"CREATE TEMP TABLE customers (id bigint, phone varchar(20))"))
    raw.send(m.build_parse(b"s", b"SELECT phone FROM customers") + m.SYNC)
    answer = raw.send(m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC)
    raw.send(m.build_query(b"DROP TABLE pg_temp.customers"))
    answer += raw.send(m.build_bind(b"", b"s") + m.build_describe(b"P", b"") + m.build_execute(b"") + m.SYNC)
    raw.send(m.build_query(b"SET search_path = lair, pg_catalog"))
    answer += raw.send(m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC)
    raw.send(m.build_query(b"SET search_path = public"))
    answer += raw.send(m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC)
    answer += raw.send(m.build_query(b"DISCARD ALL"))
    assert answer
    _clean(den, CLERK)


async def test_plans_of_one_role_are_not_used_for_another(den: Den) -> None:
    """The same bytes by a clear and by a masked login, in turns, prepared and not."""
    sql = "SELECT id, phone, email FROM customers ORDER BY id LIMIT 3"
    clear, masked = [await asyncpg.connect(den.world.dsn(login)) for login in (APP, AGENT)]
    try:
        for _ in range(3):
            assert [r["phone"] for r in await clear.fetch(sql)] == [den.value("phone", n) for n in (1, 2, 3)]
            assert all("*" in r["phone"] for r in await masked.fetch(sql))
            assert all("*" in r["phone"] for r in await masked.fetch(sql + " OFFSET 0"))
            await masked.execute(sql)
    finally:
        await clear.close()
        await masked.close()
    _clean(den, AGENT)


OTHERS = (
    "SELECT usename, query, wait_event FROM pg_stat_activity",
    "SELECT * FROM pg_stat_get_activity(NULL)",
    "SELECT pg_stat_get_backend_activity(i) FROM pg_stat_get_backend_idset() i",
    "SELECT query FROM sessions",
    "SELECT query FROM sessions_again",
)


def test_other_sessions_texts_are_theirs(den: Den) -> None:
    """What a clear login is just running, and has run, does not show to a masked one."""
    with psycopg.connect(den.world.dsn(APP), autocommit=True) as app:
        app.execute(f"SET application_name = 'app-{den.value('id_number')[:4]}'")
        app.execute(f"SELECT id FROM customers WHERE phone = '{den.value('phone')}'")
        for login, way in ((CLERK, Way.PGVEIL), (CLERK, Way.DIRECT), (CHIEF, Way.PGVEIL)):
            session = den.connect(login, way)
            session.run(
                (
                    *OTHERS,
                    "SELECT statement FROM pg_prepared_statements",
                    "SELECT statement FROM pg_cursors",
                    "SELECT gid FROM pg_prepared_xacts",
                    "SELECT current_query()",
                    "SELECT pg_read_file('postgresql.conf')",
                    "SELECT pg_current_logfile(), pg_ls_logdir()",
                )
            )
            session.connection.close()
            assert not den.leaks(login, den.heard(login, way))
        boss = den.connect("postgres", Way.DIRECT)
        for sql in OTHERS:
            den.heard("postgres", Way.DIRECT)
            boss.run((sql,))
            assert den.leaks(CLERK, den.heard("postgres", Way.DIRECT)), f"{sql} shows nothing to anybody: not a case"
        boss.connection.close()


# In these encodings the second byte of a character can be that of a backslash.
TWO_BYTES = {"SJIS": b"\x83\x5c", "GBK": b"\xbf\x5c", "BIG5": b"\xa5\x5c", "GB18030": b"\xbf\x5c"}


@pytest.mark.parametrize("encoding", TWO_BYTES)
@pytest.mark.parametrize("standard", ["on", "off"])
def test_a_character_that_holds_a_backslash_hides_no_quote(den: Den, encoding: str, standard: str) -> None:
    """To one who reads bytes the constant goes on to the end of the line; to PostgreSQL the phone stands behind it."""
    sql = b"SELECT '" + TWO_BYTES[encoding] + b"', phone FROM public.customers --'"
    settings = (f"SET client_encoding = '{encoding}'", f"SET standard_conforming_strings = {standard}")
    parse = m.build_parse(b"", sql) + m.build_bind(b"", b"") + m.build_execute(b"") + m.SYNC
    den.heard("postgres", Way.DIRECT)
    for login, port in ((CLERK, den.world.tap.port), (CHIEF, den.world.tap.port), ("postgres", den.past.port)):
        raw = _logged_in(port, login, den)
        for setting in settings:
            assert b"SET" in raw.send(m.build_query(setting.encode()))
        for answer in (raw.send(m.build_query(sql)), raw.send(parse)):
            assert TWO_BYTES[encoding] in answer, (login, answer)
        raw.socket.close()
    assert den.leaks(CLERK, den.heard("postgres", Way.DIRECT)), "not a case"
    _clean(den, CLERK)
    _clean(den, CHIEF)


STARTUP = {
    "-c standard_conforming_strings=off": (
        "SELECT '\\'', phone FROM customers --'",
        "SELECT '\\', ', phone FROM customers",
    ),
    "-c role=app": ("SELECT phone FROM customers", "TABLE customers"),
    "-c search_path=lair,public": ("SELECT phone FROM customers", "SELECT phone FROM hidden"),
    "-c search_path=pgveil,public": ("SELECT phone FROM customers",),
}


@pytest.mark.parametrize("options", STARTUP)
def test_settings_of_the_startup_packet_are_followed(lair: Den, options: str) -> None:
    """What a statement means hangs on them from the first one on."""
    lair.admin(
        "CREATE VIEW lair.hidden AS SELECT phone FROM public.customers",
        "GRANT SELECT ON lair.hidden TO teller",
    )
    lair.heard("postgres", Way.DIRECT)
    for login, way in ((CLERK, Way.PGVEIL), (CLERK, Way.DIRECT), (CHIEF, Way.PGVEIL), ("postgres", Way.DIRECT)):
        try:
            session = lair.connect(login, way, plain=True, options=options)
        except psycopg.OperationalError:
            assert login == CLERK
            assert "role" in options
            continue
        session.run(STARTUP[options])
        session.connection.close()
    assert lair.leaks(CLERK, lair.heard("postgres", Way.DIRECT)), "not a case"
    _clean(lair, CLERK)
    _clean(lair, CHIEF)


# In whatever detail the login can ask for.
LOGGED = (
    "SET log_statement = 'all'",
    "SET log_min_duration_statement = 0",
    "SET log_min_error_statement = 'debug5'",
    "SET log_error_verbosity = 'verbose'",
    "SET debug_print_parse = on",
    "SET debug_print_rewritten = on",
    "SET debug_print_plan = on",
    "SELECT id, phone, email FROM customers WHERE phone > email ORDER BY phone",
    "SELECT phone::int FROM customers",
    "SELECT ('{' || email)::json FROM customers",
    "UPDATE customers SET gender = 'X' WHERE id = 1",
    "UPDATE customers SET locale = NULL WHERE id = 1",
    "UPDATE customers SET id = 2 WHERE id = 1",
    "DELETE FROM customers WHERE id = 1",
)


def test_the_server_s_log_has_no_value_from_a_masked_login(den: Den) -> None:
    log = den.world.pg.log
    for login, way in ((CLERK, Way.PGVEIL), (CLERK, Way.DIRECT), (AGENT, Way.PGVEIL), (AGENT, Way.DIRECT)):
        before = log.stat().st_size
        session = den.connect(login, way)
        session.run(LOGGED)
        session.connection.close()
        written = log.read_bytes()[before:].decode(errors="replace")
        assert "ERROR:  invalid input syntax" in written or "ERROR:  permission denied" in written
        assert not den.leaks(login, written), (login, way)
        den.heard(login, way)
    boss = den.connect("postgres", Way.DIRECT)
    before = log.stat().st_size
    boss.run(LOGGED)
    boss.connection.close()
    assert den.leaks(CLERK, log.read_bytes()[before:].decode(errors="replace")), "not a case"


def test_notifications_carry_what_the_sender_sees(den: Den) -> None:
    """A masked login can send masks; what a clear one sends on purpose to a channel is its own doing."""
    listener = den.connect(CLERK, Way.PGVEIL)
    listener.run(("LISTEN loot",))
    sender = den.connect(CLERK, Way.PGVEIL)
    sender.run(("SELECT pg_notify('loot', string_agg(phone, ',')) FROM customers",))
    listener.run(("SELECT 1",))
    for session in (listener, sender):
        session.connection.close()
    _clean(den, CLERK)


def test_a_view_made_a_moment_ago_past_pgveil(den: Den) -> None:
    """The second witness does not know it: what it shows waits for the catalog, and is judged by it."""
    for login in (AGENT, CLERK, CHIEF):
        session = den.connect(login, Way.PGVEIL)
        session.run(("SELECT 1",))
        den.admin(
            "DROP VIEW IF EXISTS public.just_now",
            "CREATE VIEW public.just_now AS SELECT id, phone FROM public.customers",
            "GRANT SELECT ON public.just_now TO PUBLIC",
        )
        outcome = session.run(("SELECT phone FROM just_now",))[0]
        assert outcome.rows == ()
        assert outcome.sqlstate in {"42501", "0AP01"}
        session.connection.close()
        den.admin("DROP VIEW public.just_now")
        assert not den.leaks(login, den.heard(login, Way.PGVEIL))


def test_temporary_tables_go_on_working(den: Den) -> None:
    """They are unknown to the catalog as well, committed or not."""
    session = den.connect(CLERK, Way.PGVEIL)
    outcomes = session.run(
        (
            "CREATE TEMP TABLE scratch AS SELECT 1 AS a",
            "SELECT a FROM scratch",
            "BEGIN",
            "CREATE TEMP TABLE inside AS SELECT 2 AS a",
            "SELECT a FROM inside",
            "COMMIT",
            "SELECT s.a + i.a AS sum, s.a, i.a FROM scratch s, inside i",
        )
    )
    session.connection.close()
    assert [o.sqlstate for o in outcomes] == [None] * 7
    assert outcomes[-1].rows == ((3, 1, 2),)
