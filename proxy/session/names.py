"""Names that SQL gives: statements of PREPARE and cursors of DECLARE, in the same books as those of the protocol, as the server holds them too.

The books of the protocol follow what was sent; these changes are made when the server says that the statement has completed. Until then whatever
runs by a name waits. A record too many (of a cursor that its transaction took with it) is harmless: the server knows the name no longer.
A record of another statement than the server's can't come about through texts that pgveil sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.gate import Admit, Known, NameChange, Pass
from proxy.session.statements import Portal, PreparedStatement
from rules.encodings import EncodingError, encode_sql
from rules.named import NameUse

if TYPE_CHECKING:
    from proxy.session.gate import Judge, Settings
    from proxy.session.state import State


class Renaming:
    """What one text does to the session's names, statement by statement as these complete. `settings`, `generation`: it was decided under them."""

    __slots__ = ("_at", "_changes", "_generation", "_judge", "_settings")

    def __init__(
        self, changes: tuple[NameChange | None, ...], settings: Settings, generation: int, judge: Judge | None = None
    ) -> None:
        self._changes = changes
        self._settings = settings
        self._generation = generation
        self._judge = judge  # who decided, where that is one by older rules: a cursor that is declared keeps it
        self._at = 0

    def completed(self, state: State) -> None:
        """The next statement of the text has completed."""
        change = self._changes[self._at] if self._at < len(self._changes) else None
        self._at += 1
        if change is None:
            return
        state.names_version += 1
        name = None if change.name is None else name_key(change.name, self._settings)
        match change.use:
            case NameUse.PREPARES if name is not None:
                state.statements.put(name, self._statement(name, change, state))
            case NameUse.DECLARES if name is not None:
                portal = Portal(name, self._statement(b"", change, state))
                portal.judge = self._judge
                state.portals.put(name, portal)
            case NameUse.DEALLOCATES if name is not None:
                state.statements.remove(name)
            case NameUse.CLOSES if name is not None:
                state.portals.remove(name)
            case NameUse.CLOSES | NameUse.FORGETS:
                _forget_cursors(state)
            case _:
                pass  # DEALLOCATE ALL is known by its completion tag

    def _statement(self, name: bytes, change: NameChange, state: State) -> PreparedStatement:
        assert change.decision is not None
        decision = state.judge.as_run(change.decision, state.principal)
        assert isinstance(decision, Pass | Admit)
        made = PreparedStatement(name, change.text, change.types, decision, self._settings, self._generation)
        made.made, made.hold = change.use, change.hold
        return made


def _forget_cursors(state: State) -> None:
    state.portals.keep(
        {p.name for p in state.portals if p.statement is None or p.statement.made is not NameUse.DECLARES}
    )


def name_key(name: str, settings: Settings) -> bytes | None:
    """A name of SQL as the protocol would write it; None where the client's encoding has no such characters."""
    try:
        return encode_sql(name, settings.client_encoding)
    except EncodingError:
        return None


def known(statement: PreparedStatement) -> Known:
    """What executing a prepared statement, or fetching from a cursor, does."""
    decision = statement.decision
    return Known(statement.plan, decision.unsettles, decision.ddl)


def inner_decision(decision: Pass | Admit) -> Pass | Admit | None:
    """Of a decision on the text of a PREPARE or DECLARE: that on what the name stands for."""
    change = decision.names[0] if len(decision.names) == 1 else None
    return None if change is None else change.decision
