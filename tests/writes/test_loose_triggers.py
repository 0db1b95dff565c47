"""A trigger function that finds names by the writer's path would put rows into the writer's own table: with masked values, plain (`rules.loose`)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import make_plan
from rules.load import load_rules_text
from tests.writes.conftest import AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.writes.conftest import Bank

MINE = "CREATE TEMP TABLE loose_log (id bigint, phone text)"
WRITE = "UPDATE customers SET city = 'x' WHERE id = 3"
MADE = """
CREATE TABLE loose_log (id bigint, phone text);
GRANT INSERT ON loose_log TO PUBLIC;
CREATE FUNCTION loose() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO loose_log VALUES (OLD.id, OLD.phone); RETURN NEW; END $$;
CREATE TRIGGER loose AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION loose();
"""


@pytest.fixture
def loose(bank: Bank) -> Iterator[Bank]:
    bank.pg.psql(MADE, bank.name)
    try:
        yield bank
    finally:
        bank.pg.psql("DROP FUNCTION loose() CASCADE; DROP TABLE loose_log", bank.name)


def _refused(connection: psycopg.Connection[object], sql: str = WRITE) -> bool:
    error = None
    try:
        connection.execute(sql.encode())
    except psycopg.Error as found:
        error = found
    if error is None:
        return False
    assert "something of this login's own" in str(error)
    assert "ALTER FUNCTION public.loose() SET search_path = public, pg_temp" in str(error.diag.message_hint)
    return True


def _wait(bank: Bank, *, refused: bool) -> None:
    """Until pgveil has read the catalog as it is now."""
    until = time.monotonic() + 20
    with bank.connect(AGENT) as connection:
        connection.execute(MINE)
        while _refused(connection) is not refused:
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.parametrize("prepare", [False, True])
def test_a_trigger_gives_no_row_to_the_login_s_own_table(loose: Bank, prepare: bool) -> None:
    _wait(loose, refused=True)
    with loose.connect(AGENT) as connection:
        connection.execute("PREPARE u AS UPDATE customers SET city = 'x' WHERE id = 3")
        for _ in range(2):
            assert connection.execute(WRITE, prepare=prepare).rowcount == 1
        connection.execute(MINE)
        with pytest.raises(psycopg.Error, match="something of this login's own"):
            connection.execute(WRITE, prepare=prepare)
        for sql in (
            WRITE,
            "UPDATE customers SET city = 'x' WHERE phone LIKE '137%'",
            "EXECUTE u",
            "DELETE FROM orders",
        ):
            assert _refused(connection, sql)
        assert connection.execute("SELECT * FROM pg_temp.loose_log").fetchall() == []
        connection.execute("DROP TABLE pg_temp.loose_log")
        assert connection.execute(WRITE, prepare=prepare).rowcount == 1
        connection.execute("DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE loose' || '_log (id bigint, phone text)'; END $$")
        assert _refused(connection)
    # As the hint says.
    loose.pg.psql("ALTER FUNCTION loose() SET search_path = public, pg_temp", loose.name)
    _wait(loose, refused=False)
    with loose.connect(AGENT) as connection:
        connection.execute(MINE)
        connection.execute(WRITE)
        assert connection.execute("SELECT * FROM pg_temp.loose_log").fetchall() == []


def test_apply_says_which_function(loose: Bank) -> None:
    async def warnings() -> list[str]:
        rules = load_rules_text((loose.home / "rules.yaml").read_text(), "rules.yaml")
        ring = KeyRing.open(loose.home / "keys", FileMasterKey.load(loose.home / "keys" / "master.key"))
        connection = await asyncpg.connect(loose.pg.dsn(loose.name))
        try:
            return [w for w in (await make_plan(connection, rules, ring)).warnings if "search_path" in w]
        finally:
            await connection.close()

    (warning,) = asyncio.run(warnings())
    assert "public.customers" in warning
    assert "ALTER FUNCTION public.loose() SET search_path = public, pg_temp" in warning
