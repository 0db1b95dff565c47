"""What a statement does with protected columns, whoever runs it. The analysis writes these; `rules.decide` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.model import ColumnName, TableName
    from rules.plan import Action, Reason


class Use(StrEnum):
    """How one occurrence of a protected column is used. A value that only flows on to an output is no use of its own."""

    NULL_TEST = "null_test"  # IS [NOT] NULL, count(column): tells only whether there is a value
    EQUAL_CONSTANT = "equal_constant"  # =, <>, IN, ANY, IS DISTINCT FROM against literals and parameters
    EQUAL_COLUMN = "equal_column"  # the same against another protected column (see Facts.pairs)
    TEXT = "text"  # cast to text, which changes nothing of a text
    GROUP = "group"  # GROUP BY, DISTINCT, UNION, count(DISTINCT): tells which values are equal
    ORDER = "order"  # ORDER BY, <, BETWEEN, min, max
    COMPUTE = "compute"  # anything else: the database would work on the value


@dataclass(frozen=True, slots=True)
class ColumnUse:
    """One use. `token`: where it stands. `reference`: index into Facts.relations of the relation it comes from, or None (a view, a CTE)."""

    column: ColumnName
    use: Use
    token: int
    reference: int | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal or parameter that meets a protected column, with the tokens `first..last` that its sealed form replaces.

    `token` is the literal's or the parameter's own; casts around it are inside `first..last` and named in `casts`, innermost first.
    `compared`: with the column's values, rather than stored among them. `flows`: it stands for a value of the column's in an output or elsewhere. `number`: written
    as one, without quotes. `text`: PostgreSQL has taken it for a text before it reaches the column. `listed`: it stands in a list of several behind IN.
    """

    column: ColumnName
    token: int
    first: int
    last: int
    negative: bool = False
    array: bool = False
    casts: tuple[str, ...] = ()
    compared: bool = True
    flows: bool = False
    number: bool = False
    text: bool = False
    listed: bool = False


@dataclass(frozen=True, slots=True)
class LookupSite:
    """A comparison for equality with constants that could be made a look-up: a conjunct or disjunct of a WHERE, over a table as it is.

    `first..last`: the tokens of the whole comparison; `token`: the column's own. `head` and `tail`: the tokens before and behind the constants,
    where there are any (first > last: none). `array`: the one constant is an array. `qualifier`: what the table is called there.
    """

    column: ColumnName
    token: int
    qualifier: str
    head: tuple[int, int]
    constants: tuple[int, ...]
    tail: tuple[int, int]
    array: bool = False

    @property
    def first(self) -> int:
        """The comparison's first token."""
        return min(self.head[0], self.constants[0])

    @property
    def last(self) -> int:
        """The comparison's last token."""
        return max(self.tail[1], self.constants[-1])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two protected columns compared for equality, or one stored into the other."""

    left: ColumnName
    right: ColumnName
    token: int


@dataclass(frozen=True, slots=True)
class RelationRef:
    """A relation that the statement reads, as it stands in the text: tokens `first..last` of its (qualified) name.

    `columns`: its protected columns whose value goes anywhere at all. `aliased`: an alias follows. `plain`: it can be replaced by another
    relation's name (no TABLESAMPLE, no lock, no ONLY over children). `qualified`: token ranges of column references that repeat the
    schema (`public.customers.name`), to be shortened if the relation is replaced. `whole`: its row is read as one value, for which the
    server asks the privilege on every column.
    """

    relation: TableName
    first: int
    last: int
    aliased: bool
    columns: frozenset[ColumnName]
    replaceable: bool
    obstacle: str
    qualified: tuple[tuple[int, int], ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A protected column that gets a new value. `source`: what kind of value.

    `constant` (see Facts.constants), `null` (also DEFAULT), `column` (see Facts.copies), `destroyed` (DELETE), `other`. `place`: the tokens of the
    written relation's name, and what the column is called there; None where that is not known. `changes`: in a row that is there, as by SET.
    """

    column: ColumnName
    source: str
    token: int
    place: tuple[int, int, str] | None = None
    changes: bool = False


@dataclass(frozen=True, slots=True)
class Leak:
    """A protected column's value that would be stored in an unprotected place."""

    column: ColumnName
    token: int


@dataclass(frozen=True, slots=True)
class Output:
    """One output column: the protected column whose value it is unchanged, and every one that has a part in it. `modified`, `as_text` as of Flow."""

    column: ColumnName | None
    direct: bool
    touches: frozenset[ColumnName]
    modified: bool = True
    as_text: bool = False


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A form that pgveil does not protect. `sqlstate`: the server's own, where it would refuse the statement as well.

    `unread`: what names mean in it was not found out, so nothing can be built on the rest of the facts.
    """

    reason: Reason
    message: str
    hint: str
    token: int | None = None
    columns: frozenset[ColumnName] = frozenset()
    sqlstate: str | None = None
    unread: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that `decide` needs to know of one statement.

    `targets`: relations written. `target_reads`: protected columns of a written relation that are read there (WHERE, RETURNING). `target`: the one
    relation of an UPDATE or DELETE, for which a masking view may stand in; None where there is no such, or another one is written too. `united`: columns that one value may come from, as of the arms of a UNION. `views`: columns that views named in the statement use inside. `significant`: literal tokens whose
    value changes the facts (ordinals in ORDER BY), so they belong to the cache key. `parameters`: every parameter's (token, number).
    `sites`: what could be a look-up. `doubtful`: a name could mean several things, which the server will not let pass.
    """

    action: Action
    writes: bool
    relations: tuple[RelationRef, ...] = ()
    targets: tuple[TableName, ...] = ()
    uses: tuple[ColumnUse, ...] = ()
    pairs: tuple[Pair, ...] = ()
    united: tuple[Pair, ...] = ()
    copies: tuple[Pair, ...] = ()
    constants: tuple[Constant, ...] = ()
    stored: tuple[Stored, ...] = ()
    leaks: tuple[Leak, ...] = ()
    target_reads: tuple[ColumnUse, ...] = ()
    target: RelationRef | None = None
    views: frozenset[ColumnName] = frozenset()
    outputs: tuple[Output, ...] | None = None
    obstacles: tuple[Obstacle, ...] = ()
    significant: tuple[int, ...] = ()
    parameters: tuple[tuple[int, int], ...] = ()
    sites: tuple[LookupSite, ...] = ()
    doubtful: bool = False
    compared: frozenset[ColumnName] = frozenset()

    @property
    def columns(self) -> frozenset[ColumnName]:
        """Every protected column that the statement touches in any way."""
        return self.worked_on | {s.column for s in self.stored}

    @property
    def worked_on(self) -> frozenset[ColumnName]:
        """Those of which it needs to be known how they are stored: not of what goes with the row that DELETE takes away."""
        found: set[ColumnName] = set(self.views)
        for ref in self.relations:
            found |= ref.columns
        found |= {u.column for u in self.uses} | {u.column for u in self.target_reads}
        found |= {s.column for s in self.stored if s.source != "destroyed"}
        for output in self.outputs or ():
            found |= output.touches
        for obstacle in self.obstacles:
            found |= obstacle.columns
        found |= {leak.column for leak in self.leaks}
        return frozenset(found)
