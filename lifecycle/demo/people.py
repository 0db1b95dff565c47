"""The story's people: a login each, a connection through pgveil, and what it answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at the bank."""

    login: str
    title: str


APP: Final = Person("app", "application")
TELLER: Final = Person("teller", "teller")
AGENT: Final = Person("agent", "call-centre agent")
ANALYST: Final = Person("analyst", "analyst")
DBA: Final = Person("dba", "DBA")
AUDIENCE: Final = (TELLER, AGENT, ANALYST, DBA)
"""Those whose views stand side by side."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An error that the client got."""

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave: rows as text by column name, or the error."""

    names: tuple[str, ...] = ()
    rows: tuple[Mapping[str, str], ...] = ()
    refusal: Refused | None = None

    @property
    def text(self) -> str:
        """Everything that the client received, for the search for values that it should not have."""
        refusal = self.refusal
        told = () if refusal is None else filter(None, (refusal.message, refusal.detail, refusal.hint))
        return "\n".join([*told, *(value for row in self.rows for value in row.values())])

    def column(self, name: str) -> tuple[str, ...]:
        """The values of one column."""
        return tuple(row[name] for row in self.rows)

    @property
    def sqlstate(self) -> str:
        """The error's, or "00000"."""
        return "00000" if self.refusal is None else self.refusal.sqlstate


class Seat:
    """One person's connection, through pgveil or straight to the server."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    async def take(cls, dsn: str) -> Seat:
        """Connect. TLS is no part of the story: everything is on one machine."""
        return cls(await asyncpg.connect(dsn, ssl=False, timeout=_SECONDS, command_timeout=_SECONDS))

    async def ask(self, sql: str, *arguments: Any) -> Answer:
        """Run a statement as an application does: prepared, in binary. An error of the server's or of pgveil's is an answer too."""
        try:
            statement = await self._connection.prepare(sql)
            rows = await statement.fetch(*arguments)
        except asyncpg.PostgresError as error:
            return Answer(refusal=_refused(error))
        names = tuple(dict.fromkeys(a.name for a in statement.get_attributes()))
        return Answer(names, tuple({name: _shown(row[name]) for name in names} for row in rows))

    async def leave(self) -> None:
        """Disconnect as an application does."""
        await self._connection.close(timeout=_SECONDS)

    def drop(self) -> None:
        """Disconnect at once, whatever goes on."""
        self._connection.terminate()


def _refused(error: asyncpg.PostgresError) -> Refused:
    return Refused(
        error.sqlstate or "XX000", str(error.args[0]), getattr(error, "detail", None), getattr(error, "hint", None)
    )


def _shown(value: Any) -> str:
    """A value as psql would show it, as far as this story has them."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)
