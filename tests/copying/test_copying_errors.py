"""What goes wrong in a COPY: the server's own errors and states, as on plain data, but for values of sealed columns, which no error shows."""

from __future__ import annotations

import asyncio
import select
from typing import Any

import asyncpg
import psycopg
import pytest

from audit.event import Refused, StatementEnded, StatementStarted
from keys.sealed_sql import checked

from .conftest import Copied, copy_in, copy_out

INTRANS = psycopg.pq.TransactionStatus.INTRANS
INERROR = psycopg.pq.TransactionStatus.INERROR
IDLE = psycopg.pq.TransactionStatus.IDLE


@pytest.fixture(autouse=True)
def emptied(every: Copied) -> None:
    """Both tables are empty."""
    with every.plainly() as direct:
        direct.execute("truncate plain, sealed, lone, lone_plain")


def told(connection: psycopg.Connection[Any], text: str, data: bytes, size: int = 1 << 20) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as raised:
        copy_in(connection, text, data, size)
    return raised.value


def the_same(every: Copied, rest: str, data: bytes, *, context: bool = True) -> psycopg.Error:
    """The error of a COPY into the sealed table, checked against the plain one's."""
    with every.plainly() as direct, every.connect() as through:
        expected = told(direct, f"copy plain {rest}", data)
        got = told(through, f"copy sealed {rest}", data)
        assert through.info.transaction_status == IDLE
        assert through.execute("select 1").fetchone() == (1,)
        assert through.execute("select count(*) from sealed").fetchone() == (0,)
    assert got.sqlstate == expected.sqlstate
    there = (expected.diag.context or "").replace("COPY plain", "COPY sealed").split(": ")[0]
    if context:
        assert (got.diag.context or "").split(": ")[0] == there
    return got


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_bad_value_ends_the_copy(every: Copied, size: int) -> None:
    data = b"1\t1990-01-01\n2\tnot-a-date\n3\t1990-01-01\n" * 3
    with every.connect() as through:
        got = told(through, "copy sealed (id, born) from stdin", data, size)
        assert got.diag.sqlstate == "22007"
        assert got.diag.message_primary == "invalid input syntax for type date"
        assert got.diag.context == "COPY sealed, line 2, column born"
        assert "not-a-date" not in str(got)
        assert through.execute("select count(*) from sealed").fetchone() == (0,)
        copy_in(through, "copy sealed (id, born) from stdin", b"4\t1990-01-01\n")
        assert through.execute("select id from sealed where born = '1990-01-01'").fetchall() == [(4,)]


@pytest.mark.parametrize(
    ("rest", "data"),
    [
        ("(id, born) from stdin", b"1\t1990-01-01\nx\tbad\n"),  # the plain column's error comes first
        ("(born, id) from stdin", b"1990-01-01\t1\nbad\tx\n"),
        ("(id, card) from stdin", b"1\t" + b"9" * 20 + b"\n"),
        ("(id, card) from stdin", b"1\ta\tb\n"),
        ("(id, card, born) from stdin", b"1\ta\n"),
        ("(id, card) from stdin", b"1\ta\r\n2\tb\n"),
        ("(id, card) from stdin", b"1\ta\n2\tb\r\n"),
        ("(id, card) from stdin", b"1\ta\n\\.x\n"),
        ("(id, card) from stdin (format csv)", b'1,"a\n2,b\n'),
        ("(id, card) from stdin (format csv)", b"1,a\n2,b\r3,c\n"),
        ("(id, note) from stdin (format csv)", b'1,"a\nb"\nx,"c"\n'),
        ("(id, card, nosuch) from stdin", b""),
        ("(id, card, id) from stdin", b""),
        ("(id, card, twice) from stdin", b""),
        ("(id, born) from stdin (format binary)", b"no binary"),
        ("(id, born) from stdin (format binary)", b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\3"),
        ("(id, born) from stdin (format binary)", b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2\0\0\0\4"),
        ("(id, born) from stdin (format binary)", b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2\0\0\0\4\0\0\0\1\0\0\0\2xx"),
        ("(id, born) from stdin (format binary)", b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff!"),
        ("(id, born) from stdin (format binary)", b"PGCOPY\n\xff\r\n\0\0\1\0\0\0\0\0\0"),
        ("(id, card) from stdin (header match)", b"id\tcards\n1\ta\n"),
    ],
)
def test_errors_are_those_of_plain_data(every: Copied, rest: str, data: bytes) -> None:
    the_same(every, rest, data)


@pytest.mark.parametrize("data", [b"1\t\xff\n", b"1\t\\377\n"])
def test_text_that_is_none(every: Copied, data: bytes) -> None:
    """The server finds it before it knows of columns."""
    the_same(every, "(id, note) from stdin", data, context=False)


def test_the_transaction_is_what_the_client_was_told(every: Copied) -> None:
    with every.connect(autocommit=False) as through:
        through.execute("insert into sealed (id) values (0)")
        told(through, "copy sealed (id, born) from stdin", b"1\tx\n")
        assert through.info.transaction_status == INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            copy_in(through, "copy sealed (id, born) from stdin", b"1\t1990-01-01\n")
        through.rollback()
        copy_in(through, "copy sealed (id, born) from stdin", b"1\t1990-01-01\n")
        assert through.info.transaction_status == INTRANS
        through.rollback()
        assert through.execute("select count(*) from sealed").fetchone() == (0,)


def test_the_client_gives_up(every: Copied) -> None:
    def give_up(connection: psycopg.Connection[Any]) -> None:
        with connection.cursor() as cursor, cursor.copy("copy sealed (id, card) from stdin") as copy:
            copy.write(b"1\ta\n2\tb")
            raise ZeroDivisionError

    with every.connect() as through:
        with pytest.raises(ZeroDivisionError):
            give_up(through)
        assert through.execute("select count(*) from sealed").fetchone() == (0,)


def test_the_server_s_error_in_the_middle(every: Copied) -> None:
    with every.connect() as through:
        got = told(
            through, "copy sealed (id, card) from stdin", b"1\ta\n" + b"x\tcanary-7\n" + b"3\tb\n" * 20_000, 4096
        )
        assert got.sqlstate == "22P02"
        assert "canary-7" not in str(got)
        assert through.execute("select count(*) from sealed").fetchone() == (0,)


def test_a_value_that_does_not_open_ends_the_copy(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        copy_in(through, "copy sealed (id, card) from stdin", b"1\ta\n2\tb\n")
        direct.execute("alter table sealed disable trigger all")
        forged = checked("overlay(left(card::text, -7) placing 'zzzz' from 8)")
        direct.execute(f"update sealed set card = (select {forged} from sealed where id = 1) where id = 2".encode())
        with pytest.raises(psycopg.Error, match="cannot be opened") as raised:
            copy_out(through, "copy (select id, card from sealed order by id) to stdout")
        assert raised.value.sqlstate == "XX001"
        assert through.execute("select 1").fetchone() == (1,)


def test_on_error_ignore_leaves_the_row_out(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        if direct.info.server_version < 170_000:
            pytest.skip("ON_ERROR is new in 17")
        data = b"1\t1990-01-01\n2\tbad\nx\t1990-01-01\n4\t1991-01-01\n"
        expected = copy_in(direct, "copy plain (id, born) from stdin (on_error ignore)", data)
        assert copy_in(through, "copy sealed (id, born) from stdin (on_error ignore)", data) == expected == "COPY 2"
        assert [r[0] for r in through.execute("select id from sealed order by id").fetchall()] == [1, 4]


def test_what_is_left_out_is_told_without_words_of_pgveils(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        if direct.info.server_version < 170_000:
            pytest.skip("LOG_VERBOSITY is new in 17")
        told: dict[str, list[str]] = {"direct": [], "through": []}
        direct.add_notice_handler(lambda notice: told["direct"].append(str(notice.message_primary)))
        through.add_notice_handler(lambda notice: told["through"].append(str(notice.message_primary)))
        data = b"1\t1990-01-01\n2\tbad\n3\tworse\nx\t1990-01-01\n"
        options = "(on_error ignore, log_verbosity verbose)"
        copy_in(direct, f"copy plain (id, born) from stdin {options}", data)
        copy_in(through, f"copy sealed (id, born) from stdin {options}", data)
        shown = [line.replace('"bad"', '"<refused>"').replace('"worse"', '"<refused>"') for line in told["direct"]]
        assert len(shown) == 4
        assert told["through"] == shown


def test_default_marker(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        if direct.info.server_version < 160_000:
            pytest.skip("DEFAULT is new in 16")
        data = b"1\tQQ\tQQ\n2\ta\t\\N\n"
        copy_in(direct, "copy plain (id, card, plain) from stdin (default 'QQ')", data)
        copy_in(through, "copy sealed (id, card, plain) from stdin (default 'QQ')", data)
        assert (
            through.execute("select id, card, plain from sealed order by id").fetchall()
            == direct.execute("select id, card, plain from plain order by id").fetchall()
        )


def test_force_null_and_force_not_null(every: Copied) -> None:
    form = "(id, card, note) from stdin (format csv, null 'nil', force_null (card), force_not_null (note))"
    data = b'1,nil,nil\n2,"nil","nil"\n3,x,y\n'
    with every.plainly() as direct, every.connect() as through:
        copy_in(direct, f"copy plain {form}", data)
        copy_in(through, f"copy sealed {form}", data)
        assert (
            through.execute("select id, card, note from sealed order by id").fetchall()
            == direct.execute("select id, card, note from plain order by id").fetchall()
        )


def test_an_end_marker_and_what_follows(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        for form, data in (
            ("text", b"1\ta\n\\.\n2\tb\n"),
            ("text", b"1\ta\r\n\\.\r\nrest"),
            ("csv", b"1,a\n\\.\n2,b\n"),
            ("csv", b'1,a\n"\\.",b\n'),
        ):
            outcomes = []
            for connection, table in ((direct, "plain"), (through, "sealed")):
                connection.execute(f"truncate {table}")
                try:
                    outcomes.append(copy_in(connection, f"copy {table} (id, card) from stdin (format {form})", data))
                except psycopg.Error as error:
                    outcomes.append(error.sqlstate or "")
            assert outcomes[0] == outcomes[1], (form, data)


def test_a_condition(every: Copied) -> None:
    with every.connect() as through:
        copy_in(through, "copy sealed (id, card) from stdin where id > 1", b"1\ta\n2\tb\n")
        assert through.execute("select id, card from sealed").fetchall() == [(2, "b")]
        for condition in ("card is null", "sealed is not null", "sealed.card = 'a'"):
            assert told(through, f"copy sealed (id, card) from stdin where {condition}", b"").sqlstate == "0AP01"


def test_roles(every: Copied) -> None:
    with every.connect() as through:
        copy_in(
            through,
            "copy sealed (id, name, card, note, born) from stdin",
            b"1\tAnn Lee\t6222021234567890123\ttall\t1990-02-03\n",
        )
    with every.connect("copy_agent") as agent:
        masks = agent.execute("select id, name, card, note, born from sealed").fetchone()
        assert masks is not None
        line = "\t".join("\\N" if v is None else str(v) for v in masks) + "\n"
        assert b"".join(copy_out(agent, "copy sealed (id, name, card, note, born) to stdout")) == line.encode()
        assert (
            b"".join(copy_out(agent, "copy (select id, name, card, note, born from sealed) to stdout")) == line.encode()
        )
        whole = b"".join(copy_out(agent, "copy sealed to stdout (format csv, header)"))
        assert b"Ann Lee" not in whole
        assert b"6222021234567890123" not in whole
        # Nobody with limits has a value sealed of its own choosing (ADR 0027); what nothing compares may come in.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            copy_in(agent, "copy sealed (id, name, card) from stdin", b"2\tBob\t4000\n")
        copy_in(agent, "copy sealed (id, name) from stdin", b"2\tBob\n")
        assert "Bob" not in str(agent.execute("select name from sealed where id = 2").fetchone())
    with every.connect("copy_analyst") as analyst:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            copy_out(analyst, "copy sealed (id, card) to stdout")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            copy_in(analyst, "copy sealed (id, card) from stdin", b"3\t5000\n")
    with every.connect() as through:
        assert through.execute("select id, name, card from sealed where id > 1 order by id").fetchall() == [
            (2, "Bob", "none")
        ]


def test_refused_forms(every: Copied) -> None:
    with every.connect() as through:
        for text in (
            "copy sealed to '/tmp/x'",
            "copy sealed from program 'cat /etc/passwd'",
            "copy (select card from sealed) to '/tmp/x'",
            "copy sealed to stdout; select 1",
            "copy sealed to stdout (format xml)",
            "copy sealed to stdout (encoding 'GBK')",
        ):
            with pytest.raises(psycopg.Error) as raised:
                through.execute(text)
            assert raised.value.sqlstate == "0AP01", text


def test_the_record(every: Copied) -> None:
    bench = every.bench()
    with every.connect() as through:
        del bench.recorder.events[:]
        copy_in(through, "copy sealed (id, card) from stdin", b"1\ta\n2\tb\n")
        copy_out(through, "copy sealed (id, card) to stdout")
        told(through, "copy sealed (id, born) from stdin", b"1\tx\n")
    started = [e for e in bench.recorder.events if isinstance(e, StatementStarted)]
    ended = [e for e in bench.recorder.events if isinstance(e, StatementEnded)]
    refused = [e for e in bench.recorder.events if isinstance(e, Refused)]
    assert [(e.action, [(c.column, c.read, c.written) for c in e.columns]) for e in started] == [
        ("copy", [("public.sealed.card", False, True)]),
        ("copy", [("public.sealed.card", True, False)]),
        ("copy", [("public.sealed.born", False, True)]),
    ]
    assert [(e.outcome, e.rows, e.sqlstate) for e in ended] == [
        ("ok", 2, None),
        ("ok", 2, None),
        ("error", None, "22007"),
    ]
    assert [(e.reason, e.column) for e in refused] == [("bad_value", "public.sealed.born")]


async def _asyncpg(every: Copied) -> None:
    connection = await asyncpg.connect(every.dsn("copy_teller"))
    try:
        tag = await connection.copy_records_to_table(
            "sealed", records=[(i, f"card-{i}", None) for i in range(2000)], columns=["id", "card", "born"]
        )
        assert tag == "COPY 2000"
        out: list[bytes] = []

        async def keep(data: bytes) -> None:
            out.append(data)

        assert (
            await connection.copy_from_table("sealed", columns=["id", "card"], output=keep, format="csv") == "COPY 2000"
        )
        assert b"".join(out).startswith(b"0,card-0\n1,card-1\n")
        with pytest.raises(asyncpg.DataError):
            await connection.copy_records_to_table("sealed", records=[(1, "x" * 20)], columns=["id", "card"])
        assert await connection.fetchval("select count(*) from sealed where card = 'card-7'") == 1
    finally:
        await connection.close()


def test_asyncpg(every: Copied) -> None:
    asyncio.run(asyncio.wait_for(_asyncpg(every), 60))


def test_the_extended_protocol(every: Copied) -> None:
    with every.connect() as through:
        pg = through.pgconn
        for _ in range(2):
            assert asked(pg, b"copy sealed (id, card) from stdin") == (COPY_IN, None)
            pg.put_copy_data(b"1\ta\n2\t")
            pg.put_copy_data(b"b\n")
            pg.put_copy_end()
            assert result(pg) == (COMMAND_OK, None)
            assert result(pg) is None
        assert asked(pg, b"copy sealed (id, born) from stdin") == (COPY_IN, None)
        pg.put_copy_data(b"1\tbad\n")
        pg.put_copy_data(b"2\t1990-01-01\n" * 1000)
        pg.put_copy_end()
        assert result(pg) == (FATAL_ERROR, b"22007")
        assert result(pg) is None
        assert asked(pg, b"copy sealed (id, card) to stdout") == (COPY_OUT, None)
        assert sorted(lines(pg)) == [b"1\ta\n", b"1\ta\n", b"2\tb\n", b"2\tb\n"]
        assert result(pg) == (COMMAND_OK, None)
        assert result(pg) is None
        assert asked(pg, b"copy sealed (id, nosuch) to stdout") == (FATAL_ERROR, b"42703")
        assert result(pg) is None
        assert through.execute("select count(*) from sealed").fetchone() == (4,)


COPY_IN, COPY_OUT = psycopg.pq.ExecStatus.COPY_IN, psycopg.pq.ExecStatus.COPY_OUT
COMMAND_OK, FATAL_ERROR = psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.FATAL_ERROR


def asked(pg: psycopg.pq.abc.PGconn, text: bytes) -> tuple[int, bytes | None] | None:
    """Send a statement by the extended protocol; how it begins."""
    pg.send_query_params(text, None)
    return result(pg)


def come(pg: psycopg.pq.abc.PGconn) -> None:
    """Wait for bytes of the server: libpq would wait without giving the proxy's thread a turn."""
    while pg.flush():
        select.select([], [pg.socket], [], 10)
    select.select([pg.socket], [], [], 10)
    pg.consume_input()


def result(pg: psycopg.pq.abc.PGconn) -> tuple[int, bytes | None] | None:
    """The next result: its status and SQLSTATE."""
    pg.flush()
    while pg.is_busy():
        come(pg)
    found = pg.get_result()
    return None if found is None else (found.status, found.error_field(psycopg.pq.DiagnosticField.SQLSTATE))


def lines(pg: psycopg.pq.abc.PGconn) -> list[bytes]:
    """COPY TO's messages."""
    found = []
    while (item := pg.get_copy_data(1))[0] >= 0:
        if item[0] == 0:
            come(pg)
        else:
            found.append(bytes(item[1]))
    return found


def test_an_error_of_the_witness_is_the_client_s(every: Copied) -> None:
    with every.connect() as through:
        for text, code in (
            ("copy (select card from sealed where nosuch = 1) to stdout", "42703"),
            ("copy (select card, nosuch() from sealed) to stdout", "42883"),
        ):
            with pytest.raises(psycopg.Error) as raised:
                copy_out(through, text)
            assert raised.value.sqlstate == code
            assert raised.value.diag.statement_position == str(text.index("nosuch") + 1)
            assert through.info.transaction_status == IDLE
        assert through.execute("select 1").fetchone() == (1,)


def test_a_table_changed_behind_the_catalog(every: Copied) -> None:
    with every.plainly() as direct, every.connect() as through:
        copy_in(through, "copy sealed (id, card) from stdin", b"1\ta\n")
        direct.execute("alter table sealed add column extra int")
        try:
            for text in ("copy sealed to stdout", "copy sealed from stdin"):
                with pytest.raises(psycopg.Error, match="other columns") as raised:
                    copy_out(through, text)
                assert raised.value.sqlstate == "42501"
            assert copy_out(through, "copy sealed (card) to stdout") == [b"a\n"]
        finally:
            direct.execute("alter table sealed drop column extra")
