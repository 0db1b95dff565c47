"""What the relay needs of a session, what a session is told at its start, and the session that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from proxy.errors import ServerLost
from proxy.wire.framing import Direction, Framer, Message
from proxy.wire.messages import TERMINATE, Back, Front, parse_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class SessionContext:
    """Who has logged in, and from where. `login` is the user of the startup packet, whom the server has just authenticated.

    `parameters`: the startup packet's other parameters, as sent to the server (client_encoding, options, search_path...).
    `answered`: the client has said something since its startup packet. `client_address`: "host:port", or "unix". `number`: counts the worker's connections. `pump`: to be called, in the event loop, when the
    session's output or wants have changed by themselves. `later` has a function called when other clients have had their turn, if this one is still there then.
    """

    login: str
    database: str
    parameters: Mapping[bytes, bytes] = field(default_factory=dict)
    protocol: int = 0x0003_0000
    client_address: str = "unix"
    client_tls: bool = False
    answered: bool = False
    number: int = 0
    pump: Callable[[], None] = lambda: None
    later: Callable[[Callable[[], None]], None] | None = None


class SessionLike(Protocol):
    """A connection after its authentication, without I/O. The relay calls, then takes the output and looks at the wants."""

    to_client: list[bytes]
    to_server: list[bytes]

    @property
    def wants_client(self) -> bool:
        """False while nothing more should be read from the client (the session waits for something else)."""

    @property
    def wants_server(self) -> bool:
        """False while nothing more should be read from the server."""

    @property
    def closing(self) -> str | None:
        """A word for the log once the connection must end, after the output is flushed."""

    @property
    def may_speak(self) -> bool:
        """Whether what went to the client ends between two messages, so that an ErrorResponse of the relay's own can follow."""

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way, no transaction either: the connection could end without taking anything away."""

    def client_received(self, data: bytes) -> bool:
        """Bytes came from the client; whether nothing but the outputs is another than before."""

    def server_received(self, data: bytes) -> bool:
        """Bytes came from the server; whether nothing but the outputs is another than before."""

    def client_eof(self) -> None:
        """The client will send nothing more."""

    def server_eof(self) -> None:
        """The server will send nothing more."""


class PassThroughSession:
    """Forwards both ways as it comes. Headers are walked, so that the end can be told cleanly and garbage is not forwarded."""

    __slots__ = ("_back", "_ended", "_front", "closing", "to_client", "to_server", "wants_client", "wants_server")

    def __init__(self) -> None:
        self._front = Framer(Direction.FRONTEND, interpret=frozenset((Front.TERMINATE,)))
        self._back = Framer(Direction.BACKEND, interpret=frozenset((Back.ERROR,)))
        self._ended = False  # the client or the server has announced the end
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.wants_client = True
        self.wants_server = True
        self.closing: str | None = None

    @property
    def may_speak(self) -> bool:
        """Whether the server's messages so far have ended."""
        return self._back.at_boundary

    @property
    def at_rest(self) -> bool:
        """Never, as far as is known here: nobody looks at transactions."""
        return False

    def client_received(self, data: bytes) -> bool:
        """Forward; remember a Terminate."""
        self._front.feed(data)
        while (event := self._front.next_event()) is not None:
            if isinstance(event, Message):
                self._ended = True
                self.to_server.append(event.raw)
            else:
                assert isinstance(event, bytes)
                self.to_server.append(event)
        return False

    def server_received(self, data: bytes) -> bool:
        """Forward; remember a fatal error."""
        self._back.feed(data)
        while (event := self._back.next_event()) is not None:
            if isinstance(event, Message):
                self._ended = self._ended or parse_error(event.body).fatal
                self.to_client.append(event.raw)
            else:
                assert isinstance(event, bytes)
                self.to_client.append(event)
        return False

    def client_eof(self) -> None:
        """The server is told, where that is possible: it would wait for the rest of a message cut short."""
        if not self._ended and self._front.at_boundary:
            self.to_server.append(TERMINATE)
        self.closing = "client_gone"

    def server_eof(self) -> None:
        """The client is told, unless it knows."""
        if not self._ended and self._back.at_boundary:
            self.to_client.append(ServerLost("the PostgreSQL server closed the connection").response())
        self.closing = "server_gone"
