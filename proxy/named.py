"""Judgement of statements that run what a session's names stand for: EXECUTE by what was prepared, FETCH by what was declared.

A name's plan is remembered by the session (`proxy.session.names`) or was made by a statement before in the same text; here it becomes the plan of the
statement that uses the name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from keys.types import TypeSpecError, parse_type
from rules.analyse.arguments import constants, is_element
from rules.analyse.constants import spelling
from rules.decide import DENIED, UNSUPPORTED, cast_refusal
from rules.named import NameUse
from rules.plan import Action, Edit, Plan, Reason, Refusal, SealLiteral

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Known, Names
    from rules.classify import Classified
    from rules.lexer import Lexed
    from rules.named import Named
    from rules.plan import SealParam

# PREPARE takes no notice of the modifiers of the types that it declares.
_MODIFIER = re.compile(r"\([0-9, ]*\)")
_PLAIN = {False: "pg_catalog.text", True: "pg_catalog.text[]"}


class NamesInText:
    """The names as the statements of one text find them: those of the session, and what the statements before have made or dropped."""

    def __init__(self, names: Names | None) -> None:
        self._known = {
            NameUse.EXECUTES: dict(names.prepared if names else {}),
            NameUse.FETCHES: dict(names.cursors if names else {}),
        }
        self._settled: dict[NameUse, set[str]] = {NameUse.EXECUTES: set(), NameUse.FETCHES: set()}
        self.asked: dict[NameUse, set[str]] = {NameUse.EXECUTES: set(), NameUse.FETCHES: set()}

    def find(self, named: Named) -> Known | None:
        """What a name that is used stands for; None where that is not known."""
        assert named.name is not None
        if named.name not in self._settled[named.use]:
            self.asked[named.use].add(named.name)
        return self._known[named.use].get(named.name)

    def change(self, named: Named, known: Known) -> None:
        """A statement made or dropped a name."""
        use = NameUse.EXECUTES if named.use is NameUse.PREPARES else NameUse.FETCHES
        if named.use in (NameUse.PREPARES, NameUse.DECLARES):
            assert named.name is not None
            self._known[use][named.name] = known
            self._settled[use].add(named.name)

    def used(self) -> bool:
        """Whether names of the session were asked for."""
        return any(self.asked.values())


def prepared(lexed: Lexed, named: Named, plan: Plan, canonical: Callable[[str], str]) -> Plan | Refusal:
    """The plan of PREPARE, from that of the statement which it prepares: sealed parameters become texts."""
    edits = list(plan.edits)
    for param in plan.params:
        if param.number > len(named.parts):
            continue
        first, last = named.parts[param.number - 1]
        declared_type = _MODIFIER.sub("", spelling(lexed, first, last))
        refusal = cast_refusal((declared_type,), param.column, canonical, array=param.array, token=first)
        if refusal is not None:
            return refusal
        edits.append(Edit(first, last, _PLAIN[param.array]))
    later = replace(plan, edits=(), literals=())
    return Plan(Action.OTHER, edits=tuple(edits), literals=plan.literals, later=later)


def declared(plan: Plan) -> Plan:
    """The plan of DECLARE, from that of the cursor's query."""
    return replace(plan, results=None, later=replace(plan, edits=(), literals=(), params=()))


def declared_types(lexed: Lexed, named: Named) -> tuple[int, ...]:
    """The OIDs of the types that PREPARE declares; 0 for those that pgveil does not know."""
    found = []
    for first, last in named.parts:
        try:
            found.append(parse_type(spelling(lexed, first, last)).oid)
        except TypeSpecError:
            found.append(0)
    return tuple(found)


def execution(lexed: Lexed, part: Classified, plan: Plan, canonical: Callable[[str], str]) -> Plan | Refusal:
    """The plan of EXECUTE (`plan`: of what it executes): arguments for sealed parameters are sealed where they stand."""
    assert part.named is not None
    literals: list[SealLiteral] = []
    for param in plan.params:
        if param.number <= len(part.named.parts):
            found = _argument(lexed, part.named.parts[param.number - 1], param, canonical)
            if isinstance(found, Refusal):
                return found
            literals += found
    if plan.metered and any(literal.array for literal in literals):
        return Refusal(
            Reason.LOOKUP,
            DENIED,
            "an array constant can't be looked up by a login that sees the column masked",
            hint="Write the argument as ARRAY['...', '...'].",
            token=part.named.token,
        )
    counted = max(plan.metered, len(literals)) if plan.metered else 0
    made = replace(plan, edits=(), literals=tuple(literals), params=(), metered=counted)
    if not part.wrapped:
        return made
    opened = next((r.open for r in plan.results or () if r.open is not None), None)
    if part.wrapped == "create" and opened is not None:
        return Refusal(
            Reason.SEALED_INTO_PLAIN,
            UNSUPPORTED,
            f'the value of column "{opened.name}" would be stored where the rules do not protect it',
            hint="Store it in a column that the rules seal under the same domain, or leave it out.",
            column=opened.name,
            token=part.named.token,
        )
    return replace(made, results=None, action=Action.DDL if part.wrapped == "create" else made.action)


def _argument(
    lexed: Lexed, part: tuple[int, int], param: SealParam, canonical: Callable[[str], str]
) -> list[SealLiteral] | Refusal:
    extents = constants(lexed, part, array=param.array)
    if extents is None:
        return Refusal(
            Reason.PLAIN_INTO_SEALED,
            UNSUPPORTED,
            f'argument {param.number} is for sealed column "{param.column.name}", and the database would compute it',
            hint="Give a constant as the argument, without a function or an expression around it.",
            column=param.column.name,
            token=part[0],
        )
    literals = []
    for extent in extents:
        array = param.array and not is_element(lexed, part, extent)
        refusal = cast_refusal(tuple(extent.casts), param.column, canonical, array=array, token=extent.token)
        if refusal is not None:
            return refusal
        literals.append(
            SealLiteral(
                extent.token,
                extent.first,
                extent.last,
                param.column,
                negative=extent.negative,
                array=array,
                exact=param.exact,
                given=param.given,
            )
        )
    return literals


def unknown_statement(named: Named) -> Refusal:
    """EXECUTE of what pgveil has not seen prepared: its arguments could meet sealed columns."""
    return Refusal(
        Reason.UNSUPPORTED,
        "26000",
        f'prepared statement "{named.name}" does not exist',
        "pgveil knows the statements that this session has prepared, but for those that a function or a DO block has.",
        "Prepare it with PREPARE or by the protocol.",
        token=named.token,
    )


def unknown_to_unfenced(token: int) -> Refusal:
    """The same by a login that privileges can't fence, or a FETCH by one."""
    return Refusal(
        Reason.UNFENCED,
        DENIED,
        "privileges can't fence this login, and pgveil does not know what the name stands for",
        hint="Prepare or declare it in a statement of this session, not in a function; or use a login that privileges keep out.",
        token=token,
    )
