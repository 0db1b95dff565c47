"""What judging without a session needs: the settings that a login would begin with, and keys that nothing is stored under."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from keys.sealed import DataKey
    from proxy.session.gate import Settings
    from rules.catalog import Catalog

# The search_path that a new session of the login starts with (PostgreSQL 20.1.3: the most specific setting wins), and where it may look.
_SETTINGS_QUERY: Final = """
SELECT (SELECT pg_catalog.substr(line, 13)
          FROM pg_catalog.pg_db_role_setting s
          LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
         CROSS JOIN pg_catalog.unnest(s.setconfig) AS line
         WHERE pg_catalog.starts_with(line, 'search_path=')
           AND (s.setrole = 0 OR r.rolname = $1)
           AND (s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_catalog.pg_database
                                                       WHERE datname = pg_catalog.current_database()))
         ORDER BY s.setrole <> 0 AND s.setdatabase <> 0 DESC, s.setrole <> 0 DESC LIMIT 1) AS own,
       (SELECT CASE WHEN source IN ('default', 'configuration file', 'command line', 'environment variable')
                    THEN reset_val ELSE boot_val END
          FROM pg_catalog.pg_settings WHERE name = 'search_path') AS server,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1) AS known
"""
_USABLE_QUERY: Final = """
SELECT nspname::text AS name FROM pg_catalog.pg_namespace
 WHERE pg_catalog.has_schema_privilege($1::name, oid, 'USAGE')
"""


async def login_settings(
    connection: asyncpg.Connection[Any], catalog: Catalog, login: str, search_path: str | None
) -> tuple[Settings, bool]:
    """The settings of a new session of `login`, and whether the database knows it. `search_path`: instead of its own.

    Raises ConfigError for a search_path that is none, and asyncpg's errors.
    """
    found = await connection.fetchrow(_SETTINGS_QUERY, login)
    assert found is not None
    usable = await connection.fetch(_USABLE_QUERY, login) if found["known"] else []
    schemas = frozenset(str(r["name"]) for r in usable) if found["known"] else catalog.schemas
    value = found["own"] or found["server"] if search_path is None else search_path
    return first_settings(str(value), login, schemas), bool(found["known"])


def first_settings(search_path: str, login: str, schemas: frozenset[str]) -> Settings:
    """The settings of a new session; the path as current_schemas(true) would give it (PostgreSQL 5.9.3). Raises ConfigError."""
    from proxy.session.gate import Settings  # noqa: PLC0415 - the analysis is loaded when a command runs
    from rules.lexer import Kind, LexError, lex, literal_value  # noqa: PLC0415

    try:
        lexed = lex(search_path)
        names = [
            literal_value(lexed, i) if t.kind is Kind.STRING else t.value
            for i, t in enumerate(lexed.tokens)
            if t.kind in (Kind.WORD, Kind.QUOTED, Kind.STRING)
        ]
    except LexError as error:
        raise ConfigError(f"the search_path was not understood: {error}") from error
    path = [login if name == "$user" else name for name in names]
    if "pg_catalog" not in path:
        path.insert(0, "pg_catalog")
    return Settings(search_path=tuple(name for name in path if name == "pg_catalog" or name in schemas))


class ThrowawayKeys:
    """Stands in for the key ring where what is sealed goes nowhere: each key is thrown away. Implements `proxy.session.values.Keys`."""

    def newest(self, domain: str) -> DataKey:
        """See Keys."""
        from keys.sealed import MATERIAL_SIZE, DataKey  # noqa: PLC0415

        return DataKey(domain, 1, secrets.token_bytes(MATERIAL_SIZE))

    def keys(self, domain: str) -> Mapping[int, DataKey]:
        """See Keys."""
        key = self.newest(domain)
        return {key.key_id: key}
