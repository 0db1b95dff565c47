"""Certificates on both sides: each reason not to trust one has its own words, and new ones come into force without a restart."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from structlog.testing import capture_logs

from proxy.config import Address, Server, Tls, load_config
from proxy.errors import ConfigError
from proxy.reloading import Reloading
from proxy.server import Worker
from proxy.services import Unprotected
from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

    MakeWorker = Callable[..., Awaitable[Worker]]

STARTUP = m.Startup(m.PROTOCOL_3_0, ((b"user", b"postgres"),)).build()


async def first_words(port: int) -> m.ErrorFields | None:
    """What a plain client is told that logs in; None: it is not refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(STARTUP)
    kind = await reader.readexactly(1)
    if kind != b"E":
        writer.transport.abort()
        return None
    answer = await reader.read()
    writer.close()
    return m.parse_error(answer[4:])


@pytest.fixture
async def tls_server() -> AsyncIterator[Callable[[ssl.SSLContext], Awaitable[int]]]:
    """Servers that have TLS with a context of the test's choice, and let everybody in; each gives its port."""
    servers = []

    async def start(context: ssl.SSLContext) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(context)
                await reader.readexactly(len(STARTUP))
                writer.write(m.AUTHENTICATION_OK + m.build_ready(b"I"))
                await reader.read()
            except (OSError, asyncio.IncompleteReadError):
                pass
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


def showing(pair: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def until_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """A peer of long ago."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


# -- the server's ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "told", "word"),
    [
        ("server", None, None),
        ("expired", "the PostgreSQL server's certificate has expired", "expired"),
        ("early", "the PostgreSQL server's certificate is not valid yet", "not_yet_valid"),
        (
            "elsewhere",
            "the PostgreSQL server's certificate is for another host than the one that pgveil connects to",
            "wrong_name",
        ),
        (
            "stranger",
            "the PostgreSQL server's certificate is of an authority that pgveil does not know",
            "unknown_authority",
        ),
    ],
)
async def test_each_reason_not_to_trust_the_server_has_its_words(
    worker_for: MakeWorker,
    certificates: Any,
    tls_server: Callable[[ssl.SSLContext], Awaitable[int]],
    shown: str,
    told: str | None,
    word: str | None,
) -> None:
    """The client is told what, the log also where; nobody learns the host's name or address from the error."""
    for host in ("127.0.0.1", "localhost"):
        port = await tls_server(showing(getattr(certificates, shown)))
        settings = Server(hosts=(Address(host, port),), sslmode="verify-full", root_certificate=certificates.authority)
        worker = await worker_for(server=settings)
        with capture_logs() as logged:
            error = await first_words(worker.port)
        if told is None:
            assert error is None
            continue
        assert error is not None
        assert (error.sqlstate, error.get("M")) == ("08001", told.encode())
        text = " ".join(value.decode() for _, value in error.pairs)
        assert error.get("H")
        assert not re.search(rf"localhost|127\.0|{port}|db\.example|authority\.crt", text)
        (event,) = [e for e in logged if e["event"] == "server.unreachable"]
        assert (event["reason"], event["host"]) == (word, f"{host}:{port}")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_1_2_is_the_least_on_both_sides(
    worker_for: MakeWorker, certificates: Any, tls_server: Callable[[ssl.SSLContext], Awaitable[int]]
) -> None:
    port = await tls_server(until_tls_1_1(showing(certificates.server)))
    pair = certificates.proxy
    worker = await worker_for(
        server=Server(hosts=(Address("127.0.0.1", port),), sslmode="require"),
        tls=Tls(certificate=pair.certificate, key=pair.key),
    )
    error = await first_words(worker.port)
    assert error is not None
    assert (error.sqlstate, error.get("M")) == ("08001", b"TLS with the PostgreSQL server failed")
    for oldest, spoken in (("TLSv1.2", {"TLSv1.2", "TLSv1.3"}), ("TLSv1.3", {"TLSv1.3"})):
        tls = Tls(certificate=pair.certificate, key=pair.key, minimum_version=oldest)
        worker = await worker_for(server=Server(hosts=(Address("127.0.0.1", port),)), tls=tls)
        versions = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        heard = [await handshake(worker.port, newest) for newest in versions]
        assert {v for v in heard if v in {"TLSv1.1", "TLSv1.2", "TLSv1.3"}} == spoken
        assert heard[0] == "TLSV1_ALERT_PROTOCOL_VERSION"


async def handshake(port: int, newest: ssl.TLSVersion) -> str | None:
    """The version that is agreed on with a client that speaks nothing newer; where there is none, the alert that comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(m.SSL_REQUEST_PACKET)
    assert await reader.readexactly(1) == b"S"
    try:
        await writer.start_tls(context)
    except OSError as error:
        return getattr(error, "reason", None)
    version = writer.get_extra_info("ssl_object").version()
    writer.transport.abort()
    return str(version)


# -- clients' -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "word", "alert"),
    [
        ("client", None, None),
        (None, "peer_did_not_return_a_certificate", "alert certificate required"),
        ("stranger", "unknown_authority", "alert unknown ca"),
        ("expired_client", "expired", "alert certificate expired"),
    ],
)
@pytest.mark.parametrize("newest", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
async def test_clients_must_show_a_certificate_of_the_authority(
    pg: Postgres,
    worker_for: MakeWorker,
    certificates: Any,
    wait_until: Any,
    shown: str | None,
    word: str | None,
    alert: str | None,
    newest: str,
    negotiation: str,
) -> None:
    """libpq says what PostgreSQL would have it say: the alert that TLS has for it."""
    if negotiation == "direct" and psycopg.pq.version() < 170_000:
        pytest.skip("this libpq has no direct TLS")
    pair = certificates.proxy
    worker = await worker_for(
        pg, tls=Tls(certificate=pair.certificate, key=pair.key, client_ca=certificates.authority, required=True)
    )
    own = getattr(certificates, shown) if shown else None
    files = {"sslcert": str(own.certificate), "sslkey": str(own.key)} if own else {"sslcert": "", "sslkey": ""}
    options: dict[str, Any] = {"sslmode": "require", "ssl_max_protocol_version": newest, **files}
    if negotiation == "direct":
        options["sslnegotiation"] = negotiation
    with capture_logs() as logged:
        try:
            async with await psycopg.AsyncConnection.connect(pg.dsn(port=worker.port), **options) as connection:
                await connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            told = str(error)
            await wait_until(lambda: not worker.connections)
        else:
            assert word is None
            return
    assert [e["reason"] for e in logged if e["event"] == "client.tls_failed"] == [word]
    assert alert is not None
    assert ("handshake failure" if shown is None and newest == "TLSv1.2" else alert) in told


# -- reload ---------------------------------------------------------------------------------------------------------------------------


class Home:
    """A configuration file with certificates beside it, and a worker that runs by it."""

    def __init__(self, directory: Path, certificates: Any, port: int) -> None:
        self.directory = directory
        self.certificates = certificates
        self.put("proxy", "client", "authority")
        self.config = directory / "pgveil.yaml"
        self.config.write_text(
            f"listen: {{port: 0}}\n"
            f"tls: {{certificate: shown.crt, key: shown.key}}\n"
            f"server: {{hosts: '127.0.0.1:{port}', sslmode: verify-full, root_certificate: ca.crt, "
            f"certificate: own.crt, key: own.key}}\nlimits: {{close_seconds: 2}}\n"
        )
        settings = load_config(self.config)
        services = Unprotected()
        self.worker = Worker(settings, services, monotonic=time.monotonic, now=time.time)
        self.reloading = Reloading(settings, self.worker, services)

    def put(self, shown: str | None = None, own: str | None = None, root: str | None = None) -> None:
        """Exchange files: what is shown to clients, what to the server, and the server's authority."""
        for name, pair in (("shown", shown), ("own", own)):
            if pair is not None:
                shutil.copy(getattr(self.certificates, pair).certificate, self.directory / f"{name}.crt")
                shutil.copy(getattr(self.certificates, pair).key, self.directory / f"{name}.key")
        if root is not None:
            shutil.copy(getattr(self.certificates, root), self.directory / "ca.crt")

    async def reload(self) -> None:
        await self.reloading.prepare()
        self.reloading.commit()

    async def shows(self) -> bytes:
        """The certificate that a new client is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", self.worker.port)
        writer.write(m.SSL_REQUEST_PACKET)
        await reader.readexactly(1)
        await writer.start_tls(context)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return bytes(found)


def der(pair: Any) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


@pytest.fixture
async def home(tls_pg: Postgres, certificates: Any, tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path, certificates, tls_pg.port)
    await made.worker.start()
    yield made
    await made.worker.stop()


async def connect(home: Home, user: str = "postgres") -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=home.worker.port, user=user, dbname="postgres", sslmode="require", autocommit=True
    )


async def test_certificates_come_into_force_without_a_restart(home: Home, certificates: Any) -> None:
    """Those that clients are shown, that the server is shown, and that the server is verified by; standing connections stay."""
    assert await home.shows() == der(certificates.proxy)
    standing = await connect(home, "cert_user")
    home.put(shown="elsewhere", root="other_authority")
    assert await home.shows() == der(certificates.proxy), "a file that was written is not in force yet"
    await home.reload()
    assert await home.shows() == der(certificates.elsewhere)
    with pytest.raises(psycopg.OperationalError, match="authority that pgveil does not know"):
        await connect(home)
    assert await (await standing.execute("select 1")).fetchone() == (1,)
    home.put(own="stranger", root="authority")
    await home.reload()
    with pytest.raises(psycopg.OperationalError, match=r"TLS with the PostgreSQL server failed|closed the connection"):
        await connect(home, "cert_user")
    home.put(own="client")
    await home.reload()
    await (await connect(home, "cert_user")).close()
    assert await (await standing.execute("select 2")).fetchone() == (2,)
    await standing.close()


@pytest.mark.parametrize(
    ("break_", "says"),
    [
        (lambda home: (home.directory / "shown.key").write_bytes(b"no key"), "not a certificate and its private key"),
        (lambda home: shutil.copy(home.certificates.server.key, home.directory / "shown.key"), "KEY_VALUES_MISMATCH"),
        (lambda home: (home.directory / "shown.crt").unlink(), "No such file"),
        (lambda home: home.put(shown="expired"), "the certificate has expired"),
        (lambda home: (home.directory / "ca.crt").write_text("nobody"), "not a PEM file of certificates"),
        (lambda home: (home.directory / "own.crt").write_text(""), "not a certificate and its private key"),
        (lambda home: home.config.write_text("tls: {certificate: shown.crt}"), "belong together"),
    ],
)
async def test_a_broken_certificate_keeps_all_of_the_old_ones(
    home: Home, certificates: Any, break_: Callable[[Home], object], says: str
) -> None:
    home.put(shown="elsewhere")  # good in itself, and not taken up alone
    break_(home)
    with pytest.raises(ConfigError, match=says):
        await home.reloading.prepare()
    assert await home.shows() == der(certificates.proxy)
    await (await connect(home, "cert_user")).close()
