"""What pgveil would do about a statement, as a value without any constant of the statement in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from proxy.estimates import estimate
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, NeedNames, NeedSettings, Pass, Refuse
from proxy.session.judging import SETTINGS_UNKNOWN
from rules.lexer import LexError, lex
from rules.model import Protection, Verdict
from rules.plan import Reason

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from proxy.session.gate import Decision, Judge
    from rules.catalog import Catalog
    from rules.model import ColumnName, Principal
    from rules.plan import Plan, Refusal

MAX_SHAPE: Final = 4096  # characters of a shape that are kept; enough to recognise any hand-written statement
NOT_UNDERSTOOD: Final = "(a text that was not understood)"

_REPEATED_ROWS: Final = re.compile(r"(\( (?:'s'|n's'|b's'|0|\$[0-9]+|default|null|true|false|[ ,-])+ \))(?: , \1)+")
_CONSTANT: Final = r"(?:n's'|b's'|'s'|- 0|0|\$[0-9]+)"
_LONG_LIST: Final = re.compile(rf"\b(in|array) ([(\[]) ({_CONSTANT})(?: , {_CONSTANT})+ ([)\]])")
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')
# Of these the message is made of what the client sent.
_SPEAKS_OF_VALUES: Final = frozenset({Reason.BAD_VALUE, Reason.DAMAGED})


class Outcome(StrEnum):
    """What would become of a statement."""

    REFUSED = "refused"
    BY_MASK = "by_mask"  # it would run, and its conditions would meet masks: it finds by these alone
    COMPUTED = "computed"  # pgveil would fetch rows, open them, and compute: within its limits, else SQLSTATE 54000
    CHANGED = "changed"  # it would run, with values sealed, opened or masked
    RECORDED = "recorded"  # it would run as it came, with an audit record
    PASSES = "passes"  # it touches nothing protected


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What would become of one statement shape for one login, under one version of the rules.

    `shape`: the normalised text, '' of what was not understood. `roles`: of the rules, which the login holds. `reason` to `hint`: of a
    refusal. `effects`: what would be done to it, of one that would be changed.
    """

    outcome: Outcome
    shape: str
    login: str
    roles: tuple[str, ...]
    policy: str
    database: str
    rules: str
    reason: str | None = None
    sqlstate: str | None = None
    message: str | None = None
    hint: str | None = None
    effects: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The metric's label: a refusal's reason, or the outcome."""
        return self.reason or self.outcome.value


@dataclass(frozen=True, slots=True)
class Place:
    """Where and by what is judged: the catalog, the rules' version, and the catalog's names.

    `limit`: rows that may be fetched to compute one statement.
    """

    catalog: Catalog
    rules: str
    names: frozenset[str]
    limit: int | None = None

    @property
    def database(self) -> str:
        """Its name."""
        return self.catalog.database


def finding(decision: Decision, principal: Principal, judge: Judge, place: Place, *, shape: str = "") -> Finding:
    """What a decision says. Whatever stands in double quotes and is no name of the catalog is left out of messages.

    `shape`: the text's own, where the decision has none (a Pass).
    """
    if isinstance(decision, NeedNames):
        decision = decision.otherwise
    if isinstance(decision, NeedSettings):
        decision = Refuse(SETTINGS_UNKNOWN)
    outcome, refusal = Outcome.PASSES, None
    effects: tuple[str, ...] = ()
    if isinstance(decision, Compute):
        shape, outcome = decision.shape, Outcome.COMPUTED
        effects = _of_compute(decision, judge, place)
    elif isinstance(decision, Write):
        shape, outcome = decision.shape, Outcome.COMPUTED
        effects = (
            *_of_compute(decision.source, judge, place),
            *_of_plans(decision.apply.plans, judge),
            "computes values before they are written",
        )
    elif isinstance(decision, Refuse):
        outcome, refusal = Outcome.REFUSED, decision.refusal
        shape = decision.shape or shape
    elif isinstance(decision, Admit):
        shape = decision.shape
        effects = _of_plans(decision.plans, judge)
        outcome = Outcome.CHANGED if effects else Outcome.RECORDED
        if any(plan is not None and plan.by_mask for plan in decision.plans):
            outcome = Outcome.BY_MASK
    return Finding(
        outcome,
        compact(shape),
        principal.login,
        principal.roles,
        principal.policy.id,
        place.database,
        place.rules,
        None if refusal is None else refusal.reason.value,
        None if refusal is None else refusal.sqlstate,
        None if refusal is None else message_of(refusal, place.names),
        None if refusal is None or refusal.hint is None else _without_foreign(refusal.hint, place.names),
        effects,
    )


def compact(shape: str) -> str:
    """A shape with lists of constants, and repeated rows of them, cut to their first: one shape, however long the list."""
    shorter = _LONG_LIST.sub(r"\1 \2 \3 , ... \4", shape)
    shorter = _REPEATED_ROWS.sub(r"\1 , ...", shorter)
    return shorter if len(shorter) <= MAX_SHAPE else shorter[: MAX_SHAPE - 3] + "..."


def message_of(refusal: Refusal, names: Container[str]) -> str:
    """A refusal's message without anything that the client wrote, but names that the catalog knows."""
    if refusal.reason in _SPEAKS_OF_VALUES:
        column = "a sealed column" if refusal.column is None else f'column "{refusal.column}"'
        return f"a constant is no value of {column}"
    return _without_foreign(refusal.message, names)


def _without_foreign(text: str, names: Container[str]) -> str:
    def kept(match: re.Match[str]) -> str:
        known = match[1] in names or all(_unquoted(part) in names for part in match[1].split("."))
        return match[0] if known else '"?"'

    return _QUOTED.sub(kept, text)


def _unquoted(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _of_plans(plans: Iterable[Plan | None], judge: Judge) -> tuple[str, ...]:
    return tuple(sorted({e for plan in plans if plan is not None for e in _effects(plan, judge)}))


def _of_compute(decision: Compute, judge: Judge, place: Place) -> tuple[str, ...]:
    """What is fetched, as far as conditions go with it, and computed on. How much that is, only where it is more than may be."""
    plans = [plan for leaf in decision.leaves for plan in leaf.fetch.plans]
    fetched = [f"fetches {' '.join(compact(_shape_of(leaf.fetch)).split())}" for leaf in decision.leaves]
    masks = {
        f"computes on masks of {result.open.name}"
        for plan in plans
        if plan is not None
        for result in plan.results or ()
        if result.open is not None and result.verdict is not Verdict.CLEAR
    }
    sizes = [estimate(leaf.fetch, place.catalog) for leaf in decision.leaves]
    large = [f"reads {s.text(place.limit)}" for s in sizes if s is not None and place.limit and s.rows > place.limit]
    return (*_of_plans(plans, judge), *fetched, *large, *sorted(masks), "computes on opened values")


def _shape_of(fetch: Admit) -> str:
    """The shape of a text of ours."""
    try:
        return lex(fetch.text.decode()).shape
    except (UnicodeDecodeError, LexError):
        return NOT_UNDERSTOOD


def _effects(plan: Plan, judge: Judge) -> Iterable[str]:
    """What would be done, in words."""
    for literal in plan.literals:
        yield f"seals constants for {literal.column.name}"
    for param in plan.params:
        yield f"seals parameters for {param.column.name}"
    copied = () if plan.copy is None else plan.copy.results
    for column in () if plan.copy is None else plan.copy.columns:
        if column.sealed is not None:
            yield f"seals values of {column.sealed.name}"
    for result in (*(plan.results or ()), *copied):
        if result.open is not None:
            masks = "" if result.verdict is Verdict.CLEAR else " and masks"
            yield f"opens{masks} {result.open.name}"
    masked = [
        t.column for t in plan.touched if t.read and t.verdict is not Verdict.CLEAR and _is_plain(t.column, judge)
    ]
    for name in masked:
        yield f"masks {name}"
    for name in plan.by_mask:
        yield f"finds by masks of {name} only"
    if plan.edits and not masked and not plan.literals and not plan.params:
        yield "changes the text"


def _is_plain(name: ColumnName, judge: Judge) -> bool:
    column = judge.column(name)
    return column is not None and column.protection is Protection.MASKED


def as_pass(decision: Pass | Admit | Compute | Write | Refuse) -> Pass:
    """What the session is told instead of a decision, where the text is to run as it came."""
    if isinstance(decision, Pass):
        return replace(decision, instead=None)
    if isinstance(decision, Compute | Write):
        return Pass()
    if isinstance(decision, Refuse):
        return Pass(decision.unsettles, decision.ddl, decision.statements)
    return Pass(decision.unsettles, decision.ddl, len(decision.plans), names=decision.names, by_name=decision.by_name)
