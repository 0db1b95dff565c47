"""Scripted conversations: bytes in, bytes out, the same however the streams are cut."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session.gate import Instead, NeedSettings, OffsetMap, Pass, Refuse, ServerCheck
from proxy.session.limits import SessionLimits
from proxy.session.settings import _MOST_TEMPORARY, PROBE_TEXT
from proxy.wire import messages as m
from rules.copy_format import CopyPlan
from rules.model import Verdict
from rules.plan import Action, Reason, Refusal, SealParam

from .conftest import BORN, CARD, PHONE, PLAIN, Bench, opened, plan
from .conversation import PROBED

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Settings
    from proxy.session.session import Session

OID = 5000
READY = m.build_ready(b"I")
IN_BLOCK = m.build_ready(b"T")
FAILED = m.build_ready(b"E")
NO_FUNCTION = b"SERROR\0VERROR\0C42883\0Mfunction pg_catalog.pgveil_refused() does not exist\0P8\0\0"
SERVER_REFUSES = m.message(m.Back.ERROR, NO_FUNCTION)
REFUSED_QUERY = m.build_query(b"SELECT pg_catalog.pgveil_refused()")
REFUSED_PARSE = m.build_parse(b"pgveil_none", b"SELECT pg_catalog.pgveil_refused()")
SELECT = "SELECT id, card FROM customers"

Steps = list[tuple[str, bytes]]


def server_error(code: bytes, message: bytes = b"no") -> bytes:
    return m.message(m.Back.ERROR, b"SERROR\0VERROR\0C" + code + b"\0M" + message + b"\0\0")


def description(*columns: tuple[bytes, int, int]) -> bytes:
    return m.build_row_description(tuple(m.Field(n, OID if a else 0, a, t, -1, -1, 0) for n, a, t in columns))


DESCRIBED = description((b"id", 1, 23), (b"card", 3, 25))


def tag(text: bytes) -> bytes:
    return m.build_command_complete(text)


def shop(bench: Bench) -> None:
    """What the judge knows in every script."""
    bench.judge.sources = {(OID, 3): CARD.name, (OID, 4): BORN.name, (OID, 7): PHONE.name}
    bench.judge.admit(SELECT, plan(PLAIN, opened(CARD)))
    bench.judge.admit("SELECT masked", plan(PLAIN, opened(CARD, Verdict.MASKED)))
    bench.judge.admit(
        "INSERT", plan(params=(SealParam(1, CARD),), writes=True, action=Action.INSERT), to="INSERT edited"
    )
    refusal = Refusal(Reason.VERDICT, "42501", "not yours", column=CARD.name)
    bench.judge.table[b"SELECT forbidden"] = Refuse(refusal, "s", 3)


def play(bench: Bench, steps: Steps, cut: Callable[[bytes], list[bytes]]) -> tuple[bytes, bytes, Session]:
    """Feed the steps, each cut by `cut`; what went to the client and to the server."""
    session = bench.session()
    for who, data in steps:
        for piece in cut(data):
            if who == "C":
                session.client_received(piece)
            else:
                session.server_received(piece)
    return b"".join(session.to_client), b"".join(session.to_server), session


def whole(data: bytes) -> list[bytes]:
    return [data]


def single(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def rows(bench: Bench, *cards: str | None) -> bytes:
    made = b""
    for number, card in enumerate(cards):
        sealed = None if card is None else bench.seal(CARD, card).encode()
        made += m.build_data_row((str(number).encode(), sealed))
    return made


def plain_rows(*cards: str | None) -> bytes:
    return b"".join(m.build_data_row((str(n).encode(), None if c is None else c.encode())) for n, c in enumerate(cards))


def opened_description(bench: Bench) -> bytes:
    fields = m.parse_row_description(DESCRIBED[5:])
    return m.build_row_description((fields[0], fields[1]._replace(type=1043, size=-1, typmod=23)))


def script_simple(bench: Bench) -> tuple[Steps, bytes, bytes]:
    start = m.build_parameter_status(b"client_encoding", b"UTF8") + m.build_backend_key(1, b"1234") + READY
    sealed = rows(bench, "4000", None, "12")
    return (
        [
            ("S", start),
            ("C", m.build_query(b"SELECT 1")),
            ("S", description((b"a", 0, 23)) + m.build_data_row((b"1",)) + tag(b"SELECT 1") + READY),
            ("C", m.build_query(SELECT.encode())),
            ("S", settings_answer(b"public") + READY),
            ("S", DESCRIBED + sealed + tag(b"SELECT 3") + READY),
        ],
        start
        + description((b"a", 0, 23))
        + m.build_data_row((b"1",))
        + tag(b"SELECT 1")
        + READY
        + opened_description(bench)
        + plain_rows("4000", None, "12")
        + tag(b"SELECT 3")
        + READY,
        m.build_query(b"SELECT 1") + probe() + m.SYNC + m.build_query(SELECT.encode()),
    )


def probe() -> bytes:
    return (
        m.build_close(b"S", b"pgveil_probe")
        + m.build_parse(b"pgveil_probe", PROBE_TEXT)
        + m.build_bind(b"pgveil_probe", b"pgveil_probe")
        + m.build_execute(b"pgveil_probe")
        + m.build_close(b"P", b"pgveil_probe")
        + m.build_close(b"S", b"pgveil_probe")
    )


def settings_answer(schema: bytes, temporary: bytes = b"[]") -> bytes:
    row = (b"on", b"UTF8", b'["pg_catalog","' + schema + b'"]', b"postgres", b"hex", b"1", temporary, *PROBED[7:])
    return (
        m.CLOSE_COMPLETE
        + m.PARSE_COMPLETE
        + m.BIND_COMPLETE
        + m.build_data_row(row)
        + tag(b"SELECT 1")
        + m.CLOSE_COMPLETE
        + m.CLOSE_COMPLETE
    )


def script_refused(bench: Bench) -> tuple[Steps, bytes, bytes]:
    ours = b"SERROR\0VERROR\0C42501\0Mnot yours\0P3\0\0"
    return (
        [
            ("S", READY),
            ("C", m.build_query(b"SELECT forbidden")),
            ("S", SERVER_REFUSES + READY),
            ("C", m.build_query(b"SELECT forbidden")),
            ("S", server_error(b"25P02") + FAILED),
            ("C", m.build_parse(b"s", b"SELECT forbidden") + m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC),
            ("S", SERVER_REFUSES + FAILED),
        ],
        READY
        + m.message(m.Back.ERROR, ours)
        + READY
        + server_error(b"25P02")
        + FAILED
        + m.message(m.Back.ERROR, ours)
        + FAILED,
        REFUSED_QUERY * 2
        + m.build_parse(b"s", b"SELECT pg_catalog.pgveil_refused()")
        + m.build_bind(b"", b"s")
        + m.build_describe(b"P", b"")
        + m.build_execute(b"")
        + m.SYNC,
    )


def script_extended(bench: Bench) -> tuple[Steps, bytes, bytes]:
    sealed = bench.seal(CARD, "4000").encode()
    steps: Steps = [
        ("S", READY),
        ("C", m.build_parse(b"i", b"INSERT") + m.build_describe(b"S", b"i") + m.SYNC),
        ("S", settings_answer(b"public") + READY),
        ("S", m.PARSE_COMPLETE + m.build_parameter_description((25,)) + m.NO_DATA + READY),
        ("C", m.build_bind(b"", b"i", (1,), (b"4000",), ()) + m.build_execute(b"") + m.SYNC),
        ("S", m.BIND_COMPLETE + tag(b"INSERT 0 1") + READY),
    ]
    return (
        steps,
        READY
        + m.PARSE_COMPLETE
        + m.build_parameter_description((1043,))
        + m.NO_DATA
        + READY
        + m.BIND_COMPLETE
        + tag(b"INSERT 0 1")
        + READY,
        probe()
        + m.SYNC
        + m.build_parse(b"i", b"INSERT edited", (25,))
        + m.build_describe(b"S", b"i")
        + m.SYNC
        + m.build_bind(b"", b"i", (0,), (sealed,), ())
        + m.build_execute(b"")
        + m.SYNC,
    )


def script_copy(bench: Bench) -> tuple[Steps, bytes, bytes]:
    begin = m.build_copy_response(m.Back.COPY_IN, m.CopyResponse(0, (0,)))
    out = m.build_copy_response(m.Back.COPY_OUT, m.CopyResponse(0, (0,)))
    data = m.build_copy_data(b"row\n" * 100) * 3
    steps: Steps = [
        ("S", READY),
        ("C", m.build_query(b"COPY a FROM STDIN")),
        ("S", begin),
        ("C", data + m.SYNC + m.COPY_DONE),
        ("S", tag(b"COPY 300") + READY),
        ("C", m.build_query(b"COPY a TO STDOUT")),
        ("S", out + data + m.COPY_DONE + tag(b"COPY 300") + READY),
    ]
    return (
        steps,
        READY + begin + tag(b"COPY 300") + READY + out + data + m.COPY_DONE + tag(b"COPY 300") + READY,
        m.build_query(b"COPY a FROM STDIN") + data + m.SYNC + m.COPY_DONE + m.build_query(b"COPY a TO STDOUT"),
    )


SCRIPTS = (script_simple, script_refused, script_extended, script_copy)


@pytest.mark.parametrize("cut", [whole, single])
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(
    bench: Bench, script: Callable[[Bench], tuple[Steps, bytes, bytes]], cut: Callable[[bytes], list[bytes]]
) -> None:
    shop(bench)
    steps, client, server = script(bench)
    got_client, got_server, session = play(bench, steps, cut)
    assert got_client == client
    assert got_server == server
    assert session.closing is None
    assert (session.wants_client, session.wants_server) == (True, True)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_same(data: st.DataObject) -> None:
    bench = Bench()
    shop(bench)
    steps, client, server = data.draw(st.sampled_from(SCRIPTS))(bench)

    def cut(piece: bytes) -> list[bytes]:
        marks = sorted(data.draw(st.lists(st.integers(0, len(piece)), max_size=6)))
        edges = [0, *marks, len(piece)]
        return [piece[a:b] for a, b in pairwise(edges)]

    assert play(bench, steps, cut)[:2] == (client, server)


@given(noise=st.binary(min_size=1, max_size=60), side=st.sampled_from("CS"))
@settings(max_examples=200, deadline=None)
def test_noise_never_raises(noise: bytes, side: str) -> None:
    bench = Bench()
    shop(bench)
    _, _, session = play(bench, [("S", READY), (side, noise)], whole)
    if session.closing is not None:
        assert session.closing.startswith("FATAL")


def started(bench: Bench) -> Session:
    """A session behind its first ReadyForQuery, its output taken."""
    shop(bench)
    session = bench.session()
    session.server_received(READY)
    session.to_client = []
    return session


def taken(session: Session) -> tuple[bytes, bytes]:
    out = b"".join(session.to_client), b"".join(session.to_server)
    session.to_client, session.to_server = [], []
    return out


def told(data: bytes) -> list[tuple[str, str]]:
    """SQLSTATE and message of the ErrorResponses in a run of messages."""
    found, at = [], 0
    while at < len(data):
        size = 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        if data[at] == m.Back.ERROR:
            fields = m.parse_error(data[at + 5 : at + size])
            found.append((fields.sqlstate, (fields.get("M") or b"").decode()))
        at += size
    return found


def errors(data: bytes) -> list[str]:
    """The SQLSTATEs of the ErrorResponses in a run of messages."""
    return [sqlstate for sqlstate, _ in told(data)]


def known(bench: Bench, session: Session) -> None:
    """Let the session learn its settings."""
    session._state.tracker.probed(
        (b"on", b"UTF8", b'["public"]', b"postgres", b"hex", b"1", b"[]", *PROBED[7:]), bench.judge
    )


def test_a_server_that_accepts_a_refused_text_ends_the_session(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_query(b"SELECT forbidden"))
    taken(session)
    session.server_received(description((b"a", 0, 23)) + m.build_data_row((b"secret",)))
    client, _ = taken(session)
    assert b"secret" not in client
    assert errors(client) == ["08P01"]
    assert session.closing is not None


def test_an_error_takes_the_books_back(bench: Bench) -> None:
    """A Parse that the server ignored must not have replaced what is known of the name."""
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_parse(b"s", SELECT.encode()) + m.build_describe(b"S", b"s") + m.SYNC)
    session.server_received(m.PARSE_COMPLETE + m.build_parameter_description(()) + DESCRIBED + READY)
    session.client_received(
        m.build_parse(b"bad", b"SELEC") + m.build_close(b"S", b"s") + m.build_parse(b"s", b"SELECT 1") + m.SYNC
    )
    session.server_received(server_error(b"42601") + READY)
    taken(session)
    session.client_received(m.build_bind(b"", b"s") + m.build_execute(b"") + m.SYNC)
    session.server_received(m.BIND_COMPLETE + DESCRIBED + rows(bench, "4000") + tag(b"SELECT 1") + READY)
    client, _ = taken(session)
    assert client == m.BIND_COMPLETE + plain_rows("4000") + tag(b"SELECT 1") + READY


def test_messages_after_an_error_are_dropped_up_to_the_sync(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_parse(b"", b"SELEC") + m.FLUSH)
    taken(session)
    session.server_received(server_error(b"42601"))
    session.client_received(
        m.build_query(b"SELECT 1") + m.build_parse(b"", SELECT.encode()) + m.build_bind(b"", b"") + m.SYNC
    )
    assert taken(session)[1] == m.SYNC
    session.server_received(READY)
    assert taken(session)[0] == READY
    assert session.wants_client


def test_rows_wait_for_their_record(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.recorder.prompt = False
    session.client_received(m.build_query(SELECT.encode()))
    session.server_received(DESCRIBED + rows(bench, "4000") + tag(b"SELECT 1") + READY)
    assert taken(session)[0] == b""
    assert not session.wants_server
    session.audit_durable(0)
    assert taken(session)[0] == b""
    session.audit_durable(bench.recorder.flush())
    assert taken(session)[0] == opened_description(bench) + plain_rows("4000") + tag(b"SELECT 1") + READY
    assert session.wants_server


def test_too_much_while_held_ends_the_session(bench: Bench) -> None:
    bench.limits = SessionLimits(held_server=1000, held_client=1000)
    session = started(bench)
    known(bench, session)
    bench.recorder.prompt = False
    session.client_received(m.build_query(SELECT.encode()))
    session.server_received(DESCRIBED + rows(bench, *["4000"] * 100))
    client, _ = taken(session)
    assert errors(client) == ["54000"]
    assert len(client) < 300


def test_rows_whose_record_is_lost_are_nobodys_where_that_ends_the_connection(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.judge.admit("SELECT seen", plan(PLAIN))
    bench.recorder.prompt = False
    batch = b"".join(
        m.build_parse(name, text) + m.build_bind(name, name) + m.build_execute(name)
        for name, text in ((b"o", b"OTHER"), (b"s", b"SELECT seen"))
    )
    session.client_received(batch + m.SYNC)
    assert taken(session)[1].endswith(m.SYNC)
    seen, answered = description((b"id", 1, 23)), m.PARSE_COMPLETE + m.BIND_COMPLETE
    session.server_received(answered + m.NO_DATA + tag(b"OTHER") + answered)
    session.server_received(seen + m.build_data_row((b"4000",)) + tag(b"SELECT 1") + READY)
    assert b"4000" not in taken(session)[0]
    bench.recorder.down = True
    session.audit_failed()
    client, _ = taken(session)
    assert errors(client) == ["58030"]
    assert session.closing is not None
    assert b"4000" not in client


def test_a_sync_waits_for_the_record_of_a_write(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.recorder.prompt = False
    session.client_received(
        m.build_parse(b"", b"INSERT") + m.build_bind(b"", b"", (), (b"1",)) + m.build_execute(b"") + m.SYNC
    )
    _, server = taken(session)
    assert server.endswith(m.build_execute(b"") + m.FLUSH)
    assert session._frontend.waiting
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + m.NO_DATA + tag(b"INSERT 0 1"))
    assert taken(session)[0] == m.PARSE_COMPLETE + m.BIND_COMPLETE
    session.audit_durable(bench.recorder.flush())
    assert taken(session) == (tag(b"INSERT 0 1"), m.SYNC)


def test_a_write_whose_record_is_lost_is_rolled_back(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.recorder.prompt = False
    session.client_received(
        m.build_parse(b"", b"INSERT") + m.build_bind(b"", b"", (), (b"1",)) + m.build_execute(b"") + m.SYNC
    )
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + m.NO_DATA + tag(b"INSERT 0 1"))
    taken(session)
    bench.recorder.down = True
    session.audit_failed()
    client, server = taken(session)
    assert errors(client) == ["58030"]
    assert server == REFUSED_PARSE + m.SYNC
    session.server_received(SERVER_REFUSES + READY)
    assert taken(session)[0] == READY


def test_commit_in_a_batch_waits_for_the_record_of_a_write(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.recorder.prompt = False
    session.client_received(
        m.build_parse(b"c", b"COMMIT")
        + m.build_bind(b"c", b"c")
        + m.build_parse(b"", b"INSERT")
        + m.build_bind(b"", b"", (), (b"1",))
        + m.build_execute(b"")
        + m.build_execute(b"c")
        + m.SYNC
    )
    _, server = taken(session)
    assert m.build_execute(b"c") not in server
    session.audit_durable(bench.recorder.flush())
    _, server = taken(session)
    assert m.build_execute(b"c") in server


def test_a_damaged_value_in_a_block_makes_the_block_fail(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_query(b"BEGIN"))
    session.server_received(tag(b"BEGIN") + IN_BLOCK)
    session.client_received(m.build_query(SELECT.encode()))
    taken(session)
    session.server_received(DESCRIBED + rows(bench, "4000") + b"")
    session.server_received(m.build_data_row((b"9", b"junk")) + rows(bench, "5000") + tag(b"SELECT 3") + IN_BLOCK)
    client, server = taken(session)
    assert client.startswith(opened_description(bench) + plain_rows("4000") + b"E")
    assert errors(client) == ["XX001"]
    assert b"5000" not in client
    assert server == REFUSED_PARSE + m.SYNC
    assert session._frontend.waiting
    session.server_received(SERVER_REFUSES + FAILED)
    assert (taken(session), session._frontend.waiting) == ((FAILED, b""), False)
    assert bench.recorder.kinds() == ["StatementStarted", "Refused", "StatementEnded"]


def test_damage_before_others_of_a_text_that_may_be_committed_ends_the_connection(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.judge.admit("both", plan(PLAIN, opened(CARD)), None)
    session.client_received(m.build_query(b"both"))
    session.server_received(
        DESCRIBED + m.build_data_row((b"9", b"junk")) + tag(b"SELECT 1") + tag(b"INSERT 0 1") + READY
    )
    client, _ = taken(session)
    assert b"VFATAL" in client
    assert errors(client) == ["XX001"]
    assert session.closing is not None


@pytest.mark.parametrize(
    "described",
    [
        description((b"id", 1, 23), (b"card", 4, 25)),  # another protected column
        description((b"id", 3, 25), (b"card", 3, 25)),  # a protected one more
        description((b"id", 1, 23), (b"card", 0, 25)),  # no direct reference
        description((b"id", 1, 23), (b"card", 3, 1043)),  # not as it is stored
        description((b"id", 1, 23)),
        description((b"id", 1, 23), (b"card", 3, 25), (b"more", 0, 25)),
    ],
)
def test_the_witness_stops_what_disagrees(bench: Bench, described: bytes) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_query(SELECT.encode()))
    session.server_received(described + rows(bench, "4000") + tag(b"SELECT 1") + READY)
    client, _ = taken(session)
    assert errors(client) == ["42501"]
    assert client.endswith(READY)
    assert b"~" not in client
    assert b"4000" not in client


def test_rows_without_a_description_do_not_pass(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(
        m.build_parse(b"", b"INSERT") + m.build_bind(b"", b"", (), (b"1",)) + m.build_execute(b"") + m.SYNC
    )
    session.server_received(
        m.PARSE_COMPLETE + m.BIND_COMPLETE + m.NO_DATA + rows(bench, "4000") + tag(b"INSERT 0 1") + READY
    )
    client, _ = taken(session)
    assert "42501" in errors(client)
    assert b"~" not in client


def test_passed_statements_cost_nothing_beyond_their_entry(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_parse(b"s", b"SELECT $1") + m.build_describe(b"S", b"s") + m.SYNC)
    session.server_received(
        m.PARSE_COMPLETE + m.build_parameter_description((25,)) + description((b"a", 0, 25)) + READY
    )
    taken(session)
    bind, describe = m.build_bind(b"", b"s", (), (b"x",)), m.build_describe(b"P", b"")
    execute = m.build_execute(b"") + m.SYNC
    described = description((b"a", 0, 25))
    ran = m.build_data_row((b"x",)) + tag(b"SELECT 1") + READY
    for asks in (b"", describe) * 25:
        session.client_received(bind + asks + execute)
        assert taken(session)[1] == bind + describe + execute, (
            "what the names mean now is asked for at each Bind, and once"
        )
        session.server_received(m.BIND_COMPLETE + described + ran)
        assert taken(session)[0] == m.BIND_COMPLETE + (described if asks else b"") + ran
    assert bench.observer.objects == 0
    assert len(session._state.portals) == 0


def test_a_long_bind_of_a_passed_statement_streams(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_parse(b"", b"SELECT $1"))
    taken(session)
    bind = m.build_bind(b"", b"", (), (b"x" * 5_000_000,))
    for at in range(0, len(bind), 65536):
        session.client_received(bind[at : at + 65536])
        assert session._frontend.buffered < 200
    assert taken(session)[1] == bind


def test_a_long_bind_of_a_planned_statement_is_refused(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_parse(b"", b"INSERT"))
    taken(session)
    size = 100 << 20
    session.client_received(b"B" + (size + 4 + 202).to_bytes(4, "big") + b"\0\0" + b"\0" * 200)
    _, server = taken(session)
    assert server == m.build_bind(b"", b"pgveil_none")
    piece = b"\0" * (1 << 20)
    for _ in range(100):
        session.client_received(piece)
    assert taken(session)[1] == b""
    session.server_received(m.PARSE_COMPLETE + server_error(b"26000"))
    assert errors(taken(session)[0]) == ["54000"]


def test_limits_of_the_books(bench: Bench) -> None:
    bench.limits = replace(bench.limits, statements=2, portals=2, pending=1000)
    session = started(bench)
    for n in range(3):
        session.client_received(m.build_parse(f"s{n}".encode(), b"SELECT 1") + m.SYNC)
    _, server = taken(session)
    assert server.count(b"pgveil_refused") == 1
    assert bench.observer.reasons == [Reason.LIMIT]
    session.server_received((m.PARSE_COMPLETE + READY) * 2 + SERVER_REFUSES + READY)
    assert told(taken(session)[0]) == [("53400", "too many prepared statements: pgveil keeps at most 2 a connection")]
    session.client_received(m.build_bind(b"a", b"s0") + m.build_bind(b"b", b"s0") + m.build_bind(b"c", b"s0") + m.SYNC)
    assert taken(session)[1].count(b"pgveil_none") == 1
    session.server_received(m.BIND_COMPLETE * 2 + server_error(b"26000") + READY)
    assert told(taken(session)[0]) == [("53400", "too many portals: pgveil keeps at most 2 a connection")]
    # One that is closed makes room.
    for kind, name in ((b"S", b"s1"), (b"P", b"b")):
        session.client_received(m.build_close(kind, name) + m.SYNC)
        session.server_received(m.CLOSE_COMPLETE + READY)
    taken(session)
    session.client_received(m.build_parse(b"s3", b"SELECT 1") + m.build_bind(b"c", b"s0") + m.SYNC)
    server = taken(session)[1]
    assert b"pgveil_" not in server
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + READY)
    assert told(taken(session)[0]) == []


@pytest.mark.parametrize(("relations", "known_by_name"), [(_MOST_TEMPORARY, True), (_MOST_TEMPORARY + 1, False)])
def test_too_many_temporary_relations_are_not_known(bench: Bench, relations: int, known_by_name: bool) -> None:
    """What one of them could stand for is refused then; everything else goes on."""

    def decided(_sql: bytes, settings: Settings) -> Pass | NeedSettings:
        return NeedSettings() if settings.search_path is None else Pass()

    bench.judge.table[b"SELECT doubtful"] = decided
    session = started(bench)
    session.client_received(m.build_query(b"SELECT doubtful"))
    assert taken(session)[1] == probe() + m.SYNC
    names = json.dumps([f"t{number}" for number in range(relations)]).encode()
    session.server_received(settings_answer(b"public", names) + READY)
    _, server = taken(session)
    assert (server == m.build_query(b"SELECT doubtful")) is known_by_name
    if known_by_name:
        return
    session.server_received(SERVER_REFUSES + READY)
    assert errors(taken(session)[0]) == ["0AP01"]
    session.client_received(m.build_query(b"SELECT 1"))
    assert m.build_query(b"SELECT 1") in taken(session)[1]


def test_texts_of_prepared_statements_are_bounded_together(bench: Bench) -> None:
    bench.limits = replace(bench.limits, statement_text=1000)
    session = started(bench)
    for name in (b"a", b"b"):
        session.client_received(m.build_parse(name, b"SELECT 1 /* %s */" % (b"x" * 600)) + m.SYNC)
    assert taken(session)[1].count(b"pgveil_refused") == 1
    assert bench.observer.reasons == [Reason.LIMIT]
    session.server_received(m.PARSE_COMPLETE + READY + SERVER_REFUSES + READY)
    assert errors(taken(session)[0]) == ["53400"]


def test_a_client_that_does_not_wait(bench: Bench) -> None:
    bench.limits = SessionLimits(pending=5, held_client=1000)
    session = started(bench)
    session.client_received(m.build_parse(b"", b"SELECT 1") * 9 + m.SYNC)
    assert session._frontend.waiting
    session.client_received(m.build_parse(b"", b"SELECT 1 /* %s */" % (b"x" * 2000)))
    assert errors(taken(session)[0]) == ["54000"]
    assert session.closing


def test_a_full_pipeline_holds_the_client(bench: Bench) -> None:
    bench.limits = SessionLimits(pending=5)
    session = started(bench)
    session.client_received(m.build_parse(b"", b"SELECT 1") * 9 + m.SYNC)
    assert session._frontend.waiting
    _, server = taken(session)
    assert server.endswith(m.FLUSH)
    session.server_received(m.PARSE_COMPLETE * 5)
    session.server_received(m.PARSE_COMPLETE * 4)
    _, server = taken(session)
    assert server.endswith(m.SYNC)
    assert session.wants_client


def test_ciphertext_and_schemas_are_taken_out_of_reports(bench: Bench) -> None:
    session = started(bench)
    sealed = bench.seal(CARD, "4000").encode()
    session.client_received(m.build_query(b"SELECT 1"))
    body = (
        b"SERROR\0VERROR\0C23505\0Mdup\0DKey (card)=("
        + sealed
        + b") in pgveil_0123456789ab.customers\0spgveil_0123456789ab\0\0"
    )
    session.server_received(m.message(m.Back.NOTICE, body) + m.message(m.Back.ERROR, body) + READY)
    client, _ = taken(session)
    assert sealed not in client
    assert b"pgveil_" not in client
    assert client.count(b"Key (card)=(<sealed>) in customers") == 2


def test_a_sealed_value_that_postgresql_cut_is_told_like_a_whole_one(bench: Bench) -> None:
    """`Failing row contains (...)` has 64 bytes of each value, the context of a COPY 100: that is the stored text's length, not the value's."""
    session = started(bench)
    session.client_received(m.build_query(b"SELECT 1"))
    row = b"(7, %s..., ~%s..., %s, %s..., f)" % (b"^" + b"A" * 63, b"B" * 56 + b"-abcdef", b"x" * 16, b"y" * 64)
    context = b'COPY cards, line 1, column pan: "~' + b"C" * 99 + b'..."'
    body = b"SERROR\0VERROR\0C23502\0Mnull value\0DFailing row contains " + row + b".\0W" + context + b"\0\0"
    session.server_received(m.message(m.Back.ERROR, body) + READY)
    client, _ = taken(session)
    assert b"Failing row contains (7, <sealed>, <sealed>, %s, %s..., f)." % (b"x" * 16, b"y" * 64) in client
    assert b'column pan: "<sealed>"' in client


def test_settings_that_stay_unknown_refuse(bench: Bench) -> None:
    session = started(bench)
    bench.judge.table[b"SELECT x"] = NeedSettings()
    session.client_received(m.build_query(b"SELECT x"))
    session.server_received(m.CLOSE_COMPLETE + server_error(b"53000") + READY)
    client, server = taken(session)
    assert client == b""
    assert server.endswith(REFUSED_QUERY)
    session.server_received(SERVER_REFUSES + READY)
    assert errors(taken(session)[0]) == ["0AP01"]


def test_the_ends(bench: Bench) -> None:
    session = started(bench)
    session.server_eof()
    assert errors(taken(session)[0]) == ["08006"]
    session = started(bench)
    session.client_eof()
    assert taken(session)[1] == m.TERMINATE
    session = started(bench)
    session.client_received(m.build_query(b"SELECT 1"))
    row = m.build_data_row((b"x" * 1000,))
    session.server_received(description((b"a", 0, 25)) + row[:100])
    taken(session)
    assert not session.may_speak
    session.server_eof()
    assert taken(session)[0] == b""


def test_names_of_ours_are_refused(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_parse(b"pgveil_probe", b"SELECT 1") + m.SYNC)
    assert b"pgveil_refused" in taken(session)[1]
    session.server_received(SERVER_REFUSES + READY)
    assert errors(taken(session)[0]) == ["42602"]


def test_messages_into_a_copy_end_the_session(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_query(b"COPY a FROM STDIN"))
    session.server_received(m.build_copy_response(m.Back.COPY_IN, m.CopyResponse(0, (0,))))
    session.client_received(m.build_query(SELECT.encode()))
    assert session.closing is not None
    assert errors(taken(session)[0]) == ["08P01"]


def test_a_query_that_waits_behind_a_copy_ends_the_session(bench: Bench) -> None:
    """The server waits for COPY data of a client that is held: nothing could ever move again."""
    session = started(bench)
    bench.judge.table[b"SELECT x"] = NeedSettings()
    session.client_received(m.build_query(b"COPY a FROM STDIN") + m.build_query(b"SELECT x"))
    session.server_received(m.build_copy_response(m.Back.COPY_IN, m.CopyResponse(0, (0,))))
    assert errors(taken(session)[0]) == ["08P01"]


def test_judging_waits_for_the_catalog(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_query(b"CREATE TABLE a ()"))
    session.client_received(m.build_query(b"SELECT 1"))
    assert (taken(session)[1], session._frontend.waiting) == (m.build_query(b"CREATE TABLE a ()"), True)
    session.server_received(tag(b"CREATE TABLE") + READY)
    assert (session.catalog_stale, taken(session)[1]) == (True, b"")
    session.catalog_refreshed()
    assert (taken(session)[1], session._frontend.waiting) == (m.build_query(b"SELECT 1"), False)


def test_ddl_in_a_block_stales_the_catalog_at_its_commit(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_query(b"CREATE TABLE a ()"))
    session.server_received(tag(b"CREATE TABLE") + IN_BLOCK)
    stale = [session.catalog_stale]
    session.client_received(m.build_query(b"COMMIT AND CHAIN"))
    session.server_received(tag(b"COMMIT") + IN_BLOCK)
    assert [*stale, session.catalog_stale] == [False, True]


@pytest.mark.parametrize("text", [SELECT, "SELECT 1"])
def test_binds_with_long_names(bench: Bench, text: str) -> None:
    session = started(bench)
    known(bench, session)
    name = b"n" * 300
    session.client_received(m.build_parse(name, text.encode()))
    taken(session)
    bind = m.build_bind(name, name, (), (b"v",))
    for piece in single(bind):
        session.client_received(piece)
    assert taken(session)[1] == bind


def test_a_write_with_rows_waits_for_its_description(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    bench.judge.admit("INSERT RETURNING", plan(opened(CARD), writes=True, action=Action.INSERT))
    session.client_received(
        m.build_parse(b"", b"INSERT RETURNING") + m.build_bind(b"", b"") + m.build_execute(b"") + m.SYNC
    )
    _, server = taken(session)
    assert server.endswith(m.build_describe(b"P", b"") + m.FLUSH)
    session.server_received(m.PARSE_COMPLETE + m.BIND_COMPLETE + description((b"card", 4, 25)))
    client, server = taken(session)
    assert errors(client) == ["42501"]
    assert server == REFUSED_PARSE + m.SYNC
    session.server_received(SERVER_REFUSES + READY)
    assert taken(session)[0] == READY
    assert bench.recorder.kinds() == ["Refused"]


def test_a_change_of_rules_between_bind_and_execute(bench: Bench) -> None:
    """An open portal keeps what it had, as a cursor does whose privilege was revoked; the next Bind does not (ADR 0029)."""
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_parse(b"", SELECT.encode()) + m.build_bind(b"", b""))
    bench.judge.generation = 2
    bench.judge.table[SELECT.encode()] = bench.judge.table[b"SELECT forbidden"]
    session.client_received(m.build_execute(b"") + m.build_bind(b"", b"") + m.SYNC)
    assert taken(session)[1].endswith(m.build_execute(b"") + m.build_bind(b"", b"pgveil_none") + m.SYNC)


def test_a_change_of_rules_before_describe(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_parse(b"s", SELECT.encode()) + m.SYNC)
    session.server_received(m.PARSE_COMPLETE + READY)
    bench.judge.generation = 2
    session.client_received(m.build_describe(b"S", b"s") + m.SYNC)
    session.server_received(m.build_parameter_description(()) + DESCRIBED + READY)
    assert opened_description(bench) in taken(session)[0]
    bench.judge.generation = 3
    # The columns come as they are stored now, which the client knows under other types.
    bench.judge.admit(SELECT, plan(PLAIN, PLAIN))
    bench.judge.sources.clear()
    session.client_received(m.build_describe(b"S", b"s") + m.SYNC)
    session.server_received(m.build_parameter_description(()) + DESCRIBED)
    session.server_received(server_error(b"26000") + READY)
    assert errors(taken(session)[0]) == ["0A000"]


def test_a_damaged_value_among_pipelined_batches_in_a_block(bench: Bench) -> None:
    """What was sent behind runs in a block that the client takes for failed: nothing can make that true."""
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_query(b"BEGIN"))
    session.server_received(tag(b"BEGIN") + IN_BLOCK)
    session.client_received(m.build_query(SELECT.encode()) + m.build_query(b"SELECT 2"))
    taken(session)
    session.server_received(DESCRIBED + m.build_data_row((b"9", b"junk")) + tag(b"SELECT 1") + IN_BLOCK)
    client, _ = taken(session)
    assert errors(client) == ["XX001", "25P02"]
    assert session.closing is not None


def test_a_server_error_behind_ours_is_not_told_twice(bench: Bench) -> None:
    session = started(bench)
    known(bench, session)
    session.client_received(m.build_query(SELECT.encode()))
    session.server_received(DESCRIBED + m.build_data_row((b"9", b"junk")) + server_error(b"57014") + READY)
    client, server = taken(session)
    assert errors(client) == ["XX001"]
    assert client.endswith(READY)
    assert REFUSED_PARSE not in server


def test_fatal_errors_pass(bench: Bench) -> None:
    session = started(bench)
    fatal = m.message(m.Back.ERROR, b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0")
    session.server_received(fatal)
    session.server_eof()
    assert taken(session)[0] == fatal
    assert session.closing == "server_gone"


def test_an_unknown_portal_is_described_before_it_runs(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_execute(b"cursor") + m.SYNC)
    assert taken(session)[1] == m.build_describe(b"P", b"cursor") + m.build_execute(b"cursor") + m.SYNC
    session.server_received(server_error(b"34000") + READY)
    assert errors(taken(session)[0]) == ["34000"]


def test_long_results_stream(bench: Bench) -> None:
    session = started(bench)
    session.client_received(m.build_query(b"SELECT 1"))
    session.server_received(description((b"a", 0, 25)))
    taken(session)
    row = m.build_data_row((b"x" * 3_000_000,))
    passed = 0
    rows_ = row * 10
    for at in range(0, len(rows_), 65536):
        session.server_received(rows_[at : at + 65536])
        assert session._backend.buffered < 10
        passed += len(taken(session)[0])
    assert passed == len(row) * 10
    assert bench.observer.objects == 0


@pytest.mark.parametrize(
    ("name", "encoding", "same"),
    [
        (b"alice", b"UTF8", True),
        (b"bob", b"UTF8", False),
        (b"Alice", b"UTF8", False),
        (b"", b"UTF8", False),
        (b"\xff", b"UTF8", False),
    ],
)
def test_the_server_says_who_has_logged_in(bench: Bench, name: bytes, encoding: bytes, same: bool) -> None:
    session = bench.session()
    session.server_received(
        m.build_parameter_status(b"session_authorization", name)
        + m.build_parameter_status(b"client_encoding", encoding)
    )
    taken(session)
    session.server_received(READY)
    client, server = taken(session)
    assert session.started is same
    assert server == b""
    if same:
        assert client == READY
        session.server_received(m.build_parameter_status(b"session_authorization", b"bob"))
        assert session.closing is None
    else:
        assert errors(client) == ["28000"]
        assert READY not in client
        assert session.closing is not None


def test_a_login_in_the_clients_encoding(bench: Bench) -> None:
    session = bench.session("j\u00fcrg")
    session.server_received(
        m.build_parameter_status(b"session_authorization", b"j\xfcrg")
        + m.build_parameter_status(b"client_encoding", b"LATIN1")
        + READY
    )
    assert session.started


@pytest.mark.parametrize(
    ("status", "answer"), [(READY, NO_FUNCTION), (FAILED, b"SERROR\0VERROR\0C25P02\0Maborted\0\0")]
)
def test_a_cancel_that_meets_the_probe_is_the_statements(bench: Bench, status: bytes, answer: bytes) -> None:
    session = started(bench)
    bench.judge.table[b"SELECT x"] = NeedSettings()
    session.client_received(m.build_query(b"SELECT x"))
    taken(session)
    session.server_received(m.CLOSE_COMPLETE + server_error(b"57014", b"canceling statement") + status)
    assert taken(session) == (b"", REFUSED_QUERY)
    session.server_received(m.message(m.Back.ERROR, answer) + status)
    assert taken(session)[0] == server_error(b"57014", b"canceling statement") + status
    session.client_received(m.build_query(b"SELECT x"))
    if status == READY:
        session.server_received(m.CLOSE_COMPLETE + server_error(b"53000") + READY)
        session.server_received(SERVER_REFUSES + READY)
        assert errors(taken(session)[0]) == ["0AP01"]


def checked(bench: Bench, kind: str) -> tuple[Session, bytes]:
    """A session that has asked the server about a refused text; what it was sent."""
    refusal = Refusal(Reason.UNPARSED, "0AP01", "not understood")
    check = ServerCheck(b"SELEC 10", ((7, b"10", b"42"),))
    bench.judge.table[b"SELEC 42"] = Refuse(refusal, "s", 3, check)
    session = started(bench)
    session.client_received(
        m.build_query(b"SELEC 42") if kind == "Q" else m.build_parse(b"x", b"SELEC 42", (25,)) + m.SYNC
    )
    return session, taken(session)[1]


@pytest.mark.parametrize("kind", ["Q", "P"])
def test_the_server_is_asked_about_a_text_that_was_not_understood(bench: Bench, kind: str) -> None:
    session, sent = checked(bench, kind)
    closed = m.build_close(b"S", b"pgveil_check")
    first = m.build_close(b"S", b"") if kind == "Q" else b""
    asked = m.build_parse(b"pgveil_check", b"SELEC 10", () if kind == "Q" else (25,))
    assert sent == first + closed + asked + closed + REFUSED_PARSE + m.SYNC
    closes = m.CLOSE_COMPLETE * (2 if kind == "Q" else 1)
    session.server_received(closes + m.message(m.Back.ERROR, b'SERROR\0VERROR\0C42601\0Mat "10"\0P7\0\0') + READY)
    assert taken(session)[0] == m.message(m.Back.ERROR, b'SERROR\0VERROR\0C42601\0Mat "42"\0P7\0\0') + READY
    assert bench.observer.reasons == []
    assert bench.recorder.kinds() == ["Refused"]


@pytest.mark.parametrize("kind", ["Q", "P"])
@pytest.mark.parametrize(
    "words",
    [
        b"C42883\0Mfunction avg(pgveil.sealed) does not exist",
        b"C42P08\0Minconsistent types deduced for parameter $1\0Dtext versus pgveil.sealed",
    ],
)
def test_an_error_about_the_sealed_type_is_no_word_for_a_client(bench: Bench, kind: str, words: bytes) -> None:
    session, _ = checked(bench, kind)
    closes = m.CLOSE_COMPLETE * (2 if kind == "Q" else 1)
    words = b"SERROR\0VERROR\0" + words + b"\0P7\0\0"
    session.server_received(closes + m.message(m.Back.ERROR, words) + READY)
    assert errors(taken(session)[0]) == ["0AP01"]
    assert bench.observer.reasons == [Reason.UNPARSED]


@pytest.mark.parametrize("kind", ["Q", "P"])
@pytest.mark.parametrize(
    "answer",
    [
        m.PARSE_COMPLETE + m.CLOSE_COMPLETE + SERVER_REFUSES,
        server_error(b"22P02"),
        m.message(m.Back.ERROR, b"SERROR\0VERROR\0C42601\0Mseveral\0Rexec_parse_message\0\0"),
    ],
)
def test_the_refusal_stands_where_the_server_finds_nothing_wrong(bench: Bench, kind: str, answer: bytes) -> None:
    session, _ = checked(bench, kind)
    session.server_received(m.CLOSE_COMPLETE * (2 if kind == "Q" else 1) + answer + READY)
    client = taken(session)[0]
    assert errors(client) == ["0AP01"]
    assert client.endswith(READY)
    assert bench.observer.reasons == [Reason.UNPARSED]
    assert bench.recorder.kinds() == ["Refused"]


def test_a_server_that_is_ready_too_early_leaves_no_statement_open_in_the_log(bench: Bench) -> None:
    shop(bench)
    start = m.build_parameter_status(b"client_encoding", b"UTF8") + m.build_backend_key(1, b"1234") + READY
    steps = [
        ("S", start),
        ("C", m.build_query(SELECT.encode())),
        ("S", settings_answer(b"public") + READY),
        ("S", DESCRIBED + READY),
    ]
    play(bench, steps, whole)
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]


def test_a_client_that_leaves_while_its_write_waits_for_the_record_leaves_no_statement_open(bench: Bench) -> None:
    shop(bench)
    bench.recorder.prompt = False
    write = plan(PLAIN, opened(CARD), writes=True)
    bench.judge.admit("UPDATE customers RETURNING card", write)
    start = m.build_parameter_status(b"client_encoding", b"UTF8") + m.build_backend_key(1, b"1234") + READY
    steps = [
        ("S", start),
        ("C", m.build_query(b"UPDATE customers RETURNING card")),
        ("S", settings_answer(b"public") + READY),
    ]
    _, sent, session = play(bench, steps, whole)
    assert b"UPDATE" not in sent
    assert bench.recorder.kinds() == ["StatementStarted"]
    session.client_eof()
    assert bench.recorder.kinds() == ["StatementStarted", "StatementEnded"]


@pytest.mark.parametrize("what", ["refused", "copy"])
def test_a_query_behind_an_error_in_its_batch_is_ignored_up_to_the_client_s_own_sync(bench: Bench, what: str) -> None:
    shop(bench)
    refusal = Refusal(Reason.UNPARSED, "0AP01", "what is that")
    bench.judge.table[b"SELECT odd"] = Refuse(refusal, "", check=ServerCheck(b"SELECT odd"))
    copied = CopyPlan(into=False, results=(opened(CARD),), relation="customers")
    bench.judge.admit("COPY customers (card) TO STDOUT", plan(copy=copied), witness=b"SELECT card FROM customers")
    query = b"SELECT odd" if what == "refused" else b"COPY customers (card) TO STDOUT"
    start = m.build_parameter_status(b"client_encoding", b"UTF8") + m.build_backend_key(1, b"1234") + READY
    batch = m.build_close(b"S", b"") + m.build_bind(b"", b"none")
    steps = [
        ("S", start),
        ("C", m.build_query(b"SELECT 1")),
        ("S", tag(b"SELECT 1") + READY),
        ("C", batch + m.build_query(query)),
        ("S", m.CLOSE_COMPLETE + server_error(b"26000")),
        ("C", m.SYNC),
        ("S", READY),
    ]
    heard, sent, session = play(bench, steps, whole)
    assert session.closing is None
    assert heard == start + tag(b"SELECT 1") + READY + m.CLOSE_COMPLETE + server_error(b"26000") + READY
    assert sent.count(m.SYNC) == 1
    assert b"odd" not in sent
    assert b"card" not in sent


def test_a_masking_views_column_is_told_as_its_tables(bench: Bench) -> None:
    """Which is what the client has named."""
    session = started(bench)
    known(bench, session)
    bench.judge.tables[7000, 2] = (42, 5)
    bench.judge.admit("SELECT masks", plan(PLAIN, PLAIN))
    fields = (m.Field(b"id", 7000, 1, 20, 8, -1, 0), m.Field(b"phone", 7000, 2, 1043, -1, 24, 0))
    session.client_received(m.build_query(b"SELECT masks"))
    session.server_received(m.build_row_description(fields) + tag(b"SELECT 0") + READY)
    told_fields = (fields[0], fields[1]._replace(table=42, attnum=5))
    assert taken(session)[0] == m.build_row_description(told_fields) + tag(b"SELECT 0") + READY


def test_what_runs_instead_of_a_text_that_passes(bench: Bench) -> None:
    """Simple and prepared: no question of ours goes before it, positions in errors are the client's, and a prepared statement keeps what it has."""
    instead = Instead(b"SELECT one FROM (catalog)", OffsetMap(((16, 9, 16, 7),)))
    bench.judge.table[b"SELECT one FROM catalog"] = Pass(instead=instead)
    session = started(bench)
    error = m.message(m.Back.ERROR, b"SERROR\0VERROR\0C42703\0Mno\0P26\0\0")
    session.client_received(m.build_query(b"SELECT one FROM catalog"))
    session.server_received(error + READY)
    client, server = taken(session)
    assert server == m.build_query(instead.text)
    assert m.parse_error(client[5 : client.index(READY)]).get("P") == b"24"
    session.client_received(m.build_parse(b"s", b"SELECT one FROM catalog") + m.SYNC)
    session.server_received(m.PARSE_COMPLETE + READY)
    assert taken(session)[1] == m.build_parse(b"s", instead.text) + m.SYNC
    bench.judge.table[b"SELECT one FROM catalog"] = Pass(instead=Instead(b"SELECT another", OffsetMap()))
    bench.judge.generation += 1
    batch = m.build_bind(b"", b"s", (), ()) + m.build_describe(b"P", b"") + m.build_execute(b"") + m.SYNC
    session.client_received(batch)
    assert taken(session)[1] == batch
