"""The protected values themselves, looked for in every byte that a masked login receives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keys.types import decode_literal, encode, parse_type
from rules.model import quote_ident
from tests.twin.masking import qualified

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

    from rules.model import TableName
    from tests.twin.masking import TextMask

SHORTEST = 6  # characters; shorter ones occur by chance
SHORTEST_BINARY = 8  # bytes


@dataclass(slots=True)
class Canaries:
    """`values` by the forms in which they could travel: text as bytes, and binary forms, of which `texts` has the text."""

    values: frozenset[bytes]
    texts: Mapping[bytes, bytes] = field(default_factory=dict)
    _pattern: re.Pattern[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.values:
            self._pattern = re.compile(b"|".join(re.escape(v) for v in sorted(self.values, key=len, reverse=True)))

    def seen(self, received: bytes, own: bytes) -> tuple[str, ...]:
        """The values in `received` that are not in `own`, what the client itself had sent."""
        if self._pattern is None:
            return ()
        found = {v for v in self._pattern.findall(received) if v not in own and self.texts.get(v, v) not in own}
        return tuple(sorted(v.decode(errors="backslashreplace") for v in found))


def protected_values(admin: psycopg.Connection[Any], masks: Mapping[TableName, Mapping[str, TextMask]]) -> Canaries:
    """Every value of the masked columns that is long enough and is not what a mask leaves as it was, in text and binary form."""
    found: dict[bytes, bytes] = {}
    for table, columns in masks.items():
        for name, mask in columns.items():
            column = quote_ident(name)
            type_name = mask.column.type or _type(admin, table, name)
            values = {
                v for (v,) in admin.execute(f"select {column}::text from {qualified(table)} where {column} is not null")
            }
            found |= _forms(type_name, (v for v in values if len(v) >= SHORTEST and mask.apply(v) != v))
    shown = _shown(admin, masks)
    return Canaries(frozenset(found.keys() - shown), found)


def _forms(type_name: str, values: Iterable[str]) -> dict[bytes, bytes]:
    """Each form of each value, with its text."""
    type_ = parse_type(type_name)
    found: dict[bytes, bytes] = {}
    for value in values:
        text = found[value.encode()] = value.encode()
        binary = encode(type_, decode_literal(type_, value), 1)
        if len(binary) >= SHORTEST_BINARY:
            found[binary] = text
    return found


def _shown(admin: psycopg.Connection[Any], masks: Mapping[TableName, Mapping[str, TextMask]]) -> set[bytes]:
    """Masks of other values: what may be seen."""
    shown: set[bytes] = set()
    for table, columns in masks.items():
        for name, mask in columns.items():
            column = quote_ident(name)
            type_name = mask.column.type or _type(admin, table, name)
            values = [v for (v,) in admin.execute(f"select distinct {column}::text from {qualified(table)}")]
            masked = {m for v in values if (m := mask.apply(v)) is not None}
            shown |= _forms(type_name, masked).keys()
    return shown


def _type(admin: psycopg.Connection[Any], table: TableName, column: str) -> str:
    row = admin.execute(
        "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass and attname = %s",
        [qualified(table), column],
    ).fetchone()
    assert row is not None
    return str(row[0])
