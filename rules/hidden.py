"""What runs when a relation is written though no statement names it: rules, triggers' functions, defaults (PostgreSQL, chapters 39 and 41).

A rule reads with the rights of its table's owner, a SECURITY DEFINER trigger function with those of its own; privileges do not keep either
from a writer. What a trigger reads as the writer, and functions in defaults and checks, meet the writer's own privileges.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from rules.lexer import LexError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rules.catalog import Function, Relation
    from rules.model import ColumnName, TableName
    from rules.protect import ProtectionMap
    from rules.sources import Said


_NOTIFYING = frozenset({"notify", "pg_notify"})


class HiddenRead(NamedTuple):
    """Writing `relation` reads `columns` by `what` ("a rule", "trigger function public.f"). `fenced`: with the writer's own rights."""

    relation: TableName
    what: str
    columns: frozenset[ColumnName]
    fenced: bool


def hidden_reads(protection: ProtectionMap) -> tuple[HiddenRead, ...]:
    """Everything of the kind that reads a masked column, by relation. Sealed columns stay sealed on such ways."""
    functions: dict[TableName, list[Function]] = {}
    for function in protection.catalog.functions:
        functions.setdefault(function.name, []).append(function)
    return tuple(
        found
        for relation in sorted(protection.catalog.relations.values(), key=lambda r: r.name)
        for found in _of(protection, relation, functions)
        if found.columns
    )


def by_name(reads: tuple[HiddenRead, ...], *, fenced: bool) -> Mapping[str, frozenset[ColumnName]]:
    """Columns read by writing a relation of a (bare) name. `fenced`: whether the writer's own privileges hold."""
    found: dict[str, frozenset[ColumnName]] = {}
    for read in reads:
        if not (fenced and read.fenced):
            found[read.relation.name] = found.get(read.relation.name, frozenset()) | read.columns
    return MappingProxyType(found)


def read_by_writing(protection: ProtectionMap) -> Mapping[str, frozenset[ColumnName]]:
    """By a relation's (bare) name, what writing it reads besides what the statement says: for the record, so of functions that could run any text all."""
    functions: dict[TableName, list[Function]] = {}
    for function in protection.catalog.functions:
        functions.setdefault(function.name, []).append(function)
    found: dict[str, frozenset[ColumnName]] = {}
    for relation in protection.catalog.relations.values():
        columns: set[ColumnName] = set()
        for text in relation.rules:
            columns |= _read_by(protection, text, "")
        for name in relation.trigger_functions:
            # Its rows are given to the function, whose source need not name them.
            columns |= set(protection.columns_of(relation).values())
            columns |= protection.functions.get(name.name, frozenset())
            for function in functions.get(name, ()):
                columns |= _read_by(protection, function.source, "")
        for column in relation.columns:
            if column.default is not None:
                columns |= _called_by(protection, column.default)
        if columns:
            found[relation.name.name] = found.get(relation.name.name, frozenset()) | columns
    return MappingProxyType(found)


def triggered(protection: ProtectionMap) -> frozenset[str]:
    """The names of trigger functions that are given rows of protected relations."""
    return frozenset(
        name.name
        for relation in protection.catalog.relations.values()
        if protection.columns_of(relation)
        for name in relation.trigger_functions
    )


def notifies(protection: ProtectionMap) -> bool:
    """Whether something of the database's own that is given protected rows, or reads them, sends notifications: whoever listens gets their text."""
    spelled = protection.sources.spelled
    words = {
        f.name.name: spelled(f.source) for f in protection.catalog.functions if not f.name.schema.startswith("pgveil")
    }
    sending, telling = set[str](), set(_NOTIFYING)
    while telling:
        telling = {name for name, said in words.items() if not said.isdisjoint(telling)} - sending
        sending |= telling
    rules = any(
        not spelled(text).isdisjoint(sending | _NOTIFYING)
        for relation in protection.catalog.relations.values()
        if protection.columns_of(relation)
        for text in relation.rules
    )
    return rules or not sending.isdisjoint(triggered(protection) | protection.naming.keys())


def _of(
    protection: ProtectionMap, relation: Relation, functions: Mapping[TableName, list[Function]]
) -> Iterator[HiddenRead]:
    for text in relation.rules:
        yield HiddenRead(
            relation.name, "a rule", _masked(protection, _read_by(protection, text, relation.name.name)), fenced=False
        )
    for name in relation.trigger_functions:
        for function in functions.get(name, ()):
            columns = _masked(protection, _read_by(protection, function.source, ""))
            yield HiddenRead(relation.name, f"trigger function {name}", columns, fenced=not function.security_definer)
    for column in relation.columns:
        if column.default is not None:
            columns = _masked(protection, _called_by(protection, column.default))
            yield HiddenRead(relation.name, f"the default of column {column.name}", columns, fenced=True)


def _masked(protection: ProtectionMap, names: frozenset[ColumnName]) -> frozenset[ColumnName]:
    return frozenset(filter(protection.rules.is_masked, names))


def _read_by(protection: ProtectionMap, text: str, own: str) -> frozenset[ColumnName]:
    """What a text names, or has called. Texts that it may put together at run time are not guessed at: `pgveil apply` names those."""
    try:
        said = protection.sources.said(text)
    except LexError:
        return protection.everything
    return protection.named_by(said, but=_only_filled(protection, said) | {own})


def _only_filled(protection: ProtectionMap, said: Said) -> frozenset[str]:
    """Relations that a text puts rows into and does not read: no index compares what is protected there with what is given."""
    compared = {
        r.name.name
        for r in protection.catalog.relations.values()
        if r.has_triggers or any(protection.columns_of(r).get(c.name) in protection.told for c in r.columns)
    }
    return said.inserted - compared


def _called_by(protection: ProtectionMap, text: str) -> frozenset[ColumnName]:
    try:
        return protection.called_by(protection.sources.said(text))
    except LexError:
        return protection.everything
