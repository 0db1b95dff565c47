"""Arrays of text in binary form (array_recv, PostgreSQL's src/backend/utils/adt/arrayfuncs.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXT_OID: Final = 25
_EMPTY: Final = Struct("!iiI")
_HEAD: Final = Struct("!iiIii")
_LENGTH: Final = Struct("!i")
_NULL: Final = _LENGTH.pack(-1)


def text_array(values: Sequence[bytes | None]) -> bytes:
    """A text[] of one dimension."""
    if not values:
        return _EMPTY.pack(0, 0, _TEXT_OID)
    length = _LENGTH.pack
    parts = [_HEAD.pack(1, None in values, _TEXT_OID, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (length(len(value)), value)
    return b"".join(parts)
