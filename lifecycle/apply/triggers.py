"""What the triggers of a table do with its sealed columns, by the text of their functions (PostgreSQL documentation, 38 and 43.10).

A BEFORE trigger that gives a sealed column another text makes every write of the table fail: it is in the way. One that only reads such a column
sees sealed values from now on, and one that can't be read might do either: a warning, for as long as it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto
from typing import TYPE_CHECKING, Final

from lifecycle.apply.model import Obstacle
from rules.lexer import LexError, lex
from rules.model import Protection
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg

    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.database import Connection
    from rules.catalog import Relation
    from rules.model import Rules
    from rules.tokens import Token

_ROW, _BEFORE, _WRITES = 1, 2, 4 | 16  # pg_trigger.tgtype: TRIGGER_TYPE_ROW, _BEFORE, _INSERT | _UPDATE

_TRIGGERS = """
SELECT t.tgname::text AS name, t.tgtype::int AS type, l.lanname::text AS language, p.prosrc AS source,
       n.nspname || '.' || p.proname AS function, t.tgargs AS arguments
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT starts_with(n.nspname::text, 'pgveil') ORDER BY t.tgname
"""

# Functions in C that come with PostgreSQL: how many of their first arguments name columns that they assign (F.38 "spi", 12.4.3, 9.29).
_IN_C: Final = {
    "tsvector_update_trigger_byid": 1, "tsvector_update_trigger_bycolumn": 1, "suppress_redundant_updates_trigger": 0,
    "moddatetime": 1, "insert_username": 1, "autoinc": 99, "lo_manage": 0,
}  # fmt: skip
_STARTS: Final = frozenset({";", "begin", "then", "else", "loop", ">>", ""})
_RETURNED: Final = (
    ("null",),
    ("new",),
    ("old",),
    ("coalesce", "(", "new", ",", "old", ")"),
    ("coalesce", "(", "old", ",", "new", ")"),
)


class Does(Flag):
    """What a trigger does with a column."""

    NOTHING = 0
    READS = auto()
    ASSIGNS = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class TriggerFunction:
    """A trigger and its function. `before`: what it returns is stored. `arguments`: those of CREATE TRIGGER."""

    language: str
    source: str
    before: bool
    arguments: tuple[str, ...] = ()


def does(function: TriggerFunction, columns: frozenset[str]) -> tuple[Does, frozenset[str]]:
    """What a trigger does with columns of its row, and with which of them: all of them where it makes the row anew, or can't be read."""
    if function.language in {"c", "internal"}:
        return _does_in_c(function, columns)
    if function.language != "plpgsql":
        return Does.UNKNOWN, columns
    try:
        tokens = lex(function.source).tokens
    except LexError:
        return Does.UNKNOWN, columns
    body = _Body(tokens, columns)
    if function.before and (assigned := frozenset(body.assigned())):
        return Does.ASSIGNS, assigned
    read = body.read()
    if body.runs_text() and any(name in function.source.lower() for name in columns - read):
        return Does.UNKNOWN, columns
    return (Does.READS, read) if read else (Does.NOTHING, frozenset())


def _does_in_c(function: TriggerFunction, columns: frozenset[str]) -> tuple[Does, frozenset[str]]:
    assigning = _IN_C.get(function.source)
    if assigning is None:
        return Does.UNKNOWN, columns
    assigned, read = columns & {*function.arguments[:assigning]}, columns & {*function.arguments[assigning:]}
    if assigned:
        return Does.ASSIGNS, assigned
    return (Does.READS, read) if read else (Does.NOTHING, frozenset())


@dataclass(slots=True)
class _Body:
    """A function in PL/pgSQL by its tokens. `rows`: the names of the row that is going to be stored."""

    tokens: Sequence[Token]
    columns: frozenset[str]
    rows: set[str] = field(default_factory=lambda: {"new"})

    def __post_init__(self) -> None:
        for at in range(len(self.tokens) - 2):
            if [self.word(at + 1), self.word(at + 2), self.word(at + 3)] == ["alias", "for", "new"]:
                self.rows.add(self.word(at))

    def word(self, at: int) -> str:
        """A token as it is compared: names and keywords alike, nothing for constants and beyond the ends."""
        if not 0 <= at < len(self.tokens) or self.tokens[at].kind is Kind.STRING:
            return ""
        return self.tokens[at].value

    def assigned(self) -> Iterator[str]:
        """The columns that get another value, as far as can be told; every one where the row does."""
        for at in range(len(self.tokens)):
            word = self.word(at)
            if word in self.rows and self.word(at - 1) != ".":
                yield from self._as_target(at)
            elif word == "return" and not self._returns_the_row(at + 1):
                yield from self.columns

    def _as_target(self, at: int) -> Iterator[str]:
        name, end = self._target(at)
        if self.word(end) == ":=" or (self.word(end) == "=" and self.word(at - 1) in _STARTS):
            if not self._keeps(name, end + 1):
                yield from self._named(name)
        elif (self.word(at - 1) in {"for", "foreach"} and self.word(at - 2) != "alias") or self._is_into(at):
            yield from self._named(name)

    def _target(self, at: int) -> tuple[str, int]:
        """The column of `new.column`, "" for the row itself; and the place behind it, its fields and subscripts."""
        name, end = "", at + 1
        while self.word(end) == ".":
            name, end = name or self.word(end + 1), end + 2
        while self.word(end) == "[":
            end = next((i for i in range(end, len(self.tokens)) if self.word(i) == "]"), len(self.tokens)) + 1
        return name, end

    def _named(self, name: str) -> frozenset[str]:
        return self.columns if not name else self.columns & {name}

    def _keeps(self, name: str, at: int) -> bool:
        """Whether what is assigned is the same of the old row, or nothing: `new.pan := old.pan;`."""
        value = [self.word(i) for i in range(at, at + 4)]
        if value[1:2] == [";"]:
            return value[0] == "null" if name else value[0] in {"old", *self.rows}
        return bool(name) and value[0] in {"old", *self.rows} and value[1:] == [".", name, ";"]

    def _is_into(self, at: int) -> bool:
        """Whether it stands in the list of targets behind INTO."""
        while self.word(at - 1) == ",":
            at -= 2
            while self.word(at - 1) == ".":
                at -= 2
        return self.word(at - 1) == "into" or (self.word(at - 1) == "strict" and self.word(at - 2) == "into")

    def _returns_the_row(self, at: int) -> bool:
        end = next((i for i in range(at, len(self.tokens)) if self.word(i) == ";"), len(self.tokens))
        words = tuple("new" if self.word(i) in self.rows else self.word(i) for i in range(at, end))
        return words in _RETURNED or not words

    def read(self) -> frozenset[str]:
        """The columns that are named anywhere; every one where a row is used as a whole."""
        found = self.columns & {self.word(i) for i in range(len(self.tokens))}
        for at in range(len(self.tokens)):
            whole = self.word(at) in self.rows | {"old"} and self.word(at - 1) != "."
            if whole and self.word(at + 1) not in {".", ";"} and not self._in_return(at):
                return self.columns
            if whole and self.word(at + 1) == "." and self.word(at + 2) == "*":
                return self.columns
        return found

    def _in_return(self, at: int) -> bool:
        start = next((i for i in range(at, -1, -1) if self.word(i) in {"return", ";"}), 0)
        return self.word(start) == "return" and self._returns_the_row(start + 1)

    def runs_text(self) -> bool:
        return any(self.word(i) == "execute" for i in range(len(self.tokens)))


# -- the plan


async def plan_triggers(connection: Connection, draft: Draft, state: State, rules: Rules) -> None:
    """Obstacles and warnings of the triggers of every table that has sealed columns, or is going to have some."""
    for table in sorted(rules.tables.values(), key=lambda t: t.name):
        columns = frozenset(c.name.column for c in table.columns.values() if c.protection is Protection.SEALED)
        relation = state.catalog.by_name.get(table.name)
        for part in _family(state, relation) if columns and relation is not None else ():
            for row in await connection.fetch(_TRIGGERS, part.oid):
                _judge(draft, part, row, columns)


def _family(state: State, relation: Relation) -> Iterator[Relation]:
    pending, seen = [relation], {relation.oid}
    while pending:
        each = pending.pop(0)
        yield each
        more = [r for oid in each.children if oid not in seen and (r := state.catalog.relations.get(oid)) is not None]
        seen.update(r.oid for r in more)
        pending += more


def _judge(draft: Draft, relation: Relation, row: asyncpg.Record, columns: frozenset[str]) -> None:
    before = bool(row["type"] & _ROW and row["type"] & _BEFORE and row["type"] & _WRITES)
    arguments = tuple(a.decode(errors="replace") for a in (row["arguments"] or b"").split(b"\0")[:-1])
    what, which = does(TriggerFunction(row["language"], row["source"], before, arguments), columns)
    name = f"trigger {row['name']} (function {row['function']})"
    listed = ", ".join(sorted(which))
    if what is Does.ASSIGNS:
        draft.obstacles.append(
            Obstacle(
                str(relation.name),
                f"{name} assigns to {listed}: a sealed text that it changes can't be stored",
                "let it assign other columns only, each by its name, and RETURN NEW",
            )
        )
    elif what is Does.READS:
        draft.warnings.append(f"{relation.name}: {name} sees the sealed values of {listed}")
    elif what is Does.UNKNOWN:
        draft.warnings.append(f"{relation.name}: {name} can't be read: see that it leaves {listed} alone")
