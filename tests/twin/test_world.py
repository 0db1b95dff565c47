"""The twin test itself: that it sees sameness, refusals, differences and canaries where there are some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.twin.answers import Answer, Described
from tests.twin.canaries import Canaries
from tests.twin.compare import Step, Verdict, differences, is_ordered
from tests.twin.tally import Tally
from tests.twin.world import CLEAR, MASKED

if TYPE_CHECKING:
    from tests.twin.world import World

FIELD = Described("a", 0, 0, 25, -1, -1, 0)


@pytest.mark.parametrize("role", [CLEAR, MASKED])
def test_sealed_and_masked_columns_come_out_the_same(shop_world: World, role: str) -> None:
    outcome = shop_world.compare("SELECT c.name, k.pan FROM customers c, cards k ORDER BY c.id, k.id", role=role)
    assert outcome.verdict is Verdict.SAME, outcome
    assert not outcome.canaries


def test_parameters_travel_in_both_forms(shop_world: World) -> None:
    outcome = shop_world.compare("SELECT id, credit FROM cards WHERE credit = $1 ORDER BY id", ["1500"])
    assert outcome.verdict is Verdict.SAME, outcome


def test_a_refusal_has_its_reason(shop_world: World) -> None:
    outcome = shop_world.compare("SELECT cvv FROM cards", role=MASKED)
    assert (outcome.verdict, outcome.reason) == (Verdict.REFUSED, "verdict")


def test_errors_are_compared_too(shop_world: World) -> None:
    outcome = shop_world.compare("SELECT nothing FROM cards")
    assert outcome.verdict is Verdict.SAME
    assert outcome.failed


def test_writing_is_rolled_back_and_compared(shop_world: World) -> None:
    steps = [Step("UPDATE cards SET pan = '1' WHERE id = 27"), Step("SELECT pan FROM cards WHERE id = 27")]
    assert [o.verdict for o in shop_world.compare_block(steps)] == [Verdict.SAME, Verdict.SAME]
    assert shop_world.compare("SELECT pan FROM cards WHERE pan = '6011000066662707'").verdict is Verdict.SAME


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (Answer("SELECT 1", None, (FIELD,), ((b"x",),)), Answer("SELECT 1", None, (FIELD,), ((b"y",),)), "rows"),
        (
            Answer("SELECT 2", None, (FIELD,), ((b"x",), (b"y",))),
            Answer("SELECT 2", None, (FIELD,), ((b"y",), (b"x",))),
            "order",
        ),
        (Answer("SELECT 0", None, (FIELD,)), Answer("SELECT 0", None, (FIELD._replace(type=1043),)), "type of a"),
        (Answer("SELECT 0", None, (FIELD,)), Answer("SELECT 0", None, (FIELD._replace(name="b"),)), "columns"),
        (Answer("UPDATE 1"), Answer("UPDATE 2"), "tag"),
        (Answer("UPDATE 1"), Answer(error={"sqlstate": "42601", "message": "m"}), "42601"),
        (
            Answer(error={"sqlstate": "22012", "message": "m"}),
            Answer(error={"sqlstate": "22012", "message": "n"}),
            "message",
        ),
    ],
)
def test_a_difference_is_found(a: Answer, b: Answer, words: str) -> None:
    assert not differences([a], [a], ordered=True)
    found = differences([a], [b], ordered=True)
    assert found
    assert words in found[0]


def test_a_canary_is_found_unless_the_client_sent_it() -> None:
    canaries = Canaries(frozenset({b"4929000011112101"}))
    assert canaries.seen(b"x4929000011112101y", b"select 1") == ("4929000011112101",)
    assert canaries.seen(b"x4929000011112101y", b"select '4929000011112101'") == ()
    binary = Canaries(frozenset({b"\x00\x01\x02\x03"}), {b"\x00\x01\x02\x03": b"-120.30"})
    assert binary.seen(b"\x00\x01\x02\x03", b"select (-120.30)") == ()
    assert binary.seen(b"\x00\x01\x02\x03", b"select 1")


def test_the_canaries_would_be_seen(shop_world: World) -> None:
    """The clear role's traffic holds them."""
    before = len(shop_world.tap.sent.get("twin_clear", b""))
    shop_world.compare("SELECT pan FROM cards")
    received = bytes(shop_world.tap.sent["twin_clear"][before:])
    assert len(shop_world.canaries[MASKED].seen(received, b"")) == 7


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("select 1 order by 1", True),
        ("select * from (select 1 order by 1) s", False),
        ("select 'order by'", False),
        ("with a as (select 1) select * from a order by 1", True),
        ("select sum(x) over (order by y) from t", False),
        ("insert into t select 1 order by 1", False),
    ],
)
def test_order_is_wanted_where_the_query_itself_asks(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


def test_a_tally_counts_by_role_and_reason(shop_world: World) -> None:
    tally = Tally()
    tally.add(shop_world.compare("SELECT 1"))
    tally.add(shop_world.compare("SELECT cvv FROM cards", role=MASKED))
    assert tally.ok
    report = tally.report("corpus")
    assert "clear    statements run 1, identical 1, refused 0 (0.0%)" in report
    assert "masked   statements run 1, identical 0, refused 1 (100.0%): verdict 1" in report
    assert "different 0, canaries seen 0" in report
