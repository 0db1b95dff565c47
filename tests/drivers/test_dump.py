"""pg_dump and pg_restore through pgveil and past it (docs/adr/0024): clear data for those who see it, an error for all others, ciphertext past pgveil."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import make_plan
from lifecycle.demo.postgres import PostgresUnavailableError, find_bin_dir, free_port
from lifecycle.plain import plain_types_sql
from rules.load import load_rules_text
from tests.drivers.ground import GRANTS, RULES, TABLES, apply_rules
from tests.e2e.world import start_pgveil, stop_process, wait_ready, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers.ground import Ground, Target

WAYS = {
    "plain": ("-Fp",),
    "custom": ("-Fc",),
    "directory": ("-Fd", "-j2"),
    "inserts": ("-Fp", "--inserts"),
    "rows-per-insert": ("-Fp", "--rows-per-insert=7", "--column-inserts"),
}
way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


def program(name: str, target: Target, *arguments: str, version: str = "15") -> subprocess.CompletedProcess[str]:
    """A program of PostgreSQL's, as the target's login."""
    place = f"host={target.host} port={target.port} dbname={target.database} user={target.user}"
    # The embedded programs are built without TLS.
    place += " sslmode=" + ("require" if version == "15" else "disable")
    return subprocess.run(
        [str(find_bin_dir(version) / name), "-d", place, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PGPASSWORD": target.password, "LC_ALL": "C.UTF-8"},
    )


def well(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    return done.stdout


def direct(ground: Ground, database: str) -> Target:
    """The server itself, as its superuser."""
    return replace(ground.target("direct"), database=database, user="postgres")


def restore(file: Path, target: Target, *options: str) -> None:
    if file.is_dir() or file.read_bytes()[:5] == b"PGDMP":
        well(program("pg_restore", target, "--exit-on-error", *options, str(file)))
    else:
        well(program("psql", target, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file)))


CONTENT = "select * from shop.people where id < 5000 order by id; select * from shop.orders order by id"
COLUMNS = (
    "select attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute"
    " where attrelid in ('shop.people'::regclass, 'shop.orders'::regclass) and attnum > 0 order by 1, attnum"
)


def content(target: Target, text: str = CONTENT) -> str:
    return well(program("psql", target, "-XAtc", text))


@pytest.fixture
def fresh(ground: Ground) -> Iterator[Target]:
    """An empty database, reached directly."""
    name = ground.pg.create_database()
    yield direct(ground, name)
    ground.pg.psql(f'drop database "{name}" with (force)')


@way
def test_a_clear_dump_makes_a_plain_database(
    ground: Ground, fresh: Target, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "dump"
    well(program("pg_dump", ground.target("clear"), "-n", "shop", "-O", "-x", *options, "-f", str(file)))
    restore(file, fresh)
    plain = direct(ground, "plain")
    assert content(fresh) == content(plain)
    assert content(fresh, COLUMNS) == content(plain, COLUMNS)
    assert "6200000000000001" in content(fresh)


@way
def test_a_clear_dump_is_sealed_again_on_its_way_in(
    ground: Ground, fresh: Target, tmp_path: Path, options: tuple[str, ...]
) -> None:
    clear = ground.target("clear")
    file = tmp_path / "dump"
    well(program("pg_dump", clear, "-n", "shop", "--data-only", *options, "-f", str(file)))
    ground.pg.psql(TABLES.format(schema="shop") + GRANTS.format(schema="shop"), fresh.database)
    asyncio.run(apply_rules(ground.pg, ground.home, fresh.database))
    through = replace(clear, database=fresh.database)
    restore(file, through)
    assert content(through) == content(clear)
    past = content(fresh)
    assert "6200000000000001" not in past
    assert past.count("\n") == content(through).count("\n")


def test_a_dump_of_an_older_pgveil_is_made_plain(ground: Ground, fresh: Target, tmp_path: Path) -> None:
    """Its schema had the sealed columns' own type, as a dump past pgveil has."""
    for options, target in (((), direct(ground, "guarded")), (("--data-only",), ground.target("clear"))):
        file = tmp_path / "dump"
        section = options or ("--schema-only",)
        well(program("pg_dump", target, "-n", "shop", "-O", "-x", *section, "-f", str(file)))
        if not options:
            well(program("psql", fresh, "-Xqc", "create schema pgveil; create domain pgveil.sealed as text"))
        restore(file, fresh)
    script = tmp_path / "types.sql"
    script.write_text(plain_types_sql(load_rules_text(RULES, "rules.yaml")))
    restore(script, fresh)
    plain = direct(ground, "plain")
    assert content(fresh) == content(plain)
    assert content(fresh, COLUMNS) == content(plain, COLUMNS)


@pytest.mark.parametrize("version", ["15", "16", "18"])
def test_the_schema_in_a_dump_is_the_plain_one(ground: Ground, version: str) -> None:
    needs(version)
    asked = ("-n", "shop", "--schema-only", "-O", "-x")
    through, plain = (
        _lines(well(program("pg_dump", target, *asked, version=version)))
        for target in (ground.target("clear"), direct(ground, "plain"))
    )
    assert through == plain


def needs(version: str) -> None:
    try:
        find_bin_dir(version)
    except PostgresUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("version", ["16", "18"])
@pytest.mark.parametrize("options", [(), ("--inserts",)], ids=["copy", "inserts"])
def test_newer_programs_dump_what_they_dump_directly(ground: Ground, version: str, options: tuple[str, ...]) -> None:
    needs(version)
    asked = ("-n", "shop", "--data-only", *options)
    dumps = [
        _lines(well(program("pg_dump", target, *asked, version=version)))
        for target in (ground.target("clear"), ground.target("direct"))
    ]
    assert dumps[0] == dumps[1]
    assert any("6200000000000001" in line for line in dumps[0])


def _lines(dump: str) -> list[str]:
    """Without what differs between two runs: a token of pg_dump's, where a sequence stands, options that a server gives columns by itself, and the
    order of rows."""
    others = r"\\(un)?restrict|SELECT pg_catalog.setval|ALTER TABLE .* SET \(pg_attver=\d+\);"
    return sorted(line for line in dump.splitlines() if not re.match(others, line))


def refused_here(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0
    assert 'this login can\'t dump table "shop.people"' in done.stderr
    assert "HINT:  Dump with a login that sees every column clear, or leave the table out: pg_dump -T" in done.stderr


@pytest.mark.parametrize("version", ["15", "16", "18"])
@pytest.mark.parametrize("login", ["guest", "postgres"])
@way
def test_nobody_gets_a_dump_of_masks(
    ground: Ground, tmp_path: Path, login: str, version: str, options: tuple[str, ...]
) -> None:
    """`guest` is fenced by privileges; `postgres` is a superuser whom the rules do not name."""
    needs(version)
    file = tmp_path / "dump"
    masked = replace(ground.target("masked"), user=login)
    refused_here(program("pg_dump", masked, "-n", "shop", *options, "-f", str(file), version=version))
    if file.is_file():
        assert "Ann" not in file.read_text(errors="replace")


@pytest.mark.parametrize("version", ["16", "18"])
def test_one_lock_of_many_tables_is_refused_for_one_of_them(ground: Ground, fresh: Target, version: str) -> None:
    """From 16 on pg_dump locks all that it dumps by one statement, in the order of their making: here some that may be dumped come first."""
    needs(version)
    for schema in ("open", "shop"):
        ground.pg.psql(TABLES.format(schema=schema) + GRANTS.format(schema=schema), fresh.database)
    asyncio.run(apply_rules(ground.pg, ground.home, fresh.database))
    masked = replace(ground.target("masked"), database=fresh.database)
    done = program("pg_dump", masked, "-t", "shop.*", "-t", "open.*", version=version)
    refused_here(done)
    lock = re.search(r"LOCK TABLE (.*) IN ACCESS SHARE MODE", done.stderr)
    assert lock is not None
    assert lock[1].split(", ") == ["open.people", "open.orders", "shop.people", "shop.orders"]


# The rows of a partition are elsewhere, which pg_dump does not lock.
FAR = """
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'plain');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'postgres', password_required 'false');
CREATE SCHEMA shop;
CREATE TABLE shop.people (id bigint NOT NULL, name text) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE shop.far PARTITION OF shop.people FOR VALUES FROM (0) TO (1000)
    SERVER elsewhere OPTIONS (schema_name 'shop', table_name 'people');
"""
FAR_RULES = """
version: 1
tables:
  shop.people:
    columns:
      name: {level: important, mask: name, type: text}
roles:
  clerk: {logins: [clerk], levels: {core: clear, important: clear, general: clear}}
  guest: {logins: [guest], levels: {core: masked, important: masked, general: clear}}
"""


@pytest.fixture(scope="module")
def far(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A pgveil of its own before a database with a foreign table, as a login that sees masks."""
    home = tmp_path_factory.mktemp("far")
    ground.pg.psql("create database far")
    try:
        ground.pg.psql("create extension postgres_fdw", "far")
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    ground.pg.psql(FAR.format(port=ground.pg.port) + GRANTS.format(schema="shop"), "far")
    asyncio.run(apply_rules(ground.pg, home, "far", FAR_RULES))
    port, metrics, log = free_port(), free_port(), home / "pgveil.log"
    shown = ground.home / "shown"
    config = write_config(home / "pgveil", ground.pg, "far", port, metrics, sslmode="require", certificate=shown)
    process = start_pgveil(config, log)
    try:
        wait_ready(metrics, process, log)
        yield replace(ground.target("masked"), port=port, database="far")
    finally:
        stop_process(process)


@pytest.mark.parametrize("version", ["15", "16", "18"])
@pytest.mark.parametrize("options", [(), ("--inserts",)], ids=["copy", "inserts"])
def test_foreign_tables_are_not_dumped_as_masks(far: Target, version: str, options: tuple[str, ...]) -> None:
    """pg_dump reads them without a lock, by COPY of a query or a cursor. Masking views are not made for them, so nobody gets masks of them."""
    needs(version)
    asked = ("-t", "shop.far", "--data-only", "--include-foreign-data=*", *options)
    for login in ("guest", "postgres"):
        done = program("pg_dump", replace(far, user=login), *asked, version=version)
        assert done.returncode != 0
        assert 'column "shop.people.name" is masked for this login' in done.stderr
        assert "HINT:  Query the whole table in plain form, or leave the masked columns out." in done.stderr
        assert "O*****" not in done.stdout
        # With the table that it is a partition of, the lock comes first.
        refused_here(program("pg_dump", replace(far, user=login), "-n", "shop", *asked[2:], version=version))
    assert "Ann1 O'" in well(program("pg_dump", replace(far, user="clerk"), *asked, version=version))
    assert "A*** O*****" in content(far, "select name from shop.people where id = 1"), "masks there would be"


async def test_apply_makes_no_masks_of_a_foreign_table(ground: Ground, far: Target) -> None:
    rules = load_rules_text(FAR_RULES.replace("shop.people", "shop.far"), "rules.yaml")
    keys = ground.home / "pgveil" / "keys"
    ring = KeyRing.open(keys, FileMasterKey.load(keys / "master.key"))
    connection = await asyncpg.connect(ground.pg.dsn(far.database))
    try:
        plan = await make_plan(connection, rules, ring)
    finally:
        await connection.close()
    assert "shop.far" in [o.object for o in plan.obstacles]


@pytest.mark.parametrize("name", ["", "report"])
def test_the_clients_own_name_does_not_matter(ground: Ground, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGAPPNAME", name)
    done = program("pg_dump", ground.target("masked"), "-n", "shop", "--inserts")
    assert "can't dump table" in done.stderr
    assert "INSERT" not in done.stdout


def test_what_holds_nothing_masked_can_be_dumped(ground: Ground) -> None:
    masked = ground.target("masked")
    dumped = well(program("pg_dump", masked, "-n", "shop", "-T", "shop.people", "--data-only"))
    assert "COPY shop.orders" in dumped
    assert "COPY open.people" in well(program("pg_dump", masked, "-n", "open"))


def test_pgveils_own_objects_are_not_in_dumps_through_it(ground: Ground) -> None:
    dumped = well(program("pg_dump", ground.target("clear"), "-x"))
    assert "COPY shop.people" in dumped
    assert "pgveil" not in dumped
    assert "COPY shop.people" in well(program("pg_dump", ground.target("clear"), "-N", "pgveil*"))


@way
def test_a_dump_past_pgveil_is_of_ciphertext_and_opens_elsewhere(
    ground: Ground, fresh: Target, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "dump"
    past = direct(ground, "guarded")
    well(program("pg_dump", past, "-N", "open", *options, "-f", str(file)))
    for part in [file] if file.is_file() else file.iterdir():
        assert b"6200000000000001" not in part.read_bytes()
    restore(file, fresh)
    for login in ("clear", "masked"):
        target = ground.target(login)
        text = "select id, name, phone, card, credit, mood from shop.people where id < 5000 order by id"
        assert content(replace(target, database=fresh.database), text) == content(target, text)
