"""What is asked of the engine beside computing: databases that sort as the server's do, and the names of types."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from proxy.calculator.client import Connection, DatabaseMissing, EngineLost
from proxy.calculator.hardening import CALCULATOR, FIRST_DATABASE, STEWARD
from proxy.calculator.locale import BUILTIN, ICU, LIBC
from proxy.session.computing import Answer
from proxy.wire.messages import parse_data_row, parse_error

if TYPE_CHECKING:
    from proxy.calculator.client import Bounds
    from proxy.calculator.locale import Locale

# A database is 7 MiB of memory, and all must fit into 48 MiB.
MAX_DATABASES: Final = 3
# OIDs from here on differ from server to server (PostgreSQL documentation, 67.2.2): the engine's names are not the server's.
FIRST_UNSTABLE_OID: Final = 10_000
_NAMES: Final = 4096
_ATTEMPTS: Final = 50
_PAUSE: Final = 0.1
_EXISTS: Final = frozenset(("42P04", "23505"))
# What another worker's making of a database looks like from here: a name taken and not open yet, a template in use.
_BUSY: Final = frozenset(("55000", "55006"))
# The statement as such was wrong for this engine: a provider or a locale that it does not have.
_UNKNOWN_CLASSES: Final = frozenset(("0A", "22", "42"))


class LocaleUnknown(Exception):  # noqa: N818 - a finding
    """The engine can't sort as that database of the server does."""


class Steward:
    """Answers are kept until `forget`, which is called when the engine turns out to be another one."""

    def __init__(self, path: str, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        self._lock = asyncio.Lock()
        self._databases: dict[Locale, str] = {}
        self._unknown: set[Locale] = set()
        self._names: LRUCache[tuple[int, int], bytes] = LRUCache(_NAMES)

    def refuses(self, locale: Locale) -> bool:
        """Whether it is known that there is no such locale."""
        return locale in self._unknown

    def forget(self) -> None:
        """The engine is another one: its databases have to be made again."""
        self._databases.clear()

    async def database(self, locale: Locale) -> str:
        """The engine's database with that locale, made if there is none. Raises LocaleUnknown, EngineLost, OSError."""
        if locale.plain:
            return FIRST_DATABASE
        known = self._databases.get(locale)
        if known is not None:
            return known
        if locale in self._unknown:
            raise LocaleUnknown
        async with self._lock:
            if locale not in self._databases:
                try:
                    await self._make(locale)
                except LocaleUnknown:
                    self._unknown.add(locale)
                    raise
                self._databases[locale] = locale.database
            return self._databases[locale]

    async def type_names(self, types: tuple[tuple[int, int], ...]) -> Answer:
        """SQL spellings of (OID, type modifier) pairs, b"" where the engine has no such type. Raises EngineLost, OSError."""
        missing = [pair for pair in dict.fromkeys(types) if pair not in self._names]
        asked = [(oid, modifier) for oid, modifier in missing if 0 < oid < FIRST_UNSTABLE_OID]
        found = dict.fromkeys(missing, b"")
        if asked:
            pairs = ", ".join(f"({oid}::oid, {modifier})" for oid, modifier in asked)
            rows = await self._query(
                f"SELECT t.oid, v.m, format_type(t.oid, v.m) FROM (VALUES {pairs}) AS v(o, m) JOIN pg_type AS t ON t.oid = v.o"  # noqa: S608
            )
            found |= {(int(oid or 0), int(modifier or 0)): name or b"" for oid, modifier, name in rows}
        answer = tuple(found[pair] if pair in found else self._names[pair] for pair in types)
        self._names.update(found)
        return Answer(rows=answer)

    async def _query(self, sql: str) -> list[tuple[bytes | None, ...]]:
        connection = await Connection.open(self._path, FIRST_DATABASE, STEWARD, self._bounds)
        try:
            said = await connection.simple(sql)
        finally:
            connection.drop()
        if said.error is not None:
            raise EngineLost
        return [parse_data_row(row[5:]) for row in said.rows]

    async def _make(self, locale: Locale) -> None:
        if len(self._databases) >= MAX_DATABASES:
            raise LocaleUnknown
        connection = await Connection.open(self._path, FIRST_DATABASE, STEWARD, self._bounds)
        try:
            await _create(connection, locale)
            version = await connection.simple(
                f"SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = '{locale.database}'"  # noqa: S608
            )
        finally:
            connection.drop()
        if version.error is not None or len(version.rows) != 1:
            raise EngineLost
        (found,) = parse_data_row(version.rows[0][5:])
        if (None if found is None else found.decode()) != locale.version:
            # The same name and another order: the two systems' libraries differ.
            raise LocaleUnknown


async def _create(connection: Connection, locale: Locale) -> None:
    """Make the database and open it last, so that nobody uses one that is not finished."""
    name = locale.database
    for _ in range(_ATTEMPTS):
        said = await connection.simple(_creation(locale))
        state = None if said.error is None else parse_error(said.error[5:]).sqlstate
        if state is None:
            break
        if state in _EXISTS:
            await _wait_open(connection, name)
            return
        if state[:2] in _UNKNOWN_CLASSES:
            raise LocaleUnknown
        if state not in _BUSY:
            raise EngineLost
        await asyncio.sleep(_PAUSE)
    for sql in (
        *(f"ALTER DATABASE {name} SET {setting} = {_quoted(value)}" for setting, value in _formats(locale)),
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {CALCULATOR}",
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS true",
    ):
        said = await connection.simple(sql)
        if said.error is not None:
            await connection.simple(f"DROP DATABASE {name}")
            raise LocaleUnknown


async def _wait_open(connection: Connection, name: str) -> None:
    """Another worker makes it at this moment."""
    for _ in range(_ATTEMPTS):
        said = await connection.simple(f"SELECT FROM pg_database WHERE datname = '{name}' AND datallowconn")
        if said.rows:
            return
        await asyncio.sleep(_PAUSE)
    # Whoever began has ended: the next question begins again.
    await connection.simple(f"DROP DATABASE IF EXISTS {name}")
    raise DatabaseMissing


def _creation(locale: Locale) -> str:
    options = [f"LC_COLLATE = {_quoted(locale.collate)}", f"LC_CTYPE = {_quoted(locale.ctype)}"]
    name = _quoted(locale.name or "")
    if locale.provider == LIBC:
        options.append("LOCALE_PROVIDER = libc")
    elif locale.provider == ICU:
        options.append(f"LOCALE_PROVIDER = icu ICU_LOCALE = {name}")
        if locale.rules is not None:
            options.append(f"ICU_RULES = {_quoted(locale.rules)}")
    elif locale.provider == BUILTIN:
        options.append(f"LOCALE_PROVIDER = builtin BUILTIN_LOCALE = {name}")
    else:
        raise LocaleUnknown
    return f"CREATE DATABASE {locale.database} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false {' '.join(options)}"


def _formats(locale: Locale) -> tuple[tuple[str, str], ...]:
    return tuple(zip(("lc_numeric", "lc_monetary", "lc_time"), locale.formats, strict=True))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
