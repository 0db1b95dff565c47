"""Dumps: what pg_dump does before it reads a table, refused where its login would get masks (docs/adr/0024).

Every version of pg_dump locks the tables that it dumps with LOCK TABLE ... IN ACCESS SHARE MODE, whatever format and options it is given; nothing
else has a use for that lock, since reading takes it anyway. Foreign tables are not locked, and are never masked either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rules.decide import DENIED
from rules.lexer import Kind
from rules.model import TableName, Verdict
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rules.catalog import Catalog, Relation
    from rules.lexer import Lexed
    from rules.model import ColumnName, PolicyClass

_MODE: Final = ("access", "share", "mode")


def refused_dump(
    lexed: Lexed,
    whole: tuple[int, int],
    catalog: Catalog,
    policy: PolicyClass,
    columns_of: Callable[[Relation], Iterable[ColumnName]],
) -> Refusal | None:
    """A refusal where the statement locks, as pg_dump does, a relation of which the login does not see everything clear."""
    first, last = whole
    words = [lexed.tokens[i].value for i in range(first, last + 1)]
    if words[:1] != ["lock"] or not any(tuple(words[i : i + 3]) == _MODE for i in range(len(words) - 2)):
        return None
    for relation in _named(lexed, first, last, catalog):
        hidden = sorted(c for c in columns_of(relation) if policy.verdict(c) is not Verdict.CLEAR)
        if hidden:
            return Refusal(
                Reason.VERDICT,
                DENIED,
                f'this login can\'t dump table "{relation.name}": it does not see column "{hidden[0].column}" clear',
                hint=f"Dump with a login that sees every column clear, or leave the table out: pg_dump -T '{relation.name}'",
                column=hidden[0],
                token=first,
            )
    return None


def _named(lexed: Lexed, first: int, last: int, catalog: Catalog) -> Iterable[Relation]:
    """The relations that tokens `first..last` name; of a name without a schema, those of every schema."""
    names = (Kind.WORD, Kind.QUOTED)
    tokens = lexed.tokens
    for index in range(first, last + 1):
        if tokens[index].kind not in names or (index > first and tokens[index - 1].value == "."):
            continue
        if index + 2 <= last and tokens[index + 1].value == "." and tokens[index + 2].kind in names:
            found = catalog.by_name.get(TableName(tokens[index].value, tokens[index + 2].value))
            if found is not None:
                yield found
        else:
            yield from (r for r in catalog.relations.values() if r.name.name == tokens[index].value)
