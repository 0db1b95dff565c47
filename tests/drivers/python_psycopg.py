"""psycopg 3, synchronous and asynchronous, with its pool."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
from psycopg.rows import tuple_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

from tests.drivers.checks import FAILING
from tests.drivers.ground import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

VERSION = psycopg.__version__
LISTED = ", ".join(COLUMNS)
WRITTEN = (
    *("New", "13912345678", "6222020000000009", "12.34", "1999-12-31", "2024-05-06 07:08:09+00", 0.5, 7, True),
    *("00000000-0000-4000-8000-00000000ffff", b"\0\1\xff", Jsonb({"a": [1, None]}), ["x", None, "é"], "happy"),
)


def connect(target: Target, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(
        **{
            "host": target.host,
            "port": target.port,
            "dbname": target.database,
            "user": target.user,
            "password": target.password,
            "sslmode": "verify-full",
            "sslrootcert": str(target.root_certificate),
            "autocommit": True,
            "connect_timeout": 20,
            **options,
        }
    )


def _ways(options: Mapping[str, Any]) -> Observe:
    def observe(target: Target) -> Any:
        with connect(target, **options) as connection:
            row = connection.execute("select current_user, current_database() <> ''").fetchone()
            return [row, connection.pgconn.ssl_in_use, connection.pgconn.used_password]

    return observe


def tls_wrong_authority(target: Target) -> Any:
    other = target.root_certificate.with_name("other.crt")
    return failure(lambda: connect(target, sslrootcert=str(other)).close())


def failure(run: Any) -> Any:
    try:
        run()
    except psycopg.Error as error:
        diag = error.diag
        # A failure to connect has no fields. Its words name the port.
        fields = [diag.sqlstate, diag.message_primary]
        said = None if diag.sqlstate else str(error).rsplit(": ", 1)[-1][-60:]
        return [type(error).__name__, fields, said]
    return "no error"


def scram(target: Target) -> Any:
    connect(target).close()
    return failure(lambda: connect(target, password="wrong").close())


def channel_binding(target: Target) -> Any:
    with connect(target, channel_binding="require", require_auth="scram-sha-256") as connection:
        return connection.execute("select 1").fetchall()


def simple(target: Target) -> Any:
    s = target.schema
    with connect(target, cursor_factory=psycopg.ClientCursor) as connection:
        cursor = connection.execute(
            f"select name, card from {s}.people where id = 3; select 1; select count(*) from {s}.people where born is null"
        )
        seen = []
        while True:
            seen.append([cursor.statusmessage, cursor.fetchall()])
            if not cursor.nextset():
                return [
                    seen,
                    connection.execute(f"select name, phone from {s}.people where id = %s", [7]).fetchall(),
                ]


def prepared(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    with connect(target, prepare_threshold=0) as connection:
        for number in (1, 2, 3, 20):
            cursor = connection.execute(
                f"select name, card, credit, born from {s}.people where id = %s", [number], prepare=True
            )
            seen.append(cursor.fetchall())
        if target.user == "clerk":
            cards = [r[1] for (r,) in seen if r[1]]
            for card in cards:
                found = connection.execute(f"select id from {s}.people where card = %s", [card], prepare=True)
                seen.append(found.fetchall())
            found = connection.execute(f"select id from {s}.people where card = any(%s) order by id", [cards])
            seen.append(found.fetchall())
    return seen


def _typed(target: Target, *, binary: bool) -> Any:
    with connect(target) as connection:
        cursor = connection.cursor(binary=binary)
        columns = COLUMNS if target.user == "clerk" else [c for c in COLUMNS if c != "essay"]
        cursor.execute(f"select {', '.join(columns)} from {target.schema}.people where id in (1, 2, 3, 20) order by id")
        assert cursor.pgresult is not None
        raw = [
            [cursor.pgresult.get_value(row, column) for column in range(cursor.pgresult.nfields)]
            for row in range(cursor.pgresult.ntuples)
        ]
        formats = [cursor.pgresult.fformat(i) for i in range(cursor.pgresult.nfields)]
        return [cursor.fetchall(), raw, formats]


def describe(target: Target) -> Any:
    seen = []
    with connect(target) as connection:
        columns = COLUMNS if target.user == "clerk" else [c for c in COLUMNS if c != "essay"]
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            cursor.execute(f"select {', '.join(columns)}, name as other, 1 as one from {target.schema}.people limit 0")
            assert cursor.description is not None
            seen.append(
                [
                    (c.name, named(c.type_display), c.internal_size, c.precision, c.scale, named(c.type_code))
                    for c in cursor.description
                ]
            )
    return seen


def named(oid: Any) -> Any:
    """The OID of a type of the database's own differs from database to database."""
    return "its own" if str(oid).isdigit() and int(oid) >= 16384 else oid


def write(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    columns = LISTED.replace("id, ", "", 1).replace(", essay, note", "")
    with connect(target) as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            cursor.execute(
                f"insert into {s}.people (id, {columns}) values (9100, {', '.join(['%s'] * len(WRITTEN))}) returning {columns}",
                WRITTEN,
            )
            seen.append([cursor.statusmessage, cursor.fetchall()])
            cursor.execute(
                f"update {s}.people set card = %s, score = %b, level = %b, photo = %b where id = %s returning card, score, level, photo",
                ["4000000000000002", 1.25, -3, b"binary", 9100],
            )
            seen.append([cursor.statusmessage, cursor.fetchall()])
            cursor.execute(f"select {columns} from {s}.people where id = 9100")
            seen.append(cursor.fetchall())
            cursor.execute(f"delete from {s}.people where card = %s returning id, name", ["4000000000000002"])
            seen.append([cursor.statusmessage, cursor.fetchall()])
    return seen


def batch(target: Target) -> Any:
    s = target.schema
    with connect(target, autocommit=False) as connection:
        cursor = connection.cursor()
        cursor.executemany(
            f"insert into {s}.people (id, name, card, credit) values (%s, %s, %s, %s) returning id, card, credit",
            [(9200 + i, f"Batch {i}", f"63{i:014}", i) for i in range(50)],
            returning=True,
        )
        seen: list[Any] = []
        while True:
            seen.append(cursor.fetchall())
            if not cursor.nextset():
                break
        cursor.executemany(f"update {s}.people set card = null where card = %s", [(f"63{i:014}",) for i in range(50)])
        seen.append(cursor.rowcount)
        connection.rollback()
    return seen


def pipeline(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    with connect(target) as connection:
        with connection.pipeline():
            cursors = [
                connection.execute(f"select name, card from {s}.people where id = %s", [i]) for i in range(1, 30)
            ]
        seen.append([c.fetchall() for c in cursors])
        third = None  # the error may be there before it is sent
        try:
            with connection.pipeline() as pipe:
                first = connection.execute(f"select card from {s}.people where id = 1")
                pipe.sync()
                connection.execute(f"insert into {s}.people (id, name, card) values (1, 'Again', '1')")
                third = connection.execute(f"select card from {s}.people where id = 2")
                pipe.sync()
        except psycopg.Error as error:
            seen.append([type(error).__name__, error.diag.constraint_name])
        seen.append([first.fetchall(), None if third is None else third.statusmessage])
        seen.append(connection.execute(f"select card from {s}.people where id = 3").fetchall())
    return seen


def cursor(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    with connect(target, autocommit=False) as connection:
        for binary in (False, True):
            with connection.cursor("named", binary=binary) as named:
                named.itersize = 7
                named.execute(f"select id, name, card, credit from {s}.people where id <= %s order by id", [40])
                seen.append([named.fetchone(), named.fetchmany(5), len(list(named))])
        with connection.cursor("scrolling", scrollable=True) as named:
            named.execute(f"select id, born, level from {s}.people order by id")
            seen.append(named.fetchmany(3))
            named.scroll(-2)
            seen.append(named.fetchmany(3))
            named.scroll(50, mode="absolute")
            seen.append(named.fetchmany(2))
        with connection.cursor("held", withhold=True) as named:
            named.execute(f"select card from {s}.people order by id")
            connection.commit()
            seen.append(named.fetchmany(4))
        streamed = connection.cursor().stream(f"select id, card from {s}.people order by id", size=1)
        seen.append(list(streamed))
    return seen


def copy_out(target: Target) -> Any:
    seen: list[Any] = []
    columns = "id, name, phone, card, credit, born, level, active, note"
    with connect(target) as connection, connection.cursor() as cursor:
        for form in ("text", "csv, header", "binary"):
            source = f"(select {columns} from {target.schema}.people order by id)"
            with cursor.copy(f"copy {source} to stdout (format {form})") as copy:
                seen.append(b"".join(bytes(part) for part in copy).hex())
        with cursor.copy(f"copy (select id, card, born from {target.schema}.people order by id) to stdout") as copy:
            copy.set_types(["int8", "varchar", "date"])
            seen.append(list(copy.rows()))
        if target.user == "clerk":
            with cursor.copy(f"copy {target.schema}.people to stdout") as copy:
                seen.append(sorted(bytes(part).decode() for part in copy))
    return seen


def copy_in(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    columns = "id, name, card, credit, born, level, photo"
    with connect(target, autocommit=False) as connection, connection.cursor() as cursor:
        for form, types in (
            ("text", None),
            ("binary", ["int8", "text", "varchar", "numeric", "date", "int4", "bytea"]),
        ):
            with cursor.copy(f"copy {s}.people ({columns}) from stdin (format {form})") as copy:
                if types:
                    copy.set_types(types)
                for i in range(9300, 9400):
                    copy.write_row((i, f"C{i}", f"64{i:014}", i, __import__("datetime").date(2000, 1, 1), i, b"\0x"))
            seen.append(cursor.statusmessage)
            cursor.execute(f"select {columns} from {s}.people where id >= 9300 order by id")
            seen.append(cursor.fetchall())
            connection.rollback()
        try:
            with cursor.copy(f"copy {s}.people (id, name, born) from stdin") as copy:
                copy.write("9300\tgood\t2000-01-01\n9301\tbad\tnever\n")
        except psycopg.Error as error:
            seen.append([error.diag.sqlstate, error.diag.message_primary, error.diag.context])
        connection.rollback()
    return seen


def notify(target: Target) -> Any:
    with connect(target) as listener, connect(target) as sender:
        listener.execute("listen news")
        sender.execute("select pg_notify('news', 'first ' || %s)", ["é"])
        sender.execute("notify news, 'second'")
        got = [(n.channel, n.payload) for n in listener.notifies(timeout=20, stop_after=2)]
        listener.execute("unlisten *")
        return got


def notice(target: Target) -> Any:
    got: list[Any] = []
    with connect(target) as connection:
        connection.add_notice_handler(lambda d: got.append((d.severity, d.sqlstate, d.message_primary, d.message_hint)))
        connection.execute("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$")
    return got


def cancel(target: Target) -> Any:
    with connect(target) as connection, connect(target) as other:
        pid = connection.info.backend_pid

        def when_running() -> None:
            with connect(target) as watch:
                while not watch.execute(
                    "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", [pid]
                ).fetchone():
                    pass
            connection.cancel_safe()

        seen = []
        for text in ("select pg_sleep(60)", f"select name, card, pg_sleep(60) from {target.schema}.people"):
            thread = threading.Thread(target=when_running)
            thread.start()
            seen.append(failure(partial(connection.execute, text)))
            thread.join()
            seen.append(connection.execute(f"select name from {target.schema}.people where id = 1").fetchall())
        seen.append(other.execute("select 1").fetchall())
        return seen


def large_object(target: Target) -> Any:
    """psycopg 3 has no interface of its own to them: by functions."""
    with connect(target, autocommit=False) as connection:
        data = bytes(range(256)) * 4096
        row = connection.execute("select lo_from_bytea(0, %b)", [data]).fetchone()
        assert row is not None
        (oid,) = row
        got = connection.execute("select lo_get(%s) = %b, lo_get(%s, 255, 3)", [oid, data, oid]).fetchall()
        connection.execute("select lo_unlink(%s)", [oid])
        return got


def big(target: Target) -> Any:
    s = target.schema
    text = "漢字 and some more, " * 150_000
    with connect(target, autocommit=False) as connection:
        connection.execute(f"insert into {s}.people (id, name, essay) values (9500, %s, %s)", [text, text])
        seen = []
        for binary in (False, True):
            got = connection.execute(f"select name, essay from {s}.people where id = 9500", binary=binary).fetchone()
            assert got is not None
            seen.append([got[0] == text, got[1] == text])
        connection.rollback()
    return seen


def errors(target: Target) -> Any:
    seen = {}
    with connect(target) as connection:
        for name, statement in FAILING.items():
            text = statement.format(s=target.schema)
            for extended in (False, True):
                cursor = psycopg.Cursor(connection) if extended else psycopg.ClientCursor(connection)
                try:
                    cursor.execute(text, prepare=extended)
                except psycopg.Error as error:
                    d = error.diag
                    seen[f"{name} {extended}"] = [
                        *(type(error).__name__, d.severity, d.sqlstate, d.message_primary, d.message_detail),
                        *(d.message_hint, d.statement_position, d.schema_name, d.table_name, d.column_name),
                        *(d.datatype_name, d.constraint_name, d.context),
                    ]
    return seen


def transaction(target: Target) -> Any:
    s = target.schema
    seen: list[Any] = []
    with connect(target, autocommit=False) as connection:
        seen.append(connection.execute(f"select name from {s}.people where id = 1").fetchall())
        seen.append(failure(lambda: connection.execute(f"select 1 / (id - id) from {s}.people")))
        seen.append(connection.info.transaction_status.name)
        seen.append(failure(lambda: connection.execute(f"select name from {s}.people")))
        connection.rollback()
        seen.append(connection.info.transaction_status.name)
        with connection.transaction():
            try:
                with connection.transaction():
                    connection.execute(f"select nosuch from {s}.people")
            except psycopg.Error as error:
                seen.append(error.diag.sqlstate)
            seen.append(connection.execute(f"select card from {s}.people where id = 2").fetchall())
            if target.user == "clerk":
                try:
                    with connection.transaction():
                        connection.execute(f"update {s}.people set card = '1' where id = 2")
                        connection.execute(f"update {s}.people set card = '1' where id = 3")
                except psycopg.Error as error:
                    seen.append([error.diag.sqlstate, error.diag.constraint_name])
                seen.append(connection.execute(f"select card from {s}.people where id = 2").fetchall())
        seen.append(connection.info.transaction_status.name)
        connection.rollback()
    with connect(target, autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        seen.append(connection.execute("show transaction_isolation").fetchall())
        seen.append(connection.execute(f"select card from {s}.people where id = 2").fetchall())
    return seen


def two_phase(target: Target) -> Any:
    s = target.schema
    with connect(target, autocommit=False) as connection:
        name = f"psycopg {target.name}"
        seen: list[Any] = []
        connection.tpc_begin(name)
        connection.execute(f"insert into {s}.people (id, name, card) values (9600, 'Two', '65')")
        connection.tpc_prepare()
        connection.tpc_rollback()
        connection.tpc_begin(name)
        connection.execute(f"insert into {s}.people (id, name, card) values (9600, 'Two', '65')")
        connection.tpc_prepare()
        connection.tpc_commit()
        seen.append(connection.execute(f"delete from {s}.people where card = '65' returning name").fetchall())
        connection.commit()
        return seen


def pool(target: Target) -> Any:
    s = target.schema
    options = {
        "host": target.host,
        "port": target.port,
        "dbname": target.database,
        "user": target.user,
        "password": target.password,
        "autocommit": True,
        "sslmode": "require",
    }
    seen: list[Any] = []

    def discard(connection: psycopg.Connection[Any]) -> None:
        connection.execute("discard all")

    with psycopg_pool.ConnectionPool(kwargs=options, min_size=2, max_size=3, reset=discard) as waiting:
        waiting.wait(30)
        for number in range(1, 13):
            with waiting.connection() as connection:
                connection.execute("set search_path = pg_catalog")
                cursor = connection.cursor(row_factory=tuple_row)
                cursor.execute(f"select name, card from {s}.people where id = %s", [number], prepare=True)
                seen.append(cursor.fetchall())
    return seen


def introspection(target: Target) -> Any:
    """What psycopg asks of the catalog: types by name, to adapt them."""
    with connect(target) as connection:
        info = EnumInfo.fetch(connection, f"{target.schema}.mood")
        assert info is not None
        register_enum(info, connection)
        got = connection.execute(f"select id, mood from {target.schema}.people where id = 1").fetchone()
        return [info.name, info.labels, repr(got)]


def modes(target: Target) -> Any:
    """The cursors that differ in how parameters are sent."""
    seen: list[Any] = []
    query = f"select id, name, card, level from {target.schema}.people where id = %s and name <> %s"
    with connect(target) as connection:
        for kind in (psycopg.Cursor, psycopg.ClientCursor):
            seen.append(kind(connection).execute(query, (4, "x")).fetchall())
        raw = query.replace("%s", "$1", 1).replace("%s", "$2", 1)
        seen.append(psycopg.RawCursor(connection).execute(raw, (4, "x")).fetchall())
        server = connection.execute("prepare p (int) as select card from " + target.schema + ".people where id = $1")
        seen.append([server.statusmessage, connection.execute("execute p (4)").fetchall()])
    return seen


OBSERVE: Mapping[str, Observe] = {
    "tls_off": _ways({"sslmode": "disable"}),
    "tls_require": _ways({"sslmode": "require", "sslrootcert": ""}),
    "tls_verify_full": _ways({}),
    "tls_wrong_authority": tls_wrong_authority,
    "tls_direct": _ways({"sslnegotiation": "direct"}),
    "scram": scram,
    "channel_binding": channel_binding,
    "simple": simple,
    "prepared": prepared,
    "text": lambda target: _typed(target, binary=False),
    "binary": lambda target: _typed(target, binary=True),
    "describe": describe,
    "write": write,
    "batch": batch,
    "pipeline": pipeline,
    "cursor": cursor,
    "copy_out": copy_out,
    "copy_in": copy_in,
    "notify": notify,
    "notice": notice,
    "cancel": cancel,
    "large_object": large_object,
    "big": big,
    "errors": errors,
    "transaction": transaction,
    "two_phase": two_phase,
    "pool": pool,
    "introspection": introspection,
    "modes": modes,
}
