"""Statements taken apart and put together again: fetched sealed, opened, computed, and the same as on plain data.

The statements of tests/fixtures/computed/*.sql, with a blank line between. `-- params:` gives parameters ("|" between them), `-- how: admit`
says that the database can do it after all, `-- how: refuse` that nobody can, with a reason behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.session.computing import Compute, Write
from proxy.session.gate import Refuse
from rules.plan import Reason
from tests.rules.computed import computed, written
from tests.rules.twins import Answer, Twins, answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres

FIXTURES = Path(__file__).parent.parent / "fixtures" / "computed"
OPTION = re.compile(r"-- (params|how): ([^;]*).*")
RECORD = 2249


@dataclass(frozen=True)
class Case:
    """One block of a file."""

    sql: str
    params: tuple[str, ...]
    how: str


def cases(path: Path) -> Iterator[Case]:
    """The blocks of a file."""
    for block in path.read_text().strip().split("\n\n"):
        lines = block.splitlines()
        found = [OPTION.match(line) for line in lines]
        options = {m[1]: m[2] for m in found if m is not None}
        sql = "\n".join(line for line, m in zip(lines, found, strict=True) if m is None)
        yield Case(
            sql, tuple(options["params"].split("|")) if "params" in options else (), options.get("how", "compute")
        )


@pytest.fixture(scope="module")
def twins(pg: Postgres) -> Iterator[Twins]:
    made = Twins(pg)
    made.gate.computes = True
    yield made
    made.close()


@pytest.fixture(scope="module")
def empty(pg: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pg.dsn(pg.create_database()), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    "case", [c for name in ("reading", "composed") for c in cases(FIXTURES / f"{name}.sql")], ids=lambda c: c.sql[:60]
)
@pytest.mark.parametrize(("login", "twin"), [("twin_teller", "plain"), ("twin_clerk", "masks")])
def test_the_answer_is_that_of_plain_data(
    twins: Twins, empty: psycopg.Connection[Any], case: Case, login: str, twin: str
) -> None:
    decision = twins.gate.decide(
        case.sql.encode(), twins.gate.principal(login), twins.settings(), extended=bool(case.params)
    )
    how = type(decision).__name__.lower()
    if login == "twin_clerk" and how == "refuse":
        return  # what its masking views can't do
    assert how == case.how
    if not isinstance(decision, Compute):
        return
    expected = answers(twins.connections[twin].pgconn, case.sql, case.params)[0]
    got = computed(twins.connections["sealed"], empty, decision, case.params)
    assert got.error == expected.error, got.message
    assert _columns(got) == _columns(expected)
    if re.search(r"(?i)order by[^)]*$", case.sql):
        assert got.rows == expected.rows
    assert Counter(got.rows) == Counter(expected.rows)


def _columns(answer: Answer) -> list[tuple[bytes, int]]:
    return [(f.name, RECORD if f.type > 16383 else f.type) for f in answer.fields or ()]


@pytest.mark.parametrize("case", list(cases(FIXTURES / "writing.sql")), ids=lambda c: c.sql[:60])
def test_what_is_written_is_that_of_plain_data(twins: Twins, empty: psycopg.Connection[Any], case: Case) -> None:
    gate = twins.gate
    decision = gate.decide(
        case.sql.encode(), gate.principal("twin_teller"), twins.settings(), extended=bool(case.params)
    )
    assert type(decision).__name__.lower() == case.how.replace("compute", "write")
    if not isinstance(decision, Write):
        return
    expected, stored = twins.run("plain", case.sql, case.params, "set search_path = public")
    sealed = twins.connections["sealed"]
    sealed.execute("begin")
    try:
        got = written(sealed, empty, decision, case.params)
        dump = twins.dump(sealed, "sealed") if got.error is None else {}
    finally:
        sealed.execute("rollback")
    assert (got.error, got.tag) == (expected[0].error, expected[0].tag), got.message
    assert [f.name for f in got.fields or ()] == [f.name for f in expected[0].fields or ()]
    assert Counter(got.rows) == Counter(expected[0].rows)
    if got.error is None:
        assert dump == stored


@pytest.mark.parametrize("login", ["twin_clerk", "twin_agent"])
def test_a_role_that_sees_masks_writes_nothing_computed_from_them(twins: Twins, login: str) -> None:
    gate = twins.gate
    for sql in (
        "update customers set notes = upper(name) where id_number > 'a'",
        "update cards set pan = pan || 'x' where id in (select id from customers where name like 'A%')",
    ):
        decision = gate.decide(sql.encode(), gate.principal(login), twins.settings(), extended=False)
        assert type(decision).__name__ == "Refuse"


@pytest.mark.parametrize(
    "sql", ["select id from cards where pan = '4111'", "select 1 from cards a join payments b using (pan)"]
)
def test_a_search_on_a_masked_column_is_refused_and_not_answered_from_masks(twins: Twins, sql: str) -> None:
    gate = twins.gate
    decision = gate.decide(sql.encode(), gate.principal("twin_agent"), twins.settings(), extended=False)
    assert isinstance(decision, Refuse)
    assert decision.refusal.reason is Reason.LOOKUP


@pytest.mark.parametrize("case", list(cases(FIXTURES / "searching.sql")), ids=lambda c: c.sql[:60])
def test_a_computed_value_is_searched_for_by_the_database(
    twins: Twins, empty: psycopg.Connection[Any], case: Case
) -> None:
    gate = twins.gate
    decision = gate.decide(
        case.sql.encode(), gate.principal("twin_teller"), twins.settings(), extended=bool(case.params)
    )
    assert isinstance(decision, Write | Compute)
    expected, stored = twins.run("plain", case.sql, case.params, "set search_path = public")
    sealed = twins.connections["sealed"]
    sealed.execute("begin")
    try:
        if isinstance(decision, Write):
            got = written(sealed, empty, decision, case.params)
        else:
            got = computed(sealed, empty, decision, case.params)
        dump = twins.dump(sealed, "sealed") if stored else {}
    finally:
        sealed.execute("rollback")
    assert (got.error, got.tag) == (expected[0].error, expected[0].tag), got.message
    assert got.rows == expected[0].rows
    assert dump == stored


def test_a_search_by_a_computed_value_fetches_no_row_that_is_not_found(twins: Twins) -> None:
    gate = twins.gate
    sql = b"select id from cards where pan = lower('4111')"
    decision = gate.decide(sql, gate.principal("twin_teller"), twins.settings(), extended=False)
    assert isinstance(decision, Write)
    assert decision.apply.text == b"select id from cards where pan = $1"
    assert [t is not None for t in decision.targets] == [True]
