"""Workers in the test's own loop, certificates, and servers that ask for passwords."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keys.account import server_account
from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from proxy.config import Address, Config, Limits, Listen, Server, Tls
from proxy.server import Worker
from proxy.services import Unprotected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from proxy.services import Services

# What goes through sockets is tested on both event loops: they differ in TLS, in backpressure and in how connections end.
BOTH_LOOPS = frozenset(("test_relay", "test_tls", "test_cancel", "test_certificates"))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in BOTH_LOOPS:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


def make_config(
    pg: Postgres | None = None,
    *,
    server: Server | None = None,
    tls: Tls | None = None,
    limits: Limits | None = None,
    listen: Listen | None = None,
) -> Config:
    if server is None:
        assert pg is not None
        server = Server(hosts=(Address(pg.host, pg.port),), sslmode="disable")
    return Config(
        file=Path("pgveil.yaml"),
        listen=listen or Listen(port=0),
        server=server,
        tls=tls or Tls(),
        limits=limits or Limits(close_seconds=2.0),
    )


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.01)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits for what nobody announces; the test's own time limit ends it."""
    return until


@pytest.fixture
def config_for() -> Callable[..., Config]:
    """Makes a configuration for a server."""
    return make_config


@pytest_asyncio.fixture
async def worker_for() -> AsyncIterator[Callable[..., Awaitable[Worker]]]:
    """Starts workers for a server; stops them all at the end."""
    started: list[Worker] = []

    async def start(
        pg: Postgres | None = None, *, services: Services | None = None, config: Config | None = None, **parts: object
    ) -> Worker:
        settings = config or make_config(pg, **parts)  # type: ignore[arg-type]
        worker = Worker(settings, services or Unprotected(), monotonic=time.monotonic, now=time.time)
        await worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        await worker.stop()
        assert worker.connections == 0


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / f"{name}.crt"
        self.file.write_bytes(self._certificate(self._name, self._key, (), ca=True).public_bytes(Encoding.PEM))

    def issue(self, name: str, *hosts: str, days: tuple[int, int] = (-1, 30)) -> Pair:
        """A certificate for these host names and addresses, good between two days counted from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        made = self._certificate(subject, key, hosts, ca=False, days=days)
        pair.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pair.key.chmod(0o600)
        return pair

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        hosts: tuple[str, ...],
        *,
        ca: bool,
        days: tuple[int, int] = (-1, 30),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True)
class Certificates:
    """`server` is for localhost and 127.0.0.1, `elsewhere` for another host, `stranger` of another authority.

    `expired` and `early` are for localhost and 127.0.0.1, at another time; `expired_client` is a client's.
    """

    authority: Path
    other_authority: Path
    server: Pair
    proxy: Pair
    elsewhere: Pair
    client: Pair
    stranger: Pair
    expired: Pair
    early: Pair
    expired_client: Pair


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of two authorities."""
    directory = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(directory, "authority"), Authority(directory, "other")
    return Certificates(
        authority=ours.file,
        other_authority=theirs.file,
        server=ours.issue("server", "localhost", "127.0.0.1"),
        proxy=ours.issue("proxy", "localhost", "127.0.0.1"),
        elsewhere=ours.issue("elsewhere", "db.example"),
        client=ours.issue("client"),
        stranger=theirs.issue("stranger", "localhost", "127.0.0.1"),
        expired=ours.issue("expired", "localhost", "127.0.0.1", days=(-3, -2)),
        early=ours.issue("early", "localhost", "127.0.0.1", days=(2, 3)),
        expired_client=ours.issue("expired_client", days=(-3, -2)),
    )


PASSWORD_HBA = """
local   all all                 trust
host    all postgres      127.0.0.1/32 trust
host    all scram_user    127.0.0.1/32 scram-sha-256
host    all md5_user      127.0.0.1/32 md5
host    all password_user 127.0.0.1/32 password
host    all nobody_user   127.0.0.1/32 reject
"""
TLS_HBA = """
host      all postgres      127.0.0.1/32 trust
hostnossl all plain_user    127.0.0.1/32 trust
hostssl   all tls_user      127.0.0.1/32 trust
host      all scram_user    127.0.0.1/32 scram-sha-256
hostssl   all cert_user     127.0.0.1/32 trust clientcert=verify-ca
"""
LOGINS = """
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram_user LOGIN PASSWORD 'correct horse';
CREATE ROLE password_user LOGIN PASSWORD 'correct horse';
CREATE ROLE nobody_user LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'correct horse';
CREATE ROLE plain_user LOGIN;
CREATE ROLE tls_user LOGIN;
CREATE ROLE cert_user LOGIN;
"""


@pytest.fixture(scope="session")
def password_pg() -> Iterator[Postgres]:
    """PostgreSQL 18 that asks for passwords in every way; the password is "correct horse"."""
    with Postgres.make("18", hba=PASSWORD_HBA) as server:
        server.psql(LOGINS)
        yield server


@pytest.fixture(scope="session")
def tls_pg(certificates: Certificates) -> Iterator[Postgres]:
    """A server with TLS: the embedded ones are built without it."""
    try:
        server = Postgres.make("15")
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    owner = server_account()
    files = {
        "server.crt": certificates.server.certificate,
        "server.key": certificates.server.key,
        "ca.crt": certificates.authority,
    }
    for name, source in files.items():
        target = server.root / name
        target.write_bytes(source.read_bytes())
        target.chmod(0o600)
        if owner is not None:
            os.chown(target, owner.pw_uid, owner.pw_gid)
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(server.root / "server.crt"),
        "ssl_key_file": str(server.root / "server.key"),
        "ssl_ca_file": str(server.root / "ca.crt"),
    }
    server = replace(server, settings=settings, hba=TLS_HBA)
    with server:
        server.psql(LOGINS)
        yield server
