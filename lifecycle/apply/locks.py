"""The locks that apply takes before it changes anything, and who is in the way of one (PostgreSQL documentation 13.3 and 54.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import OWNER, ApplyError, ResealTable, SealTable, Statements, TurnTable
from rules.model import TableName, quote_ident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.apply.model import ApplyPlan
    from lifecycle.database import Connection
    from rules.model import Rules

_SHOWN = 3
_DROP_VIEW = "DROP VIEW "
# Asked once more, after the transaction has failed: whoever held the lock then may have gone.
_HOLDERS = """
SELECT l.pid, l.mode, a.usename, a.application_name, a.state,
       pg_catalog.extract('epoch', pg_catalog.now() - COALESCE(a.xact_start, a.query_start))::pg_catalog.int8 AS seconds
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation' AND l.relation = $1::pg_catalog.text::pg_catalog.regclass AND l.granted
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND l.pid <> pg_catalog.pg_backend_pid()
 ORDER BY seconds DESC NULLS LAST"""


async def lock(connection: Connection, plan: ApplyPlan, rules: Rules, seconds: float) -> None:
    """Lock everything in one order, before anything is written: two that lock in two orders would wait for each other.

    Masking views that go are first: who reads through one locks it, and then its table. LOCK TABLE would lock the table with the view.
    Raises ApplyError with the table and who holds it, where one can't be had in time.
    """
    for view in sorted(_dropped_views(plan)):
        try:
            await connection.execute(f"ALTER VIEW {relation_sql(view)} OWNER TO {quote_ident(OWNER)}")
        except asyncpg.LockNotAvailableError:
            raise LockTakenError(view, "ACCESS EXCLUSIVE", seconds) from None
    for table, mode, only in _wanted(plan, rules):
        try:
            await connection.execute(f"LOCK TABLE {'ONLY ' if only else ''}{relation_sql(table)} IN {mode} MODE")
        except asyncpg.LockNotAvailableError:
            raise LockTakenError(table, mode, seconds) from None


def _dropped_views(plan: ApplyPlan) -> set[TableName]:
    statements = (sql for c in plan.changes if isinstance(c.work, Statements) for sql in c.work.sql)
    found = (sql.removeprefix(_DROP_VIEW)[1:-1].split('"."', 1) for sql in statements if sql.startswith(_DROP_VIEW))
    return {TableName(*(part.replace('""', '"') for part in parts)) for parts in found}


def _wanted(plan: ApplyPlan, rules: Rules) -> Iterator[tuple[TableName, str, bool]]:
    """Table, mode, and whether without its children."""
    sealed = sorted(c.work.table for c in plan.changes if isinstance(c.work, SealTable | ResealTable))
    yield from ((table, "ACCESS EXCLUSIVE", False) for table in sealed)
    # Read meanwhile, and not written: their rows change and what they mean does not.
    yield from (
        (t, "EXCLUSIVE", True) for t in sorted(c.work.table for c in plan.changes if isinstance(c.work, TurnTable))
    )
    # The other tables' definitions must stay until we are done; reading and writing them goes on.
    yield from ((table, "ACCESS SHARE", False) for table in sorted(rules.protected_tables() - frozenset(sealed)))


class LockTakenError(ApplyError):
    """A lock was not to be had in time. `table`: of which."""

    def __init__(self, table: TableName, mode: str, seconds: float) -> None:
        super().__init__(f"nothing was changed: table {table} could not be locked ({mode}) within {seconds:g} s")
        self.table = table

    async def explained(self, connection: Connection) -> ApplyError:
        """The same with who holds the table now, and what can be done. Outside of a transaction."""
        try:
            rows = await connection.fetch(_HOLDERS, relation_sql(self.table))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            rows = []
        held = "; ".join(_holder(row) for row in rows[:_SHOWN]) + (" and others" if len(rows) > _SHOWN else "")
        who = f"it is held by {held}" if rows else "whoever held it has gone meanwhile"
        return ApplyError(f"{self}: {who}. Wait longer with --lock-timeout SECONDS (0: for ever), or end that session")


def _holder(row: asyncpg.Record) -> str:
    """One holder: no statement of his, which could hold values."""
    words = [f"process {row['pid']}"]
    if row["usename"]:
        words.append(f"login {row['usename']}")
    if row["application_name"]:
        words.append(f"application {row['application_name']}")
    if row["state"]:
        words.append(f"{row['state']}" + ("" if row["seconds"] is None else f" since {row['seconds']} s"))
    return ", ".join(words)
