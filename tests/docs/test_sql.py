"""docs/sql.md is what the corpus says."""

from __future__ import annotations

from pathlib import Path

from tests.twin.corpus import pending_lines, read_corpus
from tests.twin.document import document

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"


def test_the_page_is_made_from_the_corpus() -> None:
    assert PAGE.read_text() == document(read_corpus(), pending_lines()), "python -m tests.twin.document > docs/sql.md"
