"""Values of the time before sealed texts carried a check: apply turns them, once and whole; what was cut is never sealed again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import asyncpg
import pytest

from keys.sealed import UNCHECKED_PATTERN, seal
from lifecycle.apply import ApplyError, execute
from rules.model import quote_literal
from tests.lifecycle.conftest import rules_of
from tests.lifecycle.test_apply_seal import column, opened

if TYPE_CHECKING:
    from tests.lifecycle.conftest import Place

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, pan varchar(19) UNIQUE, note text DEFAULT 'none', born date);
CREATE TABLE old_people (extra int) INHERITS (people);
CREATE TABLE cards (id int PRIMARY KEY, pan varchar(19) REFERENCES people (pan) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE parts (id int, pan varchar(19)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (1000);
INSERT INTO people SELECT i, '4929' || i, nullif('note ' || i, 'note 3'), '1984-05-06' FROM generate_series(1, 200) i;
INSERT INTO old_people SELECT i, '4930' || i, 'old', NULL, 1 FROM generate_series(301, 320) i;
INSERT INTO cards SELECT i, '4929' || i FROM generate_series(1, 150) i;
INSERT INTO parts SELECT i, '4929' || i FROM generate_series(1, 200) i;
"""
RULES = """
version: 1
tables:
  public.people:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan}
      note: {level: core, mode: randomized, type: text}
      born: {level: core, mode: randomized, type: date}
  public.cards:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan}
  public.parts:
    columns:
      pan: {level: core, mode: deterministic, type: varchar(19), domain: pan}
roles:
  application: {logins: [ap_app], levels: {core: clear}}
"""
TABLES = {
    "people": ("pan", "note", "born"),
    "old_people": ("pan", "note", "born"),
    "cards": ("pan",),
    "parts_1": ("pan",),
    "parts_2": ("pan",),
}
CARDS_KEY = (
    "ALTER TABLE cards ADD FOREIGN KEY (pan) REFERENCES people (pan) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED"
)


async def make_old(place: Place) -> None:
    """The database as an earlier pgveil would have left it."""
    await place.admin.execute(SCHEMA)
    await place.apply(RULES)
    old = "regexp_replace({}::text, '-.{{6}}$', '')"
    sets = [
        "ALTER TABLE cards DROP CONSTRAINT cards_pan_fkey",
        "ALTER DOMAIN pgveil.sealed DROP CONSTRAINT sealed_format",
    ]
    for table, names in TABLES.items():
        assigned = ", ".join(f"{n} = {old.format(n)}" for n in names)
        sets.append(f"UPDATE ONLY {table} SET {assigned}")
    default = str(
        await place.admin.fetchval(
            "SELECT column_default FROM information_schema.columns WHERE table_name = 'people' AND column_name = 'note'"
        )
    )
    text = quote_literal(default.split(chr(39))[1][:-7])
    sets += [f"ALTER TABLE ONLY {t} ALTER COLUMN note SET DEFAULT {text}" for t in ("people", "old_people")]
    sets.append(
        f"ALTER DOMAIN pgveil.sealed ADD CONSTRAINT sealed_format CHECK (VALUE ~ {quote_literal(UNCHECKED_PATTERN)})"
    )
    sets.append(CARDS_KEY)
    for sql in sets:
        await place.admin.execute(sql)


async def everything(place: Place) -> dict[str, list[list[str | None]]]:
    found = {}
    for table, names in TABLES.items():
        domains = {"pan": "pan", "note": "public.people.note", "born": "public.people.born"}
        found[table] = [
            opened(place, domains[n], await column(place.admin, f"SELECT {n}::text FROM ONLY {table} ORDER BY id"))
            for n in names
        ]
    return found


async def test_old_values_are_turned_in_one_plan(any_place: Place) -> None:
    place = any_place
    await make_old(place)
    before = await everything(place)
    await place.admin.execute(
        """
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
        CREATE TRIGGER a AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION no();
        ALTER TABLE people ENABLE ALWAYS TRIGGER a;
        """
    )
    await place.admin.execute("CREATE MATERIALIZED VIEW seen AS SELECT id, pan FROM cards")
    plan = await place.apply(RULES)
    seals = {c.object: (c.rows, c.bytes is not None and c.bytes > 0) for c in plan.changes if c.kind == "seal"}
    assert seals == {
        "public.cards": (150, True),
        "public.people": (200, True),
        "public.old_people": (20, True),
        "public.parts_1": (99, True),
        "public.parts_2": (101, True),
        "public.seen": (None, False),
    }
    assert await everything(place) == before
    for table, names in {**TABLES, "seen": ("pan",)}.items():
        for name in names:
            assert await place.admin.fetchval(
                f"SELECT bool_and({name}::text ~ '-.{{6}}$') IS NOT FALSE FROM ONLY {table}"
            )
    # Keys, triggers and defaults are what they were, and the next plan has nothing to do.
    assert await place.admin.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'cards_pan_fkey'"
    ) == ("FOREIGN KEY (pan) REFERENCES people(pan) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED")
    assert await place.admin.fetchval("SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'a'") == "A"
    await place.admin.execute("INSERT INTO people (id) VALUES (999); INSERT INTO old_people (id) VALUES (998)")
    notes = await column(place.admin, "SELECT note::text FROM people WHERE id IN (998, 999)")
    assert opened(place, "public.people.note", notes) == ["none", "none"]
    assert (await place.plan(RULES)).empty


async def test_it_is_done_by_a_login_that_is_no_superuser(place: Place) -> None:
    await make_old(place)
    await place.admin.execute(
        f"ALTER DATABASE {place.name} OWNER TO ap_owner; GRANT pgveil_owner TO ap_owner; GRANT CREATE ON SCHEMA public TO ap_owner"
    )
    for table in (*TABLES, "parts"):
        await place.admin.execute(f"ALTER TABLE {table} OWNER TO ap_owner")
    connection = await asyncpg.connect(place.server.dsn(place.name, "ap_owner"))
    try:
        place.admin, admin = connection, place.admin
        before = await everything(place)
        await place.apply(RULES)
        assert await everything(place) == before
        assert (await place.plan(RULES)).empty
        place.admin = admin
    finally:
        await connection.close()
        await place.admin.execute("REVOKE pgveil_owner FROM ap_owner")


async def test_what_was_killed_in_the_middle_begins_again(place: Place) -> None:
    await make_old(place)
    plan = await place.plan(RULES)
    await place.admin.execute(
        """
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('ALTER DOMAIN') EXECUTE FUNCTION refuse();
        """
    )
    with pytest.raises(ApplyError, match="nothing was changed"):
        await execute(place.admin, plan, rules_of(RULES), place.ring, random=os.urandom, progress=lambda *_: None)
    await place.admin.execute("DROP EVENT TRIGGER refuse")
    assert (await place.plan(RULES)).comparable() == plan.comparable()
    await place.apply(RULES)
    assert (await place.plan(RULES)).empty


async def test_texts_that_are_no_sealed_values_are_in_the_way(place: Place) -> None:
    await make_old(place)
    await place.admin.execute(
        "ALTER DOMAIN pgveil.sealed DROP CONSTRAINT sealed_format; UPDATE cards SET pan = NULL WHERE id = 2"
    )
    await place.admin.execute(
        "ALTER TABLE cards DROP CONSTRAINT cards_pan_fkey; UPDATE cards SET pan = lower(pan::text) || 'x' WHERE id IN (3, 4)"
    )
    obstacles = (await place.plan(RULES)).obstacles
    assert [(o.object, o.problem) for o in obstacles] == [
        ("public.cards: pan", "2 rows hold texts that are not sealed values")
    ]


SEALED_BEFORE = (
    ("varchar(120)", "varchar(120)", "pan::varchar(120)", 200),  # F11.1
    ("varchar(19)", "varchar(19)", "pan::varchar(19)", 200),
    ("text", "text", "pan::text", 200),
    ("char(30)", "varchar(30)", "pan::char(30)", 200),
    ("lower case", "varchar(40)", "left(lower(pan::text), 40)", 200),
    ("ten characters", "varchar(10)", "left(pan::text, 10)", 200),
    ("some", "text", "CASE WHEN id < 11 THEN pan::text END", 10),
    ("the old form", "text", "left(pan::text, -7)", 200),
    ("without its check's end", "text", "left(pan::text, -2)", 200),
)


async def test_what_is_or_was_sealed_is_never_sealed_again(place: Place) -> None:
    """Whoever took the column out of the domain, whatever became of the texts, a plan names column and number and nothing is done."""

    def rules(types: list[str]) -> str:
        column = "  public.u{}: {{columns: {{pan: {{level: core, mode: deterministic, type: {}}}}}}}\n"
        tables = "".join(column.format(i, t) for i, t in enumerate(types))
        return f"version: 1\ntables:\n{tables}roles:\n  application: {{logins: [ap_app], levels: {{core: clear}}}}\n"

    for i in range(len(SEALED_BEFORE)):
        await place.admin.execute(
            f"CREATE TABLE u{i} AS SELECT i AS id, ('4929' || i)::varchar(200) AS pan FROM generate_series(1, 200) i"
        )
    await place.apply(rules(["varchar(200)"] * len(SEALED_BEFORE)))
    for guard in await column(place.admin, "SELECT viewname FROM pg_views WHERE viewname LIKE 'guard%'"):
        await place.admin.execute(f"DROP VIEW pgveil.{guard}")
    for i, (kind, _, using, _) in enumerate(SEALED_BEFORE):
        type_ = kind if kind.startswith(("varchar", "char")) else "text"
        await place.admin.execute(f"ALTER TABLE u{i} ALTER COLUMN pan TYPE {type_} USING {using}")
    found = (await place.plan(rules([declared for _, declared, _, _ in SEALED_BEFORE]))).obstacles
    assert [(o.object, o.problem) for o in found] == [
        (
            f"public.u{i}.pan",
            f"{count} values are sealed values already, whole or cut, in a column that is not pgveil.sealed",
        )
        for i, (*_, count) in enumerate(SEALED_BEFORE)
    ]


async def test_what_becomes_sealed_after_the_plan_is_found_too(place: Place) -> None:
    rules = """
version: 1
tables:
  public.u: {columns: {pan: {level: core, mode: deterministic, type: text, domain: pan}}}
roles:
  application: {logins: [ap_app], levels: {core: clear}}
"""
    await place.admin.execute("CREATE TABLE u (id int, pan text); INSERT INTO u VALUES (1, 'a')")
    plan = await place.plan(rules)
    place.ring.ensure("pan", os.urandom)
    sealed = seal(place.ring.newest("pan"), b"4929", nonce=None).decode()
    await place.admin.execute(f"INSERT INTO u VALUES (2, {quote_literal(sealed[:30])}), (3, '~ about 5')")
    with pytest.raises(ApplyError, match=r"public\.u\.pan: 1 values are sealed values already.*nothing was changed"):
        await execute(place.admin, plan, rules_of(rules), place.ring, random=os.urandom, progress=lambda *_: None)
    assert await column(place.admin, "SELECT pan FROM u ORDER BY id") == ["a", sealed[:30], "~ about 5"]


DEFERRED = (
    "DEFERRABLE INITIALLY DEFERRED",
    "ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED",
    "MATCH FULL DEFERRABLE INITIALLY DEFERRED",
    "DEFERRABLE",
)


async def test_deferred_foreign_keys_are_no_hindrance(place: Place) -> None:
    """F11.2: their events waited for the commit, and the next ALTER TABLE for them."""
    tables = ""
    columns = "{columns: {born: {level: core, mode: randomized, type: date}, doc: {level: core, mode: randomized, type: jsonb}}}"
    for i, key in enumerate(DEFERRED):
        await place.admin.execute(
            f"""
            CREATE TABLE a{i} (id int PRIMARY KEY, born date, doc jsonb, up int REFERENCES a{i} {key});
            CREATE TABLE b{i} (id int PRIMARY KEY, a_id int REFERENCES a{i} {key}, born date, doc jsonb, unique (a_id) DEFERRABLE);
            INSERT INTO a{i} SELECT i, '1984-05-06', '{{"a": 1}}', i FROM generate_series(1, 50) i;
            INSERT INTO b{i} SELECT i, i, '2000-01-01', '{{"a": 2}}' FROM generate_series(1, 50) i;
            """
        )
        # Each end alone, and both.
        tables += "".join(f"  public.{t}{i}: {columns}\n" for t in ("a", "b", "ab", "ab")[i])
    await place.apply(
        f"version: 1\ntables:\n{tables}roles:\n  application: {{logins: [ap_app], levels: {{core: clear}}}}\n"
    )
    born = await column(place.admin, "SELECT born FROM a0")
    assert len(born) == 50
    assert len(set(opened(place, "public.a0.born", born))) == 1
