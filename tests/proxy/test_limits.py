"""The table of limits holds all of them and names their tests; and the tests of those that have none elsewhere."""

from __future__ import annotations

import ast
import gc
import socket
import tracemalloc
from dataclasses import fields
from functools import cache
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from proxy import limits
from proxy.config import Limits, Listen
from proxy.databases import MAX_DATABASES, CatalogUnavailable, Databases, _Database
from proxy.decisions import Gate
from proxy.errors import LimitError, ProtocolError
from proxy.limit_table import groups, page
from proxy.listening import bind
from proxy.plan_cache import BoundedCache, GateLimits
from proxy.session.gate import Refuse
from proxy.session.limits import SessionLimits
from proxy.wire.framing import Direction, Framer
from rules.analyse.queries import MAX_NESTING
from rules.analyse.tree import MAX_TREE_DEPTH
from rules.load import load_rules_text
from rules.plan import Reason
from rules.tokens import LexLimits
from tests.proxy.golden import RULES, SETTINGS, bank_catalog, gate
from tests.rules.test_decisions_golden import VisibleSealer

ROOT = Path(__file__).parents[2]
ROWS = [limit for group in groups() for limit in group.limits]
SOURCES = {row.source for row in ROWS}


# -- the table ------------------------------------------------------------------------------------------------------------------------


def test_the_page_is_the_table() -> None:
    """After a change: pgveil limits > docs/limits.md."""
    assert (ROOT / "docs" / "limits.md").read_text() == page()


@cache
def _names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.source)
def test_each_row_names_a_test(row: Any) -> None:
    path, _, name = row.test.partition("::")
    assert name in _names_in(path)
    assert name.startswith("test_")


def test_each_bound_has_its_row() -> None:
    wire = {name for name in vars(limits) if name.isupper() and type(getattr(limits, name)) is int} - {"KIB", "MIB"}
    wanted = {f"proxy.limits.{name}" for name in wire}
    wanted |= {f"proxy.session.limits.{f.name}" for f in fields(SessionLimits)}
    wanted |= {f"proxy.plan_cache.{f.name}" for f in fields(GateLimits)}
    wanted |= {f"rules.tokens.{f.name}" for f in fields(LexLimits)}
    wanted |= {f"`limits.{f.name}`" for f in fields(Limits)}
    assert wanted <= SOURCES, f"put it into proxy/limit_table.py: {sorted(wanted - SOURCES)}"
    assert len(SOURCES) == len(ROWS), "each once"


# -- messages -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", list(Direction))
def test_each_message_has_its_limit(direction: Direction) -> None:
    """One byte more is refused when its header is seen, before any of it is kept; as much as is allowed is waited for."""
    front = direction is Direction.FRONTEND
    whole = limits.FRONTEND_WHOLE if front else limits.BACKEND_WHOLE
    longest = limits.FRONTEND_MAXIMUM if front else limits.BACKEND_MAXIMUM
    assert set(whole) | set(b"Dd") >= set(longest) - set(b"Dd")
    for kind, most in whole.items():
        for size, fits in ((min(most, longest[kind]), True), (most + 1, False)):
            framer = Framer(direction, interpret=frozenset((kind,)))
            framer.feed(pack("!Bi", kind, size - 1))
            if fits:
                assert framer.next_event() is None, chr(kind)
                continue
            with pytest.raises(ProtocolError):
                framer.next_event()
    for kind, most in longest.items():
        framer = Framer(direction)  # forwarded, and still no longer than PostgreSQL's own
        if most < 0x7FFFFFFF:
            framer.feed(pack("!Bi", kind, most))
            with pytest.raises(ProtocolError) as caught:
                framer.next_event()
            assert not isinstance(caught.value, LimitError)


# -- statements -----------------------------------------------------------------------------------------------------------------------


def decide(judge: Gate, sql: str, login: str = "teller") -> Any:
    return judge.decide(sql.encode(), judge.principal(login), SETTINGS, extended=False)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select phone from customers where id in (" + "(" * 200 + "1" + ")" * 201, "parentheses nest deeper than 200"),
        ("select phone from customers where id in (" + "1," * 125_000 + "1)", "more than 250000 tokens"),
        ("select phone from customers where name = '" + "x" * (1 << 20) + "'", "longer than 1048576 characters"),
    ],
    ids=["depth", "tokens", "length"],
)
def test_a_statement_that_is_too_complex(sql: str, says: str) -> None:
    judge = gate()
    found = decide(judge, sql)
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.LIMIT, "54001")
    assert says in found.refusal.message
    assert found.refusal.hint
    # Where nothing protected is named the server says what it thinks of it.
    assert not isinstance(decide(judge, sql.replace("customers", "branches").replace("phone", "city")), Refuse)


def test_queries_nest_so_deep() -> None:
    judge = gate()

    def nested(depth: int) -> str:
        return "select phone from (" * (depth - 1) + "select phone from customers" + ") t" * (depth - 1)

    assert not isinstance(decide(judge, nested(MAX_NESTING // 2)), Refuse)
    found = decide(judge, nested(MAX_NESTING + 2))
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.UNPARSED, "0A000")
    assert found.refusal.hint


def test_expressions_nest_so_deep() -> None:
    found = decide(gate(), "select phone from customers where id = " + "- " * (MAX_TREE_DEPTH + 10) + "1")
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.UNPARSED, "0A000")
    assert found.refusal.hint


# -- caches ---------------------------------------------------------------------------------------------------------------------------


def test_a_cache_keeps_both_bounds() -> None:
    kept: BoundedCache[int] = BoundedCache(10, 1000)
    for number in range(50):
        kept.put(number, number, 1)
    assert (len(kept), kept.weight) == (10, 1000), "many small ones: so many entries"
    for number in range(50):
        kept.put(number, number, 400)
    assert (len(kept), kept.get(49), kept.get(0)) == (2, 49, None), "a few large ones: so many bytes"
    kept.put("huge", 1, 501)
    assert kept.get("huge") is None, "one does not push the others out"
    assert kept.get(49) == 49
    kept.put(49, 50, 1)
    assert (kept.get(49), kept.weight) == (50, 500), "in place of what was there"


def bounded(**bounds: int) -> Gate:
    return Gate(load_rules_text(RULES, "rules.yaml"), bank_catalog(), VisibleSealer(), limits=GateLimits(**bounds))


def test_the_plan_cache_is_bounded_in_entries_and_bytes() -> None:
    """Entries of very different sizes. What is counted is held against what Python's allocator says."""
    judge = bounded(plans=32, plan_bytes=1 << 18, texts=32, decision_bytes=1 << 17)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(60):
            width = 1 if number % 3 else 10 + number
            columns = ", ".join(f"id as c{number}_{i}" for i in range(width))
            decide(judge, f"select {columns}, phone from customers where id = $1")
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0 < len(judge._plans) <= 32
    assert judge._plans.weight <= 1 << 18
    assert 0 < len(judge._texts) <= 32
    assert judge._texts.weight <= 1 << 17
    # Beside plans and decisions there are the tokenizer's and parser's own caches, once.
    assert taken < 8 << 20
    largest = bounded(plan_bytes=4096)
    decide(largest, "select " + ", ".join(f"id as c{i}" for i in range(100)) + ", phone from customers")
    assert largest._plans.weight <= 4096


def test_a_long_shape_is_planned_each_time() -> None:
    judge = bounded(shape_chars=100)
    sql = "select phone, " + ", ".join(f"id as c{i}" for i in range(40)) + " from customers where id = 1"
    assert not isinstance(decide(judge, sql), Refuse)
    assert len(judge._plans) == 0


def test_logins_are_bounded() -> None:
    judge = bounded(principals=3)
    for number in range(10):
        judge.principal(f"nobody{number}")
    assert len(judge._askers) == 3


# -- a worker -------------------------------------------------------------------------------------------------------------------------


async def test_databases_are_bounded() -> None:
    databases = Databases.__new__(Databases)
    databases._databases = {f"db{n}": _Database(f"db{n}", codec=None) for n in range(MAX_DATABASES)}  # type: ignore[arg-type]
    with pytest.raises(CatalogUnavailable, match="limit of databases") as caught:
        await databases.gate("one more")
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("08001", True)


def test_the_backlog_is_the_socket_s() -> None:
    """Beyond it a client's connection is not completed: the kernel lets it try again."""
    (listener,) = bind(Listen(port=0, backlog=1), 0)
    waiting = []
    with listener:
        try:
            for _ in range(8):
                client = socket.socket()
                client.settimeout(0.2)
                waiting.append(client)
                client.connect(listener.getsockname())
        except TimeoutError:
            pass
        finally:
            for client in waiting:
                client.close()
    assert 2 <= len(waiting) < 8
