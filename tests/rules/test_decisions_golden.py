"""Statement in, decision out: every case of tests/fixtures/decisions/*.sql, for a role that sees all and for one that sees masks.

A case is a block of comment lines and one statement. `-- teller:` and `-- agent:` say what is decided for the two logins:

    pass                              nothing protected is touched
    refuse REASON                     with the reason's name
    run: TEXT | open COLS | seal ...  the text that runs (= where it is the client's own), columns opened by position, what is sealed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.decisions import Gate
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, NeedNames, NeedSettings, Pass, Refuse, Settings
from rules.applied import recorded
from rules.catalog import Catalog, CatalogColumn, Function, Relation
from rules.load import load_rules_text
from rules.model import Column, Principal, TableName, view_name

if TYPE_CHECKING:
    from rules.plan import Plan

FIXTURES = Path(__file__).parent.parent / "fixtures" / "decisions"
SETTINGS = Settings(search_path=("pg_catalog", "public"))

RULES = """
version: 1
tables:
  public.customers:
    subject: id
    columns:
      name: {level: important, protection: masked, mask: name}
      phone: {level: important, protection: masked, mask: phone}
      id_number: {level: core, protection: sealed, mode: deterministic, type: varchar(18), mask: id_number}
  public.cards:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
      cvv: {level: core, protection: sealed, mode: randomized, type: "char(3)"}
      credit: {level: core, protection: sealed, mode: deterministic, type: "numeric(12,2)", mask: {kind: range, width: 1000}}
  public.payments:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
  public.visits:
    columns:
      guest: {level: important, protection: masked, mask: name}
roles:
  teller: {logins: [teller], levels: {core: clear, important: clear}}
  agent: {logins: [agent], levels: {core: masked, important: masked}}
"""
_SEALED = {"pan", "cvv", "id_number", "credit"}


def _columns(*names: str) -> tuple[CatalogColumn, ...]:
    return tuple(
        CatalogColumn(n, i, 25, -1, "pgveil.sealed" if n in _SEALED else "text") for i, n in enumerate(names, start=1)
    )


def _relation(oid: int, name: str, columns: tuple[CatalogColumn, ...], **more: object) -> Relation:
    fields: dict[str, object] = {"kind": "r", "owner": "owner", **more}
    return Relation(oid=oid, name=TableName("public", name), columns=columns, **fields)  # type: ignore[arg-type]


def bank_catalog() -> Catalog:
    """Tables of a bank, views over them, a function that reads one, and the agent's masking views."""
    agent = load_rules_text(RULES, "rules.yaml").principal("agent", []).policy
    own = [
        Relation(
            90 + i,
            TableName(agent.schema, view_name(TableName("public", t))),
            "v",
            "pgveil_owner",
            (),
            definition="SELECT 1",
        )
        for i, t in enumerate(("customers", "visits"))
    ]
    relations = [
        _relation(1, "customers", _columns("id", "name", "phone", "id_number", "notes")),
        _relation(2, "cards", _columns("id", "customer_id", "pan", "cvv", "credit", "kind")),
        _relation(3, "payments", _columns("id", "pan", "amount")),
        _relation(4, "orders", _columns("id", "customer_id", "item")),
        _relation(
            5,
            "v_cards",
            _columns("id", "pan"),
            kind="v",
            definition=" SELECT cards.id, cards.pan FROM public.cards WHERE cards.kind = 'x';",
        ),
        _relation(
            6,
            "v_phones",
            _columns("id", "phone"),
            kind="v",
            definition=" SELECT customers.id, customers.phone FROM public.customers;",
        ),
        _relation(
            9,
            "v_upper",
            _columns("id", "big"),
            kind="v",
            definition=" SELECT cards.id, upper((cards.pan)::text) AS big FROM public.cards;",
        ),
        _relation(
            10,
            "v_found",
            _columns("id", "pan"),
            kind="v",
            definition=" SELECT cards.id, cards.pan FROM public.cards WHERE ((cards.pan)::text = '4111'::text);",
        ),
        _relation(
            11,
            "v_sealed_word",
            _columns("id", "pan"),
            kind="v",
            definition=" SELECT cards.id, COALESCE(cards.pan, '~AAAAAAAAAAAAAAAAAAAAAAAA'::text) AS pan FROM public.cards;",
        ),
        _relation(7, "visits", _columns("id", "guest", "day"), kind="p", children=(8,)),
        _relation(8, "visits_2026", _columns("id", "guest", "day"), parents=(7,)),
        *own,
    ]
    functions = (
        Function(
            100, TableName("public", "find_phone"), "owner", "sql", True, "select phone from customers where id = $1"
        ),
        Function(101, TableName("public", "harmless"), "owner", "sql", False, "select 1"),
        _runs_text(102, "any_text", "execute q"),
        _runs_text(103, "any_card", "execute 'select pan from cards where ' || q"),
        _runs_text(104, "calls_any", "perform any_text(q)"),
        _runs_text(105, "calls_card", "perform any_card(q)"),
    )
    catalog = Catalog("1", "bank", 160000, {r.oid: r for r in relations}, functions)
    return recorded(load_rules_text(RULES, "rules.yaml"), catalog)


def _runs_text(oid: int, name: str, body: str) -> Function:
    return Function(oid, TableName("public", name), "owner", "plpgsql", False, f"begin {body}; end")


class VisibleSealer:
    """Seals a literal to a text that shows what was sealed, for the golden files."""

    @property
    def now(self) -> float:
        return 0.0

    def vouch(self, column: Column, sealed: bytes, login: str) -> bytes:
        return b"!" + sealed

    def seal_literal(
        self,
        column: Column,
        text: str,
        *,
        number: bool = False,
        array: bool = False,
        exact: bool = False,
        login: str = "",
    ) -> bytes:
        how = "".join(("#" if number else "", "[]" if array else "", "=" if exact else ""))
        return f"<{column.name.column}{how}:{text}>".encode("ascii", "backslashreplace")


@dataclass(frozen=True)
class Case:
    """One block of a golden file."""

    where: str
    sql: str
    expected: dict[str, str]


def _cases() -> list[Case]:
    cases = []
    for path in sorted(FIXTURES.glob("*.sql")):
        for block in path.read_text().strip().split("\n\n"):
            lines = block.splitlines()
            expected: dict[str, str] = {}
            for line in lines:
                who, colon, what = line.removeprefix("-- ").partition(": ")
                if line.startswith("-- ") and colon and who in {"teller", "agent", "both"}:
                    expected |= {"teller": what, "agent": what} if who == "both" else {who: what}
            sql = "\n".join(line for line in lines if not line.startswith("--")).removesuffix(";")
            if sql:
                cases.append(Case(f"{path.stem}: {sql[:60]}", sql, expected))
    return cases


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(load_rules_text(RULES, "rules.yaml"), bank_catalog(), VisibleSealer())


def shown(gate: Gate, sql: str, login: str) -> str:
    """The decision in the golden files' words."""
    principal: Principal = gate.principal(login)
    decision = gate.decide(sql.encode(), principal, SETTINGS, extended=False)
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    match decision:
        case Pass():
            return "pass"
        case Refuse():
            return f"refuse {decision.refusal.reason}"
        case NeedSettings():
            return "need settings"
        case Compute() | Write():
            return "compute"
        case Admit():
            text = decision.text.decode().replace(principal.policy.schema, "@")
            parts = ["run: " + ("=" if text == sql else " ".join(text.split()))]
            for plan in decision.plans:
                parts += [] if plan is None else _plan(plan)
            return " | ".join(parts)


def _plan(plan: Plan) -> list[str]:
    parts = []
    opened = [
        f"{i}:{r.open.name.table}.{r.open.name.column}{'' if r.verdict == 'clear' else ' ' + r.verdict}{'' if r.direct else ' (derived)'}"
        for i, r in enumerate(plan.results or (), start=1)
        if r.open is not None
    ]
    if opened:
        parts.append("open " + ", ".join(opened))
    sealed = [
        f"${p.number} {p.column.name.column}{'[]' if p.array else ''}{'=' if p.exact else ''}" for p in plan.params
    ]
    if sealed:
        parts.append("seal " + ", ".join(sorted(sealed)))
    return parts


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.where)
def test_golden(gate: Gate, case: Case) -> None:
    assert set(case.expected) == {"teller", "agent"}, "each case says what both logins get"
    assert {who: shown(gate, case.sql, who) for who in case.expected} == case.expected


def test_there_are_cases() -> None:
    assert len(_cases()) >= 100
