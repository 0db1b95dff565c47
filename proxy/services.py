"""What a worker needs from the rest of the house: sessions for the clients that have logged in, and somebody who counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.metrics import NullMetrics
from proxy.session.link import PassThroughSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.hosts import Hosts
    from proxy.metrics import MetricSink
    from proxy.session.link import SessionContext, SessionLike
    from proxy.wire.messages import CancelRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is ready to be put in force by `commit`, all at once, without waiting or failing; or else is to be forgotten by `abort`."""

    commit: Callable[[], None]
    abort: Callable[[], None]


class Services(Protocol):
    """One worker's. `start` is awaited before the first client is taken, `stop` after the last has gone."""

    @property
    def metrics(self) -> MetricSink:
        """Who counts."""

    @property
    def hosts(self) -> Hosts | None:
        """Who knows which of the server's hosts are to be tried; None: each of them, in order."""

    async def start(self) -> None:
        """Raises ConfigError for what the operator must repair, PgveilError or OSError for what may pass."""

    async def connect_session(self, context: SessionContext) -> SessionLike:
        """The session of a client that has just logged in. A PgveilError raised here is what the client gets instead."""

    def session_ended(self, context: SessionContext) -> None:
        """The client whose session `connect_session` made has gone."""

    def cancel(self, request: CancelRequest) -> bool:
        """Whether a cancel request met something that pgveil itself does for a client of this worker, and has ended it."""

    def login_failed(self, context: SessionContext, sqlstate: str | None) -> None:
        """The server, or pgveil, did not let a client in; None: it went away by itself, or it took too long. Once for each that has no session."""

    async def prepare(self, config: Config) -> Prepared:
        """Everything that this configuration names, read again. Nothing of it is in force yet. Raises ConfigError."""

    async def stop(self) -> None:
        """Write down what must be."""


# From the configuration and the worker's number (0, 1, ...) to its services.
if TYPE_CHECKING:
    ServicesFactory = Callable[[Config, int], Services]


class Unprotected:
    """Sessions that forward everything: for measuring what the proxy itself costs, and for its tests. Nothing is protected."""

    def __init__(self) -> None:
        self.metrics: MetricSink = NullMetrics()
        self.hosts: Hosts | None = None

    async def start(self) -> None:
        """Nothing to prepare."""

    async def connect_session(self, context: SessionContext) -> SessionLike:  # noqa: ARG002 - all are alike
        """A session that changes nothing."""
        return PassThroughSession()

    def session_ended(self, context: SessionContext) -> None:
        """Nothing to forget."""

    def cancel(self, request: CancelRequest) -> bool:  # noqa: ARG002 - everything is done by the server
        """Nothing to cancel."""
        return False

    def login_failed(self, context: SessionContext, sqlstate: str | None) -> None:  # noqa: ARG002 - nobody asks why
        """Count it."""
        self.metrics.login_failed()

    async def prepare(self, config: Config) -> Prepared:  # noqa: ARG002 - none of it is used
        """Nothing to read."""
        return Prepared(lambda: None, lambda: None)

    async def stop(self) -> None:
        """Nothing to write."""


def unprotected(config: Config, number: int) -> Services:  # noqa: ARG001 - the form of every factory
    """The factory of `Unprotected`."""
    return Unprotected()
