"""Whether a rules file and a database agree: tables, columns and types exist, nothing that looks sensitive is left unclassified."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.derived import derived_from, with_derived
from rules.difference import sealed_in
from rules.document import Place
from rules.filled import filled_columns, lines_for
from rules.logical import canonical_type, has_equality, is_array, type_of_oid
from rules.masks import MASK_KINDS, masks_for
from rules.model import ColumnName, Level, Protection, TableName
from rules.names import show_name
from rules.problems import Problem, Severity, did_you_mean, nearest_name
from rules.protect import ProtectionMap, is_own
from rules.recognise import recognise_type
from rules.record import VIEW as RECORD

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from rules.catalog import Catalog, CatalogColumn, Relation
    from rules.model import Column, Rules, Table
    from rules.recognise import Recognised

# The domain that sealed columns have in the database.
SEALED_TYPE = "pgveil.sealed"
APPLY = "run: pgveil apply --reload"
# Masks whose bare name is no mask in YAML.
_MASK_TEXTS: Mapping[str, str] = MappingProxyType({"null": '"null"', "range": "{kind: range, width: 1000}"})
_KINDS_WITH_DATA = frozenset("rpf")


class _Report:
    def __init__(self, file: str, places: Mapping[TableName | ColumnName, Place]) -> None:
        self._file = file
        self._places = places
        self.found: list[Problem] = []

    def add(
        self, about: TableName | ColumnName, message: str, fix: str | None, severity: Severity = Severity.ERROR
    ) -> None:
        """Note a problem at the place of what it is about; for a column that the file lacks, of its table."""
        place = self._places.get(about)
        if place is None and isinstance(about, ColumnName):
            place = self._places.get(about.relation)
        place = place or Place(1, 1)
        self.found.append(Problem(self._file, place.line, place.column, message, fix, severity))


def compare(
    rules: Rules, catalog: Catalog, file: str, places: Mapping[TableName | ColumnName, Place], *, strict: bool = False
) -> tuple[Problem, ...]:
    """What does not agree, by position. With `strict`, an unclassified column that looks sensitive is an error."""
    report = _Report(file, places)
    for table in rules.tables.values():
        relation = catalog.by_name.get(table.name)
        if relation is None:
            meant = nearest_name(table.name, catalog.by_name)
            fix = None if meant is None else f"did you mean `{show_name(*meant)}`?"
            report.add(table.name, f"the database {catalog.database} has no table {table.name}", fix)
        else:
            _table(report, table, relation, catalog)
    derived = derived_from(rules, catalog)
    for name, made_of in sorted(derived.items()):
        report.add(
            name.relation,
            f"generated column {name} is made of {made_of[0]}: where that is masked it shows NULL",
            "classify it too, or `{level: general}` if it may be seen by all",
            Severity.WARNING,
        )
    _applied(report, rules, catalog)
    told = derived.keys() | _filled(report, rules, catalog, strict=strict)
    for name, declared, logical in _uncovered(rules, catalog):
        if name in told:
            continue
        found = recognise_type(name.relation, name.column, logical)
        if found is not None:
            report.add(
                name,
                f"column {name} ({declared}) looks like {_with_article(found.kind)} ({found.reason}) and is not classified",
                f"classify it, e.g. `{suggested_entry(found, logical)}`, or `{{level: general}}` if it is none",
                Severity.ERROR if strict else Severity.WARNING,
            )
    return tuple(sorted(report.found, key=lambda p: (p.line, p.column, p.message)))


def _filled(report: _Report, rules: Rules, catalog: Catalog, *, strict: bool) -> set[ColumnName]:
    """What code in the database fills from masked columns. Gives back the columns that were told of."""
    protection = ProtectionMap(with_derived(rules, catalog), catalog, unknown=False)
    found = filled_columns(protection)
    for filled in found.filled:
        report.add(
            filled.target if filled.target.relation in rules.tables else filled.made_of[0],
            f"column {filled.target} is filled by {filled.by} from {', '.join(map(str, filled.made_of))} and is not classified",
            f"classify it: `{lines_for(filled, protection)}`, or `level: general` where everybody may see it",
            Severity.ERROR if strict else Severity.WARNING,
        )
    for unread in found.unread:
        report.add(
            unread.relation,
            f"{unread.by} {unread.why}: it is given {', '.join(c.column for c in sorted(unread.columns))}",
            "see that it puts them nowhere that somebody else reads",
            Severity.WARNING,
        )
    return {f.target for f in found.filled}


def _applied(report: _Report, rules: Rules, catalog: Catalog) -> None:
    """What the database's record of what is applied says otherwise than the rules: `pgveil apply` has work, or something in its way."""
    protection = ProtectionMap(rules, catalog)
    recorded = None if catalog.record is None else {c.name for c in catalog.record.columns}
    for name, problem in sorted(protection.differing.items()):
        rule, relation = rules.column(name), catalog.by_name.get(name.relation)
        if rule is not None and (
            rule.protection is not Protection.SEALED or relation is None or name.column not in sealed_in(relation)
        ):
            continue  # said where the column is looked at
        lost = rule is None and (recorded is None or name in recorded)
        fix = "seal it in the rules as it was; `pgveil apply --plan` names the way out" if lost else APPLY
        report.add(name, problem, fix, Severity.ERROR if lost else Severity.WARNING)
    said = set(protection.differing.values())
    # Before anything is applied that is no news.
    if any(is_own(name) for name in catalog.by_name):
        for problem in protection.not_served:
            if problem not in said:
                report.add(RECORD, problem, APPLY, Severity.WARNING)


def missing_roles(rules: Rules, there: Container[str], file: str) -> tuple[Problem, ...]:
    """Logins and roles of the rules that the database does not have: a misspelt one would leave its people without their post."""
    return tuple(
        Problem(file, 1, 1, f"role {role.name}: the database has no {word} {name}", None, Severity.WARNING)
        for role in rules.roles.values()
        for word, names in (("login", role.logins), ("role", role.member_of))
        for name in sorted(names)
        if name not in there and not name.startswith("pg_")
    )


def _table(report: _Report, table: Table, relation: Relation, catalog: Catalog) -> None:
    if relation.kind not in _KINDS_WITH_DATA:
        report.add(
            table.name, f"{table.name} is a view; rules name the tables that hold the data", "name the view's tables"
        )
        return
    inherited = sorted(_inherited(relation, catalog) & table.columns.keys())
    if inherited:
        parent = catalog.relations.get(relation.parents[0])
        name = show_name(*parent.name) if parent else "its parent"
        report.add(
            ColumnName(*table.name, inherited[0]),
            f"{table.name} inherits {', '.join(inherited[:3])}: a partition or child follows the rules of {name}",
            f"name these columns under {name} instead",
        )
    known = [show_name(c.name) for c in relation.columns]
    if table.subject is not None and relation.column(table.subject) is None:
        report.add(
            table.name,
            f"the subject {table.subject} is not a column of {table.name}",
            did_you_mean(table.subject, known),
        )
    for column in table.columns.values():
        there = relation.column(column.name.column)
        if there is None:
            report.add(
                column.name,
                f"the table {table.name} has no column {column.name.column}",
                did_you_mean(column.name.column, known),
            )
        else:
            _column(report, column, there)


def _column(report: _Report, column: Column, there: CatalogColumn) -> None:
    if there.declared_type == f"{SEALED_TYPE}[]":
        report.add(
            column.name,
            f"{column.name} is {there.declared_type}, but an array is sealed as one value",
            f"make the column {SEALED_TYPE}; `pgveil apply` does so from a plain array",
        )
        return
    if there.declared_type == SEALED_TYPE:
        if column.protection is not Protection.SEALED:
            report.add(
                column.name,
                f"{column.name} is sealed in the database but `{column.protection}` in the rules",
                "write `protection: sealed`",
            )
        return
    actual = logical_type_of(there)
    if column.protection is Protection.SEALED and (there.generated or there.identity):
        kind = "generated" if there.generated else "an identity column"
        report.add(
            column.name,
            f"{column.name} is {kind}: the database makes its values, so they cannot be sealed",
            "mask it instead",
        )
    if column.type is not None and not _same_type(column.type, actual):
        report.add(
            column.name,
            f"{column.name} is {there.declared_type} in the database but {column.type} in the rules",
            None if actual is None else f"write `type: {actual}`",
        )
        return
    if column.mask is not None and not MASK_KINDS[column.mask.kind].suits(actual):
        report.add(
            column.name,
            f"the mask {column.mask.kind} does not fit {there.declared_type}",
            f"masks for it: {', '.join(masks_for(actual))}",
        )
    if column.protection is Protection.SEALED:
        report.add(
            column.name,
            f"{column.name} is still stored plain",
            APPLY,
            Severity.WARNING,
        )


def logical_type_of(column: CatalogColumn) -> str | None:
    """The canonical logical type of a plain column, its domain looked through; an enum without its labels; None for other types."""
    known = type_of_oid(column.type_oid, column.typmod)
    return known if known is not None else canonical_type(f"enum {column.declared_type}")


def _same_type(wanted: str, actual: str | None) -> bool:
    """Enums are compared by name: a snapshot does not hold their labels. format_type leaves no schema out (search_path is fixed)."""
    if actual is None:
        return False
    return wanted == actual or (
        actual.startswith("enum ") and wanted.partition("(")[0] + ("[]" if is_array(wanted) else "") == actual
    )


def _uncovered(rules: Rules, catalog: Catalog) -> Iterator[tuple[ColumnName, str, str | None]]:
    """Columns that hold data and that the rules do not name: name, declared type, logical type. A child's are its parent's."""
    for relation in sorted(catalog.relations.values(), key=lambda r: r.name):
        schema = relation.name.schema
        if relation.kind not in _KINDS_WITH_DATA or schema == "pgveil" or schema.startswith(("pgveil_", "pg_")):
            continue
        inherited = _inherited(relation, catalog)
        for column in relation.columns:
            name = ColumnName(*relation.name, column.name)
            if rules.column(name) is None and column.name not in inherited and column.declared_type != SEALED_TYPE:
                yield name, column.declared_type, type_of_oid(column.type_oid, column.typmod)


def _with_article(kind: str) -> str:
    if kind == "biometrics":
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def suggested_entry(found: Recognised, logical: str | None) -> str:
    """What the rules could say of such a column: an entry that stands as it is written."""
    parts = [f"level: {found.level}"]
    if found.level is Level.CORE and logical is not None:
        parts.append(f"mode: {'deterministic' if has_equality(logical) else 'randomized'}")
        parts.append(f'type: "{logical}"' if {",", "["} & set(logical) else f"type: {logical}")
    elif found.level is Level.CORE:  # no type that can be sealed
        parts.append("stored: plain")
    if found.mask and MASK_KINDS[found.mask].suits(logical):
        parts.append(f"mask: {_MASK_TEXTS.get(found.mask, found.mask)}")
    return "{" + ", ".join(parts) + "}"


def _inherited(relation: Relation, catalog: Catalog) -> frozenset[str]:
    parents: Iterable[Relation | None] = (catalog.relations.get(oid) for oid in relation.parents)
    return frozenset(c.name for p in parents if p is not None for c in p.columns)
