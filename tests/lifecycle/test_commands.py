"""`pgveil apply` as an operator and a script meet it: output, exit codes, and no value anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from lifecycle.apply.model import ApplyPlan, Change, Kind, Obstacle, SealColumn, SealTable
from lifecycle.commands import register
from lifecycle.show import show_plan
from rules.model import Column, ColumnName, Level, Protection, TableName

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


class Bank:
    """The running pgveil, as the command line knows it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.why: str | None = None
        self.reloads: list[Path] = []

    def files(self, config: Path) -> tuple[Path, Path]:
        assert config == self.home / "pgveil.yaml"
        return self.home / "rules.yaml", self.home / "keys"

    def login(self, config: Path) -> str | None:
        assert config == self.home / "pgveil.yaml"
        return None

    def reload(self, config: Path) -> str | None:
        self.reloads.append(config)
        return self.why


@pytest.fixture
def running(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


@pytest.fixture
def with_running(running: Bank) -> typer.Typer:
    made = typer.Typer()

    @made.callback()
    def common(context: typer.Context) -> None:
        context.obj = running

    register(made)
    return made


def test_apply_and_reload(with_running: typer.Typer, running: Bank, arguments: list[str], tmp_path: Path) -> None:
    """One command: files as the configuration names them, reloaded when the database is as they say, and only then."""
    config = tmp_path / "pgveil.yaml"
    short = ["apply", "--config", str(config), *arguments[5:], "--reload"]
    assert run(with_running, short).exit_code == 1  # nobody said yes
    assert not running.reloads
    done = run(with_running, short, "--yes")
    assert done.exit_code == 0
    assert "has taken the rules up" in done.output
    assert running.reloads == [config]
    again = json.loads(run(with_running, short, "--json").stdout)
    assert (again["applied"], again["reloaded"], again["why"]) == (False, True, None)
    assert len(running.reloads) == 2


def test_applied_and_not_taken_up(
    with_running: typer.Typer, running: Bank, arguments: list[str], tmp_path: Path
) -> None:
    short = ["apply", "--config", str(tmp_path / "pgveil.yaml"), *arguments[5:], "--reload", "--yes"]
    running.why = "no pgveil answers there"
    failed = run(with_running, short)
    assert failed.exit_code == 4
    assert "no pgveil answers there" in failed.output
    assert "pgveil reload" in failed.output
    assert json.loads(run(with_running, short, "--json").stdout)["reloaded"] is False


def test_obstacles_are_not_reloaded(
    with_running: typer.Typer, running: Bank, arguments: list[str], tmp_path: Path, pg: Postgres
) -> None:
    pg.psql("CREATE INDEX i ON t (lower(pan))", arguments[-1].rpartition("/")[2])
    short = ["apply", "--config", str(tmp_path / "pgveil.yaml"), *arguments[5:], "--reload", "--yes"]
    assert run(with_running, short).exit_code == 2
    assert not running.reloads


def test_which_files(
    app: typer.Typer, with_running: typer.Typer, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ["--config", str(tmp_path / "pgveil.yaml")]
    assert run(with_running, ["apply", *config, *arguments[5:], "--plan"]).exit_code == 1
    both = run(with_running, ["apply", *config, *arguments[5:], "--plan", "--reload"])
    assert (both.exit_code, "--plan" in both.output) == (2, True)
    other = run(with_running, ["apply", *config, "--rules", str(tmp_path / "other.yaml"), *arguments[5:], "--reload"])
    assert (other.exit_code, "leave --rules out" in other.output) == (2, True)
    monkeypatch.chdir(tmp_path)
    assert run(with_running, ["apply", *arguments[5:], "--plan"]).exit_code == 2  # there is no pgveil.yaml
    assert run(app, ["apply", *arguments[5:], "--plan"]).exit_code == 2


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


@pytest.mark.parametrize("columns", [80, 40])
def test_a_plan_on_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A paragraph for each change, in whole words, with its rows, bytes and time."""
    monkeypatch.setenv("COLUMNS", str(columns))
    table = TableName("public", "cards")
    column = Column(ColumnName("public", "cards", "pan"), Level.CORE, Protection.SEALED)
    seal = SealTable(table, (SealColumn(column, 25),) * 4, (table,))
    change = Change(Kind.SEAL, str(table), "seal pan (deterministic), and others of this table", seal, rows=1_000_000)
    show_plan(ApplyPlan((change,), (Obstacle("public.t", "a problem", "what helps against it"),)))
    told = capsys.readouterr().out
    words = " ".join(told.split())
    assert "seal public.cards seal pan (deterministic), and others of this table 1,000,000" in words
    assert "Sealing takes about 4 minutes; the tables that are sealed can't be used meanwhile." in words
    assert "public.t a problem what helps against it" in words
    assert max(map(len, told.splitlines())) <= columns
