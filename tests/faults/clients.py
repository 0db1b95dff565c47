"""Clients that write and read protected values whatever happens, and a journal of what each was told."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.ground import Ground

_PAUSE = 0.05  # between attempts to connect
_ROWS = 1_000_000  # keys of one client


def pan_of(n: int, version: int) -> str:
    """What is written under key `n` the `version`th time: the value tells where it belongs."""
    return f"62{n:011d}{version:04d}"


@dataclass
class Entry:
    """One key of the ledger, as its only writer knows it. Versions that are in doubt may be there or not."""

    acknowledged: int = 0  # the newest version whose commit was confirmed; 0: none
    attempted: int = 1


@dataclass
class Client:
    """One writer. What it was told, by connection: released protected rows (reads) and confirmed writes, in statements."""

    number: int
    dsn: Callable[[str], str]
    stopping: threading.Event
    base: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    released: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)
    commits: int = 0
    lost_connections: list[str] = field(default_factory=list)
    refused_connections: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    crowd: int = 1
    _life: int = 0

    def run(self) -> None:
        """Until told to stop."""
        chance = random.Random(self.number)
        while not self.stopping.is_set():
            self._life += 1
            name = f"client{self.number:02d}-{self.crowd}-{self._life}"
            try:
                connection = psycopg.connect(self.dsn(name), autocommit=True)
            except psycopg.OperationalError:
                self.refused_connections += 1
                time.sleep(_PAUSE)
                continue
            try:
                while not self.stopping.is_set():
                    self._once(connection, name, chance)
            except psycopg.Error as error:
                self.errors[f"{error.sqlstate} {str(error).splitlines()[0]}"] += 1
                self.lost_connections.append(name)
            finally:
                connection.close()

    def _once(self, connection: psycopg.Connection[Any], name: str, chance: random.Random) -> None:
        """One piece of work. An error of the connection ends it; what was under way is then in doubt."""
        n = self.base + self.number * _ROWS + len(self.entries)
        entry = self.entries[n] = Entry()
        insert = ("insert into ledger (n, pan) values (%s, %s)", (n, pan_of(n, 1)))
        version = 1
        match chance.randrange(3):
            case 0:
                connection.execute(*insert)
            case 1:
                with connection.transaction():
                    connection.execute(*insert)
                    version = entry.attempted = 2
                    connection.execute("update ledger set pan = %s where n = %s", (pan_of(n, 2), n))
                self.confirmed[name] += 1
            case _:
                with connection.pipeline():
                    connection.execute(*insert)
        entry.acknowledged = version
        self.confirmed[name] += 1
        self.commits += 1
        row = connection.execute("select pan from ledger where n = %s", (n,)).fetchone()
        if row is None or row[0] != pan_of(n, entry.acknowledged):
            self.wrong.append(f"{n}: read {row} after version {entry.acknowledged} was confirmed")
        self.released[name] += 1


@dataclass
class Crowd:
    """Several clients at once, each in a thread."""

    ground: Ground
    count: int
    stopping: threading.Event = field(default_factory=threading.Event)
    clients: list[Client] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        # Keys behind those of earlier crowds.
        base = int(self.ground.pg.psql("select coalesce(max(n), 0) from ledger", self.ground.database) or 0)
        # And names that no earlier crowd has in the log.
        self.ground.crowds += 1
        for number in range(1, self.count + 1):
            client = Client(
                number, lambda name: self.ground.dsn("app", name=name), self.stopping, base, crowd=self.ground.crowds
            )
            self.clients.append(client)
            self._threads.append(threading.Thread(target=client.run, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def commits(self) -> int:
        """Commits that were confirmed so far."""
        return sum(client.commits for client in self.clients)

    def stuck(self) -> list[int]:
        """Clients whose thread has not ended."""
        return [c.number for c, t in zip(self.clients, self._threads, strict=True) if t.is_alive()]
