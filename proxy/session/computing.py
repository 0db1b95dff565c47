"""Computing on opened values: what the judgement asks for, what a session asks of the calculator, and what it is told.

The calculator is a PostgreSQL of pgveil's own beside the proxy, without tables and without data (docs/adr/0013). A statement that the database
can't compute is taken apart: the server gives rows (each `Leaf` is a SELECT that is judged like any other), the session opens them, and the
calculator runs the client's text over them, so that everything PostgreSQL does with a value is done by PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keys.types import OutputSettings
    from proxy.session.gate import Admit, OffsetMap
    from proxy.session.replies import Trouble
    from rules.copy_format import CopyFormat
    from rules.model import Column
    from rules.plan import Action, Refusal


@dataclass(frozen=True, slots=True)
class Leaf:
    """Rows that the server gives, and that the local text reads as relation `name`.

    `columns`: their names, in the order of the fetch's result, at least one. `fetch`: the SELECT, judged for the same principal; one plan.
    """

    name: str
    columns: tuple[str, ...]
    fetch: Admit


@dataclass(frozen=True, slots=True)
class Compute:
    """Fetch the leaves, then let the calculator run `text`, the client's own with the leaves' names in place of what they stand for.

    `together`: one statement for the rows of several leaves under one snapshot: the leaf's number (from 0), then every leaf's columns in turn as
    text, null in other leaves' rows; None with one leaf. `with_at`: where in `text` (characters) the leaves' definitions are inserted as common
    table expressions; `with_before` and `with_after` stand around them ("WITH " and " ", or "" and ", " inside a WITH that is there).
    `offsets`: from `text` to the client's. `parameters`: the highest $n of the client's; the leaves' arrays are numbered from the next.
    `action`, `shape`, `generation`: as in Plan and Admit. `positions`: whether `offsets` leads to the
    client's text; not where the text is one of ours. `copy`: the rows are wanted as COPY data.
    """

    leaves: tuple[Leaf, ...]
    together: Admit | None
    text: str
    with_at: int
    with_before: str
    with_after: str
    offsets: OffsetMap
    parameters: int
    action: Action
    shape: str
    generation: int
    positions: bool = True
    copy: CopyFormat | None = None


KEEP: Final = "keep"
"""Instead of a value: the column has what it shows. No ticket is so short."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value of the client's: a parameter, a constant's text (`number`: written as one), or neither, which is NULL."""

    parameter: int | None = None
    text: str | None = field(default=None, repr=False)
    number: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that must be what the login is shown of a column, in each row that the source gives; else there is `refusal` (ADR 0027).

    The source's column says whether it is; or, with `column`, holds what is shown, and the value is one of `constants`: the only one, or
    (`chosen`) that whose number, from 1 on, is in the source's next column.
    `writes`: the column may be changed all the same, so each of `constants` is a parameter of the write, in order: the value, or `KEEP`.
    """

    refusal: Refusal
    column: Column | None = None
    constants: tuple[Constant, ...] = ()
    chosen: bool = False
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Compute values first, then write them; both within the client's transaction, the source's rows locked by its fetch.

    `source`: gives the values (what it gives is not wanted where only what is returned has to be computed). `apply`: the statement that writes, judged in a form for
    one row: the source's columns are its parameters from `first` on, in order, and the plan says which of them are sealed. `many`: None where the
    source gives exactly one row, and `apply` is what runs; else the same statement for any number of rows, the parameters from `first` on being
    arrays of the source's types (of text where they are sealed). `targets`: of each source column, the column that it is written to, where that
    is sealed. `returning`: computes what the client gets from the rows that `apply` returns, as its one leaf; None: they are what the client
    gets. A search by a computed value is such a statement, too: it writes nothing. `parameters`: the highest $n of the client's. `positions` of errors are the client's only in `apply`.
    `kept`: the source computes nothing, and `apply` leaves out assignments of what is shown already: one a column of the source.
    `rows`: it stands for an INSERT, of so many rows, that are all there; the source's first column tells them apart.
    """

    source: Compute
    apply: Admit
    first: int
    many: Admit | None
    targets: tuple[Column | None, ...]
    returning: Compute | None
    parameters: int
    action: Action
    shape: str
    generation: int
    kept: tuple[Kept, ...] = ()
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One statement for the calculator. Bytes are in the session's client encoding.

    `types`: the parameters' OIDs as declared (0: to be inferred), the leaves' arrays (text[], 1009) included. `values` and `formats`: the
    client's own parameters as in Bind. `arrays`: a leaf's columns one after the other, each value in its text form or None: bound behind
    `values`. `result_formats` as in Bind. `read`, `bound`: settings under which the text and its constants, and the parameters, are read, where
    they are not `settings`.
    """

    text: bytes = field(repr=False)
    settings: OutputSettings
    types: tuple[int, ...] = ()
    values: tuple[bytes | None, ...] = field(default=(), repr=False)
    formats: tuple[int, ...] = ()
    result_formats: tuple[int, ...] = ()
    arrays: Sequence[Sequence[bytes | None]] = field(default=(), repr=False)
    standard_conforming_strings: bool = True
    read: OutputSettings | None = None
    bound: OutputSettings | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the calculator gave. `parameters`: every parameter's OID. `description`: the whole RowDescription message, b"" for none.

    `rows`: whole DataRow messages, in order. `tag`: CommandComplete's.
    """

    parameters: tuple[int, ...] = ()
    description: bytes = b""
    rows: tuple[bytes, ...] = field(default=(), repr=False)
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class CalculatorError:
    """PostgreSQL's own error about the statement: the ErrorResponse's fields (code, text). Positions are those of the local text."""

    sqlstate: str
    pairs: tuple[tuple[int, bytes], ...] = field(repr=False)


class Computation(Protocol):
    """A question on its way."""

    @property
    def finished(self) -> bool:
        """Whether there is an outcome."""

    @property
    def outcome(self) -> Answer | CalculatorError | Trouble:
        """What came of it; Trouble where the calculator itself failed or a limit was reached. Only when finished."""

    def cancel(self) -> None:
        """Nobody waits for it any longer."""


class Calculator(Protocol):
    """What a session needs of the calculator. `wake` is called, in the event loop, when the computation has finished."""

    def describe(self, question: Question, wake: Callable[[], None]) -> Computation:
        """Parse and describe only: the Answer has parameters and description (its formats all 0) and no rows."""

    def run(self, question: Question, wake: Callable[[], None]) -> Computation:
        """Run it in a read-only transaction of its own."""

    def type_names(self, types: Sequence[tuple[int, int]], wake: Callable[[], None]) -> Computation:
        """SQL spellings of (OID, type modifier) pairs, for casts; an Answer whose `rows` are the names in UTF-8, b"" for a type unknown to it."""
