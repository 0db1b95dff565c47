"""Names and what they stand for: flows of protected values through range-table entries (PostgreSQL manual, 7.2.1 and 4.2.1)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlglot import exp

    from rules.model import ColumnName, TableName

SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@dataclass(frozen=True, slots=True)
class Flow:
    """Where a value comes from. `column`: it is this protected column's value, unchanged; `touches`: all that have a part in it.

    `reference`: the relation reference that `column` was read from, where that is one of the statement's own. `direct`: the server names
    the table's column as the origin of such a value in RowDescription (it does through subqueries and CTEs, not through set operations).
    `modified`: the value has the column's type with its modifier. `as_text`: a varchar column's value has become text. `constants`: it is one of these constants, in an output or a candidate.
    """

    column: ColumnName | None = None
    touches: frozenset[ColumnName] = frozenset()
    reference: int | None = None
    direct: bool = False
    null: bool = False
    modified: bool = True
    as_text: bool = False
    constants: tuple[exp.Expr, ...] = field(default=(), compare=False)


NOTHING = Flow()


def mixed(*flows: Flow) -> Flow:
    """The flow of a value computed from others."""
    touches: frozenset[ColumnName] = frozenset().union(*(f.touches for f in flows)) if flows else frozenset()
    return Flow(None, touches) if touches else NOTHING


@dataclass(slots=True)
class Named:
    """An output or range-table column: its name (None where PostgreSQL's own naming can't be told) and its flow."""

    name: str | None
    flow: Flow


@dataclass(slots=True)
class Entry:
    """A range-table entry. `opaque`: it has, or may have, columns that are not in `columns`.

    `reference` numbers the relation reference in the text, `table` the Record's TableUse of it. `inside`: of a subquery or an aliased join, the references in it. `target`: its
    columns are those of the relation that the statement writes.
    """

    name: str | None
    columns: list[Named]
    relation: TableName | None = None
    reference: int | None = None
    opaque: bool = False
    target: bool = False
    inside: range = range(0)
    table: int | None = None
    _by_name: dict[str | None, Named] = field(default_factory=dict, init=False, repr=False)
    _indexed: int = field(default=0, init=False, repr=False)

    @property
    def unnamed(self) -> list[Named]:
        """The columns whose names can't be told."""
        return [column for column in self.columns if column.name is None] if None in self._index() else []

    def find(self, name: str) -> Flow | None:
        """The flow of a column, by its name."""
        column = self._index().get(name)
        return None if column is None else column.flow

    def _index(self) -> dict[str | None, Named]:
        """The first column of each name; columns are only ever added."""
        if self._indexed != len(self.columns):
            self._by_name = {column.name: column for column in reversed(self.columns)}
            self._indexed = len(self.columns)
        return self._by_name


@dataclass(slots=True)
class Scope:
    """One query level: its entries, the columns that a bare `*` expands to, the CTEs that it sees, and the level around it."""

    parent: Scope | None = None
    entries: list[Entry] = field(default_factory=list)
    star: list[Named] = field(default_factory=list)
    star_known: bool = True
    merged: dict[str, Flow] = field(default_factory=dict)
    ctes: dict[str, Entry] = field(default_factory=dict)

    def levels(self) -> Iterator[Scope]:
        """This level and those around it, innermost first."""
        level: Scope | None = self
        while level is not None:
            yield level
            level = level.parent

    @property
    def breadth(self) -> int:
        """How many entries there are at all levels: what looking for a name costs."""
        return sum(len(level.entries) for level in self.levels())

    def without_siblings(self) -> Scope:
        """The level as a derived table in its FROM sees it: its CTEs and the levels around, but not its entries."""
        return Scope(self.parent, ctes=self.ctes)

    def cte(self, name: str) -> Entry | None:
        """The CTE of that name that this level sees."""
        for level in self.levels():
            if name in level.ctes:
                return level.ctes[name]
        return None

    def entry(self, name: str, schema: str | None = None) -> Entry | None:
        """The entry that a qualifier names. With a schema, only an unaliased table of that schema."""
        for level in self.levels():
            for entry in level.entries:
                if entry.name != name:
                    continue
                if schema is None or (entry.relation is not None and entry.relation == (schema, name)):
                    return entry
        return None

    def unqualified(self, name: str) -> tuple[list[tuple[Entry | None, Flow]], bool]:
        """Every candidate of a bare column name at the innermost level that has one, and whether an opaque entry further in could have it.

        An opaque entry of the same level makes no difference: the server would call the name ambiguous.
        """
        opaque = False
        for level in self.levels():
            if name in level.merged:
                return [(None, level.merged[name])], opaque
            found: list[tuple[Entry | None, Flow]] = []
            for entry in level.entries:
                flow = entry.find(name)
                if flow is not None:
                    found.append((entry, flow))
            if found:
                return found, opaque
            opaque |= any(entry.opaque or entry.unnamed for entry in level.entries)
        return [], opaque

    def own(self, name: str) -> bool:
        """Whether a bare column name means a column of this very level."""
        return name in self.merged or any(entry.find(name) is not None for entry in self.entries)

    def unnamed(self) -> Flow:
        """The flow of a bare name that no column bears, as far as columns whose names can't be told could be meant."""
        return mixed(*(column.flow for level in self.levels() for entry in level.entries for column in entry.unnamed))


class Outputs(list[Named]):
    """A query's output columns. `known` false: a `*` over something whose columns are not known is among them."""

    known: bool = True


def renamed(columns: list[Named], alias: exp.TableAlias | None) -> list[Named]:
    names = [c.name for c in alias.columns] if alias else []
    kept = [Named(names[i] if i < len(names) else c.name, c.flow) for i, c in enumerate(columns)]
    return kept + [Named(n, NOTHING) for n in names[len(columns) :]]


def derived(name: str | None, outputs: Outputs, alias: exp.TableAlias | None) -> Entry:
    columns = [Named(o.name, replace(o.flow, null=False, constants=())) for o in outputs]
    return Entry(name, renamed(columns, alias), opaque=not outputs.known)
