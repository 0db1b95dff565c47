"""What the client is told: pgveil's own errors, and the server's with ciphertext, masking schemas and foreign positions taken out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keys.sealed import SEALED_IN_TEXT
from proxy.errors import error_response
from proxy.wire.messages import Back, ErrorFields, build_error, parse_error
from rules.plan import Action

if TYPE_CHECKING:
    from proxy.session.gate import BadValue, OffsetMap, ServerCheck
    from rules.plan import Plan, Refusal

# Text that fails in the server's analysis for every role and setting, so a refused statement fails for real (docs/errors.md).
REFUSED_TEXT: Final = b"SELECT pg_catalog.pgveil_refused()"
REFUSED_NAME: Final = b"pgveil_none"
PROBE_NAME: Final = b"pgveil_probe"
CHECK_NAME: Final = b"pgveil_check"
COPY_NAME: Final = b"pgveil_copy"
AGAIN_NAME: Final = b"pgveil_again"
RESERVED: Final = b"pgveil_"

# What the server calls a sealed column's type where it has no function or operator for it.
SEALED_TYPE: Final = b"pgveil.sealed"

# Types that can't be matched or cast, functions and operators that are not there.
TYPE_ERRORS: Final = frozenset({"42804", "42846", "42883"})

SYNTAX_ERROR: Final = "42601"
UNDEFINED_FUNCTION: Final = "42883"
UNDEFINED_STATEMENT: Final = "26000"
READ_ONLY: Final = "25006"
UNDEFINED_PORTAL: Final = "34000"

# The one form of DEALLOCATE that drivers send; after others every description is checked again.
DEALLOCATE: Final = re.compile(rb"\s*DEALLOCATE\s", re.IGNORECASE)
_DEALLOCATE: Final = re.compile(
    rb'\s*DEALLOCATE\s+(?:PREPARE\s+)?(?:"((?:[^"\0]|"")+)"|([a-z_][\w$]*))\s*;?\s*', re.IGNORECASE | re.ASCII
)


def deallocated(text: bytes) -> bytes | None:
    """The name of the one prepared statement that a DEALLOCATE drops; None where the text is not just that."""
    found = _DEALLOCATE.fullmatch(text)
    if found is None:
        return None
    quoted, plain = found.groups()
    return plain.lower() if quoted is None else quoted.replace(b'""', b'"')


# Stands in a COPY's field whose value pgveil refuses, so that the server refuses it too, in its place among the row's other errors. No sealed
# value looks so: the domain's CHECK (23514) turns it away. What the server says of it (ON_ERROR ignore, LOG_VERBOSITY verbose) is the client's.
STAND_IN: Final = b"pgveil-bad-value"
# With the "..." where PostgreSQL has cut it: how long the text is in which a value is stored says nothing of the value.
_SEALED: Final = re.compile(SEALED_IN_TEXT.encode() + rb"(?:\.\.\.)?")
_SCHEMA: Final = re.compile(rb'"?pgveil_[0-9a-f]{12}"?\.')
_SCHEMA_NAME: Final = re.compile(rb"pgveil_[0-9a-f]{12}")
_SUSPECT: Final = re.compile(SEALED_IN_TEXT.encode() + rb"|pgveil_[0-9a-f]{12}|" + STAND_IN)
# The commands that are done by fetching rows first, and what the fetch's own is called.
_LOCKING: Final = frozenset({Action.INSERT, Action.UPDATE, Action.DELETE, Action.MERGE})
_LOCKS: Final = re.compile(rb"SELECT FOR (?:NO KEY )?UPDATE")
# What the domain's check says (lifecycle.apply.ground), and what the client is told instead.
_SEALED_CHECK: Final = (b"sealed", b"sealed_format")
_CHECK_VIOLATION: Final = "23514"
_NOT_AS_SEALED: Final = (
    ("M", b"a value for a sealed column is not as pgveil has sealed it"),
    ("D", b"A trigger, a rule, a default or a function of the database's has changed it, or has made it."),
    ("H", b"Let it leave sealed columns as they are; `pgveil apply --plan` names triggers that assign to them."),
)
_TEXT: Final = re.compile(rb"\btext\b")
_SCRUBBED: Final = frozenset(b"MDHWqnscdt")
_QUOTING: Final = frozenset(b"DWpq")
_WITHHELD_MESSAGE: Final = b"pgveil withheld the message of a function or trigger"
_KEPT: Final = frozenset(b"SVCPLFR")
# PostgreSQL's own C functions that say which object a privilege is wanting for, and nothing else; RAISE can't say that it is one of them.
_NAMING: Final = frozenset((b"aclcheck_error", b"aclcheck_error_col", b"aclcheck_error_type"))
_UNRECORDED_MESSAGE: Final = b"pgveil withheld the message"
_UNRECORDED_DETAIL: Final = b"It can quote protected values, and the audit log cannot be written."
_WITHHELD_DETAIL: Final = (
    b"Withheld: it can hold values that this login sees masked, and no privilege keeps it from them."
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a statement that the server runs is ended by pgveil. No field holds a value."""

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None

    def response(self, extra: str | None = None) -> bytes:
        """The ErrorResponse; `extra` is added to the detail."""
        detail = " ".join(part for part in (self.detail, extra) if part) or None
        return error_response(self.sqlstate, self.message, detail=detail, hint=self.hint)


def refusal_response(refusal: Refusal, position: int | None = None) -> bytes:
    """The ErrorResponse of a refusal. `position`: 1-based, in characters of the client's text."""
    return error_response(
        refusal.sqlstate,
        refusal.message,
        detail=refusal.detail,
        hint=refusal.hint,
        position=position,
        source=refusal.source,
    )


def bad_value_response(bad: BadValue) -> bytes:
    """The ErrorResponse of a value that cannot be sealed or opened."""
    return error_response(bad.sqlstate, bad.message, detail=bad.detail)


def own_words(raw: bytes, check: ServerCheck, *, understood: bool = False) -> bytes | None:
    """The server's error about a text that pgveil refuses, as the client may see it; None where the refusal is the better answer.

    `understood`: the text was analysed, so it is refused for what it does with protected columns.

    That is where the error is about a value (class 22), as values were blanked, where it is about the sealed type, which no client knows of, and
    where it is about the question: several statements can't be parsed at once, which a simple Query may hold. An error about the type text
    (42804, 42846, 42883) may be about a sealed column too, which the server takes for one.
    """
    fields = parse_error(raw[5:])
    several = fields.sqlstate == SYNTAX_ERROR and fields.get("R") == b"exec_parse_message"
    at, message = fields.get("P"), fields.get("M")
    sealed = any(SEALED_TYPE in (fields.get(code) or b"") for code in ("M", "D", "H"))
    if several or fields.sqlstate.startswith("22") or sealed:
        return None
    if fields.sqlstate in TYPE_ERRORS and understood and _TEXT.search(message or b""):
        return None
    for position, blank, source in check.constants:
        if message is not None and at == str(position).encode():
            fields = fields.replace("M", message.replace(blank, source, 1))
            return server_report(build_error(fields, Back.ERROR), None)[0]
    return server_report(raw, None)[0]


def server_report(raw: bytes, offsets: OffsetMap | None) -> tuple[bytes, ErrorFields]:
    """The server's ErrorResponse or NoticeResponse as the client may see it, and its fields. Raises ProtocolError.

    `offsets`: of the text that the report is about, where it was edited.
    """
    fields = parse_error(raw[5:])
    if (fields.get("d"), fields.get("n")) == _SEALED_CHECK and fields.sqlstate == _CHECK_VIOLATION:
        # To the server it is a constraint of a type that no client knows.
        for code, text in _NOT_AS_SEALED:
            fields = fields.replace(code, text)
        raw = build_error(fields, Back.ERROR)
    moved = fields
    if offsets is not None and (offsets.edits or offsets.nowhere):
        moved = _move(fields, offsets)
    if moved is fields and _SUSPECT.search(raw) is None:
        return raw, fields
    pairs = tuple((code, _scrub(code, text)) for code, text in moved.pairs)
    return build_error(ErrorFields(pairs), raw[0] if raw[0] == Back.NOTICE else Back.ERROR), fields


def without_values(raw: bytes) -> bytes:
    """A report of the server's for somebody whom no privilege keeps from real values: nothing in it that the server fills with such.

    That is every DETAIL ("Failing row contains", "Key (phone)=..."), and what functions and triggers say in words of their own. Other
    messages of the server's name columns and never quote rows.
    """
    fields = parse_error(raw[5:])
    inside = fields.get("W") is not None
    if not inside and fields.get("D") is None:
        return raw
    pairs = [(code, text) for code, text in fields.pairs if code not in _QUOTING]
    if fields.get("R") in _NAMING:
        return build_error(ErrorFields(tuple(pairs)), raw[0] if raw[0] == Back.NOTICE else Back.ERROR)
    if inside:
        pairs = [(code, _WITHHELD_MESSAGE if code == ord("M") else text) for code, text in pairs if code != ord("H")]
    pairs.append((ord("D"), _WITHHELD_DETAIL))
    return build_error(ErrorFields(tuple(pairs)), raw[0] if raw[0] == Back.NOTICE else Back.ERROR)


def as_the_clients(raw: bytes, plan: Plan | None) -> bytes:
    """The server's error about rows that pgveil fetches for a write, with the client's command in place of pgveil's own.

    A read-only transaction's error names it, in any language: the rows are locked where PostgreSQL would have written them.
    """
    if plan is None or plan.action not in _LOCKING:
        return raw
    fields = parse_error(raw[5:])
    message = fields.get("M")
    if fields.sqlstate != READ_ONLY or message is None:
        return raw
    return build_error(fields.replace("M", _LOCKS.sub(plan.action.upper().encode(), message)), Back.ERROR)


def withheld(raw: bytes) -> bytes:
    """A report of the server's of which nothing may pass but what it is and where, as it could not be recorded."""
    pairs = [(code, text) for code, text in parse_error(raw[5:]).pairs if code in _KEPT]
    pairs += [(ord("M"), _UNRECORDED_MESSAGE), (ord("D"), _UNRECORDED_DETAIL)]
    return build_error(ErrorFields(tuple(pairs)), raw[0] if raw[0] == Back.NOTICE else Back.ERROR)


def _move(fields: ErrorFields, offsets: OffsetMap) -> ErrorFields:
    position = fields.get("P")
    if position is None or not position.isdigit():
        return fields
    if offsets.nowhere:
        return fields.replace("P", None)
    return fields.replace("P", str(offsets.original(int(position))).encode())


def _scrub(code: int, text: bytes) -> bytes:
    if code not in _SCRUBBED:
        return text
    if code == ord("s") and _SCHEMA_NAME.fullmatch(text):
        return b"public"
    return scrubbed(text)


def holds_sealed(data: bytes) -> bool:
    """Whether a sealed value is somewhere in what the server sent."""
    return _SEALED.search(data) is not None


def scrubbed(text: bytes) -> bytes:
    """Words of the server's without ciphertext and without the names of masking schemas."""
    return _SCHEMA.sub(b"", _SEALED.sub(b"<sealed>", text)).replace(STAND_IN, b"<refused>")
