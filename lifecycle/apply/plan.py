"""From rules, keys and a database to the plan: every change in the order in which it is made. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.apply.ground import plan_ground, plan_keys
from lifecycle.apply.inspect import read_state
from lifecycle.apply.masking import plan_views
from lifecycle.apply.model import Draft, Obstacle
from lifecycle.apply.privileges import people_of, plan_wall
from lifecycle.apply.seal import plan_sealing
from lifecycle.database import fix_settings
from rules.model import Protection
from rules.protect import ProtectionMap

if TYPE_CHECKING:
    from keys.ring import KeyRing
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.database import Connection
    from rules.model import Rules


async def make_plan(connection: Connection, rules: Rules, ring: KeyRing) -> ApplyPlan:
    """What apply would do, at this moment. Changes nothing. Raises DatabaseError, asyncpg.PostgresError."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await fix_settings(connection)
        return await plan_inside(connection, rules, ring.domains(), values=True)


async def plan_inside(connection: Connection, rules: Rules, domains: frozenset[str], *, values: bool) -> ApplyPlan:
    """`make_plan` inside the caller's transaction, whose settings are fixed. `values`: judge stored values too, which reads them."""
    state = await read_state(connection)
    draft = Draft()
    _absent(draft, state, rules)
    plan_keys(draft, rules, domains)
    plan_ground(draft, state, rules)
    people = people_of(state, rules)
    late = Draft(obstacles=draft.obstacles, warnings=draft.warnings)
    before = plan_wall(late, state, people, ProtectionMap(rules, state.catalog), rules)
    views = Draft(obstacles=draft.obstacles, warnings=draft.warnings)
    first = plan_views(views, state, rules, people, before)
    draft.changes += first
    await plan_sealing(connection, draft, state, rules, values=values)
    draft.changes += views.changes + late.changes
    return draft.finish()


def _absent(draft: Draft, state: State, rules: Rules) -> None:
    """What the rules name and the database does not have."""
    for column in rules.protected_columns():
        relation = state.catalog.by_name.get(column.name.relation)
        if relation is None or relation.kind not in {"r", "p"}:
            draft.obstacles.append(
                Obstacle(str(column.name.relation), "the database has no such table", "correct the rules: pgveil check --database")
            )
            continue
        found = relation.column(column.name.column)
        if found is None:
            draft.obstacles.append(
                Obstacle(str(column.name), "the table has no such column", "correct the rules: pgveil check --database")
            )
        elif found.declared_type == "pgveil.sealed" and column.protection is not Protection.SEALED:
            draft.obstacles.append(
                Obstacle(str(column.name), "it is sealed in the database and not in the rules", "write `protection: sealed`")
            )
