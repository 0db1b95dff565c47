"""What logins with limits hold at the server beside tables: files, hidden catalogs, settings, places for objects of their own, copies."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from doctor.model import Check, Found, Group, Severity, listed
from lifecycle.apply.inspect import relation_sql
from rules.model import quote_ident

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from doctor.facts import Facts
    from rules.catalog import Relation
    from rules.model import ColumnName

_ALIKE: Final = 2  # columns of one name and type that make a table look like another one's copy
_DEFAULT_PATH: Final = '"$user", public'


def _rights(facts: Facts) -> Iterator[Found]:
    limited = facts.limited()
    held: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for found in facts.database.server_rights:
        if found.login in limited:
            held[found.login, found.through, found.sql].append(found.object)
    for (login, through, kind), objects in held.items():
        role = "" if through == login else f" as a member of {through}"
        yield Found(
            Severity.BAD,
            f"{kind} for {login}",
            f"{login}, who is to see masks, holds{role} {kind} on {listed(objects)}, past which no column's privilege reaches",
            f"REVOKE {kind} ON {'FUNCTION ' if kind == 'EXECUTE' else ''}{', '.join(objects)} FROM {quote_ident(through)};",
        )


def _parameters(facts: Facts) -> Iterator[Found]:
    limited = facts.limited()
    for login, through, parameter in facts.database.parameter_grants:
        if login in limited:
            yield Found(
                Severity.WARNING,
                f"{parameter} for {login}",
                f"{login}, who is to see masks, may set {parameter}, which is kept from logins for a reason (what is logged, which triggers run)",
                f"REVOKE SET, ALTER SYSTEM ON PARAMETER {parameter} FROM {quote_ident(through) if through else 'PUBLIC'};",
            )


def _search_path(facts: Facts) -> Iterator[Found]:
    database = facts.database
    paths = {"the default": database.settings.get("search_path", _DEFAULT_PATH)}
    paths |= {s.whose: s.value for s in database.own_settings if s.name == "search_path"}
    for whose, path in paths.items():
        schemas = [part.strip().strip('"') for part in path.split(",")]
        for schema in (s for s in schemas if s in database.open_schemas):
            yield Found(
                Severity.WARNING,
                f"{schema} in {whose}",
                f"anyone may create in schema {schema}, and the search_path of {whose} has it: a function or view made there can be taken for another",
                f"REVOKE CREATE ON SCHEMA {quote_ident(schema)} FROM PUBLIC;",
            )


def _copies(facts: Facts) -> Iterator[Found]:
    """Tables that the rules do not know and that have a protected table's columns, where logins with limits read them."""
    database, protection = facts.database, facts.protection
    originals = {r: protection.columns_of(r) for r in database.state.catalog.relations.values() if r.kind in "rp"}
    protected = {r: columns for r, columns in originals.items() if columns}
    limited = facts.limited()
    for relation in sorted((r for r, columns in originals.items() if not columns), key=lambda r: r.name):
        readers = sorted(database.readable.get(relation.oid, frozenset()) & limited.keys())
        alike = _alike(relation, protected) if readers else ()
        if alike:
            yield Found(
                Severity.WARNING,
                str(relation.name),
                f"table {relation.name} has columns of {listed(sorted(map(str, alike)))} and is open to {listed(readers)}, who are to see masks: it looks "
                "like a copy",
                f"DROP TABLE {relation_sql(relation.name)}; or name it in the rules; or REVOKE ALL ON {relation_sql(relation.name)} FROM PUBLIC",
            )


def _alike(relation: Relation, protected: Mapping[Relation, Mapping[str, ColumnName]]) -> tuple[ColumnName, ...]:
    """The protected columns that it has by name and type: at least as many as tell, or all that there are."""
    own = {(c.name, c.type_oid) for c in relation.columns}
    for original, columns in protected.items():
        types = {c.name: c.type_oid for c in original.columns}
        same = tuple(of for name, of in columns.items() if (name, types[name]) in own)
        if (
            len(same) >= min(_ALIKE, len(columns))
            and len(own & {(c.name, c.type_oid) for c in original.columns}) > _ALIKE
        ):
            return same
    return ()


CHECKS: Final = (
    Check(
        "server-rights",
        Group.LOGINS,
        "No login that is to see masks reads the server's files or its hidden catalogs",
        "pg_read_file shows tables as they lie on disk, pg_statistic the most common values of every column, pg_authid what passwords are checked by.",
        _rights,
    ),
    Check(
        "parameter-grants",
        Group.LOGINS,
        "No login that is to see masks may set what is kept from logins",
        "GRANT SET ON PARAMETER lets a login log statements with their values, or switch triggers and constraints off.",
        _parameters,
    ),
    Check(
        "search-path",
        Group.LOGINS,
        "No search_path leads through a schema that anyone may create in",
        "Whoever makes a function or a view there under another one's name has it run with the rights of whoever means that one.",
        _search_path,
    ),
    Check(
        "table-copy",
        Group.OBJECTS,
        "No table that the rules do not know looks like a copy of a protected one",
        "CREATE TABLE ... AS takes the values along and nothing of what protects them.",
        _copies,
    ),
)
