"""Every check, and what they say of one system, as one report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from doctor import (
    acceptance,
    check_access,
    check_host,
    check_keys,
    check_live,
    check_logins,
    check_network,
    check_objects,
    check_reach,
    check_rules,
    check_server,
)
from doctor.model import Check, Finding, Group, NotChecked, Severity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from doctor.facts import Facts
    from doctor.model import Acceptance, Found

# Judged over the findings, not over facts.
_ACCEPTANCE: Final = Check(acceptance.CODE, Group.RULES, acceptance.TITLE, acceptance.WHY, lambda _: ())
CHECKS: Final = (
    *check_rules.CHECKS,
    _ACCEPTANCE,
    *check_logins.CHECKS,
    *check_objects.CHECKS,
    *check_reach.CHECKS,
    *check_access.CHECKS,
    *check_server.CHECKS,
    *check_keys.CHECKS,
    *check_host.CHECKS,
    *check_network.CHECKS,
    *check_live.CHECKS,
)
CODES: Final = frozenset(check.code for check in CHECKS)
FORM: Final = 1
"""Of the JSON document: a new number where what it says changes its meaning; keys may be added without."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, in the order of the checks, the worst first within each. `reached`: whether there was a database to look at."""

    findings: tuple[Finding, ...]
    database: str
    config: str
    time: str
    reached: bool

    @property
    def well(self) -> bool:
        """Whether nothing bad and no warning is left that nobody has accepted."""
        return not any(f.counts for f in self.findings)

    def counts(self) -> dict[str, int]:
        """Findings by severity, accepted ones by themselves, and those that could not be looked at among the warnings."""
        found = Counter("accepted" if f.accepted is not None else f.severity.value for f in self.findings)
        return {name: found[name] for name in (*(s.value for s in Severity), "accepted")}

    def document(self) -> dict[str, Any]:
        """For `--json` (docs/doctor.md, "For programs")."""
        return {
            "form": FORM,
            "well": self.well,
            "time": self.time,
            "config": self.config,
            "database": self.database,
            "counts": self.counts(),
            "findings": [_document(f) for f in self.findings],
        }


def examine(
    facts: Facts,
    *,
    database: str,
    acceptances: Iterable[Acceptance] = (),
    only: Collection[str] = (),
    skip: Collection[str] = (),
) -> Report:
    """Run the checks (`only` these, or all but `skip`)."""
    chosen = [c for c in CHECKS if (not only or c.code in only) and c.code not in skip]
    codes = {c.code for c in chosen}
    found = [finding for check in chosen for finding in _run(check, facts)]
    judged = acceptance.accept(
        found,
        [a for a in acceptances if a.code in codes],
        facts.now.date(),
        str(facts.config.doctor.accepted),
    )
    if any(f.code == acceptance.CODE and f.severity is not Severity.OK for f in judged):
        judged = tuple(f for f in judged if f.code != acceptance.CODE or f.severity is not Severity.OK)
    if acceptance.CODE not in codes:
        judged = tuple(f for f in judged if f.code != acceptance.CODE)
    order = {c.code: n for n, c in enumerate(CHECKS)}
    ordered = sorted(judged, key=lambda f: (order[f.code], f.severity.rank))
    return Report(
        tuple(ordered),
        database,
        str(facts.config.file),
        facts.now.isoformat(timespec="seconds"),
        not facts.unreached,
    )


def _run(check: Check, facts: Facts) -> Iterator[Finding]:
    """What a check says; one that can't look is a warning, since nobody knows whether all is well."""
    found: dict[Found, None] = {}
    unchecked = None
    try:
        for each in check.look(facts):
            found[each] = None
    except NotChecked as reason:
        unchecked = reason
    for each in found:
        yield _finding(check, each)
    if unchecked is not None:
        text = f"not checked: {unchecked}"
        yield Finding(check.code, check.group, Severity.WARNING, "", text, check.why, unchecked.fix, checked=False)
    elif not found:
        yield Finding(check.code, check.group, Severity.OK, "", check.title, check.why, "")


def _finding(check: Check, found: Found) -> Finding:
    return Finding(check.code, check.group, found.severity, found.object, found.text, check.why, found.fix)


def _document(finding: Finding) -> dict[str, Any]:
    accepted = finding.accepted
    return {
        "code": finding.code,
        "group": finding.group.value,
        "severity": finding.severity.value,
        "checked": finding.checked,
        "object": finding.object,
        "found": finding.text,
        "why": finding.why,
        "fix": finding.fix,
        "accepted": None
        if accepted is None
        else {"reason": accepted.reason, "by": accepted.by, "until": accepted.until},
    }
