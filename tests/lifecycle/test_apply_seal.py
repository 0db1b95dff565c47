"""Sealing columns in place: nothing is lost, nothing plain is left, nothing happens by halves."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from keys.sealed import open_batch
from keys.types import encode, parse_type
from lifecycle.apply import ApplyError, StalePlanError, execute
from rules.load import load_rules_text
from rules.model import quote_literal

if TYPE_CHECKING:
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from tests.lifecycle.conftest import Place

SCHEMA = '''
CREATE SCHEMA "Sales Data";
CREATE TABLE "Sales Data"."客户" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Card ""No""" varchar(19) NOT NULL UNIQUE,
    "备注" text DEFAULT '没有',
    pin varchar(4) DEFAULT '0000' NOT NULL,
    plain text
);
CREATE TABLE orders (
    id int PRIMARY KEY,
    pan varchar(19) REFERENCES "Sales Data"."客户" ("Card ""No""") ON DELETE CASCADE,
    active bool NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX one_active ON orders (pan) WHERE active;
INSERT INTO "Sales Data"."客户" ("Card ""No""", "备注", plain)
SELECT 'CARDNO' || i, CASE WHEN i % 7 = 0 THEN NULL ELSE 'SECRETNOTE' || i END, 'seen' FROM generate_series(1, 5000) i;
INSERT INTO orders SELECT i, CASE WHEN i % 3 > 0 THEN 'CARDNO' || i END, i < 500 FROM generate_series(1, 1000) i;
ANALYZE;
'''

RULES = '''
version: 1
tables:
  '"Sales Data".客户':
    columns:
      '"Card ""No"""': {level: core, mode: deterministic, type: varchar(19), domain: pan}
      备注: {level: core, mode: randomized, type: text}
      pin: {level: core, mode: deterministic, type: varchar(4)}
  public.orders:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan}
roles:
  application: {logins: [ap_app], levels: {core: clear}}
'''


def opened(place: Place, domain: str, sealed: list[str | None]) -> list[str | None]:
    """Sealed texts, opened."""
    plain = open_batch(place.ring.keys(domain), [None if s is None else s.encode() for s in sealed])
    return [None if p is None else p.decode() for p in plain]


async def column(connection: asyncpg.Connection[Any], query: str) -> list[Any]:
    """The one column of a query."""
    return [r[0] for r in await connection.fetch(query)]


async def test_columns_are_sealed_where_they_are(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(SCHEMA)
    before = await place.admin.fetch(
        'SELECT id, "Card ""No""", "备注", pin, plain FROM "Sales Data"."客户" ORDER BY id'
    )
    orders = await column(place.admin, "SELECT pan FROM orders ORDER BY id")
    plan = await place.apply(RULES)
    assert {c.object: c.rows for c in plan.changes if c.kind == "seal"} == {
        "Sales Data.客户": 5000,
        "public.orders": 667,
    }
    after = await place.admin.fetch('SELECT id, "Card ""No""", "备注", pin, plain FROM "Sales Data"."客户" ORDER BY id')
    for number, domain in ((1, "pan"), (2, "Sales Data.客户.备注"), (3, "Sales Data.客户.pin")):
        assert opened(place, domain, [r[number] for r in after]) == [r[number] for r in before]
    assert [(r[0], r[4]) for r in after] == [(r[0], r[4]) for r in before]
    assert opened(place, "pan", await column(place.admin, "SELECT pan FROM orders ORDER BY id")) == orders
    assert place.reports[-1][1:] == (667, 667)
    types = await column(
        place.admin,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'pan'",
    )
    assert types == ["pgveil.sealed"]
    # What held before holds on.
    assert (
        await place.admin.fetchval('SELECT count(*) FROM orders JOIN "Sales Data"."客户" ON pan = "Card ""No"""') == 667
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await place.admin.execute("INSERT INTO orders SELECT 5000, pan, true FROM orders WHERE id = 1")
    with pytest.raises(asyncpg.NotNullViolationError):
        await place.admin.execute('UPDATE "Sales Data"."客户" SET pin = NULL WHERE id = 1')
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await place.admin.execute(
            'UPDATE orders SET pan = (SELECT pin FROM "Sales Data"."客户" WHERE id = 3) WHERE id = 1'
        )
    await place.admin.execute('DELETE FROM "Sales Data"."客户" WHERE id = 1')
    assert await place.admin.fetchval("SELECT count(*) FROM orders WHERE id = 1") == 0


async def test_a_constant_default_is_sealed(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.apply(RULES)
    sealed = await place.admin.fetchval('SELECT "Card ""No""" FROM "Sales Data"."客户" WHERE id = 9')
    await place.admin.execute('DELETE FROM "Sales Data"."客户" WHERE id = 9')
    row = await place.admin.fetchrow(
        'INSERT INTO "Sales Data"."客户" ("Card ""No""") VALUES ($1) RETURNING pin, "备注"', sealed
    )
    assert row is not None
    assert opened(place, "Sales Data.客户.pin", [row["pin"]]) == ["0000"]
    assert opened(place, "Sales Data.客户.备注", [row["备注"]]) == ["没有"]


async def test_a_second_run_finds_nothing_to_do(any_place: Place) -> None:
    await any_place.admin.execute(SCHEMA)
    await any_place.apply(RULES)
    plan = await any_place.plan(RULES)
    assert plan.empty
    # Autovacuum numbers transactions of its own, now and then; what `apply` writes it would number each time.
    numbered = []
    for _ in range(5):
        before = int(await any_place.admin.fetchval("SELECT pg_current_xact_id()"))
        await any_place.apply(RULES)
        numbered.append(int(await any_place.admin.fetchval("SELECT pg_current_xact_id()")) - before - 1)
    assert min(numbered) == 0


async def test_no_plain_value_is_left_in_the_files_nor_in_the_statistics(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(SCHEMA)
    await place.admin.execute(
        'CREATE STATISTICS "Sales Data".both (mcv) ON "备注", plain FROM "Sales Data"."客户"; ANALYZE'
    )
    files = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relnamespace = '\"Sales Data\"'::regnamespace AND relkind IN ('r', 'i')"
    await place.admin.execute("CHECKPOINT")
    assert any(reads(place, p, b"SECRETNOTE") for p in await column(place.admin, files))
    old = await column(place.admin, files)
    await place.apply(RULES)
    await place.admin.execute("CHECKPOINT")
    for path in await column(place.admin, files):
        assert not reads(place, path, b"SECRETNOTE")
        assert not reads(place, path, b"CARDNO")
    gone = set(old) - set(await column(place.admin, files))
    assert gone
    # An emptied file of a dropped relation may stay until the next checkpoint, without a byte in it.
    assert all(not (place.server.data / p).exists() or (place.server.data / p).stat().st_size == 0 for p in gone)
    for catalog in ("pg_statistic", "pg_statistic_ext_data", "pg_stats", "pg_attrdef"):
        assert (
            await place.admin.fetchval(f"SELECT count(*) FROM {catalog} s WHERE s::text ~ 'SECRETNOTE|CARDNO|没有'")
            == 0
        )


def reads(place: Place, path: str, needle: bytes) -> bool:
    """Whether a file of the server holds these bytes."""
    return needle in (place.server.data / path).read_bytes()


TYPES: dict[str, tuple[str, ...]] = {
    "text": ("", "a'b\\c", "客户", " x "),
    "varchar(12)": ("x", "客户 12"),
    "char(4)": ("a", "ab  "),
    "smallint": ("-32768", "0"),
    "integer": ("-2147483648", "7"),
    "bigint": ("9223372036854775807",),
    "numeric": ("1.50", "NaN", "-0.001", "12345678901234567890.5"),
    "numeric(12,2)": ("1.50", "-99.99"),
    "real": ("0.1", "-Infinity", "3.4028235e38"),
    "double precision": ("0.1", "NaN", "1e-300"),
    "boolean": ("t", "f"),
    "date": ("2024-02-29", "infinity", "0044-03-15 BC"),
    "time": ("23:59:59.999999", "24:00:00"),
    "time(2)": ("10:00:00.25",),
    "timetz": ("10:00:00+08",),
    "timestamp": ("2024-02-29 10:00:00.5", "-infinity"),
    "timestamptz": ("2024-02-29 10:00:00+08", "infinity"),
    "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",),
    "bytea": ("\\x", "\\x00ff7e"),
    "json": ('{"a": [1, 2.50]}',),
    "jsonb": ('{"b": 1, "a": null}',),
    "enum public.mood(sad, 'so, so')": ("sad", "so, so"),
    "text[]": ("{}", '{a,NULL,"b c"}', "{{1,2},{3,4}}"),
    "integer[]": ("{1,NULL,3}",),
    "date[]": ("{2024-01-01}",),
}


async def test_every_logical_type_comes_back_equal(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("CREATE TYPE public.mood AS ENUM ('sad', 'so, so')")
    await place.admin.execute(
        "SET timezone = 'Asia/Shanghai'; SET datestyle = 'German, DMY'; SET bytea_output = 'escape'"
    )
    lines = ["version: 1", "tables:", "  public.t:", "    columns:"]
    names = {f"c{i}": spec for i, spec in enumerate(TYPES)}
    declared = ", ".join(f"{n} {spec.removeprefix('enum ').split('(sad')[0]}" for n, spec in names.items())
    await place.admin.execute(f"CREATE TABLE public.t (id int, {declared})")
    row = 0
    for name, spec in names.items():
        lines.append(f'      {name}: {{level: core, mode: randomized, type: "{spec}"}}')
        for value in TYPES[spec]:
            row += 1
            await place.admin.execute(f"INSERT INTO t (id, {name}) VALUES ({row}, {quote_literal(value)})")
    lines += ["roles:", "  r: {logins: [ap_app], levels: {core: clear}}"]
    await place.admin.execute("CREATE TABLE kept AS TABLE t")
    await place.apply("\n".join(lines))
    for name, spec in names.items():
        type_ = parse_type(spec)
        rows = await place.admin.fetch(f"SELECT id, {name}::text FROM t WHERE {name} IS NOT NULL ORDER BY id")
        assert len(rows) == len(TYPES[spec])
        plain = opened_bytes(place, f"public.t.{name}", [r[1] for r in rows])
        for (number, _), canonical in zip(rows, plain, strict=True):
            shown = encode(type_, canonical, 0).decode()
            column_type = await place.admin.fetchval(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'kept'::regclass AND attname = $1",
                name,
            )
            async with place.admin.transaction():
                await place.admin.execute(
                    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; SET LOCAL bytea_output = 'hex'"
                )
                stored = await place.admin.fetchval(f"SELECT {name}::text FROM kept WHERE id = $1", number)
                same = await place.admin.fetchval(
                    f"SELECT ({name})::text = ($2::text::{column_type})::text FROM kept WHERE id = $1", number, shown
                )
            assert same or (spec == "numeric" and stored.rstrip("0") == shown), (spec, shown)


def opened_bytes(place: Place, domain: str, sealed: list[str]) -> list[bytes]:
    """Sealed texts as canonical bytes."""
    found = open_batch(place.ring.keys(domain), [s.encode() for s in sealed])
    return [f for f in found if f is not None]


async def test_indexes_of_every_ordinary_kind_are_kept(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("""
        CREATE TABLE t (a int PRIMARY KEY, b char(4) UNIQUE DEFERRABLE INITIALLY DEFERRED, c date, d numeric(6,2), e int, f uuid, pan text);
        CREATE INDEX i1 ON t (c DESC NULLS LAST, e) INCLUDE (d);
        CREATE INDEX i2 ON t USING hash (f);
        CREATE UNIQUE INDEX i3 ON t (d) NULLS NOT DISTINCT WHERE e > 5;
        ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey;
        ALTER TABLE t CLUSTER ON i1;
        GRANT SELECT (b) ON t TO ap_app;
        COMMENT ON COLUMN t.b IS 'kept';
        INSERT INTO t SELECT i, i, date '2024-01-01' + i, i, i, gen_random_uuid(), i FROM generate_series(1, 100) i;
    """)
    query = "SELECT indexrelid::regclass::text, indisunique, indisreplident, indisclustered, indisprimary FROM pg_index WHERE indrelid = 't'::regclass ORDER BY 1"
    before = await place.admin.fetch(query)
    columns = "\n".join(
        f'      {name}: {{level: core, mode: deterministic, type: "{type_}"}}'
        for name, type_ in {
            "a": "integer",
            "b": "char(4)",
            "c": "date",
            "d": "numeric(6,2)",
            "f": "uuid",
            "pan": "text",
        }.items()
    )
    rules = f"version: 1\ntables:\n  public.t:\n    columns:\n{columns}\nroles:\n  r: {{logins: [ap_app], levels: {{core: clear}}}}\n"
    await place.apply(rules)
    assert await place.admin.fetch(query) == before
    assert await place.admin.fetchval("SELECT col_description('t'::regclass, 2)") == "kept"
    assert len(await place.run("ap_app", "SELECT b FROM t")) == 100
    with pytest.raises(asyncpg.UniqueViolationError):
        await place.admin.execute("INSERT INTO t (a) SELECT a FROM t LIMIT 1")


async def test_partitions_and_children_are_sealed_with_their_parent(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("""
        CREATE TABLE p (id int, pan text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 (pan text, id int);
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
        INSERT INTO p SELECT i, 'SECRET' || i FROM generate_series(0, 19) i;
    """)
    rules = """
version: 1
tables:
  public.p: {columns: {pan: {level: core, mode: deterministic, type: text}}}
roles:
  r: {logins: [ap_app], levels: {core: clear}}
"""
    await place.apply(rules)
    assert opened(place, "public.p.pan", await column(place.admin, "SELECT pan FROM p ORDER BY id")) == [
        f"SECRET{i}" for i in range(20)
    ]
    assert (await place.plan(rules)).empty


async def test_triggers_do_not_fire_and_are_as_before(place: Place) -> None:
    await place.admin.execute("""
        CREATE TABLE t (id int, pan text);
        INSERT INTO t VALUES (1, 'SECRET');
        CREATE TABLE seen (pan text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (OLD.pan); RETURN NEW; END $$;
        CREATE TRIGGER a AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER b AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER c AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE t ENABLE ALWAYS TRIGGER b;
        ALTER TABLE t DISABLE TRIGGER c;
    """)
    plan = await place.apply(ONE)
    told = tuple(f"public.t: trigger {t} (function public.note) sees the sealed values of pan" for t in "ab")
    assert tuple(w for w in plan.warnings if "trigger" in w) == told
    # For as long as they are there, and not at the first time only.
    assert tuple(w for w in (await place.plan(ONE)).warnings if "trigger" in w) == told
    assert await place.admin.fetchval("SELECT count(*) FROM seen") == 0
    states = await column(
        place.admin, "SELECT tgenabled::text FROM pg_trigger WHERE tgrelid = 't'::regclass ORDER BY tgname"
    )
    assert states == ["O", "A", "D"]


ONE = """
version: 1
tables:
  public.t: {columns: {pan: {level: core, mode: deterministic, type: text}}}
roles:
  r: {logins: [ap_app], levels: {core: clear}}
"""


async def test_logins_write_sealed_values_only(any_place: Place) -> None:
    place = any_place
    await place.admin.execute(
        "CREATE TABLE t (id int, pan text); GRANT SELECT, INSERT ON t TO ap_app; INSERT INTO t VALUES (1, 'SECRET')"
    )
    await place.apply(ONE)
    sealed = await place.admin.fetchval("SELECT pan FROM t")
    assert await place.run("ap_app", f"INSERT INTO t VALUES (2, '{sealed}') RETURNING id") == [(2,)]
    assert await place.sqlstate("ap_app", "INSERT INTO t VALUES (3, 'plain')") == "23514"
    connection = await asyncpg.connect(place.server.dsn(place.name, "ap_app"))
    await connection.execute("INSERT INTO t VALUES ($1, $2)", 4, sealed)
    await connection.copy_records_to_table("t", records=[(5, sealed)])
    await connection.close()
    assert await place.admin.fetchval("SELECT count(*) FROM t WHERE pan = $1", sealed) == 4


async def test_a_server_error_in_the_middle_changes_nothing(place: Place) -> None:
    await place.admin.execute("CREATE TABLE t (id int, pan text); INSERT INTO t VALUES (1, 'SECRETVALUE')")
    rules = load_rules_text(ONE, "rules.yaml")
    plan = await place.plan(rules)
    # An event trigger of the database's own that refuses the last step.
    await place.admin.execute("""
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN IF EXISTS (SELECT FROM pg_class WHERE relname = 't' AND relkind = 'r') AND (SELECT pan LIKE '~%' FROM public.t) THEN
           RAISE EXCEPTION 'SECRETVALUE'; END IF; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION refuse();
    """)
    with pytest.raises(ApplyError) as caught:
        await execute(place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)
    assert "SECRETVALUE" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "P0001" in str(caught.value)
    assert await column(place.admin, "SELECT pan FROM t") == ["SECRETVALUE"]
    assert await place.admin.fetchval("SELECT to_regnamespace('pgveil')") is None
    await place.admin.execute("DROP EVENT TRIGGER refuse")
    await place.apply(rules)


async def test_a_connection_killed_in_the_middle_changes_nothing(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    rules = load_rules_text(RULES, "rules.yaml")
    victim = await asyncpg.connect(place.server.dsn(place.name))
    pid = victim.get_server_pid()
    plan = await place.plan(rules)
    killed: list[asyncio.Task[Any]] = []

    def kill(_table: str, _done: int, _total: int) -> None:
        if not killed:
            place.server.psql(f"SELECT pg_terminate_backend({pid}, 5000)")
            killed.append(asyncio.ensure_future(asyncio.sleep(0)))

    with pytest.raises(ApplyError, match="nothing was changed"):
        await execute(victim, plan, rules, place.ring, random=os.urandom, progress=kill)
    victim.terminate()
    assert await place.admin.fetchval("SELECT to_regnamespace('pgveil')") is None
    assert (
        await place.admin.fetchval('SELECT count(*) FROM "Sales Data"."客户" WHERE "Card ""No""" LIKE \'CARDNO%\'')
        == 5000
    )
    await place.apply(rules)


async def test_a_plan_for_another_database_state_is_not_carried_out(place: Place) -> None:
    await place.admin.execute("CREATE TABLE t (id int, pan text)")
    rules = load_rules_text(ONE, "rules.yaml")
    plan = await place.plan(rules)
    await place.admin.execute("ALTER TABLE t ALTER pan SET DEFAULT 'x'")
    with pytest.raises(StalePlanError):
        await execute(place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)
    await place.admin.execute("ALTER TABLE t ALTER pan DROP DEFAULT; INSERT INTO t VALUES (1, 'new')")
    assert await execute(place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)
    # All of it is done: that is no other state, as of two applies at once.
    assert not await execute(place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None)


async def test_a_locked_table_ends_in_an_error_after_the_lock_timeout(place: Place) -> None:
    await place.admin.execute("CREATE TABLE t (id int, pan text)")
    rules = load_rules_text(ONE, "rules.yaml")
    plan = await place.plan(rules)
    other = await asyncpg.connect(place.server.dsn(place.name))
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (1, 'x')")
        with pytest.raises(ApplyError) as refused:
            await execute(
                place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None, lock_seconds=0.1
            )
        told = str(refused.value)
        assert "table public.t could not be locked (ACCESS EXCLUSIVE) within 0.1 s" in told
        assert f"process {other.get_server_pid()}, login postgres, idle in transaction since " in told
        assert "Wait longer with --lock-timeout SECONDS (0: for ever)" in told
        assert "INSERT" not in told, "a statement may hold values"
    await other.close()


async def test_another_apply_is_waited_for_and_told_of(place: Place) -> None:
    await place.admin.execute("CREATE TABLE t (id int, pan text)")
    rules = load_rules_text(ONE, "rules.yaml")
    plan = await place.plan(rules)
    other = await asyncpg.connect(place.server.dsn(place.name))
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", 0x7067_7665_696C)
        with pytest.raises(ApplyError, match=r"waiting for another pgveil apply in this database\. Wait longer with"):
            await execute(
                place.admin, plan, rules, place.ring, random=os.urandom, progress=lambda *_: None, lock_seconds=0.1
            )
    await other.close()


async def test_values_sealed_under_another_ring_are_an_obstacle(place: Place, pg: Postgres, tmp_path: Path) -> None:
    from keys.providers.file import FileMasterKey  # noqa: PLC0415
    from keys.ring import KeyRing  # noqa: PLC0415

    await place.admin.execute("CREATE TABLE t (id int, pan text); INSERT INTO t VALUES (1, 'x')")
    await place.apply(ONE)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    place.ring = KeyRing.initialise(other, FileMasterKey.generate(other / "master.key", os.urandom))
    plan = await place.plan(ONE)
    assert [o.object for o in plan.obstacles] == ["public.t.pan"]


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("CREATE INDEX i ON t (lower(pan))", "index on an expression i"),
        ("CREATE INDEX i ON t (id) WHERE pan > 'a'", "index with a predicate i"),
        ("CREATE INDEX i ON t USING brin (pan)", "index of type brin i"),
        ("CREATE INDEX i ON t (pan text_pattern_ops)", "operator class or collation of its own i"),
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (length(pan) > 0)", "check constraint k"),
        ("ALTER TABLE t ADD COLUMN g text GENERATED ALWAYS AS (upper(pan)) STORED", "generated column g"),
        ("CREATE VIEW v AS SELECT pan FROM t", "view or rule public.v"),
        ("CREATE MATERIALIZED VIEW v AS SELECT pan FROM t", "view or rule public.v"),
        ("CREATE POLICY p ON t USING (pan = current_user)", "policy p"),
        (
            "CREATE TRIGGER w BEFORE UPDATE OF pan ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger (its WHEN or its list of columns) w",
        ),
        ("ALTER TABLE t ALTER pan SET DEFAULT current_user", "default is not a constant"),
        ("CREATE STATISTICS s ON (lower(pan)), id FROM t", "statistics on an expression s"),
        (
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(pan) FROM t; END",
            "function with a body in SQL f",
        ),
        ("CREATE PUBLICATION pub FOR TABLE t (id, pan)", "publication with a row filter or column list pub"),
        ("ALTER TABLE t ADD CONSTRAINT x EXCLUDE USING btree (pan WITH =)", "exclusion constraint x"),
        ("CREATE RULE r AS ON UPDATE TO t DO INSTEAD NOTHING", "rule r rewrites updates"),
        ("CREATE UNIQUE INDEX u ON t (pan); CREATE TABLE f (pan text REFERENCES t (pan))", "the foreign key joins"),
        (
            "CREATE DOMAIN d AS text CHECK (VALUE <> ''); ALTER TABLE t ALTER pan TYPE d",
            "its domain public.d has checks",
        ),
        ("CREATE TABLE child () INHERITS (t); CREATE INDEX i ON child (lower(pan))", "index on an expression i"),
    ],
)
async def test_each_obstacle_is_named_and_nothing_is_changed(place: Place, sql: str, problem: str) -> None:
    await place.admin.execute("CREATE TABLE t (id int, pan text); INSERT INTO t VALUES (1, 'SECRET')")
    await place.admin.execute(sql)
    plan = await place.plan(ONE)
    assert any(problem in o.problem for o in plan.obstacles), plan.obstacles
    assert "SECRET" not in str(plan)
    with pytest.raises(ApplyError):
        await execute(
            place.admin, plan, load_rules_text(ONE, "r"), place.ring, random=os.urandom, progress=lambda *_: None
        )
    assert place.ring.domains() == frozenset()


async def test_a_collation_with_an_equality_of_its_own_is_an_obstacle(any_place: Place) -> None:
    place = any_place
    await place.admin.execute("CREATE TABLE t (id int, pan text)")
    try:
        await place.admin.execute(
            "CREATE COLLATION c (provider = icu, locale = 'und-u-ks-level2', deterministic = false); ALTER TABLE t ALTER pan TYPE text COLLATE c"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this server is built without ICU")
    plan = await place.plan(ONE)
    assert ["takes different texts for equal" in o.problem for o in plan.obstacles] == [True]


async def test_obstacles_are_all_told_at_once(place: Place) -> None:
    await place.admin.execute("""
        CREATE TABLE t (a text GENERATED ALWAYS AS ('x') STORED, b bigint GENERATED ALWAYS AS IDENTITY, c text UNIQUE, d text, e text);
        INSERT INTO t (d, e) VALUES ('SECRET', '2024-01-01'), ('12', '01.02.2024'), ('3', NULL);
        CREATE TABLE part (pan text) PARTITION BY LIST (pan);
        CREATE TABLE child () INHERITS (t);
    """)
    plan = await place.plan("""
version: 1
tables:
  public.t:
    columns:
      a: {level: core, mode: deterministic, type: text}
      b: {level: core, mode: deterministic, type: bigint}
      c: {level: core, mode: randomized, type: text}
      d: {level: core, mode: deterministic, type: integer}
      e: {level: core, mode: deterministic, type: date}
      nothing: {level: core, mode: deterministic, type: text}
  public.part: {columns: {pan: {level: core, mode: deterministic, type: text}}}
  public.child: {columns: {d: {level: core, mode: deterministic, type: integer}}}
  public.absent: {columns: {pan: {level: core, mode: deterministic, type: text}}}
roles:
  r: {logins: [ap_app], levels: {core: clear}}
""")
    told = {(o.object, o.problem.split(" ")[0]) for o in plan.obstacles}
    assert told >= {
        ("public.t.a", "the"),
        ("public.t.b", "the"),
        ("public.t.c", "unique"),
        ("public.t.d", "1"),
        ("public.t.e", "1"),
        ("public.t.nothing", "the"),
        ("public.part.pan", "partition"),
        ("public.child.d", "it"),
        ("public.absent", "the"),
    }
    assert "SECRET" not in str(plan)


async def test_another_stored_type_is_sealed_where_every_value_fits(place: Place) -> None:
    await place.admin.execute(
        "CREATE TABLE t (pan text, n int); INSERT INTO t VALUES ('2024-01-01', 7), ('1999-12-31', NULL)"
    )
    await place.apply("""
version: 1
tables:
  public.t:
    columns:
      pan: {level: core, mode: deterministic, type: date}
      n: {level: core, mode: deterministic, type: bigint}
roles:
  r: {logins: [ap_app], levels: {core: clear}}
""")
    rows = await place.admin.fetch("SELECT pan, n FROM t ORDER BY n NULLS LAST")
    assert opened(place, "public.t.pan", [r["pan"] for r in rows]) == ["2024-01-01", "1999-12-31"]
    assert opened(place, "public.t.n", [r["n"] for r in rows]) == ["7", None]
