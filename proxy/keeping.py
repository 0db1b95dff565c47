"""Masks written back, judged: an UPDATE that may be one of a whole object, in whose columns are the masks that they show (ADR 0027)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.session.computing import KEEP, Compute, Constant, Kept, Leaf, Write
from proxy.session.gate import Admit, OffsetMap, Pass
from rules.analyse import AmbiguousNameError, ParseError, analyse
from rules.decide import unseen
from rules.encodings import EncodingError, decode_sql, encode_sql
from rules.lexer import Kind, lex, literal_value
from rules.lookups import given_by
from rules.model import Protection, Verdict
from rules.plan import Action, Plan, ResultColumn
from rules.rights import may_update
from rules.split import Shown, leaf_name, propose_keep

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Decision, Settings
    from rules.analyse import Protected
    from rules.lexer import Lexed
    from rules.model import ColumnName, PolicyClass, Rules
    from rules.split import KeepText


class Keeping:
    """Makes one such statement. `judge`: the decision on a text of ours, for the same principal, under the same settings; `allow`: on the one that
    writes, which may give values that are counted. `written`: columns that may be changed without being seen can keep their values, too.
    """

    def __init__(
        self,
        lexed: Lexed,
        settings: Settings,
        judge: Callable[[bytes], Decision],
        allow: Callable[[bytes], Decision],
        rules: Rules,
        policy: PolicyClass,
        database: Protected,
        *,
        written: bool,
    ) -> None:
        self._lexed = lexed
        self._settings = settings
        self._judge = judge
        self._allow = allow
        self._written = written
        self._rules = rules
        self._policy = policy
        self._database = database

    def write(self, statement: tuple[int, int], shape: str, generation: int) -> Write | None:
        """What to ask first, and what to run then; None where it can't be done so."""
        path = self._settings.search_path
        try:
            found = propose_keep(self._lexed, statement, self._database, path, self._shown_as)
            return None if found is None else self._made(found, shape, generation)
        except (ParseError, AmbiguousNameError, EncodingError):
            return None

    def _shown_as(self, name: ColumnName) -> Shown | None:
        column = self._rules.column(name)
        if column is None or self._policy.verdict(name) is Verdict.CLEAR:
            return None
        if may_update(self._policy, column):
            # What is kept plain its trigger keeps.
            sealed = column.protection is Protection.SEALED and self._policy.verdict(name) is Verdict.MASKED
            return Shown.WRITTEN if sealed and self._written else None
        if column.protection is Protection.SEALED:
            return Shown.BY_PGVEIL
        nothing = column.mask is None or column.mask.kind == "null"
        return Shown.NOTHING if nothing or self._policy.verdict(name) is Verdict.REFUSED else Shown.BY_SERVER

    def _made(self, found: KeepText, shape: str, generation: int) -> Write | None:
        fetch, apply = self._fetch(found.fetch, shape, generation), self._apply(found, shape, generation)
        if fetch is None or apply is None or not found.values:
            return None
        kept, parameters = self._kept(found), found.first - 1
        action = Action.UPDATE if found.rows is None else Action.INSERT
        columns = tuple(
            f"c{i}" for i in range(sum(1 + value.chosen for value in found.values) + (found.rows is not None))
        )
        source = Compute(
            leaves=(Leaf(leaf_name(0), columns, fetch),),
            together=None,
            text="",
            with_at=0,
            with_before="",
            with_after="",
            offsets=OffsetMap(),
            parameters=parameters,
            action=action,
            shape=shape,
            generation=generation,
            positions=False,
        )
        return Write(
            source=source,
            apply=apply,
            first=found.first,
            many=None,
            targets=tuple(k.column for k in kept if k.writes for _ in k.constants),
            returning=None,
            parameters=parameters,
            action=action,
            shape=shape,
            generation=generation,
            kept=kept,
            rows=found.rows,
        )

    def _kept(self, found: KeepText) -> tuple[Kept, ...]:
        kept = []
        what = "changed" if found.rows is None else "given a value"
        for value in found.values:
            refusal = unseen(value.column, self._policy.verdict(value.column), what, None)
            column = self._rules.column(value.column) if value.constants else None
            constants = tuple(self._constant(*each) for each in value.constants)
            kept.append(Kept(refusal, column, constants, value.chosen, value.reference is not None))
        return tuple(kept)

    def _constant(self, at: int | None, negative: bool) -> Constant:
        if at is None:
            return Constant()
        token = self._lexed.tokens[at]
        if token.kind is Kind.PARAM:
            return Constant(parameter=int(token.value))
        if token.kind is Kind.WORD:
            return Constant()
        text = ("-" if negative else "") + literal_value(self._lexed, at)
        return Constant(text=text, number=token.kind is Kind.NUMBER)

    def _fetch(self, text: str, shape: str, generation: int) -> Admit | None:
        raw = encode_sql(text, self._settings.client_encoding)
        decision = self._judge(raw)
        if isinstance(decision, Pass) and not decision.unsettles:
            return Admit(raw, OffsetMap(), (None,), shape, generation)
        return decision if isinstance(decision, Admit) and _runs_alone(decision) else None

    def _apply(self, found: KeepText, shape: str, generation: int) -> Admit | None:
        raw = encode_sql(found.apply, self._settings.client_encoding)
        decision = self._allow(raw)
        if isinstance(decision, Admit):
            fits = _runs_alone(decision) and decision.plans[0] is not None
            return self._keeping(decision, found) if fits else None
        if not isinstance(decision, Pass) or decision.unsettles:
            return None
        lexed = lex(found.apply, standard_conforming_strings=self._settings.standard_conforming_strings)
        facts = analyse(lexed, lexed.statements[0], self._database, self._settings.search_path, frozenset())
        if found.returns and facts.outputs is None:
            return None
        results = None if facts.outputs is None else tuple(ResultColumn() for _ in facts.outputs)
        plan = Plan(Action.UPDATE, facts.targets, results=results, writes=True)
        return Admit(raw, OffsetMap(), (plan,), shape, generation)

    def _keeping(self, admit: Admit, found: KeepText) -> Admit | None:
        """The statement with the column's own value where a parameter says that it is kept."""
        text, number = decode_sql(admit.text, self._settings.client_encoding), found.first
        for value in found.values:
            for _ in value.constants if value.reference is not None else ():
                given = f"{given_by(f'${number}', value.column)}"
                if text.count(given) != 1:
                    return None
                kept = f"${number} OPERATOR(pg_catalog.=) '{KEEP}' THEN {value.reference}::pg_catalog.text"
                text = text.replace(given, f"(CASE WHEN {kept} ELSE {given} END)")
                number += 1
        return replace(admit, text=encode_sql(text, self._settings.client_encoding))


def _runs_alone(decision: Admit) -> bool:
    """Whether it is one statement that changes nothing of what texts mean."""
    return len(decision.plans) == 1 and not (decision.unsettles or decision.ddl)
