"""Masks written back: what the rows show is held against what the statement would store, and nothing of that is stored (ADR 0027)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.asking import declared_type, inferring
from proxy.session.computing import KEEP
from proxy.session.gate import BadValue, OffsetMap
from proxy.session.localtext import LocalText, parameters_in
from proxy.session.prepared import TEXT_OID, Computed, Prepared
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from proxy.session.collect import Collector
    from proxy.session.computing import Constant, Write
    from proxy.session.prepared import Asked
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement
    from rules.model import Column

_TRUE: Final = b"t"
# PostgreSQL's own, which an UPDATE would not give.
_TWICE: Final = Refusal(
    Reason.BAD_VALUE,
    "21000",
    "ON CONFLICT DO UPDATE command cannot affect row a second time",
    hint="Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
)
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
    inferred = inferring([leaf])
    types = tuple(
        declared_type(number, declared) or (inferred(number) if number in fetched else own.get(number, 0))
        for number in range(1, max(write.parameters, len(declared)) + 1)
    )
    computed = frozenset(own) - fetched
    return Computed(
        write.source, declared, Prepared(_NO_TEXT, types, (), fetched, computed, (len(write.source.leaves[0].columns),))
    )


def held(
    state: State, write: Write, types: tuple[int, ...], collector: Collector, asked: Asked
) -> list[list[bytes | None]] | Refusal:
    """What goes into the write: for each constant that may be written the value, as a ticket, or that the column keeps its own.

    A Refusal where a value is not what is shown and may not be written. Raises BadValue.
    """
    columns = iter(collector.columns)
    if write.rows is not None:
        keys = next(columns, [])
        if len(set(keys)) != len(keys):
            return _TWICE
        if len(keys) != write.rows:
            return write.kept[0].refusal
    found: list[list[bytes | None]] = []
    for kept in write.kept:
        cells = next(columns, [])
        chosen = next(columns, []) if kept.chosen else None
        if kept.column is None:
            if not all(cell == _TRUE for cell in cells):
                return kept.refusal
            continue
        same = _same(state, kept.column, kept.constants, types, cells, chosen, asked)
        if kept.writes:
            found += [
                [_ticket(state, kept.column, *each, types, asked)] for each in zip(kept.constants, same, strict=True)
            ]
        elif False in same:
            return kept.refusal
    return found


def _same(
    state: State,
    column: Column,
    constants: tuple[Constant, ...],
    types: tuple[int, ...],
    cells: list[bytes | None],
    chosen: list[bytes | None] | None,
    asked: Asked,
) -> list[bool | None]:
    """Of each constant whether it is what is shown, in each row that it goes to; None where it goes to none."""
    given = [_given(state, column, constant, types, asked) for constant in constants]
    codec, settings = state.codec, state.tracker.output
    found: list[bool | None] = [None] * len(constants)
    for row, cell in enumerate(cells):
        number = 0 if chosen is None else int(chosen[row] or b"1") - 1
        shown = None if cell is None else codec.canonical(column, cell, 0, 0, settings)
        found[number] = shown == given[number] and found[number] is not False
    return found


def _ticket(
    state: State,
    column: Column,
    constant: Constant,
    same: bool | None,
    types: tuple[int, ...],
    asked: Asked,
) -> bytes | None:
    """What the write is given of a constant. One that goes to no row is counted as a look-up all the same, unless it can't be a value."""
    if same:
        return KEEP.encode()
    codec, settings, login = state.codec, state.tracker.output, state.principal.login
    try:
        if constant.parameter is None:
            if constant.text is None:
                return None
            sealed = codec.seal_literal(column, constant.text, number=constant.number, settings=settings)
            return codec.vouch(column, sealed, login)
        value = asked.values[constant.parameter - 1]
        if value is None:
            return None
        oid = declared_type(constant.parameter, types)
        bound = asked.bound or settings
        return codec.seal_param(column, value, asked.format_of(constant.parameter), oid, bound, given=True, login=login)
    except BadValue as bad:
        if same is None and bad.reason is Reason.ORACLE:
            return KEEP.encode()
        raise


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
    form = asked.format_of(constant.parameter)
    return codec.canonical(column, value, form, declared_type(constant.parameter, types) or TEXT_OID, settings)
