"""The Gate of observe mode: judges as if the rules were applied, and lets everything run as it came. Implements `proxy.session.gate.Judge`.

Only where nothing of the rules is applied. As soon as a database holds anything that `pgveil apply` makes, it is judged by an ordinary Gate,
and the rules are in force there: sealed values are never opened by observing, nor plain ones stored among them.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cachetools import LRUCache

from proxy.decisions import Gate
from proxy.observe.findings import Finding, Place, as_pass, finding
from proxy.offline import ThrowawayKeys
from proxy.session.gate import Pass
from proxy.session.values import ValueCodec
from rules.applied import as_applied, holds_nothing_of_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.plan_cache import CacheObserver
    from proxy.session.computing import Compute, Write
    from proxy.session.gate import Admit, Decision, Names, Refuse, Settings
    from proxy.splicing import LiteralSealer
    from proxy.vocabulary import Vocabulary
    from rules.catalog import Catalog
    from rules.model import Column, ColumnName, Principal, Rules, TableName
    from rules.plan import Plan

_FINDINGS = 4096  # decisions whose findings are remembered


class ObservingGate:
    """One database's. `take` gets each finding, with how often it was run (0: prepared); None is a statement that passes anyway.

    `rows`: how many may be fetched to compute a statement. `found(database, protected)` is told whether the rules are in force, at first and whenever that changes.
    """

    def __init__(
        self,
        rules: Rules,
        catalog: Catalog,
        sealer: LiteralSealer,
        *,
        observer: CacheObserver,
        take: Callable[[Finding | None, int], None],
        found: Callable[[str, bool], None],
        computes: bool = False,
        rows: int | None = None,
        vocabulary: Vocabulary | None = None,
        marks: Callable[[], Mapping[str, frozenset[str]]] | None = None,
    ) -> None:
        self._computes = computes
        self._rows = rows
        self._marks = marks
        self._vocabulary = vocabulary
        self._sealer = sealer
        self._observer = observer
        self._take = take
        self._found = found
        self._passing = partial(take, None)
        self._generation = 0
        self._observes: bool | None = None
        self.update(rules, catalog)

    def update(self, rules: Rules, catalog: Catalog) -> None:
        """New rules or a new catalog."""
        self.prepare(rules, catalog)()

    def prepare(self, rules: Rules, catalog: Catalog) -> Callable[[], None]:
        """Work out what `update` needs; calling what is returned does the rest, and can't fail."""
        observes = holds_nothing_of_ours(catalog)
        unkept = ValueCodec(ThrowawayKeys(), random=secrets.token_bytes)
        if observes:
            catalog = as_applied(rules, catalog)
        sealer = unkept if observes else self._sealer
        gate = Gate(
            rules,
            catalog,
            sealer,
            observer=self._observer,
            computes=self._computes,
            vocabulary=self._vocabulary,
            marks=None if observes else self._marks,
        )
        return partial(self._install, gate, Place(catalog, rules.version, gate.names, self._rows), observes)

    def _install(self, gate: Gate, place: Place, observes: bool) -> None:
        self._generation += 1
        self._gate, self._place = gate, place
        # Entries keep their decision alive, so that its identity is not used twice.
        self._findings: LRUCache[tuple[int, str], tuple[object, Finding]] = LRUCache(_FINDINGS)
        if observes is not self._observes:
            self._observes = observes
            self._found(place.database, not observes)

    @property
    def observes(self) -> bool:
        """Whether everything runs as it came."""
        return self._observes is True

    @property
    def generation(self) -> int:
        """See Judge."""
        return self._generation

    def unchanged_since(self, generation: int) -> bool:
        """See Judge."""
        return generation == self._generation

    def not_served(self) -> tuple[str, ...]:
        """See Gate; while observing everything is."""
        return () if self._observes else self._gate.not_served()

    def principal(self, login: str) -> Principal:
        """See Judge."""
        found = self._gate.principal(login)
        return replace(found, exposed=False) if self._observes and found.exposed else found

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        """See Judge."""
        return self._gate.decide(sql, principal, settings, extended=extended, names=names)

    def as_run(
        self, decision: Pass | Admit | Compute | Write | Refuse, principal: Principal
    ) -> Pass | Admit | Compute | Write | Refuse:
        """See Judge."""
        if not self._observes:
            return decision
        if isinstance(decision, Pass):
            return replace(decision, noted=self._passing, copies=None, instead=None)
        made = self._finding(decision, principal)
        return replace(as_pass(decision), noted=partial(self._take, made))

    def _finding(self, decision: Admit | Compute | Write | Refuse, principal: Principal) -> Finding:
        key = (id(decision), principal.login)
        known = self._findings.get(key)
        if known is None:
            known = (decision, finding(decision, principal, self._gate, self._place))
            self._findings[key] = known
        return known[1]

    def source_of(self, table_oid: int, attnum: int) -> ColumnName | None:
        """See Judge; nothing is protected while observing, whatever a description names."""
        return None if self._observes else self._gate.source_of(table_oid, attnum)

    def table_of(self, view_oid: int, attnum: int) -> tuple[int, int] | None:
        """See Judge; nobody reads by views while observing."""
        return None if self._observes else self._gate.table_of(view_oid, attnum)

    def unfamiliar(self, columns: frozenset[tuple[int, int]]) -> bool:
        """See Judge; while observing nothing waits."""
        return not self._observes and self._gate.unfamiliar(columns)

    def wanted_relations(self) -> frozenset[int]:
        """See Gate."""
        return self._gate.wanted_relations()

    def found_relations(self, looked_for: frozenset[int], temporary: frozenset[int]) -> None:
        """See Gate."""
        self._gate.found_relations(looked_for, temporary)

    def report(self, login: str, relation: TableName | None, context: bytes | None) -> tuple[Plan | None, bool]:
        """See Judge."""
        return (None, False) if self._observes else self._gate.report(login, relation, context)

    def hushes(self, login: str) -> bool:
        """See Judge."""
        return not self._observes and self._gate.hushes(login)

    def column(self, name: ColumnName) -> Column | None:
        """See Judge."""
        return self._gate.column(name)

    def protected_names(self, names: frozenset[str]) -> frozenset[str]:
        """See Judge."""
        return self._gate.protected_names(names)
