"""Trigger functions that find names by the writer's search_path: which names these are, and who may not write while something of his own bears one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.decisions import Gate
from proxy.session.gate import NeedSettings, Refuse, Settings
from rules.catalog import Function
from rules.load import load_rules_text
from rules.loose import is_pinned, loose_triggers, made_by_roles
from rules.model import TableName
from rules.protect import ProtectionMap
from tests.rules.test_decisions_golden import RULES, VisibleSealer, bank_catalog

CUSTOMERS = TableName("public", "customers")
RULES_TEXT = load_rules_text(RULES, "rules.yaml")


def _function(source: str, *, name: str = "watch", path: str | None = None, language: str = "plpgsql") -> Function:
    oid = 900 + sum(map(ord, name))
    return Function(oid, TableName("public", name), "owner", language, False, source, path=path)


def _map(*functions: Function) -> ProtectionMap:
    catalog = bank_catalog()
    table = replace(catalog.by_name[CUSTOMERS], trigger_functions=(functions[0].name,), has_triggers=True)
    relations = {**catalog.relations, table.oid: table}
    return ProtectionMap(RULES_TEXT, replace(catalog, relations=relations, functions=(*catalog.functions, *functions)))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("BEGIN INSERT INTO audit_log VALUES (OLD.phone); RETURN NEW; END", {"audit_log"}),
        ("BEGIN NEW.at = now(); NEW.by := current_user; RETURN NEW; END", set()),
        ("BEGIN IF TG_OP = 'UPDATE' THEN at = now(); NEW.at = now(); END IF; RETURN NEW; END", {"="}),
        ("BEGIN NEW.email := lower(NEW.email) || '.'; RETURN NEW; END", {"lower", "||"}),
        ("DECLARE r audit_log%ROWTYPE; BEGIN r.x := NEW.phone; RETURN NEW; END", {"audit_log"}),
        ("BEGIN INSERT INTO public.log (id, phone) VALUES (OLD.id, OLD.phone); RETURN NEW; END", set()),
        ("BEGIN PERFORM FROM public.a, (SELECT f(1)) x, b; RETURN NEW; END", {"f", "b"}),
        ("BEGIN SELECT count, id INTO STRICT n, m FROM pg_catalog.x; RETURN NEW; END", {"strict"}),
        ("BEGIN EXECUTE 'x' USING NEW; RETURN NEW; END", None),
        ("BEGIN 'unfinished", None),
    ],
)
def test_names(source: str, names: set[str] | None) -> None:
    found = {each.names for each in loose_triggers(_map(_function(source)))}
    assert found == (set() if names == set() else {None if names is None else frozenset(names)})


def test_what_is_called_counts_and_what_is_pinned_does_not() -> None:
    caller = _function("BEGIN PERFORM note(NEW.phone); RETURN NEW; END")
    note = _function("INSERT INTO notes VALUES ($1)", name="note", language="sql")
    assert [t.names for t in loose_triggers(_map(caller, note))] == [frozenset({"note", "notes"})]
    pinned = replace(note, path="public, pg_temp")
    assert [t.names for t in loose_triggers(_map(caller, pinned))] == [frozenset({"note"})]
    assert loose_triggers(_map(replace(caller, path='public, "pg_temp"'), note)) == ()
    assert loose_triggers(_map(_function("x", language="c"))) == ()
    assert [t.names for t in loose_triggers(_map(_function("x", language="plpython3u")))] == [None]


@pytest.mark.parametrize(
    ("path", "pinned"),
    [
        (None, False),
        ("", False),
        ("public", False),
        ("pg_temp, public", False),
        ("public, pg_temp", True),
        ("pg_temp", True),
    ],
)
def test_a_path_pins_where_temporary_things_come_last(path: str | None, pinned: bool) -> None:
    assert is_pinned(path) is pinned


LOG = "BEGIN INSERT INTO audit_log VALUES (lower(OLD.phone)); RETURN NEW; END"
AFTER = Settings(search_path=("pg_temp_3", "pg_catalog", "public"), database_role="masked_login")


def _gate(*more: Function) -> Gate:
    return Gate(RULES_TEXT, _map(_function(LOG), *more).catalog, VisibleSealer())


def _refused(gate: Gate, sql: str, settings: Settings, login: str) -> bool:
    principal = RULES_TEXT.principal(login, frozenset())
    found = gate.decide(sql.encode(), principal, settings, extended=False)
    return isinstance(found, Refuse) and "finds something of this login's own" in found.refusal.message


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET id = 1",
        "DELETE FROM orders",
        "MERGE INTO customers c USING audit_log a ON c.id = a.id WHEN MATCHED THEN DELETE",
        "WITH w AS (UPDATE customers SET id = 1 RETURNING id) SELECT * FROM w",
        "EXECUTE u",
        "DO $$ BEGIN EXECUTE 'x'; END $$",
        "SELECT harmless()",
        "COPY customers (id) FROM STDIN",
    ],
)
def test_no_row_is_given_while_something_of_the_login_s_own_is_in_the_way(sql: str) -> None:
    gate, masked, clear = _gate(), "agent", "teller"
    temporary = gate.protected_names(frozenset({"audit_log", "mine"}))
    assert temporary == {"audit_log"}
    assert _refused(gate, sql, replace(AFTER, temporary=temporary), masked)
    assert not _refused(gate, sql, AFTER, masked)
    assert not _refused(gate, sql, replace(AFTER, temporary=temporary), clear)


def test_functions_on_the_path_and_what_is_not_known_yet() -> None:
    own = replace(_function("x", name="lower", language="sql"), name=TableName("lair", "lower"), owner="agent")
    gate, sql = _gate(own), "UPDATE customers SET id = 1"
    assert made_by_roles(_map(_function(LOG), own))["agent"] == {own.name}
    assert not _refused(gate, sql, AFTER, "agent")
    assert _refused(gate, sql, replace(AFTER, search_path=("pg_catalog", "lair", "public")), "agent")
    principal = RULES_TEXT.principal("agent", frozenset())
    assert isinstance(gate.decide(sql.encode(), principal, Settings(), extended=False), NeedSettings)
    pinned = Gate(RULES_TEXT, _map(_function(LOG, path="public, pg_temp"), own).catalog, VisibleSealer())
    assert not isinstance(pinned.decide(sql.encode(), principal, Settings(), extended=False), NeedSettings)


def test_making_such_a_name_is_followed_by_a_question() -> None:
    principal = RULES_TEXT.principal("agent", frozenset())
    for name, follows in (("audit_log", True), ("mine", False)):
        found = _gate().decide(f"CREATE TEMP TABLE {name} (i int)".encode(), principal, AFTER, extended=False)
        assert getattr(found, "unsettles", None) is follows
