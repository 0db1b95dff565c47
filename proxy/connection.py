"""One client's connection from its first byte to its end: greeting, way to the server, authentication, session.

One task a connection does the dialogue, then sleeps while the relay works by callbacks. Every way out of it leaves both legs closing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from proxy.errors import (
    AuthenticationRefused,
    HostUnreachable,
    NoPostgresClient,
    PgveilError,
    ProtocolError,
    ServerLost,
    ServerUnreachable,
    ShuttingDown,
    TooManyConnections,
    TooManyLogins,
)
from proxy.metrics import Turned
from proxy.relay import Leg, LegClosed, Relay
from proxy.session.handshake import Authentication, BeginTls, Greeting, Login, Send
from proxy.session.link import SessionContext
from proxy.tls import failure_word, same_channel
from proxy.wire.messages import CancelRequest, ErrorFields

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.cancels import Bucket
    from proxy.config import Address, Config
    from proxy.logins import Logins
    from proxy.services import Services
    from proxy.session.link import SessionLike
    from proxy.tls import ClientSide
    from proxy.upstream import Route, Upstream

# The server's refusal that another attempt of the sslmode ladder may get around: no entry for this kind of connection in pg_hba.conf.
_NO_ENTRY = "28000"
# The server starts, stops or recovers: another host may do (libpq, 34.1.1.3).
_NOT_NOW = "57P03"
# While a worker drains, how long a client that has just come may take for its first packet, and then for its first statement: it was
# let in by a listener that serves on, and should not have to try again.
FIRST_QUESTION_SECONDS = 3.0
# Who has waited for a place to log in is told so before the login's own time is over.
_TO_SAY_SO_SECONDS = 0.2


def _going() -> ShuttingDown:
    return ShuttingDown("terminating connection because pgveil stops or restarts")


def _recorded(error: BaseException) -> str | None:
    """The SQLSTATE in the record of a login that ended so; None where somebody has gone, or took too long."""
    if isinstance(error, PgveilError):
        return error.sqlstate
    if isinstance(error, LegClosed | TimeoutError | asyncio.CancelledError):
        return None
    return PgveilError.sqlstate


class _TlsFailed(Exception):  # noqa: N818
    """The client began TLS and did not finish it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of a worker share, as the configuration in force has it.

    `logins` has the places to log in at the server. `admit` counts a connection in that is about to log in, `enter` one that has, as whom; each says why there is no place. `release` gives both back.
    """

    config: Config
    services: Services
    upstream: Upstream
    tls: ClientSide | None
    cancels: Bucket
    admit: Callable[[], PgveilError | None]
    enter: Callable[[str], PgveilError | None]
    release: Callable[[str | None], None]
    logins: Logins
    now: Callable[[], float]


class Connection:
    """One client's. `address` is for logs and audit; `unix` exempts from required TLS; `encrypted`: TLS stands already (direct TLS)."""

    def __init__(
        self, around: Surroundings, leg: Leg, number: int, *, address: str, unix: bool = False, encrypted: bool = False
    ) -> None:
        self._around = around
        self._client = leg
        self._server: Leg | None = None
        self._number = number
        self._address = address
        self._host = address.rpartition(":")[0] or address
        self._unix = unix
        self._encrypted = encrypted
        self._admitted = False
        self._entered: str | None = None  # as whom
        self._answered = False  # the client has said something since its startup packet
        self._leaving = False
        self._established = 0.0
        self._deadline = 0.0  # for the login
        self._relay: Relay | None = None
        self._in_session: SessionContext | None = None
        self._log = structlog.get_logger("connection").bind(connection=number, address=address)

    async def run(self) -> None:
        """Serve the client until its end. Raises nothing but CancelledError."""
        try:
            relay = await self._establish()
            if relay is not None:
                reason = await relay.over
                self._log.debug("connection.ended", reason=reason)
        except LegClosed:
            self._log.debug("connection.ended", reason="client_gone")
        except asyncio.CancelledError:
            self._client.abort()
            raise
        except Exception:  # noqa: BLE001 - whatever it is, this connection ends and the others go on
            self._log.exception("connection.failed")
            self._tell(PgveilError("internal error in pgveil", hint="Its log says more."))
        finally:
            await self._close()

    async def refuse_silence(self) -> None:
        """The end of a connection that has not sent a byte in the time for a whole login."""
        try:
            self._turn_away(Turned.TIMEOUT, AuthenticationRefused("the login took too long"))
        finally:
            await self._close()

    def leave(self) -> None:
        """The worker drains: end as soon as nothing is under way. What has just come is given a moment for its first question (`hurry`)."""
        self._leaving = True
        if self._relay is not None:
            young = asyncio.get_running_loop().time() - self._established < FIRST_QUESTION_SECONDS
            self._relay.leave(_going(), patient=young)

    def hurry(self) -> None:
        """That moment is over. A login that is under way goes on; then it is told."""
        if self._relay is not None:
            self._relay.leave(_going())
        elif not self._admitted:
            self._tell(_going())

    def shutdown(self) -> None:
        """End it from our side now, telling the client where that is possible."""
        error = _going()
        if self._relay is not None:
            self._relay.shutdown(error)
        else:
            self._tell(error)

    # -- stages ----------------------------------------------------------------------------------------------------------------------

    async def _establish(self) -> Relay | None:
        """Everything before the relay. None: there is nothing to relay, and the client knows why."""
        try:
            async with asyncio.timeout(self._around.config.limits.authentication_seconds) as whole:
                self._deadline = (whole.when() or 0.0) - _TO_SAY_SO_SECONDS
                greeted = await self._greet()
                if isinstance(greeted, CancelRequest):
                    await self._cancel(greeted)
                    return None
                return await self._log_in(greeted)
        except TimeoutError:
            self._turn_away(Turned.TIMEOUT, AuthenticationRefused("the login took too long"))
        except TooManyConnections as error:
            self._turn_away(Turned.LOGINS if isinstance(error, TooManyLogins) else Turned.LIMIT, error)
        except (ServerUnreachable, ServerLost) as error:
            self._turn_away(Turned.SERVER, error)
        except _TlsFailed as error:
            # There is no channel to say so on, but for the alert that TLS itself sends.
            self._around.services.metrics.connection_refused(Turned.TLS)
            self._log.info("client.tls_failed", reason=failure_word(error.__cause__))
            self._client.abort()
        except NoPostgresClient as error:
            self._count_refusal(Turned.PROTOCOL, error)
            self._client.close()
        except PgveilError as error:
            self._turn_away(Turned.PROTOCOL, error)
        return None

    async def _greet(self) -> Login | CancelRequest:
        """The client's packets up to the one that says what it wants."""
        settings = self._around.config.tls
        tls = self._around.tls
        greeting = Greeting(
            tls=tls is not None and not self._unix,
            required=settings.required and not self._unix,
            encrypted=self._encrypted,
        )
        while True:
            match greeting.next_step():
                case None:
                    greeting.feed(await self._client.read())
                case Send(data):
                    self._client.write([data])
                case BeginTls(reply):
                    assert tls is not None
                    self._client.write([reply])
                    await self._encrypt(tls)
                    greeting.encrypted()
                case Login() as login:
                    if greeting.unread:
                        raise ProtocolError("the client spoke before it was asked")
                    return login
                case CancelRequest() as request:
                    return request

    async def _encrypt(self, tls: ClientSide) -> None:
        seconds = self._around.config.limits.authentication_seconds
        try:
            await self._client.start_tls(tls.context, server_side=True, seconds=seconds)
        except OSError as error:
            raise _TlsFailed from error

    async def _cancel(self, request: CancelRequest) -> None:
        """Pass it on if the rate allows, unless it is for something that pgveil does itself. Never answered: the client waits for the end."""
        if self._around.cancels.take():
            if self._around.services.cancel(request):
                return
            await self._around.upstream.cancel(request)
        else:
            self._log.warning("cancel.dropped", reason="rate")

    async def _log_in(self, login: Login) -> Relay | None:
        """From who the client says he is to his session. A login that fails on the way leaves one record."""
        context = self._context(login)
        try:
            self._take_place()
            authentication = await self._authenticate(login)
            if isinstance(authentication, ErrorFields):
                self._around.services.login_failed(context, authentication.sqlstate)
                return None
            # Not before: whoever only says who he is must not fill somebody else's places.
            self._take_place_as(login.user)
            context = replace(context, answered=authentication.answered)
            session = await self._session(context)
        except BaseException as error:
            if isinstance(error, LegClosed) and not self._answered:
                # A probe (pg_isready), or a program that has to ask its user for the password first: nobody has tried anything.
                self._around.services.metrics.login_abandoned()
            else:
                self._around.services.login_failed(context, _recorded(error))
            raise
        if session is None:
            return None
        # From here on it is the session that records its end, whether it had begun or not.
        self._in_session = context
        self._begin(session, authentication)
        self._log.debug("connection.established", login=login.user, database=login.database)
        return self._relay

    def _take_place(self) -> None:
        refused = self._around.admit()
        if refused is not None:
            raise refused
        self._admitted = True

    def _take_place_as(self, login: str) -> None:
        refused = self._around.enter(login)
        if refused is not None:
            raise refused
        self._entered = login

    async def _session(self, context: SessionContext) -> SessionLike | None:
        """The session of a client that the server has let in. None: there is none, and the client knows why."""
        try:
            return await self._around.services.connect_session(context)
        except PgveilError as error:
            self._around.services.login_failed(context, error.sqlstate)
            self._turn_away(Turned.NOT_READY, error)
            return None

    def _begin(self, session: SessionLike, authentication: Authentication) -> None:
        assert self._server is not None
        metrics = self._around.services.metrics
        metrics.connection_opened()
        self._relay = Relay(self._client, self._server, session, metrics)
        self._client.write(authentication.to_client)
        self._relay.start(*authentication.unread)
        self._established = asyncio.get_running_loop().time()
        if self._leaving:
            self.leave()

    async def _authenticate(self, login: Login) -> Authentication | ErrorFields:
        """Reach the server and let it judge the client. ErrorFields: it has refused so, and the client has been told."""
        unreachable = ServerUnreachable("the PostgreSQL server could not be reached")
        silent: Address | None = None
        not_now: Authentication | None = None
        async for route in self._around.upstream.routes():
            if route.address == silent:
                continue
            async with self._around.logins.place(self._host, self._deadline) as place:
                try:
                    self._server = await self._around.upstream.open(route)
                except ServerUnreachable as error:
                    reason = None if error.__cause__ is None else failure_word(error.__cause__)
                    self._log.warning(
                        "server.unreachable", host=str(route.address), tls=route.encryption.value, reason=reason
                    )
                    unreachable = error
                    if isinstance(error, HostUnreachable):
                        silent = route.address
                    continue
                place.taken()
                self._around.services.metrics.server_reached(self._around.now())
                try:
                    authentication = await self._talk(login, self._server)
                except HostUnreachable as error:
                    unreachable, silent, not_now = error, route.address, None
                    continue
                rejected = authentication.rejected
                if rejected is None:
                    return authentication
                if authentication.untouched and rejected.sqlstate == _NOT_NOW:
                    self._server.close()
                    silent, not_now = route.address, authentication
                    continue
                if self._another_way(route, authentication):
                    self._server.close()
                    continue
                self._client.write(authentication.to_client)
                return rejected
        if not_now is not None and not_now.rejected is not None:
            self._client.write(not_now.to_client)
            return not_now.rejected
        raise unreachable

    async def _talk(self, login: Login, server: Leg) -> Authentication:
        binding = same_channel(self._around.tls if self._client.tls else None, server.tls)
        authentication = Authentication(login, binding=binding)
        dialogue = _Dialogue(self._client, server, authentication)
        try:
            await dialogue.over
        except ServerLost:
            if not authentication.untouched:
                raise
            raise HostUnreachable("the PostgreSQL server closed the connection at once") from None
        finally:
            self._answered = authentication.answered
            dialogue.leave()
        return authentication

    @staticmethod
    def _another_way(route: Route, authentication: Authentication) -> bool:
        rejected = authentication.rejected
        return (
            not route.last_of_host
            and authentication.untouched
            and rejected is not None
            and rejected.sqlstate == _NO_ENTRY
        )

    def _context(self, login: Login) -> SessionContext:
        own = (b"user", b"database")
        return SessionContext(
            login=login.user,
            database=login.database,
            parameters={key: value for key, value in login.startup.parameters if key not in own},
            protocol=login.startup.version,
            client_address=self._address,
            client_tls=self._client.tls is not None,
            number=self._number,
            pump=self._pump,
            later=self._later,
        )

    def _pump(self) -> None:
        if self._relay is not None:
            self._relay.pump()

    def _later(self, turn: Callable[[], None]) -> None:
        if self._relay is not None:
            self._relay.later(turn)

    # -- ends ------------------------------------------------------------------------------------------------------------------------

    def _turn_away(self, why: Turned, error: PgveilError) -> None:
        self._count_refusal(why, error)
        self._tell(error)

    def _count_refusal(self, why: Turned, error: PgveilError) -> None:
        self._around.services.metrics.connection_refused(why)
        self._log.info("connection.refused", reason=why.value, sqlstate=error.sqlstate)

    def _tell(self, error: PgveilError) -> None:
        if self._relay is None and not self._client.is_closed:
            self._client.write([error.response()])
        self._client.close()

    async def _close(self) -> None:
        """Both legs closed, the place given back."""
        legs = [leg for leg in (self._client, self._server) if leg is not None]
        for leg in legs:
            leg.detach()
            leg.close()
        try:
            for leg in legs:
                await leg.wait_closed()
        finally:
            for leg in legs:
                leg.abort()
            if self._in_session is not None:
                self._around.services.session_ended(self._in_session)
                self._around.services.metrics.connection_closed()
            if self._admitted:
                self._around.release(self._entered)


class _Dialogue:
    """The authentication's bytes between the legs (a LegSink). `over` is done with its end; raises PgveilError or LegClosed."""

    def __init__(self, client: Leg, server: Leg, authentication: Authentication) -> None:
        self._client = client
        self._server = server
        self._authentication = authentication
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for leg in (server, client):
            leg.set_reading(on=True)
            data = leg.attach(self)
            if data:
                self.received(leg, data)
            if leg.at_eof:
                self.ended(leg)
        self._flush()

    def leave(self) -> None:
        """Take no more events. What comes now waits for the relay, in the kernel."""
        for leg in (self._client, self._server):
            leg.detach()
            leg.set_reading(on=False)
        if not self.over.done():
            self.over.cancel()

    def received(self, leg: Leg, data: bytes) -> None:
        """Bytes for the authentication."""
        if self.over.done():
            leg.keep(data)
            return
        try:
            if leg is self._client:
                self._authentication.client_received(data)
            else:
                self._authentication.server_received(data)
        except PgveilError as error:
            self.over.set_exception(error)
        else:
            self._flush()

    def ended(self, leg: Leg) -> None:
        """One of them has gone."""
        if not self.over.done():
            gone = LegClosed() if leg is self._client else ServerLost("the PostgreSQL server closed the connection")
            self.over.set_exception(gone)

    def fullness_changed(self, leg: Leg) -> None:
        """A few small messages fill no buffer."""

    def _flush(self) -> None:
        """Forward; but the last word is held until it is known what to do with it."""
        dialogue = self._authentication
        if dialogue.to_server:
            self._server.write(dialogue.to_server)
            dialogue.to_server.clear()
        if dialogue.done or dialogue.rejected is not None:
            if not self.over.done():
                self.over.set_result(None)
        elif dialogue.to_client and not dialogue.let_in:
            self._client.write(dialogue.to_client)
            dialogue.to_client.clear()
