"""The fast lane against the slow one: the same conversations through both, cut anywhere, end in the same bytes and the same books."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session.gate import Instead, OffsetMap, Pass, Refuse, Settings
from proxy.session.lane import (
    ROW_BYTES,
    SETS,
    SHAPE_BYTES,
    SHAPES,
    UNITS,
    UNNAMED,
    UNNAMED_BYTES,
    Lane,
    PassingTexts,
    shape_of,
)
from proxy.wire import messages as m
from rules.plan import Action, Reason, Refusal, ResultColumn
from tests.session.conftest import CARD, SCORE, Bench, FakeJudge, opened, plan
from tests.session.conversation import Result, Server, Talk, error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.session.session import Session

TABLE_OID = 4711
ROW = (m.Field(b"a", 0, 0, 23, 4, -1, 0), m.Field(b"b", 9, 2, 25, -1, -1, 0))
SCORES = (m.Field(b"score", TABLE_OID, 4, 25, -1, -1, 0),)
SHOWN = (m.Field(b"phone", 9, 7, 25, -1, -1, 0),)
SECRET = (m.Field(b"card", TABLE_OID, 3, 25, -1, -1, 0),)
TEXTS: dict[bytes, Result] = {
    b"select a, b from t where a = $1": Result(ROW, [(b"1", b"x"), (b"2", None)], (23,)),
    b"select nothing": Result(ROW, [], ()),
    b"update t set a = $1": Result((), [], (23,)),
    b"select fails": Result(ROW, [(b"1", b"x")], broken=error("22012", "division by zero")),
    b"set search_path to other": Result(),
    b"select card from customers": Result(SECRET, [(None,)]),
    b"select score from customers": Result(SCORES, [(None,)]),
    b"select card from damaged": Result(SECRET, [(b"~AAAA",)]),
    b"select phone from customers": Result(SHOWN, [(b"138****1234",)]),
    b"select * from pg_class": Result((m.Field(b"never", 0, 0, 25, -1, -1, 0),), [(b"never",)]),
    b"select * from shown_class": Result((m.Field(b"always", 0, 0, 25, -1, -1, 0),), [(b"always",)]),
    b"commit": Result(),
}
NUMBERS = re.compile(rb"[0-9]+")


class Both(Server):
    """A server that answers simple queries with rows, numbers in them aside, and says more where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.results |= TEXTS
        self.formats: dict[bytes, tuple[int, ...]] = {}
        self.aside = b""  # goes before the next answer

    def _extended(self, kind: str, body: bytes) -> bytes:
        """A portal's description has the formats that were bound."""
        if kind == "B":
            bind = m.parse_bind(body)
            self.formats[bind.portal] = bind.result_formats[:1] or (0,)
        said = super()._extended(kind, body)
        if kind != "D" or body[:1] != b"P" or said[:1] != b"T":
            return said
        (form,) = self.formats[m.parse_target(body).name]
        return m.build_row_description(tuple(f._replace(format=form) for f in m.parse_row_description(said[5:])))

    def receive(self, data: bytes) -> bytes:
        """As a Server, with what it says besides."""
        said = super().receive(data)
        if said and self.aside:
            said, self.aside = self.aside + said, b""
        return said

    def _query(self, text: bytes) -> bytes:
        shape = NUMBERS.sub(b"0", text)
        rows = {b"select a, b from t where a = 0": 2, b"select a, b from t where a = 0 limit 0": 1}.get(shape)
        if rows is None or self.status == b"E":
            return super()._query(text)
        self._portals.clear()
        self._statements.pop(b"", None)
        data = b"".join(m.build_data_row((b"%d" % n, b"x")) for n in range(rows))
        tag = m.build_command_complete(b"SELECT %d" % rows)
        return m.build_row_description(ROW) + data + tag + self._ready()


@dataclass
class Side:
    """One way through."""

    bench: Bench
    session: Session
    server: Both
    talk: Talk


def side(cut: Callable[[bytes], list[bytes]], *, fast: bool) -> Side:
    bench = Bench()
    bench.judge.sources[TABLE_OID, 3] = CARD.name
    bench.judge.sources[TABLE_OID, 4] = SCORE.name
    bench.judge.admit("select card from customers", plan(opened(CARD)))
    bench.judge.admit("select score from customers", plan(opened(SCORE)))
    bench.judge.admit("select card from damaged", plan(opened(CARD)))
    bench.judge.admit("select phone from customers", plan(ResultColumn(direct=True)))
    # A masking view's columns are shown as the table's; a text may be replaced by another one.
    bench.judge.tables[9, 7] = (8, 3)
    for text in (b"select * from pg_class", b"SELECT 4711"):
        bench.judge.table[text] = Pass(instead=Instead(b"select * from shown_class", OffsetMap()))
    session, server = bench.session(fast=fast), Both()
    sealed = bench.seal(CARD, "6222021234567890123").encode()
    score = bench.seal(SCORE, "1234567").encode()
    server.results[b"select score from customers"] = Result(SCORES, [(score,), (None,)])
    server.results[b"select card from customers"] = Result(SECRET, [(sealed,), (None,), (sealed,)])
    return Side(bench, session, server, Talk(session, server, cut))


@dataclass
class Cutter:
    """Cuts at places that a test has chosen, over and over."""

    sizes: list[int]
    at: int = field(default=0)

    def __call__(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            size = self.sizes[self.at % len(self.sizes)] if self.sizes else 0
            self.at += 1
            size = size or len(data)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def parse(name: bytes, text: bytes) -> bytes:
    return m.build_parse(name, text) + m.build_describe(b"S", name)


def batch(
    name: bytes, *, describe: bool = True, limit: int = 0, formats: tuple[int, ...] = (), portal: bytes = b""
) -> bytes:
    asked = m.build_describe(b"P", portal) if describe else b""
    bind = m.build_bind(portal, name, (), (b"7",), formats)
    return bind + asked + m.build_execute(portal, limit) + m.SYNC


NAMES = dict(
    zip((b"s1", b"s2", b"s3", b"s4", b"s5", b"s6", b"sx", b"s7", b"s8", b"sa", b"sb", b"s9"), TEXTS, strict=True)
)
SIMPLE = (
    b"select a, b from t where a = %d",
    b"select a, b from t where a = %d limit %d",
    b"BEGIN",
    b"COMMIT",
    b"ROLLBACK",
    b"SELECT 4711",
)


def said(op: tuple[Any, ...]) -> bytes:
    """What a client sends."""
    match op:
        case ("batch", name, describe, limit, formats, portal):
            return batch(name, describe=describe, limit=limit, formats=formats, portal=portal)
        case ("simple", which, number):
            text = SIMPLE[which]
            return m.build_query(text % ((number,) * text.count(b"%d")))
        case ("unnamed", name):
            return m.build_parse(b"", NAMES[name]) + batch(b"")
        case ("close", name):
            return m.build_close(b"S", name) + m.SYNC
        case _:
            return parse(op[1], NAMES[op[1]]) + m.SYNC


REQUEST = st.one_of(
    st.tuples(
        st.just("batch"),
        st.sampled_from((*NAMES, b"nobody")),
        st.booleans(),
        st.sampled_from((0, 0, 0, 1)),
        st.sampled_from(((), (), (1,))),
        st.sampled_from((b"", b"", b"", b"c")),
    ),
    st.tuples(
        st.just("batch"),
        st.sampled_from((b"s1", b"s2", b"s3", b"s6", b"sx", b"sx", b"s8", b"sa")),
        st.booleans(),
        st.just(0),
        st.sampled_from(((), (), (1,))),
        st.just(b""),
    ),
    st.tuples(st.just("simple"), st.integers(0, len(SIMPLE) - 1), st.integers(0, 99)),
    st.tuples(st.just("unnamed"), st.sampled_from(sorted(NAMES))),
    st.tuples(st.just("close"), st.sampled_from(sorted(NAMES))),
    st.tuples(st.just("parse"), st.sampled_from(sorted(NAMES))),
)
# Behind a value that does not open, what was sent already has run, and what was not has not.
UNDAMAGED = st.lists(REQUEST.filter(lambda op: b"s7" not in op), min_size=1, max_size=4)
EVENT = st.sampled_from(
    ("generation", "protects", "notice", "setting", "slow disk", "durable", "audit fails", "catalog")
)
REQUESTS = st.lists(REQUEST, min_size=1, max_size=4)
STEPS = st.lists(st.one_of(REQUESTS, EVENT), min_size=1, max_size=14)
NOTICE = m.build_error(m.ErrorFields(((ord("S"), b"NOTICE"), (ord("C"), b"00000"), (ord("M"), b"well"))))


def happens(event: str, here: Side) -> None:
    judge = here.bench.judge
    match event:
        case "generation":
            judge.generation += 1
        case "protects":
            # What the description of every known text names is protected from now on.
            judge.generation += 1
            judge.sources[9, 2] = CARD.name
        case "notice":
            here.server.aside = b"N" + NOTICE[1:]
        case "setting":
            here.talk.hear(m.message(m.Back.PARAMETER_STATUS, b"search_path\0elsewhere\0"))
        case "slow disk":
            here.bench.recorder.prompt = False
        case "durable":
            here.session.audit_durable(here.bench.recorder.flush())
            here.talk.move()
        case "audit fails":
            here.bench.recorder.down = not here.bench.recorder.down
            if here.bench.recorder.down:
                here.session.audit_failed()
                here.talk.move()
        case _:
            here.session.catalog_refreshed()


def heard(here: Side) -> list[tuple[str, bytes]]:
    """What the server was sent; when it is asked to flush depends on how the bytes came."""
    return [message for message in here.server.seen if message[0] != "H"]


def books(here: Side) -> tuple[Any, ...]:
    state = here.session._state
    return (
        sorted(s.name for s in state.statements),
        state.pipeline.status,
        len(state.pipeline),
        state.unknown_executes,
        state.tracker.doubt,
        here.session.at_rest,
        here.bench.observer.errors,
        sorted(map(str, here.bench.observer.statements)),
        here.bench.recorder.kinds(),
    )


def play(steps: list[Any], fast: Side, slow: Side) -> Iterator[Any]:
    """Both go through the steps; after each, the fast one's client has what the slow one's has, or a part of it while a record is not durable."""
    known = b"".join(parse(name, text) + m.SYNC for name, text in NAMES.items() if b"fails" not in text)
    got = fast.talk.say(known), slow.talk.say(known)
    assert got[0] == got[1]
    for step in steps:
        for here in (fast, slow):
            if isinstance(step, str):
                happens(step, here)
        data = b"" if isinstance(step, str) else b"".join(map(said, step))
        got = (
            got[0] + (fast.talk.say(data) if data else fast.talk.got()),
            got[1] + (slow.talk.say(data) if data else slow.talk.got()),
        )
        # BindComplete and a description go before the record; the fast lane sends them with the rows.
        assert got[1].startswith(got[0]), step
        if fast.bench.recorder.durable == len(fast.bench.recorder.events):
            assert got[0] == got[1], step
        yield step


@settings(max_examples=120, deadline=None)
@given(STEPS, st.lists(st.integers(0, 40), max_size=6))
def test_both_lanes_end_alike(steps: list[Any], cuts: list[int]) -> None:
    fast, slow = side(Cutter(cuts), fast=True), side(Cutter(cuts), fast=False)
    for step in play(steps, fast, slow):
        if fast.bench.recorder.durable == len(fast.bench.recorder.events):
            assert heard(fast) == heard(slow)
            assert books(fast) == books(slow), step
            # Portals that are gone may stand in the books; of those that are there, both know the same.
            unlike = {p.name for p in fast.session._state.portals} ^ {p.name for p in slow.session._state.portals}
            assert unlike <= {b""}, step


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(UNDAMAGED, st.sampled_from(("notice", "setting"))), min_size=1, max_size=14),
    st.lists(st.integers(0, 40), max_size=6),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_the_client_can_not_tell(steps: list[Any], fast_cuts: list[int], slow_cuts: list[int]) -> None:
    """However differently the bytes come. (What pgveil knows by then, and so what it asks of the server, may be more or less.)"""
    for _ in play(steps, side(Cutter(fast_cuts), fast=True), side(Cutter(slow_cuts), fast=False)):
        pass


def warm(here: Side) -> None:
    here.talk.say(parse(b"s1", NAMES[b"s1"]) + m.SYNC)
    here.talk.say(parse(b"s3", NAMES[b"s3"]) + m.SYNC)
    for name in (b"s6", b"s8"):
        here.talk.say(parse(name, NAMES[name]) + m.SYNC)
    for name in (b"s1", b"s3", b"s6", b"s8"):
        here.talk.say(batch(name))
    for name in (b"s1", b"s6", b"s8"):
        here.talk.say(m.build_parse(b"", NAMES[name]) + batch(b""))
    here.talk.say(m.build_query(SIMPLE[0] % 1))  # it ends the unnamed statement
    here.talk.say(m.build_query(SIMPLE[0] % 2))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes the slow way: one entry for each time that a direction is pumped."""
    slow: list[str] = []
    leave = Lane.leave

    def left(lane: Lane) -> bytes:
        slow.append("left")
        return leave(lane)

    monkeypatch.setattr(Lane, "leave", left)
    return slow


@pytest.mark.parametrize(
    "request_",
    [
        batch(b"s1"),
        batch(b"s1", describe=False),
        batch(b"s3"),
        batch(b"s3", describe=False),
        batch(b"s1") * 3,
        batch(b"s6"),
        batch(b"s6", describe=False),
        batch(b"s8") + batch(b"s1"),
        m.build_parse(b"", NAMES[b"s1"]) + batch(b""),
        m.build_parse(b"", NAMES[b"s1"]) + batch(b"", describe=False),
        m.build_parse(b"", NAMES[b"s8"]) + batch(b""),
        batch(b"s1") + m.build_parse(b"", NAMES[b"s6"]) + batch(b"", describe=False) + batch(b"s1"),
        m.build_query(b"select a, b from t where a = 987654"),
    ],
)
def test_what_goes_the_fast_way(request_: bytes, counted: list[str]) -> None:
    here = side(Cutter([]), fast=True)
    warm(here)
    counted.clear()
    asked = len(here.bench.judge.asked)
    here.talk.say(request_)
    assert not counted
    assert len(here.bench.judge.asked) == asked, "and nothing is judged"


def test_a_description_that_was_not_agreed_to_does_not_pass(counted: list[str]) -> None:
    """A view replaced, a table renamed past pgveil: what the server describes is looked at anew before a row passes."""
    here = side(Cutter([]), fast=True)
    warm(here)
    counted.clear()
    here.server.results[NAMES[b"s1"]].fields, kept = SECRET, here.server.results[NAMES[b"s1"]].fields
    here.server._statements[b"s1"].rows, rows = [(b"~secret",)], here.server._statements[b"s1"].rows
    try:
        got = here.talk.say(batch(b"s1"))
    finally:
        here.server.results[NAMES[b"s1"]].fields = kept
        here.server._statements[b"s1"].rows = rows
    assert counted
    assert b"secret" not in got
    assert b"42501" in got


def test_what_is_protected_meanwhile_does_not_pass() -> None:
    """Rules or catalog change while an answer is on its way: it is held against those in force."""
    here = side(Cutter([]), fast=True)
    warm(here)
    here.session.client_received(batch(b"s1"))
    (asked,) = here.session.to_server
    here.session.to_server.clear()
    here.bench.judge.generation += 1
    here.bench.judge.sources[9, 2] = CARD.name
    here.session.server_received(here.server.receive(asked))
    got = here.talk.got()
    assert b"42501" in got
    assert m.build_data_row((b"1", b"x")) not in got


CARD_NUMBER = b"6222021234567890123"


def test_a_planned_read_is_recorded_before_it_is_released(counted: list[str]) -> None:
    here = side(Cutter([]), fast=True)
    warm(here)
    here.bench.recorder.prompt = False
    counted.clear()
    here.bench.recorder.events.clear()
    here.bench.recorder.durable = 0
    assert here.talk.say(batch(b"s6") + batch(b"s1")) == b"", "what comes behind it waits as well"
    assert here.bench.recorder.kinds() == ["StatementStarted"]
    here.session.audit_durable(here.bench.recorder.flush())
    got = here.talk.got()
    assert got.count(CARD_NUMBER) == 2
    assert got.endswith(m.build_data_row((b"2", None)) + m.build_command_complete(b"SELECT 2") + m.build_ready(b"I"))
    assert here.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert here.bench.recorder.events[1].rows == 3  # type: ignore[union-attr]
    assert not counted


def test_a_planned_read_without_a_durable_record_is_not_released() -> None:
    here = side(Cutter([]), fast=True)
    warm(here)
    here.bench.recorder.prompt = False
    assert here.talk.say(batch(b"s6")) == b""
    here.session.audit_failed()
    here.talk.move()
    got = here.talk.got()
    assert CARD_NUMBER not in got
    assert b"58030" in got


def test_a_planned_read_that_can_not_be_recorded_is_refused() -> None:
    here = side(Cutter([]), fast=True)
    warm(here)
    here.bench.recorder.down = True
    got = here.talk.say(batch(b"s6"))
    assert CARD_NUMBER not in got
    assert b"58030" in got


def test_answers_that_wait_are_bounded() -> None:
    """Beyond that the server is not read until the record is there."""
    here = side(Cutter([]), fast=True)
    warm(here)
    here.bench.recorder.prompt = False
    here.server.results[NAMES[b"s6"]].rows *= 800
    here.talk.say(batch(b"s6"))
    assert not here.session._lane.kept
    assert not here.session.wants_server
    here.session.audit_durable(here.bench.recorder.flush())
    here.talk.move()
    assert here.talk.got().count(CARD_NUMBER) == 1600


@pytest.mark.parametrize("word", ["FATAL", "WARNING"])
def test_a_server_that_ends_takes_no_answer_away_that_waits(word: str) -> None:
    """Its end is not read before the record is there, as in the slow lane: the client got neither its rows nor the server's last words."""
    here = side(Cutter([]), fast=True)
    warm(here)
    here.bench.recorder.prompt = False
    here.talk.say(batch(b"s6"))
    last = error("57P01").replace(b"ERROR", word.encode()).replace(b"E", b"E" if word == "FATAL" else b"N", 1)
    here.session.server_received(last[:1] + pack("!i", len(last) - 1) + last[5:])
    assert not here.session.wants_server
    here.session.audit_durable(here.bench.recorder.flush())
    got = here.talk.got()
    assert got.count(CARD_NUMBER) == 2
    assert b"57P01" in got


@pytest.mark.parametrize("fast", [True, False])
def test_a_batch_that_fails_does_not_change_what_the_next_one_has_bound(*, fast: bool) -> None:
    """Its portal was taken for that of a batch before, which touched nothing protected: released without a record (F8.4)."""
    here = side(Cutter([]), fast=fast)
    warm(here)
    here.bench.recorder.events.clear()
    here.bench.recorder.durable = 0
    fails = m.build_bind(b"", b"nobody") + m.build_execute(b"") + m.SYNC
    session = here.session
    session.client_received(batch(b"s1") + fails + m.build_bind(b"", b"s8"))
    asked = b"".join(session.to_server)
    session.to_server.clear()
    session.server_received(here.server.receive(asked))
    session.client_received(m.build_execute(b"") + m.SYNC)
    here.talk.move()
    assert here.talk.got().count(b"138****1234") == 1
    assert here.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]


def test_a_text_judged_before_a_change_is_not_known_under_what_came_then() -> None:
    """It waited for the record of a write while the catalog changed, and was then forwarded under the newer one, for every session of the login."""
    here = side(Cutter([]), fast=True)
    judge = here.bench.judge
    judge.admit("insert sealed", plan(action=Action.INSERT, results=None, writes=True))
    here.talk.say(parse(b"w", b"insert sealed") + m.SYNC)
    here.bench.recorder.prompt = False
    here.session.client_received(m.build_bind(b"", b"w") + m.build_execute(b"") + m.build_query(SIMPLE[0] % 1))
    here.talk.move()
    judge.generation += 1
    judge.table[SIMPLE[0] % 2] = Refuse(Refusal(Reason.UNSUPPORTED, "0AP01", "no"))
    here.session.audit_durable(here.bench.recorder.flush())
    here.talk.move()
    here.bench.recorder.prompt = True
    assert m.build_command_complete(b"SELECT 2") in here.talk.got()
    assert b"0AP01" in here.talk.say(m.build_query(SIMPLE[0] % 2))


@pytest.mark.parametrize("fast", [True, False])
def test_a_parse_sends_what_is_put_in_its_texts_place_now(*, fast: bool) -> None:
    """The server's statement was confirmed with the text that it had; a Parse of the same text makes another one."""
    here = side(Cutter([]), fast=fast)
    text = NAMES[b"s1"]
    here.talk.say(m.build_parse(b"", text) + batch(b""))
    here.bench.judge.generation += 1
    here.bench.judge.table[text] = Pass(instead=Instead(b"select * from shown_class", OffsetMap()))
    here.talk.say(batch(b""))
    assert b"always" in here.talk.say(m.build_parse(b"", text) + batch(b""))


def test_what_older_rules_say_of_an_open_portal_lets_nothing_pass() -> None:
    """The statement is judged by the newer ones already, its portal described by the older: the next Bind is looked at by the newer."""
    here = side(Cutter([]), fast=True)
    warm(here)
    older = here.bench.judge
    here.talk.say(m.build_query(b"BEGIN"), m.build_bind(b"c", b"s1"), m.build_execute(b"c", 1), m.SYNC)
    newer = FakeJudge()
    newer.generation = older.generation + 1
    newer.sources = {**older.sources, (9, 2): CARD.name}
    here.session.judged_by(newer)
    here.talk.say(m.build_bind(b"", b"s1") + m.SYNC)
    here.talk.say(m.build_describe(b"P", b"c") + m.SYNC)
    assert b"42501" in here.talk.say(batch(b"s1"))


@pytest.mark.parametrize("fast", [True, False])
def test_a_planned_read_behind_a_begin_keeps_its_portal(*, fast: bool) -> None:
    here = side(Cutter([]), fast=fast)
    warm(here)
    here.talk.say(m.build_query(b"BEGIN"))
    here.talk.say(m.build_query(b"COMMIT"))
    here.talk.say(m.build_query(b"BEGIN") + batch(b"s6"))
    got = here.talk.say(m.build_execute(b"") + m.SYNC)
    assert got == m.build_command_complete(b"SELECT 0") + m.build_ready(b"T")


@pytest.mark.parametrize("fast", [True, False])
def test_a_commit_ends_portals_whatever_comes_behind_it(*, fast: bool) -> None:
    here = side(Cutter([]), fast=fast)
    warm(here)
    here.talk.say(m.build_query(b"BEGIN"))
    here.talk.say(m.build_query(b"COMMIT"))
    here.talk.say(m.build_query(b"BEGIN"))
    here.bench.recorder.events.clear()
    here.bench.recorder.durable = 0
    here.talk.say(m.build_bind(b"c", b"s6") + m.build_execute(b"c", 1) + m.SYNC)
    here.talk.say(m.build_query(b"COMMIT") + m.build_query(b"BEGIN"))
    assert here.bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert not len(here.session._state.portals)


@pytest.mark.parametrize("length", [-(2**31), -40, -1, 0, 3])
@pytest.mark.parametrize("kind", [b"P", b"B", b"Q"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_message_of_impossible_length_ends_the_session(kind: bytes, length: int, *, fast: bool) -> None:
    here = side(Cutter([]), fast=fast)
    warm(here)
    here.session.client_received(kind + pack("!i", length) + b"\0" + b"B" * 30)
    assert here.session.closing is not None


@pytest.mark.parametrize("slow_disk", [False, True])
@pytest.mark.parametrize("fast", [True, False])
def test_a_malformed_bind_of_a_planned_read_ends_the_session(*, fast: bool, slow_disk: bool) -> None:
    """And is no exception for who wakes sessions when a record is durable: the others of that moment were never woken."""
    here = side(Cutter([]), fast=fast)
    warm(here)
    here.bench.recorder.prompt = not slow_disk
    malformed = m.message(m.Front.BIND, b"\0s6\0\0\0\0\7")
    here.session.client_received(batch(b"s6") + malformed + m.build_execute(b"") + m.SYNC)
    asked = b"".join(here.session.to_server)
    here.session.to_server.clear()
    said = here.server.receive(asked.partition(malformed)[0])
    here.session.server_received(said + error("08P01") + m.build_ready(b"I"))
    here.session.audit_durable(here.bench.recorder.flush())
    assert here.session.closing is not None
    started, ended = (here.bench.recorder.kinds().count(kind) for kind in ("StatementStarted", "StatementEnded"))
    assert started == ended


def test_a_refused_text_is_not_known_to_pass() -> None:
    here = side(Cutter([]), fast=True)
    refusal = Refusal(Reason.UNSUPPORTED, "0AP01", "no")
    text = b"select card from customers where id = 1"
    here.bench.judge.table[text] = Refuse(refusal)
    for _ in range(3):
        assert b"0AP01" in here.talk.say(m.build_query(text))


class TestShapes:
    """Texts with other numbers are one shape; where a digit may be part of something else, there is none."""

    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            (b"select 1", b"select 0"),
            (b"select a1 from t2 where x=-17.25e3", b"select a1 from t2 where x=-0.25e3"),
            (b"select 12abc", b"select 12abc"),
            (b"limit 5 offset 70", b"limit 0 offset 0"),
        ],
    )
    def test_numbers(self, text: bytes, shape: bytes) -> None:
        assert shape_of(text) == shape

    @pytest.mark.parametrize(
        "text",
        [
            b"select 'a1'",
            b'select "t 1"',
            b"select a$1",
            b"select $1",
            b"select $$1$$",
            b"select 1 -- 2",
            b"select /* 1 */ 2",
            b"select \\1",
            "select é1".encode(),
            b"select 1\x00",
            b"select " + b"1" * SHAPE_BYTES,
        ],
    )
    def test_others(self, text: bytes) -> None:
        assert shape_of(text) is None

    def test_other_names_are_other_shapes(self) -> None:
        assert shape_of(b"select * from t1") != shape_of(b"select * from t2")


def test_requests_under_way_are_bounded() -> None:
    here = side(Cutter([]), fast=True)
    warm(here)
    assert here.session._lane.client(batch(b"s1") * (UNITS + 5)) == UNITS * len(batch(b"s1"))


def test_unnamed_statements_are_bounded() -> None:
    here = side(Cutter([]), fast=True)
    for number in range(UNNAMED + 5):
        here.talk.say(m.build_parse(b"", b"select %d" % number) + batch(b""))
    assert len(here.session._lane._unnamed) == UNNAMED
    here.talk.say(m.build_parse(b"", b"select " + b"1" * UNNAMED_BYTES) + batch(b""))
    assert all(b"1" * 99 not in text for text in here.session._lane._unnamed)


def test_known_texts_are_bounded() -> None:
    here = side(Cutter([]), fast=True)
    for number in range(SHAPES + 5):
        here.talk.say(m.build_query(b"select t%d" % number))
    texts = here.bench.passing.of(1, "alice", here.session._state.tracker.settings)
    assert len(texts) == SHAPES
    assert b"select t%d" % (SHAPES + 4) in texts


def test_sets_of_known_texts_are_bounded() -> None:
    texts, unknown = PassingTexts(), Settings()
    for generation in range(SETS + 5):
        texts.of(generation, "alice", unknown)[b"x"] = b""
    assert not texts.of(0, "alice", unknown)
    assert texts.of(SETS + 4, "alice", unknown)


def test_long_texts_and_descriptions_are_not_kept() -> None:
    assert shape_of(b"x" * SHAPE_BYTES) is not None
    assert shape_of(b"x" * (SHAPE_BYTES + 1)) is None
    here = side(Cutter([]), fast=True)
    here.server.results[b"select wide"] = Result((m.Field(b"w" * ROW_BYTES, 0, 0, 25, -1, -1, 0),))
    here.talk.say(parse(b"w", b"select wide") + m.SYNC)
    for _ in range(3):
        here.talk.say(batch(b"w"))
    statement = here.session._state.statements.get(b"w")
    assert statement is not None
    assert statement.row is None
