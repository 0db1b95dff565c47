"""A Compute carried out by hand: fetched from the sealed twin, opened, computed in an empty database of the same server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq

from tests.rules.twins import SEALED, Answer, MarkingSealer, answers, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from proxy.session.computing import Compute, Write
    from proxy.session.gate import Admit
    from rules.model import Column

TEXT = 25


def computed(
    sealed: psycopg.Connection[Any], empty: psycopg.Connection[Any], compute: Compute, params: Sequence[str]
) -> Answer:
    """The answer to a statement that is taken apart."""
    fetched = Fetched(sealed, compute, params)
    if fetched.error is not None:
        return fetched.error
    text = local_text(compute, fetched.types, compute.parameters)
    arrays = [_array(cells) for leaf in fetched.rows for cells in leaf]
    sent = [*params[: compute.parameters], *arrays]
    declared = [0 if f"${i}" in text else TEXT for i in range(1, len(sent) + 1)]
    return _answer(empty.pgconn.exec_params(text.encode(), [s.encode() for s in sent], declared))


def _answer(result: pq.abc.PGresult) -> Answer:
    if result.status == pq.ExecStatus.TUPLES_OK:
        return rows_of(result)
    if result.status == pq.ExecStatus.COMMAND_OK:
        return Answer(tag=(result.command_status or b"").decode())
    state = result.error_field(pq.DiagnosticField.SQLSTATE) or b"?????"
    return Answer(state.decode(), result.error_message.decode())


def written(
    sealed: psycopg.Connection[Any], empty: psycopg.Connection[Any], write: Write, params: Sequence[str]
) -> Answer:
    """The answer to a write that is computed, within the transaction that the connection is in."""
    values: list[str | None] = []
    if write.targets:
        rows = computed(sealed, empty, write.source, params)
        if rows.error is not None:
            return rows
        cells = [[_stored(write, i, row[i]) for row in rows.rows] for i in range(len(write.targets))]
        values = [c[0] for c in cells] if write.many is None else [_array(c) for c in cells]
        types = [
            0 if t is not None or write.many is None else f.type
            for t, f in zip(write.targets, rows.fields or (), strict=True)
        ]
    apply = write.apply if write.many is None else write.many
    spelled = _sent(apply, params, write.parameters)
    text = apply.text.decode()
    if write.many is not None:
        for i, oid in enumerate(types):
            name = "text" if oid == 0 else (empty.execute(f"select format_type({oid}, null)").fetchone() or ("",))[0]
            text = text.replace(f"unnest(${write.first + i})", f"unnest(${write.first + i}::{name}[])")
    pg = sealed.pgconn
    declared = [0 if f"${i}" in text else TEXT for i in range(1, len(spelled) + len(values) + 1)]
    sent = [None if v is None else v.encode() for v in [*spelled, *values]]
    result = pg.exec_params(text.encode(), sent, declared)
    answer = _answer(result)
    if answer.error is not None:
        return answer
    if result.nfields:
        answer.rows = [tuple(_shown(apply, i, v) for i, v in enumerate(row)) for row in answer.rows]
    if write.returning is None:
        return answer
    names = [
        str(column.type)
        if (column := _opened_by(apply, i)) is not None
        else f"{(empty.execute(f'select format_type({f.type}, {f.typmod})').fetchone() or ('',))[0]}"
        for i, f in enumerate(answer.fields or ())
    ]
    text = local_text(write.returning, [names], 0)
    arrays = [
        _array([None if v is None else v.decode() for v in cells]) for cells in zip(*answer.rows, strict=True)
    ] or ["{}"] * len(names)
    found = answers(empty.pgconn, text, arrays)[0]
    found.tag = answer.tag
    return found


def _stored(write: Write, place: int, value: bytes | None) -> str | None:
    column, plan = write.targets[place], write.apply.plans[0]
    if value is None or column is None or plan is None:
        return None if value is None else value.decode()
    exact = any(p.exact for p in plan.params if p.number == write.first + place)
    return MarkingSealer().seal_literal(column, value.decode(), exact=exact).decode()


def _shown(apply: Admit, index: int, value: bytes | None) -> bytes | None:
    column = _opened_by(apply, index)
    if value is None or column is None:
        return value
    match = SEALED.match(value.decode())
    assert match is not None, value
    return bytes.fromhex(match["body"])


def _sent(apply: Admit, params: Sequence[str], count: int) -> list[str]:
    plan = apply.plans[0]
    sent = list(params[:count])
    for each in () if plan is None else plan.params:
        if each.number <= len(sent):
            sent[each.number - 1] = MarkingSealer().seal_literal(each.column, sent[each.number - 1]).decode()
    return sent


def _array(cells: Sequence[str | None]) -> str:
    quoted = ("NULL" if c is None else '"' + c.replace("\\", "\\\\").replace('"', '\\"') + '"' for c in cells)
    return "{" + ",".join(quoted) + "}"


class Fetched:
    """The rows of the leaves, opened, and the spellings of their types."""

    def __init__(self, connection: psycopg.Connection[Any], compute: Compute, sent: Sequence[str]) -> None:
        self.pg = connection.pgconn
        self.error: Answer | None = None
        self.types: list[list[str]]
        self.types = [self._described(leaf.fetch, sent) for leaf in compute.leaves]
        self.rows: list[list[list[str | None]]] = [[[] for _ in types] for types in self.types]
        if self.error is None:
            self._fill(compute, sent)

    def _fill(self, compute: Compute, sent: Sequence[str]) -> None:
        if compute.together is None:
            for row in self._run(compute.leaves[0].fetch, sent):
                for cells, value in zip(self.rows[0], row, strict=True):
                    cells.append(value)
            return
        for number, *values in self._run(compute.together, sent):
            leaf = int(number or "-1")
            begin = sum(len(t) for t in self.types[:leaf])
            for index, cells in enumerate(self.rows[leaf]):
                cells.append(values[begin + index])

    def _described(self, fetch: Admit, sent: Sequence[str]) -> list[str]:
        text = f"select * from ({fetch.text.decode()}) q limit 0".encode()
        result = self.pg.exec_params(text, [s.encode() for s in _needed(fetch, sent)])
        if result.status != pq.ExecStatus.TUPLES_OK:
            state = result.error_field(pq.DiagnosticField.SQLSTATE) or b"?????"
            self.error = Answer(state.decode(), (result.error_message).decode())
            return []
        types = []
        for i in range(result.nfields):
            column = _opened_by(fetch, i)
            types.append(self._spelling(result.ftype(i), result.fmod(i)) if column is None else str(column.type))
        return types

    def _spelling(self, oid: int, modifier: int) -> str:
        found = self.pg.exec_(f"select format_type({oid}, {modifier})".encode())
        return (found.get_value(0, 0) or b"").decode()

    def _run(self, fetch: Admit, sent: Sequence[str]) -> list[list[str | None]]:
        result = self.pg.exec_params(fetch.text, [s.encode() for s in _needed(fetch, sent)])
        assert result.status == pq.ExecStatus.TUPLES_OK, (fetch.text, result.error_message)
        rows = []
        for r in range(result.ntuples):
            row: list[str | None] = []
            for c in range(result.nfields):
                value, column = result.get_value(r, c), _opened_by(fetch, c)
                row.append(None if value is None else self._open(column, value.decode()))
            rows.append(row)
        return rows

    def _open(self, column: Column | None, value: str) -> str:
        if column is None:
            assert "SEALED:" not in value, value
            return value
        match = SEALED.match(value)
        assert match is not None, value
        assert match["domain"] == (column.domain or str(column.name))
        return bytes.fromhex(match["body"]).decode()


def _opened_by(fetch: Admit, index: int) -> Column | None:
    plan = fetch.plans[0]
    return None if plan is None or plan.results is None else plan.results[index].open


def _needed(fetch: Admit, sent: Sequence[str]) -> Sequence[str]:
    highest = max((n for n in range(1, len(sent) + 1) if f"${n}".encode() in fetch.text), default=0)
    return sent[:highest]


def local_text(compute: Compute, types: list[list[str]], before: int) -> str:
    """The text with its leaves' definitions."""
    definitions = []
    number = before
    for leaf, spellings in zip(compute.leaves, types, strict=True):
        names = ", ".join('"' + n.replace('"', '""') + '"' for n in leaf.columns)
        arrays = ", ".join(f"unnest(${number + i + 1}::text[])" for i in range(len(spellings)))
        cells = ", ".join(f"r.a{i}::{s}" for i, s in enumerate(spellings))
        listed = ", ".join(f"a{i}" for i in range(len(spellings)))
        number += len(spellings)
        definitions.append(f"{leaf.name} ({names}) AS (SELECT {cells} FROM ROWS FROM ({arrays}) AS r ({listed}))")
    inserted = compute.with_before + ", ".join(definitions) + compute.with_after
    return compute.text[: compute.with_at] + inserted + compute.text[compute.with_at :]
