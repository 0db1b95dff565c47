"""Whether the rules load, fit the database, and are what holds there."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from doctor.facts import known
from doctor.model import Check, Found, Group, Severity, listed
from lifecycle.apply.model import Kind
from rules.problems import Severity as ProblemSeverity
from rules.protect import ProtectionMap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts
    from rules.problems import Problem

# What others of our checks say with their own words, and apply as a warning.
_KINDS: Final = {
    Kind.KEY: "data keys are not made",
    Kind.GROUND: "pgveil's own objects are not as apply makes them",
    Kind.FOREIGN_KEY: "foreign keys have to be made again",
    Kind.SEAL: "columns are not sealed as the rules say",
    Kind.VIEW: "masking views are absent or changed",
    Kind.LOOKUP: "look-up functions are absent or changed",
    Kind.REVOKE: "privileges are held that the rules take away",
    Kind.GRANT: "privileges are not held that the rules leave",
    Kind.RECORD: "the record of what is applied is absent, or says something else than the rules",
    Kind.DROP: "objects are there that the rules need no more",
}
_HARMLESS: Final = frozenset({Kind.GRANT, Kind.DROP})


def _load(facts: Facts) -> Iterator[Found]:
    for problem in facts.rules_problems:
        yield _problem(problem)


def _agree(facts: Facts) -> Iterator[Found]:
    for problem in known(facts.agreement):
        yield _problem(problem)


def _problem(problem: Problem) -> Found:
    severity = Severity.BAD if problem.severity is ProblemSeverity.ERROR else Severity.WARNING
    place = f"{problem.file}:{problem.line}:{problem.column}"
    return Found(severity, place, problem.message, problem.fix or f"correct {problem.file}, line {problem.line}")


def _pending(facts: Facts) -> Iterator[Found]:
    plan = known(facts.database.plan)
    for kind, changes in groupby(sorted(plan.changes, key=lambda c: c.kind), key=lambda c: c.kind):
        objects = dict.fromkeys(f"{c.object} ({c.what})" for c in changes)
        yield Found(
            Severity.WARNING if kind in _HARMLESS else Severity.BAD,
            kind,
            f"{_KINDS[kind]}: {listed(objects)}",
            _apply(facts),
        )
    if plan.later:
        objects = dict.fromkeys(f"{c.object} ({c.what})" for c in plan.later)
        yield Found(
            Severity.WARNING,
            "later",
            f"what other rules need is still there, as {', '.join(plan.serving)} serves them: {listed(objects)}",
            "reload that pgveil, then " + _apply(facts),
        )


def _apply(facts: Facts) -> str:
    return f"pgveil apply --reload --config {facts.config.file} --database {facts.url}"


def _recorded(facts: Facts) -> Iterator[Found]:
    protection = ProtectionMap(facts.rules, facts.database.state.catalog)
    for problem in protection.not_served:
        yield Found(Severity.BAD, "record", problem, _apply(facts))


def _obstacles(facts: Facts) -> Iterator[Found]:
    for obstacle in known(facts.database.plan).obstacles:
        yield Found(Severity.BAD, obstacle.object, obstacle.problem, obstacle.fix)


CHECKS: Final = (
    Check(
        "rules-load",
        Group.RULES,
        "The rules file loads without an error or a warning",
        "A file that does not load protects nothing new: a pgveil that runs goes on by the last one that did, and one that starts does not start.",
        _load,
    ),
    Check(
        "rules-agree",
        Group.RULES,
        "The rules name what the database has, and leave out nothing that looks like customer information",
        "A column that is misspelt in the rules, or left out, is shown to everybody whom PostgreSQL lets read it.",
        _agree,
    ),
    Check(
        "apply-pending",
        Group.RULES,
        "`pgveil apply` has nothing to do: views, privileges, domains and functions are as the rules say",
        "Until apply has run, logins hold what the rules take from them, and masks changed by hand show what their author liked.",
        _pending,
    ),
    Check(
        "applied-record",
        Group.RULES,
        "The database's record of what is applied says what the rules say",
        "pgveil serves nothing that differs from it: columns sealed otherwise, or unknown to the rules, masking views that somebody else made.",
        _recorded,
    ),
    Check(
        "apply-obstacle",
        Group.RULES,
        "Nothing is in the way of `pgveil apply`",
        "With an obstacle apply changes nothing at all, so later changes of rules, logins and tables stay without effect.",
        _obstacles,
    ),
)
