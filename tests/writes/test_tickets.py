"""Tickets: what pgveil vouches for is good for one column, one login and some minutes, past pgveil too (ADR 0015, ADR 0027)."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from keys.lookup import LOOKUP_DOMAIN, TICKET_SECONDS, TICKETS_REMEMBERED, Bearer, ticket
from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from tests.writes.conftest import AGENT, SLOW, TELLER, WRITER

if TYPE_CHECKING:
    from tests.writes.conftest import Bank

PHONE = "public.customers.phone"
GIVEN = "SELECT pgveil_write.given(%s, %s)"


@pytest.fixture(scope="module")
def key(bank: Bank) -> bytes:
    return (
        KeyRing.open(bank.home / "keys", FileMasterKey.load(bank.home / "keys" / "master.key"))
        .newest(LOOKUP_DOMAIN)
        .material
    )


def _made(key: bytes, column: str = PHONE, login: str = WRITER, ago: int = 0) -> str:
    return ticket(key, column, "138 Ж".encode(), Bearer(login, int(time.time()) - ago)).decode()


def test_a_ticket_is_good_for_its_login_now(bank: Bank, key: bytes) -> None:
    with bank.connect(WRITER, direct=True) as connection:
        for ago in (0, TICKET_SECONDS - 60, 60 - TICKET_SECONDS):
            assert connection.execute(GIVEN, (_made(key, ago=ago), PHONE)).fetchone() == ("138 Ж",)
        assert connection.execute(GIVEN, (None, PHONE)).fetchone() == (None,)


@pytest.mark.parametrize("login", [SLOW, AGENT, TELLER])
def test_it_is_no_use_to_another_login(bank: Bank, key: bytes, login: str) -> None:
    with bank.connect(login, direct=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must come through pgveil"):
            connection.execute(GIVEN, (_made(key), PHONE))
        assert connection.execute(GIVEN, (_made(key, login=login), PHONE)).fetchone() == ("138 Ж",)


@pytest.mark.parametrize("ago", [TICKET_SECONDS + 60, 86400, -TICKET_SECONDS - 60])
def test_it_is_no_use_at_another_time(bank: Bank, key: bytes, ago: int) -> None:
    with bank.connect(WRITER, direct=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            connection.execute(GIVEN, (_made(key, ago=ago), PHONE))
        assert "clocks" in str(caught.value.diag.message_hint)


def test_nor_for_another_column_value_or_time(bank: Bank, key: bytes) -> None:
    good = base64.b64decode(_made(key))
    forged = [good[:-1] + b"x", good[:39] + bytes([good[39] ^ 1]) + good[40:], b"", good[:32], good[:36], b"x" * 50]
    with bank.connect(WRITER, direct=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(GIVEN, (_made(key), "public.customers.email"))
        for each in forged[:2] + forged[3:]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(GIVEN, (base64.b64encode(each).decode(), PHONE))


def test_what_is_stored_by_one_login_another_can_not_replay(bank: Bank, key: bytes) -> None:
    """A value's ticket, as pgveil sends it, in a whole statement past pgveil."""
    sql = "UPDATE customers SET phone = pgveil_write.given(%s, %s) WHERE id = 3"
    with bank.connect(WRITER, direct=True) as connection:
        connection.execute("BEGIN")
        assert connection.execute(sql, (_made(key), PHONE)).rowcount == 1
        connection.execute("ROLLBACK")
        for made in (_made(key, login=SLOW), _made(key, ago=3600)):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must come through pgveil"):
                connection.execute(sql, (made, PHONE))
        # Nor do notes of an earlier time let a value in.
        for made in (_made(key, login=SLOW), _made(key, ago=3600)):
            connection.execute("SELECT set_config('pgveil.given', %s, false)", (made + " ",))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must come through pgveil"):
                connection.execute("UPDATE customers SET phone = '138 Ж' WHERE id = 3")


def test_so_much_is_remembered(bank: Bank, key: bytes) -> None:
    """Of a transaction's values, the last ones."""
    values = [f"1380000{n:05}" for n in range(TICKETS_REMEMBERED // 60)]
    bearer = Bearer(WRITER, int(time.time()))
    tickets = [ticket(key, PHONE, value.encode(), bearer).decode() for value in values]
    sql = "UPDATE customers SET phone = %s WHERE id = 3"
    with bank.connect(WRITER, direct=True) as connection:
        connection.execute("BEGIN")
        call = "SELECT count(pgveil_write.given(t.ticket, %s)) FROM unnest(%s::text[]) AS t (ticket)"
        assert connection.execute(call, (PHONE, tickets)).fetchone() == (len(tickets),)
        assert connection.execute(sql, (values[-1],)).rowcount == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must come through pgveil"):
            connection.execute(sql, (values[0],))
        connection.execute("ROLLBACK")
