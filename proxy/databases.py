"""What pgveil knows of each database: its catalog, read by pgveil's own login and kept up to date, and the gate that judges by it.

I/O: one asyncpg connection a database, while there are sessions in it. A gate is made when its first client comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from proxy.calculator.locale import read_locale
from proxy.decisions import Gate
from proxy.differing import Differing
from proxy.errors import ConfigError, PgveilError, ServerUnreachable
from proxy.observe.gate import ObservingGate
from proxy.own_login import OwnLogin
from proxy.repeated import Repeated
from proxy.troubles import reason_of
from proxy.vocabulary import read_vocabulary
from rules.catalog import FINGERPRINT_QUERY, CatalogError, build_catalog
from rules.catalog_texts import CatalogReader
from rules.serving import ANNOUNCE_QUERY, WITHDRAW_QUERY, lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.calculator.locale import Locale
    from proxy.config import Address, CatalogLogin, Server
    from proxy.hosts import Hosts
    from proxy.plan_cache import CacheObserver
    from proxy.session.gate import Judge
    from proxy.session.values import ValueCodec
    from rules.catalog import Catalog
    from rules.model import Rules

MAX_DATABASES = 64  # a gate holds a catalog and a plan cache: tens of megabytes for a large schema
LINGER_SECONDS = 0.25  # a client that comes so soon after the last one has gone finds the connection still there
_IDLE_LOOKS = 5  # the database of pgveil's own URL is looked at in one round of so many while nobody uses it
_ATTEMPTS = 3
_QUERY_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_VERSION_SECONDS = 3.0
_LOCK_SECONDS = 5
_IDLE_IN_TRANSACTION_SECONDS = 10  # a pgveil that is stopped in the middle of a reading holds back no vacuum
_TROUBLES = (OSError, PgveilError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
TEMPORARY_QUERY = """
SELECT c.oid::int8 AS oid FROM pg_catalog.pg_class c
 WHERE c.oid = ANY($1::pg_catalog.oid[]) AND (c.relpersistence = 't' OR c.relkind = 'S')
"""
# Whoever is about to drop, rename, move or copy a database holds one of these locks on it, and waits for the sessions in it to end.
_WANTED_QUERY = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.objid
                WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
                  AND d.datname = pg_catalog.current_database() AND l.mode IN ('ShareLock', 'AccessExclusiveLock'))
"""
_TEMPLATE_QUERY = "SELECT d.datistemplate FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
_NAMES_QUERY = "SELECT d.datname::text AS name FROM pg_catalog.pg_database d"


class CatalogUnavailable(ServerUnreachable):
    """pgveil's own login could not read the catalog, so nothing can be judged."""


async def read_catalog(connection: asyncpg.Connection[Any], reader: CatalogReader | None = None) -> tuple[str, Catalog]:
    """The fingerprint and the catalog; no fingerprint where it is to be read again soon. Raises CatalogUnavailable when it keeps changing."""
    reader = CatalogReader() if reader is None else reader
    for _ in range(_ATTEMPTS):
        reading = await reader.read(connection)
        try:
            return reading.fingerprint if reading.whole else "", build_catalog(reading.rows, reading.texts)
        except CatalogError:
            continue
    raise CatalogUnavailable(
        "the database's catalog keeps changing while pgveil reads it", hint="Try again after the DDL."
    )


@dataclass(slots=True)
class _Database:
    """One database: its codec and its gate, the connection that watches its catalog, and what the last reading showed.

    `users`: sessions in it, and those that are about to begin. While there is none, there is no connection. `announced`: the rules that the
    connection says are served (`rules.serving`).
    """

    name: str
    codec: ValueCodec
    gate: Gate | ObservingGate | None = None
    catalog: Catalog | None = None
    fingerprint: str = ""
    reader: CatalogReader = field(default_factory=CatalogReader)
    connection: asyncpg.Connection[Any] | None = None
    at: Address | None = None  # where that goes; None: where the URL says
    locale: Locale | None = None
    template: bool = False
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    announced: set[str] = field(default_factory=set)
    look: asyncio.Task[None] | None = None
    leaving: asyncio.Task[None] | None = None

    @property
    def watched(self) -> bool:
        """Whether a change would be noticed within a second."""
        return self.connection is not None and not self.connection.is_closed()


class Databases:
    """The gates of the databases that clients of this worker use. pgveil is a guest in them: docs/adr/0033.

    `changed(database, catalog)` is called in the event loop after a gate's catalog was replaced; `forgotten(database)` when nothing is kept
    of it any more; `answered(whether)` after every attempt to ask the database of pgveil's own URL (or any, where none is `expect`ed).
    `not_served(count)` after every look at that database: how much of the rules can't be served there, since it is not applied so.
    `make` makes the gates, from rules, catalog, codec and observer. `hosts`: who knows where clients are led; the catalog is read there.
    `serving(database)`: the judges of its sessions, older ones among them; `pinned(database)`: those and the judges of what is open, all of which
    follow the catalog.
    """

    def __init__(
        self,
        login: OwnLogin,
        rules: Rules,
        codec: ValueCodec,
        *,
        observer: CacheObserver,
        changed: Callable[[str, Catalog], None],
        answered: Callable[[bool], None],
        not_served: Callable[[int], None] = lambda _: None,
        forgotten: Callable[[str], None] = lambda _: None,
        make: Callable[..., Gate | ObservingGate] = Gate,
        hosts: Hosts | None = None,
        now: Callable[[], float] = time.monotonic,
        serving: Callable[[str], Iterable[Judge]] = lambda _: (),
        pinned: Callable[[str], Iterable[Judge]] = lambda _: (),
    ) -> None:
        self._hosts = hosts
        self._login = login
        self._rules = rules
        self._codec = codec
        self._observer = observer
        self._changed = changed
        self._answered = answered
        self._forgotten = forgotten
        self._make = make
        self._serving = serving
        self._pinned = pinned
        self._coming: str | None = None  # rules that are about to be in force
        self._databases: dict[str, _Database] = {}  # the one that was asked for last is the last
        self._home: str | None = None
        self._log = structlog.get_logger("catalog")
        self._differing = Differing(self._log, not_served)
        self._troubles = Repeated(self._log, "catalog.unreachable", "catalog.reachable", now)

    async def gate(self, name: str) -> Gate | ObservingGate:
        """The gate of a database for one more session, its catalog as it is now. `left` is to be called for each. Raises CatalogUnavailable.

        To be asked when the server has let somebody into a database of that name: not before is there one.
        """
        database = self._databases.pop(name, None)
        if database is None:
            self._make_room()
            database = self._new(name)
        self._databases[name] = database
        database.users += 1
        try:
            if database.gate is None or not database.watched:
                await self._refresh(database)
        except BaseException:
            self.left(name)
            raise
        assert database.gate is not None
        return database.gate

    def left(self, name: str) -> None:
        """A session of a database has ended. With the last one pgveil's own connection goes, in a moment; at once where it is a template."""
        database = self._databases[name]
        database.users -= 1
        if database.users:
            return
        if database.gate is None and name != self._home:
            self._forget(name)
        if database.leaving is not None:
            database.leaving.cancel()
        database.leaving = asyncio.create_task(self._let_go(database, 0.0 if database.template else LINGER_SECONDS))

    def locale(self, name: str) -> Locale | None:
        """How a database sorts and formats; None before its gate was made."""
        database = self._databases.get(name)
        return None if database is None else database.locale

    def codec(self, name: str) -> ValueCodec:
        """What seals and opens the values of a database whose gate there is."""
        return self._databases[name].codec

    def expect(self, name: str) -> None:
        """Let `poll` read a database's catalog before its first client comes, and look at it now and then while there is none."""
        self._home = name
        if name not in self._databases:
            self._databases[name] = self._new(name)

    def _new(self, name: str) -> _Database:
        return _Database(name, self._codec.in_database())

    def _make_room(self) -> None:
        """Forget the database that nobody has used for the longest time, where there are too many. Raises CatalogUnavailable."""
        if len(self._databases) < MAX_DATABASES:
            return
        idle = next((n for n, d in self._databases.items() if not d.users and n != self._home), None)
        if idle is None:
            raise CatalogUnavailable("pgveil's limit of databases is reached", hint="Run another pgveil for the rest.")
        self._forget(idle)

    def _forget(self, name: str) -> None:
        database = self._databases.pop(name)
        self._codec.leave_database(database.codec)
        self._troubles.forget(name)
        self._differing.forget(name)
        self._forgotten(name)
        if database.connection is not None:
            database.connection.terminate()
            database.connection = None

    async def _let_go(self, database: _Database, seconds: float) -> None:
        """Close the connection to a database unless somebody uses it again by then."""
        await asyncio.sleep(seconds)
        async with database.lock:
            if not database.users:
                await self._close(database)

    @staticmethod
    async def _close(database: _Database) -> None:
        connection, database.connection = database.connection, None
        if connection is not None:
            try:
                await connection.close(timeout=_CLOSE_SECONDS)
            except _TROUBLES:
                connection.terminate()

    async def refresh(self, name: str) -> None:
        """Read the catalog of a database in use again if its fingerprint has changed. Raises CatalogUnavailable.

        Of one that the last session has left nobody asks: the next session does when it begins.
        """
        database = self._databases.get(name)
        if database is not None and database.users:
            await self._refresh(database)
            if not database.users:
                await self._let_go(database, 0.0)

    async def look_again(self) -> None:
        """What has changed a moment ago in the databases in use, as `pgveil apply` does, is known; where one can't be read, it is not."""
        watched = [d for d in self._databases.values() if d.gate is not None and d.watched]
        looks = await asyncio.gather(*map(self._refresh, watched), return_exceptions=True)
        for failed in looks:
            if isinstance(failed, BaseException) and not isinstance(failed, CatalogUnavailable):
                raise failed

    async def poll(self, seconds: float) -> None:
        """Follow DDL made past this worker: look at the fingerprint of every database in use each `seconds`, for ever."""
        rounds = 0
        while True:
            for name, database in list(self._databases.items()):
                due = database.users or (name == self._home and (rounds % _IDLE_LOOKS == 0 or name in self._troubles))
                if due and (database.look is None or database.look.done()):
                    database.look = asyncio.create_task(self._look(database))
            rounds += 1
            await asyncio.sleep(seconds)

    async def _look(self, database: _Database) -> None:
        """One database's turn. One that somebody waits to have for himself is left to him."""
        try:
            if await self._is_wanted(database):
                return
            await self._refresh(database)
            if database.name == self._home:
                await self._forget_gone(database)
        except CatalogUnavailable:
            pass  # said by then
        except _TROUBLES:
            self._log.debug("catalog.look_failed", database=database.name)
        finally:
            if not database.users:
                await self._let_go(database, 0.0)

    async def _is_wanted(self, database: _Database) -> bool:
        async with database.lock:
            if not database.watched:
                return False
            assert database.connection is not None
            if not await database.connection.fetchval(_WANTED_QUERY):
                return False
            await self._close(database)
        self._log.info("catalog.yielded", database=database.name)
        return True

    async def _forget_gone(self, database: _Database) -> None:
        """What is known of databases that were dropped or renamed goes."""
        async with database.lock:
            if database.connection is None:
                return
            names = {r["name"] for r in await database.connection.fetch(_NAMES_QUERY)}
        for name, each in list(self._databases.items()):
            if name not in names and not each.users and name != self._home:
                self._forget(name)

    def prepare(self, rules: Rules) -> Callable[[], None]:
        """Other rules, worked out for every database; calling what is returned judges by them, in all databases at once.

        They get gates of their own: by the old ones is judged what is on its way.
        """
        ready = {
            name: (database.catalog, _following(database.gate, rules, database.catalog))
            for name, database in self._databases.items()
            if database.gate is not None and database.catalog is not None
        }

        def commit() -> None:
            self._rules, self._coming = rules, None
            for name, database in self._databases.items():
                if database.gate is None or database.catalog is None:
                    continue
                catalog, following = ready.get(name, (None, None))
                if following is None or catalog is not database.catalog:  # read again, or for the first time, since
                    following = _following(database.gate, rules, database.catalog)
                database.gate = following()
                self._differing.look(name, database.gate, home=name == self._home)

        return commit

    def current(self, name: str) -> Gate | ObservingGate | None:
        """The gate by which a database's sessions are to be judged from now on."""
        database = self._databases.get(name)
        return None if database is None else database.gate

    def comes_not(self) -> None:
        """What was announced is not going to be served; the next look takes it back."""
        self._coming = None

    async def announce(self, version: str) -> None:
        """Say in all databases that rules of this version are about to be served, before they are."""
        self._coming = version
        for database in list(self._databases.values()):
            async with database.lock:
                if database.watched:
                    assert database.connection is not None
                    with contextlib.suppress(*_TROUBLES):
                        await self._say_what_is_served(database, database.connection)

    async def _say_what_is_served(self, database: _Database, connection: asyncpg.Connection[Any]) -> None:
        """By shared advisory locks (`rules.serving`): `pgveil apply` leaves standing what those who say so need."""
        judges = [j for j in (database.gate, *self._serving(database.name)) if isinstance(j, Gate)]
        wanted = {self._rules.version, *(j.protection.rules.version for j in judges)}
        if self._coming is not None:
            wanted.add(self._coming)
        if isinstance(database.gate, ObservingGate) and database.gate.observes:
            wanted = set()
        for version in wanted - database.announced:
            await connection.fetchval(ANNOUNCE_QUERY, *lock_of(version))
            database.announced.add(version)
        for version in database.announced - wanted:
            await connection.fetchval(WITHDRAW_QUERY, *lock_of(version))
            database.announced.discard(version)

    async def close(self) -> None:
        """Close the connections."""
        tasks = [t for d in self._databases.values() for t in (d.look, d.leaving) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for database in self._databases.values():
            if database.connection is not None:
                database.connection.terminate()
                database.connection = None

    async def _refresh(self, database: _Database) -> None:
        async with database.lock:
            # One that stood idle may have been cut since; whoever asks now is not to pay for that.
            attempts = 1 if database.connection is None else 2
            for left in reversed(range(attempts)):
                try:
                    await self._read(database)
                except CatalogUnavailable as error:
                    self._troubles.failed(database.name, reason_of(error), database=database.name)
                    raise
                except _TROUBLES as error:
                    if database.connection is not None:
                        database.connection.terminate()
                        database.connection = None
                    if left and not isinstance(error, TimeoutError):
                        continue
                    self._troubles.failed(database.name, reason_of(error), database=database.name)
                    self._say(database, answered=False)
                    raise CatalogUnavailable(
                        "pgveil can't read the database's catalog",
                        hint="See pgveil's log; check `catalog.dsn` in its configuration.",
                    ) from error
                else:
                    self._troubles.ended(database.name, database=database.name)
                    self._say(database, answered=True)
                    return

    def _say(self, database: _Database, *, answered: bool) -> None:
        if self._home in (None, database.name):
            self._answered(answered)

    async def _read(self, database: _Database) -> None:
        connection = await self._connection(database)
        await self._say_what_is_served(database, connection)
        if database.gate is not None and await connection.fetchval(FINGERPRINT_QUERY) == database.fingerprint:
            await self._look_for_all(connection, database)
            self._differing.look(database.name, database.gate, home=database.name == self._home)
            return
        fingerprint, catalog = await read_catalog(connection, database.reader)
        encoding = connection.get_settings().server_encoding
        if encoding.upper() != "UTF8" and not self._rules.protected_tables().isdisjoint(catalog.by_name):
            # The lexer folds and truncates names as a UTF8 server does; elsewhere two names could be one.
            raise CatalogUnavailable(
                f"pgveil protects databases with encoding UTF8, and this one has {encoding}",
                hint="Create the database with encoding UTF8, or take its tables out of the rules.",
            )
        changed = database.catalog is None or catalog.version != database.catalog.version
        database.fingerprint, database.catalog = fingerprint, catalog
        database.codec.know_enums(catalog.enums)
        if database.gate is None:
            database.gate = self._make(
                self._rules,
                catalog,
                database.codec,
                observer=self._observer,
                vocabulary=await read_vocabulary(connection),
            )
        elif changed:
            database.gate.update(self._rules, catalog)
            for older in self._older(database):
                older.update(older.protection.rules, catalog)
        if changed:
            self._log.info(
                "catalog.loaded", database=database.name, version=catalog.version, relations=len(catalog.relations)
            )
            self._changed(database.name, catalog)
        await self._look_for_all(connection, database)
        self._differing.look(database.name, database.gate, home=database.name == self._home)

    def _older(self, database: _Database) -> set[Gate]:
        return {j for j in self._pinned(database.name) if isinstance(j, Gate) and j is not database.gate}

    async def _look_for_all(self, connection: asyncpg.Connection[Any], database: _Database) -> None:
        assert database.gate is not None
        for gate in (database.gate, *self._older(database)):
            await self._look_for(connection, gate)

    async def _connection(self, database: _Database) -> asyncpg.Connection[Any]:
        """The connection that watches a database: of the host that clients are led to, now."""
        at = None if self._hosts is None else await self._hosts.own_address()
        connection = database.connection
        if connection is not None and (connection.is_closed() or at != database.at):
            connection.terminate()
            connection = None
        if connection is None:
            connection = await self._login.connect(
                "pgveil catalog",
                seconds=_CONNECT_SECONDS,
                at=at,
                database=database.name,
                query_seconds=_QUERY_SECONDS,
                # To compile these queries takes the server ten times as long as to run them.
                settings={
                    "lock_timeout": f"{_LOCK_SECONDS}s",
                    "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_SECONDS}s",
                    "jit": "off",
                },
            )
            try:
                database.locale = await read_locale(connection)
                database.template = bool(await connection.fetchval(_TEMPLATE_QUERY))
            except BaseException:
                connection.terminate()  # a login whose time is over, too: the next one begins anew
                raise
            database.connection, database.at = connection, at
            database.announced.clear()
        return connection

    @staticmethod
    async def _look_for(connection: asyncpg.Connection[Any], gate: Gate | ObservingGate) -> None:
        """Tell the gate which of the relations that it does not know are temporary, or sequences."""
        wanted = gate.wanted_relations()
        if wanted:
            rows = await connection.fetch(TEMPORARY_QUERY, sorted(wanted))
            gate.found_relations(wanted, frozenset(int(r["oid"]) for r in rows))


def _following(gate: Gate | ObservingGate, rules: Rules, catalog: Catalog) -> Callable[[], Gate | ObservingGate]:
    """What gives the gate for other rules. Observed statements run as they came: there the same one goes on."""
    if isinstance(gate, Gate):
        made = gate.successor(rules, catalog)
        return lambda: made
    install = gate.prepare(rules, catalog)

    def installed() -> ObservingGate:
        install()
        return gate

    return installed


async def server_version(login: CatalogLogin, server: Server) -> int | None:
    """The server's major version; None where it can't be asked now."""
    try:
        connection = await OwnLogin(dsn_of(login), server).connect("pgveil", seconds=_VERSION_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ConfigError):
        return None
    try:
        return int(connection.get_server_version().major)
    finally:
        connection.terminate()


def dsn_of(login: CatalogLogin) -> str:
    """The connection URL of pgveil's own login. Raises ConfigError, OSError."""
    if login.dsn is not None:
        return login.dsn
    if login.dsn_file is None:
        raise ConfigError("`catalog.dsn` or `catalog.dsn_file` must say how pgveil itself logs in")
    return login.dsn_file.read_text().strip()
