"""The wall: who may read what of the tables that hold masked columns, and of the views and functions that read them.

It is worked out on privileges as sets of atoms. `before` is what everybody held without pgveil: what they hold, less what an earlier
run gave, plus what it took. From that follows what they shall hold, and the difference to what they hold is the plan. So a second run
changes nothing, and rules that are loosened give back what stricter ones took.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lifecycle.apply.ground import memory_sql
from lifecycle.apply.inspect import PUBLIC, Atom, relation_sql
from lifecycle.apply.model import OWNER, Change, Kind, Obstacle, Statements
from rules.hidden import hidden_reads
from rules.model import Protection, Verdict, quote_ident

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from rules.catalog import Relation
    from rules.model import ColumnName, Principal, Rules, TableName
    from rules.protect import ProtectionMap

_PLAIN_QUOTED = re.compile(r'"([a-z_][a-z0-9_]*)"')
_SELECT, _EXECUTE = "SELECT", "EXECUTE"
# A trigger sees whole rows, and a foreign key of one's own can be asked which values there are.
_PEEPING = ("TRIGGER", "REFERENCES")
_BYPASSING = frozenset(
    {"pg_read_all_data", "pg_read_server_files", "pg_execute_server_program", "pg_write_server_files", OWNER}
)


@dataclass(frozen=True, slots=True)
class People:
    """Logins, what they are members of, and who they are under the rules."""

    state: State
    principals: Mapping[str, Principal]

    def members(self, grantee: str) -> frozenset[str]:
        """The logins that have what `grantee` has: itself if it can log in, and every member, at any depth."""
        logins = self.state.logins
        if grantee == PUBLIC:
            return frozenset(logins)
        memberships = self.state.catalog.memberships
        return frozenset(n for n in logins if n == grantee or grantee in memberships(n))

    def owners(self, owner: str) -> frozenset[str]:
        """The logins that privileges can't keep out of what `owner` owns."""
        catalog = self.state.catalog
        return frozenset(
            n for n in self.state.logins if n in catalog.superusers or n == owner or owner in catalog.memberships(n)
        )

    def limited(self, login: str, columns: Iterable[ColumnName]) -> frozenset[ColumnName]:
        """Those of `columns` that `login` does not see clear."""
        policy = self.principals[login].policy
        return frozenset(c for c in columns if policy.verdict(c) is not Verdict.CLEAR)


def people_of(state: State, rules: Rules) -> People:
    """Every login with its principal."""
    return People(state, {n: rules.principal(n, state.catalog.memberships(n)) for n in state.logins})


@dataclass(slots=True)
class Wall:
    """The privileges before and after, object by object."""

    draft: Draft
    people: People
    before: frozenset[Atom]
    after: set[Atom] = field(default_factory=set)
    fenced: dict[str, str] = field(default_factory=dict)  # the owner of each object

    def grantees(self, object_: str) -> dict[str, set[Atom]]:
        """What each grantee but pgveil's own role held on an object."""
        found: dict[str, set[Atom]] = defaultdict(set)
        for atom in self.before:
            if atom.object == object_ and atom.grantee != OWNER:
                found[atom.grantee].add(atom)
        return dict(sorted(found.items()))

    def fence_table(self, relation: Relation, masked: Mapping[str, ColumnName]) -> None:
        """Take the masked columns of a table from those who do not see them clear. `masked`: by the name they have there."""
        object_ = relation_sql(relation.name)
        self.fenced[object_] = relation.owner
        limits = {
            login: frozenset(c for c, name in masked.items() if self.people.limited(login, (name,)))
            for login in self._fenceable(relation)
        }
        everything = frozenset(c.name for c in relation.columns)
        for grantee, atoms in self.grantees(object_).items():
            members = self.people.members(grantee) & limits.keys()
            bad_for = {m: limits[m] for m in members if limits[m]}
            whole = any(a.privilege == _SELECT and not a.column for a in atoms)
            covered = everything if whole else frozenset(a.column for a in atoms if a.privilege == _SELECT)
            bad = covered & frozenset().union(*bad_for.values()) if bad_for else frozenset()
            kept = {a for a in atoms if a.privilege not in (_SELECT, *_PEEPING)}
            kept |= self._select(object_, grantee, covered, bad, limits, members, whole=whole, atoms=atoms)
            kept |= self._peeping(atoms, frozenset(masked), bad_for, members)
            self.after |= kept

    def fence_object(self, object_: str, owner: str, columns: frozenset[ColumnName], privilege: str) -> None:
        """Take an object (a view, a function) whole from those who do not see all of `columns` clear."""
        self.fenced[object_] = owner
        owner_logins = self.people.owners(owner)
        limited = {n for n in self.people.state.logins if n not in owner_logins and self.people.limited(n, columns)}
        for grantee, atoms in self.grantees(object_).items():
            members = self.people.members(grantee)
            for atom in atoms:
                if atom.privilege != privilege or not members & limited:
                    self.after.add(atom)
                    continue
                for login in members - limited - owner_logins:
                    self._give(atom._replace(grantee=login), limited)

    def _fenceable(self, relation: Relation) -> tuple[str, ...]:
        catalog = self.people.state.catalog
        return tuple(n for n in self.people.state.logins if not catalog.owns(n, relation))

    def _select(
        self,
        object_: str,
        grantee: str,
        covered: frozenset[str],
        bad: frozenset[str],
        limits: Mapping[str, frozenset[str]],
        members: frozenset[str],
        *,
        whole: bool,
        atoms: set[Atom],
    ) -> set[Atom]:
        if not bad:
            return {a for a in atoms if a.privilege == _SELECT}
        kept = {Atom(object_, c, grantee, _SELECT) for c in covered - bad}
        for login in members:
            extra = bad - limits[login]
            if not extra:
                continue
            limited_through = {n for n in self.people.members(login) & limits.keys() if limits[n] & extra}
            if whole and not limits[login]:
                self._give(Atom(object_, "", login, _SELECT), limited_through)
            else:
                for column in sorted(extra):
                    self._give(Atom(object_, column, login, _SELECT), limited_through)
        return kept

    def _peeping(
        self,
        atoms: set[Atom],
        masked: frozenset[str],
        bad_for: Mapping[str, frozenset[str]],
        members: frozenset[str],
    ) -> set[Atom]:
        kept = set()
        for atom in atoms:
            if atom.privilege not in _PEEPING:
                continue
            if not bad_for or (atom.column and atom.column not in masked):
                kept.add(atom)
                continue
            for login in members - bad_for.keys():
                self._give(atom._replace(grantee=login), self.people.members(login) & bad_for.keys())
        return kept

    def _give(self, atom: Atom, limited: Iterable[str]) -> None:
        """Let a login keep what it had through a role or PUBLIC, unless it would go on to somebody who may not have it."""
        through = sorted(self.people.members(atom.grantee) & frozenset(limited))
        if through:
            self.draft.obstacles.append(
                Obstacle(
                    _shown(atom.object),
                    f"login {atom.grantee} sees it clear and login {through[0]}, a member of {atom.grantee}, does not: no privilege can part them",
                    f"REVOKE {quote_ident(atom.grantee)} FROM {quote_ident(through[0])}",
                )
            )
        else:
            self.after.add(atom)


def plan_wall(draft: Draft, state: State, people: People, protection: ProtectionMap, rules: Rules) -> frozenset[Atom]:
    """The changes of privileges. Gives back the privileges before, from which access to the masking views follows."""
    before = frozenset(_before(state))
    wall = Wall(draft, people, before)
    catalog = state.catalog
    for relation in sorted(catalog.relations.values(), key=lambda r: r.name):
        masked = {n: c for n, c in protection.columns_of(relation).items() if _is_masked(rules, c)}
        if masked:
            wall.fence_table(relation, masked)
        lineage = protection.lineage_of(relation)
        inside = frozenset(c for c in lineage.inside if _is_masked(rules, c)) if lineage is not None else frozenset()
        if inside and relation.oid not in state.invoker_views:
            wall.fence_object(relation_sql(relation.name), relation.owner, inside, _SELECT)
    for function in sorted(catalog.functions, key=lambda f: f.oid):
        named = protection.functions.get(function.name.name, frozenset())
        columns = frozenset(c for c in named if _is_masked(rules, c))
        if function.oid in state.routines and columns:
            wall.fence_object(state.routines[function.oid], function.owner, columns, _EXECUTE)
    _plan_difference(draft, state, wall)
    _warn(draft, state, people, protection, rules)
    return before


def _is_masked(rules: Rules, name: ColumnName) -> bool:
    column = rules.column(name)
    return column is not None and column.protection is Protection.MASKED


def _before(state: State) -> set[Atom]:
    """What everybody would hold without pgveil."""
    held = set(state.held)
    before = held - state.given
    columns = {relation_sql(r.name): {"", *(c.name for c in r.columns)} for r in state.catalog.relations.values()}
    columns |= {routine: {""} for routine in state.routines.values()}
    for atom in state.taken:
        # What has been dropped since can't be given back.
        if atom.column not in columns.get(atom.object, ()) or (atom.grantee and atom.grantee not in state.roles):
            continue
        # Where nothing is left of what was given in its place, somebody has revoked it since, and it stays revoked.
        instead = {
            a
            for a in state.given
            if a.object == atom.object and a.grantee == atom.grantee and a.privilege == atom.privilege
        }
        if not instead or instead & held:
            before.add(atom)
    return before


def _plan_difference(draft: Draft, state: State, wall: Wall) -> None:
    """REVOKE and GRANT statements from what is held to what shall be, and the memory of it."""
    held = {a for a in state.held if a.object in wall.fenced and a.grantee != OWNER}
    after = wall.after
    gone_objects = {a for a in state.taken | state.given if a.object not in wall.fenced}
    # Of objects that are protected no more, what was taken is given back, and what was given is taken.
    loose = {a for a in wall.before if a.object in {g.object for g in gone_objects}}
    held |= {a for a in state.held if a in gone_objects}
    after = after | {a for a in loose if a in gone_objects}
    for atom in sorted(held - after):
        how = state.held[atom]
        owner = wall.fenced.get(atom.object)
        if how.grantable or (owner is not None and how.grantors - {owner}):
            draft.obstacles.append(
                Obstacle(
                    _shown(atom.object),
                    f"{_who(atom.grantee)} holds {atom.privilege} on it WITH GRANT OPTION or from another grantor than its owner",
                    "revoke it by hand and grant it as the owner, without grant option",
                )
            )
    kept = held - after if draft.serving else set[Atom]()
    _revoke(draft.going(), held - after)
    _grant(draft, held, after | kept)
    loose_ones = gone_objects if kept else set[Atom]()
    relevant = {a for a in wall.before if (a.object in wall.fenced and a.grantee != OWNER) or a in loose_ones}
    now = {a for a in after | kept if a.object in wall.fenced or a in loose_ones}
    taken, given = frozenset(relevant - now), frozenset(now - relevant)
    if (taken, given) != (state.taken, state.given):
        draft.add(
            Kind.GROUND,
            "pgveil.privileges_before",
            f"remember {len(taken)} privileges taken and {len(given)} given",
            *memory_sql(taken, given),
        )


def _who(grantee: str) -> str:
    return "PUBLIC" if grantee == PUBLIC else grantee


def _grantee_sql(grantee: str) -> str:
    return "PUBLIC" if grantee == PUBLIC else quote_ident(grantee)


def _shown(object_: str) -> str:
    """An object for people: without the quotes that its name does not need."""
    return _PLAIN_QUOTED.sub(r"\1", object_)


def _on(object_: str) -> str:
    return f"ROUTINE {object_}" if object_.endswith(")") else f"TABLE {object_}"


def _groups(atoms: Iterable[Atom]) -> dict[tuple[str, str, str], set[str]]:
    groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for object_, column, grantee, privilege in atoms:
        groups[object_, grantee, privilege].add(column)
    return dict(sorted(groups.items()))


def _columns(columns: Iterable[str]) -> str:
    named = sorted(c for c in columns if c)
    return f" ({', '.join(quote_ident(c) for c in named)})" if named else ""


def _what(privilege: str, columns: set[str]) -> str:
    named = sorted(c for c in columns if c)
    return privilege if "" in columns or not named else f"{privilege} ({', '.join(named)})"


def _revoke(changes: list[Change], atoms: set[Atom]) -> None:
    for (object_, grantee, privilege), columns in _groups(atoms).items():
        # Revoking the whole takes the single columns' privileges too.
        scope = "" if "" in columns else _columns(columns)
        what = f"{_what(privilege, columns)} from {_who(grantee)}"
        sql = f"REVOKE {privilege}{scope} ON {_on(object_)} FROM {_grantee_sql(grantee)}"
        changes.append(Change(Kind.REVOKE, _shown(object_), what, Statements((sql,))))


def _grant(draft: Draft, held: set[Atom], after: set[Atom]) -> None:
    emptied = {(a.object, a.grantee, a.privilege) for a in held - after if not a.column}
    wanted = (after - held) | {a for a in after if (a.object, a.grantee, a.privilege) in emptied}
    for (object_, grantee, privilege), columns in _groups(wanted).items():
        if "" in columns:
            draft.add(
                Kind.GRANT,
                _shown(object_),
                f"{privilege} to {_who(grantee)}",
                f"GRANT {privilege} ON {_on(object_)} TO {_grantee_sql(grantee)}",
            )
        if columns - {""}:
            draft.add(
                Kind.GRANT,
                _shown(object_),
                f"{_what(privilege, columns - {''})} to {_who(grantee)}",
                f"GRANT {privilege}{_columns(columns)} ON {_on(object_)} TO {_grantee_sql(grantee)}",
            )


def _warn(draft: Draft, state: State, people: People, protection: ProtectionMap, rules: Rules) -> None:
    """Who can't be kept out by privileges, and what would undo the wall later."""
    masked = [c.name for c in rules.protected_columns() if c.protection is Protection.MASKED]
    catalog = state.catalog
    for login in sorted(state.logins):
        limited = people.limited(login, masked)
        if not limited:
            continue
        memberships = catalog.memberships(login)
        if login in catalog.superusers:
            draft.warnings.append(
                f"login {login} is a superuser or can become one: no privilege keeps it from what it sees masked"
            )
            continue
        owned = sorted(str(t) for t in _owned(state, login, protection))
        if owned:
            draft.warnings.append(
                f"login {login} owns {', '.join(owned)}: no privilege keeps it from what it sees masked there"
            )
        for role in sorted(memberships & _BYPASSING):
            draft.warnings.append(f"login {login} is a member of {role}, which can read past the tables' privileges")
        if state.logins[login].creates_roles:
            draft.warnings.append(f"login {login} has CREATEROLE and may make itself a member of roles that see more")
    for read in hidden_reads(protection):
        if not read.fenced and any(people.limited(n, read.columns) for n in state.logins):
            draft.warnings.append(
                f"writing {read.relation} runs {read.what}, which reads {min(read.columns)} with rights that are not the writer's: no privilege keeps it from who may write there"
            )
    for owner, grantee in state.default_grants:
        if any(people.limited(n, masked) for n in people.members(grantee)):
            draft.warnings.append(
                f"default privileges of {owner} grant SELECT on new tables to {_who(grantee)}: run apply again after making tables or views"
            )


def _owned(state: State, login: str, protection: ProtectionMap) -> list[TableName]:
    return [
        r.name for r in state.catalog.relations.values() if protection.columns_of(r) and state.catalog.owns(login, r)
    ]
