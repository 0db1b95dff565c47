"""The second witness of a COPY: the server sends its data without a description, so it is asked before to describe the SELECT that reads the same.

The question stands in the transaction of the COPY, and holds the tables against change until the COPY has run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.session.replies import Trouble
from proxy.session.store_witness import Witness, column_name
from proxy.session.witness import TEXT_OID, disagreement, examine
from proxy.wire.messages import build_row_description
from rules.model import Protection

if TYPE_CHECKING:
    from proxy.session.gate import Judge, OffsetMap
    from proxy.session.witness import Logical
    from proxy.wire.messages import Field
    from rules.model import Principal
    from rules.plan import Plan


class CopyWitness(Witness):
    """Of a COPY with a plan. `names`: the columns that the server named."""

    __slots__ = ("_encoding", "_plan", "names")

    def __init__(self, plan: Plan, encoding: str, offsets: OffsetMap) -> None:
        assert plan.copy is not None
        super().__init__(offsets if plan.copy.query is not None else None)
        self._plan = plan
        self._encoding = encoding
        self.names: tuple[str, ...] = ()

    def _examined(
        self, fields: tuple[Field, ...], judge: Judge, principal: Principal, logical: Logical
    ) -> Trouble | None:
        copy = self._plan.copy
        assert copy is not None
        count = len(copy.columns) if copy.into else len(copy.results)
        named = tuple(column_name(f, self._encoding) for f in fields)
        self.names, rest = named[:count], named[count:]
        if len(self.names) != count or rest != copy.everything:
            return _changed(copy.relation) if copy.everything else disagreement(None)
        if copy.into:
            return self._into(fields, judge)
        shown = build_row_description(fields[:count])
        finding = examine(judge, principal, replace(self._plan, results=copy.results), shown, logical)
        return finding if isinstance(finding, Trouble) else None

    def _into(self, fields: tuple[Field, ...], judge: Judge) -> Trouble | None:
        """What is sealed goes into the column that it is sealed for, and nothing else goes into a sealed one."""
        assert self._plan.copy is not None
        for column, field, name in zip(self._plan.copy.columns, fields, self.names, strict=False):
            source = judge.source_of(field.table, field.attnum)
            found = None if source is None else judge.column(source)
            is_sealed = source is not None and (found is None or found.protection is Protection.SEALED)
            if column.sealed is not None:
                right = source == column.sealed.name and is_sealed and field.type == TEXT_OID
            else:
                right = not is_sealed
            if not right or name != column.name:
                return disagreement(source)
        return None


def _changed(relation: str) -> Trouble:
    return Trouble(
        "42501",
        f'pgveil withheld the COPY: table "{relation}" has other columns than pgveil knows of',
        hint="If the table was changed a moment ago, try again; else list the columns: COPY table (columns) ...",
    )
