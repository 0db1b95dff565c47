"""The Gate: from a text to a decision, each statement shape planned once. Implements `proxy.session.gate.Judge`.

The caches are bounded and live as long as one generation of rules and catalog; a text without literals is found by its bytes alone, any
other by its shape.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache

from keys.types import TypeSpecError, parse_type
from proxy import copy_decisions, unfenced
from proxy.blanked import check_garbled, server_check
from proxy.computable import unreadable, unwritable
from proxy.dumps import refused_dump
from proxy.keeping import Keeping
from proxy.named import (
    NamesInText,
    declared,
    declared_types,
    execution,
    prepared,
    unknown_statement,
    unknown_to_unfenced,
)
from proxy.opaque import Opaque, made_view, makes_temporary_view
from proxy.plain_catalogs import CATALOGS, PlainCatalogs
from proxy.plan_cache import BoundedCache, CacheObserver, GateLimits, SilentCache
from proxy.session.computing import Compute
from proxy.session.gate import (
    Admit,
    BadValue,
    Instead,
    Known,
    NameChange,
    NeedNames,
    NeedSettings,
    OffsetMap,
    Pass,
    Refuse,
)
from proxy.session.metering import metered
from proxy.splicing import LiteralSealer, edited, vouched
from proxy.storing import storing
from proxy.taking_apart import COMPUTABLE, TakingApart
from proxy.vocabulary import Definitions
from rules import lookups
from rules.analyse import AmbiguousNameError, ParseError, analyse
from rules.budget import STATEMENT_TOO_COMPLEX, Budget, TooComplexError
from rules.classify import Classified, StatementKind, classify
from rules.configuration import Change, Changing
from rules.decide import DENIED, UNSUPPORTED, Judgement, decide
from rules.derived import with_derived
from rules.difference import text_digest
from rules.encodings import EncodingError, decode_sql, encode_sql
from rules.hidden import HiddenRead, by_name, hidden_reads, notifies, read_by_writing, triggered
from rules.lexer import Kind, LexError, LexLimitError, lex
from rules.loose import LooseTrigger, loose_triggers, made_by_roles
from rules.model import Protection, TableName, Verdict, quote_ident
from rules.named import NameUse
from rules.plan import Action, Plan, Reason, Refusal, Touched
from rules.protect import ProtectionMap, calls, is_own
from rules.schema_changes import refused_change, unneeded_changes
from rules.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from proxy.session.computing import Write
    from proxy.session.gate import Decision, Names, ServerCheck, Settings
    from proxy.vocabulary import Vocabulary
    from rules.analyse import Facts
    from rules.catalog import Catalog, Relation
    from rules.lexer import Lexed
    from rules.model import Column, ColumnName, PolicyClass, Principal, Rules
    from rules.plan import Edit

MAX_WANTED = 10_000  # OIDs of relations that are looked for, or known to be temporary
_SPLIT = "Split the statement, or send its values as parameters or with COPY."
_BY_ITSELF = "Send the query by itself, without PREPARE, DECLARE, EXPLAIN or other statements around it: then pgveil computes it."
_CHECK_TEXT = "Check the text's quotes and escapes, its encoding and its length."


@dataclass(frozen=True, slots=True)
class _World:
    """One generation: what is judged by, immutable."""

    generation: int
    protection: ProtectionMap
    triggers: frozenset[str]
    names: frozenset[str]
    changing: Changing
    guarded: frozenset[str]
    hidden: tuple[HiddenRead, ...]
    loose: tuple[LooseTrigger, ...]
    made: Mapping[str, frozenset[TableName]]
    relations: frozenset[str]
    functions: frozenset[str]
    definitions: Definitions
    opaque: Opaque
    written: Mapping[str, frozenset[ColumnName]]
    speaking: frozenset[str]
    notifies: bool
    reach: unfenced.Reach
    catalogs: PlainCatalogs


@dataclass(frozen=True, slots=True)
class _Asker:
    """A principal with what privileges can't do about it. `limited`: some protected column is not clear to it."""

    principal: Principal
    limited: bool
    unfenced: bool
    views: frozenset[TableName]
    keys: Mapping[ColumnName, tuple[str, ...]]


class _Afterwards(NamedTuple):
    """What a text may change: as of Pass."""

    unsettles: bool
    ddl: bool
    ends: bool
    forms: bool


# A decision on a text without literals holds the text, the text that runs and the shape.
_TEXT_COPIES = 3
# Bytes of a plan's edit, parameter or column with what hangs on it; measured in tests/proxy/test_limits.py.
_PART_BYTES = 512


def _weight(found: object) -> int:
    """About how many bytes a plan takes."""
    if not isinstance(found, Plan):
        return _PART_BYTES
    parts = sum(map(len, (found.edits, found.literals, found.params, found.touched, found.results or ())))
    return _PART_BYTES * (1 + parts)


class _RefusedError(Exception):
    """Carries a refusal to `Gate.decide`; never leaves this module."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Gate:
    """Judges texts under the rules and the catalog in force; `update` swaps these at once for all sessions.

    `computes`: there is a calculator for what the database can't do on sealed values. `vocabulary`: the server's own words; without them every text
    of a login with limits is `unshown`. `marks`: of the keys at hand (`keys.ring.KeyRing.marks`), to be held against the database's record.
    `generations`, `sources`: see `successor`. `steps`: what all planning has taken so far (rules.budget).
    """

    def __init__(
        self,
        rules: Rules,
        catalog: Catalog,
        sealer: LiteralSealer,
        *,
        limits: GateLimits | None = None,
        observer: CacheObserver | None = None,
        computes: bool = False,
        vocabulary: Vocabulary | None = None,
        marks: Callable[[], Mapping[str, frozenset[str]]] | None = None,
        generations: Iterator[int] | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.computes = computes
        self._marks = marks
        self._sealer = sealer
        self._limits = GateLimits() if limits is None else limits
        self._observer = SilentCache() if observer is None else observer
        self.steps = 0
        self._generation = 0
        self._generations = count(1) if generations is None else generations
        self._sources = Sources() if sources is None else sources
        self._defined: tuple[Rules, object] | None = None
        self._defined_at = 0  # the generation since which rules and definitions are what they are
        self._vocabulary = vocabulary
        self.update(rules, catalog)

    def successor(self, rules: Rules, catalog: Catalog) -> Gate:
        """A gate for newer rules, to stand beside this one until nobody needs this one; no generation is used twice among the two."""
        return Gate(
            rules,
            catalog,
            self._sealer,
            limits=self._limits,
            observer=self._observer,
            computes=self.computes,
            vocabulary=self._vocabulary,
            marks=self._marks,
            generations=self._generations,
            sources=self._sources,
        )

    def update(self, rules: Rules, catalog: Catalog) -> None:
        """New rules or a new catalog: everything that was worked out under the old ones is forgotten."""
        self.prepare(rules, catalog)()

    def prepare(self, rules: Rules, catalog: Catalog) -> Callable[[], None]:
        """Work out what `update` needs; calling what is returned does the rest, and can't fail."""
        rules = with_derived(rules, catalog)
        protection = ProtectionMap(rules, catalog, self._sources, self._marks)
        hidden = hidden_reads(protection)
        loose = loose_triggers(protection)
        written = read_by_writing(protection)
        functions = frozenset(protection.functions)
        triggers = (
            protection.relation_words
            | functions
            | frozenset(by_name(hidden, fenced=False))
            | frozenset(written)
            | {"pgveil"}
        )
        schemas = frozenset(table.schema for table in rules.protected_tables())
        protects = bool(protection.protected_tables())
        world = _World(
            0,
            protection,
            triggers,
            frozenset(_names(catalog)),
            Changing(catalog, self._sources, functions),
            frozenset(r.name.name for r in catalog.relations.values() if r.row_security),
            hidden,
            loose,
            made_by_roles(protection) if loose else {},
            frozenset(r.name.name for r in catalog.relations.values()),
            frozenset(f.name.name for f in catalog.functions),
            Definitions(catalog, self._vocabulary),
            Opaque(catalog, self._vocabulary),
            written,
            protection.relation_words | functions | triggered(protection),
            notifies(protection),
            unfenced.Reach(
                triggers,
                functions,
                schemas,
                unfenced.showing(catalog, self._sources, protects=protects),
                catalog.server_version,
                protects,
            ),
            PlainCatalogs(protection),
        )
        return partial(self._install, world)

    def _install(self, world: _World) -> None:
        self._generation = next(self._generations)
        defined = (world.protection.rules, _defined(world.protection.catalog))
        if defined != self._defined:
            self._defined, self._defined_at = defined, self._generation
        self._world = replace(world, generation=self._generation)
        self._plans: BoundedCache[object] = BoundedCache(self._limits.plans, self._limits.plan_bytes)
        self._texts: BoundedCache[Decision] = BoundedCache(self._limits.texts, self._limits.decision_bytes)
        self._askers: LRUCache[str, _Asker] = LRUCache(self._limits.principals)
        self._wanted: set[int] = set()
        self._temporary: set[int] = set()  # relations that the catalog leaves out and that hold nothing of others

    # -- Judge

    @property
    def generation(self) -> int:
        """See Judge."""
        return self._generation

    def unchanged_since(self, generation: int) -> bool:
        """See Judge."""
        return generation >= self._defined_at

    def not_served(self) -> tuple[str, ...]:
        """What of the rules can't be served in this database, in words."""
        return self._world.protection.not_served

    @property
    def protection(self) -> ProtectionMap:
        """The rules over the catalog, as they are in force."""
        return self._world.protection

    def principal(self, login: str) -> Principal:
        """See Judge."""
        return self._asker(login).principal

    def source_of(self, table_oid: int, attnum: int) -> ColumnName | None:
        """See Judge."""
        return self._world.protection.source_of(table_oid, attnum)

    def table_of(self, view_oid: int, attnum: int) -> tuple[int, int] | None:
        """See Judge."""
        return self._world.protection.table_of(view_oid, attnum)

    def unfamiliar(self, columns: frozenset[tuple[int, int]]) -> bool:
        """See Judge."""
        protection = self._world.protection
        relations = protection.catalog.relations
        unknown = {oid for oid, _ in columns if oid not in relations and oid not in self._temporary}
        if len(self._wanted) + len(unknown) <= MAX_WANTED:
            self._wanted |= unknown
        return bool(unknown) or any(
            number > 0 and oid in relations and relations[oid].at(number) is None for oid, number in columns
        )

    def wanted_relations(self) -> frozenset[int]:
        """The OIDs that somebody should look for in the database, and tell `found_relations` about."""
        return frozenset(self._wanted)

    def found_relations(self, looked_for: frozenset[int], temporary: frozenset[int]) -> None:
        """`temporary` of what was looked for are temporary relations or sequences. What is none of these stays unknown."""
        self._wanted -= looked_for
        if len(self._temporary) + len(temporary) > MAX_WANTED:
            self._temporary.clear()
        self._temporary |= temporary

    def column(self, name: ColumnName) -> Column | None:
        """See Judge."""
        return self._world.protection.rules.column(name)

    def report(self, login: str, relation: TableName | None, context: bytes | None) -> tuple[Plan | None, bool]:
        """See Judge."""
        world = self._world
        protection = world.protection
        if not protection.everything:
            return None, False
        asker = self._asker(login)
        known = None if relation is None else protection.catalog.by_name.get(relation)
        columns = protection.everything if known is None else frozenset(protection.columns_of(known).values())
        shown = self._readable(asker) & columns
        plan = _touching(Action.OTHER, shown, asker, protection) if shown else None
        said = context is not None and asker.limited and self._speaks(context)
        return plan, said

    def hushes(self, login: str) -> bool:
        """See Judge."""
        return self._world.notifies and self._asker(login).limited

    def _speaks(self, context: bytes) -> bool:
        """Whether something that is given, or reads, what is protected has run, by the words of a CONTEXT in whatever language."""
        words = set(_WORDS.findall(context.decode(errors="replace").lower()))
        return not words.isdisjoint(self._world.speaking) or any(word.startswith("pgveil") for word in words)

    def protected_names(self, names: frozenset[str]) -> frozenset[str]:
        """See Judge."""
        world = self._world
        diverting = (n for n in names if any(loose.meets(n) for loose in world.loose))
        catalogs = names & CATALOGS if world.catalogs.hides else frozenset()
        return (names & world.protection.relation_words) | catalogs | frozenset(diverting)

    def as_run(
        self,
        decision: Pass | Admit | Compute | Write | Refuse,
        principal: Principal,  # noqa: ARG002 - whoever asks
    ) -> Pass | Admit | Compute | Write | Refuse:
        """See Judge."""
        return decision

    @property
    def names(self) -> frozenset[str]:
        """Every name of the catalog that a statement could quote."""
        return self._world.names

    def shape(self, sql: bytes, settings: Settings) -> str:
        """The normalised text, no literals; '' where it is not understood, because then nothing says what in it is a literal."""
        try:
            text = decode_sql(sql, settings.client_encoding)
            return self._shape(lex(text, standard_conforming_strings=settings.standard_conforming_strings))
        except (EncodingError, LexError):
            return ""

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        """See Judge."""
        key = (
            (sql, principal.login, principal.policy.id, settings, extended)
            if len(sql) <= self._limits.text_bytes and names is None
            else None
        )
        if key is not None:
            known = self._texts.get(key)
            if known is not None:
                self._observer.hit()
                return known
        asker, budget = self._asker(principal.login), Budget.of(len(sql))
        decision = self._judge(sql, asker, settings, budget, names, extended=extended)
        self.steps += budget.spent
        if key is not None and _lasting(decision):
            longer = decision.instead.text if isinstance(decision, Pass) and decision.instead is not None else b""
            self._texts.put(key, decision, _TEXT_COPIES * len(sql) + len(longer))
        return decision

    # -- who asks

    def _asker(self, login: str) -> _Asker:
        known = self._askers.get(login)
        if known is None:
            known = self._askers[login] = self._make_asker(login)
        return known

    def _make_asker(self, login: str) -> _Asker:
        protection = self._world.protection
        catalog, rules = protection.catalog, protection.rules
        principal = rules.principal(login, catalog.memberships(login))
        verdicts = principal.policy.verdicts
        masked = [
            c
            for c in rules.protected_columns()
            if c.protection is Protection.MASKED and verdicts[c.name] is not Verdict.CLEAR
        ]
        unfenced = bool(masked) and catalog.unfenced_by(login, (c.name.relation for c in masked)) is not None
        views = frozenset(t for t in rules.protected_tables() if protection.view_problem(principal.policy, t) is None)
        limited = any(v is not Verdict.CLEAR for v in verdicts.values())
        return _Asker(
            replace(principal, exposed=unfenced and self._world.reach.protects),
            limited,
            unfenced,
            views,
            self._keys(principal.policy),
        )

    def _keys(self, policy: PolicyClass) -> Mapping[ColumnName, tuple[str, ...]]:
        """By which columns the class's look-up functions tell rows, for those that are there."""
        protection = self._world.protection
        record = protection.catalog.record
        made = {} if record is None else {f.table: f.text for f in record.functions}
        there = {
            f.name
            for f in protection.catalog.functions
            if f.name.schema == policy.schema and made.get(f.name) == text_digest(f.source)
        }
        relations = {
            name: protection.catalog.by_name.get(name.relation)
            for name in lookups.wanted(policy, protection.rules)
            if lookups.function_of(policy, name) in there
        }
        return {
            name: lookups.key_of(relation, protection.columns_of(relation), protection.rules)
            for name, relation in relations.items()
            if relation is not None
        }

    # -- texts

    def _judge(
        self,
        sql: bytes,
        asker: _Asker,
        settings: Settings,
        budget: Budget,
        names: Names | None = None,
        *,
        extended: bool,
    ) -> Decision:
        try:
            text = decode_sql(sql, settings.client_encoding)
        except EncodingError:
            return self._garbled(sql, asker, "22021", "the statement is not valid text in the client's encoding", None)
        try:
            lexed = lex(text, standard_conforming_strings=settings.standard_conforming_strings, budget=budget)
        except LexLimitError as error:
            return self._garbled(
                sql, asker, STATEMENT_TOO_COMPLEX, f"the statement is too complex: {error}", error.position + 1
            )
        except LexError as error:
            check = check_garbled(text, error, settings)
            message = f"the statement was not understood: {error}"
            return self._garbled(sql, asker, "42601", message, error.position + 1, check)
        try:
            return self._judged(lexed, asker, settings, names, extended=extended, computing=True)
        except TooComplexError as error:
            refusal = Refusal(Reason.LIMIT, error.sqlstate, error.message, hint=error.hint)
            return Refuse(refusal, self._shape(lexed), None, server_check(lexed, settings.client_encoding))

    def _judged(
        self,
        lexed: Lexed,
        asker: _Asker,
        settings: Settings,
        names: Names | None = None,
        *,
        extended: bool,
        computing: bool,
    ) -> Decision:
        decision = self._understood(lexed, asker, settings, names, extended=extended, computing=computing)
        if asker.limited and isinstance(decision, Pass | Admit) and self._world.definitions.used(lexed):
            return replace(decision, unshown=True)
        return decision

    def _understood(
        self,
        lexed: Lexed,
        asker: _Asker,
        settings: Settings,
        names: Names | None,
        *,
        extended: bool,
        computing: bool,
    ) -> Decision:
        parts = [classify(lexed, first, last) for first, last in lexed.statements]
        diverted = self._diverted(lexed, parts, asker, settings)
        if diverted is not None:
            return diverted
        by_name = any(p.kind in _BY_NAME for p in parts)
        if settings.views is None and self._may_show_views(lexed, parts):
            return NeedSettings()
        if not by_name and not self._matters(lexed, parts, asker) and lexed.words.isdisjoint(settings.views or ()):
            passed = self._pass(lexed, parts, settings)
            edits = self._of_catalogs(lexed, parts, asker, settings)
            return passed if not edits else replace(passed, instead=self._instead(lexed, edits, settings))
        if extended and len(parts) > 1:
            refusal = Refusal(
                Reason.UNSUPPORTED,
                "42601",
                "cannot insert multiple commands into a prepared statement",
                hint="Send the statements one by one.",
            )
            return Refuse(refusal, self._shape(lexed))
        scope = NamesInText(names)
        decision = self._planned(lexed, parts, asker, settings, scope, computing=computing)
        if names is None and scope.used() and not isinstance(decision, NeedNames):
            prepared_names, cursors = (frozenset(scope.asked[use]) for use in (NameUse.EXECUTES, NameUse.FETCHES))
            return NeedNames(prepared_names, cursors, decision)
        return decision

    def _planned(
        self,
        lexed: Lexed,
        parts: list[Classified],
        asker: _Asker,
        settings: Settings,
        scope: NamesInText,
        *,
        computing: bool,
    ) -> Pass | Admit | Compute | Write | Refuse | NeedSettings:
        try:
            plans = self._plan_all(lexed, parts, asker, settings, scope)
        except AmbiguousNameError:
            if settings.search_path is None:
                return NeedSettings()
            raise
        except _RefusedError as refused:
            made = self._otherwise(refused.refusal, lexed, parts, asker, settings) if computing else None
            if made is not None and not isinstance(made, Refusal):
                return made
            refusal: Refusal | NeedSettings = made or refused.refusal
            if computing and isinstance(refusal, Refusal):
                refusal = self._hinted(refusal, lexed, parts, asker, settings)
            if isinstance(refusal, NeedSettings):
                return refusal
            refuse = self._refuse(refusal, lexed, settings)
            unsettles, ddl, _, _ = self._afterwards(lexed, parts, settings)
            return replace(refuse, unsettles=unsettles, ddl=ddl, statements=len(parts))
        edits = self._of_catalogs(lexed, parts, asker, settings)
        if all(plan is None for plan in plans):
            passed = self._pass(lexed, parts, settings)
            return passed if not edits else replace(passed, instead=self._instead(lexed, edits, settings))
        if computing and len(plans) == 1 and self._gives_sealed(plans[0], asker):
            kept = self._keeping(lexed, parts, asker, settings)
            if kept is not None:
                return kept
        admitted = self._admit(lexed, parts, tuple(plans), settings, asker.principal.login, edits)
        if isinstance(admitted, Refuse) and computing and admitted.refusal.reason is Reason.UNSUPPORTED:
            # A constant in a form that only PostgreSQL reads, as a date in words.
            made = self._computed(admitted.refusal, lexed, parts, asker, settings)
            return admitted if made is None or isinstance(made, Refusal) else made
        return admitted

    def _gives_sealed(self, plan: Plan | None, asker: _Asker) -> bool:
        """Whether it changes a sealed column that the login does not see (ADR 0027)."""
        if plan is None or plan.action is not Action.UPDATE:
            return False
        written = {t.column for t in plan.touched if t.written} & asker.principal.policy.writes
        rules = (self._world.protection.rules.column(name) for name in written)
        return any(rule is not None and rule.protection is Protection.SEALED for rule in rules)

    def _of_catalogs(
        self, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings
    ) -> tuple[Edit, ...]:
        """What is put into a text so that it reads system catalogs as if pgveil were not there. Never a reason to refuse it."""
        catalogs = self._world.catalogs
        if not catalogs.concern(lexed):
            return ()
        policy, path, temporary = asker.principal.policy, settings.search_path, settings.temporary
        key = (lexed.shape, policy.id, asker.views, path, temporary, catalogs)
        known = self._plans.get(key)
        if isinstance(known, tuple):
            return known
        try:
            edits = catalogs.edits(lexed, parts, policy, asker.views, path, temporary)
        except TooComplexError:
            return ()
        if len(lexed.shape) <= self._limits.shape_chars:
            self._plans.put(key, edits, sys.getsizeof(lexed.shape) + sum(len(e.text) for e in edits))
        return edits

    def _instead(self, lexed: Lexed, edits: tuple[Edit, ...], settings: Settings) -> Instead | None:
        text, offsets = edited(lexed, (Plan(Action.OTHER, edits=edits),), self._sealer, "")
        try:
            return Instead(encode_sql(text, settings.client_encoding), offsets)
        except EncodingError:
            return None

    def _pass(self, lexed: Lexed, parts: list[Classified], settings: Settings) -> Pass:
        unsettles, ddl, ends, forms = self._afterwards(lexed, parts, settings)
        changes = self._changes(lexed, parts, (None,) * len(parts), settings, "")
        by_name = any(p.kind in _BY_NAME for p in parts)
        copies = None
        if len(parts) == 1 and parts[0].kind in _COPIES:
            version = self._world.protection.catalog.server_version
            guarded = self._world.guarded
            copies = copy_decisions.question(lexed, parts[0], settings.client_encoding, version, guarded)
        return Pass(
            unsettles,
            ddl,
            len(parts),
            names=changes,
            by_name=by_name,
            copies=copies,
            ends=ends,
            forms=forms,
            shadows=self._shadows(lexed, ddl=ddl),
        )

    def _afterwards(self, lexed: Lexed, parts: list[Classified], settings: Settings) -> _Afterwards:
        changes = max(
            *(p.changes for p in parts), self._world.changing.by(lexed, 0, len(lexed.tokens) - 1), Change.NONE
        )
        ddl = any(p.kind in _CHANGES_CATALOG or p.wrapped == "create" for p in parts)
        made = bool(self._world.protection.everything) and any(
            made_view(lexed.tokens, first) is not None for first, _ in lexed.statements
        )
        if made or self._may_shadow(lexed, settings, ddl=ddl):
            changes = Change.ALL
        return _Afterwards(bool(changes), ddl, any(p.ends for p in parts), changes is Change.FORMS)

    def _changes(
        self, lexed: Lexed, parts: list[Classified], plans: tuple[Plan | None, ...], settings: Settings, login: str
    ) -> tuple[NameChange | None, ...]:
        """What each statement does to the session's names."""
        if all(p.named is None or p.kind in _BY_NAME for p in parts):
            return ()
        found: list[NameChange | None] = []
        for part, plan, (first, last) in zip(parts, plans, lexed.statements, strict=True):
            named = part.named
            if named is None or part.kind in _BY_NAME:
                found.append(None)
                continue
            if named.use not in (NameUse.PREPARES, NameUse.DECLARES):
                found.append(NameChange(named.use, named.name))
                continue
            start, end = lexed.tokens[first].start, lexed.tokens[last].end
            unsettles = bool(self._world.changing.by(lexed, first, last))
            decision: Pass | Admit = Pass(unsettles)
            if plan is not None and plan.later is not None:
                text = edited(lexed, (plan,), self._sealer, login)[0]
                own = text[start : len(text) - len(lexed.text) + end]
                decision = Admit(
                    encode_sql(own, settings.client_encoding),
                    OffsetMap(),
                    (plan.later,),
                    self._shape(lexed),
                    self._generation,
                    unsettles,
                    vouched=vouched((plan,), self._sealer),
                )
            alone = encode_sql(lexed.text[start:end], settings.client_encoding)
            types = declared_types(lexed, named) if named.use is NameUse.PREPARES else ()
            found.append(NameChange(named.use, named.name, decision, alone, types, named.hold))
        return tuple(found)

    def _otherwise(
        self, refusal: Refusal, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings
    ) -> Compute | Write | NeedSettings | Refusal | None:
        """How a statement that would be refused as it is can be done in steps; None where it can't, a Refusal where it is for another column."""
        gives = refusal.reason is Reason.PLAIN_INTO_SEALED and refusal.column in asker.principal.policy.writes
        kept = self._keeping(lexed, parts, asker, settings) if gives or refusal.reason is Reason.ORACLE else None
        if kept is not None or refusal.reason is Reason.ORACLE:
            return kept
        return self._computed(refusal, lexed, parts, asker, settings)

    def _of_parts(
        self, refusal: Refusal, lexed: Lexed, asker: _Asker, settings: Settings, *, counted: bool = False
    ) -> Callable[[bytes], Decision]:
        """How texts of ours are judged that a statement is done by, which is refused as it is.

        `counted`: it is the part that makes the client's look-ups, which are counted where it runs.
        """

        def judge(text: bytes) -> Decision:
            try:
                own = lex(
                    decode_sql(text, settings.client_encoding),
                    standard_conforming_strings=settings.standard_conforming_strings,
                    budget=lexed.budget,
                )
            except LexError:
                return Refuse(refusal)
            decision = self._judged(own, asker, settings, extended=True, computing=False)
            # Look-ups are counted where the client's own statement runs, not where its parts do.
            looks_up = not counted and isinstance(decision, Admit) and metered(decision.plans)
            return Refuse(refusal) if looks_up else decision

        return judge

    def _keeping(
        self, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings
    ) -> Write | NeedSettings | None:
        """An UPDATE that may give columns just the masks that they show, as whole objects are saved."""
        if len(parts) != 1 or parts[0].kind is not StatementKind.QUERY:
            return None
        if settings.search_path is None:
            return NeedSettings()
        protection = self._world.protection
        refusal = Refusal(Reason.ORACLE, DENIED, "")
        keeping = Keeping(
            lexed,
            settings,
            self._of_parts(refusal, lexed, asker, settings),
            self._of_parts(refusal, lexed, asker, settings, counted=True),
            protection.rules,
            asker.principal.policy,
            protection.under(settings.temporary),
            # A login that owns the tables could be without the trigger that lets a column keep its value.
            written=not asker.unfenced,
        )
        return keeping.write((parts[0].first, parts[0].last), self._shape(lexed), self._generation)

    def _computed(
        self,
        refusal: Refusal,
        lexed: Lexed,
        parts: list[Classified],
        asker: _Asker,
        settings: Settings,
        *,
        folding: bool = True,
    ) -> Compute | Write | NeedSettings | Refusal | None:
        """What the database can't do, done after opening; None where there is no calculator, or it can't be done at all.

        A Refusal where it could be done and another column is in the way than the one that the database can't work on.

        `folding`: a search by a computed value may be done as such.
        """
        if not self.computes or refusal.reason not in COMPUTABLE or len(parts) != 1:
            return None
        if parts[0].kind is StatementKind.COPY_QUERY:
            return self._computed_copy(refusal, lexed, parts[0], asker, settings)
        if parts[0].kind is not StatementKind.QUERY:
            return None
        if settings.search_path is None:
            return NeedSettings()
        protection = self._world.protection
        if any(calls(lexed, *lexed.statements[0], self._world.functions, dotted=False)):
            return None

        judge = self._of_parts(refusal, lexed, asker, settings)
        taking = TakingApart(lexed, settings, judge, self._shape(lexed), self._generation)
        span, database = (parts[0].first, parts[0].last), protection.under(settings.temporary)
        try:
            facts = analyse(lexed, span, database, settings.search_path, protection.suspects)
        except ParseError:
            return None
        if facts.doubtful or any(obstacle.unread for obstacle in facts.obstacles):
            return None
        rules, policy = protection.rules, asker.principal.policy
        against = unreadable(facts, rules, policy)
        folded = taking.fold(span, database) if folding and against is None else None
        if folded is not None:
            return folded
        writes = lexed.tokens[span[0]].value in {"insert", "update", "delete", "merge"}
        against = unwritable(facts, rules, policy) if writes else against
        if against is not None:
            # Why the database can't says more than why pgveil may not, where both are about the same column.
            return None if _about_same(refusal, against) else against
        if writes:
            return taking.write(span, database, protection.column_words, self._logical)
        return taking.compute(span, database)

    def _hinted(
        self, refusal: Refusal, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings
    ) -> Refusal | NeedSettings:
        """The refusal, with a better hint where the same query would be done in steps if it came by itself."""
        at, keeps = refusal.token, refusal.reason is Reason.ORACLE
        if at is None or not (keeps or (self.computes and refusal.reason in COMPUTABLE)):
            return refusal
        part = next((p for p in parts if p.first <= at <= p.last), None)
        if part is None or part.kind not in _AROUND or (len(parts) == 1 and part.kind is StatementKind.QUERY):
            return refusal
        text = lexed.text[lexed.tokens[part.first].start : lexed.tokens[part.last].end]
        alone = lex(text, standard_conforming_strings=settings.standard_conforming_strings, budget=lexed.budget)
        inner = [classify(alone, first, last) for first, last in alone.statements]
        step = self._keeping if keeps else partial(self._computed, refusal)
        made = step(alone, inner, asker, settings)
        if isinstance(made, NeedSettings):
            return made
        return refusal if made is None or isinstance(made, Refusal) else replace(refusal, hint=_BY_ITSELF)

    def _computed_copy(
        self, refusal: Refusal, lexed: Lexed, part: Classified, asker: _Asker, settings: Settings
    ) -> Compute | NeedSettings | Refusal | None:
        """COPY (query) TO STDOUT: the query computed, its rows as COPY data."""
        version = self._world.protection.catalog.server_version
        form = copy_decisions.computed_format(lexed, part, settings.client_encoding, version)
        if form is None:
            return None
        # The query alone, at its place, so that positions in errors are right.
        start, end = lexed.tokens[part.first].start, lexed.tokens[part.last].end
        inner = lex(
            " " * start + lexed.text[start:end],
            standard_conforming_strings=settings.standard_conforming_strings,
            budget=lexed.budget,
        )
        parts = [classify(inner, first, last) for first, last in inner.statements]
        made = self._computed(refusal, inner, parts, asker, settings, folding=False)
        if isinstance(made, Compute):
            return replace(made, copy=form, action=Action.COPY, shape=self._shape(lexed))
        return made if isinstance(made, NeedSettings | Refusal) else None

    def _logical(self, name: ColumnName) -> str | None:
        """The type that clients see of a sealed column."""
        column = self.column(name)
        return column.type if column is not None and column.protection is Protection.SEALED else None

    def _may_show_views(self, lexed: Lexed, parts: list[Classified]) -> bool:
        """Whether one of the session's temporary views, whose names are not known now, may be read by a text."""
        world = self._world
        reads = bool(world.protection.everything) and any(p.kind in _ANALYSED or p.kind in _COPIES for p in parts)
        return reads and world.opaque.names(lexed)

    def _may_shadow(self, lexed: Lexed, settings: Settings, *, ddl: bool) -> bool:
        """Whether a temporary relation of a name that matters may come or go. Where there is one, anything could drop it: ON COMMIT, a function."""
        if settings.temporary:
            return True
        if self._shadows(lexed, ddl=ddl):
            return True
        return (ddl or _selects_into(lexed)) and bool(self.protected_names(lexed.words - CATALOGS))

    def _shadows(self, lexed: Lexed, *, ddl: bool) -> frozenset[str]:
        """The names of system catalogs that temporary relations may bear which a text makes."""
        if not self._world.catalogs.hides or lexed.words.isdisjoint(_TEMPORARY):
            return frozenset()
        return lexed.words & CATALOGS if ddl or _selects_into(lexed) else frozenset()

    def _matters(self, lexed: Lexed, parts: list[Classified], asker: _Asker) -> bool:
        """Whether the text could reach anything protected. Most texts end here."""
        world = self._world
        if not lexed.words.isdisjoint(world.triggers):
            return True
        if any(word.startswith("pgveil_") for word in lexed.words):
            return True
        operators = world.protection.operators
        if operators and any(t.kind is Kind.OP and t.value in operators for t in lexed.tokens):
            return True
        if world.protection.everything and world.opaque.may_show(lexed, parts):
            return True
        if not asker.unfenced:
            return False
        return unfenced.looks_harmful(lexed.words, parts, world.reach)

    def _garbled(
        self,
        sql: bytes,
        asker: _Asker,
        sqlstate: str,
        message: str,
        position: int | None,
        check: ServerCheck | None = None,
    ) -> Decision:
        """A text that we can't read. The server's own error is the best answer, unless the text could matter after all.

        A name can be spelled otherwise in U&"..." and in no other form, and there only behind these three characters.
        """
        lowered = sql.lower()
        spelled = b'u&"' in lowered or b"pgveil" in lowered or not sql.isascii()
        suspicious = spelled or _names_any(lowered, self._world.triggers)
        if not suspicious and not asker.unfenced:
            return Pass(unsettles=True, ddl=True)
        refusal = Refusal(Reason.LEXER, sqlstate, message, hint=_CHECK_TEXT)
        if sqlstate == STATEMENT_TOO_COMPLEX:
            refusal = Refusal(Reason.LIMIT, sqlstate, message, hint=_SPLIT)
        return Refuse(refusal, "", position, check)

    def _shape(self, lexed: Lexed) -> str:
        """The normalised text for the audit log. What stands in double quotes and names nothing could be a value in the wrong quotes."""
        shape = lexed.shape
        for word in lexed.quoted_words - self._world.names:
            shape = shape.replace(quote_ident(word), '"?"')
        return shape[: self._limits.shape_chars]

    def _refuse(self, refusal: Refusal, lexed: Lexed, settings: Settings) -> Refuse:
        position = lexed.tokens[refusal.token].start + 1 if refusal.token is not None else None
        check = None if refusal.reason in _NOT_ASKED else server_check(lexed, settings.client_encoding)
        return Refuse(refusal, self._shape(lexed), position, check)

    # -- statements

    def _plan_all(
        self, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings, scope: NamesInText
    ) -> list[Plan | None]:
        """The plans of the statements; of those that run by name, `parts` tell afterwards what is known of them."""
        world = self._world
        plans: list[Plan | None] = []
        unsettled = changed = False
        # What hides a protected name is certain for the first statement only: it may drop it.
        hiding = settings.temporary & world.protection.relation_words
        settings = replace(settings, temporary=world.protection.shadowed(settings.search_path, hiding))
        for index, (part, (first, last)) in enumerate(zip(parts, lexed.statements, strict=True)):
            words = _words(lexed, (first, last), settings.temporary)
            named = not words.isdisjoint(world.triggers)
            if part.kind in _BY_NAME and part.named is not None:
                known = scope.find(part.named)
                changes = Change.ALL if known is None or known.unsettles else Change.NONE
                part = parts[index] = replace(part, changes=changes)  # noqa: PLW2901
                plan = self._by_name(lexed, part, known, (first, last), words, asker, settings)
            else:
                plan = self._plan(lexed, index, part, (first, last), words, asker, settings)
            if part.explained and plan is not None:
                plan = replace(plan, explains=True)
            if unsettled and (named or plan is not None):
                raise _RefusedError(_one_by_one("changes settings that its meaning depends on", first))
            if changed and part.kind in _CALLS:
                raise _RefusedError(_one_by_one("changes what its names may mean", first))
            changes = max(part.changes, world.changing.by(lexed, first, last))
            if plan is not None and (plan.later or plan).opens and world.changing.told_by(lexed, first, last):
                raise _RefusedError(_changes_own(first))
            unsettled |= changes is Change.ALL
            unsettled |= bool(settings.temporary) or _makes_temporary(words, part)
            settings = replace(settings, temporary=frozenset())
            changed |= part.kind in _CHANGES_CATALOG and (named or (asker.unfenced and world.reach.protects))
            if part.named is not None:
                later = None if plan is None else plan.later
                scope.change(part.named, Known(later, bool(changes)))
            plans.append(plan)
        if len(parts) > 1:
            alone = copy_decisions.among_others(plans, lexed)
            if isinstance(alone, Refusal):
                raise _RefusedError(alone)
            plans = alone
        elif (plan := plans[0] if plans else None) is not None and plan.copy is not None:
            version = world.protection.catalog.server_version
            written = copy_decisions.as_written(plan, lexed, settings.client_encoding, version)
            if isinstance(written, Refusal):
                raise _RefusedError(written)
            plans = [written]
        return plans

    def _diverted(
        self, lexed: Lexed, parts: list[Classified], asker: _Asker, settings: Settings
    ) -> Refuse | NeedSettings | None:
        """Why a text may write nothing now: a trigger could take something of the login's own for what it means, and give it a row."""
        loose = self._diverting(asker, settings)
        if loose is None:
            return None
        for part, (first, last) in zip(parts, lexed.statements, strict=True):
            if self._may_write(part, _words(lexed, (first, last), settings.temporary)):
                known = settings.search_path is not None
                return self._refuse(_diverted(loose, first), lexed, settings) if known else NeedSettings()
        return None

    def _diverting(self, asker: _Asker, settings: Settings) -> LooseTrigger | None:
        """A trigger that is given what the login does not see clear, and could take something of the login's for what it means, or may while
        nothing is known of the session."""
        world = self._world
        if not asker.limited or not world.loose:
            return None
        login, path = asker.principal.login, settings.search_path
        roles = (login, *world.protection.catalog.memberships(login))
        made = {n.name for role in roles for n in world.made.get(role, ()) if path and n.schema in path}
        for loose in world.loose:
            unseen = any(asker.principal.policy.verdict(c) is not Verdict.CLEAR for c in loose.columns)
            if unseen and (path is None or any(loose.meets(name) for name in (*settings.temporary, *made))):
                return loose
        return None

    def _may_write(self, part: Classified, words: frozenset[str]) -> bool:
        """Whether a statement may write something of the catalog's, by triggers and foreign keys any table then."""
        if part.kind in {StatementKind.EXECUTE, StatementKind.DYNAMIC}:
            return True
        world = self._world
        writes = not words.isdisjoint(_WRITING) and not words.isdisjoint(world.relations)
        return writes or not words.isdisjoint(world.functions)

    def _by_name(
        self,
        lexed: Lexed,
        part: Classified,
        known: Known | None,
        whole: tuple[int, int],
        words: frozenset[str],
        asker: _Asker,
        settings: Settings,
    ) -> Plan | None:
        """The plan of EXECUTE or FETCH."""
        assert part.named is not None
        self._own_objects(lexed, whole, settings)
        if asker.limited:
            self._limited(lexed, words, part, whole, asker)
        called = self._functions(lexed, whole, asker, told=self._told(lexed, whole, words))
        if isinstance(called, Refusal):
            raise _RefusedError(called)
        if known is None:
            if asker.unfenced and self._world.reach.protects:
                raise _RefusedError(unknown_to_unfenced(part.named.token))
            if part.named.parts and self._world.protection.seals:
                raise _RefusedError(unknown_statement(part.named))
            # A function may have made it, of anything.
            unknown = _also_reads(_NOTHING, self._readable(asker), asker, self._world.protection)
            return unknown if isinstance(unknown, Plan) else None
        plan = known.plan
        if plan is None or lexed.tokens[whole[0]].value == "move":
            return None
        if part.kind is StatementKind.FETCH:
            return replace(plan, edits=(), literals=(), params=())
        if part.wrapped == "create" and asker.limited and plan.touched:
            raise _RefusedError(_no_limited("CREATE TABLE over protected columns", whole[0]))
        made = execution(lexed, part, plan, _canonical_type)
        if isinstance(made, Refusal):
            raise _RefusedError(made)
        return made

    def _plan(
        self,
        lexed: Lexed,
        index: int,
        part: Classified,
        whole: tuple[int, int],
        words: frozenset[str],
        asker: _Asker,
        settings: Settings,
    ) -> Plan | None:
        self._own_objects(lexed, whole, settings)
        if asker.limited:
            self._limited(lexed, words, part, whole, asker)
        policy, names = asker.principal.policy.id, (settings.search_path, settings.temporary)
        told = self._told(lexed, whole, words)
        views = bool(settings.views) and not _words(lexed, whole, frozenset()).isdisjoint(settings.views or ())
        key = (lexed.shape, index, policy, asker.views, names, asker.unfenced, told, views)
        significant = self._plans.get(key)
        found: object = None
        if isinstance(significant, tuple):
            found = self._plans.get((key, _literals(lexed, significant)))
        if found is not None:
            self._observer.hit()
        else:
            self._observer.miss()
            significant, found = self._make(lexed, part, whole, words, asker, settings, told=told)
            found = self._with_hidden(found, lexed, part, whole, words, asker, views=views)
            if len(lexed.shape) <= self._limits.shape_chars:
                literals = _literals(lexed, significant)
                self._plans.put(key, significant, sys.getsizeof(lexed.shape))
                self._plans.put((key, literals), found, sum(map(sys.getsizeof, literals)) + _weight(found))
                self._observer.entries(len(self._plans))
        if isinstance(found, Refusal):
            raise _RefusedError(found)
        assert isinstance(found, Plan | _Nothing)
        return None if isinstance(found, _Nothing) else found

    def _make(
        self,
        lexed: Lexed,
        part: Classified,
        whole: tuple[int, int],
        words: frozenset[str],
        asker: _Asker,
        settings: Settings,
        *,
        told: bool,
    ) -> tuple[tuple[int, ...], Plan | Refusal | _Nothing]:
        """The plan of a statement and the literals that it depends on, but for those that `told` stands for."""
        protection = self._world.protection
        called: frozenset[ColumnName] | Refusal = frozenset()
        if part.kind in _CALLS:
            called = self._functions(lexed, whole, asker, told=told)
        if isinstance(called, Refusal):
            return (), called
        if part.kind is StatementKind.ELSEWHERE or (part.kind is StatementKind.HARMLESS and part.named is not None):
            return (), _NOTHING
        refusal = self._written_reads(words, asker, whole[0])
        if refusal is not None:
            return (), refusal
        if words.isdisjoint(protection.relation_words):
            if not called:
                return (), _NOTHING
            touching = _touching(Action.OTHER, called, asker, protection)
            return (), replace(touching, later=touching) if part.named is not None else touching
        if part.kind in _ANALYSED:
            return self._analysed(lexed, part, asker, settings, called)
        if part.kind is StatementKind.COPY_TABLE:
            return (), self._copy(lexed, whole, asker, settings)
        dump = refused_dump(
            lexed, whole, protection.catalog, asker.principal.policy, lambda r: self._ruled(self._columns_of(r))
        )
        if part.kind is not StatementKind.DDL or dump is not None:
            return (), dump or self._utility(part, words, asker, whole[0])
        return self._schema_change(lexed, part, whole, words, asker, settings)

    def _schema_change(
        self,
        lexed: Lexed,
        part: Classified,
        whole: tuple[int, int],
        words: frozenset[str],
        asker: _Asker,
        settings: Settings,
    ) -> tuple[tuple[int, ...], Plan | Refusal]:
        """What is done to a table with sealed columns; the types in it hold numbers."""
        protection = self._world.protection
        bank = (protection.under(settings.temporary), protection.rules, settings.search_path)
        unneeded = unneeded_changes(lexed, whole, *bank, _canonical_type)
        refusal = refused_change(lexed, whole, *bank, unneeded)
        plan = refusal or self._utility(part, words, asker, whole[0])
        if isinstance(plan, Plan) and unneeded:
            plan = replace(plan, edits=(*plan.edits, *unneeded))
        return tuple(i for i in lexed.literals if whole[0] <= i <= whole[1]), plan

    def _with_hidden(
        self,
        found: Plan | Refusal | _Nothing,
        lexed: Lexed,
        part: Classified,
        whole: tuple[int, int],
        words: frozenset[str],
        asker: _Asker,
        *,
        views: bool,
    ) -> Plan | Refusal | _Nothing:
        """The plan with all that the statement could read and its text does not say (ADR 0031). `views`: it names a temporary view."""
        world = self._world
        if isinstance(found, Refusal):
            return found
        protection = world.protection
        reads: set[ColumnName] = set()
        if part.kind in _CALLS or part.kind is StatementKind.DDL:
            for index in calls(lexed, *whole, protection.functions):
                reads |= protection.functions[lexed.tokens[index].value]
        if not words.isdisjoint(_WRITING):
            reads.update(*(world.written[word] for word in words & world.written.keys()))
        if views or world.opaque.shows(lexed, part, whole, words):
            reads |= protection.everything
        return _also_reads(found, self._readable(asker) & reads, asker, protection, later=part.named is not None)

    def _readable(self, asker: _Asker) -> frozenset[ColumnName]:
        """What the server would show the login."""
        verdicts = asker.principal.policy.verdicts
        return frozenset(c for c in self._world.protection.everything if verdicts.get(c) is Verdict.CLEAR)

    def _analysed(
        self, lexed: Lexed, part: Classified, asker: _Asker, settings: Settings, called: frozenset[ColumnName]
    ) -> tuple[tuple[int, ...], Plan | Refusal | _Nothing]:
        protection = self._world.protection
        self._observer.parsed()
        try:
            database = protection.under(settings.temporary)
            facts = analyse(lexed, (part.first, part.last), database, settings.search_path, protection.suspects)
        except ParseError as error:
            return (), Refusal(
                Reason.UNPARSED,
                UNSUPPORTED,
                f"pgveil can't protect this statement: {error}",
                hint="It names something protected. Write it as SELECT, INSERT, UPDATE or DELETE in plain form.",
                token=part.first if error.token is None else error.token,
            )
        plan = decide(facts, self._judgement(asker))
        if isinstance(plan, Refusal):
            return facts.significant, plan
        plan = replace(plan, by_mask=() if plan.lookups else self._by_mask(facts, asker))
        if facts.stored:
            plan = replace(plan, storing=storing(facts, lexed, protection.rules))
        if part.kind is StatementKind.CREATE_AS and asker.limited and facts.columns:
            return facts.significant, _no_limited("CREATE TABLE or VIEW over protected columns", part.first)
        if part.kind is StatementKind.CREATE_AS and facts.columns and makes_temporary_view(lexed.tokens, part.first):
            return facts.significant, Refusal(
                Reason.UNSUPPORTED,
                UNSUPPORTED,
                "a temporary view over protected columns can't be recorded or opened: no catalog that pgveil reads shows it",
                hint="Put the view's query into WITH, or make a view that is not temporary.",
                token=part.first,
            )
        if not plan.touched and not plan.edits and not called:
            return facts.significant, _Nothing()
        if part.kind is StatementKind.PREPARE:
            assert part.named is not None
            return facts.significant, prepared(lexed, part.named, plan, _canonical_type)
        if part.kind is StatementKind.CURSOR:
            return facts.significant, declared(plan)
        if part.kind is StatementKind.COPY_QUERY:
            return facts.significant, copy_decisions.of_query(plan, lexed, part, protection.catalog.server_version)
        if part.kind is not StatementKind.QUERY:
            # EXPLAIN and CREATE AS: no row of theirs can be opened on the way out.
            return facts.significant, replace(plan, results=None)
        return facts.significant, plan

    def _by_mask(self, facts: Facts, asker: _Asker) -> tuple[ColumnName, ...]:
        """Columns that the login sees masked in the database and that a condition looks at."""
        verdict = asker.principal.policy.verdict
        return tuple(
            sorted(
                name
                for name in facts.compared
                if (column := self.column(name)) is not None
                and column.protection is Protection.MASKED
                and verdict(name) is Verdict.MASKED
            )
        )

    # -- what is not a query

    def _own_objects(self, lexed: Lexed, whole: tuple[int, int], settings: Settings) -> None:
        if any(_is_own_schema(schema) for schema in settings.search_path or ()):
            raise _RefusedError(
                Refusal(
                    Reason.SETTINGS,
                    DENIED,
                    "pgveil's own objects can't be named through pgveil, and a schema of its own is in search_path",
                    hint="Take pgveil's schemas out of search_path: SET search_path = public",
                    token=whole[0],
                )
            )
        for index in range(whole[0], whole[1]):
            token = lexed.tokens[index]
            following = lexed.tokens[index + 1].value
            if token.kind in (Kind.WORD, Kind.QUOTED) and (
                (_is_own_schema(token.value) and following == ".")
                or (token.value == "execute" and _is_own_schema(following))
            ):
                raise _RefusedError(
                    Refusal(
                        Reason.UNSUPPORTED,
                        DENIED,
                        "pgveil's own objects can't be named through pgveil",
                        hint="Name the tables themselves; pgveil masks them. To look after its objects, connect to the server directly; a dump leaves them out by pg_dump -N 'pgveil*'.",
                        token=index,
                    )
                )

    def _limited(
        self, lexed: Lexed, words: frozenset[str], part: Classified, whole: tuple[int, int], asker: _Asker
    ) -> None:
        """What is not for somebody who does not see everything clear, whatever tables it names."""
        if asker.unfenced:
            refusal = unfenced.harm(lexed, part, whole, words, self._world.reach)
            if refusal is not None:
                raise _RefusedError(refusal)
        raw = calls(lexed, *whole, self._world.opaque.raw, dotted=False)
        if raw:
            raise _RefusedError(_raw(lexed.tokens[raw[0]].value, raw[0]))

    def _functions(
        self, lexed: Lexed, whole: tuple[int, int], asker: _Asker, *, told: bool
    ) -> frozenset[ColumnName] | Refusal:
        """The protected columns that called functions read; a refusal where the role may not, or would get sealed values."""
        functions = self._world.protection.functions
        columns: set[ColumnName] = set()
        for index in calls(lexed, *whole, functions):
            name = lexed.tokens[index].value
            stake = functions[name] if asker.limited or told else self._world.protection.naming.get(name, frozenset())
            bad = sorted(c for c in stake if not self._clear_and_plain(c, asker))
            if bad:
                return Refusal(
                    Reason.UNSUPPORTED,
                    UNSUPPORTED,
                    f'function "{name}" can read column "{bad[0]}", which pgveil can\'t protect inside a function',
                    hint="Query the tables themselves instead of calling the function.",
                    column=bad[0],
                    token=index,
                )
            columns |= functions[name]
        return frozenset(columns)

    def _told(self, lexed: Lexed, whole: tuple[int, int], words: frozenset[str]) -> bool:
        """Whether a statement calls what could run any text, and has a constant that names something protected.

        To those from whom nothing is kept it matters only that sealed values come opened. For them a function that could run any text is
        held to run harmless ones, unless its source or such a constant tells otherwise. If it reads a sealed column all the same, they get
        the value as it is stored.
        """
        protection = self._world.protection
        guessed = protection.guessed
        span = lexed.tokens[whole[0] : whole[1] + 1]
        if words.isdisjoint(guessed) and not any(t.kind is Kind.OP and t.value in guessed for t in span):
            return False
        for token in span:
            if token.kind is Kind.STRING:
                found = set(_WORDS.findall(lexed.text[token.start : token.end].lower()))
                if not found.isdisjoint(protection.relation_words) or not found.isdisjoint(protection.naming):
                    return True
        return False

    def _written_reads(self, words: frozenset[str], asker: _Asker, token: int) -> Refusal | None:
        """A refusal where a write would run something that reads what the role sees masked, and privileges do not stop it."""
        if not asker.limited or words.isdisjoint(_WRITING):
            return None
        reads = by_name(self._world.hidden, fenced=not asker.unfenced)
        for name in sorted(words & reads.keys()):
            bad = sorted(c for c in reads[name] if asker.principal.policy.verdict(c) is not Verdict.CLEAR)
            if bad:
                return Refusal(
                    Reason.UNSUPPORTED,
                    UNSUPPORTED,
                    f'writing "{name}" runs a rule, trigger or default that reads column "{bad[0]}", which this login does not see clear',
                    hint="Write it with a login that sees the column clear, or take that rule, trigger or default away.",
                    column=bad[0],
                    token=token,
                )
        return None

    def _clear_and_plain(self, name: ColumnName, asker: _Asker) -> bool:
        column = self.column(name)
        return (
            column is not None
            and column.protection is not Protection.SEALED
            and asker.principal.policy.verdict(name) is Verdict.CLEAR
        )

    def _columns_named(self, words: Iterable[str]) -> frozenset[ColumnName]:
        protection = self._world.protection
        wanted = frozenset(words)
        columns: set[ColumnName] = set()
        for relation in protection.catalog.relations.values():
            if relation.name.name in wanted:
                columns |= self._columns_of(relation)
        return frozenset(columns)

    def _ruled(self, columns: Iterable[ColumnName]) -> frozenset[ColumnName]:
        """Those that the rules know: of a sealed column that they do not know nothing can be said but that it is there."""
        rules = self._world.protection.rules
        return frozenset(c for c in columns if (rule := rules.column(c)) is not None and rule.protected)

    def _columns_of(self, relation: Relation) -> frozenset[ColumnName]:
        protection = self._world.protection
        lineage = protection.lineage_of(relation)
        return frozenset(protection.columns_of(relation).values()) | (
            lineage.inside if lineage is not None else frozenset()
        )

    def _utility(self, part: Classified, words: frozenset[str], asker: _Asker, token: int) -> Plan | Refusal:
        columns = self._ruled(self._columns_named(words))
        clear = all(asker.principal.policy.verdict(c) is Verdict.CLEAR for c in columns)
        if part.kind is StatementKind.HARMLESS or (part.kind is StatementKind.DDL and clear):
            action = Action.DDL if part.kind is StatementKind.DDL else Action.OTHER
            return _touching(
                action, columns, asker, self._world.protection, written=not words.isdisjoint({"truncate", "drop"})
            )
        if part.kind is StatementKind.DDL:
            return _no_limited("this change to protected tables", token)
        return Refusal(
            Reason.UNSUPPORTED,
            UNSUPPORTED,
            "pgveil can't protect this statement: it is of a kind that is not analysed",
            hint="Write it as SELECT, INSERT, UPDATE or DELETE.",
            token=token,
        )

    def _copy(
        self, lexed: Lexed, whole: tuple[int, int], asker: _Asker, settings: Settings
    ) -> Plan | Refusal | _Nothing:
        protection = self._world.protection
        judge = copy_decisions.CopyJudge(protection, self._judgement(asker), settings.search_path, settings.temporary)
        self._observer.parsed()
        return judge.table(lexed, *whole) or _NOTHING

    def _judgement(self, asker: _Asker) -> Judgement:
        protection = self._world.protection
        return Judgement(
            protection.rules,
            asker.principal.policy,
            protection.differing,
            asker.views,
            partial(protection.view_problem, asker.principal.policy),
            _canonical_type,
            asker.keys,
            protection.told,
        )

    # -- the text that runs

    def _admit(
        self,
        lexed: Lexed,
        parts: list[Classified],
        plans: tuple[Plan | None, ...],
        settings: Settings,
        login: str,
        edits: tuple[Edit, ...] = (),
    ) -> Admit | Refuse:
        unsettles, ddl, ends, forms = self._afterwards(lexed, parts, settings)
        probes = self._probes(lexed, parts, plans)
        asked_before = [lexed.tokens[lexed.statements[i][0]].start for i in probes]
        try:
            whole = (*plans, Plan(Action.OTHER, edits=edits))
            text, offsets = edited(lexed, whole, self._sealer, login, asked_before)
        except BadValue as bad:
            refusal = Refusal(bad.reason, bad.sqlstate, bad.message, bad.detail, column=bad.column)
            return Refuse(refusal, self._shape(lexed), bad.position)
        except LexError as error:
            refusal = Refusal(Reason.LEXER, "42601", str(error), hint=_CHECK_TEXT)
            return Refuse(refusal, self._shape(lexed), error.position + 1)
        try:
            raw = encode_sql(text, settings.client_encoding)
            asked = [copy_decisions.witness_text(p, lexed, text, offsets) for p in plans if p is not None]
            # Of several statements the first could end the transaction whose locks make the answer last.
            asked += [p.storing.witness for p in plans if p is not None and p.storing is not None and len(plans) == 1]
            witness = next((encode_sql(t, settings.client_encoding) for t in asked if t is not None), None)
        except EncodingError:
            return Refuse(
                Refusal(
                    Reason.LEXER,
                    "22021",
                    "the statement can't be written in the client's encoding",
                    hint="Set client_encoding to UTF8: a name that pgveil puts into the text is not in this one.",
                ),
                self._shape(lexed),
            )
        changes = self._changes(lexed, parts, plans, settings, login)
        by_name = any(p.kind in _BY_NAME for p in parts)
        shape = self._shape(lexed)
        return Admit(
            raw,
            offsets,
            plans,
            shape,
            self._generation,
            unsettles,
            ddl,
            changes,
            by_name,
            witness,
            ends=ends,
            forms=forms,
            probes=probes,
            vouched=vouched(plans, self._sealer),
        )

    def _probes(self, lexed: Lexed, parts: list[Classified], plans: tuple[Plan | None, ...]) -> tuple[int, ...]:
        """The statements before which the server is to be asked for the settings: those with values to open, behind what may have changed them."""
        found = []
        doubtful = False
        for index, (part, plan, (first, last)) in enumerate(zip(parts, plans, lexed.statements, strict=True)):
            if doubtful and plan is not None and plan.opens:
                found.append(index)
                doubtful = False
            doubtful |= part.ends or bool(part.changes) or bool(self._world.changing.by(lexed, first, last))
        return tuple(found)


def _names_any(lowered: bytes, names: frozenset[str]) -> bool:
    """Whether a text that could not be cut into tokens has any of the names in it: plain ones as whole words, others anywhere."""
    whole = set(_RAW_WORDS.findall(lowered))
    words = whole.union(*(word.split(b"$") for word in whole))
    words |= {word.lstrip(b"0123456789") for word in words}
    return any(
        raw in words if _PLAIN_NAME.fullmatch(raw) else raw in lowered for raw in (name.encode() for name in names)
    )


_RAW_WORDS = re.compile(rb"[a-z0-9_$]+")
_PLAIN_NAME = re.compile(rb"[a-z_][a-z0-9_$]*")
_WORDS = re.compile(r"[^\W\d][\w$]*")


class _Nothing:
    """A statement that names something protected by chance and touches nothing of it."""

    __slots__ = ()


_NOTHING = _Nothing()
_CHANGES_CATALOG = frozenset({StatementKind.DDL, StatementKind.CREATE_AS, StatementKind.DYNAMIC})
_ANALYSED = frozenset(
    {
        StatementKind.QUERY,
        StatementKind.EXPLAIN,
        StatementKind.CURSOR,
        StatementKind.PREPARE,
        StatementKind.CREATE_AS,
        StatementKind.COPY_QUERY,
    }
)
# In which a query may stand that would be computed by itself.
_AROUND = frozenset({StatementKind.QUERY, StatementKind.EXPLAIN, StatementKind.CURSOR, StatementKind.PREPARE})
_COPIES = frozenset({StatementKind.COPY_TABLE, StatementKind.COPY_QUERY})
_WRITING = frozenset({"insert", "update", "delete", "merge", "copy"})
# What is refused for another cause than what the text says; of other texts the server may find first that they are wrong.
_NOT_ASKED = frozenset({Reason.UNFENCED, Reason.SETTINGS})
_BY_NAME = frozenset({StatementKind.EXECUTE, StatementKind.FETCH})
_TEMPORARY = frozenset({"temp", "temporary", "pg_temp"})
_CALLS = _ANALYSED | _BY_NAME | {StatementKind.DYNAMIC, StatementKind.COPY_TABLE, StatementKind.OTHER}


def _is_own_schema(name: str) -> bool:
    return name == "pgveil" or name.startswith("pgveil_")


def _lasting(decision: Decision) -> bool:
    """Whether the same bytes will always be judged so: not where a literal is sealed with a nonce, or settings were unknown."""
    if isinstance(decision, NeedNames):
        return _lasting(decision.otherwise)
    if isinstance(decision, Admit):
        return not any(plan is not None and plan.literals for plan in decision.plans)
    return isinstance(decision, Pass) or (
        isinstance(decision, Refuse) and decision.refusal.reason is not Reason.BAD_VALUE
    )


def _literals(lexed: Lexed, indexes: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(lexed.text[lexed.tokens[i].start : lexed.tokens[i].end] for i in indexes)


def _canonical_type(spec: str) -> str:
    try:
        return parse_type(spec).name
    except TypeSpecError as error:
        raise ValueError(spec) from error


def _names(catalog: Catalog) -> Iterable[str]:
    """Every name of the catalog that a statement could quote."""
    yield from catalog.schemas
    for relation in catalog.relations.values():
        yield relation.name.name
        yield from (column.name for column in relation.columns)
    yield from (function.name.name for function in catalog.functions)


def _words(lexed: Lexed, whole: tuple[int, int], shadowed: frozenset[str]) -> frozenset[str]:
    """The identifiers of a statement, but for those that mean the session's temporary relations."""
    words = set()
    for index in range(whole[0], whole[1] + 1):
        token = lexed.tokens[index]
        if token.kind not in (Kind.WORD, Kind.QUOTED):
            continue
        if token.value not in shadowed or (index > whole[0] and lexed.tokens[index - 1].value == "."):
            words.add(token.value)
    return frozenset(words)


def _selects_into(lexed: Lexed) -> bool:
    """Whether a SELECT INTO may be in the text: an INTO that neither INSERT nor MERGE stands before."""
    tokens = lexed.tokens
    return "into" in lexed.words and any(
        t.kind is Kind.WORD and t.value == "into" and (i == 0 or tokens[i - 1].value not in {"insert", "merge"})
        for i, t in enumerate(tokens)
    )


def _diverted(loose: LooseTrigger, token: int) -> Refusal:
    """A trigger would find something of the login's own by one of its names, and give it the row."""
    return Refusal(
        Reason.UNSUPPORTED,
        UNSUPPORTED,
        f'writing can give a row of "{loose.relation}" to trigger function "{loose.function}", which finds something of this login\'s own by a name that it uses',
        hint=f"Drop what you made under that name, or: ALTER FUNCTION {loose.function}() SET search_path = {loose.relation.schema}, pg_temp.",
        column=min(loose.columns),
        token=token,
    )


def _makes_temporary(words: frozenset[str], part: Classified) -> bool:
    """Whether a relation that the following statements name may be a temporary one of this statement's making."""
    return not words.isdisjoint(_TEMPORARY) and (part.kind in _CHANGES_CATALOG or "into" in words)


def _defined(catalog: Catalog) -> object:
    """What a text can use of a catalog, in a form to be compared. What is pgveil's own nobody may name."""
    own = {oid for oid, r in catalog.relations.items() if is_own(r.name)}
    relations = {oid: r for oid, r in catalog.relations.items() if oid not in own}
    return relations, tuple(f for f in catalog.functions if not is_own(f.name)), catalog.operators


def _touching(
    action: Action,
    columns: Iterable[ColumnName] | None,
    asker: _Asker,
    protection: ProtectionMap,
    *,
    written: bool = False,
) -> Plan:
    """A plan that changes nothing: the statement is recorded as touching `columns`."""
    touched = []
    for name in sorted(columns or ()):
        column = protection.rules.column(name)
        if column is None:
            continue
        touched.append(
            Touched(name, column.level, asker.principal.policy.verdict(name), read=not written, written=written)
        )
    tables = tuple(sorted({name.relation for name in columns or ()}))
    return Plan(action, tables, tuple(touched), writes=action is Action.DDL or written)


def _also_reads(
    found: Plan | _Nothing,
    columns: frozenset[ColumnName],
    asker: _Asker,
    protection: ProtectionMap,
    *,
    later: bool = False,
) -> Plan | _Nothing:
    """The plan, recorded as reading `columns` as well; durable before it runs, since it may send to others what it reads."""
    if not columns:
        return found
    if isinstance(found, _Nothing):
        made = replace(_touching(Action.OTHER, columns, asker, protection), writes=True)
    else:
        touched = {t.column: t for t in _touching(found.action, columns, asker, protection).touched}
        touched |= {t.column: replace(t, read=t.read or t.column in columns) for t in found.touched}
        tables = {*found.tables, *(name.relation for name in columns)}
        made = replace(
            found,
            tables=tuple(sorted(tables)),
            touched=tuple(touched[name] for name in sorted(touched)),
            writes=True,
        )
    if made.later is not None:
        inner = _also_reads(made.later, columns, asker, protection)
        return replace(made, later=inner if isinstance(inner, Plan) else None)
    return replace(made, later=made) if later else made


def _about_same(one: Refusal, other: Refusal) -> bool:
    return one.column == other.column or one.column is None


def _raw(function: str, token: int) -> Refusal:
    return Refusal(
        Reason.UNFENCED,
        DENIED,
        f'function "{function}" shows what is stored, logged or running as it lies, where no privilege on tables keeps from this login what it may not see',
        hint="Call it with a login that sees every protected column clear, or connect to the server directly.",
        token=token,
    )


def _one_by_one(what: str, token: int) -> Refusal:
    return Refusal(
        Reason.SETTINGS,
        UNSUPPORTED,
        f"a statement before this one {what}",
        hint="Send the statements one by one.",
        token=token,
    )


def _changes_own(token: int) -> Refusal:
    return Refusal(
        Reason.SETTINGS,
        UNSUPPORTED,
        "this statement changes settings on which the form of its own sealed values depends",
        hint="Change the settings in a statement before it.",
        token=token,
    )


def _no_limited(what: str, token: int) -> Refusal:
    return Refusal(
        Reason.UNFENCED,
        DENIED,
        f"{what} is not allowed to a login that sees columns of them masked or not at all",
        hint="Use a login that sees the table's protected columns clear, or connect to the server directly.",
        token=token,
    )
