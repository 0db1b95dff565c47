"""Which texts may use a definition that somebody can replace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.vocabulary import VOCABULARY_QUERY, Definitions, vocabulary
from rules.catalog import CATALOG_QUERIES, build_catalog
from rules.lexer import lex

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

SETUP = """
CREATE TABLE orders (id int, item text, customer_id int);
CREATE TABLE noted (id int);
CREATE TABLE ruled (id int);
CREATE VIEW shown AS SELECT id FROM orders;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM orders;
CREATE FUNCTION told(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION item(orders) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION noting() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION noting();
CREATE RULE r AS ON INSERT TO ruled DO ALSO NOTIFY ruled;
CREATE OPERATOR === (FUNCTION = told, RIGHTARG = int);
"""


@pytest.fixture(scope="module")
def definitions(pg: Postgres) -> Definitions:
    with psycopg.connect(pg.dsn(pg.create_database()), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute(SETUP.encode())
        rows = {name: connection.execute(sql.encode()).fetchall() for name, sql in CATALOG_QUERIES.items()}
        words = connection.execute(VOCABULARY_QUERY.encode()).fetchone()
    assert words is not None
    return Definitions(build_catalog(rows), vocabulary(words["keywords"], words["words"]))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, customer_id FROM orders WHERE id = $1 ORDER BY id LIMIT 1",
        "SELECT o.id, count(*) AS n FROM orders o JOIN orders AS p USING (id) GROUP BY 1 ORDER BY n",
        'SELECT "o"."id" FROM public.orders "o"',
        "SELECT upper('x'), now(), 1::numeric(4, 2), current_setting('TimeZone')",
        "INSERT INTO orders (id) VALUES (1) RETURNING id",
        "BEGIN",
        "SET search_path = public",
        "SELECT q.id FROM (SELECT id FROM orders) q",
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace",
    ],
)
def test_plain_tables_and_postgresqls_own_names(definitions: Definitions, sql: str) -> None:
    assert not definitions.used(lex(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM shown",
        "SELECT id FROM kept",
        "SELECT told(1)",
        "SELECT id FROM orders WHERE told(id) > 1",
        "SELECT id FROM public.shown s",
        "SELECT id || '' FROM made_a_moment_ago",
        "SELECT id || '' FROM orders, made_a_moment_ago",
        "SELECT made_a_moment_ago(1)",
        "SELECT elsewhere.upper('x')",
        "SELECT x::made_a_moment_ago FROM orders x",
        "SELECT orders.item FROM orders",
        "SELECT 1 WHERE === 1 = 1",
        "INSERT INTO noted VALUES (1)",
        "INSERT INTO ruled VALUES (1)",
        "CALL made_a_moment_ago()",
        "EXECUTE p",
        "FETCH ALL FROM c",
        "DO 'BEGIN END'",
        "SELECT query_to_xml('select told(1)', true, true, '')",
    ],
)
def test_what_somebody_can_replace(definitions: Definitions, sql: str) -> None:
    assert definitions.used(lex(sql))


def test_without_a_vocabulary_everything_can_be_replaced(pg: Postgres) -> None:
    with psycopg.connect(pg.dsn(), row_factory=psycopg.rows.dict_row) as connection:
        rows = {name: connection.execute(sql.encode()).fetchall() for name, sql in CATALOG_QUERIES.items()}
    assert Definitions(build_catalog(rows), None).used(lex("SELECT 1"))
