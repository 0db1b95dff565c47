"""Prepared statements under other rules: made again in front of what uses them, unseen, however the bytes are cut (ADR 0029)."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from keys.lookup import TICKET_SECONDS
from proxy.session.gate import NameChange, Pass, Refuse
from proxy.wire import messages as m
from rules.model import Verdict
from rules.named import NameUse
from rules.plan import Reason, Refusal, ResultColumn, SealParam

from .conftest import CARD, Bench, FakeJudge, opened, plan
from .conversation import Result, Server, Talk, error_of, kinds
from .test_computer import single, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.session import Session

SQL = "SELECT phone FROM customers WHERE id = $1"
OLD, NEW = b"SELECT phone FROM v1.customers WHERE id = $1", b"SELECT phone FROM v2.customers WHERE id = $1"
READY = m.build_ready(b"I")


def field(name: bytes = b"phone", type_: int = 1043, typmod: int = 24) -> m.Field:
    """A column of no table that a rule speaks of."""
    return m.Field(name, 0, 0, type_, -1, typmod, 0)


@pytest.fixture(params=[whole, single], ids=["whole", "bytewise"])
def cut(request: pytest.FixtureRequest) -> Callable[[bytes], list[bytes]]:
    found: Callable[[bytes], list[bytes]] = request.param
    return found


class Scene:
    """A session whose judge lets SQL run as one view's text or another's."""

    def __init__(self, bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
        self.bench = bench
        self.server = Server()
        self.server.results[OLD] = Result((field(),), [(b"old 1",), (b"old 2",)], (23,))
        self.server.results[NEW] = Result((field(),), [(b"new 1",), (b"new 2",)], (23,))
        self.runs_as(OLD)
        self.talk = Talk(bench.session(), self.server, cut)

    def runs_as(self, text: bytes) -> None:
        """Other rules."""
        self.bench.judge.generation += 1
        self.bench.judge.admit(SQL, plan(), to=text.decode())

    def prepare(self, name: bytes = b"s", *, describe: bool = True, types: tuple[int, ...] = ()) -> None:
        described = m.build_describe(b"S", name) if describe else b""
        got = self.talk.say(m.build_parse(name, SQL.encode(), types), described, m.SYNC)
        assert kinds(got) == ("1tTZ" if describe else "1Z")
        self.server.kinds()

    def run(self, name: bytes = b"s", portal: bytes = b"") -> bytes:
        return self.talk.say(bind(name, portal), m.build_execute(portal), m.SYNC)


def bind(name: bytes = b"s", portal: bytes = b"") -> bytes:
    return m.build_bind(portal, name, (), (b"1",))


def test_nothing_of_it_is_seen(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    before = scene.run()
    assert (kinds(before), b"old 1" in before) == ("2DDCZ", True)
    scene.server.kinds()
    scene.runs_as(NEW)
    got = scene.run()
    assert (kinds(got), b"new 1" in got) == ("2DDCZ", True)
    assert scene.server.kinds() == "CPDHBDES"
    assert scene.run() == got
    assert scene.server.kinds() == "BDES", "once"
    assert bench.observer.errors == []


def test_the_types_that_the_client_knows_stay(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    scene.runs_as(NEW)
    scene.run()
    assert [(p.name, p.text, p.types) for p in scene.server.parses[-1:]] == [(b"s", NEW, (23,))]
    scene.server.results[b"SELECT sealed"] = scene.server.results[NEW]
    bench.judge.generation += 1
    bench.judge.admit(SQL, plan(params=(SealParam(1, CARD),)), to="SELECT sealed")
    assert kinds(scene.talk.say(m.build_bind(b"", b"s", (), (b"4000",)), m.build_execute(b""), m.SYNC)) == "2DDCZ"
    assert scene.server.parses[-1].types == (25,)
    assert scene.server.binds[-1].values == (bench.seal(CARD, "4000").encode(),)


def test_what_nobody_has_described_is_not_waited_for(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare(describe=False, types=(20,))
    scene.runs_as(NEW)
    assert kinds(scene.run()) == "2DDCZ"
    assert scene.server.kinds() == "CPBDES"
    assert scene.server.parses[-1].types == (20,)


def test_the_unnamed_statement_and_a_describe_of_the_client_s(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    scene = Scene(bench, cut)
    scene.prepare(b"")
    scene.runs_as(NEW)
    got = scene.talk.say(
        m.build_describe(b"S", b""), bind(b""), m.build_describe(b"P", b""), m.build_execute(b""), m.SYNC
    )
    assert (kinds(got), b"new 2" in got) == ("tT2TDDCZ", True)


@pytest.mark.parametrize("other", [field(type_=25), field(b"tel"), field(typmod=-1), None])
def test_another_result_type_is_postgresql_s_own_error_until_it_is_undone(
    bench: Bench, cut: Callable[[bytes], list[bytes]], other: m.Field | None
) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    scene.server.results[NEW].fields = () if other is None else (other,)
    scene.runs_as(NEW)
    for _ in range(2):
        got = scene.run()
        fields = error_of(got)
        assert (kinds(got), fields.sqlstate, fields.get("M")) == (
            "EZ",
            "0A000",
            b"cached plan must not change result type",
        )
        assert (fields.get("F"), fields.get("R")) == (b"plancache.c", b"RevalidateCachedQuery")
        assert b"new" not in got
    # As on the server: prepared anew it is another statement, and what was undone never was.
    assert kinds(scene.talk.say(m.build_parse(b"t", SQL.encode()), m.SYNC)) == "1Z"
    scene.runs_as(OLD)
    assert b"old 1" in scene.run()


def test_rules_that_refuse(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    bench.judge.generation += 1
    bench.judge.table[SQL.encode()] = Refuse(Refusal(Reason.WITNESS, "42501", "no"))
    assert error_of(scene.run()).sqlstate == "42501"
    scene.runs_as(NEW)
    assert b"new 1" in scene.run()


def test_a_failed_transaction(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    scene.talk.say(m.build_query(b"BEGIN"))
    # The failure comes in the same batch, so nobody knows of it yet.
    scene.runs_as(NEW)
    scene.server.status = b"E"
    scene.server.kinds()
    got = scene.run()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "25P02")
    assert scene.server.kinds() == "CPHS"
    # Now it is known: the server's own answer, and nothing is made for it.
    scene.talk.say(m.build_query(b"ROLLBACK"))
    scene.server.kinds()
    got = scene.run()
    assert (kinds(got), b"new 1" in got) == ("2DDCZ", True)
    assert scene.server.kinds() == "CPDHBDES", "the server had lost it"


def test_a_transaction_that_is_known_to_have_failed_is_left_alone(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    scene.talk.say(m.build_query(b"BEGIN"))
    scene.talk.say(m.build_bind(b"", b"nothing"), m.SYNC)
    scene.runs_as(NEW)
    scene.server.kinds()
    scene.talk.say(bind(), m.SYNC)
    assert scene.server.kinds() == "BS"


def test_an_error_before_it_in_the_same_batch(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare(describe=False)
    scene.runs_as(NEW)
    got = scene.talk.say(m.build_bind(b"", b"nothing"), bind(), m.build_execute(b""), m.SYNC)
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "26000")
    assert b"new 1" in scene.run()
    assert scene.server.parses[-1].text == NEW


def test_an_open_portal_keeps_what_it_had(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    scene.prepare()
    scene.talk.say(m.build_query(b"BEGIN"))
    first = scene.talk.say(bind(b"s", b"p"), m.build_execute(b"p", 1), m.SYNC)
    assert (kinds(first), b"old 1" in first) == ("2DsZ", True)
    scene.runs_as(NEW)
    both = scene.talk.say(bind(b"s", b"q"), m.build_execute(b"q"), m.build_execute(b"p"), m.SYNC)
    assert (kinds(both), b"new 1" in both, b"old 2" in both) == ("2DDCDCZ", True, True)


def test_a_verdict_alone_sends_nothing(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut)
    card = Result((m.Field(b"card", 9, 3, 25, -1, -1, 0),), [(bench.seal(CARD, "4000001111222233").encode(),)])
    scene.server.results[SQL.encode()] = card
    bench.judge.sources[9, 3] = CARD.name
    bench.judge.admit(SQL, plan(opened(CARD)))
    scene.prepare()
    assert b"4000001111222233" in scene.run()
    scene.server.kinds()
    bench.judge.generation += 1
    bench.judge.admit(SQL, plan(opened(CARD, Verdict.MASKED)))
    got = scene.run()
    assert b"************2233" in got
    assert "P" not in scene.server.kinds()


@pytest.mark.parametrize("passed", [True, False])
def test_a_column_sealed_under_the_same_text(bench: Bench, cut: Callable[[bytes], list[bytes]], passed: bool) -> None:
    """The client is told the type that it knows; to the server the column has another, so it would never run what it has planned."""
    scene = Scene(bench, cut)
    text = "SELECT card FROM payments WHERE id = $1"
    plain, stored = m.Field(b"card", 9, 3, 1043, -1, 23, 0), m.Field(b"card", 9, 3, 25, -1, -1, 0)
    scene.server.results[text.encode()] = Result((plain,), [(b"4000001111222233",)], (23,))
    if not passed:
        bench.judge.admit(text, plan(ResultColumn()))
    for name in (b"s", b"t"):
        scene.talk.say(
            m.build_parse(name, text.encode()), m.build_describe(b"S", name) if name == b"s" else b"", m.SYNC
        )
    sealed = bench.seal(CARD, "4000001111222233").encode()
    scene.server.results[text.encode()] = Result((stored,), [(sealed,)], (23,))
    bench.judge.sources[9, 3] = CARD.name
    bench.judge.generation += 1
    bench.judge.admit(text, plan(opened(CARD)))
    for name in (b"s", b"t"):
        scene.server.kinds()
        got = scene.run(name)
        assert (kinds(got), b"4000001111222233" in got) == ("2DCZ", True)
        assert scene.server.kinds().startswith("CP")
        scene.run(name)
        assert "P" not in scene.server.kinds()


def test_any_order_of_rules_errors_and_uses(bench: Bench) -> None:
    """The property: whoever runs a statement gets it as the rules of its Bind have it, or the error that the server would give."""
    for seed in range(60):
        _random_conversation(Bench(), Random(seed))


def _random_conversation(bench: Bench, random: Random) -> None:
    def pieces(data: bytes) -> list[bytes]:
        cuts = sorted({0, len(data), *(random.randrange(len(data) + 1) for _ in range(random.randrange(6)))})
        return [data[a:b] for a, b in pairwise(cuts) if b > a]

    scene = Scene(bench, pieces)
    names = (b"a", b"b", b"")
    for name in names:
        scene.prepare(name, describe=random.random() < 0.5)
    word = b"old"
    for _ in range(40):
        match random.randrange(5):
            case 0:
                word = random.choice((b"old", b"new"))
                scene.runs_as(OLD if word == b"old" else NEW)
            case 1:
                used = [random.choice(names[:2]) for _ in range(random.randrange(1, 4))]
                got = scene.talk.say(*(bind(n) + m.build_execute(b"") for n in used), m.SYNC)
                assert kinds(got) == "2DDC" * len(used) + "Z"
                assert (b"old" in got, b"new" in got) == (word == b"old", word == b"new")
            case 2:
                got = scene.talk.say(m.build_bind(b"", b"nothing"), bind(random.choice(names)), m.SYNC)
                assert kinds(got) == "EZ"
            case 3:
                scene.talk.say(m.build_query(b"BEGIN"))
                scene.server.status = b"E"
                got = scene.talk.say(bind(random.choice(names[:2])), m.build_execute(b""), m.SYNC)
                assert kinds(got) in ("EZ", "2DDCZ"), "the scripted server refuses only a Parse"
                scene.talk.say(m.build_query(b"ROLLBACK"))
                scene.prepare(b"", describe=random.random() < 0.5)
            case _:
                name = random.choice(names[:2])
                assert kinds(scene.talk.say(m.build_close(b"S", name), m.SYNC)) == "3Z"
                scene.prepare(name, describe=random.random() < 0.5)
    assert scene.talk.session.closing is None
    assert scene.talk.session.at_rest


# -- another judge ------------------------------------------------------------------------------------------------------------------------

ITEM = "SELECT item FROM orders"
ITEMS = m.build_row_description((m.Field(b"item", 8, 2, 25, -1, -1, 0),))
ANSWER = ITEMS + m.build_data_row((b"tea",)) + m.build_command_complete(b"SELECT 1")


def _stricter() -> FakeJudge:
    """Newer rules, by which the item is protected and nobody may read it."""
    judge = FakeJudge()
    judge.generation = 100
    judge.sources[8, 2] = CARD.name
    judge.table[ITEM.encode()] = Refuse(Refusal(Reason.WITNESS, "42501", "no"))
    return judge


def _taken(session: Session) -> tuple[bytes, bytes]:
    client, server = b"".join(session.to_client), b"".join(session.to_server)
    session.to_client, session.to_server = [], []
    return client, server


def _begun(bench: Bench) -> Session:
    session = bench.session()
    session.server_received(READY)
    _taken(session)
    return session


@pytest.mark.parametrize("simple", [True, False])
def test_what_is_on_its_way_is_answered_under_the_rules_of_its_beginning(bench: Bench, simple: bool) -> None:
    session = _begun(bench)
    portal = m.build_parse(b"", ITEM.encode()) + m.build_bind(b"", b"") + m.build_describe(b"P", b"")
    text = m.build_query(ITEM.encode()) if simple else portal + m.build_execute(b"") + m.SYNC
    bound = b"" if simple else m.PARSE_COMPLETE + m.BIND_COMPLETE
    session.client_received(text)
    assert _taken(session)[1] == text
    session.judged_by(_stricter())
    # The next one waits until it is known how the first ended, and is judged by the newer rules.
    session.client_received(m.build_query(ITEM.encode()))
    assert _taken(session)[1] == b""
    for byte in bound + ANSWER:
        session.server_received(bytes((byte,)))
    assert _taken(session) == (bound + ANSWER, b"")
    session.server_received(READY)
    client, server = _taken(session)
    assert client == READY
    assert b"pgveil_refused" in server


def test_who_rests_takes_the_newer_rules_up_at_once(bench: Bench) -> None:
    session = _begun(bench)
    newer = _stricter()
    session.judged_by(newer)
    assert session.judges == {newer}
    busy = _begun(bench)
    busy.client_received(m.build_query(b"SELECT 1"))
    busy.judged_by(newer)
    assert busy.judges == {bench.judge}
    busy.server_received(m.build_command_complete(b"SELECT 0") + READY)
    assert busy.judges == {newer}
    late = _begun(bench)
    late.client_received(m.build_query(b"SELECT 1"))
    late.judged_by(newer, at_once=True)
    assert late.judges == {newer}


def test_the_rest_of_a_batch_is_judged_by_the_newer_rules(bench: Bench) -> None:
    session = _begun(bench)
    first = m.build_parse(b"", b"SELECT 1") + m.build_bind(b"", b"") + m.build_describe(b"P", b"")
    session.client_received(first)
    assert _taken(session)[1] == first
    session.judged_by(_stricter())
    session.client_received(m.build_parse(b"", ITEM.encode()) + m.SYNC)
    assert _taken(session)[1] == m.FLUSH
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + m.NO_DATA)
    assert b"pgveil_refused" in _taken(session)[1]


def test_a_portal_is_described_by_who_decided_on_it(bench: Bench) -> None:
    session = _begun(bench)
    session.client_received(m.build_query(b"BEGIN"))
    session.server_received(m.build_command_complete(b"BEGIN") + m.build_ready(b"T"))
    session.client_received(m.build_parse(b"", ITEM.encode()) + m.build_bind(b"p", b"") + m.SYNC)
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + m.build_ready(b"T"))
    newer = _stricter()
    session.judged_by(newer)
    assert session.judges == {newer, bench.judge}
    _taken(session)
    session.client_received(m.build_execute(b"p") + m.SYNC)
    assert _taken(session)[1] == m.build_describe(b"P", b"p") + m.build_execute(b"p") + m.SYNC
    session.server_received(ANSWER + m.build_ready(b"T"))
    assert b"tea" in _taken(session)[0]
    session.client_received(m.build_query(b"COMMIT"))
    session.server_received(m.build_command_complete(b"COMMIT") + READY)
    assert session.judges == {newer}


def test_a_cursor_is_described_by_who_decided_on_its_declare(bench: Bench) -> None:
    """Newer rules come between the Bind of a DECLARE and its Execute: what it declares is as the older ones decided."""
    declare = b"DECLARE c CURSOR FOR " + ITEM.encode()
    change = NameChange(NameUse.DECLARES, "c", Pass(), ITEM.encode())
    bench.judge.table[declare] = Pass(names=(change,))
    session = _begun(bench)
    session.client_received(m.build_query(b"BEGIN"))
    session.server_received(m.build_command_complete(b"BEGIN") + m.build_ready(b"T"))
    session.client_received(m.build_parse(b"", declare) + m.build_bind(b"", b"") + m.FLUSH)
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE)
    session.judged_by(_stricter())
    session.client_received(m.build_execute(b"") + m.SYNC)
    session.server_received(m.NO_DATA * _taken(session)[1].count(m.build_describe(b"P", b"")))
    session.server_received(m.build_command_complete(b"DECLARE CURSOR") + m.build_ready(b"T"))
    _taken(session)
    session.client_received(m.build_describe(b"P", b"c") + m.SYNC)
    session.server_received(ITEMS + m.build_ready(b"T"))
    assert _taken(session)[0] == ITEMS + m.build_ready(b"T")


def test_copy_data_waits_for_nobody(bench: Bench) -> None:
    session = _begun(bench)
    copy = m.build_query(b"COPY t FROM STDIN")
    session.client_received(copy)
    session.server_received(m.message(m.Back.COPY_IN, b"\0\0\1\0\0"))
    _taken(session)
    session.judged_by(_stricter())
    data = m.message(m.Front.COPY_DATA, b"x\n") + m.message(m.Front.COPY_DONE, b"")
    session.client_received(data)
    assert _taken(session)[1] == data


def test_tickets_in_a_text_are_made_anew_before_their_time_is_over(
    bench: Bench, cut: Callable[[bytes], list[bytes]]
) -> None:
    now = [1000.0]
    bench.codec._clock = lambda: now[0]
    scene = Scene(bench, cut)

    def vouched(text: bytes) -> None:
        bench.judge.admit(SQL, plan(), to=text.decode(), vouched=now[0])

    vouched(OLD)
    scene.prepare()
    assert b"old 1" in scene.run()
    vouched(NEW)
    now[0] += TICKET_SECONDS / 2 - 1
    scene.server.kinds()
    assert b"old 1" in scene.run()
    assert scene.server.kinds() == "BDES"
    now[0] += 2
    vouched(NEW)
    assert b"new 1" in scene.run()
    assert scene.server.kinds() == "CPDHBDES"
    assert b"new 1" in scene.run()
    assert scene.server.kinds() == "BDES", "once"
