"""Sealed columns past pgveil, as the table's owner and others: what is stored is what was sealed, or the statement fails (F1.1, F1.2)."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.lifecycle.test_apply_seal import column, opened

if TYPE_CHECKING:
    from tests.lifecycle.conftest import Place

RULES = """
version: 1
tables:
  public.u:
    columns:
      mail: {level: core, mode: deterministic, type: varchar(120), domain: mail}
      note: {level: core, mode: randomized, type: text}
  public.parts:
    columns:
      mail: {level: core, mode: deterministic, type: varchar(120), domain: mail}
roles:
  application: {logins: [ap_app], levels: {core: clear}}
"""
SCHEMA = """
CREATE TABLE u (id int PRIMARY KEY, mail varchar(120), note text, city text);
CREATE TABLE heirs (more int) INHERITS (u);
CREATE TABLE parts (id int, mail varchar(120)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
INSERT INTO u SELECT i, 'user' || i || '@example.net', 'note ' || i, 'a' FROM generate_series(1, 200) i;
INSERT INTO heirs SELECT i, 'heir' || i || '@example.net', 'note ' || i, 'a' FROM generate_series(301, 310) i;
INSERT INTO parts SELECT i, 'user' || i || '@example.net' FROM generate_series(1, 20) i;
"""
OWNED = ("u", "heirs", "parts", "parts_1")

# As the owner, past pgveil: the statement, and its SQLSTATE.
KEPT = (
    ("ALTER TABLE u ALTER COLUMN mail TYPE varchar(19) USING mail::varchar(19)", "0A000"),
    ("ALTER TABLE u ALTER mail TYPE varchar(120) USING mail::varchar(120)", "0A000"),
    ("ALTER TABLE u ALTER COLUMN note SET DATA TYPE text", "0A000"),
    ("ALTER TABLE u ADD x int, ALTER mail TYPE pgveil.sealed USING lower(mail)::pgveil.sealed", "0A000"),
    ("ALTER TABLE parts ALTER mail TYPE text", "0A000"),
    ("ALTER TABLE parts_1 ALTER mail TYPE text", "42P16"),
    ("ALTER TABLE heirs ALTER mail TYPE text", "42P16"),
    ("ALTER TABLE u DROP COLUMN mail", "2BP01"),
    ("ALTER TABLE parts DROP COLUMN mail", "2BP01"),
    ("DROP TABLE parts", "2BP01"),
    ("DO $$ BEGIN ALTER TABLE u ALTER mail TYPE text; END $$", "0A000"),
    ("DROP SCHEMA pgveil CASCADE", "42501"),
    ("ALTER DOMAIN pgveil.sealed DROP CONSTRAINT sealed_format", "42501"),
    ("DROP DOMAIN pgveil.sealed CASCADE", "42501"),
    ("ALTER TABLE u ALTER mail SET DEFAULT 'none'; INSERT INTO u (id) VALUES (999)", "23514"),
    ("ALTER TABLE u ADD low text GENERATED ALWAYS AS (lower(mail)) STORED; ALTER TABLE u ADD again pgveil.sealed GENERATED ALWAYS AS (upper(mail)) STORED", "23514"),
)  # fmt: skip
GUARDS = "SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE viewname LIKE 'guard%' ORDER BY 1"
DROPPED = (
    "DROP VIEW {0}",
    "DROP VIEW {0} CASCADE",
    "ALTER VIEW {0} OWNER TO ap_owner",
    "CREATE OR REPLACE VIEW {0} AS SELECT 1",
    "SELECT * FROM {0}",
)

# What the database does to a sealed text, as the owner, each alone in a transaction.
DONE = {
    "update lower": "UPDATE u SET mail = lower(mail)",
    "update trim": "UPDATE u SET mail = rtrim(mail, 'abcdef')",
    "update left": "UPDATE u SET mail = left(mail, 40)",
    "update padding": "UPDATE u SET mail = mail || ' '",
    "update another": "UPDATE u SET mail = (mail || note)::text",
    "update array": "UPDATE u SET mail = (string_to_array(mail, '-'))[1]",
    "insert select": "INSERT INTO u (id, mail) SELECT id + 1000, upper(mail) FROM u",
    "merge": "MERGE INTO u USING (VALUES (1)) v (i) ON id = i WHEN MATCHED THEN UPDATE SET mail = initcap(mail)",
    "on conflict": "INSERT INTO u (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET mail = lower(u.mail)",
    "plain": "UPDATE u SET mail = 'user1@example.net' WHERE id = 1",
    "json": "UPDATE u SET mail = (jsonb_populate_record(u, jsonb_build_object('mail', lower(mail)))).mail",
    "record": "UPDATE u SET (mail, note) = (SELECT reverse(mail), note)",
    "cte": "WITH x AS (SELECT id, lower(mail) m FROM u) UPDATE u SET mail = x.m FROM x WHERE u.id = x.id",
    "function": "CREATE FUNCTION f(pgveil.sealed) RETURNS pgveil.sealed LANGUAGE sql AS 'SELECT left($1, 20)'; UPDATE u SET mail = f(mail)",
    "view": "CREATE VIEW v AS SELECT id, mail FROM u; UPDATE v SET mail = replace(mail, 'a', 'b')",
    "rule": "CREATE TABLE w (m pgveil.sealed); GRANT ALL ON w TO PUBLIC; CREATE RULE r AS ON UPDATE TO u DO ALSO INSERT INTO w VALUES (lower(old.mail)); UPDATE u SET city = 'q'",
    "partition": "UPDATE parts SET mail = lower(mail), id = id + 100",
    "child": "UPDATE heirs SET mail = left(mail, -1)",
    "other table": "CREATE TABLE w (mail pgveil.sealed); INSERT INTO w SELECT lower(mail) FROM u",
    "composite": "CREATE TYPE c AS (m pgveil.sealed); CREATE TABLE w (c c); INSERT INTO w SELECT ROW(lower(mail))::c FROM u",
    "array of it": "CREATE TABLE w (m pgveil.sealed[]); INSERT INTO w SELECT ARRAY[upper(mail)]::pgveil.sealed[] FROM u",
    "loop": "DO $$ DECLARE r u; BEGIN FOR r IN SELECT * FROM u LOOP r.mail := lower(r.mail); UPDATE u SET mail = r.mail WHERE id = r.id; END LOOP; END $$",
    "variable": "DO $$ DECLARE m pgveil.sealed := (SELECT mail FROM u LIMIT 1); BEGIN m := m || 'x'; END $$",
    "dynamic": "DO $$ BEGIN EXECUTE 'UPDATE u SET mail = trim(leading ''~'' FROM mail)'; END $$",
    "add column": "ALTER TABLE u ADD COLUMN n pgveil.sealed DEFAULT 'x'",
}  # fmt: skip
# Bodies of a BEFORE trigger; each UPDATE or INSERT of the table then fails.
BODIES = {
    "lower": "new.mail := lower(new.mail);",
    "equals": "new.mail = trim(both '~' from new.mail);",
    "left": "new.mail := left(new.mail, 30);",
    "select into": "SELECT upper(new.mail) INTO new.mail;",
    "row": "new := jsonb_populate_record(new, jsonb_build_object('mail', new.mail || ' '));",
    "another": "DECLARE r u; BEGIN r := new; r.mail := r.mail || r.mail; new := r; END;",
    "dynamic": "EXECUTE 'SELECT lower($1)' INTO new.mail USING new.mail;",
    "a text between": "DECLARE t text := new.mail; BEGIN t := replace(t, '-', '_'); new.mail := t; END;",
}


@pytest.fixture
async def place_with_rows(place: Place) -> Place:
    await place.admin.execute(SCHEMA)
    for table in OWNED:
        await place.admin.execute(f"ALTER TABLE {table} OWNER TO ap_owner")
    await place.admin.execute("GRANT CREATE ON SCHEMA public TO ap_owner")
    await place.apply(RULES)
    await place.admin.execute("GRANT USAGE ON SCHEMA pgveil TO ap_owner")
    return place


async def values(place: Place) -> list[list[str | None]]:
    return [
        opened(place, domain, await column(place.admin, f"SELECT {name}::text FROM {table} ORDER BY id, {name}"))
        for table, name, domain in (("u", "mail", "mail"), ("u", "note", "public.u.note"), ("parts", "mail", "mail"))
    ]


async def test_the_owner_can_t_change_a_sealed_column(place_with_rows: Place) -> None:
    place = place_with_rows
    before = await values(place)
    guards = await column(place.admin, GUARDS)
    assert len(guards) == 2
    for sql, sqlstate in KEPT:
        assert await place.sqlstate_of_text("ap_owner", sql) == sqlstate, sql
    for guard in guards:
        for sql in DROPPED:
            assert await place.sqlstate_of_text("ap_owner", sql.format(guard)) == "42501", sql
    assert await values(place) == before
    assert (await place.plan(RULES)).empty


async def test_nothing_that_the_database_makes_of_a_text_is_stored(place_with_rows: Place) -> None:
    place = place_with_rows
    before = await values(place)
    for login in ("ap_owner", "postgres"):
        for what, sql in DONE.items():
            assert await place.sqlstate_of_text(login, sql) == "23514", (login, what)
        for what, body in BODIES.items():
            function = f"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN new; END $$"
            trigger = "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON u FOR EACH ROW EXECUTE FUNCTION t()"
            for write in ("UPDATE u SET city = 'e'", "INSERT INTO u SELECT id + 5000, mail, note, 'b' FROM u"):
                assert await place.sqlstate_of_text(login, f"{function}; {trigger}; {write}") == "23514", (login, what)
    connection = await asyncpg.connect(place.server.dsn(place.name, "ap_owner"))
    try:
        for text in await column(place.admin, "SELECT lower(mail) FROM u LIMIT 1"):
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.copy_records_to_table("u", records=[(7000, text)], columns=["id", "mail"])
    finally:
        await connection.close()
    assert await values(place) == before


async def test_what_may_be_done_is_done(place_with_rows: Place) -> None:
    """A sealed text that goes on as it is, columns that are not sealed, and dropping by who says CASCADE."""
    place = place_with_rows
    before = await values(place)
    for sql in (
        "UPDATE u SET mail = mail, note = note, city = lower(city)",
        "CREATE TABLE w AS SELECT * FROM u; UPDATE u SET mail = w.mail FROM w WHERE w.id = u.id; DROP TABLE w",
        "ALTER TABLE u ALTER city TYPE varchar(40), ADD more int, ALTER mail SET NOT NULL; ALTER TABLE u DROP more",
        "ALTER TABLE u DROP COLUMN city",
        "ALTER TABLE parts DETACH PARTITION parts_1; ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (1000)",
    ):
        connection = await asyncpg.connect(place.server.dsn(place.name, "ap_owner"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()
        assert await values(place) == before
    assert (
        await place.sqlstate_of_text("ap_owner", "ALTER TABLE u DROP COLUMN mail CASCADE; DROP TABLE parts CASCADE")
        == ""
    )


async def test_the_guard_follows_the_rules(place_with_rows: Place) -> None:
    """Another sealed column, and one that somebody with the right to has taken away: the next apply makes it anew."""
    place = place_with_rows
    guards = await column(place.admin, GUARDS)
    more = RULES.replace("      note:", "      city: {level: core, mode: deterministic, type: text}\n      note:")
    plan = await place.apply(more)
    assert [c.kind for c in plan.changes if "guard" in c.what] == ["drop"]
    assert await place.sqlstate_of_text("ap_owner", "ALTER TABLE u ALTER city TYPE varchar(9)") == "0A000"
    await place.admin.execute(
        f"DROP VIEW {guards[0]}" if guards[0] in await column(place.admin, GUARDS) else f"DROP VIEW {guards[1]}"
    )
    assert not (await place.plan(more)).empty
    await place.apply(more)
    assert (await place.plan(more)).empty


def dump_into(place: Place, database: str) -> None:
    """What pg_dump gives past pgveil, restored into an empty database."""
    programs = place.server.bin_dir
    dump = subprocess.run([str(programs / "pg_dump"), place.server.dsn(place.name)], capture_output=True, check=True)
    psql = [str(programs / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", place.server.dsn(database)]
    subprocess.run(psql, input=dump.stdout, capture_output=True, check=True)


async def test_a_dump_restores_whatever_comes_first(place_with_rows: Place) -> None:
    """Domain, guards and values; and apply finds nothing to do there."""
    place = place_with_rows
    before = await values(place)
    restored = place.server.create_database()
    dump_into(place, restored)
    other = replace(place, name=restored, admin=await asyncpg.connect(place.server.dsn(restored)))
    try:
        assert await values(other) == before
        assert (await other.plan(RULES)).empty
        assert await other.sqlstate_of_text("ap_owner", "ALTER TABLE u ALTER mail TYPE varchar(19)") == "0A000"
        assert await other.sqlstate_of_text("ap_owner", "UPDATE u SET mail = lower(mail)") == "23514"
    finally:
        await other.admin.close()
