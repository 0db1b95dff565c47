"""A name that code in the database makes stand for something else between judgement and release: what comes is described again, or withheld."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from audit.event import StatementStarted
from proxy.wire import messages as m

from .conftest import MASKED, Client, errors, rows, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Twins

OTHERS = (b"1971-01-02", b"1972-03-04")
READ = "select born from t where id < 3 order by id"
EXCHANGE = "do $$ declare c refcursor := 'pp'; begin close c; open c for {}; end $$"


def bound(text: str, *, statement: bytes = b"q", portal: bytes = b"pp") -> bytes:
    """Parse, Bind and Describe."""
    return (
        m.build_parse(statement, text.encode())
        + m.build_bind(portal, statement)
        + m.build_describe(b"P", portal)
        + m.SYNC
    )


@pytest.fixture
def client(twins: Twins) -> Iterator[Client]:
    made = twins.through()
    made.query("begin")
    yield made
    made.close()


WAYS = [
    EXCHANGE.format("select born from other order by id"),
    EXCHANGE.format("execute 'select born from other order by id'"),
    "select rebinds('pp')",
    "call procedure_rebinds('pp')",
    "do $$ begin execute 'close pp'; execute 'declare pp cursor for select born from other order by id'; end $$",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_an_exchanged_portal_gives_nothing(client: Client, way: str, *, extended: bool) -> None:
    assert not errors(client.say(bound(READ)).until_ready())
    done = client.say(run(way), m.SYNC).until_ready() if extended else client.query(way)
    assert not errors(done)
    found = client.say(m.build_execute(b"pp"), m.SYNC).until_ready()
    assert errors(found) == ["42501"]
    assert rows(found) == []


@pytest.mark.parametrize("way", WAYS)
def test_nor_does_one_in_the_same_batch_or_behind_its_first_rows(client: Client, way: str) -> None:
    assert not errors(client.say(bound(READ)).until_ready())
    found = client.say(m.build_execute(b"pp", 1), run(way), m.build_execute(b"pp"), m.SYNC).until_ready()
    assert errors(found) == ["42501"]
    assert not {value for row in rows(found) for value in row} & {*OTHERS}


def test_nor_does_one_whose_rows_are_computed(client: Client) -> None:
    assert not errors(client.say(bound("select born + 1 from t where id < 3 order by id")).until_ready())
    assert not errors(client.query(EXCHANGE.format("select born from other order by id")))
    found = client.say(m.build_execute(b"pp"), m.SYNC).until_ready()
    assert errors(found) == ["42501"]
    assert rows(found) == []


@pytest.mark.parametrize("column", ["name", "born"])
def test_nor_does_one_that_touched_nothing_protected(client: Client, column: str) -> None:
    assert not errors(client.say(bound("select day from plain order by id")).until_ready())
    assert not errors(client.query(EXCHANGE.format(f"select {column} from t order by id")))
    found = client.say(m.build_execute(b"pp"), m.SYNC).until_ready()
    assert errors(found) == ["42501"]
    assert rows(found) == []


def test_one_of_the_same_columns_is_an_execution_of_its_own(twins: Twins, client: Client) -> None:
    assert not errors(client.say(bound(READ)).until_ready())
    assert rows(client.say(m.build_execute(b"pp", 1), m.SYNC).until_ready()) == [(b"1984-05-06",)]
    assert not errors(client.query(EXCHANGE.format("select born from t where id = 2")))
    assert rows(client.say(m.build_execute(b"pp", 1), m.SYNC).until_ready()) == [(b"1990-11-30",)]
    started = [e for e in twins.benches["set_clear"].recorder.events if isinstance(e, StatementStarted)]
    assert [e.action for e in started[-3:]] == ["select", started[-2].action, "select"]
    assert {c.column for c in started[-2].columns} >= {"public.t.born", "public.other.born", "public.t.name"}


def test_a_prepared_statement_of_another_making(client: Client) -> None:
    assert not errors(client.say(m.build_parse(b"s", READ.encode()), m.SYNC).until_ready())
    assert not errors(
        client.query("do $$ begin execute 'deallocate s'; execute 'prepare s as select born from other'; end $$")
    )
    found = client.say(m.build_bind(b"", b"s"), m.build_execute(b""), m.SYNC).until_ready()
    assert errors(found) == ["42501"]
    assert rows(found) == []


@pytest.mark.parametrize(
    "way",
    [
        "perform swaps()",
        "perform set_config('search_path', 'elsewhere', true)",
        "create temp table t as select id, name as born from public.t",
        "create temp view t as select id, name as born from public.t",
    ],
)
def test_names_of_relations_that_a_block_changes(client: Client, way: str) -> None:
    assert not errors(client.say(m.build_parse(b"s", READ.encode()), m.SYNC).until_ready())
    assert not errors(client.query(f"do $$ begin {way}; end $$"))
    for again in (client.say(m.build_bind(b"", b"s"), m.build_execute(b""), m.SYNC).until_ready, None):
        found = again() if again is not None else client.query(READ)
        values = {value for row in rows(found) for value in row}
        assert not values & {*OTHERS, b"Anna"}, found
        assert errors(found) or values == {b"2020-03-04"}, found
        client.query("savepoint s")


def test_a_function_that_a_block_replaces(twins: Twins) -> None:
    for login in ("set_clear", MASKED):
        client = twins.through(login)
        client.query("begin")
        client.query(
            "do $$ begin execute 'create function pg_temp.f() returns text language sql as ''select 1::text'''; end $$"
        )
        assert not errors(client.say(bound("select pg_temp.f()")).until_ready()) or login == MASKED
        client.query(
            "do $$ begin execute 'create or replace function pg_temp.f() returns text language sql as ''select name from public.t limit 1'''; end $$"
        )
        found = client.say(m.build_execute(b"pp"), m.SYNC).until_ready()
        values = {value for row in rows(found) for value in row}
        assert not values & ({b"Anna"} if login == MASKED else set()), found
        client.close()
