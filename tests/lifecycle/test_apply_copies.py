"""Materialized views and statistics over masked columns: who reads them at the server before and after apply, and what the plan says (F2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lifecycle.apply import ApplyPlan
    from tests.lifecycle.conftest import Place

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text, city text, points int);
INSERT INTO customers SELECT i, 'Canary' || i % 5, 'Oslo' || i % 3, i % 7 FROM generate_series(1, 300) i;
GRANT SELECT ON customers TO ap_app, ap_agent;
"""
RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {level: important, mask: name}
roles:
  app: {logins: [ap_app], levels: {important: clear}}
  agent: {logins: [ap_agent, ap_owner], levels: {important: masked}}
"""
COPIES = """
CREATE MATERIALIZED VIEW copied AS SELECT id, name, upper(name) AS loud, city FROM customers;
CREATE MATERIALIZED VIEW again AS SELECT id, loud FROM copied;
CREATE MATERIALIZED VIEW counted AS SELECT city, count(*) AS n FROM customers GROUP BY city;
CREATE UNIQUE INDEX ON copied (id);
CREATE INDEX ON copied (lower(name));
GRANT SELECT ON copied, again, counted TO PUBLIC;
ANALYZE;
"""
SHOWN = "SELECT count(*) FROM pg_stats WHERE most_common_vals::text || histogram_bounds::text ILIKE '%canary%' OR most_common_vals::text ILIKE '%canary%'"
IN_EXT = "SELECT count(*) FROM pg_stats_ext WHERE most_common_vals::text ILIKE '%canary%'"
IN_EXPRS = "SELECT count(*) FROM pg_stats_ext_exprs WHERE most_common_vals::text ILIKE '%canary%'"


def of(plan: ApplyPlan, *words: str) -> list[str]:
    return [w for w in plan.warnings if any(word in w for word in words)]


async def test_materialized_views(any_place: Place) -> None:
    """A copy of a copy, its indexes and its statistics; refreshed by whoever may, it is open to nobody more."""
    place = any_place
    await place.admin.execute(SCHEMA + COPIES)
    assert await place.run("ap_agent", "SELECT DISTINCT loud FROM again ORDER BY 1 LIMIT 1") == [("CANARY0",)]
    told = [
        f"materialized view public.{view} is a copy of public.customers.name, plain, as of its last refresh: who does not see that clear may not read it"
        for view in ("again", "copied")
    ]
    assert of(await place.plan(RULES), "materialized") == told
    await place.apply(RULES)
    assert of(await place.plan(RULES), "materialized") == told, "as long as they are there"

    async def closed() -> None:
        for sql in (
            "SELECT loud FROM copied",
            "SELECT id FROM copied",
            "SELECT * FROM again",
            "COPY copied TO STDOUT",
            "REFRESH MATERIALIZED VIEW copied",
            "CREATE TEMP TABLE t AS TABLE again",
        ):
            assert await place.sqlstate("ap_agent", sql) == "42501", sql
        assert await place.run("ap_agent", SHOWN) == [(0,)]
        assert await place.run("ap_agent", "SELECT sum(n)::int FROM counted") == [(300,)]
        assert await place.run("ap_app", "SELECT DISTINCT loud FROM again ORDER BY 1 LIMIT 1") == [("CANARY0",)]

    await closed()
    await place.admin.execute(
        "REFRESH MATERIALIZED VIEW copied; REFRESH MATERIALIZED VIEW CONCURRENTLY copied; REFRESH MATERIALIZED VIEW again; ANALYZE"
    )
    await closed()
    assert (await place.plan(RULES)).empty
    # A new one, and a new grant, are the next plan's work.
    await place.admin.execute(
        "CREATE MATERIALIZED VIEW third AS TABLE again; GRANT SELECT ON third, copied TO ap_agent"
    )
    plan = await place.apply(RULES)
    assert {c.object for c in plan.changes if c.kind == "revoke"} == {"public.copied", "public.third"}
    assert await place.sqlstate("ap_agent", "SELECT loud FROM third") == "42501"
    await closed()


KEPT = """
CREATE INDEX kept_a ON customers (lower(name));
CREATE INDEX kept_b ON customers (city, (name || city));
CREATE INDEX plain_c ON customers (lower(city));
CREATE STATISTICS kept_d ON (upper(name)) FROM customers;
CREATE STATISTICS kept_e (mcv) ON name, city FROM customers;
CREATE STATISTICS kept_f (mcv) ON (left(name, 7)), points FROM customers;
CREATE STATISTICS plain_g (mcv) ON city, points FROM customers;
ANALYZE customers;
"""


async def test_statistics(any_place: Place) -> None:
    """The server shows them to nobody by a column's privilege; whom it shows them to that is to see masks is named."""
    place = any_place
    await place.admin.execute(SCHEMA + KEPT)
    await place.apply(RULES)
    held = [await place.admin.fetchval(query) for query in (SHOWN, IN_EXT, IN_EXPRS)]
    assert held == [3, 2, 2], "they hold values"
    for query in (SHOWN, IN_EXT, IN_EXPRS):
        assert await place.run("ap_agent", query) == [(0,)], query
    assert of(await place.plan(RULES), "statistics") == []
    # Who owns the table, or can become who does, and who reads all data.
    indexes, objects = {"index public.kept_a", "index public.kept_b"}, {f"statistics public.kept_{n}" for n in "def"}
    for change, expected in (
        ("ALTER TABLE customers OWNER TO ap_owner", indexes | objects),
        ("ALTER TABLE customers OWNER TO ap_centre", indexes | objects),
        ("GRANT pg_read_all_data TO ap_owner", indexes),
    ):
        await place.admin.execute(change)
        told = of(await place.plan(RULES), "statistics")
        assert {w.partition(" is made of public.customers.name, and PostgreSQL shows")[0] for w in told} == expected
        reader = "ap_agent" if "ap_centre" in change else "ap_owner"
        assert all(f"among them, to {reader}" in w and "ap_app" not in w for w in told)
        assert (await place.run(reader, SHOWN))[0][0] > 0
        await place.admin.execute("ALTER TABLE customers OWNER TO CURRENT_USER; REVOKE pg_read_all_data FROM ap_owner")


async def test_views_from_before_the_mended_cve(place: Place) -> None:
    """A cluster that was made by 16.2 has views that ask nobody (CVE-2024-4317): everybody who is to see masks is named."""
    await place.admin.execute(f"{SCHEMA}CREATE STATISTICS kept ON (upper(name)) FROM customers; ANALYZE customers")
    await place.apply(RULES)
    before = await place.admin.fetchval("SELECT pg_get_viewdef('pg_stats_ext_exprs'::regclass)")
    old = str(before).replace("pg_has_role(c.relowner, 'USAGE'::text) AND", "")
    assert old != before
    await place.admin.execute(
        f"SET allow_system_table_mods = on; CREATE OR REPLACE VIEW pg_catalog.pg_stats_ext_exprs AS {old}"
    )
    try:
        assert await place.run("ap_agent", IN_EXPRS) == [(1,)]
        (told,) = of(await place.plan(RULES), "kept")
        assert (
            told.endswith("ap_agent, ap_owner, who are to see masks: run fix-CVE-2024-4317.sql") or "ap_agent" in told
        )
    finally:
        await place.admin.execute(f"CREATE OR REPLACE VIEW pg_catalog.pg_stats_ext_exprs AS {before}")
    assert of(await place.plan(RULES), "kept") == []
