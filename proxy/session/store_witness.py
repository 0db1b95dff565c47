"""The second witness of what is described by no RowDescription of its own: where a write stores sealed values, and what a COPY reads that
pgveil lets pass.

As with any COPY (`proxy.session.copy_witness`) the server is asked before to describe a SELECT of the same columns by the statement's own names. The
question stands in the statement's transaction, so its locks hold the tables until the statement has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.replies import Trouble
from proxy.session.witness import TEXT_OID, disagreement, source_of
from proxy.wire.messages import build_error, parse_error, parse_row_description
from rules.encodings import EncodingError, decode_sql

if TYPE_CHECKING:
    from proxy.session.gate import CopyQuestion, Judge, OffsetMap
    from proxy.session.witness import Logical
    from proxy.wire.messages import Field
    from rules.model import ColumnName, Principal
    from rules.plan import Storing


class Witness:
    """A question on its way. `trouble`: the server does not agree; `failed`: it answered with an error, which is the client's.

    `finished` also when the server ignores the question. `offsets`: of a text of the client's; None for a SELECT of our own.
    """

    __slots__ = ("agreed", "failed", "finished", "offsets", "trouble")

    def __init__(self, offsets: OffsetMap | None) -> None:
        self.agreed = self.failed = self.finished = False
        self.offsets = offsets
        self.trouble: Trouble | None = None

    def drop(self) -> None:
        """There will be no answer."""
        self.finished = True

    def error(self, raw: bytes) -> bytes:
        """The server's error as one about the client's text: a position in a SELECT of our own means nothing there."""
        self.failed = True
        if self.offsets is not None:
            return raw
        return build_error(parse_error(raw[5:]).replace("P", None))

    def described(self, raw: bytes | None, judge: Judge, principal: Principal, logical: Logical) -> None:
        """The server's description (whole message; None: it returns no rows)."""
        self.finished = True
        fields = () if raw is None else parse_row_description(raw[5:])
        found = self._examined(fields, judge, principal, logical)
        self.trouble = self.trouble or found
        self.agreed = self.trouble is None

    def _examined(
        self, fields: tuple[Field, ...], judge: Judge, principal: Principal, logical: Logical
    ) -> Trouble | None:
        raise NotImplementedError


def column_name(field: Field, encoding: str) -> str:
    """A described column's name; '' where it is no text of the encoding."""
    try:
        return decode_sql(field.name, encoding)
    except EncodingError:
        return ""


class StoreWitness(Witness):
    """Of a write: each sealed value goes into the column that it is sealed for."""

    __slots__ = ("_storing",)

    def __init__(self, storing: Storing) -> None:
        super().__init__(None)
        self._storing = storing

    def _examined(
        self,
        fields: tuple[Field, ...],
        judge: Judge,
        principal: Principal,  # noqa: ARG002 - the protocol's
        logical: Logical,  # noqa: ARG002 - the protocol's
    ) -> Trouble | None:
        columns = self._storing.columns
        if len(fields) != len(columns):
            return _elsewhere(None)
        for field, column in zip(fields, columns, strict=True):
            source = source_of(judge, field)
            if source != column or field.type != TEXT_OID:
                return _elsewhere(source)
        return None


class PassWitness(Witness):
    """Of a COPY TO without a plan: nothing protected is in what it reads."""

    __slots__ = ("_encoding", "_question")

    def __init__(self, question: CopyQuestion, encoding: str) -> None:
        super().__init__(question.offsets)
        self._question = question
        self._encoding = encoding

    def _examined(
        self,
        fields: tuple[Field, ...],
        judge: Judge,
        principal: Principal,  # noqa: ARG002 - the protocol's
        logical: Logical,  # noqa: ARG002 - the protocol's
    ) -> Trouble | None:
        names = self._question.names
        for field in fields:
            source = source_of(judge, field)
            if source is not None and (names is None or column_name(field, self._encoding) in names):
                return disagreement(source)
        return None


def _elsewhere(column: ColumnName | None) -> Trouble:
    return Trouble(
        "42501",
        "pgveil stopped the write: the server would store a sealed value elsewhere than pgveil's analysis of the statement says",
        None if column is None else f"The server names column {column}.",
        "If tables or columns were changed a moment ago, try again.",
    )
