"""Databases that should answer alike: `plain`; a `masks_...` for every role that sees masks; and `sealed`, behind a pgveil of its own.

`twin_world` builds them from one Fixture and gives a World. `World.compare` runs one statement both ways and says what differs;
`World.compare_block` does so for several in one transaction. See docs/adr/0017-twin-test.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from lifecycle.demo.postgres import free_port
from rules.load import load_rules, load_rules_text
from rules.model import Verdict, quote_ident
from tests.e2e.world import Tap, records_in, start_pgveil, stop_process, wait_ready, write_config
from tests.twin.answers import Mode
from tests.twin.canaries import Canaries, protected_values
from tests.twin.compare import Outcome, Run, Side, Step, worst
from tests.twin.masking import TextMask, mask_database, text_masks
from tests.twin.refusals import Refusals

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from rules.model import Rules, TableName

CLEAR, MASKED = "clear", "masked"
LOGINS: dict[str, str] = {CLEAR: "twin_clear", MASKED: "twin_masked"}
# Append this to the `tables:` of a rules file: one role that sees all, one that sees masks.
ROLES = """
roles:
  clear: {logins: [twin_clear], levels: {core: clear, important: clear}}
  masked: {logins: [twin_masked], levels: {core: masked, important: masked}}
"""
STATEMENT_TIMEOUT = "10s"
ALL_MODES: tuple[Mode, ...] = tuple(Mode)


@dataclass(frozen=True, slots=True)
class Fixture:
    """What the databases hold. `schema` and `rows` are SQL, run by a superuser before the rules are applied; `rows` may instead be rows by
    table, to be copied in. `rules`: a whole rules file (see ROLES). `after`: SQL run everywhere once the rules are applied (views over
    sealed columns...); the rules are then applied again. Only tables in `tables` are compared after writing; default: all.
    """

    schema: str
    rows: str | Mapping[str, Sequence[Sequence[Any]]]
    rules: str
    after: str = ""
    tables: tuple[str, ...] | None = None
    logins: Mapping[str, str] = field(default_factory=lambda: LOGINS)


@dataclass
class World:
    """The databases, their pgveil, and what compares them. Made by `twin_world`."""

    pg: Postgres
    home: Path
    fixture: Fixture
    rules: Rules
    databases: dict[str, str]
    tap: Tap
    process: subprocess.Popen[bytes]
    masks: dict[str, dict[TableName, dict[str, TextMask]]]
    canaries: dict[str, Canaries]
    tables: dict[str, tuple[str, ...]]
    copied: int
    refusals: Refusals
    _runs: dict[str, Run] = field(default_factory=dict)

    def reference(self, role: str) -> str:
        """The name of the database whose answers the role should get."""
        return self.databases[f"masks_{role}"] if f"masks_{role}" in self.databases else self.databases["plain"]

    def dsn(self, role: str, *, reference: bool = False) -> str:
        """A connection URL of a role's login: through pgveil (and the tap), or straight to its reference."""
        login = self.fixture.logins[role]
        if reference:
            return self.pg.dsn(self.reference(role), login)
        return f"postgresql://{login}@127.0.0.1:{self.tap.port}/{self.databases['sealed']}"

    def compare(
        self,
        sql: str,
        params: Sequence[str | None] = (),
        role: str = CLEAR,
        *,
        modes: Sequence[Mode] | None = None,
        ordered: bool | None = None,
    ) -> Outcome:
        """One statement in a transaction that is rolled back, both ways, in each mode; the worst of the outcomes.

        `modes`: by default all; with `params` (in text form) without SIMPLE. `ordered`: whether rows must come in the same order;
        by default where the statement's own ORDER BY stands outside all parentheses.
        """
        chosen = modes or (ALL_MODES if not params else (Mode.EXTENDED, Mode.PREPARED))
        step = Step(sql, tuple(params), ordered=ordered)
        return worst([self.compare_block([step], role, mode)[0] for mode in chosen])

    def compare_block(
        self, steps: Sequence[Step], role: str = CLEAR, mode: Mode = Mode.SIMPLE, *, autocommit: bool = False
    ) -> list[Outcome]:
        """Several statements in one transaction that is rolled back, or with `autocommit` each in its own.

        An outcome for each step that was run: a refusal or a difference ends the block.
        """
        if role not in self._runs:
            reference = Side(self.dsn(role, reference=True), self.pg.dsn(self.reference(role)))
            sealed = Side(self.dsn(role), self.pg.dsn(self.databases["sealed"]))
            self._runs[role] = Run(
                role=role,
                login=self.fixture.logins[role],
                reference=reference,
                sealed=sealed,
                tables=self.tables[role],
                limited=role in self.masks,
                copied=self.copied,
                canaries=self.canaries.get(role),
                tap=self.tap,
                refusals=self.refusals,
            )
        return self._runs[role].block(steps, mode, autocommit=autocommit)

    def close(self) -> None:
        """Close every connection."""
        for run in self._runs.values():
            run.close()


@contextlib.contextmanager
def twin_world(pg: Postgres, home: Path, fixture: Fixture) -> Iterator[World]:
    """Build the databases on `pg`, start pgveil with its files in `home` (an empty directory), and stop it afterwards."""
    rules = load_rules_text(fixture.rules, "rules.yaml")
    _make_logins(pg, fixture.logins)
    plain = pg.create_database()
    with psycopg.connect(pg.dsn(plain), autocommit=True) as admin:
        _fill(admin, fixture)
        (copied,) = admin.execute(
            "select max(oid)::bigint + 1 from (select oid from pg_class union select oid from pg_type) o"
        ).fetchone() or (0,)
    policies = {role: rules.principal(login, ()).policy for role, login in fixture.logins.items()}
    limited = [r for r, policy in policies.items() if any(v is not Verdict.CLEAR for v in policy.verdicts.values())]
    # Copies of the plain database: the same OIDs everywhere.
    databases = {"plain": plain} | {name: _copy(pg, plain) for name in ("sealed", *(f"masks_{r}" for r in limited))}
    (home / "rules.yaml").write_text(fixture.rules)
    ring = _make_ring(home)
    asyncio.run(_apply(pg.dsn(databases["sealed"]), rules_path=home / "rules.yaml", ring=ring))
    masks, canaries = {}, {}
    with psycopg.connect(pg.dsn(plain), autocommit=True) as admin:
        for role in limited:
            masks[role] = text_masks(rules, policies[role], admin)
            canaries[role] = protected_values(admin, masks[role])
        tables = {role: _selections(admin, fixture, masks.get(role, {})) for role in fixture.logins}
    for role in limited:
        with psycopg.connect(pg.dsn(databases[f"masks_{role}"]), autocommit=True) as admin:
            mask_database(admin, masks[role])
    for name in databases.values():
        with psycopg.connect(pg.dsn(name), autocommit=True) as admin:
            _finish(admin, fixture)
    asyncio.run(_apply(pg.dsn(databases["sealed"]), rules_path=home / "rules.yaml", ring=ring))
    port, metrics_port = free_port(), free_port()
    log = home / "pgveil.log"
    process = start_pgveil(write_config(home, pg, databases["sealed"], port, metrics_port), log)
    tap = Tap(port)
    try:
        wait_ready(metrics_port, process, log)
        world = World(
            pg,
            home,
            fixture,
            rules,
            databases,
            tap,
            process,
            masks,
            canaries,
            tables,
            copied,
            Refusals(home / "audit"),
        )
        try:
            yield world
        finally:
            world.close()
    finally:
        tap.close()
        stop_process(process)


def _make_logins(pg: Postgres, logins: Mapping[str, str]) -> None:
    for login in logins.values():
        name = quote_ident(login)
        pg.psql(
            f"do $$ begin if not exists (select from pg_roles where rolname = '{login}') then create role {name} login; end if; end $$;"
            f" alter role {name} set statement_timeout = '{STATEMENT_TIMEOUT}'"
        )


def _fill(admin: psycopg.Connection[Any], fixture: Fixture) -> None:
    admin.execute(fixture.schema.encode())
    if isinstance(fixture.rows, str):
        admin.execute(fixture.rows.encode())
    else:
        for table, rows in fixture.rows.items():
            with admin.cursor().copy(f"copy {table} from stdin".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
    _grant(admin, fixture.logins)


def _grant(admin: psycopg.Connection[Any], logins: Mapping[str, str]) -> None:
    names = ", ".join(quote_ident(login) for login in logins.values())
    schemas = admin.execute(
        "select string_agg(quote_ident(nspname), ', ') from pg_namespace where nspname !~ '^(pg_|pgveil|information_schema)'"
    ).fetchone()
    assert schemas is not None
    admin.execute(
        f"grant usage, create on schema {schemas[0]} to {names};"
        f" grant all on all tables in schema {schemas[0]} to {names};"
        f" grant all on all sequences in schema {schemas[0]} to {names}".encode()
    )


def _finish(admin: psycopg.Connection[Any], fixture: Fixture) -> None:
    """What comes after the rules, the same in every database: views, their privileges, statistics."""
    if fixture.after:
        admin.execute("create temp table twin_before as select oid from pg_class")
        admin.execute(fixture.after.encode())
        names = ", ".join(quote_ident(login) for login in fixture.logins.values())
        for (made,) in admin.execute(
            "select oid::regclass::text from pg_class where relkind in ('r', 'v', 'm', 'p', 'f')"
            " and relnamespace::regnamespace::text !~ '^pg_' and oid not in (select oid from twin_before)"
        ).fetchall():
            admin.execute(f"grant all on {made} to {names}")
        admin.execute("drop table twin_before")
    admin.execute("analyze")


def _copy(pg: Postgres, template: str) -> str:
    name = pg.create_database()
    pg.psql(f'drop database "{name}"')
    pg.psql(f'create database "{name}" template "{template}"')
    return name


def _make_ring(home: Path) -> KeyRing:
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    return KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))


async def _apply(dsn: str, *, rules_path: Path, ring: KeyRing) -> None:
    rules = load_rules(rules_path)
    connection = await asyncpg.connect(dsn)
    try:
        plan = await make_plan(connection, rules, ring)
        assert not plan.obstacles, plan.obstacles
        await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
    finally:
        await connection.close()


def _selections(
    admin: psycopg.Connection[Any], fixture: Fixture, masks: Mapping[TableName, Mapping[str, TextMask]]
) -> tuple[str, ...]:
    """For each table a SELECT of all that the role may read, to compare contents by."""
    wanted = fixture.tables
    if wanted is None:
        wanted = tuple(
            name
            for (name,) in admin.execute(
                "select oid::regclass::text from pg_class where relkind in ('r', 'p') and not relispartition"
                " and relnamespace::regnamespace::text !~ '^(pg_|information_schema|pgveil)' order by oid"
            )
        )
    hidden = {t: {n for n, m in columns.items() if m.mask is None} for t, columns in masks.items()}
    found = []
    for table in wanted:
        rows = admin.execute(
            "select n.nspname, c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
            " join pg_namespace n on n.oid = c.relnamespace where a.attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " order by attnum",
            [table],
        ).fetchall()
        without = next((names for t, names in hidden.items() if rows and (t.schema, t.name) == rows[0][:2]), set())
        shown = ", ".join(quote_ident(column) for _, _, column in rows if column not in without)
        found.append(f"select {shown} from {table}")
    return tuple(found)


def audit_records(world: World) -> Iterator[dict[str, Any]]:
    """Every audit record of the world's pgveil."""
    return records_in(world.home / "audit")
