"""Relations and columns that the server describes and the catalog does not know: made a moment ago past pgveil, or by this very session.

A description that names one waits until the catalog has been read again. What is unknown even then is temporary, or was made in this session's
open transaction, where nobody else can see it: made with the login's own rights, which the server holds it to. For a login that privileges
do not hold, and where no such transaction is open, it stays withheld.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.replies import Trouble
from proxy.wire.messages import parse_row_description
from rules.model import Verdict

if TYPE_CHECKING:
    from proxy.session.state import State

# What initdb made has smaller OIDs (FirstNormalObjectId, PostgreSQL's access/transam.h), and none of it holds users' data.
FIRST_NORMAL_OID = 16384
_REMEMBERED: Final = 64  # descriptions a session
_LONGEST: Final = 4096  # bytes of one of them


class Strangers:
    """Holds back one description at a time."""

    __slots__ = ("_familiar", "_state", "given_up", "waiting")

    def __init__(self, state: State) -> None:
        self._state = state
        self._familiar: dict[bytes, int] = {}  # descriptions found harmless, and the judge's generation then
        self.waiting: bytes | None = None  # the RowDescription that waits for the catalog
        self.given_up = False  # the catalog could not be read

    def stop(self, raw: bytes) -> bool:
        """Whether a RowDescription (whole message) must wait. The catalog is stale then. Raises ProtocolError."""
        if not self._unknown(raw):
            return False
        self.waiting = raw
        self._state.outdate()
        return True

    def take(self) -> bytes | None:
        """The description that waited, once the catalog has been read or given up; None while it waits, or where none does."""
        if self.waiting is None or (self._state.catalog_stale and not self.given_up):
            return None
        raw, self.waiting = self.waiting, None
        return raw

    def trouble(self, raw: bytes) -> Trouble | None:
        """Why a description that waited does not pass all the same."""
        given_up, self.given_up = self.given_up, False
        state = self._state
        principal = state.principal
        limited = any(v is not Verdict.CLEAR for v in principal.policy.verdicts.values())
        if not limited or not self._unknown(raw):
            return None
        own = state.pipeline.status == b"T" or state.ddl_in_flight or state.ddl_ran
        if own and not principal.exposed and not given_up:
            return None
        return Trouble(
            "42501",
            "pgveil withheld the result: it comes from a relation that pgveil does not know",
            None,
            "If it was made a moment ago, try again; if it was made in this transaction, commit first.",
        )

    def _unknown(self, raw: bytes) -> bool:
        judge = self._state.judge
        if self._familiar.get(raw) == judge.generation:
            return False
        columns = frozenset((f.table, f.attnum) for f in parse_row_description(raw[5:]) if f.table >= FIRST_NORMAL_OID)
        if columns and judge.unfamiliar(columns):
            return True
        if len(self._familiar) >= _REMEMBERED:
            self._familiar.clear()
        if len(raw) <= _LONGEST:
            self._familiar[raw] = judge.generation
        return False
