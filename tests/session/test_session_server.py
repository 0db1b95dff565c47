"""Sessions between real clients and a real server."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from audit.event import StatementEnded
from proxy.session.gate import Admit, Decision, NeedSettings, OffsetMap, Refuse, Settings
from rules.model import Verdict
from rules.plan import Action, Reason, Refusal, SealParam

from .conftest import BORN, CARD, COMPUTED, NOTE, PHONE, PLAIN, SCORE, Shop, opened, plan

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = "SELECT id, card, born FROM customers ORDER BY id"
CARDS = [(1, "6222021234567890123", dt.date(1990, 2, 3)), (2, "4000001111222233", dt.date(2001, 12, 31))]
CARDS3 = [*CARDS, (3, None, dt.date(1970, 1, 1))]
FORBIDDEN = "SELECT phone FROM customers"
FIND = "SELECT id, card FROM customers WHERE card = $1"


def names(shop: Shop, text: str = NAMES, **changes: Any) -> None:
    shop.bench.judge.admit(text, plan(PLAIN, opened(CARD), opened(BORN), **changes))


def pipelined(connection: psycopg.Connection[Any], *texts: str) -> None:
    with connection.pipeline():
        for text in texts:
            connection.execute(text)


def fail_in_copy(cursor: psycopg.Cursor[Any]) -> None:
    with cursor.copy("COPY plain FROM STDIN") as copy:
        copy.write(b"1\tb\n")
        raise ZeroDivisionError


def endings(shop: Shop) -> list[StatementEnded]:
    return [e for e in shop.bench.recorder.events if isinstance(e, StatementEnded)]


def forbid(shop: Shop, text: str = FORBIDDEN) -> None:
    refusal = Refusal(
        Reason.VERDICT, "42501", "permission denied for column phone", "Masked for you.", "Ask.", PHONE.name
    )
    shop.bench.judge.table[text.encode()] = Refuse(refusal, "shape", 8)


def rows_direct(shop: Shop, sql: str) -> list[Any]:
    with psycopg.connect(shop.direct) as c:
        return c.execute(sql).fetchall()


def test_what_is_not_planned_passes(shop: Shop) -> None:
    with shop.connect() as c:
        assert c.execute("select 1 as a, 'x'").fetchall() == [(1, "x")]
        assert c.execute("select generate_series(1, %s)", (3,)).fetchall() == [(1,), (2,), (3,)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            c.execute("select 1/0")
        assert c.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert shop.bench.observer.objects == 0
    assert shop.bench.recorder.events == []


def test_sealed_columns_open_in_a_simple_query(shop: Shop) -> None:
    names(shop)
    with shop.connect() as c:
        cursor = c.execute(NAMES)
        assert cursor.fetchall() == CARDS3
        assert cursor.description is not None
        assert [d.type_code for d in cursor.description] == [23, 1043, 1082]
        assert cursor.description[1].internal_size == 19 or cursor.description[1].display_size == 19
    assert shop.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert [(e.rows, e.outcome) for e in endings(shop)] == [(3, "ok")]


@pytest.mark.parametrize("binary", [False, True])
def test_sealed_columns_open_in_the_extended_protocol(shop: Shop, binary: bool) -> None:
    names(shop)
    with shop.connect() as c:
        for _ in range(3):
            assert c.execute(NAMES, binary=binary, prepare=True).fetchall() == CARDS3


def test_aliases_and_stars(shop: Shop) -> None:
    text = "SELECT x.* FROM customers x(a,b,c,d,e,f,g) ORDER BY a"
    shop.bench.judge.admit(
        text, plan(PLAIN, PLAIN, opened(CARD), opened(BORN), opened(SCORE), opened(NOTE), PHONE_RESULT)
    )
    with shop.connect() as c:
        found = c.execute(text).fetchall()
    assert found[0] == (1, "Ann", "6222021234567890123", dt.date(1990, 2, 3), 7, "tall", "555-0100")
    assert found[2] == (3, "Cid", None, dt.date(1970, 1, 1), -12, "", "555-0100")


PHONE_RESULT = replace(PLAIN, touches=frozenset((PHONE.name,)))


def test_masked_sealed_column(shop: Shop) -> None:
    text = "SELECT card FROM customers ORDER BY id"
    shop.bench.judge.admit(text, plan(opened(CARD, Verdict.MASKED)))
    with shop.connect() as c:
        assert c.execute(text).fetchall() == [("***************0123",), ("************2233",), (None,)]


@pytest.mark.parametrize("binary", [False, True])
def test_parameters_are_sealed(shop: Shop, binary: bool) -> None:
    shop.bench.judge.admit(FIND, plan(PLAIN, opened(CARD), params=(SealParam(1, CARD, exact=True),)))
    born = "SELECT id FROM customers WHERE born = $1"
    shop.bench.judge.admit(born, plan(PLAIN, params=(SealParam(1, BORN),)))
    with shop.connect(cursor_factory=psycopg.RawCursor) as c:
        for _ in range(2):
            assert c.execute(FIND, ("4000001111222233",), binary=binary).fetchall() == [(2, "4000001111222233")]
        assert c.execute(FIND, ("9",)).fetchall() == []
        assert c.execute(FIND, ("9" * 40,)).fetchall() == []
        assert c.execute(FIND, (None,)).fetchall() == []
        assert c.execute(born, (dt.date(1970, 1, 1),)).fetchall() == [(3,)]
    assert shop.bench.observer.values_sealed == 6


def test_array_parameter(shop: Shop) -> None:
    text = "SELECT id FROM customers WHERE card = ANY($1) ORDER BY id"
    shop.bench.judge.admit(text, plan(PLAIN, params=(SealParam(1, CARD, array=True),)))
    with shop.connect(cursor_factory=psycopg.RawCursor) as c:
        wanted = ["4000001111222233", "6222021234567890123", None]
        assert c.execute(text, (wanted,)).fetchall() == [(1,), (2,)]


async def test_asyncpg_sees_logical_types(shop: Shop) -> None:
    shop.bench.judge.admit(FIND, plan(PLAIN, opened(CARD), params=(SealParam(1, CARD),)))
    any_text = "SELECT id FROM customers WHERE born = ANY($1) ORDER BY id"
    shop.bench.judge.admit(any_text, plan(PLAIN, params=(SealParam(1, BORN, array=True),)))
    insert = "INSERT INTO customers(id, card, born, score) VALUES ($1, $2, $3, $4) RETURNING card, score"
    shop.bench.judge.admit(
        insert,
        plan(
            opened(CARD),
            opened(SCORE),
            params=(SealParam(2, CARD), SealParam(3, BORN), SealParam(4, SCORE)),
            writes=True,
            action=Action.INSERT,
        ),
    )
    c = await asyncpg.connect(shop.dsn)
    try:
        statement = await c.prepare(FIND)
        assert [p.name for p in statement.get_parameters()] == ["varchar"]
        assert [a.type.name for a in statement.get_attributes()] == ["int4", "varchar"]
        assert [tuple(r) for r in await statement.fetch("4000001111222233")] == [(2, "4000001111222233")]
        days = [dt.date(1970, 1, 1), dt.date(1990, 2, 3)]
        assert [r[0] for r in await c.fetch(any_text, days)] == [1, 3]
        made = await c.fetchrow(insert, 9, "1234", dt.date(2020, 1, 1), 77)
        assert tuple(made or ()) == ("1234", 77)
        await c.executemany(insert, [(n, "1", None, n) for n in range(20, 40)])
        async with c.transaction():
            got = [r async for r in c.cursor("SELECT 1 FROM generate_series(1,100)")]
        assert len(got) == 100
    finally:
        await c.close()
    stored = rows_direct(shop, "SELECT card, score FROM customers WHERE id = 9")[0]
    assert stored[0].startswith("~")
    assert stored[1].startswith("~")
    assert len(rows_direct(shop, "SELECT 1 FROM customers WHERE id >= 20")) == 20


def test_bad_value_is_the_servers_kind_of_error(shop: Shop) -> None:
    text = "SELECT id FROM customers WHERE born = $1"
    shop.bench.judge.admit(text, plan(PLAIN, params=(SealParam(1, BORN),)))
    with shop.connect(cursor_factory=psycopg.RawCursor, autocommit=False) as c:
        with pytest.raises(psycopg.errors.InvalidDatetimeFormat) as caught:
            c.execute(text, ("nonsense",))
        assert "nonsense" not in str(caught.value)
        assert c.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            c.execute("select 1")
        c.rollback()
        assert c.execute("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize("prepare", [False, True])
def test_refusal_aborts_the_transaction_for_real(shop: Shop, prepare: bool) -> None:
    forbid(shop)
    with shop.connect(autocommit=False) as c:
        c.execute("INSERT INTO customers(id) VALUES (50)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            c.execute(FORBIDDEN, prepare=prepare)
        diag = caught.value.diag
        assert diag.message_primary == "permission denied for column phone"
        assert (diag.message_detail, diag.message_hint, diag.statement_position) == ("Masked for you.", "Ask.", "8")
        assert (diag.severity, diag.severity_nonlocalized) == ("ERROR", "ERROR")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            c.execute(FORBIDDEN, prepare=prepare)
        c.commit()
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 50") == []
    assert shop.bench.recorder.kinds() == ["Refused", "Refused"]


def test_refusal_in_one_of_several_statements(shop: Shop) -> None:
    text = "INSERT INTO customers(id) VALUES (51); SELECT phone FROM customers"
    forbid(shop, text)
    with shop.connect() as c:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute(text)
        assert c.execute("select 1").fetchall() == [(1,)]
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 51") == []


def test_several_statements_with_plans(shop: Shop) -> None:
    text = "SELECT 5; SELECT card FROM customers ORDER BY id; INSERT INTO customers(id) VALUES (52); SELECT born FROM customers WHERE id = 1"
    shop.bench.judge.admit(text, None, plan(opened(CARD)), plan(writes=True, action=Action.INSERT), plan(opened(BORN)))
    with shop.connect() as c:
        cursor = c.execute(text)
        results = [cursor.fetchall()]
        while cursor.nextset():
            results.append(cursor.fetchall() if cursor.description else [cursor.rowcount])
    assert results[0] == [(5,)]
    assert results[1][1] == ("4000001111222233",)
    assert results[2] == [1]
    assert results[3] == [(dt.date(1990, 2, 3),)]
    rows = [e.rows for e in endings(shop)]
    assert rows == [3, 1, 1]


def test_caret_positions_are_the_clients(shop: Shop) -> None:
    text = "SELECT name FROM customers WHERE card = '1' AND nothere = 2"
    edited = text.replace("'1'", "'" + "~" * 30 + "'")
    at = text.index("'1'")
    offsets = OffsetMap(((at, 32, at, 3),))
    shop.bench.judge.admit(text, plan(PLAIN), to=edited, offsets=offsets)
    with shop.connect() as c:
        for prepare in (False, True):
            with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
                c.execute(text, prepare=prepare)
            assert caught.value.diag.statement_position == str(text.index("nothere") + 1)


def test_ciphertext_never_shows_in_errors_and_notices(shop: Shop) -> None:
    sealed = shop.bench.seal(CARD, "4000001111222233")
    notices: list[str] = []
    with psycopg.connect(shop.direct, autocommit=True) as direct:
        direct.execute("CREATE UNIQUE INDEX ON customers(card)")
        direct.execute("CREATE SCHEMA pgveil_0123456789ab; CREATE VIEW pgveil_0123456789ab.customers AS SELECT 1 AS a")
    with shop.connect() as c:
        c.add_notice_handler(lambda d: notices.append(str(d.message_primary)))
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            c.execute("INSERT INTO customers(id, card) SELECT 60, card FROM customers WHERE id = 2")
        assert caught.value.diag.message_detail == "Key (card)=(<sealed>) already exists."
        c.execute(f"DO $$ BEGIN RAISE NOTICE 'it is {sealed}, you see'; END $$")
        with pytest.raises(psycopg.errors.UndefinedColumn) as undefined:
            c.execute("SELECT pgveil_0123456789ab.customers.zz FROM pgveil_0123456789ab.customers")
    assert notices == ["it is <sealed>, you see"]
    assert "pgveil" not in str(undefined.value.diag.message_primary)


def test_pipeline_mode(shop: Shop) -> None:
    names(shop)
    forbid(shop)
    shop.bench.judge.admit(
        "SELECT id, card FROM customers WHERE card = $1", plan(PLAIN, opened(CARD), params=(SealParam(1, CARD),))
    )
    with shop.connect(cursor_factory=psycopg.RawCursor) as c:
        with c.pipeline():
            cursors = [c.execute(NAMES) if n % 2 else c.execute("select $1::int", (n,)) for n in range(20)]
            found = c.execute(FIND, ("4000001111222233",))
        assert [k.fetchall() for k in cursors][:2] == [[(0,)], CARDS3]
        assert found.fetchall() == [(2, "4000001111222233")]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pipelined(c, "INSERT INTO customers(id) VALUES (70)", FORBIDDEN, "INSERT INTO customers(id) VALUES (71)")
        assert c.execute("select 1").fetchall() == [(1,)]
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id >= 70") == []


async def test_portal_suspension_goes_on_opening(shop: Shop) -> None:
    many = "SELECT card FROM customers, generate_series(1, 30) ORDER BY id"
    shop.bench.judge.admit(many, plan(opened(CARD)))
    c = await asyncpg.connect(shop.dsn)
    try:
        async with c.transaction():
            got = [r[0] async for r in c.cursor(many, prefetch=7)]
    finally:
        await c.close()
    assert got == ["6222021234567890123"] * 30 + ["4000001111222233"] * 30 + [None] * 30
    outcomes = [(e.outcome, e.rows) for e in endings(shop)]
    assert outcomes == [("ok", 90)], "one execution, however often the client asks for more"


def test_several_executes_of_one_batch_are_one_execution(shop: Shop) -> None:
    """F6.1: the first is not known to be suspended when the second is sent."""
    query = b"SELECT card FROM customers ORDER BY id"
    shop.bench.judge.admit(query.decode(), plan(opened(CARD)))
    raw = RawClient(shop)
    one = ("E", b"\0\0\0\0\1")
    raw.send(("P", b"\0" + query + b"\0\0\0"), ("B", b"\0\0\0\0\0\0\0\0"), one, one, one, one, ("S", b""))
    assert raw.until_ready() == "12DsDsDsCZ"
    assert shop.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert [(e.outcome, e.rows) for e in endings(shop)] == [("ok", 3)]
    # Fewer than there are: it ends with its portal.
    raw.send(("P", b"\0" + query + b"\0\0\0"), ("B", b"\0\0\0\0\0\0\0\0"), one, one, ("C", b"P\0"), ("S", b""))
    assert raw.until_ready() == "12DsDs3Z"
    assert [(e.outcome, e.rows) for e in endings(shop)][1:] == [("suspended", 2)]
    raw.close()


def test_witness_refuses_what_the_analysis_missed(shop: Shop) -> None:
    with shop.connect() as c:
        for prepare in (False, True):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                c.execute("SELECT id, phone FROM customers", prepare=prepare)
            assert "withheld" in str(caught.value)
            assert "public.customers.phone" in str(caught.value.diag.message_detail)
        assert c.execute("select 1").fetchall() == [(1,)]
    assert "withheld" not in repr(shop.bench.recorder.events)
    assert shop.bench.observer.reasons == [Reason.WITNESS, Reason.WITNESS]


@pytest.mark.parametrize("prepare", [False, True])
def test_witness_aborts_the_transaction_for_real(shop: Shop, prepare: bool) -> None:
    with shop.connect(autocommit=False) as c:
        c.execute("INSERT INTO customers(id) VALUES (80)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute("SELECT phone FROM customers", prepare=prepare)
        assert c.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            c.execute("select 1")
        c.commit()
        assert c.execute("select 2").fetchall() == [(2,)]
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 80") == []


def test_witness_asks_by_itself_where_the_client_does_not(shop: Shop) -> None:
    """FETCH through a protocol-level Execute of a SQL cursor, and asyncpg-like execution without Describe."""
    with shop.connect() as c:
        pg = c.pgconn
        for text, fails in ((b"SELECT phone FROM customers", True), (b"SELECT name FROM customers ORDER BY id", False)):
            raw = RawClient(shop)
            raw.send(("P", b"s1\0" + text + b"\0\0\0"), ("B", b"\0s1\0\0\0\0\0\0\0"), ("E", b"\0\0\0\0\0"), ("S", b""))
            kinds = raw.until_ready()
            assert ("E" in kinds) is fails
            assert ("D" in kinds) is not fails
            assert "T" not in kinds
            raw.close()
        assert pg.status == psycopg.pq.ConnStatus.OK


class RawClient:
    """A client that sends exactly what a test says."""

    def __init__(self, shop: Shop) -> None:
        self._socket = socket.create_connection(("127.0.0.1", shop.proxy.port), timeout=10)
        name = shop.dsn.rpartition("/")[2].partition("?")[0]
        body = b"\0\3\0\0user\0postgres\0database\0" + name.encode() + b"\0\0"
        self._socket.sendall((len(body) + 4).to_bytes(4, "big") + body)
        self._buffer = b""
        self.rows: list[bytes] = []
        self.errors: list[bytes] = []
        self.until_ready()

    def send(self, *messages: tuple[str, bytes]) -> None:
        self._socket.sendall(b"".join(k.encode() + (len(b) + 4).to_bytes(4, "big") + b for k, b in messages))

    def read(self) -> tuple[str, bytes]:
        while len(self._buffer) < 5 or len(self._buffer) < 1 + int.from_bytes(self._buffer[1:5], "big"):
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError
            self._buffer += data
        size = 1 + int.from_bytes(self._buffer[1:5], "big")
        kind, body = chr(self._buffer[0]), self._buffer[5:size]
        self._buffer = self._buffer[size:]
        if kind == "D":
            self.rows.append(body)
        elif kind == "K":
            self.key = body
        elif kind == "E":
            self.errors.append(body)
        return kind, body

    def until_ready(self) -> str:
        kinds = ""
        while True:
            kind, body = self.read()
            if kind not in "SKN":
                kinds += kind
            if kind == "Z":
                self.status = body
                return kinds

    def close(self) -> None:
        self._socket.close()


def test_copy_both_ways(shop: Shop) -> None:
    with shop.connect() as c:
        c.execute("CREATE TABLE plain (a int, b text)")
        with c.cursor() as cursor:
            with cursor.copy("COPY plain FROM STDIN") as copy:
                for n in range(1000):
                    copy.write_row((n, "x" * 100))
            with cursor.copy("COPY plain TO STDOUT") as copy:
                assert len(list(copy.rows())) == 1000
            with pytest.raises(psycopg.errors.InvalidTextRepresentation), cursor.copy("COPY plain FROM STDIN") as copy:
                copy.write(b"bad\tb\n" * 10000)
            with pytest.raises(ZeroDivisionError):
                fail_in_copy(cursor)
            assert cursor.execute("select count(*) from plain").fetchone() == (1000,)


async def test_copy_in_the_extended_protocol(shop: Shop) -> None:
    c = await asyncpg.connect(shop.dsn)
    try:
        await c.execute("CREATE TABLE plain (a int, b text)")
        await c.copy_records_to_table("plain", records=[(n, "y") for n in range(500)])
        assert await c.fetchval("select count(*) from plain") == 500
    finally:
        await c.close()
    raw = RawClient(shop)
    # The Sync behind the Execute reaches the server while it reads COPY data, and means nothing.
    raw.send(
        ("P", b"\0COPY plain FROM STDIN\0\0\0"),
        ("B", b"\0\0\0\0\0\0\0\0"),
        ("E", b"\0\0\0\0\0"),
        ("S", b""),
        ("d", b"900\tz\n"),
        ("c", b""),
        ("S", b""),
    )
    assert raw.until_ready() == "12GCZ"
    raw.send(("Q", b"select a from plain where a = 900\0"))
    assert raw.until_ready() == "TDCZ"
    raw.close()


def test_cancel_reaches_the_server(shop: Shop) -> None:
    raw = RawClient(shop)
    raw.send(("Q", b"select pg_sleep(20)\0"))
    settle(
        shop,
        lambda: rows_direct(shop, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%'")[0][0] > 1,
    )
    body = (80877102).to_bytes(4, "big") + raw.key
    with socket.create_connection(("127.0.0.1", shop.proxy.port)) as cancel:
        cancel.sendall((len(body) + 4).to_bytes(4, "big") + body)
    assert raw.until_ready() in ("EZ", "TEZ")
    assert b"57014" in raw.errors[0]
    raw.close()


def test_notifications_come_at_any_time(shop: Shop) -> None:
    with shop.connect() as c, psycopg.connect(shop.direct, autocommit=True) as other:
        c.execute("LISTEN news")
        other.execute("NOTIFY news, 'hello'")
        assert [n.payload for n in c.notifies(timeout=5, stop_after=1)] == ["hello"]


def test_settings_are_asked_for_without_touching_the_unnamed_statement(shop: Shop) -> None:
    def by_path(_sql: bytes, settings: Settings) -> Decision:
        if settings.search_path is None:
            return NeedSettings()
        return Admit(NAMES.encode(), OffsetMap(), (plan(PLAIN, opened(CARD), opened(BORN)),), "s", 1)

    shop.bench.judge.table[NAMES.encode()] = by_path
    raw = RawClient(shop)
    raw.send(
        ("P", b"\0SELECT 41 + 1\0\0\0"),
        ("P", b"s\0" + NAMES.encode() + b"\0\0\0"),
        ("B", b"\0\0\0\0\0\0\0\0"),
        ("E", b"\0\0\0\0\0"),
        ("S", b""),
    )
    assert raw.until_ready() == "112DCZ"
    assert raw.rows[-1].endswith(b"42")
    raw.send(("B", b"\0s\0\0\0\0\0\0\0"), ("D", b"P\0"), ("E", b"\0\0\0\0\0"), ("S", b""))
    assert raw.until_ready() == "2TDDDCZ"
    raw.send(("Q", b"SET search_path TO pg_catalog, public\0"))
    raw.until_ready()
    raw.send(("Q", NAMES.encode() + b"\0"))
    assert raw.until_ready() == "TDDDCZ"
    raw.close()
    paths = [s.search_path for t, s in shop.bench.judge.asked if t == NAMES.encode() and s.search_path]
    assert paths[0] == ("pg_catalog", "public")
    assert paths[-1] == ("pg_catalog", "public")
    assert shop.bench.judge.asked[-1][1].database_role == "postgres"


def test_settings_that_change_within_a_pipeline(shop: Shop) -> None:
    seen: list[Settings] = []

    def note(_sql: bytes, settings: Settings) -> Decision:
        seen.append(settings)
        return Admit(b"SELECT 1", OffsetMap(), (plan(COMPUTED),), "s", 1)

    shop.bench.judge.table[b"SELECT 1"] = note
    raw = RawClient(shop)
    raw.send(
        ("P", b"\0SET standard_conforming_strings = off\0\0\0"),
        ("B", b"\0\0\0\0\0\0\0\0"),
        ("E", b"\0\0\0\0\0"),
        ("P", b"\0SELECT 1\0\0\0"),
        ("B", b"\0\0\0\0\0\0\0\0"),
        ("E", b"\0\0\0\0\0"),
        ("S", b""),
    )
    assert raw.until_ready() == "12C12DCZ"
    raw.close()
    # The first time it is asked whether the text passes whatever the settings are.
    assert [s.standard_conforming_strings for s in seen if s.search_path is not None] == [False]


def test_settings_that_a_rollback_takes_back(shop: Shop) -> None:
    seen: list[tuple[str, ...] | None] = []

    def note(_sql: bytes, settings: Settings) -> Decision:
        if settings.search_path is None:
            return NeedSettings()
        seen.append(settings.search_path)
        return Admit(b"SELECT 1", OffsetMap(), (plan(COMPUTED),), "s", 1)

    shop.bench.judge.table[b"SELECT 1"] = note
    with shop.connect(autocommit=False) as c:
        c.execute("SELECT 1")
        c.execute("SET search_path TO information_schema")
        c.execute("SELECT 1")
        c.rollback()
        c.execute("SELECT 1")
        c.execute("SET LOCAL search_path TO information_schema")
        c.execute("SELECT 1")
        c.commit()
        c.execute("SELECT 1")
    plain, changed = ("pg_catalog", "public"), ("pg_catalog", "information_schema")
    assert seen == [plain, changed, plain, changed, plain]


def test_unknown_settings_in_a_failed_transaction(shop: Shop) -> None:
    shop.bench.judge.table[b"SELECT 1"] = NeedSettings()
    with shop.connect(autocommit=False) as c:
        with pytest.raises(psycopg.NotSupportedError):
            c.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            c.execute("SELECT 1")
        c.rollback()
        assert c.execute("select 2").fetchall() == [(2,)]


def test_a_prepared_statement_is_judged_again(shop: Shop) -> None:
    names(shop)
    judge = shop.bench.judge
    with shop.connect() as c:
        c.prepare_threshold = 0
        assert c.execute(NAMES).fetchall() == CARDS3
        judge.generation = 2
        assert c.execute(NAMES).fetchall() == CARDS3
        judge.generation = 3
        judge.admit(NAMES, plan(PLAIN, opened(CARD, Verdict.MASKED), opened(BORN)))
        assert c.execute(NAMES).fetchall()[0][1] == "***************0123", "made again (ADR 0029)"
        judge.generation = 4
        forbid(shop, NAMES)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute(NAMES)


def test_deallocated_statements_are_forgotten(shop: Shop) -> None:
    names(shop)
    with shop.connect() as c:
        c.prepare_threshold = 0
        c.prepared_max = 3
        for n in range(30):
            assert c.execute(f"select {n}").fetchall() == [(n,)]
        assert c.execute(NAMES).fetchall() == CARDS3
        c.execute("DEALLOCATE ALL")
        held = shop.bench.sessions[-1]._state.statements
        assert len(held) <= 1


def test_names_taken_over_in_sql_are_checked_again(shop: Shop) -> None:
    raw = RawClient(shop)
    raw.send(("P", b"s\0SELECT name FROM customers\0\0\0"), ("D", b"Ss\0"), ("S", b""))
    assert raw.until_ready() == "1tTZ"
    raw.send(("Q", b"DEALLOCATE s; PREPARE s AS SELECT phone FROM customers\0"))
    raw.until_ready()
    raw.send(("B", b"\0s\0\0\0\0\0\0\0"), ("E", b"\0\0\0\0\0"), ("S", b""))
    assert raw.until_ready() == "2EZ"
    assert raw.rows == []
    raw.send(("Q", b"BEGIN; DECLARE k CURSOR FOR SELECT phone FROM customers\0"))
    raw.until_ready()
    raw.send(("E", b"k\0\0\0\0\0"), ("S", b""))
    assert raw.until_ready() == "EZ"
    assert (raw.rows, raw.status) == ([], b"E")
    raw.close()


def test_damaged_value_fails_the_statement_and_the_transaction(shop: Shop) -> None:
    with psycopg.connect(shop.direct, autocommit=True) as direct:
        direct.execute(
            "UPDATE customers SET card = (SELECT born FROM customers WHERE id = 1), score = 'junk' WHERE id = 2"
        )
    names(shop)
    scores = "SELECT score FROM customers ORDER BY id"
    shop.bench.judge.admit(scores, plan(opened(SCORE)))
    with shop.connect(autocommit=False) as c:
        for prepare in (False, True):
            c.execute("INSERT INTO customers(id) VALUES (90)")
            with pytest.raises(psycopg.errors.DataCorrupted) as caught:
                c.execute(NAMES, prepare=prepare)
            assert "public.customers.card" in str(caught.value)
            assert c.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
            c.commit()
        assert c.execute(scores).fetchall() == [(7,), (-1,), (-12,)]
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 90") == []


def test_damage_in_a_pipeline_rolls_the_batch_back(shop: Shop) -> None:
    with psycopg.connect(shop.direct, autocommit=True) as direct:
        direct.execute("UPDATE customers SET card = 'junk' WHERE id = 2")
    names(shop)
    with shop.connect() as c:
        with pytest.raises(psycopg.errors.DataCorrupted):
            pipelined(c, "INSERT INTO customers(id) VALUES (91)", NAMES)
        assert c.execute("select 1").fetchall() == [(1,)]
    assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 91") == []


def test_function_calls_are_for_large_objects(shop: Shop) -> None:
    raw = RawClient(shop)
    raw.send(("Q", b"BEGIN\0"))
    raw.until_ready()
    raw.send(
        ("F", (957).to_bytes(4, "big") + b"\0\1\0\1" + b"\0\1" + (4).to_bytes(4, "big") + b"\xff\xff\xff\xff" + b"\0\1")
    )
    assert raw.until_ready() == "VZ"
    raw.send(("F", (2923).to_bytes(4, "big") + b"\0\0\0\0\0\0"))
    assert raw.until_ready() == "EZ"
    assert b"0AP01" in raw.errors[0]
    assert raw.status == b"E"
    raw.close()


def test_large_values_stream(shop: Shop) -> None:
    size = 20_000_000
    with shop.connect() as c:
        c.execute("CREATE TEMP TABLE big (a text)")
        c.execute("INSERT INTO big VALUES (%s)", ("x" * size,))
        found = c.execute("SELECT a FROM big").fetchone()
        assert found is not None
        assert len(found[0]) == size
    assert shop.bench.observer.objects == 0


def test_ddl_makes_the_catalog_be_read_again(shop: Shop) -> None:
    with shop.connect() as c:
        c.execute("CREATE TABLE other (a int)")
        c.execute("select 1")
        assert shop.proxy.refreshes == 1
        with c.transaction():
            c.execute("DROP TABLE other")
            c.execute("select 1")
            assert shop.proxy.refreshes == 1
        c.execute("select 1")
        assert shop.proxy.refreshes == 2


# -- audit -----------------------------------------------------------------------------------------------------------------------------


def settle(shop: Shop, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("prepare", [False, True])
def test_nothing_leaves_before_the_record_is_durable(shop: Shop, prepare: bool) -> None:
    names(shop)
    recorder = shop.bench.recorder
    recorder.prompt = False
    got: list[Any] = []
    with shop.connect() as c:
        thread = threading.Thread(target=lambda: got.append(c.execute(NAMES, prepare=prepare).fetchall()))
        thread.start()
        settle(shop, lambda: recorder.kinds() == ["StatementStarted"] and not shop.bench.sessions[-1].wants_server)
        assert not got
        shop.proxy.do(lambda session: session.audit_durable(recorder.flush()))
        thread.join(10)
        assert got == [CARDS3]


@pytest.mark.parametrize("prepare", [False, True])
def test_a_write_is_not_committed_before_its_record_is_durable(shop: Shop, prepare: bool) -> None:
    text = "INSERT INTO customers(id) VALUES (95)"
    shop.bench.judge.admit(text, plan(writes=True, action=Action.INSERT))
    recorder = shop.bench.recorder
    with shop.connect() as c:
        c.execute("select 1")
        recorder.prompt = False
        thread = threading.Thread(target=lambda: c.execute(text, prepare=prepare))
        thread.start()
        settle(shop, lambda: recorder.kinds() == ["StatementStarted"])
        time.sleep(0.2)
        assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 95") == []
        shop.proxy.do(lambda session: session.audit_durable(recorder.flush()))
        thread.join(10)
    assert len(rows_direct(shop, "SELECT 1 FROM customers WHERE id = 95")) == 1


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_log_that_fails_ends_what_waits_for_it(shop: Shop, prepare: bool, writes: bool) -> None:
    text = "INSERT INTO customers(id) VALUES (96)" if writes else NAMES
    if writes:
        shop.bench.judge.admit(text, plan(writes=True, action=Action.INSERT))
    else:
        names(shop)
    recorder = shop.bench.recorder
    caught: list[Exception] = []

    def run() -> None:
        try:
            c.execute(text, prepare=prepare)
        except psycopg.Error as error:
            caught.append(error)

    with shop.connect() as c:
        recorder.prompt = False
        thread = threading.Thread(target=run)
        thread.start()
        settle(shop, lambda: "StatementStarted" in recorder.kinds())
        time.sleep(0.1)
        recorder.down = True
        shop.proxy.do(lambda session: session.audit_failed())
        thread.join(10)
        assert [type(e) for e in caught] == [psycopg.errors.IoError]
        caught.clear()
        run()
        assert [type(e) for e in caught] == [psycopg.errors.IoError]
        assert c.execute("select 1").fetchall() == [(1,)]
        recorder.down, recorder.prompt = False, True
        assert rows_direct(shop, "SELECT 1 FROM customers WHERE id = 96") == []
        c.execute(text, prepare=prepare)


async def test_many_sessions_at_once(shop: Shop) -> None:
    names(shop)

    async def one(number: int) -> None:
        c = await asyncpg.connect(shop.dsn)
        try:
            for _ in range(10):
                assert await c.fetchval("select $1::int", number) == number
                assert [tuple(r) for r in await c.fetch(NAMES)] == CARDS3
        finally:
            await c.close()

    await asyncio.gather(*(one(n) for n in range(8)))
