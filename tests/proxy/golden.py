"""The bank of the golden decisions (tests/rules), for tests that explain or document decisions on it."""

from __future__ import annotations

from typing import Any

from proxy.decisions import Gate
from rules.load import load_rules_text
from tests.rules.test_decisions_golden import RULES, SETTINGS, VisibleSealer, _cases, bank_catalog

__all__ = ["RULES", "SETTINGS", "bank_catalog", "gate", "statements"]


def statements() -> list[str]:
    """Every statement of tests/fixtures/decisions."""
    return [case.sql for case in _cases()]


def gate(sealer: Any = None) -> Gate:
    """A gate over the bank; without `sealer` sealed literals can be read."""
    return Gate(load_rules_text(RULES, "rules.yaml"), bank_catalog(), sealer or VisibleSealer())
