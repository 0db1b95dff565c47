"""The record of what is applied (rules.record, docs/adr/0028): planned like any other change, and written at the end, in the same transaction."""

# ruff: noqa: S608 - made of constants

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import OWNER, SCHEMA, Change, Kind, MakeLookup, MakeView, ResealTable, SealTable, WriteRecord
from rules.model import Protection, quote_ident, quote_literal
from rules.record import VIEW, MadeAs, Record, SealedAs, rules_digest, sealed_as

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keys.ring import KeyRing
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.database import Connection
    from rules.model import Rules

_NAME = relation_sql(VIEW)

# For people: what the document says, a row for each thing that it speaks of.
CREATE_VIEW = f"""CREATE VIEW {_NAME} AS
SELECT part.kind, COALESCE(entry.value OPERATOR(pg_catalog.->>) 'schema', '') AS schema_name,
       COALESCE(entry.value OPERATOR(pg_catalog.->>) 'table', entry.value OPERATOR(pg_catalog.->>) 'name') AS object_name,
       entry.value OPERATOR(pg_catalog.->>) 'column' AS column_name,
       entry.value OPERATOR(pg_catalog.-) ARRAY['schema', 'table', 'name', 'column'] AS how
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
       LATERAL (SELECT pg_catalog.obj_description(c.oid, 'pg_class')::pg_catalog.jsonb AS document) d,
       (VALUES ('column', 'columns'), ('view', 'views'), ('function', 'functions')) AS part (kind, list),
       LATERAL pg_catalog.jsonb_array_elements(d.document OPERATOR(pg_catalog.->) part.list) AS entry
 WHERE n.nspname = {quote_literal(SCHEMA)} AND c.relname = {quote_literal(VIEW.name)}"""

_VIEW_TEXTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, md5(pg_get_viewdef(c.oid)) AS text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'v' AND n.nspname ~ '^pgveil_[0-9a-f]{12}$'
"""
_FUNCTION_TEXTS = """
SELECT n.nspname::text AS schema, p.proname::text AS name, md5(p.prosrc) AS text
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname ~ '^pgveil_[0-9a-f]{12}$'
"""


async def plan_record(
    connection: Connection, draft: Draft, state: State, rules: Rules, marks: Mapping[str, frozenset[str]]
) -> None:
    """The view that shows the record, and the record, where they are not what they have to be once the plan is carried out."""
    if VIEW not in state.catalog.by_name:
        draft.add(
            Kind.GROUND,
            str(VIEW),
            "create the view that shows the record of what is applied",
            CREATE_VIEW,
            f"ALTER VIEW {_NAME} OWNER TO {quote_ident(OWNER)}",
            f"REVOKE ALL ON TABLE {_NAME} FROM PUBLIC",
        )
    wanted = WriteRecord(_columns(state, rules), tuple(draft.made.views), tuple(draft.made.functions))
    changing = any(isinstance(c.work, MakeView | MakeLookup | SealTable | ResealTable) for c in draft.changes)
    if changing or await record_of(connection, wanted, marks) != state.catalog.record:
        draft.changes.append(Change(Kind.RECORD, str(VIEW), "write down what is applied", wanted))


def _columns(state: State, rules: Rules) -> tuple[SealedAs, ...]:
    found = []
    for column in rules.protected_columns():
        relation = state.catalog.by_name.get(column.name.relation)
        if column.protection is Protection.SEALED and relation is not None and relation.column(column.name.column):
            found.append(sealed_as(column))
    return tuple(found)


async def record_of(connection: Connection, wanted: WriteRecord, marks: Mapping[str, frozenset[str]]) -> Record:
    """The record of what is there now, of that which is wanted."""
    views = await connection.fetch(_VIEW_TEXTS)
    functions = await connection.fetch(_FUNCTION_TEXTS)
    record = Record(
        columns=tuple(msgspec.structs.replace(c, keys=_live(marks, c.domain)) for c in wanted.columns),
        views=_with_texts(wanted.views, {(r["schema"], r["name"]): r["text"] for r in views}),
        functions=_with_texts(wanted.functions, {(r["schema"], r["name"]): r["text"] for r in functions}),
    )
    return msgspec.structs.replace(record, rules=rules_digest(record))


def _live(marks: Mapping[str, frozenset[str]], domain: str) -> tuple[str, ...]:
    return tuple(sorted(m for m in marks.get(domain, frozenset()) if not m.endswith(":destroyed")))


def _with_texts(made: Iterable[MadeAs], texts: Mapping[tuple[str, str], str]) -> tuple[MadeAs, ...]:
    return tuple(
        msgspec.structs.replace(m, text=texts.get((m.schema, m.name), "")) for m in sorted(made, key=lambda m: m.table)
    )


async def write_record(connection: Connection, work: WriteRecord, ring: KeyRing) -> None:
    """Put it into the comment; everything that it speaks of is there."""
    record = await record_of(connection, work, ring.marks())
    await connection.execute(f"COMMENT ON VIEW {_NAME} IS {quote_literal(record.text())}")
