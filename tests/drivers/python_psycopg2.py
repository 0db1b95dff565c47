"""psycopg2 (LGPL; a client of the tests only): simple protocol, text format, values written into the text."""

from __future__ import annotations

import io
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool

from tests.drivers.checks import FAILING
from tests.drivers.ground import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

VERSION = psycopg2.__version__.split()[0]
LACKING: Mapping[str, str] = {
    "prepared": "psycopg2 has no prepared statements",
    "binary": "psycopg2 takes text format only",
    "pipeline": "psycopg2 has no pipelines",
    "tls_direct": "psycopg2's libpq is older than `sslnegotiation`",
}
VALUES = (
    *("New", "13912345678", "6222020000000009", "12.34", "1999-12-31", "2024-05-06 07:08:09+00", 0.5, 7, True),
    *("00000000-0000-4000-8000-00000000ffff", b"\0\1\xff", '{"a": [1, null]}', ["x", None, "é"], "happy"),
)
if psycopg2.__libpq_version__ >= 170000:
    LACKING = {k: v for k, v in LACKING.items() if k != "tls_direct"}


def connect(target: Target, **options: Any) -> Any:
    return psycopg2.connect(
        **{
            "host": target.host,
            "port": target.port,
            "dbname": target.database,
            "user": target.user,
            "password": target.password,
            "sslmode": "verify-full",
            "sslrootcert": str(target.root_certificate),
            **options,
        }
    )


def check(body: Callable[[Any, Any, Target], Any], *, autocommit: bool = False, **options: Any) -> Observe:
    """A check of one connection and a cursor; what it wrote is rolled back."""

    def run(target: Target) -> Any:
        with closing(connect(target, **options)) as connection:
            connection.autocommit = autocommit
            with connection.cursor() as cursor:
                return body(connection, cursor, target)

    return run


def columns(target: Target) -> list[str]:
    return [c for c in COLUMNS if c != "essay" or target.user == "clerk"]


def asked(cursor: Any, sql: str, values: Any = None) -> Any:
    cursor.execute(sql, values)
    rows = cursor.fetchall()
    return [[bytes(v).hex() if isinstance(v, memoryview) else v for v in row] for row in rows]


def failure(run: Callable[[], Any]) -> Any:
    try:
        run()
    except psycopg2.Error as error:
        d = error.diag
        return [
            *(type(error).__name__, d.severity, d.sqlstate, d.message_primary, d.message_detail, d.message_hint),
            *(d.statement_position, d.schema_name, d.table_name, d.column_name, d.datatype_name, d.constraint_name),
            *(d.context, None if d.sqlstate else str(error).strip().rsplit(": ", 1)[-1]),
        ]
    return "no error"


def who(connection: Any, cursor: Any, target: Target) -> Any:
    return [asked(cursor, "select current_user"), connection.info.ssl_in_use]


def simple(connection: Any, cursor: Any, target: Target) -> Any:
    cursor.execute(f"select 1; select name, card from {target.schema}.people where id = 3")
    return [cursor.fetchall(), cursor.statusmessage]


def text(connection: Any, cursor: Any, target: Target) -> Any:
    sql = f"select {', '.join(columns(target))} from {target.schema}.people where id in (1, 2, 3, 20) order by id"
    return asked(cursor, sql)


def describe(connection: Any, cursor: Any, target: Target) -> Any:
    cursor.execute(f"select {', '.join(columns(target))}, 1 as one from {target.schema}.people limit 0")
    return [
        (c.name, "own" if c.type_code >= 16384 else c.type_code, c.internal_size, c.precision, c.scale)
        for c in cursor.description
    ]


def write(connection: Any, cursor: Any, target: Target) -> Any:
    s = target.schema
    names = ", ".join(COLUMNS[1 : len(VALUES) + 1])
    marks = ", ".join(["%s"] * len(VALUES)).split(", ")
    marks[12] = "%s::text[]"
    listed = ", ".join(marks)
    return [
        asked(cursor, f"insert into {s}.people (id, {names}) values (9100, {listed}) returning {names}", VALUES),
        asked(cursor, f"update {s}.people set card = %s where id = %s returning card, level", ("1", 9100)),
        asked(cursor, f"delete from {s}.people where card = %s returning name", ("1",)),
    ]


def batch(connection: Any, cursor: Any, target: Target) -> Any:
    s = target.schema
    rows = [(9200 + i, f"Batch {i}", f"63{i:014}") for i in range(40)]
    sql = f"insert into {s}.people (id, name, card) values %s returning id, card"
    seen = [psycopg2.extras.execute_values(cursor, sql, rows, fetch=True)]
    psycopg2.extras.execute_batch(
        cursor, f"update {s}.people set level = 3 where card = %s", [(r[2],) for r in rows], page_size=1
    )
    cursor.executemany(f"update {s}.people set level = level + 1 where id = %s", [(r[0],) for r in rows][:5])
    return [seen, asked(cursor, f"select id, card from {s}.people where level = 3 and id >= 9200 order by id")]


def cursor(connection: Any, cursor: Any, target: Target) -> Any:
    seen: list[Any] = []
    with connection.cursor("named", scrollable=True) as named:
        named.itersize = 7
        named.execute(f"select id, name, card, credit from {target.schema}.people where id <= %s order by id", (40,))
        seen.append([named.fetchone(), named.fetchmany(5)])
        named.scroll(-3)
        seen.append(list(named))
    with connection.cursor("held", withhold=True) as named:
        named.execute(f"select card from {target.schema}.people order by id")
        connection.commit()
        seen.append(named.fetchmany(4))
    return seen


def copy_out(connection: Any, cursor: Any, target: Target) -> Any:
    out = io.StringIO()
    names = "id, name, phone, card, credit, born, note"
    cursor.copy_expert(f"copy (select {names} from {target.schema}.people order by id) to stdout (format csv)", out)
    seen: list[Any] = [out.getvalue()]
    if target.user == "clerk":
        out = io.StringIO()
        cursor.execute(f"set search_path = {target.schema}")
        cursor.copy_to(out, "people", columns=("id", "card", "mood"))
        seen.append(sorted(out.getvalue().splitlines()))
    return seen


def copy_in(connection: Any, cursor: Any, target: Target) -> Any:
    s = target.schema
    cursor.execute(f"set search_path = {s}")
    rows = "".join(f"{9300 + i}\tC{i}\t64{i:014}\t2000-01-01\n" for i in range(100))
    cursor.copy_from(io.StringIO(rows), "people", columns=("id", "name", "card", "born"))
    seen: list[Any] = [cursor.rowcount, asked(cursor, "select id, card, born from people where id >= 9300 order by id")]
    bad = io.StringIO("9500\tbad\tnever\n")
    seen.append(failure(lambda: cursor.copy_expert("copy people (id, name, born) from stdin", bad)))
    return seen


def notify(connection: Any, cursor: Any, target: Target) -> Any:
    cursor.execute("listen news")
    with closing(connect(target)) as other:
        other.autocommit = True
        other.cursor().execute("select pg_notify('news', 'é'); notify news, 'second'")
    while len(connection.notifies) < 2:
        cursor.execute("select 1")
    return [(n.channel, n.payload) for n in connection.notifies]


def notice(connection: Any, cursor: Any, target: Target) -> Any:
    cursor.execute("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$")
    return connection.notices


def cancel(connection: Any, cursor: Any, target: Target) -> Any:
    pid = connection.info.backend_pid

    def when_running() -> None:
        with closing(connect(target)) as watch:
            watch.autocommit = True
            look = watch.cursor()
            sql = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
            while not asked(look, sql, (pid,)):
                pass
        connection.cancel()

    thread = threading.Thread(target=when_running)
    thread.start()
    seen = [failure(lambda: cursor.execute("select pg_sleep(60)"))]
    thread.join()
    connection.rollback()
    return [*seen, asked(cursor, f"select card from {target.schema}.people where id = 1")]


def large_object(connection: Any, cursor: Any, target: Target) -> Any:
    data = bytes(range(256)) * 4096
    made = connection.lobject(0, "wb")
    written = made.write(data)
    made.close()
    got = connection.lobject(made.oid, "rwb")
    same = got.read() == data
    got.seek(255)
    part = got.read(3).hex()
    got.truncate(10)
    got.seek(0, 2)
    size = got.tell()
    got.unlink()
    return [written, same, part, size]


def big(connection: Any, cursor: Any, target: Target) -> Any:
    # Two of them stand in one text, which pgveil takes up to 1,048,576 characters.
    text = "漢字 and some more, " * 20_000
    cursor.execute(f"insert into {target.schema}.people (id, name, essay) values (9500, %s, %s)", (text, text))
    cursor.execute(f"select name, essay from {target.schema}.people where id = 9500")
    return [part == text for part in cursor.fetchone()]


def errors(connection: Any, cursor: Any, target: Target) -> Any:
    return {n: failure(lambda t=t: cursor.execute(t.format(s=target.schema))) for n, t in FAILING.items()}  # type: ignore[misc]


def transaction(connection: Any, cursor: Any, target: Target) -> Any:
    s = target.schema
    seen: list[Any] = [asked(cursor, f"select card from {s}.people where id = 2")]
    seen.append(failure(lambda: cursor.execute(f"select 1 / (id - id) from {s}.people")))
    seen.append(failure(lambda: cursor.execute(f"select name from {s}.people")))
    seen.append(connection.get_transaction_status())
    connection.rollback()
    cursor.execute("savepoint a")
    seen.append(failure(lambda: cursor.execute(f"select nosuch from {s}.people")))
    cursor.execute("rollback to a")
    seen.append(asked(cursor, f"select card from {s}.people where id = 3"))
    connection.rollback()
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    seen.append(asked(cursor, f"select card, current_setting('transaction_isolation') from {s}.people where id = 3"))
    return seen


def two_phase(connection: Any, cursor: Any, target: Target) -> Any:
    connection.tpc_begin(connection.xid(1, f"psycopg2 {target.name}", "b"))
    cursor.execute(f"insert into {target.schema}.people (id, name, card) values (9600, 'Two', '65')")
    connection.tpc_prepare()
    connection.tpc_commit()
    gone = asked(cursor, f"delete from {target.schema}.people where card = '65' returning name")
    connection.commit()
    return gone


def pool(target: Target) -> Any:
    options = {"dbname": target.database, "user": target.user, "password": target.password}
    made = psycopg2.pool.ThreadedConnectionPool(2, 3, host=target.host, port=target.port, **options)
    seen = []
    for number in range(1, 12):
        connection = made.getconn()
        with connection.cursor() as cursor:
            cursor.execute("set search_path = pg_catalog")
            seen.append(asked(cursor, f"select name, card from {target.schema}.people where id = %s", (number,)))
        made.putconn(connection)
    made.closeall()
    return seen


def introspection(connection: Any, cursor: Any, target: Target) -> Any:
    """What psycopg2 asks of the catalog: hstore, composite types, json by OID."""
    kind = psycopg2.extras.register_composite(f"{target.schema}.orders", connection)
    return [kind.attnames, asked(cursor, f"select (o)::text from {target.schema}.orders o where id = 1")]


def modes(connection: Any, cursor: Any, target: Target) -> Any:
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as other:
        other.execute(f"select id, card from {target.schema}.people where id = any(%s) order by id", ([1, 2],))
        seen = [dict(row) for row in other.fetchall()]
    cursor.execute(f"prepare p (int) as select card from {target.schema}.people where id = $1")
    return [seen, asked(cursor, "execute p (%s)", (4,))]


def tls_wrong_authority(target: Target) -> Any:
    other = str(target.root_certificate.with_name("other.crt"))
    return failure(lambda: connect(target, sslrootcert=other))


OBSERVE: Mapping[str, Observe] = {
    "tls_off": check(who, sslmode="disable"),
    "tls_require": check(who, sslmode="require", sslrootcert=""),
    "tls_verify_full": check(who),
    "tls_wrong_authority": tls_wrong_authority,
    "tls_direct": check(who, sslnegotiation="direct"),
    "scram": lambda target: failure(lambda: connect(target, password="wrong")),
    "channel_binding": check(who, channel_binding="require"),
    "simple": check(simple),
    "text": check(text),
    "describe": check(describe),
    "write": check(write),
    "batch": check(batch),
    "cursor": check(cursor),
    "copy_out": check(copy_out),
    "copy_in": check(copy_in),
    "notify": check(notify, autocommit=True),
    "notice": check(notice),
    "cancel": check(cancel),
    "large_object": check(large_object),
    "big": check(big),
    "errors": check(errors, autocommit=True),
    "transaction": check(transaction),
    "two_phase": check(two_phase),
    "pool": pool,
    "introspection": check(introspection),
    "modes": check(modes),
}
