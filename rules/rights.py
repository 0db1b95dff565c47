"""What a class of logins may do to a column: the judgement and the server's privileges follow the same answer (ADR 0027).

A value that is written is compared with what is there: by UPDATE with the row's old one (the size of the log record, HOT, locks), by an index with
the other rows'. So who does not see a column clear changes it only where the rules say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from collections.abc import Container

    from rules.model import Column, ColumnName, PolicyClass


def may_read(policy: PolicyClass, column: Column) -> bool:
    """Whether it may read what the database holds: of a sealed column that tells nothing."""
    return policy.verdict(column.name) is Verdict.CLEAR or column.protection is not Protection.MASKED


def may_update(policy: PolicyClass, column: Column) -> bool:
    """Whether it may give the column another value in a row that is there."""
    return policy.verdict(column.name) is Verdict.CLEAR or column.name in policy.writes


def may_insert(policy: PolicyClass, column: Column, told: Container[ColumnName]) -> bool:
    """Whether it may give the column a value in a new row. `told`: columns whose values an index or a constraint compares.

    A sealed value could be compared with any other of its domain, once somebody has sealed it.
    """
    if may_update(policy, column):
        return True
    return column.protection is not Protection.SEALED and column.name not in told
