"""SQLAlchemy on psycopg 3: reflection, Core and ORM, its pool. (On asyncpg: tests/e2e/test_sqlalchemy.py.)"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg

from tests.drivers.ground import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

VERSION = sa.__version__
_OWN = "SQLAlchemy leaves it to its driver"
LACKING: Mapping[str, str] = {
    **dict.fromkeys(
        ("tls_wrong_authority", "tls_direct", "scram", "channel_binding", "simple", "text", "binary"), _OWN
    ),
    **dict.fromkeys(
        ("copy_in", "copy_out", "notify", "notice", "cancel", "large_object", "pipeline", "prepared"), _OWN
    ),
}


def engine(target: Target, **options: Any) -> sa.Engine:
    url = sa.URL.create("postgresql+psycopg", target.user, target.password, target.host, target.port, target.database)
    connect = {"sslmode": "verify-full", "sslrootcert": str(target.root_certificate)}
    return sa.create_engine(url, **{"connect_args": connect, "pool_size": 2, **options})


def people(schema: str) -> sa.Table:
    return sa.Table(
        "people",
        sa.MetaData(schema=schema),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        *(sa.Column(n, sa.Text) for n in ("name", "essay", "note")),
        sa.Column("phone", sa.String(20)),
        sa.Column("card", sa.String(19)),
        sa.Column("credit", sa.Numeric(12, 2)),
        sa.Column("born", sa.Date),
        sa.Column("seen", sa.DateTime(timezone=True)),
        sa.Column("score", sa.Double),
        sa.Column("level", sa.Integer),
        sa.Column("active", sa.Boolean),
        sa.Column("ref", sa.Uuid),
        sa.Column("photo", sa.LargeBinary),
        sa.Column("prefs", pg.JSONB),
        sa.Column("tags", pg.ARRAY(sa.Text)),
        sa.Column("mood", sa.Enum("sad", "ok", "happy", name="mood", schema=schema)),
    )


def check(body: Callable[[sa.Connection, sa.Table, Target], Any], **options: Any) -> Observe:
    """A check of one connection; what it wrote is rolled back."""

    def run(target: Target) -> Any:
        made = engine(target, **options)
        try:
            with made.connect() as connection:
                return body(connection, people(target.schema), target)
        finally:
            made.dispose()

    return run


def rows(result: Any) -> Any:
    return [tuple(row) for row in result]


def who(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    return [connection.dialect.server_version_info, rows(connection.execute(sa.text("select current_user")))]


def describe(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    wanted = [table.c[c] for c in COLUMNS if c != "essay" or target.user == "clerk"]
    found = connection.execute(sa.select(*wanted).where(table.c.id.in_([1, 2, 20])).order_by(table.c.id))
    return [list(found.keys()), rows(found)]


def write(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    values = {
        "id": 9100,
        "name": "New",
        "phone": "13912345678",
        "card": "6222020000000009",
        "credit": Decimal("12.34"),
        "born": dt.date(1999, 12, 31),
        "seen": dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.UTC),
        "score": 0.5,
        "level": 7,
        "active": True,
        "photo": b"\0\xff",
        "prefs": {"a": [1, None]},
        "tags": ["x", None],
        "mood": "happy",
    }
    seen: list[Any] = [rows(connection.execute(sa.insert(table).returning(table.c.card, table.c.prefs), values))]
    changed = sa.update(table).where(table.c.card == "6222020000000009").values(card="1", level=8)
    seen.append(rows(connection.execute(changed.returning(table.c.level))))
    upsert = pg.insert(table).values(id=9101, name="Again", card="1")
    upsert = upsert.on_conflict_do_update(index_elements=["card"], set_={"name": upsert.excluded.name})
    seen.append(rows(connection.execute(upsert.returning(table.c.id, table.c.name))))
    seen.append(connection.execute(sa.delete(table).where(table.c.card == "1")).rowcount)
    return seen


def batch(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    many = [{"id": 9200 + i, "name": f"N{i}", "card": f"63{i:014}", "mood": "ok"} for i in range(60)]
    returned = connection.execute(
        sa.insert(table).returning(table.c.id, table.c.card, sort_by_parameter_order=True), many
    )
    update = sa.update(table).where(table.c.card == sa.bindparam("b_card")).values(level=sa.bindparam("b_level"))
    connection.execute(update, [{"b_card": m["card"], "b_level": i} for i, m in enumerate(many)])
    return [
        rows(returned),
        rows(connection.execute(sa.select(table.c.level).where(table.c.id >= 9200).order_by(table.c.id))),
    ]


def cursor(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    query = sa.select(table.c.id, table.c.name, table.c.card).order_by(table.c.id)
    streamed = connection.execution_options(stream_results=True, yield_per=7).execute(query)
    return [[tuple(row) for row in part] for part in streamed.partitions()]


def big(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    text = "漢字 and some more, " * 150_000
    connection.execute(sa.insert(table), {"id": 9500, "name": text, "essay": text})
    row = connection.execute(sa.select(table.c.name, table.c.essay).where(table.c.id == 9500)).one()
    return [part == text for part in row]


def errors(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    seen = []
    for values in (
        {"id": 1, "name": "Again"},
        {"id": 9001, "name": "x", "card": "6200000000000001"},
        {"id": 9001, "name": "x", "note": "x" * 300},
        {"id": 9001, "name": "x", "card": "12345678901234567890"},
        {"id": 9001},
    ):
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(table), values)
        except sa.exc.DBAPIError as error:
            d: Any = getattr(error.orig, "diag")  # noqa: B009
            seen.append([type(error).__name__, d.sqlstate, d.message_primary, d.constraint_name, d.table_name])
    return seen


def transaction(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    seen: list[Any] = []
    with connection.begin():
        try:
            with connection.begin_nested():
                connection.execute(sa.select(sa.text("nosuch")).select_from(table))
        except sa.exc.ProgrammingError as error:
            seen.append(type(error.orig).__name__)
        seen.append(rows(connection.execute(sa.select(table.c.card).where(table.c.id == 3))))
    for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"):
        other = connection.execution_options(isolation_level=level)
        seen.append(rows(other.execute(sa.select(table.c.phone).where(table.c.id == 2))))
        other.rollback()
    return seen


def two_phase(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    both = connection.begin_twophase(f"sa {target.name}")
    connection.execute(sa.insert(table), {"id": 9600, "name": "Two", "card": "65"})
    both.prepare()
    both.commit()
    gone = connection.execute(sa.delete(table).where(table.c.card == "65").returning(table.c.name)).all()
    connection.commit()
    return rows(gone)


def pool(target: Target) -> Any:
    made = engine(target, pool_pre_ping=True, pool_size=1)
    table = people(target.schema)
    seen = []
    for number in range(1, 8):
        with made.connect() as connection:
            connection.execute(sa.text("set search_path = pg_catalog"))
            seen.append(rows(connection.execute(sa.select(table.c.name, table.c.card).where(table.c.id == number))))
    made.dispose()
    return seen


def introspection(connection: sa.Connection, table: sa.Table, target: Target) -> Any:
    """Reflection, with the types of sealed columns as the tables have them."""
    looked = sa.inspect(connection)
    names = [
        (c["name"], str(c["type"]), c["nullable"], c["default"])
        for c in looked.get_columns("people", schema=target.schema)
    ]
    loaded = sa.Table("people", sa.MetaData(), schema=target.schema, autoload_with=connection)
    found = connection.execute(sa.select(loaded.c.card, loaded.c.name).where(loaded.c.id == 3))
    return [
        sorted(looked.get_table_names(schema=target.schema)),
        names,
        looked.get_pk_constraint("people", schema=target.schema)["constrained_columns"],
        sorted(str(c["name"]) for c in looked.get_unique_constraints("people", schema=target.schema)),
        [f["name"] for f in looked.get_foreign_keys("orders", schema=target.schema)],
        rows(found),
    ]


def unit_of_work(target: Target) -> Any:
    """The ORM: a session, identity map, flush, relationship, refresh."""
    table = people(target.schema)
    registry = orm.registry(metadata=table.metadata)
    orders = sa.Table(
        "orders",
        table.metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("person", sa.ForeignKey(table.c.id)),
        sa.Column("amount", sa.Numeric(10, 2)),
    )

    class Person:
        id: int
        name: str
        card: str
        level: int
        orders: list[Any]

    class Order:
        id: int
        amount: Decimal

    registry.map_imperatively(Order, orders)
    registry.map_imperatively(Person, table, properties={"orders": orm.relationship(Order)})
    made = engine(target)
    seen: list[Any] = []
    try:
        with orm.Session(made) as session:
            found = session.scalars(
                sa.select(Person).where(table.c.card == "6200000000000003").options(orm.selectinload(Person.orders))  # type: ignore[arg-type]
            ).one()
            seen.append([found.id, found.name, found.card, [o.amount for o in found.orders]])
            person = Person()
            person.name, person.card, person.level = "Orm", "7000000000000001", 5
            person.orders = [Order()]
            person.orders[0].id, person.orders[0].amount = 9001, Decimal("1.50")
            session.add(person)
            session.flush()
            person.level = 6
            session.flush()
            session.refresh(person)
            seen.append([person.card, person.level])
            session.rollback()
    finally:
        made.dispose()
    return seen


OBSERVE: Mapping[str, Observe] = {
    "tls_off": check(who, connect_args={"sslmode": "disable"}),
    "tls_require": check(who, connect_args={"sslmode": "require"}),
    "tls_verify_full": check(who),
    "describe": check(describe),
    "write": check(write),
    "batch": check(batch),
    "cursor": check(cursor),
    "big": check(big),
    "errors": check(errors),
    "transaction": check(transaction),
    "two_phase": check(two_phase),
    "pool": pool,
    "introspection": check(introspection),
    "orm": unit_of_work,
}
