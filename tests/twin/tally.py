"""Counts of outcomes by role, and the report of `make twin`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.twin.compare import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Tally:
    """What became of many statements. `unexpected`: outcomes that are not what their source said they should be;
    `pending`: refusals among those that are known.
    """

    run: Counter[str] = field(default_factory=Counter)
    identical: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    different: list[tuple[str, Outcome]] = field(default_factory=list)
    canaries: list[tuple[str, Outcome]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines of the source's own for the report."""

    def add(self, outcome: Outcome, label: str = "") -> None:
        """Count one. `label`: where the statement is from."""
        self.run[outcome.role] += 1
        if outcome.canaries:
            self.canaries.append((label, outcome))
        if outcome.verdict is Verdict.SAME:
            self.identical[outcome.role] += 1
        elif outcome.verdict is Verdict.REFUSED:
            self.refused.setdefault(outcome.role, Counter())[outcome.reason] += 1
        else:
            self.different.append((label, outcome))

    def extend(self, outcomes: Iterable[Outcome], label: str = "") -> None:
        """Count several."""
        for outcome in outcomes:
            self.add(outcome, label)

    @property
    def ok(self) -> bool:
        """Nothing differs, no canary was seen, nothing came unexpected."""
        return not self.different and not self.canaries and not self.unexpected

    def refused_share(self, role: str) -> float:
        """The part of a role's statements that was refused."""
        return self.refused.get(role, Counter()).total() / self.run[role] if self.run[role] else 0.0

    def report(self, title: str) -> str:
        """Lines for people: per role the counts, then what is wrong."""
        lines = [title]
        for role in self.run:
            refused = self.refused.get(role, Counter())
            reasons = ", ".join(f"{reason} {count}" for reason, count in refused.most_common())
            different = sum(o.role == role for _, o in self.different)
            canaries = sum(o.role == role for _, o in self.canaries)
            counts = f"statements run {self.run[role]}, identical {self.identical[role]}, refused {refused.total()}"
            lines.append(f"  {role:8} {counts} ({self.refused_share(role):.1%}){': ' + reasons if reasons else ''}")
            lines.append(f"  {'':8} different {different}, canaries seen {canaries}")
        lines += [f"  {line}" for line in self.notes]
        lines += [f"  DIFFERENT {label} {describe(o)}" for label, o in self.different]
        lines += [f"  CANARY {label} {describe(o)}" for label, o in self.canaries]
        lines += [f"  UNEXPECTED {line}" for line in self.unexpected]
        lines += [f"  pending {line}" for line in self.pending]
        return "\n".join(lines)


def describe(outcome: Outcome) -> str:
    """One outcome in a line: role, mode, statement, and what was found."""
    text = " ".join(outcome.sql.split())
    found = "; ".join((*outcome.differences, *(f"canary {c!r}" for c in outcome.canaries)))
    return f"[{outcome.role} {outcome.mode}] {text} -- {outcome.reason or found} {outcome.message}".rstrip()
