"""Names that SQL gives, between real clients and a real server: what the books hold, and what becomes of it when rules or names change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.session.gate import Admit, Decision, NameChange, NeedNames, OffsetMap, Pass
from rules.model import Verdict
from rules.named import NameUse
from rules.plan import Reason

from .conftest import CARD, FakeJudge, Shop, opened, plan
from .test_session_server import RawClient

if TYPE_CHECKING:
    from proxy.session.gate import Names, Settings
    from rules.model import Principal

CARDS = "SELECT card FROM customers ORDER BY id"
FIRST, SECOND = "6222021234567890123", "4000001111222233"


class NamingJudge(FakeJudge):
    """Knows DECLARE and PREPARE of one statement, FETCH, EXECUTE and CLOSE. `verdict`: under which the card is shown."""

    verdict = Verdict.CLEAR

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        words = sql.decode().split()
        inner = Admit(b"", OffsetMap(), (plan(opened(CARD, self.verdict)),), "cards", self.generation)
        match [w.upper() for w in words[:1]]:
            case ["DECLARE"]:
                change = NameChange(NameUse.DECLARES, words[1], inner, sql, hold="HOLD" in words)
                return Admit(sql, OffsetMap(), (plan(),), "declare", self.generation, names=(change,))
            case ["PREPARE"]:
                change = NameChange(NameUse.PREPARES, words[1], inner, sql)
                return Admit(sql, OffsetMap(), (None,), "prepare", self.generation, names=(change,))
            case ["CLOSE"]:
                return Pass(names=(NameChange(NameUse.CLOSES, words[1]),))
            case ["FETCH" | "EXECUTE" as word]:
                wanted = frozenset(words[-1:])
                if names is None:
                    here = (frozenset(), wanted) if word == "FETCH" else (wanted, frozenset())
                    return NeedNames(*here, Pass(by_name=True))
                known = (names.cursors if word == "FETCH" else names.prepared).get(words[-1])
                if known is None or known.plan is None:
                    return Pass(by_name=True)
                return Admit(sql, OffsetMap(), (known.plan,), "by name", self.generation, by_name=True)
        return super().decide(sql, principal, settings, extended=extended)


@pytest.fixture
def naming(shop: Shop) -> Shop:
    shop.bench.judge.__class__ = NamingJudge
    return shop


def _fetch(connection: psycopg.Connection[Any], sql: str) -> list[Any]:
    return [row[0] for row in connection.execute(sql).fetchall()]


@pytest.mark.parametrize("prepare", [False, True])
def test_a_cursor_is_fetched_under_its_plan(naming: Shop, prepare: bool) -> None:
    with naming.connect(autocommit=False) as c:
        c.execute(f"DECLARE k CURSOR FOR {CARDS}", prepare=prepare)
        assert c.execute("FETCH k", prepare=prepare).fetchall() == [(FIRST,)]
        assert c.execute("FETCH k", prepare=prepare).fetchall() == [(SECOND,)]
        c.execute("CLOSE k")
        with pytest.raises(psycopg.errors.InvalidCursorName):
            c.execute("FETCH k", prepare=prepare)


def test_what_failed_made_no_name(naming: Shop) -> None:
    with naming.connect() as c:
        with pytest.raises(psycopg.errors.NoActiveSqlTransaction):
            c.execute(f"DECLARE k CURSOR FOR {CARDS}")
        state = naming.bench.sessions[-1]._state
        assert [p.name for p in state.portals if p.statement is not None and p.statement.made] == []
        c.execute(f"PREPARE s AS {CARDS}")
        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            c.execute("PREPARE s AS SELECT card, id FROM customers")
        held = state.statements.get(b"s")
        assert held is not None
        assert held.text == f"PREPARE s AS {CARDS}".encode()
        assert _fetch(c, "EXECUTE s")[:2] == [FIRST, SECOND]


def test_only_held_cursors_outlive_their_transaction(naming: Shop) -> None:
    with naming.connect() as c:
        with c.transaction():
            c.execute(f"DECLARE k CURSOR FOR {CARDS}")
            c.execute(f"DECLARE h CURSOR WITH HOLD FOR {CARDS}")
        state = naming.bench.sessions[-1]._state
        assert [p.name for p in state.portals] == [b"h"]
        assert _fetch(c, "FETCH h") == [FIRST]


def test_rules_that_change_between_declare_and_fetch(naming: Shop) -> None:
    judge = naming.bench.judge
    assert isinstance(judge, NamingJudge)
    with naming.connect() as c:
        c.execute(f"DECLARE k CURSOR WITH HOLD FOR {CARDS}")
        c.execute(f"PREPARE s AS {CARDS}")
        judge.generation = 2
        assert _fetch(c, "FETCH k") == [FIRST]
        assert _fetch(c, "EXECUTE s")[0] == FIRST
        judge.generation, judge.verdict = 3, Verdict.MASKED
        assert _fetch(c, "FETCH k") == [SECOND], "an open cursor keeps what it had"
        assert _fetch(c, "EXECUTE s")[:2] == ["***************0123", "************2233"], "made again (ADR 0029)"


def test_a_portal_of_sql_is_executed_by_the_protocol(naming: Shop) -> None:
    raw = RawClient(naming)
    raw.send(("Q", b"BEGIN\0"))
    raw.until_ready()
    raw.send(("Q", f"DECLARE k CURSOR FOR {CARDS}\0".encode()))
    raw.until_ready()
    raw.send(("D", b"Pk\0"), ("E", b"k\0\0\0\0\1"), ("S", b""))
    assert raw.until_ready() == "TDsZ"
    assert FIRST.encode() in raw.rows[0]
    raw.close()


def test_what_a_bound_fetch_means_may_not_change_under_it(naming: Shop) -> None:
    raw = RawClient(naming)
    raw.send(("Q", b"BEGIN\0"))
    raw.until_ready()
    raw.send(("Q", f"DECLARE k CURSOR FOR {CARDS}\0".encode()))
    raw.until_ready()
    raw.send(
        ("P", b"\0FETCH k\0\0\0"),
        ("B", b"p\0\0\0\0\0\0\0\0"),
        ("P", b"close\0CLOSE k\0\0\0"),
        ("B", b"\0close\0\0\0\0\0\0\0"),
        ("E", b"\0\0\0\0\0"),
        ("E", b"p\0\0\0\0\0"),
        ("S", b""),
    )
    assert raw.until_ready() == "1212CEZ"
    assert raw.rows == []
    assert Reason.UNSUPPORTED in naming.bench.observer.reasons
    raw.close()


def test_the_books_have_a_limit(naming: Shop) -> None:
    naming.bench.limits = type(naming.bench.limits)(portals=2, statements=2)
    with naming.connect(autocommit=False) as c:
        for name in ("a", "b"):
            c.execute(f"DECLARE {name} CURSOR FOR {CARDS}")
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            c.execute(f"DECLARE d CURSOR FOR {CARDS}")
        c.rollback()
        for name in ("a", "b"):
            c.execute(f"PREPARE {name} AS {CARDS}")
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            c.execute(f"PREPARE d AS {CARDS}")
