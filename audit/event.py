"""What the log records: one struct per kind of event, told apart by `kind`.

Fields without a default are always written; a field at its default is left out. So a later version can add fields with defaults, and
older records stay canonical. Text that a client chooses is cut to a limit when an event is made. No field may ever hold a value of a
protected column, a literal of a statement, a password or key material.
"""

from __future__ import annotations

from typing import Literal

import msgspec

STATEMENT_LIMIT = 8192
"""Characters of a normalised statement that are kept; enough to recognise any hand-written one."""

NAME_LIMIT = 256
"""Characters of a name that a client sends (login, database, application, address). PostgreSQL keeps 63 bytes of the first three."""

Outcome = Literal["ok", "error", "cancelled", "disconnected", "suspended"]
KeyOperation = Literal["unwrap", "seal", "open"]


def clip(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, the last of them a marker that says how many are missing: "select …[+1234]"."""
    if len(text) <= limit:
        return text
    # The marker counts itself out of the limit, so cutting what was cut before changes nothing.
    kept = limit - len(f"…[+{len(text)}]")
    return f"{text[:kept]}…[+{len(text) - kept}]"


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", gc=False):
    """The settings that all events share."""

    def __post_init__(self) -> None:
        for name, limit in _CLIPPED:
            text = getattr(self, name, None)
            if type(text) is str and len(text) > limit:
                msgspec.structs.force_setattr(self, name, clip(text, limit))


_CLIPPED = (
    ("login", NAME_LIMIT),
    ("database", NAME_LIMIT),
    ("client", NAME_LIMIT),
    ("application", NAME_LIMIT),
    ("statement", STATEMENT_LIMIT),
)


class ColumnAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A protected column that a statement touches."""

    column: str
    """Canonical name: schema.table.column."""
    level: str
    """The policy's level: core, important, general."""
    verdict: str
    """What the principal gets of it: clear, masked, refused."""
    read: bool
    """Its value flows into a result, a predicate or another value."""
    written: bool
    """The statement stores a value in it."""


class _Session(_Event, frozen=True):
    """Who acts, through which connection."""

    connection: str
    """The proxy's own name of the connection, unique within the log."""
    login: str
    """The authenticated session user."""
    roles: tuple[str, ...]
    """The rules' roles that the login holds, sorted."""
    policy_class: str
    """The id of the set of verdicts in force for the login."""
    database: str
    client: str
    """The client's address, "192.0.2.7:51234", or "local" for a Unix socket."""
    application: str
    """application_name as the client gives it; not to be trusted."""


class StatementStarted(_Session, frozen=True, tag="statement"):
    """A statement that touches something protected is about to run. Durable before its first protected row leaves."""

    action: str
    """select, insert, update, delete, copy, ddl, other."""
    statement: str
    """The normalised text: every literal replaced by a placeholder; cut at STATEMENT_LIMIT."""
    tables: tuple[str, ...]
    """Canonical names of the protected tables it touches."""
    columns: tuple[ColumnAccess, ...]
    lookup: bool
    """It searches by the real value of a protected column."""
    statement_id: int
    """Number of the statement within its connection, from 1."""


class StatementEnded(_Event, frozen=True, tag="outcome"):
    """What became of a statement that has a `statement` record."""

    connection: str
    statement_id: int
    rows: int | None
    """Rows that were returned or changed; None where nobody can say."""
    duration_us: int
    """Microseconds from the statement's arrival to its end."""
    outcome: Outcome
    """"suspended": a portal that went with rows left; a later outcome of the same statement_id replaces it."""
    sqlstate: str | None
    """The error's SQLSTATE where the outcome is an error."""


class Refused(_Session, frozen=True, tag="refusal"):
    """A statement was answered with an error instead of being run (or, found out later, instead of its rows)."""

    reason: str
    """The refusal's reason as in docs/errors.md: verdict, lookup, unparsed..."""
    sqlstate: str
    column: str | None
    """The column that it was refused for, where there is one."""
    statement: str
    """The normalised text; empty where the text was not understood, because then nothing says what in it is a literal."""
    statement_id: int | None = None
    """The statement's number where it had been started before it was refused."""
    observed: bool = False
    """In `mode: observe` the statement ran all the same."""


class LoginSucceeded(_Session, frozen=True, tag="login"):
    """The server accepted the login."""

    tls: str | None = None
    """Protocol version on the client's side ("TLSv1.3"), or None for plain."""


class LoginFailed(_Event, frozen=True, tag="login_failed"):
    """The server, or pgveil, refused the login."""

    connection: str
    login: str
    """The name that was claimed."""
    database: str
    client: str
    application: str
    sqlstate: str | None
    """The error's SQLSTATE (28P01, 28000, 3D000, 53300, 08001...); None where somebody went away, or it took too long."""
    tls: str | None = None


class LoggedOut(_Event, frozen=True, tag="logout"):
    """A connection that had logged in has ended."""

    connection: str
    login: str
    duration_us: int
    """Microseconds since the login."""


class RulesLoaded(_Event, frozen=True, tag="rules"):
    """The rules in force are now these."""

    version: str
    """The rules' version: 16 hex digits of the digest of their content."""
    source: str
    """The file they came from."""
    changed: tuple[str, ...] = ()
    """What differs from the rules before: names of columns and roles, sorted; empty at start."""
    previous: str | None = None
    """The version before."""


class CatalogLoaded(_Event, frozen=True, tag="catalog"):
    """The picture of the database that statements are judged by is now this one."""

    database: str
    version: str
    relations: int
    """How many relations it holds."""


class Observing(_Event, frozen=True, tag="observing"):
    """Under `mode: observe` a database was found, or is found by now, to be observed or not."""

    database: str
    protected: bool
    """False: nothing is protected, statements run as they came. True: it holds what `pgveil apply` made, so the rules are in force."""


class KeyUsed(_Event, frozen=True, tag="key"):
    """A data key was used for the first time: by this process (unwrap), or by a connection (seal, open)."""

    domain: str
    """The key domain's name."""
    key_id: str
    """Which version of the domain's key."""
    operation: KeyOperation = "unwrap"
    connection: str | None = None


class ServiceStarted(_Event, frozen=True, tag="service_started"):
    """A worker accepts connections."""

    version: str
    """pgveil's version."""
    listen: tuple[str, ...] = ()
    """The addresses it listens on."""


class ServiceStopped(_Event, frozen=True, tag="service_stopped"):
    """A worker ends in order."""

    reason: str
    """"drained", "signal"..."""


class LogOpened(_Event, frozen=True, tag="log_opened"):
    """A process begins to write this chain, or goes on with it, in a new segment."""

    format: int
    """The format's version (docs/audit-log.md)."""
    pid: int


class LogClosed(_Event, frozen=True, tag="log_closed"):
    """The writer ended in order; the next record is a `log_opened`."""


class LogRecovered(_Event, frozen=True, tag="log_recovered"):
    """The process before died in the middle of a write: an incomplete end was cut off the segment and kept beside it.

    Nothing in it had been reported durable.
    """

    segment: int
    bytes: int
    """How many bytes were cut; they are in `<segment>.torn`."""
    sha256: str
    """Digest of those bytes."""


class LogRestored(_Event, frozen=True, tag="log_restored"):
    """A write had failed; the log goes on in a new segment, which begins with all records whose durability was in doubt."""

    segment: int
    """The segment that was given up; from `first` on, the next segment's copies count."""
    first: int
    """Sequence number of the first record of the new segment."""
    error: str
    """The failure's errno name: ENOSPC, EIO..."""
    refused: int
    """How many records callers wanted to write meanwhile and could not."""


Event = (
    StatementStarted
    | StatementEnded
    | Refused
    | LoginSucceeded
    | LoginFailed
    | LoggedOut
    | RulesLoaded
    | CatalogLoaded
    | Observing
    | KeyUsed
    | ServiceStarted
    | ServiceStopped
    | LogOpened
    | LogClosed
    | LogRecovered
    | LogRestored
)
