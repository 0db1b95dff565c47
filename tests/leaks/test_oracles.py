"""Questions about a value: the answers to a right and to a wrong guess can't be told apart, on any way, by any masked login.

Right and wrong guess have one mask, so that nothing which the mask shows tells them apart. Time is asked for by a sleep that the right guess
alone would begin: it would run into a statement_timeout, so no clock is read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.leaks.den import AGENT, CHIEF, CLERK, SLOW, Den, Way

if TYPE_CHECKING:
    from tests.leaks.den import Outcome, Session

_NEW = "branch, locale, gender, birth_date, opened_on, id_number, name, phone, email"
_WHO = "'b', 'en_US', 'F', '2000-01-01', '2020-01-01', '{number}', 'Nobody', '{guess}', 'nobody{number}@example.org'"

_MEASURED = (
    "DO $$ DECLARE plan text; BEGIN UPDATE public.customers SET branch = branch WHERE id = 1;"
    " EXECUTE 'EXPLAIN (ANALYZE, WAL, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) {}' INTO plan;"
    " RAISE EXCEPTION '%', plan; END $$"
)

ORACLES: dict[str, tuple[str, ...]] = {
    "predicates": (
        "SELECT id FROM customers WHERE phone = '{guess}'",
        "SELECT id FROM customers WHERE phone <> '{guess}' AND id = 1",
        "SELECT id FROM customers WHERE phone >= '{guess}' AND phone <= '{guess}'",
        "SELECT id FROM customers WHERE phone LIKE '{guess}%'",
        "SELECT id FROM customers WHERE phone ~ '{guess}'",
        "SELECT id FROM customers WHERE position('{guess}' IN phone) > 0",
        "SELECT id FROM customers WHERE (phone, 1) = ('{guess}', 1)",
        "SELECT id FROM customers WHERE row_to_json(customers)->>'phone' = '{guess}'",
        "SELECT id FROM customers WHERE md5(phone) = md5('{guess}')",
        "SELECT id FROM customers WHERE phone::text COLLATE \"C\" = '{guess}'",
        "SELECT id FROM customers WHERE phone = ANY (ARRAY['{guess}'])",
        "SELECT id FROM ONLY customers WHERE customers.* IS NOT NULL AND phone = '{guess}'",
        "DELETE FROM customers WHERE phone = '{guess}'",
        "UPDATE customers SET branch = branch WHERE phone = '{guess}'",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT id FROM customers WHERE phone = '{guess}'",
        "EXPLAIN SELECT id FROM customers WHERE phone = '{guess}'",
        "EXPLAIN SELECT id FROM customers WHERE phone <= '{guess}'",
        "EXPLAIN UPDATE customers SET branch = '' WHERE phone < '{guess}'",
    ),
    "order by": (
        "SELECT id FROM customers ORDER BY phone = '{guess}', id",
        "SELECT id FROM (SELECT id, phone FROM customers UNION ALL SELECT 0, '{guess}') u ORDER BY phone, id",
        "SELECT rank FROM (SELECT id, rank() OVER (ORDER BY phone) FROM (SELECT id, phone FROM customers UNION ALL SELECT 0, '{guess}') a) b WHERE id = 0",
    ),
    "case and errors": (
        "SELECT CASE WHEN phone = '{guess}' THEN 1 ELSE 0 END FROM customers WHERE id = 1",
        "SELECT 1 / (CASE WHEN phone = '{guess}' THEN 0 ELSE 1 END) FROM customers WHERE id = 1",
        "SELECT 1 / (length(phone) - length(replace(phone, '{guess}', ''))) FROM customers WHERE id = 1",
        "SELECT (CASE WHEN phone = '{guess}' THEN 'x' ELSE '1' END)::int FROM customers WHERE id = 1",
        "SELECT nullif(phone, '{guess}') IS NULL, coalesce(nullif(phone, '{guess}'), 'same') = 'same' FROM customers WHERE id = 1",
        "SELECT greatest(phone, '{guess}') = '{guess}', least(phone, '{guess}') = '{guess}' FROM customers WHERE id = 1",
        "SELECT replace(phone, '{guess}', '!') = '!' FROM customers WHERE id = 1",
    ),
    "timing": (
        "SELECT CASE WHEN phone = '{guess}' THEN pg_sleep(60) END FROM customers WHERE id = 1",
        "SELECT id FROM customers WHERE id = 1 AND CASE WHEN phone = '{guess}' THEN pg_sleep(60) IS NOT NULL END",
        "SELECT (SELECT pg_sleep(60)::text WHERE phone = '{guess}') FROM customers WHERE id = 1",
        "SELECT pg_sleep(count(*) * 60) FROM customers WHERE phone = '{guess}'",
    ),
    "joins": (
        "SELECT c.id FROM customers c JOIN (VALUES ('{guess}')) g (p) ON g.p = c.phone",
        "SELECT c.id FROM customers c NATURAL JOIN (SELECT '{guess}'::varchar AS phone) g",
        "SELECT c.id FROM customers c JOIN (SELECT '{guess}'::varchar AS phone) g USING (phone)",
        "SELECT c.id FROM customers c LEFT JOIN (VALUES ('{guess}')) g (p) ON g.p = c.phone WHERE g.p IS NOT NULL",
        "SELECT count(*) FROM customers c, LATERAL (SELECT 1 WHERE c.phone = '{guess}') l",
        "SELECT '{guess}' IN (SELECT phone FROM customers)",
        "SELECT phone FROM customers INTERSECT SELECT '{guess}'",
        "SELECT count(*) FROM (SELECT phone FROM customers EXCEPT SELECT '{guess}') e",
        "SELECT count(*) FROM (SELECT phone FROM customers UNION SELECT '{guess}') u",
        "SELECT EXISTS (SELECT 1 FROM customers c WHERE c.phone = '{guess}')",
    ),
    "counts": (
        "SELECT count(*) FROM customers WHERE phone = '{guess}'",
        "SELECT count(*) FILTER (WHERE phone < '{guess}') FROM customers",
        "SELECT count(DISTINCT phone) FROM (SELECT phone FROM customers UNION ALL SELECT '{guess}') u",
        "SELECT bool_or(phone = '{guess}') FROM customers",
        "SELECT min(phone) FROM (SELECT phone FROM customers WHERE id = 1 UNION ALL SELECT '{guess}') m",
        "SELECT sum(CASE WHEN phone > '{guess}' THEN 1 ELSE 0 END) FROM customers",
    ),
    "unique violations": (
        "INSERT INTO customers (" + _NEW + ") VALUES (" + _WHO + ")",
        "INSERT INTO customers (" + _NEW + ") SELECT " + _WHO,
        "INSERT INTO customers (" + _NEW + ") VALUES (" + _WHO + ") RETURNING id",
        "UPDATE customers SET phone = '{guess}' WHERE id = 2",
        "UPDATE customers SET (branch, phone) = ('x', '{guess}') WHERE id = 2",
        "WITH w AS (UPDATE customers SET phone = '{guess}' WHERE id = 2 RETURNING id) SELECT count(*) FROM w",
        "UPDATE customers SET phone = '{guess}'::varchar || '' WHERE id = 2",
        "UPDATE customers SET phone = (SELECT '{guess}') WHERE id = 2",
    ),
    # An UPDATE compares old and new: the size of its log record, HOT and the log's position tell (F8.1). On a page that has room, so twice.
    "written comparisons": (
        "EXPLAIN (ANALYZE, WAL, COSTS OFF, TIMING OFF, SUMMARY OFF) UPDATE customers SET phone = '{guess}' WHERE id = 1",
        _MEASURED.format("UPDATE public.customers SET phone = ''{guess}'' WHERE id = 1"),
        _MEASURED.format(
            "MERGE INTO public.customers c USING (VALUES (1)) v (i) ON c.id = v.i WHEN MATCHED THEN UPDATE SET phone = ''{guess}''"
        ),
        _MEASURED.format(
            "WITH w AS (UPDATE public.customers SET phone = ''{guess}'' WHERE id = 1 RETURNING 1) SELECT * FROM w"
        ),
    ),
    "on conflict": (
        "INSERT INTO customers (" + _NEW + ") VALUES (" + _WHO + ") ON CONFLICT DO NOTHING",
        "INSERT INTO customers (" + _NEW + ") VALUES (" + _WHO + ") ON CONFLICT (phone) DO NOTHING",
        "INSERT INTO customers ("
        + _NEW
        + ") VALUES ("
        + _WHO
        + ") ON CONFLICT (phone) DO UPDATE SET branch = 'x' RETURNING id",
        "MERGE INTO customers c USING (VALUES ('{guess}')) g (p) ON c.phone = g.p WHEN MATCHED THEN UPDATE SET branch = 'x'",
        "MERGE INTO customers c USING (VALUES ('{guess}')) g (p) ON c.phone = g.p WHEN MATCHED THEN DELETE",
    ),
    "ways around": (
        "DO $$ BEGIN IF EXISTS (SELECT FROM customers WHERE phone = '{guess}') THEN RAISE EXCEPTION 'yes'; END IF; END $$",
        "DO $$ BEGIN EXECUTE 'SELECT 1/(count(*)-1) FROM customers WHERE phone = ''{guess}'''; END $$",
        "SELECT query_to_xml('SELECT count(*) FROM customers WHERE phone = ''{guess}''', true, true, '')",
        "SELECT set_config('a.b', (count(*))::text, false) FROM customers WHERE phone = '{guess}'",
        "SELECT pg_try_advisory_lock(count(*) + 99) FROM customers WHERE phone = '{guess}'",
        "SELECT nextval('customers_id_seq') - nextval('customers_id_seq') FROM customers WHERE phone = '{guess}'",
        "COPY (SELECT count(*) FROM customers WHERE phone = '{guess}') TO STDOUT",
        "SELECT id FROM contact_list WHERE phone = '{guess}'",
        "SELECT id FROM contact_copy WHERE phone = '{guess}'",
        "SELECT id FROM customers TABLESAMPLE SYSTEM (100) WHERE phone = '{guess}'",
        "SELECT id FROM customers WHERE phone = '{guess}' FOR UPDATE",
        "SELECT count(*) FROM everybody() e WHERE e.phone = '{guess}'",
        "SELECT any_text('SELECT count(*)::text FROM customers WHERE phone = ''{guess}''')",
    ),
}


def _outcome(session: Session, sql: str, guess: str, number: str) -> Outcome:
    """In a transaction that is rolled back, so that a row that gets in does not stay."""
    session.connection.execute("BEGIN")
    outcome = session.run((sql.replace("{guess}", guess).replace("{number}", number),))[0]
    session.connection.execute("ROLLBACK")
    return outcome.without(guess).without(number)


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("login", [CLERK, AGENT, CHIEF])
def test_right_and_wrong_guesses_look_alike(den: Den, kind: str, login: str) -> None:
    right, wrong = den.pair("phone")
    for way in Way:
        if way is Way.DIRECT and login == CHIEF:
            continue
        session = den.connect(login, way)
        session.connection.execute("SET statement_timeout = '5s'")
        try:
            for sql in ORACLES[kind]:
                yes = _outcome(session, sql, right, "110101200001010019")
                no = _outcome(session, sql, wrong, "110101200001010027")
                assert yes == no, f"{login}, {way}: {sql}"
                assert yes.sqlstate != "57014", sql
        finally:
            session.connection.close()


@pytest.mark.parametrize("kind", sorted(ORACLES))
def test_the_oracles_do_answer_who_may_ask(den: Den, kind: str) -> None:
    """To a superuser straight at the server many of them tell the right guess."""
    right, wrong = den.pair("phone")
    session = den.connect("postgres", Way.DIRECT)
    session.connection.execute("SET statement_timeout = '1s'")
    told = sum(
        _outcome(session, sql, right, "110101200001010019") != _outcome(session, sql, wrong, "110101200001010027")
        for sql in ORACLES[kind]
    )
    session.connection.close()
    assert told >= len(ORACLES[kind]) * 0.4, f"{told} of {len(ORACLES[kind])}"


def test_binary_search_by_income_finds_its_mask(den: Den) -> None:
    """Numbers and dates give in to bisection: what it finds is what the mask shows."""
    session = den.connect(CLERK, Way.PGVEIL)
    low, high = 0, 10_000_000
    while high - low > 1:
        middle = (low + high) // 2
        rows = session.run((f"SELECT id FROM customers WHERE id = 1 AND income >= {middle}",))[0].rows
        low, high = (middle, high) if rows else (low, middle)
    session.connection.close()
    assert low % 50_000 == 0
    assert abs(float(den.value("income")) - low) > 0


def test_a_sealed_value_can_not_be_guessed_by_writing_it(den: Den) -> None:
    pan = str(den.world.bank.tables["cards"].column("pan")[0])
    other = "6222020000000000017"
    for login in (CLERK, CHIEF):
        session = den.connect(login, Way.PGVEIL)
        for sql in ("UPDATE cards SET pan = '{guess}' WHERE id = 2", "UPDATE orders SET pan = '{guess}' WHERE id = 1"):
            assert _outcome(session, sql, pan, "") == _outcome(session, sql, other, "")
        session.connection.close()


def test_who_may_look_up_may_not_write(den: Den) -> None:
    """ADR 0027: to find rows by a value is one right, to give a column values is another."""
    session = den.connect(SLOW, Way.PGVEIL)
    pan = str(den.world.bank.tables["cards"].column("pan")[0])
    assert _outcome(session, "UPDATE cards SET pan = '{guess}' WHERE id = 2", pan, "").sqlstate == "42501"
    session.connection.close()


def test_a_constraint_s_detail_names_no_value_of_others(den: Den) -> None:
    """DETAIL quotes keys to those only who may read them, and to unfenced logins through pgveil not at all."""
    for login, way in ((CLERK, Way.PGVEIL), (CLERK, Way.DIRECT), (CHIEF, Way.PGVEIL)):
        session = den.connect(login, way)
        den.heard(login, way)
        session.run(("UPDATE customers SET gender = 'X' WHERE id = 1", "UPDATE customers SET id = 2 WHERE id = 1"))
        session.connection.close()
        assert not den.leaks(login, den.heard(login, way))
