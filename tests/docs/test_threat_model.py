"""docs/threat-model.md: every claim names what shows it, every test and code that is named is there, and the worked examples work."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import typer

from doctor.examine import CODES
from keys.sealed import DataKey, open_sealed, seal
from proxy.cli import make_app
from proxy.decisions import Gate
from proxy.session.gate import Admit, Pass
from proxy.session.replies import Trouble
from proxy.session.values import ValueCodec
from proxy.session.witness import Shown, examine
from proxy.wire.messages import Field, build_row_description
from rules.load import load_rules_text
from tests.proxy.golden import RULES, SETTINGS, bank_catalog
from tests.rules.test_decisions_golden import VisibleSealer
from tests.session.conftest import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.session.gate import Decision
    from proxy.session.witness import Finding
    from rules.catalog import Relation

TEST = re.compile(r"`(tests/[\w./]+\.py)(?:::(\w+))?`")
COMMAND = re.compile(r"`pgveil ([a-z-]+)")
CODE = re.compile(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`")
TRUSTED = "this is what is trusted"
# Of running at all, not of who learns what.
RUNNING = frozenset(
    {
        *("rules-load", "rules-agree", "acceptance", "key-ring", "key-missing", "key-backup", "disk-space"),
        *("server-version", "server-encoding", "live-ready", "live-version", "metrics-open"),
    }
)
POPULATION = {"0": 440, "A": 420, "B": 100, "AB": 40}
CARDS = 2  # the oid of cards in the golden bank
KEY = DataKey("public.patients.blood_group", 1, bytes(range(64)))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "threat-model.md").read_text()


def rows(page: str) -> list[list[str]]:
    """The rows of the tables of adversaries and of features, as cells."""
    part = page[page.index("## By adversary") : page.index("## What deterministic")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return [row for row in cells if not row[0].startswith("---") and "Shown by" not in row]


def test_every_row_names_what_shows_it(page: str) -> None:
    each = rows(page)
    assert len(each) > 50
    for row in each:
        text = " ".join(row)
        assert TEST.search(text) or COMMAND.search(text) or TRUSTED in text, row[0]


def test_every_test_and_command_that_is_named_is_there(root: Path, page: str) -> None:
    named = TEST.findall(page)
    assert len(named) > 50
    for path, name in named:
        file = root / path
        assert file.exists(), path
        functions = {
            n.name
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not name or name in functions, f"{path}::{name}"
    commands = typer.main.get_command(make_app())
    assert set(COMMAND.findall(page)) <= set(commands.commands)  # type: ignore[attr-defined]


def test_codes_are_doctor_s_and_none_is_left_out(page: str) -> None:
    named = set(CODE.findall(page)) - {"verify-full"} | {
        c for c in ("extension", "publication", "certificate", "account", "workers") if f"`{c}`" in page
    }
    named |= {c for c in CODES if "-" not in c and f"`{c}`" in page}
    assert named <= CODES, named - CODES
    assert CODES - named == RUNNING


def test_security_md_speaks_of_the_same(root: Path) -> None:
    text = (root / "SECURITY.md").read_text()
    assert "docs/threat-model.md" in text
    assert "pgveil doctor" in text


def shares(nonces: bool) -> Counter[bytes]:
    """How often each sealed text stands in a column with the population's blood groups."""
    column = [group for group, count in POPULATION.items() for _ in range(count)]
    return Counter(
        seal(KEY, group.encode(), nonce=n.to_bytes(16) if nonces else None) for n, group in enumerate(column)
    )


def test_frequency_gives_few_values_away(page: str) -> None:
    """Without any key: the texts by how often they stand there, beside what everybody knows."""
    seen = shares(nonces=False).most_common()
    guesses = {text: group for (text, _), group in zip(seen, POPULATION, strict=True)}
    right = sum(count for text, count in seen if open_sealed(KEY, text) == guesses[text].encode())
    assert right == sum(POPULATION.values()) == 1000
    shown = re.findall(r"^\| \w+ text \| (\d+) \| (\w+) \| yes \|$", page, re.MULTILINE)
    assert shown == [(str(count), group) for group, count in POPULATION.items()]


def test_randomized_shows_no_frequency() -> None:
    assert set(shares(nonces=True).values()) == {1}


def test_lengths_are_as_the_page_says(page: str) -> None:
    lengths = {
        v: [len(seal(KEY, v, nonce=n)) for n in (None, bytes(16))] for v in (b"4" * 16, b"4" * 19, b"yes", b"no")
    }
    assert lengths == {b"4" * 16: [54, 75], b"4" * 19: [58, 79], b"yes": [37, 58], b"no": [35, 57]}
    told = " ".join(page.split())
    assert "a 16-digit card number is 54 characters deterministic, a 19-digit one 58" in told
    assert "`yes` is 37 and `no` is 35, which tells them apart even randomized (58 and 57)" in told


def test_a_value_moved_within_its_domain_opens() -> None:
    """Whoever may write past pgveil can put one card's number in another's row: the domain is what a value is bound to."""
    one, other = (seal(DataKey("pan", 7, bytes(64)), v, nonce=None) for v in (b"4111111111111111", b"5500000000000004"))
    assert one != other
    assert open_sealed(DataKey("pan", 7, bytes(64)), other) == b"5500000000000004"


def found(judge: Gate, sql: str, attnum: int, login: str) -> Finding | Decision:
    """What becomes of a result of one column, which the server says is that column of cards."""
    principal = judge.principal(login)
    decision = judge.decide(sql.encode(), principal, SETTINGS, extended=False)
    if not isinstance(decision, Admit | Pass):
        return decision
    raw = build_row_description((Field(b"pan", CARDS, attnum, 25, -1, -1, 0),))
    codec = ValueCodec(Ring(), random=bytes)
    return examine(
        judge, principal, decision.plans[0] if isinstance(decision, Admit) else None, raw, codec.logical_type
    )


def by_catalog(change: Callable[[Relation], Relation | None]) -> Gate:
    """A gate where pgveil's own login is shown something else of cards, or nothing."""
    told = bank_catalog()
    cards = change(told.relations[CARDS])
    others = {oid: relation for oid, relation in told.relations.items() if oid != CARDS}
    relations = others if cards is None else {**others, CARDS: cards}
    return Gate(load_rules_text(RULES, "rules.yaml"), replace(told, relations=relations), VisibleSealer())


def exchanged(cards: Relation) -> Relation:
    """The numbers of pan and kind, each in the other's place."""
    numbers = {3: 6, 6: 3}
    return replace(cards, columns=tuple(replace(c, attnum=numbers.get(c.attnum, c.attnum)) for c in cards.columns))


@pytest.mark.parametrize("login", ["teller", "agent"])
def test_a_plan_by_a_false_catalog_meets_the_second_witness(login: str) -> None:
    """What the server says of a result can't agree with both the catalog and the plan."""
    true, false = by_catalog(lambda c: c), by_catalog(exchanged)
    for sql, attnum in (("select pan from cards", 3), ("select kind from cards", 6)):
        assert isinstance(found(true, sql, attnum, login), Shown)
        trouble = found(false, sql, attnum, login)
        assert isinstance(trouble, Trouble)
        assert trouble.sqlstate == "42501"


def test_what_a_false_catalog_hides_is_not_opened() -> None:
    """A column is an error. A table that pgveil does not know passes as it comes, sealed; to a login with limits not even so."""
    column = by_catalog(lambda c: replace(c, columns=tuple(each for each in c.columns if each.name != "pan")))
    table = by_catalog(lambda _: None)
    for sql in ("select pan from cards", "select c.pan from cards c", "select * from cards"):
        assert not isinstance(found(column, sql, 3, "teller"), Shown)
        shown = found(table, sql, 3, "teller")
        assert isinstance(shown, Shown)
        assert shown.openings == ()
    # What is unfamiliar is withheld from who sees masks: tests/session/test_strangers.py.
    assert table.unfamiliar(frozenset({(CARDS, 3)}))
