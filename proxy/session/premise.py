"""What an answer rests on: the decision on its text, as long as nothing that no description shows has been replaced meanwhile.

Bytes that the server sends for such a text wait until the catalog has been looked at after they came. What was judged then is judged again if
the catalog has changed, and passes if the outcome is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.session.gate import Admit, NeedNames, Pass, Refuse
from proxy.session.names import inner_decision, name_key
from proxy.session.replies import Trouble
from rules.model import SealMode
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from proxy.session.gate import Judge, Settings
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement

CATALOG_UNKNOWN: Final = Refusal(
    Reason.WITNESS,
    "08006",
    "pgveil can't read the database's catalog, and this statement may use a view or function that has changed",
    hint="See pgveil's log; check `catalog.dsn` in its configuration.",
)
REPLACED: Final = Trouble(
    "42501",
    "pgveil withheld the result: a view or function that the statement may use was replaced while it ran",
    hint="Send the statement again.",
)
UNKNOWN: Final = Trouble(CATALOG_UNKNOWN.sqlstate, CATALOG_UNKNOWN.message, hint=CATALOG_UNKNOWN.hint)


@dataclass(slots=True, eq=False)
class Premise:
    """A decision, and the judge's generation for which it is known to hold. `text` None: it can't be judged again. `judge`: whose it is (None: the session's)."""

    text: bytes | None
    decision: Pass | Admit
    settings: Settings
    extended: bool
    generation: int
    judge: Judge | None = None

    @classmethod
    def of(cls, statement: PreparedStatement | None, *, ours: bool = False) -> Premise | None:
        """Of an execution of a prepared statement, where it needs one. `ours`: the text is pgveil's own, a part of a computation."""
        if statement is None or not statement.decision.unshown:
            return None
        text = statement.text if statement.made is None and not ours else None
        return cls(text, statement.decision, statement.settings, True, statement.generation)

    def holds(self, state: State) -> bool:
        """Whether the text would be decided so today."""
        judge = self.judge or state.judge
        principal = state.principal if self.judge is None else judge.principal(state.identity.login)
        if judge.unchanged_since(self.generation):
            return True
        if self.text is None:
            return False
        found = judge.decide(self.text, principal, self.settings, extended=self.extended)
        if isinstance(found, NeedNames):
            # What a name stands for was planned, or is judged again, when the text was judged; what it uses is looked at like any text.
            return all(_name_holds(state, name, found) for name in (*found.prepared, *found.cursors))
        if isinstance(found, Pass | Admit | Refuse):
            found = judge.as_run(found, principal)
        old = self.decision
        alike = isinstance(found, Pass) and isinstance(old, Pass)
        if alike or (isinstance(found, Admit) and isinstance(old, Admit) and same(found, old)):
            self.generation = judge.generation
            return True
        return False


def _name_holds(state: State, name: str, need: NeedNames) -> bool:
    """Whether what a name stands for would be decided today as it was."""
    key = name_key(name, state.tracker.settings)
    if key is None:
        return False
    portal = state.portals.get(key) if name in need.cursors else None
    statement = state.statements.get(key) if portal is None else portal.statement
    if statement is None:
        return True  # nothing that pgveil knows of
    found = state.judge.decide(statement.text, state.principal, statement.settings, extended=True)
    if not isinstance(found, Pass | Admit):
        return False
    inner, old = found if statement.made is None else inner_decision(found), statement.decision
    if isinstance(inner, Admit) and isinstance(old, Admit):
        return same(inner, old)
    return isinstance(inner, Pass) and isinstance(old, Pass)


def same(new: Admit, old: Admit) -> bool:
    """Whether two decisions on one text do the same. A constant under a nonce is sealed otherwise each time, and means the same."""
    if new.plans != old.plans:
        return False
    nonces = any(s.column.mode is SealMode.RANDOMIZED for plan in new.plans if plan is not None for s in plan.literals)
    return new.text == old.text or nonces
