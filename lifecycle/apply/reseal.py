"""Sealing anew what is sealed otherwise than the rules say: another mode, type or key domain than the record of what is applied has (ADR 0028).

Values are opened by what the record says and sealed by what the rules say, batch by batch, within the transaction. What is sealed and has no record
is held against the rules value by value: where everything opens as they say, it is recorded so.
"""

# ruff: noqa: S608 - names are quoted by quote_ident, texts by quote_literal

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keys.sealed import SealedError, is_randomized, open_batch, open_batch_lenient, seal_batch
from keys.types import WireValueError, encode, parse_type
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import (
    SEALED_TYPE,
    ApplyError,
    Change,
    Kind,
    Obstacle,
    ResealColumn,
    ResealTable,
)
from lifecycle.apply.obstacles import Part, unique_obstacles
from lifecycle.apply.seal import BATCH, Reader, set_triggers, table_triggers, tree_of, write_part
from lifecycle.database import rows_of
from rules.difference import lost_keys
from rules.model import Protection, SealMode, quote_ident, quote_literal
from rules.protect import is_own, spread
from rules.record import sealed_as

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keys.ring import KeyRing
    from keys.sealed import DataKey
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.seal import Progress
    from lifecycle.database import Connection
    from rules.catalog import Relation
    from rules.model import Column, ColumnName, Rules
    from rules.record import SealedAs

_LOST_FIX = (
    "seal it in the rules as it was, and apply; or drop the column, with CASCADE. To have its values plain: COPY them out through pgveil, by a login that sees them"
    " clear, into a column of its own, then drop this one"
)


async def plan_resealing(
    connection: Connection, draft: Draft, state: State, rules: Rules, ring: KeyRing, *, values: bool
) -> list[tuple[Change, frozenset[ColumnName]]]:
    """The tables to be sealed anew with the columns that change. Obstacles go to the draft. With `values` each value is tried."""
    record = state.catalog.record
    recorded = {} if record is None else {c.name: c for c in record.columns}
    marks = ring.marks()
    found = []
    for table in sorted(rules.tables.values(), key=lambda t: t.name):
        relation = state.catalog.by_name.get(table.name)
        if relation is None:
            continue
        columns: list[ResealColumn] = []
        for column in table.columns.values():
            own = relation.column(column.name.column)
            if column.protection is not Protection.SEALED or own is None or own.declared_type != SEALED_TYPE:
                continue
            was = recorded.get(column.name)
            again = ResealColumn(column, was or sealed_as(column), own.default)
            if was is None:
                draft.obstacles += await _unrecorded(connection, column, relation, ring) if values else []
            elif was.format > sealed_as(column).format:
                newer = f"it is sealed in form {was.format}, which only a newer pgveil knows"
                draft.obstacles.append(Obstacle(str(column.name), newer, "apply the rules with that pgveil"))
            elif lost := lost_keys(was.keys, marks.get(was.domain, frozenset())):
                draft.obstacles += await _lost(connection, column, relation, was, lost[0])
            elif not was.alike(sealed_as(column)):
                columns.append(again)
                draft.obstacles += await _in_the_way(connection, state, relation, again, ring, values=values)
        if columns:
            change = await _change(connection, state, relation, columns)
            found.append((change, frozenset(c.column.name for c in columns)))
    return found


def plan_lost(draft: Draft, state: State, rules: Rules) -> None:
    """Sealed columns that the rules do not seal: those of the record are in the way; copies of others are named."""
    known = spread(rules, state.catalog)
    record = state.catalog.record
    recorded = None if record is None else {c.name for c in record.columns}
    for relation in sorted(state.catalog.relations.values(), key=lambda r: r.name):
        if relation.kind not in {"r", "p"} or is_own(relation.name):
            continue
        parents = [p for oid in relation.parents if (p := state.catalog.relations.get(oid)) is not None]
        for column in relation.columns:
            of = known.get(relation.oid, {}).get(column.name)
            rule = None if of is None else rules.column(of)
            inherited = any(p.column(column.name) is not None for p in parents)
            if column.declared_type != SEALED_TYPE or inherited:
                continue
            if rule is not None and rule.protection is Protection.SEALED:
                continue
            name = f"{relation.name}.{column.name}"
            if recorded is None or any(str(n) == name for n in recorded):
                draft.obstacles.append(
                    Obstacle(name, "it is sealed in the database, and the rules do not seal it", _LOST_FIX)
                )
            else:
                draft.warnings.append(
                    f"{name} is of type {SEALED_TYPE} and not in the rules: nobody gets its values through pgveil; classify it, or drop it"
                )


async def _change(connection: Connection, state: State, relation: Relation, columns: Sequence[ResealColumn]) -> Change:
    parts = tree_of(state, relation)
    anything = " OR ".join(f"{quote_ident(c.column.name.column)} IS NOT NULL" for c in columns)
    rows = await connection.fetchval(f"SELECT count(*) FROM {relation_sql(relation.name)} WHERE {anything}")
    triggers = await table_triggers(connection, parts)
    what = "; ".join(
        f"{c.column.name.column}: {_told(c.was)} becomes {_told(sealed_as(c.column))}"
        + (", its default too" if c.default else "")
        for c in columns
    )
    work = ResealTable(relation.name, tuple(columns), tuple(p.name for p in parts if p.kind == "r"), triggers)
    return Change(Kind.SEAL, str(relation.name), f"seal anew {what}", work, rows)


def _told(how: SealedAs) -> str:
    return f"{how.mode} {how.type} in {how.domain}"


async def _holds_values(connection: Connection, column: Column, relation: Relation) -> bool:
    name = quote_ident(column.name.column)
    query = f"SELECT EXISTS (SELECT FROM {relation_sql(relation.name)} WHERE {name} IS NOT NULL)"
    return bool(await connection.fetchval(query))


async def _lost(connection: Connection, column: Column, relation: Relation, was: SealedAs, mark: str) -> list[Obstacle]:
    if not await _holds_values(connection, column, relation):
        return []
    return [
        Obstacle(
            str(column.name),
            f"it holds values sealed under key {mark.partition(':')[0]} of domain {was.domain}, which this key ring does not have",
            "use the key directory that they were sealed with, or bring it back: pgveil keys restore",
        )
    ]


async def _in_the_way(
    connection: Connection, state: State, relation: Relation, column: ResealColumn, ring: KeyRing, *, values: bool
) -> list[Obstacle]:
    """Why the values of a column can't be sealed as the rules say."""
    found: list[Obstacle] = []
    name = column.column.name
    if column.column.mode is SealMode.RANDOMIZED:
        parts = (Part(p, c.attnum) for p in tree_of(state, relation) if (c := p.column(name.column)) is not None)
        found += [o for part in parts for o in await unique_obstacles(connection, str(name), part)]
    for part in tree_of(state, relation)[1:]:
        theirs = part.column(name.column)
        if theirs is not None and theirs.default != column.default:
            found.append(
                Obstacle(f"{part.name}.{name.column}", "its default is another than its parent's", "give both the same")
            )
    if not values:
        return found
    turning = Turning.of(column, ring)
    shut = bad = 0
    async with connection.transaction():
        async for rows in rows_of(connection, _values(column.column, relation), BATCH):
            for value in open_batch_lenient(turning.keys, [str(r[0]).encode() for r in rows]):
                shut += isinstance(value, SealedError)
                bad += isinstance(value, bytes) and turning.plain(value) is None
    if shut:
        fix = "pgveil doctor names the cause; correct or delete these values"
        found.append(Obstacle(str(name), f"{shut} values do not open as the record says ({_told(column.was)})", fix))
    if bad:
        problem = f"{bad} values of type {column.was.type} are not values of the rules' type {column.column.type}"
        found.append(Obstacle(str(name), problem, "correct the type in the rules, or the values"))
    return found


async def _unrecorded(connection: Connection, column: Column, relation: Relation, ring: KeyRing) -> list[Obstacle]:
    """Whether all values of a column are sealed as the rules say, where no record says how they are."""
    again = ResealColumn(column, sealed_as(column), None)
    turning = Turning.of(again, ring)
    randomized = column.mode is SealMode.RANDOMIZED
    shut = otherwise = bad = 0
    async with connection.transaction():
        async for rows in rows_of(connection, _values(column, relation), BATCH):
            sealed = [str(r[0]).encode() for r in rows]
            for text, value in zip(sealed, open_batch_lenient(turning.keys, sealed), strict=True):
                if isinstance(value, bytes):
                    otherwise += is_randomized(text) is not randomized
                    bad += not turning.reads(value)
                else:
                    shut += 1
    name, told = str(column.name), _told(again.was)
    found = []
    if shut:
        found.append(
            Obstacle(
                name,
                f"{shut} values do not open under the keys of domain {again.was.domain}",
                "write the `domain` that they were sealed under (by default the column's name at that time), and use the key directory of that time",
            )
        )
    if otherwise or bad:
        found.append(
            Obstacle(
                name,
                f"{otherwise + bad} values are not sealed as the rules say ({told}), and the database has no record of how they are",
                "apply rules with the `mode` and `type` that they were sealed under first, then change them",
            )
        )
    return found


def _values(column: Column, relation: Relation) -> str:
    name = quote_ident(column.name.column)
    return f"SELECT {name}::text FROM {relation_sql(relation.name)} WHERE {name} IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Turning:
    """From one column's values as they are sealed to as they are to be."""

    column: ResealColumn
    ring: KeyRing
    reader: Reader

    @classmethod
    def of(cls, column: ResealColumn, ring: KeyRing) -> Turning:
        """Of a column, with the ring that has both keys."""
        return cls(column, ring, Reader.of(column.column, parse_type(column.was.type).oid))

    @property
    def keys(self) -> Mapping[int, DataKey]:
        """Those that its values open with."""
        domain = self.column.was.domain
        return self.ring.keys(domain) if domain in self.ring.domains() else {}

    def plain(self, canonical: bytes) -> bytes | None:
        """A value's canonical bytes of the type that the rules say; None where it is not of it."""
        if self.column.was.type == self.column.column.type:
            return canonical
        try:
            return self.reader.canonical(encode(parse_type(self.column.was.type), canonical, 0).decode())
        except (WireValueError, ValueError):
            return None

    def reads(self, canonical: bytes) -> bool:
        """Whether bytes are those of a value of the rules' type."""
        type_ = parse_type(self.column.was.type)
        try:
            return Reader.of(self.column.column, type_.oid).canonical(encode(type_, canonical, 0).decode()) == canonical
        except (WireValueError, ValueError):
            return False

    def turned(self, texts: list[str | None], random: Callable[[int], bytes]) -> list[str | None]:
        """Sealed texts, sealed anew. Raises ApplyError."""
        name = self.column.column.name
        try:
            opened = open_batch(self.keys, [None if t is None else t.encode() for t in texts])
            plain = [None if v is None else self.plain(v) for v in opened]
            if any(v is not None and p is None for v, p in zip(opened, plain, strict=True)):
                raise ApplyError(
                    f"{name}: values of one batch are not of type {self.column.column.type}; nothing was changed"
                )
            wanted = sealed_as(self.column.column)
            key = self.ring.newest(wanted.domain)
            sealed = seal_batch(key, plain, randomized=self.column.column.mode is SealMode.RANDOMIZED, random=random)
        except SealedError as error:
            raise ApplyError(f"{name}: {error}; nothing was changed") from None
        same = (self.column.was.mode, self.column.was.domain) == (wanted.mode, wanted.domain)
        # What is only called another type of stays as it is: nothing of it has changed.
        return [
            old if same and v == p else None if s is None else s.decode()
            for old, v, p, s in zip(texts, opened, plain, sealed, strict=True)
        ]


async def reseal_table(
    connection: Connection,
    work: ResealTable,
    ring: KeyRing,
    *,
    random: Callable[[int], bytes],
    progress: Progress,
    total: int,
) -> None:
    """Seal a table's columns anew. Needs the table locked and its foreign keys over these columns gone. Raises ApplyError."""
    table = relation_sql(work.table)
    turnings = [Turning.of(c, ring) for c in work.columns]
    await set_triggers(connection, work.triggers, on=False)
    done = 0
    for part in work.parts:
        done = await write_part(
            connection,
            part,
            [c.column.name.column for c in work.columns],
            lambda at, texts: turnings[at].turned(texts, random),
            lambda count: progress(str(work.table), count, total),
            done,
        )
    for turning in turnings:
        if turning.column.default is not None:
            old = await connection.fetchval(f"SELECT ({turning.column.default})::text")
            (new,) = turning.turned([old], random)
            text = "NULL" if new is None else quote_literal(new)
            name = quote_ident(turning.column.column.name.column)
            await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {text}")
    await set_triggers(connection, work.triggers, on=True)
