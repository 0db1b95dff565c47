"""Sealing columns that the database holds plain: what is in the way, what is done, and the doing.

A table's columns become text, their values are sealed batch by batch, and the columns take the domain pgveil.sealed. That last step
writes the table and its indexes anew, so the files with plaintext row versions go when the transaction commits. What was plain before stays in
write-ahead log, replicas' logs and backups until these are gone.
"""

# ruff: noqa: S608 - names are quoted by quote_ident, texts by quote_literal

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keys.sealed import LIKE_SEALED, SealedError, seal_batch
from keys.types import CANONICAL_SETTINGS, WireValueError, decode, parse_type
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import (
    SEALED_TYPE,
    ApplyError,
    Change,
    Kind,
    Obstacle,
    SealColumn,
    SealTable,
    Trigger,
)
from lifecycle.apply.obstacles import Part, column_obstacles
from lifecycle.database import rows_of
from rules.logical import type_of_oid
from rules.model import ColumnName, Protection, SealMode, TableName, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from keys.ring import KeyRing
    from keys.typeio_base import LogicalType
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.database import Connection
    from rules.catalog import CatalogColumn, Relation
    from rules.model import Column, Rules, Table

    Progress = Callable[[str, int, int], None]

BATCH = 2000  # rows: large enough for the batch cipher, small enough that a batch of long values fits in memory
_TEXTS = frozenset({25, 1043, 1042})
_TEXT_ARRAYS = frozenset({1009, 1015, 1014})
_LIKE_SEALED = re.compile(LIKE_SEALED)
_ALREADY = "{count} values are sealed values already, whole or cut, in a column that is not pgveil.sealed"
_ALREADY_FIX = (
    "where nothing was cut: ALTER TABLE ... ALTER COLUMN ... TYPE pgveil.sealed, as the table's owner, past pgveil; what was cut comes back"
    " from a backup only"
)
_CONSTANT = re.compile(
    r"(?:E?'(?:[^'\\]|'')*'|-?[0-9]+(?:\.[0-9]+)?|\(-[0-9]+(?:\.[0-9]+)?\)|true|false|NULL)"
    r'(?:::(?:[a-z_]+(?: (?:varying|precision|with|without|time|zone))*|"[^"]+"|\.)+(?:\([0-9, ]+\))?(?: (?:with|without) time zone)?(?:\[\])?)*'
)

_FOREIGN_KEYS = """
SELECT c.oid::int8 AS oid, c.conname::text AS name, c.conrelid::int8 AS from_oid, c.confrelid::int8 AS to_oid,
       c.conkey::int[] AS from_columns, c.confkey::int[] AS to_columns, pg_get_constraintdef(c.oid) AS definition
  FROM pg_constraint c
 WHERE c.contype = 'f' AND c.conparentid = 0
 ORDER BY c.conrelid, c.conname
"""

TRIGGERS = """
SELECT t.tgname::text AS name, t.tgenabled::text AS enabled
  FROM pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.tgname
"""


UPDATE_RULES = """
SELECT w.rulename::text AS name FROM pg_rewrite w WHERE w.ev_class = $1 AND w.ev_type = '2' AND w.ev_enabled <> 'D'
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key, by the names of its tables and columns, pair by pair."""

    name: str
    table: TableName
    referenced: TableName
    pairs: tuple[tuple[str, str], ...]
    definition: str


async def plan_sealing(
    connection: Connection,
    draft: Draft,
    state: State,
    rules: Rules,
    again: Sequence[tuple[Change, frozenset[ColumnName]]],
    *,
    values: bool,
) -> None:
    """Changes that seal every plain column that the rules seal. With `values` each value that might not fit is read and judged.

    `again`: what is sealed anew, with the columns; their foreign keys are out of the way meanwhile, too.
    """
    tables = [
        t for t in (_table_to_seal(state, table) for table in sorted(rules.tables.values(), key=lambda t: t.name)) if t
    ]
    if not tables and not again:
        return
    changes = [change for change, _ in again]
    for relation, columns in tables:
        changes.append(await _plan_table(connection, draft, state, relation, columns, values=values))
    keys = await foreign_keys(connection, state)
    sealing = {c.name for _, columns in tables for c in columns}.union(*(names for _, names in again))
    crossing = _crossing(draft, rules, keys, sealing)
    for key in crossing:
        sql = f"ALTER TABLE {relation_sql(key.table)} DROP CONSTRAINT {quote_ident(key.name)}"
        draft.add(Kind.FOREIGN_KEY, f"{key.table}: {key.name}", "drop while its columns are sealed", sql)
    draft.changes += changes
    for key in crossing:
        sql = f"ALTER TABLE {relation_sql(key.table)} ADD CONSTRAINT {quote_ident(key.name)} {key.definition}"
        draft.add(Kind.FOREIGN_KEY, f"{key.table}: {key.name}", "make it again, over sealed values, and check it", sql)


def _table_to_seal(state: State, table: Table) -> tuple[Relation, tuple[Column, ...]] | None:
    relation = state.catalog.by_name.get(table.name)
    if relation is None:
        return None
    columns = tuple(c for c in table.columns.values() if c.protection is Protection.SEALED and _is_plain(relation, c))
    return (relation, columns) if columns else None


def _is_plain(relation: Relation, column: Column) -> bool:
    found = relation.column(column.name.column)
    return found is not None and found.declared_type != SEALED_TYPE


def tree_of(state: State, relation: Relation) -> tuple[Relation, ...]:
    """The relation and everything that inherits from it, partitions included; itself first."""
    found, pending = [relation], list(relation.children)
    while pending:
        child = state.catalog.relations.get(pending.pop(0))
        if child is not None and child not in found:
            found.append(child)
            pending += child.children
    return tuple(found)


async def _plan_table(
    connection: Connection, draft: Draft, state: State, relation: Relation, columns: tuple[Column, ...], *, values: bool
) -> Change:
    parts = tree_of(state, relation)
    sealing: list[SealColumn] = []
    for column in columns:
        own = relation.column(column.name.column)
        assert own is not None
        numbered = tuple(Part(p, c.attnum) for p in parts if (c := p.column(column.name.column)) is not None)
        draft.obstacles += await column_obstacles(connection, column, numbered)
        if own.default is not None and not own.generated and _CONSTANT.fullmatch(own.default) is None:
            draft.obstacles.append(
                Obstacle(
                    str(column.name), "its default is not a constant, and the database cannot seal", "drop the default"
                )
            )
        for part in parts[1:]:
            theirs = part.column(column.name.column)
            if theirs is not None and theirs.default != own.default:
                draft.obstacles.append(
                    Obstacle(
                        f"{part.name}.{theirs.name}", "its default is another than its parent's", "give both the same"
                    )
                )
        draft.obstacles += await _sealed_before(connection, column, own, relation, values=values)
        draft.obstacles += await _misfits(connection, column, own, relation, values=values)
        sealing.append(SealColumn(column, own.type_oid, own.default))
    holders = tuple(p.name for p in parts if p.kind == "r")
    triggers = await table_triggers(connection, parts)
    for part in parts:
        draft.obstacles += [
            Obstacle(str(part.name), f"rule {r['name']} rewrites updates of it", "drop the rule")
            for r in await connection.fetch(UPDATE_RULES, part.oid)
        ]
    anything = " OR ".join(f"{quote_ident(c.name.column)} IS NOT NULL" for c in columns)
    rows = await connection.fetchval(f"SELECT count(*) FROM {relation_sql(relation.name)} WHERE {anything}")
    what = ", ".join(
        f"{c.column.name.column} ({c.column.mode})" + (", its default too" if c.default else "") for c in sealing
    )
    work = SealTable(relation.name, tuple(sealing), holders, triggers)
    return Change(Kind.SEAL, str(relation.name), f"seal {what}", work, rows)


async def foreign_keys(connection: Connection, state: State) -> list[ForeignKey]:
    """Every foreign key of the database."""
    found = []
    relations = state.catalog.relations
    for r in await connection.fetch(_FOREIGN_KEYS):
        table, referenced = relations.get(r["from_oid"]), relations.get(r["to_oid"])
        if table is None or referenced is None:
            continue
        pairs = tuple(
            (_numbered(table, a), _numbered(referenced, b))
            for a, b in zip(r["from_columns"], r["to_columns"], strict=True)
        )
        found.append(ForeignKey(r["name"], table.name, referenced.name, pairs, r["definition"]))
    return found


def _numbered(relation: Relation, attnum: int) -> str:
    return next(c.name for c in relation.columns if c.attnum == attnum)


def _crossing(draft: Draft, rules: Rules, keys: Iterable[ForeignKey], sealing: set[ColumnName]) -> list[ForeignKey]:
    """The foreign keys over columns to be sealed; both ends must be sealed alike."""
    found = []
    for key in keys:
        ends = [(ColumnName(*key.table, a), ColumnName(*key.referenced, b)) for a, b in key.pairs]
        if not any(end in sealing for pair in ends for end in pair):
            continue
        found.append(key)
        for a, b in ends:
            left, right = rules.column(a), rules.column(b)
            if not ({a, b} & sealing):
                continue
            if left is None or right is None or not _alike(left, right):
                draft.obstacles.append(
                    Obstacle(
                        f"{key.table}: {key.name}",
                        f"the foreign key joins {a} and {b}, which the rules do not seal alike",
                        "seal both, deterministic, with one `domain` and one `type`, or drop the foreign key",
                    )
                )
    return found


def _alike(left: Column, right: Column) -> bool:
    return (
        left.protection is right.protection is Protection.SEALED
        and left.mode is right.mode is SealMode.DETERMINISTIC
        and left.domain == right.domain
        and left.type == right.type
    )


# -- values


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns a stored value's text into canonical bytes of the rules' type, or says that it does not fit."""

    type: LogicalType
    declared_oid: int
    strict_text: bool

    @classmethod
    def of(cls, column: Column, stored_oid: int) -> Reader:
        """Of a column that is stored as a type with that OID."""
        type_ = parse_type(column.type or "")
        same = stored_oid == type_.oid or type_.scalar.labels is not None
        from_text = not same and stored_oid in _TEXTS and type_.oid not in _TEXTS
        return cls(type_, 0 if same or stored_oid in _TEXTS else stored_oid, from_text)

    def canonical(self, text: str) -> bytes:
        """Canonical bytes. Raises WireValueError where nothing may be lost and something would be."""
        value = decode(
            self.type, text.encode(), 0, declared_oid=self.declared_oid, settings=CANONICAL_SETTINGS, exact=True
        )
        if self.strict_text and value != text.encode():
            raise WireValueError("22000", "another text for the same value")
        return value


async def _sealed_before(
    connection: Connection, column: Column, own: CatalogColumn, relation: Relation, *, values: bool
) -> list[Obstacle]:
    """Texts that are, or were before somebody cut them, sealed values: sealed again they would be lost behind a second layer."""
    if not values or own.type_oid not in _TEXTS | _TEXT_ARRAYS:
        return []
    name, pattern = quote_ident(own.name), quote_literal(LIKE_SEALED)
    found = f'{name}::text COLLATE "C" ~ {pattern}'
    if own.type_oid in _TEXT_ARRAYS:
        found = f'EXISTS (SELECT FROM unnest({name}) e WHERE e::text COLLATE "C" ~ {pattern})'
    count = await connection.fetchval(f"SELECT count(*) FROM {relation_sql(relation.name)} WHERE {found}")
    if not count:
        return []
    return [Obstacle(str(column.name), _ALREADY.format(count=count), _ALREADY_FIX)]


async def _misfits(
    connection: Connection, column: Column, own: CatalogColumn, relation: Relation, *, values: bool
) -> list[Obstacle]:
    """Where the rules' type is not the stored one: how many values are not of it."""
    stored = type_of_oid(own.type_oid, own.typmod)
    if stored == column.type or not values:
        return []
    reader = Reader.of(column, own.type_oid)
    name = quote_ident(own.name)
    query = f"SELECT {name}::text FROM {relation_sql(relation.name)} WHERE {name} IS NOT NULL"
    bad = 0
    async with connection.transaction():
        async for rows in rows_of(connection, query, BATCH):
            bad += sum(not _fits(reader, r[0]) for r in rows)
    if not bad:
        return []
    problem = f"{bad} values of the stored type {own.declared_type} are not values of the rules' type {column.type}"
    return [Obstacle(str(column.name), problem, "correct the type in the rules, or the values")]


def _fits(reader: Reader, text: str) -> bool:
    try:
        reader.canonical(text)
    except WireValueError:
        return False
    return True


# -- the doing


async def seal_table(
    connection: Connection,
    work: SealTable,
    ring: KeyRing,
    *,
    random: Callable[[int], bytes],
    progress: Progress,
    total: int,
) -> None:
    """Seal a table's columns. Needs the table locked and its foreign keys over these columns gone. Raises ApplyError."""
    table = relation_sql(work.table)
    names = [quote_ident(c.column.name.column) for c in work.columns]
    defaults = [await _sealed_default(connection, c, ring, random) for c in work.columns]
    await set_triggers(connection, work.triggers, on=False)
    dropped = [
        f"ALTER COLUMN {n} DROP DEFAULT" for n, c in zip(names, work.columns, strict=True) if c.default is not None
    ]
    if dropped:
        await connection.execute(f"ALTER TABLE {table} " + ", ".join(dropped))
    await connection.execute(
        f"ALTER TABLE {table} "
        + ", ".join(f"ALTER COLUMN {n} TYPE pg_catalog.text USING {n}::pg_catalog.text" for n in names)
    )
    done = 0
    readers = [Reader.of(c.column, c.type_oid) for c in work.columns]
    for part in work.parts:
        done = await write_part(
            connection,
            part,
            [c.column.name.column for c in work.columns],
            lambda at, texts: _seal_values(texts, work.columns[at].column, readers[at], ring, random),
            lambda count: progress(str(work.table), count, total),
            done,
        )
    kept = [
        f"ALTER COLUMN {n} SET DEFAULT {quote_literal(d.decode())}"
        for n, d in zip(names, defaults, strict=True)
        if d is not None
    ]
    final = [f"ALTER COLUMN {n} TYPE {SEALED_TYPE} USING {n}::{SEALED_TYPE}" for n in names]
    await connection.execute(f"ALTER TABLE {table} " + ", ".join(final))
    if kept:
        await connection.execute(f"ALTER TABLE {table} " + ", ".join(kept))
    await set_triggers(connection, work.triggers, on=True)


async def table_triggers(connection: Connection, parts: Iterable[Relation]) -> tuple[Trigger, ...]:
    """The triggers of a table's parts that are in action."""
    return tuple(
        [Trigger(p.name, r["name"], r["enabled"]) for p in parts for r in await connection.fetch(TRIGGERS, p.oid)]
    )


async def set_triggers(connection: Connection, triggers: Iterable[Trigger], *, on: bool) -> None:
    """Put triggers out of action, or as they were."""
    for trigger in triggers:
        await connection.execute(trigger_sql(trigger.relation, trigger.name, trigger.enabled if on else None))


def trigger_sql(relation: TableName, name: str, enabled: str | None) -> str:
    """Put a trigger as it was (`enabled`: pg_trigger.tgenabled), or out of action (None)."""
    how = {None: "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}.get(enabled, "ENABLE")
    return f"ALTER TABLE ONLY {relation_sql(relation)} {how} TRIGGER {quote_ident(name)}"


async def write_part(
    connection: Connection,
    part: TableName,
    columns: Sequence[str],
    turned: Callable[[int, list[str | None]], list[str | None]],
    progress: Callable[[int], None],
    done: int,
) -> int:
    """Write a table's own rows anew, batch by batch: `turned` makes the texts of a column, by its place, into what is to be stored.

    `done` rows are done before; gives back how many are then.
    """
    names = [quote_ident(c) for c in columns]
    # Each batch finds its rows by their place; for few rows the planner would rather read the whole table each time.
    for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
        await connection.execute("SELECT set_config($1, 'off', true)", setting)
    relation = relation_sql(part)
    assigned = ", ".join(f"{n} = new.c{i}" for i, n in enumerate(names))
    arrays = ", ".join(f"${i + 2}::text[]" for i in range(len(names)))
    fields = ", ".join(f"c{i}" for i in range(len(names)))
    update = await connection.prepare(
        f"UPDATE ONLY {relation} AS old SET {assigned} FROM unnest($1::text[]::tid[], {arrays}) AS new(id, {fields}) WHERE old.ctid = new.id"
    )
    anything = " OR ".join(f"{n} IS NOT NULL" for n in names)
    query = f"SELECT ctid::text AS id, {', '.join(names)} FROM ONLY {relation} WHERE {anything}"
    async for rows in rows_of(connection, query, BATCH):
        await update.fetch([r[0] for r in rows], *(turned(i, [r[i + 1] for r in rows]) for i in range(len(names))))
        if update.get_statusmsg() != f"UPDATE {len(rows)}":
            raise ApplyError(f"{part}: not every row of a batch was written; nothing was changed")
        done += len(rows)
        progress(done)
    return done


def _seal_values(
    texts: list[str | None], column: Column, reader: Reader, ring: KeyRing, random: Callable[[int], bytes]
) -> list[str | None]:
    if sealed_before := sum(t is not None and _LIKE_SEALED.fullmatch(t) is not None for t in texts):
        raise ApplyError(f"{column.name}: {_ALREADY.format(count=sealed_before)}; nothing was changed")
    plain: list[bytes | None] = []
    bad = 0
    for text in texts:
        try:
            plain.append(None if text is None else reader.canonical(text))
        except WireValueError:
            bad += 1
    if bad:
        raise ApplyError(
            f"{column.name}: {bad} values of one batch are not values of type {column.type}; nothing was changed"
        )
    key = ring.newest(column.key_domain)
    try:
        sealed = seal_batch(key, plain, randomized=column.mode is SealMode.RANDOMIZED, random=random)
    except SealedError as error:
        raise ApplyError(f"{column.name}: {error}; nothing was changed") from None
    return [None if s is None else s.decode() for s in sealed]


async def _sealed_default(
    connection: Connection, column: SealColumn, ring: KeyRing, random: Callable[[int], bytes]
) -> bytes | None:
    if column.default is None:
        return None
    text = await connection.fetchval(f"SELECT ({column.default})::text")
    (sealed,) = _seal_values([text], column.column, Reader.of(column.column, column.type_oid), ring, random)
    return None if sealed is None else sealed.encode()
