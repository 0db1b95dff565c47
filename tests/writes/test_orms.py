"""Whole objects saved by real ORMs whose login sees masks: what they read and write back changes nothing and is no error (F1.3, ADR 0027)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.drivers.toolchains import ToolchainMissing, made, required, tool
from tests.writes.conftest import AGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.writes.conftest import Bank

PROGRAMS = Path(__file__).parent / "orms"
PROTECTED = "name, phone, email, birth_date, income, notes, pan, expires_on, credit"
SEVERAL = 4
# Refused: INSERT ... SELECT * FROM UNNEST (...) ON CONFLICT, of Django.
REFUSED = ("upsert default", "upsert server")


@dataclass(frozen=True)
class Orm:
    """A program: how it is made, the first of its rows, and how many cases it has."""

    command: Callable[[], list[str]]
    base: int
    cases: int


def _python(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(PROGRAMS / name)]


def _node() -> list[str]:
    place = made("orms-node", PROGRAMS / "node", [tool("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"])
    return [tool("node"), str(place / "program.mjs")]


def _java() -> list[str]:
    fetch = f"{tool('mvn')} -B -q dependency:copy-dependencies"
    compiled = f"{tool('javac')} -encoding UTF-8 -proc:none -cp 'jars/*' -d classes Orm.java"
    place = made("orms-java", PROGRAMS / "java", ["sh", "-ec", f"{fetch} && {compiled}"])
    return [tool("java"), "-cp", f"{place}/classes:{place}/jars/*", "Orm"]


ORMS = {
    "django": Orm(_python("django_program.py"), 1000, 30),
    "sqlalchemy": Orm(_python("sqlalchemy_program.py"), 2000, 28),
    "node": Orm(_node, 3000, 20),
    "hibernate": Orm(_java, 4000, 28),
}


def _run(orm: Orm, bank: Bank) -> list[dict[str, str | int | None]]:
    try:
        command = orm.command()
    except ToolchainMissing as missing:
        if required():
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    where = {
        "ORM_PORT": str(bank.port),
        "ORM_DATABASE": bank.name,
        "ORM_USER": AGENT,
        "ORM_BASE": str(orm.base),
    }
    done = subprocess.run(
        command, capture_output=True, timeout=100, check=False, stdin=subprocess.DEVNULL, env={**os.environ, **where}
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


# Where it has to be made, from the registries.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ORMS)
def test_whole_objects(bank: Bank, name: str) -> None:
    orm = ORMS[name]
    real = f"SELECT id, {PROTECTED} FROM clients WHERE id BETWEEN {orm.base} AND {orm.base + 999} ORDER BY id"
    before = bank.real(real)
    seen = _run(orm, bank)
    assert len(seen) == orm.cases
    assert bank.real(real) == before
    cities = dict(bank.real("SELECT id, city FROM clients"))
    wrong = []
    for each in seen:
        case, row, error = str(each["case"]), int(each["row"] or 0), each["error"]
        stored = [cities[row + n] == case for n in range(SEVERAL)]
        if case in REFUSED:
            right = error is not None and not any(stored)
        elif case.startswith("new_"):
            right = error is not None and "can't be changed by a login that sees it masked" in str(error)
            right = right and "write: values" in str(error) and not any(stored)
        else:
            right = error is None and stored[0]
        if not right:
            wrong.append(f"{case}: {error} {stored}")
    assert not wrong, "\n\n".join(wrong)
