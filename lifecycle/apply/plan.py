"""From rules, keys and a database to the plan: every change in the order in which it is made. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.apply.ground import plan_ground, plan_keys
from lifecycle.apply.inspect import read_state
from lifecycle.apply.lookups import plan_lookups
from lifecycle.apply.masking import plan_views
from lifecycle.apply.model import SEALED_TYPE, Draft, Obstacle
from lifecycle.apply.privileges import people_of, plan_wall
from lifecycle.apply.recording import plan_record
from lifecycle.apply.seal import plan_sealing
from lifecycle.database import fix_settings
from rules.model import ColumnName, Protection
from rules.protect import ProtectionMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keys.ring import KeyRing
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.database import Connection
    from rules.model import Rules


async def make_plan(connection: Connection, rules: Rules, ring: KeyRing) -> ApplyPlan:
    """What apply would do, at this moment. Changes nothing. Raises DatabaseError, asyncpg.PostgresError."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await fix_settings(connection)
        return await plan_inside(connection, rules, ring.marks(), values=True)


async def plan_inside(
    connection: Connection, rules: Rules, marks: Mapping[str, frozenset[str]], *, values: bool
) -> ApplyPlan:
    """`make_plan` inside the caller's transaction, whose settings are fixed. `marks`: the ring's. `values`: judge stored values too, which reads them."""
    domains = frozenset(marks)
    state = await read_state(connection)
    draft = Draft()
    _absent(draft, state, rules)
    plan_keys(draft, rules, domains)
    plan_ground(draft, state, rules)
    people = people_of(state, rules)
    late = Draft(obstacles=draft.obstacles, warnings=draft.warnings)
    protection = ProtectionMap(rules, state.catalog)
    before = plan_wall(late, state, people, protection, rules)
    views = Draft(obstacles=draft.obstacles, warnings=draft.warnings, made=draft.made)
    first = plan_views(views, state, rules, people, protection, before)
    gone = plan_lookups(views, state, rules, people, protection)
    draft.changes += [*gone, *first]
    await plan_sealing(connection, draft, state, rules, domains, values=values)
    draft.changes += views.changes + late.changes
    await _derived(connection, draft, state, rules)
    await plan_record(connection, draft, state, rules, marks)
    return draft.finish()


_DERIVED = """
SELECT a.attname::text AS name
  FROM pg_depend d JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
  JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated <> ''
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2 AND f.adrelid = $1 AND f.adnum <> $2
 ORDER BY a.attnum
"""


async def _derived(connection: Connection, draft: Draft, state: State, rules: Rules) -> None:
    """Generated columns that carry what a masked column holds and are not masked themselves."""
    for column in rules.protected_columns():
        relation = state.catalog.by_name.get(column.name.relation)
        found = None if relation is None else relation.column(column.name.column)
        if column.protection is not Protection.MASKED or relation is None or found is None:
            continue
        for row in await connection.fetch(_DERIVED, relation.oid, found.attnum):
            derived = rules.column(ColumnName(*relation.name, row["name"]))
            if derived is None or not derived.protected:
                draft.warnings.append(
                    f"generated column {relation.name}.{row['name']} is made of {column.name} and is not protected: classify it too"
                )


def _absent(draft: Draft, state: State, rules: Rules) -> None:
    """What the rules name and the database does not have."""
    for column in rules.protected_columns():
        relation = state.catalog.by_name.get(column.name.relation)
        if relation is None or relation.kind not in {"r", "p"}:
            draft.obstacles.append(
                Obstacle(
                    str(column.name.relation),
                    "the database has no such table",
                    "correct the rules: pgveil check --database",
                )
            )
            continue
        found = relation.column(column.name.column)
        if found is None:
            draft.obstacles.append(
                Obstacle(str(column.name), "the table has no such column", "correct the rules: pgveil check --database")
            )
    for column in (c for t in rules.tables.values() for c in t.columns.values()):
        relation = state.catalog.by_name.get(column.name.relation)
        found = None if relation is None else relation.column(column.name.column)
        sealed = found is not None and found.declared_type == SEALED_TYPE
        if sealed and column.protection is not Protection.SEALED:
            draft.obstacles.append(
                Obstacle(
                    str(column.name), "it is sealed in the database and not in the rules", "write `protection: sealed`"
                )
            )
