"""What the type modules share: logical types as values, their errors, and the settings that the client's text form depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

UNKNOWN_OIDS = frozenset({0, 705})
# The ASCII white space that the server's isspace() knows; Python's own idea of it is wider.
BLANKS = " \t\n\v\f\r"


class TypeSpecError(ValueError):
    """A type's spelling that pgveil does not know. The text says what is wrong and what is known; specs are not secret."""


class WireValueError(ValueError):
    """A value that is not of its type, in PostgreSQL's own words and SQLSTATE, without the value."""

    def __init__(self, sqlstate: str, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail


class UnrepresentableError(WireValueError):
    """Under `exact`: a good value that no value of the column can equal (too long, too fine, out of range).

    In a comparison it means "no row", where an assignment would round, cut or fail.
    """


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """The session settings that text forms depend on, as ParameterStatus and SHOW spell them. Defaults are canonical form's own.

    `others`: names and values of those that only the calculator goes by.
    """

    date_style: str = "ISO, MDY"
    timezone: str = "UTC"
    bytea_output: str = "hex"
    extra_float_digits: int = 1
    interval_style: str = "postgres"
    client_encoding: str = "UTF8"
    others: tuple[tuple[str, str], ...] = ()

    def reads_as(self, other: OutputSettings) -> bool:
        """Whether constants mean the same under both."""
        shown = replace(other, bytea_output=self.bytea_output, extra_float_digits=self.extra_float_digits)
        return self == shown


CANONICAL_SETTINGS = OutputSettings()


@dataclass(frozen=True, slots=True)
class LogicalType:
    """A column's type as clients see it.

    `name` is format_type's spelling. `oid`, `typlen`, `typmod` are what RowDescription shows for a plain column of that type.
    `labels` is None but for enums; there `oid` (and an array's) is 0 until `with_enum` gives the database's own.
    """

    name: str
    oid: int
    typlen: int
    typmod: int
    array: bool = False
    element: LogicalType | None = None
    labels: tuple[str, ...] | None = None

    @property
    def scalar(self) -> LogicalType:
        """The element's type of an array, the type itself otherwise."""
        return self if self.element is None else self.element


class ScalarCodec(ABC):
    """One scalar type's forms. `label` is the name in error messages; canonical bytes are described in `keys.types`."""

    label: ClassVar[str] = ""

    @abstractmethod
    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """Text input to canonical bytes. Raises WireValueError."""

    @abstractmethod
    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Binary input to canonical bytes. Raises WireValueError."""

    @abstractmethod
    def dump(self, canonical: bytes) -> bytes:
        """Canonical bytes to the binary form (typsend)."""

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """Canonical bytes to the text form under `settings`; the canonical bytes themselves unless overridden."""
        del settings
        return canonical

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Whether `show` gives back its argument under `settings`, so that a caller can skip it."""
        del settings
        return True


def invalid_syntax(label: str) -> WireValueError:
    """22P02 for text that is not of the type."""
    return WireValueError("22P02", f"invalid input syntax for type {label}")


def out_of_range(label: str) -> WireValueError:
    """22003 for a number beyond the type."""
    return WireValueError("22003", f"value is out of range for type {label}")


def need_length(data: bytes, length: int) -> None:
    """Refuse a binary value of another length than the type's."""
    if len(data) < length:
        raise WireValueError("08P01", "insufficient data left in message")
    if len(data) > length:
        raise WireValueError("22P03", "incorrect binary data format")


def utf8(data: bytes) -> str:
    """The text of UTF-8 bytes as the server would take them: 22021 for anything else, NUL included."""
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        # The exception holds the value, so it must not become the context of ours.
        text = None
    if text is None:
        raise WireValueError("22021", 'invalid byte sequence for encoding "UTF8"')
    if "\0" in text:
        raise WireValueError("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def client_text(data: bytes, settings: OutputSettings | None) -> str:
    """The client's text. Only UTF-8 is understood; pure ASCII is the same in every client encoding."""
    if settings is not None and not data.isascii():
        refuse_encoding(settings)
    return utf8(data)


def refuse_encoding(settings: OutputSettings) -> None:
    """0AP01 where text beyond ASCII would have to be converted to or from another client encoding."""
    if settings.client_encoding.upper().replace("-", "") not in {"UTF8", "UNICODE", "SQL_ASCII"}:
        raise WireValueError(
            "0AP01",
            f"protected columns need client_encoding UTF8, not {settings.client_encoding}, for text beyond ASCII",
        )
