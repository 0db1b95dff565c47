"""pgveil's own login: its connections to the server have the TLS that clients' have (`server.sslmode` and its neighbours)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from proxy.config import SSLMODES
from proxy.tls import Encryption, ladder, server_side

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Address, Server

# What another attempt of the ladder may get around: as for clients (proxy/connection.py), no entry in pg_hba.conf, or TLS that fails.
_ANOTHER_WAY: Final = (OSError, asyncpg.InvalidAuthorizationSpecificationError)


class OwnLogin:
    """Makes the connections. `server`: whose TLS they have; None: as the URL says."""

    def __init__(self, dsn: str, server: Server | None = None) -> None:
        self.dsn = dsn
        self._server = server

    def follow(self, server: Server) -> None:
        """Other settings are in force: for connections from now on."""
        self._server = server

    async def connect(
        self,
        application: str,
        *,
        seconds: float,
        at: Address | None = None,
        database: str | None = None,
        query_seconds: float | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> asyncpg.Connection[Any]:
        """One connection; `at` and `database` instead of the URL's. Raises what asyncpg raises, and ConfigError."""
        attempts = self.attempts()
        for number, tls in enumerate(attempts, 1):
            try:
                return await asyncpg.connect(
                    self.dsn,
                    host=None if at is None else at.host,
                    port=None if at is None else at.port,
                    database=database,
                    timeout=seconds,
                    command_timeout=query_seconds,
                    ssl=tls,
                    server_settings={"application_name": application, **(settings or {})},
                )
            except TimeoutError:
                raise
            except _ANOTHER_WAY:
                if number == len(attempts):
                    raise
        raise AssertionError("there is an attempt at least")

    def attempts(self) -> tuple[Any, ...]:
        """What asyncpg is told of TLS, for each attempt in turn. The stronger mode holds, of the configuration's and the URL's. Raises ConfigError."""
        server = self._server
        if server is None or SSLMODES.index(_asked(self.dsn)) > SSLMODES.index(server.sslmode):
            return (None,)
        if server.sslmode == "prefer" and server.root_certificate is None and server.certificate is None:
            return ("prefer",)  # in one connection
        steps = ladder(server.sslmode, unix=False)
        return tuple(step is not Encryption.PLAIN and server_side(server) for step in steps)


def login_in(url: str | None) -> str | None:
    """The login that a connection URL names; None where it names none."""
    try:
        name = urlsplit(url or "").username
    except ValueError:
        return None
    return None if name is None else unquote(name)


def _asked(dsn: str) -> str:
    try:
        mode = parse_qs(urlsplit(dsn).query).get("sslmode", ["disable"])[-1]
    except ValueError:
        return "disable"
    return mode if mode in SSLMODES else "disable"
