"""Logins that see masks, and what they are that no privilege fences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from doctor.facts import known
from doctor.model import Check, Found, Group, Severity, listed
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import OWNER
from rules.model import quote_ident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts

# Roles whose members read files, tables or programs' output past the tables' privileges.
_READERS: Final = frozenset(
    {
        "pg_read_all_data",
        "pg_read_server_files",
        "pg_write_server_files",
        "pg_execute_server_program",
        OWNER,
    }
)
_WATCHERS: Final = frozenset({"pg_monitor", "pg_read_all_stats"})
_CREATEROLE_TAMED: Final = 160_000  # since 16, CREATEROLE no longer makes a member of any role


def _superusers(facts: Facts) -> Iterator[Found]:
    database = facts.database
    for login in facts.limited():
        if login not in database.state.catalog.superusers:
            continue
        role = database.roles[login]
        if role.bootstrap and not facts.named(login):
            yield Found(
                Severity.NOTE,
                login,
                f"{login} is the superuser that the server was made with; it reads masked columns plain past pgveil",
                "in pg_hba.conf, let it in only on the server itself: local all "
                f"{login} peer, then host all {login} all reject",
            )
            continue
        how = "is a superuser" if role.superuser else "can become a superuser by SET ROLE"
        yield Found(
            Severity.BAD if facts.named(login) else Severity.WARNING,
            login,
            f"login {login} is to see masks and {how}",
            f"ALTER ROLE {quote_ident(login)} NOSUPERUSER;"
            if role.superuser
            else f"REVOKE the superuser's role FROM {quote_ident(login)};",
        )


def _owners(facts: Facts) -> Iterator[Found]:
    state, protection = facts.database.state, facts.protection
    for login, columns in facts.limited().items():
        if login in state.catalog.superusers:
            continue
        owned = [
            r.name
            for r in sorted(state.catalog.relations.values(), key=lambda r: r.name)
            if columns & set(protection.columns_of(r).values()) and state.catalog.owns(login, r)
        ]
        if owned:
            yield Found(
                Severity.BAD,
                login,
                f"login {login} is to see masks of what it owns: {listed(owned)}",
                " ".join(f"ALTER TABLE {relation_sql(n)} OWNER TO some_role_without_login;" for n in owned[:3]),
            )


def _readers(facts: Facts) -> Iterator[Found]:
    yield from _members(
        facts, _READERS, Severity.BAD, "which reads past the tables' privileges", but_not_superusers=True
    )


def _watchers(facts: Facts) -> Iterator[Found]:
    yield from _members(
        facts,
        _WATCHERS,
        Severity.WARNING,
        "which sees the texts of other logins' statements (pg_stat_activity, pg_stat_statements)",
        but_not_superusers=True,
    )


def _members(
    facts: Facts, roles: frozenset[str], severity: Severity, what: str, *, but_not_superusers: bool
) -> Iterator[Found]:
    catalog = facts.database.state.catalog
    for login in facts.limited():
        held = sorted(catalog.memberships(login) & roles)
        if held and not (but_not_superusers and login in catalog.superusers):
            revokes = " ".join(f"REVOKE {quote_ident(r)} FROM {quote_ident(login)};" for r in held)
            yield Found(
                severity, login, f"login {login} is to see masks and is a member of {listed(held)}, {what}", revokes
            )


def _attributes(facts: Facts) -> Iterator[Found]:
    database = facts.database
    for login in facts.limited():
        role = database.roles[login]
        if role.superuser:
            continue
        quoted = quote_ident(login)
        if role.replication:
            text = f"login {login} is to see masks and has REPLICATION: it may copy the whole cluster, or stream its changes"
            yield Found(Severity.BAD, login, text, f"ALTER ROLE {quoted} NOREPLICATION;")
        # server-rights tells of these with their arguments.
        rights = (r.object for r in database.server_rights if r.login == login)
        told = {name.removeprefix("pg_catalog.").partition("(")[0] for name in rights}
        for right in database.state.catalog.beneath(login):
            if right != "REPLICATION" and right not in told:
                text = f"login {login} is to see masks and may execute {right}, which shows what no privilege on tables covers"
                yield Found(Severity.BAD, login, text, f"REVOKE EXECUTE ON FUNCTION {right} FROM {quoted}, PUBLIC;")
        if role.create_role:
            severity = Severity.WARNING if database.version >= _CREATEROLE_TAMED else Severity.BAD
            text = (
                f"login {login} is to see masks and has CREATEROLE: it may make itself a member of roles that see more"
            )
            yield Found(severity, login, text, f"ALTER ROLE {quoted} NOCREATEROLE;")
        if role.bypass_rls:
            text = f"login {login} is to see masks and has BYPASSRLS: row-level security does not hold for it"
            yield Found(Severity.WARNING, login, text, f"ALTER ROLE {quoted} NOBYPASSRLS;")


def _catalog_login(facts: Facts) -> Iterator[Found]:
    database, login = facts.database, facts.catalog_login
    role = database.roles.get(login or "")
    if login is None or role is None:
        return
    catalog = database.state.catalog
    much = [w for w, has in (("a superuser", login in catalog.superusers), ("REPLICATION", role.replication)) if has]
    much += sorted(catalog.memberships(login) & (_READERS | _WATCHERS))
    if much:
        yield Found(
            Severity.WARNING,
            login,
            f"pgveil's own login {login} has more than it needs: {listed(much)}",
            "CREATE ROLE pgveil_catalog LOGIN PASSWORD ...; and name it in catalog.dsn: it needs CONNECT, nothing else",
        )


def _md5(facts: Facts) -> Iterator[Found]:
    for login in known(facts.database.md5_logins):
        yield Found(
            Severity.WARNING,
            login,
            f"the password of {login} is stored as md5: whoever reads pg_authid or a backup logs in with it as it is",
            f"SET password_encryption = 'scram-sha-256'; \\password {quote_ident(login)}",
        )


CHECKS: Final = (
    Check(
        "login-superuser",
        Group.LOGINS,
        "No login that is to see masks is a superuser, or can become one",
        "Privileges don't bind superusers: past pgveil they read masked columns plain, and may undo everything that apply made.",
        _superusers,
    ),
    Check(
        "login-owner",
        Group.LOGINS,
        "No login that is to see masks owns what is masked for it",
        "An owner reads its tables whatever is revoked, and grants itself again what apply took.",
        _owners,
    ),
    Check(
        "login-reads-all",
        Group.LOGINS,
        "No login that is to see masks is a member of a role that reads past privileges",
        "pg_read_all_data reads every table; members of the roles for server files and programs read the data directory.",
        _readers,
    ),
    Check(
        "login-watches",
        Group.LOGINS,
        "No login that is to see masks sees other sessions' statements",
        "Statements of logins that see clear carry clear values of masked columns: WHERE phone = '...'.",
        _watchers,
    ),
    Check(
        "login-attributes",
        Group.LOGINS,
        "No login that is to see masks has REPLICATION, CREATEROLE or BYPASSRLS",
        "A replication connection copies every file; CREATEROLE leads to other roles; both go round the tables' privileges.",
        _attributes,
    ),
    Check(
        "catalog-login",
        Group.LOGINS,
        "pgveil's own login can do no more than connect and read the catalog",
        "Its password is in a file of pgveil's. Who takes it should get table names, and no rows.",
        _catalog_login,
    ),
    Check(
        "password-md5",
        Group.LOGINS,
        "No login's password is stored as md5",
        "An md5 hash is as good as the password: from a stolen backup one logs in with it, through pgveil as that login.",
        _md5,
    ),
)
