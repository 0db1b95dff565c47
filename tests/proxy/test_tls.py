"""TLS on both legs: who may connect how, what is verified, and what becomes of channel binding."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from struct import pack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.config import Address, Server, Tls
from proxy.errors import ConfigError
from proxy.relay import Leg, LegClosed
from proxy.services import Unprotected
from proxy.tls import ALPN, Encryption, client_side, ladder, server_side
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from proxy.server import Worker
    from proxy.session.link import SessionContext, SessionLike
    from tests.proxy.conftest import Certificates

    MakeWorker = Callable[..., Awaitable[Worker]]

PASSWORD = "correct horse"


async def ask(worker: Worker, user: str = "postgres", **options: Any) -> str:
    """The client's and the server's view of encryption, "t/f", over a connection of the newest libpq."""
    async with await psycopg.AsyncConnection.connect(
        host="localhost",
        port=worker.port,
        user=user,
        dbname="postgres",
        connect_timeout=10,
        gssencmode="disable",
        **options,
    ) as connection:
        row = await (await connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).fetchone()
        assert row is not None
        client = "t" if connection.pgconn.ssl_in_use else "f"
        return f"{client}/{'t' if row[0] else 'f'}"


def to_server(pg: Postgres, sslmode: str, **more: Any) -> Server:
    return Server(hosts=(Address("localhost", pg.port),), sslmode=sslmode, **more)


@pytest.fixture
def client_tls(certificates: Any) -> Tls:
    return Tls(certificate=certificates.proxy.certificate, key=certificates.proxy.key)


# -- the ladder ----------------------------------------------------------------------------------------------------------------------


def test_ladders() -> None:
    plain, offered, tls = Encryption.PLAIN, Encryption.OFFERED, Encryption.TLS
    assert ladder("disable", unix=False) == (plain,)
    assert ladder("allow", unix=False) == (plain, tls)
    assert ladder("prefer", unix=False) == (offered, plain)
    assert {ladder(mode, unix=False) for mode in ("require", "verify-ca", "verify-full")} == {(tls,)}
    assert {ladder(mode, unix=True) for mode in ("disable", "prefer", "verify-full")} == {(plain,)}


@pytest.mark.parametrize(
    ("sslmode", "user", "seen"),
    [
        ("disable", "plain_user", "f/f"),
        ("disable", "tls_user", None),
        ("allow", "plain_user", "f/f"),
        ("allow", "tls_user", "f/t"),
        ("prefer", "plain_user", "f/f"),
        ("prefer", "tls_user", "f/t"),
        ("prefer", "postgres", "f/t"),
        ("require", "plain_user", None),
        ("require", "tls_user", "f/t"),
    ],
)
async def test_sslmode_climbs_as_libpq_does(
    tls_pg: Postgres, worker_for: MakeWorker, sslmode: str, user: str, seen: str | None
) -> None:
    worker = await worker_for(server=to_server(tls_pg, sslmode))
    if seen is None:
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            await ask(worker, user)
    else:
        assert await ask(worker, user) == seen


async def test_prefer_goes_on_in_plain_where_there_is_no_tls(pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(server=to_server(pg, "prefer"))
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port)) as connection:
        await connection.execute("SELECT 1")
    worker = await worker_for(server=to_server(pg, "require"))
    with pytest.raises(psycopg.OperationalError, match="does not support TLS"):
        await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port))


@pytest.mark.parametrize(
    ("sslmode", "root", "host", "fits"),
    [
        ("require", None, "127.0.0.1", True),
        ("require", "other", "127.0.0.1", False),  # as in libpq: an authority's file makes require verify
        ("verify-ca", "ours", "127.0.0.1", True),
        ("verify-ca", "other", "127.0.0.1", False),
        ("verify-full", "ours", "localhost", True),
        ("verify-full", "ours", "127.0.0.1", True),
        ("verify-full", "other", "localhost", False),
    ],
)
async def test_what_is_verified(
    tls_pg: Postgres, worker_for: MakeWorker, certificates: Any, sslmode: str, root: str | None, host: str, fits: bool
) -> None:
    file: Path | None = {None: None, "ours": certificates.authority, "other": certificates.other_authority}[root]
    server = Server(hosts=(Address(host, tls_pg.port),), sslmode=sslmode, root_certificate=file)
    worker = await worker_for(server=server)
    if fits:
        assert await ask(worker) == "f/t"
    else:
        with pytest.raises(psycopg.OperationalError, match="certificate is of an authority that pgveil does not know"):
            await ask(worker)


async def test_verify_full_wants_the_hosts_name_and_verify_ca_does_not(
    certificates: Any, worker_for: MakeWorker
) -> None:
    """A server that shows a good certificate of another host."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        try:
            await writer.start_tls(context)
        except OSError:
            writer.close()
            return
        await reader.read(1000)
        writer.write(m.AUTHENTICATION_OK + m.build_ready(b"I"))
        await reader.read()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.elsewhere.certificate, certificates.elsewhere.key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    seen = {}
    for sslmode in ("verify-ca", "verify-full"):
        settings = Server(hosts=(address,), sslmode=sslmode, root_certificate=certificates.authority)
        worker = await worker_for(server=settings)
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"x"),)).build())
        seen[sslmode] = (await reader.readexactly(1)).decode()
        writer.close()
    assert seen == {"verify-ca": "R", "verify-full": "E"}
    server.close()


async def test_a_certificate_is_shown_to_the_server(
    tls_pg: Postgres, worker_for: MakeWorker, certificates: Any
) -> None:
    pair = certificates.client
    worker = await worker_for(server=to_server(tls_pg, "require", certificate=pair.certificate, key=pair.key))
    assert await ask(worker, "cert_user") == "f/t"
    worker = await worker_for(server=to_server(tls_pg, "require"))
    with pytest.raises(psycopg.OperationalError, match="client certificate"):
        await ask(worker, "cert_user")


async def test_bytes_stuffed_behind_the_servers_answer_are_refused(worker_for: MakeWorker) -> None:
    async def stuffing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S" + m.AUTHENTICATION_OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stuffing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = await worker_for(server=Server(hosts=(Address("127.0.0.1", port),), sslmode="require"))
    with pytest.raises(psycopg.OperationalError, match="answered a request for TLS with something else"):
        await ask(worker)
    server.close()


# -- clients -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
async def test_clients_use_tls(
    pg: Postgres, worker_for: MakeWorker, certificates: Any, client_tls: Tls, negotiation: str
) -> None:
    contexts: list[SessionContext] = []

    class Watching(Unprotected):
        async def connect_session(self, context: SessionContext) -> SessionLike:
            contexts.append(context)
            return await super().connect_session(context)

    worker = await worker_for(pg, tls=client_tls, services=Watching())
    options = {"sslmode": "verify-full", "sslrootcert": str(certificates.authority), "sslnegotiation": negotiation}
    assert await ask(worker, **options) == "t/f"
    assert await ask(worker, sslmode="disable") == "f/f"
    assert [context.client_tls for context in contexts] == [True, False]


async def test_a_large_result_through_tls(pg: Postgres, worker_for: MakeWorker, client_tls: Tls) -> None:
    worker = await worker_for(pg, tls=client_tls)
    async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port), sslmode="require") as connection:
        row = await (await connection.execute("SELECT repeat('x', 20000000)")).fetchone()
        assert row is not None
        assert len(row[0]) == 20_000_000
        row = await (await connection.execute("SELECT length(%s::text)", [row[0]])).fetchone()
        assert row == (20_000_000,)
        (connection_,) = worker._connections
        assert connection_._client.most_unsent < 2_000_000


async def test_a_tls_client_that_never_reads_stops_its_server(
    pg: Postgres, worker_for: MakeWorker, client_tls: Tls, wait_until: Any
) -> None:
    worker = await worker_for(pg, tls=client_tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.SSL_REQUEST_PACKET)
    assert await reader.readexactly(1) == b"S"
    await writer.start_tls(context)
    writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
    await reader.readexactly(9)
    writer.write(m.build_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
    await wait_until(lambda: worker._connections and next(iter(worker._connections))._relay)
    (connection,) = worker._connections
    await wait_until(lambda: connection._client.full)
    await asyncio.sleep(0.1)
    assert connection._client.most_unsent < 2_000_000
    server = connection._server
    assert server is not None
    await wait_until(lambda: not server.is_read)
    total = 0
    while total < 100_000_000:
        total += len(await reader.read(1 << 20))
    await wait_until(lambda: server.is_read)
    writer.transport.abort()


async def test_tls_can_be_required(pg: Postgres, worker_for: MakeWorker, certificates: Any) -> None:
    pair = certificates.proxy
    worker = await worker_for(pg, tls=Tls(certificate=pair.certificate, key=pair.key, required=True))
    assert await ask(worker, sslmode="require") == "t/f"
    with pytest.raises(psycopg.OperationalError, match="encrypted connections only"):
        await ask(worker, sslmode="disable")


async def test_clients_can_be_asked_for_a_certificate(pg: Postgres, worker_for: MakeWorker, certificates: Any) -> None:
    pair = certificates.proxy
    worker = await worker_for(
        pg, tls=Tls(certificate=pair.certificate, key=pair.key, required=True, client_ca=certificates.authority)
    )
    shown = {
        "sslmode": "require",
        "sslcert": str(certificates.client.certificate),
        "sslkey": str(certificates.client.key),
    }
    assert await ask(worker, **shown) == "t/f"
    with pytest.raises(psycopg.OperationalError):
        await ask(worker, sslmode="require", sslcert="", sslkey="")
    stranger = certificates.stranger
    with pytest.raises(psycopg.OperationalError):
        await ask(worker, sslmode="require", sslcert=str(stranger.certificate), sslkey=str(stranger.key))


async def test_direct_tls_needs_its_alpn(pg: Postgres, worker_for: MakeWorker, client_tls: Tls) -> None:
    worker = await worker_for(pg, tls=client_tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for protocols, answer in (([ALPN], b"R"), (["http/1.1"], b""), ([], b"")):
        if protocols:
            context.set_alpn_protocols(protocols)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        got = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, ssl=context)
            writer.write(m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
            got = await reader.read(1)
            writer.close()
        except OSError:
            pass
        assert got == answer


async def test_bytes_stuffed_behind_the_request_are_refused(
    pg: Postgres, worker_for: MakeWorker, client_tls: Tls
) -> None:
    worker = await worker_for(pg, tls=client_tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(m.SSL_REQUEST_PACKET + m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build())
    answer = await reader.read()
    assert answer[:1] == b"E"
    assert m.parse_error(answer[5:]).sqlstate == "08P01"
    writer.close()


async def test_a_broken_handshake_ends_the_connection(
    pg: Postgres, worker_for: MakeWorker, client_tls: Tls, wait_until: Any
) -> None:
    worker = await worker_for(pg, tls=client_tls)
    for first in (m.SSL_REQUEST_PACKET, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(first)
        if first:
            assert await reader.readexactly(1) == b"S"
        writer.write(b"\x16\x03\x01\x00\x05hello" + b"\0" * 100)
        with suppress(OSError):
            await reader.read()
        writer.close()
    await wait_until(lambda: not worker.connections)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_reset_within_the_handshake_ends_the_connection(
    pg: Postgres, worker_for: MakeWorker, client_tls: Tls, wait_until: Any, hello: bytes, direct: bool
) -> None:
    """The event loop tells the one who waits for TLS and not the connection: it stayed for ever, and with enough of them nobody was heard."""
    worker = await worker_for(pg, tls=client_tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    if not direct:
        writer.write(m.SSL_REQUEST_PACKET)
        assert await reader.readexactly(1) == b"S"
    writer.write(hello)
    await wait_until(lambda: worker.connections)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    writer.transport.abort()
    async with asyncio.timeout(30):
        await wait_until(lambda: not worker.connections)


# -- channel binding -----------------------------------------------------------------------------------------------------------------


async def test_scram_over_tls_to_the_proxy_only(tls_pg: Postgres, worker_for: MakeWorker, client_tls: Tls) -> None:
    worker = await worker_for(server=to_server(tls_pg, "disable"), tls=client_tls)
    assert await ask(worker, "scram_user", password=PASSWORD, sslmode="require") == "t/f"
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        await ask(worker, "scram_user", password=PASSWORD, sslmode="require", channel_binding="require")


async def test_scram_over_tls_to_the_server_only(tls_pg: Postgres, worker_for: MakeWorker) -> None:
    worker = await worker_for(server=to_server(tls_pg, "require"))
    assert await ask(worker, "scram_user", password=PASSWORD, sslmode="disable") == "f/t"


async def test_scram_over_tls_on_both_legs_needs_a_decision(
    tls_pg: Postgres, worker_for: MakeWorker, client_tls: Tls
) -> None:
    """With certificates that differ, PostgreSQL would call the client's honest "y" a downgrade: the proxy says what to do instead."""
    worker = await worker_for(server=to_server(tls_pg, "require"), tls=client_tls)
    with pytest.raises(psycopg.OperationalError, match="SCRAM channel binding cannot pass through pgveil") as caught:
        await ask(worker, "scram_user", password=PASSWORD, sslmode="require")
    assert "channel_binding=disable" in str(caught.value)
    assert await ask(worker, "scram_user", password=PASSWORD, sslmode="require", channel_binding="disable") == "t/t"
    with pytest.raises(psycopg.OperationalError, match="channel binding is required"):
        await ask(worker, "scram_user", password=PASSWORD, sslmode="require", channel_binding="require")


@pytest.mark.parametrize("binding", ["prefer", "require", "disable"])
async def test_with_the_servers_certificate_binding_holds(
    tls_pg: Postgres, worker_for: MakeWorker, certificates: Any, binding: str
) -> None:
    pair = certificates.server
    worker = await worker_for(server=to_server(tls_pg, "require"), tls=Tls(certificate=pair.certificate, key=pair.key))
    assert await ask(worker, "scram_user", password=PASSWORD, sslmode="require", channel_binding=binding) == "t/t"


# -- files ---------------------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used(certificates: Any, tmp_path: Path) -> None:
    pair, other = certificates.proxy, certificates.server
    missing = tmp_path / "missing.pem"
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    for settings in (
        Tls(certificate=missing, key=pair.key),
        Tls(certificate=pair.certificate, key=other.key),
        Tls(certificate=junk, key=pair.key),
        Tls(certificate=pair.certificate, key=pair.key, client_ca=junk),
    ):
        with pytest.raises(ConfigError, match=r"\.(pem|crt)"):
            client_side(settings)
    with pytest.raises(ConfigError):
        server_side(Server(sslmode="verify-ca", root_certificate=missing))
    assert client_side(Tls()) is None


def test_system_authorities() -> None:
    context = server_side(Server(sslmode="verify-full", root_certificate="system"))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


# -- a peer that says its last word while it is not read -----------------------------------------------------------------------------------


async def _unread(server: asyncio.Server, certificates: Certificates, *, close_seconds: float) -> Leg:
    """A leg to the server, with TLS, that is not read."""
    host, port = server.sockets[0].getsockname()[:2]
    _, leg = await asyncio.get_running_loop().create_connection(lambda: Leg(close_seconds=close_seconds), host, port)
    trusting = ssl.create_default_context(cafile=certificates.authority)
    await leg.start_tls(trusting, server_side=False, hostname="localhost")
    leg.set_reading(on=False)
    return leg


@pytest.mark.parametrize("polite", [True, False], ids=["close_notify", "eof"])
@pytest.mark.parametrize("size", [40, 600_000])
async def test_the_last_words_of_a_peer_that_was_not_read_are_not_lost(
    certificates: Certificates, size: int, polite: bool
) -> None:
    """As a server that refuses a login after it has authenticated: its error, and the end, come while pgveil is busy."""
    words = bytes(range(256)) * (size // 256 + 1)
    said = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.certificate, certificates.server.key)
        plain = writer.transport
        await writer.start_tls(context)
        await reader.readexactly(1)
        writer.write(words)
        said.set()
        await writer.drain()
        if polite:
            writer.close()
        else:
            while writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
            plain.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    leg = await _unread(server, certificates, close_seconds=2.0)
    leg.write([b"?"])
    await said.wait()
    await asyncio.sleep(0.3)
    assert leg.pending == 0
    assert not leg.at_eof
    leg.set_reading(on=True)
    got = bytearray()
    with suppress(LegClosed):
        while True:
            got += await leg.read()
    assert bytes(got) == words
    leg.close()
    await leg.wait_closed()
    server.close()


async def test_a_leg_that_was_not_read_closes_without_waiting_for_its_time_limit(certificates: Certificates) -> None:
    """TLS ends with a word of the peer's, which has to be read."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.certificate, certificates.server.key)
        await writer.start_tls(context)
        writer.write(bytes(1000))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    leg = await _unread(server, certificates, close_seconds=3600.0)
    leg.close()
    await leg.wait_closed()
    server.close()
