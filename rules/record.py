"""The record in a database of what `pgveil apply` has made there (ADR 0028), and what of it differs from the rules in force.

It is a JSON document in the comment of the view `pgveil.applied`, which shows it as rows. A comment is read by whoever may connect, without a
lock, and is written in the transaction that makes what it speaks of.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from rules.model import ColumnName, TableName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.model import Column

FORM: Final = 1
VIEW: Final = TableName("pgveil", "applied")
_DIGITS: Final = 16


class SealedAs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a column is sealed. `keys`: the ring's marks of the keys under which its values may be; `format`: of the sealed text.

    A format is only ever added: a greater one was written by a newer pgveil.
    """

    schema: str
    table: str
    column: str
    mode: str
    type: str
    domain: str
    keys: tuple[str, ...] = ()
    format: int = 1

    @property
    def name(self) -> ColumnName:
        """Which column."""
        return ColumnName(self.schema, self.table, self.column)

    def alike(self, other: SealedAs) -> bool:
        """Whether a value sealed as the one is what the other takes it for."""
        return (self.mode, self.type, self.domain) == (other.mode, other.type, other.domain)


class MadeAs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A masking view or look-up function, whose name says what it shows (ADR 0029). `text`: md5 of the server's own words for it.

    `derived`: the columns that the view hides because the database makes them of protected ones. They come and go with DDL, and the name does not.
    """

    schema: str
    name: str
    text: str = ""
    derived: tuple[str, ...] = ()

    @property
    def table(self) -> TableName:
        """Its name."""
        return TableName(self.schema, self.name)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is applied, each list sorted. `rules`: digest of the rules as far as they concern this database."""

    form: int = FORM
    rules: str = ""
    columns: tuple[SealedAs, ...] = ()
    views: tuple[MadeAs, ...] = ()
    functions: tuple[MadeAs, ...] = ()

    def text(self) -> str:
        """The document: equal records have equal texts."""
        return msgspec.json.encode(self).decode()


def read_record(text: str | None) -> Record | None:
    """The record of a document; None where there is none, or none that this pgveil can read: then nothing is known to be applied."""
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=Record)
    except (msgspec.DecodeError, ValueError):
        return None
    return found if found.form == FORM else None


def sealed_as(column: Column) -> SealedAs:
    """How the rules want a sealed column."""
    return SealedAs(*column.name, mode=str(column.mode or ""), type=column.type or "", domain=column.key_domain)


def rules_digest(record: Record) -> str:
    """What names the rules behind a record, whatever the server and the keys made of them."""
    return _digest(
        (
            *(f"column {c.name} {c.mode} {c.type} {c.domain}" for c in record.columns),
            *(f"view {v.table}" for v in record.views),
            *(f"function {f.table}" for f in record.functions),
        )
    )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]
