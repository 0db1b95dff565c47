"""A workload through the Gate: every statement for everyone who sends it, as if the rules were applied."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.decisions import Gate
from proxy.observe.findings import Finding, Outcome, Place, finding
from proxy.observe.tally import Tally
from proxy.offline import ThrowawayKeys
from proxy.session.values import ValueCodec
from proxy.workload.entry import Entry, Passed
from rules.applied import as_applied

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.session.gate import Settings
    from proxy.workload.entry import Item
    from rules.catalog import Catalog
    from rules.model import Rules

MAX_SHAPES: Final = 100_000
MAX_BAD: Final = 1_000  # bad lines whose numbers are kept; more are counted


@dataclass(frozen=True, slots=True)
class Asker:
    """A login to judge for, and the settings that its sessions begin with. `known`: the database has it."""

    login: str
    settings: Settings
    known: bool = True


@dataclass(slots=True)
class Account:
    """What became of a workload. `entries`: lines or rows that told of a statement; `calls`: how often these were run, in all.

    `bad`: lines that were not understood (`bad_count` has those beyond the bound too); `others`: input without a statement, by kind;
    `elsewhere`: calls in other databases. `unknown`: logins of the workload that the database does not have.
    """

    tally: Tally
    entries: int = 0
    calls: int = 0
    bad: list[Passed] = field(default_factory=list)
    bad_count: int = 0
    others: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0
    unknown: set[str] = field(default_factory=set)


class Bench:
    """Judges entries one by one into an Account."""

    def __init__(
        self,
        rules: Rules,
        catalog: Catalog,
        askers: Mapping[str, Asker],
        everyone: tuple[str, ...],
        *,
        alone: bool = False,
        computes: bool = False,
        rows: int | None = None,
    ) -> None:
        """`askers` by login; `everyone`: those that a statement is judged for of which nobody says who sent it, or with `alone` any.

        `computes`: there will be a calculator, which may fetch so many `rows` for a statement.
        """
        codec = ValueCodec(ThrowawayKeys(), random=secrets.token_bytes)
        self._gate = Gate(rules, as_applied(rules, catalog), codec, computes=computes)
        self._place = Place(catalog, rules.version, self._gate.names, rows)
        self._askers = askers
        self._everyone = everyone
        self._alone = alone
        self.account = Account(Tally(MAX_SHAPES))

    def take(self, item: Item) -> None:
        """Count and judge one item."""
        account = self.account
        if isinstance(item, Passed):
            if not item.bad:
                account.others[item.why] = account.others.get(item.why, 0) + 1
                return
            account.bad_count += 1
            if len(account.bad) < MAX_BAD:
                account.bad.append(item)
            return
        account.entries += 1
        account.calls += item.calls
        if item.database is not None and item.database != self._place.database:
            account.elsewhere += item.calls
            return
        for asker in self._for(item):
            account.tally.add(self._judged(item, asker), item.calls, item.when, item.line)

    def _for(self, entry: Entry) -> Iterable[Asker]:
        if self._alone or entry.login is None:
            return (self._askers[login] for login in self._everyone)
        asker = self._askers[entry.login]
        if not asker.known:
            self.account.unknown.add(entry.login)
        return (asker,)

    def _judged(self, entry: Entry, asker: Asker) -> Finding:
        text = entry.text.encode()
        principal = self._gate.principal(asker.login)
        decision = self._gate.decide(text, principal, asker.settings, extended=entry.extended)
        made = finding(decision, principal, self._gate, self._place)
        if made.outcome is Outcome.PASSES or not made.shape:
            shape = self._gate.shape(text, asker.settings)
            made = finding(decision, principal, self._gate, self._place, shape=shape)
        return made
