"""The shop of tests/fixtures/sql: the fixture of the golden corpus, for whoever wants a world of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.twin.world import Fixture

DIRECTORY: Final = Path(__file__).parents[1] / "fixtures" / "sql"


def shop() -> Fixture:
    """Its tables, most of them with sealed and masked columns."""
    schema, rows, rules, after = (
        (DIRECTORY / "world" / name).read_text() for name in ("schema.sql", "rows.sql", "rules.yaml", "after.sql")
    )
    return Fixture(schema, rows, rules, after)
