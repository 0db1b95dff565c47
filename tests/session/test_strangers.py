"""Descriptions that name a relation which the catalog does not know wait until it has been read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.session.strangers import _LONGEST, _REMEMBERED
from proxy.wire import messages as m
from rules.model import PolicyClass, Verdict

from .conftest import CARD, PHONE, Bench

if TYPE_CHECKING:
    from proxy.session.session import Session

NEW = 70001
READY, IN_BLOCK = m.build_ready(b"I"), m.build_ready(b"T")
ROW = m.message(m.Back.DATA_ROW, b"\0\1\0\0\0\1x")
DONE = m.build_command_complete(b"SELECT 1")
DESCRIBED = m.build_row_description((m.Field(b"p", NEW, 2, 25, -1, -1, 0),))
CLEAR = PolicyClass("c" * 12, {CARD.name: Verdict.CLEAR, PHONE.name: Verdict.CLEAR})
MASKED = PolicyClass("m" * 12, {CARD.name: Verdict.CLEAR, PHONE.name: Verdict.MASKED})


def _asked(bench: Bench, policy: PolicyClass, ready: bytes = READY) -> Session:
    """A session that has sent a query and got its answer, which names a stranger."""
    bench.judge.verdicts = policy
    bench.judge.strangers = frozenset({NEW})
    session = bench.session()
    session.server_received(ready)
    session.client_received(m.build_query(b"SELECT p FROM v"))
    session.to_client.clear()
    session.server_received(DESCRIBED + ROW + DONE + ready)
    assert session.catalog_stale
    assert session.to_client == [], "nothing passes before the catalog has been read"
    assert not session.wants_server
    return session


def test_what_the_catalog_knows_by_now_is_judged_by_it(bench: Bench) -> None:
    session = _asked(bench, MASKED)
    bench.judge.strangers = frozenset()
    bench.judge.sources[NEW, 2] = PHONE.name
    session.catalog_refreshed()
    sent = b"".join(session.to_client)
    assert b"42501" in sent
    assert ROW not in sent
    assert sent.endswith(READY)


def test_what_turns_out_harmless_passes(bench: Bench) -> None:
    session = _asked(bench, MASKED)
    bench.judge.strangers = frozenset()
    session.catalog_refreshed()
    assert b"".join(session.to_client) == DESCRIBED + ROW + DONE + READY


@pytest.mark.parametrize(
    ("policy", "ready", "exposed", "passes"),
    [
        (CLEAR, READY, False, True),
        (MASKED, READY, False, False),
        (MASKED, IN_BLOCK, False, True),
        (MASKED, IN_BLOCK, True, False),
    ],
)
def test_who_may_see_what_stays_unknown(
    bench: Bench, policy: PolicyClass, ready: bytes, exposed: bool, passes: bool
) -> None:
    bench.judge.exposed = exposed
    session = _asked(bench, policy, ready)
    session.catalog_refreshed()
    sent = b"".join(session.to_client)
    assert (ROW in sent) is passes
    assert (b"42501" in sent) is not passes


@pytest.mark.parametrize(("policy", "passes"), [(CLEAR, True), (MASKED, False)])
def test_a_catalog_that_cannot_be_read_releases_nothing_to_masked_roles(
    bench: Bench, policy: PolicyClass, passes: bool
) -> None:
    session = _asked(bench, policy, IN_BLOCK)
    session.catalog_unreachable()
    assert (ROW in b"".join(session.to_client)) is passes


def test_a_description_is_looked_at_once(bench: Bench) -> None:
    bench.judge.verdicts = MASKED
    session = bench.session()
    session.server_received(READY)
    for strangers in (frozenset[int](), frozenset({NEW})):
        bench.judge.strangers = strangers
        session.client_received(m.build_query(b"SELECT p FROM v"))
        session.server_received(DESCRIBED + ROW + DONE + READY)
    assert not session.catalog_stale, "under the same catalog it stays harmless"


def test_what_functions_say_is_withheld_where_privileges_hold_nobody(bench: Bench) -> None:
    bench.judge.exposed = True
    bench.judge.verdicts = MASKED
    session = bench.session()
    session.server_received(READY)
    session.client_received(m.build_query(b"UPDATE t SET a = 1"))
    session.to_client.clear()
    report = b"SERROR\0VERROR\0C%s\0M%s\0D%s\0%sHhint\0\0"
    notice = m.message(m.Back.NOTICE, report % (b"00000", b"the phone is 1", b"2", b"WPL/pgSQL function f\0"))
    error = m.message(m.Back.ERROR, report % (b"23514", b"new row violates", b"Failing row contains (3).", b""))
    session.server_received(notice + error + READY)
    sent = b"".join(session.to_client)
    assert b"new row violates" in sent
    assert b"23514" in sent
    for value in (b"the phone is 1", b"D2", b"Failing row", b"PL/pgSQL"):
        assert value not in sent
    assert sent.count(b"Withheld") == 2


def test_what_is_familiar_is_bounded(bench: Bench) -> None:
    """A session that makes up ever new results is told the same, and keeps no more of them."""
    session = bench.session()
    session.server_received(READY)
    strangers = session._backend._strangers

    def described(name: bytes) -> bytes:
        return m.build_row_description((m.Field(name, NEW, 2, 25, -1, -1, 0),))

    for number in range(_REMEMBERED + 1):
        assert len(strangers._familiar) <= _REMEMBERED
        assert not strangers.stop(described(b"c%d" % number))
    assert list(strangers._familiar) == [described(b"c%d" % _REMEMBERED)]
    assert not strangers.stop(described(b"c" * _LONGEST))
    assert len(strangers._familiar) == 1
