"""An UPDATE that gives columns the masks that they show, as whole objects are saved: it is taken for one that leaves them out (ADR 0027).

What the columns show is asked first, of the rows that the statement finds, and locked; then the client's statement runs without these
assignments. A column that is kept plain is compared by the server, mask with value; of a sealed one only pgveil knows the mask.
"""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.logical import has_equality, type_of_oid
from rules.model import quote_ident
from rules.split.clauses import split_at
from rules.split.writing import clauses_behind, is_constant, unbounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.analyse import Protected
    from rules.analyse.record import TableUse
    from rules.catalog import CatalogColumn, Relation
    from rules.model import ColumnName
    from rules.split.clauses import Span
    from rules.split.text import Text


class Shown(StrEnum):
    """How a column that must not be changed is shown."""

    BY_SERVER = "by server"  # a mask that the server computes
    NOTHING = "nothing"  # always NULL
    BY_PGVEIL = "by pgveil"  # a sealed value, opened and masked


@dataclass(frozen=True, slots=True)
class KeptValue:
    """One assignment that is left out. `token`: the column's in the client's text. `constant`: the value's token, where pgveil has to compare."""

    column: ColumnName
    token: int
    constant: int | None = None
    negative: bool = False


@dataclass(frozen=True, slots=True)
class KeepText:
    """`fetch`: a SELECT with one column for each of `values`: whether the value is what is shown, or what is stored where pgveil compares."""

    fetch: str
    apply: str
    values: tuple[KeptValue, ...]
    returns: bool


def keep(text: Text, database: Protected, shown_as: Callable[[ColumnName], Shown | None]) -> KeepText | None:
    """How the statement can be done so; None where it can't. `shown_as`: None for a column that may be changed."""
    if text.value(text.first) != "update" or not text.survey.tables:
        return None
    use = min(text.survey.tables, key=lambda t: t.first)
    relation = use.relation
    if relation is None or not use.plain or relation.definition is not None or use.qualified:
        return None
    clauses = clauses_behind(text, use.last + 1, {"set", "from", "where", "returning"})
    where = clauses.get("where")
    if "set" not in clauses or "from" in clauses or (where is not None and text.value(where[0]) == "current"):
        return None
    return _kept(text, database, shown_as, use, relation, clauses)


def _kept(
    text: Text,
    database: Protected,
    shown_as: Callable[[ColumnName], Shown | None],
    use: TableUse,
    relation: Relation,
    clauses: dict[str, Span],
) -> KeepText | None:
    protected = database.columns_of(relation)
    values: list[KeptValue] = []
    asked: list[str] = []
    left: list[str] = []
    for item in split_at(text.lexed, clauses["set"], ","):
        if not text.is_name(item[0]) or text.value(item[0] + 1) != "=" or item[0] + 2 > item[1]:
            return None
        name = protected.get(text.value(item[0]))
        how = None if name is None else shown_as(name)
        if name is None or how is None:
            left.append(text.source(item))
            continue
        made = _asked(text, use, relation, item, name, how)
        if made is None:
            return None
        values.append(made[0])
        asked.append(made[1])
    if not left:
        untouched = next((c for c in relation.columns if c.name not in protected and _settable(c)), None)
        if untouched is None:
            return None
        # So many rows are found, and triggers fire, as if they had been changed.
        left.append(f"{quote_ident(untouched.name)} = {quote_ident(use.shown)}.{quote_ident(untouched.name)}")
    shown, where = quote_ident(use.shown), clauses.get("where")
    fetch = f"SELECT {', '.join(asked)} FROM {text.source((use.first, use.last))} AS {shown}"
    if where is not None:
        fetch += f" WHERE {text.source(where)}"
    first, last = clauses["set"]
    before, behind = text.source((text.first, first - 1)), ""
    if last < text.last:
        behind = " " + text.source((last + 1, text.last))
    apply = f"{before} {', '.join(left)}{behind}"
    return KeepText(f"{fetch} FOR NO KEY UPDATE OF {shown}", apply, tuple(values), "returning" in clauses)


def _settable(column: CatalogColumn) -> bool:
    """Whether it can be given its own value: an identity column can, unless it is GENERATED ALWAYS."""
    return not column.generated and not column.always


def _asked(
    text: Text, use: TableUse, relation: Relation, item: Span, name: ColumnName, how: Shown
) -> tuple[KeptValue, str] | None:
    """The assignment `item`, and what is asked for it."""
    column, value = relation.column(text.value(item[0])), (item[0] + 2, item[1])
    if column is None or (value[0] == value[1] and text.value(value[0]) == "default"):
        return None
    reference = f"{quote_ident(use.shown)}.{quote_ident(column.name)}"
    if how is Shown.BY_PGVEIL:
        if not is_constant(text, value):
            return None
        negative = text.value(value[0]) == "-"
        return KeptValue(name, item[0], value[0] + (text.value(value[0]) in {"-", "+"}), negative), reference
    given = f"({text.source(value)})"
    known = type_of_oid(column.type_oid, -1)
    if is_constant(text, value):
        given = f"CAST({given} AS {unbounded(column.declared_type if known is None else known)})"
    if how is Shown.NOTHING:
        return KeptValue(name, item[0]), f"{given} IS NULL"
    if known is None or not has_equality(known):
        reference, given = f"{reference}::pg_catalog.text", f"{given}::pg_catalog.text"
    return KeptValue(name, item[0]), f"({reference} IS NOT DISTINCT FROM {given})"
