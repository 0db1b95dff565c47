"""What pgveil knows of each database: its catalog, read by pgveil's own login and kept up to date, and the gate that judges by it.

I/O: one asyncpg connection a database. A gate is made when the first client of a database comes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from proxy.calculator.locale import read_locale
from proxy.decisions import Gate
from proxy.errors import ConfigError, ServerUnreachable
from proxy.vocabulary import read_vocabulary
from rules.catalog import FINGERPRINT_QUERY, CatalogError, build_catalog
from rules.catalog_texts import CatalogReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.calculator.locale import Locale
    from proxy.config import Address, CatalogLogin
    from proxy.hosts import Hosts
    from proxy.observe.gate import ObservingGate
    from proxy.plan_cache import CacheObserver
    from proxy.session.values import ValueCodec
    from rules.catalog import Catalog
    from rules.model import Rules

MAX_DATABASES = 64  # a gate holds a catalog and a plan cache: tens of megabytes for a large schema
_ATTEMPTS = 3
_QUERY_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_VERSION_SECONDS = 3.0
_LOCK_SECONDS = 5
_TROUBLES = (OSError, ServerUnreachable, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
TEMPORARY_QUERY = """
SELECT c.oid::int8 AS oid FROM pg_catalog.pg_class c
 WHERE c.oid = ANY($1::pg_catalog.oid[]) AND (c.relpersistence = 't' OR c.relkind = 'S')
"""


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
    """One database: its codec and its gate, the connection that watches its catalog, and what the last reading showed."""

    name: str
    codec: ValueCodec
    gate: Gate | ObservingGate | None = None
    catalog: Catalog | None = None
    fingerprint: str = ""
    reader: CatalogReader = field(default_factory=CatalogReader)
    connection: asyncpg.Connection[Any] | None = None
    at: Address | None = None  # where that goes; None: where the URL says
    locale: Locale | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Databases:
    """The gates of all databases that clients of this worker use.

    `changed(database, catalog)` is called in the event loop after a gate's catalog was replaced; `answered(whether)` after every attempt
    to ask the server. `make` makes the gates, from rules, catalog, codec and observer. `hosts`: who knows where clients are led; the
    catalog is read there.
    """

    def __init__(
        self,
        dsn: str,
        rules: Rules,
        codec: ValueCodec,
        *,
        observer: CacheObserver,
        changed: Callable[[str, Catalog], None],
        answered: Callable[[bool], None],
        make: Callable[..., Gate | ObservingGate] = Gate,
        hosts: Hosts | None = None,
    ) -> None:
        self._hosts = hosts
        self._dsn = dsn
        self._rules = rules
        self._codec = codec
        self._observer = observer
        self._changed = changed
        self._answered = answered
        self._make = make
        self._databases: dict[str, _Database] = {}
        self._log = structlog.get_logger("catalog")

    async def gate(self, name: str) -> Gate | ObservingGate:
        """The gate of a database, its catalog as it is now. Raises CatalogUnavailable."""
        database = self._databases.get(name)
        if database is None:
            if len(self._databases) >= MAX_DATABASES:
                raise CatalogUnavailable(
                    "pgveil's limit of databases is reached", hint="Run another pgveil for the rest."
                )
            database = self._databases[name] = self._new(name)
        if database.gate is None:
            await self._refresh(database)
        assert database.gate is not None
        return database.gate

    def locale(self, name: str) -> Locale | None:
        """How a database sorts and formats; None before its gate was made."""
        database = self._databases.get(name)
        return None if database is None else database.locale

    def codec(self, name: str) -> ValueCodec:
        """What seals and opens the values of a database whose gate there is."""
        return self._databases[name].codec

    def expect(self, name: str) -> None:
        """Let `poll` read a database's catalog before its first client comes, and again until that works."""
        if name not in self._databases:
            self._databases[name] = self._new(name)

    def _new(self, name: str) -> _Database:
        return _Database(name, self._codec.in_database())

    async def refresh(self, name: str) -> None:
        """Read a database's catalog again if its fingerprint has changed. Raises CatalogUnavailable."""
        database = self._databases.get(name)
        if database is not None:
            await self._refresh(database)

    async def poll(self, seconds: float) -> None:
        """Follow DDL made past this worker: look at every database's fingerprint each `seconds`, for ever."""
        while True:
            for name in list(self._databases):
                try:
                    await self.refresh(name)
                except CatalogUnavailable:
                    self._log.warning("catalog.unreachable", database=name)
            await asyncio.sleep(seconds)

    def prepare(self, rules: Rules) -> Callable[[], None]:
        """Other rules, worked out for every database; calling what is returned judges by them, in all databases at once."""
        ready = {
            name: (database.catalog, database.gate.prepare(rules, database.catalog))
            for name, database in self._databases.items()
            if database.gate is not None and database.catalog is not None
        }

        def commit() -> None:
            self._rules = rules
            for name, database in self._databases.items():
                if database.gate is None or database.catalog is None:
                    continue
                catalog, install = ready.get(name, (None, None))
                if install is not None and catalog is database.catalog:
                    install()
                else:  # read again, or for the first time, since
                    database.gate.update(rules, database.catalog)

        return commit

    async def close(self) -> None:
        """Close the connections."""
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
                except CatalogUnavailable:
                    raise
                except _TROUBLES as error:
                    if database.connection is not None:
                        database.connection.terminate()
                        database.connection = None
                    if left and not isinstance(error, TimeoutError):
                        continue
                    self._answered(False)
                    raise CatalogUnavailable(
                        "pgveil can't read the database's catalog",
                        hint="See pgveil's log; check `catalog.dsn` in its configuration.",
                    ) from error
                else:
                    self._answered(True)
                    return

    async def _read(self, database: _Database) -> None:
        connection = await self._connection(database)
        if database.gate is not None and await connection.fetchval(FINGERPRINT_QUERY) == database.fingerprint:
            await self._look_for(connection, database.gate)
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
        if changed:
            self._log.info(
                "catalog.loaded", database=database.name, version=catalog.version, relations=len(catalog.relations)
            )
            self._changed(database.name, catalog)
        await self._look_for(connection, database.gate)

    async def _connection(self, database: _Database) -> asyncpg.Connection[Any]:
        """The connection that watches a database: of the host that clients are led to, now."""
        at = None if self._hosts is None else await self._hosts.own_address()
        connection = database.connection
        if connection is not None and (connection.is_closed() or at != database.at):
            connection.terminate()
            connection = None
        if connection is None:
            connection = await asyncpg.connect(
                self._dsn,
                host=None if at is None else at.host,
                port=None if at is None else at.port,
                database=database.name,
                timeout=_CONNECT_SECONDS,
                command_timeout=_QUERY_SECONDS,
                # A view's text can't be had while somebody alters the view; who waits for us may hold that very lock.
                # To compile these queries takes the server ten times as long as to run them.
                server_settings={
                    "application_name": "pgveil catalog",
                    "lock_timeout": f"{_LOCK_SECONDS}s",
                    "jit": "off",
                },
            )
            try:
                database.locale = await read_locale(connection)
            except BaseException:
                connection.terminate()  # a login whose time is over, too: the next one begins anew
                raise
            database.connection, database.at = connection, at
        return connection

    @staticmethod
    async def _look_for(connection: asyncpg.Connection[Any], gate: Gate | ObservingGate) -> None:
        """Tell the gate which of the relations that it does not know are temporary, or sequences."""
        wanted = gate.wanted_relations()
        if wanted:
            rows = await connection.fetch(TEMPORARY_QUERY, sorted(wanted))
            gate.found_relations(wanted, frozenset(int(r["oid"]) for r in rows))


async def server_version(login: CatalogLogin) -> int | None:
    """The server's major version; None where it can't be asked now."""
    try:
        connection = await asyncpg.connect(dsn_of(login), timeout=_VERSION_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ConfigError):
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
