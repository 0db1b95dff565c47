"""Search, tail and follow over several chains."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import query as query_module
from audit.event import (
    ColumnAccess,
    Event,
    LoggedOut,
    LoginFailed,
    LoginSucceeded,
    LogOpened,
    LogRestored,
    Refused,
    RulesLoaded,
    StatementEnded,
    StatementStarted,
)
from audit.log import AuditLog
from audit.query import Damage, Follower, Query, search
from audit.reading import lines, lines_backward
from audit.record import GENESIS, Body, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
ENCODER = msgspec.json.Encoder()

CARD = ColumnAccess("public.customers.card", "core", "masked", True, False)
PHONE = ColumnAccess("public.customers.phone", "important", "clear", True, True)


def who(login: str = "alice", connection: str = "c1", **more: Any) -> dict[str, Any]:
    return {
        "connection": connection,
        "login": login,
        "roles": ("clerk",),
        "policy_class": "abcdef012345",
        "database": "shop",
        "client": "10.0.0.1:51234",
        "application": "psql",
    } | more


def statement(number: int, login: str = "alice", connection: str = "c1", **more: Any) -> StatementStarted:
    fields: dict[str, Any] = {
        "action": "select",
        "statement": "SELECT card FROM customers WHERE id = $1",
        "tables": ("public.customers",),
        "columns": (CARD,),
        "lookup": False,
        "statement_id": number,
    }
    return StatementStarted(**who(login, connection), **(fields | more))


def ended(number: int, outcome: Any = "ok", connection: str = "c1", rows: int | None = 1) -> StatementEnded:
    return StatementEnded(connection, number, rows, 100, outcome, None)


def write(
    directory: Path, events: Sequence[Event], writer: str = "w", segment: int = 1, seq: int = 1, start: int = 0
) -> None:
    """A segment with these events, a second apart. The links between segments do not matter to a search."""
    home = directory / writer
    home.mkdir(parents=True, exist_ok=True)
    prev = GENESIS
    text = b""
    for number, event in enumerate(events):
        time = stamp(START + timedelta(seconds=start + number))
        line, prev = encode(Body(seq + number, time, writer, prev, event), ENCODER)
        text += line
    (home / f"{segment:08}.jsonl").write_bytes(text)


def seqs(directory: Path, query: Query) -> list[int]:
    return [f.record.body.seq for f in search(directory, query)]


HISTORY: tuple[Event, ...] = (
    LogOpened(1, 7),  # 1
    RulesLoaded("v1", "rules.yaml"),  # 2
    LoginSucceeded(**who()),  # 3
    LoginFailed("c9", "mallory", "shop", "192.0.2.1:1", "psql", "28P01"),  # 4
    statement(1),  # 5
    statement(1, "bob", "c2", columns=(PHONE,), action="update", statement="update customers set phone = $1"),  # 6
    Refused(
        **who(), reason="compute", sqlstate="42501", column="public.customers.card", statement="select sum(card)"
    ),  # 7
    ended(1, "error"),  # 8
    ended(1, "ok", "c2"),  # 9
    statement(2),  # 10
    LoggedOut("c1", "alice", 5),  # 11
)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    write(tmp_path, HISTORY)
    return tmp_path


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [1, 2, 3, 4, 5, 6, 7, 10, 11]),
        (Query(kinds=frozenset({"outcome"})), [8, 9]),
        (Query(kinds=frozenset({"outcome"}), outcomes=frozenset({"error"})), [8]),
        (Query(logins=frozenset({"alice"})), [3, 5, 7, 10, 11]),
        (Query(logins=frozenset({"bob", "mallory"})), [4, 6]),
        (Query(roles=frozenset({"clerk"})), [3, 5, 6, 7, 10]),
        (Query(roles=frozenset({"dba"})), []),
        (Query(tables=frozenset({"customers"})), [5, 6, 7, 10]),
        (Query(tables=frozenset({"public.customers"})), [5, 6, 7, 10]),
        (Query(tables=frozenset({"ustomers"})), []),
        (Query(columns=frozenset({"card"})), [5, 7, 10]),
        (Query(columns=frozenset({"customers.phone"})), [6]),
        (Query(levels=frozenset({"important"})), [6]),
        (Query(verdicts=frozenset({"masked"})), [5, 10]),
        (Query(verdicts=frozenset({"clear"}), levels=frozenset({"important"})), [6]),
        (Query(actions=frozenset({"update"})), [6]),
        (Query(kinds=frozenset({"refusal", "login_failed"})), [4, 7]),
        (Query(outcomes=frozenset({"error"})), [5]),
        (Query(outcomes=frozenset({"ok", "error"})), [5, 6]),
        (Query(reasons=frozenset({"compute"})), [7]),
        (Query(clients=frozenset({"192.0.2.1"})), [4]),
        (Query(clients=frozenset({"192.0.2.1:1"})), [4]),
        (Query(connections=frozenset({"c2"})), [6]),
        (Query(text="SET PHONE"), [6]),
        (Query(since=stamp(START + timedelta(seconds=9))), [10, 11]),
        (Query(until=stamp(START + timedelta(seconds=1))), [1, 2]),
        (Query(logins=frozenset({"alice"}), reasons=frozenset({"verdict"})), []),
    ],
)
def test_filters(history: Path, query: Query, expected: list[int]) -> None:
    assert seqs(history, query) == expected


def test_a_statement_comes_with_its_outcome(history: Path) -> None:
    found = {f.record.body.seq: f for f in search(history, Query())}
    assert found[5].outcome == ended(1, "error")
    assert found[6].outcome == ended(1, "ok", "c2")
    assert found[10].outcome is None
    plain = msgspec.json.decode(found[5].as_json())
    assert plain["outcome"]["outcome"] == "error"
    assert plain["hash"] == found[5].record.hash
    assert "outcome" not in msgspec.json.decode(found[7].as_json())


def test_a_suspended_statement_may_go_on(tmp_path: Path) -> None:
    write(tmp_path, [statement(1), ended(1, "suspended", rows=10), statement(2), ended(1, "ok", rows=20), ended(2)])
    found = list(search(tmp_path, Query()))
    assert [f.record.body.seq for f in found] == [1, 3]
    assert found[0].outcome == ended(1, "ok", rows=20)


def test_a_suspended_statement_may_not_go_on(tmp_path: Path) -> None:
    write(tmp_path, [statement(1), ended(1, "suspended")])
    assert [f.outcome for f in search(tmp_path, Query())] == [ended(1, "suspended")]


def test_outcomes_do_not_cross_connections_logouts_or_restarts(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            statement(1),
            ended(1, connection="c2"),
            LoggedOut("c1", "alice", 1),
            ended(1),
            statement(1, connection="c3"),
            LogOpened(1, 8),
            ended(1, connection="c3"),
        ],
    )
    write(tmp_path, [ended(1)], writer="v")
    query = Query(kinds=frozenset({"statement"}))
    assert [(f.record.body.seq, f.outcome) for f in search(tmp_path, query)] == [(1, None), (5, None)]


def test_the_same_number_twice_is_no_trouble(tmp_path: Path) -> None:
    write(tmp_path, [statement(1), statement(1), ended(1), LoggedOut("c1", "alice", 1), ended(1)])
    found = [f for f in search(tmp_path, Query()) if isinstance(f.record.body.event, StatementStarted)]
    assert [f.outcome for f in found] == [None, ended(1)]


def test_what_waits_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "MAX_HELD", 2)
    write(tmp_path, [statement(1), *(Refused(**who(), reason="r", sqlstate="42501", column=None, statement="")
                                     for _ in range(3)), ended(1), statement(2), ended(2)])  # fmt: skip
    found = list(search(tmp_path, Query()))
    assert [f.record.body.seq for f in found] == [1, 2, 3, 4, 6]
    assert found[0].outcome is None
    assert found[-1].outcome == ended(2)


def test_several_chains_in_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, [LoggedOut("c1", "a", n) for n in range(5)], writer="w0", start=0)
    write(tmp_path, [LoggedOut("c1", "b", n) for n in range(5)], writer="w1", start=2)
    times = [f.record.body.time for f in search(tmp_path, Query())]
    assert len(times) == 10
    assert all(one <= other for one, other in pairwise(times))


def test_what_stands_twice_is_found_once(tmp_path: Path) -> None:
    events: list[Event] = [LoggedOut("c", "a", n) for n in range(4)]
    write(tmp_path, events)
    write(tmp_path, [*events[2:], LogRestored(1, 3, "EIO", 0)], segment=2, seq=3, start=2)
    assert seqs(tmp_path, Query()) == [1, 2, 3, 4, 5]
    assert [r.body.seq for r in Follower(tmp_path).tail(10)] == [1, 2, 3, 4, 5]
    assert [r.body.seq for r in Follower(tmp_path).tail(3)] == [3, 4, 5]


def test_damaged_lines_are_passed_over_and_counted(history: Path) -> None:
    path = history / "w" / "00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"mallory"', b'"nobody!"') + b'{"seq":')
    damage = Damage()
    assert [f.record.body.seq for f in search(history, Query(), damage)] == [1, 2, 3, 5, 6, 7, 10, 11]
    assert damage.lines == 1
    follower = Follower(history)
    assert [r.body.seq for r in follower.tail(8)] == [3, 5, 6, 7, 8, 9, 10, 11]


async def test_following(tmp_path: Path) -> None:
    ticks = iter(range(1000))

    async def open_log(writer: str) -> AuditLog:
        return await AuditLog.open(
            tmp_path, writer=writer, clock=lambda: START + timedelta(seconds=next(ticks)), segment_bytes=900
        )

    log = await open_log("w0")
    for number in range(10):
        await log.wait_durable(log.append(LoggedOut("c", "a", number)))
    follower = Follower(tmp_path)
    assert [r.body.seq for r in follower.tail(3)] == [9, 10, 11]
    assert follower.poll() == []
    for number in range(10):
        await log.wait_durable(log.append(LoggedOut("c", "a", number)))
    assert [r.body.seq for r in follower.poll()] == list(range(12, 22))
    other = await open_log("w1")
    assert [(r.body.writer, r.body.seq) for r in follower.poll()] == [("w1", 1)]
    await other.close()
    await log.close()
    assert [(r.body.writer, r.body.seq) for r in follower.poll()] == [("w1", 2), ("w0", 22)]
    assert follower.poll() == []
    log = await open_log("w0")
    assert [(r.body.writer, r.body.seq) for r in follower.poll()] == [("w0", 23)]
    await log.close()


def test_following_waits_for_the_end_of_a_line(history: Path) -> None:
    path = history / "w" / "00000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    follower = Follower(history)
    assert [r.body.seq for r in follower.tail(2)] == [9, 10]
    assert follower.poll() == []
    path.write_bytes(whole)
    assert [r.body.seq for r in follower.poll()] == [11]
    assert follower.damage.lines == 0


def test_tail_of_nothing(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert follower.tail(5) == []
    assert follower.poll() == []
    write(tmp_path, [LoggedOut("c", "a", 1)])
    assert len(follower.poll()) == 1
    assert Follower(tmp_path).tail(0) == []
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        follower.poll()


def test_tail_over_segments(tmp_path: Path) -> None:
    for segment in range(1, 4):
        write(
            tmp_path,
            [LoggedOut("c", "a", n) for n in range(3)],
            segment=segment,
            seq=3 * segment - 2,
            start=9 * segment,
        )
    for count in range(12):
        expected = list(range(10))[max(1, 10 - count) :]
        assert [r.body.seq for r in Follower(tmp_path).tail(count)] == expected


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30), st.binary(max_size=5))
def test_lines_are_the_same_from_both_ends(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], end: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    end = end.replace(b"\n", b"")
    path.write_bytes(b"".join(part + b"\n" for part in parts) + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audit.reading._CHUNK_BYTES", 16)
        backward = [(line.offset, line.text) for line in lines_backward(path)]
    forward = list(lines(path))
    assert [line.number for line in forward] == list(range(1, len(forward) + 1))
    assert backward[::-1] == [(line.offset, line.text) for line in forward if line.complete]
    assert [line.text for line in forward if not line.complete] == ([end] if end else [])
