"""Messages of a PostgreSQL log: the statement in one, where there is one (documentation 20.8, "Error Reporting and Logging")."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# What log_statement and log_min_duration_statement write. Of one execution by the extended protocol the phases parse and bind may be
# written as well; the execution counts. "execute fetch from" goes on with a portal that has been counted.
_STATEMENT: Final = re.compile(
    r"(?:duration: [0-9.]+ ms {2})?(?:(?P<simple>statement)|execute (?P<fetch>fetch from )?[^\n]*?): (?P<text>.*)",
    re.DOTALL,
)


class Said(NamedTuple):
    """The statement that a message tells of."""

    text: str
    extended: bool


def statement_in(severity: str, message: str) -> Said | None:
    """The statement that a LOG message says was run; None where it says something else."""
    if severity != "LOG":
        return None
    found = _STATEMENT.fullmatch(message)
    if found is None or found["fetch"]:
        return None
    return Said(found["text"], found["simple"] is None)
