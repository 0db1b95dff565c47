"""The running pgveil, asked from outside: its pages, and a login through it."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from lifecycle.database import describe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Config

_SECONDS: Final = 5
_MAX_PAGE: Final = 4 * 1024 * 1024
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared with, not bound to
_WHO: Final = "SELECT pg_postmaster_start_time()::text AS started, current_database()::text AS name"
_BUILD: Final = re.compile(r'^pgveil_build_info\{[^}]*version="([^"]*)"', re.MULTILINE)
_REFUSED: Final = re.compile(r"^pgveil_reload_failed(?:\{[^}]*\})? 1(?:\.0)?$", re.MULTILINE)
_RULES: Final = re.compile(r"^pgveil_rules_version_(?:lowest|highest)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
RULES_DIGITS: Final = 12
"""Hex digits of the rules' version that the metrics carry (`proxy.metrics`)."""


@dataclass(frozen=True, slots=True)
class Live:
    """What was heard. `checks`: of /readyz; None: nobody answers, or there is no page to ask. `login`: what went wrong with it."""

    asked: bool
    checks: Mapping[str, bool] | None = None
    version: str | None = None
    rules: frozenset[str] = frozenset()
    refused: bool = False
    tried_login: bool = False
    login: str | None = None
    started: str | None = None
    database: str | None = None


def reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    return {"::": "::1"}.get(host, "127.0.0.1") if host in _EVERYWHERE else host


def read_pages(config: Config) -> Live:
    """/readyz and /metrics of the running pgveil. Raises nothing."""
    if config.metrics.port is None:
        return Live(asked=False)
    host = reachable(config.metrics.address)
    ready, metrics = _page(host, config.metrics.port, "/readyz"), _page(host, config.metrics.port, "/metrics")
    checks = None
    with suppress(ValueError, KeyError, TypeError):
        checks = {str(k): bool(v) for k, v in json.loads(ready or "")["checks"].items()}
    build = _BUILD.search(metrics or "")
    rules = frozenset(f"{int(float(number)):0{RULES_DIGITS}x}" for number in _RULES.findall(metrics or ""))
    refused = _REFUSED.search(metrics or "") is not None
    return Live(asked=True, checks=checks, version=build[1] if build else None, rules=rules, refused=refused)


def _page(host: str, port: int, path: str) -> str | None:
    asking = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        asking.request("GET", path)
        return asking.getresponse().read(_MAX_PAGE).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        asking.close()


async def log_in(config: Config, url: str) -> tuple[str | None, str | None, str | None]:
    """Through pgveil with its own login: what went wrong; else when the server behind was started, and the database's name.

    The certificate is not verified: the address is this machine's, and the password does not leave it in clear with SCRAM.
    """
    try:
        connection = await asyncpg.connect(
            url,
            host=reachable(config.listen.address),
            port=config.listen.port,
            ssl="prefer",
            timeout=_SECONDS,
            command_timeout=_SECONDS,
            server_settings={"application_name": "pgveil doctor"},
        )
    except asyncpg.PostgresError as error:
        return describe_error(error), None, None
    except (OSError, TimeoutError, asyncpg.InterfaceError, ValueError) as error:
        return getattr(error, "strerror", None) or type(error).__name__, None, None
    try:
        row = await connection.fetchrow(_WHO)
        assert row is not None
        return None, row["started"], row["name"]
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return type(error).__name__, None, None
    finally:
        connection.terminate()
