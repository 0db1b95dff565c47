"""(Facts, rules, policy class) -> Plan | Refusal. Pure, total: every use of every protected column is either known to be right or refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rules.analyse.facts import Use
from rules.difference import REMEDY
from rules.lookups import function_of, given_by
from rules.model import (
    Column,
    ColumnName,
    PolicyClass,
    Protection,
    SealMode,
    Verdict,
    quote_ident,
    view_name,
)
from rules.plan import Edit, Plan, Reason, Refusal, ResultColumn, SealLiteral, SealParam, Touched
from rules.rights import may_insert, may_update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rules.analyse.facts import ColumnUse, Constant, Facts, LookupSite, Obstacle, Pair, RelationRef, Stored
    from rules.model import Rules, TableName

DENIED = "42501"  # insufficient_privilege
UNSUPPORTED = "0AP01"  # in the class of feature_not_supported; ADR 0034 says why not that itself
NOT_APPLIED = "55000"  # object_not_in_prerequisite_state

# Casts that change nothing of the value a sealed column gets: their type is the column's own or a plain text.
_TRANSPARENT = frozenset({"text", "varchar", "character varying", "pg_catalog.text", "pg_catalog.varchar", "unknown"})
_VARYING = frozenset({"text", "varchar", "character varying"})
# What a text is assigned to as it is.
_ASSIGNED = ("text", "varchar", "char", "bpchar")
_TEXTS = _VARYING | {"char", "character", "bpchar"}


class RefusedError(Exception):
    """Carries a refusal out of the checks; never leaves this module."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Judgement:
    """What decide needs besides the facts: the rules, the class, and what the database holds.

    `differing`: columns that the database does not hold as the rules say, and what is wrong. `views`: masking views of the class that are as
    the rules say, by the table they stand for. `canonical_type`: a type's canonical spelling, to tell that a cast is to the column's own type. `keys`: by which columns a
    look-up function of the class tells rows, for each column that has one. `told`: protected columns whose constraints tell a writer which values
    there are (unique, exclusion, foreign key).
    """

    rules: Rules
    policy: PolicyClass
    differing: Mapping[ColumnName, str]
    views: frozenset[TableName]
    view_problem: Callable[[TableName], str | None]
    canonical_type: Callable[[str], str]
    keys: Mapping[ColumnName, tuple[str, ...]] = field(default_factory=dict)
    told: frozenset[ColumnName] = frozenset()


def not_applied(problem: str, column: ColumnName, token: int | None = None) -> Refusal:
    """What the database holds is not what the rules in force take it for."""
    return Refusal(Reason.NOT_APPLIED, NOT_APPLIED, problem, hint=REMEDY, column=column, token=token)


def decide(facts: Facts, judgement: Judgement) -> Plan | Refusal:
    """What to do with a statement of these facts for a principal of this class."""
    try:
        return _Decision(facts, judgement).plan()
    except RefusedError as refused:
        return refused.refusal


class _Decision:
    def __init__(self, facts: Facts, judgement: Judgement) -> None:
        self.facts = facts
        self.judgement = judgement
        self.sites = tuple(s for s in facts.sites if self._is_lookup(s))
        self.site_tokens = {(s.column, s.token) for s in self.sites}
        self.tickets = {t for s in self.sites for t in s.constants}
        self.given = frozenset(s.column for s in facts.stored if self._is_given(s))

    def plan(self) -> Plan:
        facts = self.facts
        self._known()
        # A name that means nothing is often the consequence of a form that is not analysed, which says more.
        for obstacle in sorted(facts.obstacles, key=lambda found: found.sqlstate is not None):
            self._obstacle(obstacle)
        self._refused_columns()
        self._views()
        for stored in facts.stored:
            self._given(stored)
        target = self._target_reads()
        for use in facts.uses:
            self._use(use)
        self._pairs()
        self._united()
        self._stores()
        edits = [*target, *(e for ref in facts.relations for e in self._replace(ref))]
        literals, params, uncast = self._constants()
        edits += uncast
        edits += [e for site in self.sites for e in self._look_up(site)]
        return Plan(
            action=facts.action,
            tables=tuple(
                sorted(
                    {
                        *(r.relation for r in facts.relations if r.columns),
                        *self._written_tables(),
                        *(c.relation for c in facts.columns),
                    }
                )
            ),
            touched=self._touched(),
            edits=tuple(edits),
            literals=literals,
            params=params,
            results=self._results(),
            writes=facts.writes,
            lookups=bool(self.sites or self.given)
            or any(
                u.use is Use.EQUAL_CONSTANT and (not self._limited(u.column) or self._sealed(u.column))
                for u in facts.uses
            ),
            metered=self._metered(),
        )

    # -- look-ups (ADR 0015)

    def _is_lookup(self, site: LookupSite) -> bool:
        """Whether a comparison is to be made with the real values of a column that the role sees masked, and keeps plain."""
        column = self.judgement.rules.column(site.column)
        return (
            column is not None
            and column.protection is Protection.MASKED
            and site.column in self.judgement.policy.lookups
            and self._limited(site.column)
        )

    def _look_up(self, site: LookupSite) -> Iterable[Edit]:
        """The comparison becomes a membership test on the table's key; the constants in it become tickets."""
        keys = self.judgement.keys.get(site.column)
        if not keys:
            problem = f'there is no look-up function of column "{site.column}" for this login\'s class {self.judgement.policy.id}'
            raise RefusedError(not_applied(problem, site.column, site.token))
        function = function_of(self.judgement.policy, site.column)
        row = ", ".join(f"{quote_ident(site.qualifier)}.{quote_ident(key)}" for key in keys)
        called = f"(({row}) IN (SELECT * FROM {quote_ident(function.schema)}.{quote_ident(function.name)}("  # noqa: S608 - quoted
        before, after = (called, "))" + ")") if site.array else (called + "ARRAY[", "]::pg_catalog.text[])))")
        yield Edit(site.head[0], site.head[1], before)
        if site.tail[1] >= site.tail[0]:
            yield Edit(site.tail[0], site.tail[1], after)
        else:
            yield Edit(site.tail[1], site.tail[1], after, behind=True)

    def _metered(self) -> int:
        """How many constants look up what the role sees masked, or are given to what it may write without seeing it."""
        return len(self.tickets) + sum(
            1
            for c in self.facts.constants
            if self._gives(c) or (c.compared and self._sealed(c.column) and self._limited(c.column))
        )

    # -- values for columns that are not seen clear (ADR 0027)

    def _is_given(self, stored: Stored) -> bool:
        """Whether a value reaches a column by a rule of the role's only, and so through the function that the column's trigger asks for."""
        if stored.source == "destroyed" or stored.column not in self.judgement.policy.writes:
            return False
        compared = stored.changes or self._sealed(stored.column) or stored.column in self.judgement.told
        return compared and self._limited(stored.column)

    def _gives(self, constant: Constant) -> bool:
        return constant.column in self.given and not constant.compared

    def _giving(self, constant: Constant, column: Column) -> Iterable[Edit]:
        """The function around the constant, which is a ticket."""
        assert column.type is not None
        canonical = self.judgement.canonical_type(column.type)
        cast = "" if self._sealed(column.name) or canonical.startswith(_ASSIGNED) else f"::{_spelled(canonical)}"
        before, behind = given_by("\0", column.name).split("\0")
        yield Edit(constant.first, constant.first - 1, before)
        yield Edit(constant.last, constant.last, behind + cast, behind=True)

    # -- small questions

    def _column(self, name: ColumnName) -> Column:
        column = self.judgement.rules.column(name)
        if column is None:
            raise RefusedError(
                Refusal(
                    Reason.UNSUPPORTED,
                    UNSUPPORTED,
                    f'column "{name}" is not in the rules in force',
                    hint="Run the statement again.",
                )
            )
        return column

    def _columns_of(self, relation: TableName) -> frozenset[ColumnName]:
        table = self.judgement.rules.tables.get(relation)
        return frozenset(c.name for c in table.columns.values() if c.protected) if table is not None else frozenset()

    def _verdict(self, name: ColumnName) -> Verdict:
        return self.judgement.policy.verdict(name)

    def _sealed(self, name: ColumnName) -> bool:
        return self._column(name).protection is Protection.SEALED

    def _limited(self, name: ColumnName) -> bool:
        return self._verdict(name) is not Verdict.CLEAR

    # -- the checks, in the order in which their refusals help most

    def _known(self) -> None:
        # What the rules do not know can't be recorded either.
        unknown = {c for c in self.facts.columns if self.judgement.rules.column(c) is None}
        for name in sorted((self.facts.worked_on | unknown) & self.judgement.differing.keys()):
            raise RefusedError(not_applied(self.judgement.differing[name], name))

    def _obstacle(self, found: Obstacle) -> None:
        message = found.message if found.sqlstate else f"pgveil can't protect this statement: {found.message}"
        raise RefusedError(
            Refusal(found.reason, found.sqlstate or UNSUPPORTED, message, hint=found.hint, token=found.token)
        )

    def _refused_columns(self) -> None:
        """Columns that the role may not see at all, used in any way but being written."""
        places = {u.column: u.token for u in (*self.facts.uses, *self.facts.target_reads)}
        read = set(places) | set(self.facts.views)
        for ref in self.facts.relations:
            read |= ref.columns
        for output in self.facts.outputs or ():
            read |= output.touches
        for name in sorted(read):
            if self._verdict(name) is Verdict.REFUSED:
                raise RefusedError(
                    Refusal(
                        Reason.VERDICT,
                        DENIED,
                        f'permission denied for column "{name.column}" of table "{name.relation}"',
                        detail=f"The rules refuse it to this login (level {self._column(name).level}).",
                        hint="Name the columns that you need without it, or ask for a role that may see it.",
                        column=name,
                        token=places.get(name),
                    )
                )

    def _views(self) -> None:
        for name in sorted(self.facts.views):
            if self._limited(name) and not self._sealed(name):
                raise RefusedError(
                    Refusal(
                        Reason.UNSUPPORTED,
                        UNSUPPORTED,
                        f'a view in this statement reads column "{name}", which this login sees masked',
                        hint=f'Query the table "{name.relation}" itself: its masked columns are masked there.',
                        column=name,
                    )
                )

    def _target_reads(self) -> Iterable[Edit]:
        """Masked columns of the very table that is written: its masking view is written, if it can be."""
        uses = [
            u
            for u in self.facts.target_reads
            if (u.column, u.token) not in self.site_tokens and self._limited(u.column) and not self._sealed(u.column)
        ]
        if not uses:
            return ()
        target, use = self.facts.target, min(uses, key=lambda u: (u.token, u.column))
        unseen = next((s for s in self.facts.stored if s.changes and self._limited(s.column)), None)
        if target is None or unseen is not None:
            raise RefusedError(
                Refusal(
                    Reason.UNSUPPORTED,
                    UNSUPPORTED,
                    f'column "{use.column}" is masked for this login and can\'t be read in a statement that writes its table'
                    if unseen is None
                    else f'column "{use.column}" is masked for this login and can\'t be read in a statement that writes column "{unseen.column}"',
                    hint="Select the rows' keys first, then write by the keys; return the key columns only.",
                    column=use.column,
                    token=use.token,
                )
            )
        return self._replace(replace(target, columns=frozenset(u.column for u in uses)))

    def _use(self, use: ColumnUse) -> None:
        column = self._column(use.column)
        if column.protection is not Protection.SEALED or use.use is Use.NULL_TEST:
            return
        if use.use is Use.TEXT:
            if self._is_text(column, _VARYING):
                return
            use = replace(use, use=Use.COMPUTE)
        if self._limited(use.column):
            if (
                use.use is Use.EQUAL_CONSTANT
                and use.column in self.judgement.policy.lookups
                and column.mode is SealMode.DETERMINISTIC
            ):
                return
            raise RefusedError(masked_refusal(use.column, use.token))
        if use.use is Use.ORDER:
            self._refuse(
                Reason.ORDERING,
                use,
                "can't be ordered by the database: it is sealed",
                "Sort in the application, or order by another column.",
            )
        if use.use is Use.COMPUTE:
            self._refuse(
                Reason.COMPUTE,
                use,
                "can't be worked on by the database: it is sealed",
                "Select the column as it is; compare it with =, IN or = ANY (deterministic columns) or IS NULL.",
            )
        if column.mode is SealMode.RANDOMIZED:
            self._refuse(
                Reason.RANDOMIZED,
                use,
                "can't be compared: it is sealed randomized, so equal values differ in the database",
                "Search by another column, or declare the column `mode: deterministic` and apply the rules.",
            )

    def _refuse(self, reason: Reason, use: ColumnUse, what: str, hint: str) -> None:
        raise RefusedError(
            Refusal(reason, UNSUPPORTED, f'column "{use.column}" {what}', hint=hint, column=use.column, token=use.token)
        )

    def _pairs(self) -> None:
        for pair in self.facts.pairs:
            if (self._sealed(pair.left) or self._sealed(pair.right)) and not self._joinable(pair):
                raise RefusedError(
                    Refusal(
                        Reason.CROSS_DOMAIN,
                        UNSUPPORTED,
                        f'columns "{pair.left}" and "{pair.right}" can\'t be compared: they are not sealed under one key domain',
                        hint="Give both columns the same `domain`, `type` and `mode: deterministic` in the rules, and apply them.",
                        column=pair.left,
                        token=pair.token,
                    )
                )

    def _united(self) -> None:
        """Columns that one value may come from: it is opened, and masked, as one of the first."""
        for pair in self.facts.united:
            if not (self._sealed(pair.left) or self._sealed(pair.right)):
                continue
            one, other = self._column(pair.left), self._column(pair.right)
            shown = self._verdict(pair.left) is self._verdict(pair.right) and (
                one.mask == other.mask or not self._limited(pair.left)
            )
            if not self._joinable(pair) or not shown:
                raise RefusedError(
                    Refusal(
                        Reason.CROSS_DOMAIN,
                        UNSUPPORTED,
                        f'a value could be of column "{pair.left}" or of "{pair.right}", which are not sealed and shown alike',
                        hint="Select them as columns of their own, or give both the same `domain`, `type`, `mode`, level and `mask`.",
                        column=pair.left,
                        token=pair.token,
                    )
                )

    def _flowing(self, constant: Constant, column: Column) -> None:
        """A constant among a column's values: it will be opened as one, so that it must be what PostgreSQL would make of it."""
        if self._limited(column.name):
            raise RefusedError(
                Refusal(
                    Reason.LOOKUP,
                    DENIED,
                    f'a constant can\'t stand for a value of column "{column.name}", which this login sees masked',
                    hint="Select the column as it is, and put the constant in its place in the application.",
                    column=column.name,
                    token=constant.token,
                )
            )
        assert column.type is not None
        canonical = self.judgement.canonical_type(column.type)
        modified = _without_modifier(canonical) != canonical and not canonical.startswith(
            ("varchar", "character varying")
        )
        if constant.casts or constant.number or modified:
            raise RefusedError(
                Refusal(
                    Reason.COMPUTE,
                    UNSUPPORTED,
                    f'this constant can\'t stand for a value of sealed column "{column.name}" in the database',
                    hint="Write it as a string without a cast, or put it in its place in the application.",
                    column=column.name,
                    token=constant.token,
                )
            )

    def _is_text(self, column: Column, kinds: frozenset[str]) -> bool:
        assert column.type is not None
        return _without_modifier(self.judgement.canonical_type(column.type)) in kinds

    def _joinable(self, pair: Pair) -> bool:
        left, right = self._column(pair.left), self._column(pair.right)
        return left.protection is right.protection is Protection.SEALED and _sealed_alike(left, right)

    # -- what is stored

    def _written_tables(self) -> set[TableName]:
        return {s.column.relation for s in self.facts.stored}

    def _stores(self) -> None:
        for leak in self.facts.leaks:
            if self._sealed(leak.column) or self._limited(leak.column):
                raise RefusedError(unprotected_refusal(leak.column, leak.token))
        for copy in self.facts.copies:
            self._copy(copy)
        for stored in self.facts.stored:
            if stored.source == "other" and self._sealed(stored.column):
                raise RefusedError(
                    Refusal(
                        Reason.PLAIN_INTO_SEALED,
                        UNSUPPORTED,
                        f'column "{stored.column}" is sealed: the database would store a value that pgveil has not sealed',
                        hint="Give the value as a literal or a parameter, without a function or an expression around it.",
                        column=stored.column,
                        token=stored.token,
                    )
                )

    def _given(self, stored: Stored) -> None:
        """A value for a column that is not clear: the server would compare it (ADR 0027)."""
        column = self._column(stored.column)
        policy, told = self.judgement.policy, self.judgement.told
        if stored.source == "destroyed":
            return
        if may_update(policy, column) if stored.changes else may_insert(policy, column, told):
            if column.name in self.given and stored.source not in {"constant", "null"}:
                raise RefusedError(
                    Refusal(
                        Reason.PLAIN_INTO_SEALED,
                        UNSUPPORTED,
                        f'column "{column.name}" can be given constants and parameters only by a login that sees it {self._verdict(column.name)}',
                        hint="Give the value as a literal or a parameter, without a function or an expression around it.",
                        column=column.name,
                        token=stored.token,
                    )
                )
            return
        raise RefusedError(
            unseen(
                column.name, self._verdict(column.name), "changed" if stored.changes else "given a value", stored.token
            )
        )

    def _copy(self, copy: Pair) -> None:
        """`copy.left` gets a value of `copy.right`."""
        if copy.left == copy.right:
            return  # SET c = c, SET c = EXCLUDED.c: nobody learns anything
        into, source = self._sealed(copy.left), self._sealed(copy.right)
        if self._joinable(copy) and not self._limited(copy.right):
            return
        if source or into:
            raise RefusedError(
                Refusal(
                    Reason.CROSS_DOMAIN
                    if into and source
                    else Reason.SEALED_INTO_PLAIN
                    if source
                    else Reason.PLAIN_INTO_SEALED,
                    UNSUPPORTED,
                    f'the value of column "{copy.right}" can\'t be stored in column "{copy.left}" by the database',
                    hint="Both must be sealed under the same `domain` and `type`, and the login must see both clear; else read, then write.",
                    column=copy.left,
                    token=copy.token,
                )
            )

    # -- edits

    def _replace(self, ref: RelationRef) -> Iterable[Edit]:
        """The reference to a table becomes one to its masking view, where a column that must be masked is used."""
        read = ref.columns | (self._columns_of(ref.relation) if ref.whole else frozenset())
        masked = sorted(c for c in read if self._limited(c) and not self._sealed(c))
        if not masked:
            return
        if not ref.replaceable:
            raise RefusedError(
                Refusal(
                    Reason.UNSUPPORTED,
                    UNSUPPORTED,
                    f'column "{masked[0]}" is masked for this login: {ref.obstacle}',
                    hint="Query the whole table in plain form, or leave the masked columns out.",
                    column=masked[0],
                    token=ref.first,
                )
            )
        if ref.relation not in self.judgement.views:
            problem = self.judgement.view_problem(ref.relation) or f'there is no masking view of "{ref.relation}"'
            raise RefusedError(not_applied(problem, masked[0], ref.first))
        view = view_name(ref.relation)
        text = qualifier = f"{quote_ident(self.judgement.policy.schema)}.{quote_ident(view)}"
        if not ref.aliased and view != ref.relation.name:
            qualifier = quote_ident(ref.relation.name)
            text += f" AS {qualifier}"
        yield Edit(ref.first, ref.last, text)
        for first, last in ref.qualified:
            if not any(site.first <= first and last <= site.last for site in self.sites):
                yield Edit(first, last, qualifier)

    def _constants(self) -> tuple[tuple[SealLiteral, ...], tuple[SealParam, ...], list[Edit]]:
        """What is sealed, and edits that take the casts off sealed parameters."""
        numbers = dict(self.facts.parameters)
        literals: list[SealLiteral] = []
        params: dict[int, SealParam] = {}
        uncast: list[Edit] = []
        sealed_tokens: dict[int, set[int]] = defaultdict(set)
        for constant in self.facts.constants:
            given = self._gives(constant)
            if not (given or self._sealed(constant.column) or constant.token in self.tickets):
                continue
            column = self._column(constant.column)
            if given:
                uncast += self._giving(constant, column)
            if constant.flows:
                self._flowing(constant, column)
            if constant.text and not self._is_text(column, _TEXTS):
                raise RefusedError(
                    Refusal(
                        Reason.PLAIN_INTO_SEALED,
                        UNSUPPORTED,
                        f'a text can\'t be stored in column "{column.name}" of type {column.type}',
                        hint="Give the value as a literal or a parameter, without a function or an expression around it.",
                        column=column.name,
                        token=constant.token,
                    )
                )
            number = numbers.get(constant.token)
            self._countable(constant, column, literal=number is None)
            self._casts(constant, column)
            if number is None:
                literals.append(
                    SealLiteral(
                        constant.token,
                        constant.first,
                        constant.last,
                        column,
                        negative=constant.negative,
                        array=constant.array,
                        exact=constant.compared,
                        given=given,
                    )
                )
                continue
            if constant.first != constant.last:
                uncast.append(Edit(constant.first, constant.last, f"${number}"))
            made = SealParam(
                number,
                column,
                constant.array,
                exact=constant.compared,
                listed=constant.listed,
                cast=self._cast_to_own(constant, column),
                given=given,
            )
            sealed_tokens[number].add(constant.token)
            if number in params and not _same_sealing(params[number], made):
                self._shared_parameter(number, constant)
            if number not in params or not made.exact:
                params[number] = made
        for token, number in self.facts.parameters:
            if number in params and token not in sealed_tokens[number]:
                self._shared_parameter(
                    number, next(c for c in self.facts.constants if c.token in sealed_tokens[number])
                )
        return tuple(literals), tuple(params.values()), uncast

    def _countable(self, constant: Constant, column: Column, *, literal: bool) -> None:
        """An array constant of a look-up can't be counted before it is sealed; a parameter's elements can."""
        if constant.array and constant.compared and literal and self._limited(column.name):
            raise RefusedError(
                Refusal(
                    Reason.LOOKUP,
                    DENIED,
                    f'column "{column.name}" can\'t be looked up by an array constant',
                    hint="Write IN ('...', '...'), or give the array as a parameter.",
                    column=column.name,
                    token=constant.token,
                )
            )

    def _casts(self, constant: Constant, column: Column) -> None:
        refusal = cast_refusal(
            constant.casts, column, self.judgement.canonical_type, array=constant.array, token=constant.token
        )
        if refusal is not None:
            raise RefusedError(refusal)

    def _cast_to_own(self, constant: Constant, column: Column) -> bool:
        """Whether a cast that means the column's own type stands around the constant; the casts are known to change nothing."""
        assert column.type is not None
        own = _without_modifier(self.judgement.canonical_type(column.type))
        for cast in constant.casts:
            try:
                canonical = self.judgement.canonical_type(cast)
            except ValueError:
                canonical = cast
            if _without_modifier(canonical.removesuffix("[]") if constant.array else canonical) == own:
                return True
        return False

    def _shared_parameter(self, number: int, constant: Constant) -> None:
        raise RefusedError(
            Refusal(
                Reason.UNSUPPORTED,
                UNSUPPORTED,
                f'parameter ${number} is used for sealed column "{constant.column}" and for something else as well',
                hint="Use one parameter for the sealed column and another one for the rest.",
                column=constant.column,
                token=constant.token,
            )
        )

    # -- results and the record

    def _results(self) -> tuple[ResultColumn, ...] | None:
        if self.facts.outputs is None:
            return None
        found: list[ResultColumn] = []
        for output in self.facts.outputs:
            sealed = self._column(output.column) if output.column is not None and self._sealed(output.column) else None
            verdict = self._verdict(sealed.name) if sealed is not None else Verdict.CLEAR
            found.append(ResultColumn(sealed, verdict, output.direct, output.touches, output.modified, output.as_text))
        return tuple(found)

    def _touched(self) -> tuple[Touched, ...]:
        written = {s.column for s in self.facts.stored}
        read = self.facts.columns - written
        read |= {u.column for u in (*self.facts.uses, *self.facts.target_reads)}
        for output in self.facts.outputs or ():
            read |= output.touches
        for ref in self.facts.relations:
            read |= ref.columns
        return tuple(
            Touched(c, self._column(c).level, self._verdict(c), c in read, c in written)
            for c in sorted(self.facts.columns)
        )


def unseen(name: ColumnName, seen: Verdict, what: str, token: int | None) -> Refusal:
    """A column that is not seen clear would get a value."""
    return Refusal(
        Reason.ORACLE,
        DENIED,
        f'column "{name}" can\'t be {what} by a login that sees it {seen}: the server would compare the value with what is there',
        hint="Leave the column out, or allow the role `write: values` on it in the rules.",
        column=name,
        token=token,
    )


def masked_refusal(column: ColumnName, token: int | None) -> Refusal:
    """A sealed column is searched or worked on by somebody who sees it masked."""
    return Refusal(
        Reason.LOOKUP,
        DENIED,
        f'column "{column}" can\'t be searched, compared, grouped or worked on by a login that sees it masked',
        hint="Select the column as it is, or search by another column.",
        column=column,
        token=token,
    )


def unprotected_refusal(column: ColumnName, token: int | None) -> Refusal:
    """A value would come to lie where nothing protects it."""
    return Refusal(
        Reason.SEALED_INTO_PLAIN,
        UNSUPPORTED,
        f'the value of column "{column}" would be stored where the rules do not protect it',
        hint="Store it in a column that the rules seal under the same domain, or leave it out.",
        column=column,
        token=token,
    )


def cast_refusal(
    casts: Iterable[str], column: Column, canonical_type: Callable[[str], str], *, array: bool, token: int
) -> Refusal | None:
    """Why a constant or parameter under these casts can't be sealed for a column; None where they change nothing of its value."""
    assert column.type is not None
    own = canonical_type(column.type + ("[]" if array else ""))
    for cast in casts:
        try:
            canonical = canonical_type(cast)
        except ValueError:
            canonical = cast
        element = canonical.removesuffix("[]") if array else canonical
        if canonical == own or element in _TRANSPARENT:
            continue
        if _without_modifier(element) == _without_modifier(canonical_type(column.type)) and "(" not in element:
            continue
        return Refusal(
            Reason.PLAIN_INTO_SEALED,
            UNSUPPORTED,
            f'the cast to {cast} can\'t be made before the value is sealed for column "{column.name}"',
            hint=f"Leave the cast out, or cast to the column's own type: {column.type}.",
            column=column.name,
            token=token,
        )
    return None


def _same_sealing(one: SealParam, other: SealParam) -> bool:
    return (one.array, one.given) == (other.array, other.given) and _sealed_alike(one.column, other.column)


def _sealed_alike(one: Column, other: Column) -> bool:
    """Whether two sealed columns hold the same text for the same value, as far as the rules say: one domain, one type, one mode."""
    return one.key_domain == other.key_domain and one.type == other.type and one.mode is other.mode


def _spelled(canonical: str) -> str:
    """A type as a cast names it, without a modifier that would cut a value."""
    return _without_modifier(canonical.removeprefix("enum "))


def _without_modifier(name: str) -> str:
    return name.split("(", 1)[0]
