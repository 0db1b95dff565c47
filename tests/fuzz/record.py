"""Records what real programs say to a real server through a session, as seeds for the fuzzer: `python -m tests.fuzz.record`.

psql, pgbench, psycopg, SQLAlchemy and asyncpg log in by SCRAM and talk to an embedded PostgreSQL, each conversation on a connection of its own.
Between them stands what a worker of pgveil is made of (greeting, authentication, session, gate), with the bank's rules and the fuzzer's own keys.
Every value is made up. Written are

    seeds/login/NAME.bin      the dialogue up to AuthenticationOk, and cancel requests
    seeds/session/NAME.bin    what follows: client and server in the order in which the session heard them

Table OIDs are changed to those of the tests' catalog, so that recordings mean there what they meant here. tests/fuzz/test_recorded.py plays each
one again: its session has to come to rest. Record again (the old files go) when the session asks the server other questions than before.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import psycopg
import sqlalchemy

from lifecycle.demo.postgres import Postgres
from proxy.errors import PgveilError
from proxy.session.handshake import Authentication, BeginTls, Greeting, Login, Send
from proxy.session.session import Session
from proxy.session.trail import Identity
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Framer, Message
from tests.fuzz.ground import LOGINS, Ground, Records
from tests.fuzz.sessions import CLIENT_SAYS, SERVER_SAYS, says
from tests.fuzz.target import SEEDS
from tests.fuzz.wire import SIDES, joined
from tests.rules.test_decisions_golden import bank_catalog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_ALL: Final = frozenset(range(256))
_PASSWORD: Final = "made-up"
_HBA: Final = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
_MOST: Final = 12_000  # bytes of one recording; longer ones are cut behind a message
_CLIENT, _SERVER = SIDES


class Recording:
    """What one connection's two sides said."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.login: list[tuple[int, bytes]] = []
        self.session: list[tuple[int, bytes]] = []
        self.who = 0

    def write(self) -> None:
        """As seeds."""
        (SEEDS / "login").mkdir(parents=True, exist_ok=True)
        (SEEDS / "session").mkdir(parents=True, exist_ok=True)
        (SEEDS / "login" / f"{self.name}.bin").write_bytes(b"\0" + joined(self.login))
        if not self.session:
            return
        events = bytes((self.who,))
        for side, data in self.session:
            event = says(CLIENT_SAYS if side == _CLIENT else SERVER_SAYS, data)
            if len(events) + len(event) > _MOST:
                break
            events += event
        (SEEDS / "session" / f"{self.name}.bin").write_bytes(events)


class Tape:
    """A listener that joins clients, sessions and the server, and records. It has a thread and a loop of its own."""

    def __init__(self, server: Postgres, oids: dict[int, int]) -> None:
        self._server = server
        self._oids = oids
        self._ground = Ground()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self.name = ""
        self.recordings: list[Recording] = []
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError

    def stop(self) -> None:
        """No more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        listener = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = listener.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recording = Recording(f"{self.name}-{sum(r.name.startswith(self.name + '-') for r in self.recordings)}")
        self.recordings.append(recording)
        with contextlib.suppress(ConnectionError, PgveilError, asyncio.CancelledError):
            await self._serve(recording, reader, writer)
        writer.close()

    async def _serve(self, recording: Recording, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = Greeting(tls=False)
        login: Login | None = None
        while login is None:
            step = greeting.next_step()
            if step is None:
                data = await reader.read(65536)
                if not data:
                    return
                recording.login.append((_CLIENT, data))
                greeting.feed(data)
            elif isinstance(step, Send):
                writer.write(step.data)
            elif isinstance(step, m.CancelRequest):
                _, down = await asyncio.open_connection(self._server.host, self._server.port)
                down.write(step.build())
                await down.drain()
                down.close()
                return
            elif isinstance(step, Login):
                login = step
            else:
                assert not isinstance(step, BeginTls)
        up, down = await asyncio.open_connection(self._server.host, self._server.port)
        dialogue = Authentication(login)
        await self._log_in(recording, dialogue, (reader, writer), (up, down))
        if dialogue.done:
            recording.who = LOGINS.index(login.user)
            await self._talk(recording, login, dialogue, (reader, writer), (up, down))
        down.close()

    async def _log_in(
        self,
        recording: Recording,
        dialogue: Authentication,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        while True:
            for pieces, writer in ((dialogue.to_client, client[1]), (dialogue.to_server, server[1])):
                writer.writelines(pieces)
                pieces.clear()
            if dialogue.done or dialogue.rejected is not None:
                return
            side, data = await _either(client[0], server[0])
            if not data:
                return
            recording.login.append((side, data))
            (dialogue.client_received if side == _CLIENT else dialogue.server_received)(data)

    async def _talk(
        self,
        recording: Recording,
        login: Login,
        dialogue: Authentication,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        session = Session(
            judge=self._ground.gates[0],
            codec=self._ground.values,
            identity=Identity(login.user, "bank", "192.0.2.1:5", "recorded", "c1"),
            recorder=Records(),
            clock=self._loop.time,
        )
        renumber = _Renumbering(self._oids)

        def server_said(data: bytes) -> None:
            data = renumber.take(data)
            if session.started and data:
                recording.session.append((_SERVER, data))
            session.server_received(data)

        def client_said(data: bytes) -> None:
            recording.session.append((_CLIENT, data))
            session.client_received(data)

        unread_client, unread_server = dialogue.unread
        server_said(unread_server)
        if unread_client:
            client_said(unread_client)
        while session.closing is None:
            if session.catalog_stale:
                session.catalog_refreshed()
            for pieces, writer in ((session.to_client, client[1]), (session.to_server, server[1])):
                writer.writelines(pieces)
                pieces.clear()
            side, data = await _either(client[0], server[0])
            if not data:
                return
            (client_said if side == _CLIENT else server_said)(data)
        client[1].writelines(session.to_client)


async def _either(client: asyncio.StreamReader, server: asyncio.StreamReader) -> tuple[int, bytes]:
    """What comes first, of whom."""
    reads = {asyncio.ensure_future(client.read(65536)): _CLIENT, asyncio.ensure_future(server.read(65536)): _SERVER}
    done, waiting = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
    first = next(iter(done))
    for read in waiting:
        read.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await read
    if len(done) > 1:
        # Both at once: one is put back in front of what its reader will give next.
        other = next(read for read in done if read is not first)
        reader = client if reads[other] == _CLIENT else server
        reader._buffer[:0] = other.result()  # type: ignore[attr-defined]
    return reads[first], first.result()


class _Renumbering:
    """A server's stream, cut behind whole messages, with the tables' OIDs in RowDescriptions changed."""

    def __init__(self, oids: dict[int, int]) -> None:
        self._oids = oids
        self._framer = Framer(Direction.BACKEND, interpret=_ALL)

    def take(self, data: bytes) -> bytes:
        """The messages that are whole with these bytes."""
        self._framer.feed(data)
        out = b""
        while (event := self._framer.next_event()) is not None:
            assert isinstance(event, Message)
            raw = event.raw
            if event.kind == m.Back.ROW_DESCRIPTION:
                fields = m.parse_row_description(event.body)
                raw = m.build_row_description(
                    tuple(field._replace(table=self._oids.get(field.table, field.table)) for field in fields)
                )
            out += raw
        return out


# -- the bank ----------------------------------------------------------------------------------------------------------------------------


def _make_bank(server: Postgres) -> dict[int, int]:
    """The tables of the tests' catalog with a few rows; the OIDs there by those here."""
    ground = Ground()
    sealed = {(name.relation.name, name.column): value.decode() for name, value in ground.sealed.items()}
    agent = ground.gates[0].principal("agent").policy.schema
    with psycopg.connect(server.dsn(), autocommit=True) as made:
        for login in LOGINS:
            made.execute(f"create role {login} login password '{_PASSWORD}'")
        made.execute("create database bank owner owner")
    with psycopg.connect(server.dsn("bank"), autocommit=True) as made:
        made.execute("set role owner")
        made.execute("create table customers (id int, name text, phone text, id_number text, notes text)")
        made.execute("create table cards (id int, customer_id int, pan text, cvv text, credit text, kind text)")
        made.execute("create table payments (id int, pan text, amount int)")
        made.execute("create table orders (id int, customer_id int, item text)")
        made.execute("create view v_cards as select cards.id, cards.pan from public.cards where cards.kind = 'x'")
        made.execute(
            "insert into customers select i, 'Ann ' || i, '1380013800' || i, %s, 'tall' from generate_series(1, 3) i",
            (sealed["customers", "id_number"],),
        )
        made.execute(
            "insert into cards select i, i, %s, %s, %s, 'x' from generate_series(1, 3) i",
            tuple(sealed["cards", c] for c in ("pan", "cvv", "credit")),
        )
        made.execute("insert into payments values (1, %s, 7)", (sealed["payments", "pan"],))
        made.execute("insert into orders select i, i, repeat('item ', i) from generate_series(1, 9) i")
        made.execute("grant all on all tables in schema public to teller")
        made.execute("grant select (id, id_number, notes) on customers to agent")
        made.execute("grant select on cards, payments, orders, v_cards to agent")
        made.execute("grant create on schema public to teller")
        made.execute("reset role")
        made.execute(f"create schema {agent}")
        made.execute(
            f"create view {agent}.customers as select id, 'A** *' as name, '138****8000' as phone, id_number, notes from public.customers"
        )
        made.execute(f"grant usage on schema {agent} to agent")
        made.execute(f"grant select on {agent}.customers to agent")
        known = {tuple(relation.name): relation.oid for relation in bank_catalog().relations.values()}
        rows = made.execute(
            "select c.oid, n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        ).fetchall()
    here = {oid: known[schema, name] for oid, schema, name in rows if (schema, name) in known}
    assert len(here) >= 6
    return here  # fmt: skip


# -- the programs --------------------------------------------------------------------------------------------------------------------


def _dsn(port: int, user: str) -> str:
    return f"postgresql://{user}:{_PASSWORD}@127.0.0.1:{port}/bank?sslmode=disable&connect_timeout=10"


def _psql(server: Postgres, port: int, user: str, *commands: str) -> None:
    line = [str(server.bin_dir / "psql"), "-X", "-q", _dsn(port, user)]
    for command in commands:
        line += ["-c", command]
    subprocess.run(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False, timeout=30
    )


def _pgbench(server: Postgres, port: int, mode: str) -> None:
    script = server.root / "bench.sql"
    script.write_text("\\set i 1\nselect id, pan from cards where id = :i;\nselect item from orders where id = :i;\n")
    line = [str(server.bin_dir / "pgbench"), "-n", "-t", "2", "-M", mode, "-f", str(script), _dsn(port, "teller")]
    subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=30)


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(psycopg.Error):
        action()


def _psycopg_conversations() -> dict[str, Callable[[psycopg.Connection[Any]], object]]:
    card = "4000123412341234"

    def copy_out(c: psycopg.Connection[Any], text: str) -> None:
        with c.cursor().copy(text) as copy:
            list(copy)

    def copy_in(c: psycopg.Connection[Any], text: str, data: bytes) -> None:
        with c.cursor().copy(text) as copy:
            copy.write(data)

    def pipeline(c: psycopg.Connection[Any]) -> None:
        with c.pipeline():
            c.execute("select id, pan from cards where pan = %s", (card,))
            c.execute("insert into cards (id, pan) values (%s, %s)", (8, card))
            c.execute("select nothing from orders")
            c.execute("select 1")

    def cursor(c: psycopg.Connection[Any]) -> None:
        with c.transaction(), c.cursor("cur") as found:
            found.execute("select id, pan from cards")
            found.fetchmany(2)

    def canceled(c: psycopg.Connection[Any]) -> None:
        threading.Timer(0.5, lambda: c.cancel_safe(timeout=5)).start()
        c.execute("select pg_sleep(20)")

    def listening(c: psycopg.Connection[Any]) -> None:
        c.execute("listen n")
        c.execute("notify n, 'x'")
        list(c.notifies(timeout=1, stop_after=1))

    def rolled_back(c: psycopg.Connection[Any]) -> None:
        with c.transaction():
            c.execute("update cards set pan = %s where id = 1", (card,))
            c.execute("select 1/0")

    return {
        "select": lambda c: c.execute("select id, pan, cvv, credit from cards order by id").fetchall(),
        "parameter": lambda c: c.execute("select pan from cards where id = %s", (1,)).fetchall(),
        "search": lambda c: c.execute("select id from cards where pan = %s", (card,)).fetchall(),
        "binary": lambda c: c.cursor(binary=True).execute("select id, pan, credit from cards").fetchall(),
        "prepared": lambda c: [c.execute("select pan from cards where id = %s", (i,), prepare=True).fetchall() for i in (1, 2)],
        "masked": lambda c: c.execute("select name, phone, id_number from customers").fetchall(),
        "view": lambda c: c.execute("select * from v_cards").fetchall(),
        "empty": lambda c: c.execute(""),
        "refused": lambda c: c.execute("select upper(pan) from cards").fetchall(),
        "error": lambda c: c.execute("select nothing from orders").fetchall(),
        "insert": lambda c: c.execute("insert into cards (id, pan, cvv) values (%s, %s, '737') returning pan", (9, card)).fetchall(),
        "many": lambda c: c.cursor().executemany("insert into payments (id, pan) values (%s, %s)", [(1, card), (2, card)]),
        "large": lambda c: c.execute("select repeat('x', 1500), pan from cards where id < 3").fetchall(),
        "rows": lambda c: c.execute("select g, repeat('y', 20) from generate_series(1, 60) g").fetchall(),
        "settings": lambda c: c.execute("set search_path = public, pg_temp; set datestyle = german; select pan from cards").nextset(),
        "copyout": lambda c: copy_out(c, "copy cards (id, pan) to stdout"),
        "copybinary": lambda c: copy_out(c, "copy (select id, pan from cards) to stdout with (format binary)"),
        "copyplain": lambda c: copy_out(c, "copy orders to stdout"),
        "copyin": lambda c: copy_in(c, "copy cards (id, pan) from stdin", b"7\t4000123412341234\n8\t\\N\n"),
        "copycsv": lambda c: copy_in(c, "copy cards (id, pan, cvv) from stdin with (format csv, header)", b'id,pan,cvv\n7,"4000123412341234",737\n'),
        "copybad": lambda c: copy_in(c, "copy cards (id, pan) from stdin", b"7\tx\ty\n"),
        "pipeline": pipeline,
        "cursor": cursor,
        "cancel": canceled,
        "listen": listening,
        "rollback": rolled_back,
        "ddl": lambda c: c.execute("create table extra (a int); drop table extra"),
    }  # fmt: skip


async def _asyncpg(port: int, user: str, action: Callable[[Any], Awaitable[object]]) -> None:
    connection = await asyncpg.connect(
        host="127.0.0.1", port=port, user=user, password=_PASSWORD, database="bank", ssl=False
    )
    try:
        with contextlib.suppress(asyncpg.PostgresError):
            await action(connection)
    finally:
        await connection.close(timeout=5)


def _asyncpg_conversations() -> dict[str, Callable[[Any], Awaitable[object]]]:
    async def cursor(c: Any) -> None:
        async with c.transaction():
            async for _ in c.cursor("select id, pan from cards", prefetch=2):
                pass

    async def copied(c: Any) -> None:
        await c.copy_from_query("select id, pan from cards", output=_nothing)

    return {
        "fetch": lambda c: c.fetch("select id, pan, credit from cards where id = $1", 1),
        "again": lambda c: c.executemany("insert into payments (id, pan) values ($1, $2)", [(1, "4000123412341234"), (2, "4000123412341234")]),
        "script": lambda c: c.execute("begin; select 1; select pan from cards; rollback"),
        "error": lambda c: c.fetch("select nothing from orders where id = $1", 1),
        "cursor": cursor,
        "copy": copied,
    }  # fmt: skip


async def _nothing(data: bytes) -> None:
    """Takes what was copied."""


def _converse(server: Postgres, tape: Tape) -> None:
    """Every conversation of every program."""
    for name, talk in _psycopg_conversations().items():
        for user in LOGINS[:2]:
            tape.name = f"psycopg-{name}-{user}"
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(_dsn(tape.port, user), autocommit=True) as connection,
            ):
                talk(connection)
    for name, ask in _asyncpg_conversations().items():
        tape.name = f"asyncpg-{name}"
        asyncio.run(_asyncpg(tape.port, "teller", ask))
    tape.name = "asyncpg-masked"
    asyncio.run(_asyncpg(tape.port, "agent", lambda c: c.fetch("select phone, id_number from customers")))
    for mode in ("simple", "extended", "prepared"):
        tape.name = f"pgbench-{mode}"
        _pgbench(server, tape.port, mode)
    tape.name = "psql-script"
    _psql(
        server,
        tape.port,
        "teller",
        "select id, pan from cards",
        "select 1; select pan from cards",
        "begin; rollback",
        "select x from cards",
    )
    tape.name = "psql-bind"
    _psql(
        server,
        tape.port,
        "agent",
        "select pan from cards where id = 1",
        "\\copy cards (id, pan) to /dev/null",
        "\\d cards",
    )
    tape.name = "psql-names"
    _psql(
        server,
        tape.port,
        "teller",
        "prepare p as select pan from cards where id = $1",
        "execute p(1)",
        "begin",
        "declare c cursor for select pan from cards",
        "fetch 2 from c",
        "commit",
    )
    tape.name = "sqlalchemy"
    engine = sqlalchemy.create_engine(_dsn(tape.port, "teller").replace("postgresql:", "postgresql+psycopg:"))
    with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), engine.begin() as connection:
        connection.execute(sqlalchemy.text("select id, pan from cards where id = :id"), {"id": 1}).fetchall()
        connection.execute(
            sqlalchemy.text("insert into cards (id, pan) values (:id, :pan)"), {"id": 5, "pan": "4000123412341234"}
        )
    engine.dispose()
    tape.name = "wrong"
    with contextlib.suppress(psycopg.Error):
        psycopg.connect(_dsn(tape.port, "teller").replace(_PASSWORD, "wrong")).close()


def main() -> int:
    for folder in ("login", "session"):
        for old in (SEEDS / folder).glob("*.bin"):
            old.unlink()
    with Postgres.make(
        "16", hba=_HBA, settings={"password_encryption": "scram-sha-256", "autovacuum": "off"}
    ) as server:
        tape = Tape(server, _make_bank(server))
        try:
            _converse(server, tape)
        finally:
            tape.stop()
    for recording in tape.recordings:
        recording.write()
    sizes = [path.stat().st_size for path in SEEDS.glob("*/*.bin")]
    print(f"{len(tape.recordings)} connections, {len(sizes)} files, {sum(sizes):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
