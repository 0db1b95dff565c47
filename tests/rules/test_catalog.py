"""The catalog snapshot against real servers, and the fingerprint against everything that changes a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from rules.catalog import CATALOG_QUERIES, FINGERPRINT_QUERY, SYSTEM_SCHEMAS, Catalog, CatalogError, build_catalog
from rules.model import TableName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from lifecycle.demo.postgres import Postgres

SCHEMA = """
CREATE SCHEMA pgveil;
CREATE SCHEMA "Odd Schema";
CREATE DOMAIN pgveil.sealed AS text CHECK (VALUE ~ '^v');
CREATE DOMAIN short AS varchar(19);
CREATE DOMAIN shorter AS short CHECK (length(VALUE) < 10);
CREATE TYPE mood AS ENUM ('sad', 'happy');

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gone text,
    name varchar(40) NOT NULL,
    "身份证" pgveil.sealed,
    "Odd "" column" numeric(12, 2) DEFAULT 1.5,
    doubled numeric GENERATED ALWAYS AS (id * 2) STORED,
    card short, tiny shorter, m mood[], at timestamp(3) with time zone DEFAULT now()
);
ALTER TABLE customers DROP COLUMN gone;
CREATE TABLE "Odd Schema"."客户 表" (id int, owner_id bigint REFERENCES customers);

CREATE TABLE events (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
CREATE TABLE events_2025_1 PARTITION OF events_2025 FOR VALUES IN (1);
CREATE TABLE base_a (a int);
CREATE TABLE base_b (b int);
CREATE TABLE heir (c int) INHERITS (base_b, base_a);

CREATE VIEW v1 AS SELECT id, name AS who FROM customers;
CREATE VIEW v2 AS SELECT who FROM v1 WHERE id > 0;
CREATE MATERIALIZED VIEW m1 AS SELECT who FROM v2;
CREATE TEMP TABLE scratch (x int);
CREATE TEMP VIEW scratch_view AS SELECT x FROM scratch;

CREATE FUNCTION f_text(x int) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'select id from public.customers limit x';
CREATE FUNCTION f_std(x int) RETURNS bigint LANGUAGE sql RETURN (SELECT max(id) FROM customers);
CREATE PROCEDURE p_do() LANGUAGE plpgsql AS $$BEGIN PERFORM * FROM customers; END$$;
CREATE FUNCTION step(state bigint, x int) RETURNS bigint LANGUAGE sql AS 'select state + x /* stepping */';
CREATE AGGREGATE total(int) (sfunc = step, stype = bigint, initcond = '0');
CREATE FUNCTION f_trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER tr BEFORE INSERT ON base_a FOR EACH ROW EXECUTE FUNCTION f_trigger();
CREATE RULE r AS ON DELETE TO base_b DO ALSO NOTHING;
ALTER TABLE heir ENABLE ROW LEVEL SECURITY;
"""

ROLES = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cat_anna') THEN
        CREATE ROLE cat_staff; CREATE ROLE "cat 柜员" IN ROLE cat_staff; CREATE ROLE cat_anna LOGIN IN ROLE "cat 柜员";
        CREATE ROLE cat_root SUPERUSER; CREATE ROLE cat_shadow LOGIN IN ROLE cat_root;
        CREATE ROLE cat_reader LOGIN;
    END IF;
END $$;
"""


async def snapshot(connection: asyncpg.Connection) -> Catalog:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = {name: await connection.fetch(query) for name, query in CATALOG_QUERIES.items()}
    return build_catalog(rows)


@pytest.fixture
async def database(any_pg: Postgres) -> str:
    name = any_pg.create_database()
    connection = await asyncpg.connect(any_pg.dsn(name))
    await connection.execute(ROLES)
    await connection.close()
    return name


@pytest.fixture
async def connection(any_pg: Postgres, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(any_pg.dsn(database))
    yield connection
    await connection.close()


async def test_snapshot_of_a_schema_with_everything(
    any_pg: Postgres, database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(SCHEMA)
    # As an ordinary login, with a search_path that would change how names are written if the queries listened to it.
    reader = await asyncpg.connect(any_pg.dsn(database, "cat_reader"))
    await reader.execute('SET search_path = "Odd Schema", public, pgveil')
    before = await reader.fetchval("SHOW search_path")
    catalog = await snapshot(reader)
    assert await reader.fetchval("SHOW search_path") == before
    await reader.close()

    assert catalog.database == database
    assert catalog.server_version // 10000 == any_pg.version
    assert catalog.schemas == {"public", "pgveil", "Odd Schema"}
    assert not catalog.schemas & SYSTEM_SCHEMAS
    kinds = {str(n): r.kind for n, r in catalog.by_name.items()}
    assert kinds == {
        "public.customers": "r", "Odd Schema.客户 表": "r", "public.events": "p", "public.events_2025": "p",
        "public.events_2025_1": "r", "public.base_a": "r", "public.base_b": "r", "public.heir": "r",
        "public.v1": "v", "public.v2": "v", "public.m1": "m",
    }  # fmt: skip

    customers = catalog.by_name[TableName("public", "customers")]
    assert [(c.name, c.attnum, c.declared_type) for c in customers.columns] == [
        ("id", 1, "bigint"),
        ("name", 3, "character varying(40)"),
        ("身份证", 4, "pgveil.sealed"),
        ('Odd " column', 5, "numeric(12,2)"),
        ("doubled", 6, "numeric"),
        ("card", 7, "public.short"),
        ("tiny", 8, "public.shorter"),
        ("m", 9, "public.mood[]"),
        ("at", 10, "timestamp(3) with time zone"),
    ]
    by_column = {c.name: c for c in customers.columns}
    assert by_column["id"].identity
    assert by_column["id"].not_null
    assert by_column["name"].not_null
    assert not by_column["card"].not_null
    assert by_column["doubled"].generated
    assert by_column['Odd " column'].default == "1.5"
    assert by_column["at"].default == "now()"
    # What RowDescription shows for the columns: domains give their base type and its modifier.
    assert (by_column["身份证"].type_oid, by_column["身份证"].typmod) == (25, -1)
    assert (by_column["card"].type_oid, by_column["card"].typmod) == (1043, 23)
    assert (by_column["tiny"].type_oid, by_column["tiny"].typmod) == (1043, 23)
    assert customers.column("gone") is None

    view = catalog.by_name[TableName("public", "v1")]
    assert view.definition is not None
    assert "FROM public.customers" in view.definition
    assert [c.name for c in view.columns] == ["id", "who"]
    assert "public.v2" in (catalog.by_name[TableName("public", "m1")].definition or "")

    tree = {
        str(r.name): [str(catalog.relations[c].name) for c in r.children]
        for r in catalog.relations.values()
        if r.children
    }
    assert tree["public.events"] == ["public.events_2025"]
    assert tree["public.events_2025"] == ["public.events_2025_1"]
    heir = catalog.by_name[TableName("public", "heir")]
    assert [str(catalog.relations[p].name) for p in heir.parents] == ["public.base_b", "public.base_a"]
    assert heir.row_security
    assert not customers.row_security
    assert {str(r.name) for r in catalog.relations.values() if r.has_triggers} == {"public.base_a", "public.base_b"}

    functions = {f.name.name: f for f in catalog.functions}
    assert set(functions) == {"f_text", "f_std", "p_do", "step", "total", "f_trigger"}
    assert functions["f_text"].security_definer
    assert "public.customers" in functions["f_text"].source
    assert "public.customers" in functions["f_std"].source
    assert "customers" in functions["p_do"].source
    assert "stepping" in functions["total"].source
    assert functions["p_do"].language == "plpgsql"

    assert catalog.memberships("cat_anna") == {"cat 柜员", "cat_staff"}
    assert catalog.memberships("nobody such") == frozenset()
    assert "pg_database_owner" in catalog.memberships("postgres")
    assert {"postgres", "cat_root", "cat_shadow"} <= catalog.superusers
    assert "cat_anna" not in catalog.superusers
    assert catalog.owns("cat_shadow", customers)
    assert not catalog.owns("cat_anna", customers)


async def test_functions_put_into_pg_catalog_are_seen(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE FUNCTION pg_catalog.sneak() RETURNS int LANGUAGE sql AS 'select 1'")
    catalog = await snapshot(connection)
    assert [str(f.name) for f in catalog.functions] == ["pg_catalog.sneak"]


async def test_sources_of_compiled_functions_are_empty(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE FUNCTION twin(int, int) RETURNS int LANGUAGE internal AS 'int4pl'")
    catalog = await snapshot(connection)
    assert [(f.name.name, f.source) for f in catalog.functions] == [("twin", "")]


async def test_compiled_code_of_no_extension_is_told(connection: asyncpg.Connection) -> None:
    """What a function in C or `internal` does is known of the server's own and of extensions'; not what somebody made of it."""
    await connection.execute(
        """
        CREATE FUNCTION files(text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all';
        CREATE FUNCTION plain(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION compiled(internal) RETURNS internal LANGUAGE c AS '$libdir/dict_snowball', 'dsnowball_init';
        CREATE OPERATOR ## (RIGHTARG = text, FUNCTION = files);
        CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
        CREATE FUNCTION step(int, int) RETURNS int LANGUAGE internal AS 'int4pl';
        CREATE AGGREGATE unknown_sum(int) (SFUNC = step, STYPE = int);
        CREATE AGGREGATE known_sum(int) (SFUNC = int4pl, STYPE = int);
        """
    )
    if await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'"):
        await connection.execute("CREATE EXTENSION citext")
    catalog = await snapshot(connection)
    assert sorted(f.name.name for f in catalog.functions if f.unread) == ["compiled", "files", "step", "unknown_sum"]
    assert {f.name.name for f in catalog.functions if not f.unread} >= {"plain", "known_sum"}
    assert [(o.name.name, o.source, o.unread) for o in catalog.operators if o.language == "internal"] == [
        ("##", "", True)
    ]


async def test_equal_catalogs_have_equal_versions(connection: asyncpg.Connection) -> None:
    await connection.execute(SCHEMA)
    first, second = await snapshot(connection), await snapshot(connection)
    assert first == second
    assert first.version == second.version
    assert len(first.version) == 16
    await connection.execute("ALTER TABLE customers RENAME name TO called")
    assert (await snapshot(connection)).version != first.version


CHANGES = [
    "CREATE TABLE new_one (x int)",
    "DROP TABLE base_a CASCADE",
    "ALTER TABLE customers RENAME TO clients",
    "ALTER TABLE customers RENAME name TO called",
    "ALTER TABLE customers ADD COLUMN extra text",
    "ALTER TABLE customers DROP COLUMN card",
    "ALTER TABLE customers ALTER card TYPE varchar(50)",
    "ALTER TABLE customers ALTER name DROP NOT NULL",
    'ALTER TABLE customers ALTER "Odd "" column" SET DEFAULT 2',
    "ALTER TABLE customers ALTER id DROP IDENTITY",
    "ALTER TABLE customers SET SCHEMA pgveil",
    "ALTER TABLE customers OWNER TO cat_reader",
    "ALTER TABLE customers ENABLE ROW LEVEL SECURITY",
    "CREATE OR REPLACE VIEW v1 AS SELECT id, upper(name)::varchar(40) AS who FROM customers",
    "CREATE VIEW v3 AS SELECT 1 AS one",
    "ALTER TABLE events DETACH PARTITION events_2025",
    "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "ALTER TABLE heir NO INHERIT base_a",
    "DROP MATERIALIZED VIEW m1",
    "CREATE OR REPLACE FUNCTION f_text(x int) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'select 1::bigint'",
    "ALTER FUNCTION f_text(int) SECURITY INVOKER",
    "ALTER FUNCTION f_text(int) RENAME TO f_other",
    "DROP FUNCTION f_std(int)",
    "DROP TRIGGER tr ON base_a",
    "DROP RULE r ON base_b",
    "ALTER TYPE mood RENAME TO temper",
    "ALTER TYPE mood ADD VALUE 'another'",
    "ALTER DOMAIN shorter SET SCHEMA pgveil",
    "CREATE SCHEMA another",
    'ALTER SCHEMA "Odd Schema" RENAME TO odd',
    "GRANT cat_staff TO cat_reader",
    "ALTER ROLE cat_reader SUPERUSER",
    "ALTER ROLE cat_staff RENAME TO cat_crew",
]


async def test_fingerprint_moves_with_every_change(connection: asyncpg.Connection) -> None:
    await connection.execute(SCHEMA)
    for change in CHANGES:
        transaction = connection.transaction()
        await transaction.start()
        old, version = await connection.fetchval(FINGERPRINT_QUERY), (await _rows_and_build(connection)).version
        await connection.execute("SET LOCAL search_path = public")
        await connection.execute(change)
        assert await connection.fetchval(FINGERPRINT_QUERY) != old, change
        assert (await _rows_and_build(connection)).version != version, (
            f"{change} does not change the snapshot: not a case"
        )
        await transaction.rollback()
        assert await connection.fetchval(FINGERPRINT_QUERY) == old, change


async def _rows_and_build(connection: asyncpg.Connection) -> Catalog:
    return build_catalog({name: await connection.fetch(query) for name, query in CATALOG_QUERIES.items()})


async def test_fingerprint_sees_a_change_by_an_older_transaction(
    any_pg: Postgres, database: str, connection: asyncpg.Connection
) -> None:
    """A maximum over xmin would miss the second commit: its transaction began first."""
    await connection.execute("CREATE TABLE one (a int); CREATE TABLE two (a int)")
    older = await asyncpg.connect(any_pg.dsn(database))
    transaction = older.transaction()
    await transaction.start()
    await older.fetchval("SELECT pg_current_xact_id()")
    await connection.execute("ALTER TABLE one RENAME a TO b")
    between = await connection.fetchval(FINGERPRINT_QUERY)
    await older.execute("ALTER TABLE two RENAME a TO b")
    assert await connection.fetchval(FINGERPRINT_QUERY) == between
    await transaction.commit()
    assert await connection.fetchval(FINGERPRINT_QUERY) != between
    await older.close()


async def test_fingerprint_rests_while_data_moves(connection: asyncpg.Connection) -> None:
    await connection.execute(SCHEMA)
    old = await connection.fetchval(FINGERPRINT_QUERY)
    for statement in (
        "INSERT INTO base_b SELECT generate_series(1, 1000)",
        "ANALYZE",
        "VACUUM FULL base_b",
        "TRUNCATE base_b",
        "REFRESH MATERIALIZED VIEW m1",
        "CREATE TEMP TABLE t_temp (a serial, b text DEFAULT 'x')",
        "CREATE TEMP VIEW t_view AS SELECT 1 AS one",
    ):
        await connection.execute(statement)
        assert await connection.fetchval(FINGERPRINT_QUERY) == old, statement


async def test_rows_are_those_that_the_server_has_counted(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "CREATE TABLE counted AS SELECT i FROM generate_series(1, 50) i; CREATE TABLE uncounted (i int); ANALYZE counted"
    )
    before = await snapshot(connection)
    assert before.about_rows(TableName("public", "counted")) == 50
    assert before.about_rows(TableName("public", "uncounted")) is None
    await connection.execute("INSERT INTO counted SELECT 1; ANALYZE counted")
    after = await snapshot(connection)
    assert after.about_rows(TableName("public", "counted")) == 51
    assert after.version == before.version


def _minimal(**changed: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    rows: dict[str, Sequence[Mapping[str, Any]]] = {name: [] for name in CATALOG_QUERIES}
    return {**rows, "database": [{"database": "d", "server_version": 160000}], **changed}


def test_membership_closure_survives_a_cycle() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("x", "a")]
    catalog = build_catalog(_minimal(members=[{"member": m, "role": r} for m, r in edges]))
    assert catalog.memberships("x") == {"a", "b", "c"}


def test_a_view_dropped_meanwhile_is_an_error() -> None:
    row = {
        "oid": 20000, "schema": "public", "name": "v", "kind": "v", "owner": "o",
        "definition": None, "row_security": False, "rows": -1, "has_triggers": False,
    }  # fmt: skip
    with pytest.raises(CatalogError, match="20000"):
        build_catalog(_minimal(relations=[row]))


def test_order_of_rows_does_not_matter() -> None:
    names = [{"name": "a"}, {"name": "b"}]
    assert build_catalog(_minimal(superusers=names)).version == build_catalog(_minimal(superusers=names[::-1])).version
