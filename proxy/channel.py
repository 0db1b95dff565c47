"""The line between the supervisor and a worker: messages over the worker's standard input, a socket pair.

A line of JSON each. It ends with either process, even by SIGKILL, which is how each knows of the other's end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import socket

# A message is a few words; the longest says what is wrong with a rules file.
_LONGEST: Final = 1 << 20
MAX_WHY: Final = 8192  # characters of an explanation


class Cover(msgspec.Struct, frozen=True, tag="cover"):
    """Take connections of these places too: their own workers are not there."""

    places: tuple[int, ...]


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Read configuration, rules, keys and certificates, and keep them ready. Answered."""

    number: int


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Put in force what was prepared. Answered."""

    number: int


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget what was prepared. Not answered."""

    number: int


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """A successor serves: drain, and end."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker takes connections."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker can't start. The reason is for the operator."""

    why: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """To a Prepare or Commit of that number. `why`: it could not be done."""

    number: int
    why: str | None = None


Order = Cover | Prepare | Commit | Abort | Retire
Report = Ready | Failed | Answer


class Line:
    """One end. `receive` gives the other's messages, None at its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, expects: type[object]) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.json.Decoder[Order | Report] = msgspec.json.Decoder(expects)

    @classmethod
    async def open(cls, sock: socket.socket, expects: object) -> Line:
        """The line over a connected socket, which it takes over. `expects`: the messages of the other end."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=_LONGEST)
        return cls(reader, writer, expects)  # type: ignore[arg-type] # a union is as good as a type to msgspec

    def send(self, message: Order | Report) -> None:
        """To the other end; to nobody where that has gone."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def receive(self) -> Order | Report | None:
        """The next message; None: the other process has ended, or speaks nonsense."""
        try:
            line = await self._reader.readline()
            return self._decoder.decode(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, msgspec.DecodeError):
            return None

    def close(self) -> None:
        """Let go."""
        self._writer.close()
