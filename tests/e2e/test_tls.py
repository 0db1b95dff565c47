"""TLS to the client, with the protected path behind it: SSLRequest, verify-full, direct TLS, and both legs with a server that has TLS."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from tests.e2e.world import make_world, stop_world, write_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.world import World


@pytest.mark.parametrize(
    "options",
    [
        "sslmode=disable",
        "sslmode=require",
        "sslmode=verify-full&sslrootcert={home}/server.crt",
        "sslmode=require&sslnegotiation=direct",
    ],
)
def test_ways_in(world: World, options: str) -> None:
    dsn = f"postgresql://teller@localhost:{world.port}/{world.database}?" + options.format(home=world.home)
    with psycopg.connect(dsn) as teller:
        assert teller.execute("select pan from cards limit 1").fetchone() is not None
        used = teller.pgconn.ssl_in_use
    assert used == ("disable" not in options)


def test_scram_and_tls_on_both_legs(tmp_path: Path) -> None:
    """Debian's server with TLS and passwords; pgveil has the same certificate, so even channel binding holds."""
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    write_certificate(certificates)
    hba = "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
    try:
        server = Postgres.make("15", hba=hba)
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    server.start()
    try:
        for name in ("server.crt", "server.key"):
            target = server.data / name
            shutil.copy(certificates / name, target)
            shutil.chown(target, server.data.owner(), server.data.group())
            target.chmod(0o600)
        server.psql("alter system set ssl = on; select pg_reload_conf()")
        home = tmp_path / "world"
        home.mkdir()
        world = make_world(server, home, sslmode="require", certificate=certificates)
        try:
            server.psql("alter role teller password 'open sesame'")
            dsn = f"postgresql://teller:open%20sesame@localhost:{world.port}/{world.database}"
            for binding in ("require", "prefer", "disable"):
                with psycopg.connect(f"{dsn}?sslmode=require&channel_binding={binding}") as teller:
                    assert teller.execute("select pan from cards limit 1").fetchone() is not None
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(dsn.replace("sesame", "wrong") + "?sslmode=require")
            world.record(kind="login_failed", login="teller", sqlstate="28P01")
        finally:
            stop_world(world)
    finally:
        server.destroy()
