"""Reading what the checks ask of a database, in one transaction that only reads. One query a question."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from doctor.facts import Database, DefaultGrant, Missing, Open, OwnSetting, Published, Role
from doctor.hba import HbaLine, networks_of
from lifecycle.apply.copies import read_statistics
from lifecycle.apply.inspect import read_state, relation_sql
from lifecycle.apply.plan import plan_inside
from lifecycle.apply.privileges import people_of
from lifecycle.database import DatabaseError, connect, describe_error, fix_settings
from rules.derived import with_derived
from rules.model import Protection
from rules.protect import ProtectionMap
from rules.rights import may_insert, may_read, may_update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from keys.ring import KeyRing
    from lifecycle.apply.copies import Kept
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.apply.privileges import People
    from lifecycle.database import Connection
    from rules.model import ColumnName, Rules, TableName

AS_ADMINISTRATOR: Final = "give doctor a superuser's URL: pgveil doctor --database postgresql://postgres@HOST/DATABASE"

_SERVER = """
SELECT current_database()::text AS name, session_user::text AS login, (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS superuser,
       current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding,
       host(inet_client_addr()) AS address, extract(epoch FROM clock_timestamp())::float8 AS clock, pg_postmaster_start_time()::text AS started
"""

_ROLES = """
SELECT rolname::text AS name, rolcanlogin AS can_login, rolsuper AS superuser, rolcreaterole AS create_role, rolreplication AS replication,
       rolbypassrls AS bypass_rls, oid = 10 AS bootstrap
  FROM pg_roles
"""

# A parameter without its unit: what is compared is words, and numbers against their defaults.
# search_path is fixed for this transaction; what it would be is told.
_SETTINGS = "SELECT name, CASE name WHEN 'search_path' THEN reset_val ELSE setting END AS setting FROM pg_settings"

_OWN_SETTINGS = """
SELECT concat_ws(' in ', CASE WHEN s.setrole = 0 THEN NULL ELSE 'role ' || pg_get_userbyid(s.setrole) END,
                 CASE WHEN s.setdatabase = 0 THEN NULL ELSE 'database ' || d.datname END) AS whose,
       CASE WHEN s.setrole = 0 THEN 'ALTER DATABASE ' || quote_ident(d.datname)
            ELSE 'ALTER ROLE ' || quote_ident(pg_get_userbyid(s.setrole)) || COALESCE(' IN DATABASE ' || quote_ident(d.datname), '') END AS alter,
       split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
  FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
 WHERE s.setdatabase = 0 OR d.datname = current_database()
 ORDER BY 1, 3
"""

_DEFAULTS = """
SELECT pg_get_userbyid(d.defaclrole)::text AS owner, CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
       n.nspname::text AS schema
  FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, LATERAL aclexplode(d.defaclacl) a
 WHERE d.defaclobjtype = 'r' AND a.privilege_type = 'SELECT' AND a.grantee <> d.defaclrole ORDER BY 1, 2, 3
"""

_EXTENSIONS = "SELECT extname::text AS name, extversion AS version FROM pg_extension"

_PUBLICATIONS = """
SELECT p.pubname::text AS publication, p.schemaname::text AS schema, p.tablename::text AS name, p.attnames::text[] AS columns
  FROM pg_publication_tables p ORDER BY 1, 2, 3
"""

_SUBSCRIBED = """
SELECT s.subname::text AS subscription, n.nspname || '.' || c.relname AS name
  FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid JOIN pg_class c ON c.oid = r.srrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2
"""

_SLOTS = "SELECT slot_name::text AS name FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() ORDER BY 1"

# A foreign table shows what its user mapping's login sees over there.
_FOREIGN = """
SELECT r.rolname::text AS login, f.srvname::text AS through, n.nspname || '.' || c.relname AS object,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS sql
  FROM pg_foreign_table t JOIN pg_class c ON c.oid = t.ftrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_foreign_server f ON f.oid = t.ftserver
 CROSS JOIN pg_roles r
 WHERE r.rolcanlogin AND NOT r.rolsuper AND has_schema_privilege(r.oid, n.oid, 'USAGE')
   AND (has_table_privilege(r.oid, c.oid, 'SELECT') OR has_any_column_privilege(r.oid, c.oid, 'SELECT'))
 ORDER BY 3, 1
"""

_TRIGGERS = """
SELECT n.nspname || '.' || c.relname AS name, t.tgname::text AS trigger
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgrelid = ANY($1::oid[]) ORDER BY 1, 2
"""

# The server's own answer, for the login and every role that it could become by SET ROLE.
_OPEN_COLUMNS = """
SELECT l.rolname::text AS login, min(m.rolname)::text AS through, w.relation::int8 AS relation, w.attnum AS attnum, w.privilege
  FROM unnest($1::text[], $2::int8[], $3::int2[], $4::text[]) w(login, relation, attnum, privilege)
  JOIN pg_roles l ON l.rolname = w.login
  JOIN pg_roles m ON pg_has_role(l.oid, m.oid, 'MEMBER') AND NOT m.rolsuper
 WHERE has_column_privilege(m.oid, w.relation::oid, w.attnum, w.privilege)
 GROUP BY 1, 3, 4, 5 ORDER BY 1, 3, 4, 5
"""

_OPEN_OBJECTS = """
SELECT l.rolname::text AS login, min(m.rolname)::text AS through, w.id AS id
  FROM unnest($1::text[], $2::int8[], $3::bool[]) w(login, id, routine)
  JOIN pg_roles l ON l.rolname = w.login
  JOIN pg_roles m ON pg_has_role(l.oid, m.oid, 'MEMBER') AND NOT m.rolsuper
 WHERE CASE WHEN w.routine THEN has_function_privilege(m.oid, w.id::oid, 'EXECUTE') ELSE has_any_column_privilege(m.oid, w.id::oid, 'SELECT') END
 GROUP BY 1, 3 ORDER BY 1, 3
"""

# Of the server's own, what shows past every table's privileges. Names that a version lacks are left out by to_regclass and to_regprocedure.
_SERVER_RIGHTS = """
SELECT l.rolname::text AS login, min(m.rolname)::text AS through, w.object AS object, w.privilege AS sql
  FROM pg_roles l
  JOIN pg_roles m ON pg_has_role(l.oid, m.oid, 'MEMBER') AND NOT m.rolsuper
 CROSS JOIN (VALUES ('pg_catalog.pg_authid', 'SELECT'), ('pg_catalog.pg_statistic', 'SELECT'), ('pg_catalog.pg_statistic_ext_data', 'SELECT'),
                    ('pg_catalog.pg_user_mapping', 'SELECT'), ('pg_catalog.pg_largeobject', 'SELECT'),
                    ('pg_catalog.pg_read_file(text)', 'EXECUTE'), ('pg_catalog.pg_read_file(text,bigint,bigint)', 'EXECUTE'),
                    ('pg_catalog.pg_read_binary_file(text)', 'EXECUTE'), ('pg_catalog.pg_read_binary_file(text,bigint,bigint)', 'EXECUTE'),
                    ('pg_catalog.pg_ls_dir(text)', 'EXECUTE'), ('pg_catalog.lo_import(text)', 'EXECUTE'),
                    ('pg_catalog.lo_export(oid,text)', 'EXECUTE')) w (object, privilege)
 WHERE l.rolcanlogin AND NOT l.rolsuper
   AND CASE WHEN w.privilege = 'SELECT' THEN has_any_column_privilege(m.oid, to_regclass(w.object), 'SELECT')
            ELSE has_function_privilege(m.oid, to_regprocedure(w.object), 'EXECUTE') END
   -- Members of these roles are told of by name (login-reads-all).
   AND NOT m.rolname = ANY ('{pg_read_all_data,pg_read_server_files,pg_write_server_files}')
 GROUP BY 1, 3, 4 ORDER BY 1, 4, 3
"""

_PARAMETER_GRANTS = """
SELECT l.rolname::text AS login, CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END AS through, p.parname AS parameter
  FROM pg_parameter_acl p, LATERAL aclexplode(p.paracl) a
  JOIN pg_roles l ON l.rolcanlogin AND NOT l.rolsuper AND (a.grantee = 0 OR pg_has_role(l.oid, a.grantee, 'MEMBER'))
 ORDER BY 1, 3
"""

_OPEN_SCHEMAS = """
SELECT n.nspname::text AS name FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a
 WHERE a.grantee = 0 AND a.privilege_type = 'CREATE'
"""

_READABLE = """
SELECT c.oid::int8 AS oid, array_agg(r.rolname::text) AS logins
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles r ON r.rolcanlogin AND NOT r.rolsuper AND has_any_column_privilege(r.oid, c.oid, 'SELECT') AND c.relowner <> r.oid
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$)' GROUP BY 1
"""

_HBA = "SELECT * FROM pg_hba_file_rules ORDER BY {order}"
_HBA_FIX = (
    "as a superuser: GRANT SELECT ON pg_catalog.pg_hba_file_rules TO {login}; "
    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_hba_file_rules() TO {login}; or give doctor a superuser's URL (--database)"
)
_MD5 = "SELECT rolname::text AS name FROM pg_authid WHERE rolcanlogin AND rolpassword LIKE 'md5%' ORDER BY 1"


class _Reach(NamedTuple):
    """What somebody can use of the tables with masked columns."""

    triggers: tuple[tuple[str, str], ...]
    columns: tuple[Open, ...]
    objects: tuple[Open, ...]
    statistics: tuple[Kept, ...] = ()


async def read_database(
    url: str,
    rules: Rules | Missing,
    ring: KeyRing | Missing,
    now: Callable[[], float],
    host: tuple[str, int] | None = None,
    tls: Sequence[Any] = (None,),
    own_login: str | None = None,
) -> tuple[Database, Connection]:
    """Everything about a database, and the connection for what is asked later. Raises DatabaseError, DatabaseUrlError."""
    connection = await connect(url, application="pgveil doctor", host=host, tls=tls)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await fix_settings(connection)
            return await _read(connection, rules, ring, now, own_login), connection
    except asyncpg.PostgresError as error:
        connection.terminate()
        raise DatabaseError(f"the database says: {describe_error(error)}") from None
    except BaseException:
        connection.terminate()
        raise


async def _read(
    connection: Connection,
    rules: Rules | Missing,
    ring: KeyRing | Missing,
    now: Callable[[], float],
    own_login: str | None,
) -> Database:
    server = await connection.fetchrow(_SERVER)
    assert server is not None
    ahead = server["clock"] - now()
    state = await read_state(connection)
    reach = await _reach(connection, state, rules)
    return Database(
        name=server["name"],
        user=server["login"],
        superuser=server["superuser"],
        version=server["version"],
        encoding=server["encoding"],
        our_address=server["address"],
        clock_ahead=ahead,
        started=server["started"],
        state=state,
        roles={r["name"]: Role(**dict(r)) for r in await connection.fetch(_ROLES)},
        settings={r["name"]: r["setting"] for r in await connection.fetch(_SETTINGS)},
        own_settings=tuple(OwnSetting(**dict(r)) for r in await connection.fetch(_OWN_SETTINGS)),
        extensions={r["name"]: r["version"] for r in await connection.fetch(_EXTENSIONS)},
        default_grants=tuple(DefaultGrant(**dict(r)) for r in await connection.fetch(_DEFAULTS)),
        publications=tuple(
            Published(r["publication"], r["schema"], r["name"], tuple(r["columns"] or ()))
            for r in await connection.fetch(_PUBLICATIONS)
        ),
        subscribed=tuple((r["subscription"], r["name"]) for r in await _optional(connection, _SUBSCRIBED) or ()),
        slots=tuple(r["name"] for r in await _optional(connection, _SLOTS) or ()),
        foreign=tuple(Open(**dict(r)) for r in await connection.fetch(_FOREIGN)),
        hba=await _hba(connection, server["login"], server["version"]),
        md5_logins=await _md5(connection),
        plan=await _plan(connection, state, rules, ring, own_login),
        triggers=reach.triggers,
        open_columns=reach.columns,
        open_objects=reach.objects,
        statistics=reach.statistics,
        server_rights=tuple(Open(**dict(r)) for r in await connection.fetch(_SERVER_RIGHTS)),
        parameter_grants=tuple(
            (r["login"], r["through"], r["parameter"]) for r in await connection.fetch(_PARAMETER_GRANTS)
        ),
        open_schemas=frozenset(r["name"] for r in await connection.fetch(_OPEN_SCHEMAS)),
        readable={r["oid"]: frozenset(r["logins"]) for r in await connection.fetch(_READABLE)},
    )


async def _reach(connection: Connection, state: State, rules: Rules | Missing) -> _Reach:
    """What limited logins can use of what they must not, by the server's own word."""
    if isinstance(rules, Missing):
        return _Reach((), (), ())
    rules = with_derived(rules, state.catalog)
    protection, people = ProtectionMap(rules, state.catalog, unknown=False), people_of(state, rules)
    masked = {c.name for c in rules.protected_columns() if c.protection is Protection.MASKED}
    limits = {n: people.limited(n, masked) for n in state.logins if n not in state.catalog.superusers}
    columns = [
        (login, relation.oid, column.attnum, privilege)
        for relation in state.catalog.relations.values()
        for column in relation.columns
        if (name := protection.columns_of(relation).get(column.name)) is not None
        for login in state.logins
        if login not in state.catalog.superusers and not state.catalog.owns(login, relation)
        for privilege in _withheld(people, protection, login, name)
    ]
    rows = await connection.fetch(_OPEN_COLUMNS, *_columns(columns, 4))
    by_oid = state.catalog.relations
    names = {(r.oid, c.attnum): c.name for r in by_oid.values() for c in r.columns}
    tables = [r.oid for r in by_oid.values() if masked & set(protection.columns_of(r).values())]
    return _Reach(
        tuple((r["name"], r["trigger"]) for r in await connection.fetch(_TRIGGERS, tables)),
        tuple(
            _open_column(
                r["login"], r["through"], by_oid[r["relation"]].name, names[r["relation"], r["attnum"]], r["privilege"]
            )
            for r in rows
        ),
        await _objects(connection, state, protection, limits, masked),
        await read_statistics(connection, state, people, protection),
    )


def _withheld(people: People, protection: ProtectionMap, login: str, name: ColumnName) -> tuple[str, ...]:
    """The privileges on a column that a login must not have."""
    column, policy = protection.rules.column(name), people.principals[login].policy
    assert column is not None
    may = {
        "SELECT": may_read(policy, column),
        "INSERT": may_insert(policy, column, protection.told),
        "UPDATE": may_update(policy, column),
    }
    return tuple(privilege for privilege, allowed in may.items() if not allowed)


def _open_column(login: str, through: str, table: TableName, column: str, privilege: str) -> Open:
    return Open(login, through, str(table), relation_sql(table), column, privilege)


async def _objects(
    connection: Connection,
    state: State,
    protection: ProtectionMap,
    limits: Mapping[str, frozenset[ColumnName]],
    masked: set[ColumnName],
) -> tuple[Open, ...]:
    """Views and SECURITY DEFINER functions that read masked columns, and logins that may use them and do not see these clear."""
    reads: dict[int, tuple[str, str, frozenset[ColumnName], bool, str]] = {}
    for relation in state.catalog.relations.values():
        lineage = protection.lineage_of(relation)
        inside = frozenset(lineage.inside & masked) if lineage is not None else frozenset()
        if inside and relation.oid not in state.invoker_views and not relation.name.schema.startswith("pgveil"):
            kind = "materialized view" if relation.kind == "m" else "view"
            reads[relation.oid] = (
                f"{kind} {relation.name}",
                relation_sql(relation.name),
                inside,
                False,
                relation.owner,
            )
    for function in state.catalog.functions:
        inside = frozenset(protection.functions.get(function.name.name, frozenset()) & masked)
        if function.oid in state.routines and inside:
            sql = state.routines[function.oid]
            reads[function.oid] = (f"function {function.name}", sql, inside, True, function.owner)
    wanted = [
        (login, oid, routine)
        for oid, (_, _, inside, routine, owner) in reads.items()
        for login, limited in limits.items()
        if inside & limited and login != owner and owner not in state.catalog.memberships(login)
    ]
    rows = await connection.fetch(_OPEN_OBJECTS, *_columns(wanted, 3))
    return tuple(Open(r["login"], r["through"], *reads[r["id"]][:2]) for r in rows)


def _columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows as columns, for unnest; also where there are none."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


async def _plan(
    connection: Connection, state: State, rules: Rules | Missing, ring: KeyRing | Missing, own_login: str | None
) -> ApplyPlan | Missing:
    """What apply would still do. Stored values are not read for it."""
    if isinstance(rules, Missing):
        return rules
    if isinstance(ring, Missing):
        return ring
    if not state.superuser and not state.owns_pgveil:
        return Missing(f"login {state.user} can't see all that `pgveil apply` looks at", AS_ADMINISTRATOR)
    return await plan_inside(connection, rules, ring, values=False, login=own_login)


async def _hba(connection: Connection, login: str, version: int) -> tuple[HbaLine, ...] | Missing:
    order = "rule_number NULLS FIRST, line_number" if version >= 160000 else "line_number"
    rows = await _optional(connection, _HBA.format(order=order))
    if rows is None:
        return Missing(f"login {login} may not read pg_hba_file_rules", _HBA_FIX.format(login=login))
    return tuple(
        HbaLine(
            place=f"{(r.get('file_name') or 'pg_hba.conf').rpartition('/')[2]}:{r['line_number']}",
            type=r["type"] or "",
            databases=tuple(r["database"] or ()),
            users=tuple(r["user_name"] or ()),
            address=_address(r),
            networks=networks_of(r["address"], r["netmask"]) if (r["type"] or "").startswith("host") else (),
            method=r["auth_method"] or "",
            options=tuple(o for o in r["options"] or () if not o.startswith(("ldapbindpasswd", "radiussecrets"))),
            error=r["error"],
        )
        for r in rows
    )


def _address(row: asyncpg.Record) -> str | None:
    address: str | None = row["address"]
    if address is None or not row["netmask"]:
        return address
    networks = networks_of(address, row["netmask"])
    return str(networks[0]) if networks else address


async def _md5(connection: Connection) -> tuple[str, ...] | Missing:
    rows = await _optional(connection, _MD5)
    if rows is None:
        return Missing("only a superuser sees how passwords are stored", AS_ADMINISTRATOR)
    return tuple(r["name"] for r in rows)


async def _optional(connection: Connection, query: str) -> list[asyncpg.Record] | None:
    """The rows; None where this login may not read them."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        async with connection.transaction():
            return list(await connection.fetch(query))
    return None
