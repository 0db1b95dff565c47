"""The masks that a rules file may name: their parameters and the types they fit.

`keys.mask` gives them meaning (this package imports nothing of ours); a test keeps the two tables in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.logical import Family

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Param:
    """A mask's parameter. `kind` is "int" (with bounds), "char" (one character) or "str"; without a default it has to be given."""

    kind: str
    doc: str
    default: str | int | None = None
    minimum: int = 0
    maximum: int = 1000


@dataclass(frozen=True, slots=True)
class MaskKind:
    """One kind of mask. `fits`: the families of types that it can be used on; arrays are masked element by element."""

    doc: str
    fits: frozenset[Family]
    params: Mapping[str, Param] = field(default_factory=dict)

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters that have to be given."""
        return tuple(name for name, p in self.params.items() if p.default is None)


_TEXT = frozenset({Family.TEXT})
_FILL = Param("char", "the sign that stands for a hidden character", default="*")

MASK_KINDS: Mapping[str, MaskKind] = MappingProxyType(
    {
        "keep_first": MaskKind(
            "shows the first characters, hides the rest",
            _TEXT,
            {"count": Param("int", "how many characters are shown"), "fill": _FILL},
        ),
        "keep_last": MaskKind(
            "shows the last characters, hides the rest",
            _TEXT,
            {"count": Param("int", "how many characters are shown"), "fill": _FILL},
        ),
        "keep_first_last": MaskKind(
            "shows both ends, hides the middle",
            _TEXT,
            {
                "first": Param("int", "characters shown at the beginning"),
                "last": Param("int", "characters shown at the end"),
                "fill": _FILL,
            },
        ),
        "name": MaskKind("a person's name, Chinese or Western", _TEXT),
        "phone": MaskKind("a telephone number", _TEXT),
        "email": MaskKind("an e-mail address", _TEXT),
        "bank_card": MaskKind("a bank card number", _TEXT),
        "id_number": MaskKind("an identity card number", _TEXT),
        "year": MaskKind("keeps the year of a date", frozenset({Family.DATE, Family.TIMESTAMP})),
        "range": MaskKind(
            "the beginning of the range that a number falls into",
            frozenset({Family.INTEGER, Family.NUMERIC, Family.FLOAT}),
            {"step": Param("int", "the width of a range", minimum=1, maximum=1_000_000_000)},
        ),
        "constant": MaskKind(
            "the same value for every row", frozenset(Family), {"value": Param("str", "the value, as text")}
        ),
        "null": MaskKind("NULL for every row", frozenset(Family)),
        "pseudonym": MaskKind("a stable token: equal values give equal tokens", _TEXT),
    }
)
