"""The masks: what is shown of a value to those who may not see it. Each has two forms that give the same answer.

`Mask.apply` works on canonical bytes (sealed columns, in the proxy); `Mask.sql` is an expression for a masking view (columns that are
stored plain). NULL stays NULL under every mask: the proxy could not tell it from an outer join's.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from keys import mask_text
from keys.mask_forms import FORMS, Context, MaskError, private_schema, quote_ident
from keys.typespec import type_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keys.typeio_base import LogicalType

__all__ = ["MASK_KINDS", "Mask", "MaskError", "MaskKind", "MaskParameter", "make_mask", "private_schema"]

TEXT, NUMBER, DATE, ANY = "text", "number", "date", "any"
_FAMILIES = {
    25: TEXT,
    1043: TEXT,
    1042: TEXT,
    21: NUMBER,
    23: NUMBER,
    20: NUMBER,
    1700: NUMBER,
    700: NUMBER,
    701: NUMBER,
    1082: DATE,
    1114: DATE,
    1184: DATE,
}
MAX_WIDTH = 10**12


@dataclass(frozen=True, slots=True)
class MaskParameter:
    """One parameter: `type` is "int", "str" or "value" (an int, bool or str that is of the column's type).

    `minimum` and `maximum` bound an int itself and a str's length in characters. Without `default` it must be given.
    """

    name: str
    type: str
    default: int | str | None = None
    minimum: int = 0
    maximum: int = 0
    description: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is None


@dataclass(frozen=True, slots=True)
class MaskKind:
    """One kind of mask. `families` are of "text" (text, varchar, char), "number", "date" (date, timestamps) or "any".

    `description` says what remains visible; `example` is a value and its mask under `example_parameters`.
    """

    name: str
    families: frozenset[str]
    description: str
    example: tuple[str, str | None]
    parameters: tuple[MaskParameter, ...] = ()
    example_parameters: tuple[tuple[str, int | str], ...] = ()


def _count(name: str, default: int, description: str) -> MaskParameter:
    return MaskParameter(name, "int", default, 0, mask_text.MAX_KEPT, description)


_ONLY_TEXT = frozenset({TEXT})

_KINDS = (
    MaskKind(
        "keep_first",
        _ONLY_TEXT,
        "Visible: the first n characters if the value has more than n, and how many there are.",
        ("13800138000", "1**********"),
        (_count("n", 1, "characters shown at the start"),),
    ),
    MaskKind(
        "keep_last",
        _ONLY_TEXT,
        "Visible: the last n characters if the value has more than n, and how many there are.",
        ("13800138000", "*******8000"),
        (_count("n", 4, "characters shown at the end"),),
    ),
    MaskKind(
        "keep_first_last",
        _ONLY_TEXT,
        "Visible: the first and last characters if the value has more than both together, and how many there are.",
        ("13800138000", "138****8000"),
        (_count("first", 3, "characters shown at the start"), _count("last", 4, "characters shown at the end")),
    ),
    MaskKind(
        "name",
        _ONLY_TEXT,
        "Visible: the first character of each word of two or more, the blanks between words, and how long each word is.",
        ("John Smith", "J*** S****"),
    ),
    MaskKind(
        "phone",
        _ONLY_TEXT,
        "Visible: of 11 digits or more the first three and last four, of 8 to 10 the last four, of fewer none; blanks and ()+-. ; the length.",
        ("138 0013 8000", "138 **** 8000"),
    ),
    MaskKind(
        "email",
        _ONLY_TEXT,
        "Visible: the first character before the @ (if there are two), the length of that part, and the domain; of what is no address only the length.",
        ("john@example.com", "j***@example.com"),
    ),
    MaskKind(
        "bank_card",
        _ONLY_TEXT,
        "Visible: the last four digits if there are twelve or more, blanks and ()+-. , and the length.",
        ("6222 0212 3456 7890", "**** **** **** 7890"),
    ),
    MaskKind(
        "id_number",
        _ONLY_TEXT,
        "Visible: the first and the last character if there are eight or more, and how many there are.",
        ("11010519491231002X", "1****************X"),
    ),
    MaskKind(
        "year",
        frozenset({DATE, TEXT}),
        "Visible: the year: of a date or timestamp (in UTC) its first of January, of text that starts with a full date the four digits; of other text only the length.",
        ("1990-05-17", "1990-01-01"),
    ),
    MaskKind(
        "range",
        frozenset({NUMBER, TEXT}),
        "Visible: the range of the given width that the number lies in: its lower bound for numbers, 'lo-hi' for text that is a number; of other text only the length.",
        ("37", "30-39"),
        (MaskParameter("width", "int", None, 1, MAX_WIDTH, "width of a range"),),
        (("width", 10),),
    ),
    MaskKind(
        "constant",
        frozenset({ANY}),
        "Visible: whether there is a value. It is the same for all.",
        ("13800138000", "hidden"),
        (MaskParameter("value", "value", None, 0, 10_000, "what is shown, a value of the column's type"),),
        (("value", "hidden"),),
    ),
    MaskKind("null", frozenset({ANY}), "Visible: nothing.", ("13800138000", None)),
    MaskKind(
        "pseudonym",
        _ONLY_TEXT,
        "Visible: which values are equal, within one scope. A keyed digest (HMAC-SHA-256) that nobody can compute or invert without the key.",
        ("13800138000", "p_1f3870be274f6c49"),
        (MaskParameter("scope", "str", "", 0, 63, "pseudonyms of different scopes can't be matched"),),
    ),
)

MASK_KINDS: Mapping[str, MaskKind] = MappingProxyType({kind.name: kind for kind in _KINDS})


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of one column's type. Made by `make_mask`."""

    kind: str
    type: LogicalType
    _apply: Callable[[bytes], bytes | None]
    _sql: Callable[[str], str]

    def apply(self, canonical: bytes | None) -> bytes | None:
        """The masked value, in canonical bytes of the same type. None is NULL."""
        return None if canonical is None else self._apply(canonical)

    def sql(self, expression: str) -> str:
        """An expression of the column's type, modifier included, over `expression` of that type. Needs `mask_sql.install_sql`."""
        return f"CAST({self._sql(f'({expression})')} AS {type_sql(self.type)})"


def make_mask(
    kind: str,
    params: Mapping[str, object],
    type_: LogicalType,
    *,
    pseudonym_key: bytes | None = None,
    schema: str = "pgveil",
) -> Mask:
    """The mask of that kind for columns of `type_`. `schema` is where `install_sql` put its functions.

    A pseudonym without `pseudonym_key` can be written as SQL but not applied. Raises MaskError.
    """
    found = MASK_KINDS.get(kind)
    if found is None:
        raise MaskError(f"unknown mask {kind!r}; known: {', '.join(MASK_KINDS)}")
    values = _parameters(found, params)
    family = ANY if type_.array or type_.labels is not None else _FAMILIES.get(type_.oid, ANY)
    if ANY not in found.families and family not in found.families:
        raise MaskError(
            f"mask {kind} does not apply to type {type_.name}; it applies to: {', '.join(sorted(found.families))}"
        )
    context = Context(type_, family == TEXT, quote_ident(schema), quote_ident(private_schema(schema)), pseudonym_key)
    apply, sql = FORMS[kind](context, values)
    return Mask(kind, type_, apply, sql)


def _parameters(kind: MaskKind, params: Mapping[str, object]) -> dict[str, int | str]:
    known = {p.name: p for p in kind.parameters}
    for name in params:
        if name not in known:
            raise MaskError(f"mask {kind.name} has no parameter {name!r}; known: {', '.join(known) or 'none'}")
    values: dict[str, int | str] = {}
    for parameter in kind.parameters:
        value = params.get(parameter.name, parameter.default)
        if value is None:
            raise MaskError(f"mask {kind.name} needs parameter {parameter.name!r}: {parameter.description}")
        values[parameter.name] = _parameter(kind, parameter, value)
    return values


def _parameter(kind: MaskKind, parameter: MaskParameter, value: object) -> int | str:
    where = f"mask {kind.name}, parameter {parameter.name!r}"
    if parameter.type == "value":
        if isinstance(value, bool):
            return "t" if value else "f"
        if not isinstance(value, int | str):
            raise MaskError(f"{where}: a text, a whole number or a boolean")
        return str(value)
    if parameter.type == "int":
        if isinstance(value, bool) or not isinstance(value, int) or not parameter.minimum <= value <= parameter.maximum:
            raise MaskError(f"{where}: a whole number from {parameter.minimum} to {parameter.maximum}")
        return value
    if not isinstance(value, str) or not parameter.minimum <= len(value) <= parameter.maximum or "\0" in value:
        raise MaskError(f"{where}: a text of at most {parameter.maximum} characters")
    return value
