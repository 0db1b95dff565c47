"""Typing errors in statements on protected tables get the server's own errors, and no value goes to the server's log for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

Connection = psycopg.Connection[Any]

TYPOS = [
    "selec phone from customers",
    "select phone from customers where",
    "select phone fro customers limit 5",
    "select phone, from customers where id_number = '4111222233334444'",
    "update customers set phone '555' where id = 12",
    "select phone from customers where id = 'x' 77777",
    "insert into customers (id, name valuess (1, 'Mary')",
    "copy customers tu stdout",
    "explain (analyse customers",
    "select array(select phone from customers where nosuch = 1.5)[1:2] || nosuchthing",
    "select phone from customers; selec 1",
    "select count( from customers where name = 'Mary",
    "select name) from customers",
    "select name from customers where id = 1234 and name = E'Mary''s",
    "select name from customers where 'Mary' 1234567 'x'",
]


@pytest.fixture(params=["teller", "agent"])
def connection(world: World, request: pytest.FixtureRequest) -> Iterator[Connection]:
    with psycopg.connect(world.dsn(request.param), autocommit=True) as made:
        yield made


def _error(connection: Connection, text: str, *, simple: bool) -> psycopg.Error:
    if simple:
        return psycopg.errors.error_from_result(connection.pgconn.exec_(text.encode()))
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(text, prepare=True)
    return caught.value


def _told(error: psycopg.Error) -> tuple[Any, ...]:
    d = error.diag
    return d.sqlstate, d.message_primary, d.message_detail, d.message_hint, d.statement_position


@pytest.mark.parametrize("text", TYPOS)
@pytest.mark.parametrize("simple", [True, False])
def test_typing_errors_are_the_servers(world: World, connection: Connection, text: str, simple: bool) -> None:
    if ";" in text and not simple:
        pytest.skip("one statement at a time")
    login = connection.info.user
    with psycopg.connect(world.dsn(login, direct=True), autocommit=True) as direct:
        assert _told(_error(connection, text, simple=simple)) == _told(_error(direct, text, simple=simple))
    assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("simple", [True, False])
def test_what_the_server_accepts_is_refused_as_before(connection: Connection, simple: bool) -> None:
    for text in (
        "select pg_column_size(id_number) from customers",
        "select version() || id_number from customers",
        "select 1; select pg_column_size(id_number) from customers",
    ):
        if ";" in text and not simple:
            continue
        error = _error(connection, text, simple=simple)
        assert error.sqlstate in {"0AP01", "42501"}, text
        assert "pgveil" in str(error) or "sealed" in str(error) or "column" in str(error)
    assert connection.execute("select count(*) from pg_prepared_statements where name ~ 'pgveil'").fetchone() == (0,)


def test_a_typing_error_fails_the_transaction(connection: Connection) -> None:
    text = "select phone from customers where"
    with connection.transaction(force_rollback=True):
        for _ in range(2):
            assert _error(connection, text, simple=False).sqlstate == "42601"
            assert _error(connection, "select nosuch from customers", simple=True).sqlstate in {"42703", "25P02"}
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    assert connection.execute("select 1").fetchone() == (1,)


def test_the_unnamed_statement_is_gone_as_after_any_query(connection: Connection) -> None:
    pgconn = connection.pgconn
    pgconn.prepare(b"", b"select 42")
    pgconn.exec_(b"select phone from customers where")
    result = pgconn.exec_prepared(b"", [])
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"


def test_names_of_ours_cannot_be_executed(connection: Connection) -> None:
    assert _error(connection, "execute pgveil_check", simple=True).sqlstate == "42501"
    result = connection.pgconn.exec_prepared(b"pgveil_check", [])
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"42602"


def test_a_write_that_a_do_block_is_denied_says_so(world: World) -> None:
    """In the server's own words, which name the table; what the block's own text says beside them is not told."""
    with psycopg.connect(world.dsn("agent"), autocommit=True) as agent:
        for sql in (
            "do $$ begin update customers set phone = '13811112222' where id = 7; end $$",
            "do $$ begin execute 'update customers set phone = ''13811112222'' where id = 7'; end $$",
            "do $$ begin perform phone from customers; end $$",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                agent.execute(sql)
            diag = caught.value.diag
            assert diag.message_primary == "permission denied for table customers"
            assert (diag.context, diag.internal_query) == (None, None)
