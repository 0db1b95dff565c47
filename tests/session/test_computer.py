"""Computed statements, scripted: every step, and what goes wrong at each of them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.event import StatementEnded
from proxy.session.collect import Budget
from proxy.session.computing import Answer, CalculatorError, Compute, Leaf
from proxy.session.gate import Admit, OffsetMap
from proxy.session.limits import SessionLimits
from proxy.session.replies import Trouble
from proxy.session.settings import PROBE_TEXT
from proxy.wire import messages as m
from rules.model import Verdict
from rules.plan import Reason, SealParam

from .calculators import Scripted, compute, computes
from .conftest import CARD, COMPUTED, PHONE, PLAIN, Bench, opened, plan
from .conversation import OUTPUT, PROBED, Result, Server, Talk, error, error_of, kinds

if TYPE_CHECKING:
    from collections.abc import Callable

OID = 5000
READY = m.build_ready(b"I")
SQL = "SELECT upper(name), length(card) FROM customers ORDER BY 2"
LEAF = b"SELECT name, card FROM customers"
OF = plan(PLAIN, opened(CARD))
NAME = m.Field(b"name", OID, 2, 25, -1, -1, 0)
SEALED = m.Field(b"card", OID, 3, 25, -1, -1, 0)
SHOWN = (m.Field(b"upper", 0, 0, 25, -1, -1, 0), m.Field(b"length", 0, 0, 23, 4, -1, 0))
DESCRIPTION = m.build_row_description(SHOWN)
ROWS = (m.build_data_row((b"ANN", b"4")), m.build_data_row((b"BOB", None)))
ANSWER = Answer((), DESCRIPTION, ROWS, b"SELECT 2")
ANSWERED = DESCRIPTION + b"".join(ROWS) + m.build_command_complete(b"SELECT 2")
LOCAL = (
    b'WITH "pgveil_leaf_1" ("name", "card") AS (SELECT r.a0::type25, r.a1::type1043 FROM ROWS FROM '
    b"(pg_catalog.unnest($1), pg_catalog.unnest($2)) AS r (a0, a1)) "
    b'SELECT upper(name), length(card) FROM "pgveil_leaf_1" AS customers ORDER BY 2'
)


def whole(data: bytes) -> list[bytes]:
    return [data]


def single(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.fixture(params=[whole, single], ids=["whole", "bytewise"])
def cut(request: pytest.FixtureRequest) -> Callable[[bytes], list[bytes]]:
    found: Callable[[bytes], list[bytes]] = request.param
    return found


class Scene:
    """A session with a scripted server and a scripted calculator."""

    def __init__(self, bench: Bench, cut: Callable[[bytes], list[bytes]], *outcomes: Any) -> None:
        self.bench = bench
        self.calculator = bench.calculator = Scripted(*outcomes)
        bench.judge.sources = {(OID, 3): CARD.name}
        computes(bench, SQL, LEAF.decode(), ("name", "card"), OF)
        self.server = Server()
        cards = [bench.seal(CARD, "4000").encode(), None]
        self.server.results[LEAF] = Result((NAME, SEALED), list(zip((b"Ann", b"Bob"), cards, strict=True)))
        self.talk = Talk(bench.session(), self.server, cut)

    def query(self, sql: str = SQL) -> bytes:
        return self.talk.say(m.build_query(sql.encode()))

    def alive(self) -> None:
        """The session goes on, nobody waits, and nothing is kept."""
        session = self.talk.session
        assert session.closing is None
        assert session.wants_client
        assert session.wants_server
        assert self.bench.budget.held == 0
        assert kinds(self.talk.say(m.build_query(b"SELECT 1")))[-2:] in ("CZ", "EZ")

    def ended(self) -> list[tuple[str, str | None, int | None]]:
        events = self.bench.recorder.events
        return [(e.outcome, e.sqlstate, e.rows) for e in events if isinstance(e, StatementEnded)]


# -- simple queries --------------------------------------------------------------------------------------------------------------------


def test_a_query(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER, ANSWER)
    assert scene.query() == ANSWERED + READY
    # The probe; the unnamed statement and portal; then the fetch, without a Sync before the answer.
    assert scene.server.kinds() == "CPBECCS" + "CC" + "CCPBDECCH" + "S"
    assert scene.query() == ANSWERED + READY
    assert scene.server.kinds() == "CC" + "CCPBDECCH" + "S"
    assert scene.calculator.kinds() == ["types", "run", "run"]
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.text == LOCAL
    assert [list(a) for a in question.arrays] == [[b"Ann", b"Bob"], [b"4000", None]]
    assert question.types == (1009, 1009)
    assert question.settings == OUTPUT
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"] * 2
    assert scene.ended() == [("ok", None, 2)] * 2
    assert bench.observer.values_opened == 4
    scene.alive()


def test_nothing_leaves_before_the_record_is_durable(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    bench.recorder.prompt = False
    assert scene.query() == b""
    assert not scene.talk.session.wants_server
    assert scene.calculator.asked == []
    scene.talk.session.audit_durable(bench.recorder.flush())
    scene.talk.move()
    assert scene.talk.got() == ANSWERED + READY
    scene.alive()


def test_a_lost_record_ends_the_statement(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    bench.recorder.prompt = False
    assert scene.query() == b""
    scene.talk.session.audit_failed()
    scene.talk.move()
    got = scene.talk.got()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "58030")
    assert scene.calculator.asked == []
    scene.alive()


def test_a_log_that_is_down_refuses(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    bench.recorder.down = True
    got = scene.query()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "58030")
    assert LEAF not in scene.server.texts()
    scene.alive()


@pytest.mark.parametrize("where", ["refused", "broken"])
@pytest.mark.parametrize("block", [False, True])
def test_the_servers_error_is_the_clients(
    bench: Bench, cut: Callable[[bytes], list[bytes]], where: str, *, block: bool
) -> None:
    scene = Scene(bench, cut)
    setattr(scene.server.results[LEAF], where, error("22012", "division", P="40"))
    if block:
        scene.talk.say(m.build_query(b"BEGIN"))
    got = scene.query()
    assert kinds(got) == "EZ"
    assert error_of(got).sqlstate == "22012"
    assert error_of(got).get("P") is None, "the fetch is not the client's text"
    assert got[-1:] == (b"E" if block else b"I")
    assert scene.ended() == [("error", "22012" if where == "broken" else None, None)]
    assert "run" not in scene.calculator.kinds()
    scene.alive()


def test_in_a_failed_transaction_the_server_says_so(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.query()
    scene.talk.say(m.build_query(b"BEGIN"))
    scene.server.status = b"E"
    got = scene.query()
    assert (kinds(got), error_of(got).sqlstate, got[-1:]) == ("EZ", "25P02", b"E")
    assert kinds(scene.talk.say(m.build_query(b"ROLLBACK"))) == "CZ"


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("wrong", ["source", "value", "bytes", "rows", "all"])
def test_what_may_not_be_computed_on(
    bench: Bench, cut: Callable[[bytes], list[bytes]], wrong: str, *, block: bool
) -> None:
    bench.limits = SessionLimits(collected_rows=1) if wrong == "rows" else bench.limits
    bench.limits = SessionLimits(collected_bytes=10) if wrong == "bytes" else bench.limits
    bench.budget = Budget(10) if wrong == "all" else bench.budget
    scene = Scene(bench, cut)
    fetched = scene.server.results[LEAF]
    if wrong == "source":
        fetched.fields = (SEALED, NAME)
    if wrong == "value":
        fetched.rows[0] = (b"Ann", b"pgv1:nonsense")
    if block:
        scene.talk.say(m.build_query(b"BEGIN"))
    got = scene.query()
    assert kinds(got) == "EZ"
    state, reason = {
        "source": ("42501", Reason.WITNESS),
        "value": ("XX001", Reason.DAMAGED),
        "bytes": ("54000", Reason.LIMIT),
        "rows": ("54000", Reason.LIMIT),
        "all": ("53200", Reason.LIMIT),
    }[wrong]
    assert error_of(got).sqlstate == state
    assert bench.observer.reasons == [reason]
    assert "Refused" in bench.recorder.kinds()
    assert scene.ended() == [("error", None if wrong == "source" else state, None)]
    assert got[-1:] == scene.server.status == (b"E" if block else b"I")
    assert "run" not in scene.calculator.kinds()
    scene.alive()


def calculator_error(sqlstate: str, **fields: str) -> CalculatorError:
    pairs = {"S": "ERROR", "V": "ERROR", "C": sqlstate, "M": "no", **fields}
    return CalculatorError(sqlstate, tuple((ord(k), v.encode()) for k, v in pairs.items()))


@pytest.mark.parametrize(
    ("sqlstate", "said", "told"),
    [
        ("42P01", 'relation "pgveil_leaf_1" does not exist', 'relation "customers" does not exist'),
        ("42703", "column pgveil_leaf_1.x does not exist", "column customers.x does not exist"),
        ("42703", "column pgveil_leaf_10.x, xpgveil_leaf_1", "column pgveil_leaf_10.x, xpgveil_leaf_1"),
        # What the client has written, or has stored.
        ("22P02", 'invalid input syntax for type integer: "pgveil_leaf_1"', None),
        ("22003", 'value "pgveil_leaf_1 7" is out of range', None),
        ("23514", "pgveil_leaf_1", None),
        ("P0001", "pgveil_leaf_1", None),
    ],
)
def test_only_names_of_ours_are_replaced_in_errors(
    bench: Bench, cut: Callable[[bytes], list[bytes]], sqlstate: str, said: str, told: str | None
) -> None:
    found = error_of(Scene(bench, cut, calculator_error(sqlstate, M=said)).query())
    assert found.get("M") == (told or said).encode()


@pytest.mark.parametrize("block", [False, True])
def test_the_calculators_error_is_postgresqls(
    bench: Bench, cut: Callable[[bytes], list[bytes]], *, block: bool
) -> None:
    at = LOCAL.index(b"length(card)") + 1
    wrong = calculator_error(
        "42703",
        M='no "pgveil_leaf_1.x"',
        H='Perhaps "pgveil_leaf_1".y',
        P=str(at),
        W="inside pgveil_leaf_1",
        q="x",
        p="3",
    )
    scene = Scene(bench, cut, wrong)
    if block:
        scene.talk.say(m.build_query(b"BEGIN"))
    got = scene.query()
    found = error_of(got)
    assert kinds(got) == "EZ"
    assert found.get("M") == b'no "customers.x"'
    assert found.get("H") == b'Perhaps "customers".y'
    assert found.get("P") == str(SQL.index("length(card)") + 1).encode()
    assert [found.get(code) for code in "Wqp"] == [None, None, None]
    assert scene.ended() == [("error", "42703", None)]
    assert bench.observer.errors == ["42703"]
    assert got[-1:] == scene.server.status == (b"E" if block else b"I")
    scene.alive()


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (Trouble("57P03", "no engine"), "57P03", None),
        (Trouble("57014", "too long"), "57014", None),
        (Trouble("54000", "too large"), "54000", Reason.LIMIT),
        (calculator_error("42501", M="permission denied for function pg_read_file"), "0AP01", Reason.COMPUTE),
    ],
)
def test_the_calculator_will_not(
    bench: Bench, cut: Callable[[bytes], list[bytes]], outcome: Any, state: str, reason: Reason | None
) -> None:
    scene = Scene(bench, cut, outcome)
    got = scene.query()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", state)
    assert bench.observer.reasons == ([] if reason is None else [reason])
    assert scene.ended() == [("cancelled" if state == "57014" else "error", state, None)]
    scene.alive()


def test_while_it_computes_nothing_is_read_and_nothing_is_lost(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.calculator.prompt = False
    assert scene.talk.say(m.build_query(SQL.encode()), m.build_query(b"SELECT 1")) == b""
    reads = scene.talk.session.wants_client
    assert reads, "or its leaving would not be noticed"
    assert scene.talk.session.wants_server
    assert bench.budget.held > 0
    assert scene.talk.say(m.build_query(b"SELECT 1" + b" " * 70_000)) == b""
    assert not scene.talk.session.wants_client
    scene.calculator.next()
    scene.talk.move()
    assert scene.talk.got() == ANSWERED + READY + (m.build_command_complete(b"SELECT 0") + READY) * 2
    scene.alive()


def test_the_client_leaves_while_it_computes(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.calculator.prompt = False
    scene.query()
    scene.talk.session.client_eof()
    assert scene.calculator.asked[-1].cancelled
    assert scene.ended() == [("disconnected", None, None)]
    scene.calculator.next()
    assert scene.talk.got() == b""


def test_the_server_goes_while_it_computes(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.calculator.prompt = False
    scene.query()
    scene.talk.session.server_eof()
    assert scene.calculator.asked[-1].cancelled
    assert error_of(scene.talk.got()).get("V") == b"FATAL"
    assert scene.ended() == [("disconnected", None, None)]


def test_the_connection_is_cut_while_it_computes(bench: Bench) -> None:
    scene = Scene(bench, whole, ANSWER)
    scene.calculator.prompt = False
    scene.query()
    scene.talk.session.abandoned()
    assert scene.calculator.asked[-1].cancelled


def test_a_cancel_request_ends_the_computation(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.talk.say(m.build_query(b"BEGIN"))
    session = scene.talk.session
    right = m.CancelRequest(7, b"key!")
    assert not session.cancel(right)
    scene.calculator.prompt = False
    scene.query()
    assert not session.cancel(m.CancelRequest(7, b"yek!"))
    assert not session.cancel(m.CancelRequest(8, b"key!"))
    assert session.cancel(right)
    scene.talk.move()
    got = scene.talk.got()
    assert scene.calculator.asked[-1].cancelled
    assert (kinds(got), error_of(got).sqlstate, got[-1:]) == ("EZ", "57014", b"E")
    assert scene.ended() == [("cancelled", "57014", None)]
    assert not session.cancel(right)
    scene.alive()


def test_without_a_calculator_it_is_refused(bench: Bench) -> None:
    scene = Scene(bench, whole)
    bench.calculator = None
    talk = Talk(bench.session(), Server(), whole)
    got = talk.say(m.build_query(SQL.encode()))
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "0AP01")
    assert bench.observer.reasons == [Reason.COMPUTE]
    assert scene.calculator.asked == []


@pytest.mark.parametrize(
    ("type_", "dates"),
    [
        (2205, b"ISO, MDY"),
        (790, b"ISO, MDY"),
        (16400, b"ISO, MDY"),
        (1184, b"SQL, DMY"),
    ],
)
def test_types_that_only_the_database_knows(
    bench: Bench, cut: Callable[[bytes], list[bytes]], type_: int, dates: bytes
) -> None:
    scene = Scene(bench, cut, ANSWER)
    scene.calculator.unknown = {16400}
    scene.server.results[PROBE_TEXT].rows = [(*PROBED[:7], dates, *PROBED[8:])]
    scene.server.results[LEAF].fields = (NAME._replace(type=type_), SEALED)
    got = scene.query()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "0AP01")
    assert bench.observer.reasons == [Reason.COMPUTE]
    assert b"name" in (error_of(got).get("D") or b"") + (error_of(got).get("M") or b"")
    scene.alive()


def test_a_relation_that_is_not_known_yet_waits_for_the_catalog(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    bench.judge.verdicts = replace(
        bench.judge.verdicts, verdicts={PHONE.name: Verdict.MASKED, CARD.name: Verdict.CLEAR}
    )
    scene = Scene(bench, cut, ANSWER)
    scene.server.results[LEAF].fields = (NAME._replace(table=70001), SEALED)
    bench.judge.strangers = frozenset({70001})
    scene.talk.reads_catalog = False
    assert scene.query() == b""
    assert scene.talk.session.catalog_stale
    assert scene.calculator.asked == []
    bench.judge.strangers = frozenset()
    bench.judge.generation += 1
    scene.talk.session.catalog_refreshed()
    scene.talk.move()
    assert scene.talk.got() == ANSWERED + READY
    scene.alive()


class Counting:
    """A meter that lets so many pass."""

    def __init__(self) -> None:
        self.spent: list[int] = []

    def spend(self, login: str, count: int, per_minute: int) -> bool:
        self.spent.append(count)
        return sum(self.spent) <= per_minute


def test_look_ups_of_the_fetch_are_counted(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    bench.meter = meter = Counting()
    bench.judge.lookups = 4
    scene = Scene(bench, cut, ANSWER, DESCRIBED, ANSWER)
    computes(bench, SQL, LEAF.decode(), ("name", "card"), replace(OF, metered=2))
    of = replace(OF, metered=2, params=(SealParam(2, CARD, exact=True),))
    computes(bench, ASKED, FETCH.decode(), ("name", "card"), of, parameters=3)
    scene.server.results[FETCH] = replace(scene.server.results[LEAF], parameters=(23, 25))
    assert scene.query() == ANSWERED + READY
    assert kinds(scene.talk.say(prepare(), m.SYNC)) == "1tTZ"
    run = bind() + m.build_execute(b"") + m.SYNC
    assert kinds(scene.talk.say(run)) == "2DDCZ"
    for got in (scene.talk.say(run), scene.query()):
        assert (kinds(got), error_of(got).sqlstate) == ("EZ", "53400")
    assert meter.spent == [2, 2, 2, 2]
    assert scene.calculator.kinds().count("run") == 2
    scene.alive()


def test_a_query_behind_a_batch_that_fails_is_ignored(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.server.results[b"SELECT wrong"] = Result(refused=error("42703"))
    scene.query("SELECT 1")
    got = scene.talk.say(m.build_parse(b"", b"SELECT wrong"), m.build_query(SQL.encode()), m.SYNC)
    assert kinds(got) == "EZ"
    assert LEAF not in scene.server.texts()
    scene.alive()


# -- several leaves --------------------------------------------------------------------------------------------------------------------

ORDERS = b"SELECT id FROM orders"
BOTH = b"SELECT 0, name, card, NULL UNION ALL SELECT 1, NULL, NULL, id::text"


def joined(bench: Bench) -> Compute:
    one = compute(SQL, LEAF.decode(), ("name", "card"), OF)
    orders = Leaf("pgveil_leaf_2", (), Admit(ORDERS, OffsetMap(), (None,), "", 1))
    both = plan(COMPUTED, PLAIN, replace(opened(CARD), direct=False), COMPUTED)
    return replace(one, leaves=(*one.leaves, orders), together=Admit(BOTH, OffsetMap(), (both,), "", 1))


def test_several_leaves_come_in_one_statement(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, ANSWER)
    bench.judge.table[SQL.encode()] = joined(bench)
    text = m.Field(b"?column?", 0, 0, 25, -1, -1, 0)
    card = bench.seal(CARD, "4000").encode()
    rows: list[tuple[bytes | None, ...]] = [
        (b"0", b"Ann", card, None),
        (b"1", None, None, b"10"),
        (b"0", b"Bob", None, None),
        (b"1", None, None, b"11"),
    ]
    scene.server.results[ORDERS] = Result((m.Field(b"id", 6000, 1, 23, 4, -1, 0),))
    scene.server.results[BOTH] = Result((text._replace(type=23), text, text, text), rows)
    assert scene.query() == ANSWERED + READY
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert [list(a) for a in question.arrays] == [[b"Ann", b"Bob"], [b"4000", None], [b"10", b"11"]]
    assert b'"pgveil_leaf_2" ("id") AS (SELECT r.a0::type23 FROM ROWS FROM (pg_catalog.unnest($3))' in question.text
    assert scene.server.texts() == [BOTH, LEAF, ORDERS]
    scene.alive()


# -- prepared statements ---------------------------------------------------------------------------------------------------------------

ASKED = "SELECT upper(name), length(card) FROM customers WHERE id = $1 AND card = $2 AND lower(card) LIKE $3"
FETCH = b"SELECT name, card FROM customers WHERE id = $1 AND card = $2"
DESCRIBED = Answer((23, 25, 25, 1009, 1009), DESCRIPTION)
PARAMS = m.build_parameter_description((23, 25, 25))


def asking(scene: Scene) -> None:
    of = replace(OF, params=(SealParam(2, CARD, exact=True),))
    computes(scene.bench, ASKED, FETCH.decode(), ("name", "card"), of, parameters=3)
    scene.server.results[FETCH] = replace(scene.server.results[LEAF], parameters=(23, 25))


def prepare(name: bytes = b"s") -> bytes:
    return m.build_parse(name, ASKED.encode()) + m.build_describe(b"S", name)


def bind(name: bytes = b"s", portal: bytes = b"", formats: tuple[int, ...] = ()) -> bytes:
    return m.build_bind(portal, name, (0,), (b"1", b"4000", b"4%"), formats)


def test_a_prepared_statement(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, DESCRIBED, ANSWER, ANSWER)
    asking(scene)
    got = scene.talk.say(prepare(), m.SYNC)
    assert got == m.PARSE_COMPLETE + PARAMS + DESCRIPTION + READY
    assert scene.calculator.kinds() == ["types", "describe"]
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.types == (0, 0, 0, 1009, 1009)
    assert scene.server.parses[-1] == m.Parse(b"s", FETCH, (23, 25, 25))
    scene.server.kinds()
    result = m.BIND_COMPLETE + b"".join(ROWS) + m.build_command_complete(b"SELECT 2") + READY
    for _ in range(2):
        assert scene.talk.say(bind(), m.build_execute(b""), m.SYNC) == result
        # One fetch and one computation: nothing is described again.
        assert scene.server.kinds() == "BDEHS"
    assert scene.calculator.kinds() == ["types", "describe", "run", "run"]
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.values == (b"1", b"4000", b"4%")
    sent = scene.server.binds[-1]
    assert sent.values == (b"1", bench.seal(CARD, "4000").encode(), None)
    assert sent.result_formats == ()
    assert scene.ended() == [("ok", None, 2)] * 2
    scene.alive()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_any_cut_gives_the_same(sizes: list[int]) -> None:
    def pieces(data: bytes) -> list[bytes]:
        found: list[bytes] = []
        at = 0
        for size in cycle(sizes):
            if at >= len(data):
                return found
            found.append(data[at : at + size])
            at += size
        return found

    results = []
    for cut in (whole, pieces):
        scene = Scene(Bench(), cut, ANSWER, DESCRIBED, ANSWER, calculator_error("22012"))
        asking(scene)
        got = scene.query() + scene.talk.say(prepare(), m.SYNC)
        got += scene.talk.say(bind(), m.build_execute(b""), m.SYNC, bind(), m.build_execute(b""), m.SYNC)
        results.append((got, scene.server.texts()))
        scene.alive()
    assert results[0] == results[1]


def test_what_was_learnt_serves_all_sessions(bench: Bench) -> None:
    scene = Scene(bench, whole, DESCRIBED)
    asking(scene)
    scene.talk.say(prepare(), m.SYNC)
    other = Talk(bench.session(), scene.server, whole)
    scene.server.seen.clear()
    assert other.say(prepare(), m.SYNC) == m.PARSE_COMPLETE + PARAMS + DESCRIPTION + READY
    assert scene.server.texts() == [FETCH]
    assert scene.calculator.kinds() == ["types", "describe"]
    bench.judge.generation += 1
    scene.calculator.outcomes.append(DESCRIBED)
    assert other.say(prepare(b"t"), m.SYNC) == m.PARSE_COMPLETE + PARAMS + DESCRIPTION + READY
    assert scene.calculator.kinds() == ["types", "describe", "describe"]


def test_a_pipeline_keeps_its_order(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, DESCRIBED, ANSWER, ANSWER)
    asking(scene)
    shown = m.build_row_description(tuple(f._replace(format=1) for f in SHOWN))
    batch = bind(b"", formats=(1,)) + m.build_describe(b"P", b"") + m.build_execute(b"")
    one = m.BIND_COMPLETE + shown + b"".join(ROWS) + m.build_command_complete(b"SELECT 2")
    plain = m.build_parse(b"p", b"SELECT 1") + m.build_bind(b"", b"p") + m.build_execute(b"")
    other = m.PARSE_COMPLETE + m.BIND_COMPLETE + m.build_command_complete(b"SELECT 0")
    got = scene.talk.say(plain, prepare(b""), batch, m.SYNC, batch, m.SYNC, plain, m.SYNC)
    assert got == (other + m.PARSE_COMPLETE + PARAMS + DESCRIPTION + one + READY + one + READY + other + READY)
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.result_formats == (1,)
    scene.alive()


def test_a_portal_in_parts(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, DESCRIBED, ANSWER)
    asking(scene)
    scene.talk.say(m.build_query(b"BEGIN"))
    block = m.build_ready(b"T")
    scene.talk.say(prepare(), m.SYNC)
    execute = m.build_execute(b"c", 1) + m.SYNC
    assert scene.talk.say(bind(portal=b"c"), execute) == m.BIND_COMPLETE + ROWS[0] + m.PORTAL_SUSPENDED + block
    assert scene.talk.say(execute) == ROWS[1] + m.PORTAL_SUSPENDED + block
    assert scene.talk.say(execute) == m.build_command_complete(b"SELECT 0") + block
    assert scene.calculator.kinds().count("run") == 1
    assert scene.ended() == [("ok", None, 2)]
    assert kinds(scene.talk.say(m.build_close(b"P", b"c"), m.SYNC)) == "3Z"
    got = scene.talk.say(execute)
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "34000")
    assert kinds(scene.talk.say(m.build_query(b"ROLLBACK"))) == "CZ"


def test_there_is_no_room_for_what_a_portal_keeps(bench: Bench) -> None:
    scene = Scene(bench, whole, DESCRIBED, ANSWER)
    asking(scene)
    scene.talk.say(prepare(), m.SYNC)
    scene.calculator.prompt = False
    scene.talk.say(bind(portal=b"c"), m.build_execute(b"c", 1), m.SYNC)
    others = (1 << 30) - bench.budget.held
    assert bench.budget.take(others)
    scene.calculator.next()
    scene.talk.move()
    got = scene.talk.got()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "53200")
    assert bench.observer.reasons == [Reason.LIMIT]
    bench.budget.give(others)
    scene.alive()


def test_what_a_portal_kept_goes_with_it(bench: Bench) -> None:
    scene = Scene(bench, whole, DESCRIBED, ANSWER)
    asking(scene)
    scene.talk.say(m.build_query(b"BEGIN"))
    scene.talk.say(prepare(), bind(portal=b"c"), m.build_execute(b"c", 1), m.SYNC)
    portal = scene.talk.session._state.portals.get(b"c")
    assert portal is not None
    assert portal.asked_for is not None
    assert len(portal.asked_for.rows or ()) == 1
    gone = weakref.ref(portal.asked_for.rows)
    assert bench.budget.held > 0
    del portal
    scene.talk.say(m.build_query(b"COMMIT"))
    gc.collect()
    assert gone() is None
    assert bench.budget.held == 0


def test_an_error_of_the_calculators_at_parse(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, calculator_error("42883", M="no such function"), DESCRIBED)
    asking(scene)
    got = scene.talk.say(prepare(), bind(), m.build_execute(b""), m.SYNC)
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "42883")
    assert bench.recorder.events == []
    assert kinds(scene.talk.say(prepare(), m.SYNC)) == "1tTZ"
    scene.alive()


@pytest.mark.parametrize("name", [b"", b"s"])
def test_an_error_at_execute_ends_the_batch(bench: Bench, cut: Callable[[bytes], list[bytes]], name: bytes) -> None:
    scene = Scene(bench, cut, DESCRIBED, calculator_error("22012"), ANSWER)
    asking(scene)
    scene.talk.say(m.build_query(b"BEGIN"))
    again = m.build_execute(b"") + m.build_parse(b"late", b"SELECT 1")
    got = scene.talk.say(prepare(name), bind(name), m.build_execute(b""), again, m.SYNC)
    assert kinds(got) == "1tT2EZ"
    assert got[-1:] == scene.server.status == b"E"
    # The second Execute was on its way already.
    assert scene.ended() == [("error", "22012", None), ("error", None, None)]
    scene.talk.say(m.build_query(b"ROLLBACK"))
    got = scene.talk.say(m.build_bind(b"", b"late"), m.SYNC)
    assert error_of(got).sqlstate == "26000"
    if name:
        assert kinds(scene.talk.say(bind(name), m.build_execute(b""), m.SYNC)) == "2DDCZ"
    scene.alive()


@pytest.mark.parametrize("wrong", ["source", "value", "server"])
def test_a_fetch_that_fails_ends_the_batch(bench: Bench, cut: Callable[[bytes], list[bytes]], wrong: str) -> None:
    scene = Scene(bench, cut, DESCRIBED)
    asking(scene)
    scene.talk.say(prepare(), m.SYNC)
    fetched = scene.server.results[FETCH]
    if wrong == "value":
        fetched.rows[0] = (b"Ann", b"pgv1:nonsense")
    elif wrong == "server":
        fetched.broken = error("57014")
    else:
        bench.judge.generation += 1
        bench.judge.sources = {(OID, 2): CARD.name}
    got = scene.talk.say(bind(), m.build_execute(b""), m.build_execute(b""), m.SYNC)
    assert kinds(got) in ("2EZ", "EZ")
    assert kinds(got).count("E") == 1
    assert scene.calculator.kinds().count("run") == 0
    scene.alive()


def test_a_prepared_statement_under_other_rules(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, DESCRIBED, DESCRIBED, ANSWER, replace(DESCRIBED, description=b""))
    asking(scene)
    scene.talk.say(prepare(), m.SYNC)
    bench.judge.generation += 1
    assert kinds(scene.talk.say(bind(), m.build_execute(b""), m.SYNC)) == "2DDCZ"
    assert scene.calculator.kinds() == ["types", "describe", "describe", "run"]
    bench.judge.generation += 1
    got = scene.talk.say(bind(), m.build_execute(b""), m.SYNC)
    assert (kinds(got), error_of(got).get("M")) == ("EZ", b"cached plan must not change result type")
    del bench.judge.table[ASKED.encode()]
    got = scene.talk.say(bind(), m.SYNC)
    assert (kinds(got), error_of(got).get("M")) == ("EZ", b"cached plan must not change result type")
    scene.alive()


def test_the_rows_are_fetched_by_another_text_under_other_rules(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    """As where a masking view has another name: the fetch that bears the client's name is made again (ADR 0029)."""
    scene = Scene(bench, cut, DESCRIBED, ANSWER, DESCRIBED, ANSWER)
    asking(scene)
    scene.talk.say(prepare(), m.SYNC)
    run = bind() + m.build_execute(b"") + m.SYNC
    before = scene.talk.say(run)
    other = FETCH.replace(b"customers", b"v2.customers")
    of = replace(OF, params=(SealParam(2, CARD, exact=True),))
    computes(bench, ASKED, other.decode(), ("name", "card"), of, parameters=3)
    scene.server.results[other] = scene.server.results[FETCH]
    bench.judge.generation += 1
    scene.server.kinds()
    assert scene.talk.say(run) == before
    assert scene.server.parses[-1] == m.Parse(b"s", other, (23, 25, 25))
    assert scene.server.kinds().endswith("CPBDEHS")
    scene.alive()


def test_what_passed_is_computed_under_other_rules(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    """As where a column has been sealed meanwhile."""
    scene = Scene(bench, cut, DESCRIBED, ANSWER)
    scene.server.results[ASKED.encode()] = Result(m.parse_row_description(DESCRIPTION[5:]), [], (23, 25, 25))
    assert kinds(scene.talk.say(prepare(), m.SYNC)) == "1tTZ"
    asking(scene)
    bench.judge.generation += 1
    assert kinds(scene.talk.say(bind(), m.build_execute(b""), m.SYNC)) == "2DDCZ"
    assert scene.server.parses[-1].text == FETCH
    scene.alive()


def test_types_that_the_client_declares(bench: Bench) -> None:
    scene = Scene(bench, whole, replace(DESCRIBED, parameters=(20, 25, 25, 1009, 1009)))
    asking(scene)
    scene.talk.say(m.build_parse(b"s", ASKED.encode(), (20, 0)), m.build_describe(b"S", b"s"), m.SYNC)
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.types == (20, 0, 0, 1009, 1009)
    assert scene.server.parses[-1].types == (20, 25, 25)


def test_a_parameter_of_a_type_that_only_the_database_knows(bench: Bench) -> None:
    scene = Scene(bench, whole)
    asking(scene)
    got = scene.talk.say(m.build_parse(b"s", ASKED.encode(), (16400,)), m.SYNC)
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "0AP01")
    assert b"Parameter $1" in (error_of(got).get("D") or b"")
    scene.alive()


def test_a_parameter_that_only_the_fetch_knows(bench: Bench) -> None:
    """As where a query is only sorted afterwards: its conditions are not in the calculator's text."""
    sql = "SELECT upper(name), length(card) FROM customers LIMIT $3"
    scene = Scene(bench, whole, replace(DESCRIBED, parameters=(25, 25, 20, 1009, 1009)), ANSWER)
    of = replace(OF, params=(SealParam(2, CARD, exact=True),))
    computes(bench, sql, FETCH.decode(), ("name", "card"), of, parameters=3)
    scene.server.results[FETCH] = replace(scene.server.results[LEAF], parameters=(16400, 25))
    got = scene.talk.say(m.build_parse(b"s", sql.encode()), m.build_describe(b"S", b"s"), m.SYNC)
    assert got == m.PARSE_COMPLETE + m.build_parameter_description((16400, 25, 20)) + DESCRIPTION + READY
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.types == (25, 25, 0, 1009, 1009)
    scene.talk.say(bind(), m.build_execute(b""), m.SYNC)
    question = scene.calculator.asked[-1].question
    assert question is not None
    assert question.types == (25, 25, 20, 1009, 1009)
    assert question.values == (None, None, b"4%")
    assert scene.server.binds[-1].values == (b"1", bench.seal(CARD, "4000").encode(), None)


def test_reprs_show_no_value(bench: Bench) -> None:
    scene = Scene(bench, whole, DESCRIBED, ANSWER)
    asking(scene)
    scene.talk.say(m.build_query(b"BEGIN"))
    scene.talk.say(prepare(), bind(portal=b"c"), m.build_execute(b"c", 1), m.SYNC)
    portal = scene.talk.session._state.portals.get(b"c")
    asked = scene.calculator.asked[-1].question
    assert "4000" not in repr(portal)
    assert "BOB" not in repr(portal)
    assert "4000" not in repr(asked)
