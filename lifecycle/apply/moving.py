"""Sealed values that a login could carry past pgveil into a column that it sees clear, and read there (`rules.mixed`, ADR 0037)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import Obstacle
from rules.mixed import mixed_for
from rules.protect import is_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lifecycle.apply.inspect import Atom
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People, Wall
    from rules.catalog import Relation
    from rules.model import ColumnName
    from rules.protect import ProtectionMap

_READ, _WRITE, _RUN = frozenset({"SELECT"}), frozenset({"INSERT", "UPDATE"}), frozenset({"EXECUTE"})
# Roles of PostgreSQL's own whose members hold these on every table.
_EVERYWHERE = {_READ: "pg_read_all_data", _WRITE: "pg_write_all_data"}
_MOST_NAMES = 5


class _Way(NamedTuple):
    """Where a column can be had: an object, its owner, and what the column is called there."""

    object: str
    owner: str
    column: str
    run: bool = False


@dataclass(frozen=True, slots=True)
class Moving:
    """Logins that can carry sealed values of `source` into `into`. `accepted`: the rules say that it is meant."""

    logins: tuple[str, ...]
    into: ColumnName
    source: ColumnName
    domain: str
    accepted: bool

    @property
    def problem(self) -> str:
        """For people."""
        more = f" and {len(self.logins) - _MOST_NAMES} more" if len(self.logins) > _MOST_NAMES else ""
        who = f"login{'s' * (len(self.logins) > 1)} {', '.join(self.logins[:_MOST_NAMES])}{more}"
        return (
            f"{who} may write it, where values show clear, and may read what is stored in {self.source} of the same key domain ({self.domain}), which does not show clear:"
            " past pgveil values can be copied over, and are then read here"
        )

    @property
    def fix(self) -> str:
        """What would help."""
        return f"let the role see both columns alike, give them key domains of their own, or take one of these privileges; where it is meant, write `mixed_domains: [{self.domain}]` in the role"


def tell_moving(draft: Draft, wall: Wall) -> None:
    """Name such logins: obstacles, or warnings where the rules say that it is meant."""
    held = wall.after | {a for a in wall.people.state.held if a.object not in wall.fenced}
    for moving in movable(wall.people, wall.protection, held):
        if moving.accepted:
            draft.warnings.append(
                f"{moving.into}: {moving.problem}. The rules say that this is meant (`mixed_domains`)"
            )
        else:
            draft.obstacles.append(Obstacle(str(moving.into), moving.problem, moving.fix))


def movable(people: People, protection: ProtectionMap, held: Iterable[Atom]) -> tuple[Moving, ...]:
    """Who can carry values where, as these privileges are. Superusers, whom nothing keeps from anything, are left out."""
    ways = _Ways(people, protection, held)
    found: dict[tuple[ColumnName, ColumnName, str, bool], list[str]] = defaultdict(list)
    for login in sorted(people.state.logins.keys() - people.state.catalog.superusers):
        for mixed in mixed_for(people.rules, people.principals[login]):
            into = next((c for c in mixed.clear if ways.may(login, c, _WRITE)), None)
            source = next((c for c in mixed.hidden if ways.may(login, c, _READ)), None)
            if into is not None and source is not None:
                found[into, source, mixed.domain, mixed.accepted].append(login)
    return tuple(Moving(tuple(logins), *what) for what, logins in found.items())


class _Ways:
    """Who can reach what is stored in a sealed column."""

    def __init__(self, people: People, protection: ProtectionMap, held: Iterable[Atom]) -> None:
        self._people = people
        self._stored: dict[ColumnName, list[_Way]] = defaultdict(list)
        self._holders: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        state = people.state
        for relation in state.catalog.relations.values():
            if relation.oid in state.invoker_views:
                continue  # by the privileges on what it reads
            for own, names in _made_of(protection, relation).items():
                for name in names:
                    self._stored[name].append(_Way(relation_sql(relation.name), relation.owner, own))
        for function in state.catalog.functions:
            # With its owner's rights it reads what it names, and may give it.
            for name in protection.naming.get(function.name.name, ()) if function.oid in state.routines else ():
                self._stored[name].append(_Way(state.routines[function.oid], function.owner, "", run=True))
        for atom in held:
            self._holders[atom.object, atom.privilege].append((atom.column, atom.grantee))

    def may(self, login: str, name: ColumnName, privileges: frozenset[str]) -> bool:
        """Whether a login has one of these privileges on the column somewhere, as itself or as a role that it can become."""
        memberships = self._people.state.catalog.memberships(login)
        if _EVERYWHERE[privileges] in memberships:
            return True
        return any(
            way.owner == login or way.owner in memberships or self._granted(login, way, privileges)
            for way in self._stored[name]
            if not way.run or privileges is _READ
        )

    def _granted(self, login: str, way: _Way, privileges: frozenset[str]) -> bool:
        return any(
            column in {"", way.column} and login in self._people.members(grantee)
            for privilege in (_RUN if way.run else privileges)
            for column, grantee in self._holders[way.object, privilege]
        )


def _made_of(protection: ProtectionMap, relation: Relation) -> Mapping[str, Iterable[ColumnName]]:
    """The protected columns in each column of a table or view of somebody's."""
    lineage = protection.lineage_of(relation)
    if lineage is None or is_own(relation.name):
        return {own: (name,) for own, name in protection.columns_of(relation).items()}
    return {c.name: o.touches for c, o in zip(relation.columns, lineage.columns, strict=False)}
