"""Rows located, opened and put together, one by one and all together alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ProtocolError
from proxy.session.rows import _all_together, _one_by_one, open_rows
from proxy.wire import messages as m
from proxy.wire.framing import Batch

CELL = st.none() | st.binary(max_size=12)


def batch(rows: list[tuple[bytes | None, ...]]) -> Batch:
    made = [m.build_data_row(row) for row in rows]
    starts = [0]
    for row in made:
        starts.append(starts[-1] + len(row))
    return Batch(m.Back.DATA_ROW, b"".join(made), starts)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_rows_open_as_they_would_one_at_a_time(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 5))
    rows = data.draw(st.lists(st.tuples(*[CELL] * columns), min_size=1, max_size=40))
    wanted = sorted(data.draw(st.sets(st.integers(0, columns - 1), min_size=1)))
    opened = open_rows(
        batch(rows), columns, wanted, lambda _, cells: [None if c is None else b"<" + c + b">" for c in cells]
    )
    expected = [
        tuple(b"<" + c + b">" if i in wanted and c is not None else c for i, c in enumerate(row)) for row in rows
    ]
    assert opened == b"".join(m.build_data_row(row) for row in expected)


def test_a_placeholder_may_replace_null_and_null_a_value() -> None:
    made = open_rows(
        batch([(b"a", None), (None, b"b")]), 2, [0, 1], lambda _, cells: [b"x" if c is None else None for c in cells]
    )
    assert made == m.build_data_row((None, b"x")) + m.build_data_row((b"x", None))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_malformed_rows_are_found_by_both_walks(bodies: list[bytes], columns: int) -> None:
    raw, starts = b"", [0]
    for body in bodies:
        raw += m.message(m.Back.DATA_ROW, body)
        starts.append(len(raw))
    wanted = [columns - 1]
    one, together = _one_by_one(raw, starts, columns, wanted), _all_together(raw, starts, columns, wanted)
    assert one == together
    if one is None:
        with pytest.raises(ProtocolError):
            open_rows(Batch(m.Back.DATA_ROW, raw, starts), columns, wanted, lambda _, cells: cells)
