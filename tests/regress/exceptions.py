"""Files whose output through pgveil is not the direct one to the byte, by the server's major version, each with its reason."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERS: Final = (
    "prints the OID and the transaction id of a table that 15 turns into a view: they depend on how often autovacuum has "
    "run by then, and a run through pgveil takes longer"
)
_BUFFERS: Final = (
    "EXPLAIN ANALYZE of 18 prints how many pages of the catalog planning had to read: that depends on what the session has in its "
    "caches, and pgveil asks for its settings in between"
)
EXCEPTIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"15": {}, "16": {"rules": _NUMBERS}, "18": {"brin_multi": _BUFFERS, "memoize": _BUFFERS}}
)

# Files whose direct output is not the one in expected/, since the database has pgveil's own objects in it. Through pgveil it is the same.
NOT_AS_EXPECTED: Final[Mapping[str, str]] = MappingProxyType(
    {"opr_sanity": "lists every SECURITY DEFINER function of the database, and finds two that `pgveil apply` has made"}
)
