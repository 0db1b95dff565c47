"""What pgveil would do with a text for one login, and why: a decision as values that `pgveil explain` prints. Pure.

Nothing here decides: the text goes through the same Gate as a client's, and the audit records are made by the session's own Trail.
No sealed form is in an explanation beyond its first four characters (mark and key id), and no value but in the text that the user gave.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keys.sealed import SEALED_IN_TEXT
from proxy.estimates import estimate
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, NeedNames, NeedSettings, Pass, Refuse
from proxy.session.judging import SETTINGS_UNKNOWN
from proxy.session.prepared import audited
from proxy.session.trail import Identity, Trail
from rules.encodings import decode_sql
from rules.lexer import LexError, lex
from rules.model import Column, Protection, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from audit.event import Event
    from proxy.decisions import Gate
    from proxy.session.gate import Decision, Instead, Settings
    from rules.lexer import Lexed
    from rules.model import ColumnName, MaskSpec, PolicyClass, Principal
    from rules.plan import Plan, Refusal, ResultColumn, SealLiteral, SealParam

PASSES: Final = "passes"
ADMITTED: Final = "admitted"
COMPUTED: Final = "computed"
REFUSED: Final = "refused"

_SEALED: Final = re.compile(SEALED_IN_TEXT)
_SEALED_CONSTANT: Final = re.compile(rf"'(?:{SEALED_IN_TEXT})'")
_HEADER: Final = 4  # characters of a sealed value that tell mode and key, and nothing of the value
# Fields of an audit record that only a connection can fill in.
_OF_A_CONNECTION: Final = frozenset({"connection", "client", "application", "statement_id"})


@dataclass(frozen=True, slots=True)
class TouchedColumn:
    """A protected column and what the login gets of it. `read`, `written`: None where a refusal leaves it open."""

    column: str
    level: str
    protection: str
    verdict: str
    mask: str | None
    read: bool | None = None
    written: bool | None = None


@dataclass(frozen=True, slots=True)
class Splice:
    """A piece of the user's text that is replaced. `position`: 1-based, in characters; `original` is '' for an insertion."""

    position: int
    original: str
    replacement: str
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """One output column. `column`: the sealed column that is opened, else the protected one that it shows, if any.

    `does`: "forwarded", "opened", "opened and masked" (by pgveil), "masked" (by the masking view). `type`: what the client is told where
    pgveil opens. `derived`: it is no bare reference to a column.
    """

    position: int
    does: str
    column: str | None = None
    type: str | None = None
    mask: str | None = None
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Sealing:
    """A parameter (`number`) or constant (None) that is sealed for a column. `compared`: with stored values, and not stored itself."""

    number: int | None
    column: str
    type: str
    mode: str
    domain: str
    array: bool
    compared: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What one fetch reads, by the server's count: about `rows` of `table`, or with `narrowed` those that its conditions leave.

    More than `limit` of them end in 54000.
    """

    table: str
    rows: int
    narrowed: bool
    limit: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of the text, which begins at 1-based character `position`.

    `runs` is what the server gets, sealed constants shortened; `fetches` what pgveil asks for first, where it computes, and `reads` how much
    that is, as far as the server has counted. `by_mask`: columns of which the conditions meet masks. `audit`: the record that is written before it runs.
    """

    position: int
    text: str
    outcome: str
    runs: str
    action: str | None = None
    writes: bool = False
    lookup: bool = False
    columns: tuple[TouchedColumn, ...] = ()
    splices: tuple[Splice, ...] = ()
    results: tuple[Result, ...] | None = None
    sealed: tuple[Sealing, ...] = ()
    fetches: tuple[str, ...] = ()
    reads: tuple[Reading, ...] = ()
    by_mask: tuple[str, ...] = ()
    audit: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RefusalShown:
    """What the client is told. `position`: 1-based in characters; `columns`: the protected columns of what the text names.

    `server_first`: a running pgveil shows the text to the server before it refuses, constants blanked, and where that finds an error of its
    own (a typing error, a name that does not exist) the client gets that one.
    """

    reason: str
    sqlstate: str
    message: str
    detail: str | None
    hint: str | None
    position: int | None
    section: str
    server_first: bool
    columns: tuple[TouchedColumn, ...]
    audit: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. `unfenced_by`: why the server's own privileges don't keep the login out of every protected table; None where they do."""

    login: str
    roles: tuple[str, ...]
    policy_class: str
    unfenced_by: str | None
    database: str
    rules_version: str
    outcome: str
    text: str
    statements: tuple[Statement, ...] = ()
    refusal: RefusalShown | None = None

    def document(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def explain(
    gate: Gate, text: str, login: str, settings: Settings, *, keys: bool = True, rows: int | None = None
) -> Explanation:
    """What `gate` decides on `text`, told. `settings.client_encoding` must be UTF8. Raises UnicodeEncodeError where `text` is no text.

    `keys` false: the gate seals with a key that nothing is stored under, so nothing of sealed constants is shown.
    `rows`: how many may be fetched to compute a statement.
    """
    principal = gate.principal(login)
    decision = gate.decide(text.encode(), principal, settings, extended=False)
    if isinstance(decision, NeedNames):
        # Nobody's session: names that the text itself does not make are not known.
        decision = decision.otherwise
    statements, refusal = _Telling(gate, principal, text, settings, keys=keys, rows=rows).tell(decision)
    outcomes = {s.outcome for s in statements}
    rules, catalog = gate.protection.rules, gate.protection.catalog
    return Explanation(
        login,
        principal.roles,
        principal.policy.id,
        catalog.unfenced_by(login, rules.protected_tables()),
        catalog.database,
        rules.version,
        REFUSED if refusal is not None else next((o for o in (COMPUTED, ADMITTED) if o in outcomes), PASSES),
        text,
        statements,
        refusal,
    )


class _Telling:
    """One text and one principal."""

    def __init__(
        self, gate: Gate, principal: Principal, text: str, settings: Settings, *, keys: bool, rows: int | None
    ) -> None:
        self._gate = gate
        self._rows = rows
        self._keys = keys
        self._principal = principal
        self._text = text
        self._lexed = _lexed(text, settings)
        self._records: list[Event] = []
        identity = Identity(principal.login, gate.protection.catalog.database, "", "", "")
        self._trail = Trail(_Kept(self._records), identity)

    def tell(self, decision: Decision) -> tuple[tuple[Statement, ...], RefusalShown | None]:
        match decision:
            case Pass():
                return tuple(self._passing(span, decision.instead) for span in self._spans()), None
            case Refuse():
                asked = decision.check is not None
                return (), self._refusal(decision.refusal, decision.shape, decision.position, server_first=asked)
            case NeedSettings() | NeedNames():
                return (), self._refusal(SETTINGS_UNKNOWN, "", None)
            case Admit():
                return self._admitted(decision), None
            case Compute():
                return (self._computed(audited(decision), decision, None),), None
            case Write():
                return (self._computed(decision.apply, decision.source, decision.apply),), None

    # -- statements

    def _spans(self) -> list[tuple[int, int]]:
        """Where each statement begins and ends, in characters."""
        lexed = self._lexed
        if lexed is None:
            return [(0, len(self._text))]
        return [(lexed.tokens[first].start, lexed.tokens[last].end) for first, last in lexed.statements]

    def _passing(self, span: tuple[int, int], edited: Instead | Admit | None = None) -> Statement:
        text = self._text[slice(*span)]
        splices = () if edited is None else self._splices(None, span, edited)
        runs = "".join(piece for piece, _ in pieces(text, span[0] + 1, splices))
        return Statement(span[0] + 1, text, PASSES, runs, splices=splices)

    def _admitted(self, decision: Admit) -> tuple[Statement, ...]:
        found = []
        for span, plan in zip(self._spans(), decision.plans, strict=True):
            if plan is None:
                found.append(self._passing(span, decision))
            else:
                found.append(self._planned(plan, span, self._splices(plan, span, decision), decision.shape))
        return tuple(found)

    def _splices(self, plan: Plan | None, span: tuple[int, int], edited: Instead | Admit) -> tuple[Splice, ...]:
        text = decode_sql(edited.text, "UTF8")
        return tuple(
            self._splice(plan, at, width, text[new : new + length])
            for new, length, at, width in edited.offsets.edits
            if span[0] <= at <= span[1]
        )

    def _computed(self, fetch: Admit, source: Compute, apply: Admit | None) -> Statement:
        """What is computed by pgveil: the server gives the rows of `fetches`, and runs what writes computed ones."""
        plan = fetch.plans[0]
        assert plan is not None
        told = self._planned(plan, self._spans()[0], (), fetch.shape)
        fetches = tuple(_shortened(decode_sql(leaf.fetch.text, "UTF8"), keys=self._keys) for leaf in source.leaves)
        runs = "" if apply is None else _shortened(decode_sql(apply.text, "UTF8"), keys=self._keys)
        sizes = [estimate(leaf.fetch, self._gate.protection.catalog) for leaf in source.leaves]
        reads = tuple(
            Reading(s.table, s.rows, s.narrowed, self._rows, s.text(self._rows)) for s in sizes if s is not None
        )
        return replace(told, outcome=COMPUTED, runs=runs or "; ".join(fetches), fetches=fetches, reads=reads)

    def _planned(self, plan: Plan, span: tuple[int, int], splices: tuple[Splice, ...], shape: str) -> Statement:
        text = self._text[slice(*span)]
        audit = None
        if plan.touched:
            self._trail.start(self._principal, plan, shape)
            audit = _record(self._records[-1])
        return Statement(
            position=span[0] + 1,
            text=text,
            outcome=ADMITTED,
            runs="".join(piece for piece, _ in pieces(text, span[0] + 1, splices)),
            action=plan.action.value,
            writes=plan.writes,
            lookup=plan.lookups,
            columns=tuple(self._touched(t.column, read=t.read, written=t.written) for t in plan.touched),
            splices=splices,
            results=None if plan.results is None else tuple(self._results(plan.results)),
            sealed=(*(_sealing(None, s) for s in plan.literals), *(_sealing(p.number, p) for p in plan.params)),
            by_mask=tuple(map(str, plan.by_mask)),
            audit=audit,
        )

    def _splice(self, plan: Plan | None, at: int, width: int, replacement: str) -> Splice:
        assert self._lexed is not None
        tokens = self._lexed.tokens
        original = self._text[at : at + width]
        literals = () if plan is None else plan.literals
        literal = next((s for s in literals if tokens[s.first].start == at), None)
        if literal is not None:
            return Splice(at + 1, original, _short(replacement, keys=self._keys), f"sealed for {literal.column.name}")
        if plan is None or replacement == "(" or "pg_catalog.pg_" in replacement:
            why = "the catalog is read as on a plain database"
        elif replacement.startswith("$"):
            why = "the cast is left out: the server gets the parameter sealed"
        elif self._principal.policy.schema in replacement:
            why = "the masking view stands for the table"
        else:
            why = "the view is known by this name"
        return Splice(at + 1, original, replacement, why)

    def _touched(self, name: ColumnName, *, read: bool | None = None, written: bool | None = None) -> TouchedColumn:
        return _touched(self._gate.column(name), name, self._principal.policy, read=read, written=written)

    def _results(self, results: Iterable[ResultColumn]) -> Iterable[Result]:
        for position, result in enumerate(results, start=1):
            yield self._result(position, result)

    def _result(self, position: int, result: ResultColumn) -> Result:
        sealed = result.open
        derived = not result.direct and bool(result.touches)
        if sealed is not None:
            masked = result.verdict is not Verdict.CLEAR
            mask = spelled(sealed.mask) if masked else None
            does = "opened and masked" if masked else "opened"
            return Result(position, does, str(sealed.name), sealed.type, mask, derived)
        for name in sorted(result.touches):
            mask = self._mask_of_view(name)
            if mask is not None:
                return Result(position, "masked", str(name), mask=mask, derived=derived)
        shown = min(result.touches, default=None)
        return Result(position, "forwarded", None if shown is None else str(shown), derived=derived)

    def _mask_of_view(self, name: ColumnName) -> str | None:
        """The mask under which the login's masking view shows a column; None where it sees the column itself."""
        column = self._gate.column(name)
        limited = self._principal.policy.verdict(name) is not Verdict.CLEAR
        return (
            spelled(column.mask) if column is not None and limited and column.protection is Protection.MASKED else None
        )

    # -- refusals

    def _refusal(
        self, refusal: Refusal, shape: str, position: int | None, *, server_first: bool = False
    ) -> RefusalShown:
        self._trail.refused(self._principal, refusal, shape)
        named = set(self._named())
        if refusal.column is not None:
            named.add(refusal.column)
        return RefusalShown(
            refusal.reason.value,
            refusal.sqlstate,
            refusal.message,
            refusal.detail,
            refusal.hint,
            position,
            f"docs/errors.md#{refusal.reason.value}",
            server_first,
            tuple(self._touched(name) for name in sorted(named)),
            _record(self._records[-1]),
        )

    def _named(self) -> Iterable[ColumnName]:
        """The protected columns of every table and view whose name is in the text; all that is known where nothing was decided."""
        words = frozenset() if self._lexed is None else self._lexed.words
        protection = self._gate.protection
        for relation in protection.catalog.relations.values():
            if relation.name.name in words:
                yield from protection.columns_of(relation).values()
                lineage = protection.lineage_of(relation)
                yield from () if lineage is None else lineage.inside


class _Kept:
    """A Recorder that keeps what would be recorded."""

    durable = 0

    def __init__(self, records: list[Event]) -> None:
        self._records = records

    def append(self, event: Event) -> int:
        """See Recorder."""
        self._records.append(event)
        return len(self._records)


def spelled(mask: MaskSpec | None) -> str | None:
    """A mask as the rules write it: "phone", "keep_last(n=4)"."""
    if mask is None:
        return None
    given = ", ".join(f"{name}={value}" for name, value in mask.params)
    return f"{mask.kind}({given})" if given else mask.kind


def _touched(
    column: Column | None, name: ColumnName, policy: PolicyClass, *, read: bool | None, written: bool | None
) -> TouchedColumn:
    verdict = policy.verdict(name).value
    if column is None:  # the rules changed between the decision and now
        return TouchedColumn(str(name), "?", "?", verdict, None, read, written)
    return TouchedColumn(
        str(name), column.level.value, column.protection.value, verdict, spelled(column.mask), read, written
    )


def _sealing(number: int | None, sealed: SealLiteral | SealParam) -> Sealing:
    column = sealed.column
    assert column.type is not None
    assert column.mode is not None
    domain = column.key_domain
    return Sealing(number, str(column.name), column.type, column.mode.value, domain, sealed.array, sealed.exact)


def _short(replacement: str, *, keys: bool) -> str:
    """A sealed constant without what it holds: mode and key id, and that there is more."""
    found = _SEALED.search(replacement) if keys else None
    return "'<sealed>'" if found is None else f"'{found[0][:_HEADER]}…'"


def _shortened(text: str, *, keys: bool) -> str:
    """A text of ours, its sealed constants as `_short` has them."""
    return _SEALED_CONSTANT.sub(lambda found: _short(found[0], keys=keys), text)


def _record(event: Event) -> dict[str, Any]:
    fields: Mapping[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in _OF_A_CONNECTION}


def _lexed(text: str, settings: Settings) -> Lexed | None:
    try:
        return lex(text, standard_conforming_strings=settings.standard_conforming_strings)
    except LexError:
        return None


def pieces(text: str, position: int, splices: Iterable[Splice]) -> Iterable[tuple[str, bool]]:
    """The text that runs in place of `text`, which begins at 1-based `position`: each piece, and whether pgveil has put it there."""
    at = 0
    for splice in splices:
        start = splice.position - position
        yield text[at:start], False
        yield splice.replacement, True
        at = start + len(splice.original)
    yield text[at:], False
