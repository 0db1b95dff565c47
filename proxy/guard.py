"""A worker's services in earnest: rules, keys, audit log, catalogs and metrics, and a Session for each client that logs in.

Everything that the design calls passed in (clocks, randomness) comes in here, at the edge.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import structlog

from audit.errors import AuditError, AuditLocked, AuditUnavailable
from audit.event import (
    CatalogLoaded,
    KeyUsed,
    LoggedOut,
    LoginFailed,
    LoginSucceeded,
    Observing,
    RulesLoaded,
)
from audit.log import AuditLog
from proxy.calculator.service import CalculatorService
from proxy.databases import CatalogUnavailable, Databases, dsn_of
from proxy.decisions import Gate
from proxy.errors import ConfigError, PgveilError, ServerUnreachable
from proxy.guarded import CacheMeter, Client, GuardedSession, Recorder, Waiting
from proxy.hosts import Hosts
from proxy.inforce import InForce, differences
from proxy.lookup_meter import LocalLookupMeter, SharedLookupMeter
from proxy.metric_files import ENVIRONMENT
from proxy.metrics import Turned
from proxy.observe.gate import ObservingGate
from proxy.observe.keeper import Keeper
from proxy.own_login import OwnLogin
from proxy.repeated import Repeated
from proxy.services import Prepared
from proxy.session.collect import Budget
from proxy.session.lane import PassingTexts
from proxy.session.limits import SessionLimits
from proxy.session.prepared import ComputeCache
from proxy.session.trail import Identity
from proxy.session.witness import DescriptionCache
from proxy.troubles import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.config import Config
    from proxy.metrics import MetricSink
    from proxy.observe.findings import Finding
    from proxy.session.gate import Judge
    from proxy.session.link import SessionContext, SessionLike
    from proxy.session.metering import LookupMeter
    from proxy.wire.messages import CancelRequest
    from rules.catalog import Catalog
    from rules.model import Principal

HAND_OVER_SECONDS = 60.0  # how long a statement may keep its session under the rules of before
POLL_SECONDS = 1.0  # how long DDL past this worker may go unnoticed; the second witness covers the gap


class Guard:
    """Implements `proxy.services.Services`."""

    def __init__(self, config: Config, number: int, metrics: MetricSink) -> None:
        self.metrics = metrics
        self.hosts = Hosts(config.server, metrics)
        self._config = config
        self._writer = f"w{number:02d}"
        self._waiting = Waiting()
        self._clients: dict[int, Client] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self._poller: asyncio.Task[None] | None = None
        # One a database: the OIDs in a description mean something else in another one.
        self._descriptions: dict[str, DescriptionCache] = {}
        self._computed: dict[str, ComputeCache] = {}
        self._passing: dict[str, PassingTexts] = {}
        # Workers meet in the directory in which their metrics meet; without one this process is all there is.
        shared = os.environ.get(ENVIRONMENT)
        self._meter: LookupMeter = (
            SharedLookupMeter(Path(shared) / "lookups", time.monotonic) if shared else LocalLookupMeter(time.monotonic)
        )
        self._budget = Budget(config.calculator.held)
        self._calculator = CalculatorService(config.calculator, metrics, monotonic=time.monotonic)
        self._keeper = Keeper(config.observe, self._writer, lambda: datetime.now(UTC))
        self._log = structlog.get_logger("guard")
        self._audit_troubles = Repeated(
            self._log, "audit.unavailable", "audit.available", time.monotonic, level="error"
        )
        self._audit: AuditLog
        self._databases: Databases
        self._login: OwnLogin
        self._force: InForce

    # -- Services

    async def start(self) -> None:
        """See Services. Rules, keys, audit log, in this order; nothing is served without each of them."""
        self._force = InForce(self._config.rules, self._config.keys, self._key_used)
        rules = self._force.rules
        self._audit = await self._open_audit()
        self._audit.on_durable(self._durable)
        self._audit.on_failure(self._audit_lost)
        self._force.begin()
        self.metrics.rules_loaded(rules.version)
        await self._calculator.start()
        self._login = OwnLogin(dsn_of(self._config.catalog), self._config.server)
        self.hosts.start(self._login)
        self._databases = Databases(
            self._login,
            rules,
            self._force.codec,
            observer=CacheMeter(self.metrics),
            changed=self._catalog_changed,
            answered=self._server_answered,
            not_served=self.metrics.not_applied,
            forgotten=self._database_forgotten,
            make=self._gates(),
            hosts=self.hosts,
            serving=lambda name: [c.session.judge for c in self._clients.values() if c.context.database == name],
            pinned=self._judges,
        )
        self._databases.expect(_database_of(self._login.dsn))
        self._audit.note(RulesLoaded(version=rules.version, source=str(self._config.rules)))
        self._poller = asyncio.create_task(self._databases.poll(POLL_SECONDS))
        self.metrics.audit_healthy(healthy=True)
        self.metrics.catalog_loaded(loaded=False)

    def _gates(self) -> Callable[..., Gate | ObservingGate]:
        """What makes the gates of the configured mode. Raises ConfigError."""
        if self._config.mode == "enforce":
            return partial(Gate, computes=self._calculator.available, marks=self._force.marks)
        self._log.warning("observe.nothing_is_protected", mode=self._config.mode)
        self._keeper.start()
        observing = partial(
            ObservingGate, take=self._observed, found=self._observing, rows=self._config.calculator.rows
        )
        return partial(observing, computes=self._calculator.available, marks=self._force.marks)

    def _observed(self, found: Finding | None, count: int) -> None:
        self._keeper.take(found, count)
        self.metrics.observed("passes" if found is None else found.label, count)

    def _observing(self, database: str, protected: bool) -> None:
        if not protected:
            self._log.warning("observe.database_is_not_protected", database=database)
        else:
            self._log.warning("observe.database_is_protected", database=database)
        self._audit.note(Observing(database=database, protected=protected))

    async def connect_session(self, context: SessionContext) -> SessionLike:
        """See Services."""
        gate = await self._databases.gate(context.database)
        try:
            return self._session(context, gate)
        except BaseException:
            self._databases.left(context.database)
            raise

    def _session(self, context: SessionContext, gate: Gate | ObservingGate) -> SessionLike:
        connection = f"{self._writer}-{context.number}-{secrets.token_hex(4)}"
        principal = gate.principal(context.login)
        application = context.parameters.get(b"application_name", b"").decode(errors="replace")
        identity = Identity(context.login, context.database, context.client_address, application, connection)
        recorder = Recorder(
            self._audit, self._waiting, lambda seq: self._wake(context.number, seq), lambda: self._fail(context.number)
        )
        session = GuardedSession(
            judge=gate,
            codec=self._databases.codec(context.database),
            identity=identity,
            recorder=recorder,
            clock=time.monotonic,
            observer=self.metrics,
            cache=self._descriptions.setdefault(context.database, DescriptionCache()),
            calculator=self._calculator.bind(self._databases.locale(context.database)),
            computed=self._computed.setdefault(context.database, ComputeCache()),
            passing=self._passing.setdefault(context.database, PassingTexts()),
            budget=self._budget,
            limits=self._limits(),
            pump=context.pump,
            later=context.later,
            meter=self._meter,
        )
        session.announced = False
        session.asked = 0
        session.fits = self._fits
        session.on_stale = lambda: self._stale(context.database)
        session.on_start = lambda: self._logged_in(context, identity, principal)
        self._clients[context.number] = Client(context, connection, session, recorder, time.monotonic())
        return session

    def _fits(self, standby: bool | None, read_only: bool | None) -> None:
        """A session has begun on a host that says so of itself. Raises ServerUnreachable where it is of another kind than asked for."""
        if not self.hosts.fits(standby=standby, read_only=read_only):
            self.hosts.doubt()
            self.metrics.connection_refused(Turned.SERVER)
            raise ServerUnreachable(
                f"the PostgreSQL server that was reached is not {self._config.server.target_session_attrs}",
                hint="A failover is under way, or this login's default_transaction_read_only says otherwise. Try again.",
            )

    def _logged_in(self, context: SessionContext, identity: Identity, principal: Principal) -> None:
        self._audit.note(
            LoginSucceeded(
                connection=identity.connection,
                login=identity.login,
                roles=principal.roles,
                policy_class=principal.policy.id,
                database=identity.database,
                client=identity.client,
                application=identity.application,
                tls="TLS" if context.client_tls else None,
            )
        )

    def session_ended(self, context: SessionContext) -> None:
        """See Services."""
        client = self._clients.pop(context.number, None)
        if client is None:
            return
        self._databases.left(context.database)
        client.session.abandoned()
        if not client.session.started:
            if client.session.closing == "client_gone" and not context.answered:
                self.metrics.login_abandoned()
            else:
                self.login_failed(context, client.session.ended_with)
            return
        duration = int((time.monotonic() - client.since) * 1e6)
        self._audit.note(LoggedOut(connection=client.connection, login=context.login, duration_us=duration))

    def cancel(self, request: CancelRequest) -> bool:
        """See Services."""
        return any(client.session.cancel(request) for client in list(self._clients.values()))

    def login_failed(self, context: SessionContext, sqlstate: str | None) -> None:
        """See Services."""
        self.metrics.login_failed()
        self._audit.note(
            LoginFailed(
                connection=f"{self._writer}-{context.number}",
                login=context.login,
                database=context.database,
                client=context.client_address,
                application=context.parameters.get(b"application_name", b"").decode(errors="replace"),
                sqlstate=sqlstate,
                tls="TLS" if context.client_tls else None,
            )
        )

    async def prepare(self, config: Config) -> Prepared:
        """See Services. New rules hold for every session from its next statement on."""
        # New rules on an old catalog would miss the masking views that were made for them just before.
        await self._databases.look_again()
        previous = self._force.rules
        rules, replace_rules_and_keys = self._force.prepare(config.rules, every_key=self._config.mode == "enforce")
        try:
            await self._databases.announce(rules.version)
            judge_anew = self._databases.prepare(rules)
        except BaseException:
            self._force.forget()
            raise

        def commit() -> None:
            self._login.follow(config.server)
            replace_rules_and_keys()
            # Also where the rules are the same: constants that were sealed with other keys are in the caches.
            before = {
                name: self._databases.current(name) for name in {c.context.database for c in self._clients.values()}
            }
            judge_anew()
            self._hand_over(before)
            self.metrics.rules_loaded(rules.version)
            self._audit.note(
                RulesLoaded(
                    version=rules.version,
                    source=str(config.rules),
                    changed=differences(previous, rules),
                    previous=previous.version,
                )
            )

        return Prepared(commit, self._forget)

    def _forget(self) -> None:
        self._force.forget()
        self._databases.comes_not()

    def _hand_over(self, before: Mapping[str, Gate | ObservingGate | None]) -> None:
        """Every session is judged by the newer rules from its next statement on. Who has not taken up those before does so at once."""
        busy: list[tuple[Client, Judge]] = []
        for client in list(self._clients.values()):
            gate, older = self._databases.current(client.context.database), client.session.judge
            if gate is not None and older is not gate:
                client.session.judged_by(gate, at_once=older is not before.get(client.context.database))
                if client.session.judge is older:
                    busy.append((client, older))
        if busy:
            asyncio.get_running_loop().call_later(HAND_OVER_SECONDS, self._hand_over_the_rest, busy)

    def _hand_over_the_rest(self, busy: list[tuple[Client, Judge]]) -> None:
        """What is still on its way goes on, and is answered by the newer rules' lights: nobody keeps the older ones standing for ever.

        Only what was on its way at that reload: what began since, and is on its way at a later one, has a minute of its own.
        """
        for client, older in busy:
            here = self._clients.get(client.context.number) is client
            gate = self._databases.current(client.context.database) if here else None
            if gate is not None and client.session.judge is older and older is not gate:
                client.session.judged_by(gate, at_once=True)

    def _judges(self, database: str) -> frozenset[Judge]:
        return frozenset(
            judge for c in self._clients.values() if c.context.database == database for judge in c.session.judges
        )

    async def stop(self) -> None:
        """See Services."""
        if self._poller is not None:
            self._poller.cancel()
        for task in (*self._refreshing.values(), *((self._poller,) if self._poller is not None else ())):
            task.cancel()
            try:
                await task
            except (asyncio.CancelledError, CatalogUnavailable):
                continue
        await self._calculator.stop()
        await self.hosts.stop()
        await self._databases.close()
        try:
            await self._keeper.stop()
        finally:
            await self._audit.close()
            self.metrics.flush()

    # -- parts

    async def _open_audit(self) -> AuditLog:
        self._config.audit.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return await AuditLog.open(
                self._config.audit,
                writer=self._writer,
                clock=lambda: datetime.now(UTC),
                observe_fsync=self._synced,
            )
        except AuditLocked as error:
            # Workers of a killed supervisor drain before they give it up. Whoever waits tries again.
            raise PgveilError(f"the audit log can't be used: {error}") from error
        except AuditError as error:
            raise ConfigError(f"the audit log can't be used: {error}") from error

    def _limits(self) -> SessionLimits:
        settings = self._config.calculator
        return SessionLimits(collected_rows=settings.rows, collected_bytes=settings.size)

    def _key_used(self, label: str) -> None:
        domain, _, key = label.rpartition(" version ")
        self._audit.note(KeyUsed(domain=domain, key_id=key))

    def _synced(self, seconds: float, records: int) -> None:
        self.metrics.audit_synced(records, seconds)
        # The log writes its first record while it is being opened.
        if self._poller is not None:
            self.metrics.audit_queue(self._audit.queue_length)

    # -- what wakes sessions

    def _durable(self, seq: int) -> None:
        self.metrics.audit_healthy(healthy=True)
        self._audit_troubles.ended("audit")
        for recorder in self._waiting.until(seq):
            try:
                recorder.wake(seq)
            except Exception:  # noqa: BLE001 - whatever goes wrong in one session, the others wait for nothing else
                self._log.exception("session.failed")

    def _audit_lost(self, error: AuditUnavailable) -> None:
        self.metrics.audit_healthy(healthy=False)
        self._audit_troubles.failed("audit", reason_of(error))
        for client in list(self._clients.values()):
            client.recorder.fail()
        self._waiting.clear()

    def _wake(self, number: int, seq: int) -> None:
        client = self._clients.get(number)
        if client is not None:
            client.session.audit_durable(seq)
            client.context.pump()

    def _fail(self, number: int) -> None:
        client = self._clients.get(number)
        if client is not None:
            client.session.audit_failed()
            client.context.pump()

    def _stale(self, database: str) -> None:
        self._dirty.add(database)
        if database not in self._refreshing:
            task = asyncio.create_task(self._read_again(database))
            self._refreshing[database] = task
            task.add_done_callback(lambda done: self._read_once(database, done))

    def _read_once(self, database: str, task: asyncio.Task[None]) -> None:
        """A refresh has ended. A session that became stale again while the others were woken is still waiting."""
        self._refreshing.pop(database, None)
        if database in self._dirty and not task.cancelled():
            self._stale(database)

    async def _read_again(self, database: str) -> None:
        try:
            # What is asked for while the catalog is read may not be in what was read.
            while database in self._dirty:
                self._dirty.discard(database)
                asking = [(client, client.session.outdated) for client in self._stale_in(database)]
                await self._databases.refresh(database)
                for client, asked in asking:
                    if client.session.outdated == asked and self._clients.get(client.context.number) is client:
                        client.session.catalog_refreshed()
                        client.context.pump()
        except CatalogUnavailable:
            for client in self._stale_in(database):
                client.session.catalog_unreachable()
                client.context.pump()
            await asyncio.sleep(POLL_SECONDS)
            asyncio.get_running_loop().call_soon(self._stale, database)

    def _stale_in(self, database: str) -> list[Client]:
        return [c for c in self._clients.values() if c.context.database == database and c.session.catalog_stale]

    def _server_answered(self, whether: bool) -> None:
        self.metrics.catalog_loaded(loaded=whether)
        if whether:
            self.metrics.server_reached(time.time())

    def _database_forgotten(self, database: str) -> None:
        self._descriptions.pop(database, None)
        self._computed.pop(database, None)
        self._passing.pop(database, None)

    def _catalog_changed(self, database: str, catalog: Catalog) -> None:
        self._force.refresh(catalog.record)
        self._audit.note(CatalogLoaded(database=database, version=catalog.version, relations=len(catalog.relations)))


def _database_of(dsn: str) -> str:
    """The database that a connection URL names; PostgreSQL's own when it names none."""
    parts = urlsplit(dsn)
    return unquote(parts.path.lstrip("/")) or parts.username or "postgres"
