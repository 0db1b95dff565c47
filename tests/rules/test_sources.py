"""Texts of the catalog are read once, whatever DDL comes afterwards (F8.7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.decisions import Gate
from rules import sources
from rules.catalog import Function
from rules.lexer import LexError, lex
from rules.load import load_rules_text
from rules.model import TableName
from rules.sources import Sources
from tests.rules.test_decisions_golden import RULES, VisibleSealer, bank_catalog

if TYPE_CHECKING:
    from rules.catalog import Catalog

BODY = "begin perform harmless(); x := public.f(y) || 'select phone from customers'; select into x from (t); end"


def _function(number: int, source: str, language: str = "plpgsql") -> Function:
    return Function(number, TableName("public", f"f{number}"), "owner", language, False, source)


def _with(catalog: Catalog, *functions: Function) -> Catalog:
    return replace(catalog, functions=(*catalog.functions, *functions))


def test_a_body_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(text: str) -> object:
        read.append(len(text))
        return lex(text)

    monkeypatch.setattr(sources, "lex", counted)
    rules, catalog = load_rules_text(RULES, "rules.yaml"), bank_catalog()
    gate = Gate(rules, catalog, VisibleSealer())
    bodies = [f"begin perform g{i}({'1,' * 20_000}1); end" for i in range(30)]
    many = _with(catalog, *(_function(1000 + i, body) for i, body in enumerate(bodies)))
    read.clear()
    gate.update(rules, many)
    assert sorted(read, reverse=True)[:30] == sorted(map(len, bodies), reverse=True), (
        "each once, more than is kept as tokens"
    )
    read.clear()
    for number in range(5):
        gate.update(rules, _with(many, _function(2000 + number, f"begin perform h{number}(); end")))
    assert len(read) == 5, "and then only what is new"


def test_what_a_body_says() -> None:
    said = Sources().said(BODY)
    assert {"harmless", "f", "||"} <= said.called
    assert said.dotted == {"f"}
    assert said.placed >= {"t", "x"}
    assert "customers" not in said.words, "it stands in a string"
    assert "customers" in Sources().spelled(BODY)
    assert not said.does
    assert Sources().said("do 'x'").does
    assert Sources().said("do language plpgsql $$ $$").does
    assert Sources().said("begin copy t to '/tmp/x'; end").copies
    assert not Sources().said("select copy from t").copies


def test_what_is_no_text_of_postgresql_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Sources()
    for _ in range(2):
        with pytest.raises(LexError):
            known.said("begin '")
        monkeypatch.setattr(sources, "lex", None)


def test_what_is_kept_is_bounded() -> None:
    known = Sources(characters=100, words=50)
    for number in range(100):
        known.said(f"select a{number}, b{number} from c{number}")
        known.lexed(f"select a{number}")
        known.spelled(f"a{number} b{number}")
    assert known._said.currsize <= 50
    assert known._lexed.currsize <= 100
    assert known._spelled.currsize <= 50
    assert known.said(" ".join(f"a{i}" for i in range(100))).size > 50, "what is too much is not kept"
