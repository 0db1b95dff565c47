"""The second witness: what the server says about a result's columns, against what the analysis said.

RowDescription names the table column that each result column comes from (PostgreSQL 55.7), found by the server's own analysis. Rows pass only under a
description that agrees with the plan, or, without a plan, that names nothing protected.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.session.replies import Trouble
from proxy.wire.messages import Field, build_row_description, parse_row_description
from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from keys.types import LogicalType
    from proxy.session.gate import Judge
    from rules.model import Column, ColumnName, Principal
    from rules.plan import Plan, ResultColumn

TEXT_OID: Final = 25
VARCHAR_OID: Final = 1043
FINDINGS: Final = 4096  # by description, for all sessions of a worker on one database
DESCRIPTION_BYTES: Final = 16 << 10  # of one whose finding is kept


@dataclass(frozen=True, slots=True)
class Opening:
    """A result column that must be opened: its 0-based place, and what it holds."""

    index: int
    column: Column
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Shown:
    """A description that the witness agreed with. `message`: the RowDescription for the client, opened columns under their logical types.

    `formats`: the format codes in it (0 where they are not known yet). `openings` in ascending order.
    """

    message: bytes
    formats: tuple[int, ...]
    openings: tuple[Opening, ...]


Finding = Shown | Trouble

if TYPE_CHECKING:
    Logical = Callable[[Column], LogicalType]
    Results = tuple[ResultColumn, ...] | None


class DescriptionCache:
    """Findings by description, for all sessions of a process: a bounded cache, the least recently used one goes.

    A finding belongs to a generation of the judge, a policy class and a plan's results. These are told apart by identity: the judge's own cache
    makes equal texts share them (and plans of executions by name those of what was prepared), and each entry keeps its own alive, so an
    identity is not used twice.
    """

    __slots__ = ("_entries", "_longest", "_size")

    def __init__(self, size: int = FINDINGS, longest: int = DESCRIPTION_BYTES) -> None:
        self._entries: OrderedDict[tuple[int, str, int, bytes], tuple[Results, Finding]] = OrderedDict()
        self._size = size
        self._longest = longest

    def find(self, judge: Judge, principal: Principal, plan: Plan | None, raw: bytes, logical: Logical) -> Finding:
        """What the witness says of a RowDescription (whole message). Raises ProtocolError on a malformed one."""
        results = None if plan is None else plan.results
        key = (judge.generation, principal.policy.id, id(results), raw)
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry[1]
        finding = examine(judge, principal, plan, raw, logical)
        if len(raw) <= self._longest:
            self._entries[key] = (results, finding)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return finding


def examine(judge: Judge, principal: Principal, plan: Plan | None, raw: bytes, logical: Logical) -> Finding:
    """Check a RowDescription (whole message) against a plan. Without one, nothing protected may be in it, nor where
    a plan has no results (EXPLAIN, whose rows are text of the server's).

    `logical` gives the type under which the client sees a column.
    """
    fields = parse_row_description(raw[5:])
    if plan is None or plan.results is None:
        for field in fields:
            source = source_of(judge, field)
            if source is not None:
                return disagreement(source)
        return Shown(raw, tuple(f.format for f in fields), ())
    if len(plan.results) != len(fields):
        return disagreement(None)
    shown = []
    openings = []
    for index, (field, result) in enumerate(zip(fields, plan.results, strict=True)):
        source = source_of(judge, field)
        if not _agrees(judge, principal, result, source):
            return disagreement(source or (result.open.name if result.open is not None else None))
        if result.open is None:
            shown.append(field)
            continue
        if field.type != TEXT_OID:
            return disagreement(result.open.name)
        seen = logical(result.open)
        as_text = result.as_text and seen.oid == VARCHAR_OID
        modifier = seen.typmod if result.modified and not as_text else -1
        shown.append(field._replace(type=TEXT_OID if as_text else seen.oid, size=seen.typlen, typmod=modifier))
        openings.append(Opening(index, result.open, result.verdict))
    told = tuple(_of_table(judge, field) for field in shown)
    message = raw if told == tuple(fields) else build_row_description(told)
    return Shown(message, tuple(f.format for f in fields), tuple(openings))


def source_of(judge: Judge, field: Field) -> ColumnName | None:
    """The protected column that a described column comes from."""
    return judge.source_of(field.table, field.attnum) if field.table else None


def _of_table(judge: Judge, field: Field) -> Field:
    """A masking view's column as its table's, which is what the client has named and finds in the catalogs."""
    found = judge.table_of(field.table, field.attnum) if field.table else None
    return field if found is None else field._replace(table=found[0], attnum=found[1])


def _agrees(judge: Judge, principal: Principal, result: ResultColumn, source: ColumnName | None) -> bool:
    """Whether the server's source of one result column is what the plan says."""
    if source is None:
        # A masking view's column may be known under no protected name; a sealed one that is referred to directly must be.
        return not (result.direct and result.open is not None)
    if (result.open is not None and source == result.open.name) or source in result.touches:
        return True
    if result.open is not None or result.touches:
        return False
    column = judge.column(source)
    return (
        column is not None
        and column.protection is Protection.MASKED
        and principal.policy.verdict(source) is Verdict.CLEAR
    )


def disagreement(column: ColumnName | None) -> Trouble:
    """The error of a statement whose description and analysis disagree."""
    return Trouble(
        "42501",
        "pgveil withheld the result: the server describes it otherwise than pgveil's analysis of the statement",
        None if column is None else f"The server names column {column} as a source.",
        "If views or functions were changed a moment ago, try again; else name the columns of the table itself.",
    )
