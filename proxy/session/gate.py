"""The border between the session and the judgement: what a session asks about a text, and what it is told.

The session knows the protocol and nothing of SQL; `proxy.decisions.Gate` knows SQL and nothing of the protocol. These are the values that
pass between them, so each side can be tested with the other one replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from proxy.session.computing import Compute, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rules.model import Column, ColumnName, Principal, TableName
    from rules.named import NameUse
    from rules.plan import Plan, Reason, Refusal


@dataclass(frozen=True, slots=True)
class Settings:
    """What a text's meaning depends on besides itself.

    `search_path`: the effective schemas in order (current_schemas(true)), or None while unknown. `database_role`: current_user.
    `temporary`: the session's temporary relations as far as something protected bears the same name (`Judge.protected_names`); known with
    `search_path`. `views`: names of its temporary views, None where it may have some that are not known.
    """

    standard_conforming_strings: bool = True
    client_encoding: str = "UTF8"
    search_path: tuple[str, ...] | None = None
    database_role: str | None = None
    temporary: frozenset[str] = frozenset()
    views: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class OffsetMap:
    """Character positions of an edited text in terms of the original.

    `edits`: (start in edited text, length in edited text, start in original, length in original), ascending, 0-based.
    `nowhere`: the text is one of pgveil's own, and no place in it means anything to the client.
    """

    edits: tuple[tuple[int, int, int, int], ...] = ()
    nowhere: bool = False

    def original(self, position: int) -> int:
        """The 1-based position in the original of a 1-based position in the edited text (inside an edit: the edit's start)."""
        at = position - 1
        shift = 0
        for start, length, original, width in self.edits:
            if at < start:
                break
            if at < start + length:
                return original + 1
            shift = (original + width) - (start + length)
        return at + shift + 1


@dataclass(frozen=True, slots=True)
class NameChange:
    """A statement that makes or drops one of the session's names, once it has completed. `name` None: all of them.

    Of PREPARE and DECLARE: `decision` on what the name will stand for (its one plan, if any, is that of an execution or a FETCH); `text`, the
    statement alone in the client's words, from which it can be decided again; `types`, the OIDs of declared parameters (0: not known).
    """

    use: NameUse
    name: str | None
    decision: Pass | Admit | None = None
    text: bytes = field(default=b"", repr=False)
    types: tuple[int, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What a session knows of one of its names. `plan`: of an execution or a FETCH, None where nothing protected is touched."""

    plan: Plan | None
    unsettles: bool = False
    ddl: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """The session's prepared statements and cursors, of those that a text speaks of."""

    prepared: Mapping[str, Known] = field(default_factory=dict)
    cursors: Mapping[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyQuestion:
    """The SELECT that the server is to describe before a COPY TO. `names`: those of its columns that are copied, None for all.

    `offsets`: where positions in its errors are in the client's text; None where they are nowhere. `denied`: of a table with row security, a query
    that gives its name where the login may not read it: COPY looks at privileges first, and a SELECT at row security.
    """

    text: bytes = field(repr=False)
    names: frozenset[str] | None = None
    offsets: OffsetMap | None = None
    denied: bytes = b""


@dataclass(frozen=True, slots=True)
class Instead:
    """What runs in the place of a text that touches nothing protected: it reads catalogs without what is pgveil's (docs/adr/0038)."""

    text: bytes = field(repr=False)
    offsets: OffsetMap


@dataclass(frozen=True, slots=True)
class Pass:
    """Forward the text as it is, or `instead` of it another one that means the same; what it says or does is the client's own affair.

    `unsettles`: afterwards the session's settings (rules.configuration) may be other ones, or its portals and prepared statements; with
    `forms` nothing but how values look. `ends`: it may end a transaction, or go back in it, and settings with it to what they were before.
    `ddl`: afterwards the catalog may be another one.
    `statements`: how many statements the text holds (0 for an empty one).
    `noted`: in observe mode, to be called with 0 when the text is prepared and with 1 each time that it runs.
    `names`: one a statement, what it does to the session's names; empty where none does anything. `by_name`: it runs what a name stands for, so
    the decision holds as long as the names do. `copies`: it is a COPY TO, whose data nothing describes. `unshown`: it may use a view or a function
    that somebody has replaced, which no description shows, and whoever asks may not see everything: the catalog is looked at before and after.
    `shadows`: names of system catalogs that temporary relations of its making may bear.
    """

    unsettles: bool = False
    ddl: bool = False
    statements: int = 1
    noted: Callable[[int], None] | None = field(default=None, compare=False)
    names: tuple[NameChange | None, ...] = ()
    by_name: bool = False
    copies: CopyQuestion | None = None
    unshown: bool = field(default=False, compare=False)
    ends: bool = False
    forms: bool = False
    instead: Instead | None = field(default=None, compare=False)
    shadows: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Admit:
    """Run `text` (in the client's encoding, literals already sealed) instead of what came; at least one statement is planned.

    `plans`: one a statement, in order; None for a statement that touches nothing protected. `shape`: the normalised text, no literals.
    `generation`: of the rules and catalog that it was made under; a later generation must be asked anew. `names`, `by_name`, `unshown`: as of Pass.
    `witness`: of a COPY with a plan, and of a write of sealed values, the SELECT that the server is to describe before. `vouched`: when the tickets in the
    text were made (keys.lookup), None where there are none.
    """

    text: bytes
    offsets: OffsetMap
    plans: tuple[Plan | None, ...]
    shape: str
    generation: int
    unsettles: bool = False
    ddl: bool = False
    names: tuple[NameChange | None, ...] = ()
    by_name: bool = False
    witness: bytes | None = None
    unshown: bool = field(default=False, compare=False)
    ends: bool = False
    forms: bool = False
    probes: tuple[int, ...] = ()
    vouched: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """What the server may be asked about a refused text, which could be nothing but a typing error.

    `text`: the client's, every constant blanked at its length, in the client's encoding. `constants`: of each the 1-based character position,
    the blanked source and the client's own, to be put back where the server's error quotes it.
    """

    text: bytes = field(repr=False)
    constants: tuple[tuple[int, bytes, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error. `position`: 1-based character position in the client's text. `shape`: '' where the text was not understood.

    `check`: pgveil may just not have understood the text, so the server is asked first; its own error counts before the refusal.
    `unsettles`, `ddl`, `statements`: as of Pass, were it to run all the same; the most that is possible where that is not known.
    """

    refusal: Refusal
    shape: str = ""
    position: int | None = None
    check: ServerCheck | None = None
    unsettles: bool = True
    ddl: bool = True
    statements: int = 2


@dataclass(frozen=True, slots=True)
class NeedSettings:
    """Nothing can be said while the session's settings are unknown: ask the server, then ask again."""


@dataclass(frozen=True, slots=True)
class NeedNames:
    """The text runs what names of the session stand for: ask again with those that the session knows.

    `otherwise`: the decision where it knows none of them.
    """

    prepared: frozenset[str]
    cursors: frozenset[str]
    otherwise: Pass | Admit | Compute | Write | Refuse | NeedSettings


Decision = Pass | Admit | Compute | Write | Refuse | NeedSettings | NeedNames


class Judge(Protocol):
    """What a session needs from the judgement. All methods are pure of I/O; `decide` may be slow (a parse) on a new shape."""

    @property
    def generation(self) -> int:
        """Grows whenever rules or catalog change."""

    def unchanged_since(self, generation: int) -> bool:
        """Whether no rule, and nothing that a text can use, has been replaced since that generation of this judge's."""

    def principal(self, login: str) -> Principal:
        """Who a login is under the rules and catalog in force."""

    def decide(
        self, sql: bytes, principal: Principal, settings: Settings, *, extended: bool, names: Names | None = None
    ) -> Decision:
        """Judge the text of a Query (`extended` false: any number of statements) or a Parse (one).

        `names`: what the session knows of the names that NeedNames asked for; with them NeedNames is no answer.
        """

    def as_run(
        self, decision: Pass | Admit | Compute | Write | Refuse, principal: Principal
    ) -> Pass | Admit | Compute | Write | Refuse:
        """What is done about a decision of this judge, or of the session itself: the decision; in observe mode a Pass."""

    def source_of(self, table_oid: int, attnum: int) -> ColumnName | None:
        """The protected column that a RowDescription field names, through views as well; None where it names none.

        For a column of a view that mixes several protected columns, any one of them.
        """

    def table_of(self, view_oid: int, attnum: int) -> tuple[int, int] | None:
        """The column of a table that a column of a masking view stands for; None of any other."""

    def unfamiliar(self, columns: frozenset[tuple[int, int]]) -> bool:
        """Whether a column (OID of its relation, number) is among them that neither the catalog knows nor the last look for its relation has
        shown to be of a temporary one; the next one looks for it. Numbers below 1 are every relation's."""

    def report(self, login: str, relation: TableName | None, context: bytes | None) -> tuple[Plan | None, bool]:
        """What an error or notice of the server's can show the login: the plan of its record (None: nothing protected that it sees clear), and
        whether its words must be kept from the login.

        `relation`: the one whose rows it quotes, None where that is not known; `context`: its CONTEXT, the functions that ran.
        """

    def hushes(self, login: str) -> bool:
        """Whether the payloads of notifications must be kept from the login: code of the database's own could have put rows into them."""

    def column(self, name: ColumnName) -> Column | None:
        """The rules' column of that name."""

    def protected_names(self, names: frozenset[str]) -> frozenset[str]:
        """Those of the names that a protected relation, or a view of one, bears in any schema, or that a trigger could take for what it means."""


class BadValue(Exception):  # noqa: N818 - the name says what is wrong
    """A value could not be sealed or opened. Carries what the client may be told; never the value.

    `position`: of a constant that the server would point at, 1-based, in the client's text.
    """

    position: int | None = None

    def __init__(
        self, reason: Reason, sqlstate: str, message: str, column: ColumnName, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.sqlstate = sqlstate
        self.message = message
        self.column = column
        self.detail = detail
