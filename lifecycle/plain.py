"""What makes a plain database of a dump that was taken through pgveil: the sealed columns' logical types (docs/adr/0024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keys.typespec import parse_type, type_sql
from rules.model import Protection, quote_ident

if TYPE_CHECKING:
    from rules.model import Rules


def plain_types_sql(rules: Rules) -> str:
    """A script: each sealed column gets the type that clients see of it, then pgveil's own domain goes. Raises keys.typespec's TypeSpecError."""
    tables: dict[str, list[str]] = {}
    for column in sorted(rules.protected_columns(), key=lambda c: c.name):
        if column.protection is not Protection.SEALED:
            continue
        assert column.type is not None, "the loader asks for the type of sealed columns"
        name, type_ = quote_ident(column.name.column), type_sql(parse_type(column.type))
        table = f"{quote_ident(column.name.relation.schema)}.{quote_ident(column.name.relation.name)}"
        tables.setdefault(table, []).append(f"ALTER COLUMN {name} TYPE {type_} USING {name}::pg_catalog.text::{type_}")
    between = ",\n    "
    changes = [f"ALTER TABLE {table}\n    {between.join(actions)};" for table, actions in tables.items()]
    return "\n".join(["BEGIN;", *changes, "DROP DOMAIN pgveil.sealed;", "DROP SCHEMA pgveil;", "COMMIT;", ""])
