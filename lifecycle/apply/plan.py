"""From rules, keys and a database to the plan: every change in the order in which it is made. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lifecycle.apply.copies import plan_copies
from lifecycle.apply.filled import plan_filled
from lifecycle.apply.ground import plan_ground, plan_keys
from lifecycle.apply.guards import plan_guards
from lifecycle.apply.inspect import read_state
from lifecycle.apply.lookups import plan_lookups
from lifecycle.apply.masking import plan_views
from lifecycle.apply.model import Draft, Kind, MakeView, Obstacle
from lifecycle.apply.moving import tell_moving
from lifecycle.apply.old_form import plan_domain
from lifecycle.apply.privileges import people_of, plan_wall
from lifecycle.apply.recording import plan_record
from lifecycle.apply.reseal import plan_lost, plan_resealing
from lifecycle.apply.seal import plan_sealing
from lifecycle.apply.triggers import plan_triggers
from lifecycle.apply.writing import plan_writing
from lifecycle.database import fix_settings
from rules.derived import derived_from, with_derived
from rules.protect import ProtectionMap
from rules.serving import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keys.ring import KeyRing
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.apply.privileges import People
    from lifecycle.database import Connection
    from rules.model import ColumnName, Rules


async def make_plan(connection: Connection, rules: Rules, ring: KeyRing, *, login: str | None = None) -> ApplyPlan:
    """What apply would do, at this moment. Changes nothing. `login`: pgveil's own, if known. Raises DatabaseError, asyncpg.PostgresError."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await fix_settings(connection)
        return await plan_inside(connection, rules, ring, values=True, login=login)


async def plan_inside(
    connection: Connection,
    rules: Rules,
    ring: KeyRing,
    *,
    values: bool,
    serving: tuple[str, ...] = (),
    login: str | None = None,
) -> ApplyPlan:
    """`make_plan` inside the caller's transaction, whose settings are fixed. `values`: judge stored values too, which reads them.

    `serving`: of a plan made before, which took nothing away for their sake: nor does this one, though they may be gone by now.
    """
    domains = ring.domains()
    state = await read_state(connection)
    derived = derived_from(rules, state.catalog)
    rules = with_derived(rules, state.catalog)
    people = people_of(state, rules)
    draft = Draft(login=login)
    draft.serving = _serving(draft, state, people, rules) or serving
    _absent(draft, state, rules)
    plan_keys(draft, rules, domains)
    plan_ground(draft, state, rules)
    await plan_domain(connection, draft, state)
    late = draft.beside()
    protection = ProtectionMap(rules, state.catalog, unknown=False)
    wall = plan_wall(late, state, people, protection, rules)
    tell_moving(draft, wall)
    views = draft.beside()
    first = plan_views(views, state, rules, people, protection, wall.before)
    gone = plan_lookups(views, state, rules, people, protection)
    gates = plan_writing(views, state, rules, people, protection)
    draft.changes += [*gates, *gone, *first]
    plan_lost(draft, state, rules)
    again = await plan_resealing(connection, draft, state, rules, ring, values=values)
    await plan_triggers(connection, draft, state, rules)
    plan_filled(draft, state, people, protection)
    await plan_copies(connection, draft, state, people, protection)
    guards = await plan_guards(connection, draft, state, rules)
    await plan_sealing(connection, draft, state, rules, again, values=values)
    draft.changes += guards + views.changes + late.changes
    _tell_derived(draft, derived)
    _keep(draft, state)
    await plan_record(connection, draft, state, rules, ring.marks())
    return draft.finish()


def _serving(draft: Draft, state: State, people: People, rules: Rules) -> tuple[str, ...]:
    """The sessions of pgveils that serve other rules. Anybody can say that he is one, and who is limited would gain by it: where pgveil's
    own login is known nobody else counts; else nobody whom a role limits."""
    masked = [c.name for c in rules.protected_columns()]
    own, found = number_of(rules.version), []
    for session in (s for s in state.serving if s.rules != own):
        shown, login = f"{session.login} (pid {session.pid})", session.login
        if draft.login is not None and login != draft.login:
            draft.warnings.append(
                f"{shown} says that it serves other rules, as a pgveil does, but pgveil's own login is {draft.login}: nothing is kept for its sake"
            )
        elif draft.login is not None or login not in people.principals or not _is_limited(people, login, masked):
            found.append(shown)
    return tuple(found)


def _is_limited(people: People, login: str, columns: list[ColumnName]) -> bool:
    return bool(people.principals[login].roles and people.limited(login, columns))


def _keep(draft: Draft, state: State) -> None:
    """What stays for the sake of those that serve other rules stays in the record, or they could not use it."""
    record = state.catalog.record
    if not draft.serving or record is None:
        return
    again = {c.object for c in draft.changes if isinstance(c.work, MakeView)}
    gone = {c.object for c in draft.changes if c.kind is Kind.DROP} - again
    for now, before, there in (
        (draft.made.views, record.views, state.views.keys()),
        (draft.made.functions, record.functions, state.lookups.keys()),
    ):
        made = {m.table for m in now}
        now += [
            msgspec.structs.replace(b, text="")
            for b in before
            if b.table in there and b.table not in made and str(b.table) not in gone
        ]


def _tell_derived(draft: Draft, derived: Mapping[ColumnName, tuple[ColumnName, ...]]) -> None:
    """Generated columns that the rules do not name get the protection of what they are made of: said as long as that is to be done."""
    for name, made_of in sorted(derived.items()):
        if any(str(name.relation) in f"{change.object} {change.what}" for change in draft.changes):
            draft.warnings.append(
                f"generated column {name} is made of {made_of[0]} and is not protected: who sees that masked will see NULL in it, unless the rules say otherwise"
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
