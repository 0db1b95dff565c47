"""Which columns of a relation a part of the text uses, by name: never fewer than it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from rules.split.text import Text


@dataclass(slots=True)
class Used:
    """What is used of a relation. `everything`: `relation.*`; `row`: its name stands where a value does."""

    bare: set[str] = field(default_factory=set)
    qualified: set[str] = field(default_factory=set)
    everything: bool = False
    row: bool = False

    @property
    def columns(self) -> set[str]:
        """Columns by name."""
        return self.bare | self.qualified


def used(text: Text, name: str, columns: Collection[str], indexes: Iterable[int]) -> Used:
    """What the tokens `indexes` use of the relation that is called `name` and has `columns`."""
    found = Used()
    for index in indexes:
        if index in text.relation_tokens or not text.is_name(index):
            continue
        value, before, after = text.value(index), text.value(index - 1), text.value(index + 1)
        if before == ".":
            if text.value(index - 2) in {name, ")"} and value in columns:
                found.qualified.add(value)
        elif value == name and after == ".":
            found.everything |= text.value(index + 2) == "*"
        elif after == ".":
            continue
        elif value in columns and not (before == "as" and text.token(index - 1).kind is Kind.WORD):
            found.bare.add(value)
        elif value == name and before != "as" and after != "(":
            found.row = True
    return found
