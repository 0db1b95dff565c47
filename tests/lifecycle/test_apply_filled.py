"""Columns that triggers fill from masked ones are in the way until the rules name them, and then have the verdict (F2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.database import fix_settings, read_catalog
from rules.agreement import compare
from rules.document import Place as At
from rules.model import TableName
from tests.lifecycle.conftest import rules_of

if TYPE_CHECKING:
    from lifecycle.apply import ApplyPlan
    from tests.lifecycle.conftest import Place

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name varchar(40), phone text, city text);
INSERT INTO customers VALUES (1, 'Anna Kowal', '13800001234', 'Oslo');
CREATE TABLE audit_log (id serial, who text, row_data jsonb, city text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO audit_log (who, row_data, city) VALUES (NEW.name, to_jsonb(NEW), NEW.city); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note();
ALTER FUNCTION note() SET search_path = public, pg_temp;
GRANT SELECT, INSERT, UPDATE ON customers TO ap_app, ap_agent;
GRANT INSERT ON audit_log TO ap_app, ap_agent;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ap_app, ap_agent;
"""
RULES = """
version: 1
tables:
  public.customers:
    columns:
      name: {{level: important, mask: name}}
      phone: {{level: core, protection: masked, stored: plain, mask: phone}}
{more}
roles:
  app: {{logins: [ap_app], levels: {{core: clear, important: clear}}}}
  agent: {{logins: [ap_agent], levels: {{core: masked, important: masked}}}}
"""
BARE = RULES.format(more="")
WHO = "trigger function public.note of public.customers fills it from public.customers.name"
WHO_LINES = "public.audit_log: {columns: {who: {level: important, mask: name}}}"
DATA_LINES = 'public.audit_log: {columns: {row_data: {level: core, protection: masked, stored: plain, mask: "null"}}}'


def said(plan: ApplyPlan) -> tuple[list[tuple[str, str, str]], list[str]]:
    return [(o.object, o.problem, o.fix) for o in plan.obstacles], [w for w in plan.warnings if "note" in w]


async def test_in_the_way_until_the_rules_name_them(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    # Nobody with limits reads the table: a warning, as long as it is so.
    await place.apply(BARE)
    obstacles, warnings = said(await place.plan(BARE))
    assert obstacles == []
    assert warnings == [
        f"public.audit_log.row_data: {WHO}, public.customers.phone, and the rules do not name it: `{DATA_LINES}`",
        f"public.audit_log.who: {WHO}, and the rules do not name it: `{WHO_LINES}`",
    ]
    await place.admin.execute("GRANT SELECT ON audit_log TO ap_centre, ap_app")
    obstacles, warnings = said(await place.plan(BARE))
    otherwise = "or `level: general` where everybody may see it"
    assert obstacles == [
        (
            "public.audit_log.row_data",
            f"{WHO}, public.customers.phone, which login ap_agent does not see clear and could read here",
            f"name it in the rules: `{DATA_LINES}`, {otherwise}",
        ),
        (
            "public.audit_log.who",
            f"{WHO}, which login ap_agent does not see clear and could read here",
            f"name it in the rules: `{WHO_LINES}`, {otherwise}",
        ),
    ]
    assert warnings == []
    # With these lines it has the verdicts of what it is made of, at the server too.
    lines = '  public.audit_log: {columns: {who: {level: important, mask: name}, row_data: {level: core, protection: masked, stored: plain, mask: "null"}}}'
    named = RULES.format(more=lines)
    await place.apply(named)
    assert said(await place.plan(named)) == ([], [])
    await place.run("ap_agent", "UPDATE customers SET city = 'Rome'")
    assert await place.run("ap_app", "SELECT who, row_data->>'phone' FROM audit_log") == [("Anna Kowal", "13800001234")]
    view = f"{place.view(named, 'ap_agent')}.audit_log"
    assert await place.run("ap_agent", f"SELECT who, row_data, city FROM {view}") == [("A*** K****", None, "Rome")]
    assert await place.sqlstate("ap_agent", "SELECT who FROM audit_log") == "42501"
    # Or the rules say that everybody may see it.
    general = RULES.format(more="  public.audit_log: {columns: {who: {level: general}, row_data: {level: general}}}")
    assert said(await place.plan(general)) == ([], [])


async def obstacles_after(place: Place, sql: str) -> list[tuple[str, str, str]]:
    """What is in the way of `apply` in a database of which `sql` is taken back afterwards."""
    transaction = place.admin.transaction(isolation="repeatable_read")
    await transaction.start()
    await place.admin.execute(sql)
    obstacles, _ = said(await place.plan(BARE))
    await transaction.rollback()
    return obstacles


async def test_who_could_read_it(place: Place) -> None:
    """Past the table's own privileges: one column, a view, a function that runs as its owner, the owner, everybody."""
    await place.admin.execute(SCHEMA)
    await place.apply(BARE)
    for grant in (
        "GRANT SELECT (who) ON audit_log TO ap_agent",
        "GRANT SELECT ON audit_log TO PUBLIC",
        "CREATE VIEW shown AS SELECT who AS x FROM audit_log; CREATE VIEW again AS SELECT x FROM shown; GRANT SELECT ON again TO ap_agent",
        "CREATE FUNCTION shown() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT who FROM audit_log'",
        "ALTER TABLE audit_log OWNER TO ap_agent",
        "GRANT pg_read_all_data TO ap_agent",
    ):
        assert "public.audit_log.who" in {o for o, _, _ in await obstacles_after(place, grant)}, grant
    for harmless in (
        "GRANT SELECT (id, city) ON audit_log TO ap_agent",
        "GRANT SELECT ON audit_log TO ap_app",
        "ALTER TABLE audit_log OWNER TO ap_app",
        "CREATE VIEW shown AS SELECT id FROM audit_log; GRANT SELECT ON shown TO ap_app",
    ):
        assert await obstacles_after(place, harmless) == [], harmless


async def test_what_can_t_be_read_is_told_as_long_as_it_is_there(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    await place.admin.execute(
        "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS "
        "$$ BEGIN EXECUTE format('INSERT INTO %I (who) VALUES ($1)', TG_ARGV[0]) USING NEW.name; RETURN NULL; END $$"
    )
    told = [
        "public.customers: trigger function public.note of public.customers runs a text that it puts together: see that it puts name, phone nowhere that somebody else reads"
    ]
    assert said(await place.apply(BARE)) == ([], told)
    assert said(await place.plan(BARE)) == ([], told)


async def test_check_names_them(place: Place) -> None:
    await place.admin.execute(SCHEMA)
    plan = await place.plan(BARE)
    assert plan.obstacles == ()
    async with place.admin.transaction():
        await fix_settings(place.admin)
        catalog = await read_catalog(place.admin)
    problems = compare(rules_of(BARE), catalog, "rules.yaml", {TableName("public", "customers"): At(4, 3)})
    found = [(p.line, str(p.severity), p.message, p.fix) for p in problems if "filled" in p.message]
    by = "filled by trigger function public.note of public.customers from public.customers.name"
    assert found == [
        (
            4,
            "warning",
            f"column public.audit_log.row_data is {by}, public.customers.phone and is not classified",
            f"classify it: `{DATA_LINES}`, or `level: general` where everybody may see it",
        ),
        (
            4,
            "warning",
            f"column public.audit_log.who is {by} and is not classified",
            f"classify it: `{WHO_LINES}`, or `level: general` where everybody may see it",
        ),
    ]


async def test_who_writes_it_as_himself_needs_the_privilege(place: Place) -> None:
    """Told before it fails: a trigger that changes such a column, or one that an index compares, with the writer's rights; and the advice works."""
    await place.admin.execute(SCHEMA)
    more = "  public.audit_log: {{columns: {{who: {}, row_data: {{level: general}}}}}}"
    named = RULES.format(more=more.format("{level: important, mask: name}"))
    city = "UPDATE customers SET city = 'Rome'"
    assert said(await place.apply(named)) == ([], [])
    assert await place.sqlstate("ap_agent", city) == ""
    # As its owner, too: what is put into a table is not read there, so nothing is told of it and pgveil refuses nothing.
    await place.admin.execute("ALTER FUNCTION note() SECURITY DEFINER")
    assert said(await place.plan(named)) == ([], [])
    await place.admin.execute("ALTER FUNCTION note() SECURITY INVOKER; CREATE INDEX audit_who ON audit_log (who)")
    told = [
        (
            "trigger function public.note of public.customers writes public.audit_log.who as whoever writes public.customers: "
            "ap_agent, who does not see it clear, has no privilege to, and such statements end with 42501. "
            "Name it `level: general` and REVOKE SELECT (who) ON public.audit_log from who is not to read it, or drop what compares it"
        )
    ]
    assert said(await place.apply(named)) == ([], told)
    assert await place.sqlstate("ap_agent", city) == "42501"
    general = RULES.format(more=more.format("{level: general}"))
    assert said(await place.apply(general)) == ([], [])
    assert await place.sqlstate("ap_agent", city) == ""
    assert await place.sqlstate("ap_agent", "SELECT who FROM audit_log") == "42501"
