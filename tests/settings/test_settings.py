"""Settings travel with statements: whatever changes them, the next statement is read, sealed and shown under them (docs/adr/0030)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from audit.event import Refused, StatementStarted
from proxy.wire import messages as m
from rules.configuration import FORMS, HARMLESS, MEANING

from .conftest import MASKED, Both, errors, rows, run

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

    from .conftest import Twins

READ = "select id, born, seen, body, ratio, day from t order by id"
COMPUTED = "select id, born::text, day::text, born + 1, body::text, upper(name) from t order by id"

# Ways to another DateStyle that logins with limits have, too.
WAYS = [
    "set datestyle to 'German, DMY'",
    "set session datestyle to 'German, DMY'",
    "set local datestyle to 'German, DMY'",
    "select set_config('DateStyle', 'German, DMY', false)",
    "select set_config('datestyle', 'German, DMY', true)",
    "select set_config(lower('DATESTYLE'), 'German, ' || 'DMY', false) from plain where id = 1",
    "with x as (select set_config('DateStyle', 'German, DMY', false) as was) select was from x",
    "update pg_settings set setting = 'German, DMY' where name = 'DateStyle'",
    "update parameters set setting = 'German, DMY' where name = 'DateStyle'",
    "select was from changer",
    "insert into triggered values (1)",
    "select sets('German, DMY')",
    "select calls_sets()",
    "select sets_plainly()",
    "select leaves_clause()",
    "call procedure_sets('SQL, DMY')",
    "set bytea_output to escape",
    "set extra_float_digits to -10",
    "set timezone to 'Asia/Tokyo'",
    "set time zone 'Asia/Kolkata'",
    "select set_config('TimeZone', 'America/New_York', false), set_config('bytea_output', 'escape', false)",
    "reset datestyle",
    "reset all",
    "set client_encoding to 'LATIN1'",
    "set names 'UTF8'",
    "set standard_conforming_strings to off",
    "set role none",
    "set session authorization default",
    "set lc_monetary to 'C'",
    "set xml option document",
    "set intervalstyle to iso_8601",
]
CLEAR_WAYS = [
    "do $$ begin perform set_config('DateStyle', 'German, DMY', false); end $$",
    "do $$ begin execute 'set datestyle to ''German, DMY'''; end $$",
    "select sets_by_text('German, DMY')",
    "select 1 from ts_stat('select to_tsvector(''simple'', set_config(''DateStyle'', ''German, DMY'', false))')",
]


@pytest.mark.parametrize("way", WAYS)
def test_in_one_batch(both: Both, way: str) -> None:
    before = both.query(READ)
    both.say(run(READ), run(way), run(READ), run("select $1::date", "01.02.2030"), m.SYNC)
    both.say(run(COMPUTED), run(way), run(COMPUTED), m.SYNC)
    after = both.query(READ)
    assert len(rows(before)) == len(rows(after)) == 3


@pytest.mark.parametrize("way", CLEAR_WAYS)
def test_in_one_batch_by_what_runs_texts(clear: Both, way: str) -> None:
    clear.say(run(READ), run(way), run(READ), run(COMPUTED), m.SYNC)
    clear.query(READ)


@pytest.mark.parametrize("way", [*WAYS, *CLEAR_WAYS])
def test_what_is_written_behind_it(clear: Both, way: str) -> None:
    zoned = "2030-02-01 10:00:00"
    write = run("insert into t (id, born, seen, day) values (90, $1, $2, $3)", "2030-02-01", zoned, "2030-02-01")
    clear.say(run("begin"), m.SYNC, run(way), write, run("select born, day from t where id = 90"), m.SYNC, times=2)
    clear.say(run("insert into t (id, born, day) values (91, '02.01.2030', '02.01.2030')"), m.SYNC)
    found = rows(clear.query("select born, day from t where id > 80"))
    assert len(found) == 2
    assert all(born == day for born, day in found)
    clear.query("rollback")


@pytest.mark.parametrize("way", WAYS)
def test_pipelined_behind_simple_queries(both: Both, way: str) -> None:
    texts = (way, READ, "begin", way, READ, "rollback", READ)
    both.say(*(m.build_query(t.encode()) for t in texts), times=len(texts))


@pytest.mark.parametrize(
    "way",
    [
        "set datestyle to 'German, DMY'",
        "set local datestyle to 'German, DMY'",
        "select set_config('DateStyle', 'German, DMY', false)",
        "set bytea_output to escape; set time zone 'Asia/Tokyo'",
        "begin; set local datestyle to 'German, DMY'; rollback",
        "begin; set local datestyle to 'German, DMY'; commit",
        "begin; set datestyle to 'German, DMY'; savepoint s; set datestyle to 'SQL, DMY'; rollback to s; commit",
        "reset datestyle",
    ],
)
def test_in_one_text(both: Both, way: str) -> None:
    found = both.query(f"{READ}; {way}; {READ}; select 1; {READ}")
    assert len(rows(found)) >= 10
    both.query(f"begin; {way}; {READ}")
    both.query(f"rollback; {READ}")
    both.query(f"{way}; select 1/0; {READ}")
    both.query(READ)


def test_an_error_in_a_text_stands_where_it_does(twins: Twins) -> None:
    text = "set datestyle to 'German, DMY'; select born, no_such from t"
    twins.through().close()
    port = twins.proxies["set_clear"].port
    dsn = f"postgresql://set_clear@127.0.0.1:{port}/{twins.sealed}?sslmode=disable"
    positions = []
    for each in (twins.server.dsn(twins.plain["set_clear"]), dsn):
        with psycopg.connect(each) as connection, pytest.raises(psycopg.errors.UndefinedColumn) as told:
            connection.execute(text.encode())
        positions.append(told.value.diag.statement_position)
    assert positions[0] == positions[1]


def test_what_ends_a_transaction_undoes_settings(both: Both) -> None:
    for how in ("commit", "rollback", "end", "abort"):
        both.query("begin")
        both.say(run("set local datestyle to 'German, DMY'"), run(READ), run(how), run(READ), m.SYNC)
    both.query("begin")
    both.say(
        run("savepoint s"),
        run("set bytea_output to escape"),
        run(READ),
        run("rollback to s"),
        run(READ),
        run("release s"),
        run("set datestyle to 'SQL, DMY'"),
        m.SYNC,
    )
    both.query(READ)
    both.query("rollback")
    both.query(READ)


def test_what_an_error_undoes(both: Both) -> None:
    both.say(run("set datestyle to 'German, DMY'"), run("set bytea_output to escape"), run("select 1/0"), m.SYNC)
    both.say(run(READ), m.SYNC)
    both.say(run("set bytea_output to escape"), run("select 1/0"), run(READ), m.SYNC, run(READ), m.SYNC, times=2)


def test_a_portal_goes_on_under_other_settings(both: Both) -> None:
    both.query("begin")
    both.say(run(READ, portal=b"p", limit=1), run("set datestyle to 'German, DMY'"), m.build_execute(b"p", 1), m.SYNC)
    both.query("set bytea_output to escape")
    both.say(m.build_execute(b"p", 1), m.SYNC)
    both.query("rollback")


def test_cursors_and_names(both: Both) -> None:
    both.query("begin")
    both.query(f"declare c cursor for {READ}")
    both.say(run("fetch 1 from c"), run("set datestyle to 'German, DMY'"), run("fetch 1 from c"), m.SYNC)
    both.query("set time zone 'Asia/Tokyo'; fetch 1 from c")
    both.query("rollback")
    both.query(f"prepare named as {READ}")
    both.say(run("execute named"), run("set datestyle to 'German, DMY'"), run("execute named"), m.SYNC)


def test_a_statement_that_changes_the_form_of_its_own_values_is_refused(twins: Twins) -> None:
    client = twins.through()
    for text in (
        "select set_config('DateStyle', 'German, DMY', false), born from t",
        "select sets('German, DMY'), born from t",
        "select born from t, changer",
    ):
        assert errors(client.query(text)) == ["0AP01"], text
    for text in (
        "select set_config('app.who', 'x', false), born from t order by id",
        "select has_clause(day), born from t order by id",
    ):
        assert not errors(client.query(text)), text
    client.close()


def test_settings_under_which_texts_are_not_read(twins: Twins) -> None:
    client = twins.through()
    for setting, value in (("array_nulls", "off"), ("transform_null_equals", "on")):
        client.query(f"set {setting} to {value}")
        assert errors(client.query(READ)) == ["0AP01"]
        client.query(f"reset {setting}")
        assert not errors(client.query(READ))
    client.close()


def test_what_the_startup_packet_says(twins: Twins) -> None:
    for login in ("set_clear", MASKED):
        for parameters in (
            {"DateStyle": "German", "TimeZone": "Asia/Tokyo"},
            {"options": "-c datestyle=German,DMY -c bytea_output=escape -c extra_float_digits=-10"},
            {"bytea_output": "escape", "IntervalStyle": "iso_8601"},
        ):
            clients = twins.both(login, **parameters)
            clients.query(READ)
            clients.say(
                run(READ), run("set datestyle to 'SQL, DMY'"), run(READ), run("reset datestyle"), run(READ), m.SYNC
            )
            clients.query(f"discard all; {READ}") if login == "none" else clients.query("discard all")
            clients.query(READ)
            clients.close()


def test_what_a_role_and_a_database_are_given_holds_from_the_next_session_on(twins: Twins) -> None:
    names = (twins.sealed, *twins.plain.values())
    with psycopg.connect(twins.server.dsn(), autocommit=True) as admin:
        clients = twins.both()
        for name in names:
            admin.execute(f"alter role set_clear in database {name} set bytea_output to escape".encode())
            admin.execute(f"alter database {name} set datestyle to 'German, DMY'".encode())
        try:
            clients.query(READ)
            again = twins.both()
            again.query(READ)
            again.query("set datestyle to 'SQL, DMY'")
            again.query(READ)
            again.query("reset all")
            again.query(READ)
            again.close()
        finally:
            clients.close()
            for name in names:
                admin.execute(f"alter role set_clear in database {name} reset all".encode())
                admin.execute(f"alter database {name} reset all".encode())


WRITE = "insert into t (id, born) values (90, '02.01.2030')"


def test_constants_are_read_when_a_statement_is_prepared(clear: Both) -> None:
    clear.query("begin; set datestyle to 'German, DMY'")
    parsed = m.build_parse(b"w", WRITE.encode()) + m.build_parse(
        b"r", b"select born + 1 from t where born < '31.12.1989'"
    )
    clear.say(parsed, m.SYNC)
    clear.query("set datestyle to 'SQL, MDY'")
    bound = m.build_bind(b"", b"w") + m.build_execute(b"")
    clear.say(bound, run("set datestyle to 'ISO, YMD'"), m.build_bind(b"", b"r"), m.build_execute(b""), m.SYNC)
    assert rows(clear.query("select born from t where id = 90")) == [(b"2030-01-02",)]
    clear.query("rollback")


def test_what_the_server_would_read_otherwise_is_refused(twins: Twins) -> None:
    client = twins.through()
    client.query("begin; set datestyle to 'German, DMY'")
    parsed = m.build_parse(b"w", b"insert into t (id, born, day) values (90, '02.01.2030', '02.01.2030')")
    assert not errors(client.say(parsed, m.SYNC).until_ready())
    client.query("savepoint s; set datestyle to 'SQL, MDY'")
    bound = m.build_bind(b"", b"w") + m.build_execute(b"")
    assert errors(client.say(bound, m.SYNC).until_ready()) == ["0AP01"]
    client.query("rollback to s")
    assert not errors(client.say(bound, m.SYNC).until_ready())
    assert rows(client.query("select born, day from t where id = 90")) == [(b"02.01.2030", b"02.01.2030")]
    client.query("rollback")
    client.query("begin")
    client.say(run("select born + 1 from t order by id", portal=b"p", limit=1), m.SYNC).until_ready()
    client.query("savepoint s; set datestyle to 'SQL, MDY'")
    assert errors(client.say(m.build_execute(b"p"), m.SYNC).until_ready()) == ["0AP01"]
    client.close()


def test_parameters_are_read_when_they_come_and_values_shown_when_they_go(clear: Both) -> None:
    clear.query("begin")
    text = "select id, born + $1::int, $2::date from t where born < $2::date + 20000 order by id"
    clear.say(m.build_parse(b"s", text.encode()), m.SYNC)
    clear.query("set datestyle to 'SQL, MDY'")
    clear.say(
        m.build_bind(b"p", b"s", (), (b"1", b"1999-03-04"), ()),
        run("set datestyle to 'German, DMY'"),
        m.build_execute(b"p"),
        m.SYNC,
    )
    clear.query("rollback")


def test_how_texts_are_read_travels_too(both: Both) -> None:
    text = r"select 'a\'', born, name from t where name <> '\\' order by id --'"
    for on in ("off", "on"):
        both.say(run(f"set standard_conforming_strings to {on}"), run(text if on == "off" else READ), m.SYNC)
        both.query(f"set standard_conforming_strings to {on}")
        both.query(r"select '\\', born from t order by id")
    for encoding in ("LATIN1", "UTF8"):
        name = "é".encode(encoding)
        insert = (
            m.build_parse(b"", b"insert into plain values (7, '2001-02-03')")
            + m.build_bind(b"", b"")
            + m.build_execute(b"")
        )
        read = b"select born, '" + name + b"' from t order by id limit 1"
        asked = m.build_parse(b"", read) + m.build_bind(b"", b"") + m.build_describe(b"P", b"") + m.build_execute(b"")
        both.query("begin")
        both.say(run(f"set client_encoding to '{encoding}'"), insert, asked, m.SYNC)
        both.query("rollback")


def test_search_path_travels_too(both: Both) -> None:
    read = "select id, born, name from t order by id limit 1"
    both.say(
        run(read),
        run("select set_config('search_path', 'elsewhere', false)"),
        run(read),
        run("set local search_path to public"),
        run(read),
        m.SYNC,
    )
    both.query(read)
    both.say(run("begin"), run("set local search_path to public"), run(read), run("commit"), run(read), m.SYNC)


def test_a_text_that_ends_the_transaction_of_other_settings(twins: Twins) -> None:
    client = twins.through()
    client.query("begin; set local search_path to elsewhere")
    assert errors(client.query("commit; select born from public.t")) == ["0AP01"]
    client.close()


def test_settings_that_do_not_matter_cost_nothing(twins: Twins) -> None:
    client = twins.through()
    client.query(READ)
    bench = twins.benches["set_clear"]
    state = bench.sessions[-1]._state
    for text in (
        "set application_name to 'x'",
        "set statement_timeout to 1000",
        "select set_config('app.user', 'me', false)",
        "set app.who to 'me'",
        "begin transaction isolation level serializable",
        "set transaction read only",
        "set constraints all deferred",
        "commit",
        "select id, has_clause(day) from plain",
    ):
        assert not errors(client.query(text)), text
        assert state.tracker.known, text
    client.close()


def test_the_record_has_the_application_that_is_in_force(twins: Twins) -> None:
    client = twins.through(application_name="first")
    recorder = twins.benches["set_clear"].recorder
    seen = []
    for text in ("set application_name to 'pooled'", "set application_name to ''", "reset application_name"):
        client.query(text)
        client.query("select born from t limit 1")
        seen.append([e for e in recorder.events if isinstance(e, StatementStarted)][-1].application)
    client.query("set application_name to 'refused'")
    client.query("select set_config('DateStyle', 'German', false), born from t")
    seen.append([e for e in recorder.events if isinstance(e, Refused)][-1].application)
    assert seen == ["pooled", "", "first", "refused"]
    client.close()


def test_every_setting_is_known_to_matter_or_not(any_pg: Postgres) -> None:
    with psycopg.connect(any_pg.dsn()) as connection:
        found = connection.execute(
            "select lower(name) from pg_settings where context in ('user', 'superuser') and name not like '%.%'"
        ).fetchall()
    known = FORMS | MEANING | HARMLESS
    # Of the embedded servers' own making.
    assert {name for (name,) in found} - known <= {
        "composite_type_mismatch",
        "extension_destdir",
        "output_plugin_libraries",
    }
    assert not FORMS & MEANING
    assert not HARMLESS & (FORMS | MEANING)
