"""The search for what must not be seen: every protected value of the bank, to be looked for in what a person was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rules.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.demo.bank import Bank
    from rules.model import ColumnName, PolicyClass, Rules

# The mask of a birth date is a date that can be somebody's own.
_NOT_UNIQUE: Final = "birth_date"


class Secrets:
    """The bank's protected values. Each is unique, and none occurs inside another, so a hit is a leak."""

    def __init__(self, rules: Rules, bank: Bank) -> None:
        self._values: Mapping[ColumnName, tuple[str, ...]] = {
            c.name: _texts(bank.tables[c.name.table].column(c.name.column))
            for c in rules.protected_columns()
            if c.name.column != _NOT_UNIQUE
        }

    def leaked(self, policy: PolicyClass, text: str) -> tuple[ColumnName, ...]:
        """The columns that the class does not see clear and of which a value occurs in `text`."""
        return tuple(
            column
            for column, values in self._values.items()
            if policy.verdict(column) is not Verdict.CLEAR and any(value in text for value in values)
        )

    @property
    def count(self) -> int:
        """How many values are looked for."""
        return sum(map(len, self._values.values()))


def _texts(values: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(v.hex() if isinstance(v, bytes) else str(v) for v in dict.fromkeys(values) if v is not None)
