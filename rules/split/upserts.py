"""An upsert that gives columns the masks that they show, as whole objects are saved: rows that are there are updated (ADR 0027).

`INSERT ... VALUES ... ON CONFLICT (key) DO UPDATE SET c = EXCLUDED.c` of a login that may not give all of these columns a value can insert no row.
So each row must be there, and then the statement is an UPDATE of these rows, FROM the VALUES, in which columns are kept as in any other
(`rules.split.keeping`). Values for sealed columns stay out of it: the server tells by a number which row of the VALUES it speaks of.
"""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rules.logical import has_equality, type_of_oid
from rules.model import quote_ident
from rules.split.clauses import closing_of, split_at
from rules.split.keeping import KeepText, KeptValue, Shown, assignments
from rules.split.writing import clauses_behind, is_constant, next_parameter, unbounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from rules.analyse import Protected
    from rules.analyse.record import TableUse
    from rules.catalog import CatalogColumn, Relation
    from rules.model import ColumnName
    from rules.split.clauses import Span
    from rules.split.text import Text

_EXCLUDED: Final = "excluded"
_NUMBER: Final = "pgveil_n"


@dataclass(slots=True)
class _Upsert:
    """The statement as it is written. `columns`: with the catalog's, in the order of the VALUES; `keys`: those of ON CONFLICT.

    `by_default`: columns that have a DEFAULT in the VALUES, whose value only an INSERT knows.
    """

    text: Text
    use: TableUse
    relation: Relation
    columns: list[CatalogColumn]
    rows: list[list[Span]]
    keys: list[str]
    changes: list[tuple[int, Span]]
    where: Span | None
    returning: Span | None
    by_default: frozenset[str]
    kept: dict[str, tuple[ColumnName, Shown]] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        return quote_ident(self.use.shown)

    def place(self, column: str) -> str:
        """What a column of the VALUES is called: no name of the table's, which the client's text may use alone."""
        return f"pgveil_c{[c.name for c in self.columns].index(column)}"

    def source(self, span: Span) -> str | None:
        """The client's text, with the VALUES' own names behind EXCLUDED; None where it speaks of another column of it."""
        text, names = self.text, {c.name for c in self.columns} - self.kept.keys() - self.by_default
        pieces: list[str] = []
        at = text.token(span[0]).start
        for index in range(span[0], span[1] + 1):
            if not (text.is_name(index) and text.value(index) == _EXCLUDED and text.value(index + 1) == "."):
                continue
            if text.value(index + 2) not in names:
                return None
            pieces += [text.lexed.text[at : text.token(index + 1).end], self.place(text.value(index + 2))]
            at = text.token(index + 2).end
        return "".join([*pieces, text.lexed.text[at : text.token(span[1]).end]])


def keep_upsert(text: Text, database: Protected, shown_as: Callable[[ColumnName], Shown | None]) -> KeepText | None:
    """How the statement can be done so; None where it can't."""
    found = _read(text)
    if found is None:
        return None
    protected = database.columns_of(found.relation)
    for column in found.columns:
        name = protected.get(column.name)
        how = None if name is None else shown_as(name)
        if name is not None and (how is None or how is Shown.WRITTEN or column.name in found.keys):
            return None
        if name is not None and how is not None:
            found.kept[column.name] = (name, how)
    if protected.keys() & set(found.keys) or found.by_default & set(found.keys):
        return None
    return _made(found)


def _read(text: Text) -> _Upsert | None:
    if text.value(text.first) != "insert" or len(text.survey.tables) != 1:
        return None
    use = text.survey.tables[0]
    relation = use.relation
    if relation is None or not use.plain or relation.definition is not None or use.qualified:
        return None
    at = use.last + 1 + 2 * (text.value(use.last + 1) == "as")
    closing = closing_of(text.lexed, at, text.last) if text.value(at) == "(" else None
    clauses = clauses_behind(text, at, {"values", "on", "set", "where", "returning"})
    if closing is None or text.value(closing + 1) != "values" or not {"values", "on", "set"} <= clauses.keys():
        return None
    columns = [relation.column(text.value(a)) for a, b in split_at(text.lexed, (at + 1, closing - 1), ",") if a == b]
    rows = _rows(text, clauses["values"])
    keys = _keys(text, clauses["on"])
    primary = {c.name for c in relation.columns if c.attnum in relation.primary_key}
    found = assignments(text, clauses["set"])
    named = [c for c in columns if c is not None]
    if rows is None or keys is None or found is None or not primary or set(keys) != primary:
        return None
    if len(named) != len(columns) or any(len(row) != len(named) for row in rows):
        return None
    if not primary <= {c.name for c in named} or any(c.generated or c.always for c in named):
        return None
    by_default = frozenset(c.name for i, c in enumerate(named) if any(text.value(r[i][0]) == "default" for r in rows))
    where, returning = clauses.get("where"), clauses.get("returning")
    return _Upsert(text, use, relation, named, rows, keys, found, where, returning, by_default)


def _rows(text: Text, span: Span) -> list[list[Span]] | None:
    rows: list[list[Span]] = []
    for first, last in split_at(text.lexed, span, ","):
        if text.value(first) != "(" or text.value(last) != ")":
            return None
        items = split_at(text.lexed, (first + 1, last - 1), ",")
        if not all(is_constant(text, item) for item in items):
            return None
        rows.append(items)
    return rows


def _keys(text: Text, span: Span) -> list[str] | None:
    """The columns of `ON CONFLICT (...) DO UPDATE`."""
    opening = span[0] + 1
    closing = closing_of(text.lexed, opening, span[1]) if text.value(opening) == "(" else None
    ends = ["do", "update"]
    if text.value(span[0]) != "conflict" or closing is None or closing + 2 != span[1]:
        return None
    if [text.value(closing + 1), text.value(closing + 2)] != ends:
        return None
    names = split_at(text.lexed, (opening + 1, closing - 1), ",")
    return [text.value(a) for a, _ in names] if all(a == b and text.is_name(a) for a, b in names) else None


def _made(found: _Upsert) -> KeepText | None:
    text = found.text
    values: list[KeptValue] = []
    asked = [f"ROW({', '.join(f'{found.shown}.{quote_ident(key)}' for key in found.keys)})::pg_catalog.text"]
    left: list[str] = []
    for token, value in found.changes:
        column = text.value(token)
        kept = found.kept.get(column)
        same = [text.value(i) for i in range(value[0], value[1] + 1)] == [_EXCLUDED, ".", column]
        if kept is not None and same and column not in found.by_default:
            values.append(_asked(found, column, *kept, asked))
            continue
        given = None if kept is not None else found.source(value)
        if given is None:
            return None
        left.append(f"{text.source((token, token))} = {given}")
    if not left:
        key = quote_ident(found.keys[0])
        left.append(f"{key} = {found.shown}.{key}")
    where = None if found.where is None else found.source(found.where)
    returning = "" if found.returning is None else _returning(found, found.returning)
    if not values or returning is None or (found.where is not None and where is None):
        return None
    table = f"{text.source((found.use.first, found.use.last))} AS {found.shown}"
    joined = " AND ".join(f"{found.shown}.{quote_ident(k)} = {_EXCLUDED}.{found.place(k)}" for k in found.keys)
    fetch = f"SELECT {', '.join(asked)} FROM {table}, {_values(found, plain=True)} WHERE {joined} FOR NO KEY UPDATE OF {found.shown}"
    condition = "" if where is None else f" AND ({where})"
    apply = (
        f"UPDATE {table} SET {', '.join(left)} FROM {_values(found, plain=False)} WHERE {joined}{condition}{returning}"
    )
    return KeepText(fetch, apply, tuple(values), bool(returning), next_parameter(text), len(found.rows))


def _asked(found: _Upsert, column: str, name: ColumnName, how: Shown, asked: list[str]) -> KeptValue:
    reference, given = f"{found.shown}.{quote_ident(column)}", f"{_EXCLUDED}.{found.place(column)}"
    if how is Shown.BY_PGVEIL:
        place = [c.name for c in found.columns].index(column)
        spans = [row[place] for row in found.rows]
        text = found.text
        constants = tuple((a + (text.value(a) in {"-", "+"}), text.value(a) == "-") for a, _ in spans)
        asked += [reference, f"{_EXCLUDED}.{_NUMBER}"]
        return KeptValue(name, constants, chosen=True)
    catalog = found.relation.column(column)
    known = None if catalog is None else type_of_oid(catalog.type_oid, -1)
    if known is None or not has_equality(known):
        reference, given = f"{reference}::pg_catalog.text", f"{given}::pg_catalog.text"
    asked.append(f"{given} IS NULL" if how is Shown.NOTHING else f"({reference} IS NOT DISTINCT FROM {given})")
    return KeptValue(name)


def _values(found: _Upsert, *, plain: bool) -> str:
    """The VALUES as a relation, without values for sealed columns. `plain`: with those for others that are kept."""
    left_out = found.by_default
    used = [
        (place, column)
        for place, column in enumerate(found.columns)
        if column.name not in left_out
        and ((kept := found.kept.get(column.name)) is None or (plain and kept[1] is not Shown.BY_PGVEIL))
    ]
    rows = [
        ", ".join([*(_typed(found, row[place], column) for place, column in used), str(number)])
        for number, row in enumerate(found.rows, 1)
    ]
    names = ", ".join([*(f"pgveil_c{place}" for place, _ in used), _NUMBER])
    return f"(VALUES {', '.join(f'({row})' for row in rows)}) AS {_EXCLUDED} ({names})"


def _typed(found: _Upsert, span: Span, column: CatalogColumn) -> str:
    known = type_of_oid(column.type_oid, -1)
    return f"CAST({found.text.source(span)} AS {unbounded(column.declared_type if known is None else known)})"


def _returning(found: _Upsert, span: Span) -> str | None:
    """The clause, whose `*` is the table's; None where it could speak of the VALUES."""
    text = found.text
    if any(text.is_name(i) and text.value(i) == _EXCLUDED for i in range(span[0], span[1] + 1)):
        return None
    items = [
        f"{found.shown}.*" if a == b and text.value(a) == "*" else text.source((a, b))
        for a, b in split_at(text.lexed, span, ",")
    ]
    return f" RETURNING {', '.join(items)}"
