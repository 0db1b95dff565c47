"""Logins that are cut, or stall, at each message of each method, by the client and by the server: nothing of them is left on either side.

pgveil runs in earnest, its catalog on a real server; the server that clients log in to is a script, so that it can stop anywhere. Its leg has
TLS in all of them; each is played by a client without TLS and by one with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from struct import pack
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire import messages as m
from tests.e2e.world import write_certificate
from tests.faults.dam import UP, Dam
from tests.faults.ground import until
from tests.faults.lines import Line
from tests.faults.scripted import DIALOGUES, Broken, Case, How, Scripted, cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.ground import Ground

PLACES = 24  # limits.connections; cases run in smaller batches
BATCH = 16


async def log_in(port: int, case: Case) -> tuple[bytes, Line | None]:
    """Play the client. What it was sent, and its connection where the login came to its end."""
    line = await Line.to(port)
    if case.tls:
        await line.secure()
    startup = m.Startup(m.PROTOCOL_3_0, ((b"user", case.login.encode()), (b"database", b"postgres"))).build()
    got = b""
    for at, (side, data) in enumerate(DIALOGUES[case.method]):
        ends = case.at == at and case.side == "C"
        if side == "S":
            part = await line.read(len(data))
            got += part
            if part != data:
                got += await line.read()
                break
            continue
        if ends and case.how is How.STALLS:
            got += await line.read()
            break
        words = data or startup
        if ends and case.how is How.TORN:
            await line.send_torn(words)
        else:
            await line.send(words[: len(words) // 2] if ends and case.how is How.HALF else words)
        if ends:
            break
    else:
        if case.at < 0:
            return got, line
        got += await line.read()
    line.abort()
    return got, None


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for what becomes true in a moment, while the scripted server goes on."""
    for _ in range(600):
        if await asyncio.to_thread(holds):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


async def cut_in_tls(port: int, *, hello: bytes, stall: bool) -> bytes:
    """A client that asks pgveil for TLS and ends in the middle of it."""
    line = await Line.to(port)
    await line.send(m.SSL_REQUEST_PACKET)
    got = await line.read(1)
    await line.send(hello)
    if stall:
        got += await line.read()
    line.abort()
    return got


async def play(port: int, batch: Sequence[Case]) -> None:
    """Some logins at once, none of which comes to its end."""
    for case, (got, line) in zip(batch, await asyncio.gather(*(log_in(port, c) for c in batch)), strict=True):
        assert line is None, case
        assert b"Z" + pack("!i", 5) + b"I" not in got, f"{case}: it was told that it is logged in"
        assert case.says(got), f"{case}: {got!r}"


@pytest.fixture
def other(tls_ground: Ground, tmp_path: Path) -> Iterator[Ground]:
    """Its catalog is on a server with TLS: what holds for clients' connections holds for pgveil's own."""
    made = tls_ground.beside(tmp_path / "beside")
    made.tls = False  # `configure` below says it all
    write_certificate(tmp_path)
    yield made
    made.stop()


def configure(other: Ground, directory: Path, port: int) -> None:
    """One worker before the scripted server, with TLS on both sides and a few places."""
    pair = f"certificate: {directory}/server.crt, key: {directory}/server.key"
    other.configure(
        workers=1,
        server=f"hosts: 127.0.0.1:{port}",
        more=f"limits: {{connections: {PLACES}, connections_per_login: 1, authentication_seconds: 3, close_seconds: 1}}\n"
        f"tls: {{{pair}}}\n",
    )
    text = other.config.read_text()
    own = f"  sslmode: require\n  certificate: {directory}/server.crt\n  key: {directory}/server.key\n"
    other.config.write_text(text.replace("  sslmode: disable\n", own, 1))


async def test_no_login_that_ends_early_leaves_anything(other: Ground, tmp_path: Path) -> None:
    # Those that wait for pgveil's limit wait together.
    everything = sorted(cases(), key=lambda case: case.waits)
    broken = [
        Case(500 + n, "trust", n % 2 > 0, broken=how) for n, how in enumerate(b for b in Broken for _ in range(2))
    ]
    good = [Case(1000 + n, "scram-plus" if n % 2 else "scram", n % 2 > 0) for n in range(PLACES + 1)]
    scripted = Scripted(tmp_path, {case.login: case for case in (*everything, *broken, *good)})
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    configure(other, tmp_path, server.sockets[0].getsockname()[1])
    await asyncio.to_thread(other.start)
    for first in range(0, len(everything), BATCH):
        await play(other.port, everything[first : first + BATCH])
    for scripted.broken in Broken:
        await play(other.port, [case for case in broken if case.broken is scripted.broken])
    scripted.broken = None
    begun = b"\x16\x03\x01\x02\x00\x01\x00"
    for hello in (b"", begun, b"nonsense of a client"):
        await cut_in_tls(other.port, hello=hello, stall=False)
    assert await cut_in_tls(other.port, hello=begun, stall=True) == b"S"

    # Nothing of it is left: no connection to the server, no session, no record of a success; and each failure is told of once.
    asked = [case for case in (*everything, *broken) if case.asked]
    failed = [case for case in asked if not case.abandoned]
    await eventually(lambda: scripted.open == 0, "the server has no connection any more")
    await eventually(lambda: other.metric("pgveil_connections") == 0, "no session is left")
    await eventually(lambda: other.metric("pgveil_logins_failed_total") == len(failed), "each failure is counted")
    abandoned = len(asked) - len(failed)
    await eventually(lambda: other.metric("pgveil_logins_abandoned_total") == abandoned, "and each that only asked")
    wanted = Counter((case.login, "TLS" if case.tls else None) for case in failed)
    await eventually(lambda: recorded(other, "login_failed") == wanted, "each is recorded")
    assert not recorded(other, "login")
    assert not [r for r in other.records() if r["kind"] == "logout"]
    assert scripted.logins == Counter(case.login for case in everything if case.asked)

    # Every place is free, and no more than there are.
    await fill(other, good)
    await eventually(lambda: other.metric("pgveil_connections") == 0, "they have gone")
    await eventually(lambda: scripted.open == 0, "on the other side, too")
    await eventually(lambda: sum(r["kind"] == "logout" for r in other.records()) == PLACES, "each is recorded")
    assert recorded(other, "login") == Counter((case.login, "TLS" if case.tls else None) for case in good[:PLACES])
    assert recorded(other, "login_failed").total() == len(failed) + 2
    server.close()


def recorded(other: Ground, kind: str) -> Counter[tuple[str, str | None]]:
    """Records of a kind by login and TLS."""
    return Counter((r["login"], r.get("tls")) for r in other.records() if r["kind"] == kind)


async def fill(other: Ground, good: Sequence[Case]) -> None:
    """Take every place; then neither a login that has its own nor another one gets a further one."""
    standing = []
    try:
        for case in good[:PLACES]:
            got, line = await log_in(other.port, case)
            assert line is not None, got
            standing.append(line)
            if case is good[0]:
                got, _ = await log_in(other.port, case)
                assert b"C53300" in got
                assert b"too many connections for role" in got
        got, _ = await log_in(other.port, good[PLACES])
        assert b"C53300" in got
        assert b"too many clients" in got
        assert other.metric("pgveil_connections") == PLACES
    finally:
        for line in standing:
            line.abort()


WATCHER = """
DO $$ BEGIN CREATE ROLE watcher LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""


@pytest.mark.parametrize(
    ("stalls", "told", "sqlstate"),
    [(False, "can't read the database's catalog", "08001"), (True, "the login took too long", None)],
)
def test_a_login_that_fails_behind_the_server_s_ok_has_its_record(
    ground: Ground, tmp_path: Path, stalls: bool, told: str, sqlstate: str | None
) -> None:
    """The server has let the client in. pgveil's own login is not let into that database, or is not answered."""
    other = ground.beside(tmp_path / "beside")
    database = ground.pg.create_database()
    ground.pg.psql(WATCHER, database)
    ground.pg.psql(
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO app", database
    )
    with Dam(ground.pg.port) as dam:
        other.configure(
            workers=1,
            dsn=f"postgresql://watcher@127.0.0.1:{dam.port}/{ground.database}",
            more=f"limits: {{authentication_seconds: {2 if stalls else 60}, close_seconds: 1}}\n",
        )
        other.start()
        try:
            if stalls:
                dam.hold(UP, 0)
            dsn = f"postgresql://app@127.0.0.1:{other.port}/{database}?sslmode=disable"
            with pytest.raises(psycopg.OperationalError, match=told):
                psycopg.connect(dsn)
            until(lambda: other.metric("pgveil_logins_failed_total") > 0, "it is counted")
            dam.release()
        finally:
            other.stop()
    records = [r for r in other.records() if r.get("database") == database and r["kind"] != "catalog"]
    assert [(r["kind"], r["login"], r["sqlstate"]) for r in records] == [("login_failed", "app", sqlstate)]
    other.verify_audit()
