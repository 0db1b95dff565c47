"""Masks written back: what the rows show is held against what the statement would store, and nothing of that is stored (ADR 0027)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.asking import declared_type, inferred
from proxy.session.gate import OffsetMap
from proxy.session.localtext import LocalText, parameters_in
from proxy.session.prepared import TEXT_OID, Computed, Prepared

if TYPE_CHECKING:
    from proxy.session.collect import Collector
    from proxy.session.computing import Kept, Write
    from proxy.session.prepared import Asked
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement
    from rules.plan import Refusal

_TRUE: Final = b"t"
_NO_TEXT: Final = LocalText(b"", OffsetMap(), 0, ())


def asked_for(state: State, write: Write, leaf: PreparedStatement, declared: tuple[int, ...]) -> Computed:
    """The source, from its description: no calculator has a part in it."""
    own = {
        kept.parameter: state.codec.parameter_oid(kept.column, array=False)
        for kept in write.kept
        if kept.parameter is not None and kept.column is not None
    }
    fetched = parameters_in(leaf.text, state.tracker.settings)
    types = tuple(
        declared_type(number, declared) or (inferred(number, [leaf]) if number in fetched else own.get(number, 0))
        for number in range(1, max(write.parameters, len(declared)) + 1)
    )
    computed = frozenset(own) - fetched
    return Computed(write.source, declared, Prepared(_NO_TEXT, types, (), fetched, computed, (len(write.kept),)))


def changed(state: State, write: Write, types: tuple[int, ...], collector: Collector, asked: Asked) -> Refusal | None:
    """Why the statement can't run: a value is not what is shown."""
    for place, kept in enumerate(write.kept):
        cells = collector.columns[place] if collector.columns else []
        if not (all(c == _TRUE for c in cells) if kept.column is None else _same(state, kept, types, cells, asked)):
            return kept.refusal
    return None


def _same(state: State, kept: Kept, types: tuple[int, ...], cells: list[bytes | None], asked: Asked) -> bool:
    assert kept.column is not None
    given = _given(state, kept, types, asked)
    codec, settings = state.codec, state.tracker.output
    for cell in cells:
        shown = None if cell is None else codec.canonical(kept.column, cell, 0, 0, settings)
        if shown != given:
            return False
    return True


def _given(state: State, kept: Kept, types: tuple[int, ...], asked: Asked) -> bytes | None:
    """The client's value in canonical form; None for NULL, b"" behind a byte that no value has for one that is not of the type."""
    assert kept.column is not None
    codec, settings = state.codec, state.tracker.output
    if kept.parameter is None:
        return (
            None
            if kept.constant is None
            else codec.canonical_constant(kept.column, kept.constant, settings, number=kept.number)
        )
    value = asked.values[kept.parameter - 1]
    if value is None:
        return None
    formats = asked.formats
    form = formats[0] if len(formats) == 1 else formats[kept.parameter - 1] if formats else 0
    return codec.canonical(kept.column, value, form, declared_type(kept.parameter, types) or TEXT_OID, settings)
