"""What the chapters of the story share: the stage, the people, and the customers whom it follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifecycle.demo.people import AUDIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from lifecycle.demo.bank import Bank
    from lifecycle.demo.disk import OnDisk
    from lifecycle.demo.leaks import Secrets
    from lifecycle.demo.people import Answer, Person, Seat
    from lifecycle.demo.stage import Stage
    from lifecycle.demo.telling import Teller
    from rules.model import PolicyClass


@dataclass(frozen=True, slots=True)
class Hero:
    """A customer whom the story follows, with a card of theirs."""

    customer: Mapping[str, Any]
    card: Mapping[str, Any]

    def text(self, *names: str) -> dict[str, str]:
        """Values of the customer as a client reads them."""
        return {name: str(self.customer[name]) for name in names}


@dataclass(slots=True)
class Story:
    """What the chapters share."""

    stage: Stage
    teller: Teller
    bank: Bank
    admin: asyncpg.Connection[Any]
    secrets: Secrets
    heroes: tuple[Hero, Hero]
    before: OnDisk
    seats: dict[Person, Seat] = field(default_factory=dict)
    classes: dict[Person, PolicyClass] = field(default_factory=dict)

    @property
    def customer_ids(self) -> str:
        """The heroes' keys, for an IN list."""
        return ", ".join(str(hero.customer["id"]) for hero in self.heroes)

    @property
    def card_ids(self) -> str:
        """Their cards' keys."""
        return ", ".join(str(hero.card["id"]) for hero in self.heroes)

    @property
    def pan(self) -> str:
        """The first hero's card number, which the story looks for on the disk."""
        return str(self.heroes[0].card["pan"])

    async def ask_all(self, sql: str, *arguments: Any) -> dict[Person, Answer]:
        """The same statement by each of the four. What masked people got is searched for what they must not get."""
        answers = {person: await self.seats[person].ask(sql, *arguments) for person in AUDIENCE}
        for person, answer in answers.items():
            self.check_no_leak(person, answer.text)
        return answers

    def check_no_leak(self, person: Person, text: str) -> None:
        """Raises ClaimError where `text` holds a value that `person` may not see clear."""
        leaked = self.secrets.leaked(self.classes[person], text)
        self.teller.check(not leaked, f"the {person.title} got no clear value of {', '.join(map(str, leaked))}")
