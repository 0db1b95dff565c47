"""How a database of the server sorts, folds and formats, so that the engine can do the same (PostgreSQL documentation, chapter 24)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncpg

LIBC: Final = "c"
ICU: Final = "i"
BUILTIN: Final = "b"
_PLAIN: Final = frozenset(("C", "POSIX"))
# Since then pg_database knows of providers and versions.
_PROVIDERS_SINCE: Final = 15


@dataclass(frozen=True, slots=True)
class Locale:
    """A database's locale. `name`: the ICU or builtin locale. `version`: of the collation as the server's system has it; None for C and its like.

    `numeric`, `monetary`, `time`: what to_char and the type money go by.
    """

    collate: str = "C"
    ctype: str = "C"
    provider: str = LIBC
    name: str | None = None
    rules: str | None = None
    version: str | None = None
    numeric: str = "C"
    monetary: str = "C"
    time: str = "C"

    @property
    def plain(self) -> bool:
        """Whether it is C in every respect."""
        words = (self.collate, self.ctype, *self.formats) if self.provider == LIBC else (self.name, *self.formats)
        return self.provider != ICU and _PLAIN.issuperset(word or "" for word in words)

    @property
    def formats(self) -> tuple[str, str, str]:
        """lc_numeric, lc_monetary, lc_time."""
        return self.numeric, self.monetary, self.time

    @property
    def database(self) -> str:
        """A name for the engine's database with this locale."""
        return "pgveil_" + hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:24]

    def __str__(self) -> str:
        words = (
            [self.collate]
            if self.provider == LIBC
            else [f"{self.name} of provider {_PROVIDERS.get(self.provider, self.provider)}"]
        )
        if self.provider == LIBC and self.ctype != self.collate:
            words.append(f"character types {self.ctype}")
        if self.version is not None:
            words.append(f"version {self.version}")
        words += [word for word in dict.fromkeys(self.formats) if word not in (*_PLAIN, self.collate)]
        return ", ".join(words)


_PROVIDERS: Final = {ICU: "icu", BUILTIN: "builtin"}

_QUERY: Final = """SELECT pg_catalog.to_jsonb(d) - 'datacl' AS database, {version} AS version,
    pg_catalog.current_setting('lc_numeric') AS numeric, pg_catalog.current_setting('lc_monetary') AS monetary,
    pg_catalog.current_setting('lc_time') AS time
    FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()"""


async def read_locale(connection: asyncpg.Connection[Any]) -> Locale:
    """The locale of the database that the connection is to. Raises asyncpg's errors."""
    modern = connection.get_server_version().major >= _PROVIDERS_SINCE
    version = "pg_catalog.pg_database_collation_actual_version(d.oid)" if modern else "NULL::text"
    row = await connection.fetchrow(_QUERY.format(version=version))
    assert row is not None
    database = json.loads(row["database"])
    found = row["version"]
    if not modern and not database["datcollate"].startswith(("C", "POSIX")):
        found = "unknown"  # the server can't tell, and so nothing is equal to it
    return Locale(
        collate=database["datcollate"],
        ctype=database["datctype"],
        provider=database.get("datlocprovider", LIBC),
        # Named so since PostgreSQL 17, and before it daticulocale.
        name=database.get("datlocale", database.get("daticulocale")),
        rules=database.get("daticurules"),
        version=found,
        numeric=row["numeric"],
        monetary=row["monetary"],
        time=row["time"],
    )
