"""Where a write stores sealed values, asked of the server by the statement's own names.

A name can come to mean another table between the judgement and the statement, and a write has no description that would tell. So a SELECT of the
columns that are filled, from the relations as the client has named them, is described before (`proxy.session.store_witness`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.model import Protection, quote_ident
from rules.plan import Storing

if TYPE_CHECKING:
    from rules.analyse.facts import Facts
    from rules.lexer import Lexed
    from rules.model import ColumnName, Rules


def storing(facts: Facts, lexed: Lexed, rules: Rules) -> Storing | None:
    """The question about a statement; None where it stores nothing that is sealed."""
    relations: dict[tuple[int, int], str] = {}
    selected: list[str] = []
    columns: list[ColumnName] = []
    for stored in facts.stored:
        column = rules.column(stored.column)
        if column is None or column.protection is not Protection.SEALED or stored.place is None:
            continue
        first, last, name = stored.place
        alias = relations.setdefault((first, last), f"w{len(relations)}")
        item = f"{alias}.{quote_ident(name)}"
        if item not in selected:
            selected.append(item)
            columns.append(stored.column)
    if not columns:
        return None
    tables = ", ".join(
        f"{lexed.text[lexed.tokens[first].start : lexed.tokens[last].end]} AS {alias}"
        for (first, last), alias in relations.items()
    )
    return Storing(f"SELECT {', '.join(selected)} FROM {tables}", tuple(columns))  # noqa: S608 - names as the client wrote them
