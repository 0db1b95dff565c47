"""Carrying a plan out: keys first, then everything in one transaction, under locks, on the database that the plan was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from keys.lookup import LOOKUP_DOMAIN
from keys.mask_sql import install_sql, lookup_key_sql, pseudonym_key_sql
from lifecycle.apply.ground import DOMAIN_DIGEST as DOMAIN_WANTED
from lifecycle.apply.inspect import DOMAIN_DIGEST, FUNCTIONS_DIGEST, GATE_DIGEST, digest_comment, relation_sql
from lifecycle.apply.locks import LockTakenError, lock
from lifecycle.apply.model import (
    OWNER,
    PSEUDONYM_DOMAIN,
    SCHEMA,
    ApplyError,
    InstallMasks,
    MakeGate,
    MakeKey,
    MakeLookup,
    MakeView,
    ObstaclesError,
    ResealTable,
    SealTable,
    SetLookupKey,
    SetPseudonymKey,
    StalePlanError,
    Statements,
    TurnTable,
    WriteRecord,
)
from lifecycle.apply.plan import plan_inside
from lifecycle.apply.recording import write_record
from lifecycle.apply.reseal import reseal_table
from lifecycle.apply.seal import seal_table
from lifecycle.database import describe_error, fix_settings
from rules.model import TableName, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from keys.ring import KeyRing
    from lifecycle.apply.model import ApplyPlan, Change
    from lifecycle.apply.seal import Progress
    from lifecycle.database import Connection
    from rules.model import Rules

_ADVISORY = 0x7067_7665_696C  # "pgveil": one apply at a time in a database
LOCK_SECONDS = 10.0
_COMMIT = "commit"


async def execute(
    connection: Connection,
    plan: ApplyPlan,
    rules: Rules,
    ring: KeyRing,
    *,
    random: Callable[[int], bytes],
    progress: Progress,
    lock_seconds: float = LOCK_SECONDS,
) -> bool:
    """Do what the plan says, all or nothing (but for data keys, which harm nobody where they are not used).

    False where nothing of it was left to do: another `pgveil apply` has done all of it since. `progress(table, rows done, rows in all)` is called after each batch. Raises ObstaclesError, StalePlanError where the database is no
    longer what the plan was made for, ApplyError where the server refuses something, RingError, OSError.
    """
    if plan.obstacles:
        raise ObstaclesError(plan.obstacles)
    if plan.empty:
        return False
    for change in plan.changes:
        if isinstance(change.work, MakeKey):
            ring.ensure(change.work.domain, random)
    step = "the beginning of the transaction"
    try:
        # Read committed whatever the default is: a snapshot from before the locks would miss rows written until they were ours.
        async with connection.transaction(isolation="read_committed"):
            await fix_settings(connection)
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", f"{round(lock_seconds * 1000)}ms")
            # Events of deferred constraints that wait for the commit would stop every later ALTER TABLE (55006).
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            step = "waiting for another pgveil apply in this database"
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY)
            step = "locking the tables"
            await lock(connection, plan, rules, lock_seconds)
            step = "looking at the database again"
            left = await _unchanged(connection, plan, rules, ring)
            for change in plan.changes if left else ():
                step = f"{change.kind}, {change.object}: {change.what}"
                await _perform(connection, change, ring, random, progress)
            step = _COMMIT
    except LockTakenError as error:
        raise await error.explained(connection) from None
    except asyncpg.LockNotAvailableError:
        raise ApplyError(
            f"nothing was changed: a lock was not to be had within {lock_seconds:g} s, at: {step}. "
            "Wait longer with --lock-timeout SECONDS (0: for ever)"
        ) from None
    except asyncpg.PostgresError as error:
        raise ApplyError(f"nothing was changed: {describe_error(error)}, at: {step}") from None
    except UnicodeError:
        raise ApplyError("nothing was changed: a stored text is not of the database's encoding") from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if step == _COMMIT:
            raise ApplyError(
                "the connection failed during commit: run apply again to see whether it took place"
            ) from None
        raise ApplyError(f"nothing was changed: the connection failed ({type(error).__name__}), at: {step}") from None
    return left


async def _unchanged(connection: Connection, plan: ApplyPlan, rules: Rules, ring: KeyRing) -> bool:
    """Whether what the plan says is to be done still; False: all of it is done already."""
    now = await plan_inside(connection, rules, ring, values=False, serving=plan.serving, login=plan.login)
    if now.empty:
        return False
    if now.obstacles or now.comparable() != plan.comparable():
        raise StalePlanError(
            "the database has changed since the plan was made, by another pgveil apply perhaps: look at the new plan and apply that"
        )
    return True


async def _perform(
    connection: Connection, change: Change, ring: KeyRing, random: Callable[[int], bytes], progress: Progress
) -> None:
    work = change.work
    if isinstance(work, Statements | TurnTable):
        for sql in work.sql:
            await connection.execute(sql)
        if change.object == f"{SCHEMA}.sealed":
            await _comment(connection, f"DOMAIN {SCHEMA}.sealed", DOMAIN_WANTED, DOMAIN_DIGEST)
    elif isinstance(work, InstallMasks):
        await _as_owner(connection, install_sql(SCHEMA))
        await _comment(connection, f"SCHEMA {SCHEMA}", work.digest, FUNCTIONS_DIGEST)
    elif isinstance(work, SetPseudonymKey):
        await _set_key(connection, pseudonym_key_sql(SCHEMA), ring.newest(PSEUDONYM_DOMAIN).material)
    elif isinstance(work, SetLookupKey):
        await _set_key(connection, lookup_key_sql(SCHEMA), ring.newest(LOOKUP_DOMAIN).material)
    elif isinstance(work, SealTable):
        await seal_table(connection, work, ring, random=random, progress=progress, total=change.rows or 0)
    elif isinstance(work, ResealTable):
        await reseal_table(connection, work, ring, random=random, progress=progress, total=change.rows or 0)
    elif isinstance(work, MakeView | MakeLookup | MakeGate):
        await _make(connection, work)
    elif isinstance(work, WriteRecord):
        await write_record(connection, work, ring)


async def _as_owner(connection: Connection, sql: str) -> None:
    """Run SQL as pgveil's role, so that what it makes is that role's."""
    # The private schema can be made by a role that may make schemas in this database only.
    database = quote_ident(str(await connection.fetchval("SELECT current_database()")))
    owner = quote_ident(OWNER)
    await connection.execute(f"GRANT CREATE ON DATABASE {database} TO {owner}")
    await connection.execute(f"SET LOCAL ROLE {owner}")
    await connection.execute(sql)
    await connection.execute("RESET ROLE")
    await connection.execute(f"REVOKE CREATE ON DATABASE {database} FROM {owner}")


async def _comment(connection: Connection, on: str, wanted: str, actual_query: str) -> None:
    actual = await connection.fetchval(actual_query)
    await connection.execute(f"COMMENT ON {on} IS {quote_literal(digest_comment(wanted, actual))}")


async def _set_key(connection: Connection, sql: str, key: bytes) -> None:
    """The key goes as a parameter, with the server's logging of statements off where we may turn it off."""
    if await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        for setting, value in (
            ("log_statement", "none"),
            ("log_min_duration_statement", "-1"),
            ("log_parameter_max_length", "0"),
        ):
            await connection.execute("SELECT set_config($1, $2, true)", setting, value)
    await connection.execute("SELECT set_config('log_parameter_max_length_on_error', '0', true)")
    await connection.execute(sql, key)


async def _make(connection: Connection, work: MakeView | MakeLookup | MakeGate) -> None:
    if isinstance(work, MakeView):
        await _make_view(connection, work)
    elif isinstance(work, MakeLookup):
        await _make_lookup(connection, work)
    else:
        await _make_gate(connection, work)


async def _make_view(connection: Connection, view: MakeView) -> None:
    name = relation_sql(TableName(view.schema, view.name))
    await connection.execute(f"CREATE VIEW {name} AS\n{view.query}")
    await connection.execute(f"ALTER VIEW {name} OWNER TO {quote_ident(OWNER)}")
    await connection.execute(f"REVOKE ALL ON TABLE {name} FROM PUBLIC")
    actual = await connection.fetchval("SELECT md5(pg_get_viewdef($1::text::regclass))", name)
    await connection.execute(f"COMMENT ON VIEW {name} IS {quote_literal(digest_comment(view.digest, actual))}")


async def _make_lookup(connection: Connection, lookup: MakeLookup) -> None:
    await connection.execute(lookup.definition)
    await connection.execute(f"ALTER FUNCTION {lookup.signature} OWNER TO {quote_ident(OWNER)}")
    await connection.execute(f"REVOKE ALL ON FUNCTION {lookup.signature} FROM PUBLIC")
    actual = await connection.fetchval("SELECT md5(pg_get_functiondef($1::text::regprocedure))", lookup.signature)
    await connection.execute(
        f"COMMENT ON FUNCTION {lookup.signature} IS {quote_literal(digest_comment(lookup.digest, actual))}"
    )


async def _make_gate(connection: Connection, gate: MakeGate) -> None:
    await connection.execute(gate.definition)
    await connection.execute(f"ALTER FUNCTION {gate.signature} OWNER TO {quote_ident(OWNER)}")
    await connection.execute(f"REVOKE ALL ON FUNCTION {gate.signature} FROM PUBLIC")
    for sql in gate.behind:
        await connection.execute(sql)
    actual = await connection.fetchval(GATE_DIGEST, gate.signature)
    await connection.execute(
        f"COMMENT ON FUNCTION {gate.signature} IS {quote_literal(digest_comment(gate.digest, actual))}"
    )
