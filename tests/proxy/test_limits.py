"""The table of limits holds all of them and names their tests; and the tests of those that have none elsewhere."""

from __future__ import annotations

import ast
import asyncio
import gc
import socket
import tracemalloc
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from proxy import channel, limits, logs
from proxy.channel import Answer, Line, Order, Report
from proxy.config import Limits, Listen
from proxy.databases import MAX_DATABASES, CatalogUnavailable, Databases, _Database
from proxy.decisions import MAX_WANTED, Gate
from proxy.errors import ConfigError, LimitError, ProtocolError
from proxy.limit_table import groups, page
from proxy.listening import bind
from proxy.plan_cache import BoundedCache, GateLimits
from proxy.relay import _DIALOGUE_BUFFER, Leg
from proxy.session.computing import Compute
from proxy.session.gate import Refuse
from proxy.session.limits import SessionLimits
from proxy.wire.framing import Direction, Framer
from proxy.worker_process import _why
from rules.analyse.queries import MAX_NESTING
from rules.analyse.tree import MAX_TREE_DEPTH
from rules.budget import BASE_STEPS, MAX_COLUMNS, MOST_STEPS, STEPS_A_CHARACTER, Budget, TooComplexError
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


# Numbers that nobody outside can reach, or whose bound stands elsewhere in the table.
NO_BOUNDS = frozenset(
    {
        # Exit codes, SQLSTATEs' like, object identifiers and forms of the protocol, widths of what is formatted.
        *(f"proxy.cli.{name}" for name in ("OK", "NOT_SO", "BAD_INPUT", "UNREACHABLE", "BUG")),
        *("proxy.control_command._NOT_SO", "proxy.limits.KIB", "proxy.limits.MIB", "proxy.metrics.RULES_DIGITS"),
        *(
            "proxy.session.assigning._BINARY_FORM",
            "proxy.session.settings._COLUMNS",
            "proxy.session.writer._TEXT_FORM",
            "proxy.session.writer._BINARY_FORM",
        ),
        *("proxy.session.copied._MESSAGE_HEADER", "proxy.session.copy_streams._HEADER", "proxy.session.rows._FIRST"),
        *("proxy.session.statements._TEXT", "proxy.session.statements._TEXT_ARRAY", "proxy.session.handshake.NEWEST"),
        *(f"proxy.session.lane.{name}" for name in ("_QUERY", "_PARSE", "_BIND", "_ROW", "_COMPLETE", "_HEADER")),
        *("proxy.session.renewing._NEVER", "proxy.opaque._KIND_WITHIN"),
        *("proxy.session.prepared.TEXT_OID", "proxy.session.prepared.TEXT_ARRAY_OID"),
        *(f"proxy.session.values.{name}" for name in ("_TEXT_OID", "_TEXT_ARRAY_OID", "_UNKNOWN_OID")),
        *("proxy.session.witness.TEXT_OID", "proxy.session.witness.VARCHAR_OID", "proxy.explain._HEADER"),
        *("proxy.session.localtext.FIRST_OWN", "proxy.session.strangers.FIRST_NORMAL_OID"),
        *("proxy.worker_process._STANDARD_INPUT", "proxy.listening._FIRST_DESCRIPTOR", "proxy.copy_decisions._NEVER"),
        "proxy.splicing._STEPS_AN_ELEMENT",
        # Least and not most.
        "proxy.session.handshake._SMALLEST_PACKET",
        # How much work is done in one go, how something is estimated, how often it is tried again.
        "proxy.differing._TOLD",
        *(
            "proxy.alerts._AT_ONCE",
            "proxy.listening._AT_ONCE",
            "proxy.session.rows._TOGETHER",
            "proxy.session.collect._CELL",
        ),
        *("proxy.decisions._TEXT_COPIES", "proxy.decisions._PART_BYTES", "proxy.databases._ATTEMPTS"),
        *(
            "proxy.databases._LOCK_SECONDS",
            "proxy.databases._IDLE_LOOKS",
            "proxy.databases._IDLE_IN_TRANSACTION_SECONDS",
        ),
        *("proxy.descriptors._PER_CONNECTION", "proxy.descriptors._OWN"),
        # What only the operator and pgveil's own account reach: files of theirs, commands' own input, what systemd passes.
        *("proxy.config._MAX_FILE", "proxy.control._BACKLOG", "proxy.explain_command._MAX_TEXT"),
        "proxy.listening._MAX_DESCRIPTORS",
        # Of our own tracebacks.
        *("proxy.logs.MAX_FRAMES", "proxy.logs.MAX_CHAIN"),
        # Sessions of tests, which share it with no other; a worker's is `calculator.held`.
        "proxy.session.session._ALONE",
        # A number of PostgreSQL's own.
        "proxy.plain_catalogs._TEXT_OID",
        "proxy.plain_catalogs._NUMBERS",
        "proxy.explain_text._LONG",
    }
)


def _numbers() -> set[str]:
    """The whole numbers that the modules of proxy and proxy.session define by a name of their own."""
    found = set()
    for path in (*(ROOT / "proxy").glob("*.py"), *(ROOT / "proxy" / "session").glob("*.py")):
        if path.name.startswith("__"):
            continue
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = {n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)}
            found |= {f"{module.__name__}.{n}" for n in names if type(getattr(module, n, None)) is int}
    return found


def test_what_is_no_bound_is_still_there() -> None:
    assert _numbers() >= NO_BOUNDS
    assert NO_BOUNDS.isdisjoint(SOURCES)


def test_each_bound_has_its_row() -> None:
    wire = {name for name in vars(limits) if name.isupper() and type(getattr(limits, name)) is int} - {"KIB", "MIB"}
    wanted = {f"proxy.limits.{name}" for name in wire}
    wanted |= {f"proxy.session.limits.{f.name}" for f in fields(SessionLimits)}
    wanted |= {f"proxy.plan_cache.{f.name}" for f in fields(GateLimits)}
    wanted |= {f"rules.tokens.{f.name}" for f in fields(LexLimits)}
    wanted |= {f"`limits.{f.name}`" for f in fields(Limits)}
    wanted |= _numbers() - NO_BOUNDS
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


def test_a_statement_has_so_many_steps() -> None:
    small = Budget.of(100)
    small.spend(BASE_STEPS + 100 * STEPS_A_CHARACTER)
    with pytest.raises(TooComplexError, match="more than 20400 steps"):
        small.spend()
    assert Budget.of(1 << 20).allowed == MOST_STEPS
    # A JOIN of as many tables as names fit in: each may mean each.
    judge = gate()
    found = decide(judge, "select 1 from " + ",".join(f"customers c{i}" for i in range(6000)))
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.LIMIT, "54001")
    assert found.refusal.hint
    assert judge.steps < 1.1 * MOST_STEPS


def test_a_query_has_so_many_columns() -> None:
    judge = gate()
    found = decide(judge, "select " + "phone," * MAX_COLUMNS + "phone from customers")
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.LIMIT, "54011")
    assert found.refusal.hint
    assert not isinstance(decide(judge, "select " + "phone," * (MAX_COLUMNS - 1) + "phone from customers"), Refuse)
    # Inside as well, where what is not bounded doubles.
    doubling = ", ".join(f"a{i + 1} as (select x.*, y.* from a{i} x, a{i} y)" for i in range(22))
    found = decide(judge, f"with a0 as (select * from customers), {doubling} select 1 from a22")
    assert isinstance(found, Refuse)
    assert found.refusal.sqlstate == "54011"


def test_queries_nest_so_deep() -> None:
    judge = gate()

    def nested(depth: int) -> str:
        return "select phone from (" * (depth - 1) + "select phone from customers" + ") t" * (depth - 1)

    assert not isinstance(decide(judge, nested(MAX_NESTING // 2)), Refuse)
    found = decide(judge, nested(MAX_NESTING + 2))
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.LIMIT, "54001")
    assert found.refusal.hint


def test_expressions_nest_so_deep() -> None:
    found = decide(gate(), "select phone from customers where id = " + "- " * (MAX_TREE_DEPTH + 10) + "1")
    assert isinstance(found, Refuse)
    assert (found.refusal.reason, found.refusal.sqlstate) == (Reason.LIMIT, "54001")
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


def test_relations_that_are_looked_for_are_bounded() -> None:
    judge = gate()
    many = frozenset(range(1_000_000, 1_000_000 + MAX_WANTED))
    assert judge.unfamiliar(frozenset((oid, 1) for oid in many))
    assert judge.unfamiliar(frozenset({(2_000_000, 1)})), "withheld all the same"
    assert judge.wanted_relations() == many
    judge.found_relations(many, many)
    assert not judge.unfamiliar(frozenset({(1_000_000, 1)}))
    assert judge.unfamiliar(frozenset({(2_000_000, 1)}))
    assert judge.wanted_relations() == {2_000_000}, "its turn has come"
    judge.found_relations(frozenset({2_000_000}), frozenset({2_000_000}))
    assert judge._temporary == {2_000_000}, "the others are forgotten, and looked for again"


@pytest.mark.parametrize(("most", "computed"), [(256, True), (20, False)])
def test_so_many_fetches_are_tried(monkeypatch: pytest.MonkeyPatch, most: int, computed: bool) -> None:
    monkeypatch.setattr("proxy.taking_apart._MAX_JUDGED", most)
    judge = gate()
    judge.computes = True
    sql = " union all ".join(f"select upper(pan) as pan from cards where id > {number}" for number in range(10))
    found = decide(judge, sql)
    assert isinstance(found, Compute if computed else Refuse)
    if isinstance(found, Refuse):
        assert (found.refusal.sqlstate, bool(found.refusal.hint)) == ("0AP01", True)


# -- a worker -------------------------------------------------------------------------------------------------------------------------


async def test_databases_are_bounded() -> None:
    """Of those that sessions use: which nobody uses is forgotten for another one (tests/proxy/test_databases.py)."""
    databases = Databases.__new__(Databases)
    databases._home = None
    databases._databases = {f"db{n}": _Database(f"db{n}", codec=None, users=1) for n in range(MAX_DATABASES)}  # type: ignore[arg-type]
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


async def test_a_login_sends_only_so_much_ahead(wait_until: Any) -> None:
    """Before anybody reads it, the peer is not read from any more."""
    leg = Leg()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: leg, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * (8 << 20))
    await wait_until(lambda: not leg.is_read)
    before = leg.pending
    assert before > _DIALOGUE_BUFFER
    for _ in range(100):
        await asyncio.sleep(0)
    assert leg.pending == before
    await leg.read()
    assert leg.is_read
    writer.transport.abort()
    leg.abort()
    server.close()


async def test_a_worker_and_its_supervisor_say_only_so_much() -> None:
    ours, theirs = socket.socketpair()
    line, other = await Line.open(ours, Report), await Line.open(theirs, Order)
    for length, heard in ((1000, True), (channel._LONGEST + 1000, False)):
        said = Answer(1, "x" * length)
        other.send(said)
        assert await line.receive() == (said if heard else None)
    line.close()
    other.close()


def test_an_explanation_is_cut() -> None:
    for error in (ConfigError("x" * 20_000), LimitError("x" * 20_000), OSError(1, "x" * 20_000)):
        assert len(_why(error)) == channel.MAX_WHY


def test_a_log_field_is_short_or_left_out() -> None:
    def logged(name: str) -> Any:
        return logs.allow_list(None, "", {"event": "catalog.loaded", "database": name})

    assert logged("x" * logs.MAX_TEXT)["database"]
    found = logged("x" * (logs.MAX_TEXT + 1))
    assert "database" not in found
    assert found["dropped"] == ["database"]
