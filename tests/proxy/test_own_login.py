"""pgveil's own connections have the TLS that clients' have: what one side would not trust, the other does not either."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from lifecycle.database import DatabaseError, connect
from proxy.config import Address, Server
from proxy.control_command import Running
from proxy.errors import ConfigError
from proxy.hosts import Hosts
from proxy.metrics import NullMetrics
from proxy.own_login import OwnLogin
from proxy.troubles import reason_of
from tests.proxy.test_certificates import showing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

SEEN = "SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_catalog.pg_backend_pid()"


def _server(pg: Postgres | int, sslmode: str, **more: Any) -> Server:
    return Server(hosts=(Address("127.0.0.1", pg if isinstance(pg, int) else pg.port),), sslmode=sslmode, **more)


def _own(pg: Postgres, server: Server, user: str = "postgres", query: str = "") -> OwnLogin:
    return OwnLogin(f"postgresql://{user}@127.0.0.1:{pg.port}/postgres{query}", server)


async def _seen(own: OwnLogin) -> bool | None:
    """Whether it came by TLS; None: it was not let in."""
    try:
        connection = await own.connect("test", seconds=10)
    except (OSError, asyncpg.PostgresError):
        return None
    try:
        return bool(await connection.fetchval(SEEN))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("sslmode", "user", "query", "seen"),
    [
        ("disable", "plain_user", "", False),
        ("disable", "tls_user", "", None),
        ("allow", "plain_user", "", False),
        ("allow", "tls_user", "", True),
        ("prefer", "plain_user", "", False),
        ("prefer", "tls_user", "", True),
        ("require", "plain_user", "", None),
        ("require", "tls_user", "", True),
        ("require", "tls_user", "?sslmode=disable", True),
        ("disable", "tls_user", "?sslmode=require", True),
        ("prefer", "plain_user", "?sslmode=require", None),
    ],
)
async def test_it_climbs_as_clients_do(
    tls_pg: Postgres, sslmode: str, user: str, query: str, seen: bool | None
) -> None:
    assert await _seen(_own(tls_pg, _server(tls_pg, sslmode), user, query)) is seen


@pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_an_authority_that_is_named_is_asked(tls_pg: Postgres, certificates: Any, sslmode: str) -> None:
    known = _server(tls_pg, sslmode, root_certificate=certificates.authority)
    assert await _seen(_own(tls_pg, known)) is True
    other = _server(tls_pg, sslmode, root_certificate=certificates.other_authority)
    assert await _seen(_own(tls_pg, other)) is (False if sslmode == "prefer" else None)


async def test_the_certificate_is_shown(tls_pg: Postgres, certificates: Any) -> None:
    pair = certificates.client
    shown = _server(tls_pg, "require", certificate=pair.certificate, key=pair.key)
    assert await _seen(_own(tls_pg, shown, "cert_user")) is True
    assert await _seen(_own(tls_pg, _server(tls_pg, "require"), "cert_user")) is None


@pytest.fixture
async def shown_by() -> AsyncIterator[Callable[[Any], Awaitable[int]]]:
    """Servers that show a certificate, and then nothing."""
    servers = []

    async def start(pair: Any) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(showing(pair))
                await reader.read()
            except (OSError, asyncio.IncompleteReadError):
                pass
            writer.transport.abort()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("expired", "tls:expired"),
        ("early", "tls:not_yet_valid"),
        ("elsewhere", "tls:wrong_name"),
        ("stranger", "tls:unknown_authority"),
    ],
)
async def test_what_clients_would_not_trust_is_not_trusted(
    certificates: Any, shown_by: Callable[[Any], Awaitable[int]], shown: str, reason: str
) -> None:
    """By the catalog, by the watch over several hosts, and by doctor."""
    port = await shown_by(getattr(certificates, shown))
    server = _server(port, "verify-full", root_certificate=certificates.authority)
    own = OwnLogin(f"postgresql://postgres@127.0.0.1:{port}/postgres", server)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        await own.connect("test", seconds=10)
    assert reason_of(caught.value) == reason
    hosts = Hosts(server, NullMetrics())
    hosts.start(own)
    with pytest.raises(ssl.SSLCertVerificationError):
        await hosts._connect(server.hosts[0])
    with pytest.raises(DatabaseError, match="certificate is not accepted"):
        await connect(own.dsn, application="test", tls=own.attempts())


async def test_what_is_renewed_or_reloaded_counts_from_the_next_connection_on(
    tls_pg: Postgres, certificates: Any, tmp_path: Path
) -> None:
    root = tmp_path / "root.crt"
    root.write_bytes(certificates.other_authority.read_bytes())
    own = _own(tls_pg, _server(tls_pg, "verify-full", root_certificate=root))
    assert await _seen(own) is None
    root.write_bytes(certificates.authority.read_bytes())
    assert await _seen(own) is True
    own.follow(_server(tls_pg, "disable"))
    assert await _seen(own) is False
    root.write_text("nothing")
    own.follow(_server(tls_pg, "verify-full", root_certificate=root))
    with pytest.raises(ConfigError):
        await own.connect("test", seconds=10)


@pytest.mark.parametrize(
    ("catalog", "login"),
    [
        ("dsn: postgresql://pgveil_catalog:p%40ss@db/shop", "pgveil_catalog"),
        ("dsn: postgresql://o%27neil@db/shop", "o'neil"),
        ("dsn: postgresql://db/shop", None),
        ("dsn_file: absent", None),
    ],
)
def test_the_login_that_a_configuration_names(tmp_path: Path, catalog: str, login: str | None) -> None:
    for name in ("rules.yaml", "master.key"):
        (tmp_path / name).touch()
    config = tmp_path / "pgveil.yaml"
    config.write_text(f"rules: rules.yaml\nkeys: .\naudit: audit\ncatalog:\n  {catalog}\n")
    assert Running().login(config) == login
