"""The second witness of a COPY: the server sends its data without a description, so it is asked before to describe the SELECT that reads the same.

The question stands in the transaction of the COPY, and holds the tables against change until the COPY has run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.session.replies import Trouble
from proxy.session.witness import TEXT_OID, disagreement, examine
from proxy.wire.messages import ErrorFields, build_error, build_row_description, parse_error, parse_row_description
from rules.encodings import EncodingError, decode_sql
from rules.model import Protection

if TYPE_CHECKING:
    from proxy.session.gate import Judge, OffsetMap
    from proxy.session.witness import Logical
    from proxy.wire.messages import Field
    from rules.model import Principal
    from rules.plan import Plan


class CopyWitness:
    """One question on its way. `trouble`: the server does not agree. `names`: the columns that it named.

    `failed`: the server answered with an error, which is the client's; `finished` also when it ignores the question.
    """

    __slots__ = ("_encoding", "_plan", "agreed", "failed", "finished", "names", "offsets", "trouble")

    def __init__(self, plan: Plan, encoding: str, offsets: OffsetMap) -> None:
        assert plan.copy is not None
        self._plan = plan
        self._encoding = encoding
        self.offsets = offsets if plan.copy.query is not None else None
        self.finished = self.failed = self.agreed = False
        self.trouble: Trouble | None = None
        self.names: tuple[str, ...] = ()

    def drop(self) -> None:
        """There will be no answer."""
        self.finished = True

    def error(self, raw: bytes) -> bytes:
        """The server's error as one about the client's text: a position in a SELECT of our own means nothing there."""
        self.failed = True
        if self.offsets is not None:
            return raw
        return build_error(ErrorFields(tuple(pair for pair in parse_error(raw[5:]).pairs if pair[0] != ord("P"))))

    def described(self, raw: bytes | None, judge: Judge, principal: Principal, logical: Logical) -> None:
        """The server's description (whole message; None: it returns no rows)."""
        self.finished = True
        copy = self._plan.copy
        assert copy is not None
        fields = () if raw is None else parse_row_description(raw[5:])
        count = len(copy.columns) if copy.into else len(copy.results)
        named = tuple(self._named(f) for f in fields)
        self.names, rest = named[:count], named[count:]
        if self.trouble is not None:
            return
        if len(self.names) != count or rest != copy.everything:
            self.trouble = _changed(copy.relation) if copy.everything else disagreement(None)
        elif copy.into:
            self._into(fields, judge)
        else:
            shown = build_row_description(fields[:count])
            finding = examine(judge, principal, replace(self._plan, results=copy.results), shown, logical)
            self.trouble = finding if isinstance(finding, Trouble) else None
        self.agreed = self.trouble is None

    def _named(self, field: Field) -> str:
        try:
            return decode_sql(field.name, self._encoding)
        except EncodingError:
            return ""

    def _into(self, fields: tuple[Field, ...], judge: Judge) -> None:
        """What is sealed goes into the column that it is sealed for, and nothing else goes into a sealed one."""
        assert self._plan.copy is not None
        for column, field, name in zip(self._plan.copy.columns, fields, self.names, strict=False):
            source = judge.source_of(field.table, field.attnum)
            found = None if source is None else judge.column(source)
            is_sealed = found is not None and found.protection is Protection.SEALED
            if column.sealed is not None:
                right = source == column.sealed.name and is_sealed and field.type == TEXT_OID
            else:
                right = not is_sealed
            if not right or name != column.name:
                self.trouble = disagreement(source)
                return


def _changed(relation: str) -> Trouble:
    return Trouble(
        "42501",
        f'pgveil withheld the COPY: table "{relation}" has other columns than pgveil knows of',
        hint="If the table was changed a moment ago, try again; else list the columns: COPY table (columns) ...",
    )
