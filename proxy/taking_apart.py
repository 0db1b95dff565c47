"""Statements that the database can't run on sealed values, as fetches that it can run and a text for the calculator (docs/adr/0013)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.calculator.safety import unsafe_word
from proxy.session.computing import Compute, Leaf, Write
from proxy.session.gate import Admit, OffsetMap, Pass
from proxy.splicing import splice, spliced
from rules.analyse import AmbiguousNameError, ParseError
from rules.encodings import EncodingError, decode_sql, encode_sql
from rules.lexer import Kind, lex
from rules.model import quote_ident
from rules.plan import Action, Reason
from rules.split import leaf_name, many_rows, propose, propose_fold, propose_write, united

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from proxy.session.gate import Decision, Settings
    from rules.analyse import Protected
    from rules.lexer import Lexed
    from rules.model import ColumnName
    from rules.plan import Plan
    from rules.split import Split, WriteText

    Judge = Callable[[bytes], Decision]

# Why the database can't run a statement that pgveil can, once the values are open.
COMPUTABLE: Final = frozenset(
    {Reason.COMPUTE, Reason.ORDERING, Reason.RANDOMIZED, Reason.CROSS_DOMAIN, Reason.LOOKUP, Reason.UNSUPPORTED}
    | {Reason.PLAIN_INTO_SEALED, Reason.SEALED_INTO_PLAIN}
)
_MAX_JUDGED: Final = 256


class TakingApart:
    """Takes one statement apart. `judge`: the decision on a text of ours, for the same principal, under the same settings."""

    def __init__(self, lexed: Lexed, settings: Settings, judge: Judge, shape: str, generation: int) -> None:
        self._lexed = lexed
        self._settings = settings
        self._judge = judge
        self._shape = shape
        self._generation = generation
        self._asked: dict[str, Admit | None] = {}

    def compute(self, statement: tuple[int, int], database: Protected, lock: str | None = None) -> Compute | None:
        """What to fetch and what to compute; None where it can't be done. `lock`: the relation whose rows are to be locked."""
        try:
            for split in self._proposals(statement, database, lock):
                made = self._made(split)
                if made is not None:
                    return made
        except (ParseError, AmbiguousNameError, EncodingError):
            return None
        return None

    def write(
        self,
        statement: tuple[int, int],
        database: Protected,
        protected: Collection[str],
        logical: Callable[[ColumnName], str | None],
    ) -> Write | None:
        """What to compute, and what to write then; None where it can't be done.

        `protected`: the names of all protected columns. `logical`: the type that clients see of a sealed column.
        """
        path = self._settings.search_path
        try:
            found = propose_write(self._lexed, statement, database, path, self._may_write, protected, logical)
            return None if found is None else self._written(found, database)
        except (ParseError, AmbiguousNameError, EncodingError):
            return None

    def fold(self, statement: tuple[int, int], database: Protected) -> Write | None:
        """What to compute first of a search; None where that is not what is missing."""
        path = self._settings.search_path
        try:
            found = propose_fold(self._lexed, statement, database, path, lambda text: self._apply(text) is not None)
            return None if found is None else self._written(found, database)
        except (ParseError, AmbiguousNameError, EncodingError):
            return None

    def _lex(self, text: str) -> Lexed:
        """A text of ours, planned on the account of the client's."""
        conforming = self._settings.standard_conforming_strings
        return lex(text, standard_conforming_strings=conforming, budget=self._lexed.budget)

    def _may_write(self, text: str) -> bool:
        return self._fetch(text) is not None or self._apply(text) is not None

    def _apply(self, text: str) -> Admit | None:
        decision = self._judge(encode_sql(text, self._settings.client_encoding))
        if isinstance(decision, Admit) and len(decision.plans) == 1 and not (decision.unsettles or decision.ddl):
            return decision
        return None

    def _written(self, found: WriteText, database: Protected) -> Write | None:
        apply = self._apply(found.apply)
        plan = None if apply is None else apply.plans[0]
        if apply is None or plan is None:
            return None
        source = self._local((self._nothing(),), f"TABLE {leaf_name(0)}")
        if found.source is not None:
            computed = self._source(found.source, found, database)
            if computed is None:
                return None
            source = computed
        # The client binds all of its parameters, whatever the source needs of them.
        source = replace(source, parameters=found.first - 1, action=plan.action)
        returning = None
        if found.returning is not None:
            names, local = found.returning
            leaf = Leaf(leaf_name(0), names, apply)
            returning = self._local((leaf,), local)
        sealed = {p.number: p.column for p in plan.params}
        return Write(
            source=source,
            apply=apply,
            first=found.first,
            many=self._many(apply, plan, found) if found.many else None,
            targets=tuple(sealed.get(found.first + i) for i in range(len(found.columns))),
            returning=returning,
            parameters=found.first - 1,
            action=plan.action,
            shape=self._shape,
            generation=self._generation,
        )

    def _many(self, apply: Admit, plan: Plan, found: WriteText) -> Admit:
        """The statement for any number of rows, from what was judged for one."""
        settings = self._settings
        text = many_rows(
            decode_sql(apply.text, settings.client_encoding),
            found.first,
            len(found.columns),
            standard_conforming_strings=settings.standard_conforming_strings,
        )
        params = tuple(replace(p, array=True) if p.number >= found.first else p for p in plan.params)
        raw = encode_sql(text, settings.client_encoding)
        return replace(apply, text=raw, offsets=OffsetMap(), plans=(replace(plan, params=params),))

    def _source(self, text: str, found: WriteText, database: Protected) -> Compute | None:
        """The rows that are written: all of them from the server, or computed over what it gives."""
        whole = text if found.lock is None else f"{text} FOR UPDATE OF {quote_ident(found.lock)}"
        fetch = self._fetch(whole) if found.many else None
        lexed = self._lex(text)
        if fetch is not None:
            leaf = Leaf(leaf_name(0), tuple(f"c{i}" for i in range(len(found.columns))), fetch)
            return self._local((leaf,), f"TABLE {leaf_name(0)}")
        inner = TakingApart(lexed, self._settings, self._judge, self._shape, self._generation)
        made = inner.compute(lexed.statements[0], database, found.lock)
        return None if made is None else replace(made, positions=False)

    def _nothing(self) -> Leaf:
        """What is fetched where nothing is needed: a statement of the calculator's alone still runs in the client's transaction."""
        column = "pgveil_nothing"
        fetch = Admit(f"SELECT 1 AS {column}".encode(), OffsetMap(), (None,), self._shape, self._generation)
        return Leaf(leaf_name(0), (column,), fetch)

    def _local(self, leaves: tuple[Leaf, ...], text: str) -> Compute:
        """A text of ours for the calculator."""
        return Compute(
            leaves=leaves,
            together=None,
            text=text,
            with_at=0,
            with_before="WITH ",
            with_after=" ",
            offsets=OffsetMap(),
            parameters=0,
            action=Action.SELECT,
            shape=self._shape,
            generation=self._generation,
            positions=False,
        )

    def _proposals(self, statement: tuple[int, int], database: Protected, lock: str | None) -> Iterator[Split]:
        path = self._settings.search_path
        return propose(self._lexed, statement, database, path, lambda text: self._fetch(text) is not None, lock)

    def _fetch(self, text: str) -> Admit | None:
        """A SELECT of ours as the server may run it; None where it may not."""
        if text not in self._asked:
            self._asked[text] = self._judged(text) if len(self._asked) < _MAX_JUDGED else None
        return self._asked[text]

    def _judged(self, text: str) -> Admit | None:
        raw = encode_sql(text, self._settings.client_encoding)
        decision = self._judge(raw)
        if isinstance(decision, Pass):
            return None if decision.unsettles else Admit(raw, OffsetMap(), (None,), self._shape, self._generation)
        if not isinstance(decision, Admit) or decision.unsettles or decision.ddl or len(decision.plans) != 1:
            return None
        plan = decision.plans[0]
        if plan is not None and (plan.writes or plan.results is None):
            return None
        return decision

    def _made(self, split: Split) -> Compute | None:
        leaves = [] if split.leaves else [self._nothing()]
        for leaf in split.leaves:
            fetch = self._fetch(leaf.text)
            if fetch is None:
                return None
            leaves.append(Leaf(leaf.name, leaf.columns, fetch))
        together = self._together(split, leaves)
        if len(leaves) > 1 and together is None:
            return None
        text, offsets = spliced(self._lexed.text, [splice(self._lexed, e.first, e.last, e.text) for e in split.edits])
        if unsafe_word(self._lex(text)) is not None:
            return None
        numbers = [int(t.value) for t in self._lexed.tokens if t.kind is Kind.PARAM]
        return Compute(
            leaves=tuple(leaves),
            together=together,
            text=text,
            with_at=_moved(offsets, self._lexed.tokens[split.with_token].start),
            with_before=split.with_before,
            with_after=split.with_after,
            offsets=offsets,
            parameters=max(numbers, default=0),
            action=Action.SELECT,
            shape=self._shape,
            generation=self._generation,
        )

    def _together(self, split: Split, leaves: list[Leaf]) -> Admit | None:
        if len(leaves) < 2:
            return None
        described = [(text.text, _columns(leaf)) for text, leaf in zip(split.leaves, leaves, strict=True)]
        if not all(columns for _, columns in described):
            return None
        return self._fetch(united(described))


def _columns(leaf: Leaf) -> list[tuple[str, bool]]:
    """A leaf's columns: name, and whether the server gives them sealed; none where their number is not known."""
    plan: Plan | None = leaf.fetch.plans[0]
    results = None if plan is None else plan.results
    if results is None:
        return [(name, False) for name in leaf.columns]
    return [
        (leaf.columns[i] if i < len(leaf.columns) else "", result.open is not None) for i, result in enumerate(results)
    ]


def _moved(offsets: OffsetMap, position: int) -> int:
    """Where a position of the original text that no edit holds is in the edited one."""
    shift = 0
    for _, length, original, width in offsets.edits:
        if original < position:
            shift += length - width
    return position + shift
