"""Proposals for a statement, the one that leaves most to the database first."""

# ruff: noqa: S608 - put together from the client's own text and quoted names

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rules.analyse import survey
from rules.plan import Edit
from rules.split.folding import fold
from rules.split.keeping import KeepText, Shown, keep
from rules.split.leaves import Leaves
from rules.split.parts import Built, leaf_name
from rules.split.tail import sorted_tail
from rules.split.text import Text, read
from rules.split.upserts import keep_upsert
from rules.split.writing import WriteText, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from rules.analyse import Protected
    from rules.lexer import Lexed
    from rules.model import ColumnName

_MAX_LEAVES: Final = 32


@dataclass(frozen=True, slots=True)
class LeafText:
    """A SELECT for the server, and what its rows are called locally. No `columns`: as the server describes them."""

    name: str
    columns: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """Leaves, and edits of the client's text. The leaves' definitions go in front of token `with_token`, between `with_before` and `with_after`."""

    leaves: tuple[LeafText, ...]
    edits: tuple[Edit, ...]
    with_token: int
    with_before: str
    with_after: str


def propose(
    lexed: Lexed,
    statement: tuple[int, int],
    database: Protected,
    search_path: tuple[str, ...] | None,
    judge: Callable[[str], bool],
    lock: str | None = None,
) -> Iterator[Split]:
    """Ways to take the statement apart; none where it writes or is built in a way that is not understood.

    `judge`: whether the database can do a SELECT of ours for the principal. `lock`: the relation of the outermost FROM whose rows are to be
    locked. Raises ParseError and AmbiguousNameError.
    """
    text = _read(lexed, statement, database, search_path)
    if text is None or text.modifies:
        return
    tail = sorted_tail(text) if lock is None and text.locking is None else None
    for built in (tail, Leaves(text, judge, lock).build()):
        if built is None or len(built.leaves) > _MAX_LEAVES or _overlap(built):
            continue
        if not built.leaves:
            # All that names a relation was in a WITH clause that nothing refers to. The server has its word all the same.
            built.leaves.append((("pgveil_one",), "SELECT 1 AS pgveil_one"))
        yield _split(lexed, statement[0], built)


def propose_write(
    lexed: Lexed,
    statement: tuple[int, int],
    database: Protected,
    search_path: tuple[str, ...] | None,
    judge: Callable[[str], bool],
    protected: Collection[str],
    logical: Callable[[ColumnName], str | None],
) -> WriteText | None:
    """How an INSERT, UPDATE, DELETE or MERGE can be done in steps; None where it can't.

    `protected`: the names of all protected columns. `logical`: the type that clients see of a sealed column, None for any other.
    Raises ParseError and AmbiguousNameError.
    """
    text = _read(lexed, statement, database, search_path)
    return None if text is None else rewrite(text, database, protected, judge, logical)


def propose_fold(
    lexed: Lexed,
    statement: tuple[int, int],
    database: Protected,
    search_path: tuple[str, ...] | None,
    judge: Callable[[str], bool],
) -> WriteText | None:
    """The statement with the values that its conditions compute as parameters. Raises ParseError and AmbiguousNameError."""
    text = _read(lexed, statement, database, search_path)
    if text is None or any(t.relation is None for t in text.survey.tables):
        return None
    columns = {c.name for t in text.survey.tables if t.relation is not None for c in t.relation.columns}
    columns |= {str(c.name) for b in text.survey.blocks for e in b.scope.entries for c in e.columns}
    return fold(text, columns, judge)


def propose_keep(
    lexed: Lexed,
    statement: tuple[int, int],
    database: Protected,
    search_path: tuple[str, ...] | None,
    shown_as: Callable[[ColumnName], Shown | None],
) -> KeepText | None:
    """How an UPDATE or an upsert can be done that gives columns the masks that they show; None where it can't. Raises ParseError and AmbiguousNameError."""
    text = _read(lexed, statement, database, search_path)
    if text is None:
        return None
    return keep(text, database, shown_as) or keep_upsert(text, database, shown_as)


def _read(
    lexed: Lexed, statement: tuple[int, int], database: Protected, search_path: tuple[str, ...] | None
) -> Text | None:
    if any(word.startswith("pgveil_") for word in lexed.words):
        return None
    return read(lexed, statement, survey(lexed, statement, database, search_path))


def _split(lexed: Lexed, first: int, built: Built) -> Split:
    token, before, after = first, "WITH ", " "
    if not built.with_first and lexed.tokens[first].value == "with":
        token, before, after = first + 1, " ", ", "
        if lexed.tokens[token].value == "recursive":
            token += 1
    return Split(
        tuple(LeafText(leaf_name(i), columns, text) for i, (columns, text) in enumerate(built.leaves)),
        tuple(Edit(*edit) for edit in sorted(built.edits)),
        token,
        before,
        after,
    )


def _overlap(built: Built) -> bool:
    """Whether two edits are of the same tokens: then the proposal is none."""
    edits = sorted(built.edits)
    return any(after[0] <= before[1] for before, after in pairwise(edits))


def united(leaves: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
    """One statement for the rows of several leaves, from their texts and their columns (name, sealed): the leaf's number, then all columns.

    Every column is text: the server has one type for a column of a union, and sealed values are text already.
    """
    width = [len(columns) for _, columns in leaves]
    arms = []
    for number, (text, columns) in enumerate(leaves):
        before, behind = sum(width[:number]), sum(width[number + 1 :])
        names = ", ".join(f"c{i}" for i in range(len(columns)))
        own = [f"q.c{i}" if sealed else f"q.c{i}::pg_catalog.text" for i, (_, sealed) in enumerate(columns)]
        shown = ", ".join([str(number), *["NULL"] * before, *own, *["NULL"] * behind])
        arms.append(f"SELECT {shown} FROM ({text}) AS q ({names})")
    return " UNION ALL ".join(arms)
