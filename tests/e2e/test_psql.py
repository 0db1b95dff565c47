"""psql as a person uses it: \\d, \\copy, \\watch, tab completion's queries, errors with the caret."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.world import World


def psql(world: World, login: str, *commands: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """psql with -c for each command, aligned output off."""
    arguments = [item for command in commands for item in ("-c", command)]
    return subprocess.run(
        [str(world.pg.bin_dir / "psql"), "-XAt", "-d", world.dsn(login), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PGOPTIONS": "", "LC_ALL": "C.UTF-8"},
    )


def test_describe(world: World) -> None:
    done = psql(world, "teller", r"\d cards", r"\dt", r"\df", r"\du", r"\l")
    assert done.returncode == 0, done.stderr
    assert "pan|character varying(19)" in done.stdout
    assert "pgveil.sealed" not in done.stdout


def test_copy_unprotected_both_ways(world: World) -> None:
    done = psql(world, "app", r"\copy (select id, subject from support_tickets order by id limit 3) to stdout csv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    made = psql(
        world,
        "postgres",
        "create table if not exists public.scratch (a int, b text)",
        "grant all on public.scratch to app",
    )
    assert made.returncode == 0, made.stderr
    loaded = psql(world, "app", "truncate scratch", r"\copy scratch from stdin csv", stdin="1,one\n2,two\n")
    assert loaded.returncode == 0, loaded.stderr
    assert psql(world, "app", "select count(*) from scratch").stdout.strip() == "2"


def test_copy_of_masked_columns_by_query(world: World) -> None:
    done = psql(world, "analyst", r"\copy (select phone from customers limit 5) to stdout")
    assert done.returncode == 0, done.stderr
    assert all("*" in line for line in done.stdout.splitlines())


def test_watch(world: World) -> None:
    if world.pg.version < 17:
        done = psql(world, "analyst", "select count(phone) from customers", stdin="")
    else:
        done = psql(world, "analyst", stdin="select count(phone) from customers \\watch c=2 i=0.1\n")
    assert done.returncode == 0, done.stderr


def test_error_with_caret(world: World) -> None:
    done = psql(world, "analyst", "select name, nonesuch from customers")
    lines = done.stderr.splitlines()
    assert "nonesuch" in lines[0]
    assert lines[1] == "LINE 1: select name, nonesuch from customers"
    assert lines[2].index("^") == lines[1].index("nonesuch")


def test_refusal_with_hint(world: World) -> None:
    done = psql(world, "analyst", "select pan from cards")
    assert "permission denied for column" in done.stderr
    assert "HINT:" in done.stderr


def test_several_statements_in_one_string(world: World) -> None:
    done = psql(world, "teller", "select 1; select phone from customers where id = 1; select 2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3
