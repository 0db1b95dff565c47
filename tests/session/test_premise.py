"""What may use a view or a function that somebody has replaced runs by a catalog that has been looked at since it came, and its answer passes by one
that has been looked at since that came."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.session.gate import Pass, Refuse
from proxy.wire import messages as m
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from proxy.session.session import Session

    from .conftest import Bench

READY = m.build_ready(b"I")
ROW = m.message(m.Back.DATA_ROW, b"\0\1\0\0\0\1x")
DONE = m.build_command_complete(b"SELECT 1")
DESCRIBED = m.build_row_description((m.Field(b"f", 0, 0, 25, -1, -1, 0),))
ANSWER = DESCRIBED + ROW + DONE + READY
SQL = b"SELECT f(1)"
QUERY = m.build_query(SQL)
FORBIDDEN = Refuse(Refusal(Reason.WITNESS, "42501", "it reads what it may not"))
PREPARED = m.build_parse(b"s", SQL)
RUN = m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC
BOUND = m.message(m.Back.BIND_COMPLETE, b"")


def _session(bench: Bench) -> Session:
    bench.judge.table[SQL] = Pass(unshown=True)
    session = bench.session()
    session.server_received(READY)
    session.to_client.clear()
    return session


def _sent(session: Session) -> bytes:
    data = b"".join(session.to_server)
    session.to_server = []
    return data


def _got(session: Session) -> bytes:
    data = b"".join(session.to_client)
    session.to_client = []
    return data


def _running(bench: Bench) -> Session:
    """A session whose query has been sent."""
    session = _session(bench)
    session.client_received(QUERY)
    session.catalog_refreshed()
    assert _sent(session) == QUERY
    return session


def test_nothing_runs_before_the_catalog_has_been_looked_at(bench: Bench) -> None:
    session = _session(bench)
    session.client_received(QUERY)
    assert session.catalog_stale
    assert _sent(session) == b""
    session.catalog_refreshed()
    assert _sent(session) == QUERY


def test_what_has_become_forbidden_does_not_run(bench: Bench) -> None:
    session = _session(bench)
    session.client_received(QUERY)
    bench.judge.table[SQL] = FORBIDDEN
    bench.judge.generation += 1
    session.catalog_refreshed()
    assert QUERY not in _sent(session)


def test_no_byte_passes_before_the_catalog_has_been_looked_at_again(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(ANSWER)
    assert session.catalog_stale
    assert _got(session) == b""
    assert not session.wants_server
    session.catalog_refreshed()
    assert _got(session) == ANSWER
    assert session.wants_server


def test_each_part_of_an_answer_is_looked_at(bench: Bench) -> None:
    session = _running(bench)
    for part in (DESCRIBED + ROW, ROW[:3], ROW[3:] + DONE, READY):
        session.server_received(part)
        asked = session.outdated
        assert session.catalog_stale
        assert _got(session) == b""
        session.catalog_refreshed()
        assert session.outdated == asked
        _got(session)
    assert not session.catalog_stale


def test_a_look_that_began_before_the_bytes_came_is_none(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(DESCRIBED)
    before = session.outdated
    session.server_received(ROW)
    assert session.outdated > before, "whoever reads the catalog has to begin again"


def test_a_text_that_is_decided_otherwise_meanwhile_gives_nothing(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(ANSWER)
    bench.judge.table[SQL] = FORBIDDEN
    bench.judge.generation += 1
    session.catalog_refreshed()
    got = _got(session)
    assert ROW not in got
    assert b"42501" in got
    assert got.endswith(READY)


def test_its_error_is_none_of_the_clients_either(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(
        m.build_error(m.ErrorFields(((ord("C"), b"P0001"), (ord("M"), b"the value"))), m.Back.ERROR)
    )
    assert _got(session) == b""
    bench.judge.table[SQL] = FORBIDDEN
    bench.judge.generation += 1
    session.catalog_refreshed()
    session.server_received(READY)
    got = _got(session)
    assert b"the value" not in got
    assert b"42501" in got


def test_another_change_of_the_catalog_is_none_of_its_business(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(ANSWER)
    bench.judge.generation += 1
    session.catalog_refreshed()
    assert _got(session) == ANSWER


def test_a_catalog_that_can_not_be_read(bench: Bench) -> None:
    session = _running(bench)
    session.server_received(ANSWER)
    session.catalog_unreachable()
    got = _got(session)
    assert ROW not in got
    assert b"08006" in got

    session = _session(bench)
    session.client_received(QUERY)
    session.catalog_unreachable()
    assert QUERY not in _sent(session)


def test_a_prepared_statement_is_looked_at_when_it_is_bound_and_when_it_answers(bench: Bench) -> None:
    session = _session(bench)
    session.client_received(PREPARED + m.SYNC)
    assert session.outdated == 0, "nothing runs yet"
    session.server_received(m.message(m.Back.PARSE_COMPLETE, b"") + READY)
    _sent(session), _got(session)
    session.client_received(RUN)
    assert session.outdated == 1
    assert _sent(session) == b""
    session.catalog_refreshed()
    assert m.build_execute(b"") in _sent(session)
    session.server_received(BOUND + DESCRIBED + ROW + DONE + READY)
    assert session.catalog_stale
    assert ROW not in _got(session)
    session.catalog_refreshed()
    assert ROW + DONE + READY in _got(session)


@pytest.mark.parametrize("becomes", [FORBIDDEN, Pass(unshown=True)], ids=["forbidden", "the same"])
def test_a_prepared_statement_under_another_catalog(bench: Bench, becomes: Pass | Refuse) -> None:
    session = _session(bench)
    session.client_received(PREPARED + m.SYNC)
    session.server_received(m.message(m.Back.PARSE_COMPLETE, b"") + READY)
    session.client_received(RUN)
    session.catalog_refreshed()
    session.server_received(BOUND + DESCRIBED + ROW + DONE + READY)
    _got(session)
    bench.judge.table[SQL] = becomes
    bench.judge.generation += 1
    session.catalog_refreshed()
    assert (ROW in _got(session)) is isinstance(becomes, Pass)


def test_what_uses_nothing_of_the_kind_waits_for_nobody(bench: Bench) -> None:
    session = _session(bench)
    bench.judge.table[SQL] = replace(Pass(), unshown=False)
    session.client_received(QUERY)
    session.server_received(ANSWER)
    assert _got(session) == ANSWER
    assert session.outdated == 0


def test_where_it_ends_the_connection_nothing_of_it_passes(bench: Bench) -> None:
    """Other statements of the batch may have been committed: no error of one statement can tell that."""
    session = _session(bench)
    session.client_received(PREPARED + m.SYNC)
    session.server_received(m.message(m.Back.PARSE_COMPLETE, b"") + READY)
    session.client_received(RUN[: -len(m.SYNC)] + m.build_bind(b"q", b"s") + m.build_execute(b"q") + m.SYNC)
    while session.catalog_stale:
        session.catalog_refreshed()
    _got(session)
    session.server_received((BOUND + DESCRIBED + ROW + DONE) * 2 + READY)
    bench.judge.table[SQL] = FORBIDDEN
    bench.judge.generation += 1
    session.catalog_refreshed()
    assert session.closing is not None
    assert b"FATAL" in b"".join(session.to_client)
    assert ROW not in _got(session)
