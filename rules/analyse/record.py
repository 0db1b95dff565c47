"""What the walk over the tree has found so far; it becomes Facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rules.analyse.facts import (
    ColumnUse,
    Constant,
    Facts,
    Leak,
    LookupSite,
    Obstacle,
    Output,
    Pair,
    RelationRef,
    Stored,
    Use,
)
from rules.lexer import Kind
from rules.plan import Action, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlglot import exp

    from rules.analyse.scope import Entry, Flow, Named, Scope
    from rules.analyse.tree import Tree
    from rules.catalog import Relation
    from rules.model import ColumnName, TableName


@dataclass(frozen=True, slots=True)
class ViewLineage:
    """A view's output columns in order, and every protected column that its definition uses. `known` false: it could not be analysed.

    `uses`, `pairs`, `united`: what the definition does with them, as of Facts (their tokens mean nothing elsewhere).
    """

    columns: tuple[Output, ...]
    inside: frozenset[ColumnName]
    known: bool = True
    uses: tuple[ColumnUse, ...] = ()
    pairs: tuple[Pair, ...] = ()
    united: tuple[Pair, ...] = ()


class Protected(Protocol):
    """What the analysis asks about the database; `rules.protect.Protection` answers."""

    def resolve(self, schema: str | None, name: str, search_path: tuple[str, ...] | None) -> Relation | None:
        """The relation that a name means. Raises AmbiguousNameError where that hangs on an unknown search_path."""

    def columns_of(self, relation: Relation) -> Mapping[str, ColumnName]:
        """The protected columns of a relation (inherited ones too), by name."""

    def lineage_of(self, relation: Relation) -> ViewLineage | None:
        """For a view that reads something protected: its lineage."""

    def replaceable(self, relation: Relation) -> bool:
        """Whether masking views are made for this very relation (not for partitions of a protected table)."""


class AmbiguousNameError(Exception):
    """A name could mean several relations, and the session's search_path is not known."""


@dataclass(slots=True)
class Reference:
    """A relation reference in the making."""

    relation: TableName
    first: int
    last: int
    aliased: bool
    replaceable: bool
    obstacle: str = ""
    columns: set[ColumnName] = field(default_factory=set)
    qualified: list[tuple[int, int]] = field(default_factory=list)
    whole: bool = False


@dataclass(slots=True)
class TableUse:
    """A relation by name in a FROM clause, or what is taken for one: tokens `first..last` of its (qualified) name.

    `relation` None: the catalog does not know it. `shown`: its alias, else its name. `plain`: neither ONLY nor TABLESAMPLE goes with it.
    `renamed`: a list of column aliases does. `qualified` as in Reference.
    """

    relation: Relation | None
    first: int
    last: int
    shown: str
    aliased: bool
    plain: bool
    renamed: bool
    qualified: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A SELECT with the names that it sees. `outputs`: its columns' names, None where one can't be told."""

    node: exp.Select
    scope: Scope
    outputs: list[str | None] | None = None


@dataclass(slots=True)
class Record:
    """The walk's state: the tree, the database, the findings, and the tokens accounted for."""

    tree: Tree
    database: Protected
    search_path: tuple[str, ...] | None
    of_view: bool = False
    references: list[Reference] = field(default_factory=list)
    targets: list[TableName] = field(default_factory=list)
    uses: list[ColumnUse] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    united: list[Pair] = field(default_factory=list)
    copies: list[Pair] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    target_reads: list[ColumnUse] = field(default_factory=list)
    views: set[ColumnName] = field(default_factory=set)
    obstacles: list[Obstacle] = field(default_factory=list)
    significant: set[int] = field(default_factory=set)
    visited: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    sites: list[LookupSite] = field(default_factory=list)
    doubtful: bool = False
    tables: list[TableUse] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    cte_references: list[int] = field(default_factory=list)
    written: list[int | None] = field(default_factory=list)
    target_obstacle: str = ""
    sealed: dict[int, ColumnName] = field(default_factory=dict)
    in_where: dict[int, bool] = field(default_factory=dict)
    conditions: int = 0
    compared: set[ColumnName] = field(default_factory=set)

    def spend(self, steps: int = 1) -> None:
        """Take steps of the statement's budget."""
        self.tree.lexed.budget.spend(steps)

    def seen(self, entry: Entry) -> None:
        """Remember the names by which the statement can mean something protected: whatever bears one must be accounted for."""
        self.spend(1 + len(entry.columns))
        protected = [column.name for column in entry.columns if column.flow.touches]
        self.names.update(name for name in (entry.name, *protected) if name is not None and protected)

    def use(self, flow: Flow, use: Use, token: int) -> None:
        """Note that a value is used. Of a computed value nothing more need be said than when it was computed."""
        if flow.column is not None:
            self.spend()
            if self.conditions and use is not Use.NULL_TEST:
                self.compared.add(flow.column)
            self.uses.append(ColumnUse(flow.column, use, token, flow.reference))

    def obstacle(
        self,
        message: str,
        hint: str,
        token: int | None,
        columns: frozenset[ColumnName] = frozenset(),
        reason: Reason = Reason.UNSUPPORTED,
        *,
        unread: bool = False,
    ) -> None:
        """Note a form that can't be protected."""
        self.spend()
        self.obstacles.append(Obstacle(reason, message, hint, token, columns, unread=unread))

    def missing(self, message: str, hint: str, token: int, sqlstate: str) -> None:
        """Note a name that means nothing here, so the server should refuse the statement; if it does not, the analysis has missed something."""
        self.obstacles.append(Obstacle(Reason.UNPARSED, message, hint, token, frozenset(), sqlstate, unread=True))

    def target(self) -> RelationRef | None:
        """See Facts. `written`: the relations of UPDATE and DELETE as of `tables`, None for what is written otherwise."""
        use = self.tables[self.written[0]] if len(self.written) == 1 and self.written[0] is not None else None
        if use is None or use.relation is None:
            return None
        obstacle = self.target_obstacle
        if not use.plain and use.relation.children:
            obstacle = "a masking view includes the rows of child tables"
        if not self.database.replaceable(use.relation):
            obstacle = "masking views are made for the table that the rules name, not for its partitions"
        read = frozenset(u.column for u in self.target_reads)
        return RelationRef(
            use.relation.name, use.first, use.last, use.aliased, read, not obstacle, obstacle, tuple(use.qualified)
        )

    def facts(self, action: Action, outputs: list[Named] | None, *, writes: bool) -> Facts:
        """The findings as a value."""
        return Facts(
            action=action,
            writes=writes,
            relations=tuple(
                RelationRef(
                    r.relation,
                    r.first,
                    r.last,
                    r.aliased,
                    frozenset(r.columns),
                    r.replaceable and not r.obstacle,
                    r.obstacle,
                    tuple(r.qualified),
                    r.whole,
                )
                for r in self.references
            ),
            targets=tuple(self.targets),
            uses=tuple(self.uses),
            pairs=tuple(self.pairs),
            united=tuple(self.united),
            copies=tuple(self.copies),
            constants=tuple(self.constants),
            stored=tuple(self.stored),
            leaks=tuple(self.leaks),
            target_reads=tuple(self.target_reads),
            target=self.target(),
            views=frozenset(self.views),
            outputs=None
            if outputs is None
            else tuple(
                Output(o.flow.column, o.flow.direct, o.flow.touches, o.flow.modified, o.flow.as_text) for o in outputs
            ),
            obstacles=tuple(self.obstacles),
            significant=tuple(sorted(self.significant)),
            sites=tuple(self.sites),
            doubtful=self.doubtful,
            compared=frozenset(self.compared),
            parameters=tuple(
                (index, int(self.tree.lexed.tokens[index].value))
                for index in range(self.tree.first, self.tree.last + 1)
                if self.tree.lexed.tokens[index].kind is Kind.PARAM
            ),
        )
