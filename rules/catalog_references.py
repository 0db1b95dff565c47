"""Where a text reads system catalogs: the FROM items that name one, by tokens (PostgreSQL manual, SELECT, "FROM Clause").

Nothing here is needed to protect anything: what is not found runs as it came. So the search is narrow, and takes only what it is sure of: a name
where a FROM item begins, of a query. The target of a DELETE, a function, a sample, a column of the same name and a cast to regclass are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from rules.analyse.keywords import RESERVED
from rules.lexer import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rules.lexer import Lexed

PG_CATALOG: Final = "pg_catalog"
INFORMATION_SCHEMA: Final = "information_schema"
_NAMES: Final = (Kind.WORD, Kind.QUOTED)
_ENDS_FROM: Final = frozenset(
    {"where", "group", "having", "window", "order", "limit", "offset", "fetch", "union", "intersect", "except"}
    | {"returning"}
)
_JOINS: Final = frozenset({"join", "inner", "left", "right", "full", "cross", "natural"})
_TOKENS_A_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Reference:
    """One FROM item: tokens `first` (ONLY, if it is there) to `last` (of its alias), of which `name_first..name_last` are the relation's name.

    `schema` None: it has none. `alias` is the name by which the query knows it, `written` whether that stands in the text. `renames`: a list of
    names for its columns stands behind. `alone`: it is a whole item of FROM, and no part of a join.
    """

    first: int
    last: int
    name_first: int
    name_last: int
    schema: str | None
    name: str
    alias: str
    written: bool
    renames: bool
    alone: bool = False


@dataclass(slots=True)
class _Level:
    """What is known inside one pair of parentheses. `selects`: of a query, so that FROM is a clause; `awaits`: a FROM item begins here."""

    selects: bool = False
    listing: bool = False
    awaits: bool = False


@dataclass(slots=True)
class _Search:
    lexed: Lexed
    last: int
    levels: list[_Level] = field(default_factory=lambda: [_Level()])
    only: int | None = None

    def value(self, at: int) -> str:
        """What token `at` says, if it is a word or a sign."""
        if not 0 <= at <= self.last:
            return ""
        token = self.lexed.tokens[at]
        return token.value if token.kind in (Kind.WORD, Kind.PUNCT, Kind.OP) else ""

    def name(self, at: int) -> str | None:
        """The name that token `at` is."""
        if not 0 <= at <= self.last or self.lexed.tokens[at].kind not in _NAMES:
            return None
        return self.lexed.tokens[at].value


def references(lexed: Lexed, first: int, last: int) -> list[Reference]:
    """The FROM items of tokens `first..last` that are relations, in the order of the text."""
    lexed.budget.spend((last - first) // _TOKENS_A_STEP)
    return list(_found(_Search(lexed, last), first))


def _found(search: _Search, first: int) -> Iterator[Reference]:
    at = first
    while at <= search.last:
        level, word = search.levels[-1], search.value(at)
        if level.awaits and word not in {"(", "only", "lateral"}:
            level.awaits = False
            found = _reference(search, at)
            search.only = None
            if found is not None and search.value(found.first - 1) in {"from", ","}:
                found = replace(found, alone=search.value(found.last + 1) not in _JOINS)
            if found is not None:
                yield found
                at = found.last + 1
                continue
        _step(search, at, word, first)
        at += 1


def _step(search: _Search, at: int, word: str, first: int) -> None:
    level, before = search.levels[-1], search.value(at - 1) if at > first else ""
    if word == "(" and level.awaits:
        # A join in parentheses, or a subquery: its SELECT will tell. Behind ONLY it is neither.
        level.awaits = False
        search.levels.append(_Level(listing=True, awaits=search.only is None))
        search.only = None
    elif word in {"(", "["}:
        search.levels.append(_Level())
    elif word in {")", "]"}:
        if len(search.levels) > 1:
            search.levels.pop()
    elif word == "," and level.listing:
        level.awaits = True
    elif word and before not in {".", "as"}:
        _clause(search, at, word, before)


def _clause(search: _Search, at: int, word: str, before: str) -> None:
    """A word that is no name by where it stands."""
    level = search.levels[-1]
    if word in {"select", "update"}:
        level.selects, level.listing, level.awaits = True, False, False
    elif word == "from":
        distinct = before == "distinct" and search.value(at - 2) in {"is", "not"}
        if level.selects and not distinct:
            level.listing = level.awaits = True
    elif word == "join":
        level.awaits = level.listing
    elif word == "only" and level.awaits:
        search.only = at
    elif word in _ENDS_FROM:
        level.listing = level.awaits = False


def _reference(search: _Search, at: int) -> Reference | None:
    """The FROM item that begins with the name at token `at`, if it is a relation's."""
    schema, name, end = None, search.name(at), at
    if name is None or (search.lexed.tokens[at].kind is Kind.WORD and name in RESERVED):
        return None
    if search.value(at + 1) == ".":
        schema, name, end = name, search.name(at + 2), at + 2
    if name is None or search.value(end + 1) in {".", "(", "*"}:
        return None
    first = at if search.only is None else search.only
    behind = end + 1
    written = search.value(behind) == "as"
    if written:
        behind += 1
    alias = search.name(behind)
    if alias is None or (not written and search.lexed.tokens[behind].kind is Kind.WORD and alias in RESERVED):
        plain = Reference(first, end, at, end, schema, name, name, written=False, renames=False)
        return None if written or search.value(end + 1) == "tablesample" else plain
    if search.value(behind + 1) == "tablesample":
        return None
    renames = search.value(behind + 1) == "("
    return Reference(first, behind, at, end, schema, name, alias, written=True, renames=renames)


def names_made(lexed: Lexed, first: int, last: int, names: Collection[str]) -> frozenset[str]:
    """Those of `names` that WITH gives to a query of the text: `name AS (`, `name (columns) AS MATERIALIZED (`."""
    search = _Search(lexed, last)
    made = set()
    for at in range(first, last):
        name = search.name(at)
        if name is None or name not in names:
            continue
        behind = at + 1
        if search.value(behind) == "(":
            while behind < last and search.value(behind) != ")":
                behind += 1
            behind += 1
        if search.value(behind) == "as" and search.value(behind + 1) in {"(", "materialized", "not"}:
            made.add(name)
    return frozenset(made)


def qualifications(lexed: Lexed, first: int, last: int, schema: str, name: str) -> list[int]:
    """The tokens where a column is named with its relation's schema: `schema.name.column`."""
    tokens = lexed.tokens
    return [
        at
        for at in range(first, last - 3)
        if tokens[at].value == schema
        and tokens[at].kind in _NAMES
        and tokens[at + 2].value == name
        and all(tokens[at + k].value == "." for k in (1, 3))
        and (at == first or tokens[at - 1].value != ".")
    ]


def shows_all(lexed: Lexed, first: int, last: int) -> bool:
    """Whether a star may stand for all columns of something: any but that of count(*)."""
    tokens = lexed.tokens
    return any(
        tokens[at].kind is Kind.OP and tokens[at].value == "*" and (at == first or tokens[at - 1].value != "(")
        for at in range(first, last + 1)
    )
