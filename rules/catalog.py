"""Catalog: an immutable snapshot of what one database holds, as far as the analysis needs it.

The values are here; `CATALOG_QUERIES` and `build_catalog` (SQL text and pure assembly, no I/O) are what callers with a connection use, who
hold locks of their own:

    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    <FINGERPRINT_QUERY>, then each of CATALOG_QUERIES;
    COMMIT;
    build_catalog({name: rows, ...})

Whoever is a guest and is to meet nobody's locks reads by `rules.catalog_texts.CatalogReader`. The fingerprint comes first, so a change that lands meanwhile shows as another fingerprint at the next poll. Every query is one statement
without parameters, names everything by schema, needs no privilege beyond connecting, and fixes its own search_path until the end of
its transaction (what pg_get_viewdef and format_type write depends on it). Source: PostgreSQL, chapter "System Catalogs".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rules.catalog_queries import CATALOG_QUERIES, FINGERPRINT_QUERY
from rules.dangerous import PRIVILEGED_ROLES
from rules.harmless import asks_as_caller, is_harmless
from rules.model import TableName
from rules.record import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rules.catalog_texts import TextKey
    from rules.record import Record

__all__ = [
    "CATALOG_QUERIES",
    "FINGERPRINT_QUERY",
    "SYSTEM_SCHEMAS",
    "Catalog",
    "CatalogColumn",
    "CatalogError",
    "EnumType",
    "Function",
    "Relation",
    "SystemRelation",
    "TriggerGiven",
    "build_catalog",
]

# Schemas of PostgreSQL's own; every other schema whose name begins with "pg_" is a session's temporary one.
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """One live column of a relation (pg_attribute, attnum > 0, not dropped).

    `type_oid` is the base type's OID where the declared type is a domain (what RowDescription shows); `declared_type` is
    format_type's text with the modifier, of the declared type ("character varying(19)", "pgveil.sealed"). `always`: its identity is GENERATED ALWAYS. `own_collation`: it is neither
    the database's nor the type's.
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
    always: bool = False
    own_collation: bool = False


@dataclass(frozen=True, slots=True)
class TriggerGiven:
    """What CREATE TRIGGER gives a function besides the row: its arguments, and the names of its transition tables."""

    function: TableName
    arguments: tuple[str, ...]
    transition: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialized view, partitioned or foreign table. `kind` is pg_class.relkind: r p v m f.

    `primary_key` holds attnums, of a key that is not deferrable. `parents`/`children` are OIDs of pg_inherits (partitions included). `definition` is pg_get_viewdef's text for v and m.
    `telling`: attnums in indexes and foreign keys: a value that is written there is compared with those that are there, which a constraint tells
    the writer, and of any index the pages that it touches and logs.
    `trigger_functions`: those that the user's triggers on it run; `given`: what else they are given, where that is anything.
    `rules`: pg_get_ruledef's texts, but for views' own.
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
    primary_key: tuple[int, ...] = ()
    telling: tuple[int, ...] = ()
    trigger_functions: tuple[TableName, ...] = ()
    rules: tuple[str, ...] = ()
    given: tuple[TriggerGiven, ...] = ()

    def at(self, number: int) -> CatalogColumn | None:
        """The column of that number."""
        return next((c for c in self.columns if c.attnum == number), None)

    def column(self, name: str) -> CatalogColumn | None:
        """The column of that name."""
        for column in self.columns:
            if column.name == name:
                return column
        return None


@dataclass(frozen=True, slots=True)
class Function:
    """A function or procedure outside pg_catalog and information_schema. `source` is pg_proc.prosrc ('' for C).

    `immutable`: its owner declares that it looks at nothing but its arguments; of compiled code of an extension that is to be believed.
    `unread`: compiled code that no extension brought (`LANGUAGE c`, or `internal` under a name of somebody's own), or made of such.
    `path`: the search_path that it sets for itself.
    """

    oid: int
    name: TableName
    owner: str
    language: str
    security_definer: bool
    source: str
    unread: bool = False
    immutable: bool = False
    path: str | None = None


@dataclass(frozen=True, slots=True)
class EnumType:
    """An enum type of the database's own: its OID, its array's, its labels in order."""

    oid: int
    array_oid: int = 0
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SystemRelation:
    """A relation of PostgreSQL's own: its columns in order, and a view's definition."""

    columns: tuple[str, ...] = ()
    definition: str | None = None


@dataclass(frozen=True)
class Catalog:
    """One database at one moment. `version` is a digest of everything in it, so equal catalogs have equal versions.

    `operators`: those that are made of functions with a source, each as its function under the operator's own name and oid.
    `enums` has format_type's names, which are those that a rules file writes behind `enum`.
    `applied`: the document of `rules.record`, if there is one. `system`: what is known of relations of PostgreSQL's own, by name.
    `rows`: how many rows a relation had when it was last counted (pg_class.reltuples). It says nothing of what the database is, and belongs to no version.
    `below`: roles ("public" for everybody) with a right to what lies below tables, and which: "REPLICATION", or names of functions.
    `members` maps a login to every role it is a member of, directly or not (pg_auth_members; superusers are NOT members of all).
    """

    version: str
    database: str
    server_version: int
    relations: Mapping[int, Relation]
    functions: tuple[Function, ...] = ()
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    superusers: frozenset[str] = frozenset()
    below: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schemas: frozenset[str] = frozenset()
    operators: tuple[Function, ...] = ()
    enums: Mapping[str, EnumType] = field(default_factory=dict)
    applied: str | None = None
    rows: Mapping[int, int] = field(default_factory=dict, compare=False)
    system: Mapping[str, SystemRelation] = field(default_factory=dict)

    @cached_property
    def record(self) -> Record | None:
        """What `pgveil apply` says that it has made here; None where it says nothing that can be read."""
        return read_record(self.applied)

    @cached_property
    def by_name(self) -> Mapping[TableName, Relation]:
        """Relations by canonical name."""
        return {r.name: r for r in self.relations.values()}

    def about_rows(self, name: TableName) -> int | None:
        """How many rows a query of a table reads about, its children's with them; None where nobody has counted."""
        start = self.by_name.get(name)
        if start is None:
            return None
        pending, seen, found = [start.oid], {start.oid}, 0
        while pending:
            relation = self.relations.get(pending.pop())
            if relation is None:
                continue
            own = self.rows.get(relation.oid)
            if own is None and not relation.children:
                return None
            found += own or 0
            if relation.kind == "p" and own is not None:
                continue  # its partitions' rows are counted with it
            pending += [oid for oid in relation.children if oid not in seen]
            seen.update(relation.children)
        return found

    def memberships(self, login: str) -> frozenset[str]:
        """Every role that `login` is a member of; empty for a login the snapshot does not know."""
        return self.members.get(login, frozenset())

    def beneath(self, login: str) -> tuple[str, ...]:
        """By which rights `login` reaches what lies below tables, where privileges on these keep nothing from it."""
        roles = ("public", login, *sorted(self.memberships(login)))
        return tuple(dict.fromkeys(what for role in roles for what in self.below.get(role, ())))

    def owns(self, login: str, relation: Relation) -> bool:
        """Whether privileges cannot fence `login` out of `relation`: owner, member of the owner, or superuser."""
        return login in self.superusers or login == relation.owner or relation.owner in self.memberships(login)

    def unfenced_by(self, login: str, tables: Iterable[TableName]) -> str | None:
        """Why privileges can't keep `login` out of every one of these tables, in a few words; None where they can."""
        if (
            any(self.owns(login, self.by_name[table]) for table in tables if table in self.by_name)
            or login in self.superusers
        ):
            return "owner or superuser"
        rights = (*self.beneath(login), *sorted(PRIVILEGED_ROLES & self.memberships(login)))
        return rights[0] if rights else None


class CatalogError(Exception):
    """The rows are not those of one database at one moment (something was dropped while they were read): read them again."""


class Row(Protocol):
    """Anything indexed by column name: a dict, an asyncpg.Record."""

    def __getitem__(self, key: str, /) -> Any:
        """The value of a column."""


def build_catalog(rows: Mapping[str, Sequence[Row]], texts: Mapping[TextKey, str] | None = None) -> Catalog:
    """The snapshot that the answers to CATALOG_QUERIES make, or those to QUIET_QUERIES and `texts`; rows are given by the query's name.

    Any membership counts, whatever its INHERIT, SET or ADMIN options. `superusers` also holds those who can become one by SET ROLE.
    Raises CatalogError where the rows contradict each other.
    """
    (database,) = rows["database"]
    members = _closure(rows["members"])
    superusers = frozenset(r["name"] for r in rows["superusers"])
    unversioned = Catalog(
        version="",
        database=database["database"],
        server_version=database["server_version"],
        relations=MappingProxyType(_relations(rows, _Texts(texts or {}))),
        functions=_functions(rows["functions"], "function", _Texts(texts or {})),
        members=MappingProxyType(members),
        superusers=superusers | {login for login, roles in members.items() if not superusers.isdisjoint(roles)},
        below=MappingProxyType(_below(rows.get("below", ()))),
        schemas=frozenset(r["schema"] for r in rows["schemas"]),
        operators=_functions(rows.get("operators", ()), "operator", _Texts(texts or {})),
        enums=MappingProxyType(
            {r["name"]: EnumType(r["oid"], r["array_oid"], tuple(r["labels"] or ())) for r in rows.get("enums", ())}
        ),
        applied=next((r["document"] for r in rows.get("applied", ())), None),
        rows=MappingProxyType({r["oid"]: int(r["rows"]) for r in rows["relations"] if r["rows"] >= 0}),
        system=MappingProxyType(
            {r["name"]: SystemRelation(tuple(r["columns"] or ()), r["definition"]) for r in rows.get("system", ())}
        ),
    )
    return replace(unversioned, version=_digest(unversioned))


class _Texts:
    """Texts that were read one by one, by who has them."""

    def __init__(self, texts: Mapping[TextKey, str]) -> None:
        self._of: dict[tuple[str, int, int], list[str]] = {}
        for key in sorted(texts):
            self._of.setdefault((key.kind, key.holder, key.sub), []).append(texts[key])

    def of(self, kind: str, holder: int, sub: int = 0) -> list[str]:
        return self._of.get((kind, holder, sub), [])

    def one(self, kind: str, holder: int, sub: int, otherwise: str | None) -> str | None:
        found = self.of(kind, holder, sub)
        return found[0] if found else otherwise


def _relations(rows: Mapping[str, Sequence[Row]], texts: _Texts) -> dict[int, Relation]:
    columns: dict[int, list[CatalogColumn]] = {}
    for row in rows["columns"]:
        columns.setdefault(row["relation"], []).append(_column(row, texts))
    parents: dict[int, list[int]] = {}
    children: dict[int, list[int]] = {}
    for row in sorted(rows["inherits"], key=lambda r: (int(r["child"]), int(r["position"]))):
        parents.setdefault(row["child"], []).append(row["parent"])
        children.setdefault(row["parent"], []).append(row["child"])
    triggers: dict[int, list[TriggerGiven]] = {}
    for row in rows.get("triggers", ()):
        triggers.setdefault(row["relation"], []).append(_trigger(row))
    rules: dict[int, list[str]] = {}
    for row in rows.get("rules", ()):
        if row["definition"] is not None:
            rules.setdefault(row["relation"], []).append(row["definition"])
    relations = {}
    for row in sorted(rows["relations"], key=lambda r: int(r["oid"])):
        oid = row["oid"]
        definition = texts.one("view", oid, 0, row["definition"])
        if row["kind"] in {"v", "m"} and definition is None:
            raise CatalogError(f"the view with OID {oid} was dropped while the catalog was read")
        relations[oid] = Relation(
            oid=oid,
            name=TableName(row["schema"], row["name"]),
            kind=row["kind"],
            owner=row["owner"],
            columns=tuple(sorted(columns.get(oid, ()), key=lambda c: c.attnum)),
            parents=tuple(parents.get(oid, ())),
            children=tuple(sorted(children.get(oid, ()))),
            definition=definition,
            row_security=row["row_security"],
            has_triggers=row["has_triggers"],
            primary_key=tuple(row["primary_key"] or ()),
            telling=tuple(sorted(row["telling"] or ())),
            trigger_functions=tuple(sorted({t.function for t in triggers.get(oid, ())})),
            given=tuple(sorted({t for t in triggers.get(oid, ()) if t.arguments or t.transition}, key=_by_function)),
            rules=tuple(sorted((*rules.get(oid, ()), *texts.of("rule", oid)))),
        )
    return relations


def _trigger(row: Row) -> TriggerGiven:
    arguments = bytes(row["arguments"] or b"").split(b"\0")[:-1]
    return TriggerGiven(
        TableName(row["schema"], row["name"]),
        tuple(a.decode(errors="replace") for a in arguments),
        tuple(row["transition"] or ()),
    )


def _by_function(given: TriggerGiven) -> tuple[TableName, tuple[str, ...], tuple[str, ...]]:
    return given.function, given.arguments, given.transition


def _column(row: Row, texts: _Texts) -> CatalogColumn:
    if row["declared_type"] is None:
        raise CatalogError(f"a type of the relation with OID {row['relation']} was dropped while the catalog was read")
    return CatalogColumn(
        name=row["name"],
        attnum=row["attnum"],
        type_oid=row["type_oid"],
        typmod=row["typmod"],
        declared_type=row["declared_type"],
        not_null=row["not_null"],
        default=texts.one("default", row["relation"], row["attnum"], row["default"]),
        generated=row["generated"],
        identity=row["identity"],
        always=row["always"],
        own_collation=row["own_collation"],
    )


def _functions(rows: Iterable[Row], kind: str, texts: _Texts) -> tuple[Function, ...]:
    return tuple(_function(row, texts.of(kind, row["oid"])) for row in sorted(rows, key=lambda r: int(r["oid"])))


def _function(row: Row, bodies: Sequence[str]) -> Function:
    return Function(
        oid=row["oid"],
        name=TableName(row["schema"], row["name"]),
        owner=row["owner"],
        language=row["language"],
        security_definer=row["security_definer"],
        source="\n".join(filter(None, (row["source"], *bodies))),
        unread=row["unread"],
        immutable=row["immutable"],
        path=row["path"],
    )


def _below(rows: Iterable[Row]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        # PostgreSQL's own roles are told by their names.
        if row["role"] in PRIVILEGED_ROLES or is_harmless(row["what"]) or asks_as_caller(row["what"]):
            continue
        found.setdefault(row["role"], set()).add(row["what"])
    return {role: tuple(sorted(what)) for role, what in sorted(found.items())}


def _closure(edges: Iterable[Row]) -> dict[str, frozenset[str]]:
    """Each role that is a member of something, with everything that it reaches."""
    direct: dict[str, set[str]] = {}
    for edge in edges:
        direct.setdefault(edge["member"], set()).add(edge["role"])
    reached: dict[str, frozenset[str]] = {}
    for member in sorted(direct):
        seen: set[str] = set()
        ahead = [*direct[member]]
        while ahead:
            role = ahead.pop()
            if role not in seen:
                seen.add(role)
                ahead.extend(direct.get(role, ()))
        reached[member] = frozenset(seen)
    return reached


def _digest(catalog: Catalog) -> str:
    """16 hex digits over everything in the snapshot, independent of the order in which rows came."""
    content = (
        catalog.database,
        catalog.server_version,
        tuple(catalog.relations.values()),
        catalog.functions,
        catalog.operators,
        sorted((login, sorted(roles)) for login, roles in catalog.members.items()),
        sorted(catalog.superusers),
        sorted(catalog.below.items()),
        sorted(catalog.schemas),
        sorted((name, enum.oid, enum.array_oid, enum.labels) for name, enum in catalog.enums.items()),
        catalog.applied,
        sorted((name, each.columns, each.definition or "") for name, each in catalog.system.items()),
    )
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]
