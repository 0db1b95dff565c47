"""The masks that a rules file may name: their parameters and the types they fit.

`keys.mask` gives them meaning (this package imports nothing of ours); a test keeps the two tables in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.logical import Family, family, is_array, length_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Param:
    """A mask's parameter: "int" (with bounds), "str" (bounds on its length) or "value" (of the column's type).

    Without a default it has to be given.
    """

    kind: str
    doc: str
    default: str | int | None = None
    minimum: int = 0
    maximum: int = 0


@dataclass(frozen=True, slots=True)
class MaskKind:
    """One kind of mask. `fits`: the families of types that it can be used on, all of them and arrays too where it is None.

    `shortest`: characters that a text column must hold.
    """

    doc: str
    fits: frozenset[Family] | None
    params: Mapping[str, Param] = field(default_factory=dict)
    shortest: int = 0

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters that have to be given."""
        return tuple(name for name, p in self.params.items() if p.default is None)

    def suits(self, logical: str | None) -> bool:
        """Whether the mask can be used on columns of a canonical type; of an unknown one it may."""
        if self.fits is None or logical is None:
            return True
        length = length_of(logical)
        return not is_array(logical) and family(logical) in self.fits and (length is None or length >= self.shortest)


_TEXT = frozenset({Family.TEXT})
_NUMBERS = frozenset({Family.INTEGER, Family.NUMERIC, Family.FLOAT})
_DATES = frozenset({Family.DATE, Family.TIMESTAMP})
_MAX_KEPT = 32
_MAX_WIDTH = 10**12

MASK_KINDS: Mapping[str, MaskKind] = MappingProxyType(
    {
        "keep_first": MaskKind(
            "The first n characters are shown.",
            _TEXT,
            {"n": Param("int", "characters shown at the start", 1, maximum=_MAX_KEPT)},
        ),
        "keep_last": MaskKind(
            "The last n characters are shown.",
            _TEXT,
            {"n": Param("int", "characters shown at the end", 4, maximum=_MAX_KEPT)},
        ),
        "keep_first_last": MaskKind(
            "Both ends are shown.",
            _TEXT,
            {
                "first": Param("int", "characters shown at the start", 3, maximum=_MAX_KEPT),
                "last": Param("int", "characters shown at the end", 4, maximum=_MAX_KEPT),
            },
        ),
        "name": MaskKind("A person's name: the first character of each word is shown.", _TEXT),
        "phone": MaskKind("A telephone number: its first three and last four digits are shown.", _TEXT),
        "email": MaskKind("An e-mail address: its first character and its domain are shown.", _TEXT),
        "bank_card": MaskKind("A card number: its last four digits are shown.", _TEXT),
        "id_number": MaskKind("An identity number: its first and last characters are shown.", _TEXT),
        "year": MaskKind("The year of a date is shown.", _DATES | _TEXT),
        "range": MaskKind(
            "The range that a number lies in is shown.",
            _NUMBERS | _TEXT,
            {"width": Param("int", "width of a range", minimum=1, maximum=_MAX_WIDTH)},
        ),
        "constant": MaskKind(
            "The same value is shown for all.",
            None,
            {"value": Param("value", "what is shown, a value of the column's type", maximum=10_000)},
        ),
        "null": MaskKind("NULL is shown.", None),
        "pseudonym": MaskKind(
            "A token is shown, equal for equal values.",
            _TEXT,
            {"scope": Param("str", "pseudonyms of different scopes cannot be matched", "", maximum=63)},
            shortest=10,
        ),
    }
)


def masks_for(logical: str | None, *, bare: bool = False) -> tuple[str, ...]:
    """The kinds that suit a type; with `bare`, only those that need no parameters."""
    return tuple(name for name, kind in MASK_KINDS.items() if kind.suits(logical) and not (bare and kind.required))
