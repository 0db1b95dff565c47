"""The wall: who may read and write what of the tables that hold protected columns, and of the views and functions that reach them.

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
from rules.loose import loose_triggers
from rules.model import Verdict, quote_ident
from rules.rights import may_insert, may_read, may_update

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from rules.analyse.record import ViewLineage
    from rules.catalog import Relation
    from rules.model import Column, ColumnName, PolicyClass, Principal, Rules, TableName
    from rules.protect import ProtectionMap

_PLAIN_QUOTED = re.compile(r'"([a-z_][a-z0-9_]*)"')
_SELECT, _INSERT, _UPDATE, _EXECUTE = "SELECT", "INSERT", "UPDATE", "EXECUTE"
# Privileges that can be had on single columns, and that are taken column by column.
_COLUMNWISE = (_SELECT, _INSERT, _UPDATE)
# A trigger sees whole rows, and a foreign key of one's own can be asked which values there are.
_PEEPING = ("TRIGGER", "REFERENCES")
_MOST_NAMES = 8
_BYPASSING = frozenset(
    {"pg_read_all_data", "pg_write_all_data", "pg_read_server_files", "pg_execute_server_program"}
    | {"pg_write_server_files", OWNER}
)


@dataclass(frozen=True, slots=True)
class People:
    """Logins, what they are members of, and who they are under the rules."""

    state: State
    rules: Rules
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
    return People(state, rules, {n: rules.principal(n, state.catalog.memberships(n)) for n in state.logins})


@dataclass(slots=True)
class Wall:
    """The privileges before and after, object by object."""

    draft: Draft
    people: People
    protection: ProtectionMap
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

    def fence_table(self, relation: Relation, columns: Mapping[str, ColumnName]) -> None:
        """Take from each login what it may not do to a table's columns. `columns`: the protected ones by the name they have there."""
        made_of = {name: (column,) for name, column in columns.items()}
        withheld = {p: self._limits(relation, made_of, p) for p in _COLUMNWISE}
        self._fence(relation, withheld, frozenset(columns), frozenset(columns.values()))

    def fence_view(self, relation: Relation, lineage: ViewLineage) -> None:
        """Take a view, or a copy, whole from those who may not read all that it is made of; and what it hands on of writes."""
        names = [c.name for c in relation.columns]
        made_of: dict[str, Iterable[ColumnName]] = dict.fromkeys(names, lineage.inside)
        read = self._limits(relation, made_of, _SELECT)
        if lineage.known:
            made_of = {n: o.touches for n, o in zip(names, lineage.columns, strict=False)}
        self._fence(
            relation,
            {_SELECT: read, **{p: self._limits(relation, made_of, p) for p in (_INSERT, _UPDATE)}},
            frozenset(n for n, columns in made_of.items() if columns),
            lineage.inside,
        )

    def _fence(
        self,
        relation: Relation,
        withheld: Mapping[str, Mapping[str, frozenset[str]]],
        protected: frozenset[str],
        made_of: frozenset[ColumnName],
    ) -> None:
        """`withheld`: by privilege and login, the columns on which it shall not have it. `made_of`: all that is protected there."""
        object_ = relation_sql(relation.name)
        self.fenced[object_] = relation.owner
        everything = frozenset(c.name for c in relation.columns)
        # A trigger sees whole rows, and could change a value behind the one that lets it pass.
        bad_for = frozenset(n for n in withheld[_SELECT] if self.people.limited(n, made_of))
        for grantee, atoms in self.grantees(object_).items():
            self.after |= {a for a in atoms if a.privilege not in (*_COLUMNWISE, *_PEEPING)}
            for privilege, limits in withheld.items():
                held = {a for a in atoms if a.privilege == privilege}
                self.after |= self._columns(Atom(object_, "", grantee, privilege), held, everything, limits)
            members = self.people.members(grantee) & withheld[_SELECT].keys()
            self.after |= self._peeping(atoms, protected, bad_for, members)

    def _limits(
        self, relation: Relation, made_of: Mapping[str, Iterable[ColumnName]], privilege: str
    ) -> dict[str, frozenset[str]]:
        return {login: self._withheld(login, made_of, privilege) for login in self._fenceable(relation)}

    def _withheld(self, login: str, made_of: Mapping[str, Iterable[ColumnName]], privilege: str) -> frozenset[str]:
        """The columns on which a login shall not have a privilege."""
        may = {_SELECT: self._may_select, _INSERT: self._may_insert, _UPDATE: self._may_update}[privilege]
        policy = self.people.principals[login].policy
        # Of a sealed column that the rules do not know (it came with a table that was moved in) nothing can be said: apply has an obstacle.
        known = self.protection.rules.column
        return frozenset(
            c for c, names in made_of.items() if not all(known(n) is None or may(policy, n) for n in names)
        )

    def _may_select(self, policy: PolicyClass, name: ColumnName) -> bool:
        return may_read(policy, self._rule(name))

    def _may_insert(self, policy: PolicyClass, name: ColumnName) -> bool:
        return may_insert(policy, self._rule(name), self.protection.told)

    def _may_update(self, policy: PolicyClass, name: ColumnName) -> bool:
        return may_update(policy, self._rule(name))

    def _rule(self, name: ColumnName) -> Column:
        column = self.protection.rules.column(name)
        assert column is not None
        return column

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

    def _columns(
        self, whole: Atom, held: set[Atom], everything: frozenset[str], limits: Mapping[str, frozenset[str]]
    ) -> set[Atom]:
        """What is left of a privilege that a grantee held (`whole`: it, as a table's), where `limits` are each login's columns without it."""
        covered = everything if whole in held else frozenset(a.column for a in held)
        members = self.people.members(whole.grantee) & limits.keys()
        bad = covered & frozenset[str]().union(*(limits[m] for m in members))
        if not bad:
            return held
        for login in members:
            extra = bad - limits[login]
            if not extra:
                continue
            limited_through = {n for n in self.people.members(login) & limits.keys() if limits[n] & extra}
            if whole in held and not limits[login]:
                self._give(whole._replace(grantee=login), limited_through)
            else:
                for column in sorted(extra):
                    self._give(whole._replace(column=column, grantee=login), limited_through)
        return {whole._replace(column=c) for c in covered - bad}

    def _peeping(
        self, atoms: set[Atom], protected: frozenset[str], bad_for: frozenset[str], members: frozenset[str]
    ) -> set[Atom]:
        kept = set()
        for atom in atoms:
            if atom.privilege not in _PEEPING:
                continue
            if members.isdisjoint(bad_for) or (atom.column and atom.column not in protected):
                kept.add(atom)
                continue
            for login in members - bad_for:
                self._give(atom._replace(grantee=login), self.people.members(login) & bad_for)
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


def plan_wall(draft: Draft, state: State, people: People, protection: ProtectionMap, rules: Rules) -> Wall:
    """The changes of privileges. Gives back what they were, from which access to the masking views follows, and what they shall be."""
    before = frozenset(_before(state))
    wall = Wall(draft, people, protection, before)
    catalog = state.catalog
    for relation in sorted(catalog.relations.values(), key=lambda r: r.name):
        columns = protection.columns_of(relation)
        lineage = protection.lineage_of(relation)
        if columns:
            wall.fence_table(relation, columns)
        elif lineage is not None and relation.oid not in state.invoker_views:
            wall.fence_view(relation, lineage)
    for function in sorted(catalog.functions, key=lambda f: f.oid):
        named = protection.functions.get(function.name.name, frozenset())
        read = frozenset(c for c in named if rules.is_masked(c))
        if function.oid in state.routines and read:
            wall.fence_object(state.routines[function.oid], function.owner, read, _EXECUTE)
    _plan_difference(draft, state, wall)
    _warn(draft, state, people, protection, rules)
    return wall


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
    _revoke(draft.going(), held - after, wall.people)
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


def _revoke(changes: list[Change], atoms: set[Atom], people: People) -> None:
    for (object_, grantee, privilege), columns in _groups(atoms).items():
        # Revoking the whole takes the single columns' privileges too.
        scope = "" if "" in columns else _columns(columns)
        what = f"{_what(privilege, columns)} from {_who(grantee)}{_through(grantee, people)}"
        sql = f"REVOKE {privilege}{scope} ON {_on(object_)} FROM {_grantee_sql(grantee)}"
        changes.append(Change(Kind.REVOKE, _shown(object_), what, Statements((sql,))))


def _through(grantee: str, people: People) -> str:
    """Which logins have by a role what they shall not have."""
    protected = [c.name for c in people.rules.protected_columns()]
    names = sorted(n for n in people.members(grantee) - {grantee} if people.limited(n, protected))
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f", by which {', '.join(names[:_MOST_NAMES])}{more} had it"


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
    protected = [c.name for c in rules.protected_columns()]
    masked = [n for n in protected if rules.is_masked(n)]
    catalog = state.catalog
    for login in sorted(state.logins):
        if not people.limited(login, protected):
            continue
        what = "sees masked" if people.limited(login, masked) else "does not see clear, and could overwrite"
        memberships = catalog.memberships(login)
        if login in catalog.superusers:
            draft.warnings.append(
                f"login {login} is a superuser or can become one: no privilege keeps it from what it {what}"
            )
            continue
        owned = sorted(str(t) for t in _owned(state, login, protection))
        if owned:
            draft.warnings.append(
                f"login {login} owns {', '.join(owned)}: no privilege keeps it from what it {what} there"
            )
        for role in sorted(memberships & _BYPASSING):
            draft.warnings.append(
                f"login {login} is a member of {role}, which can read or write past the tables' privileges"
            )
        for right in catalog.beneath(login):
            what = right if right == "REPLICATION" else f"the privilege EXECUTE on {right}"
            draft.warnings.append(
                f"login {login} has {what}: it shows what no privilege on tables covers, past pgveil what it sees masked"
            )
        if state.logins[login].creates_roles:
            draft.warnings.append(f"login {login} has CREATEROLE and may make itself a member of roles that see more")
    for read in hidden_reads(protection):
        if not read.fenced and any(people.limited(n, read.columns) for n in state.logins):
            draft.warnings.append(
                f"writing {read.relation} runs {read.what}, which reads {min(read.columns)} with rights that are not the writer's: no privilege keeps it from who may write there"
            )
    _warn_loose(draft, state, people, protection)
    for owner, grantee in state.default_grants:
        if any(people.limited(n, masked) for n in people.members(grantee)):
            draft.warnings.append(
                f"default privileges of {owner} grant SELECT on new tables to {_who(grantee)}: run apply again after making tables or views"
            )


def _warn_loose(draft: Draft, state: State, people: People, protection: ProtectionMap) -> None:
    for loose in loose_triggers(protection):
        if any(people.limited(n, loose.columns) for n in state.logins):
            draft.warnings.append(
                f"writing {loose.relation} gives its row to trigger function {loose.function}, which finds names by the writer's search_path: who sees {min(loose.columns)} masked could put tables or functions of its own there. ALTER FUNCTION {loose.function}() SET search_path = {loose.relation.schema}, pg_temp"
            )


def _owned(state: State, login: str, protection: ProtectionMap) -> list[TableName]:
    return [
        r.name for r in state.catalog.relations.values() if protection.columns_of(r) and state.catalog.owns(login, r)
    ]
