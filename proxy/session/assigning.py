"""What an assignment to a column does with a value of another type (PostgreSQL manual, 10.4), for columns that are sealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.errors import error_response
from proxy.wire.messages import parse_data_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keys.types import OutputSettings
    from proxy.session.values import ValueCodec
    from rules.model import Column

# Assignment casts between types of one kind (pg_cast, castcontext "a" or "i"); to a string type there is one from every type.
_STRINGS: Final = frozenset((25, 1042, 1043))
_KINDS: Final = (
    frozenset((20, 21, 23, 700, 701, 1700)),
    frozenset((1082, 1114, 1184)),
    frozenset((1083, 1266)),
    frozenset((114, 3802)),
)
_BINARY_FORM: Final = 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """Values of type `source` (an OID) that are to be stored in a sealed column, or (`compared`) to be looked for in it, by `login`."""

    column: Column
    source: int
    codec: ValueCodec
    compared: bool = False
    login: str = ""

    @property
    def target(self) -> int:
        """The column's type as clients see it."""
        return self.codec.parameter_oid(self.column, array=False)

    def text(self, source: str, target: str) -> bytes:
        """The conversion of an array of values, as a statement for the calculator."""
        cast = f"SELECT r.a::{source}::{target} FROM pg_catalog.unnest($1) WITH ORDINALITY AS r (a, n) ORDER BY r.n"  # noqa: S608 - types' names of the engine's
        return cast.encode()

    def converts(self, output: OutputSettings) -> bool:
        """Whether the calculator has to make the value that is sealed: of one of another type, or in a form that only PostgreSQL reads."""
        return self.source != self.target or not output.date_style.startswith("ISO")

    def seal(self, value: bytes, output: OutputSettings, *, converted: bool) -> bytes:
        """A value in its text form, or as `text` gives it in binary form, sealed. Raises BadValue."""
        form = _BINARY_FORM if converted else 0
        return self.codec.seal_param(
            self.column, value, form, self.target, output, exact=self.compared, login=self.login
        )


def assignable(source: int, target: int) -> bool:
    """Whether a value of one type can be assigned to a column of the other."""
    return source == target or target in _STRINGS or any(source in kind and target in kind for kind in _KINDS)


def mismatch(column: Column, source: str, target: str) -> bytes:
    """PostgreSQL's error where it can't."""
    return error_response(
        "42804",
        f'column "{column.name.column}" is of type {target} but expression is of type {source}',
        hint="You will need to rewrite or cast the expression.",
    )


def cells_of(rows: Sequence[bytes], columns: int) -> list[list[bytes | None]]:
    """The values of whole DataRow messages, column by column. Raises ProtocolError."""
    found: list[list[bytes | None]] = [[] for _ in range(columns)]
    for row in rows:
        for cells, value in zip(found, parse_data_row(row[5:]), strict=False):
            cells.append(value)
    return found
