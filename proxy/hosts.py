"""Which of several hosts clients are led to: `server.hosts` in order, of the kind that `server.target_session_attrs` asks for (libpq, 34.1.2).

libpq finds out by logging in and asking. pgveil can't: a client's password passes through it once, for one host. So pgveil's own login (the
catalog's) stays connected to each of several hosts and asks every second what it is; what a session's own settings say when it begins is the
second check (`proxy.guard`). With one host, and no kind asked for, nobody is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog

from proxy.errors import PgveilError, ServerUnreachable
from proxy.metrics import HostKind
from proxy.own_login import OwnLogin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.config import Address, Server
    from proxy.metrics import MetricSink

WATCH_SECONDS: Final = 1.0
_STANDING: Final = (
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only') = 'on'"
)
_FAILURES: Final = (OSError, PgveilError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a host said of itself: in recovery (hot standby), and whether sessions begin read only."""

    standby: bool
    read_only: bool

    @property
    def kind(self) -> HostKind:
        """In one word."""
        if self.standby:
            return HostKind.STANDBY
        return HostKind.READ_ONLY if self.read_only else HostKind.PRIMARY


# What each word of target_session_attrs accepts. `prefer-standby` takes anything once there is no standby.
ACCEPTS: Final[Mapping[str, Callable[[Standing], bool]]] = MappingProxyType(
    {
        "any": lambda _: True,
        "read-write": lambda s: not s.standby and not s.read_only,
        "read-only": lambda s: s.standby or s.read_only,
        "primary": lambda s: not s.standby,
        "standby": lambda s: s.standby,
        "prefer-standby": lambda s: s.standby,
    }
)
_LENIENT: Final = frozenset(("any", "prefer-standby"))


class NoSuchHost(ServerUnreachable):
    """None of the hosts that can be reached is of the kind that is asked for."""


class Hosts:
    """One worker's knowledge of the hosts. `start`, then `order` for each connection that is to be made."""

    def __init__(self, server: Server, metrics: MetricSink) -> None:
        self._server = server
        self._metrics = metrics
        self._accepts = ACCEPTS[server.target_session_attrs]
        self._watched = len(server.hosts) > 1 or server.target_session_attrs != "any"
        self._known: dict[Address, Standing | None] = dict.fromkeys(server.hosts)
        self._rounds: dict[Address, int] = dict.fromkeys(server.hosts, 0)
        self._hurry: dict[Address, asyncio.Event] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._news: asyncio.Future[None] | None = None
        self._login = OwnLogin("")
        self._own_hosts = 0
        self._led_to: Address | None = None
        self._log = structlog.get_logger("hosts")

    def start(self, login: OwnLogin) -> None:
        """Begin to watch, where there is something to choose."""
        self._login = login
        self._own_hosts = _named_hosts(login.dsn)
        if not self._watched:
            return
        for address in self._server.hosts:
            self._hurry[address] = asyncio.Event()
            self._watches.append(asyncio.create_task(self._watch(address), name=f"watch {address}"))
        self._count()

    async def stop(self) -> None:
        """End it."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def order(self, *, again: bool = False) -> tuple[Address, ...]:
        """The hosts to try, the best first. `again`: what was known has just proved wrong. Raises NoSuchHost."""
        if not self._watched:
            return self._server.hosts
        found = () if again else self._acceptable()
        if not found:
            await self._ask_again()
            found = self._acceptable() or self._rest()
        if not found:
            raise NoSuchHost(
                f"no PostgreSQL server that can be reached is {self._server.target_session_attrs}",
                hint="See server.target_session_attrs in pgveil's configuration; try again after the failover.",
            )
        return found

    async def own_address(self) -> Address | None:
        """Where pgveil's own login is to connect, to see what clients see; None: where its URL says. Raises NoSuchHost."""
        if self._own_hosts > 1 or (self._own_hosts == 1 and len(self._server.hosts) == 1):
            return None
        return (await self.order())[0]

    def fits(self, *, standby: bool | None, read_only: bool | None) -> bool:
        """Whether a session that has reported these settings is of the kind that is asked for; None: not reported."""
        if self._server.target_session_attrs in _LENIENT or standby is None or read_only is None:
            return True
        return self._accepts(Standing(standby, read_only))

    def doubt(self) -> None:
        """Something was not as expected: ask all of them now."""
        for event in self._hurry.values():
            event.set()

    # -- inside ----------------------------------------------------------------------------------------------------------------------

    def _acceptable(self) -> tuple[Address, ...]:
        return tuple(a for a, standing in self._known.items() if standing is not None and self._accepts(standing))

    def _rest(self) -> tuple[Address, ...]:
        """Where any host will do: those that answer, then those that perhaps do."""
        if self._server.target_session_attrs not in _LENIENT:
            return ()
        return tuple(sorted(self._known, key=lambda address: self._known[address] is None))

    async def _ask_again(self) -> None:
        """Until an acceptable host is known, or each has been asked once more."""
        before = dict(self._rounds)
        self.doubt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._server.connect_seconds):
                while any(count == before[address] for address, count in self._rounds.items()):
                    if self._news is None or self._news.done():
                        self._news = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._news)

    async def _watch(self, address: Address) -> None:
        connection: asyncpg.Connection[Any] | None = None
        hurry = self._hurry[address]
        try:
            while True:
                hurry.clear()
                standing = None
                try:
                    async with asyncio.timeout(self._server.connect_seconds):
                        if connection is None or connection.is_closed():
                            connection = await self._connect(address)
                        row = await connection.fetchrow(_STANDING)
                    assert row is not None
                    standing = Standing(bool(row[0]), bool(row[1]))
                except _FAILURES:
                    if connection is not None:
                        connection.terminate()
                        connection = None
                self._learn(address, standing)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), WATCH_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()

    async def _connect(self, address: Address) -> asyncpg.Connection[Any]:
        return await self._login.connect("pgveil hosts", at=address, seconds=self._server.connect_seconds)

    def _learn(self, address: Address, standing: Standing | None) -> None:
        before, self._known[address] = self._known[address], standing
        first = self._rounds[address] == 0
        self._rounds[address] += 1
        if standing != before or first:
            kind = HostKind.UNREACHABLE if standing is None else standing.kind
            self._log.info("host.is", host=str(address), kind=kind.value)
            self._count()
            self._follow()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _follow(self) -> None:
        """Who is led to now; told where that has changed."""
        leading = next(iter(self._acceptable()), None)
        if leading is None or leading == self._led_to:
            return
        before, self._led_to = self._led_to, leading
        if before is not None:
            self._log.warning("host.changed", before=str(before), now=str(leading))
            self._metrics.failed_over()

    def _count(self) -> None:
        kinds = [HostKind.UNREACHABLE if s is None else s.kind for s in self._known.values()]
        self._metrics.hosts({kind: kinds.count(kind) for kind in HostKind})


def _named_hosts(dsn: str) -> int:
    """How many hosts a connection URL names."""
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", ()))
    return len([host for host in place.split(",") if host])
