"""The texts of a catalog that only functions can write which open, and so lock, every table that the text names: of views, rules, generated
columns and SQL-standard function bodies. Each is read by a statement of its own, and once: until something that its words depend on changes.

Source: PostgreSQL, ruleutils.c (AcquireRewriteLocks, deparse_context_for); "System Catalogs", pg_depend.
"""

# ruff: noqa: S608 - put together from this file's own constants

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from rules.catalog_queries import FINGERPRINT_QUERY, OWN, QUIET_QUERIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

LOCK_MILLISECONDS: Final = 100  # how long one text may wait for somebody's ACCESS EXCLUSIVE lock
MAX_WAITS: Final = 3  # texts of one reading that may do so; the rest is left for the next one
UNREADABLE: Final = '"'
"""Stands for a text that could not be read now. It is no SQL, and so is taken for what could show anything."""

_LOCKED: Final = "55P03"  # lock_not_available
_GONE: Final = ("42P01", "42883", "XX000")  # dropped meanwhile; the last is "cache lookup failed"

# What the words of a text depend on: the row that holds it, and the names and columns of all that it uses (pg_depend).
TEXTS_QUERY: Final = f"""
WITH text (kind, holder, oid, sub, class, object, written) AS MATERIALIZED (
    SELECT 'view', c.oid, c.oid, 0, 'pg_catalog.pg_rewrite'::pg_catalog.regclass::oid, w.oid, w.xmin
      FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE w.ev_type = '1' AND c.relkind IN ('v', 'm') AND {OWN.format(oid="c.oid")}
    UNION ALL
    SELECT 'rule', c.oid, w.oid, 0, 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid, w.xmin
      FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE w.ev_type <> '1' AND {OWN.format(oid="c.oid")}
    UNION ALL
    SELECT 'default', c.oid, d.oid, a.attnum, 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, d.xmin
      FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
      JOIN pg_catalog.pg_class c ON c.oid = d.adrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND {OWN.format(oid="c.oid")}
    UNION ALL
    SELECT b.kind, b.holder, p.oid, 0, 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.xmin
      FROM pg_catalog.pg_proc p
      JOIN (SELECT 'function' AS kind, f.oid AS holder, f.oid AS body FROM pg_catalog.pg_proc f
            UNION
            SELECT 'function', g.aggfnoid::oid, s.body FROM pg_catalog.pg_aggregate g,
                   LATERAL (VALUES (g.aggtransfn::oid), (g.aggfinalfn::oid), (g.aggcombinefn::oid), (g.aggserialfn::oid), (g.aggdeserialfn::oid),
                                   (g.aggmtransfn::oid), (g.aggminvtransfn::oid), (g.aggmfinalfn::oid)) AS s (body)
            UNION
            SELECT 'operator', o.oid, o.oprcode::oid FROM pg_catalog.pg_operator o) AS b ON b.body = p.oid
     WHERE p.prosqlbody IS NOT NULL AND p.oid >= 16384
),
uses AS MATERIALIZED (
    SELECT DISTINCT t.class, t.object, d.refclassid, d.refobjid
      FROM text t JOIN pg_catalog.pg_depend d ON d.classid = t.class AND d.objid = t.object
),
used AS MATERIALIZED (SELECT DISTINCT refclassid, refobjid FROM uses),
named (class, object, names) AS (
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(c.relname, n.nspname,
               (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(a.attnum, a.xmin), 0))
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)), 0)
      FROM used u JOIN pg_catalog.pg_class c ON c.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE u.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    UNION ALL
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(y.typname, n.nspname,
               (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(e.oid, e.xmin), 0)) FROM pg_catalog.pg_enum e WHERE e.enumtypid = y.oid),
               (SELECT pg_catalog.sum(pg_catalog.hash_record_extended(ROW(a.attnum, a.xmin), 0))
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0)), 0)
      FROM used u JOIN pg_catalog.pg_type y ON y.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
     WHERE u.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
    UNION ALL
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(p.xmin, n.nspname), 0)
      FROM used u JOIN pg_catalog.pg_proc p ON p.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    UNION ALL
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(o.xmin, n.nspname), 0)
      FROM used u JOIN pg_catalog.pg_operator o ON o.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
     WHERE u.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
    UNION ALL
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(o.xmin, n.nspname), 0)
      FROM used u JOIN pg_catalog.pg_collation o ON o.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = o.collnamespace
     WHERE u.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass
    UNION ALL
    SELECT u.refclassid, u.refobjid, pg_catalog.hash_record_extended(ROW(o.xmin, n.nspname), 0)
      FROM used u JOIN pg_catalog.pg_ts_config o ON o.oid = u.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = o.cfgnamespace
     WHERE u.refclassid = 'pg_catalog.pg_ts_config'::pg_catalog.regclass
)
SELECT t.kind, t.holder::int8 AS holder, t.oid::int8 AS oid, t.sub::int AS sub,
       pg_catalog.concat_ws('.', t.written, pg_catalog.count(n.names), pg_catalog.sum(n.names)) AS stamp
  FROM text t
  LEFT JOIN uses u ON u.class = t.class AND u.object = t.object
  LEFT JOIN named n ON n.class = u.refclassid AND n.object = u.refobjid
 GROUP BY t.kind, t.holder, t.oid, t.sub, t.written::text, t.written
"""

_WRITTEN_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "view": "pg_catalog.pg_get_viewdef({oid})",
        "rule": "pg_catalog.pg_get_ruledef({oid})",
        "default": "(SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d WHERE d.oid = {oid})",
        "function": "pg_catalog.pg_get_function_sqlbody({oid})",
        "operator": "pg_catalog.pg_get_function_sqlbody({oid})",
    }
)
_TEXT: Final = f"""
WITH fixed AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)
                                   || pg_catalog.set_config('quote_all_identifiers', 'off', true) AS path,
                                   pg_catalog.set_config('lock_timeout', '{LOCK_MILLISECONDS}ms', true) AS wait)
SELECT CASE WHEN (SELECT fixed.path || fixed.wait FROM fixed) IS NOT NULL THEN {{text}} END
"""
_QUERIES: Final[Mapping[str, str]] = MappingProxyType(
    {kind: _TEXT.format(text=text.format(oid="$1::pg_catalog.oid")) for kind, text in _WRITTEN_BY.items()}
)


class Connection(Protocol):
    """What is asked of a connection (asyncpg's)."""

    async def fetch(self, query: str, /) -> Sequence[Any]:
        """Rows."""

    async def fetchval(self, query: str, /, *arguments: object) -> Any:
        """The first column of the first row."""

    def transaction(self, *, isolation: Any, readonly: bool) -> AbstractAsyncContextManager[Any]:
        """A transaction."""


class TextKey(NamedTuple):
    """`holder`: the relation, function or operator that has the text. `oid`: what it is asked by. `sub`: a column's number."""

    kind: str
    holder: int
    oid: int
    sub: int


class Reading(NamedTuple):
    """A catalog as it was read. `whole`: every text could be; else read it again soon."""

    fingerprint: str
    rows: Mapping[str, Sequence[Any]]
    texts: Mapping[TextKey, str]
    whole: bool


class CatalogReader:
    """Reads one database again and again, each time only those texts that may have changed."""

    def __init__(self) -> None:
        self._known: dict[TextKey, tuple[str, str]] = {}

    async def read(self, connection: Connection) -> Reading:
        """The catalog; all but the texts are of one moment. No statement here locks anything but system catalogs, but for those of single texts.

        Raises what the connection raises.
        """
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            fingerprint = str(await connection.fetchval(FINGERPRINT_QUERY))
            rows = {name: await connection.fetch(sql) for name, sql in QUIET_QUERIES.items()}
            stamps = _stamps(await connection.fetch(TEXTS_QUERY))
        self._known = {key: held for key, held in self._known.items() if key in stamps and held[0] == stamps[key]}
        wanted = [key for key in stamps if key not in self._known]
        if wanted:
            found = await _texts(connection, wanted)
            # A text is that of the moment above if what it depends on is still the same now.
            now = _stamps(await connection.fetch(TEXTS_QUERY))
            self._known |= {key: (stamps[key], text) for key, text in found.items() if now.get(key) == stamps[key]}
        texts = {key: self._known[key][1] if key in self._known else UNREADABLE for key in stamps}
        return Reading(fingerprint, rows, texts, whole=len(self._known) == len(stamps))


def _stamps(rows: Sequence[Any]) -> dict[TextKey, str]:
    return {TextKey(r["kind"], r["holder"], r["oid"], r["sub"]): r["stamp"] for r in rows}


async def _texts(connection: Connection, wanted: Sequence[TextKey]) -> dict[TextKey, str]:
    """Those that can be read now."""
    found, waits = {}, 0
    for key in wanted:
        if waits == MAX_WAITS:
            break
        try:
            text = await connection.fetchval(_QUERIES[key.kind], key.oid)
        except Exception as error:
            state = getattr(error, "sqlstate", None)
            if state != _LOCKED and state not in _GONE:
                raise
            waits += state == _LOCKED
            continue
        if text is not None:
            found[key] = str(text)
    return found
