"""Computed statements with a real server on either side, through drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from .calculators import OnServer, computes
from .conftest import BORN, CARD, PLAIN, Shop, opened, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres

SIMPLE = "SELECT upper(name), length(card), born - date '1970-01-01' AS days FROM customers WHERE card IS NULL OR card LIKE '6%' ORDER BY id"
LEAF = "SELECT id, name, card, born FROM customers"
COLUMNS = ("id", "name", "card", "born")
OF = plan(PLAIN, PLAIN, opened(CARD), opened(BORN))


@pytest.fixture
def counting(pg: Postgres, shop: Shop) -> Iterator[OnServer]:
    calculator = OnServer(pg.dsn("postgres"))
    shop.bench.calculator = calculator
    yield calculator
    calculator.close()


def test_a_simple_query(shop: Shop, counting: OnServer) -> None:
    computes(shop.bench, SIMPLE, LEAF, COLUMNS, OF)
    with shop.connect() as connection:
        cursor = psycopg.ClientCursor(connection)
        for _ in range(2):
            assert cursor.execute(SIMPLE).fetchall() == [("ANN", 19, 7338), ("CID", None, 0)]
        assert [c.name for c in cursor.description or ()] == ["upper", "length", "days"]
        assert cursor.statusmessage == "SELECT 2"
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    assert counting.asked == ["types", "run", "run"]
    assert shop.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"] * 2
    ended = shop.bench.recorder.events[-1]
    assert (ended.rows, ended.outcome) == (2, "ok")  # type: ignore[union-attr]
    started = shop.bench.recorder.events[0]
    assert started.statement == "shape of the whole"  # type: ignore[union-attr]


PREPARED = "SELECT upper(name) || $1, card FROM customers WHERE id >= $2 AND card LIKE $3 ORDER BY id"


def prepared(shop: Shop, counting: OnServer) -> None:
    computes(
        shop.bench,
        PREPARED,
        "SELECT id, name, card FROM customers WHERE id >= $2",
        ("id", "name", "card"),
        plan(PLAIN, PLAIN, opened(CARD)),
        parameters=3,
    )


@pytest.mark.parametrize("binary", [False, True])
def test_a_prepared_statement(shop: Shop, counting: OnServer, *, binary: bool) -> None:
    prepared(shop, counting)
    with shop.connect(prepare_threshold=0) as connection, connection.cursor(binary=binary) as cursor:
        for lowest, expected in ((1, ["ANN!"]), (2, []), (1, ["ANN!"])):
            text = PREPARED.replace("$1", "%s").replace("$2", "%s").replace("$3", "%s")
            rows = cursor.execute(text, ("!", lowest, "62%")).fetchall()
            assert [r[0] for r in rows] == expected
        connection.execute("SELECT 1")
    assert counting.asked.count("describe") == 1
    assert counting.asked.count("run") == 3
