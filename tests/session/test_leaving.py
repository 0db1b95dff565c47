"""What a client has left behind is dropped, and what it does takes its turns (F8.7). Counted: what was still judged, computed and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.session.gate import Pass
from proxy.wire import messages as m

from .conversation import PROBED

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Decision, Settings
    from proxy.session.session import Session

    from .conftest import Bench

READY = m.build_ready(b"I")
TEXTS = [b"SELECT %d" % number for number in range(50)]


@pytest.fixture
def turns(bench: Bench) -> list[Callable[[], None]]:
    """What is to be called later; each text takes a 25th of a second to plan."""
    asked: list[Callable[[], None]] = []

    def slow(_sql: bytes, _settings: Settings) -> Decision:
        bench.time += 0.04
        return Pass()

    for text in TEXTS:
        bench.judge.table[text] = slow
    bench.later = asked.append
    return asked


@pytest.fixture
def session(bench: Bench, turns: list[Callable[[], None]]) -> Session:
    session = bench.session()
    session.server_received(READY)
    session._state.tracker.probed(PROBED, bench.judge)
    return session


def _judged(bench: Bench) -> int:
    return len({text for text, _ in bench.judge.asked})


def _batch(form: str) -> bytes:
    if form == "queries":
        return b"".join(m.build_query(text) for text in TEXTS)
    return b"".join(m.build_parse(b"", text) + m.build_bind(b"", b"") + m.build_execute(b"") for text in TEXTS) + m.SYNC


@pytest.mark.parametrize("form", ["queries", "one batch"])
def test_planning_for_a_client_that_left_goes_no_further(
    bench: Bench, session: Session, turns: list[Callable[[], None]], form: str
) -> None:
    session.client_received(_batch(form))
    begun = _judged(bench)
    assert 0 < begun < 5
    assert len(turns) == 1
    assert session.wants_client, "or its leaving would not be noticed"
    session.client_eof()
    turns.pop()()
    session.server_received(READY)
    assert _judged(bench) == begun
    assert not turns


@pytest.mark.parametrize("form", ["queries", "one batch"])
def test_who_stays_has_turn_after_turn(
    bench: Bench, session: Session, turns: list[Callable[[], None]], form: str
) -> None:
    batch = _batch(form)
    session.client_received(batch[:500])
    session.client_received(batch[500:])
    taken = 0
    while turns:
        assert len(turns) == 1, "one at a time"
        turns.pop()()
        taken += 1
    assert taken > 10
    assert _judged(bench) == len(TEXTS)
    assert b"".join(session.to_server).count(TEXTS[-1]) == 1
    assert not session._frontend.buffered


def test_no_more_is_read_than_a_little_while_it_waits_for_its_turn(
    session: Session, turns: list[Callable[[], None]]
) -> None:
    session.client_received(_batch("queries") + m.build_query(b"SELECT 1" + b" " * 70_000))
    assert not session.wants_client
    while turns:
        turns.pop()()
    assert session.wants_client


def test_small_texts_take_one_turn(bench: Bench, session: Session, turns: list[Callable[[], None]]) -> None:
    session.client_received(b"".join(m.build_query(b"SELECT 'x'") for _ in range(20)))
    assert not turns
    assert bench.time < 1


def test_a_client_that_leaves_is_noticed_whatever_it_waits_for(bench: Bench, session: Session) -> None:
    """Here: the catalog, which may not come for long."""
    session.client_received(m.build_query(b"CREATE TABLE a ()"))
    session.client_received(m.build_query(b"SELECT 'x'") * 3)
    session.server_received(m.build_command_complete(b"CREATE TABLE") + READY)
    assert session._frontend.waiting
    assert session.wants_client
    asked = len(bench.judge.asked)
    session.client_eof()
    session.catalog_refreshed()
    assert len(bench.judge.asked) == asked
