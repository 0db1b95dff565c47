"""A portal whose rows are taken in parts is one execution: one record, and one of its end with all rows counted (F6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from audit.event import StatementEnded
from proxy.wire import messages as m
from rules.plan import Action

from .conftest import CARD, Bench, opened, plan
from .conversation import PROBED

if TYPE_CHECKING:
    from proxy.session.session import Session

ROWS = "SELECT card FROM customers"
WRITE = "UPDATE customers SET card = card RETURNING card"
BLOCK, READY = m.build_ready(b"T"), m.build_ready(b"I")
DESCRIBED = m.build_row_description((m.Field(b"card", 16500, 2, 25, -1, -1, 0),))
ROW = m.message(m.Back.DATA_ROW, b"\0\1\xff\xff\xff\xff")


@pytest.fixture
def session(bench: Bench) -> Session:
    bench.judge.sources[16500, 2] = CARD.name
    bench.judge.admit(ROWS, plan(opened(CARD)))
    bench.judge.admit(WRITE, plan(opened(CARD), action=Action.UPDATE, writes=True))
    session = bench.session()
    session.server_received(BLOCK)
    session._state.tracker.probed(PROBED, bench.judge)
    return session


def _bound(session: Session, text: str = ROWS, portal: bytes = b"c") -> None:
    session.client_received(
        m.build_parse(b"", text.encode()) + m.build_bind(portal, b"") + m.build_describe(b"P", portal)
    )
    session.client_received(m.SYNC)
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + DESCRIBED + BLOCK)


def _execute(session: Session, rows: int, end: bytes, portal: bytes = b"c", ready: bytes = BLOCK) -> None:
    session.client_received(m.build_execute(portal, 1) + m.SYNC)
    session.server_received(ROW * rows + end)
    session.server_received(ready)


def _ends(bench: Bench) -> list[tuple[str, int | None]]:
    return [(e.outcome, e.rows) for e in bench.recorder.events if isinstance(e, StatementEnded)]


def test_four_rows_one_by_one_are_one_record_and_one_end(bench: Bench, session: Session) -> None:
    _bound(session)
    for _ in range(4):
        _execute(session, 1, m.PORTAL_SUSPENDED)
    assert bench.recorder.kinds() == ["StatementStarted"]
    _execute(session, 0, m.build_command_complete(b"SELECT 0"))
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert _ends(bench) == [("ok", 4)]


def test_what_a_write_returns_in_parts_is_counted_by_its_tag(bench: Bench, session: Session) -> None:
    _bound(session, WRITE)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    _execute(session, 1, m.build_command_complete(b"UPDATE 2"))
    assert _ends(bench) == [("ok", 2)]
    assert bench.recorder.kinds().count("StatementStarted") == 1


def test_a_portal_that_is_closed_ends_its_execution(bench: Bench, session: Session) -> None:
    _bound(session)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    session.client_received(m.build_close(b"P", b"c") + m.SYNC)
    assert _ends(bench) == [("suspended", 2)]


def test_the_unnamed_portal_bound_anew_ends_its_execution(bench: Bench, session: Session) -> None:
    _bound(session, portal=b"")
    _execute(session, 1, m.PORTAL_SUSPENDED, b"")
    _bound(session, portal=b"")
    _execute(session, 0, m.build_command_complete(b"SELECT 0"), b"")
    assert _ends(bench) == [("suspended", 1), ("ok", 0)] or _ends(bench) == [("suspended", 1), ("ok", None)]
    assert bench.recorder.kinds().count("StatementStarted") == 2


def test_the_end_of_the_transaction_ends_it(bench: Bench, session: Session) -> None:
    _bound(session)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    session.client_received(m.build_query(b"COMMIT"))
    session.server_received(m.build_command_complete(b"COMMIT") + READY)
    assert _ends(bench) == [("suspended", 1)]


def test_an_error_and_the_end_of_the_connection_end_it_once(bench: Bench, session: Session) -> None:
    _bound(session)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    error = m.build_error(
        m.ErrorFields(((ord("S"), b"ERROR"), (ord("C"), b"57014"), (ord("M"), b"canceled"))), m.Back.ERROR
    )
    _execute(session, 0, error, ready=m.build_ready(b"E"))
    assert _ends(bench) == [("cancelled", 1)]
    session.client_eof()
    assert _ends(bench) == [("cancelled", 1)]


def test_a_client_that_leaves_ends_it(bench: Bench, session: Session) -> None:
    _bound(session)
    _execute(session, 1, m.PORTAL_SUSPENDED)
    session.client_eof()
    assert _ends(bench) == [("disconnected", 1)]


# -- Several Executes of one portal in one batch: the first is not answered when the others are sent.


def _pipelined(session: Session, executes: int, *behind: bytes, text: str = ROWS, portal: bytes = b"c") -> None:
    session.client_received(
        m.build_parse(b"", text.encode())
        + m.build_bind(portal, b"")
        + m.build_describe(b"P", portal)
        + m.build_execute(portal, 1) * executes
        + b"".join(behind)
    )
    session.client_received(m.SYNC)
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + DESCRIBED)


def _taken(session: Session) -> bytes:
    taken, session.to_client = b"".join(session.to_client), []
    return taken


def test_executes_of_one_batch_are_one_execution(bench: Bench, session: Session) -> None:
    _pipelined(session, 5)
    session.server_received((ROW + m.PORTAL_SUSPENDED) * 4 + m.build_command_complete(b"SELECT 0") + READY)
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert _ends(bench) == [("ok", 4)]


def test_a_batch_that_leaves_rows_and_one_that_goes_on(bench: Bench, session: Session) -> None:
    _pipelined(session, 2)
    session.server_received((ROW + m.PORTAL_SUSPENDED) * 2 + BLOCK)
    session.client_received(m.build_execute(b"c", 1) * 2 + m.SYNC)
    assert bench.recorder.kinds() == ["StatementStarted"]
    session.server_received(ROW + m.PORTAL_SUSPENDED + m.build_command_complete(b"SELECT 0") + BLOCK)
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    assert _ends(bench) == [("ok", 3)]


def test_what_comes_after_the_last_row_is_an_execution_of_its_own(bench: Bench, session: Session) -> None:
    """As where it is sent when the end is known: a cursor may have been moved back."""
    _pipelined(session, 3)
    end = m.build_command_complete(b"SELECT 1")
    session.server_received(ROW + end + ROW + m.PORTAL_SUSPENDED + m.build_command_complete(b"SELECT 0") + READY)
    assert _ends(bench) == [("ok", 1), ("ok", 1)]
    assert bench.recorder.kinds().count("StatementStarted") == 2


def test_an_execution_of_its_own_waits_for_its_record(bench: Bench, session: Session) -> None:
    _pipelined(session, 2)
    end = m.build_command_complete(b"SELECT 1")
    bench.recorder.prompt = False
    session.server_received(ROW + end + ROW + end)
    assert _taken(session).count(end) == 1
    session.audit_durable(bench.recorder.flush())
    assert _taken(session).count(end) == 1


def test_a_portal_closed_behind_its_executes_ends_with_their_rows(bench: Bench, session: Session) -> None:
    _pipelined(session, 2, m.build_close(b"P", b"c"))
    session.server_received((ROW + m.PORTAL_SUSPENDED) * 2 + m.CLOSE_COMPLETE + BLOCK)
    assert _ends(bench) == [("suspended", 2)]
    assert not session._state.recorded


def test_the_unnamed_portal_bound_anew_in_the_same_batch(bench: Bench, session: Session) -> None:
    again = m.build_bind(b"", b"") + m.build_execute(b"", 1)
    _pipelined(session, 2, again, portal=b"")
    session.server_received((ROW + m.PORTAL_SUSPENDED) * 2 + m.BIND_COMPLETE)
    session.server_received(DESCRIBED + ROW + m.build_command_complete(b"SELECT 1") + READY)
    assert _ends(bench) == [("suspended", 2), ("ok", 1)]
    assert bench.recorder.kinds().count("StatementStarted") == 2


def test_an_error_in_the_batch_ends_it_once(bench: Bench, session: Session) -> None:
    _pipelined(session, 4)
    error = m.build_error(m.ErrorFields(((ord("S"), b"ERROR"), (ord("C"), b"22012"), (ord("M"), b"x"))), m.Back.ERROR)
    session.server_received(ROW + m.PORTAL_SUSPENDED + error + m.build_ready(b"E"))
    assert _ends(bench) == [("error", 1)]


def test_what_a_write_returns_to_several_executes(bench: Bench, session: Session) -> None:
    _pipelined(session, 3, text=WRITE)
    session.server_received((ROW + m.PORTAL_SUSPENDED) * 2 + m.build_command_complete(b"UPDATE 2") + READY)
    assert _ends(bench) == [("ok", 2)]
    assert bench.recorder.kinds().count("StatementStarted") == 1
