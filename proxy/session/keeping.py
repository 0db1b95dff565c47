"""Masks written back: what the rows show is held against what the statement would store, and nothing of that is stored (ADR 0027)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.asking import declared_type, inferred
from proxy.session.gate import OffsetMap
from proxy.session.localtext import LocalText, parameters_in
from proxy.session.prepared import TEXT_OID, Computed, Prepared

if TYPE_CHECKING:
    from proxy.session.collect import Collector
    from proxy.session.computing import Constant, Write
    from proxy.session.prepared import Asked
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement
    from rules.model import Column
    from rules.plan import Refusal

_TRUE: Final = b"t"
_NO_TEXT: Final = LocalText(b"", OffsetMap(), 0, ())


def asked_for(state: State, write: Write, leaf: PreparedStatement, declared: tuple[int, ...]) -> Computed:
    """The source, from its description: no calculator has a part in it."""
    own = {
        constant.parameter: state.codec.parameter_oid(kept.column, array=False)
        for kept in write.kept
        for constant in kept.constants
        if constant.parameter is not None and kept.column is not None
    }
    fetched = parameters_in(leaf.text, state.tracker.settings)
    types = tuple(
        declared_type(number, declared) or (inferred(number, [leaf]) if number in fetched else own.get(number, 0))
        for number in range(1, max(write.parameters, len(declared)) + 1)
    )
    computed = frozenset(own) - fetched
    return Computed(
        write.source, declared, Prepared(_NO_TEXT, types, (), fetched, computed, (len(write.source.leaves[0].columns),))
    )


def changed(state: State, write: Write, types: tuple[int, ...], collector: Collector, asked: Asked) -> Refusal | None:
    """Why the statement can't run: a value is not what is shown."""
    columns = iter(collector.columns)
    for kept in write.kept:
        cells = next(columns, [])
        chosen = next(columns, []) if kept.chosen else None
        if kept.column is None:
            same = all(cell == _TRUE for cell in cells)
        else:
            same = _same(state, kept.column, kept.constants, types, cells, chosen, asked)
        if not same:
            return kept.refusal
    return None


def _same(
    state: State,
    column: Column,
    constants: tuple[Constant, ...],
    types: tuple[int, ...],
    cells: list[bytes | None],
    chosen: list[bytes | None] | None,
    asked: Asked,
) -> bool:
    given = [_given(state, column, constant, types, asked) for constant in constants]
    codec, settings = state.codec, state.tracker.output
    for row, cell in enumerate(cells):
        number = b"1" if chosen is None else chosen[row]
        wanted = None if number is None else given[int(number) - 1]
        if (None if cell is None else codec.canonical(column, cell, 0, 0, settings)) != wanted:
            return False
    return True


def _given(state: State, column: Column, constant: Constant, types: tuple[int, ...], asked: Asked) -> bytes | None:
    """The client's value in canonical form; None for NULL, b"" behind a byte that no value has for one that is not of the type."""
    codec, settings = state.codec, state.tracker.output
    if constant.parameter is None:
        return (
            None
            if constant.text is None
            else codec.canonical_constant(column, constant.text, settings, number=constant.number)
        )
    value = asked.values[constant.parameter - 1]
    if value is None:
        return None
    formats = asked.formats
    form = formats[0] if len(formats) == 1 else formats[constant.parameter - 1] if formats else 0
    return codec.canonical(column, value, form, declared_type(constant.parameter, types) or TEXT_OID, settings)
