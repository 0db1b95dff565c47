"""An UPDATE that gives columns the masks that they show, as whole objects are saved: it is taken for one that leaves them out (ADR 0027).

What the columns show is asked first, of the rows that the statement finds, and locked; then the client's statement runs without these
assignments. A column that is kept plain is compared by the server, mask with value; of a sealed one only pgveil knows the mask, and a value
for it never reaches the server as it is: where CASE chooses among several, the server is asked for the number of the one.

A sealed column that may be changed without being seen (`write: values`) stays in the statement. Its constants are parameters there, for which
pgveil gives what it finds out: a new value, or that the column keeps its own.
"""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from rules.lexer import Kind
from rules.logical import has_equality, type_of_oid
from rules.model import quote_ident
from rules.split.clauses import closing_of, split_at
from rules.split.writing import clauses_behind, is_cast, is_constant, next_parameter, unbounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.analyse import Protected
    from rules.analyse.record import TableUse
    from rules.catalog import CatalogColumn, Relation
    from rules.model import ColumnName
    from rules.split.clauses import Span
    from rules.split.text import Text


class Shown(StrEnum):
    """How a column is shown to who does not see it clear."""

    BY_SERVER = "by server"  # a mask that the server computes
    NOTHING = "nothing"  # always NULL
    BY_PGVEIL = "by pgveil"  # a sealed value, opened and masked
    WRITTEN = "written"  # the same, where it may be changed all the same


Place = tuple[int | None, bool]
"""A constant's own token, None for the NULL of a CASE without ELSE, and whether a minus is before it."""


@dataclass(frozen=True, slots=True)
class KeptValue:
    """One assignment that is left out. `constants`: what it may be, where pgveil has to compare.

    `chosen`: the fetch tells by another column which of them it is, the first being 1. `reference`: what the column is called in the statement, where
    the assignment stays with parameters in place of its constants.
    """

    column: ColumnName
    constants: tuple[Place, ...] = ()
    chosen: bool = False
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class KeepText:
    """`fetch`: a SELECT with a column for each of `values`: whether the value is what is shown, or what is stored where pgveil compares.

    Behind it, where it is `chosen`, another one. `first`: the number of `apply`'s first parameter that is not the client's. `rows`: so many rows
    must be found, and the first column tells them apart.
    """

    fetch: str
    apply: str
    values: tuple[KeptValue, ...]
    returns: bool
    first: int
    rows: int | None = None


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
    if "set" not in clauses or (where is not None and text.value(where[0]) == "current"):
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
    found = assignments(text, clauses["set"])
    if found is None:
        return None
    values: list[KeptValue] = []
    asked: list[str] = []
    left: list[str] = []
    first = behind = next_parameter(text)
    for token, value in found:
        name = protected.get(text.value(token))
        how = None if name is None else shown_as(name)
        made = None if name is None or how is None else _asked(text, use, relation, token, value, name, how)
        if made is not None:
            values.append(made[0])
            asked += made[1]
        elif how is not None:
            return None
        if how is None or how is Shown.WRITTEN:
            stays = text.source(value) if how is None else _numbered(text, value, [], "${}", behind)
            left.append(f"{text.source((token, token))} = {stays}")
        if made is not None and how is Shown.WRITTEN:
            behind += len(made[0].constants)
    if not left:
        untouched = next((c for c in relation.columns if c.name not in protected and _settable(c)), None)
        if untouched is None:
            return None
        # So many rows are found, and triggers fire, as if they had been changed.
        left.append(f"{quote_ident(untouched.name)} = {quote_ident(use.shown)}.{quote_ident(untouched.name)}")
    shown, where = quote_ident(use.shown), clauses.get("where")
    fetch = f"SELECT {', '.join(asked)} FROM {text.source((use.first, use.last))} AS {shown}"
    if "from" in clauses:
        fetch += f", {text.source(clauses['from'])}"
    if where is not None:
        fetch += f" WHERE {text.source(where)}"
    begin, end = clauses["set"]
    tail = " " + text.source((end + 1, text.last)) if end < text.last else ""
    apply = f"{text.source((text.first, begin - 1))} {', '.join(left)}{tail}"
    return KeepText(f"{fetch} FOR NO KEY UPDATE OF {shown}", apply, tuple(values), "returning" in clauses, first)


def _settable(column: CatalogColumn) -> bool:
    """Whether it can be given its own value: an identity column can, unless it is GENERATED ALWAYS."""
    return not column.generated and not column.always


def assignments(text: Text, span: Span) -> list[tuple[int, Span]] | None:
    """Each column's token and its value; None for what is no pair of these, as the columns of a subquery."""
    found: list[tuple[int, Span]] = []
    for first, last in split_at(text.lexed, span, ","):
        if text.is_name(first):
            columns, at = [(first, first)], first + 1
        else:
            closing = closing_of(text.lexed, first, last) if text.value(first) == "(" else None
            if closing is None:
                return None
            columns, at = split_at(text.lexed, (first + 1, closing - 1), ","), closing + 1
        if text.value(at) != "=" or at + 1 > last:
            return None
        values = [(at + 1, last)]
        if text.value(first) == "(":
            row = at + 1 + (text.value(at + 1) == "row")
            if text.value(row) != "(" or closing_of(text.lexed, row, last) != last or _is_query(text, row + 1):
                return None
            values = split_at(text.lexed, (row + 1, last - 1), ",")
        if len(columns) != len(values) or any(a != b or not text.is_name(a) for a, b in columns):
            return None
        found += [(column, value) for (column, _), value in zip(columns, values, strict=True)]
    return found


def _is_query(text: Text, at: int) -> bool:
    return text.value(at) in {"select", "with", "values", "table", "("}


def _asked(
    text: Text, use: TableUse, relation: Relation, token: int, value: Span, name: ColumnName, how: Shown
) -> tuple[KeptValue, list[str]] | None:
    """The assignment of `value` to the column at `token`, and what is asked for it."""
    column = relation.column(text.value(token))
    if column is None or (value[0] == value[1] and text.value(value[0]) == "default"):
        return None
    reference = f"{quote_ident(use.shown)}.{quote_ident(column.name)}"
    if how is Shown.BY_PGVEIL or how is Shown.WRITTEN:
        constants: list[Place] = []
        which = _numbered(text, value, constants)
        if which is None:
            return None
        chosen = len(constants) > 1
        kept = KeptValue(name, tuple(constants), chosen, reference if how is Shown.WRITTEN else None)
        return kept, [reference, which] if chosen else [reference]
    given = f"({text.source(value)})"
    known = type_of_oid(column.type_oid, -1)
    if is_constant(text, value):
        given = f"CAST({given} AS {unbounded(column.declared_type if known is None else known)})"
    if how is Shown.NOTHING:
        return KeptValue(name), [f"{given} IS NULL"]
    if known is None or not has_equality(known):
        reference, given = f"{reference}::pg_catalog.text", f"{given}::pg_catalog.text"
    return KeptValue(name), [f"({reference} IS NOT DISTINCT FROM {given})"]


def _numbered(text: Text, value: Span, constants: list[Place], spelled: str = "{}", number: int = 1) -> str | None:
    """The value with numbers in place of its constants, which are added to `constants`; None where it may be anything else.

    `spelled`: what stands for a number, the first being `number`.
    """
    first, last = value
    if is_constant(text, value):
        constants.append((first + (text.value(first) in {"-", "+"}), text.value(first) == "-"))
        return spelled.format(number + len(constants) - 1)
    if text.value(first) == "(" and (closing := closing_of(text.lexed, first, last)) is not None:
        # Perhaps under a cast, which numbers do without.
        inside = closing == last or is_cast(text, (closing + 1, last))
        return _numbered(text, (first + 1, closing - 1), constants, spelled, number) if inside else None
    if text.value(first) == "cast" and text.value(first + 1) == "(" and closing_of(text.lexed, first + 1, last) == last:
        word = next((i for i in range(last, first, -1) if text.value(i) == "as"), first)
        return _numbered(text, (first + 2, word - 1), constants, spelled, number) if word > first + 2 else None
    return _case(text, value, constants, spelled, number)


def _case(text: Text, value: Span, constants: list[Place], spelled: str, number: int) -> str | None:
    """A CASE; one without ELSE gets it."""
    pieces = _branches(text, value)
    if pieces is None:
        return None
    made: list[str] = []
    for word, span in pieces:
        result: str | None = text.source(span)
        if word in {"then", "else"}:
            result = _numbered(text, span, constants, spelled, number)
        if result is None:
            return None
        made.append(f"{word} {result}")
    if pieces[-1][0] != "else":
        constants.append((None, False))
        made.append(f"else {spelled.format(number + len(constants) - 1)}")
    return f"case {' '.join(made)} end"


_BRANCHES: Final = frozenset({"when", "then", "else", "end"})


def _branches(text: Text, value: Span) -> list[tuple[str, Span]] | None:
    """What stands behind each of the words of a CASE, which are reserved, up to the next one; "" for what stands behind CASE itself."""
    first, last = value
    if text.value(first) != "case":
        return None
    found: list[tuple[str, Span]] = []
    begun, word, depth = first + 1, "", 0
    for at in range(first + 1, last + 1):
        token = text.token(at)
        if text.value(at - 1) == ".":
            continue
        if token.kind is Kind.PUNCT:
            depth += (token.value in "([") - (token.value in ")]")
        elif token.kind is Kind.WORD and token.value == "case":
            depth += 1
        elif token.kind is Kind.WORD and token.value in _BRANCHES and depth == 0:
            if begun < at:
                found.append((word, (begun, at - 1)))
            elif word:
                return None
            begun, word = at + 1, token.value
            if word == "end":
                ends = at == last or is_cast(text, (at + 1, last))
                return found if ends and found else None
        elif token.kind is Kind.WORD and token.value == "end":
            depth -= 1
    return None
