"""The second witness of what is described by no RowDescription of its own: where a write stores sealed values, and what a COPY reads that
pgveil lets pass.

As with any COPY (`proxy.session.copy_witness`) the server is asked before to describe a SELECT of the same columns by the statement's own names. The
question stands in the statement's transaction, so its locks hold the tables until the statement has run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxy.session.replies import Trouble
from proxy.session.witness import TEXT_OID, disagreement, source_of
from proxy.wire.messages import ErrorFields, build_error, parse_error, parse_row_description
from rules.encodings import EncodingError, decode_sql

if TYPE_CHECKING:
    from proxy.session.gate import CopyQuestion, Judge, OffsetMap
    from proxy.session.witness import Logical
    from rules.model import ColumnName, Principal
    from rules.plan import Storing


class Witness(Protocol):
    """A question on its way. `trouble`: the server does not agree; `failed`: it answered with an error, which is the client's."""

    agreed: bool
    failed: bool
    finished: bool
    offsets: OffsetMap | None
    trouble: Trouble | None

    def drop(self) -> None:
        """There will be no answer."""

    def error(self, raw: bytes) -> bytes:
        """The server's error as one about the client's text."""

    def described(self, raw: bytes | None, judge: Judge, principal: Principal, logical: Logical) -> None:
        """The server's description (whole message; None: it returns no rows)."""


class _Asked:
    """What both have in common."""

    __slots__ = ("agreed", "failed", "finished", "offsets", "trouble")

    def __init__(self, offsets: OffsetMap | None) -> None:
        self.agreed = self.failed = self.finished = False
        self.offsets = offsets
        self.trouble: Trouble | None = None

    def drop(self) -> None:
        """See Witness."""
        self.finished = True

    def error(self, raw: bytes) -> bytes:
        """See Witness. A position in a SELECT of our own means nothing in the client's text."""
        self.failed = True
        if self.offsets is not None:
            return raw
        return build_error(ErrorFields(tuple(pair for pair in parse_error(raw[5:]).pairs if pair[0] != ord("P"))))

    def described(self, raw: bytes | None, judge: Judge, principal: Principal, logical: Logical) -> None:
        """See Witness."""
        self.finished = True
        self.trouble = self.trouble or self._examined(raw, judge, principal, logical)
        self.agreed = self.trouble is None

    def _examined(self, raw: bytes | None, judge: Judge, principal: Principal, logical: Logical) -> Trouble | None:
        raise NotImplementedError


class StoreWitness(_Asked):
    """Of a write: each sealed value goes into the column that it is sealed for."""

    __slots__ = ("_storing",)

    def __init__(self, storing: Storing) -> None:
        super().__init__(None)
        self._storing = storing

    def _examined(
        self,
        raw: bytes | None,
        judge: Judge,
        principal: Principal,  # noqa: ARG002 - the protocol's
        logical: Logical,  # noqa: ARG002 - the protocol's
    ) -> Trouble | None:
        columns = self._storing.columns
        fields = () if raw is None else parse_row_description(raw[5:])
        if len(fields) != len(columns):
            return _elsewhere(None)
        for field, column in zip(fields, columns, strict=True):
            source = source_of(judge, field)
            if source != column or field.type != TEXT_OID:
                return _elsewhere(source)
        return None


class PassWitness(_Asked):
    """Of a COPY TO without a plan: nothing protected is in what it reads."""

    __slots__ = ("_encoding", "_question")

    def __init__(self, question: CopyQuestion, encoding: str) -> None:
        super().__init__(question.offsets)
        self._question = question
        self._encoding = encoding

    def _examined(
        self,
        raw: bytes | None,
        judge: Judge,
        principal: Principal,  # noqa: ARG002 - the protocol's
        logical: Logical,  # noqa: ARG002 - the protocol's
    ) -> Trouble | None:
        names = self._question.names
        for field in () if raw is None else parse_row_description(raw[5:]):
            source = source_of(judge, field)
            if source is not None and (names is None or self._named(field.name) in names):
                return disagreement(source)
        return None

    def _named(self, name: bytes) -> str:
        try:
            return decode_sql(name, self._encoding)
        except EncodingError:
            return ""


def _elsewhere(column: ColumnName | None) -> Trouble:
    return Trouble(
        "42501",
        "pgveil stopped the write: the server would store a sealed value elsewhere than pgveil's analysis of the statement says",
        None if column is None else f"The server names column {column}.",
        "If tables or columns were changed a moment ago, try again.",
    )
