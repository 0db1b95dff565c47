"""A proposal in the making."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What the rows of a leaf are called in the local text; the names of the client's relations stay theirs.
JOINED: Final = "pgveil_row"


def leaf_name(number: int) -> str:
    """A leaf's relation."""
    return f"pgveil_leaf_{number}"


@dataclass(slots=True)
class Built:
    """Leaves (their columns' names and their text), and edits of the client's text by tokens: first, last, what stands there instead.

    No columns: they are called as the server describes them. `with_first`: the text has no WITH of its own left.
    """

    leaves: list[tuple[tuple[str, ...], str]]
    edits: list[tuple[int, int, str]]
    with_first: bool = False
