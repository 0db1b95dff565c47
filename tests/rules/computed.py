"""A Compute carried out by hand: fetched from the sealed twin, opened, computed in an empty database of the same server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq

from tests.rules.twins import SEALED, Answer, answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from proxy.session.computing import Compute
    from proxy.session.gate import Admit
    from rules.model import Column


def computed(
    sealed: psycopg.Connection[Any], empty: psycopg.Connection[Any], compute: Compute, params: Sequence[str]
) -> Answer:
    """The answer to a statement that is taken apart."""
    fetched = Fetched(sealed, compute, params)
    if fetched.error is not None:
        return fetched.error
    text = local_text(compute, fetched.types, compute.parameters)
    arrays = [_array(cells) for leaf in fetched.rows for cells in leaf]
    return answers(empty.pgconn, text, [*params, *arrays])[0]


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
