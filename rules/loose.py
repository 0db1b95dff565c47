"""Trigger functions that find their names by the writer's search_path: they are given rows, and whoever writes can put things of his own in the way.

PostgreSQL looks for relations and types among the session's temporary ones first, unless the path itself names pg_temp, and takes a function or an
operator whose arguments fit better from wherever the path leads (5.10.3, 10.3, CREATE FUNCTION "Writing SECURITY DEFINER Functions Safely").
So a login that sees a column masked would get the row that it writes. `ALTER FUNCTION ... SET search_path = ..., pg_temp` ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rules.lexer import LexError
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rules.catalog import Function
    from rules.model import ColumnName, TableName
    from rules.protect import ProtectionMap
    from rules.tokens import Token

_COMPILED = frozenset({"c", "internal"})
_STARTS = frozenset({";", "begin", "then", "else", "loop", ">>", ""})
# The row itself, which stands as relations do (`RETURN NEW`, `FROM new`) and is none.
_ROWS = frozenset({"new", "old"})
_BEFORE_RELATIONS = frozenset({"from", "join", "only", "table", "using", "into", "update"})
# Beyond so many tokens a list is taken for one of relations.
_FARTHEST = 200
_LISTS_RELATIONS = frozenset({"from", "using"})
_ENDS_LIST = frozenset(
    {"select", "values", "set", "where", "into", "by", "returning", "on", "(", ";", "begin", "declare", ""}
)
# Words that stand before a parenthesis and call nothing.
# fmt: off
_NO_CALLS = frozenset({
    "values", "in", "and", "or", "not", "if", "elsif", "when", "then", "else", "case", "exists", "any", "all",
    "some", "select", "where", "having", "using", "on", "as", "over", "filter", "return", "from", "join", "into",
    "by", "set", "coalesce", "nullif", "greatest", "least", "row", "array", "while", "for", "execute", "with",
    "numeric", "decimal", "varchar", "char",
})
# fmt: on


class LooseTrigger(NamedTuple):
    """Writing `relation` gives its row, with `columns`, to `function`. `names`: what stands there for something of the catalog; None: any may."""

    relation: TableName
    function: TableName
    columns: frozenset[ColumnName]
    names: frozenset[str] | None

    def meets(self, name: str) -> bool:
        """Whether something of this name could be taken for what the function means."""
        return self.names is None or name in self.names


def loose_triggers(protection: ProtectionMap) -> tuple[LooseTrigger, ...]:
    """Those on relations with masked columns, which are plain in the row. Sealed ones are sealed there too."""
    functions: dict[str, list[Function]] = {}
    for function in protection.catalog.functions:
        functions.setdefault(function.name.name, []).append(function)
    return tuple(_triggers(protection, functions))


def _triggers(protection: ProtectionMap, functions: Mapping[str, list[Function]]) -> Iterator[LooseTrigger]:
    for relation in sorted(protection.catalog.relations.values(), key=lambda r: r.name):
        masked = frozenset(filter(protection.rules.is_masked, protection.columns_of(relation).values()))
        if not masked:
            continue
        for name in relation.trigger_functions:
            found = _names(protection, [f for f in functions.get(name.name, ()) if f.name == name], functions)
            if found is None or found:
                yield LooseTrigger(relation.name, name, masked, found)


def _names(
    protection: ProtectionMap, first: Sequence[Function], functions: Mapping[str, list[Function]]
) -> frozenset[str] | None:
    """The names in functions and in those that they call, as far as the writer's path counts."""
    names: set[str] = set()
    ahead, seen = [*first], {f.oid for f in first}
    while ahead:
        function = ahead.pop()
        if is_pinned(function.path) or function.language in _COMPILED:
            continue
        if function.language not in {"plpgsql", "sql"}:
            return None
        try:
            tokens = protection.sources.lexed(function.source).tokens
        except LexError:
            return None
        if function.language == "plpgsql" and any(t.kind is Kind.WORD and t.value == "execute" for t in tokens):
            return None
        used = frozenset(_used(tokens)) - _ROWS
        names |= used
        for called in (f for n in used & functions.keys() for f in functions[n] if f.oid not in seen):
            seen.add(called.oid)
            ahead.append(called)
    return frozenset(names)


def made_by_roles(protection: ProtectionMap) -> Mapping[str, frozenset[TableName]]:
    """What each role owns that a function could find by its name."""
    catalog = protection.catalog
    found: dict[str, set[TableName]] = {}
    owners = [(r.owner, r.name) for r in catalog.relations.values()]
    owners += [(f.owner, f.name) for f in (*catalog.functions, *catalog.operators)]
    for owner, name in owners:
        found.setdefault(owner, set()).add(name)
    return {owner: frozenset(names) for owner, names in found.items()}


def is_pinned(path: str | None) -> bool:
    """Whether a function's own search_path leaves nothing to the session: temporary things come last, where nothing else is meant."""
    return path is not None and path.rsplit(",", 1)[-1].strip().strip('"').lower() == "pg_temp"


def _used(tokens: Sequence[Token]) -> Iterator[str]:
    """Names without a schema that are looked for: relations, functions that are given something, operators. Not `NEW.c = ...`, an assignment."""
    values = ["", *("" if t.kind is Kind.STRING else t.value for t in tokens), "", "", ""]
    for place, token in enumerate(tokens, 1):
        before, after = values[place - 1], values[place + 1]
        if token.kind is Kind.OP:
            # `a = b` and `new.a = b` behind what begins a statement.
            assigned = values[place - 2] in _STARTS or (values[place - 2] == "." and values[place - 4] in _STARTS)
            if not (token.value == "=" and assigned) and (token.value, after) != ("%", "rowtype") and after != "type":
                yield token.value
        elif token.kind in (Kind.WORD, Kind.QUOTED) and before != ".":
            calls = after == "(" and values[place + 2] != ")" and token.value not in _NO_CALLS
            typed = after == "%" and values[place + 2] == "rowtype"
            if calls or typed or (after != "." and _is_relation(values, place)):
                yield token.value


def _is_relation(values: Sequence[str], place: int) -> bool:
    """Whether a name stands where a relation does, one of several too (`FROM a, b`)."""
    back = place - 1
    while values[back] == "(":
        back -= 1
    if values[back] in _BEFORE_RELATIONS:
        return True
    if values[place - 1] != ",":
        return False
    depth, back = 0, place - 2
    while back > 0 and (depth or values[back] not in _ENDS_LIST):
        if place - back > _FARTHEST:
            return True
        if not depth and values[back] in _LISTS_RELATIONS:
            return True
        depth += {")": 1, "(": -1}.get(values[back], 0)
        back -= 1
    return False
