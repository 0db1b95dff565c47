"""Errors and notices that can quote rows wait for a record of what they may show, and are scrubbed where nothing can be recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire import messages as m
from rules.model import Level, TableName, Verdict
from rules.plan import Action, Plan, Touched

from .conftest import CARD, PHONE, TABLE, Bench
from .conversation import PROBED

if TYPE_CHECKING:
    from proxy.session.session import Session

READY = m.build_ready(b"I")
VALUE = b"13853580247"
WHOLE_ROW = {
    "S": b"ERROR",
    "V": b"ERROR",
    "C": b"23502",
    "M": b'null value in column "branch_id" of relation "customers" violates not-null constraint',
    "D": b"Failing row contains (7, null, Li Na, " + VALUE + b").",
    "s": b"public",
    "t": b"customers",
    "c": b"branch_id",
}
QUOTED = {"S": b"ERROR", "V": b"ERROR", "C": b"22P02", "M": b'invalid input syntax for type integer: "' + VALUE + b'"'}
RAISED = {
    "S": b"NOTICE",
    "V": b"NOTICE",
    "C": b"00000",
    "M": b"row of " + VALUE,
    "W": b"PL/pgSQL function public.keep() line 1 at RAISE",
}
BOTH = Plan(
    Action.OTHER,
    (TABLE,),
    (
        Touched(CARD.name, Level.CORE, Verdict.CLEAR, read=True, written=False),
        Touched(PHONE.name, Level.IMPORTANT, Verdict.CLEAR, read=True, written=False),
    ),
)


def report(fields: dict[str, bytes], kind: int = m.Back.ERROR) -> bytes:
    return m.build_error(m.ErrorFields(tuple((ord(code), text) for code, text in fields.items())), kind)


def _asked(bench: Bench, text: str = "UPDATE customers SET branch_id = NULL") -> Session:
    bench.recorder.prompt = False
    session = bench.session()
    session.server_received(READY)
    session.client_received(m.build_query(text.encode()))
    session.to_client.clear()
    return session


@pytest.mark.parametrize("fields", [WHOLE_ROW, QUOTED], ids=["the row that fails", "a value in the message"])
def test_an_error_that_can_quote_a_row_waits_for_its_record(bench: Bench, fields: dict[str, bytes]) -> None:
    bench.judge.reports = (BOTH, False)
    session = _asked(bench)
    session.server_received(report(fields) + READY)
    assert session.to_client == [], "not before the record is durable"
    assert not session.wants_server
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]
    session.audit_durable(bench.recorder.flush())
    assert b"".join(session.to_client) == report(fields) + READY


def test_the_relation_tells_what_could_be_quoted(bench: Bench) -> None:
    session = _asked(bench)
    session.server_received(report(WHOLE_ROW))
    session.server_received(report({**WHOLE_ROW, "W": b"SQL function f"}))
    session.server_received(report({**WHOLE_ROW, "C": b"23503"}))
    assert bench.judge.reported == [(TableName("public", "customers"), None), (None, b"SQL function f"), (None, None)]


def test_a_notice_waits_as_well_and_the_next_one_of_the_statement_no_more(bench: Bench) -> None:
    bench.judge.reports = (BOTH, False)
    session = _asked(bench, "SELECT 1")
    notice = report(RAISED, m.Back.NOTICE)
    session.server_received(notice)
    assert session.to_client == []
    session.audit_durable(bench.recorder.flush())
    session.server_received(notice * 2)
    assert b"".join(session.to_client) == notice * 3
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]


def test_what_the_statement_s_own_record_says_is_not_recorded_twice(bench: Bench) -> None:
    bench.judge.reports = (BOTH, False)
    bench.judge.admit("DO 'x'", BOTH)
    bench.recorder.prompt = True
    session = bench.session()
    session.server_received(READY)
    session._state.tracker.probed(PROBED, bench.judge)
    session.client_received(m.build_query(b"DO 'x'"))
    session.to_client.clear()
    session.server_received(report(RAISED, m.Back.NOTICE))
    assert b"".join(session.to_client) == report(RAISED, m.Back.NOTICE)
    assert bench.recorder.kinds() == ["StatementStarted"]


def test_without_an_audit_log_nothing_of_it_passes(bench: Bench) -> None:
    bench.judge.reports = (BOTH, False)
    session = _asked(bench)
    bench.recorder.down = True
    session.server_received(report(WHOLE_ROW) + READY)
    sent = b"".join(session.to_client)
    assert VALUE not in sent
    assert b"23502" in sent
    assert sent.endswith(READY)


def test_a_record_that_is_given_up_lets_nothing_pass(bench: Bench) -> None:
    bench.judge.reports = (BOTH, False)
    session = _asked(bench)
    session.server_received(report(WHOLE_ROW) + READY)
    session.audit_failed()
    sent = b"".join(session.to_client)
    assert VALUE not in sent
    assert sent.endswith(READY)


@pytest.mark.parametrize("routine", [b"aclcheck_error", b"aclcheck_error_col", b"exec_stmt_raise", b""])
def test_a_privilege_that_is_wanting_is_named_inside_a_function_too(bench: Bench, routine: bytes) -> None:
    """The server's own words name a table; the text that it quotes beside them may hold values, and RAISE may say anything under that SQLSTATE."""
    bench.judge.reports = (None, True)
    session = _asked(bench, "DO 'x'")
    said = {"S": b"ERROR", "C": b"42501", "M": b"permission denied for table customers"}
    inside = {"W": b"SQL statement \"update customers set phone = '" + VALUE + b"'\"", "q": VALUE, "R": routine}
    session.server_received(report({**said, **inside}) + READY)
    sent = b"".join(session.to_client)
    assert VALUE not in sent
    assert (b"permission denied for table customers" in sent) is routine.startswith(b"aclcheck")
    assert (b"withheld the message" in sent) is not routine.startswith(b"aclcheck")


def test_words_that_the_login_must_not_see_are_withheld(bench: Bench) -> None:
    bench.judge.reports = (None, True)
    session = _asked(bench)
    session.server_received(report(RAISED, m.Back.NOTICE))
    sent = b"".join(session.to_client)
    assert sent
    assert VALUE not in sent


@pytest.mark.parametrize(
    "fields",
    [
        {"S": b"ERROR", "C": b"42P01", "M": b'relation "x" does not exist'},
        {"S": b"ERROR", "C": b"2BP01", "M": b"cannot drop", "D": b"view v depends on table t"},
        {"S": b"ERROR", "C": b"40P01", "M": b"deadlock detected", "D": b"Process 1 waits"},
        {"S": b"NOTICE", "C": b"42P07", "M": b'relation "x" already exists, skipping'},
    ],
)
def test_what_quotes_nothing_passes_at_once(bench: Bench, fields: dict[str, bytes]) -> None:
    bench.judge.reports = (BOTH, False)
    session = _asked(bench)
    session.server_received(report(fields))
    assert b"".join(session.to_client) == report(fields)
    assert bench.recorder.kinds() == []


def test_the_payload_of_a_notification_is_kept_from_who_may_not_see_it(bench: Bench) -> None:
    session = bench.session()
    session.server_received(m.build_ready(b"I"))
    told = m.build_notification(7, b"changes", b'{"phone": "13800001234"}')
    for hushed in (False, True):
        session.to_client = []
        bench.judge.hushed = {session._state.identity.login} if hushed else set()
        session.server_received(told)
        expected = m.build_notification(7, b"changes", b"") if hushed else told
        assert b"".join(session.to_client) == expected
