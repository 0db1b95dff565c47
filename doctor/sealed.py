"""Some stored values of every sealed column, opened and forgotten: only their number is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from doctor.database import AS_ADMINISTRATOR
from doctor.facts import Missing, Sample
from keys.sealed import MalformedError, UnknownKeyError, open_batch_lenient
from keys.stored import LOOKED_AT, sampled
from rules.model import Protection, SealMode, quote_ident

if TYPE_CHECKING:
    from keys.ring import KeyRing
    from lifecycle.database import Connection
    from rules.catalog import Catalog, Relation
    from rules.model import Column, Rules

COUNTED: Final = 100_000
"""Rows of a table up to which doctor looks for values that stand there twice, where it is not asked to look at all (`--deep`)."""
_QUERY: Final = "SELECT {column}::text AS value FROM {table}{sample} WHERE {column} IS NOT NULL LIMIT {limit}"
# A default is one text for all rows that have it.
_REPEATED: Final = (
    "SELECT count(*) FROM (SELECT FROM {table} WHERE {column} IS NOT NULL AND {column} IS DISTINCT FROM ({default})"
    " GROUP BY {column} HAVING count(*) > 1) r"
)
_DEFAULT: Final = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = $1 AND adnum = $2"
_ROWS: Final = "SELECT GREATEST(reltuples, 0)::float8 FROM pg_class WHERE oid = $1"


async def read_samples(
    connection: Connection, rules: Rules, ring: KeyRing, catalog: Catalog, *, deep: bool = False
) -> tuple[Sample, ...] | Missing:
    """A sample of each sealed column that is there. `deep`: read large tables too. Missing where this login may not read one of them."""
    found = []
    for column in rules.protected_columns():
        relation = catalog.by_name.get(column.name.relation)
        if column.protection is Protection.SEALED and relation is not None and relation.column(column.name.column):
            try:
                found.append(await _sample(connection, column, relation, ring, deep=deep))
            except asyncpg.InsufficientPrivilegeError:
                return Missing("this login may not read the sealed columns", AS_ADMINISTRATOR)
    return tuple(found)


async def _sample(connection: Connection, column: Column, relation: Relation, ring: KeyRing, *, deep: bool) -> Sample:
    parts = [quote_ident(column.name.schema), quote_ident(column.name.table), quote_ident(column.name.column)]
    rows = float(await connection.fetchval(_ROWS, relation.oid))
    query = _QUERY.format(column=parts[2], table=f"{parts[0]}.{parts[1]}", sample=sampled(rows), limit=LOOKED_AT)
    repeated = None
    async with connection.transaction(readonly=True):
        values = [r["value"].encode() for r in await connection.fetch(query)]
        if column.mode is SealMode.RANDOMIZED and (deep or rows <= COUNTED):
            own = relation.column(column.name.column)
            assert own is not None
            default = await connection.fetchval(_DEFAULT, relation.oid, own.attnum) or "NULL"
            asked = _REPEATED.format(column=parts[2], table=f"{parts[0]}.{parts[1]}", default=default)
            repeated = await connection.fetchval(asked)
    keys = ring.keys(domain) if (domain := column.key_domain) in ring.domains() else {}
    opened = open_batch_lenient(keys, values)
    return Sample(
        column=str(column.name),
        looked=len(values),
        opened=sum(isinstance(v, bytes) for v in opened),
        no_key=sum(isinstance(v, UnknownKeyError) for v in opened),
        plain=sum(isinstance(v, MalformedError) for v in opened),
        damaged=sum(not isinstance(v, bytes | UnknownKeyError | MalformedError) for v in opened),
        repeated=repeated,
    )
