"""System catalogs as on a database without pgveil: what a text reads of them leaves out what is pgveil's, and shows sealed columns under their logical types.

Three forms are spliced around a FROM item that names a catalog (docs/adr/0038):

    pg_class c       ->  pg_class c, LATERAL (SELECT WHERE c.relnamespace <> ALL (...)) AS pgveil_1
    JOIN pg_class c  ->  JOIN (pg_class c JOIN (SELECT) AS pgveil_1 ON c.relnamespace <> ALL (...))
    pg_attribute a   ->  (SELECT ..., CASE WHEN atttypid = ... END AS atttypid, ... FROM pg_attribute WHERE ...) a

The first two leave rows out and nothing else: a SELECT without columns adds none to `*`, and the table keeps its name, row type and system columns. The
third is for what has to be shown otherwise. `information_schema.columns` is the server's own definition of it, with its own FROM items so treated.
"""

# ruff: noqa: S608 - put together from this file's own constants, numbers and quoted names

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from keys.types import TypeSpecError, parse_type
from rules.applied import holds_nothing_of_ours
from rules.catalog import SystemRelation
from rules.catalog_references import (
    INFORMATION_SCHEMA,
    PG_CATALOG,
    names_made,
    qualifications,
    references,
    shows_all,
)
from rules.classify import StatementKind
from rules.difference import SEALED_DOMAIN
from rules.lexer import LexError, lex
from rules.model import Protection, TableName, quote_ident, view_name
from rules.plan import Edit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from rules.catalog import Catalog, Relation
    from rules.catalog_references import Reference
    from rules.classify import Classified
    from rules.lexer import Lexed
    from rules.model import PolicyClass
    from rules.protect import ProtectionMap

MAX_SEALED: Final = 2_000  # sealed columns whose types are told; in a database with more, all are texts to its catalogs

_KINDS: Final = frozenset({StatementKind.QUERY, StatementKind.EXPLAIN, StatementKind.CURSOR, StatementKind.PREPARE})
_OWN: Final = "'^pgveil(_|$)'"
_EQUAL, _DIFFERS, _UNLIKE = (f"OPERATOR(pg_catalog.{sign})" for sign in ("=", "<>", "!~"))
_SCHEMAS: Final = f"SELECT x.oid FROM pg_catalog.pg_namespace AS x WHERE x.nspname OPERATOR(pg_catalog.~) {_OWN}"


def _below(kind: str, of: str, texts: str) -> str:
    """What depends on objects: found by an index, where catalogs have none by schema."""
    return (
        f"SELECT x.objid FROM pg_catalog.pg_depend AS x WHERE x.classid {_EQUAL} 'pg_catalog.{kind}'::pg_catalog.regclass "
        f"AND x.refclassid {_EQUAL} 'pg_catalog.{of}'::pg_catalog.regclass AND x.refobjid {_EQUAL} ANY (ARRAY({texts}))"
    )


_TABLES: Final = _below("pg_class", "pg_namespace", _SCHEMAS)
_FUNCTIONS: Final = _below("pg_proc", "pg_namespace", _SCHEMAS)
_INDEXES: Final = f"SELECT x.indexrelid FROM pg_catalog.pg_index AS x WHERE x.indrelid {_EQUAL} ANY (ARRAY({_TABLES}))"
_RELATIONS: Final = f"{_TABLES} UNION ALL {_INDEXES}"
_OBJECTS: Final = f"""{_SCHEMAS} UNION ALL {_TABLES} UNION ALL {_FUNCTIONS} UNION ALL {_below("pg_type", "pg_namespace", _SCHEMAS)}
    UNION ALL {_below("pg_rewrite", "pg_class", _TABLES)} AND x.deptype {_EQUAL} 'i' UNION ALL {_below("pg_trigger", "pg_proc", _FUNCTIONS)}"""

# What of a row must not be pgveil's: by catalog, columns and the texts that list what is.
_BY_NUMBER: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "pg_class": (("relnamespace", _SCHEMAS),),
    "pg_attribute": (("attrelid", _RELATIONS),),
    "pg_type": (("typnamespace", _SCHEMAS),),
    "pg_proc": (("pronamespace", _SCHEMAS),),
    "pg_constraint": (("connamespace", _SCHEMAS),),
    "pg_index": (("indrelid", _TABLES),),
    "pg_attrdef": (("adrelid", _TABLES),),
    "pg_rewrite": (("ev_class", _TABLES),),
    "pg_trigger": (("tgfoid", _FUNCTIONS),),
    "pg_description": (("objoid", _OBJECTS),),
    "pg_depend": (("objid", _OBJECTS), ("refobjid", _OBJECTS)),
}
_SCHEMA_NAMED: Final = frozenset(
    {"pg_tables", "pg_views", "pg_matviews", "pg_indexes", "pg_rules", "pg_sequences", "pg_policies", "pg_stats"}
    | {f"pg_stat_{which}_tables" for which in ("all", "user", "xact_all", "xact_user")}
    | {f"pg_statio_{which}_{what}" for which in ("all", "user") for what in ("tables", "indexes", "sequences")}
    | {"pg_stat_all_indexes", "pg_stat_user_indexes", "pg_stat_user_functions", "pg_stat_xact_user_functions"}
)
# Views of the standard, by the columns that hold the names of schemas.
_STANDARD: Final[Mapping[str, str]] = {
    "schemata": "schema_name",
    "check_constraints": "constraint_schema",
    "referential_constraints": "constraint_schema",
    "domains": "domain_schema",
    "domain_constraints": "domain_schema",
    "domain_udt_usage": "domain_schema",
    "column_domain_usage": "domain_schema",
    "parameters": "specific_schema",
    "routines": "routine_schema",
    "routine_privileges": "routine_schema",
    "role_routine_grants": "routine_schema",
    "sequences": "sequence_schema",
    "element_types": "object_schema",
    "data_type_privileges": "object_schema",
    "usage_privileges": "object_schema",
    "role_usage_grants": "object_schema",
    "udt_privileges": "udt_schema",
    "role_udt_grants": "udt_schema",
    "user_defined_types": "user_defined_type_schema",
    **dict.fromkeys(("view_table_usage", "view_column_usage", "view_routine_usage"), "view_schema"),
    **dict.fromkeys(("triggers", "triggered_update_columns"), "trigger_name"),
    **dict.fromkeys(("tables", "columns", "views", "table_constraints", "key_column_usage"), "table_schema"),
    **dict.fromkeys(("constraint_table_usage", "constraint_column_usage", "column_udt_usage"), "table_schema"),
    **dict.fromkeys(("column_column_usage", "column_options", "table_privileges"), "table_schema"),
    **dict.fromkeys(("role_table_grants", "column_privileges", "role_column_grants"), "table_schema"),
}
_OWN_TRIGGER: Final = "'^!pgveil '"
_OWN_ROLE: Final = "'pgveil_owner'"

CATALOGS: Final = frozenset({"pg_namespace", *_BY_NUMBER, *_SCHEMA_NAMED})
_SYSTEM_COLUMNS: Final = ("tableoid", "cmax", "xmax", "cmin", "xmin", "ctid")
# What of a sealed column's row is its type's, and what pg_type calls it.
_OF_TYPE: Final[Mapping[str, str]] = {
    "attlen": "y.typlen",
    "attndims": "CASE y.typcategory WHEN 'A' THEN 1 ELSE 0 END",
    "attbyval": "y.typbyval",
    "attalign": "y.typalign",
    "attstorage": "y.typstorage",
    "attcollation": "y.typcollation",
}
_TEXT_OID: Final = 25
_SEALED: Final = frozenset({SEALED_DOMAIN, f"{SEALED_DOMAIN}[]"})
# Views of the standard that tell types, or list columns by the privileges of the login.
TYPED_VIEWS: Final = ("columns", "key_column_usage", "column_udt_usage", "element_types")
_UNKNOWN: Final = SystemRelation()
_READS_ROWS: Final = frozenset({"_pg_truetypid", "_pg_truetypmod"})
_READ_OF_ROWS: Final = frozenset({"atttypid", "atttypmod"})
_NUMBERS: Final = 1 << 16  # of a relation's columns


class SealedType(NamedTuple):
    """A sealed column of a relation, and the type that clients see of it."""

    relation: int
    number: int
    type: int
    modifier: int


class PlainCatalogs:
    """What one database's catalogs look like through pgveil. `hides`: there is something of pgveil's in it."""

    def __init__(self, protection: ProtectionMap) -> None:
        catalog = protection.catalog
        self._catalog = catalog
        self._protection = protection
        self.hides = not holds_nothing_of_ours(catalog)
        found = tuple(_sealed_types(protection)) if self.hides else ()
        # Without a type that is known, a sealed column is a text.
        sealed = found if len(found) <= MAX_SEALED else ()
        self._places = _array((s.relation * _NUMBERS + s.number for s in sealed), "int8")
        self._types = _array((s.type for s in sealed), "oid")
        self._modifiers = _array((s.modifier for s in sealed), "int4")
        domain = catalog.system.get(SEALED_DOMAIN, _UNKNOWN).columns if self.hides else ()
        self._domain = _array(map(int, domain), "oid") if domain else ""
        self._attributes = catalog.system.get("pg_attribute", _UNKNOWN).columns
        self._words = CATALOGS | {INFORMATION_SCHEMA} if self.hides else frozenset()
        definitions = {name: _lexed(catalog.system.get(name, _UNKNOWN).definition) for name in TYPED_VIEWS}
        self._definitions = {name: lexed for name, lexed in definitions.items() if lexed is not None}

    def concern(self, lexed: Lexed) -> bool:
        """Whether a text may read a catalog. Most texts end here."""
        return not self._words.isdisjoint(lexed.words)

    def edits(
        self,
        lexed: Lexed,
        parts: Iterable[Classified],
        policy: PolicyClass,
        views: Collection[TableName],
        path: tuple[str, ...] | None,
        temporary: frozenset[str],
    ) -> tuple[Edit, ...]:
        """What is to be put into a text. `views`: the tables of which the login's class has a masking view; `path`, `temporary`: as in Settings."""
        made: list[Edit] = []
        several = len(lexed.statements) > 1
        for part in parts:
            if part.kind not in _KINDS:
                continue
            known = names_made(lexed, part.first, part.last, CATALOGS)
            seen = _Seen(self, lexed, (part.first, part.last), len(made))
            shows = _Masks(self._catalog, policy, views)
            for found in references(lexed, part.first, part.last):
                if found.schema is None and (
                    found.name in known or self._shadowed(found.name, path, temporary, several=several)
                ):
                    continue
                seen.take(found, shows)
            made += seen.edits
        return _in_order(made)

    def _shadowed(self, name: str, path: tuple[str, ...] | None, temporary: frozenset[str], *, several: bool) -> bool:
        """Whether a name without a schema may mean something else than PostgreSQL's own catalog."""
        if name in temporary or several:
            return True
        if path is None:
            return any(r.name.name == name for r in self._catalog.relations.values())
        before = path[: path.index(PG_CATALOG)] if PG_CATALOG in path else ()
        return any(TableName(schema, name) in self._catalog.by_name for schema in before)

    # -- the forms

    def shows_domain(self, lexed: Lexed, span: tuple[int, int]) -> bool:
        """Whether sealed columns have their own type in a text, since no table has both a star and columns that it leaves out."""
        return not lexed.words.isdisjoint(_SYSTEM_COLUMNS) and shows_all(lexed, *span)

    def attributes(self, lexed: Lexed, span: tuple[int, int], *, whole: bool, own: bool = False) -> str | None:
        """pg_attribute with logical types, as a SELECT; None where nothing of it is to be shown otherwise, or it can't be.

        `own`: for a definition of the standard's, which looks at no index, and gives whole rows to functions that look at two columns of them.
        """
        hidden = lexed.words.intersection(_SYSTEM_COLUMNS)
        everything = not own and (whole or shows_all(lexed, *span))
        if not self._domain or not self._attributes or (hidden and everything):
            return None
        shown = [f"a.{name}" for name in sorted(hidden)]
        for name in self._attributes:
            wanted = everything or name in lexed.words or (own and name in _READ_OF_ROWS)
            shown.append(self._attribute(name, indexes=not own) if wanted else f"a.{name}")
        condition = f"a.attrelid {_DIFFERS} ALL (ARRAY({_RELATIONS}))"
        return f"SELECT {', '.join(shown)} FROM pg_catalog.pg_attribute AS a WHERE {condition}"

    def _attribute(self, name: str, *, indexes: bool) -> str:
        if name == "atttypid":
            value = self._mapped(self._types, f"{_TEXT_OID}::pg_catalog.oid", indexes=indexes)
        elif name == "atttypmod":
            value = self._mapped(self._modifiers, "-1", indexes=indexes)
        elif name in _OF_TYPE:
            type_ = self._mapped(self._types, f"{_TEXT_OID}::pg_catalog.oid", indexes=indexes)
            value = f"(SELECT {_OF_TYPE[name]} FROM pg_catalog.pg_type AS y WHERE y.oid {_EQUAL} {type_})"
        else:
            return f"a.{name}"
        return f"CASE WHEN a.atttypid {_EQUAL} ANY ({self._domain}) THEN {value} ELSE a.{name} END AS {name}"

    def _mapped(self, values: str, otherwise: str, *, indexes: bool) -> str:
        """What a sealed column, or an index's column that is one, is to clients: found by its place in a list, so that nothing is to be planned."""
        own = f"({values})[{self._place('a.attrelid', 'a.attnum')}]"
        if not indexes:
            return f"COALESCE({own}, {otherwise})"
        column = "i.indkey[a.attnum OPERATOR(pg_catalog.-) 1]"
        index = (
            f"SELECT ({values})[{self._place('i.indrelid', column)}] "
            f"FROM pg_catalog.pg_index AS i WHERE i.indexrelid {_EQUAL} a.attrelid"
        )
        return f"COALESCE({own}, ({index}), {otherwise})"

    def _place(self, relation: str, number: str) -> str:
        product, total = ("OPERATOR(pg_catalog.*)", "OPERATOR(pg_catalog.+)")
        number = f"(({relation})::pg_catalog.int8 {product} {_NUMBERS}) {total} ({number})::pg_catalog.int8"
        return f"pg_catalog.array_position({self._places}, {number})"

    def view(self, name: str, masks: _Masks) -> str | None:
        """A view of the standard's as a SELECT; None where its own is right but for what it lists of pgveil's."""
        lexed = self._definitions.get(name)
        if lexed is None or not (self._domain or masks.pairs):
            return None
        span = (0, len(lexed.tokens) - 1)
        seen = _Seen(self, lexed, span, 0, only=frozenset({"pg_attribute", "pg_class"}))
        for found in references(lexed, *span):
            seen.take(found, masks)
        changes = [*seen.edits, *masks.edits(lexed)]
        pieces, at = [], 0
        for edit in _in_order(changes):
            start = lexed.tokens[edit.last].end if edit.behind else lexed.tokens[edit.first].start
            pieces += [lexed.text[at:start], edit.text]
            at = start if edit.behind or edit.last < edit.first else lexed.tokens[edit.last].end
        return "".join((*pieces, lexed.text[at:]))


class _Masks:
    """A class's masking views, by the tables that they stand for: who may read a view's column sees that of the table."""

    def __init__(self, catalog: Catalog, policy: PolicyClass, views: Collection[TableName]) -> None:
        found = ((catalog.by_name.get(t), catalog.by_name.get(_view_of(policy, t))) for t in sorted(views))
        self.pairs = [(table.oid, view.oid) for table, view in found if table is not None and view is not None]

    def edits(self, lexed: Lexed) -> Iterator[Edit]:
        """In the definition of information_schema.columns: a login's columns are those of its views too."""
        if not self.pairs:
            return
        tokens, pairs = lexed.tokens, ", ".join(f"({table}, {view})" for table, view in self.pairs)
        for at in range(len(tokens) - 1):
            if tokens[at].value == "has_column_privilege" and tokens[at + 1].value == "(":
                commas = [i for i in range(at, len(tokens)) if tokens[i].value == ","][:2]
                closing = next(i for i in range(at, len(tokens)) if tokens[i].value == ")")
                table = lexed.text[tokens[at + 2].start : tokens[commas[0] - 1].end]
                number = lexed.text[tokens[commas[0] + 1].start : tokens[commas[1] - 1].end]
                shown = (
                    "EXISTS (SELECT FROM (SELECT w.rel::pg_catalog.oid, w.view::pg_catalog.oid "
                    f"FROM (VALUES {pairs}) AS w (rel, view)) AS pgveil_v "
                    f"JOIN pg_catalog.pg_attribute AS pgveil_y ON pgveil_y.attrelid {_EQUAL} pgveil_v.rel "
                    f"JOIN pg_catalog.pg_attribute AS pgveil_x ON pgveil_x.attrelid {_EQUAL} pgveil_v.view "
                    f"AND pgveil_x.attname {_EQUAL} pgveil_y.attname "
                    f"WHERE pgveil_v.rel {_EQUAL} {table} AND pgveil_y.attnum {_EQUAL} {number} "
                    "AND pg_catalog.has_column_privilege(pgveil_v.view, pgveil_x.attnum, 'SELECT'))"
                )
                yield Edit(closing, closing, f" OR {shown}", behind=True)


class _Seen:
    """The FROM items of one statement, one after another."""

    def __init__(
        self,
        catalogs: PlainCatalogs,
        lexed: Lexed,
        span: tuple[int, int],
        numbers_from: int,
        *,
        only: frozenset[str] = frozenset(),
    ) -> None:
        self._catalogs = catalogs
        self._lexed = lexed
        self._span = span
        self._number = numbers_from
        self._only = only
        self.edits: list[Edit] = []

    def take(self, found: Reference, masks: _Masks) -> None:
        """One FROM item, if it is a catalog's."""
        if self._only and found.name not in self._only:
            return
        if found.schema in (None, PG_CATALOG) and found.name in CATALOGS:
            text = None
            if found.name == "pg_type" and self._catalogs.shows_domain(self._lexed, self._span):
                return  # they would be lost in a join
            if found.name == "pg_attribute":
                whole = found.renames or self._names_row(found)
                text = self._catalogs.attributes(self._lexed, self._span, whole=whole, own=bool(self._only))
            conditions = _conditions(found.name)
        elif found.schema == INFORMATION_SCHEMA and found.name in _STANDARD:
            text = self._catalogs.view(found.name, masks)
            conditions = _standard_conditions(found.name)
        else:
            return
        if text is not None:
            self._replace(found, text)
        elif found.renames:
            relation = self._lexed.text[
                self._lexed.tokens[found.name_first].start : self._lexed.tokens[found.name_last].end
            ]
            shown = " AND ".join(c.format(alias="pgveil_t") for c in conditions)
            self._replace(found, f"SELECT * FROM {relation} AS pgveil_t WHERE {shown}")
        else:
            self._around(found, conditions)

    def _names_row(self, found: Reference) -> bool:
        """Whether the relation's name may stand for a whole row of it."""
        tokens, (first, last) = self._lexed.tokens, self._span
        return any(
            tokens[i].value == found.alias
            and not found.name_first <= i <= found.last
            and (i == last or tokens[i + 1].value != ".")
            for i in range(first, last + 1)
        )

    def _around(self, found: Reference, conditions: tuple[str, ...]) -> None:
        self._number += 1
        alias = quote_ident(found.alias)
        condition = " AND ".join(c.format(alias=alias) for c in conditions)
        if found.alone:
            # Of a join's tables no system column is seen without the table's name.
            beside = f", LATERAL (SELECT WHERE {condition}) AS pgveil_{self._number}"
            self.edits.append(Edit(found.last, found.last, beside, behind=True))
            return
        self.edits.append(Edit(found.first, found.first - 1, "("))
        joined = f" JOIN (SELECT) AS pgveil_{self._number} ON {condition})"
        self.edits.append(Edit(found.last, found.last, joined, behind=True))

    def _replace(self, found: Reference, text: str) -> None:
        named = "" if found.written else f" AS {quote_ident(found.alias)}"
        self.edits.append(Edit(found.first, found.name_last, f"({text}){named}"))
        if not found.written and found.schema is not None:
            for at in qualifications(self._lexed, *self._span, found.schema, found.name):
                self.edits.append(Edit(at, at + 1, ""))
        self.edits += _as_rows(self._lexed, self._span, found.alias)


def _as_rows(lexed: Lexed, span: tuple[int, int], alias: str) -> Iterator[Edit]:
    """Where a row of pg_attribute is given to a function of the standard's that takes nothing else."""
    tokens = lexed.tokens
    for at in range(span[0], span[1] - 3):
        is_call = tokens[at].value in _READS_ROWS and tokens[at + 1].value == "("
        if is_call and [t.value for t in tokens[at + 2 : at + 5]] == [alias, ".", "*"]:
            yield Edit(at + 2, at + 4, f"ROW({quote_ident(alias)}.*)::pg_catalog.pg_attribute")


def _conditions(name: str) -> tuple[str, ...]:
    """What holds of the rows of a catalog of PostgreSQL's that are not pgveil's."""
    if name == "pg_namespace":
        return (f"{{alias}}.nspname {_UNLIKE} {_OWN}",)
    if name in _BY_NUMBER:
        return tuple(f"{{alias}}.{column} {_DIFFERS} ALL (ARRAY({texts}))" for column, texts in _BY_NUMBER[name])
    return (f"{{alias}}.schemaname {_UNLIKE} {_OWN}",)


def _standard_conditions(name: str) -> tuple[str, ...]:
    """The same for a view of the standard's."""
    column = _STANDARD[name]
    if column == "trigger_name":
        return (f"{{alias}}.trigger_name {_UNLIKE} {_OWN_TRIGGER}",)
    schema = f"{{alias}}.{column} {_UNLIKE} {_OWN}"
    if name in {"table_privileges", "role_table_grants", "column_privileges", "role_column_grants"}:
        return schema, f"{{alias}}.grantee {_DIFFERS} {_OWN_ROLE}"
    return (schema,)


def _array(numbers: Iterable[int], type_: str) -> str:
    return f"'{{{','.join(map(str, numbers))}}}'::pg_catalog.{type_}[]"


def _lexed(definition: str | None) -> Lexed | None:
    if definition is None:
        return None
    try:
        return lex(definition.rstrip().rstrip(";"), standard_conforming_strings=True)
    except LexError:
        return None


def _in_order(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Each once: an alias of several queries of a text is found for each of them."""
    return tuple(sorted(set(edits), key=lambda e: (e.last + 1 if e.behind else e.first, not e.behind)))


def is_own_schema(name: str) -> bool:
    """Whether a schema is one of pgveil's."""
    return name == "pgveil" or name.startswith("pgveil_")


def _view_of(policy: PolicyClass, table: TableName) -> TableName:
    return TableName(policy.schema, view_name(table))


def _sealed_types(protection: ProtectionMap) -> Iterator[SealedType]:
    """The sealed columns whose types clients know, of tables and of views over them."""
    for relation in protection.catalog.relations.values():
        if not is_own_schema(relation.name.schema):
            yield from _sealed_of(protection, relation)


def _sealed_of(protection: ProtectionMap, relation: Relation) -> Iterator[SealedType]:
    for column in relation.columns:
        if column.declared_type not in _SEALED:
            continue
        source = protection.source_of(relation.oid, column.attnum)
        rule = None if source is None else protection.rules.column(source)
        if rule is None or rule.protection is not Protection.SEALED or rule.type is None:
            continue
        try:
            type_ = parse_type(rule.type)
        except TypeSpecError:
            continue
        oid = type_.oid
        if type_.labels is not None or oid == 0:
            enum = protection.catalog.enums.get(type_.name.removesuffix("[]"))
            oid = 0 if enum is None else (enum.array_oid if type_.array else enum.oid)
        if oid:
            yield SealedType(relation.oid, column.attnum, oid, type_.typmod)
