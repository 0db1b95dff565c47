"""The masking views: a schema for each set of masks that logins see, one view in it for each table of which they see something masked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keys.mask import MaskError, make_mask
from keys.typespec import parse_type
from lifecycle.apply.ground import digest
from lifecycle.apply.inspect import PUBLIC, Atom, relation_sql
from lifecycle.apply.model import OWNER, SEALED_TYPE, Change, Kind, MakeView, Obstacle, Statements, options
from rules.difference import derived_for
from rules.logical import type_of_oid
from rules.model import Protection, TableName, Verdict, quote_ident, view_name
from rules.record import MadeAs

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from keys.typeio_base import LogicalType
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People
    from rules.catalog import CatalogColumn, Relation
    from rules.model import Column, PolicyClass, Rules, Table
    from rules.protect import ProtectionMap

_OWNER = quote_ident(OWNER)


def plan_views(
    draft: Draft, state: State, rules: Rules, people: People, protection: ProtectionMap, before: frozenset[Atom]
) -> list[Change]:
    """Plan the views. Gives back what must be done before columns are sealed: views and schemas that have to go."""
    first: list[Change] = []
    classes = {p.policy.schema: p.policy for p in people.principals.values()}
    wanted: dict[TableName, tuple[Table, PolicyClass, MakeView]] = {}
    for policy in sorted(classes.values(), key=lambda c: c.schema):
        for table in sorted(rules.tables.values(), key=lambda t: t.name):
            relation = state.catalog.by_name.get(table.name)
            if relation is None:
                continue
            # A child's columns are its parent's, masks and all.
            columns = {n: c for n, of in protection.columns_of(relation).items() if (c := rules.column(of)) is not None}
            if not _limited(columns, policy):
                continue
            if relation.row_security:
                _row_security(draft, table)
                continue
            view = _view(draft, columns, relation, policy)
            if view is not None:
                wanted[TableName(view.schema, view.name)] = (table, policy, view)
                hides = derived_for(rules, policy, protection.columns_of(relation))
                draft.made.views.append(MadeAs(policy.schema, view_name(table.name), derived=hides))
    schemas = {name.schema for name in wanted}
    _drop_stale(draft, first, state, rules, wanted.keys(), schemas)
    made = _make_schemas(draft, state, schemas)
    rights = {n: _rights(state, people, protection, before, t, n) for n, (t, _, _) in wanted.items()}
    _plan_owner(draft, state, {n: (t.name, rights[n]) for n, (t, _, _) in wanted.items()})
    kept = set()
    for name, (_, _, view) in wanted.items():
        found = state.views.get(name)
        if found is not None and found.digest == view.digest and found.owner == OWNER:
            kept.add(name)
            continue
        if found is not None:
            first.append(_drop_view(name, "drop the view to make it anew"))
        draft.changes.append(Change(Kind.VIEW, str(name), "create masking view", view))
    for name in wanted:
        _plan_access(draft, state, name, rights[name], present=name in kept, schema_made=name.schema in made)
    _close_schemas(draft, state, people, schemas)
    return first


def _close_schemas(draft: Draft, state: State, people: People, schemas: set[str]) -> None:
    """Nobody outside a class keeps a privilege on its schema, and nobody in it more than USAGE."""
    for schema in sorted(schemas):
        for atom in sorted(a for a in state.held if a.object == quote_ident(schema) and a.grantee != OWNER):
            found = people.principals.get(atom.grantee)
            if found is None or found.policy.schema != schema or atom.privilege != "USAGE":
                grantee = "PUBLIC" if atom.grantee == PUBLIC else quote_ident(atom.grantee)
                sql = f"REVOKE {atom.privilege} ON SCHEMA {quote_ident(schema)} FROM {grantee}"
                what = f"{atom.privilege} from {atom.grantee or 'PUBLIC'}"
                draft.going().append(Change(Kind.REVOKE, schema, what, Statements((sql,))))


def _limited(columns: Mapping[str, Column], policy: PolicyClass) -> bool:
    return any(
        c.protection is Protection.MASKED and policy.verdict(c.name) is not Verdict.CLEAR for c in columns.values()
    )


def _row_security(draft: Draft, table: Table) -> None:
    draft.obstacles.append(
        Obstacle(
            str(table.name),
            "it has row-level security, which a masking view would evaluate for pgveil's role and not for the asker",
            "disable row-level security on it, or take its masked columns out of the rules",
        )
    )


def _view(draft: Draft, rules: Mapping[str, Column], relation: Relation, policy: PolicyClass) -> MakeView | None:
    try:
        columns = [_shown(c, rules.get(c.name), policy) for c in relation.columns]
    except (MaskError, ValueError) as error:
        draft.obstacles.append(
            Obstacle(str(relation.name), f"a column of it cannot be masked: {error}", "choose another mask")
        )
        return None
    query = "SELECT " + ",\n       ".join(columns) + f"\n  FROM {relation_sql(relation.name)} AS t"  # noqa: S608 - quoted
    # A column that gets another type needs the view made anew though its text stays: the types belong to the digest.
    types = [(c.name, _type_after(c, rules.get(c.name))) for c in relation.columns]
    return MakeView(policy.schema, view_name(relation.name), query, digest(f"{query}\n{types}"))


def _type_after(column: CatalogColumn, rule: Column | None) -> str:
    sealed = rule is not None and rule.protection is Protection.SEALED
    return SEALED_TYPE if sealed else column.declared_type


def _shown(column: CatalogColumn, rule: Column | None, policy: PolicyClass) -> str:
    name = quote_ident(column.name)
    if rule is None or rule.protection is not Protection.MASKED:
        return f"t.{name} AS {name}"
    verdict = policy.verdict(rule.name)
    if verdict is Verdict.CLEAR:
        return f"t.{name} AS {name}"
    type_ = _type_of(column)
    if verdict is Verdict.REFUSED or rule.mask is None or rule.mask.kind == "null":
        return f"NULL::{column.declared_type if type_ is None else _base_name(column)} AS {name}"
    if type_ is None:
        raise MaskError(f"{rule.name} is {column.declared_type}, which only the mask null fits")
    return f"{make_mask(rule.mask.kind, options(rule), type_).sql(f't.{name}')} AS {name}"


def _base_name(column: CatalogColumn) -> str:
    """The type to show: a domain's base type, since a mask need not pass the domain's checks; the client sees the base type anyway."""
    known = type_of_oid(column.type_oid, column.typmod)
    return column.declared_type if known is None else known


def _type_of(column: CatalogColumn) -> LogicalType | None:
    known = type_of_oid(column.type_oid, column.typmod)
    if known is not None:
        return parse_type(known)
    try:
        return parse_type(f"enum {column.declared_type}")
    except ValueError:
        return None


def _drop_view(name: TableName, what: str) -> Change:
    return Change(Kind.DROP, str(name), what, Statements((f"DROP VIEW {relation_sql(name)}",)))


def _drop_stale(
    draft: Draft,
    first: list[Change],
    state: State,
    rules: Rules,
    wanted: Container[TableName],
    schemas: set[str],
) -> None:
    if draft.serving:
        _remake_others(draft, first, state, rules, wanted)
    gone = draft.going(first)
    for schema in sorted(state.schemas):
        if schema not in schemas:
            # Without CASCADE: what somebody has built on a masking view is not ours to drop.
            views = tuple(f"DROP VIEW {relation_sql(n)}" for n in sorted(state.views) if n.schema == schema)
            sql = (*views, f"DROP SCHEMA {quote_ident(schema)}")
            gone.append(
                Change(Kind.DROP, schema, "drop the schema of a class that no login is in any more", Statements(sql))
            )
    stale = [n for n in sorted(state.views) if n.schema in schemas and n not in wanted]
    gone += [_drop_view(n, "drop a masking view that is no longer needed") for n in stale]


def _remake_others(draft: Draft, first: list[Change], state: State, rules: Rules, wanted: Container[TableName]) -> None:
    """Who serves other rules keeps its views. Those on a table of which a column is sealed are in the way, and made again behind it.

    But for those that mask the very column: they would mask what is sealed.
    """
    sealing = {view_name(table): columns for table, columns in _sealing(state, rules).items()}
    for name, view in sorted(state.views.items()):
        if name in wanted or name.name not in sealing:
            continue
        first.append(_drop_view(name, "drop a masking view of other rules: a column of its table is sealed"))
        relation = state.catalog.by_name.get(name)
        definition = "" if relation is None or relation.definition is None else relation.definition
        if view.digest is None or view.owner != OWNER or not all(_shows(definition, c) for c in sealing[name.name]):
            continue
        made = MakeView(name.schema, name.name, definition.rstrip().rstrip(";"), view.digest)
        draft.changes.append(Change(Kind.VIEW, str(name), "make it again, for those that serve by it", made))
        object_ = relation_sql(name)
        for login, privilege, columns in _grouped(
            {a for a in state.held if a.object == object_ and a.grantee != OWNER}
        ):
            who = "PUBLIC" if login == PUBLIC else quote_ident(login)
            sql = f"GRANT {privilege}{_listed(columns)} ON TABLE {object_} TO {who}"
            draft.add(Kind.GRANT, str(name), f"{privilege} to {login or 'PUBLIC'}", sql)


def _shows(definition: str, column: str) -> bool:
    """Whether a view of ours shows a column as it is stored, by the server's text for it."""
    spelled = f"(?:{re.escape(column)}|{re.escape(quote_ident(column))})"
    return re.search(rf"(?:SELECT|,)\s+(?:t\.)?{spelled}(?:,|\s+FROM\s)", definition) is not None


def _sealing(state: State, rules: Rules) -> dict[TableName, list[str]]:
    """The tables of which columns are going to be sealed, and these."""
    tables: dict[TableName, list[str]] = {}
    for column in rules.protected_columns():
        relation = state.catalog.by_name.get(column.name.relation)
        found = None if relation is None else relation.column(column.name.column)
        if column.protection is Protection.SEALED and found is not None and found.declared_type != SEALED_TYPE:
            tables.setdefault(column.name.relation, []).append(column.name.column)
    return tables


def _make_schemas(draft: Draft, state: State, schemas: set[str]) -> set[str]:
    made = set()
    for schema in sorted(schemas):
        if schema not in state.schemas:
            made.add(schema)
            draft.add(Kind.VIEW, schema, "create schema", f"CREATE SCHEMA {quote_ident(schema)} AUTHORIZATION {_OWNER}")
        elif state.schemas[schema] != OWNER:
            draft.add(
                Kind.VIEW, schema, f"give schema to {OWNER}", f"ALTER SCHEMA {quote_ident(schema)} OWNER TO {_OWNER}"
            )
    return made


def _plan_owner(draft: Draft, state: State, views: Mapping[TableName, tuple[TableName, set[Atom]]]) -> None:
    """pgveil's role reads the tables that its views show, and writes them where its views may be written."""
    for schema in sorted({t.schema for t, _ in views.values()}):
        if Atom(quote_ident(schema), "", OWNER, "USAGE") not in state.held:
            draft.add(
                Kind.GRANT, schema, f"USAGE to {OWNER}", f"GRANT USAGE ON SCHEMA {quote_ident(schema)} TO {_OWNER}"
            )
    needed = {Atom(relation_sql(t), "", OWNER, a.privilege) for t, rights in views.values() for a in rights}
    needed |= {Atom(relation_sql(t), "", OWNER, "SELECT") for t, _ in views.values()}
    names = {relation_sql(t): str(t) for t, _ in views.values()}
    for atom in sorted(needed - state.held.keys()):
        sql = f"GRANT {atom.privilege} ON TABLE {atom.object} TO {_OWNER}"
        draft.add(Kind.GRANT, names[atom.object], f"{atom.privilege} to {OWNER}", sql)


def _rights(
    state: State,
    people: People,
    protection: ProtectionMap,
    before: frozenset[Atom],
    table: Table,
    view: TableName,
) -> set[Atom]:
    """What the class's logins may do with the view: what they could do with the table without pgveil, as far as a view of masks can.

    Through it they change what they see clear, and delete, where they search by masks: a masked column of the table is none of the view's.
    """
    relation, object_ = state.catalog.by_name[table.name], relation_sql(view)
    protected = protection.columns_of(relation)
    held: dict[str, set[Atom]] = {}
    for atom in before:
        if atom.object == relation_sql(table.name):
            held.setdefault(atom.grantee, set()).add(atom)
    found: set[Atom] = set()
    for login, principal in people.principals.items():
        own_policy = principal.policy
        if own_policy.schema != view.schema or login in state.catalog.superusers:
            continue
        # Classes that see the same of masked columns share the view, and may differ in what is sealed.
        clear = [
            c.name
            for c in relation.columns
            if c.name not in protected or own_policy.verdict(protected[c.name]) is Verdict.CLEAR
        ]
        through = {PUBLIC, login, *state.catalog.memberships(login)}
        own = {(a.column, a.privilege) for grantee in through for a in held.get(grantee, ())}
        owns = state.catalog.owns(login, relation)
        if owns or any(privilege == "SELECT" for _, privilege in own):
            found.add(Atom(object_, "", login, "SELECT"))
        if owns or ("", "DELETE") in own:
            found.add(Atom(object_, "", login, "DELETE"))
        whole = owns or ("", "UPDATE") in own
        found |= {Atom(object_, c, login, "UPDATE") for c in clear if whole or (c, "UPDATE") in own}
    return found


def _plan_access(
    draft: Draft, state: State, view: TableName, rights: set[Atom], *, present: bool, schema_made: bool
) -> None:
    """The class's logins have their rights on the view; nobody else has any."""
    object_, schema = relation_sql(view), quote_ident(view.schema)
    held = {a for a in state.held if present and a.object == object_ and a.grantee != OWNER}
    for grantee, privilege, columns in _grouped(held - rights):
        who = "PUBLIC" if grantee == PUBLIC else quote_ident(grantee)
        sql = f"REVOKE {privilege}{_listed(columns)} ON TABLE {object_} FROM {who}"
        what = f"{privilege} from {grantee or 'PUBLIC'}"
        draft.going().append(Change(Kind.REVOKE, object_, what, Statements((sql,))))
    for login, privilege, columns in _grouped(rights - held):
        sql = f"GRANT {privilege}{_listed(columns)} ON TABLE {object_} TO {quote_ident(login)}"
        draft.add(Kind.GRANT, str(view), f"{privilege} to {login}", sql)
    for login in sorted({a.grantee for a in rights}):
        sql = f"GRANT USAGE ON SCHEMA {schema} TO {quote_ident(login)}"
        known = not schema_made and Atom(schema, "", login, "USAGE") in state.held
        if not known and not any(c.object == view.schema and c.what == f"USAGE to {login}" for c in draft.changes):
            draft.add(Kind.GRANT, view.schema, f"USAGE to {login}", sql)


def _grouped(atoms: set[Atom]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Grantee, privilege and columns (none: the whole) of what is granted or revoked at once."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for atom in sorted(atoms):
        groups.setdefault((atom.grantee, atom.privilege, bool(atom.column)), []).append(atom.column)
    return [(who, what, tuple(c) if single else ()) for (who, what, single), c in sorted(groups.items())]


def _listed(columns: tuple[str, ...]) -> str:
    return f" ({', '.join(map(quote_ident, columns))})" if columns else ""
