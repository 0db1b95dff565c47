"""Catalog: an immutable snapshot of what one database holds, as far as the analysis needs it.

The values are here; `CATALOG_QUERIES` and `build_catalog` (SQL text and pure assembly, no I/O) are what callers with a connection use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from rules.model import TableName

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """One live column of a relation (pg_attribute, attnum > 0, not dropped).

    `type_oid` is the base type's OID where the declared type is a domain (what RowDescription shows); `declared_type` is
    format_type's text with the modifier, of the declared type ("character varying(19)", "pgveil.sealed").
    """

    name: str
    attnum: int
    type_oid: int
    typmod: int
    declared_type: str
    not_null: bool = False
    default: str | None = None
    generated: bool = False
    identity: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialized view, partitioned or foreign table. `kind` is pg_class.relkind: r p v m f.

    `parents`/`children` are OIDs of pg_inherits (partitions included). `definition` is pg_get_viewdef's text for v and m.
    """

    oid: int
    name: TableName
    kind: str
    owner: str
    columns: tuple[CatalogColumn, ...]
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    definition: str | None = None
    row_security: bool = False
    has_triggers: bool = False

    def column(self, name: str) -> CatalogColumn | None:
        """The column of that name."""
        for column in self.columns:
            if column.name == name:
                return column
        return None


@dataclass(frozen=True, slots=True)
class Function:
    """A function or procedure outside pg_catalog and information_schema. `source` is pg_proc.prosrc ('' for C)."""

    oid: int
    name: TableName
    owner: str
    language: str
    security_definer: bool
    source: str


@dataclass(frozen=True)
class Catalog:
    """One database at one moment. `version` is a digest of everything in it, so equal catalogs have equal versions.

    `members` maps a login to every role it is a member of, directly or not (pg_auth_members; superusers are NOT members of all).
    """

    version: str
    database: str
    server_version: int
    relations: Mapping[int, Relation]
    functions: tuple[Function, ...] = ()
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    superusers: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()

    @cached_property
    def by_name(self) -> Mapping[TableName, Relation]:
        """Relations by canonical name."""
        return {r.name: r for r in self.relations.values()}

    def memberships(self, login: str) -> frozenset[str]:
        """Every role that `login` is a member of; empty for a login the snapshot does not know."""
        return self.members.get(login, frozenset())

    def owns(self, login: str, relation: Relation) -> bool:
        """Whether privileges cannot fence `login` out of `relation`: owner, member of the owner, or superuser."""
        return login in self.superusers or login == relation.owner or relation.owner in self.memberships(login)
