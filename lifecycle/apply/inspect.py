"""What the database holds, as far as apply must know beyond `rules.catalog`: roles, privileges, pgveil's own objects, dependants.

One function a question, one query each; everything is read in the caller's transaction, whose search_path is pg_catalog.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from lifecycle.apply.model import OWNER, SCHEMA, ApplyError
from lifecycle.database import read_catalog
from rules.lookups import WRITING_SCHEMA
from rules.model import TableName, quote_ident
from rules.serving import SERVING_QUERY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.database import Connection
    from rules.catalog import Catalog

PUBLIC = ""
"""The grantee that is everybody; no role has the empty name."""


class Atom(NamedTuple):
    """One privilege: on an object (as SQL names it), of one column or the whole (''), held by a grantee."""

    object: str
    column: str
    grantee: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Held:
    """How an atom is held: whether it may be passed on, and who gave it."""

    grantable: bool
    grantors: frozenset[str]


@dataclass(frozen=True, slots=True)
class Login:
    """A role that can log in."""

    name: str
    superuser: bool
    creates_roles: bool


@dataclass(frozen=True, slots=True)
class OwnView:
    """A view in one of pgveil's class schemas. `intact`: it is what its comment's digest was written for."""

    schema: str
    name: str
    digest: str | None
    owner: str


@dataclass(frozen=True, slots=True)
class OwnFunction:
    """A look-up function in one of pgveil's class schemas: its digest as of a view, and who may run it."""

    digest: str | None
    owner: str
    grantees: frozenset[str]


@dataclass(frozen=True, slots=True)
class Serving:
    """A session of a pgveil's own that says which rules it serves (`rules.serving`)."""

    rules: int
    pid: int
    login: str


@dataclass(frozen=True, slots=True)
class Ground:
    """What of pgveil's own is there. Digests are None where there is nothing, or something that is not ours."""

    owner_role: bool
    owner_can_much: bool
    schema_owner: str | None
    domain: bool
    domain_digest: str | None
    masks_digest: str | None
    pseudonym_key: bool
    memory: bool
    lookup_key: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """The database at one moment."""

    catalog: Catalog
    user: str
    superuser: bool
    owns_pgveil: bool
    owns_database: bool
    logins: Mapping[str, Login]
    roles: frozenset[str]
    ground: Ground
    schemas: Mapping[str, str]
    views: Mapping[TableName, OwnView]
    held: Mapping[Atom, Held]
    routines: Mapping[int, str]
    invoker_views: frozenset[int]
    taken: frozenset[Atom]
    given: frozenset[Atom]
    default_grants: tuple[tuple[str, str], ...]
    lookups: Mapping[TableName, OwnFunction]
    gates: Mapping[TableName, OwnFunction]
    writing_schema: bool
    serving: tuple[Serving, ...] = ()


_USER = """
SELECT current_user::text AS name, r.rolsuper AS superuser,
       EXISTS (SELECT FROM pg_roles o WHERE o.rolname = $1 AND pg_has_role(o.oid, 'USAGE')) AS owns_pgveil,
       (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = current_database()) AS owns_database
  FROM pg_roles r WHERE r.rolname = current_user
"""

_LOGINS = """
SELECT r.rolname::text AS name, r.rolcanlogin AS can_login, r.rolsuper AS superuser, r.rolcreaterole AS creates_roles
  FROM pg_catalog.pg_roles r
"""

# Not by to_regclass, which is an error to who may not use the schema.
_GROUND = """
  WITH own AS (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS owner_role,
       COALESCE((SELECT rolcanlogin OR rolsuper OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = $1), false) AS owner_can_much,
       (SELECT pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE n.nspname = $2) AS schema_owner,
       (SELECT obj_description(n.oid, 'pg_namespace') FROM pg_namespace n WHERE n.nspname = $2) AS schema_comment,
       (SELECT t.oid::int8 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE n.nspname = $2 AND t.typname = 'sealed' AND t.typtype = 'd') AS domain,
       (SELECT obj_description(t.oid, 'pg_type') FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE n.nspname = $2 AND t.typname = 'sealed' AND t.typtype = 'd') AS domain_comment,
       EXISTS (SELECT FROM own WHERE nspname = 'pgveil_private' AND relname = 'pseudonym_key') AS pseudonym_table,
       EXISTS (SELECT FROM own WHERE nspname = 'pgveil_private' AND relname = 'lookup_key') AS lookup_table,
       EXISTS (SELECT FROM own WHERE nspname = 'pgveil' AND relname = 'privileges_before') AS memory
"""

# What the functions really are, so that one replaced by hand is seen.
FUNCTIONS_DIGEST = """
SELECT COALESCE(md5(string_agg(pg_get_functiondef(p.oid) || pg_get_userbyid(p.proowner)::text, '' ORDER BY n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))), '')
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('pgveil', 'pgveil_private')
"""

DOMAIN_DIGEST = """
SELECT COALESCE(md5(string_agg(pg_get_constraintdef(c.oid) || c.convalidated::text, '' ORDER BY c.conname)), '')
  FROM pg_constraint c JOIN pg_type t ON t.oid = c.contypid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = 'pgveil' AND t.typname = 'sealed'
"""

_OWN_SCHEMAS = """
SELECT n.nspname::text AS name, pg_get_userbyid(n.nspowner)::text AS owner
  FROM pg_namespace n WHERE n.nspname ~ '^pgveil_[0-9a-f]{12}$'
"""

_OWN_VIEWS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner,
       obj_description(c.oid, 'pg_class') AS comment, md5(pg_get_viewdef(c.oid)) AS is
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'v' AND n.nspname ~ '^pgveil_[0-9a-f]{12}$'
"""

_OWN_FUNCTIONS = """
SELECT n.nspname::text AS schema, p.proname::text AS name, pg_get_userbyid(p.proowner)::text AS owner,
       obj_description(p.oid, 'pg_proc') AS comment, md5(pg_get_functiondef(p.oid)) AS is,
       ARRAY(SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END
               FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner) AS grantees
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname ~ '^pgveil_[0-9a-f]{12}$' AND p.prokind = 'f'
"""

# With its triggers, so that one that is disabled, dropped or changed by hand is seen.
GATE_DIGEST = """
SELECT md5(pg_get_functiondef(p.oid) || COALESCE((SELECT string_agg(pg_get_triggerdef(t.oid) || t.tgenabled::text, ';' ORDER BY t.tgname, t.tgrelid)
                                                    FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgparentid = 0), ''))
  FROM pg_proc p WHERE p.oid = $1::text::regprocedure
"""

_GATES = """
SELECT p.proname::text AS name, pg_get_userbyid(p.proowner)::text AS owner, obj_description(p.oid, 'pg_proc') AS comment,
       p.oid::regprocedure::text AS signature
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = $1
"""

_TABLE_GRANTS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, ''::text AS column, a.grantee::int8 AS grantee_oid,
       CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS grantee, a.privilege_type AS privilege,
       a.is_grantable AS grantable, pg_get_userbyid(a.grantor)::text AS grantor
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
       LATERAL aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) a
 WHERE c.oid = ANY($1::oid[]) AND a.grantee <> c.relowner
UNION ALL
SELECT n.nspname::text, c.relname::text, t.attname::text, a.grantee::int8,
       CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type,
       a.is_grantable, pg_get_userbyid(a.grantor)::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute t ON t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped AND t.attacl IS NOT NULL,
       LATERAL aclexplode(t.attacl) a
 WHERE c.oid = ANY($1::oid[]) AND a.grantee <> c.relowner
"""

_ROUTINES = """
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, p.proname::text AS name, pg_get_function_identity_arguments(p.oid) AS arguments
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = ANY($1::oid[])
"""

_ROUTINE_GRANTS = """
SELECT p.oid::int8 AS oid, CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
       a.privilege_type AS privilege, a.is_grantable AS grantable, pg_get_userbyid(a.grantor)::text AS grantor
  FROM pg_proc p, LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
 WHERE p.oid = ANY($1::oid[]) AND a.grantee <> p.proowner
"""

_SCHEMA_GRANTS = """
SELECT n.nspname::text AS name, CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
       a.privilege_type AS privilege, a.is_grantable AS grantable, pg_get_userbyid(a.grantor)::text AS grantor
  FROM pg_namespace n, LATERAL aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a
 WHERE NOT starts_with(n.nspname::text, 'pg_') AND a.grantee <> n.nspowner
"""

_INVOKER_VIEWS = """
SELECT c.oid::int8 AS oid FROM pg_class c
 WHERE c.relkind = 'v' AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
                                    WHERE o.option_name = 'security_invoker' AND o.option_value::bool)
"""

_DEFAULT_GRANTS = """
SELECT pg_get_userbyid(d.defaclrole)::text AS owner, CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS grantee
  FROM pg_default_acl d, LATERAL aclexplode(d.defaclacl) a
 WHERE d.defaclobjtype = 'r' AND a.privilege_type = 'SELECT' AND a.grantee <> d.defaclrole
"""


def relation_sql(name: TableName) -> str:
    """A relation as SQL names it."""
    return f"{quote_ident(name.schema)}.{quote_ident(name.name)}"


async def read_state(connection: Connection) -> State:
    """The database as it is now."""
    await _directly(connection)
    catalog = await read_catalog(connection)
    user = await connection.fetchrow(_USER, OWNER)
    assert user is not None
    roles = await connection.fetch(_LOGINS)
    ground = await _ground(connection)
    views = await connection.fetch(_OWN_VIEWS)
    routines = await _routines(connection, catalog)
    taken, given = await _memory(connection, ground)
    return State(
        catalog=catalog,
        user=user["name"],
        superuser=user["superuser"],
        owns_pgveil=user["owns_pgveil"],
        owns_database=user["owns_database"],
        logins={r["name"]: Login(r["name"], r["superuser"], r["creates_roles"]) for r in roles if r["can_login"]},
        roles=frozenset(r["name"] for r in roles),
        ground=ground,
        schemas={r["name"]: r["owner"] for r in await connection.fetch(_OWN_SCHEMAS)},
        views={
            TableName(r["schema"], r["name"]): OwnView(
                r["schema"], r["name"], recorded_digest(r["comment"], r["is"]), r["owner"]
            )
            for r in views
        },
        held=await _held(connection, catalog, routines),
        routines=routines,
        invoker_views=frozenset(r["oid"] for r in await connection.fetch(_INVOKER_VIEWS)),
        taken=taken,
        given=given,
        default_grants=tuple((r["owner"], r["grantee"]) for r in await connection.fetch(_DEFAULT_GRANTS)),
        lookups={
            TableName(r["schema"], r["name"]): OwnFunction(
                recorded_digest(r["comment"], r["is"]), r["owner"], frozenset(r["grantees"])
            )
            for r in await connection.fetch(_OWN_FUNCTIONS)
        },
        gates={
            TableName(WRITING_SCHEMA, r["name"]): OwnFunction(
                recorded_digest(r["comment"], str(await connection.fetchval(GATE_DIGEST, r["signature"]))),
                r["owner"],
                frozenset(),
            )
            for r in await connection.fetch(_GATES, WRITING_SCHEMA)
        },
        writing_schema=bool(
            await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", WRITING_SCHEMA)
        ),
        serving=tuple(Serving(**r) for r in await connection.fetch(SERVING_QUERY)),
    )


def digest_comment(wanted: str, actual: str) -> str:
    """The comment that ties an object to what it was made from (`wanted`) and to what the server made of it (`actual`)."""
    return f"pgveil {wanted} {actual}"


def recorded_digest(comment: str | None, actual: str) -> str | None:
    """The digest of what an object was made from; None where it is not ours or was changed since."""
    parts = (comment or "").split(" ")
    return parts[1] if len(parts) == 3 and parts[0] == "pgveil" and parts[2] == actual else None


async def _ground(connection: Connection) -> Ground:
    row = await connection.fetchrow(_GROUND, OWNER, SCHEMA)
    assert row is not None
    key = row["pseudonym_table"] and await _readable(
        connection, "SELECT EXISTS (SELECT FROM pgveil_private.pseudonym_key) AS there"
    )
    lookup = row["lookup_table"] and await _readable(
        connection, "SELECT EXISTS (SELECT FROM pgveil_private.lookup_key) AS there"
    )
    return Ground(
        owner_role=row["owner_role"],
        owner_can_much=row["owner_can_much"],
        schema_owner=row["schema_owner"],
        domain=row["domain"] is not None,
        domain_digest=recorded_digest(row["domain_comment"], str(await connection.fetchval(DOMAIN_DIGEST))),
        masks_digest=recorded_digest(row["schema_comment"], str(await connection.fetchval(FUNCTIONS_DIGEST))),
        pseudonym_key=bool(key and key[0]["there"]),
        memory=row["memory"],
        lookup_key=bool(lookup and lookup[0]["there"]),
    )


async def _readable(connection: Connection, query: str) -> list[asyncpg.Record]:
    """The rows of a query over pgveil's own tables; none where we may not read them, which the plan names as an obstacle."""
    try:
        async with connection.transaction():
            return await connection.fetch(query)
    except asyncpg.InsufficientPrivilegeError as error:
        if "through pgveil" in str(error):
            raise ApplyError(
                "this connection goes through pgveil: give the address of the PostgreSQL server itself"
            ) from None
        return []


async def _directly(connection: Connection) -> None:
    """Through pgveil none of its objects are seen, and sealed columns look plain: whoever asks for one by its name hears of it."""
    with contextlib.suppress(asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        await _readable(connection, "SELECT FROM pgveil.applied LIMIT 0")


async def _routines(connection: Connection, catalog: Catalog) -> dict[int, str]:
    """SECURITY DEFINER routines outside pgveil's schemas, as SQL names them, by OID."""
    oids = [f.oid for f in catalog.functions if f.security_definer and not f.name.schema.startswith("pgveil")]
    rows = await connection.fetch(_ROUTINES, oids)
    return {r["oid"]: f"{quote_ident(r['schema'])}.{quote_ident(r['name'])}({r['arguments']})" for r in rows}


async def _held(connection: Connection, catalog: Catalog, routines: Mapping[int, str]) -> dict[Atom, Held]:
    found: dict[Atom, list[tuple[bool, str]]] = defaultdict(list)
    for r in await connection.fetch(_TABLE_GRANTS, list(catalog.relations)):
        atom = Atom(relation_sql(TableName(r["schema"], r["name"])), r["column"], r["grantee"], r["privilege"])
        found[atom].append((r["grantable"], r["grantor"]))
    for r in await connection.fetch(_ROUTINE_GRANTS, list(routines)):
        found[Atom(routines[r["oid"]], "", r["grantee"], r["privilege"])].append((r["grantable"], r["grantor"]))
    for r in await connection.fetch(_SCHEMA_GRANTS):
        atom = Atom(quote_ident(r["name"]), "", r["grantee"], r["privilege"])
        found[atom].append((r["grantable"], r["grantor"]))
    return {a: Held(any(g for g, _ in each), frozenset(by for _, by in each)) for a, each in found.items()}


async def _memory(connection: Connection, ground: Ground) -> tuple[frozenset[Atom], frozenset[Atom]]:
    """What an earlier run took and gave."""
    if not ground.memory:
        return frozenset(), frozenset()
    rows = await _readable(
        connection,
        "SELECT object, column_name, grantee, privilege, taken FROM pgveil.privileges_before",
    )
    atoms = [(r["taken"], Atom(r["object"], r["column_name"], r["grantee"], r["privilege"])) for r in rows]
    return frozenset(a for taken, a in atoms if taken), frozenset(a for taken, a in atoms if not taken)
