"""Key domains of which a login sees one column clear and another one not (ADR 0037).

Sealed values of one domain open in each of its columns. Whoever may write a column that he sees clear, and read what is stored in one that he sees
masked, can past pgveil copy a value over and read it here. Privileges can't part that: what is stored must be read to be shown masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rules.model import Column, ColumnName, Principal, Role, Rules


@dataclass(frozen=True, slots=True)
class Mixed:
    """A key domain under somebody's verdicts. `accepted`: the rules say that this is meant."""

    domain: str
    clear: tuple[ColumnName, ...]
    hidden: tuple[ColumnName, ...]
    accepted: bool


def mixed_in_role(rules: Rules, role: Role) -> tuple[Mixed, ...]:
    """The domains that a role alone sees so."""
    verdicts = {c.name: rules.role_verdict(role, c) for c in rules.protected_columns()}
    return tuple(_mixed(rules, verdicts, (role,)))


def mixed_for(rules: Rules, principal: Principal) -> tuple[Mixed, ...]:
    """The domains that a login sees so, all of its roles taken together."""
    return tuple(_mixed(rules, principal.policy.verdicts, tuple(rules.roles[name] for name in principal.roles)))


def _mixed(rules: Rules, verdicts: Mapping[ColumnName, Verdict], roles: tuple[Role, ...]) -> Iterator[Mixed]:
    for domain, columns in sorted(_domains(rules).items()):
        clear = tuple(c.name for c in columns if verdicts[c.name] is Verdict.CLEAR)
        hidden = tuple(c.name for c in columns if verdicts[c.name] is not Verdict.CLEAR)
        if clear and hidden:
            # Each role that makes the difference must mean it.
            accepted = all(domain in r.mixed_domains or _alike(rules, r, columns) for r in roles)
            yield Mixed(domain, clear, hidden, accepted)


def _alike(rules: Rules, role: Role, columns: list[Column]) -> bool:
    return len({rules.role_verdict(role, c) is Verdict.CLEAR for c in columns}) == 1


def _domains(rules: Rules) -> Mapping[str, list[Column]]:
    found: dict[str, list[Column]] = {}
    for column in rules.protected_columns():
        if column.protection is Protection.SEALED:
            found.setdefault(column.key_domain, []).append(column)
    return found
