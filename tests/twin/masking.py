"""The masks database: a copy of the plain one in which every value that a role may not see clear has been replaced by its mask.

The masks of what is there are the Python forms (`keys.mask`), not the SQL forms that masking views use: two witnesses. What the role writes
is masked by triggers as it comes in, as the role would not see it clear again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keys.mask import make_mask
from keys.mask_sql import install_sql
from keys.types import decode_literal, encode, parse_type
from rules.model import Verdict, quote_ident

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

    from keys.mask import Mask
    from rules.model import Column, PolicyClass, Rules, TableName


@dataclass(frozen=True, slots=True)
class TextMask:
    """A column's mask over the text form of its values (ISO dates, UTC). Without a mask nothing may be seen: NULL."""

    column: Column
    mask: Mask | None

    def apply(self, value: str | None) -> str | None:
        """The masked value."""
        if value is None or self.mask is None:
            return None
        shown = self.mask.apply(decode_literal(self.mask.type, value))
        return None if shown is None else encode(self.mask.type, shown, 0).decode()


def text_masks(
    rules: Rules, policy: PolicyClass, connection: psycopg.Connection[Any]
) -> dict[TableName, dict[str, TextMask]]:
    """By table and column, for all that the class does not see clear. `connection`: to a database with the plain types."""
    found: dict[TableName, dict[str, TextMask]] = {}
    for column in rules.protected_columns():
        if policy.verdict(column.name) is Verdict.CLEAR:
            continue
        mask = None
        if policy.verdict(column.name) is Verdict.MASKED and column.mask is not None:
            type_ = parse_type(column.type or _type_of(connection, column))
            mask = make_mask(column.mask.kind, dict(column.mask.params), type_)
        found.setdefault(column.name.relation, {})[column.name.column] = TextMask(column, mask)
    return found


def mask_database(connection: psycopg.Connection[Any], masks: Mapping[TableName, Mapping[str, TextMask]]) -> None:
    """Replace the values. Constraints and indexes over masked columns go first: masks are not unique. Owner's connection, autocommit."""
    for table, columns in masks.items():
        _drop_constraints(connection, table, columns)
    with connection.transaction():
        connection.execute("set local session_replication_role = replica")
        for table, columns in masks.items():
            for name, mask in columns.items():
                _mask_column(connection, qualified(table), name, mask)
    connection.execute(install_sql().encode())
    for table, columns in masks.items():
        _mask_what_comes(connection, table, columns)
    for (view,) in connection.execute("select oid::regclass::text from pg_class where relkind = 'm'").fetchall():
        connection.execute(f"refresh materialized view {view}")


def qualified(table: TableName) -> str:
    """The table's name as SQL."""
    return f"{quote_ident(table.schema)}.{quote_ident(table.name)}"


def _mask_column(connection: psycopg.Connection[Any], table: str, name: str, mask: TextMask) -> None:
    column = quote_ident(name)
    stored = f"pg_catalog.format_type((select atttypid from pg_attribute where attrelid = '{table}'::regclass and attname = %s), -1)"
    row = connection.execute(f"select {stored}", [name]).fetchone()
    assert row is not None
    values = [
        v for (v,) in connection.execute(f"select distinct {column}::text from {table} where {column} is not null")
    ]
    pairs = {value: mask.apply(value) for value in values}
    connection.execute("create temp table twin_masks (value text primary key, mask text)")
    with connection.cursor() as cursor:
        cursor.executemany("insert into twin_masks values (%s, %s)", list(pairs.items()))
    connection.execute(
        f"update {table} t set {column} = m.mask::{row[0]} from twin_masks m where t.{column}::text = m.value"
    )
    connection.execute("drop table twin_masks")


def _mask_what_comes(connection: psycopg.Connection[Any], table: TableName, columns: Mapping[str, TextMask]) -> None:
    lines = []
    for name, mask in columns.items():
        new, old = f"NEW.{quote_ident(name)}", f"OLD.{quote_ident(name)}"
        masked = "NULL" if mask.mask is None else mask.mask.sql(new)
        # Unchanged values are masks already; a mask of a mask can be another one.
        lines.append(f"IF TG_OP = 'INSERT' THEN {new} := {masked};")
        lines.append(f"ELSIF {new}::text IS DISTINCT FROM {old}::text THEN {new} := {masked}; END IF;")
    function = f"pgveil.{quote_ident('mask ' + str(table))}"
    body = "BEGIN " + " ".join(lines) + " RETURN NEW; END"
    connection.execute(
        f"create function {function}() returns trigger language plpgsql security definer as $twin${body}$twin$".encode()
    )
    heirs = connection.execute(
        "with recursive heirs as (select %s::regclass::oid as oid union"
        " select inhrelid from pg_inherits join heirs on inhparent = heirs.oid)"
        " select oid::regclass::text from heirs join pg_class using (oid) where not relispartition",
        [qualified(table)],
    ).fetchall()
    for (relation,) in heirs:
        connection.execute(
            f"create trigger {quote_ident('mask ' + str(table))} before insert or update on {relation}"
            f" for each row execute function {function}()"
        )


def _drop_constraints(connection: psycopg.Connection[Any], table: TableName, columns: Mapping[str, TextMask]) -> None:
    name, names = qualified(table), list(columns)
    found = connection.execute(
        """select c.conrelid::regclass::text, quote_ident(c.conname) from pg_constraint c
           where c.conparentid = 0 and c.contype in ('u', 'p', 'f', 'c', 'x') and (
             c.conrelid = %(table)s::regclass and c.conkey && (
               select array_agg(attnum) from pg_attribute where attrelid = c.conrelid and attname = any(%(names)s))
             or c.confrelid = %(table)s::regclass and c.confkey && (
               select array_agg(attnum) from pg_attribute where attrelid = c.confrelid and attname = any(%(names)s)))
           order by c.contype = 'f' desc""",
        {"table": name, "names": names},
    ).fetchall()
    for relation, constraint in found:
        connection.execute(f"alter table {relation} drop constraint if exists {constraint} cascade")
    indexes = connection.execute(
        """select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid
           where i.indrelid = %s::regclass and i.indisunique and not c.relispartition and exists (
             select from pg_attribute a where a.attrelid = i.indrelid and a.attname = any(%s) and a.attnum = any(i.indkey))""",
        [name, names],
    ).fetchall()
    for (index,) in indexes:
        connection.execute(f"drop index {index}")
    for column, mask in columns.items():
        if mask.mask is not None and mask.mask.kind != "null":
            continue
        connection.execute(f"alter table {name} alter column {quote_ident(column)} drop not null")


def _type_of(connection: psycopg.Connection[Any], column: Column) -> str:
    row = connection.execute(
        "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass and attname = %s",
        [qualified(column.name.relation), column.name.column],
    ).fetchone()
    assert row is not None, f"no column {column.name}"
    return str(row[0])
