"""The calculator's engine as its client hears it. The engine is pgveil's own; what it says is read as strictly as anybody else's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from keys.types import OutputSettings
from proxy.calculator.client import Bounds, Connection, EngineLost
from proxy.errors import ProtocolError
from proxy.session.computing import Answer, CalculatorError, Question
from proxy.session.replies import Trouble
from proxy.wire import messages as m
from tests.fuzz.target import Cursor, Target, promise
from tests.session.conversation import error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BOUNDS: Final = Bounds(rows=20, size=2000, seconds=5.0)
_QUESTIONS: Final = (
    Question(b"select 1", OutputSettings()),
    Question(
        b"select $1, now()", OutputSettings(client_encoding="LATIN1"), (25,), (b"x",), (0,), (1,), ((b"a", None),)
    ),
)
_READY: Final = m.build_ready(b"I")


class _Writer:
    """Takes what is sent and forgets it."""

    transport = None

    def write(self, data: bytes) -> None:
        """Nothing."""

    def writelines(self, data: Any) -> None:
        """Nothing."""

    async def drain(self) -> None:
        """Nothing."""


def _engine() -> Callable[[bytes], int]:
    loop = asyncio.new_event_loop()

    async def ask(said: bytes, step: int, flags: int) -> int:
        stream = asyncio.StreamReader(loop=loop)
        for at in range(0, len(said), step):
            stream.feed_data(said[at : at + step])
        stream.feed_eof()
        connection = Connection(stream, _Writer(), "/nowhere", "c", _BOUNDS)  # type: ignore[arg-type]
        count = 0
        try:
            if flags & 1:
                await connection._log_in("calculator")
            for question in _QUESTIONS * 2:
                count += 1
                outcome = await (connection.describe(question) if flags & 2 else connection.run(question))
                promise(isinstance(outcome, Answer | CalculatorError | Trouble), "an outcome of another kind")
                if isinstance(outcome, Answer):
                    promise(len(outcome.rows) <= _BOUNDS.rows, "more rows than are allowed")
                    promise(sum(map(len, outcome.rows)) <= _BOUNDS.size, "more bytes than are allowed")
        except (EngineLost, ProtocolError, OSError):
            pass
        await asyncio.sleep(0)  # the generator of events is closed by a task of its own
        promise(len(connection._statements) <= 64, "prepared statements without end")
        return count

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        flags, step = cursor.byte(), 1 + cursor.byte()
        return loop.run_until_complete(ask(cursor.rest(), step, flags)) or 1

    return run


def _seeds() -> Iterator[bytes]:
    login = (
        m.AUTHENTICATION_OK
        + m.build_parameter_status(b"client_encoding", b"UTF8")
        + m.build_backend_key(7, b"key!")
        + _READY
    )
    prepared = m.PARSE_COMPLETE * 2 + _READY
    settings = (m.PARSE_COMPLETE + m.BIND_COMPLETE + m.build_command_complete(b"SET")) * 7 + _READY
    described = m.build_parameter_description((25,)) + m.build_row_description((m.Field(b"a", 0, 0, 25, -1, -1, 0),))
    begin = m.BIND_COMPLETE + m.build_command_complete(b"BEGIN")
    end = m.BIND_COMPLETE + m.build_command_complete(b"ROLLBACK") + _READY
    rows = m.build_data_row((b"1",)) * 3 + m.build_command_complete(b"SELECT 3")
    answer = settings + begin + m.PARSE_COMPLETE + described + m.BIND_COMPLETE + described + rows + end
    failed = settings + begin + error("22012") + m.build_ready(b"E") + m.build_command_complete(b"ROLLBACK") + _READY
    for flags in range(4):
        for said in (answer, failed, answer * 2, settings + begin + m.PARSE_COMPLETE + described + end):
            yield bytes((flags, 255)) + (login + prepared if flags & 1 else b"") + said
    yield bytes((1, 255)) + error("3D000", S="FATAL", V="FATAL")
    yield bytes((0, 9)) + settings + begin + m.build_data_row((b"1",)) * 40


TARGETS: Final = (Target("engine", "what the calculator's engine answers", _engine, _seeds, longest=2048),)
