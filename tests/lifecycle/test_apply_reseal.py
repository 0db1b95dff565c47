"""Rules that change over what is sealed already (F1.5, F1.6): planned and done, or an obstacle, and never served meanwhile."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from keys.sealed import is_randomized, open_batch
from lifecycle.apply import execute, make_plan
from proxy.decisions import Gate
from proxy.session.gate import Admit, Pass, Refuse, Settings
from proxy.session.values import ValueCodec
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.model import Verdict
from rules.plan import Reason
from tests.lifecycle.conftest import Place, make_place, rules_of

if TYPE_CHECKING:
    from pathlib import Path

    from lifecycle.apply import ApplyPlan
    from lifecycle.demo.postgres import Postgres
    from rules.model import Rules

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, pan varchar(19) DEFAULT '0000', made timestamp, seen timestamp, note text);
INSERT INTO t SELECT i, CASE WHEN i % 9 <> 0 THEN (4929000000000000 + i % 50)::text END,
                     '2026-01-02'::timestamp + i % 40 * interval '1 day', '2026-01-01 08:00'::timestamp + i * interval '1 minute',
                     'note ' || i FROM generate_series(1, 3000) i;
GRANT SELECT, INSERT, UPDATE ON t TO ap_app, ap_agent;
"""
RULES = """
version: 1
tables:
  public.t: {columns: {%s}}
roles:
  app: {logins: [ap_app], levels: {core: clear, important: clear}}
  agent: {logins: [ap_agent], levels: {core: masked, important: masked}}
"""
PAN = "pan: {level: core, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}"


def rules(*columns: str) -> str:
    return RULES % ", ".join(columns)


async def values(place: Place, name: str, domain: str, table: str = "t") -> list[str | None]:
    """A sealed column, opened, by the order of id."""
    rows = await place.admin.fetch(f"SELECT {name}::text AS v FROM {table} ORDER BY id")
    opened = open_batch(place.ring.keys(domain), [None if r["v"] is None else r["v"].encode() for r in rows])
    return [None if v is None else v.decode() for v in opened]


async def texts(place: Place, query: str) -> list[Any]:
    return [r[0] for r in await place.admin.fetch(query)]


@pytest.mark.parametrize(
    ("before", "after", "domain", "randomized"),
    [
        (PAN, PAN.replace("deterministic", "randomized"), "pan", True),
        (PAN.replace("deterministic", "randomized"), PAN, "pan", False),
        (PAN, PAN.replace("domain: pan, ", ""), "public.t.pan", False),
        (PAN, PAN.replace("domain: pan, ", "").replace("deterministic", "randomized"), "public.t.pan", True),
        (PAN, PAN.replace("varchar(19)", "text"), "pan", False),
        (PAN, PAN.replace("varchar(19)", "varchar(16)"), "pan", False),
    ],
    ids=["to randomized", "to deterministic", "domain", "mode and domain", "type", "shorter"],
)
async def test_mode_type_and_domain_are_changed(
    place: Place, before: str, after: str, domain: str, randomized: bool
) -> None:
    await place.admin.execute(SCHEMA)
    plain = await texts(place, "SELECT pan FROM t ORDER BY id")
    await place.apply(rules(before))
    plan = await place.plan(rules(after))
    assert [c.rows for c in plan.changes if c.kind == "seal"] == [2667]
    await place.apply(rules(after))
    assert await values(place, "pan", domain) == plain
    stored = await texts(place, "SELECT pan::text FROM t WHERE pan IS NOT NULL")
    assert {is_randomized(s.encode()) for s in stored} == {randomized}
    assert len(set(stored)) == (2667 if randomized else 50)
    await place.admin.execute("INSERT INTO t (id) VALUES (9999)")
    assert (await values(place, "pan", domain))[-1] == "0000", "the default too"
    again = await place.plan(rules(after))
    assert again.empty
    assert not again.warnings or "superuser" in again.warnings[0]


async def test_a_timestamp_becomes_a_date_where_nothing_is_lost(place: Place) -> None:
    """F1.5: type timestamp -> date."""
    await place.admin.execute(SCHEMA)
    made = "made: {level: core, mode: deterministic, type: timestamp}"
    seen = "seen: {level: core, mode: randomized, type: timestamp}"
    await place.apply(rules(made, seen))
    before = await texts(place, "SELECT seen::text FROM t ORDER BY id")
    plan = await place.plan(rules(made, seen.replace("timestamp", "date")))
    (obstacle,) = plan.obstacles
    assert obstacle.object == "public.t.seen"
    assert "values of type timestamp are not values of the rules' type date" in obstacle.problem
    await place.apply(rules(made.replace("timestamp", "date"), seen))
    dates = await values(place, "made", "public.t.made")
    assert dates[0] == "2026-01-03"
    assert all(d is not None and dt.date.fromisoformat(d) for d in dates)
    assert await texts(place, "SELECT seen::text FROM t ORDER BY id") == before, "what stays is not touched"


async def test_tables_joined_by_a_foreign_key_are_sealed_anew_together(place: Place) -> None:
    await place.admin.execute(
        "CREATE TABLE t (id int PRIMARY KEY, pan text UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b');"
        "CREATE TABLE u (id int PRIMARY KEY, pan text REFERENCES t (pan) DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO u VALUES (1, 'b'), (2, NULL);"
    )
    joined = RULES.replace("public.t: {columns: {%s}}", "public.t: {columns: {%s}}\n  public.u: {columns: {%s}}")
    pan = "pan: {level: core, mode: deterministic, type: text, domain: one}"
    await place.apply(joined % (pan, pan))
    other = pan.replace("one", "other")
    lone = await place.plan(joined % (other, pan))
    assert any("do not seal alike" in o.problem for o in lone.obstacles)
    plan = await place.apply(joined % (other, other))
    assert sum(c.kind == "foreign key" for c in plan.changes) == 2
    assert await values(place, "pan", "other", "u") == ["b", None]
    assert await place.admin.fetchval("SELECT count(*) FROM t JOIN u USING (pan)") == 1
    unique = await place.plan(
        joined % (other.replace("deterministic", "randomized").replace(", domain: other", ""), other)
    )
    assert any("unique index t_pan_key cannot hold" in o.problem for o in unique.obstacles)


async def test_partitions_children_and_triggers(place: Place) -> None:
    await place.admin.execute(
        "CREATE TABLE t (id int, pan text) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);"
        "INSERT INTO t VALUES (1, 'a'), (11, 'b');"
    )
    one = "pan: {level: core, mode: deterministic, type: text}"
    await place.apply(rules(one))
    await place.admin.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END';"
        "CREATE TRIGGER n BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION no();"
    )
    await place.apply(rules(one.replace("deterministic", "randomized")))
    assert await values(place, "pan", "public.t.pan") == ["a", "b"]
    with pytest.raises(asyncpg.RaiseError):
        await place.admin.execute("UPDATE t SET id = 2 WHERE id = 1")


async def test_rules_that_lose_a_sealed_column_are_an_obstacle(place: Place) -> None:
    """F1.6: no tables at all, the table without the column, the column as another kind."""
    await place.admin.execute(SCHEMA)
    await place.apply(rules(PAN))
    nothing = "version: 1\ntables: {}\nroles: {}\n"
    for lost in (
        nothing,
        rules("note: {level: important, mask: name}"),
        rules("pan: {level: general}"),
        rules("pan: {level: important, mask: bank_card}"),
    ):
        plan = await place.plan(lost)
        assert [o.object for o in plan.obstacles] == ["public.t.pan"], lost
        assert "the rules do not seal it" in plan.obstacles[0].problem
        assert "COPY" in plan.obstacles[0].fix
    await place.admin.execute("CREATE TABLE copied AS SELECT id, pan FROM t")
    copied = await place.plan(rules(PAN))
    assert copied.obstacles == ()
    assert any("public.copied.pan is of type pgveil.sealed and not in the rules" in w for w in copied.warnings)
    await place.admin.execute("ALTER TABLE t DROP COLUMN pan CASCADE")
    gone = await place.apply(nothing)
    assert "record" in {c.kind for c in gone.changes}
    assert (await place.plan(nothing)).empty


async def test_a_database_without_a_record_gets_it_where_everything_opens(place: Place) -> None:
    """As an older pgveil has left it; or the record was lost."""
    await place.admin.execute(SCHEMA)
    await place.apply(rules(PAN))
    await place.admin.execute("DROP VIEW pgveil.applied")
    for other, words in (
        (PAN.replace("domain: pan, ", ""), "do not open under the keys of domain public.t.pan"),
        (PAN.replace("deterministic", "randomized"), "are not sealed as the rules say"),
        (PAN.replace("varchar(19)", "date").replace("bank_card", "year"), "are not sealed as the rules say"),
        (PAN.replace("varchar(19)", "varchar(5)"), "are not sealed as the rules say"),
    ):
        plan = await place.plan(rules(other))
        assert [o.object for o in plan.obstacles] == ["public.t.pan"]
        assert words in plan.obstacles[0].problem
    plan = await place.apply(rules(PAN))
    assert {c.kind for c in plan.changes} == {"ground", "record"}
    assert (await place.plan(rules(PAN))).empty


async def test_the_record_is_there_for_people_too(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.apply(rules(PAN, "note: {level: important, mask: name}"))
    rows = await place.admin.fetch(
        "SELECT kind, schema_name, object_name, column_name, how FROM pgveil.applied ORDER BY 1"
    )
    assert (rows[0]["kind"], rows[0]["object_name"], rows[0]["column_name"]) == ("column", "t", "pan")
    assert {r["kind"] for r in rows} == {"column", "view"}
    assert '"mode": "deterministic"' in rows[0]["how"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await place.run("ap_agent", "COMMENT ON VIEW pgveil.applied IS 'x'")
    assert await place.run(
        "ap_agent", "SELECT obj_description(c.oid, 'pg_class') IS NOT NULL FROM pg_class c WHERE relname = 'applied'"
    )


async def test_a_form_of_a_newer_pgveil_is_in_the_way(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.apply(rules(PAN))
    told = await place.admin.fetchval("SELECT obj_description('pgveil.applied'::regclass)")
    newer = told.replace('"format":1', '"format":2')
    await place.admin.execute(f"COMMENT ON VIEW pgveil.applied IS '{newer}'")
    plan = await place.plan(rules(PAN))
    assert ["form 2, which only a newer pgveil knows" in o.problem for o in plan.obstacles] == [True]


async def test_two_at_once(place: Place, pg: Postgres) -> None:
    """The second waits for the first, and finds nothing left to do, or another database than it planned for."""
    import asyncio  # noqa: PLC0415

    from lifecycle.apply import ApplyError  # noqa: PLC0415

    await place.admin.execute(SCHEMA)
    await place.apply(rules(PAN))
    wanted = rules_of(rules(PAN.replace("deterministic", "randomized")))
    other_rules = rules_of(rules(PAN.replace("varchar(19)", "varchar(20)")))
    others = [await asyncpg.connect(pg.dsn(place.name)) for _ in range(3)]
    plans = [(await make_plan(c, wanted, place.ring), wanted) for c in others[:2]]
    plans.append((await make_plan(others[2], other_rules, place.ring), other_rules))

    async def run(connection: asyncpg.Connection[Any], planned: tuple[ApplyPlan, Rules]) -> str:
        plan, by = planned
        try:
            left = await execute(connection, plan, by, place.ring, random=os.urandom, progress=lambda *_: None)
        except ApplyError as error:
            return str(error)
        return "done" if left else "nothing was left"

    assert sorted(await asyncio.gather(*map(run, others[:2], plans[:2]))) == ["done", "nothing was left"]
    assert "has changed since the plan was made, by another pgveil apply perhaps" in await run(others[2], plans[2])
    assert (await place.plan(wanted)).empty
    for connection in others:
        await connection.close()


# -- any rules after any others

CHOICES: dict[str, tuple[str | None, ...]] = {
    "pan": (
        None,
        "{level: general}",
        "{level: important, mask: bank_card}",
        "{level: core, mode: deterministic, type: varchar(19), domain: one, mask: bank_card}",
        "{level: core, mode: randomized, type: varchar(19), mask: bank_card}",
        "{level: core, mode: deterministic, type: text, domain: two}",
    ),
    "made": (
        None,
        "{level: important, mask: year}",
        "{level: core, mode: deterministic, type: timestamp}",
        "{level: core, mode: randomized, type: date, mask: year}",
        "{level: core, mode: deterministic, type: date}",
    ),
    "note": (
        None,
        "{level: important, mask: name}",
        "{level: important, mask: {kind: keep_first, n: 2}}",
        "{level: core, mode: randomized, type: text, domain: three}",
    ),
}


def any_rules(chance: random.Random) -> str:
    chosen = {n: c for n, options in CHOICES.items() if (c := chance.choice(options)) is not None}
    return rules(*(f"{n}: {c}" for n, c in chosen.items())) if chosen else "version: 1\ntables: {}\nroles: {}\n"


async def seen(place: Place, text: str) -> dict[str, list[Any]]:
    """What everybody gets of each column under rules that are applied: opened, and by the masking view."""
    loaded = rules_of(text)
    found: dict[str, list[Any]] = {}
    for name in CHOICES:
        column = next((c for c in loaded.protected_columns() if c.name.column == name), None)
        if column is not None and column.mode is not None:
            found[name] = await values(place, name, column.domain or str(column.name))
        else:
            found[name] = await texts(place, f"SELECT {name}::text FROM t ORDER BY id")
    views = await place.admin.fetch(
        "SELECT n.nspname AS s FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 't'",
        place.view(text, "ap_agent"),
    )
    for row in views:
        masked = [c.name.column for c in loaded.protected_columns() if c.mode is None]
        for name in masked:
            found[f"masked {name}"] = await place.run(
                "ap_agent", f'SELECT {name}::text FROM "{row["s"]}".t ORDER BY id'
            )
    return found


async def served(place: Place, text: str, plain: dict[str, list[Any]]) -> None:
    """By a Gate of these rules in front of the database as it is: no ciphertext for who sees clear, no value for who sees masks."""
    rows = {name: await place.admin.fetch(sql) for name, sql in CATALOG_QUERIES.items()}
    loaded = rules_of(text)
    codec = ValueCodec(place.ring, random=os.urandom)
    gate = Gate(loaded, build_catalog(rows), codec, marks=place.ring.marks)
    for name, login in itertools.product(CHOICES, ("ap_app", "ap_agent")):
        principal = gate.principal(login)
        sql = f"SELECT {name} FROM t ORDER BY id"
        decision = gate.decide(sql.encode(), principal, Settings(search_path=("pg_catalog", "public")), extended=True)
        if isinstance(decision, Refuse):
            assert decision.refusal.reason in {Reason.NOT_APPLIED, Reason.VERDICT}, (sql, decision.refusal)
            continue
        assert isinstance(decision, Pass | Admit)
        ran = decision.text.decode() if isinstance(decision, Admit) else sql
        result = decision.plans[0].results if isinstance(decision, Admit) and decision.plans[0] is not None else None
        opened = result[0].open if result else None
        column = next((c for c in loaded.protected_columns() if c.name.column == name), None)
        try:
            got = [r[0] for r in await place.run(login, f"SELECT {name}::text FROM ({ran}) AS q ({name})")]
        except asyncpg.InsufficientPrivilegeError:
            continue
        masked = column is not None and principal.policy.verdict(column.name) is not Verdict.CLEAR
        if opened is not None:
            domain = opened.domain or str(opened.name)
            found = open_batch(place.ring.keys(domain), [None if v is None else v.encode() for v in got])
            assert column is not None
            assert [v is None for v in found] == [v is None for v in plain[name]]
        elif masked:
            assert not any(v is not None and v == p for v, p in zip(got, plain[name], strict=True)), (name, login)
            assert not any(v is not None and v[:1] in "~^" for v in got)
        else:
            assert got == plain[name], (name, login)


async def any_pair(pg: Postgres, directory: Path, chance: random.Random) -> None:
    """Apply of A and then of B leaves what apply of B does; or an obstacle says why not, and nothing is changed. Between them nothing wrong is served."""
    first, second = any_rules(chance), any_rules(chance)
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    place, fresh = await make_place(pg, directory / "a"), await make_place(pg, directory / "b")
    small = SCHEMA.replace("3000", "40")
    try:
        for each in (place, fresh):
            await each.admin.execute(small)
        plain = {n: await texts(place, f"SELECT {n}::text FROM t ORDER BY id") for n in CHOICES}
        await place.apply(first)
        await served(place, first, plain)
        await served(place, second, plain)
        plan = await place.plan(second)
        if plan.obstacles:
            assert all("the rules do not seal it" in o.problem for o in plan.obstacles), (first, second, plan.obstacles)
            return
        await place.apply(second)
        await fresh.apply(second)
        assert await seen(place, second) == await seen(fresh, second), (first, second)
        again = await place.plan(second)
        assert again.empty, (first, second, again.changes)
        await served(place, second, plain)
    finally:
        await place.admin.close()
        await fresh.admin.close()


@pytest.mark.parametrize("seed", range(5))
async def test_any_rules_after_any_others(pg: Postgres, tmp_path: Path, seed: int) -> None:
    await any_pair(pg, tmp_path, random.Random(seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 160))
async def test_any_rules_after_any_others_at_length(pg: Postgres, tmp_path: Path, seed: int) -> None:
    await any_pair(pg, tmp_path, random.Random(seed))
