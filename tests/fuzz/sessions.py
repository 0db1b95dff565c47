"""A session between a client and a server that may both say anything, in any order, cut anywhere; and one whose server is well-behaved.

An input is a login and a list of events: what client and server send (bytes of their own, or messages of a list), and what happens around them.
Promises, whatever they say:

- no exception leaves the session;
- what it holds stays within its limits;
- no value that the login may not see reaches the client, and none that it may before a durable record tells of it;
- no value is in the audit log, and every statement that started there has an end when the connection has;
- with a well-behaved server: once the client has sent a Sync, all is answered and the session is idle again, with as many ReadyForQuery as the
  server alone would have given; and if nothing was protected, with the very bytes that it would have given.
"""

from __future__ import annotations

import re
from collections import deque
from struct import pack
from typing import TYPE_CHECKING, Final

from proxy.session.collect import Budget
from proxy.session.session import Session
from proxy.session.trail import Identity
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Framer, Message
from tests.fuzz.ground import CANARIES, LIMITS, LOGINS, Echo, Ground, Records, Watched
from tests.fuzz.model import START, Model
from tests.fuzz.target import Cursor, Target, promise
from tests.session.conftest import Counter
from tests.session.conversation import PROBED, Result, error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ALL: Final = frozenset(range(256))
_QUERY_IN_BATCH: Final = re.compile("[PBDEC][Hdcf]*[QF]")

# -- what may be said ----------------------------------------------------------------------------------------------------------------

TEXTS: Final = (
    *"""
select 1
select id, pan from cards
select id, pan from cards where pan = '4000123412341234'
select id, pan from cards where id = $1
select id, pan from cards where pan = $1
select * from v_cards
select phone from customers
select id_number, credit from customers, cards
select upper(pan) from cards
select id from cards where pan like $1
select count(*), max(credit) from cards group by id
insert into cards (id, pan) values ($1, $2)
insert into cards (id, pan) values (1, '4000123412341234') returning pan
update cards set pan = upper(pan) where id = $1
delete from cards where pan = $1
explain select pan from cards
copy cards (id, pan) to stdout
copy cards (id, pan) from stdin
copy cards (id, pan) from stdin with (format csv)
copy (select pan from cards) to stdout with (format binary)
copy orders to stdout
copy orders from stdin
prepare p as select id, pan from cards where id = $1
execute p(1)
declare c cursor for select id, pan from cards
fetch 2 from c
close c
deallocate all
discard all
begin
commit
rollback
set search_path = public
select set_config('search_path', 'public', false)
create table t (a int)
select 1; select pan from cards
select pan from cards; commit
do $$ begin end $$
select find_phone(1)
listen n
savepoint a
nonsense
select cvv from cards for update
with x as (select pan from cards) select * from x union select pan from payments
""".strip().splitlines(),
    "",
    ";",
)

CLIENT: Final = (
    m.SYNC,
    m.FLUSH,
    *(m.build_query(text.encode()) for text in TEXTS),
    *(m.build_parse(name, text.encode(), types) for text in TEXTS for name, types in ((b"", ()), (b"s", (23, 1043)))),
    *(
        m.build_bind(portal, name, formats, values, results)
        for portal, name in ((b"", b""), (b"p", b"s"), (b"", b"s"))
        for formats, values, results in (
            ((), (), ()),
            ((), (b"1",), ()),
            ((0,), (b"1", b"4000123412341234"), (1,)),
            ((1, 0), (b"\0\0\0\1", None), ()),
        )
    ),
    *(m.build_describe(kind, name) for kind in (b"S", b"P") for name in (b"", b"s", b"p")),
    *(m.build_execute(portal, limit) for portal in (b"", b"p") for limit in (0, 1)),
    *(m.build_close(kind, name) for kind in (b"S", b"P") for name in (b"", b"s", b"p")),
    m.build_copy_data(b"1\t4000123412341234\n"),
    m.build_copy_data(b"1,x\n2"),
    m.COPY_DONE,
    m.build_copy_fail(b"no"),
    m.message(m.Front.FUNCTION_CALL, pack("!IHHH", 953, 0, 0, 0)),
    m.message(m.Front.FUNCTION_CALL, pack("!IHHH", 1, 0, 0, 0)),
    m.TERMINATE,
    m.message(m.Front.AUTHENTICATION, b"x\0"),
)


def _server_messages(ground: Ground) -> tuple[bytes, ...]:
    """What a server says, honest or not."""
    pan = next(
        sealed for name, sealed in ground.sealed.items() if name.column == "pan" and name.relation.name == "cards"
    )
    oid, attnum = next(v for (table, column), v in ground.places.items() if (table.name, column) == ("cards", "pan"))
    id_, card = m.Field(b"id", oid, 1, 23, 4, -1, 0), m.Field(b"pan", oid, attnum, 25, -1, -1, 0)
    unknown, plain = m.Field(b"x", 99_999, 1, 25, -1, -1, 0), m.Field(b"x", 0, 0, 25, -1, -1, 0)
    probe = (b"on", b"UTF8", b'["pg_catalog","public"]', b"teller", b"hex", b"1", b"[]", *PROBED[7:])
    return (
        *(m.build_ready(status) for status in (b"I", b"T", b"E")),
        m.PARSE_COMPLETE,
        m.BIND_COMPLETE,
        m.CLOSE_COMPLETE,
        m.NO_DATA,
        m.EMPTY_QUERY,
        m.PORTAL_SUSPENDED,
        *(m.build_row_description(fields) for fields in ((id_, card), (card,), (plain,), (plain, plain), (unknown,), ())),
        m.build_row_description(tuple(plain for _ in probe)),
        *(m.build_data_row(row) for row in ((b"1", pan), (pan,), (b"1",), (None, None), (pan, pan), ())),
        m.build_data_row(probe),
        m.build_data_row((b"on", b"UTF8", b"[" * 2000, b"teller", b"hex", b"1", b"[]", *PROBED[7:])),
        *(m.build_parameter_description(types) for types in ((), (25,), (23, 25))),
        *(m.build_command_complete(tag) for tag in (b"SELECT 1", b"INSERT 0 1", b"COMMIT", b"SET", b"COPY 1", b"DEALLOCATE ALL", b"CREATE TABLE")),
        *(error(code) for code in ("42883", "26000", "34000", "22P02", "57014", "23514")),
        error("57P01", S="FATAL", V="FATAL"),
        error("23505", D=f"Key (pan)=({pan.decode()}) already exists.", P="8"),
        m.message(m.Back.NOTICE, b"SNOTICE\0C00000\0M" + pan + b"\0\0"),
        m.build_parameter_status(b"client_encoding", b"LATIN1"),
        m.build_parameter_status(b"standard_conforming_strings", b"off"),
        m.build_parameter_status(b"search_path", b"x"),
        m.build_parameter_status(b"session_authorization", b"eve"),
        m.build_notification(7, b"n", b"x"),
        m.build_backend_key(8, b"other"),
        *(m.build_copy_response(kind, m.CopyResponse(binary, (binary,) * count)) for kind in (m.Back.COPY_IN, m.Back.COPY_OUT) for binary in (0, 1) for count in (1, 2)),
        m.build_copy_data(b"1\t" + pan + b"\n"),
        m.build_copy_data(b"PGCOPY\n\xff\r\n\0" + bytes(8) + pack("!hi", 1, len(pan)) + pan + b"\xff\xff"),
        m.message(m.Back.COPY_DONE, b""),
        m.message(m.Back.FUNCTION_RESULT, pack("!i", -1)),
        m.message(m.Back.COPY_BOTH, b"\0\0\0"),
        m.AUTHENTICATION_OK,
    )  # fmt: skip


# -- the table ---------------------------------------------------------------------------------------------------------------------------


class Table:
    """A session, its two peers, and whoever watches that promises are kept."""

    def __init__(self, ground: Ground, flags: int) -> None:
        self.login = LOGINS[flags % len(LOGINS)]
        self.records = Records()
        self.calculator = Echo(self.login)
        self.counter = Counter()
        self.results: dict[bytes, Result] = {}
        self.model = Model(self.results)
        self.budget = Budget(65536)
        self.messages = 0
        self.stale = False  # the catalog is not read anew
        self.to_server: list[bytes] = []
        self.heard = b""  # by the client
        self.said = b""  # by the client
        self._at = 0  # of `heard`, looked at
        self._step = 0
        self._from_client: deque[bytes] = deque()
        self._from_server: deque[bytes] = deque()
        self._time = 0.0
        self.judge = Watched(ground, ground.gates[flags >> 4 & 1], self.results)
        self.session = Session(
            judge=self.judge,
            codec=ground.values,
            identity=Identity(self.login, "bank", "192.0.2.1:5", "fuzz", "c1"),
            recorder=self.records,
            clock=self._clock,
            limits=LIMITS,
            observer=self.counter,
            calculator=self.calculator if flags >> 4 & 1 else None,
            budget=self.budget,
            pump=lambda: None,
        )
        self.from_server(START)

    def _clock(self) -> float:
        self._time += 0.001
        return self._time

    def cut(self, step: int) -> None:
        """From now on what is sent arrives in pieces of so many bytes; 0: whole."""
        self._step = step

    def _pieces(self, data: bytes) -> list[bytes]:
        step = self._step
        return [data[i : i + step] for i in range(0, len(data), step)] if step else [data]

    def from_client(self, data: bytes) -> None:
        """The client sends."""
        if data:
            self.said += data
            self._from_client += self._pieces(data)
            self.move()

    def from_server(self, data: bytes) -> None:
        """The server sends."""
        if data:
            self._from_server += self._pieces(data)
            self.move()

    def move(self) -> None:
        """Carry bytes where they are wanted, as the relay does."""
        session = self.session
        while session.closing is None:
            if self._from_server and session.wants_server:
                session.server_received(self._from_server.popleft())
            elif self._from_client and session.wants_client:
                session.client_received(self._from_client.popleft())
            elif session.catalog_stale and not self.stale:
                session.catalog_refreshed()
            else:
                break
            self.look()
        self.look()

    def look(self) -> None:
        """Whether all promises are kept so far."""
        session = self.session
        pieces, session.to_client = session.to_client, []
        if pieces:
            self.heard += b"".join(pieces)
            self._tells_nothing()
        sent, session.to_server = session.to_server, []
        self.to_server += sent
        state = session._state
        promise(len(state.pipeline) <= LIMITS.pending + 32, "the pipeline grows without end")
        promise(len(state.statements) <= LIMITS.statements + 2, "prepared statements without end")
        promise(len(state.portals) <= LIMITS.portals + 2, "portals without end")
        promise(session._frontend.buffered <= LIMITS.held_client + _LARGEST, "too much of the client is held")
        promise(session._backend.buffered <= LIMITS.held_server + _LARGEST, "too much of the server is held")

    def _tells_nothing(self) -> None:
        heard = self.heard
        start = max(0, self._at - _LARGEST)
        for column, value in CANARIES.items():
            if heard.find(value.encode(), start) >= 0:
                promise(self.login != "agent", "a value reaches a client that may not see it")
                promise(self.records.told(column), "a value leaves before its record is durable")
        self._at = len(heard)

    def answer(self) -> bool:
        """The well-behaved server answers what it was sent; whether it had anything to say."""
        sent, self.to_server = self.to_server, []
        said = self.model.receive(b"".join(sent))
        for text in self.model.committed:
            shape = self.judge.writes.get(text)
            promise(shape is None or self.records.started(shape), "a write is committed before its record is durable")
        self.model.committed.clear()
        self.from_server(said)
        if self.model.gone and self.session.closing is None and not self._from_server:
            self.session.server_eof()
            self.look()
        return bool(said or sent)

    def settle(self) -> None:
        """Everything that is on its way arrives."""
        self.stale = False
        self.records.prompt = self.calculator.prompt = True
        for _ in range(10_000):
            self.durable()
            self.move()
            if not self.answer() and not self.calculator.answer() and not self.to_server:
                break
        else:
            promise(False, "session and server talk without end")

    def durable(self) -> None:
        """The audit log has written everything."""
        self.records.durable = len(self.records.events)
        self.session.audit_durable(self.records.durable)
        self.look()


_LARGEST: Final = 70_000  # what an input may send at once


# -- the input -----------------------------------------------------------------------------------------------------------------------

(
    LISTED, CLIENT_SAYS, SERVER_LISTED, SERVER_SAYS, ANSWER, DURABLE, AUDIT_FAILS, AUDIT_DOWN, DELAYS, CALCULATED, CUT, CANCEL, END, CATALOG,
) = range(14)  # fmt: skip
_MOST_EVENTS: Final = 200


class Play:
    """One input at one table. `hostile`: the server says what the input says, and not only what it should."""

    def __init__(self, table: Table, server: tuple[bytes, ...], *, hostile: bool) -> None:
        self._table = table
        self._server = server
        self._hostile = hostile
        self.disturbed = False  # the audit log failed, or the client was cut off

    def run(self, cursor: Cursor) -> int:
        """How many events."""
        count = 0
        while not cursor.empty and count < _MOST_EVENTS and self._table.session.closing is None:
            count += 1
            self._event(cursor.byte() % 14, cursor)
        return count

    def _event(self, event: int, cursor: Cursor) -> None:
        table, session = self._table, self._table.session
        if event == LISTED:
            table.from_client(CLIENT[int.from_bytes(cursor.take(2), "big") % len(CLIENT)])
        elif event == CLIENT_SAYS:
            table.from_client(cursor.take(int.from_bytes(cursor.take(2), "big")))
        elif event == SERVER_LISTED and self._hostile:
            table.from_server(self._server[cursor.byte() % len(self._server)])
        elif event == SERVER_SAYS and self._hostile:
            table.from_server(cursor.take(int.from_bytes(cursor.take(2), "big")))
        elif event in (SERVER_LISTED, SERVER_SAYS, ANSWER):
            table.answer()
        elif event == DURABLE:
            table.durable()
        elif event == AUDIT_FAILS:
            self.disturbed = True
            session.audit_failed()
        elif event == AUDIT_DOWN:
            self.disturbed = True
            table.records.down = not table.records.down
        elif event == DELAYS:
            flags = cursor.byte()
            table.records.prompt, table.calculator.prompt, table.stale = not flags & 1, not flags & 2, bool(flags & 4)
        elif event == CALCULATED:
            table.calculator.troubled = cursor.byte() % 4
            table.calculator.answer()
        elif event == CUT:
            table.cut(cursor.byte())
        elif event == CANCEL:
            session.cancel(m.CancelRequest(7, b"key!" if cursor.byte() & 1 else b"none"))
        elif event == END and self._hostile:
            (session.client_eof if cursor.byte() & 1 else session.server_eof)()
        elif event == CATALOG and session.catalog_stale:
            (session.catalog_unreachable if cursor.byte() & 1 else session.catalog_refreshed)()
        table.look()


def _end(play: Play, table: Table) -> None:
    """The connection is over, however: every statement that started has ended."""
    table.records.down = False
    session = table.session
    session.client_eof()
    session.server_eof()
    session.abandoned()
    table.look()
    promise(session.closing is not None, "a session without peers goes on")
    promise(
        play.disturbed or not table.records.open_statements(), "a statement that started has no end in the audit log"
    )


def _session() -> Callable[[bytes], int]:
    ground = Ground()
    server = _server_messages(ground)

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        table = Table(ground, cursor.byte())
        play = Play(table, server, hostile=True)
        count = play.run(cursor)
        _end(play, table)
        return count or 1

    return run


def _talk() -> Callable[[bytes], int]:
    ground = Ground()

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        table = Table(ground, cursor.byte())
        play = Play(table, (), hostile=False)
        count = play.run(cursor)
        table.records.down = False
        table.settle()
        if table.session.closing is None:
            _comes_to_rest(table)
        _end(play, table)
        return count or 1

    return run


def _comes_to_rest(table: Table) -> None:
    """After a Sync (and the end of its COPY data) the client has all its answers, and as many as without pgveil."""
    said = _kinds(table.said, Direction.FRONTEND)
    if said is None or "X" in said:
        return  # a message was cut, or the client has said goodbye
    table.from_client(m.SYNC)
    table.settle()
    if table.model.copying:
        table.from_client(m.build_copy_fail(b"over") + m.SYNC)
        table.settle()
    session = table.session
    if session.closing is not None:
        return
    state = session._state
    promise(state.pipeline.idle, "something is never answered")
    promise(not state.recorded, "an execution is over and the audit log was not told")
    promise(not session._frontend.waiting and session.wants_client and session.wants_server, "the session is stuck")
    promise(not session._frontend.buffered and not session._backend.buffered, "bytes are left over")
    heard = _kinds(table.heard, Direction.BACKEND)
    promise(heard is not None and heard.endswith("Z"), "the client does not hear that the server is ready")
    alone = Model({})
    direct = alone.receive(table.said)
    if table.model.copied or alone.copied:
        return  # of the Syncs that were sent meanwhile nobody can say which ones count
    refused = bool(table.records.events or table.counter.reasons or table.model.refused)
    # Behind a refused message a Query of the same batch is ignored, as behind any error; the server alone knows of no refusal.
    if not refused or not _QUERY_IN_BATCH.search(said):
        promise(
            heard is not None and heard.count("Z") == 1 + alone.readies,
            "another number of ReadyForQuery than without pgveil",
        )
    if not refused and not table.results:
        promise(table.heard == START + direct, "what touches nothing protected is not as without pgveil")


def _kinds(data: bytes, direction: Direction) -> str | None:
    """The kinds of all messages; None where the last one is cut."""
    framer = Framer(direction, interpret=_ALL)
    framer.feed(data)
    found = ""
    while (event := framer.next_event()) is not None:
        assert isinstance(event, Message)
        found += chr(event.kind)
    return None if framer.buffered else found


# -- seeds ---------------------------------------------------------------------------------------------------------------------------


def listed(*messages: bytes) -> bytes:
    """Messages of the client's list, as events."""
    return b"".join(bytes((LISTED,)) + CLIENT.index(message).to_bytes(2, "big") for message in messages)


def says(side: int, data: bytes) -> bytes:
    """Bytes of a side's own, as an event."""
    return bytes((side,)) + len(data).to_bytes(2, "big") + data


_ANSWER: Final = bytes((ANSWER,))


# First bytes of inputs: who has logged in, and whether there is a calculator.
_TELLER, _TELLER_COMPUTES, _AGENT = 0, 18, 1


def _seeds() -> Iterator[bytes]:
    parse = {text: m.build_parse(b"s", text.encode(), (23, 1043)) for text in TEXTS}
    unnamed = {text: m.build_parse(b"", text.encode()) for text in TEXTS}
    bind, describe, execute = (
        m.build_bind(b"", b"s", (), (b"1",), ()),
        m.build_describe(b"S", b"s"),
        m.build_execute(b"", 0),
    )
    for number, text in enumerate(TEXTS):
        simple = listed(m.build_query(text.encode())) + _ANSWER * 3
        extended = listed(parse[text], describe, bind, execute, m.SYNC) + _ANSWER * 3
        pipeline = listed(unnamed[text], m.build_bind(b"", b""), execute, bind, execute, m.SYNC) + _ANSWER * 2
        flags = number % 3 + 16 * (number % 2)
        yield bytes((flags,)) + simple + extended
        for who in (_TELLER, _TELLER_COMPUTES, _AGENT):
            yield bytes((who, DELAYS, 1 + number % 3)) + simple + bytes((DURABLE, CALCULATED, 0)) + _ANSWER
            yield bytes((who, DELAYS, 1)) + extended + bytes((DURABLE,)) + _ANSWER
        yield (
            bytes((16,))
            + listed(m.build_query(b"begin"))
            + _ANSWER
            + pipeline
            + bytes((CANCEL, 1))
            + listed(m.build_query(b"rollback"))
            + _ANSWER
        )
        yield bytes((flags, CUT, 3)) + extended + bytes((AUDIT_DOWN, AUDIT_FAILS)) + simple
    data = listed(m.build_copy_data(b"1\t4000123412341234\n"), m.COPY_DONE)
    for text in TEXTS:
        if text.startswith("copy"):
            yield bytes((0,)) + listed(m.build_query(text.encode())) + _ANSWER * 2 + data + _ANSWER
            yield (
                bytes((1,))
                + listed(unnamed[text], m.build_bind(b"", b""), execute)
                + _ANSWER * 2
                + data
                + listed(m.SYNC)
                + _ANSWER
            )


def _hostile_seeds() -> Iterator[bytes]:
    yield from _seeds()
    for text in range(len(TEXTS)):
        for first in range(0, 60, 7):
            said = bytes(b for n in range(first, first + 7) for b in (SERVER_LISTED, n))
            yield (
                bytes((text % 3 + 16 * (text % 2),))
                + listed(m.build_query(TEXTS[text].encode()))
                + _ANSWER
                + said
                + bytes((END, first & 1))
            )


TARGETS: Final = (
    Target(
        "session",
        "a session whose client and server may both say anything",
        _session,
        _hostile_seeds,
        longest=4096,
        blind=100,
    ),
    Target(
        "talk",
        "a session whose client may say anything and whose server is well-behaved",
        _talk,
        _seeds,
        longest=4096,
        blind=100,
    ),
)
