"""What pgveil itself needs in a database: its role, its schema, the sealed domain, the masks' functions, its memory of privileges."""

# ruff: noqa: S608 - names are quoted by quote_ident, texts by quote_literal

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from keys.lookup import LOOKUP_DOMAIN
from keys.mask_sql import install_sql
from keys.sealed_sql import holds
from lifecycle.apply.model import (
    OWNER,
    PSEUDONYM_DOMAIN,
    SCHEMA,
    Change,
    InstallMasks,
    Kind,
    MakeKey,
    Obstacle,
    SetLookupKey,
    SetPseudonymKey,
)
from rules.model import Protection, quote_ident, quote_literal

if TYPE_CHECKING:
    from lifecycle.apply.inspect import Atom, State
    from lifecycle.apply.model import Draft
    from rules.model import Rules

_OWNER, _SCHEMA = quote_ident(OWNER), quote_ident(SCHEMA)

DOMAIN_CHECK = f"CHECK ({holds('VALUE')})"
_MEMORY = (
    f"CREATE TABLE {_SCHEMA}.privileges_before (\n"
    "    object pg_catalog.text NOT NULL,\n    column_name pg_catalog.text NOT NULL,\n"
    "    grantee pg_catalog.text NOT NULL,\n    privilege pg_catalog.text NOT NULL,\n    taken pg_catalog.bool NOT NULL,\n"
    "    PRIMARY KEY (object, column_name, grantee, privilege)\n)"
)


def digest(text: str) -> str:
    """16 hex digits that name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


DOMAIN_DIGEST = digest(DOMAIN_CHECK)
MASKS_DIGEST = digest(install_sql(SCHEMA))


def plan_keys(draft: Draft, rules: Rules, domains: frozenset[str]) -> None:
    """A data key for each key domain of the rules that has none, and for pseudonyms where a mask makes them."""
    wanted = {c.key_domain for c in rules.protected_columns() if c.protection is Protection.SEALED}
    if uses_pseudonyms(rules):
        wanted.add(PSEUDONYM_DOMAIN)
    if uses_lookups(rules):
        wanted.add(LOOKUP_DOMAIN)
    for domain in sorted(wanted - domains):
        draft.changes.append(Change(Kind.KEY, domain, "make its first data key", MakeKey(domain)))


def uses_pseudonyms(rules: Rules) -> bool:
    """Whether any mask is keyed."""
    return any(c.mask is not None and c.mask.kind == "pseudonym" for c in rules.protected_columns())


def uses_lookups(rules: Rules) -> bool:
    """Whether any role may find rows by the real value of a column that is kept plain, or give a column values that it does not see clear."""
    return any(role.writes for role in rules.roles.values()) or any(
        rules.is_masked(name) for role in rules.roles.values() for name in role.lookups
    )


def plan_ground(draft: Draft, state: State, rules: Rules) -> None:
    """Role, schema, domain, functions, memory: whatever is absent or not as it should be."""
    ground = state.ground
    if not state.superuser and not (state.owns_pgveil and state.owns_database):
        draft.obstacles.append(
            Obstacle(
                state.user,
                f"apply makes roles, schemas and objects of {OWNER}'s; this login is neither a superuser nor both {OWNER}'s member and the database's owner",
                f"run it as a superuser, or: CREATE ROLE {OWNER} NOLOGIN; GRANT {OWNER} TO the database's owner, who owns the tables too",
            )
        )
    if not ground.owner_role:
        draft.add(Kind.GROUND, OWNER, "create role, without login", f"CREATE ROLE {_OWNER} NOLOGIN")
    elif ground.owner_can_much:
        draft.obstacles.append(
            Obstacle(
                OWNER,
                "this role can log in, or has rights over the whole server, and sees every masked value",
                f"ALTER ROLE {OWNER} NOLOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION",
            )
        )
    if ground.schema_owner is None:
        draft.add(Kind.GROUND, SCHEMA, "create schema", f"CREATE SCHEMA {_SCHEMA} AUTHORIZATION {_OWNER}")
    elif ground.schema_owner != OWNER:
        draft.add(Kind.GROUND, SCHEMA, f"give schema to {OWNER}", f"ALTER SCHEMA {_SCHEMA} OWNER TO {_OWNER}")
    _plan_domain(draft, state)
    if ground.masks_digest != MASKS_DIGEST:
        draft.changes.append(Change(Kind.GROUND, SCHEMA, "install the masks' functions", InstallMasks(MASKS_DIGEST)))
    if uses_pseudonyms(rules) and not ground.pseudonym_key:
        draft.changes.append(Change(Kind.GROUND, SCHEMA, "set the pseudonyms' key", SetPseudonymKey()))
    if uses_lookups(rules) and not ground.lookup_key:
        draft.changes.append(Change(Kind.GROUND, SCHEMA, "set the key of look-up tickets", SetLookupKey()))
    if not ground.memory:
        draft.add(
            Kind.GROUND,
            f"{SCHEMA}.privileges_before",
            "create the table that remembers privileges taken and given",
            _MEMORY,
            f"ALTER TABLE {_SCHEMA}.privileges_before OWNER TO {_OWNER}",
        )


def _plan_domain(draft: Draft, state: State) -> None:
    ground = state.ground
    name = f"{_SCHEMA}.sealed"
    if not ground.domain:
        draft.add(
            Kind.GROUND,
            f"{SCHEMA}.sealed",
            "create domain with the sealed format's check",
            f'CREATE DOMAIN {name} AS pg_catalog.text COLLATE pg_catalog."C" CONSTRAINT sealed_format {DOMAIN_CHECK}',
            f"ALTER DOMAIN {name} OWNER TO {_OWNER}",
        )


def memory_sql(taken: frozenset[Atom], given: frozenset[Atom]) -> tuple[str, ...]:
    """Statements that make the memory hold exactly this."""
    table = f"{_SCHEMA}.privileges_before"
    statements = [f"DELETE FROM {table}"]
    rows = [
        f"({', '.join(quote_literal(part) for part in atom)}, {'true' if atom in taken else 'false'})"
        for atom in sorted(taken | given)
    ]
    if rows:
        statements.append(
            f"INSERT INTO {table} (object, column_name, grantee, privilege, taken) VALUES " + ", ".join(rows)
        )
    return tuple(statements)
