"""Places for logins: while the server has not let a client in, its connection there is one that anybody can have for nothing.

So there are only so many of them at once, in all and for each address; more wait. While somebody waits, those that take their time are ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.errors import TooManyLogins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config import Limits


@dataclass(eq=False, slots=True)
class Place:
    """One client's. Its time begins with its connection to the server: `taken`."""

    address: str
    clock: asyncio.Timeout
    since: float | None = None
    pressed: float | None = None

    def taken(self) -> None:
        """The server has been reached; from now on it waits for the client."""
        self.since = asyncio.get_running_loop().time()
        self.press(self.pressed)

    def press(self, seconds: float | None) -> None:
        """Others wait, so it must not take longer than that; None: nobody does any more."""
        self.pressed = seconds
        if self.since is not None and not self.clock.expired():
            self.clock.reschedule(None if seconds is None else self.since + seconds)


@dataclass(slots=True)
class Logins:
    """One worker's. `limits`: those in force."""

    limits: Limits
    _holders: set[Place] = field(default_factory=set)
    _held: Counter[str] = field(default_factory=Counter)
    # By address, in the order in which they get their turns. Within one the newest is the first: whoever floods waits behind himself.
    _waiting: dict[str, list[asyncio.Future[None]]] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, address: str, deadline: float) -> AsyncIterator[Place]:
        """A place, once there is one. `deadline`: when the whole login must be over, by the loop's clock.

        Raises TooManyLogins where there is none in time, and TimeoutError within where others wait and this takes too long.
        """
        await self._get(address, deadline)
        try:
            async with asyncio.timeout(None) as clock:
                holder = Place(address, clock)
                self._holders.add(holder)
                try:
                    self._press()
                    yield holder
                finally:
                    self._holders.discard(holder)
        finally:
            self._give_back(address)

    async def _get(self, address: str, deadline: float) -> None:
        """Waits for a place; it is counted as held from here on."""
        if self._free(address):
            self._held[address] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, []).append(turn)
        self._press()
        given = False
        try:
            async with asyncio.timeout_at(deadline):
                await turn
            given = True
        except TimeoutError:
            raise TooManyLogins(
                "sorry, too many clients already: too many logins are under way",
                hint="Try again. If nobody attacks, raise limits.logins and limits.logins_per_address in pgveil's configuration.",
            ) from None
        finally:
            if not given and turn.done() and not turn.cancelled():
                self._give_back(address)
            elif not given:
                self._forget(address, turn)

    def _give_back(self, address: str) -> None:
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
        self._next()

    def _forget(self, address: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(address, [])
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(address, None)

    def _free(self, address: str) -> bool:
        most, each = self.limits.logins, self.limits.logins_per_address
        return self._held.total() < most and (not each or self._held[address] < each)

    def _next(self) -> None:
        """Places that are free go to who waits: to each address in turn."""
        for address in list(self._waiting):
            if not self._free(address):
                continue
            turns = self._waiting.pop(address)
            turn = turns.pop()
            if turns:
                self._waiting[address] = turns  # the last in turn now
            self._held[address] += 1
            turn.set_result(None)
        if not self._waiting:
            for holder in self._holders:
                holder.press(None)

    def _press(self) -> None:
        """While somebody waits, nobody who keeps him waiting takes longer than the shorter time."""
        if not self._waiting:
            return
        full = self._held.total() >= self.limits.logins
        for holder in self._holders:
            if full or holder.address in self._waiting:
                holder.press(self.limits.pressed_seconds)
