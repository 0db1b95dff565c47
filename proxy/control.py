"""The supervisor's control socket: one question and one answer a connection, each a line of JSON.

A Unix socket for pgveil's own account and root. Commands reach the running pgveil by it and are told what came of what they asked (docs/adr/0021).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec
import structlog

from proxy.errors import ConfigError, PgveilError
from proxy.listening import listen_unix
from proxy.reports import Reported

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST: Final = 1 << 20
_BACKLOG: Final = 16
_ASK_SECONDS: Final = 5.0  # for the question; the answer takes as long as it takes


class NotRunning(PgveilError):  # noqa: N818 - as its neighbours
    """Nobody listens at the control socket."""

    sqlstate = "08001"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for."""

    command: Literal["reload", "restart"]


class Asked(Protocol):
    """Who does it."""

    async def reload(self) -> Reported:
        """Put in force what the files say now."""

    async def restart(self) -> Reported:
        """Replace the workers."""


class Control:
    """The supervisor's end. Where the socket can't be made pgveil runs without it: signals still work."""

    def __init__(self, path: Path, asked: Asked) -> None:
        self._path = path
        self._asked = asked
        self._log = structlog.get_logger("supervisor")
        self._server: asyncio.Server | None = None
        self._made: tuple[int, int] | None = None

    async def start(self) -> None:
        """Answer from now on."""
        try:
            sock = listen_unix(self._path, _BACKLOG, mode=0o600)
        except (OSError, ConfigError) as error:
            self._log.warning("control.unavailable", path=str(self._path), errno=getattr(error, "errno", None))
            return
        status = self._path.stat()
        self._made = status.st_dev, status.st_ino
        self._server = await asyncio.start_unix_server(self._answer, sock=sock, limit=_LONGEST)

    def close(self) -> None:
        """Answer no more. A socket that another pgveil has put in our place stays."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(OSError):
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._made:
                self._path.unlink()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                line = await reader.readline()
            question = msgspec.json.decode(line, type=Question)
        except (OSError, ValueError, TimeoutError, msgspec.DecodeError):
            writer.close()
            return
        self._log.info("control.asked", action=question.command)
        reported = await (self._asked.reload() if question.command == "reload" else self._asked.restart())
        with contextlib.suppress(OSError):
            writer.write(msgspec.json.encode(reported) + b"\n")
            await writer.drain()
        writer.close()


def ask(path: Path, command: Literal["reload", "restart"]) -> Reported:
    """Ask the pgveil that listens at `path`, and wait for what comes of it. Raises NotRunning."""
    hint = "Is pgveil running with this configuration, and is this its account? Its log says where its control socket is not available."
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_ASK_SECONDS)
            sock.connect(str(path))
            sock.sendall(msgspec.json.encode(Question(command)) + b"\n")
            sock.settimeout(None)
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    except OSError as error:
        raise NotRunning(f"{path}: no pgveil answers there: {error.strerror or error}", hint=hint) from None
    try:
        return msgspec.json.decode(answer, type=Reported)
    except msgspec.DecodeError:
        raise NotRunning(f"{path}: pgveil ended before it answered", hint="See its log.") from None
