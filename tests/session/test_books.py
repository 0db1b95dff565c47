"""The small parts: books of statements and portals, settings, replies, the description cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.gate import OffsetMap, Pass, Settings
from proxy.session.localtext import LocalText
from proxy.session.prepared import ComputeCache, Prepared
from proxy.session.replies import deallocated, server_report
from proxy.session.settings import Probe, SettingsTracker
from proxy.session.statements import Book, Portal, PreparedStatement
from proxy.session.witness import DescriptionCache, Shown
from proxy.wire import messages as m

from .conftest import CARD, PLAIN, Bench, FakeJudge, opened, plan
from .conversation import PROBED

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


def statement(name: bytes = b"s") -> PreparedStatement:
    return PreparedStatement(name, b"SELECT 1", (), Pass(), Settings(), 1)


def test_changes_are_taken_back_in_reverse() -> None:
    book: Book[PreparedStatement] = Book()
    first, second = statement(), statement()
    book.put(b"s", first)
    undo_put = book.put(b"s", second)
    undo_remove = book.remove(b"s")
    assert undo_put is not None
    assert undo_remove is not None
    assert (len(book), book.cost) == (0, 0)
    undo_remove()
    assert book.get(b"s") is second
    undo_put()
    assert book.get(b"s") is first
    assert book.cost == first.cost
    assert book.put(b"s", first) is None
    assert book.remove(b"none") is None
    book.keep(())
    assert (len(book), book.cost) == (0, 0)


def test_what_came_later_stays_when_a_change_is_taken_back() -> None:
    """A batch that fails while the next one has been sent: the name stands for what that one made of it."""
    first, second, third, fourth = (statement() for _ in range(4))
    book: Book[PreparedStatement] = Book()
    book.put(b"s", first)
    undo_second, undo_third = book.put(b"s", second), book.put(b"s", third)
    undo_fourth = book.put(b"s", fourth)
    assert undo_second is not None
    assert undo_third is not None
    assert undo_fourth is not None
    undo_third()
    undo_second()
    assert book.get(b"s") is fourth
    undo_fourth()
    assert book.get(b"s") is first
    undo_removed, undo_again = book.remove(b"s"), book.put(b"s", second)
    assert undo_removed is not None
    assert undo_again is not None
    undo_removed()
    assert book.get(b"s") is second
    undo_again()
    assert book.get(b"s") is first


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12), st.randoms())
def test_any_batches_may_fail_in_turn(changes: list[tuple[int, bool]], chance: Random) -> None:
    """Names as a list of what was sent says, without those that were taken back."""
    book: Book[PreparedStatement] = Book()
    sent: list[tuple[bytes, PreparedStatement | None, Callable[[], None] | None]] = []
    for number, removes in changes:
        name = b"%d" % number
        if removes:
            sent.append((name, None, book.remove(name)))
        else:
            made = statement(name)
            sent.append((name, made, book.put(name, made)))
    failed = sorted(chance.sample(range(len(sent)), chance.randint(0, len(sent))), reverse=True)
    for index in failed:
        undo = sent[index][2]
        if undo is not None:
            undo()
    stands: dict[bytes, PreparedStatement | None] = {}
    for index, (name, record, undo) in enumerate(sent):
        if index not in failed and undo is not None:
            stands[name] = record
    assert {s.name: s for s in book} == {name: record for name, record in stands.items() if record is not None}


def test_what_a_portal_shows() -> None:
    shown = Shown(b"T", (0, 1), ())
    made = statement()
    portal = Portal(b"", made, (1,))
    assert not portal.verified
    portal.agree(shown)
    assert Portal(b"x", made).verified
    assert Portal(b"x", made).shown is shown
    portal.doubt()
    assert not portal.verified
    assert portal.shown is None
    assert [portal.format_of(i) for i in range(3)] == [1, 1, 1]
    assert Portal(b"", made).format_of(2) == 0
    assert Portal(b"", made, (0, 1)).format_of(1) == 1


_FORMS = (b"German, DMY", b"UTC", b"iso_8601", PROBED[-1])


def test_settings_come_and_go() -> None:
    tracker, judge = SettingsTracker(), FakeJudge()
    tracker.parameter(b"standard_conforming_strings", b"off")
    tracker.parameter(b"client_encoding", b"LATIN1")
    tracker.parameter(b"TimeZone", b"Asia/Tokyo")
    assert tracker.settings == Settings(standard_conforming_strings=False, client_encoding="LATIN1")
    assert tracker.output.timezone == "Asia/Tokyo"
    assert tracker.probed((b"on", b"UTF8", b'["a","b"]', b"me", b"escape", b"0", b"[]", *_FORMS), judge)
    assert tracker.settings == Settings(search_path=("a", "b"), database_role="me")
    assert (tracker.output.bytea_output, tracker.output.extra_float_digits) == ("escape", 0)
    assert (tracker.output.date_style, tracker.output.interval_style) == ("German, DMY", "iso_8601")
    assert dict(tracker.output.others)["xmloption"] == "content"
    known = [tracker.known]
    tracker.unsettle()
    assert [*known, tracker.known, tracker.doubt] == [True, False, True]
    tracker.ready(b"T", quiet=False)
    doubts = [tracker.doubt]
    tracker.ready(b"T", quiet=True)
    assert [*doubts, tracker.doubt] == [True, False]
    tracker.probed((b"on", b"UTF8", b'["a"]', b"me", b"hex", b"1", b"[]", *_FORMS), judge)
    tracker.ready(b"I", quiet=True)
    assert not tracker.known
    tracker.probed((b"on", b"UTF8", b'["a"]', b"me", b"hex", b"1", b"[]", *_FORMS), judge)
    tracker.parameter(b"search_path", b"b")
    assert not tracker.known


def test_temporary_relations_that_bear_a_protected_name() -> None:
    tracker, judge = SettingsTracker(), FakeJudge()
    row = (b"on", b"UTF8", b'["pg_temp_3","a"]', b"me", b"hex", b"1", b'["customers","mine"]', *_FORMS)
    assert tracker.probed(row, judge)
    assert tracker.settings.temporary == {"customers"}
    tracker.judged_by(judge.generation)
    assert tracker.known
    tracker.judged_by(judge.generation + 1)
    assert [tracker.known, tracker.lost, tracker.settings.temporary] == [False, True, frozenset()]
    assert tracker.probed((*row[:6], b"[]", *_FORMS), judge)
    assert [tracker.lost, tracker.settings.temporary] == [False, frozenset()]
    tracker.judged_by(judge.generation + 1)
    assert tracker.known


@pytest.mark.parametrize(
    "row",
    [
        (),
        (b"on", b"UTF8", None, b"me", b"hex", b"1", b"[]", *_FORMS),
        (b"on", b"UTF8", b"{", b"me", b"hex", b"1", b"[]", *_FORMS),
        (b"on", b"UTF8", b"{}", b"me", b"hex", b"1", b"[]", *_FORMS),
        (b"on", b"UTF8", b"[1]", b"me", b"hex", b"1", b"[]", *_FORMS),
        (b"on", b"UTF8", b"[]", b"me", b"hex", b"x", b"[]", *_FORMS),
        (b"on", b"UTF8", b"[]", b"me", b"hex", b"1", b"[1]", *_FORMS),
        (b"on", b"UTF8", b"[]", b"me", b"hex", b"1", json.dumps(["t"] * 10_001).encode(), *_FORMS),
        (b"on", b"UTF8", b"[]", b"me", b"hex", b"1", b"[]"),
        (b"on", b"UTF8", b"[]", b"me", b"hex", b"1", b"[]", *_FORMS[:3], b'["C"]'),
    ],
)
def test_answers_that_are_none(row: tuple[bytes | None, ...]) -> None:
    tracker = SettingsTracker()
    assert not tracker.probed(row, FakeJudge())
    assert not tracker.known


def test_a_probe_ends() -> None:
    probe = Probe(2)
    probe.answered()
    finished = [probe.finished]
    probe.answered()
    assert [*finished, probe.finished] == [False, True]
    dropped = Probe(2)
    dropped.drop()
    assert dropped.finished


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"DEALLOCATE x", b"x"),
        (b" deallocate prepare Foo ;", b"foo"),
        (b'DEALLOCATE "A""b"', b'A"b'),
        (b"DEALLOCATE a; PREPARE a AS SELECT 1", None),
        (b"DEALLOCATE /* */ a", None),
        (b"SELECT 1", None),
    ],
)
def test_deallocated(text: bytes, name: bytes | None) -> None:
    assert deallocated(text) == name


def test_reports_without_secrets_are_not_rebuilt() -> None:
    raw = m.message(m.Back.ERROR, b"SERROR\0C42601\0Mno\0P30\0\0")
    assert server_report(raw, OffsetMap())[0] is raw
    moved, fields = server_report(raw, OffsetMap(((4, 10, 4, 2),)))
    assert m.parse_error(moved[5:]).get("P") == b"22"
    assert fields.get("P") == b"30"


def test_the_cache_is_bounded_and_keeps_plans_apart(bench: Bench) -> None:
    bench.judge.sources = {(9, 1): CARD.name}
    cache = DescriptionCache(size=2)
    principal = bench.judge.principal("x")
    raw = m.build_row_description((m.Field(b"a", 9, 1, 25, -1, -1, 0),))
    planned = plan(opened(CARD))
    found = cache.find(bench.judge, principal, planned, raw, bench.codec.logical_type)
    assert isinstance(found, Shown)
    assert cache.find(bench.judge, principal, planned, raw, bench.codec.logical_type) is found
    for other in (None, plan(PLAIN)):
        assert not isinstance(cache.find(bench.judge, principal, other, raw, bench.codec.logical_type), Shown)
    assert len(cache._entries) == 2


def test_long_descriptions_are_looked_at_each_time(bench: Bench) -> None:
    raw = m.build_row_description((m.Field(b"a", 9, 1, 25, -1, -1, 0),))
    cache = DescriptionCache(longest=len(raw) - 1)
    first, second = (
        cache.find(bench.judge, bench.judge.principal("x"), None, raw, bench.codec.logical_type) for _ in range(2)
    )
    assert first == second
    assert first is not second
    assert not cache._entries


def test_computed_statements_are_bounded() -> None:
    cache = ComputeCache(size=2, longest=10)

    def learnt(text: bytes) -> Prepared:
        return Prepared(LocalText(text, OffsetMap(), 0, ()), (), (), frozenset(), frozenset(), ())

    for number in range(3):
        cache.keep(number, learnt(b"SELECT 1"))
        cache.spell((number, -1), "text")
    assert [cache.find(number) is not None for number in range(3)] == [False, True, True]
    assert [cache.spelling((number, -1)) for number in range(3)] == [None, "text", "text"]
    cache.keep("long", learnt(b"SELECT 12345"))
    assert cache.find("long") is None
    assert cache.find(2) is not None, "nothing went for it"
