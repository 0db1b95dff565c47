"""`pgveil apply` as an operator and a script meet it: output, exit codes, and no value anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from lifecycle.commands import register

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from lifecycle.demo.postgres import Postgres

RULES = """
version: 1
tables:
  public.t: {columns: {pan: {level: core, mode: deterministic, type: text}, name: {level: important, mask: name}}}
roles:
  r: {logins: [ap_app], levels: {core: clear, important: clear}}
"""


@pytest.fixture
def app() -> typer.Typer:
    """A command line with nothing but ours."""
    made = typer.Typer()
    made.callback()(lambda: None)
    register(made)
    return made


@pytest.fixture
def arguments(pg: Postgres, tmp_path: Path) -> list[str]:
    """A database with one table, rules and keys."""
    from keys.commands import init  # noqa: PLC0415

    name = pg.create_database()
    pg.psql("CREATE TABLE t (pan text, name text); INSERT INTO t VALUES ('SECRETPAN', 'SECRETNAME')", name)
    (tmp_path / "rules.yaml").write_text(RULES)
    init(tmp_path / "keys")
    return [
        "apply",
        "--rules",
        str(tmp_path / "rules.yaml"),
        "--keys",
        str(tmp_path / "keys"),
        "--database",
        pg.dsn(name),
    ]


def run(app: typer.Typer, arguments: list[str], *more: str, text: str | None = None) -> Result:
    """One run; no value of the table may show in it."""
    result = CliRunner().invoke(app, [*arguments, *more], input=text)
    assert "SECRET" not in result.output
    return result


def test_plan_apply_plan(app: typer.Typer, arguments: list[str]) -> None:
    planned = run(app, arguments, "--plan")
    assert planned.exit_code == 1
    assert "seal pan" in planned.output
    assert run(app, arguments, "--plan").output == planned.output
    done = run(app, arguments, "--yes")
    assert (done.exit_code, "Done" in done.output) == (0, True)
    again = run(app, arguments, "--plan")
    assert (again.exit_code, "Nothing to do" in again.output) == (0, True)
    assert run(app, arguments).exit_code == 0


def test_without_an_answer_nothing_is_done(app: typer.Typer, arguments: list[str]) -> None:
    result = run(app, arguments)
    assert result.exit_code == 1
    assert "say --yes" in result.output
    assert run(app, arguments, "--plan").exit_code == 1


def test_json(app: typer.Typer, arguments: list[str]) -> None:
    result = run(app, arguments, "--json", "--yes")
    document = json.loads(result.stdout)
    assert document["applied"] is True
    assert {"kind": "seal", "object": "public.t", "what": "seal pan (deterministic)", "rows": 1} in document["changes"]
    assert json.loads(run(app, arguments, "--json").stdout) == {
        "applied": False,
        "changes": [],
        "later": [],
        "serving": [],
        "obstacles": [],
        "warnings": document["warnings"],
    }


def test_obstacles(app: typer.Typer, arguments: list[str], pg: Postgres) -> None:
    pg.psql("CREATE INDEX i ON t (lower(pan))", arguments[-1].rpartition("/")[2])
    result = run(app, arguments, "--yes")
    assert result.exit_code == 2
    assert "Obstacles" in result.output


def test_bad_input(app: typer.Typer, arguments: list[str], tmp_path: Path) -> None:
    assert run(app, [*arguments[:-1], "mysql://x"]).exit_code == 2
    assert run(app, [*arguments[:-1], "postgresql://postgres@127.0.0.1:1/x"]).exit_code == 3
    assert run(app, [*arguments[:3], "--keys", str(tmp_path), *arguments[5:]]).exit_code == 3
    (tmp_path / "rules.yaml").write_text("version: 2")
    assert run(app, arguments).exit_code == 2


def test_plain_types(app: typer.Typer, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    done = CliRunner().invoke(app, ["plain-types", str(rules)])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "BEGIN;",
        'ALTER TABLE "public"."t"',
        '    ALTER COLUMN "pan" TYPE pg_catalog.text USING "pan"::pg_catalog.text::pg_catalog.text;',
        "DROP DOMAIN pgveil.sealed;",
        "DROP SCHEMA pgveil;",
        "COMMIT;",
    ]
    rules.write_text("version: 2")
    assert CliRunner().invoke(app, ["plain-types", str(rules)]).exit_code == 2
