"""How many rows pgveil would fetch to compute a statement, by what the server has counted: said beforehand, where it would pass the limit.

The server is not asked to plan the fetch: planning runs functions that are said to be immutable, with the rights of whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rules.lexer import LexError, lex

if TYPE_CHECKING:
    from proxy.session.gate import Admit
    from rules.catalog import Catalog

_NARROWS: Final = frozenset({"where", "limit", "fetch", "join", "having", "tablesample"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """`rows` of `table`, the largest that is read. `narrowed`: conditions or a LIMIT leave some of them."""

    table: str
    rows: int
    narrowed: bool

    def text(self, limit: int | None) -> str:
        """In words; `limit`: of rows for one statement."""
        whole = f"those of about {self.rows:,} rows" if self.narrowed else f"all of about {self.rows:,} rows"
        if limit is None or self.rows <= limit:
            return f"{whole} of {self.table}"
        ends = "which may end" if self.narrowed else "which ends"
        return f"{whole} of {self.table}, {ends} in 54000: calculator.rows is {limit:,}"


def estimate(fetch: Admit, catalog: Catalog) -> Estimate | None:
    """Of one fetch; None where the server has not counted, or nothing protected is read."""
    tables = {touched.column.relation for plan in fetch.plans if plan is not None for touched in plan.touched}
    counted = [(rows, str(table)) for table in tables if (rows := catalog.about_rows(table)) is not None]
    if not counted:
        return None
    rows, table = max(counted)
    return Estimate(table, _rounded(rows), _narrows(fetch))


def _rounded(rows: int) -> int:
    """Two digits: the count is no better, and what is told stays the same for longer."""
    scale: int = 10 ** max(len(str(rows)) - 2, 0)
    return (rows + scale // 2) // scale * scale


def _narrows(fetch: Admit) -> bool:
    try:
        return not lex(fetch.text.decode()).words.isdisjoint(_NARROWS)
    except (UnicodeDecodeError, LexError):
        return True
