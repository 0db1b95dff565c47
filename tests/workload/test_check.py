"""`pgveil check --workload`: a real server's own log, before and after the rules are applied, and what the report may not hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from typer.testing import CliRunner, Result

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from proxy.cli import make_app
from proxy.decisions import Gate
from proxy.offline import ThrowawayKeys
from proxy.session.values import ValueCodec
from rules.applied import as_applied
from rules.catalog import CATALOG_QUERIES, Catalog, build_catalog
from rules.load import load_rules_text
from tests.proxy.golden import SETTINGS
from tests.rules.test_decisions_golden import VisibleSealer, shown

if TYPE_CHECKING:
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

CANARY = "canary4477canary"
RULES = """\
version: 1
tables:
  public.clients:
    columns:
      phone: {level: important, mask: phone}
      card: {level: core, type: varchar(19), mode: deterministic, mask: bank_card}
roles:
  teller: {logins: [wl_teller], levels: {core: clear, important: clear}}
  agent: {logins: [wl_agent], levels: {core: masked, important: masked}}
"""
SCHEMA = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'wl_teller') THEN
        CREATE ROLE wl_teller LOGIN; CREATE ROLE wl_agent LOGIN;
    END IF;
END $$;
CREATE TABLE clients (id bigint PRIMARY KEY, phone text, card varchar(19), city text);
CREATE TABLE visits (id bigint, client bigint);
CREATE VIEW phones AS SELECT id, phone FROM clients;
GRANT ALL ON clients, visits, phones TO wl_teller, wl_agent;
"""
STATEMENTS = (
    "select id, city from clients where id = 7",
    "select phone, card from clients where id in (1, 2, 3)",
    f"select id from clients where card = '{CANARY}'",
    "select card from clients order by card",
    f"insert into clients (id, phone, card) values (1, '{CANARY}', '{CANARY}')",
    f"update clients set card = upper('{CANARY}') where id = 1",
    "select phone from phones",
    f"select count(*) from visits where id = 1 -- {CANARY}",
    "copy clients (id, phone, card) to stdout",
)


@dataclass
class Place:
    """A database with the clients, plain, and its rules file."""

    server: Postgres
    name: str
    rules: Path

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)


@pytest.fixture
def place(pg: Postgres, tmp_path: Path) -> Place:
    name = pg.create_database()
    pg.psql(SCHEMA, name)
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return Place(pg, name, path)


def run(*args: object) -> Result:
    return CliRunner().invoke(make_app(), [str(a) for a in args])


def check(place: Place, workload: Path, *more: str) -> tuple[int, Any]:
    result = run("check", place.rules, "--database", place.dsn, "--workload", workload, "--json", *more)
    assert result.stdout, result
    return result.exit_code, json.loads(result.stdout)


def outcomes(found: Any) -> dict[tuple[str, str], str]:
    """(login, shape) -> what would become of it."""
    return {
        (f["login"], f["shape"]): f["outcome"] + (f": {f['reason']}" if f.get("reason") else "")
        for f in found["findings"]
    }


def test_a_file_of_statements_for_each_role(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "work.sql"
    path.write_text("\n;\n".join(STATEMENTS) + "\n;\nselect 'open;\n")
    code, found = check(place, path)
    assert code == 1
    by = outcomes(found)
    assert by["wl_teller", "select id , city from clients where id = 0"] == "passes"
    assert by["wl_teller", "select phone , card from clients where id in ( 0 , ... )"] == "changed"
    assert by["wl_teller", "select id from clients where card = 's'"] == "changed"
    assert by["wl_agent", "select id from clients where card = 's'"] == "refused: lookup"
    assert by["wl_teller", "select phone from phones"] == "recorded"
    assert by["wl_agent", "select phone from phones"] == "refused: unsupported"
    assert found["statements"] == len(STATEMENTS)
    assert [b["line"] for b in found["bad_lines"]] == [2 * len(STATEMENTS) + 1]
    (phones,) = [f for f in found["findings"] if f["login"] == "wl_agent" and f["shape"] == "select phone from phones"]
    assert (phones["count"], phones["line"]) == (1, 13)
    assert "Query the table" in phones["hint"]


def test_for_one_login(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "work.sql"
    path.write_text("select phone from clients")
    code, found = check(place, path, "--as", "wl_agent")
    assert (code, [(f["login"], f["outcome"]) for f in found["findings"]]) == (0, [("wl_agent", "changed")])


def test_what_the_calculator_can_do_is_not_refused(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "work.sql"
    path.write_text("select card from clients order by card")
    assert check(place, path, "--as", "wl_teller", "--no-calculator")[0] == 1
    code, found = check(place, path, "--as", "wl_teller")
    (only,) = found["findings"]
    assert (code, only["outcome"]) == (0, "computed")
    assert only["effects"][0] == "opens public.clients.card"
    assert only["effects"][1].startswith("fetches ")
    assert only["effects"][2] == "computes on opened values"


def test_statistics(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "statements.csv"
    path.write_text(
        "rolname,query,calls\n"
        "wl_teller,select phone from clients where card = $1,900\n"
        'wl_agent,"insert into clients (id, card) values ($1, $2)",30\n'
        "wl_gone,select phone from clients,2\n"
        "wl_agent,select broken\n"
    )
    code, found = check(place, path)
    assert code == 1, "wl_agent sees the card masked, and does not write it (ADR 0027)"
    counts = {(f["login"], f["outcome"]): f["count"] for f in found["findings"]}
    assert counts[("wl_teller", "changed")] == 900
    assert (found["unknown_logins"], found["bad"], found["statements"]) == (["wl_gone"], 1, 932)


def test_the_server_s_own_log(pg: Postgres, tmp_path: Path) -> None:
    name = pg.create_database()
    pg.psql(SCHEMA, name)
    pg.psql(f"ALTER DATABASE {name} SET log_statement = 'all'", name)
    before = pg.log.stat().st_size
    for login in ("wl_teller", "wl_agent"):
        with psycopg.connect(pg.dsn(name, login), autocommit=True) as client:
            for sql in (*STATEMENTS[:-1], "select card from clients where card = %s\norder by card"):
                with contextlib.suppress(psycopg.Error):
                    client.execute(sql, (CANARY,) if "%s" in sql else None)
    path, rules = tmp_path / "server.log", tmp_path / "rules.yaml"
    path.write_bytes(pg.log.read_bytes()[before:])
    rules.write_text(RULES)
    place = Place(pg, name, rules)
    code, found = check(place, path)
    shapes = {f["shape"] for f in found["findings"]}
    assert code == 1
    assert "select card from clients where card = $1 order by card" in shapes
    assert "select id from clients where card = 's'" in shapes
    assert found["bad"] == 0
    assert CANARY in path.read_text()
    assert CANARY not in json.dumps(found)
    printed = run("check", rules, "--database", place.dsn, "--workload", path, "--no-calculator")
    assert printed.exit_code == 1
    assert CANARY not in printed.output
    assert "would be refused: ordering (docs/errors.md#ordering)" in printed.stdout
    assert "HINT:  " in printed.stdout
    assert re.search(r"run \d+ times by .*, first 20\d\d-", printed.stdout)


async def _catalog(dsn: str) -> Catalog:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = {name: await connection.fetch(query) for name, query in CATALOG_QUERIES.items()}
        return build_catalog(rows)
    finally:
        await connection.close()


def test_what_is_foretold_is_what_comes(place: Place, tmp_path: Path) -> None:
    """The decisions on the plain database, as if applied, are those on the same database after `apply`."""
    rules = load_rules_text(RULES, "rules.yaml")
    foretold = Gate(rules, as_applied(rules, asyncio.run(_catalog(place.dsn))), VisibleSealer())
    keys = tmp_path / "keys"
    keys.mkdir()
    ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))

    async def apply() -> None:
        connection = await asyncpg.connect(place.dsn)
        try:
            plan = await make_plan(connection, rules, ring)
            await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
        finally:
            await connection.close()

    asyncio.run(apply())
    real = Gate(rules, asyncio.run(_catalog(place.dsn)), VisibleSealer())
    for login in ("wl_teller", "wl_agent", "wl_stranger"):
        for sql in STATEMENTS:
            assert shown(foretold, sql, login) == shown(real, sql, login), (login, sql)


def test_throwaway_keys_seal_what_nothing_opens() -> None:
    codec = ValueCodec(ThrowawayKeys(), random=os.urandom)
    rules = load_rules_text(RULES, "rules.yaml")
    card = next(c for c in rules.protected_columns() if c.name.column == "card")
    assert codec.seal_literal(card, CANARY) != codec.seal_literal(card, CANARY)
    assert SETTINGS.search_path is not None


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--workload", "nowhere.log", "--database", "postgresql://x@127.0.0.1:1/x"), 2, "nowhere.log is not a file"),
        (("--workload", "work.sql"), 2, "--workload needs --database"),
        (("--format", "sql"), 2, "belong to --workload"),
        (("--workload", "work.sql", "--database", "postgresql://x:hunter2@127.0.0.1:1/x"), 3, "cannot be reached"),
        (("--workload", "work.sql", "--database", "no url with hunter2"), 2, "no URL that can be used"),
    ],
)
def test_what_is_wrong_is_said(
    request: pytest.FixtureRequest, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "work.sql").write_text("select 1")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "rules.yaml", *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(request.config.rootpath)},
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "hunter2" not in done.stderr
