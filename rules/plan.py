"""What is to be done with one statement: a plan, or a refusal. Values without behaviour; `rules.decide` makes them.

A plan speaks of tokens, never of offsets: one plan serves every text of the same shape, whatever the lengths of its literals, because
`rules.lexer` numbers the tokens of all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rules.model import Column, ColumnName, Level, TableName, Verdict

if TYPE_CHECKING:
    from rules.copy_format import CopyPlan


class Action(StrEnum):
    """What the statement does, for the audit record and the metrics."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    COPY = "copy"
    DDL = "ddl"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the original text from token `first` to token `last` (both included) by `text`; `last < first` inserts before `first`.

    `behind`: nothing is replaced, and `text` goes behind token `last`.
    """

    first: int
    last: int
    text: str
    behind: bool = False


@dataclass(frozen=True, slots=True)
class SealLiteral:
    """Replace tokens `first..last` by the sealed form of literal token `token`, as a string constant.

    `negative`: a minus sign stands before the number. `array`: the literal is an array constant whose elements are sealed one by one.
    `exact`: it is compared and not stored, so what the column can't hold equals nothing instead of being an error. A constant for a column that
    is not sealed becomes the ticket of a look-up instead. `given`: so does a sealed one, for a function of pgveil's that gives it (ADR 0027).
    """

    token: int
    first: int
    last: int
    column: Column
    negative: bool = False
    array: bool = False
    exact: bool = False
    given: bool = False


@dataclass(frozen=True, slots=True)
class SealParam:
    """Seal parameter `$number` for `column`; with `array` each element of it. `exact` as for SealLiteral.

    `listed`: it is one of several behind IN, and so of the column's own type, not of the operator's.
    `cast`: the text casts it to the column's own type, so a text is read as that type reads it. `given` as for SealLiteral.
    """

    number: int
    column: Column
    array: bool = False
    exact: bool = False
    listed: bool = False
    cast: bool = False
    given: bool = False


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One output column.

    `open`: the sealed column whose values it carries, to be opened and then, by `verdict`, masked. None: forwarded as it comes.
    `direct`: it is a bare column reference, so RowDescription must name `origin` (or a view of it) as its source; else it must name
    nothing, or something unprotected. `modified`: it is shown under the column's type with its modifier, else without. `as_text`: a varchar is shown as text. `touches`: every protected column whose value is in it (for the second witness).
    """

    open: Column | None = None
    verdict: Verdict = Verdict.CLEAR
    direct: bool = False
    touches: frozenset[ColumnName] = frozenset()
    modified: bool = True
    as_text: bool = False


@dataclass(frozen=True, slots=True)
class Touched:
    """A protected column that the statement touches, for the audit record: how, and under which verdict."""

    column: ColumnName
    level: Level
    verdict: Verdict
    read: bool
    written: bool


@dataclass(frozen=True, slots=True)
class Storing:
    """What a write seals, and where the statement's own names lead: `witness` is a SELECT of the columns that it fills, `columns` are what they must be."""

    witness: str
    columns: tuple[ColumnName, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one statement.

    `results` is None where the statement returns no rows. `writes`: it can change data. `lookups`: it searches by the real value.
    `explains`: its rows are a plan's text, in which the server quotes the constants that it was given. `later`: of PREPARE and DECLARE, what an execution of the statement or a FETCH from the cursor is.
    `copy`: it is a COPY from or to the client, whose data says nothing of its columns. `storing`: it stores sealed values.
    `by_mask`: columns of which a condition meets the masks, so that it finds by these alone; told to people, nothing is done about it.
    """

    action: Action
    tables: tuple[TableName, ...] = ()
    touched: tuple[Touched, ...] = ()
    edits: tuple[Edit, ...] = ()
    literals: tuple[SealLiteral, ...] = ()
    params: tuple[SealParam, ...] = ()
    results: tuple[ResultColumn, ...] | None = None
    writes: bool = False
    lookups: bool = False
    metered: int = 0
    explains: bool = False
    later: Plan | None = None
    copy: CopyPlan | None = None
    storing: Storing | None = None
    by_mask: tuple[ColumnName, ...] = ()

    @property
    def opens(self) -> bool:
        """Whether any result column must be opened by the proxy."""
        if self.copy is not None and any(r.open is not None for r in self.copy.results):
            return True
        return self.results is not None and any(r.open is not None for r in self.results)


class Reason(StrEnum):
    """Why a statement is refused: the metric's label, and the section of docs/errors.md."""

    VERDICT = "verdict"  # the role may not see the column
    LOOKUP = "lookup"  # the role may not search or compare by the real value
    NOT_APPLIED = "not_applied"  # the database is not what the rules in force take it for
    UNSUPPORTED = "unsupported"  # a form that pgveil cannot protect (yet)
    UNPARSED = "unparsed"  # the text was not understood
    COMPUTE = "compute"  # the database would have to compute on sealed values
    ORDERING = "ordering"  # the database would have to order sealed values
    RANDOMIZED = "randomized"  # a comparison on a randomized column
    CROSS_DOMAIN = "cross_domain"  # values of two key domains meet
    PLAIN_INTO_SEALED = "plain_into_sealed"  # the database would store a value that pgveil has not sealed
    SEALED_INTO_PLAIN = "sealed_into_plain"  # ciphertext would be stored where plain values belong
    COPY = "copy"
    UNFENCED = "unfenced"  # a login that privileges can't fence, in a form that the splice cannot protect
    LEXER = "lexer"  # the text is not PostgreSQL's, or too long
    WITNESS = "witness"  # the server's description disagrees with the analysis
    DAMAGED = "damaged"  # a stored value does not open
    BAD_VALUE = "bad_value"  # the client's value is not of the column's type
    AUDIT = "audit"  # the audit log cannot be written
    SETTINGS = "settings"  # the session's settings are not known
    ORACLE = "oracle"  # a constraint would tell the role whether a value is there
    LOOKUP_RATE = "lookup_rate"  # more look-ups than the role may make in a minute
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A clear error instead of the statement. `token`: where the caret points, or None. No field ever holds a value.

    `source`: file, line and routine of PostgreSQL's for an error of its own that drivers know by its place.
    """

    reason: Reason
    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    column: ColumnName | None = None
    token: int | None = None
    source: tuple[str, int, str] | None = None
