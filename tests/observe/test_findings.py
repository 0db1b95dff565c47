"""What is said of a statement: its shape, what would become of it, and never a constant of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.observe.findings import MAX_SHAPE, Finding, Outcome, Place, as_pass, compact, finding
from proxy.observe.tally import Book, BookError, Tally, count_by_outcome, decode, merged
from proxy.session.gate import Admit, NeedSettings, Pass, Refuse
from rules.plan import Reason, Refusal
from tests.proxy.golden import SETTINGS, gate, statements

GATE = gate()
COMPUTING = gate()
COMPUTING.computes = True
PLACE = Place(GATE.protection.catalog, "r1", GATE.names | {"public"})
CANARY = "canary7311canary"


def judged(sql: str, login: str = "teller", *, extended: bool = False, computes: bool = False) -> Finding:
    judge = COMPUTING if computes else GATE
    principal = judge.principal(login)
    decision = judge.decide(sql.encode(), principal, SETTINGS, extended=extended)
    return finding(decision, principal, judge, PLACE, shape=judge.shape(sql.encode(), SETTINGS))


@pytest.mark.parametrize(
    ("sql", "login", "outcome", "effects"),
    [
        ("select 1", "agent", Outcome.PASSES, ()),
        ("select phone from customers", "teller", Outcome.RECORDED, ()),
        ("select phone from customers", "agent", Outcome.CHANGED, ("masks public.customers.phone",)),
        ("select id_number from customers", "teller", Outcome.CHANGED, ("opens public.customers.id_number",)),
        ("select id_number from customers", "agent", Outcome.CHANGED, ("opens and masks public.customers.id_number",)),
        ("select id from cards where pan = '1'", "teller", Outcome.CHANGED, ("seals constants for public.cards.pan",)),
        ("select id from cards where pan = $1", "teller", Outcome.CHANGED, ("seals parameters for public.cards.pan",)),
        ("select id from cards where pan = '1'", "agent", Outcome.REFUSED, ()),
        (
            "copy (select pan from cards) to stdout",
            "teller",
            Outcome.CHANGED,
            ("opens public.cards.pan",),
        ),
        ("copy cards (pan) from stdin", "teller", Outcome.CHANGED, ("seals values of public.cards.pan",)),
        *(
            (
                f"select id from customers where {condition}",
                "agent",
                Outcome.BY_MASK,
                ("finds by masks of public.customers.phone only", "masks public.customers.phone"),
            )
            for condition in (
                "lower(phone) = 'x'",
                "phone like 'Anna%'",
                "exists (select from cards where kind = phone)",
                "id in (select id from visits) and (phone > '1' or id = 1)",
            )
        ),
        (
            "select id from customers where phone is not null",
            "agent",
            Outcome.CHANGED,
            ("masks public.customers.phone",),
        ),
        ("select upper(phone) from customers", "agent", Outcome.CHANGED, ("masks public.customers.phone",)),
        ("select id from customers where phone like '1%'", "teller", Outcome.RECORDED, ()),
    ],
)
def test_outcomes(sql: str, login: str, outcome: Outcome, effects: tuple[str, ...]) -> None:
    found = judged(sql, login)
    assert (found.outcome, found.effects) == (outcome, effects)


@pytest.mark.parametrize(
    ("sql", "login", "effects"),
    [
        (
            "select upper(pan) from cards where id = 7",
            "teller",
            ("opens public.cards.pan", "computes on opened values"),
        ),
        (
            "select count(*) from cards where pan like '4929%'",
            "agent",
            ("opens and masks public.cards.pan", "computes on masks of public.cards.pan", "computes on opened values"),
        ),
        (
            "update cards set credit = credit + 1 where id = 7",
            "teller",
            ("seals parameters for public.cards.credit", "computes values before they are written"),
        ),
    ],
)
def test_what_is_computed_says_what_is_fetched(sql: str, login: str, effects: tuple[str, ...]) -> None:
    found = judged(sql, login, computes=True)
    assert found.outcome is Outcome.COMPUTED
    assert set(effects) <= set(found.effects)
    (fetched,) = [effect for effect in found.effects if effect.startswith("fetches ")]
    assert "from" in fetched.lower()
    assert "7" not in fetched
    assert judged(sql, login).outcome is Outcome.REFUSED


def test_a_refusal_brings_its_words() -> None:
    found = judged("select cvv from cards where cvv = 'x'")
    assert (found.reason, found.sqlstate, found.label) == ("randomized", "0AP01", "randomized")
    assert 'column "public.cards.cvv"' in str(found.message)
    assert found.hint is not None


def test_no_constant_is_in_a_finding() -> None:
    """The golden statements with every constant a canary, in each place where one can stand."""
    texts = [
        f"select '{CANARY}' from cards where pan = '{CANARY}' order by pan",
        f'select id from customers where name = "{CANARY}"',
        f'select pan as "{CANARY}" from cards order by pan',
        f"select $${CANARY}$$, E'{CANARY}', U&'{CANARY}' from cards where pan > '{CANARY}'",
        f"insert into cards (pan) values (upper('{CANARY}'))",
        f"update cards set credit = '{CANARY}'",
        f"-- {CANARY}\nselect /* {CANARY} */ pan from cards order by pan",
        f"select pan from cards where '{CANARY}",
        f'select "{CANARY}"."pan" from cards as "{CANARY}" order by 1',
        f'select "{CANARY}"(pan) from cards',
        f"do $$ begin perform '{CANARY}' from cards; end $$",
        f"create user x password '{CANARY}'; select pan from cards order by pan",
        *statements(),
    ]
    for sql in texts:
        for login in ("teller", "agent", "owner"):
            found = judged(sql, login)
            assert CANARY not in repr(found), (sql, found)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("a in ( 's' , 's' , 0 )", "a in ( 's' , ... )"),
        ("a in ( $1 , $2 )", "a in ( $1 , ... )"),
        ("a = any ( array [ 0 , - 0 ] )", "a = any ( array [ 0 , ... ] )"),
        ("insert into t values ( 0 , 's' ) , ( 0 , 's' ) , ( 0 , 's' )", "insert into t values ( 0 , 's' ) , ..."),
        ("f ( 0 , 's' )", "f ( 0 , 's' )"),
        ("a in ( b , 's' )", "a in ( b , 's' )"),
    ],
)
def test_long_lists_are_one_shape(shape: str, expected: str) -> None:
    assert compact(shape) == expected


def test_shapes_are_bounded() -> None:
    assert len(compact("a" * (MAX_SHAPE + 9))) == MAX_SHAPE


def test_what_a_session_runs_instead() -> None:
    refusal = Refusal(Reason.ORDERING, "0AP01", "no")
    assert as_pass(Refuse(refusal, unsettles=False, ddl=False, statements=1)) == Pass(statements=1)
    # Of a text that nobody understood the worst is assumed.
    assert as_pass(Refuse(refusal)) == Pass(unsettles=True, ddl=True, statements=2)
    principal = GATE.principal("teller")
    admitted = GATE.decide(b"select pan from cards; select 1", principal, SETTINGS, extended=False)
    assert isinstance(admitted, Admit)
    assert as_pass(admitted) == Pass(statements=2)


def test_unknown_settings_are_a_finding_too() -> None:
    found = finding(NeedSettings(), GATE.principal("teller"), GATE, PLACE)
    assert (found.outcome, found.reason) == (Outcome.REFUSED, "settings")


class TestTally:
    A = judged("select pan from cards order by pan")
    B = judged("select pan from cards where pan > 'a'")

    def test_counts_and_times(self) -> None:
        tally = Tally(10)
        for when in ("2026-01-02", "2026-01-01", "2026-01-03"):
            tally.add(self.A, 2, when, 5)
        tally.add(self.B, 0, "2026-01-01")
        tally.add_passed(3)
        first, second = tally.book().kept
        assert (first.finding, first.seen.count, first.seen.first, first.seen.last) == (
            self.A,
            6,
            "2026-01-01",
            "2026-01-03",
        )
        assert second.seen.count == 0
        counts = count_by_outcome(tally.book())
        assert (counts[Outcome.REFUSED], counts[Outcome.PASSES]) == (6, 3)

    def test_what_is_beyond_the_bound_is_counted(self) -> None:
        tally = Tally(1)
        tally.add(self.A, 1, None)
        tally.add(self.B, 7, None)
        tally.add(self.A, 1, None)
        book = tally.book()
        assert ([k.finding for k in book.kept], book.dropped) == ([self.A], {"refused": 7})
        assert count_by_outcome(book)[Outcome.REFUSED] == 9

    def test_a_file_is_what_was_counted(self) -> None:
        tally = Tally(10)
        tally.add(self.A, 2, "2026-01-01")
        assert tally.changed
        assert decode(tally.encoded()) == tally.book()
        assert not tally.changed

    def test_several_workers(self) -> None:
        one, other = Tally(10), Tally(10)
        one.add(self.A, 2, "2026-01-02")
        other.add(self.A, 3, "2026-01-01")
        other.add(self.B, 1, "2026-01-05")
        whole = merged((one.book(), other.book()))
        assert [(k.finding, k.seen.count, k.seen.first, k.seen.last) for k in whole.kept] == [
            (self.A, 5, "2026-01-01", "2026-01-02"),
            (self.B, 1, "2026-01-05", "2026-01-05"),
        ]

    @given(st.binary(max_size=100))
    @settings(max_examples=50)
    def test_other_files_are_refused(self, content: bytes) -> None:
        with pytest.raises(BookError):
            decode(content)

    def test_outcomes_that_there_are_not_are_refused(self) -> None:
        with pytest.raises(BookError, match="outcomes"):
            decode(msgspec.json.encode(Book(1, (), dropped={"burnt": 1})))

    def test_another_format_is_refused(self) -> None:
        with pytest.raises(BookError, match="format 2"):
            decode(msgspec.json.encode(Book(2, ())))
