"""Look-ups: a role that sees a masked column masked may still find rows by its real value, where the rules say so (ADR 0015).

What the names of the database's look-up functions are, and which key of a table they give back; `pgveil apply` makes them and the proxy
calls them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rules.model import ColumnName, Protection, TableName, Verdict, quote_ident, quote_literal, view_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rules.catalog import Relation
    from rules.model import PolicyClass, Rules

_LONGEST = 63  # bytes of an identifier (NAMEDATALEN - 1)
WRITING_SCHEMA = "pgveil_write"
"""Where the functions are through which values come for columns that are not seen clear (ADR 0027)."""
GIVEN = "given"
"""The one that the proxy names: it takes a ticket and gives the value, which the column's trigger then lets pass."""


def function_name(column: ColumnName) -> str:
    """The look-up function's name inside a class's schema. It cannot be a masking view's: it ends in a mark, another one than when tickets were no login's."""
    return _marked(f"{view_name(column.relation)}.{column.column}", "==")


def gate_name(table: TableName, column: str) -> str:
    """The name of the trigger function that lets values into a column of a table."""
    return _marked(f"{view_name(table)}.{column}", "!")


def given_by(ticket: str, column: ColumnName) -> str:
    """The call that gives the value of a ticket, which is SQL."""
    return f"{quote_ident(WRITING_SCHEMA)}.{quote_ident(GIVEN)}({ticket}, {quote_literal(str(column))})"


def _marked(plain: str, mark: str) -> str:
    raw = (plain + mark).encode()
    if len(raw) <= _LONGEST:
        return plain + mark
    return raw[:49].decode(errors="ignore") + "_" + hashlib.sha256(raw).hexdigest()[:12] + mark


def key_of(relation: Relation, protected: Mapping[str, ColumnName], rules: Rules) -> tuple[str, ...]:
    """The columns of the primary key by which a look-up tells its rows; empty where there is none that a masked role sees as it is."""
    names = tuple(c.name for c in relation.columns if c.attnum in relation.primary_key)
    for name in names:
        rule = rules.column(protected[name]) if name in protected else None
        if rule is not None and rule.protection is Protection.MASKED:
            return ()
    return names


def wanted(policy: PolicyClass, rules: Rules) -> tuple[ColumnName, ...]:
    """The plain columns for which a class needs a look-up function."""
    return tuple(
        sorted(
            name
            for name in policy.lookups
            if policy.verdict(name) is Verdict.MASKED
            and (column := rules.column(name)) is not None
            and column.protection is Protection.MASKED
        )
    )


def function_of(policy: PolicyClass, column: ColumnName) -> TableName:
    """The function's full name for a class."""
    return TableName(policy.schema, function_name(column))
