"""What the gate admits, run on a real server and held against twins that hold plain values or masks (see `twins`).

The statements of tests/fixtures/twins/*.sql: blocks with a blank line between. `-- params:` gives parameters ("|" between them), `-- path:` the
search_path, `-- allow:` the kinds of difference that are known and right for this one, with a reason behind them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rules.grammar import Composer
from tests.rules.twins import LOGINS, Finding, Twins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres

FIXTURES = Path(__file__).parent.parent / "fixtures" / "twins"
# Where both sides refuse, the codes may differ: the server sees sealed values where the twin sees plain ones.
OPTION = re.compile(r"-- (params|path|allow): (.*)")
ALWAYS = frozenset({"code"})


@dataclass(frozen=True)
class Case:
    """One block of a file."""

    sql: str
    params: tuple[str, ...]
    path: tuple[str, ...]
    allowed: frozenset[str]


def cases(path: Path) -> Iterator[Case]:
    """The blocks of a file."""
    for block in path.read_text().strip().split("\n\n"):
        lines = block.splitlines()
        found = [OPTION.match(line) for line in lines]
        options = {m[1]: m[2] for m in found if m is not None}
        sql = "\n".join(line for line, m in zip(lines, found, strict=True) if m is None)
        yield Case(
            sql,
            tuple(options["params"].split("|")) if "params" in options else (),
            tuple(options.get("path", "pg_catalog,public").split(",")),
            frozenset(options.get("allow", "").partition(";")[0].split()) | ALWAYS,
        )


@pytest.fixture(scope="module")
def twins(any_pg: Postgres) -> Iterator[Twins]:
    """The three databases, on a server of each version."""
    made = Twins(any_pg)
    yield made
    made.close()


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sql")), ids=lambda p: p.stem)
def test_admitted_statements_answer_as_their_twins(twins: Twins, path: Path) -> None:
    problems: list[tuple[str, Finding]] = []
    for case in cases(path):
        for login in LOGINS:
            verdict = twins.judge(case.sql, login, case.params, case.path)
            problems += [(case.sql, f) for f in verdict.findings if f.kind not in case.allowed]
    assert not problems, "\n".join(f"{f.kind} {f.login}: {sql}\n    {f.detail}" for sql, f in problems)


def differences(twins: Twins, sql: str) -> list[str]:
    """What differs for any login."""
    found = [f for login in LOGINS for f in twins.judge(sql, login).findings if f.kind not in ALWAYS]
    return [f"{f.kind} {f.login}: {f.detail}" for f in found]


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=True))
def test_composed_statements_answer_as_their_twins(twins: Twins, source: random.Random) -> None:
    sql = Composer(source.choice).statement()
    assert differences(twins, sql) == [], sql


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_composed_statements(twins: Twins) -> None:
    for seed in range(5000):
        sql = Composer(random.Random(seed).choice).statement()
        assert differences(twins, sql) == [], sql


def test_there_are_statements() -> None:
    assert sum(1 for path in FIXTURES.glob("*.sql") for _ in cases(path)) >= 1000
